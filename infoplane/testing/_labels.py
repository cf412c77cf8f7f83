"""Checks about labels: one class, ten separate ones, and layers whose covariance has no inverse."""

from __future__ import annotations

import torch
from torch import Tensor

from infoplane.estimators import VOIDING, Quantity, above_ceiling
from infoplane.testing._subject import SAME, SAMPLES, SNAPSHOTS, Subject, require, require_finite, require_zero

_ONE_VALUE = ("single_class", "degenerate")


def check_one_class(s: Subject) -> None:
    if not s.discrete:
        return
    found = s.run(y=torch.full_like(s.y, 7))
    require_finite(found, "with one class must be finite")
    if "I(T;Y)" in found:
        require_zero(found["I(T;Y)"], "with one class")
    for name, q in found.items():
        raised = "single_class" in q.flags and bool(q.flags["single_class"].all())
        require(raised or not name.endswith("(T;Y)"), f"one class must raise the flag 'single_class' of {name}")


def check_one_target(s: Subject) -> None:
    if "continuous" not in s.make().targets:
        return
    found = s.run(y=torch.full((SAMPLES,), 0.5, dtype=torch.float64))
    require_finite(found, "of a constant target must be finite")
    if "I(T;Y)" in found:
        require_zero(found["I(T;Y)"], "of a constant target")
        require(bool(_excused(found["I(T;Y)"]).all()), f"a constant target must raise one of {', '.join(_ONE_VALUE)}")


def _separate_classes() -> tuple[Tensor, Tensor]:
    """Ten classes far apart, `t` (3, 200, 12): most estimators reach their ceiling here."""
    g = torch.Generator().manual_seed(4)
    y = torch.arange(200) % 10
    centres = 4.0 * torch.randn(SNAPSHOTS, 10, 12, generator=g)
    return centres[:, y] + 0.2 * torch.randn(SNAPSHOTS, 200, 12, generator=g), y


def _singular_layers() -> dict[str, tuple[Tensor, Tensor]]:
    """Layers whose covariance has no inverse, with ten classes each."""
    g = torch.Generator().manual_seed(5)
    y = torch.arange(100) % 10
    t = torch.randn(SNAPSHOTS, 100, 3, generator=g) + 0.3 * y[:, None]
    constant, zero = torch.full((SNAPSHOTS, 100, 2), 0.75), torch.zeros(SNAPSHOTS, 100, 1)
    wide = torch.randn(SNAPSHOTS, 100, 150, generator=g)
    return {
        "constant units": (torch.cat([constant, t, zero], 2), y),
        "duplicated units": (torch.cat([t, t, t[:, :, :1]], 2), y),
        "units that are sums of others": (torch.cat([t, t.sum(2, keepdim=True)], 2), y),
        "more units than samples": (wide, y),
        "the classes as one-hot rows": (torch.eye(10)[y].expand(SNAPSHOTS, -1, -1).clone(), y),
        "the classes in one unit": (y[:, None].float().expand(SNAPSHOTS, -1, -1).clone(), y),
    }


def check_ceiling(s: Subject) -> None:
    """I(T;Y) of classes has a ceiling, at most H(Y), and no value above it goes without a flag."""
    if s.discrete:
        _require_ceiling(s, *_separate_classes(), "ten separate classes")
        _require_ceiling(s, s.t, s.y, "three classes")


def check_singular_layers(s: Subject) -> None:
    for what, (t, y) in _singular_layers().items():
        if s.discrete:
            _require_ceiling(s, t, y, what)
        if "continuous" in s.make().targets:
            _require_sound(_run_beside(s, t, y.double()), f"{what} and the classes as targets")


def _run_beside(s: Subject, t: Tensor, y: Tensor) -> dict[str, Quantity]:
    """The estimates on another layer, with inputs to match."""
    return s.run(t, y, torch.randn(len(y), 3, generator=torch.Generator().manual_seed(6)))


def _require_sound(found: dict[str, Quantity], what: str) -> None:
    for name, q in found.items():
        sound = torch.isfinite(q.value) | _excused(q)
        require(bool(sound.all()), f"{name} with {what} must be finite or flagged, got {q.value.tolist()}")


def _require_ceiling(s: Subject, t: Tensor, y: Tensor, what: str) -> None:
    """Require a ceiling of at most H(Y), and a flag on every value above it."""
    found = _run_beside(s, t, y)
    _require_sound(found, what)
    if "I(T;Y)" not in found:
        return
    q, p = found["I(T;Y)"], torch.bincount(y).double() / len(y)
    h_y = -float((p * p.log2()).sum())
    require(q.ceiling is not None, "I(T;Y) of classes needs a ceiling: H(Y), or less where T can hold less")
    assert q.ceiling is not None
    top = q.ceiling.expand(len(q.value))
    require(bool((top <= h_y + SAME).all()), f"the ceiling of I(T;Y) with {what} exceeds H(Y) = {h_y:.4g}")
    above = above_ceiling(q.value, top) & ~_excused(q)
    require(
        not bool(above.any()),
        f"I(T;Y) with {what} is {float(q.value.max()):.4g} bits, its ceiling {float(top.max()):.4g}; a value above its "
        f"ceiling must raise one of {', '.join(VOIDING)}",
    )


def _excused(q: Quantity) -> Tensor:
    """(S,) whether a flag says that the value is not to be trusted."""
    raised = torch.zeros(len(q.value), dtype=torch.bool)
    for flag in (*VOIDING, *_ONE_VALUE):
        raised = raised | q.flags.get(flag, torch.zeros_like(raised)).cpu()
    return raised.to(q.value.device)
