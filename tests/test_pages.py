"""Every snippet of the documentation runs, in the order of its page, and leaves what the page says."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, pages, run_page

import infoplane
from infoplane.cli import main
from infoplane.estimators._registry import _ESTIMATORS

# Pages that need more than the package: what they import.
EXTRAS: dict[str, tuple[str, ...]] = {
    "guides/lightning": ("lightning", "tensorboard"),
    "guides/huggingface": ("transformers", "accelerate"),
    "guides/accelerate": ("accelerate",),
    "guides/cluster": ("distributed",),
}
# Pages that train for several seconds, or start several processes.
SLOW = {
    "diagnostics",
    "estimators",
    "figures",
    "guides/cluster",
    "guides/cnn",
    "guides/compile",
    "guides/ddp",
    "guides/pairs",
    "guides/paper",
    "guides/seeds",
    "guides/studies",
    "guides/sweep",
    "guides/transformer",
}
# Pages that begin with runs that the reader has: their names.
RUNS = {"results": ["digits", "a", "b"], "figures": ["digits", "a", "b"], "estimators": ["digits"]}
WARNED = {"class Mixture": "not recorded"}

Names = dict[str, Any]


def page_of(page: str) -> Any:
    marks = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")] if page in EXTRAS else []
    marks += [pytest.mark.slow] if page in SLOW else []
    return pytest.param(page, marks=marks, id=page)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its results, as the README makes it in fewer steps."""
    here = tmp_path_factory.mktemp("pages")
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.S)
    with contextlib.chdir(here):
        exec(compile(program.replace("range(50)", "range(12)"), "README.md", "exec"), {})
    return here / "runs" / "digits"


@pytest.fixture
def _own_estimators():
    """What a page registers is forgotten."""
    yield
    for name in [name for name, cls in _ESTIMATORS.items() if cls.__module__ == "page"]:
        del _ESTIMATORS[name]


def warned(code: str) -> Any:
    expected = [words for mark, words in WARNED.items() if mark in code]
    return pytest.warns(UserWarning, match=expected[0]) if expected else contextlib.nullcontext()


