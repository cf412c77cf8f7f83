"""Noise that the network carries: added in training and at measurement, seen clean by the recorder."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recording import record, recorder
from torch import nn

from infoplane.core import Noise
from infoplane.hooks import NoiseInjection, every, projection, units
from infoplane.hooks.noise import noise_hooks

X = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(200) % 3


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2))


@pytest.mark.parametrize("kind", ["additive", "multiplicative"])
@pytest.mark.parametrize("training", [True, False])
def test_law(kind, training):
    """The noise of 200 x 5 values has the stated std within five standard errors, 1/sqrt(2n) of it."""
    model = net().train(training)
    clean = model[:2](X).detach()
    with NoiseInjection(model, "1", std=0.3, kind=kind):
        z = (model[1](model[0](X)).detach() - clean) / (clean if kind == "multiplicative" else 1)
    assert abs(float(z.std()) / 0.3 - 1) < 5 / (2 * z.numel()) ** 0.5
    assert abs(float(z.mean())) < 5 * 0.3 / z.numel() ** 0.5
    torch.testing.assert_close(model[:2](X), clean)


def test_the_recorder_sees_the_clean_value_and_later_layers_the_noisy_one():
    model = net()
    clean = model[1](model[0](X)).detach()
    with NoiseInjection(model, ["1", "3"], std=0.2):
        _, snapshot = record(model, X)
    np.testing.assert_allclose(snapshot.arrays["1"], clean.numpy(), atol=1e-6)
    assert {la.key: la.noise for la in snapshot.layers} == {
        "0": None,
        "1": Noise(std=0.2),
        "2": None,
        "3": Noise(std=0.2),
        "4": None,
    }
    through = model[2](clean).detach().numpy()
    difference = snapshot.arrays["2"] - through
    assert 0.01 < difference.std() < 1
    assert NoiseInjection(model, "1", std=0.1, kind="multiplicative").noise == Noise(std=0.1, kind="multiplicative")


@pytest.mark.parametrize("reduce", [units(3, seed=1), "flatten", "mean"])
def test_noise_of_single_values_is_left_to_the_analysis(reduce):
    """The mean of a vector is the vector."""
    model = net()
    _, plain = record(model, X, layers="1", reduce=reduce)
    with NoiseInjection(model, "1", std=0.2):
        _, noisy = record(model, X, layers="1", reduce=reduce)
    np.testing.assert_allclose(noisy.arrays["1"], plain.arrays["1"], atol=1e-6)
    assert noisy.layers[0].noise == Noise(std=0.2, clean=True)


@pytest.mark.parametrize(("reduce", "std"), [("mean", 0.5 / 4), (projection(64, seed=1), 0.5 * (3 * 16 / 64) ** 0.5)])
def test_a_reduction_that_mixes_values_takes_the_noisy_ones(reduce, std):
    """16 places: noise of std 0.5 has std 0.5 / 4 in their mean; 48 values on 64 Gaussian directions of variance 1/64
    each have the variance times 48 / 64. Tolerance: five standard errors, for the projection those of 64 directions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2))
    x = torch.randn(300, 1, 4, 4)
    _, clean = record(model, x, reduce={"1": reduce, "*": "flatten"})
    with NoiseInjection(model, "1", std=0.5):
        _, noisy = record(model, x, reduce={"1": reduce, "*": "flatten"})
    z = noisy.arrays["1"] - clean.arrays["1"]
    assert noisy.layers[1].noise == Noise(std=0.5, clean=False)
    tolerance = 5 / (2 * z.size) ** 0.5 if reduce == "mean" else 5 * (2 / 48 / 64) ** 0.5
    assert abs(z.std() / std - 1) < tolerance
    after = noisy.arrays["3"] - clean.arrays["3"]
    assert after.std() > 0.05


def test_noise_does_not_depend_on_the_memory_format():
    x = torch.zeros(2, 3, 4, 5)
    drawn = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer = nn.Identity()
        with NoiseInjection(layer, "", std=1.0, seed=3):
            drawn.append(layer(x.contiguous(memory_format=memory_format)))
    assert torch.equal(*drawn)


