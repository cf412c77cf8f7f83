"""Selection of layers: every form that names them, and every way in which it can fail."""

import re
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from recording import keys, record, recorder
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Sequential(nn.Linear(5, 3), nn.Tanh()), nn.Linear(3, 2)
    )


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, ["0.0", "0.1", "1.0", "1.1", "2"]),
        ("0.1", ["0.1"]),
        (["1.1", "0.1"], ["0.1", "1.1"]),
        ("*.1", ["0.1", "1.1"]),
        ("0*", ["0"]),
        ("0**", ["0"]),
        ("0.**", ["0.0", "0.1", "0"]),
        ("**.0", ["0.0", "0", "1.0"]),
        ("?.1", ["0.1", "1.1"]),
        ("*", ["0", "1", "2"]),
        ("**", ["0.0", "0.1", "0", "1.0", "1.1", "1", "2"]),
        (re.compile(r"\d\.0"), ["0.0", "1.0"]),
        (nn.Tanh, ["0.1", "1.1"]),
        (lambda name, module: isinstance(module, nn.Linear) and module.out_features == 3, ["1.0"]),
        ("0.1@in", ["0.1@in"]),
        (["0.1", "0.1@in", "0.1"], ["0.1@in", "0.1"]),
        ("@out", ["@out"]),
        ("@in", ["@in"]),
        (["0.1", nn.Tanh], ["0.1", "1.1"]),
        ("module.0.1", ["0.1"]),
        ("_orig_mod.0.1@in", ["0.1@in"]),
    ],
)
def test_forms(layers, expected):
    rec, snapshot = record(mlp(), X, layers=layers, logits=False)
    assert keys(snapshot) == expected
    assert [la.depth for la in snapshot.layers] == list(range(len(expected)))
    assert list(snapshot.arrays) == expected
    assert rec.layers == snapshot.layers


def test_module_objects():
    model = mlp()
    _, snapshot = record(model, X, layers=[model[1], model[0][1]], logits=False)
    assert keys(snapshot) == ["0.1", "1"]
    with pytest.raises(ValueError, match="the Tanh given as a layer is not part of Sequential"):
        record(model, X, layers=nn.Tanh())


def test_inputs_and_outputs_are_the_tensors_of_the_forward_pass():
    model = mlp()
    _, snapshot = record(model, X, layers=["1.0@in", "1.0", "@in", "@out"])
    a = snapshot.arrays
    np.testing.assert_array_equal(a["@in"], X.numpy())
    np.testing.assert_array_equal(a["1.0@in"], model[0](X).detach().numpy())
    np.testing.assert_array_equal(a["1.0"], model[1][0](model[0](X)).detach().numpy())
    np.testing.assert_array_equal(a["@out"], model(X).detach().numpy())
    assert [la.role for la in snapshot.layers] == ["input", "input", "other", "output", "other"]


def test_logits_are_always_recorded():
    _, snapshot = record(mlp(), X, layers="0.1")
    assert keys(snapshot) == ["0.1", "2"]
    assert snapshot.layers[-1].role == "output"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            "conv*",
            "no layer of Sequential matches 'conv\\*'; closest: .*; infoplane.layers\\(model, batch\\) lists all",
        ),
        ("0.2", "no layer of Sequential matches '0.2'; closest: 0.1, 0.0"),
        (re.compile("x+"), "no layer of Sequential matches /x\\+/"),
        (nn.Conv2d, "no layer of Sequential matches type Conv2d"),
        (lambda name, module: False, "matches the predicate <lambda>"),
        ([], "layers is empty"),
    ],
)
def test_nothing_matches(layers, message):
    with pytest.raises(ValueError, match=message):
        recorder(mlp(), (X, torch.zeros(12).long()), layers=layers)


def test_bad_kind():
    with pytest.raises(TypeError, match="got 3"):
        recorder(mlp(), (X, torch.zeros(12).long()), layers=3)


