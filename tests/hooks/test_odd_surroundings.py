"""Names that a terminal would act on, a caller in inference mode, and one with another default device."""

import contextlib
import io
import re

import pytest
import torch
from recording import keys, record, recorder
from torch import nn

import infoplane
from infoplane.hooks import NoiseInjection, Recorder, every, projection, units

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(30) % 2
NAMES = ["red\x1b[31m", "\x1b]0;title\x07", "back\rward", "two\nlines", "\u202eturned", "\x08\x7f", "\x9b2J"]
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Pair(nn.Module):
    """Returns its tensors under odd keys."""

    def __init__(self, key):
        super().__init__()
        self.key = key

    def forward(self, x):
        return {self.key: x * 2, "other" + self.key: x * 3}


def network(name):
    kind = type(name, (nn.Linear,), {})
    model = type(name + "Net", (nn.Sequential,), {})()
    model.add_module(name, kind(4, 3))
    model.add_module("act" + name, nn.Tanh())
    model.add_module("out", nn.Linear(3, 2))
    return model


def clean(text, lines=None):
    assert not UNSEEN.search(text), repr(text)
    if lines is not None:
        assert text.count("\n") == lines


@pytest.mark.parametrize("name", NAMES)
def test_tables(name, tmp_path):
    model = network(name)
    clean(str(infoplane.layers(model, X)), lines=5)
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown):
        rec = Recorder(model, (X, Y), tmp_path / name / "run", schedule=every(1))
        clean(repr(rec))
        with rec:
            clean(str(rec.sizes))
    clean(shown.getvalue())
    assert keys(record(model, X)[1]) == [name, "act" + name, "out"]


@pytest.mark.parametrize("name", NAMES)
def test_messages(name):
    model = network(name)
    rec, _ = recorder(model, (X, Y), schedule=every(1))
    with rec:
        setattr(model, name, nn.Linear(4, 5))
        model.out = nn.Linear(5, 2)
        with pytest.warns(UserWarning, match="changed from") as told:
            rec.snapshot(1)
        clean(str(told[0].message))
        del model._modules[name]
        model.out = nn.Linear(4, 2)
        with pytest.warns(UserWarning, match="not recorded at step 2") as told:
            rec.snapshot(2)
        for said in told:
            clean(str(said.message))
        for problem in rec.problems:
            clean(str(problem))
    for layers in (
        "nothing" + name,
        "act" + name + "#3",
        re.compile("x" + re.escape(name)),
        type("T" + name, (nn.Module,), {}),
    ):
        with pytest.raises(ValueError) as refused:
            record(network(name), X, layers=layers)
        clean(str(refused.value))
    paired = nn.Sequential(nn.Linear(4, 3), Pair(name))
    for layers in ("1", f"1@out.{name}x"):
        with pytest.raises(ValueError) as refused:
            record(paired, X, layers=layers)
        clean(str(refused.value))
    with pytest.raises(ValueError) as refused:
        record(nn.Sequential(), X, layers=nn.Linear(2, 2))
    clean(str(refused.value))
    table = infoplane.layers(paired, X)
    clean(str(table), lines=4)
    with pytest.raises(ValueError) as refused:
        NoiseInjection(network(name), "no" + name, std=1.0)
    clean(str(refused.value))


def normalised():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Linear(3, 2))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("make", [normalised, lambda: nn.Sequential(nn.GRU(4, 3, batch_first=True))])
def test_a_start_in_inference_mode(mode, make, tmp_path):
    """The recording goes on after it, as does training, and the numbers are those of a start outside."""
    torch.manual_seed(0)
    model, x = make(), X if make is normalised else X[:, None].repeat(1, 5, 1)
    expected = record(model, x, mode=mode)[1].arrays
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.inference_mode():
        rec, sink = recorder(model, (x + 0, Y), schedule=every(1), mode=mode)
        rec.start()
        assert torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()
    rec.snapshot(1)
    with torch.inference_mode():
        rec.snapshot(2)
    output = model(x)
    (output if make is normalised else output[0]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.load_state_dict(before)
    rec.snapshot(3)
    rec.close()
    assert sink.steps == [0, 1, 2, 3]
    for snapshot in sink.snapshots:
        assert all((snapshot.arrays[k] == a).all() for k, a in expected.items())


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_model_made_in_inference_mode(inside, mode):
    """Its parameters are inference tensors, which cannot be written to outside."""
    with torch.inference_mode():
        torch.manual_seed(0)
        model, x = normalised(), X + 0
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.inference_mode() if inside else contextlib.nullcontext():
        rec, sink = recorder(model, (x, Y), schedule=every(1), mode=mode)
        with rec:
            rec.snapshot(1)
        infoplane.layers(model, x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    torch.manual_seed(0)
    expected = record(normalised(), X, mode=mode)[1].arrays
    for snapshot in sink.snapshots:
        assert all((snapshot.arrays[k] == a).all() for k, a in expected.items())


def all_numbers(device, options):
    """Arrays and metrics of two snapshots that are taken while new tensors are made on `device`."""
    torch.manual_seed(0)
    tokens = nn.Sequential(
        nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.1), nn.Linear(3, 6), nn.Unflatten(1, (3, 2))
    )
    model = nn.Sequential(tokens, nn.Tanh())
    rec, sink = recorder(model, (X, Y), schedule=every(1), quiet=True, **options)
    with NoiseInjection(model, "0.0", std=0.1, seed=0), torch.device(device), rec:
        rec.snapshot(1, metrics={"loss": 0.5})
        table = infoplane.layers(model, X)
    return [(s.arrays, s.metrics, s.layer_metrics) for s in sink.snapshots], str(table)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduce": projection(2, seed=77), "weight_norms": True},
        {"reduce": {"*": units(2, seed=77), "1": "last"}, "dtype": torch.float16},
        {"reduce": "mean", "mask": torch.ones(30, 3)},
        {"repeats": (8, 2), "repeat_seed": 1, "functional": True},
    ],
)
def test_another_default_device(options):
    """Tensors that the recorder makes name their device: on "meta" none of them would have numbers."""
    found, again = all_numbers("meta", options)  # first: what a reduction draws is kept for later
    expected, table = all_numbers("cpu", options)
    assert len(found) == 2
    assert table == again
    for (arrays, *numbers), (expected_arrays, *expected_numbers) in zip(found, expected, strict=True):
        assert numbers == expected_numbers
        assert arrays.keys() == expected_arrays.keys()
        assert all((arrays[key] == expected_arrays[key]).all() for key in arrays)
