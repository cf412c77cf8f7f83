"""Collections: each member's run is what recording that member alone gives."""

import copy
import json

import numpy as np
import pytest
import torch
from recording import Collect, record
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

import infoplane
from infoplane.core import Noise
from infoplane.hooks import CollectionRecorder, NoiseInjection, every, units

X = torch.randn(70, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(70) % 3
MEMBERS = 4


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    )  # fmt: skip


def collection():
    models = [net(s) for s in range(MEMBERS)]
    for i, m in enumerate(models):
        m[1].running_mean += 0.1 * i
    return models, stack_module_state(models)


def recorder(model, **options):
    sinks = [Collect() for _ in range(MEMBERS)]
    options = {"keep_activations": False, "member_sinks": lambda i: [sinks[i]], "schedule": every(1), **options}
    return CollectionRecorder(model, (X, Y), **options), sinks


@pytest.mark.parametrize("options", [{}, {"reduce": units(3), "dtype": torch.float16}, {"layers": ["1@in", "2"]}])
def test_members_are_recorded_as_if_alone(options):
    models, state = collection()
    rec, sinks = recorder(models[0], state=state, probe_batch_size=32, **options)
    with rec:
        pass
    for model, sink in zip(models, sinks, strict=True):
        _, alone = record(model, X, **options)
        (snapshot,) = sink.snapshots
        assert snapshot.layers == alone.layers
        for key, values in alone.arrays.items():
            assert snapshot.arrays[key].dtype == values.dtype
            np.testing.assert_allclose(snapshot.arrays[key], values, atol=1e-3 if "dtype" in options else 1e-5)
    assert not np.allclose(sinks[0].snapshots[0].arrays["4" if not options.get("layers") else "2"],
                           sinks[1].snapshots[0].arrays["4" if not options.get("layers") else "2"])  # fmt: skip


def test_training_under_vmap_with_a_run_each(tmp_path):
    models, (parameters, buffers) = collection()
    skeleton = copy.deepcopy(models[0]).to("meta").eval()

    def loss(p, b, x, y):
        return nn.functional.cross_entropy(functional_call(skeleton, (p, b), (x,)), y)

    step = vmap(grad(loss), in_dims=(0, 0, None, None))
    with CollectionRecorder(
        skeleton,
        (X, Y),
        tmp_path / "m{member}",
        state=(parameters, buffers),
        schedule=every(1),
        about=[{"seed": i} for i in range(MEMBERS)],
        quiet=True,
    ) as rec:
        for epoch in range(3):
            gradients = step(parameters, buffers, X, Y)
            parameters = {k: (p - 0.1 * gradients[k]).detach() for k, p in parameters.items()}
            losses = torch.arange(MEMBERS) + epoch / 4
            rec.snapshot(epoch, metrics={"loss": losses, "lr": 0.1}, state=(parameters, buffers))
    for i, model in enumerate(models):
        store = infoplane.open_run(tmp_path / f"m{i}")
        assert store.steps() == [0, 1, 2, 3]
        assert (store.settings["member"], store.settings["members"]) == (i, MEMBERS)
        assert store.settings["about"] == {"seed": i}
        assert {(s, n, v) for s, _, n, _, v in store.metrics() if s == 3} == {(3, "loss", i + 0.5), (3, "lr", 0.1)}
        own = {k: p[i] for k, p in parameters.items()}, {k: b[i] for k, b in buffers.items()}
        expected = functional_call(model.eval(), own, (X,)).detach()
        np.testing.assert_allclose(store.read("4", [3])[0], expected.numpy(), atol=1e-5)
    assert len({infoplane.open_run(tmp_path / f"m{i}").run_id for i in range(MEMBERS)}) == MEMBERS


class Stacked(nn.Module):
    """All members in one matrix product, (members, samples, units) or with the members in the middle."""

    def __init__(self, models, axis):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([m.weight for m in models]).detach())
        self.bias = nn.Parameter(torch.stack([m.bias for m in models]).detach())
        self.axis = axis

    def forward(self, x):
        if x.ndim == 2:
            x = x.expand(len(self.weight), *x.shape)
        elif self.axis == 1:
            x = x.transpose(0, 1)
        out = torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))
        return out.transpose(0, 1) if self.axis == 1 else out


