"""Keys, runs, counts, shuffled labels and corrections under the counting estimators."""

from __future__ import annotations

import contextlib
import math
from collections import Counter

import numpy as np
import pytest
import scipy.special
import torch
from truths import random_layer, rows_as_tuples, slow_entropy_bits, slow_information_bits, tied_layer

from infoplane.core.device import accelerator_branches
from infoplane.estimators._counting import CellCounts, null
from infoplane.estimators._counting import counts as counting
from infoplane.estimators._counting.corrections import CORRECTIONS, corrected_entropy
from infoplane.estimators._counting.counts import Runs, find_runs, joint_runs, sort_rows
from infoplane.estimators._counting.keys import (
    HashedKeys,
    OneHash,
    RadixKeys,
    collision_bound,
    label_bits,
    prime_below,
    row_keys,
)
from infoplane.estimators._driver import Given
from infoplane.estimators._labels import permutations
from infoplane.estimators.binning import Binning, _FixedWidth

CPU = torch.device("cpu")
EXACT = 1e-9


# --- keys -------------------------------------------------------------------------------------------


def keys_of(cells: torch.Tensor, keys, label=None) -> list[int]:
    label = torch.zeros(len(cells), dtype=torch.long) if label is None else label
    out = torch.empty(len(cells), dtype=torch.int32 if keys.bits <= 31 else torch.int64)
    keys(cells.to(keys.dtype), keys.base(label), out)
    return out.tolist()


@pytest.mark.parametrize(
    ("units", "radix", "low", "reserved"),
    [(3, 30, 0, 0), (10, 30, 0, 1), (10, 32, -16, 4), (12, 32, -1, 3), (1, 60000, -30000, 8), (62, 2, 0, 1)],
)
def test_radix_keys_are_the_row_in_that_base(units, radix, low, reserved):
    g = torch.Generator().manual_seed(units)
    cells = torch.randint(low, low + radix, (200, units), generator=g)
    cells[0], cells[1] = low, low + radix - 1
    label = torch.randint(0, 2**reserved, (200,), generator=g)
    keys = row_keys(units, radix, low, reserved, CPU)
    assert isinstance(keys, RadixKeys)
    got = keys_of(cells, keys, label)
    digits = [[q - low for q in row] for row in cells.tolist()]
    if len(keys.slabs) == 1:
        number = [sum(q * radix**k for k, q in enumerate(row)) for row in digits]
        assert [k >> reserved for k in got] == number
    assert all(0 <= k < 2**keys.bits for k in got)
    assert [k & (2**reserved - 1) for k in got] == label.tolist()
    # Equal exactly when the rows are: as many different keys as rows, and as pairs of both.
    whole = [k >> reserved for k in got]
    assert len(set(whole)) == len(set(rows_as_tuples(cells)))
    assert len(set(zip(whole, rows_as_tuples(cells), strict=True))) == len(set(whole))


