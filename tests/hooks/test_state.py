"""A probe pass leaves no trace: modes, random states, buffers, compilation, precision."""

import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from recording import keys, record, recorder
from torch import nn

from infoplane.hooks import every
from infoplane.hooks._pass.state import Surroundings, keep_random_state

X = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))


def test_modes_are_restored_one_by_one_without_calling_train():
    class Merges(nn.Module):
        """Like adapters that fold their weights in on `eval()`."""

        merged = 0

        def train(self, mode=True):
            self.merged += 1
            return super().train(mode)

    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4), Merges())
    model[0].training = False
    inside = Surroundings(model).undisturbed(lambda: [m.training for m in model.modules()], torch.device("cpu"))
    assert inside == [False] * 4
    assert [m.training for m in model.modules()] == [True, False, True, True]
    assert model[2].merged == 0


def test_random_states():
    def draws():
        return torch.rand(2).tolist(), np.random.rand(), random.random()  # noqa: NPY002

    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    expected = draws()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    restore = keep_random_state(torch.device("cpu"))
    for _ in range(2):
        draws()
        restore()
    assert draws() == expected


class Counts(nn.Module):
    """Held that change on every call, in place and by replacement, in evaluation mode too."""

    def __init__(self, size=3):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(size))
        self.register_buffer("last", torch.zeros(1), persistent=False)
        self.register_buffer("absent", None)
        self.count = True

    def forward(self, x):
        if self.count:
            self.calls += 1
            self.last = x.mean()[None]
        return self.fc(x)


@pytest.mark.parametrize("size", [3, 1 << 19])
def test_buffers(size):
    model = Counts(size)
    last = model.last
    rec, _ = recorder(model, (X, torch.zeros(10).long()), schedule=every(1))
    with rec:
        for step in range(1, 4):
            rec.snapshot(step)
    assert float(model.calls.abs().sum()) == 0
    assert model.last is last


def test_a_large_buffer_that_only_later_changes_is_an_error():
    model = Counts(1 << 19)
    model.count = False
    rec, _ = recorder(model, (X, torch.zeros(10).long()), schedule=every(1), on_error="raise")
    with rec:
        model.count = True
        with pytest.raises(RuntimeError, match="the probe pass changed the buffer 'calls'"):
            rec.snapshot(1)


def test_gradients_and_histories():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    model(X).sum().backward()
    before = [p.grad for p in model.parameters()]
    copies = [g.clone() for g in before]
    loss = model(X).square().mean()
    record(model, X)
    loss.backward()  # the graph of before the snapshot still works
    assert all(a is p.grad for a, p in zip(before, model.parameters(), strict=True))
    assert not torch.equal(before[0], copies[0])
    assert all(p.requires_grad for p in model.parameters())


def test_the_pass_builds_no_graph():
    seen = []

    class Looks(nn.Linear):
        def forward(self, x):
            seen.append(super().forward(x).requires_grad)
            return super().forward(x)

    record(nn.Sequential(Looks(4, 3), nn.Tanh()), X)
    assert seen
    assert not any(seen)
    assert torch.is_grad_enabled()