@pytest.mark.parametrize("axis", [0, 1])
def test_hand_stacked_modules(axis):
    plain = [nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(MEMBERS)]
    model = nn.Sequential(Stacked([p[0] for p in plain], axis), nn.Tanh(), Stacked([p[2] for p in plain], axis))
    rec, sinks = recorder(model, member_dim=axis, members=MEMBERS, probe_batch_size=32)
    with rec:
        assert rec.chain is True
        assert [la.unit_shape for la in rec.layers] == [(5,), (5,), (3,)]
    for alone, sink in zip(plain, sinks, strict=True):
        np.testing.assert_allclose(sink.snapshots[0].arrays["1"], alone[:2](X).detach().numpy(), atol=1e-6)
        np.testing.assert_allclose(sink.snapshots[0].arrays["2"], alone(X).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("stacked", ["by state", 0, 1])
def test_noise_of_a_collection(stacked):
    """Each member is recorded clean, with noise of its own behind it and in its repeated passes.

    Members have equal weights, so what sets them apart after the noisy layer is the noise: over 70 x 3 values
    correlations of independent noise stay below five standard errors of 1 / sqrt(70).
    """
    torch.manual_seed(0)
    alone = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    plain = [copy.deepcopy(alone) for _ in range(MEMBERS)]
    if stacked == "by state":
        model, way = plain[0], {"state": stack_module_state(plain)}
    else:
        model = nn.Sequential(
            Stacked([p[0] for p in plain], stacked), nn.Tanh(), Stacked([p[2] for p in plain], stacked)
        )
        way = {"member_dim": stacked, "members": MEMBERS}
    with NoiseInjection(model, "1", std=0.3):
        rec, sinks = recorder(model, repeats=(20, 3), probe_batch_size=32, **way)
        with rec:
            pass
    clean = alone[:2](X).detach().numpy()
    rows = np.concatenate([np.arange(70), np.tile(np.arange(20), 3)])
    noise = []
    for sink in sinks:
        (snapshot,) = sink.snapshots
        assert [la.noise for la in snapshot.layers] == [None, Noise(std=0.3), None]
        np.testing.assert_allclose(snapshot.arrays["1"], clean[rows], atol=1e-6)
        noise.append(snapshot.arrays["2"] - alone(X).detach().numpy()[rows])
        assert np.abs(noise[-1][:20] - noise[-1][70:90]).max(1).min() > 1e-4
    expected = 0.3 * float(alone[2].weight.detach().square().sum(1).mean()) ** 0.5
    assert abs(np.std(noise) / expected - 1) < 0.1
    between = np.corrcoef(np.stack([z[:70].ravel() for z in noise]))[np.triu_indices(MEMBERS, 1)]
    assert np.abs(between).max() < 5 / 70**0.5


def test_recording_leaves_the_random_state():
    models, state = collection()
    rec, _ = recorder(models[0], state=state, mode="train")
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="order cannot be checked"), rec:
        rec.snapshot(1)
    assert torch.equal(before, torch.get_rng_state())


def resumed(models, state, folder, steps):
    """Record these steps into a run for each member, going on where the runs end."""
    with CollectionRecorder(
        models[0], (X, Y), folder / "m{member}", state=lambda: state, quiet=True, resume=True, schedule=every(1)
    ) as rec:
        for s in steps:
            rec.snapshot(s)


def test_resume_takes_the_step_that_all_members_have(tmp_path):
    models, state = collection()
    for steps in ([1, 2], [3]):
        resumed(models, state, tmp_path, steps)
    assert infoplane.open_run(tmp_path / "m3").steps() == [0, 1, 2, 3]


def test_resume_where_one_member_did_not_note_the_shift_of_its_counters(tmp_path):
    """As a full disk may leave it: the others tell."""
    models, state = collection()
    for steps in ([0, 1], [2]):
        resumed(models, state, tmp_path, steps)
        (file,) = (tmp_path / "m0" / "sessions").glob("*1.json")
        held = json.loads(file.read_text())
        file.write_text(json.dumps(held | {"notes": {}}))
    assert infoplane.open_run(tmp_path / "m0").steps() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"either state=\(parameters, buffers\) or member_dim="),
        ({"member_dim": 0}, "member_dim needs members="),
        ({"state": ({"a": torch.ones(3, 2), "b": torch.ones(4)}, {})}, "first axis, got a: 3, b: 4"),
        ({"state": ({}, {})}, "got none"),
        ({"member_dim": 0, "members": 2, "runs": ["a", "b", "c"]}, "2 members need 2 different runs, got 3"),
        ({"member_dim": 0, "members": 2, "runs": "a"}, "2 members need 2 different runs, got 1"),
        ({"member_dim": 0, "members": 2}, "run must name a directory"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        CollectionRecorder(nn.Linear(6, 3), (X, Y), **options)


def test_what_a_collection_cannot_take():
    with pytest.raises(TypeError, match="a collection takes no 'sinks'; sinks are given by member_sinks"):
        CollectionRecorder(nn.Linear(6, 3), (X, Y), "a{member}", member_dim=0, members=2, sinks=[print])
    models, state = collection()
    rec, _ = recorder(models[0], state=state, on_error="raise")
    with rec:
        with pytest.raises(TypeError, match=r"metric 'loss' must be one number or 4 of them, got shape \(3,\)"):
            rec.snapshot(1, metrics={"loss": [1, 2, 3]})
        with pytest.raises(ValueError, match="the state has 2 members, not 4"):
            rec.snapshot(2, state=stack_module_state([net(0), net(1)]))


def test_an_axis_that_is_not_the_members():
    rec, _ = recorder(nn.Sequential(nn.Linear(6, 3)), member_dim=0, members=MEMBERS)
    with pytest.raises(ValueError, match=r"no layer can be recorded: 0: layer '0' should have 70 rows"):
        rec.start()
