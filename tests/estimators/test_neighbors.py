"""Neighbours and counts, from a tree and from blocks, against all distances written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import digamma
from scipy.stats import nhypergeom

from infoplane.estimators._cells import counts_within
from infoplane.estimators._distances import TIE, Keys, groups_of
from infoplane.estimators._neighbor_formulas import mean_digamma_of_rank
from infoplane.estimators._neighbors import Points, intrinsic_dimension, pair_counts
from infoplane.estimators._scaling import equal_rows

COUNTED = ("open", "closed", "rectangle")


def rows_of(kind: str, n: int, units: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if kind == "lattice":
        return rows.round()
    if kind == "atom":
        rows[: n // 2] = 0
    if kind == "offset":
        rows += 1e5
    if kind == "tiny":
        rows *= 1e-200
    return rows


def all_distances(rows: torch.Tensor, metric: str) -> np.ndarray:
    a = rows.numpy().astype(np.longdouble)
    gap = np.abs(a[:, None] - a[None])
    d = np.sqrt((gap**2).sum(2)) if metric == "euclidean" else gap.max(2)
    np.fill_diagonal(d, np.inf)
    return d


# A tree squares 1e-200 to 0: layers are scaled before they reach one.
KINDS = [(kind, tree) for tree in (True, False) for kind in ("normal", "lattice", "atom", "offset")] + [("tiny", False)]


@pytest.mark.parametrize(("kind", "tree"), KINDS)
@pytest.mark.parametrize("metric", ["euclidean", "max"])
@pytest.mark.parametrize(("n", "units"), [(40, 1), (200, 3), (200, 30)])
def test_neighbours_and_counts(kind, metric, n, units, tree):
    rows, k = rows_of(kind, n, units, seed=units), 4
    d = all_distances(rows, metric)
    expected = np.sort(d, axis=1)[:, :k]
    points = Points(rows, metric, tree=tree)
    distance, index = points.nearest(k)
    # The offset costs 1e5 eps of the spread.
    np.testing.assert_allclose(distance, expected.astype(float), rtol=1e-9, atol=1e-10 if kind == "offset" else 0)
    assert not (index == torch.arange(n)[:, None]).any()
    np.testing.assert_allclose(np.take_along_axis(d, index.numpy(), 1).astype(float), distance, rtol=1e-9, atol=1e-10)
    radius = expected[:, -1:]
    closed, opened = points.within(torch.from_numpy(radius[:, 0].astype(float)))
    np.testing.assert_array_equal(closed, (d <= radius * (1 + TIE)).sum(1))
    np.testing.assert_array_equal(opened, (d < radius * (1 - TIE)).sum(1))


def test_wide_blocks_choose_candidates_by_groups():
    """Group minima come first. Adversarial: all near rows in one group."""
    n = 2055
    rows = rows_of("normal", n, 12, seed=0)
    groups = groups_of(n)
    rows[::groups] = rows[0] + 1e-3 * rows[::groups]
    distance, _ = Points(rows, tree=False).nearest(5)
    expected, _ = Points(rows, tree=True).nearest(5)
    np.testing.assert_allclose(distance, expected, rtol=1e-9)


def test_float32_blocks_are_measured_again():
    """Clusters of width 1e-6 far apart: float32 keys are noise there, the answer is not."""
    centre = torch.randn(20, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = centre.repeat_interleave(30, 0) + 1e-6 * rows_of("normal", 600, 16, seed=2)
    expected = np.sort(all_distances(rows, "euclidean"), axis=1)[:, :3].astype(float)
    np.testing.assert_allclose(Points(rows, tree=False).nearest(3)[0], expected, rtol=1e-7)


@pytest.mark.parametrize("metric", ["euclidean", "max"])
@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (3, 2), (8, 9)])
def test_pair_counts(metric, dx, dy):
    x, y = rows_of("normal", 250, dx, seed=1), rows_of("normal", 250, dy, seed=2)
    k = 3
    a, b = all_distances(x, metric), all_distances(y, metric)
    joint = np.maximum(a, b)
    order = np.argsort(joint, axis=1)[:, :k]
    eps = np.take_along_axis(joint, order[:, -1:], 1)
    for counted in COUNTED:
        distances, *counts = pair_counts(Points(x, metric), Points(y, metric), k, counted)
        np.testing.assert_allclose(distances[:, -1:], eps.astype(float), rtol=1e-9)
        for one, found in zip((a, b), counts, strict=True):
            reach = np.take_along_axis(one, order, 1).max(1, keepdims=True)
            expected = {"open": one < eps * (1 - TIE), "closed": one <= eps * (1 + TIE)}
            expected["rectangle"] = one <= reach * (1 + TIE)
            np.testing.assert_array_equal(found, expected[counted].sum(1))


@pytest.mark.parametrize("kind", ["normal", "lattice", "atom"])
@pytest.mark.parametrize("metric", ["euclidean", "max"])
@pytest.mark.parametrize(("dx", "dy"), [(2, 1), (1, 3), (6, 1)])
def test_a_joint_tree_equals_blocks(kind, metric, dx, dy):
    """Ties and duplicates too: distances to the last digits, every count exactly."""
    n, k = 700, 3
    x, y = rows_of(kind, n, dx, seed=1), rows_of(kind, n, dy, seed=2)
    for counted in COUNTED if kind == "normal" else COUNTED[:2]:
        tree, blocks = (
            pair_counts(*(Points(rows, metric, tree=way) for rows in (x, y)), k, counted) for way in (True, False)
        )
        np.testing.assert_allclose(tree[0], blocks[0], rtol=1e-13)
        assert torch.equal(tree[1], blocks[1]), counted
        assert torch.equal(tree[2], blocks[2]), counted


@pytest.mark.parametrize("kind", ["normal", "lattice", "atom", "far"])
@pytest.mark.parametrize("metric", ["euclidean", "max"])
@pytest.mark.parametrize(("n", "units"), [(17, 2), (333, 2), (400, 3), (333, 7)])
def test_counts_of_cells_equal_those_of_all_pairs(kind, metric, n, units):
    """Rows that fill no cell, cells that meet few or all others, ties: every count exactly."""
    rows = rows_of("normal" if kind == "far" else kind, n, units, seed=3)
    if kind == "far":
        rows[:3] *= 1e5
    d = all_distances(rows, metric)
    for radius in (np.sort(d, 1)[:, 3], d.max(1, initial=0, where=np.isfinite(d)), np.zeros(n)):
        radius = radius.astype(np.float64)
        closed, opened = Points(rows, metric).within(torch.from_numpy(radius))
        np.testing.assert_array_equal(closed, (d <= radius[:, None] * (1 + TIE)).sum(1))
        np.testing.assert_array_equal(opened, (d < radius[:, None] * (1 - TIE)).sum(1))


@pytest.mark.parametrize("shape", ["one far unit", "clusters", "line"])
def test_rows_that_a_short_list_does_not_settle(shape):
    """Where one block is much wider than the other, the nearest in the joint space are not first in the list."""
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(900, 2, generator=g).double(), torch.randn(900, 1, generator=g).double()
    if shape == "one far unit":
        y[:40] *= 1e4
    if shape == "clusters":
        x = (x[:, :1] > 0) + 1e-6 * x
    if shape == "line":
        x[:, 1] = x[:, 0]
    tree, blocks = (pair_counts(Points(x, tree=way), Points(y, tree=way), 4) for way in (True, False))
    # Blocks centre the rows: coordinates of about 1 are rounded once more.
    np.testing.assert_allclose(tree[0], blocks[0], rtol=1e-13, atol=4e-16)
    assert torch.equal(tree[1], blocks[1])
    assert torch.equal(tree[2], blocks[2])


@pytest.mark.parametrize("kind", ["normal", "lattice", "atom"])
@pytest.mark.parametrize("metric", ["euclidean", "max"])
@pytest.mark.parametrize("neighbours", [3, 40, 300])
def test_counts_whatever_the_neighbours_come_from(kind, metric, neighbours):
    """Many or few of them, ties that are known or not, and rows far from all others."""
    rows = rows_of(kind, 900, 3, seed=4)
    rows[:9] *= 30.0
    radius = Points(rows, metric, tree=False).nearest(neighbours)[0][:, -1]
    tree, blocks = (Points(rows, metric, tree=way).within(radius) for way in (True, False))
    assert torch.equal(tree[0], blocks[0])
    assert torch.equal(tree[1], blocks[1])
    known = blocks[0] - blocks[1]
    known[::2] = 0
    assert torch.equal(torch.stack(Points(rows, metric).within(radius, known)), torch.stack(blocks))


def test_equal_rows():
    rows = torch.tensor([[0.0, 1], [1, 0], [-0.0, 1], [2, 2], [0, 1], [2, 2]], dtype=torch.float64)
    assert equal_rows(rows).tolist() == [2, 0, 2, 1, 2, 1]
    corners = torch.tensor(list(itertools.product([0.0, 1.0, 2.0], repeat=7)), dtype=torch.float64)
    assert int(equal_rows(corners).max()) == 0


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_intrinsic_dimension_of_an_embedded_normal(dims):
    g = torch.Generator().manual_seed(dims)
    rows = torch.randn(3000, dims, generator=g).double() @ torch.randn(dims, 20, generator=g).double()
    # Standard error d / sqrt(N (k - 1)) = 0.02 d, and a bias at the edges that grows with d.
    assert intrinsic_dimension(Points(rows).nearest(4)[0]) == pytest.approx(dims, rel=0.15)


def slow_mean_digamma(inside: int, shell: int, own: int, place: int) -> float:
    """Over all arrangements of the own class in the shell."""
    psi = [float("nan"), *(-0.5772156649015329 + sum(1 / j for j in range(1, n)) for n in range(1, 40))]
    places = list(itertools.combinations(range(1, shell + 1), own))
    return sum(psi[inside + p[place - 1]] for p in places) / len(places)


def test_rank_among_ties_is_averaged_over_all_orders():
    cases = [
        (inside, shell, own, place)
        for inside in (0, 1, 5)
        for shell in (1, 2, 5, 7)
        for own in range(1, shell + 1)
        for place in range(1, own + 1)
    ]
    found = mean_digamma_of_rank(*(torch.tensor(column) for column in zip(*cases, strict=True)))
    np.testing.assert_allclose(found, [slow_mean_digamma(*case) for case in cases], rtol=1e-11, atol=1e-12)


def test_large_shells_stay_exact():
    shell, own, place, inside = 4000, 1500, 7, 30
    law = nhypergeom(shell, shell - own, place)  # of the others before the wanted one
    before = np.arange(200)
    expected = (law.pmf(before) * digamma(inside + place + before)).sum()
    found = mean_digamma_of_rank(*(torch.tensor([v]) for v in (inside, shell, own, place)))
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("k", [0, 10])
def test_impossible_k_is_named(k):
    with pytest.raises(ValueError, match=rf"below the number of samples \(10\), got {k}"):
        Points(torch.zeros(10, 2)).nearest(k)


def test_unknown_metric_is_named():
    with pytest.raises(ValueError, match="'euclidean' or 'max', got 'cosine'"):
        Points(torch.zeros(10, 2), "cosine")


@pytest.mark.cpu_branch
def test_blocks_hold_no_square_array():
    tiles = Keys(torch.zeros(20_000, 12), "euclidean").tiles(torch.arange(20_000), 20_000)
    assert max(map(len, tiles)) * 20_000 < 20_000**2 / 100


def test_a_row_that_reaches_more_than_16_bits_count():
    """In the maximum norm flags are 16-bit numbers, whose sums must not wrap: 70,000 rows within reach of one."""
    n = 70_000
    rows = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius = torch.full((n,), 1e-6, dtype=torch.float64)
    radius[5] = 100.0
    closed, opened = counts_within(rows, radius, "max", torch.zeros(n, dtype=torch.int64))
    assert (int(closed[5]), int(opened[5])) == (n - 1, n - 1)
