"""Equal-width binning against exact values, slow references and its own properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from truths import (
    random_layer,
    rows_as_tuples,
    slow_entropy_bits,
    slow_information_bits,
    tied_layer,
    twelve_bit,
)

from infoplane.estimators import assume_finite, bin_targets, parse
from infoplane.estimators.binning import Binning

EXACT = 1e-9


def value(found, name="I(T;Y)", snapshot=0) -> float:
    return float(found[name].value[snapshot])


class Blocks:
    """A run of several blocks."""

    noise = None

    def __init__(self, *blocks):
        self.blocks = blocks

    def __iter__(self):
        return iter(self.blocks)


# --- exact values (more of them stand in truths_table.py) --------------------------------------------


def test_all_patterns_apart_are_saturated_and_their_sums_are_not():
    words, y = twelve_bit()
    apart, summed = (Binning().estimate(t[None], y) for t in (words, words.sum(1, keepdim=True)))
    assert value(apart, "I(X;T)") == 12.0
    assert bool(apart["I(X;T)"].flags["saturated"][0])
    for found, lost in ((apart, True), (summed, False)):
        assert bool(found["I(T;Y)"].flags["saturated"][0]) == lost
        assert bool(found["I(T;Y)"].flags["below_null"][0]) == lost


def test_constant_layer_is_exactly_zero():
    _, y = twelve_bit()
    found = Binning().estimate(torch.full((2, 4096, 5), 0.3), y)
    for name in ("I(X;T)", "I(T;Y)", "H(T)", "I(X;T|Y)", "I(T;Y) null"):
        assert found[name].value.tolist() == [0.0, 0.0]
    assert bool(found["I(T;Y)"].flags["degenerate"].all())


# --- slow references --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "units", "classes", "width"),
    [(50, 1, 2, 0.5), (300, 3, 3, 0.3), (500, 40, 2, 1.0), (700, 80, 10, 1.0), (400, 6, 300, 0.5), (3000, 100, 7, 1.5)],
)
def test_fixed_width_equals_floor_and_counter(samples, units, classes, width):
    t, y = random_layer(samples, 3, samples, units, classes)
    if units > 30:
        t[:, :, 3:] *= (torch.arange(units - 3) % 17 == 0).float()
    found = Binning(width=width, null_draws=0).estimate(t, y)
    for s in range(3):
        codes = rows_as_tuples(np.floor(t[s].numpy() / np.float32(width)))
        assert value(found, "H(T)", s) == pytest.approx(slow_entropy_bits(codes), abs=EXACT)
        assert value(found, "I(T;Y)", s) == pytest.approx(slow_information_bits(codes, y.tolist()), abs=EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("range_", ["snapshot", "snapshot_unit", "layer", "unit", (-0.5, 0.25)])
def test_counted_cells_equal_the_formula(range_, dtype):
    t, y = random_layer(1, 3, 200, 3, 3)
    t = t.to(dtype)
    found = Binning(n_bins=7, range=range_, null_draws=0).estimate(t, y)
    wide = t.float().numpy() if dtype == torch.float16 else t.numpy()
    for s in range(3):
        source = {"snapshot": wide[s], "layer": wide}.get(range_ if isinstance(range_, str) else "")
        if range_ == "unit":
            lo, hi = wide.min(axis=(0, 1)), wide.max(axis=(0, 1))
        elif range_ == "snapshot_unit":
            lo, hi = wide[s].min(axis=0), wide[s].max(axis=0)
        elif source is not None:
            lo, hi = source.min(), source.max()
        else:
            lo, hi = (wide.dtype.type(v) for v in range_)
        cells = np.clip(np.floor((wide[s] - lo) / ((hi - lo) / wide.dtype.type(7))), 0, 6)
        cells[wide[s] < lo], cells[wide[s] > hi] = -1, 7
        codes = rows_as_tuples(cells)
        assert value(found, "H(T)", s) == pytest.approx(slow_entropy_bits(codes), abs=EXACT)
        assert value(found, "I(T;Y)", s) == pytest.approx(slow_information_bits(codes, y.tolist()), abs=EXACT)
    assert bool(found["I(T;Y)"].flags["out_of_range"].any()) == (not isinstance(range_, str))


def test_repeated_passes_of_a_noisy_layer():
    """40 inputs, 25 passes each: H(T|X) comes from the repeats."""
    g = torch.Generator().manual_seed(3)
    ids = torch.arange(40).repeat(25)
    y = ids % 2
    t = torch.round(2 * (torch.randn(40, 2, generator=g)[ids] + 0.5 * torch.randn(1000, 2, generator=g)))[None]
    found = Binning(width=1.0).estimate(t, y, x_ids=ids * 7)
    codes = rows_as_tuples(t[0])
    assert value(found, "I(X;T)") == pytest.approx(slow_information_bits(codes, ids.tolist()), abs=EXACT)
    assert value(found, "I(T;Y)") == pytest.approx(slow_information_bits(codes, y.tolist()), abs=EXACT)
    assert float(found["I(X;T)"].ceiling) == pytest.approx(math.log2(40), abs=EXACT)
    assert value(found, "I(X;T)") < value(found, "H(T)")


@pytest.mark.parametrize("duplicates", [False, True])
def test_conditional_information_equals_its_definition(duplicates):
    t, y = tied_layer(4, 1, 240, 2, 3)
    ids = torch.arange(240) // 3 if duplicates else torch.arange(240)
    found = Binning(width=0.5, null_draws=0).estimate(t, y, x_ids=ids)
    codes = rows_as_tuples(t[0])
    want = sum(
        (y == k).double().mean().item()
        * slow_information_bits(
            [c for c, label in zip(codes, y.tolist(), strict=True) if label == k], ids[y == k].tolist()
        )
        for k in range(3)
    )
    assert value(found, "I(X;T|Y)") == pytest.approx(want, abs=EXACT)


# --- edges ------------------------------------------------------------------------------------------


def codes_apart(estimator, *values) -> bool:
    """Whether the values fall in cells of their own."""
    t = torch.tensor(values)[None, :, None]
    found = estimator.estimate(t, torch.zeros(len(values), dtype=torch.long))
    return math.isclose(value(found, "H(T)"), math.log2(len(values)))


def test_upper_edge_belongs_to_the_last_cell():
    closed = Binning(n_bins=4, range=(-1.0, 1.0), null_draws=0)
    assert not codes_apart(closed, 0.99, 1.0)
    assert codes_apart(closed, 0.99, 1.0001)
    assert codes_apart(closed, -1.0001, -1.0)
    assert codes_apart(closed, -5.0, 5.0)


def test_saturation_cell_of_the_2017_code():
    """29 intervals of width 2/29, a cell for t >= 1, and t < -1 never counted as t = 1."""
    preset = parse("binning@shwartz-ziv-2017:null_draws=0")
    assert codes_apart(preset, 0.9999, 1.0)
    assert not codes_apart(preset, 1.0, 1.5)
    assert codes_apart(preset, -1.5, -1.0, 1.0)
    assert codes_apart(preset, *(-1 + 2 * (k + 0.5) / 29 for k in range(29)), 1.0)
    inside = preset.estimate(torch.tensor([-1.0, 1.0])[None, :, None], torch.tensor([0, 1]))
    outside = preset.estimate(torch.tensor([-1.0, 1.5])[None, :, None], torch.tensor([0, 1]))
    assert not bool(inside["H(T)"].flags["out_of_range"][0])
    assert bool(outside["H(T)"].flags["out_of_range"][0])


def test_2017_preset_equals_numpy_digitize():
    t, y = random_layer(5, 1, 5000, 2, 2)
    edges = np.linspace(-1, 1, 30).astype(np.float32)
    codes = rows_as_tuples(np.digitize(t[0].numpy(), edges))
    found = parse("binning@shwartz-ziv-2017").estimate(t, y)
    assert value(found, "H(T)") == pytest.approx(slow_entropy_bits(codes), abs=EXACT)


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ("binning@saxe-2018", {"width": 0.07, "n_bins": None}),
        ("binning@saxe-2018-mnist", {"width": 0.5}),
        ("binning@lorenzen-2022-run-30", {"n_bins": 30, "range": "layer"}),
        ("binning@lorenzen-2022-layer-100", {"n_bins": 100, "range": "snapshot"}),
        ("binning@lorenzen-2022-neuron-256", {"n_bins": 256, "range": "snapshot_unit"}),
        ("binning@lorenzen-2022-neuron-4bit", {"n_bins": 16, "rounding": "nearest"}),
        ("binning:corrections=miller-madow", {"corrections": ("miller-madow",)}),
    ],
)
def test_presets(spec, fields):
    estimator = parse(spec)
    assert {name: getattr(estimator, name) for name in fields} == fields


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_activations_are_counted_exactly(bits):
    """A layer rounded to 2**bits steps between its extremes: every level its own cell, and no other cell."""
    g = torch.Generator().manual_seed(bits)
    levels = torch.randint(0, 2**bits + 1, (1, 500, 2), generator=g)
    levels[0, 0, 0], levels[0, 1, 0] = 0, 2**bits
    t = -1.3 + levels.float() * (2.6 / 2**bits)
    found = parse(f"binning@lorenzen-2022-layer-{bits}bit").estimate(t, torch.arange(500) % 2)
    assert value(found, "H(T)") == pytest.approx(slow_entropy_bits(rows_as_tuples(levels[0])), abs=EXACT)


@pytest.mark.parametrize("power", [100, 127, -100, -140])
def test_extreme_scales_keep_their_cells(power):
    """Powers of two are exact: a span that overflows or widths below the normal numbers change no cell."""
    t, y = tied_layer(6, 2, 100, 2, 2, step=0.25)
    t[:, 0], t[:, 1] = -1.0, 1.0
    want = Binning(n_bins=7).estimate(t, y)
    got = Binning(n_bins=7).estimate((t.double() * 2.0**power).float(), y)
    for name in want:
        assert torch.equal(got[name].value, want[name].value), name


def test_many_cells_of_fixed_width_are_told_apart():
    """Codes too large for a radix: every different float code is a different cell."""
    t = torch.tensor([0.0, 1e-3, 1.0, 1e6, 1e20, -1e20, 3e30, 3.1e30])[None, :, None]
    y = torch.arange(8) % 2
    found = Binning(width=1e-3, null_draws=0).estimate(t, y)
    assert value(found, "H(T)") == 3.0


def test_width_too_fine_is_refused():
    t = torch.tensor([0.0, 3e38])[None, :, None]
    with pytest.raises(ValueError, match=r"width=1e-05 is too fine"):
        Binning(width=1e-5).estimate(t, torch.tensor([0, 1]))


# --- range over the run -----------------------------------------------------------------------------


def test_range_of_the_run_makes_snapshots_comparable():
    t, y = random_layer(7, 4, 300, 2, 3)
    t = t * torch.tensor([0.1, 1.0, 2.0, 4.0])[:, None, None]
    ready = Binning(n_bins=10).prepare(Blocks(t[:2], t[2:]), y)
    assert ready.run_range == (float(t.min()), float(t.max()))
    whole = ready.estimate(t, y)
    for s in range(4):
        assert torch.equal(ready.estimate(t[s : s + 1], y)["H(T)"].value, whole["H(T)"].value[s : s + 1])
    assert value(whole, "H(T)", 0) < value(whole, "H(T)", 3)
    assert not bool(whole["H(T)"].flags["out_of_range"].any())
    beyond = ready.estimate(1.5 * t, y)["H(T)"].flags["out_of_range"]
    assert beyond.tolist() == [False, False, False, True]


@pytest.mark.parametrize("range_", ["layer", "unit"])
def test_everything_but_the_value_of_a_constant_run_is_out_of_range(range_):
    t = torch.full((2, 6, 3), 0.25)
    y = torch.arange(6) % 2
    ready = Binning(range=range_).prepare(Blocks(t), y)
    assert ready.estimate(t, y)["H(T)"].value.tolist() == [0.0, 0.0]
    late = t.clone()
    late[1, :2, 1], late[1, 2:4, 1] = 0.25000003, -9.0
    found = ready.estimate(late, y)["H(T)"]
    assert found.flags["out_of_range"].tolist() == [False, True]
    assert float(found.value[1]) == pytest.approx(math.log2(3), abs=EXACT)


def test_prepare_passes_over_diverged_snapshots():
    t, y = random_layer(8, 3)
    broken = t.clone()
    broken[1, 4, 0] = math.nan
    ready = Binning().prepare(Blocks(broken), y)
    kept = t[[0, 2]]
    assert ready.run_range == (float(kept.min()), float(kept.max()))
    with pytest.raises(ValueError, match="no finite snapshot"):
        Binning().prepare(Blocks(torch.full((1, 4, 1), math.inf)), y[:4])


@pytest.mark.parametrize("units", [3, 40])
def test_range_per_unit(units):
    t, y = random_layer(9, 3, 100, units, 2)
    t = t * torch.logspace(-3, 3, units)
    ready = Binning(n_bins=5, range="unit").prepare(Blocks(t[:1], t[1:]), y)
    assert isinstance(ready.run_range, str) == (units > 32)
    direct = Binning(n_bins=5, range="unit").estimate(t, y)
    assert torch.equal(ready.estimate(t, y)["H(T)"].value, direct["H(T)"].value)
    # The scale of a unit means nothing now.
    assert value(Binning(n_bins=5, range="unit").estimate(t * 7, y), "H(T)") == value(direct, "H(T)")


def test_digest_without_edges_is_refused():
    t, y = random_layer(10, 1, 50, 40, 2)
    ready = Binning(range="unit").prepare(Blocks(t), y)
    again = Binning(range="unit", run_range=ready.run_range)
    with pytest.raises(ValueError, match=f"{ready.run_range}.*call prepare on the run"):
        again.estimate(t, y)
    with pytest.raises(ValueError, match=r"40 units, t has 7"):
        ready.estimate(t[:, :, :7], y)


# --- properties -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_coarser_bins_never_carry_more(seed):
    """Data processing: 16 bins -> 8 bins merges cells, so neither information can rise."""
    t, y = random_layer(seed)
    fine, coarse = (Binning(n_bins=n, range=(-1.0, 1.0), null_draws=0).estimate(t, y) for n in (16, 8))
    for name in ("I(T;Y)", "I(X;T)"):
        assert bool((coarse[name].value <= fine[name].value + EXACT).all())


def test_ceilings_are_entropies_of_rows_inputs_and_labels():
    """Eight rows, two of each input, one label in four."""
    t, _ = random_layer(0, 2, 8, 3, 2)
    y, ids = torch.tensor([1, 0, 0, 0]).repeat(2), torch.arange(4).repeat(2)
    found = Binning(n_bins=4).estimate(t, y, x_ids=ids)
    h_y = 2 - 0.75 * math.log2(3)
    ceilings = {"H(T)": 3.0, "I(X;T)": 2.0, "I(T;Y)": h_y, "I(T;Y) null": h_y, "I(X;T|Y)": 2 - h_y}
    for name, ceiling in ceilings.items():
        assert found[name].ceiling.tolist() == pytest.approx(ceiling, abs=EXACT), name


@pytest.mark.parametrize("seed", range(5))
def test_informations_stay_within_their_bounds(seed):
    t, y = random_layer(seed, 3, 150, 2, 4)
    found = Binning(n_bins=3 + seed).estimate(t, y)
    assert bool((found["I(T;Y)"].value >= 0).all())
    assert bool((found["I(T;Y)"].value <= found["I(T;Y)"].ceiling + EXACT).all())
    assert bool((found["I(T;Y)"].value <= found["H(T)"].value + EXACT).all())
    assert bool((found["I(X;T)"].value <= math.log2(150) + EXACT).all())
    chain = found["I(T;Y)"].value + found["I(X;T|Y)"].value
    assert torch.allclose(chain, found["I(X;T)"].value, atol=EXACT)


def test_order_and_names_of_rows_change_no_bit():
    t, y = tied_layer(11, 3, 300, 4, 3)
    g = torch.Generator().manual_seed(0)
    rows, units = torch.randperm(300, generator=g), torch.randperm(4, generator=g)
    first = Binning(n_bins=6).estimate(t, y)
    second = Binning(n_bins=6).estimate(t[:, rows][:, :, units], 5 - 2 * y[rows])
    for name in first:
        if name != "I(T;Y) null":
            assert torch.equal(first[name].value, second[name].value), name
    same_labels = Binning(n_bins=6).estimate(t[:, rows][:, :, units], y[rows])
    assert torch.equal(first["I(T;Y) null"].value, same_labels["I(T;Y) null"].value)


def test_early_exit_changes_nothing(monkeypatch):
    """Wide layers: all rows apart, some rows equal, most rows equal, and equal only outside the units looked at."""
    from infoplane.estimators._counting import counts

    g = torch.Generator().manual_seed(1)
    t = torch.randn(4, 600, 640, generator=g)
    t[1, :60] = t[1, 60:120]
    t[2] = t[2, :40].repeat(15, 1)
    t[3] = 0.5
    t[3, :, 1] = torch.arange(600) % 9
    y = torch.randint(0, 3, (600,), generator=g)
    estimator = Binning(width=0.1, corrections=("miller-madow", "chao-wang-jost"))
    early = estimator.estimate(t, y)
    monkeypatch.setattr(counts, "EARLY_UNITS", 10**9)
    full = estimator.estimate(t, y)
    for name in full:
        assert torch.equal(early[name].value, full[name].value), name
        for flag in full[name].flags:
            assert torch.equal(early[name].flags[flag], full[name].flags[flag]), (name, flag)
    assert value(full, "H(T)", 0) == pytest.approx(math.log2(600), abs=EXACT)
    assert value(full, "H(T)", 3) == pytest.approx(slow_entropy_bits((torch.arange(600) % 9).tolist()), abs=EXACT)


@pytest.mark.parametrize("range_", [(-0.5, 0.5), "layer"])
def test_early_exit_sees_values_out_of_range(range_):
    g = torch.Generator().manual_seed(2)
    t = torch.rand(2, 600, 640, generator=g) - 0.5
    y = torch.arange(600) % 2
    estimator = Binning(range=range_, null_draws=0).prepare(Blocks(t), y)
    t[1, 7, 5] = 4.0
    assert estimator.estimate(t, y)["I(X;T)"].flags["out_of_range"].tolist() == [False, True]
    t[1, 7, 5] = math.nan
    with pytest.raises(ValueError, match=r"1 non-finite values, first at snapshot 1, sample 7, unit 5"):
        estimator.estimate(t, y)
    with pytest.raises(ValueError, match="non-finite"):
        Binning(width=0.1).estimate(t, y)


def test_assumed_finite_gives_the_same_numbers():
    t, y = random_layer(12, 2, 600, 640, 2)
    want = Binning(width=0.1).estimate(t, y)
    with assume_finite():
        got = Binning(width=0.1).estimate(t, y)
    for name in want:
        assert torch.equal(got[name].value, want[name].value)


def test_growing_values_widen_the_cells_on_the_way():
    """Bounds seen so far are widened when a later group exceeds them; counts before and after stay right."""
    t, y = random_layer(13, 40, 5000, 2, 2)
    t = t * torch.linspace(3.0, 0.1, 40)[:, None, None]
    found = Binning(width=0.05, null_draws=0).estimate(t, y)
    for s in (0, 13, 27, 39):
        codes = rows_as_tuples(np.floor(t[s].numpy() / np.float32(0.05)))
        assert value(found, "H(T)", s) == pytest.approx(slow_entropy_bits(codes), abs=EXACT)


# --- null and flags ---------------------------------------------------------------------------------


def test_null_of_independent_labels_covers_the_estimate():
    """50 codes, 10 classes, independent, N = 1000: the plug-in averages .369 bits, and so does its null."""
    g = torch.Generator().manual_seed(0)
    t = torch.randint(0, 50, (200, 1000, 1), generator=g).double()
    y = torch.randint(0, 10, (1000,), generator=g)
    found = Binning(width=1.0).estimate(t, y)
    assert float(found["I(T;Y)"].value.mean()) == pytest.approx(0.369, abs=3 * 0.023 / math.sqrt(200) + 0.005)
    gap = found["I(T;Y)"].value - found["I(T;Y) null"].value
    assert abs(float(gap.mean())) < 0.01
    assert 0.9 < float(found["I(T;Y)"].flags["below_null"].double().mean()) <= 1.0
    assert bool((found["I(T;Y) null"].low <= found["I(T;Y) null"].value).all())
    assert bool((found["I(T;Y) null"].value <= found["I(T;Y) null"].high).all())


def test_flags_say_what_is_wrong():
    t, y = random_layer(14, 2, 40, 6, 3)
    found = Binning(n_bins=30).estimate(t, y)["I(T;Y)"].flags
    assert bool(found["saturated"].all())
    found = Binning(n_bins=2).estimate(t[:, :, :1], torch.arange(40) // 10)["I(T;Y)"].flags
    assert not bool(found["few_samples"].any())
    assert bool(Binning().estimate(t, torch.arange(40) // 5)["I(T;Y)"].flags["few_samples"].all())
    lonely = torch.zeros(40, dtype=torch.long)
    lonely[3] = 1
    assert bool(Binning().estimate(t, lonely)["I(T;Y)"].flags["few_samples"].all())
    one = Binning().estimate(t, torch.zeros(40, dtype=torch.long))["I(T;Y)"]
    assert bool(one.flags["single_class"].all())
    assert one.value.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("codes", "classes", "bits"), [(100, 10, 0.0), (300, 5, 0.0), (3, 2, 0.0), (30, 5, 1.0)])
def test_more_cells_than_samples_are_said(codes, classes, bits):
    """A thousand samples in `codes` x `classes` cells; T and Y independent, or each class with codes of its own."""
    g = torch.Generator().manual_seed(2)
    t = torch.randint(0, codes, (1, 1000, 1), generator=g).double()
    y = torch.randint(0, classes, (1000,), generator=g) if bits == 0 else (t[0, :, 0] % classes).long()
    found = Binning(width=1.0, corrections=("miller-madow", "chao-wang-jost")).estimate(t, y)
    truth = 0.0 if bits == 0 else math.log2(classes)
    off = abs(float(found["I(T;Y)"].value) - truth)
    assert bool(found["I(T;Y)"].flags["few_samples"]) is (off > 0.14)
    # At a little over one sample a cell the first-order correction leaves a tenth of a bit, at less much more.
    assert bool(found["I(T;Y) miller-madow"].flags["few_samples"]) is (codes * classes >= 1000)


def test_null_can_be_switched_off():
    t, y = random_layer(15)
    found = Binning(null_draws=0).estimate(t, y)
    assert "I(T;Y) null" not in found
    assert "below_null" not in found["I(T;Y)"].flags


def test_seed_moves_the_null_only():
    t, y = tied_layer(16)
    one, two = (Binning(n_bins=4, seed=s).estimate(t, y) for s in (0, 1))
    assert not torch.equal(one["I(T;Y) null"].value, two["I(T;Y) null"].value)
    assert torch.equal(one["I(T;Y)"].value, two["I(T;Y)"].value)


# --- settings and targets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_bins": 1}, "n_bins must be from 2 to 65533, got 1"),
        ({"width": 0.0}, "width must be positive and finite, got 0.0"),
        ({"width": 0.1, "n_bins": 20}, "give one or the other"),
        ({"width": 0.1, "range": (0, 1)}, "give one or the other"),
        ({"width": 0.1, "top": "open"}, "top and rounding do not apply"),
        ({"range": (1.0, 1.0)}, r"two finite numbers lo < hi, got \(1.0, 1.0\)"),
        ({"range": "epoch"}, "layer, unit, snapshot, snapshot_unit, got 'epoch'"),
        ({"top": "ajar"}, "'closed' or 'open', got 'ajar'"),
        ({"rounding": "up"}, "'floor' or 'nearest', got 'up'"),
        ({"rounding": "nearest", "top": "open"}, "top must be 'closed'"),
        ({"null_draws": -1}, "0 or more, got -1"),
        ({"null_draws": 2.5}, r"0 or more, got 2\.5"),
        ({"corrections": ("nsb",)}, "corrections are miller-madow.*got 'nsb'"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Binning(**fields)


def test_real_targets_need_a_rule():
    t, _ = random_layer(17, 1, 100, 1, 2)
    target = t[0, :, 0].double()
    with pytest.raises(ValueError, match=r"bin_targets\(y, n_bins=10\)"):
        Binning().estimate(t, target)
    y = bin_targets(target, n_bins=4)
    assert value(Binning(n_bins=30).estimate(t, y)) > 1.5


def test_bins_of_targets():
    y = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    assert bin_targets(y, 2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert bin_targets(y, 4).tolist() == [0, 0, 0, 1, 2, 2, 3, 3]
    assert bin_targets(y, 5, rule="width").tolist() == [0, 0, 0, 1, 2, 3, 4, 4]
    assert bin_targets(torch.full((4,), 2.0), 3, rule="width").tolist() == [2, 2, 2, 2]
    with pytest.raises(ValueError, match=r"\(8, 2\)"):
        bin_targets(y[:, None].repeat(1, 2))
    with pytest.raises(ValueError, match="first at sample 3"):
        bin_targets(torch.tensor([0.0, 1.0, 2.0, math.nan]))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        bin_targets(y, 1)
    with pytest.raises(ValueError, match="got 'equal'"):
        bin_targets(y, rule="equal")