def test_autocast_is_the_probes_own():
    """Also inside a caller's region, and its weight cache does not lose the training step's history."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    _, plain = record(model, X)
    with torch.autocast("cpu", torch.bfloat16):
        _, inside = record(model, X)
        model(X).sum().backward()
    assert model[0].weight.grad is not None
    np.testing.assert_array_equal(plain.arrays["0"], inside.arrays["0"])
    _, low = record(model, X, autocast=torch.bfloat16)
    assert low.layers[0].dtype == "bfloat16"
    expected = model[0].bfloat16()(X.bfloat16()).view(torch.uint16).numpy()
    assert low.arrays["0"].dtype == np.uint16
    np.testing.assert_array_equal(low.arrays["0"], expected)


def test_compiled_models_are_run_uncompiled():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    before = compiled(X)
    _, snapshot = record(compiled, X)
    assert keys(snapshot) == ["0", "1", "2"]
    np.testing.assert_array_equal(snapshot.arrays["1"], model[:2](X).detach().numpy())
    frames = torch._dynamo.utils.counters["frames"]["total"]
    assert torch.equal(compiled(X), before)
    assert torch._dynamo.utils.counters["frames"]["total"] == frames


def test_compiled_in_place_and_compiled_parts():
    whole = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    whole.compile(backend="eager")
    whole(X)
    assert keys(record(whole, X)[1]) == ["0", "1", "2"]
    part = nn.Sequential(torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), backend="eager"), nn.Linear(4, 2))
    part(X)
    rec, snapshot = record(part, X)
    assert keys(snapshot) == ["0.0", "0.1", "1"]
    assert rec.chain is True


def test_the_fused_path_of_attention_is_off_only_inside():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(6, 3, 8)
    _, snapshot = record(nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 2)), x)
    assert keys(snapshot) == ["0.self_attn", "0.norm1", "0.linear1", "0.linear2", "0.norm2", "2"]
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.slow
def test_importing_dynamo_is_not_our_doing():
    """It takes seconds; nothing can be compiled before it was imported."""
    code = (
        "import sys, torch; from torch import nn; from infoplane.hooks import Recorder\n"
        "m = nn.Sequential(nn.Linear(4, 2), nn.Tanh())\n"
        "r = Recorder(m, probe=(torch.randn(8, 4), torch.zeros(8).long()), sinks=[print], keep_activations=False)\n"
        "r.start().close(); print('torch._dynamo' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("False")


def test_models_can_be_pickled_and_copied_between_snapshots():
    model = nn.Sequential(nn.Linear(4, 2), nn.Tanh())
    rec, sink = recorder(model, (X, torch.zeros(10).long()), schedule=every(1))
    with rec:
        clone = pickle.loads(pickle.dumps(model))
        rec.snapshot(1)
    assert torch.equal(clone[0].weight, model[0].weight)
    assert sink.steps == [0, 1]


def test_chunk_size_changes_nothing_but_rounding():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    reference = record(model, X, probe_batch_size=10)[1]
    for size in (1, 3, 7, 100):
        snapshot = record(model, X, probe_batch_size=size)[1]
        for key, values in reference.arrays.items():
            np.testing.assert_allclose(snapshot.arrays[key], values, atol=1e-5)


def test_training_mode_must_be_asked_for():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))
    state = torch.get_rng_state()
    mean = model[2].running_mean.clone()
    with pytest.warns(UserWarning, match="order cannot be checked"):
        a, b = (record(model, X, mode="train", seed=s)[1].arrays["1"] for s in (0, 1))
    assert 0.2 < (a == 0).mean() < 0.8
    assert not np.array_equal(a, b)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(mean, model[2].running_mean)
    with pytest.raises(ValueError, match="mode must be 'eval' or 'train', got 'test'"):
        record(model, X, mode="test")


def test_batch_statistics_warn():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.warns(UserWarning, match="layer '1' normalises .* probe_batch_size=5"):
        record(model, X, probe_batch_size=5)


def test_dtypes_of_probe_and_model():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    expected = record(model, X)[1].arrays["1"]
    np.testing.assert_array_equal(record(model, X.double())[1].arrays["1"], expected)
    assert record(model.double(), X)[1].layers[0].dtype == "float64"
    assert record(model.bfloat16(), X)[1].layers[0].dtype == "bfloat16"


class TestStoredDtype:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())

    def test_half(self):
        full = record(self.model, X)[1].arrays["1"]
        _, snapshot = record(self.model, X, dtype=torch.float16)
        assert snapshot.layers[1].dtype == "float16"
        np.testing.assert_array_equal(snapshot.arrays["1"], full.astype(np.float16))
        _, snapshot = record(self.model, X, dtype=torch.bfloat16)
        np.testing.assert_array_equal(
            snapshot.arrays["1"], torch.from_numpy(full).bfloat16().view(torch.uint16).numpy()
        )

    def test_overflow(self):
        model = nn.Sequential(nn.Linear(4, 3))
        with torch.no_grad():
            model[0].bias[1] = 1e5
        with pytest.raises(ValueError, match=r"layer '0' reaches 1\d+, beyond float16 \(65504\)"):
            record(model, X, dtype=torch.float16)

    def test_underflow(self):
        model = nn.Sequential(nn.Linear(4, 3))
        with torch.no_grad():
            model[0].weight.mul_(1e-9)
            model[0].bias.zero_()
        with pytest.warns(UserWarning, match="float16 makes 30 of 30 nonzero values of layer '0' zero"):
            record(model, X, dtype=torch.float16)

    def test_integers_and_booleans_stay(self):
        class Codes(nn.Module):
            def __init__(self, make):
                super().__init__()
                self.make = make

            def forward(self, x):
                return self.make(x)

        for make, dtype in ((lambda x: x > 0, "bool"), (lambda x: (x * 4).long(), "int64")):
            model = nn.Sequential(Codes(make))
            assert record(model, X, dtype=torch.float16)[1].layers[0].dtype == dtype
        with pytest.raises(TypeError, match="layer '0' is complex"):
            record(nn.Sequential(Codes(lambda x: x.to(torch.complex64))), X)


def test_replaced_and_grown_layers():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    rec, sink = recorder(model, (X, torch.zeros(10).long()), schedule=every(1), on_error="raise")
    with rec:
        model[0], model[2] = nn.Linear(4, 5), nn.Linear(5, 2)
        with pytest.warns(UserWarning, match=r"layer '\d' changed from \(3,\) float32 to \(5,\) float32 at step 1"):
            rec.snapshot(1)
        assert sink.snapshots[1].arrays["1"].shape == (10, 5)
        rec.snapshot(2)
        del model[2]
        with pytest.raises(ValueError, match="recorded layer '2' is no longer part of Sequential"):
            rec.snapshot(3)


class Changing(nn.Module):
    """Layer b of what `usual` makes of layer a and the input; of what `later` makes once it has changed."""

    def __init__(self, a, usual, later):
        super().__init__()
        self.a, self.b, self.usual, self.later, self.changed = a, nn.Linear(4, 2), usual, later, False

    def forward(self, x):
        return self.b((self.later if self.changed else self.usual)(self.a, x))


def change(model, error, match):
    """Record step 0, let the model change, and expect this of step 1."""
    rec, _ = recorder(model, (X, torch.zeros(10).long()), schedule=every(1), on_error="raise")
    with rec:
        model.changed = True
        with pytest.raises(error, match=match):
            rec.snapshot(1)


def test_a_layer_that_stops_running():
    model = Changing(nn.Linear(4, 4), lambda a, x: a(x), lambda a, x: x)
    change(model, RuntimeError, r"1 recorded layers .*: a \(0 instead of 1\)")


def test_a_layer_that_later_gives_one_row_for_all():
    model = Changing(nn.Tanh(), lambda a, x: x + a(x), lambda a, x: x + a(x.mean(0, keepdim=True)))
    change(model, ValueError, r"layer 'a' should have 10 rows, one per sample, got shape \(1, 4\)")


def test_undisturbed_restores_when_the_model_raises():
    model = nn.Sequential(nn.Dropout(), Counts())

    def fails():
        model(X)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        Surroundings(model).undisturbed(fails, torch.device("cpu"))
    assert model[0].training
    assert float(model[1].calls.sum()) == 0
    assert torch.is_grad_enabled()