def test_the_closest_names_come_first():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("encoder", "attention", "decoder", "classifier", "pooler", "embedding", "dropout"):
                setattr(self, name, nn.Linear(4, 4))

    with pytest.raises(ValueError, match="closest: encoder, decoder"):
        recorder(Net(), (X, torch.zeros(12).long()), layers="encodr")


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.dead = nn.Linear(4, 3)
        self.direct = nn.Linear(3, 3)
        self.list = nn.ModuleList([nn.Tanh()])

    def forward(self, x):
        return self.list[0](self.direct.forward(self.used(x)))


def test_a_named_layer_that_never_runs_is_an_error_before_any_file(tmp_path):
    from infoplane.hooks import Recorder

    rec = Recorder(Branches(), probe=(X, torch.zeros(12).long()), run=tmp_path / "a", layers=["used", "dead", "direct"])
    message = r"never run in the probe's forward pass: 'dead', 'direct'; .*called through .forward\(\)"
    with pytest.raises(ValueError, match=message):
        rec.start()
    assert not (tmp_path / "a").exists()


def test_a_pattern_passes_over_what_never_runs_and_says_so():
    with pytest.warns(UserWarning, match="2 layers are not recorded .*first 'dead': never ran"):
        rec, snapshot = record(Branches(), X, layers=nn.Linear)
    assert keys(snapshot) == ["used", "list.0"]
    assert rec.skipped == {"dead": "never ran", "direct": "never ran"}
    with pytest.raises(ValueError, match="never run in the probe's forward pass: 'dead'"):
        record(Branches(), X, layers="d*d")


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(4, 4)
        self.alias = self.block
        self.act = nn.ReLU()

    def forward(self, x):
        for _ in range(3):
            x = self.act(self.block(x))
        return x


class TestCalls:
    def test_several_calls_need_a_choice(self):
        message = "layer 'block' runs 3 times .*calls='last', calls='all' or an index, or name one call as 'block#0'"
        for layers in (None, "block"):
            with pytest.raises(ValueError, match=message):
                record(Repeated(), X, layers=layers)

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"calls": "last"}, ["block#2", "act#2"]),
            ({"calls": "all"}, ["block#0", "act#0", "block#1", "act#1", "block#2", "act#2"]),
            ({"calls": 1}, ["block#1", "act#1"]),
            ({"calls": -1}, ["block#2", "act#2"]),
            ({"layers": ["block#1", "act#0@in"]}, ["act#0@in", "block#1", "act#2"]),
            ({"layers": "alias#1"}, ["block#1", "act#2"]),
        ],
    )
    def test_choices(self, options, expected):
        _, snapshot = record(Repeated(), X, **options)
        assert keys(snapshot) == expected

    def test_values_are_of_that_call_and_the_alias_is_listed(self):
        model = Repeated()
        _, snapshot = record(model, X, calls="all")
        h = X
        for k in range(3):
            pre = model.block(h)
            h = model.act(pre)
            np.testing.assert_array_equal(snapshot.arrays[f"block#{k}"], pre.detach().numpy())
            np.testing.assert_array_equal(snapshot.arrays[f"act#{k}"], h.detach().numpy())
        first = snapshot.layers[0]
        assert (first.name, first.call, first.aliases) == ("block", 0, ("alias",))

    def test_out_of_range(self):
        with pytest.raises(ValueError, match="layer 'block' runs 3 times, so there is no call #3"):
            record(Repeated(), X, layers="block#3")
        with pytest.raises(ValueError, match="below 3 for layer 'block', got 7"):
            record(Repeated(), X, calls=7)

    def test_two_names_of_one_module_are_one_capture(self):
        _, snapshot = record(Repeated(), X, layers=["block", "alias"], calls="last", logits=False)
        assert keys(snapshot) == ["block#2"]


@dataclass
class Out:
    last: torch.Tensor
    extra: torch.Tensor | None = None


Pair = namedtuple("Pair", "mean scale")


class Returns(nn.Module):
    """A model with an inner module that returns whatever `make` builds from a tensor."""

    def __init__(self, make):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.inner = Inner(make)

    def forward(self, x):
        h = self.fc(x)
        self.inner(h)
        return h


class Inner(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, h):
        return self.make(h * 2)


