"""The self-consistency table of every estimator: what must hold of an information, and whether it does.

The checks follow Song and Ermon, "Understanding the limitations of variational mutual information estimators", 2020
(baseline, data processing, additivity), with the invariances of mutual information under invertible maps and two
controls in which there is nothing to know. The table is printed, not hidden: most estimators fail some row by their
nature, and which one says when not to use them.

A second table, `known`, has problems off the ground of most methods, curved, tied, atomic or wide, whose information is
known: what came, and which flags stood beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infoplane import datasets
from infoplane.core.text import aligned
from infoplane.estimators import Estimator, Quantity, available, parse
from infoplane.testing import ready

SLACK = 0.02
"""Bits within which two estimates count as equal, beyond the stated tolerance of an invariance."""

VARIANTS: tuple[str, ...] = ("adaptive:low=min", "kde:variance=0.01")
"""Settings with invariances that the defaults of their estimator have not."""


@dataclass(frozen=True)
class Finding:
    """One row: what was expected of the quantity, what came, whether it holds, and the flags beside it."""

    estimator: str
    quantity: str
    check: str
    expected: str
    got: str
    holds: bool
    flagged: str = ""


@dataclass(frozen=True)
class LayerData:
    """A layer of real activations (N, U), its inputs and its labels."""

    t: Tensor
    x: Tensor
    y: Tensor


def digits_layer(samples: int, units: int, seed: int) -> LayerData:
    """Return a random tanh layer of handwritten digits, with the digits as inputs and their classes as labels."""
    x, y = (torch.from_numpy(a) for a in datasets.digits())
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[:samples]
    weight = torch.randn(x.shape[1], units, generator=generator, dtype=torch.float64) / math.sqrt(x.shape[1])
    x = x[rows].double()
    return LayerData(torch.tanh(2.0 * (x - x.mean(0)) @ weight), x, y[rows])


def certify(names: Sequence[str] | None = None, *, samples: int = 1000, units: int = 2, seed: int = 0) -> list[Finding]:
    """Run every check on every estimator, or on those named (specs as in `infoplane.estimators.parse`).

    Parameters
    ----------
    names : sequence of str, optional
        All registered estimators with their defaults, and `VARIANTS`, when not given.
    samples, units : int
        Size of the layer, a random tanh layer on handwritten digits.
    seed : int
        Draws the layer, the rotations and the shuffles.

    Returns
    -------
    list of Finding
        In the order of the names. A quantity that an estimator does not define has no row.
    """
    return [row for name in _specs(names) for row in _certify_one(name, digits_layer(samples, units, seed), seed)]


def _specs(names: Sequence[str] | None) -> Sequence[str]:
    """The specs given, or those of all estimators with their defaults and variants."""
    return names or sorted([*available(), *VARIANTS])


def _certify_one(name: str, data: LayerData, seed: int) -> list[Finding]:
    """Findings about one estimator: one for each quantity and check in which the quantity has a value."""
    estimator = parse(name)
    generator = torch.Generator().manual_seed(seed + 1)
    if "discrete" not in estimator.targets:  # it takes real targets alone: here the sum of the inputs
        data = LayerData(data.t, data.x, data.x.sum(1))
    rows: list[Finding] = []
    for quantity in _shown(_measure(estimator, data)):
        value = _QuantityOf(estimator, data, quantity)
        for check in (_controls, _laws, _maps):
            for label, got, expected, holds in check(value, data, generator):
                # A check yields right after the call of `value` that gave what `got` says; undefined ones have no row.
                if not math.isnan(value.last_value):
                    rows.append(Finding(name, quantity, label, expected, got, holds, ", ".join(value.last_flags)))
    return rows


class _QuantityOf:
    """A function that estimates one quantity on a changed layer, and remembers the value and flags of its last call."""

    def __init__(self, estimator: Estimator, data: LayerData, quantity: str) -> None:
        """Keep what is asked for; nothing is estimated before a call, which sets `last_value` and `last_flags`."""
        self.estimator, self.data, self.quantity = estimator, data, quantity

    def __call__(self, t: Tensor, y: Tensor | None = None, x: Tensor | None = None) -> float:
        """Return the quantity of a layer `t` (N, U), NaN where undefined; `y` and `x` default to those of `data`."""
        data = LayerData(t, self.data.x if x is None else x, self.data.y if y is None else y)
        q = _measure(self.estimator, data).get(self.quantity)
        self.last_flags = [] if q is None else _raised(q)
        self.last_value = math.nan if q is None else float(q.value[0])
        return self.last_value


def _measure(estimator: Estimator, data: LayerData) -> dict[str, Quantity]:
    """All quantities of the layer as one snapshot (1, N, U), after the estimator's `prepare` on it."""
    t = data.t[None]
    found: dict[str, Quantity] = ready(estimator, t, data.y, data.x).estimate(t, data.y, x=data.x)
    return found


