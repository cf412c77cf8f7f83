"""The Newton solver against dense Newton steps written from the formulas."""

from __future__ import annotations

import pytest
import torch

from infoplane.estimators import _linear_model
from infoplane.estimators._linear_model import SoftmaxLoss, SquaredLoss, fit
from infoplane.estimators._scaling import principal_coordinates, zscore


def dense_softmax(z, y, classes, ridge):
    """Minimise sum -log softmax(W z)[y] + 1/2 sum ridge W^2 by full Newton steps."""
    r = z.shape[1]
    w = torch.zeros(classes * r, dtype=torch.float64)
    penalty = torch.diag(ridge.repeat(classes))
    onehot = torch.nn.functional.one_hot(y, classes).double()
    for _ in range(100):
        p = torch.softmax(z @ w.view(classes, r).T, 1)
        gradient = ((p - onehot).T @ z).flatten() + penalty @ w
        hessian = penalty.clone()
        for q, row in zip(p, z, strict=True):
            hessian += torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(row, row))
        step = torch.linalg.solve(hessian, gradient)
        w = w - step / (1.0 + step.norm() / 10)
        if step.norm() < 1e-12:
            break
    return w.view(classes, r)


def problem(seed, samples=60, units=4, classes=3):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (samples,), generator=g)
    z = torch.randn(2, samples, units, generator=g, dtype=torch.float64)
    z[0, :, 0] += y
    rows = torch.rand(2, samples, generator=g) < 0.8
    return z, y, rows


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ridge", [10.0, 0.1])
def test_softmax_minimum(seed, ridge):
    """Scores agree to 1e-6: the last step starts within 1e-12 nats a row, an error of its square root, and cuts it."""
    z, y, rows = problem(seed)
    coordinates, squares = principal_coordinates(z)
    found = fit(coordinates, squares, SoftmaxLoss(y, 3), rows, torch.full((1, 1, 1, 4), ridge, dtype=torch.float64))
    assert found.converged.all()
    for s in range(2):
        for f in range(2):
            w = dense_softmax(z[s, rows[f]], y[rows[f]], 3, torch.full((4,), ridge, dtype=torch.float64))
            torch.testing.assert_close(found.scores[s, f], w @ z[s].T, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_squared_minimum(seed):
    z, _, rows = problem(seed)
    targets = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    ridge = torch.full((2, 2, 1, 4), 0.3, dtype=torch.float64)
    found = fit(*principal_coordinates(z), SquaredLoss(targets), rows, ridge)
    assert found.converged.all()
    for s in range(2):
        for f in range(2):
            a, b = z[s, rows[f]], targets[rows[f]]
            w = torch.linalg.solve(a.T @ a + 0.3 * torch.eye(4, dtype=torch.float64), a.T @ b)
            torch.testing.assert_close(found.scores[s, f].T, z[s] @ w, atol=1e-6, rtol=0)


def test_frozen_problems_keep_their_start():
    z, y, rows = problem(0)
    design, loss = principal_coordinates(z), (SoftmaxLoss(y, 3), rows)
    first = fit(*design, *loss, torch.full((1, 1, 1, 4), 10.0, dtype=torch.float64))
    active = torch.tensor([[True, False], [False, True]])
    second = fit(*design, *loss, torch.full((1, 1, 1, 4), 0.1, dtype=torch.float64), start=first, active=active)
    assert torch.equal(second.weights[~active], first.weights[~active])
    assert not torch.allclose(second.weights[active], first.weights[active], atol=1e-3)


def test_separable_classes_without_much_penalty():
    """The minimum lies far out where curvature has almost gone; the line search keeps every step downhill."""
    z = torch.linspace(-1, 1, 40, dtype=torch.float64)[None, :, None]
    y = (z[0, :, 0] > 0).long()
    rows = torch.ones(1, 40, dtype=torch.bool)
    found = fit(*principal_coordinates(z), SoftmaxLoss(y, 2), rows, torch.full((1, 1, 1, 1), 1e-6, dtype=torch.float64))
    assert found.converged.all()
    assert SoftmaxLoss(y, 2).value(found.scores, rows).item() < 0.01


@pytest.mark.parametrize("loss", ["softmax", "squared"])
@pytest.mark.parametrize("easy", ["snapshot", "subset"])
def test_what_has_converged_is_left_out_of_the_products(loss, easy, monkeypatch):
    """A hard problem beside an easy one: the same minimum as alone, and late products hold the hard one only."""
    z, y, rows = problem(0, samples=200, units=8)
    targets = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    ridge = torch.full((2, 2, 1, 8), 1e-3, dtype=torch.float64)
    ridge[(slice(None), 0) if easy == "subset" else (0,)] = 1e9
    z[:, :, 0] += 3.0 * y
    design, squares = principal_coordinates(z)
    sizes, whole = [], _linear_model._Working._back
    monkeypatch.setattr(
        _linear_model._Working, "_back", lambda self, v: sizes.append(v.shape[0] * v.shape[1]) or whole(self, v)
    )
    convex = SoftmaxLoss(y, 3) if loss == "softmax" else SquaredLoss(targets)
    fit(design, squares, convex, rows, ridge, tolerance=_linear_model.SINGLE)
    assert sizes[0] == 4
    assert sizes[-1] <= 2
    found = fit(design, squares, convex, rows, ridge)  # in float32 and, from there, in float64: all problems twice
    assert found.converged.all()
    for s in range(2):
        for f in range(2):
            one = fit(design[[s]], squares[[s]], convex, rows[[f]], ridge[[s]][:, [f]])
            torch.testing.assert_close(found.scores[s, f], one.scores[0, 0], atol=1e-6, rtol=0)


def test_leading_columns_together_need_fewer_products(monkeypatch):
    """Ten classes in twelve strong directions: the same minimum with each column alone, after more products."""
    g = torch.Generator().manual_seed(1)
    y = torch.arange(500) % 10
    x = torch.randn(500, 12, generator=g) + 3.0 * torch.randn(10, 12, generator=g)[y]
    t = torch.tanh(x @ torch.randn(12, 100, generator=g) / 12**0.5) + 0.1 * torch.randn(500, 100, generator=g)
    design, squares = principal_coordinates(zscore(t)[None] / 10)
    rows, ridge = torch.rand(1, 500, generator=g) < 0.8, torch.full((1, 1, 1, 100), 1e-2, dtype=torch.float64)
    products, found, whole = [0], {}, SoftmaxLoss.curve

    def curve(self, *given):
        products[0] += 1
        return whole(self, *given)

    monkeypatch.setattr(SoftmaxLoss, "curve", curve)
    for leading in (1, _linear_model.LEADING):
        monkeypatch.setattr(_linear_model, "LEADING", leading)
        products[0] = 0
        found[leading] = fit(design, squares, SoftmaxLoss(y, 10), rows, ridge), products[0]
    (alone, many), (together, few) = found.values()
    assert together.converged.all()
    assert few < 0.75 * many
    torch.testing.assert_close(together.scores, alone.scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("tolerance", [1e-6, 1e-12])
def test_scores_are_those_of_the_weights(tolerance):
    """A fit that stays in float32 gives float64 scores of all rows, too."""
    z, y, rows = problem(0)
    design, squares = principal_coordinates(z)
    found = fit(design, squares, SoftmaxLoss(y, 3), rows, torch.full((1, 1, 1, 4), 0.1).double(), tolerance=tolerance)
    assert found.converged.dtype == torch.bool
    torch.testing.assert_close(found.scores, found.weights @ design[:, None].mT, atol=1e-12, rtol=0)


def test_directions_stop_where_they_gain_little(monkeypatch):
    """Ill-conditioned and far from the minimum, a direction need not be exact: few products for the same minimum."""
    g = torch.Generator().manual_seed(1)
    y = torch.randint(5, (300,), generator=g)
    t = torch.tanh(torch.randn(5, 8, generator=g)[y] + torch.randn(300, 8, generator=g)) @ torch.randn(
        8, 80, generator=g
    )
    design, squares = principal_coordinates(torch.tanh(t)[None].double() / 80**0.5)
    rows = torch.rand(1, 300, generator=g) < 0.8
    ridge = torch.full((1, 1, 1, design.shape[2]), 1e-2, dtype=torch.float64)
    products, whole = [0], SoftmaxLoss.curve

    def curve(self, *given):
        products[0] += 1
        return whole(self, *given)

    monkeypatch.setattr(SoftmaxLoss, "curve", curve)
    found = {}
    for gain in (0.0, _linear_model.SMALL_GAIN):
        monkeypatch.setattr(_linear_model, "SMALL_GAIN", gain)
        products[0] = 0
        fitted = fit(design, squares, SoftmaxLoss(y, 5), rows, ridge, tolerance=1e-6)
        found[gain] = products[0], fitted
    (all_, exact), (few, inexact) = found.values()
    assert inexact.converged.all()
    assert few < 0.8 * all_
    loss = SoftmaxLoss(y, 5)
    assert (loss.value(inexact.scores, rows) - loss.value(exact.scores, rows)).abs().max() < 0.1
