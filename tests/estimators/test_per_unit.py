"""`+units` and `+synergy`: a planted unit is found, and what only two units know together."""

from __future__ import annotations

import itertools

import pytest
import torch

from infoplane.estimators import parse, per_unit, unit_synergy
from infoplane.estimators.knn import KNN


def planted(samples: int = 400, units: int = 12, *, at: int = 4, relu: bool = False):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % 3
    t = torch.randn(1, samples, units, generator=g)
    t[0, :, min(at, units - 1)] += 2.0 * y
    return t.relu() if relu else t, y


@pytest.mark.parametrize("relu", [False, True])
def test_a_planted_unit_is_found(relu):
    t, y = planted(relu=relu)
    found = parse("knn+units:draws=10").estimate(t, y)
    assert found["units above null"].value.tolist() == [1.0]
    assert found["largest I(unit;Y)"].value == found["I(unit 4;Y)"].value
    flags = [bool(found[f"I(unit {i};Y)"].flags["below_null"]) for i in range(12)]
    assert flags == [i != 4 for i in range(12)]


def test_of_units_that_know_nothing_the_best_is_no_better_than_chance():
    """The 97.5 % point of ten shuffles is their largest: ten in eleven layers lie below it."""
    g = torch.Generator().manual_seed(1)
    t, y = torch.randn(40, 60, 5, generator=g), torch.arange(60) % 2
    found = parse("binning:n_bins=4+units:draws=10").estimate(t, y)
    assert float((found["units above null"].value > 0).double().mean()) <= 0.25
    assert float(found["largest I(unit;Y)"].value.mean()) > 0.05  # though far from 0 themselves


def test_a_unit_by_itself_is_the_estimate_of_that_unit():
    t, y = planted()
    table = per_unit(KNN(), draws=5).table(t, y)
    alone = KNN().estimate(t[:, :, 4:5], y)["I(T;Y)"]
    torch.testing.assert_close(table.value[:, 4], alone.value)
    assert table.null.shape == (5, 1, 12)


def test_atoms_are_counted():
    """Half of the samples are 0 whatever their class, the other half tells it: half a bit."""
    y = torch.arange(2000) % 2
    t = torch.where(torch.arange(2000) % 4 < 2, 0.0, 5.0 * y + torch.rand(2000, generator=torch.Generator()))
    found = per_unit("knn", draws=5).estimate(t[None, :, None], y)
    assert float(found["I(unit 0;Y)"].value) == pytest.approx(0.5, abs=0.01)


BITS = torch.tensor(list(itertools.product((0, 1), repeat=2))).repeat(50, 1)


@pytest.mark.parametrize(
    ("units", "y", "bits"),
    [
        ([0, 1], BITS[:, 0] ^ BITS[:, 1], 1.0),
        ([0, 0], BITS[:, 0], -1.0),
        ([0, 1], BITS[:, 0], 0.0),
        ([0, 1], BITS[:, 0] & BITS[:, 1], 0.188722),
    ],
    ids=["xor", "copy", "one unit", "and"],
)
def test_synergy_of_bits(units, y, bits):
    found = unit_synergy("binning:n_bins=2", most=2).estimate(BITS[:, units].float()[None], y)
    assert float(found["synergy(T;Y)"].value) == pytest.approx(bits, abs=1e-6)


def test_synergy_against_its_terms_and_null():
    t, y = planted(samples=200, units=3)
    found = parse("knn+synergy+null:draws=5").estimate(t, y)
    each = [KNN().estimate(t[:, :, part], y)["I(T;Y)"].value for part in ([0], [1], [2], [1, 2], [0, 2], [0, 1])]
    slow = KNN().estimate(t, y)["I(T;Y)"].value - sum(each) / 3
    torch.testing.assert_close(found["synergy(T;Y)"].value, slow)
    assert "synergy(T;Y) null" in found


@pytest.mark.parametrize("renamed", [lambda y: y - 5, lambda y: y * 10**12])
def test_labels_are_names(renamed):
    t, y = planted(samples=200, units=2, relu=True)
    one, two = (per_unit("knn", draws=5).estimate(t, labels) for labels in (y, renamed(y)))
    assert [q.value.tolist() for q in one.values()] == [q.value.tolist() for q in two.values()]


def test_few_samples_beside_an_atom_are_said():
    t, y = torch.zeros(1, 200, 2), torch.arange(200) % 2
    t[0, :30, 0] = torch.arange(30.0) + 1
    found = per_unit("knn", draws=5).estimate(t, y)
    assert bool(found["I(unit 0;Y)"].flags["few_samples"])
    assert not bool(found["I(unit 1;Y)"].flags["few_samples"])


def test_bad_input_is_named():
    t, y = planted(samples=60, units=2, relu=True)
    for estimator in (per_unit("knn"), unit_synergy("knn")):
        with pytest.raises(ValueError, match=r"t has 120 non-finite values"):
            estimator.estimate(t * float("nan"), y)
        with pytest.raises(ValueError, match=r"y must have one label per sample \(60\), got shape \(9,\)"):
            estimator.estimate(t, y[:9])
        with pytest.raises(ValueError, match=r"for one snapshot pass t\[None\]"):
            estimator.estimate(t[0], y)
    assert per_unit("knn", draws=5).estimate(t, y == 0)


def test_redundancy_is_no_chance():
    """Below its null a synergy is a finding, as it is above; within it is chance."""
    alone, together = BITS[:, 0], BITS[:, 0] ^ BITS[:, 1]
    nothing = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(2))
    for units, y, chance in (([0, 0], alone, False), ([0, 1], together, False), ([0, 1], nothing, True)):
        found = parse("binning:n_bins=2+synergy+null").estimate(BITS[:, units].float()[None], y)
        assert bool(found["synergy(T;Y)"].flags["below_null"]) == chance
        assert bool(found["I(T;Y)"].flags["below_null"]) == chance


def test_what_has_no_information_is_refused():
    t, y = planted(samples=50, units=2)
    for spec in ("hsic+units", "hsic+synergy"):
        with pytest.raises(ValueError, match=r"hsic gives no I\(T;Y\) of single units; see 'knn'"):
            parse(spec).estimate(t, y)
    with pytest.raises(ValueError, match="draws"):
        per_unit("knn", draws=2)
