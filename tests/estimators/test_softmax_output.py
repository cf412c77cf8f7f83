"""Information of the class drawn from a softmax: exact sums, so exact tests."""

from __future__ import annotations

import pytest
import torch

from infoplane.estimators.softmax import SoftmaxOutput


def logits(seed=0, snapshots=2, samples=60, classes=4):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (samples,), generator=g)
    t = torch.randn(snapshots, samples, classes, generator=g, dtype=torch.float64)
    return t + 2 * torch.nn.functional.one_hot(y, classes), y


def test_against_divergences_one_by_one():
    """I(X;C|Y) = E KL(p(.|x) || Q_y), I(X;C) = E KL(p(.|x) || Q), to 1e-10."""
    t, y = logits()
    found = SoftmaxOutput().estimate(t, y)
    for s in range(2):
        p = torch.softmax(t[s], 1)

        def kl(a, b):
            return float((a * (a / b).log2()).sum())

        within = sum(kl(p[i], p[y == y[i]].mean(0)) for i in range(60)) / 60
        whole = sum(kl(p[i], p.mean(0)) for i in range(60)) / 60
        classes = sum(kl(p[y == k].mean(0), p.mean(0)) * float((y == k).double().mean()) for k in range(4))
        assert float(found["I(X;T|Y)"].value[s]) == pytest.approx(within, abs=1e-10)
        assert float(found["I(X;T)"].value[s]) == pytest.approx(whole, abs=1e-10)
        assert float(found["I(T;Y)"].value[s]) == pytest.approx(classes, abs=1e-10)


def test_chain_rule_and_bounds():
    t, y = logits(1)
    found = SoftmaxOutput().estimate(t, y)
    total = found["I(T;Y)"].value + found["I(X;T|Y)"].value
    torch.testing.assert_close(found["I(X;T)"].value, total, atol=1e-12, rtol=0)
    for q in found.values():
        assert (q.value >= 0).all()
        assert (q.value <= q.ceiling + 1e-12).all()
        assert q.estimand == "softmax-output"


def test_certain_and_constant_outputs():
    y = torch.arange(8) % 4
    certain = 1e4 * torch.nn.functional.one_hot(y, 4)[None].double()
    found = SoftmaxOutput().estimate(certain, y)
    assert [float(found[n].value) for n in ("I(X;T)", "I(T;Y)", "I(X;T|Y)", "H(T)")] == [2.0, 2.0, 0.0, 2.0]
    constant = SoftmaxOutput().estimate(torch.tensor([0.3, 1.7, -4.0]).expand(1, 8, 3), y % 3)
    assert all(float(constant[n].value) == 0.0 for n in ("I(X;T)", "I(T;Y)", "I(X;T|Y)"))
    assert constant["I(X;T)"].flags["degenerate"].all()


def test_invariant_under_a_common_shift_and_temperature():
    t, y = logits(2)
    value = SoftmaxOutput().estimate(t, y)["I(X;T)"].value
    shifted = t + 50 * torch.randn(2, 60, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(SoftmaxOutput().estimate(shifted, y)["I(X;T)"].value, value, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        SoftmaxOutput(temperature=2.0).estimate(2 * t, y)["I(X;T)"].value, value, atol=1e-12, rtol=0
    )
    assert (SoftmaxOutput(temperature=5.0).estimate(t, y)["I(X;T)"].value < value).all()


def test_repeated_inputs_share_their_mean():
    """Two noisy passes of one input: X is the input, not the row."""
    t = 1e4 * torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    y = torch.tensor([0, 0, 1, 1])
    found = SoftmaxOutput().estimate(t, y, x_ids=torch.tensor([0, 0, 1, 1]))
    assert float(found["I(X;T)"].value) == pytest.approx(0.0, abs=1e-12)
    assert float(SoftmaxOutput().estimate(t, y)["I(X;T)"].value) == pytest.approx(1.0, abs=1e-12)
    assert float(found["I(X;T)"].ceiling) == 1.0


def test_what_is_no_logits_is_flagged():
    t, y = logits(4)
    assert SoftmaxOutput().estimate(torch.softmax(t, 2), y)["I(X;T)"].flags["out_of_domain"].all()
    assert SoftmaxOutput().estimate(t[..., :2], y)["I(X;T)"].flags["out_of_domain"].all()
    assert not SoftmaxOutput().estimate(t, y)["I(X;T)"].flags["out_of_domain"].any()
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        SoftmaxOutput(temperature=0)
