"""Layers that nobody named: the calls of a shared activation, the blocks of a deep model, a depth; means of these."""

import numpy as np
import pytest
import torch
from recording import keys, record, recorder
from torch import nn

from infoplane.core.errors import StoreError
from infoplane.hooks import Flatten, Mean, Recorder, every
from infoplane.store import open_run

G = torch.Generator().manual_seed(0)
X = torch.randn(8, 4, generator=G)
IMAGE = torch.randn(6, 3, 8, 8, generator=G)
TEXT = torch.randn(6, 5, 4, generator=G)


class Residual(nn.Module):
    """One ReLU in two places."""

    def __init__(self, width=4, act=None):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(width, width), nn.Linear(width, width), act or nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.b(self.act(self.a(x))) + x)


class ConvBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


class Returns(nn.Module):
    """A block that gives its output and something else, as those of the transformers library."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(x + self.inner(x)), x.sum(2)


class Stack(nn.Module):
    """Tokens through `count` blocks in a ModuleList, which has no forward pass of its own."""

    def __init__(self, count, make=Returns):
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in range(count))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


class Twins(nn.Module):
    """An encoder and a decoder of one class."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.drop, self.head = Stack(2), Stack(2), nn.Dropout(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.drop(self.decoder(self.encoder(x))).mean(1))


def deep(count=9, width=4):
    return nn.Sequential(*(part for _ in range(count) for part in (nn.Linear(width, width), nn.Tanh())))


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.PReLU()], ids=["relu", "in place", "prelu"])
@pytest.mark.parametrize("layers", [None, "**", type], ids=["default", "glob", "type"])
def test_the_calls_of_a_shared_activation_are_layers(act, layers):
    model = Residual(act=act)
    _, snapshot = record(model, X, layers=type(act) if layers is type else layers)
    found = [key for key in keys(snapshot) if key.startswith("act")]
    assert found == ["act#0", "act#1"]
    hidden = act(model.a(X)).detach()
    np.testing.assert_array_equal(snapshot.arrays["act#0"], hidden.numpy())
    assert [la.role for la in snapshot.layers if la.key == "act#1"] == ["output"]


def test_a_shared_layer_with_weights_is_asked_about():
    with pytest.raises(ValueError, match="layer 'act' runs 2 times"):
        record(Residual(), X, layers="act")
    shared = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="layer '1' runs 2 times"):
        record(nn.Sequential(nn.Tanh(), shared, nn.Tanh(), shared), X)


@pytest.mark.parametrize(
    ("model", "x", "blocks"),
    [
        (nn.Sequential(ConvBlock(3, 4), ConvBlock(4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)), IMAGE,
         ["0", "1", "4"]),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Sequential(ConvBlock(3, 4), ConvBlock(4, 4)), nn.Sequential(
            ConvBlock(4, 5), ConvBlock(5, 5))), IMAGE, ["1", "2.0", "2.1", "3.0", "3.1"]),
        (nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(3))), IMAGE,
         ["0", "1", "2"]),
        (Stack(3, Residual), TEXT, ["layers.0", "layers.1", "layers.2"]),
        (Stack(2), TEXT, ["layers.0@out[0]", "layers.1@out[0]"]),
        (Twins(), TEXT, ["encoder.layers.0@out[0]", "encoder.layers.1@out[0]", "decoder.layers.0@out[0]",
                         "decoder.layers.1@out[0]", "head"]),
        (nn.Sequential(*[block := Residual()] * 3), X, ["0#0", "0#1", "0#2"]),
        (deep(3), X, ["1", "3", "5"]),
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), X, ["0", "1", "2"]),
        (Residual(), X, ["a", "act#0", "b", "act#1"]),
    ],
    ids=["blocks", "in stages", "stages", "list", "tuples", "twins", "shared", "activations", "few", "one block"],
)  # fmt: skip
def test_blocks(model, x, blocks):
    assert keys(record(model, x, layers="blocks", mode="eval")[1]) == blocks


def test_a_depth_counts_calls_and_stops_at_leaves():
    def found(depth):
        return keys(record(Twins(), TEXT, depth=depth)[1])

    assert found(1) == ["encoder", "decoder", "head"]
    assert found(2) == [f"{half}.layers.{i}@out[0]" for half in ("encoder", "decoder") for i in (0, 1)] + ["head"]
    assert found(3) == found(99)
    assert "decoder.layers.1.norm" in found(3)
    for depth in (0, True, 1.0):
        with pytest.raises(ValueError, match=f"depth must be a whole number of at least 1, got {depth}"):
            recorder(Twins(), (TEXT, torch.arange(6)), depth=depth)
    with pytest.raises(ValueError, match="layers and depth both choose layers"):
        recorder(Twins(), (TEXT, torch.arange(6)), depth=1, layers="head")


class FirstToken(Stack):
    """The first token of a layer behind the blocks."""

    def __init__(self):
        super().__init__(2, Residual)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(super().forward(x))[:, 0]


def test_a_last_layer_of_which_the_model_returns_a_part():
    assert keys(record(FirstToken(), TEXT, layers="blocks")[1]) == ["layers.0", "layers.1", "@out"]
    assert keys(record(FirstToken(), TEXT, layers="blocks", logits=False)[1]) == ["layers.0", "layers.1", "norm"]


def test_a_list_names_a_module_that_is_called_blocks():
    model = nn.Sequential()
    model.add_module("blocks", nn.Linear(4, 4))
    model.add_module("last", nn.Tanh())
    assert keys(record(model, X, layers=["blocks"], logits=False)[1]) == ["blocks"]


