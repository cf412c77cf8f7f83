"""The self-consistency table of every estimator: what must hold of an information, and whether it does.

The checks follow Song and Ermon, "Understanding the limitations of variational mutual information estimators", 2020
(baseline, data processing, additivity), with the invariances of mutual information under invertible maps and two
controls in which there is nothing to know. The table is printed, not hidden: most estimators fail some row by their
nature, and which one says when not to use them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infoplane import datasets
from infoplane.core.records import Noise
from infoplane.estimators import available, parse

SLACK = 0.02
"""Bits within which two estimates count as equal, beyond the stated tolerance of an invariance."""

VARIANTS: tuple[str, ...] = ("adaptive:low=min", "kde:variance=0.01")
"""Settings with invariances that the defaults of their estimator have not."""


@dataclass(frozen=True)
class Finding:
    """One row: what was expected of the quantity, what came, and whether it holds."""

    estimator: str
    quantity: str
    check: str
    expected: str
    got: str
    holds: bool


@dataclass(frozen=True)
class Data:
    """A layer of real activations (N, U), its inputs and its labels."""

    t: Tensor
    x: Tensor
    y: Tensor


class _Blocks:
    noise: Noise | None = None

    def __init__(self, t: Tensor) -> None:
        self.t = t

    def __iter__(self) -> Iterator[Tensor]:
        yield self.t


def digits_layer(samples: int, units: int, seed: int) -> Data:
    """A random tanh layer on handwritten digits: what the table is computed on."""
    x, y = (torch.from_numpy(a) for a in datasets.digits())
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[:samples]
    weight = torch.randn(x.shape[1], units, generator=generator, dtype=torch.float64) / math.sqrt(x.shape[1])
    x = x[rows].double()
    return Data(torch.tanh(2.0 * (x - x.mean(0)) @ weight), x, y[rows])


def certify(names: Sequence[str] | None = None, *, samples: int = 1000, units: int = 2, seed: int = 0) -> list[Finding]:
    """Run every check on every estimator, or on those named (specs as in `infoplane.estimators.parse`).

    Parameters
    ----------
    names : sequence of str, optional
        All registered estimators with their defaults, and `VARIANTS`, when not given.
    samples, units : int
        Size of the layer, a random tanh layer on handwritten digits.
    seed : int
        Of the layer, the rotations and the shuffles.

    Returns
    -------
    list of Finding
        In the order of the names. A quantity that an estimator does not define has no row.
    """
    found = []
    for name in names or sorted([*available(), *VARIANTS]):
        found += _certify_one(name, digits_layer(samples, units, seed), seed)
    return found


def _certify_one(name: str, data: Data, seed: int) -> list[Finding]:
    estimator = parse(name)
    generator = torch.Generator().manual_seed(seed + 1)
    if "discrete" not in estimator.targets:
        data = Data(data.t, data.x, data.x.sum(1))
    probe = _measure(estimator, data)
    rows: list[Finding] = []
    for quantity in _shown(probe):

        def value(t: Tensor, y: Tensor | None = None, x: Tensor | None = None, _q: str = quantity) -> float:
            y = data.y if y is None else y
            x = data.x if x is None else x
            return _measure(estimator, Data(t, x, y)).get(_q, math.nan)

        for check in _CHECKS:
            outcome = check(value, data, quantity, generator)
            if outcome is not None and not math.isnan(outcome[1]):
                label, _, expected, got, holds = outcome
                rows.append(Finding(name, quantity, label, expected, got, holds))
    return rows


def _measure(estimator: Any, data: Data) -> dict[str, float]:
    t = data.t[None]
    ready = estimator.prepare(_Blocks(t), data.y, data.x) if hasattr(estimator, "prepare") else estimator
    return {name: float(q.value[0]) for name, q in ready.estimate(t, data.y, x=data.x).items()}


def _shown(quantities: dict[str, float]) -> list[str]:
    """The informations, or the first quantity of a method that measures something else."""
    return [q for q in ("I(X;T)", "I(T;Y)") if q in quantities] or list(quantities)[:1]


Value = Callable[..., float]
Outcome = tuple[str, float, str, str, bool] | None


def _independence(value: Value, data: Data, quantity: str, g: torch.Generator) -> Outcome:
    if quantity != "I(T;Y)":
        return None
    got = value(torch.randn(data.t.shape, generator=g, dtype=torch.float64))
    return "independent noise", got, "0 at most", f"{got:.3f}", got <= 0.05


def _control(value: Value, data: Data, quantity: str, g: torch.Generator) -> Outcome:
    if quantity != "I(T;Y)":
        return None
    got = value(data.t, data.y[torch.randperm(len(data.y), generator=g)])
    return "permuted labels", got, "0 at most", f"{got:.3f}", got <= 0.05


def _baseline(value: Value, data: Data, quantity: str, g: torch.Generator) -> Outcome:
    if not quantity.startswith("I("):  # an effective rank, for one, is 1
        return None
    got = value(torch.zeros_like(data.t))
    return "constant layer", got, "0", f"{got:.3f}", abs(got) <= 1e-9


def _processing(value: Value, data: Data, quantity: str, g: torch.Generator) -> Outcome:
    whole, part = value(data.t), value(data.t[:, : data.t.shape[1] // 2])
    return "data processing", whole, f"half the units <= {whole:.3f}", f"{part:.3f}", part <= whole + SLACK


def _additivity(value: Value, data: Data, quantity: str, g: torch.Generator) -> Outcome:
    if data.y.is_floating_point():
        return None
    # Few classes, so that the pair of labels has samples to be learned from.
    y = data.y % 2
    other = torch.randperm(len(y), generator=g)
    single = value(data.t, y)
    pair = value(torch.cat([data.t, data.t[other]], 1), 2 * y + y[other], torch.cat([data.x, data.x[other]], 1))
    holds = abs(pair - 2 * single) <= 0.1 * abs(2 * single) + SLACK
    return "additivity", pair, f"two independent layers: {2 * single:.3f}", f"{pair:.3f}", holds


def _scale(value: Value, data: Data, quantity: str, g: torch.Generator) -> Outcome:
    return _same(value, data, "scale x1000", 1000.0 * data.t, 1e-9)


def _monotone(value: Value, data: Data, quantity: str, g: torch.Generator) -> Outcome:
    return _same(value, data, "monotone map", torch.sinh(2.0 * data.t), 1e-9)


def _unit_monotone(value: Value, data: Data, quantity: str, g: torch.Generator) -> Outcome:
    powers = torch.arange(1, data.t.shape[1] + 1, dtype=torch.float64)
    return _same(value, data, "monotone map per unit", torch.sinh(powers * data.t) / powers, 1e-9)


def _rotation(value: Value, data: Data, quantity: str, g: torch.Generator) -> Outcome:
    q = torch.linalg.qr(torch.randn(data.t.shape[1], data.t.shape[1], generator=g, dtype=torch.float64))[0]
    return _same(value, data, "rotation", data.t @ q, 1e-6)


def _same(value: Value, data: Data, label: str, t: Tensor, tolerance: float) -> Outcome:
    before, after = value(data.t), value(t)
    holds = abs(after - before) <= tolerance * max(1.0, abs(before))
    return label, after, f"{before:.3f}", f"{after:.3f}" + ("" if holds else f" ({after - before:+.1g})"), holds


_CHECKS = (
    _baseline,
    _independence,
    _control,
    _processing,
    _additivity,
    _scale,
    _monotone,
    _unit_monotone,
    _rotation,
)


def sandwich(samples: int = 400, units: int = 3, std: float = 0.1, seed: int = 0) -> Finding:
    """The sampled mixture entropy between its two closed-form bounds, at the same noise."""
    data = digits_layer(samples, units, seed)
    bounds = _measure(parse(f"kde:variance={std**2},null_draws=0"), data)
    low, high = bounds["I(X;T) lower"], bounds["I(X;T)"]
    got = _measure(parse(f"noise:std={std}"), data)["I(X;T)"]
    expected = f"kde bounds [{low:.3f}, {high:.3f}]"
    return Finding("noise", "I(X;T)", "sandwich", expected, f"{got:.3f}", low - SLACK <= got <= high + SLACK)


def to_text(findings: Sequence[Finding]) -> str:
    """Aligned columns for a terminal."""
    rows = [("estimator", "quantity", "check", "expected", "got", "")]
    rows += [(f.estimator, f.quantity, f.check, f.expected, f.got, "holds" if f.holds else "FAILS") for f in findings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def to_markdown(findings: Sequence[Finding]) -> str:
    """One table, a row for each estimator and quantity, a column for each check."""
    checks = list(dict.fromkeys(f.check for f in findings))
    lines = [f"| estimator | quantity | {' | '.join(checks)} |", f"|{'---|' * (len(checks) + 2)}"]
    for key in dict.fromkeys((f.estimator, f.quantity) for f in findings):
        own = {f.check: f for f in findings if (f.estimator, f.quantity) == key}
        cells = [
            "" if check not in own else f"{'holds' if own[check].holds else '**fails**'}: {own[check].got}"
            for check in checks
        ]
        lines.append(f"| `{key[0]}` | {key[1]} | {' | '.join(cells)} |")
    return "\n".join(lines)
