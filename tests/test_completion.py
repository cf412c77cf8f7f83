"""What the shell offers behind an option: the names that the runs on the line have."""

import pytest
import torch
from click.shell_completion import ShellComplete
from torch import nn

import infoplane
from infoplane import store
from infoplane.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "run"
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    with infoplane.Recorder(model, {"train": (x, y), "test": (x, y)}, path, quiet=True):
        pass
    infoplane.analyze(path, "binning", progress=False)
    return str(path)


def offered(*args, typed=""):
    shell = ShellComplete(main, {}, "infoplane", "_INFOPLANE_COMPLETE")
    return [item.value for item in shell.get_completions(list(args), typed)]


def test_names_of_the_runs_on_the_line(run):
    assert offered("plot", run, "-l") == ["0", "1", "2"]
    assert offered("plot", "-l", "0", run, "-l", typed="1") == ["1"]
    assert offered("estimate", run, "-s") == ["all", "train", "test", "class=0", "class=1"]
    assert offered("advise", run, "-s", typed="t") == ["train", "test"]
    assert offered("watch", run, "-l") == ["0", "1", "2"]
    assert offered("watch", run, "-s", typed="te") == ["test"]
    assert offered("compare", run, "--quantity", typed="I(T") == ["I(T;Y) null", "I(T;Y)"]


def test_names_that_are_always_there():
    assert offered("estimate", "-e", typed="k") == offered("watch", "-e", typed="k") == ["kde", "knn"]
    assert offered("plot", "-k", typed="pl") == ["plane", "plane_grid"]
    assert offered("plot", "--style") == ["screen", "column", "page"]
    assert offered("plot", "--against") == ["step", "epoch"]


def test_what_cannot_be_read_offers_nothing(run, tmp_path, monkeypatch):
    assert offered("plot", str(tmp_path / "none"), "-l") == []
    (tmp_path / "run.json").write_text("{")
    assert offered("plot", str(tmp_path), "-l") == []
    assert offered("plot", str(tmp_path), "--quantity") == []
    monkeypatch.setattr(store, "is_foreign", lambda path: True)
    assert offered("plot", run, "-l") == []
