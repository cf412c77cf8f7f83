"""Whole numbers beyond 2**53 are told apart or refused, wherever they enter: as T, X, Y, ids, at once or over a run."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from infoplane.core.exact import exact_float64
from infoplane.diagnostics import match_units
from infoplane.estimators import available, bin_targets, check_inputs, parse

N = 64
Y = torch.arange(N) % 2
CODES = torch.arange(N)[:, None].repeat(1, 2)
FAR = {
    "far": CODES * 3 + 2**60,
    "far below": CODES - 2**62,
    "one step too far": torch.where(CODES == 5, 2**53 + 1, CODES),
    "unsigned": (CODES + 2**60).to(torch.uint64),
    "beyond int64": torch.from_numpy(CODES.numpy().astype(np.uint64) + np.uint64(2**63)),
}
REFUSED = r"has whole numbers from -?\d+ to -?\d+; .* 2\*\*53"


class Blocks(list):
    noise = None


@pytest.mark.parametrize("name", sorted(available()))
@pytest.mark.parametrize("kind", FAR)
def test_no_estimator_takes_neighbours_for_one(name, kind):
    with pytest.raises(ValueError, match="t " + REFUSED):
        parse(name).estimate(FAR[kind][None], Y)


@pytest.mark.parametrize(
    "spec", ["binning", "binning:range=unit", "adaptive:whole_run=true", "hsic", "cs-qmi", "dse", "noise"]
)
@pytest.mark.parametrize("kind", ["far", "unsigned"])
def test_nor_one_that_sees_the_run_first(spec, kind):
    with pytest.raises(ValueError, match=REFUSED):
        parse(spec).prepare(Blocks([FAR[kind][None]]), Y)


@pytest.mark.parametrize("spec", ["hsic", "renyi", "cs-qmi", "dse", "compressed:noise=recorded"])
@pytest.mark.parametrize("kind", ["far", "beyond int64"])
def test_nor_one_that_needs_the_inputs(spec, kind):
    t = torch.randn(1, N, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="x " + REFUSED):
        parse(spec).estimate(t, Y, x=FAR[kind])


@pytest.mark.parametrize("kind", FAR)
def test_cells_of_a_fixed_width_are_exact_for_codes_of_any_size(kind):
    values = FAR[kind].tolist()
    for width in (0.5, 1, 4):
        counts = Counter(tuple(v // max(1, int(width)) for v in row) for row in values)
        expected = -sum(c / N * math.log2(c / N) for c in counts.values())
        found = parse(f"binning:width={width}").estimate(FAR[kind][None], Y)
        assert float(found["I(X;T)"].value[0]) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="t " + REFUSED):
        parse("binning:width=1.5").estimate(FAR[kind][None], Y)


def test_whole_numbers_up_to_the_bound_are_exact():
    near = CODES[:, :1] * 2 + (2**53 - 2 * N)
    found = parse("binning:width=1").estimate(near[None], Y)
    assert float(found["I(X;T)"].value[0]) == math.log2(N)
    edge = torch.tensor([[[2**53], [-(2**53)]]])
    t = check_inputs(edge, Y[:2], targets=frozenset({"discrete"}), name="any")[0]
    assert t.tolist() == [[[2.0**53], [-(2.0**53)]]]
    for kind in (torch.uint8, torch.int16, torch.uint16, torch.uint32, torch.uint64):
        found = parse("binning:width=1").estimate(CODES.to(kind)[None], Y)
        assert float(found["I(X;T)"].value[0]) == math.log2(N)


@pytest.mark.parametrize(
    "move",
    [
        lambda y: y * 2 + 2**60,
        lambda y: y - 2**62,
        lambda y: torch.from_numpy(y.numpy().astype(np.uint64) + np.uint64(2**63)),
    ],
)
def test_labels_and_ids_are_names_of_any_size(move):
    t = torch.randn(1, N, 2, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(N) // 2
    for spec in ("binning", "kde", "knn"):
        found, expected = (parse(spec).estimate(t, y, x_ids=i) for y, i in ((move(Y), move(ids)), (Y, ids)))
        for name, q in expected.items():
            assert torch.equal(found[name].value, q.value), (spec, name)


def test_targets_to_be_binned():
    with pytest.raises(ValueError, match="y " + REFUSED):
        bin_targets(torch.arange(20) + 2**60)
    assert bin_targets(torch.arange(20), n_bins=2).tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize("spec", ["probe", "renyi", "cs-qmi", "knn", "gaussian", "compressed"])
def test_a_spread_that_counts_as_rounding_is_flagged(spec):
    """2**52 + {0, 1} is exact, but its spread is no more than rounding beside its size: a zero is no estimate."""
    found = parse(spec).estimate((Y + 2**52)[None, :, None], Y)
    for q in (q for name, q in found.items() if name.endswith("(T;Y)")):
        assert float(q.value[0]) > 0.3 or bool(q.flags["degenerate"].all())


def test_arrays_of_diagnostics():
    with pytest.raises(ValueError, match="a " + REFUSED):
        match_units(FAR["far"].numpy(), CODES.numpy())
    assert exact_float64(np.array([2**53]), "it").tolist() == [2.0**53]
    with pytest.raises(ValueError, match=f"it has whole numbers from 0 to {2**64 - 1}"):
        exact_float64(np.array([0, 2**64 - 1], dtype=np.uint64), "it")
