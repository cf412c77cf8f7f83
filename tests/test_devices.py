"""`pytest --device`, on the CPU: what is refused, and what brings inputs to a device and results back."""

from types import SimpleNamespace

import devices
import pytest
import torch
from torch import nn

from infoplane import analysis
from infoplane.core.device import accelerator_branches, on_accelerator
from infoplane.estimators import Quantity, available

CPU = torch.device("cpu")


def started(device):
    devices.pytest_sessionstart(SimpleNamespace(config=SimpleNamespace(getoption=lambda name: device)))


@pytest.fixture
def _as_it_was(monkeypatch):
    monkeypatch.setattr(devices, "_asked", devices._asked)


@pytest.mark.usefixtures("_as_it_was")
def test_a_device_that_is_not_there_is_a_usage_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    started("cuda")
    assert devices.asked() == torch.device("cuda")
    with pytest.raises(pytest.UsageError, match="cuda:1 was asked for, torch finds 1 CUDA devices"):
        started("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(pytest.UsageError, match="--device cuda was asked for, torch finds 0 CUDA devices"):
        started("cuda")


@pytest.mark.usefixtures("_as_it_was")
@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "meta", "accelerator"])
def test_other_devices_are_a_usage_error(name):
    with pytest.raises(pytest.UsageError, match=f"got '{name}'"):
        started(name)


def test_branches_are_turned_within_the_context_only():
    with accelerator_branches():
        assert on_accelerator(CPU)
    assert on_accelerator(torch.device("meta"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_everything_within_is_moved(device):
    there = torch.device(device)
    q = Quantity(value=torch.zeros(2), ceiling=torch.ones(()), unit="rank", flags={"ties": torch.zeros(2).bool()})
    found = devices.moved({"a": [q, (torch.ones(3), "word")], "b": None}, there)
    one, (two, word) = found["a"]
    assert {one.value.device, one.ceiling.device, one.flags["ties"].device, two.device} == {there}
    assert (one.unit, one.low, word, found["b"]) == ("rank", None, "word", None)


def test_estimates_go_there_and_come_back(monkeypatch):
    """On the meta device nothing can be computed: the estimator sees its inputs there."""
    cls, seen = available()["binning"], []

    def estimate(self, t, y, *, x=None, x_ids=None):
        seen.extend([t.device.type, y.device.type, x.device.type])
        return {"I(T;Y)": Quantity(value=torch.ones(1), flags={})}

    def prepare(self, blocks, y, x=None):
        seen.extend([block.device.type for block in blocks] + [y.device.type, x, blocks.noise])
        return self

    monkeypatch.setattr(cls, "estimate", estimate)
    monkeypatch.setattr(cls, "prepare", prepare)

    class Blocks(list):
        noise = "none"

    t, y = torch.zeros(1, 3, 2), torch.zeros(3)
    with devices.estimates_on(torch.device("meta")):
        found = cls().prepare(Blocks([t, t]), y).estimate(t, y, x=t[0])
    assert seen == ["meta", "meta", "meta", None, "none", "meta", "meta", "meta"]
    assert found["I(T;Y)"].value.device == CPU
    assert cls.estimate is estimate


def test_analyses_take_the_device_where_they_are_given_none():
    before = analysis.device_of
    with devices.analyses_on("cpu"):
        assert analysis.device_of(None) == analysis.device_of("cpu") == "cpu"
        with pytest.raises(ValueError, match="no device 'tpu9'"):
            analysis.device_of("tpu9")
    assert analysis.device_of is before


def test_a_model_is_there_for_a_while():
    model = nn.Linear(2, 1)
    with devices.model_on(model, CPU):
        assert model.weight.device == CPU
