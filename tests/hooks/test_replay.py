"""A run from saved weights is the run that was recorded live, and a bad checkpoint costs its own step only."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from infoplane.cli import main
from infoplane.core.errors import StoreError
from infoplane.hooks import Recorder, replay
from infoplane.hooks.factory import from_factory
from infoplane.store import inputs_digest, open_run, probe_digest

STEPS = [0, 1, 2, 10, 20]
PROBE = (torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3)


def network(width: int = 5) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 3))


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A recorded training of 20 steps, and its checkpoints as many loops save them."""
    here = tmp_path_factory.mktemp("live")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, PROBE, here / "run", schedule=STEPS, quiet=True) as recorder:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, here / "step-0000.pt")
        for step in range(21):
            loss = nn.functional.cross_entropy(model(PROBE[0]), PROBE[1])
            if step:
                recorder.snapshot(step, metrics={"loss": loss})
            if step in STEPS[1:]:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": step}
                torch.save(state | {"loss": loss.detach()}, here / f"step-{step:04}.pt")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return here


def contents(run):
    store = open_run(run)
    return {(la.key, step): store.source(la.key, step) for la in store.layers for step in store.steps(la.key)}


def files(here: Path) -> list[Path]:
    return sorted(here.glob("step-*.pt"))


def again(run, checkpoints, model=None, **options):
    return replay(model or network(), PROBE, run, checkpoints, quiet=True, **options)


def test_a_replay_has_the_contents_of_the_live_recording(live, tmp_path):
    done = again(tmp_path / "run", reversed(files(live)))
    assert (done.recorded, done.kept, done.lost) == (tuple(STEPS), (), ())
    assert contents(tmp_path / "run") == contents(live / "run")
    ours, theirs = open_run(tmp_path / "run"), open_run(live / "run")
    assert len({probe_digest(run.probe, inputs_digest(run.probe)) for run in (ours, theirs)}) == 1
    assert [m for m in ours.metrics() if m[0]] == theirs.metrics() != []
    assert [m[2] for m in ours.metrics()] == ["loss"] * 4
    assert ours.settings["layers"] == theirs.settings["layers"]
    assert ours.verify() == []


def safetensors(here, weights, step):
    save = pytest.importorskip("safetensors.torch").save_file
    save(weights, here / f"weights_{step}.safetensors")


def folder(here, weights, step):
    """As the trainer of Hugging Face leaves them, in two pieces."""
    save = pytest.importorskip("safetensors.torch").save_file
    (out := here / f"checkpoint-{step}").mkdir()
    names = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(weights)}
    for file in set(names.values()):
        save({key: weights[key] for key in names if names[key] == file}, out / file)
    (out / "model.safetensors.index.json").write_text(str({"weight_map": names}).replace("'", '"'))
    log = [{"step": step - 1, "loss": 9.0}, {"step": step, "loss": 0.5, "note": "x"}, {"step": step, "eval_loss": 0.25}]
    (out / "trainer_state.json").write_text(str({"global_step": step, "log_history": log}).replace("'", '"'))


def wrapped(here, weights, step):
    """Distributed and compiled, with part of it compiled again."""
    torch.save(
        {f"module._orig_mod.{k}".replace("0.", "0._orig_mod."): v for k, v in weights.items()}, here / f"{step}.pt"
    )


def lightning(here, weights, step):
    state = {f"net.{k}": v for k, v in weights.items()} | {"criterion.weight": torch.ones(3)}
    torch.save(
        {"state_dict": state, "epoch": step, "global_step": step * 7, "callbacks": {}}, here / f"epoch={step}.ckpt"
    )


def unnamed(here, weights, step):
    """The step stands in the file alone."""
    torch.save(
        {"net": weights, "ema": weights, "global_step": step, "metrics": {"acc": 0.5}}, here / f"{'ab'[step // 20]}.pth"
    )


@pytest.mark.parametrize(
    ("form", "options", "metrics"),
    [
        (safetensors, {}, {}),
        (folder, {}, {"loss": 0.5, "eval_loss": 0.25}),
        (wrapped, {}, {}),
        (lightning, {"ignore": "criterion.*"}, {}),
        (unnamed, {}, {"acc": 0.5}),
    ],
)
def test_every_form_of_a_checkpoint_gives_the_same_contents(live, tmp_path, form, options, metrics):
    for step in (10, 20):
        form(tmp_path, torch.load(live / f"step-{step:04}.pt")["model"], step)
    done = again(tmp_path / "run", sorted(tmp_path.iterdir()), **options)
    assert done.recorded == (10, 20)
    assert contents(tmp_path / "run").items() <= contents(live / "run").items()
    found = open_run(tmp_path / "run").metrics()
    assert {name: value for step, _, name, _, value in found if step == 20 and name != "global_step"} == metrics


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x)))