class TestStructures:
    @pytest.mark.parametrize(
        ("make", "layer", "key", "path"),
        [
            (lambda h: (h,), "inner", "inner", "[0]"),
            (lambda h: (h, None), "inner", "inner", "[0]"),
            (lambda h: {"last": h, "note": "text"}, "inner", "inner", ".last"),
            (lambda h: Out(h), "inner", "inner", ".last"),
            (lambda h: Out(h, h + 1), "inner@out.last", "inner@out.last", ".last"),
            (lambda h: (h + 1, h), "inner@out[1]", "inner@out[1]", "[1]"),
            (lambda h: (h + 1, (h + 2, h)), "inner@out[1][1]", "inner@out[1][1]", "[1][1]"),
            (lambda h: (h + 1, (h,)), "inner@out[1]", "inner@out[1][0]", "[1][0]"),
            (lambda h: Pair(h + 1, h), "inner@out.scale", "inner@out.scale", ".scale"),
            (lambda h: {"a": [h + 1, h]}, "inner@out.a[1]", "inner@out.a[1]", ".a[1]"),
        ],
    )
    def test_the_tensor_is_found(self, make, layer, key, path):
        model = Returns(make)
        _, snapshot = record(model, X, layers=layer, logits=False)
        (recorded,) = snapshot.layers
        assert (recorded.key, recorded.path, recorded.name) == (key, path, "inner")
        np.testing.assert_array_equal(snapshot.arrays[key], (model.fc(X) * 2).detach().numpy())

    def test_several_tensors_are_listed(self):
        message = r"the output of layer inner has 2 tensors: \[0\] \(12, 3\), \[1\]\[0\] \(12, 3\); .*'inner@out\[0\]'"
        with pytest.raises(ValueError, match=message):
            record(Returns(lambda h: (h, [h, "x"])), X, layers="inner")
        with pytest.raises(ValueError, match=r"has no tensor at '\[3\]'; it has \[0\]"):
            record(Returns(lambda h: (h, h)), X, layers="inner@out[3]")

    def test_packed_sequences(self):
        pack = nn.utils.rnn.pack_padded_sequence
        model = Returns(lambda h: pack(h[:, :, None], torch.full((len(h),), 3), batch_first=True))
        with pytest.raises(TypeError, match="is a PackedSequence, which holds no dense tensor"):
            record(model, X, layers="inner")

    @pytest.mark.parametrize(
        ("make", "what"), [(lambda h: None, "None"), (lambda h: "text", "a str"), (lambda h: [object()], "a list")]
    )
    def test_no_tensor(self, make, what):
        with pytest.raises(TypeError, match=f"the output of layer inner is {what}, which holds no dense tensor"):
            record(Returns(make), X, layers="inner")
        with pytest.warns(UserWarning, match=f"first 'inner': the output of layer inner is {what}"):
            _, snapshot = record(Returns(make), X)
        assert keys(snapshot) == ["fc"]

    @pytest.mark.parametrize(
        ("make", "kind"),
        [
            (lambda h: h.to_sparse(), "a sparse_coo tensor"),
            (lambda h: torch.nested.nested_tensor([h[:5], h[5:]], layout=torch.jagged), "a nested tensor"),
            (lambda h: torch.nested.nested_tensor([h[:5], h[5:]]), "a nested tensor"),
            (lambda h: torch.quantize_per_tensor(h, 0.1, 0, torch.qint8), "a quantized tensor"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:The PyTorch API of nested tensors")
    def test_odd_layouts(self, make, kind):
        with pytest.raises(TypeError, match=f"layer 'inner' is {kind}; make it dense"):
            record(Returns(make), X, layers="inner")

    def test_lstm_and_attention_by_default(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(4, 6, batch_first=True)
                self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
                self.fc = nn.Linear(6, 2)

            def forward(self, x):
                h, _ = self.rnn(x)
                h, _ = self.attention(h, h, h)
                return self.fc(h[:, -1])

        x = torch.randn(10, 5, 4)
        rec, snapshot = record(Net(), x)
        assert keys(snapshot) == ["rnn@out[0]", "attention@out[0]", "fc"]
        assert [la.raw_shape for la in snapshot.layers] == [(5, 6), (5, 6), (2,)]
        assert [la.unit_shape for la in snapshot.layers] == [(30,), (30,), (2,)]
        assert rec.chain is True
        with pytest.raises(ValueError, match=r"never run .*'attention\.out_proj'"):
            record(Net(), x, layers="attention.out_proj")


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 6)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(self.rnn(x.transpose(0, 1))[0][-1])


class TestRows:
    def test_another_sample_axis_is_named_and_can_be_given(self):
        x = torch.randn(10, 5, 4)
        message = r"layer 'rnn@out\[0\]' should have 10 rows, .*got shape \(5, 10, 6\); its samples may be axis 1"
        with pytest.raises(ValueError, match=message):
            record(TimeFirst(), x, layers="rnn@out[0]")
        model = TimeFirst()
        _, snapshot = record(model, x, layers="rnn@out[0]", batch_dim={"rnn*": 1})
        expected = model.rnn(x.transpose(0, 1))[0].transpose(0, 1).reshape(10, 30)
        np.testing.assert_allclose(snapshot.arrays["rnn@out[0]"], expected.detach().numpy(), atol=1e-6)

    def test_outputs_without_samples_are_skipped_by_default(self):
        class Positions(nn.Module):
            def __init__(self):
                super().__init__()
                self.position = nn.Embedding(5, 4)
                self.fc = nn.Linear(20, 2)

            def forward(self, x):
                return self.fc((x + self.position(torch.arange(5))).flatten(1))

        with pytest.warns(UserWarning, match=r"layer 'position' should have 10 rows, .*got shape \(5, 4\)"):
            rec, snapshot = record(Positions(), torch.randn(10, 5, 4))
        assert keys(snapshot) == ["fc"]
        assert "got shape (5, 4)" in rec.skipped["position"]

    def test_nothing_left(self):
        with pytest.raises(ValueError, match="no layer can be recorded: @out: the output of layer @out is None"):
            record(Inner(lambda h: None), X)


def test_names_survive_wrappers():
    plain = mlp()
    compiled = torch.compile(plain, backend="eager")
    parallel = nn.DataParallel(compiled)
    for model in (plain, compiled, parallel):
        _, snapshot = record(model, X, layers=["0.1", "module.1.1"])
        assert keys(snapshot) == ["0.1", "1.1", "2"]


@pytest.mark.parametrize("wrap", ["nothing", "a part", "all"])
def test_names_leave_wrappers_of_checkpointing_out(wrap):
    model = mlp()
    if wrap == "a part":
        model[1] = checkpoint_wrapper(model[1])
    _, snapshot = record(checkpoint_wrapper(model) if wrap == "all" else model, X)
    assert keys(snapshot) == ["0.0", "0.1", "1.0", "1.1", "2"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
class TestTorchScript:
    def test_the_whole_model_is_refused(self):
        for make in (torch.jit.script, lambda m: torch.jit.trace(m, X), lambda m: nn.DataParallel(torch.jit.script(m))):
            with pytest.raises(TypeError, match="TorchScript module, which takes no hooks; record the one"):
                record(make(nn.Linear(4, 2)), X)

    def test_a_part_is_left_out_aloud_and_training_is_as_without(self):
        def trained(recording):
            torch.manual_seed(0)
            scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
            model = nn.Sequential(scripted, nn.Tanh(), nn.Linear(4, 2))
            if recording:
                with pytest.warns(UserWarning, match="first '0': it is a TorchScript module"):
                    rec, snapshot = record(model, X, mode="train")
                assert keys(snapshot) == ["1", "2"]
                assert list(rec.skipped) == ["0"]
            model(X).square().sum().backward()
            return [*model.buffers(), *(p.grad for p in model.parameters())]

        assert all(torch.equal(a, b) for a, b in zip(trained(False), trained(True), strict=True))


def test_odd_names():
    model = nn.Module()
    names = ["a/b", "ünï", "x" * 300, "sp ace", "%41", "*", "[0]"]
    for name in names:
        model.add_module(name, nn.Linear(4, 4))
    model.forward = lambda x: [m(x) for m in model.children()][-1]
    _, snapshot = record(model, X)
    assert keys(snapshot) == names
    _, snapshot = record(model, X, layers="[0]", logits=False)
    assert keys(snapshot) == ["[0]"]
