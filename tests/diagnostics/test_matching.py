"""Unit matching: permuted copies, brute-force assignment, subspaces without common units."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from infoplane import datasets
from infoplane.diagnostics import Place, match_units


@pytest.mark.parametrize("measure", ["correlation", "information"])
def test_permuted_copy_matches_itself(measure):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 8))
    order = rng.permutation(8)
    found = match_units(a, -3.0 * a[:, order] + 7, measure=measure)
    assert order[found.pairs[:, 1]].tolist() == found.pairs[:, 0].tolist()
    if measure == "correlation":
        np.testing.assert_allclose(found.matched, 1.0, atol=1e-12)
        assert found.span == pytest.approx(1.0)
    assert found.chance < found.best.mean()


def test_correlation_matrix_and_assignment_by_enumeration():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(30, 4)), rng.normal(size=(30, 5))
    b[:, 2] += a[:, 0]
    found = match_units(a, b)
    expected = np.abs(np.corrcoef(a.T, b.T)[:4, 4:])
    np.testing.assert_allclose(found.similarity, expected, atol=1e-12)
    best = max(sum(expected[i, p[i]] for i in range(4)) for p in itertools.permutations(range(5), 4))
    assert found.matched.sum() == pytest.approx(best)
    np.testing.assert_allclose(found.best, expected.max(1))
    assert (found.best >= found.matched - 1e-12).all()


def test_information_of_every_pair():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(200, 3)), rng.normal(size=(200, 2))
    b[:, 0] += a[:, 1]
    found = match_units(a, b, measure="information", n_bins=6)

    def cells(u):
        return np.minimum((6 * (u - u.min()) / np.ptp(u)).astype(int), 5)

    for i, j in itertools.product(range(3), range(2)):
        expected = mutual_info_score(cells(a[:, i]), cells(b[:, j])) / math.log(2)
        assert found.similarity[i, j] == pytest.approx(expected, abs=1e-10)


def test_rotated_layer_shares_the_span_and_not_the_units():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(500, 20))
    found = match_units(a, a @ np.linalg.qr(rng.normal(size=(20, 20)))[0])
    assert found.span == pytest.approx(1.0)
    assert found.matched.mean() < 0.7
    unrelated = match_units(a, rng.normal(size=(500, 20)))
    assert abs(unrelated.span) < 0.05  # adjusted R2: 20 of 500 directions are explained by chance, and taken off
    assert unrelated.best.mean() == pytest.approx(unrelated.chance, abs=0.02)


def test_constant_units_match_nothing():
    a = np.random.default_rng(4).normal(size=(50, 3))
    b = a.copy()
    b[:, 1] = 0.1
    found = match_units(a, b)
    assert found.similarity[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert math.isnan(match_units(a[:4], b[:4]).span)
    assert match_units(a[:4], b[:4]).rows(Place())[3].flags == "few_samples"


def test_rows_and_bad_input():
    a = np.random.default_rng(5).normal(size=(20, 3))
    rows = match_units(a, a).rows(Place(run="a", layer="fc1"))
    assert [r.quantity for r in rows] == ["matched units", "best units", "chance best units", "span"]
    assert rows[0].value == pytest.approx(1.0)
    with pytest.raises(ValueError, match="same samples, got 20 and 19"):
        match_units(a, a[:19])
    with pytest.raises(ValueError, match="got 'rank'"):
        match_units(a, a, measure="rank")
    with pytest.raises(ValueError, match="1 non-finite values"):
        match_units(np.where(np.arange(60).reshape(20, 3) == 5, np.nan, a), a)


@pytest.mark.slow
def test_two_seeds_on_digits_share_more_than_chance():
    """Li et al.: some features recur between trainings; the span is shared more than the units are."""
    x, y = (torch.from_numpy(a) for a in datasets.digits())
    x = x.float() / x.max()
    layers = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        layers.append(net[:2](x).detach().numpy())
    found = match_units(*layers)
    assert found.matched.mean() > 2 * found.chance
    assert found.span > found.matched.mean()