def test_a_tied_weight_may_be_saved_once(tmp_path):
    torch.save({"embed.weight": torch.eye(4, 3)}, tmp_path / "step1.pt")
    done = replay(
        Tied(), (torch.arange(8) % 4, torch.arange(8) % 2), tmp_path / "run", [tmp_path / "step1.pt"], quiet=True
    )
    assert done.lost == ()


class Evil:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def spoil(here: Path, whole: Path) -> dict[str, str]:
    """Checkpoints of steps 3 to 12 that cannot be used, with a part of the reason."""
    data, state = whole.read_bytes(), torch.load(whole)["model"]
    (here / "step-0003.pt").write_bytes(data[: len(data) // 2])
    torch.save({"model": Evil()}, here / "step-0004.pt")
    torch.save(network(), here / "step-0005.pt")
    torch.save(network(8).state_dict(), here / "step-0006.pt")
    torch.save({k: v for k, v in state.items() if k != "4.bias"}, here / "step-0007.pt")
    torch.save(state | {"5.weight": torch.ones(2)}, here / "step-0008.pt")
    torch.save({"a": state, "b": state}, here / "step-0009.pt")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(here / "step-0012.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    (here / "step-0011.pt").write_bytes(pickle.dumps({"model": Evil()}))
    return {
        "step-0003.pt": "cannot be read",
        "step-0004.pt": "holds a posix.system",
        "step-0005.pt": "holds a torch.nn.modules.container.Sequential",
        "step-0006.pt": "its 0.weight has shape (8, 6), the model's (5, 6): another architecture",
        "step-0007.pt": "it lacks 4.bias: is it of this model?",
        "step-0008.pt": "it has 5.weight, which the model does not",
        "step-0009.pt": "it has several sets of weights, but a, b; choose with key='a'",
        "step-0012.pt": "is compressed, as torch.save never writes it",
        "step-0011.pt": "it is a pickle of Python objects",
    }


def test_bad_checkpoints_are_named_and_the_others_go_on(live, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reasons = spoil(tmp_path, files(live)[2])
    mixed = sorted([*tmp_path.glob("*.pt"), *files(live)], key=lambda path: path.name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = again("run", mixed)
    texts = [str(one.message) for one in said]
    for (name, reason), text, lost in zip(sorted(reasons.items()), texts, done.lost, strict=True):
        assert f"{name} is left out: " in text == lost
        assert reason in text
    assert not Path("executed").exists()
    assert contents("run") == contents(live / "run")
    missing = {step for problem in open_run("run").lost for step in problem.steps}
    assert missing == {*range(3, 10), 11, 12}


def test_nothing_is_written_where_no_checkpoint_fits(live, tmp_path):
    with (
        pytest.warns(UserWarning, match="another architecture"),
        pytest.raises(ValueError, match="none of 5 checkpoints"),
    ):
        again(tmp_path / "run", files(live), network(8))
    assert not (tmp_path / "run").exists()


def test_what_is_there_is_not_recorded_again(live, tmp_path):
    """A cut-off series goes on, a gap is filled from there on, and a newer checkpoint replaces its step."""
    here = [tmp_path / path.name for path in files(live)]
    for path, source in zip(here, files(live), strict=True):
        path.write_bytes(source.read_bytes())
    assert again(tmp_path / "run", [*here[:2], here[3]]).recorded == (0, 1, 10)
    more = again(tmp_path / "run", here[:2] + here[3:])
    assert (more.recorded, more.kept) == ((20,), (0, 1, 10))
    assert again(tmp_path / "run", here[:2] + here[3:]).recorded == ()
    filled = again(tmp_path / "run", here)
    assert (filled.recorded, filled.kept) == ((2, 10, 20), (0, 1))
    assert contents(tmp_path / "run") == contents(live / "run")
    torch.save(network().state_dict(), here[4])
    os.utime(here[4], (2e9, 2e9))
    assert again(tmp_path / "run", here).recorded == (20,)
    assert contents(tmp_path / "run") != contents(live / "run")
    with pytest.raises(StoreError, match="layers"):
        again(tmp_path / "run", here[:4], layers=["0"])


def test_a_schedule_takes_some_of_them(live, tmp_path):
    assert again(tmp_path / "a", files(live), schedule=10).recorded == (0, 10, 20)
    assert again(tmp_path / "b", files(live), schedule=[2]).recorded == (0, 2, 20)
    assert again(tmp_path / "c", str(files(live)[2])).recorded == (2,)


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["best.pt", "step-1.pt"], {}, "'best.pt' tells no step"),
        (["a/step-1.pt", "b/step-1.pt"], {}, "are both of step 1"),
        (["step-1.pt"], {"steps": [1, 2]}, "one for each of the 1 checkpoints"),
        ([], {}, "no checkpoints"),
    ],
)
def test_steps_that_are_not_plain_are_refused(tmp_path, names, options, words):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(network().state_dict(), tmp_path / name)
    with pytest.raises(ValueError, match=words):
        again(tmp_path / "run", [tmp_path / name for name in names], **options)


def test_weights_of_a_wider_type_are_said(live, tmp_path):
    with pytest.warns(UserWarning, match="the model rounds 0.weight"):
        replay(network().half(), PROBE, tmp_path / "run", files(live)[:1], quiet=True)


def test_a_foreign_index_reads_nothing_outside_its_folder(live, tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    index = tmp_path / "checkpoint-1" / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"0.weight": "../../step-0000.pt"}}')
    with pytest.warns(UserWarning, match="should name files beside it"), pytest.raises(ValueError, match="none of 1"):
        again(tmp_path / "run", [index.parent])


def test_a_folder_whose_file_holds_no_weights_is_left_out(tmp_path):
    (here := tmp_path / "checkpoint-1").mkdir()
    torch.save(torch.ones(3), here / "pytorch_model.bin")
    with pytest.warns(UserWarning, match="it holds a Tensor, not the weights"), pytest.raises(ValueError, match="1 ch"):
        again(tmp_path / "run", [here])


def test_a_log_that_is_no_list_is_passed_over(live, tmp_path):
    (here := tmp_path / "checkpoint-0").mkdir()
    torch.save(torch.load(files(live)[0])["model"], here / "pytorch_model.bin")
    (here / "trainer_state.json").write_text('{"global_step": 0, "log_history": 7}')
    assert again(tmp_path / "run", [here]).recorded == (0,)


FACTORY = """
import torch
from torch import nn

def make():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    layers = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.1), nn.Linear(5, 3)
    return nn.Sequential(*layers), (x, torch.arange(40) % 3), {"layers": ["2", "4"]}

def three():
    return nn.Linear(2, 2), torch.ones(2), torch.ones(2)
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    Path("net_of_mine.py").write_text(FACTORY)
    return lambda *words: CliRunner().invoke(main, ["-q", "replay", *map(str, words)])


def test_the_command_ends_with_3_where_a_checkpoint_is_bad(command, live):
    spoil(Path(), files(live)[2])
    with pytest.warns(UserWarning, match="checkpoint step-0004.pt is left out"):
        done = command("net_of_mine.py:make", *files(live), "step-0004.pt", "-o", "run", "--every", "2")
    assert done.exit_code == 3
    assert "run: recorded steps 0, 2, 10, 20" in done.output
    assert contents("run").keys() == {(layer, step) for layer in "24" for step in (0, 2, 10, 20)}
    assert contents("run").items() <= contents(live / "run").items()
    assert command("net_of_mine:make", *files(live), "-o", "run", "--every", "2").exit_code == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("make", "expected module:factory"),
        ("nothing_here:make", "no module 'nothing_here'"),
        ("nothing.py:make", "no file 'nothing.py'"),
        ("net_of_mine.py:build", "has no function 'build'"),
        ("net_of_mine.py:three", "must return (model, probe) or (model, probe, options)"),
    ],
)
def test_the_factory_is_named_with_what_it_must_return(command, live, spec, words):
    done = command(spec, files(live)[0], "-o", "run")
    assert done.exit_code == 2
    assert words in done.output
    assert done.output.startswith("Error: ")


def test_a_factory_gives_model_probe_and_options(command):
    model, (x, _), options = from_factory("net_of_mine.py:make")
    assert (len(model), x.shape, options) == (5, (40, 6), {"layers": ["2", "4"]})
    assert np.isfinite(x.numpy()).all()
