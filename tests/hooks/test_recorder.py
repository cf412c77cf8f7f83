"""The recorder: what it records, and that training does not notice."""

import copy
import math
import random

import numpy as np
import pytest
import recording
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from infoplane.hooks import Recorder, every, log_spaced


def busy_net(seed=0):
    """Batch statistics, dropout and an in-place activation: everything a careless probe would disturb."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Linear(16, 8),
        nn.ReLU(inplace=True),
        nn.Linear(8, 3),
    )


def data(n=96, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def train(model, epochs, after=lambda epoch: None):
    x, y = data()
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for epoch in range(epochs):
        for a, b in loader:
            loss = nn.functional.cross_entropy(model(a), b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        after(epoch)
    return losses


def recorder(model, **options):
    return recording.recorder(model, options.pop("probe", data(50, seed=2)), **options)


def test_training_is_equal_bit_for_bit():
    def draws():
        return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002

    results = []
    for record in (False, True):
        model = busy_net()
        model[1].eval()  # a frozen layer must stay frozen, the others in training mode
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        if record:
            rec, sink = recorder(model, schedule=every(1), probe_batch_size=7)
            with rec:
                losses = train(model, 4, rec.snapshot)
            assert sink.steps == [0, 1, 2, 3, 4]
        else:
            losses = train(model, 4)
        modes = [m.training for m in model.modules()]
        grads = [p.grad.clone() for p in model.parameters()]
        results.append((losses, copy.deepcopy(model.state_dict()), modes, grads, draws()))
    (l0, s0, m0, g0, d0), (l1, s1, m1, g1, d1) = results
    assert l0 == l1
    assert m0 == m1
    assert d0 == d1
    assert all(torch.equal(s0[k], s1[k]) for k in s0)
    assert all(torch.equal(a, b) for a, b in zip(g0, g1, strict=True))


def test_values_are_those_of_the_layers_before_in_place_operations():
    model = busy_net()
    rec, sink = recorder(model, probe_batch_size=16)
    with rec:
        pass
    (snapshot,) = sink.snapshots
    model.eval()
    x, _ = data(50, seed=2)
    for i, layer in enumerate(model):
        x = layer(x.clone())
        if str(i) in snapshot.arrays:
            np.testing.assert_allclose(snapshot.arrays[str(i)], x.detach().numpy(), atol=1e-6)
    assert list(snapshot.arrays) == ["0", "1", "2", "4", "5", "6"]
    assert rec.skipped == {"3": "Dropout passes its input on unchanged"}
    assert (snapshot.arrays["0"] < 0).any()
    assert [la.role for la in snapshot.layers] == ["other", "other", "activation", "other", "activation", "output"]


def test_nothing_stays_attached():
    model = busy_net()
    before = [dict(m.__dict__) for m in model.modules()]
    rec, _ = recorder(model)
    with rec:
        rec.snapshot(1)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert [set(b) for b in before] == [set(m.__dict__) for m in model.modules()]


def test_a_model_that_raises_is_left_as_it_was():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)
            self.fail = False

        def forward(self, x):
            h = self.fc(x)
            if self.fail:
                raise ArithmeticError("no luck")
            return h

    model = Fails().train()
    rec, sink = recorder(model, schedule=every(1), on_error="raise")
    with rec:
        model.fail = True
        state = torch.get_rng_state()
        with pytest.raises(ArithmeticError, match="no luck") as raised:
            rec.snapshot(1)
        assert raised.value.__notes__ == ["while recording step 1 on the probe set"]
        assert torch.equal(state, torch.get_rng_state())
        assert model.training
        assert model.fc.training
        assert not model.fc._forward_hooks
        model.fail = False
    assert sink.steps == [0]


class TestSteps:
    def test_counting_from_zero_shifts_by_one(self):
        rec, sink = recorder(nn.Linear(6, 3), schedule=every(2))
        with rec:
            taken = [rec.snapshot(epoch, metrics={"loss": epoch * 0.5}) for epoch in range(4)]
        assert taken == [False, True, False, True]
        assert sink.steps == [0, 2, 4]
        assert math.isnan(sink.snapshots[0].epoch)
        assert [s.epoch for s in sink.snapshots[1:]] == [1.0, 3.0]
        assert [dict(s.metrics) for s in sink.snapshots] == [{}, {"loss": 0.5}, {"loss": 1.5}]

    def test_counting_from_one_is_taken_as_it_is(self):
        rec, sink = recorder(nn.Linear(6, 3), schedule=every(3))
        with rec:
            for step in range(1, 6):
                rec.snapshot(step, metrics={"loss": torch.tensor(float(step), requires_grad=True)})
        assert sink.steps == [0, 3, 5]
        assert sink.snapshots[-1].metrics == {"loss": 5.0}

    def test_without_an_initial_snapshot(self):
        rec, sink = recorder(nn.Linear(6, 3), schedule=every(2), initial=False)
        with rec:
            for step in range(4):
                rec.snapshot(step)
        assert sink.steps == [0, 2, 3]

    def test_default_is_log_spaced(self):
        rec, sink = recorder(nn.Linear(6, 3))
        with rec:
            for step in range(1, 101):
                rec.snapshot(step)
        assert sink.steps == list(log_spaced().plan(100))

    @pytest.mark.parametrize("bad", [3, 2])
    def test_steps_must_grow(self, bad):
        rec, _ = recorder(nn.Linear(6, 3), on_error="raise")
        with rec:
            rec.snapshot(3)
            with pytest.raises(ValueError, match=f"step {bad} comes after step 3; .*resume=True"):
                rec.snapshot(bad)

    def test_after_an_exception_the_last_step_is_not_taken(self):
        rec, sink = recorder(nn.Linear(6, 3), schedule=every(10))

        def fails():
            with rec:
                rec.snapshot(1)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fails()
        assert sink.steps == [0]
        assert sink.closed == 1

    def test_needs_to_be_open(self):
        rec, _ = recorder(nn.Linear(6, 3))
        with pytest.raises(RuntimeError, match="inside `with Recorder"):
            rec.snapshot(1)
        with rec:
            pass
        with pytest.raises(RuntimeError, match="this recorder is closed"):
            rec.start()

    def test_fractions_are_refused(self):
        rec, _ = recorder(nn.Linear(6, 3), on_error="raise")
        with rec, pytest.raises(TypeError, match=r"step must be a whole number, got 1.5; .* epoch="):
            rec.snapshot(1.5)

    def test_metrics_must_be_numbers(self):
        rec, _ = recorder(nn.Linear(6, 3), on_error="raise")
        with rec, pytest.raises(TypeError, match="metric 'loss' must be one number, got 'low'"):
            rec.snapshot(1, metrics={"loss": "low"})


def test_kept_arrays_stay_as_they_were():
    """Buffers are used again only when nobody holds them."""
    model = nn.Linear(6, 3)
    rec, sink = recorder(model, schedule=every(1))
    x, _ = data(50, seed=2)
    expected = []
    with rec:
        expected.append(model(x).detach().numpy().copy())
        for step in range(1, 5):
            with torch.no_grad():
                model.weight += 1.0
            expected.append(model(x).detach().numpy().copy())
            rec.snapshot(step)
    for snapshot, values in zip(sink.snapshots, expected, strict=True):
        np.testing.assert_array_equal(snapshot.arrays["@out"], values)


def test_nonfinite_values_warn_once_with_step_and_layer():
    model = nn.Sequential(nn.Linear(6, 3))
    rec, sink = recorder(model, schedule=every(1))
    with rec:
        with torch.no_grad():
            model[0].weight[0, 0] = torch.nan
        with pytest.warns(UserWarning, match="layer '0' has 50 NaN or infinite values at step 1"):
            rec.snapshot(1)
        rec.snapshot(2)
    assert sink.steps == [0, 1, 2]
    rec, _ = recorder(model, nonfinite="raise")
    with pytest.raises(ValueError, match="layer '0' has 50 NaN or infinite values at step 0"):
        rec.start()


def test_run_or_sinks_are_needed():
    with pytest.raises(ValueError, match='run="runs/a"'):
        Recorder(nn.Linear(6, 3), probe=data())
    with pytest.raises(ValueError, match="keep_activations=False without a sink"):
        Recorder(nn.Linear(6, 3), probe=data(), keep_activations=False)
