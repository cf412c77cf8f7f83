"""Intervals are of sampling error: none stands beside a value that is wrong for another reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import infoplane
from infoplane import importers
from infoplane.estimators import Quantity, blank_intervals, parse
from infoplane.estimators._checks import VOIDING
from infoplane.testing import check_estimator


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two snapshots of a layer, the first sound, the second of the kind; labels that the first knows in part."""
    y = torch.arange(200) % 2
    sound = torch.randn(200, 2, generator=generator(0)) + y[:, None]
    other = {
        "constant": torch.ones(200, 2),
        "every sample apart": 1000.0 * torch.randn(200, 2, generator=generator(1)),
        "sound": sound + 0.1,
    }[kind]
    return torch.stack([sound, other]), y


def voided(q: Quantity) -> torch.Tensor:
    raised = [on for flag, on in q.flags.items() if flag in VOIDING]
    return torch.stack(raised).any(0) if raised else torch.zeros_like(q.value, dtype=torch.bool)


@pytest.mark.parametrize("kind", ["constant", "every sample apart", "sound"])
@pytest.mark.parametrize(
    "spec",
    [
        "binning:width=0.5+interval",
        "binning+null+interval",
        "adaptive:n_bins=3+interval",
        "knn+interval",
        "gaussian+interval",
        "hsic+null+interval",
        "noise:std=1.0",
        "probe",
        "compressed:dims=2",
    ],
)
def test_flagged_values_have_no_interval_and_others_keep_theirs(spec, kind):
    t, y = layer(kind)
    found = parse(spec).estimate(t, y)
    seen = 0
    for name, q in found.items():
        if q.low is None:
            continue
        expected = torch.zeros_like(q.value, dtype=torch.bool) if name.endswith(" null") else voided(q)
        for end in (q.low, q.high):
            assert torch.equal(end.isnan(), expected), name
        seen += 1
    assert seen
    if kind == "constant":
        assert bool(found[next(iter(found))].flags["degenerate"][1])


def quantity(**flags: bool) -> Quantity:
    one = torch.ones(1, dtype=torch.float64)
    return Quantity(value=one, low=one - 0.1, high=one + 0.1, flags={k: torch.tensor([v]) for k, v in flags.items()})


@pytest.mark.parametrize("flag", VOIDING)
def test_each_of_five_flags_empties_the_interval_but_that_of_a_null(flag):
    found = blank_intervals({"I(T;Y)": quantity(**{flag: True}), "I(T;Y) null": quantity(**{flag: True})})
    assert bool(found["I(T;Y)"].low.isnan() & found["I(T;Y)"].high.isnan())
    assert float(found["I(T;Y) null"].low) == 0.9
    assert found["I(T;Y)"].rows()[0][1] == ""


@pytest.mark.parametrize("flag", ["below_null", "ties", "out_of_range", "single_class"])
def test_the_others_leave_it(flag):
    found = blank_intervals({"I(T;Y)": quantity(**{flag: True}, saturated=False)})["I(T;Y)"]
    assert (float(found.low), float(found.high)) == (0.9, 1.1)
    assert found.rows()[0][1] == "[0.9, 1.1]"


def test_values_beyond_the_range_keep_theirs():
    t, y = layer("sound")
    q = parse("binning:n_bins=4,range=(-1,1)+interval").estimate(t, y)["I(T;Y)"]
    assert bool(q.flags["out_of_range"].all())
    assert bool(torch.isfinite(q.low).all())


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """Somebody's estimator that was never registered, with an interval beside whatever it says."""

    name: ClassVar[str] = "foreign"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
    guarantees: ClassVar[frozenset[str]] = frozenset()

    def bytes_per_snapshot(self, samples, units):
        return 8

    def estimate(self, t, y, *, x=None, x_ids=None):
        value = t.double().mean((1, 2))
        flags = {"unreliable": value > 1.5, "ties": value > 0}
        parts = {"low": value - 1, "high": value + 1, "flags": flags}
        return {name: Quantity(value=value, **parts) for name in ("I(T;Y)", "I(T;Y) null")}


def test_rows_of_any_estimator_are_empty_there(tmp_path):
    layers = {step: {"fc": np.full((20, 1), step, dtype=np.float32)} for step in (1, 2, 3)}
    run = importers.from_arrays(tmp_path / "run", layers, labels=np.arange(20) % 2)
    table = infoplane.analyze(run, Foreign(), progress=False)
    rows = {(r.step, r.quantity): r for r in table if r.estimator == "foreign"}
    assert [np.isnan(rows[step, "I(T;Y)"].low) for step in (1, 2, 3)] == [False, True, True]
    assert [np.isnan(rows[step, "I(T;Y)"].high) for step in (1, 2, 3)] == [False, True, True]
    assert not any(np.isnan(rows[step, "I(T;Y) null"].low) for step in (1, 2, 3))
    text = (tmp_path / "run/results.csv").read_text()
    assert len(re.findall(r',"I\(T;Y\)",,[23][.0]*,,,point,,bit,"ties;unreliable",', text)) == 2


def test_the_contract_compares_empty_intervals_as_equal():
    check_estimator(type(parse("compressed")), dims=1)