def _raised(q: Quantity) -> list[str]:
    """The names of the flags that are raised at the only snapshot, sorted."""
    return sorted(flag for flag, on in q.flags.items() if bool(on[0]))


def _shown(quantities: Mapping[str, Quantity]) -> list[str]:
    """Names of the quantities to check: I(X;T) and I(T;Y), or the first one of a method that has neither."""
    return [q for q in ("I(X;T)", "I(T;Y)") if q in quantities] or list(quantities)[:1]


Checks = Iterator[tuple[str, str, str, bool]]  # name, what came, what was expected, whether it holds


def _controls(value: _QuantityOf, data: LayerData, g: torch.Generator) -> Checks:
    """Check on data without any information, as permuted labels, that the quantity is not above 0."""
    if value.quantity.startswith("I("):  # an effective rank, for one, is 1
        got = value(torch.zeros_like(data.t))
        yield "constant layer", f"{got:.3f}", "0", abs(got) <= 1e-9
    if value.quantity == "I(T;Y)":
        # 0.05 bits are left to chance. A value below 0 is an estimate's bias made visible, and no false information.
        got = value(torch.randn(data.t.shape, generator=g, dtype=torch.float64))
        yield "independent noise", f"{got:.3f}", "0 at most", got <= 0.05
        got = value(data.t, data.y[torch.randperm(len(data.y), generator=g)])
        yield "permuted labels", f"{got:.3f}", "0 at most", got <= 0.05


