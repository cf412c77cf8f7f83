"""Every row of the table of truths, tried in every way that must not change it."""

from __future__ import annotations

import functools

import pytest
import torch
from truths_table import TRUTHS, Problem, Truth

from infoplane.core.device import accelerator_branches
from infoplane.estimators import Quantity, available, parse

SAME = 1e-9
# A flow trains for seconds; test_flow.py has its order, its branches and its snapshots alone on fewer samples.
TRIED = pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] * (row.name == "flow")) for row in TRUTHS if not row.large],
    ids=str,
)


def estimated(row: Truth, problem: Problem) -> dict[str, Quantity]:
    return parse(row.spec).estimate(problem.t, problem.y, x=problem.x, x_ids=problem.x_ids)


@functools.cache
def problem_of(at: int) -> Problem:
    return TRUTHS[at].problem()


@functools.cache
def found_of(at: int) -> dict[str, Quantity]:
    return estimated(TRUTHS[at], problem_of(at))


def of(row: Truth) -> tuple[Problem, dict[str, Quantity]]:
    """The problem of a row and its estimates, which the tests share."""
    at = TRUTHS.index(row)
    return problem_of(at), found_of(at)


def standard_error(q: Quantity) -> torch.Tensor:
    return (q.high - q.low) / (2 * 1.96)


def require_true(row: Truth, found: dict[str, Quantity], least: float = 0.0) -> None:
    """Every value is true within the tolerance of the row, which is at least `least`."""
    for name, truth in row.values.items():
        q = found[name]
        allowed = torch.full_like(q.value, max(row.tolerance, least))
        if row.errors:
            allowed += row.errors * standard_error(q)
        off = (q.value - torch.as_tensor(truth, dtype=torch.float64)).abs()
        assert (off <= allowed).all(), f"{name} is off by {off.tolist()}, allowed {allowed.tolist()}: {row.why}"


def require_same(
    found: dict[str, Quantity], expected: dict[str, Quantity], names: set[str], snapshot=slice(None)
) -> None:
    for name in names:
        got, want = found[name].value, expected[name].value[snapshot]
        torch.testing.assert_close(got, want, rtol=0, atol=SAME, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", sorted(available()))
def test_every_estimator_has_a_truth(name):
    rows = [row for row in TRUTHS if row.name == name]
    assert rows, (
        f"no row of tests/estimators/truths_table.py is about {name!r}: add Truth({name!r}, label, problem, values, "
        "tolerance, why) with a problem that is solved in closed form"
    )
    about_labels = [quantity for quantity in of(rows[0])[1] if quantity.endswith("(T;Y)")]
    assert not about_labels or any(row.shuffled is not None for row in rows), (
        f"no row of tests/estimators/truths_table.py says what {name!r} gives of {about_labels[0]} when the labels are "
        "shuffled: add a Truth with shuffled="
    )


@pytest.mark.parametrize("row", TRUTHS, ids=str)
def test_value(row):
    require_true(row, of(row)[1])


@TRIED
def test_accelerator_branch(row):
    problem, expected = of(row)
    with accelerator_branches():
        found = estimated(row, problem)
    require_true(row, found)
    assert found.keys() == expected.keys()
    require_same(found, expected, set(expected))


@TRIED
def test_float32(row):
    problem, _ = of(row)
    single = Problem(problem.t.float(), problem.y, problem.x, problem.x_ids)
    require_true(row, estimated(row, single), least=1e-4)


@TRIED
def test_order_and_names_of_samples(row):
    """Rows in another order, ids of inputs and classes under other names."""
    problem, expected = of(row)
    order = torch.randperm(len(problem.y), generator=torch.Generator().manual_seed(1))
    t, y, x, ids = problem.t[:, order], problem.y[order], problem.x, problem.x_ids
    if not y.is_floating_point() and row.name != "softmax":  # whose classes are places of its outputs
        y = 2 + 3 * (int(y.max()) - y)
    found = estimated(row, Problem(t, y, None if x is None else x[order], None if ids is None else 7 * ids[order]))
    require_true(row, found)
    if "sample_order" in available()[row.name].guarantees:
        require_same(found, expected, set(row.values))


@TRIED
def test_snapshots_alone(row):
    """A snapshot has the same values alone as between two others."""
    problem, expected = of(row)
    first, last = problem.t[:1], problem.t[-1:]
    whole = estimated(row, Problem(torch.cat([last, first, last]), problem.y, problem.x, problem.x_ids))
    middle = {name: q.value[1:2] for name, q in whole.items()}
    alone = expected if len(problem.t) == 1 else estimated(row, Problem(first, problem.y, problem.x, problem.x_ids))
    assert middle.keys() == alone.keys()
    for name, value in middle.items():
        torch.testing.assert_close(value, alone[name].value, rtol=0, atol=SAME, equal_nan=True)


@pytest.mark.parametrize("row", [row for row in TRUTHS if row.widest is not None], ids=str)
def test_interval(row):
    """It holds the value, is no wider than stated, and would miss the truth once in a million draws."""
    q = of(row)[1][next(iter(row.values))]
    assert ((q.low <= q.value) & (q.value <= q.high)).all()
    assert (q.high - q.low <= row.widest).all(), (q.high - q.low).tolist()


@pytest.mark.parametrize("row", [row for row in TRUTHS if row.shuffled is not None], ids=str)
def test_shuffled_labels(row):
    problem, _ = of(row)
    order = torch.randperm(len(problem.y), generator=torch.Generator().manual_seed(2))
    found = estimated(row, Problem(problem.t, problem.y[order], problem.x, problem.x_ids))
    name = next(iter(row.values))
    if row.shuffled == "null":
        assert found[name].flags["below_null"].all()
    else:
        assert (found[name].value.abs() <= row.shuffled).all(), found[name].value.tolist()