def test_repeats_share_inputs_and_differ_in_noise():
    model = net()
    with NoiseInjection(model, "1", std=0.5):
        rec, sink = recorder(model, (X, Y), repeats=(20, 3), probe_batch_size=64)
        with rec:
            pass
    snapshot, probe = sink.snapshots[0], rec.probe
    assert probe.samples == 260
    first, clean = snapshot.arrays["2"], snapshot.arrays["1"]
    for k in (1, 2, 3):
        rows = probe.repeats == k
        np.testing.assert_array_equal(probe.input_ids[rows], probe.input_ids[:20])
        np.testing.assert_allclose(clean[rows], clean[:20], atol=1e-6)
        assert np.abs(first[rows] - first[:20]).max(1).min() > 1e-4
    a, b = (first[probe.repeats == k] for k in (1, 2))
    assert np.abs(a - b).max(1).min() > 1e-4


def trained(record_it):
    model = net()
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []

    def loop(after):
        for step in range(1, 6):
            loss = nn.functional.cross_entropy(model(X), Y % 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            after(step)

    return model, loop, losses, record_it


@pytest.mark.parametrize("seed", [None, 11])
def test_recording_does_not_touch_the_training_noise(seed):
    results = []
    for record_it in (False, True):
        model, loop, losses, _ = trained(record_it)
        with NoiseInjection(model, "1", std=0.3, seed=seed):
            if record_it:
                rec, _ = recorder(model, (X, Y), schedule=every(1), repeats=(5, 2))
                with rec:
                    loop(rec.snapshot)
            else:
                loop(lambda step: None)
        results.append(losses)
    assert results[0] == results[1]
    assert len(set(results[0])) == 5


def test_measurement_noise_is_a_function_of_seed_and_step():
    model = net()
    with NoiseInjection(model, "1", std=0.3):
        a, b = record(model, X)[1].arrays["2"], record(model, X)[1].arrays["2"]
        torch.rand(100)
        c = record(model, X)[1].arrays["2"]
        d = record(model, X, seed=1)[1].arrays["2"]
        rec, sink = recorder(model, (X, Y), schedule=every(1))
        with rec:
            rec.snapshot(1)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)
    assert not np.array_equal(a, d)
    steps = [s.arrays["2"] for s in sink.snapshots]
    np.testing.assert_array_equal(steps[0], a)
    assert not np.array_equal(steps[0], steps[1])


def test_a_seed_draws_on_where_the_model_has_moved_to_another_device():
    model, first = net(), net()
    with NoiseInjection(model, "1", std=0.3, seed=1), NoiseInjection(first, "1", std=0.3, seed=1):
        expected = first(X)
        model(X)
        (hook,) = noise_hooks(model)
        hook.generator = SimpleNamespace(device=torch.device("cuda:0"))  # as a model that comes from there has it
        assert torch.equal(model(X), expected)


def test_removal_and_copies():
    model = net()
    noise = NoiseInjection(model, nn.Tanh, std=0.5)
    assert noise.layers == ("1", "3")
    twin, thawed = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    noise.remove()
    noise.remove()
    assert torch.equal(model(X), model(X))
    for other in (twin, thawed):
        assert not torch.equal(other(X), other(X))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1", 0.0), "std must be positive, got 0.0"),
        (("1", float("nan")), "std must be positive, got nan"),
        (("1", 0.1, "uniform"), "got 'uniform'"),
        (("tanh", 0.1), "no layer of Sequential matches 'tanh'"),
        (("1@in", 0.1), "not on one place of '1'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoiseInjection(net(), *arguments)


def test_twice_on_one_layer():
    model = net()
    with NoiseInjection(model, "1", 0.1), pytest.raises(ValueError, match=r"layer '1' has noise already; remove\(\)"):
        NoiseInjection(model, ["0", "1"], 0.1)
    assert not model[0]._forward_hooks


def test_outputs_that_are_no_tensor():
    model = nn.Sequential(nn.LSTM(4, 3))
    with NoiseInjection(model, "0", 0.1), pytest.raises(ValueError, match="the output of layer 0 has 3 tensors"):
        model(X)