@pytest.mark.cpu_branch
@pytest.mark.parametrize(
    ("units", "radix", "hashes"), [(40, 30, 6), (1000, 30, 6), (30_000, 30, 6), (40, 3000, 2), (3000, 60_000, 2)]
)
def test_hashed_keys_are_the_residues(units, radix, hashes):
    """Sums in float32 and float64 equal whole-number arithmetic without limit."""
    g = torch.Generator().manual_seed(units)
    low = -(radix // 2)
    cells = torch.randint(low, low + radix, (6, units), generator=g)
    cells[0], cells[1] = low, low + radix - 1
    keys = row_keys(units, radix, low, 4, CPU)
    assert isinstance(keys, HashedKeys)
    assert keys.hashes == hashes
    assert keys.prime > radix
    weights = keys.weights.to(torch.int64).tolist()
    label = torch.arange(6)
    want = []
    for row, k in zip(cells.tolist(), label.tolist(), strict=True):
        number = 0
        for w in weights:
            number = number * keys.prime + sum(m * q for m, q in zip(w, row, strict=True)) % keys.prime
        want.append((number << 4) | k)
    assert max(want) < 2**63
    assert keys_of(cells, keys, label) == want


@pytest.mark.cpu_branch
def test_both_kinds_of_hashes_tell_the_same_rows_apart():
    t, _ = tied_layer(1, 1, 2000, 40, 3, step=1.0)
    t[:, :, 6:] = 0
    cells = t[0]
    small, large = row_keys(40, 30, -15, 2, CPU), HashedKeys(40, 15, 2, CPU, 2, torch.float64)
    assert small.dtype == torch.float32
    rows = rows_as_tuples(cells)
    for keys in (small, large, OneHash(40, 30, -15, CPU)):
        got = keys_of(cells, keys)
        assert len(set(got)) == len(set(rows)) == len(set(zip(got, rows, strict=True))) < 2000


def test_cells_too_many_for_a_hash_are_refused():
    with pytest.raises(ValueError, match=r"cells must number less than \d+, got 4294967296"):
        row_keys(40, 2**32, 0, 4, CPU)


def test_hashes_of_small_primes_collide_as_often_as_stated():
    """P(two given rows collide) = p**-2: with p = 7, one pair in 49."""
    g = torch.Generator().manual_seed(0)
    hits = 0
    draws = 4000
    a, b = torch.tensor([[0, 1, 5, 2]]).double(), torch.tensor([[3, 1, 4, 2]]).double()
    for _ in range(draws):
        weights = torch.randint(0, 7, (2, 4), generator=g).double()
        hits += bool(((weights @ a.T) % 7 == (weights @ b.T) % 7).all())
    assert hits / draws == pytest.approx(1 / 49, abs=4 * math.sqrt(1 / 49 / draws))


def test_collision_bound():
    assert collision_bound(4096, 10, 30, 2) == 0.0
    assert collision_bound(4096, 1024, 30, 8) < 1.1e-11
    assert collision_bound(50_000, 128, 30, 8) < 1.3e-9
    assert collision_bound(50_000, 128, 30, 8) > collision_bound(4096, 128, 30, 8) > 0


def test_primes_and_label_bits():
    assert [prime_below(n) for n in (2, 3, 4, 30, 100, 2**31 - 1)] == [2, 3, 3, 29, 97, 2**31 - 1]
    assert [label_bits(k) for k in (1, 2, 3, 4, 5, 256)] == [0, 1, 2, 2, 3, 8]


# --- runs -------------------------------------------------------------------------------------------


def counts_by_row(runs: Runs) -> list[list[int]]:
    """The counts of each snapshot in rising order, those seen once included."""
    out = []
    for s in range(len(runs.codes)):
        listed = runs.lengths[runs.offsets[s] : runs.offsets[s + 1]].tolist()
        out.append(sorted(listed + [1] * (int(runs.codes[s]) - len(listed))))
    return out


@pytest.mark.parametrize("distinct", [1, 2, 7, 60, 10**6])
@pytest.mark.parametrize("branch", [contextlib.nullcontext, accelerator_branches])
def test_runs_equal_counter(branch, distinct):
    g = torch.Generator().manual_seed(distinct)
    keys = torch.randint(0, distinct, (5, 97), generator=g) * 4 + torch.randint(0, 4, (5, 97), generator=g)
    keys[2] = torch.arange(97) * 4
    keys[3] = 12
    with branch():
        t, ty = joint_runs(sort_rows(keys.clone()), 2)
    assert counts_by_row(t) == [sorted(Counter(row).values()) for row in (keys >> 2).tolist()]
    assert counts_by_row(ty) == [sorted(Counter(row).values()) for row in keys.tolist()]
    for runs, k in ((t, keys >> 2), (ty, keys)):
        assert runs.singles.tolist() == [sum(c == 1 for c in Counter(row).values()) for row in k.tolist()]
        assert counts_by_row(runs.repeated()) == counts_by_row(runs)


def test_runs_do_not_reach_into_the_next_snapshot():
    keys = torch.full((3, 4), 9)
    assert counts_by_row(find_runs(keys)) == [[4], [4], [4]]
    assert joint_runs(keys, 0)[0].codes.tolist() == [1, 1, 1]


# --- plug-in ----------------------------------------------------------------------------------------


def counted(t, y, ids, width, *, null_draws=0, seed=0):
    """The counts of cells of one width, and the numbers they give."""
    given = Given(t, y, None, ids)
    problem = CellCounts(Binning(width=width, null_draws=null_draws, seed=seed), given, _FixedWidth(t, width), {})
    return problem, problem.chunk(t)


@pytest.mark.parametrize("classes", [1, 2, 5, 300])
@pytest.mark.parametrize("shared_inputs", ["none", "pairs", "pairs with two labels", "uneven"])
def test_all_quantities_equal_the_slow_reference(classes, shared_inputs):
    t, y = tied_layer(classes, 3, 120, 2, classes)
    ids = {"none": torch.arange(120), "uneven": torch.arange(120) ** 2 // 300}.get(
        shared_inputs, torch.arange(120) // 2
    )
    if shared_inputs == "pairs":
        y = y[ids * 2]
    y = torch.unique(y, return_inverse=True)[1]
    ids = torch.unique(ids, return_inverse=True)[1]
    problem, found = counted(t, y, ids, 0.5)
    for s in range(3):
        codes, labels, inputs = rows_as_tuples(t[s]), y.tolist(), ids.tolist()
        assert float(found["H(T)"][s]) == pytest.approx(slow_entropy_bits(codes), abs=EXACT)
        assert float(found["I(T;Y)"][s]) == pytest.approx(slow_information_bits(codes, labels), abs=EXACT)
        assert float(found["I(X;T)"][s]) == pytest.approx(slow_information_bits(codes, inputs), abs=EXACT)
        both, ty, xy = (
            list(zip(codes, inputs, labels, strict=True)),
            list(zip(codes, labels, strict=True)),
            list(zip(inputs, labels, strict=True)),
        )
        conditional = (
            slow_entropy_bits(ty) + slow_entropy_bits(xy) - slow_entropy_bits(both) - slow_entropy_bits(labels)
        )
        assert float(found["I(X;T|Y)"][s]) == pytest.approx(conditional, abs=EXACT)
        assert int(found["codes"][s]) == len(set(codes))
        of_code = Counter(code for code, _ in set(zip(codes, inputs, strict=True)))
        assert int(found["singles"][s]) == sum(c == 1 for c in of_code.values())
    assert problem.h_x == pytest.approx(slow_entropy_bits(ids.tolist()), abs=EXACT)
    assert problem.h_y == pytest.approx(slow_entropy_bits(y.tolist()), abs=EXACT)


def test_entropy_at_its_ends_is_exact():
    for samples in (2, 3, 1000, 4097, 100_003):
        t = torch.arange(samples).double()[None, :, None]
        y, ids = torch.arange(samples) % 2, torch.arange(samples)
        problem, apart = counted(t, y, ids, 1.0)
        assert float(apart["H(T)"]) == pytest.approx(math.log2(samples), rel=1e-15)
        assert float(apart["I(T;Y)"]) == problem.h_y
        _, same = counted(0 * t, y, ids, 1.0)
        assert float(same["H(T)"]) == float(same["I(T;Y)"]) == float(same["I(X;T)"]) == 0.0


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_chunks_and_groups_change_nothing(monkeypatch, chunk):
    t, y = tied_layer(3, 5, 50, 4, 3)
    want = Binning(n_bins=5).estimate(t, y)
    monkeypatch.setattr(counting, "CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(counting, "GROUP_ROWS", chunk)
    got = Binning(n_bins=5).estimate(t, y)
    for name in want:
        assert torch.equal(got[name].value, want[name].value), name


def test_memory_does_not_grow_with_snapshots():
    """Peak growth of the process over the input, in a process of its own."""
    import subprocess
    import sys

    script = """
import resource, torch
from infoplane.estimators.binning import Binning
torch.set_num_threads(1)
t, y = torch.rand(200, 4096, 10), torch.arange(4096) % 2
Binning(width=0.07).estimate(t[:8], y)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Binning(width=0.07).estimate(t, y)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    grown = float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
    assert grown < 20, f"grew by {grown:.1f} MiB"


# --- shuffled labels --------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_null_equals_shuffling_the_labels(classes):
    """The shuffle over codes in falling order of count is one of the labels: each draw by the slow way."""
    t, y = tied_layer(classes, 2, 150, 2, classes)
    problem, found = counted(t, torch.unique(y, return_inverse=True)[1], torch.arange(150), 0.5, null_draws=6, seed=3)
    labels = problem.labels
    drawn = torch.arange(labels.classes).repeat_interleave(labels.class_counts)[permutations(150, 6, 3)]
    for s in range(2):
        by_count = sorted(Counter(rows_as_tuples(t[s])).items(), key=lambda item: -item[1])
        codes = [code for code, n in by_count for _ in range(n)]
        for d in range(6):
            assert sorted(drawn[d].tolist()) == sorted(labels.y.tolist())
            want = slow_information_bits(codes, drawn[d].tolist())
            assert float(found["null"][s, d]) == pytest.approx(want, abs=EXACT)


def test_both_ways_of_counting_shuffles_agree(monkeypatch):
    t, y = tied_layer(8, 3, 200, 2, 4)
    _, by_table = counted(t, y, torch.arange(200), 0.5, null_draws=5)
    monkeypatch.setattr(null, "_TABLE_BYTES", 0)
    _, by_sort = counted(t, y, torch.arange(200), 0.5, null_draws=5)
    assert torch.equal(by_table["null"], by_sort["null"])


def test_labels_of_repeated_inputs_are_shuffled_together():
    """Ten passes over 30 inputs whose codes are their own: shuffled inputs still determine their label."""
    ids = torch.arange(30).repeat(10)
    t = ids.double()[None, :, None]
    problem, found = counted(t, ids % 3, ids, 1.0, null_draws=4)
    assert problem.labels.uniform
    assert torch.allclose(found["null"], torch.full_like(found["null"], problem.h_y), atol=EXACT)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    noisy = (t + torch.randint(0, 2, (300,), generator=torch.Generator().manual_seed(2))[:, None]) // 4
    _, one = counted(noisy, ids % 3, ids, 1.0, null_draws=4)
    _, two = counted(noisy[:, order], ids[order] % 3, ids[order], 1.0, null_draws=4)
    assert torch.equal(one["null"], two["null"])


# --- corrections ------------------------------------------------------------------------------------


def slow_corrected(counts: list[int], name: str) -> float:
    """The published formulas, term by term, in nats, returned in bits."""
    n_all, digamma = sum(counts), scipy.special.digamma

    def plug(some):
        total = sum(some)
        return -sum(c / total * math.log(c / total) for c in some if c)

    once, twice = counts.count(1), counts.count(2)
    if name == "miller-madow":
        nats = plug(counts) + (len(counts) - 1) / (2 * n_all)
    elif name == "jackknife":
        left_out = sum(c * plug([*counts[:i], c - 1, *counts[i + 1 :]]) for i, c in enumerate(counts))
        nats = n_all * plug(counts) - (n_all - 1) / n_all * left_out
    elif name == "grassberger":
        nats = (
            math.log(n_all)
            - sum(c * (digamma(c) + 0.5 * (-1) ** c * (digamma((c + 1) / 2) - digamma(c / 2))) for c in counts) / n_all
        )
    elif name == "chao-shen":
        f1 = once - 1 if once == n_all else once
        coverage = 1 - f1 / n_all
        nats = sum(-(p := coverage * c / n_all) * math.log(p) / (1 - (1 - p) ** n_all) for c in counts)
    else:
        nats = sum(c / n_all * sum(1 / k for k in range(c, n_all)) for c in counts if c < n_all)
        if once:
            if twice:
                a = 2 * twice / ((n_all - 1) * once + 2 * twice)
            else:
                a = 2 / ((n_all - 1) * (once - 1) + 2)
            if a < 1:
                rest = -math.log(a) - sum((1 - a) ** r / r for r in range(1, n_all))
                nats += once / n_all * (1 - a) ** (1 - n_all) * rest
    return nats / math.log(2)


COUNTS = (
    [5, 3, 2, 2, 1, 1],
    [10],
    [1] * 12,
    [1] * 11 + [2],
    [4, 4, 4],
    [2, 2, 2, 1],
    [30, 20, 7, 3, 2, 1, 1, 1],
)


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_corrections_equal_their_formulas(name, counts):
    got = corrected_entropy(Runs.of_counts(torch.tensor(counts)), sum(counts), name)
    assert float(got) == pytest.approx(slow_corrected(counts, name), abs=1e-9)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_corrections_of_many_snapshots(name):
    t, y = tied_layer(2, 4, 90, 2, 3)
    found = Binning(width=0.5, null_draws=0, corrections=(name,)).estimate(t, y)
    for s in range(4):
        codes = rows_as_tuples(t[s])
        h_t, h_y, h_ty = (
            slow_corrected(list(Counter(v).values()), name)
            for v in (codes, y.tolist(), zip(codes, y.tolist(), strict=True))
        )
        assert float(found[f"H(T) {name}"].value[s]) == pytest.approx(h_t, abs=EXACT)
        assert float(found[f"I(X;T) {name}"].value[s]) == pytest.approx(h_t, abs=EXACT)
        assert float(found[f"I(T;Y) {name}"].value[s]) == pytest.approx(h_t + h_y - h_ty, abs=EXACT)


def test_corrections_do_not_depend_on_order():
    t, y = tied_layer(5, 2, 200, 3, 3)
    estimator = Binning(width=0.5, corrections=CORRECTIONS)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(4))
    one, two = estimator.estimate(t, y), estimator.estimate(t[:, order].flip(2), y[order])
    for name in one:
        assert torch.equal(one[name].value, two[name].value), name


def test_information_about_shared_inputs_is_not_corrected():
    t, y = tied_layer(6, 1, 60, 2, 2)
    found = Binning(width=0.5, corrections=("miller-madow",)).estimate(t, y, x_ids=torch.arange(60) // 2)
    assert "H(T) miller-madow" in found
    assert "I(X;T) miller-madow" not in found


def test_corrections_remove_the_bias_of_independent_labels():
    """T uniform on 50 codes, Y on 10, independent, N = 1000: the plug-in is .37 bits too high.

    Miller-Madow, which counts only the pairs seen, leaves a quarter of it; Chao-Wang-Jost and the difference to
    the null cover 0 within their spread.
    """
    g = torch.Generator().manual_seed(1)
    t = torch.randint(0, 50, (100, 1000, 1), generator=g).double()
    y = torch.randint(0, 10, (1000,), generator=g)
    found = Binning(width=1.0, corrections=CORRECTIONS).estimate(t, y)

    def mean(name):
        return float(found[name].value.mean())

    assert mean("I(T;Y)") == pytest.approx(0.369, abs=0.01)
    pairs = sum(len(set(zip(row, y.tolist(), strict=True))) for row in t[:, :, 0].tolist()) / 100
    fall = (pairs - 50 - 10 + 1) / (2 * 1000 * math.log(2))
    assert mean("I(T;Y)") - mean("I(T;Y) miller-madow") == pytest.approx(fall, abs=1e-6)
    assert mean("I(T;Y) miller-madow") < mean("I(T;Y)") / 3
    assert abs(mean("I(T;Y) chao-wang-jost")) < 0.05
    assert abs(mean("I(T;Y)") - mean("I(T;Y) null")) < 0.01


@pytest.mark.parametrize(("samples", "codes"), [(200, 400), (500, 1000)])
def test_chao_wang_jost_helps_where_most_codes_are_unseen(samples, codes):
    rng = np.random.default_rng(0)
    t = torch.from_numpy(rng.integers(0, codes, (50, samples, 1))).double()
    found = Binning(width=1.0, null_draws=0, corrections=("chao-wang-jost",)).estimate(t, torch.arange(samples) % 2)
    truth = math.log2(codes)
    plain = abs(float(found["H(T)"].value.mean()) - truth)
    better = abs(float(found["H(T) chao-wang-jost"].value.mean()) - truth)
    assert better < plain / 4


def raised(q):
    return {name for name, on in q.flags.items() if bool(on.all())}


@pytest.mark.parametrize(
    ("codes", "classes"),
    [
        (torch.arange(400.0), 2),  # every code once
        (torch.cat([torch.arange(300.0), torch.zeros(100)]), 4),  # most codes once beside one large one
        (torch.arange(400.0) % 5, 5),  # the label itself: only I(T;Y) is at its ceiling
    ],
)
def test_corrections_keep_the_flags_of_what_they_correct(codes, classes):
    y = torch.arange(400) % classes
    found = Binning(width=1.0, null_draws=0, corrections=CORRECTIONS).estimate(codes[None, :, None], y)
    for plain in ("I(X;T)", "H(T)", "I(T;Y)"):
        for name in CORRECTIONS:
            assert bool(found[f"{plain} {name}"].flags["saturated"]) == bool(found[plain].flags["saturated"])
    assert "saturated" in raised(found["I(T;Y)"])


@pytest.mark.parametrize("name", CORRECTIONS)
def test_tables_of_codes_seen_once_are_too_thin_to_be_corrected(name):
    """Chao-Wang-Jost reads 18.9 bits where 400 samples are all there is: a guess from no code seen twice."""
    y = torch.arange(400) % 2
    found = Binning(width=1.0, null_draws=0, corrections=(name,)).estimate(torch.arange(400.0)[None, :, None], y)
    for quantity in ("I(X;T)", "H(T)", "I(T;Y)"):
        assert {"saturated", "few_samples"} <= raised(found[f"{quantity} {name}"]), quantity
    # Codes that all have company, each pair with its label seen once: the joint table alone is thin.
    found = Binning(width=1.0, null_draws=0, corrections=(name,)).estimate(
        (torch.arange(400.0) // 20)[None, :, None], torch.arange(400) % 20
    )
    assert "few_samples" in raised(found[f"I(T;Y) {name}"])
    assert not raised(found[f"H(T) {name}"])


def test_well_filled_tables_are_corrected_without_a_flag():
    g = torch.Generator().manual_seed(0)
    t, y = torch.randint(0, 8, (1, 1000, 1), generator=g).double(), torch.randint(0, 3, (1000,), generator=g)
    found = Binning(width=1.0, null_draws=0, corrections=CORRECTIONS).estimate(t, y)
    assert not any(raised(q) for name, q in found.items() if name.split()[-1] in CORRECTIONS)


def test_random_layers_keep_corrections_finite():
    for seed in range(3):
        t, y = random_layer(seed, 2, 64, 4, 3)
        for width in (1e-3, 0.2, 1.0, 10.0):
            found = Binning(width=width, corrections=CORRECTIONS).estimate(t, y)
            assert all(bool(torch.isfinite(q.value).all()) for q in found.values())
