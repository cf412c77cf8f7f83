"""Entropy-based adaptive binning: the published edges, invariance under increasing maps, and its variants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from truths import random_layer, rows_as_tuples, slow_entropy_bits, slow_information_bits, tied_layer, twelve_bit

from infoplane.core.device import accelerator_branches
from infoplane.estimators._counting import counts
from infoplane.estimators._counting import edges as edge_module
from infoplane.estimators._counting.edges import EdgeCells, Rule, edges_at_or_below, row_edges
from infoplane.estimators.adaptive import Adaptive

EXACT = 1e-9
TANH = -1.000001


class Blocks:
    noise = None

    def __init__(self, *blocks):
        self.blocks = blocks

    def __iter__(self):
        return iter(self.blocks)


def published_edges(values: np.ndarray, low: float, n: int) -> np.ndarray:
    """The edges as the paper's code defines them, for one snapshot of one layer."""
    u = np.unique(values)
    u = u[u != low]
    if len(u) == 0:
        return np.array([low])
    return np.array([low, *(u[int(k * len(u) / n)] for k in range(n)), u[-1]])


def published_codes(values: np.ndarray, low: float, n: int) -> list[tuple[float, ...]]:
    return rows_as_tuples(np.digitize(values, published_edges(values, low, n)) - 1)


def value(found, name="H(T)", snapshot=0) -> float:
    return float(found[name].value[snapshot])


