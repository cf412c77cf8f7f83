"""Codes with repeated values, and what dropped coordinates know: against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from infoplane.estimators._checks import hidden_information, hidden_products
from infoplane.estimators._codes import coded, spread_grid


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_dropped_coordinates_know_what_a_partial_correlation_says():
    kept, dropped, noise = normal(4000, 2), normal(4000, 3, seed=1), normal(4000, 2, seed=2)
    other = kept.square() + torch.stack([dropped[:, 0], torch.zeros(4000)], 1) + noise
    # Given the kept ones, the first of the other side has correlation 1 / sqrt(2) with a dropped one.
    assert hidden_information(kept, dropped, other) == pytest.approx(0.5 * math.log(2), abs=0.03)
    assert hidden_information(kept, dropped, kept.square() + noise) == pytest.approx(0.0, abs=0.01)


def test_curved_functions_of_the_kept_are_no_news():
    kept = normal(4000, 2)
    dropped = torch.cat([kept**3, kept[:, :1] * kept[:, 1:]], 1)
    assert hidden_information(kept, dropped, kept[:, :1] + normal(4000, 1, seed=1)) == pytest.approx(0.0, abs=0.01)
    assert hidden_information(kept, dropped, dropped) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("units", [4, 30])
def test_products_know_parities_and_spreads(units):
    z = normal(4000, units + 2, seed=3)
    kept, dropped = z[:, :2], z[:, 2:]
    parity = ((dropped[:, :1] > 0) ^ (dropped[:, 1:2] > 0)).double()
    # The correlation of a sign with its product of normal numbers is 2 / pi.
    share = (2 / math.pi) ** 2
    assert hidden_products(kept, dropped, parity) == pytest.approx(-0.5 * math.log1p(-share), abs=0.05)
    assert hidden_products(kept, dropped, normal(4000, 2, seed=4)) < 0.03
    assert hidden_information(kept, dropped, parity) == pytest.approx(0.0, abs=0.02)
    grown = torch.where(parity > 0, 2.0, 1.0)
    assert hidden_products(kept, grown * normal(4000, units, seed=5), parity) > 0.2


@pytest.mark.parametrize("seed", [0, 1])
def test_places_in_a_grid_tell_their_value_and_stay_in_their_cells(seed):
    whole = torch.randint(0, 5, (500, 2), generator=torch.Generator().manual_seed(9)).double() ** 2
    moved = spread_grid(whole, seed)
    assert moved is not None
    values = torch.arange(5).double() ** 2
    nearest = values[(moved[:, :, None] - values).abs().argmin(2)]
    assert torch.equal(nearest, whole)
    assert len(torch.unique(moved[:, 0])) == 500
    assert spread_grid(normal(500, 2), seed) is None


def test_values_on_a_line_keep_their_order():
    line = torch.randint(0, 100, (1000, 1), generator=torch.Generator().manual_seed(8)).double()
    code = coded(line, 4, 5, seed=3)
    assert not bool(code.index.any())
    assert len(torch.unique(code.rows)) == 1000
    axis = torch.sign((code.rows * (line - line.mean())).sum())
    for value in range(99):
        assert bool((axis * code.rows[line == value]).max() < (axis * code.rows[line == value + 1]).min())


def test_atoms_are_told_apart_whatever_rounds_them():
    """Equal rows, one number of them off by a last bit, as a product of matrices may leave them."""
    where = torch.arange(1000) % 4
    block = torch.eye(4, dtype=torch.float64)[where] @ normal(4, 30)
    block[5] = torch.nextafter(block[5], torch.full((30,), 9.0, dtype=torch.float64))
    code = coded(block, 4, 5, seed=0)
    assert len(torch.unique(code.index)) == 4
    assert all(len(torch.unique(code.index[where == i])) == 1 for i in range(4))
    assert (code.tied, code.loose, code.spread) == (1.0, 0.0, 0.0)


def test_few_equal_rows_among_many_are_left_as_they_are():
    block = normal(1000, 2)
    block[1] = block[0]
    code = coded(block, 4, 5, seed=0)
    assert code.loose == pytest.approx(0.002)
    assert not bool(code.index.any())
    assert not bool(code.crowded.any())