def _laws(value: _QuantityOf, data: LayerData, g: torch.Generator) -> Checks:
    """Check that half the units hold at most what all do, and two independent layers together twice what one does."""
    whole, part = value(data.t), value(data.t[:, : data.t.shape[1] // 2])
    yield "data processing", f"{part:.3f}", f"half the units <= {whole:.3f}", part <= whole + SLACK
    if data.y.is_floating_point():
        return
    # Few classes, so that the pair of labels has samples to be learned from.
    y = data.y % 2
    other = torch.randperm(len(y), generator=g)  # the layer with its rows in another order: an independent one
    single = value(data.t, y)
    pair = value(torch.cat([data.t, data.t[other]], 1), 2 * y + y[other], torch.cat([data.x, data.x[other]], 1))
    # A tenth is left to the errors of both estimates.
    holds = abs(pair - 2 * single) <= 0.1 * abs(2 * single) + SLACK
    yield "additivity", f"{pair:.3f}", f"two independent layers: {2 * single:.3f}", holds


def _maps(value: _QuantityOf, data: LayerData, g: torch.Generator) -> Checks:
    """Check that an invertible map of the layer does not change the quantity."""
    units = data.t.shape[1]
    powers = torch.arange(1, units + 1, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(units, units, generator=g, dtype=torch.float64))[0]
    before = value(data.t)
    # Tolerances are shares of the value for rounding; a rotation sums over units, which rounds more.
    for label, t, tolerance in (
        ("scale x1000", 1000.0 * data.t, 1e-9),
        ("monotone map", torch.sinh(2.0 * data.t), 1e-9),
        ("monotone map per unit", torch.sinh(powers * data.t) / powers, 1e-9),
        ("rotation", data.t @ rotation, 1e-6),
    ):
        after = value(t)
        holds = abs(after - before) <= tolerance * max(1.0, abs(before))
        yield label, f"{after:.3f}" + ("" if holds else f" ({after - before:+.1g})"), f"{before:.3f}", holds


def sandwich(samples: int = 400, units: int = 3, std: float = 0.1, seed: int = 0) -> Finding:
    """Check that I(X;T) of `noise`, which samples a mixture, lies between the two closed-form bounds of `kde`.

    Both take the same noise, of standard deviation `std`.
    """
    data = digits_layer(samples, units, seed)
    bounds = _measure(parse(f"kde:variance={std**2},null_draws=0"), data)
    low, high = (float(bounds[name].value[0]) for name in ("I(X;T) lower", "I(X;T)"))
    q = _measure(parse(f"noise:std={std}"), data)["I(X;T)"]
    got, flagged = float(q.value[0]), ", ".join(_raised(q))
    expected = f"kde bounds [{low:.3f}, {high:.3f}]"
    return Finding("noise", "I(X;T)", "sandwich", expected, f"{got:.3f}", low - SLACK <= got <= high + SLACK, flagged)


OFF = 0.3 / math.log(2.0)
"""Bits (0.3 nat) by which a value may miss the information of a problem."""


def known(names: Sequence[str] | None = None, *, samples: int = 1000, seed: int = 0) -> list[Finding]:
    """I(T;Y) of every estimator on curved, tied, atomic and wide problems whose information is known.

    Parameters
    ----------
    names : sequence of str, optional
        As in `certify`. An estimator has no row for a problem whose labels (classes or real targets) it does not take,
        and none at all if it gives no I(T;Y), or that of something other than T and Y: of the probe set alone, where
        every sample may be told apart, or of a network's own output.
    samples, seed : int
        Number of samples that each problem has, and what draws them.

    Returns
    -------
    list of Finding
        `check` is "kind: problem". A value holds if it is within `OFF` bits of the truth. A lower bound holds if it is
        at most `OFF` above the truth, and so does the information of a binned layer, which is at most that of the layer
        itself.
    """
    pairs = ((name, label) for name in _specs(names) for label in PROBLEMS)
    found = (_known_one(name, label, PROBLEMS[label](samples, seed)) for name, label in pairs)
    return [finding for finding in found if finding is not None]


def _known_one(name: str, label: str, problem: datasets.Known) -> Finding | None:
    """Return the finding of one estimator on one problem; None where it has no I(T;Y), or one of another estimand."""
    estimator = parse(name)
    t, y = torch.from_numpy(problem.t).double().view(len(problem.t), -1), torch.from_numpy(problem.y)
    if ("continuous" if y.is_floating_point() else "discrete") not in estimator.targets:
        return None
    q = _measure(estimator, LayerData(t, t, y)).get("I(T;Y)")
    if q is None or q.estimand in _OF_ELSEWHERE:
        return None
    # A lower bound, or the information of bins, may lie far below the truth: only a value above it fails.
    got, below = float(q.value[0]), q.bound == "lower" or q.estimand == "binned"
    holds = got - problem.bits <= OFF and (below or problem.bits - got <= OFF)
    expected = f"{problem.bits:.3f}" + (" at most" if below else "")
    return Finding(name, "I(T;Y)", label, expected, f"{got:.3f}", holds, ", ".join(_raised(q)))


_OF_ELSEWHERE = ("noisy-finite", "softmax-output")
"""Estimands of another information than that between T and Y of a problem: of T with noise, of a network's output."""


def _behind_tanh(samples: int, seed: int) -> datasets.Known:
    """Three pairs of correlated normal numbers, with 3 nats in all; each side is mixed into 32 tanh units."""
    pair = datasets.gaussian_pair(samples, bits=3.0 / math.log(2.0), dims=3, seed=seed)
    mix = np.random.default_rng(seed + 1).standard_normal((2, 3, 32))
    return datasets.Known(np.tanh(pair.t @ mix[0]), np.tanh(pair.y @ mix[1]), pair.bits)


def _swirled(samples: int, seed: int) -> datasets.Known:
    """Pairs of points in the plane with 2 nats; each point is turned by its radius, T in one sense and Y in the other.

    Such a turn is one to one, so the information stays, but the relation is no longer linear.
    """
    pair = datasets.gaussian_pair(samples, bits=2.0 / math.log(2.0), dims=2, seed=seed)

    def turned(a: npt.NDArray[Any], sense: float) -> npt.NDArray[Any]:
        """The rows of `a` (N, 2), each turned by an angle equal to its radius, in the sense 1 or -1."""
        angle = sense * np.hypot(a[:, 0], a[:, 1])
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos * a[:, 0] - sin * a[:, 1], sin * a[:, 0] + cos * a[:, 1]], axis=1)

    return datasets.Known(turned(pair.t, 1.0), turned(pair.y, -1.0), pair.bits)


def _ratings(samples: int, seed: int) -> datasets.Known:
    """Targets 1 to 5, and one unit: the target plus standard normal noise."""
    classes = datasets.gaussian_classes(samples, means=np.arange(1, 6), seed=seed)
    # `gaussian_classes` turns at random, which on a line may mirror it: the unit is to rise with the target.
    sign = np.sign(np.corrcoef(classes.t[:, 0], classes.y)[0, 1])
    return datasets.Known(sign * classes.t, classes.y + 1.0, classes.bits)


