"""Recording in real process groups: DDP, a probe shared by ranks, sharded parameters."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import infoplane
from infoplane.hooks import GradientMoments, Recorder, every
from infoplane.hooks._ranks import find_ranks
from infoplane.hooks.metrics import weight_norms

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")

X = torch.randn(41, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(41) % 3


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(8, 3)
    )  # fmt: skip


def train(model, rank, epochs, after):
    torch.manual_seed(100 + rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for epoch in range(epochs):
        for _ in range(3):
            x = torch.randn(16, 6)
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        after(epoch)
    return losses


def ddp(rank, run):
    results = {}
    for record in (False, True):
        model = DistributedDataParallel(net())
        taken = []
        if not record:
            losses = train(model, rank, 3, lambda epoch: None)
        else:
            recorder = Recorder(model, (X, Y), run, schedule=every(1), quiet=True, probe_batch_size=16)
            with recorder:
                losses = train(model, rank, 3, lambda epoch, r=recorder, t=taken: t.append(r.snapshot(epoch)))
        results[record] = losses, {k: v.clone() for k, v in model.module.state_dict().items()}, taken
    model.module.eval()
    results["out"] = model.module(X).detach()
    return results


def test_ddp_records_on_rank_0_and_training_is_unchanged(tmp_path):
    ranks = on_ranks(ddp, 2, str(tmp_path / "a"))
    for rank, result in enumerate(ranks):
        (losses, state, _), (recorded_losses, recorded_state, taken) = result[False], result[True]
        assert losses == recorded_losses
        assert all(torch.equal(state[k], recorded_state[k]) for k in state)
        assert taken == [rank == 0] * 3
    assert not torch.equal(ranks[0][True][1]["1.running_mean"], ranks[1][True][1]["1.running_mean"])
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2, 3]
    assert [la.key for la in store.layers] == ["0", "1", "2", "4"]
    np.testing.assert_allclose(store.read("4", [3])[0], ranks[0]["out"].numpy(), atol=1e-5)


def shared(rank, run):
    model = net()
    with torch.no_grad():
        model[1].running_mean += rank  # batch statistics are each rank's own
    before = model[1].running_mean.clone()
    options = {"schedule": every(1), "quiet": True, "probe_batch_size": 8, "shard_probe": True, "repeats": (5, 2)}
    with Recorder(model, (X, Y), run, **options) as recorder:
        with torch.no_grad():
            model[4].bias += 1
        taken = recorder.snapshot(1)
    failed = ""
    try:
        Recorder(model, (X, Y), run, **options).start()
    except infoplane.StoreError as error:
        failed = str(error)
    with Recorder(model, (X, Y), run, resume=True, **options) as recorder:
        recorder.snapshot(2)
    return torch.equal(before, model[1].running_mean), taken, failed


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_probe_shared_by_ranks_is_read_as_one(tmp_path, world_size):
    ranks = on_ranks(shared, world_size, str(tmp_path / "a"))
    assert all(unchanged and taken for unchanged, taken, _ in ranks)
    assert len({failed for *_, failed in ranks}) == 1
    assert "resume=True" in ranks[0][2]
    store = infoplane.open_run(tmp_path / "a")
    assert store.problems == ()
    assert store.steps() == [0, 1, 2]
    assert len({s["rank"] for s in store.sessions}) == world_size
    model = net().eval()
    rows = [*range(41), *range(5), *range(5)]
    expected = model(X)[rows].detach().numpy()
    np.testing.assert_allclose(store.read("4", [0])[0], expected, atol=1e-5)
    np.testing.assert_allclose(store.read("4", [1])[0], expected + 1, atol=1e-5)
    np.testing.assert_allclose(store.read("4", [2])[0], expected + 1, atol=1e-5)


def fully_sharded(rank, run):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    results = {}
    for record in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        reference = [p.detach().clone() for p in model.parameters()]
        mesh = init_device_mesh("cpu", (2,))
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        if record:
            recorder = Recorder(model, (X, Y), run, schedule=every(1), quiet=True, probe_batch_size=16)
            with recorder:
                losses = train(model, rank, 2, recorder.snapshot)
            results["places"] = find_ranks(model, shard_probe=False)
            try:
                find_ranks(model, shard_probe=True)
            except ValueError as error:
                results["refused"] = str(error)
        else:
            losses = train(model, rank, 2, lambda epoch: None)
        results[record] = losses
    results["initial"] = reference
    results["norms"] = {sharded: norms_of_three_steps(mesh if sharded else None) for sharded in (False, True)}
    return results


def norms_of_three_steps(mesh):
    """Norms of gradients and weights of layers with odd numbers of units, on the same data in every process."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    for layer in (model[0], model[2], model) if mesh is not None else ():
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientMoments(model, optimizer) as moments:
        for part in X.split(14):
            optimizer.zero_grad()
            model(part).square().sum().backward()
            optimizer.step()
        found = moments.take() | weight_norms(model)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.slow
def test_sharded_parameters_are_run_by_all_ranks_and_written_by_one(tmp_path):
    ranks = on_ranks(fully_sharded, 2, str(tmp_path / "a"))
    for rank, result in enumerate(ranks):
        assert result[False] == result[True]
        assert (result["places"].share, result["places"].writes) == ("all", rank == 0)
        assert "shard_probe needs a whole model on every rank" in result["refused"]
        assert result["norms"][True] == pytest.approx(result["norms"][False], rel=1e-5)
    assert len(ranks[0]["norms"][True]) == 8
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2]
    w0, b0, w1, b1 = ranks[0]["initial"]
    h = torch.tanh(X @ w0.T + b0)
    np.testing.assert_allclose(store.read("1", [0])[0], h.numpy(), atol=1e-5)
    np.testing.assert_allclose(store.read("2", [0])[0], (h @ w1.T + b1).numpy(), atol=1e-5)


def test_too_few_samples_for_the_ranks():
    from infoplane.hooks.probe import as_probe_set

    with pytest.raises(ValueError, match="2 samples cannot be shared by 3 ranks"):
        as_probe_set((X[:2], Y[:2])).share(0, 3)
