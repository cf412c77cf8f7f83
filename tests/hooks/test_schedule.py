"""Schedules: which steps, planned and taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoplane.hooks import Schedule, epochs, every, log_spaced
from infoplane.hooks.schedule import as_schedule


def taken(schedule, visited):
    previous, steps = 0, []
    for step in visited:
        if schedule.due(step, previous):
            steps.append(step)
        previous = step
    return steps


@pytest.mark.parametrize(
    ("points", "total", "distinct"), [(200, 10_000, 154), (200, 1000, 131), (200, 100, 79), (2, 50, 2)]
)
def test_log_spaced_counts(points, total, distinct):
    steps = [s for s in log_spaced(points, total).plan(total) if s]
    assert len(steps) == distinct
    assert steps[0] == 1
    assert steps[-1] == total


@pytest.mark.parametrize(
    "schedule",
    [every(7), epochs(2, steps_per_epoch=5), log_spaced(30, 500), log_spaced(), log_spaced(per_decade=3), every(1)],
)
def test_plan_is_what_a_loop_over_every_step_takes(schedule):
    plan = list(schedule.plan(500))
    assert plan == sorted({0, *taken(schedule, range(1, 501)), 500})


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_per_decade_is_the_rounded_geometric_sequence(per_decade, step):
    """Slow reference: a planned step is round(10^(k / per_decade)) for some k."""
    planned = {round(10.0 ** (k / per_decade)) for k in range(7 * per_decade)}
    assert log_spaced(per_decade=per_decade).due(step, step - 1) == (step in planned)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=60, unique=True).map(sorted), st.integers(1, 50))
def test_a_loop_that_visits_few_steps_misses_no_planned_interval(visited, n):
    """Between two calls with a planned step, the later call is taken, exactly once."""
    for schedule in (every(n), log_spaced(per_decade=n)):
        planned = set(schedule.plan(2000)) - {0}
        expected, previous = [], 0
        for step in visited:
            if any(previous < p <= step for p in planned if schedule.due(p, p - 1)):
                expected.append(step)
            previous = step
        assert taken(schedule, visited) == expected


def test_plan_prints_and_has_first_and_last():
    plan = every(40).plan(100)
    assert str(plan) == "every(40): 4 snapshots in 100 steps: 0 40 80 100"
    assert len(plan) == 4
    assert 80 in plan
    assert "..." in str(every(1).plan(100))


def test_other_forms():
    assert str(as_schedule(None)) == "log_spaced(per_decade=20)"
    assert taken(as_schedule(5), range(1, 12)) == [5, 10]
    assert taken(as_schedule([3, 4, 9]), range(1, 12)) == [3, 4, 9]
    assert taken(as_schedule(lambda step: step % 4 == 1), range(1, 12)) == [1, 5, 9]
    assert list(as_schedule(lambda step: step == 3).plan(5)) == [0, 3, 5]
    assert isinstance(every(2), Schedule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: every(0), "n must be at least 1, got 0"),
        (lambda: epochs(1, steps_per_epoch=0), "steps_per_epoch must be at least 1, got 0"),
        (lambda: log_spaced(10), "points=10, total=None"),
        (lambda: log_spaced(10, 100, per_decade=3), "per_decade=3"),
        (lambda: log_spaced(1, 100), "points must be at least 2, got 1"),
        (lambda: log_spaced(per_decade=0), "per_decade must be at least 1, got 0"),
        (lambda: every(2).plan(-1), "got -1"),
    ],
)
def test_bad_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_kind():
    with pytest.raises(TypeError, match="got 'often'"):
        as_schedule("often")
