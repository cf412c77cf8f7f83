"""Scalars of a live estimation, in any writer and in a real one."""

import numpy as np
import pytest
import torch
from torch import nn

import infoplane
from infoplane.hooks import Recorder, every
from infoplane.integrations.tensorboard import scalars
from infoplane.results import read_table

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def record(path, on_rows):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    sink = infoplane.live("kde", subsets=("all", "class=1"), on_rows=on_rows)
    with Recorder(model, (X, Y), path, sinks=[sink], schedule=every(1), keep_activations=False) as recorder:
        recorder.snapshot(1)
        with torch.no_grad():
            model[2].weight[0, 0] = torch.nan
        with pytest.warns(UserWarning, match="layer '2'"):
            recorder.snapshot(2)


def test_tags_and_values(tmp_path):
    class Writer:
        def __init__(self):
            self.calls = {}

        def add_scalar(self, tag, scalar_value, global_step):
            assert (tag, global_step) not in self.calls
            self.calls[tag, global_step] = scalar_value

    writer = Writer()
    record(tmp_path / "a", scalars(writer))
    tags = {tag for tag, _ in writer.calls}
    assert "I(X;T)/kde/1" in tags
    assert "I(T;Y)/kde/2" in tags
    assert "I(X;T)/kde/class=1/0" in tags
    assert ("I(X;T)/kde/2", 2) not in writer.calls
    row = read_table(tmp_path / "a").select(layer="1", step=1, quantity="I(X;T)", subset="all")
    assert writer.calls["I(X;T)/kde/1", 1] == row.value[0]


def test_one_quantity_by_its_name_or_by_the_old_keyword(tmp_path):
    class Writer(list):
        def add_scalar(self, tag, scalar_value, global_step):
            self.append(tag)

    record(tmp_path / "a", scalars(Writer()))
    rows = list(read_table(tmp_path / "a").select(layer="1", step=1, subset="all"))
    new, old = Writer(), Writer()
    scalars(new, quantity="I(T;Y)")(rows)
    with pytest.warns(DeprecationWarning, match="scalars: quantities= is now quantity="):
        scalars(old, quantities=["I(T;Y)"])(rows)
    assert new == old == ["I(T;Y)/kde/1"]


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
def test_a_real_writer(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "tb")) as writer:
        record(tmp_path / "a", scalars(writer, ["I(T;Y)"]))
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert "I(T;Y)/kde/1" in events.Tags()["scalars"]
    found = events.Scalars("I(T;Y)/kde/1")
    assert [e.step for e in found] == [0, 1, 2]
    table = read_table(tmp_path / "a").select(layer="1", quantity="I(T;Y)", subset="all", estimator="kde")
    np.testing.assert_allclose([e.value for e in found], table.value, rtol=1e-6)
