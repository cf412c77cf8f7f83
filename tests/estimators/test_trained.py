"""Many networks as one program: each as if it were alone."""

from __future__ import annotations

import pytest
import torch

from infoplane.estimators import parse
from infoplane.estimators._trained import Batches, Stack, TrainingPlan, in_stacks, train

CPU = torch.device("cpu")
PLAN = TrainingPlan(rate=1e-2, decay=0.0, batch=32, steps=200, every=20, patience=3)
ROWS = 200


def fitted(slopes, seeds, plan=PLAN):
    """y = slope x^2 learned by a network for each slope and seed: predictions (slices, N, 1), and what became of it."""
    x = torch.linspace(-1, 1, ROWS)[:, None]
    y = torch.as_tensor(slopes)[:, None, None, None] * x.square()  # (copies, 1, N, 1)
    stack = Stack(seeds, len(slopes), (1, 16, 1), CPU)
    batches = Batches([torch.arange(0, ROWS, 2)] * len(seeds), seeds, plan.batch, CPU)

    def loss(rows):
        out = stack(x[rows].repeat(len(slopes), 1, 1)).view(len(slopes), len(seeds), -1, 1)
        return (out - y[:, 0][:, rows]).square().mean((2, 3)).flatten()

    checked = torch.arange(1, ROWS, 2).expand(len(seeds), -1)
    trained = train(stack.parameters, loss, lambda: loss(checked), batches, plan)
    with torch.no_grad():
        return stack(x.expand(len(slopes) * len(seeds), -1, -1)), trained


def test_a_network_learns_and_begins_as_nothing():
    stack = Stack([3], 2, (4, 8, 2), CPU)
    assert torch.equal(stack(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))), torch.zeros(2, 5, 2))
    out, trained = fitted([1.0], [0])
    assert float((out[0, :, 0] - torch.linspace(-1, 1, ROWS).square()).abs().mean()) < 0.05
    assert int(trained.step) > 0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradients_are_those_of_the_layers_one_by_one(dropout):
    stack = Stack([3, 4], 2, (5, 8, 6, 3), CPU, random_outputs=3, dropout=dropout)
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 7, 5, generator=g).requires_grad_()
    weight = torch.randn(4, 7, 3, generator=g)
    draws = stack.masks.get_state()
    found = torch.autograd.grad((weight * stack(rows, training=True)).sum(), [rows, *stack.parameters])
    stack.masks.set_state(draws)
    out = rows
    for w, b in zip(stack.weights[:-1], stack.biases[:-1], strict=True):
        out = torch.nn.functional.gelu(out @ w + b)
        if dropout:
            out = out * stack._mask(7, w.shape[2]).repeat(2, 1, 1)
    out = out @ stack.weights[-1] + stack.biases[-1]
    want = torch.autograd.grad((weight * out).sum(), [rows, *stack.parameters])
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


def test_in_a_stack_as_alone():
    """Products of more matrices round differently, no more."""
    together, _ = fitted([1.0, -2.0, 0.5], [5, 6])
    for i, slope in enumerate([1.0, -2.0, 0.5]):
        for j, seed in enumerate([5, 6]):
            alone, _ = fitted([slope], [seed])
            torch.testing.assert_close(together[2 * i + j], alone[0], atol=0.01, rtol=0)


def test_copies_of_a_seed_draw_alike_and_seeds_differ():
    out, _ = fitted([1.0, 1.0], [5, 6])
    torch.testing.assert_close(out[0], out[2], atol=1e-5, rtol=0)
    assert not torch.allclose(out[0], out[1], atol=1e-4)
    rows = Batches([torch.arange(10)] * 3, [1, 1, 2], 5, CPU).draw(4)
    assert torch.equal(rows[:, 0], rows[:, 1])
    assert not torch.equal(rows[:, 0], rows[:, 2])


def test_batches_go_through_all_rows_before_any_comes_again():
    batches = Batches([torch.arange(100, 110)], [0], 5, CPU)
    drawn = torch.cat([batches.draw(1), batches.draw(3)])[:, 0]
    for epoch in drawn.reshape(2, 10):
        assert sorted(epoch.tolist()) == list(range(100, 110))