@pytest.mark.usefixtures("_own_estimators")
@pytest.mark.parametrize("page", [page_of(page) for page in pages()])
def test_the_code_of_the_page_runs(page, tmp_path, monkeypatch, capsys, request):
    for module in EXTRAS.get(page, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    for run in RUNS.get(page, ()):
        shutil.copytree(request.getfixturevalue("recorded"), Path("runs", run))
    names = run_page(page, warned)
    if check := CHECKS.get(page):
        check(names, capsys.readouterr().out)


def test_every_page_that_is_spoken_of_exists():
    assert {*EXTRAS, *SLOW, *RUNS, *CHECKS} <= set(pages())


def test_no_code_escapes_the_test():
    """An indented block is not run. One is the layout of a directory, one a command of the house, one does not end."""
    blocks = {}
    for path in DOCS.rglob("*.md"):
        text = re.sub(r"^(`{3,}|:::+).*?^\1", "", path.read_text(), flags=re.M | re.S)
        found = re.findall(r"(?<=\n\n)    (\S.*)", text)
        blocks |= {path.relative_to(DOCS).as_posix(): found} if found else {}
    assert blocks == {
        "format.md": ["run/"],
        "estimators.md": ["python -m docs.tables"],
        "figures.md": ["infoplane watch runs/digits -e binning:n_bins=30"],
    }


def check_recording(names: Names, out: str) -> None:
    assert "Sequential" in out
    assert "Noise(std=0.1" in out
    said = " ".join((DOCS / "recording.md").read_text().split())
    assert out.split("\n['1: ")[1].splitlines()[0] in said
    assert "['0[token=7]']" in out
    assert "note: layer 'second': was not called (step 1)\n[0] [0, 1]\n" in out
    steps = {p.name: infoplane.open_run(p).steps() for p in Path("runs").iterdir() if (p / "run.json").exists()}
    collections = [f"{name}-{i}" for name in ("moments", "seed") for i in range(3)]
    assert sorted(steps) == [
        "a",
        "again",
        "b",
        "blocks",
        "c",
        "d",
        "digits-001",
        "digits-002",
        "mixture",
        *collections,
        "tokens",
    ]
    assert steps["a"] == list(names["log_spaced"](20, 40).plan(40))
    assert steps["d"] == [0, 1, 2, 3]
    metrics = {n for s, _, n, layer, _ in infoplane.open_run("runs/d").metrics() if layer == "0" and s}
    assert metrics == {"gradient_mean_norm", "gradient_steps", "weight_norm"}  # one step an epoch has no spread
    stored = [infoplane.open_run(f"runs/moments-{i}").metrics() for i in range(3)]
    spreads = [[v for _, _, n, layer, v in rows if (n, layer) == ("gradient_std_norm", "4")] for rows in stored]
    assert len({tuple(v) for v in spreads}) == 3
    assert all(len(v) == 2 for v in spreads)
    assert infoplane.open_run("runs/c").probe.samples == 300 + 50 * 20


def check_import(names: Names, out: str) -> None:
    assert out == "[0, 10, 100] ['fc1', 'out']\n"
    runs = {path.name: infoplane.open_run(path) for path in Path("runs").iterdir()}
    assert sorted(runs) == ["arrays", "hdf5", "matlab", "more", "theirs"]
    assert all(run.steps() == [0, 10, 100] for run in runs.values())
    assert {run.probe.target for run in runs.values()} == {"discrete"}
    assert runs["more"].probe.part_names == ("train", "test")
    assert [layer.role for layer in runs["more"].layers] == ["activation", "output"]
    assert [value for *_, value in runs["matlab"].metrics()] == [1.1, 0.9, 0.4]
    assert Path("plane.pdf").read_bytes().startswith(b"%PDF")


def check_figures(names: Names, out: str) -> None:
    assert {"plane.pdf", "plane.gif", "report.html"} <= set(os.listdir())  # noqa: PTH208


def check_guide(names: Names, out: str) -> None:
    """What every guide leaves: whole runs with more than one step, and a figure."""
    runs = [infoplane.open_run(path) for path in Path("runs").iterdir()]
    assert runs
    assert all(len(run.steps()) > 2 and run.verify() == [] for run in runs)
    assert [*Path().glob("*.png"), *Path().glob("*.pdf")]


def check_transformer(names: Names, out: str) -> None:
    """The page says that the head knows more than the mean of what it reads, and where the label can be read."""
    check_guide(names, out)
    pooled, single = infoplane.read_table("runs/mean"), infoplane.read_table("runs/tokens")
    known = {layer: pooled.select(layer=layer, quantity="I(T;Y)", step=60).value[0] for layer in ("layers.1", "head")}
    assert known["head"] > known["layers.1"] + 0.1
    at = single.select(layer="layers.1[[]token=*]", quantity="I(T;Y)", step=60)
    assert at.layer[at.value.argmax()] == "layers.1[token=0]"
    following = infoplane.read_table("runs/next").select(quantity="I(T;Y)", step=200)
    read = {layer: following.select(layer=f"{layer}[token=*]").value for layer in ("token", "layers.0", "layers.1")}
    assert [len(values) for values in read.values()] == [7, 7, 7]
    assert max(*read["token"], *read["layers.0"][:3], *read["layers.1"][:3]) < 0.05
    assert min(read["layers.1"][3:]) > 2.8
    assert min(read["layers.0"][5:]) > 1 > 0.5 > max(read["layers.0"][:5])


def check_cluster(names: Names, out: str) -> None:
    """The job array and the cluster that the page shows write the tables of one process, and so the same study."""
    check_guide(names, out)
    runs = sorted(Path("runs").iterdir())
    by_many = [(run / "results.csv").read_bytes() for run in runs]
    for run in runs:
        (run / "results.csv").unlink()
        (run / "results.json").unlink()
    infoplane.analyze(runs, "binning:n_bins=4", progress=False)
    infoplane.study(runs).write("by_one.csv")
    assert Path("by_one.csv").read_bytes() == Path("study.csv").read_bytes()
    infoplane.analyze(runs, "binning:n_bins=8", progress=False)
    assert by_many == [(run / "results.csv").read_bytes() for run in runs]


def check_paper(names: Names, out: str) -> None:
    check_guide(names, out)
    assert Path("two.pdf").read_bytes().startswith(b"%PDF")
    assert out == "['1', '3', '4'] (23, 3)\n"


CHECKS: dict[str, Callable[[Names, str], None]] = {
    **{page: check_guide for page in pages() if page.startswith("guides/")},
    "guides/transformer": check_transformer,
    "guides/paper": check_paper,
    "guides/cluster": check_cluster,
    "recording": check_recording,
    "guides/import": check_import,
    "figures": check_figures,
}


def test_every_option_of_import_stands_on_its_page():
    options = {word for one in main.commands["import"].params for word in one.opts if word.startswith("--")}
    page = (DOCS / "guides" / "import.md").read_text()
    assert not sorted(word for word in options - {"--out"} if f"`{word}" not in page)