# --- the published definition -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "low", "n", "edges", "codes", "entropy"),
    [
        (
            [(0, 0), (0, 1), (0, 2), (3, 4), (0, 5), (6, 0)],
            0,
            3,
            [0, 1, 3, 5, 6],
            [(0, 0), (0, 1), (0, 1), (2, 2), (0, 3), (4, 0)],
            2.2516291673878,
        ),
        ([(0,), (0,), (0,), (0,)], 0, 3, [0], [(0,)] * 4, 0.0),
        ([(0.5,), (0.5,), (0.7,), (0,)], 0, 4, [0, 0.5, 0.5, 0.7, 0.7, 0.7], [(2,), (2,), (5,), (0,)], 1.5),
        (
            [(-1,), (-1,), (0,), (0.5,), (1,), (1,)],
            TANH,
            2,
            [TANH, -1, 0.5, 1],
            [(1,), (1,), (1,), (2,), (3,), (3,)],
            1.4591479170272,
        ),
    ],
)
def test_examples_run_on_the_published_code(rows, low, n, edges, codes, entropy):
    t = torch.tensor(rows, dtype=torch.float64)[None]
    found = row_edges(t.reshape(1, -1), low, Rule(n)).edges[0]
    assert found[torch.isfinite(found)].tolist() == edges
    cells = EdgeCells(found[None, None])(t, 0, False)[0].long() - 1
    assert rows_as_tuples(cells) == codes
    estimate = Adaptive(n_bins=n, low=low, null_draws=0).estimate(t, torch.arange(len(rows)) % 2)
    assert value(estimate) == pytest.approx(entropy, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("samples", "units", "n"), [(200, 1, 5), (500, 4, 30), (1500, 100, 30), (60, 2, 300)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_equals_the_published_code(samples, units, n, activation, dtype):
    g = torch.Generator().manual_seed(samples + units)
    raw = torch.randn(3, samples, units, generator=g) * torch.tensor([0.3, 1.0, 4.0])[:, None, None]
    t = (torch.relu(raw) if activation == "relu" else torch.tanh(raw)).to(dtype)
    if units > 50:
        t[:, :, 2:] = t[:, :1, 2:]
    y = torch.randint(0, 3, (samples,), generator=g)
    found = Adaptive(n_bins=n, null_draws=0).estimate(t, y)
    wide = t.float().numpy() if dtype.itemsize == 2 else t.numpy()
    for s in range(3):
        codes = published_codes(wide[s], 0.0 if activation == "relu" else wide.dtype.type(TANH), n)
        assert value(found, "H(T)", s) == pytest.approx(slow_entropy_bits(codes), abs=EXACT)
        assert value(found, "I(T;Y)", s) == pytest.approx(slow_information_bits(codes, y.tolist()), abs=EXACT)


def test_half_precision_table_equals_sorting(monkeypatch):
    from infoplane.estimators import adaptive

    t, y = random_layer(1, 3, 400, 70, 3)
    t[2] = 0
    t[1, :, 1:] = t[1, :, :1]
    t[1, ::7] = -0.0
    for dtype in (torch.float16, torch.bfloat16):
        for low in ("auto", "min", 0.25):
            sorted_ = Adaptive(low=low).estimate(t.to(dtype), y)
            monkeypatch.setattr(adaptive, "_HALF_VALUES", 0)
            table = Adaptive(low=low).estimate(t.to(dtype), y)
            monkeypatch.undo()
            for name in sorted_:
                assert torch.equal(table[name].value, sorted_[name].value), (dtype, low, name)
                for flag in sorted_[name].flags:
                    assert torch.equal(table[name].flags[flag], sorted_[name].flags[flag]), (low, flag)


def test_edges_on_both_devices_code_paths_agree(monkeypatch):
    """The torch form that runs on a GPU, and the numpy form in pieces, against the plain numpy form."""
    g = torch.Generator().manual_seed(2)
    values = torch.round(8 * torch.randn(5, 400, generator=g)) / 8
    values[1] = 0.0
    values[2] = -3.0
    values[3, :399] = 1.0
    for rule in (Rule(6), Rule(50), Rule(6, separate=True), Rule(6, distinct=False)):
        for low in (0.0, -2.5, None):
            plain = row_edges(values, low, rule)
            with accelerator_branches():
                other = row_edges(values, low, rule)
            monkeypatch.setattr(edge_module, "SORT_ELEMENTS", 100)
            pieces = row_edges(values, low, rule)
            monkeypatch.undo()
            for name in plain._fields:
                assert torch.equal(getattr(plain, name), getattr(other, name).to(getattr(plain, name))), (rule, low)
                assert torch.equal(getattr(plain, name), getattr(pieces, name)), (rule, low, name)


@pytest.mark.parametrize("edges", [3, 40, 200])
def test_comparing_and_searching_count_the_same(edges, monkeypatch):
    g = torch.Generator().manual_seed(edges)
    for rows, width in ((1, 70_001), (7, 300), (300, 7), (2, 0)):
        values = torch.randn(rows, width, generator=g)
        bounds = torch.randn(rows, edges, generator=g).sort(dim=1).values
        bounds[0, edges // 2 :] = math.inf
        want = torch.searchsorted(bounds, values, right=True)
        out = torch.empty(rows, width, dtype=torch.uint8)
        assert torch.equal(edges_at_or_below(values, bounds, out).long(), want)
        monkeypatch.setattr(edge_module, "_COMPARED_EDGES", 1)
        assert torch.equal(edges_at_or_below(values, bounds, out).long(), want)
        monkeypatch.undo()


# --- invariance -------------------------------------------------------------------------------------

FIXING_ZERO = (lambda v: 1000 * v, torch.log1p, lambda v: v**3, torch.sqrt, torch.expm1)
ANY = (*FIXING_ZERO[:1], torch.exp, lambda v: torch.atan(v) - 5, lambda v: v**3 + v, lambda v: -torch.exp(-v))


@pytest.mark.parametrize("map_", range(len(FIXING_ZERO)))
def test_increasing_maps_that_fix_the_sentinel_change_no_bit(map_):
    t, y = random_layer(3, 3, 300, 4, 3)
    t = torch.relu(t.double())
    moved = FIXING_ZERO[map_](t)
    assert torch.equal(moved.unique(return_inverse=True)[1], t.unique(return_inverse=True)[1])
    one, two = Adaptive().estimate(t, y), Adaptive().estimate(moved, y)
    for name in one:
        assert torch.equal(one[name].value, two[name].value), name


@pytest.mark.parametrize("map_", range(len(ANY)))
def test_with_the_minimum_as_sentinel_every_increasing_map_changes_no_bit(map_):
    t, y = random_layer(4, 3, 300, 4, 3)
    t = 2 * t.double()
    moved = ANY[map_](t)
    assert torch.equal(moved.unique(return_inverse=True)[1], t.unique(return_inverse=True)[1])
    one, two = Adaptive(low="min").estimate(t, y), Adaptive(low="min").estimate(moved, y)
    for name in one:
        assert torch.equal(one[name].value, two[name].value), name


def test_values_closer_than_float32_keep_their_cells():
    """Edges rounded to float32 would put these four float64 values in one cell."""
    t = (1.0 + torch.arange(4, dtype=torch.float64) * 1e-12)[None, :, None]
    assert value(Adaptive(n_bins=4, low=0.0).estimate(t, torch.arange(4) % 2)) == 2.0


def test_types_that_hold_the_values_give_the_same_bits():
    t, y = tied_layer(15, 3, 300, 3, 3, step=0.125)
    want = Adaptive(n_bins=6).estimate(t, y)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        got = Adaptive(n_bins=6).estimate(t.to(dtype), y)
        for name in want:
            assert torch.equal(got[name].value, want[name].value), (dtype, name)


def test_maps_of_each_unit_need_edges_of_each_unit():
    t, y = random_layer(5, 2, 300, 3, 3)
    t = t.double()
    moved = torch.stack([torch.exp(t[:, :, 0]), t[:, :, 1] ** 3, 100 + t[:, :, 2]], dim=2)
    apart = Adaptive(n_bins=5, low="min", per_unit=True, null_draws=0)
    pooled = Adaptive(n_bins=5, low="min", null_draws=0)
    assert torch.equal(apart.estimate(t, y)["I(T;Y)"].value, apart.estimate(moved, y)["I(T;Y)"].value)
    assert not torch.equal(pooled.estimate(t, y)["I(T;Y)"].value, pooled.estimate(moved, y)["I(T;Y)"].value)


# --- degenerate layers ------------------------------------------------------------------------------


def test_dead_layer_is_zero():
    found = Adaptive().estimate(torch.zeros(2, 50, 3), torch.arange(50) % 2)
    for name in ("I(X;T)", "I(T;Y)", "H(T)"):
        assert found[name].value.tolist() == [0.0, 0.0]
    assert bool(found["H(T)"].flags["degenerate"].all())
    assert bool(found["H(T)"].flags["ties"].all())


def test_fewer_distinct_values_than_bins_are_all_told_apart():
    words, y = twelve_bit()
    t = words[None, :, :6]
    found = Adaptive(n_bins=30).estimate(t, y)
    assert value(found) == 6.0
    assert bool(found["H(T)"].flags["ties"].all())
    found = Adaptive(n_bins=5, low="min").estimate(random_layer(6)[0], random_layer(6)[1])
    assert not bool(found["H(T)"].flags["ties"].any())


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nonfinite_values_are_refused(per_unit, dtype):
    t = torch.zeros(2, 1500, 100, dtype=dtype)
    y = torch.arange(1500) % 2
    for bad in (math.nan, math.inf, -math.inf):
        t[1, 3, 2] = bad
        with pytest.raises(ValueError, match="1 non-finite values, first at snapshot 1, sample 3, unit 2"):
            Adaptive(per_unit=per_unit).estimate(t, y)


# --- sentinel ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sentinel"),
    [((0.0, 3.0), 0.0), ((0.5, 3.0), 0.0), ((-1.0, 1.0), TANH), ((-0.3, 9.0), TANH), ((-1.5, 1.0), "min")],
)
def test_automatic_sentinel(values, sentinel):
    t = torch.tensor(values)[None, :, None]
    y = torch.tensor([0, 1])
    assert Adaptive().prepare(Blocks(t), y).sentinel == sentinel


def test_automatic_sentinel_is_that_of_the_run():
    """A snapshot that happens not to be negative is cut as the others are."""
    t, y = random_layer(7, 2, 100, 2, 2)
    t[1] = t[1].abs()
    ready = Adaptive(null_draws=0).prepare(Blocks(t[:1], t[1:]), y)
    assert ready.sentinel == TANH
    alone = ready.estimate(t[1:], y)
    assert value(alone) == value(ready.estimate(t, y), snapshot=1)


def test_values_below_the_sentinel_have_their_own_cell():
    t = torch.tensor([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0])[None, :, None]
    found = Adaptive(n_bins=2, low=0.0).estimate(t, torch.arange(6) % 2)
    assert value(found) == pytest.approx(slow_entropy_bits("bbzz12"), abs=EXACT)
    assert bool(found["H(T)"].flags["out_of_range"][0])
    assert not bool(Adaptive(low=-2.0).estimate(t, torch.arange(6) % 2)["H(T)"].flags["out_of_range"][0])


# --- variants ---------------------------------------------------------------------------------------


def test_saturated_values_apart():
    """Half of the values at -1: the original puts other values with them, the variant does not."""
    t = torch.cat([torch.full((50,), -1.0), torch.linspace(-0.9, 0.9, 46), torch.full((4,), 1.0)])[None, :, None]
    y = (t[0, :, 0] > 0).long()
    plain = Adaptive(n_bins=4, null_draws=0).estimate(t, y)
    apart = Adaptive(n_bins=4, separate_saturated=True, null_draws=0).estimate(t, y)
    u = np.unique(t.numpy())
    inner = u[1:-1]
    edges = np.array([TANH, u[0], *(inner[k * len(inner) // 4] for k in range(4)), u[-1]], dtype=np.float32)
    codes = rows_as_tuples(np.digitize(t[0].numpy(), edges))
    assert value(apart) == pytest.approx(slow_entropy_bits(codes), abs=EXACT)
    assert sum(c == codes[0] for c in codes) == 50
    assert value(plain) == pytest.approx(slow_entropy_bits(published_codes(t[0].numpy(), TANH, 4)), abs=EXACT)
    assert value(plain) != value(apart)


def test_saturated_values_apart_in_small_layers():
    for values in ([0.3], [0.3, 0.5], [0.1, 0.2, 0.3], [-1.0, 1.0]):
        t = torch.tensor(values * 2)[None, :, None]
        found = Adaptive(n_bins=7, separate_saturated=True).estimate(t, torch.arange(2 * len(values)) % 2)
        assert value(found) == pytest.approx(math.log2(len(values)), abs=EXACT)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_equal_counts_equal_the_midpoint_edges(n):
    """Edges half-way between two order statistics, as the code of Lorenzen et al. takes them."""
    t, y = tied_layer(8, 3, 100, 3, 3, step=0.05)
    found = Adaptive(n_bins=n, quantile="equal_count", null_draws=0).estimate(t.double(), y)
    for s in range(3):
        flat = np.sort(t[s].double().numpy().ravel())
        place = np.arange(1, n) * len(flat) // n
        middle = (flat[place - 1] + flat[place]) / 2
        codes = rows_as_tuples(np.digitize(t[s].double().numpy(), middle))
        assert value(found, "H(T)", s) == pytest.approx(slow_entropy_bits(codes), abs=EXACT)


def test_equal_counts_of_the_published_example():
    t = torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4, 5, 6])[None, :, None]
    found = Adaptive(n_bins=5, quantile="equal_count").estimate(t, torch.arange(10) % 2)
    want = np.digitize(t[0, :, 0].numpy(), [0, 0.5, 2.5, 4.5])
    assert value(found) == pytest.approx(slow_entropy_bits(want.tolist()), abs=EXACT)


@pytest.mark.parametrize("separate", [False, True])
def test_edges_of_each_unit(separate):
    t, y = tied_layer(9, 3, 150, 3, 3, step=0.1)
    t = torch.relu(t)
    found = Adaptive(n_bins=4, per_unit=True, separate_saturated=separate, null_draws=0).estimate(t, y)
    alone = Adaptive(n_bins=4, separate_saturated=separate, null_draws=0)
    for s in range(3):
        cells = []
        for u in range(3):
            e = row_edges(t[s, :, u][None], 0.0, alone.rule).edges[0]
            cells.append(np.digitize(t[s, :, u].numpy(), e[torch.isfinite(e)].numpy()))
        codes = rows_as_tuples(np.stack(cells, axis=1))
        assert value(found, "H(T)", s) == pytest.approx(slow_entropy_bits(codes), abs=EXACT)


def test_wide_layers_with_edges_of_each_unit_stop_early(monkeypatch):
    t, y = random_layer(10, 2, 600, 640, 2)
    early = Adaptive(per_unit=True, null_draws=0).estimate(t, y)
    monkeypatch.setattr(counts, "EARLY_UNITS", 10**9)
    full = Adaptive(per_unit=True, null_draws=0).estimate(t, y)
    for name in full:
        assert torch.equal(early[name].value, full[name].value)


# --- edges of the whole run -------------------------------------------------------------------------


@pytest.mark.parametrize("quantile", ["distinct", "equal_count"])
@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("limit", [10**6, 1300, 150, 20])
def test_edges_of_the_run(monkeypatch, quantile, per_unit, limit):
    """The same edges however little memory there is: values in one piece, unit by unit, or range by range."""
    t, y = tied_layer(11, 4, 120, 5, 3, step=0.02)
    t[2] *= 3
    estimator = Adaptive(n_bins=6, quantile=quantile, per_unit=per_unit, whole_run=True, null_draws=0)
    direct = estimator.estimate(t, y)
    monkeypatch.setattr(edge_module, "LIMIT", limit)
    ready = estimator.prepare(Blocks(t[:1], t[1:3], t[3:]), y)
    found = ready.estimate(t, y)
    for name in direct:
        assert torch.equal(found[name].value, direct[name].value), name
    assert not bool(found["H(T)"].flags["out_of_range"].any())
    groups = [t[:, :, u] for u in range(5)] if per_unit else [t]
    rule = Rule(6, quantile == "distinct")
    edges = [row_edges(group.reshape(1, -1), None, rule).edges[0].numpy() for group in groups]
    cells = [np.digitize(t[:, :, u].numpy(), edges[u if per_unit else 0]) for u in range(5)]
    for s in range(4):
        codes = rows_as_tuples(np.stack([c[s] for c in cells], axis=1))
        assert value(found, "H(T)", s) == pytest.approx(slow_entropy_bits(codes), abs=EXACT)


def test_values_beyond_the_run_raise_their_flag():
    t, y = random_layer(12, 3, 100, 2, 2)
    ready = Adaptive(whole_run=True).prepare(Blocks(t), y)
    assert isinstance(ready.run_edges, tuple)
    late = t.clone()
    late[1, 0, 0] = 1.5
    assert ready.estimate(late, y)["H(T)"].flags["out_of_range"].tolist() == [False, True, False]


def test_edges_known_by_digest_only_are_refused():
    t, y = random_layer(13, 2, 100, 6, 2)
    ready = Adaptive(whole_run=True, per_unit=True).prepare(Blocks(t), y)
    again = Adaptive(whole_run=True, per_unit=True, run_edges=ready.run_edges)
    with pytest.raises(ValueError, match="known by their digest only; call prepare"):
        again.estimate(t, y)
    with pytest.raises(ValueError, match="6 units, t has 2"):
        ready.estimate(t[:, :, :2], y)


def test_diverged_snapshots_give_no_edges():
    t, y = random_layer(14, 3, 100, 2, 2)
    broken = t.clone()
    broken[1, 0, 0] = math.nan
    estimator = Adaptive(whole_run=True)
    assert estimator.prepare(Blocks(broken), y) == estimator.prepare(Blocks(t[[0, 2]]), y)
    for options in ({}, {"whole_run": True, "low": "min"}):
        with pytest.raises(ValueError, match="no finite snapshot"):
            Adaptive(**options).prepare(Blocks(torch.full((1, 3, 1), math.nan)), y[:3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_bins": 1}, "from 2 to 65000, got 1"),
        ({"n_bins": 2.5}, r"from 2 to 65000, got 2\.5"),
        ({"low": "mean"}, "'auto', 'min' or a finite number, got 'mean'"),
        ({"low": math.nan}, "finite number, got nan"),
        ({"quantile": "mean"}, "got 'mean'"),
        ({"quantile": "equal_count", "low": 0.0}, "no sentinel"),
        ({"null_draws": -2}, "0 or more, got -2"),
        ({"corrections": ("bayes",)}, "got 'bayes'"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Adaptive(**fields)