def test_the_default_is_blocks_for_more_than_16_leaves():
    assert len(keys(record(deep(8), X)[1])) == 16
    rec, snapshot = record(deep(9), X)
    assert keys(snapshot) == [str(i) for i in range(1, 18, 2)]
    assert rec.chain is True
    assert {la.reduction for la in snapshot.layers} == {"flatten"}
    assert len(keys(record(deep(9), X, layers="**")[1])) == 18


MASK = torch.arange(5) < torch.tensor([1, 2, 3, 4, 5, 5])[:, None]


@pytest.mark.parametrize(
    ("model", "x", "options", "mean", "label"),
    [
        (nn.Conv2d(3, 8, 3), IMAGE, {}, lambda t: t.mean((2, 3)), "mean over space"),
        (nn.Conv1d(5, 4, 1), TEXT, {}, lambda t: t.mean(2), "mean over space"),
        (nn.Sequential(nn.Conv1d(5, 2, 1), nn.ReLU(), nn.MaxPool1d(2)), TEXT, {}, lambda t: t.mean(2),
         "mean over space"),
        (nn.Linear(4, 5), TEXT, {}, lambda t: t.mean(1), "mean over tokens"),
        (nn.Linear(8, 6), IMAGE, {}, lambda t: t.mean((1, 2)), "mean over positions"),
        (nn.Tanh(), IMAGE, {}, lambda t: t.mean((2, 3)), "mean over space"),
        (nn.Linear(4, 5), TEXT, {"mask": MASK}, lambda t: (t * MASK[..., None]).sum(1) / MASK.sum(1, keepdim=True),
         "mean over tokens"),
        (nn.Linear(4, 5), TEXT, {"mask": MASK[:, :3]}, lambda t: t.mean(1), "mean over tokens, padding too"),
        (nn.Linear(4, 5), TEXT, {"reduce": "flatten"}, lambda t: t.flatten(1), "flatten"),
        (nn.Linear(4, 5), TEXT, {"reduce": {"head": "flatten", "*": "last"}}, lambda t: t[:, -1], "last token"),
        (nn.Linear(4, 5), X, {"reduce": "cls"}, lambda t: t, "flatten"),
    ],
)  # fmt: skip
def test_maps_and_sequences_are_means_where_nobody_chose(model, x, options, mean, label):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.x, self.head = model, nn.Linear(1, 2)

        def forward(self, x):
            return self.head(self.x(x).flatten(1).sum(1, keepdim=True))

    rec, snapshot = record(Model(), x, depth=1, **options)
    first, head = snapshot.layers
    assert (first.reduction, head.reduction) == (label, "flatten")
    torch.testing.assert_close(torch.from_numpy(snapshot.arrays["x"]), mean(model(x).detach()))
    assert rec.chain is (label == "flatten")


def test_a_reduction_of_tokens_leaves_added_logits_and_refuses_named_ones():
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.Linear(20, 2))
    for reduce, label in (("cls", "tokens 0"), ("last", "last token")):
        _, snapshot = record(model, TEXT, layers="0", reduce=reduce)
        assert [la.reduction for la in snapshot.layers] == [label, "flatten"]
    for options in ({"layers": ["0", "2"], "reduce": "cls"}, {"reduce": {"2": "cls"}}):
        with pytest.raises(ValueError, match=r"layer '2' has shape \(6, 2\), no axis of tokens"):
            record(model, TEXT, **options)


def test_the_model_is_its_output_where_it_takes_one_token_of_its_last_layer():
    class Classifier(Twins):
        def forward(self, x):
            return {"hidden": x, "logits": self.head(self.decoder(self.encoder(x)))[:, -1]}

    _, snapshot = record(Classifier(), TEXT, layers="blocks")
    *_, last = snapshot.layers
    assert (last.key, last.role, last.unit_shape) == ("@out.logits", "output", (2,))
    assert "head" not in keys(snapshot)


def test_the_plan_says_what_is_recorded(tmp_path, capsys):
    for model, x, words in (
        (Twins(), TEXT, "layers: 4 Returns, and the last layer before, between and after; maps and sequences as means"),
        (deep(9), X, "layers: the model repeats no module: its 9 activations; layers=, depth= for others"),
        (deep(2), X, None),
    ):
        options = {"layers": "blocks"} if isinstance(model, Twins) else {}
        with Recorder(model, (x, torch.arange(len(x)) % 2), tmp_path / str(id(model)), **options):
            pass
        said = capsys.readouterr().err
        assert words in said if words else "layers:" not in said


@pytest.mark.parametrize("model", [Twins(), deep(3)], ids=["twins", "deep"])
@pytest.mark.parametrize("first", [{"layers": "blocks"}, {"depth": 1}, {"layers": nn.Linear, "reduce": "flatten"}])
@pytest.mark.parametrize("then", [{}, {"layers": "blocks"}, {"depth": 2}])
def test_a_resumed_run_keeps_its_layers(tmp_path, model, first, then):
    probe = (TEXT, torch.arange(6) % 2)
    with Recorder(model, probe, tmp_path / "a", schedule=every(1), quiet=True, **first) as began:
        began.snapshot(1)
    with Recorder(model, probe, tmp_path / "a", schedule=every(1), resume=True, quiet=True, **then) as again:
        again.snapshot(2)
    assert again.layers == began.layers
    assert open_run(tmp_path / "a").layers == began.layers
    named = {"layers": "**.inner" if isinstance(model, Twins) else "[12]", "reduce": "mean", "logits": False}
    other = Recorder(model, probe, tmp_path / "a", resume=True, quiet=True, **named)
    with pytest.raises(StoreError, match=r"was recorded with layers|another network"):
        other.start()


def test_what_is_new_of_reductions():
    assert Mean("positions").label((3, 4, 5)) == "mean over positions"
    assert Mean("tokens", masked=False).label((3, 4)) == "mean over tokens, padding too"
    assert Flatten().label((3,)) == "flatten"
