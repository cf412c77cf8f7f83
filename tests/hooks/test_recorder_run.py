"""The recorder with its store: what a reader finds, restarted trainings, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import infoplane
from infoplane.hooks import NoiseInjection, Recorder, every

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def recorder(model, run, **options):
    options = {"schedule": every(1), "quiet": True, "probe_batch_size": 32, **options}
    return Recorder(model, options.pop("probe", (X, Y)), run, **options)


def nudge(model):
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1


def test_what_was_recorded_is_read(tmp_path):
    model, expected = net(), []
    with NoiseInjection(model, "0", std=0.25, kind="multiplicative"), recorder(model, tmp_path / "a") as rec:
        for epoch in range(5):
            nudge(model)
            expected.append(model[0].weight.detach() @ X.T)
            rec.snapshot(epoch, metrics={"loss": epoch / 2})
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2, 3, 4, 5]
    assert [la.key for la in store.layers] == ["0", "1", "2"]
    assert store.layers == rec.layers
    assert store.layer("0").noise.std == 0.25
    values = store.read("0", [1, 2, 3, 4, 5])
    for v, e, step in zip(values, expected, range(5), strict=True):
        bias = net()[0].bias.detach().numpy() + 0.1 * (step + 1)
        np.testing.assert_allclose(v, e.numpy().T + bias, atol=1e-5)
    assert math.isnan(store.epoch(0))
    assert [store.epoch(s) for s in (1, 5)] == [0.0, 4.0]
    assert (5, 4.0, "loss", "", 2.0) in store.metrics()
    assert store.settings["chain"] is True
    assert store.settings["probe_batch_size"] == 32
    assert store.settings["model"] == "torch.nn.modules.container.Sequential"
    assert store.problems == ()
    np.testing.assert_array_equal(store.probe.labels, Y.numpy())
    np.testing.assert_array_equal(store.probe.inputs, X.numpy())


@pytest.mark.parametrize("first", [0, 1])
def test_a_restarted_training_goes_on_with_the_same_counting(tmp_path, first):
    model = net()
    with recorder(model, tmp_path / "a") as rec:
        for epoch in range(first, first + 4):
            rec.snapshot(epoch)
    with recorder(model, tmp_path / "a", resume=True) as rec:
        for epoch in range(first + 4, first + 6):
            assert rec.snapshot(epoch)
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2, 3, 4, 5, 6]
    assert store.epoch(6) == first + 5


def test_a_restart_from_an_older_checkpoint_supersedes(tmp_path):
    model = net()
    with recorder(model, tmp_path / "a") as rec:
        for epoch in range(6):
            rec.snapshot(epoch)
    nudge(model)
    with recorder(model, tmp_path / "a", resume=True) as rec:
        for epoch in range(3, 5):
            rec.snapshot(epoch)
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 1, 2, 3, 4, 5]
    x = store.read("0", [3, 4])
    assert not np.array_equal(x[0], x[1])


def test_resume_of_nothing_starts(tmp_path):
    with recorder(net(), tmp_path / "a", resume=True) as rec:
        rec.snapshot(0)
    assert infoplane.open_run(tmp_path / "a").steps() == [0, 1]


def test_another_schedule_may_go_on_but_not_other_layers(tmp_path):
    with recorder(net(), tmp_path / "a") as rec:
        rec.snapshot(1)
    with recorder(net(), tmp_path / "a", resume=True, schedule=every(5)) as rec:
        assert not rec.snapshot(2)
    assert infoplane.open_run(tmp_path / "a").steps() == [0, 1, 2]
    for options in ({"layers": "1"}, {"probe_batch_size": 7}, {"probe": (X + 1, Y)}):
        with pytest.raises(infoplane.StoreError, match=r"layers|probe_batch_size|probe"):
            recorder(net(), tmp_path / "a", resume=True, **options).start()


def test_a_directory_with_a_run_is_not_overwritten(tmp_path):
    with recorder(net(), tmp_path / "a"):
        pass
    before = infoplane.open_run(tmp_path / "a").run_id
    with pytest.raises(infoplane.StoreError, match="resume=True"):
        recorder(net(), tmp_path / "a").start()
    assert infoplane.open_run(tmp_path / "a").run_id == before


def test_after_an_exception_what_was_taken_is_there(tmp_path):
    model = net()

    def fails():
        with recorder(model, tmp_path / "a", schedule=every(2)) as rec:
            rec.snapshot(1)
            rec.snapshot(2)
            rec.snapshot(3)
            raise ArithmeticError("diverged")

    with pytest.raises(ArithmeticError, match="diverged"):
        fails()
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [0, 2]
    with recorder(model, tmp_path / "a", resume=True) as rec:
        rec.snapshot(3)
    assert infoplane.open_run(tmp_path / "a").steps() == [0, 2, 3]


def test_a_start_that_fails_leaves_no_lock(tmp_path):
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match="layer '0' has 60 NaN or infinite values at step 0"):
        recorder(model, tmp_path / "a", nonfinite="raise").start()
    with recorder(net(), tmp_path / "a", resume=True) as rec:
        rec.snapshot(1)
    assert infoplane.open_run(tmp_path / "a").steps() == [0, 1]


def test_flush_makes_snapshots_readable(tmp_path):
    with recorder(net(), tmp_path / "a", writer={"seal_seconds": 3600.0}) as rec:
        rec.snapshot(1)
        assert infoplane.open_run(tmp_path / "a").steps() == []
        rec.flush()
        assert infoplane.open_run(tmp_path / "a").steps() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats(tmp_path, dtype):
    with recorder(net(), tmp_path / "a", dtype=dtype):
        pass
    store = infoplane.open_run(tmp_path / "a")
    stored = torch.from_numpy(store.read("1", [0])[0].copy())
    stored = stored.view(torch.bfloat16) if dtype is torch.bfloat16 else stored
    assert torch.equal(stored, net()[:2](X).to(dtype))


def test_parts_and_names(tmp_path):
    probe = {"train": (X[:40], Y[:40]), "test": (X[40:], Y[40:])}
    with recorder(net(), tmp_path / "a", probe=probe, label_names=("a", "b", "c")):
        pass
    read = infoplane.open_run(tmp_path / "a").probe
    assert read.part_names == ("train", "test")
    assert np.bincount(read.part).tolist() == [40, 20]
    assert read.label_names == ("a", "b", "c")