def _exclusive_or(samples: int, seed: int) -> datasets.Known:
    """20 normal units, and whether the signs of two of them differ: one bit that no single direction holds."""
    t = np.random.default_rng(seed).standard_normal((samples, 20))
    return datasets.Known(t, ((t[:, 0] > 0) ^ (t[:, 1] > 0)).astype(np.int64), 1.0)


def _itself(samples: int, seed: int) -> datasets.Known:
    """One unit that is the number of the class, of ten equal classes."""
    y = np.arange(samples) % 10
    return datasets.Known(y.astype(np.float64)[:, None], y, math.log2(10))


PROBLEMS: dict[str, Callable[[int, int], datasets.Known]] = {
    "curved: classes as shells": lambda n, s: datasets.gaussian_shells(n, stds=[0.5, 1.0, 2.0], dims=3, seed=s),
    "curved: targets behind tanh": _behind_tanh,
    "curved: swirled targets": _swirled,
    "tied: ReLU units": lambda n, s: datasets.zero_inflated(n, means=[-0.5, 0.5, 1.5], units=3, seed=s),
    "tied: ratings as targets": _ratings,
    "atomic: 12 codes": lambda n, s: datasets.code_table(n, codes=12, classes=4, concentration=0.1, seed=s),
    "atomic: 3 codes a sample": lambda n, s: datasets.code_table(n, codes=3 * n, classes=4, concentration=0.1, seed=s),
    "atomic: the class itself": _itself,
    "wide: one bit in 64 units": lambda n, s: datasets.signed_bits(n, gains=[2.0], units=64, seed=s),
    "wide: exclusive or in 20 units": _exclusive_or,
    "wide: targets of 12 dimensions": lambda n, s: datasets.gaussian_pair(n, bits=5.5, dims=12, seed=s),
}
"""Problems whose information is known, by kind and name."""


def to_text(findings: Sequence[Finding]) -> str:
    """The findings as aligned columns for a terminal."""
    rows = [("estimator", "quantity", "check", "expected", "got", "", "flagged")]
    for f in findings:
        rows.append((f.estimator, f.quantity, f.check, f.expected, f.got, "holds" if f.holds else "FAILS", f.flagged))
    return "\n".join(aligned(rows))


def to_markdown(findings: Sequence[Finding]) -> str:
    """A row for each estimator and quantity and a column for each check; then a row for each known problem."""
    of_problems = [f for f in findings if f.check in PROBLEMS]
    others = [f for f in findings if f.check not in PROBLEMS]
    return "\n\n".join(table for table in (_by_check(others), _by_problem(of_problems)) if table)


def _by_check(findings: Sequence[Finding]) -> str:
    """A Markdown table with a row for each estimator and quantity, and a column for each check."""
    checks = list(dict.fromkeys(f.check for f in findings))
    by_quantity: dict[tuple[str, str], dict[str, str]] = {}
    for f in findings:
        cell = f"{_verdict(f)}: {f.got}" + (", flagged" if f.flagged else "")
        by_quantity.setdefault((f.estimator, f.quantity), {})[f.check] = cell
    # A check that a quantity has no finding of gives None, an empty cell.
    rows = [(f"`{name}`", quantity, *map(cells.get, checks)) for (name, quantity), cells in by_quantity.items()]
    return _markdown(f"| estimator | quantity | {' | '.join(checks)} |", rows)


def _by_problem(findings: Sequence[Finding]) -> str:
    """A Markdown table with a row for each known problem and estimator."""
    ordered = sorted(findings, key=lambda f: list(PROBLEMS).index(f.check))
    rows = [(f.check, f"`{f.estimator}`", f.expected, f.got, _verdict(f), f.flagged or "-") for f in ordered]
    return _markdown("| problem | estimator | I(T;Y) known | estimated | | flagged |", rows)


def _verdict(f: Finding) -> str:
    """Whether the check of a finding holds, in Markdown."""
    return "holds" if f.holds else "**fails**"


def _markdown(head: str, rows: Sequence[Sequence[str | None]]) -> str:
    """A Markdown table with this head line, and a line for each row; an empty text where there are no rows."""
    lines = [f"| {' | '.join(cell or '' for cell in row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *lines]) if rows else ""