def test_what_does_not_help_is_not_kept():
    """The first step is among those that are compared."""
    p = torch.zeros(2, 1, requires_grad=True)
    target = torch.tensor([0.0, 3.0])
    batches = Batches([torch.arange(4)], [0], 2, CPU)
    # The first slice is best at 0, where it starts, and its loss leads away from there.
    loss = lambda rows: (p[:, 0] - torch.tensor([1.0, 3.0])).square()  # noqa: E731
    trained = train([p], loss, lambda: (p[:, 0] - target).square(), batches, PLAN)
    assert trained.step[0] == 0
    first, second = p.detach()[:, 0].tolist()
    assert first == 0.0
    assert second > 0.5


def test_a_slice_that_diverges_leaves_its_neighbours_alone():
    alone, _ = fitted([1.0], [5])
    both, trained = fitted([1.0, float("inf")], [5])
    assert trained.diverged.tolist() == [False, True]
    torch.testing.assert_close(both[0], alone[0], atol=1e-2, rtol=0)
    assert both.isfinite().all()


def test_more_steps_are_asked_for_where_they_would_help():
    assert fitted([1.0], [5], TrainingPlan(rate=1e-3, decay=0.0, batch=32, steps=40, every=20, patience=3))[
        1
    ].unfinished.all()
    assert not fitted([0.0], [5])[1].unfinished.any()


def test_the_random_state_of_the_user_is_left_alone():
    before = torch.get_rng_state()
    fitted([1.0], [0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stack_that_does_not_fit_is_halved_aloud():
    def work(t):
        if len(t) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return {"mean": t.mean((1, 2))}

    t = torch.arange(16.0).view(4, 2, 2)
    with pytest.warns(RuntimeWarning, match="no memory to train on 4 snapshots at once: 2 are taken"):
        found = in_stacks(t, 1, work)["mean"]
    assert torch.equal(found, t.mean((1, 2)))
    with pytest.raises(RuntimeError, match="shape"):
        in_stacks(t, 1, lambda _: (_ for _ in ()).throw(RuntimeError("shape")))


def test_stacks_are_cut_by_size_alone():
    seen = []
    in_stacks(torch.zeros(5, 1, 1), 200 << 20, lambda t: seen.append(len(t)) or {"n": t[:, 0, 0]})
    assert seen == [2, 2, 1]


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.usefixtures("short_trainings")
@pytest.mark.parametrize("kind", ["classes", "targets"])
@pytest.mark.parametrize(
    "spec",
    [
        "probe:family=mlp",
        "critic:steps=25,hidden=8",
        "flow:steps=50,folds=2",
        "flow:method=score,steps=50,folds=2",
    ],
)
def test_what_the_caller_has_switched_on_changes_nothing(spec, kind):
    """Estimates are made while models are evaluated; networks are trained all the same, in their own precision."""
    estimator = parse(spec)
    if {"classes": "discrete", "targets": "continuous"}[kind] not in estimator.targets:
        return
    g = torch.Generator().manual_seed(14)
    t = torch.randn(1, 60, 2, generator=g)
    y = t[0, :, 0].double() + torch.randn(60, generator=g, dtype=torch.float64)
    y = (y > 0).long() if kind == "classes" else y
    want = estimator.estimate(t, y)

    def assert_same(found):
        for name, q in want.items():
            torch.testing.assert_close(found[name].value, q.value, atol=1e-3, rtol=0)  # as linear probes round
            assert not found[name].value.requires_grad

    for surroundings in SURROUNDINGS.values():
        with surroundings():
            assert_same(estimator.estimate(t.clone(), y.clone()))
    assert_same(estimator.estimate(t.clone().requires_grad_(), y))
    torch.set_default_dtype(torch.float64)
    try:
        assert_same(estimator.estimate(t, y))
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_criterion_that_is_infinite_at_first_may_still_fall():
    p = torch.zeros(1, 1, requires_grad=True)
    plan = TrainingPlan(rate=1e-1, decay=0.0, batch=2, steps=200, every=1, patience=3)
    loss = lambda rows: (p[:, 0] - 3.0).square()  # noqa: E731
    criterion = lambda: torch.where(p[:, 0] > 0.05, (p[:, 0] - 3.0).square(), float("inf"))  # noqa: E731
    trained = train([p], loss, criterion, Batches([torch.arange(4)], [0], 2, CPU), plan)
    assert int(trained.step) > 20
    assert abs(float(p.detach()) - 3) < 0.1
