"""A run that is resumed by another network, and recorders that nobody closed."""

import gc

import pytest
import torch
from recording import Collect
from torch import nn

import infoplane
from infoplane.hooks import CollectionRecorder, Recorder, close_recorders, every, units

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 2


def net(hidden=3, act=nn.Tanh, last=nn.Linear):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, hidden), act(), last(hidden, 2))


def recorder(model, path, **options):
    return Recorder(model, (X, Y), path, schedule=every(1), quiet=True, **options)


class OwnLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: net(5),
            r"has layer '0' as Linear of 3 units, float32 at step 2, now it is Linear of 5 units, float32",
        ),
        (lambda: net(act=nn.ReLU), r"layer '1' as Tanh of 3 units, float32 .*, now it is ReLU of 3 units, float32"),
        (lambda: net().double(), r"layer '0' .* float32 at step 2, now it is Linear of 3 units, float64"),
        (lambda: net(last=OwnLinear), r"layer '2' as Linear .* now it is OwnLinear of 2 units"),
        (lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Tanh(), nn.Flatten()), "another network|layers"),
    ],
)
def test_resume_with_another_network_is_refused(tmp_path, other, message):
    with recorder(net(), tmp_path / "a") as rec:
        rec.snapshot(1)
        rec.snapshot(2, force=True)
    before = sorted((tmp_path / "a" / "shards").iterdir())
    with pytest.raises(infoplane.StoreError, match=message):
        recorder(other(), tmp_path / "a", resume=True).start()
    assert sorted((tmp_path / "a" / "shards").iterdir()) == before
    with recorder(net(), tmp_path / "a", resume=True) as rec:
        rec.snapshot(3)
    assert infoplane.open_run(tmp_path / "a").verify() == []


def test_a_reduced_layer_of_another_size_is_another_network(tmp_path):
    """What is stored has the same shape; what it was taken from has not."""
    for hidden in (6, 6, 8):
        rec = recorder(net(hidden), tmp_path / "a", reduce={"0": units(2), "1": units(2), "*": "flatten"}, resume=True)
        if hidden == 6:
            with rec:
                pass
        else:
            with pytest.raises(infoplane.StoreError, match=r"'0' as Linear of 6 units, stored as 2.* of 8 units"):
                rec.start()


class Total(nn.Module):
    """One number for each sample, without an axis of units."""

    def forward(self, x):
        return x.sum(1)


def test_a_layer_without_axes_has_one_unit_in_messages(tmp_path, capsys):
    with Recorder(nn.Sequential(nn.Linear(4, 3), Total()), (X, Y), tmp_path / "a"):
        pass
    assert "1      1      1 float32, flatten" in capsys.readouterr().err
    with pytest.raises(infoplane.StoreError, match=r"'1' as Total of 1 units, float32 at step 0, .* of 2 units"):
        recorder(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), tmp_path / "a", resume=True).start()


def test_what_changed_within_the_run_is_compared_with_its_last_step(tmp_path):
    model = net()
    with recorder(model, tmp_path / "a") as rec:
        model[0], model[2] = nn.Linear(4, 5), nn.Linear(5, 2)
        with pytest.warns(UserWarning, match="changed from"):
            rec.snapshot(1)
    with recorder(model, tmp_path / "a", resume=True) as rec:
        rec.snapshot(2)
    with pytest.raises(infoplane.StoreError, match="'0' as Linear of 5 units"):
        recorder(net(), tmp_path / "a", resume=True).start()


def test_members_are_compared_too(tmp_path):
    def collection(hidden, resume):
        models = [net(hidden) for _ in range(2)]
        state = torch.func.stack_module_state(models)
        return CollectionRecorder(
            models[0], (X, Y), tmp_path / "m{member}", state=state, schedule=every(1), quiet=True, resume=resume
        )

    for resume in (False, True):
        with collection(3, resume):
            pass
    with pytest.raises(infoplane.StoreError, match="of 3 units, float32 at step 0, now it is Linear of 4"):
        collection(4, True).start()


def test_a_recorder_closed_from_a_later_cell(tmp_path):
    """As cells run: the name still stands for the recorder."""
    cell = {"recorder": recorder(net(), tmp_path / "a")}
    cell["recorder"].start()
    cell["recorder"].snapshot(1)
    with pytest.raises(infoplane.StoreError, match=r"never closed; .*close_recorders\(\)"):
        recorder(net(), tmp_path / "a", resume=True).start()
    cell["recorder"].close()
    with recorder(net(), tmp_path / "a", resume=True) as rec:
        rec.snapshot(2)
    assert infoplane.open_run(tmp_path / "a").steps() == [0, 1, 2]
    assert close_recorders() == []


@pytest.mark.parametrize("kept", [True, False])
def test_a_recorder_whose_name_is_lost(tmp_path, kept):
    """Running the cell again gives the name to another recorder, which cannot start."""
    names = []
    rec = recorder(net(), tmp_path / "a")
    if kept:
        names.append(rec)
    rec.start()
    rec.snapshot(1)
    rec = recorder(net(), tmp_path / "a", resume=True)
    gc.collect()
    with pytest.raises(infoplane.StoreError, match="never closed"):
        rec.start()
    assert close_recorders() == [tmp_path / "a"]
    assert all(not r.is_open for r in names)
    with recorder(net(), tmp_path / "a", resume=True) as rec:
        rec.snapshot(2)
    assert infoplane.open_run(tmp_path / "a").steps() == [0, 1, 2]


def test_sinks_of_a_lost_recorder_are_closed():
    sink = Collect()
    rec = Recorder(net(), (X, Y), keep_activations=False, sinks=[sink], schedule=every(1)).start()
    del rec
    gc.collect()
    assert close_recorders() == []
    assert sink.closed == 1


def test_a_recorder_is_not_kept_by_being_open():
    import weakref

    rec = Recorder(net(), (X, Y), keep_activations=False, sinks=[Collect()], schedule=every(1))
    model = weakref.ref(rec._session.model)
    rec.start()
    del rec
    gc.collect()
    assert model() is None
    close_recorders()
