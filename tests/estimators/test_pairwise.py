"""Blocked kernel sums against plain N x N float64 sums, their accuracy, range and memory."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from infoplane.estimators._labels import Grouping, class_spans, shuffle_labels
from infoplane.estimators._mixture import NullColumns, columns_pay
from infoplane.estimators._pairwise import CentredRows, float32_is_exact, kernel_sums


def slow_sums(rows, std, label=None):
    """Narrow and wide sums from all differences, (N,) each."""
    rows = rows.double()
    square = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    kernels = torch.exp(-square / (2 * std**2)), torch.exp(-square / (8 * std**2))
    if label is not None:
        same = (label[:, None] == label[None]).double()
        kernels = tuple(k * same for k in kernels)
    return tuple(k.sum(1) for k in kernels)


def sums_of(rows, std, counts, *, order=None, extra=None, dtype=None, wide=True, **how):
    centred = CentredRows(rows, std, order=order, extra=extra, dtype=dtype, wide=wide)
    return kernel_sums(centred, counts, **how)


def random_rows(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.tanh(torch.randn(n, d, generator=generator, dtype=torch.float64)).to(dtype)


def random_labels(n, classes, seed=1):
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [16, 64, 512])
@pytest.mark.parametrize("classes", [1, 2, 7, 150])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_sums_equal_the_plain_ones(size, classes, dtype, tolerance):
    """Blocks inside a class, across classes, and with several small classes in them."""
    rows, y = random_rows(203, 5), random_labels(203, classes)
    groups = Grouping.of(y)
    found = sums_of(rows, 0.5, groups.counts, order=groups.order, size=size, dtype=dtype)
    assert CentredRows(rows, 0.5, dtype=dtype, wide=True).take(slice(0, 3)).dtype == dtype
    expected = (*slow_sums(rows, 0.5), *slow_sums(rows, 0.5, y))
    parts = (found.narrow, found.wide, found.narrow_within, found.wide_within)
    for part, whole in zip(parts, expected, strict=True):
        torch.testing.assert_close(part, whole[groups.order], rtol=tolerance, atol=0)


@pytest.mark.parametrize("size", [16, 512])
@pytest.mark.parametrize("classes", [1, 3, 90])
def test_pairs_within_classes_alone_give_the_same_sums(size, classes):
    rows, y = random_rows(160, 3), random_labels(160, classes)
    groups = Grouping.of(y)
    whole = sums_of(rows, 0.3, groups.counts, order=groups.order, size=size)
    within = sums_of(rows, 0.3, groups.counts, order=groups.order, size=size, within_only=True)
    torch.testing.assert_close(within.narrow_within, whole.narrow_within, rtol=1e-14, atol=0)
    torch.testing.assert_close(within.wide_within, whole.wide_within, rtol=1e-14, atol=0)
    alone = sums_of(rows, 0.3, groups.counts, order=groups.order, size=size, within_only=True, wide=False)
    torch.testing.assert_close(alone.narrow_within, whole.narrow_within, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kept", [0, 4000])
@pytest.mark.parametrize("within_only", [False, True])
def test_rows_made_anew_for_each_block_give_the_same_sums(kept, within_only, monkeypatch):
    """None of the rows kept, and several spans of left factors held at a time."""
    rows, y = random_rows(150, 6), random_labels(150, 4)
    groups = Grouping.of(y)
    expected = sums_of(rows, 0.4, groups.counts, order=groups.order, size=16, within_only=within_only)
    monkeypatch.setattr("infoplane.estimators._pairwise.CACHED_BYTES", kept)
    found = sums_of(rows, 0.4, groups.counts, order=groups.order, size=16, within_only=within_only)
    for name in ("narrow", "wide", "narrow_within", "wide_within"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-13, atol=0)


@pytest.mark.parametrize("size", [32, 512])
def test_columns_are_multiplied_with_the_narrow_kernel(size):
    rows = random_rows(120, 4)
    columns = torch.rand(6, 120, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = sums_of(rows, 0.4, [70, 50], columns=columns, size=size)
    square = torch.cdist(rows, rows).square()
    torch.testing.assert_close(found.columns, columns @ torch.exp(-square / (2 * 0.4**2)), rtol=1e-12, atol=0)


def test_extra_coordinates_are_in_units_of_their_noise():
    rows, targets = random_rows(80, 3), random_rows(80, 2, seed=5)
    found = sums_of(rows, 0.25, [80], extra=targets / 0.5)
    expected = slow_sums(torch.cat([rows / 0.25, targets / 0.5], dim=1), 1.0)
    torch.testing.assert_close(found.narrow, expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found.wide, expected[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("counts", [[1000], [600, 400], [3] * 300, [511, 1, 1, 513, 64, 900], [1] * 40])
def test_spans_cover_every_row_once_and_know_their_classes(counts):
    spans = class_spans(counts, 128)
    label = torch.repeat_interleave(torch.tensor(counts))
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == sum(counts)
    for span in spans:
        assert 0 < len(span) <= 128
        assert (int(label[span.start]), int(label[span.stop - 1])) == (span.low, span.high)


# The grid on which the Gram form was measured: 512 rows, worst of the four sums; q ranges from 0.6 to 5e6.
GRID = [
    ("spread", 10, 0.1),
    ("saturated", 1024, 0.1),
    ("saturated", 1024, 1e-3),
    pytest.param("saturated", 4096, 1e-3, marks=pytest.mark.slow),
    ("relu", 128, 1e-3),
    ("relu", 1024, 1e-3),
    pytest.param("relu", 4096, 1e-3, marks=pytest.mark.slow),
    ("near duplicates", 1024, 1e-3),
]


@pytest.mark.parametrize(("kind", "units", "variance"), GRID)
def test_chosen_precision_errs_by_less_than_a_millinat(kind, units, variance):
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(16, units, generator=generator).repeat(32, 1)
    noise = torch.randn(512, units, generator=generator)
    rows = {
        "spread": torch.tanh(noise),
        "saturated": torch.tanh(5 * centre + 0.02 * noise),
        "relu": torch.relu(centre + 0.02 * noise) + 10,
        "near duplicates": 1 + 1e-3 * noise,
    }[kind]
    y = random_labels(512, 2)
    groups, std = Grouping.of(y), math.sqrt(variance)
    found = sums_of(rows, std, groups.counts, order=groups.order)
    expected = (*slow_sums(rows, std), *slow_sums(rows, std, y))
    parts = (found.narrow, found.wide, found.narrow_within, found.wide_within)
    for part, whole in zip(parts, expected, strict=True):
        assert abs(float(part.log().mean() - whole.log().mean())) < 1e-3


def test_precision_follows_the_spread_and_the_dtype_of_the_rows():
    rows = random_rows(64, 10, dtype=torch.float32)
    assert CentredRows(rows, 0.3).dtype == torch.float32
    assert CentredRows(rows, 1e-3).dtype == torch.float64
    assert CentredRows(rows.double(), 0.3).dtype == torch.float64
    assert not CentredRows(rows, 1e-5).direct
    assert CentredRows(rows, 1e-7).direct


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_float32_is_not_used_where_its_products_are_cut(precision):
    rows = random_rows(64, 10, dtype=torch.float32)
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert CentredRows(rows, 0.3).dtype == torch.float64
        assert not float32_is_exact(torch.device("cuda"))
    finally:
        torch.set_float32_matmul_precision(kept)
    assert float32_is_exact(torch.device("cpu"))


@pytest.mark.parametrize("factor", [1e-310, 1e-200, 1e200, 1e300])
def test_any_scale_gives_the_sums_of_the_scaled_rows(factor):
    """Within the precision of a denormal, 14 bits at 1e-310."""
    rows = random_rows(50, 3)
    found = sums_of(rows * factor, 0.5 * factor, [50])
    expected = sums_of(rows, 0.5, [50])
    torch.testing.assert_close(found.narrow, expected.narrow, rtol=1e-3 if factor < 1e-300 else 1e-9, atol=0)


def test_noise_far_below_or_above_the_rows_is_a_limit_not_an_error():
    rows = random_rows(40, 3)
    apart = sums_of(rows * 1e300, 0.3, [40])
    assert torch.equal(apart.narrow, torch.ones(40, dtype=torch.float64))
    merged = sums_of(rows * 1e-310, 0.3, [40])
    assert torch.equal(merged.narrow, torch.full((40,), 40.0, dtype=torch.float64))


def test_distances_beyond_the_gram_form_are_taken_directly():
    """q = 1e17: twins 1e-8 apart at distance 1e3 from their likes, with noise of 1e-6."""
    centres = 1e3 * random_rows(20, 4)
    rows = torch.cat([centres, centres + 5e-7])
    found = sums_of(rows, 1e-6, [40])
    torch.testing.assert_close(found.narrow, slow_sums(rows, 1e-6)[0], rtol=1e-6, atol=0)
    assert float(found.narrow.min()) > 1.5


def test_offset_of_float32_rows_does_not_reach_the_sums():
    """Plain float32 Gram products of these rows give more than log N nats."""
    exact = torch.randint(-64, 64, (500, 20), generator=torch.Generator().manual_seed(0)) / 64
    shifted = (exact + 100).to(torch.float32)
    found = sums_of(shifted, 0.2, [500])
    torch.testing.assert_close(found.narrow, slow_sums(exact, 0.2)[0], rtol=1e-4, atol=0)
    assert float((math.log(500) - found.narrow.log()).mean()) <= math.log(500)


def test_equal_rows_sum_to_their_number_exactly():
    rows = torch.full((300, 7), 1.1e8, dtype=torch.float32)
    found = sums_of(rows, 1e-3, [100, 200], size=64)
    assert CentredRows(rows, 1e-3, wide=True).spread == 0.0
    assert torch.equal(found.narrow, torch.full((300,), 300.0, dtype=torch.float64))
    assert found.wide_within.tolist() == [100.0] * 100 + [200.0] * 200


@pytest.mark.parametrize("classes", [2, 5])
def test_null_columns_give_the_sums_of_the_shuffled_classes(classes):
    rows, y = random_rows(130, 3), random_labels(130, classes)
    groups = Grouping.of(y)
    shuffled = shuffle_labels(y, torch.arange(130), 4, 0)[:, groups.order]
    null = NullColumns(shuffled, classes)
    found = sums_of(rows, 0.3, groups.counts, order=groups.order, columns=null.columns)
    own = null.own_sums(found.columns, found.narrow)
    for labels, sums in zip(shuffled, own, strict=True):
        expected = slow_sums(rows[groups.order], 0.3, labels)[0]
        torch.testing.assert_close(sums, expected, rtol=1e-12, atol=0)


def test_shuffles_keep_the_class_sizes_and_the_labels_of_one_input_together():
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    x_ids = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    drawn = shuffle_labels(y, x_ids, 50, 0)
    assert (torch.sort(drawn, dim=1).values == y).all()
    assert (drawn[:, ::2] == drawn[:, 1::2]).all()
    split = torch.tensor([0, 1, 0, 0, 1, 1, 2, 2])  # one input with two labels: rows are shuffled
    assert (shuffle_labels(split, x_ids, 50, 0)[:, ::2] != shuffle_labels(split, x_ids, 50, 0)[:, 1::2]).any()


def test_many_classes_take_their_null_from_pairs_within_them():
    assert columns_pay(2, 4096, 10, 20)
    assert not columns_pay(10, 4096, 10, 20)
    assert columns_pay(10, 4096, 1024, 20)
    assert columns_pay(10, 500, 10, 20)
    assert not columns_pay(2, 1_000_000, 10, 20)


MEMORY = """
import resource, torch
torch.set_num_threads(1)
from infoplane.estimators._pairwise import CentredRows, kernel_sums
kernel_sums(CentredRows(torch.randn(600, 30).double(), 0.1, wide=True), [600])
t = torch.randn({n}, {d})
columns = torch.ones(20, {n})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = CentredRows(t, 3.0, dtype=torch.{dtype}, wide=True)
kernel_sums(rows, [{n} // 2, {n} - {n} // 2], columns=columns)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "dtype"), [(12_000, 10, "float32"), (3000, 4096, "float64")])
def test_memory_beyond_the_rows_stays_under_64_mib(n, d, dtype):
    """An N x N matrix would be 550 MiB, a float64 copy of the rows 94 MiB."""
    code = MEMORY.format(n=n, d=d, dtype=dtype)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024
