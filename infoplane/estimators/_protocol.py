"""What an estimator is: tensors in, named quantities out. Nothing is inherited."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from infoplane.core.exact import extremes, fits_float64, refuse_inexact
from infoplane.core.records import Noise
from infoplane.core.units import BIT

ALL_GUARANTEES: frozenset[str] = frozenset({"blocks", "sample_order", "unit_order", "constant_zero", "device_exact"})
"""What an estimator may promise, and the contract suite then tests.

blocks: snapshots together or one by one give the same number. sample_order, unit_order: permuting samples
(with their labels) or units changes nothing. constant_zero: a constant layer gives exactly 0.
device_exact: CPU and GPU give the same float64.
"""

FLAGS: tuple[str, ...] = (
    "saturated",
    "out_of_range",
    "below_null",
    "ties",
    "degenerate",
    "single_class",
    "few_samples",
    "nonfinite",
    "out_of_domain",
    "unreliable",
)

Bound = Literal["point", "upper", "lower"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One estimated quantity for every snapshot of a block, with what belongs to it.

    Attributes
    ----------
    value : (S,) float64
    low, high : (S,) float64 or None
        95 % interval of the estimator's own sampling error, never bounds; NaN where a flag says that another error
        is the one to fear (`saturated`, `degenerate`, `few_samples`, `out_of_domain`, `unreliable`).
    bound : "point", "upper" or "lower"
    ceiling : (S,) or () float64, or None
        The largest value the quantity can take on these samples: H(X) or log2 N, H(Y).
    unit : str
        "bit" for Shannon information; anything else names its own unit.
    estimand : str
        What the value means here: "binned", "noisy-finite", "noisy-population", "softmax-output", or of I(T;Y)
        "linear-probe", "feature-probe", "mlp-probe"; else "".
    flags : mapping from flag name to (S,) bool
    """

    value: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    bound: Bound = "point"
    ceiling: Tensor | None = None
    unit: str = BIT
    estimand: str = ""
    flags: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, ...]]:
        """Return one row of text for each snapshot: value, interval, bound, ceiling, unit and flags."""
        out: list[tuple[str, ...]] = []
        for i, value in enumerate(self.value.tolist()):
            interval = ""
            if self.low is not None and self.high is not None and not bool(self.low[i].isnan() | self.high[i].isnan()):
                interval = f"[{float(self.low[i]):.4g}, {float(self.high[i]):.4g}]"
            # A ceiling () for all snapshots is repeated for each.
            top = "" if self.ceiling is None else f"{float(self.ceiling.expand(len(self.value))[i]):.4g}"
            raised = ", ".join(name for name, flag in self.flags.items() if bool(flag[i]))
            out.append((f"{value:.4g}", interval, self.bound, top, self.unit, raised))
        return out

    def _repr_html_(self) -> str:
        """Return HTML for a notebook: a table with everything that belongs to the number."""
        shown = self.rows()[:20]  # a table of more snapshots would fill the page
        head = "".join(f"<th>{c}</th>" for c in ("value", "95 %", "bound", "ceiling", "unit", "flags"))
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in shown)
        more = "" if len(self.value) <= 20 else f'<tr><td colspan="6">… {len(self.value) - 20} snapshots …</td></tr>'
        return f"<table><tr>{head}</tr>{body}{more}</table>"


Quantities = dict[str, Quantity]
"""What `estimate` returns: each quantity by its name, as "I(X;T)"."""


class Blocks(Protocol):
    """The whole run of one layer, to be read as often as `prepare` needs: iterating yields (S, N, U).

    `noise` is what the network adds after the layer; an optional `passes` is the number of further noisy passes that
    were recorded of some inputs. An optional `with_targets()` yields the same with their targets, for pairs of layers,
    whose second one is another at each step.
    """

    noise: Noise | None

    def __iter__(self) -> Iterator[Tensor]: ...


@runtime_checkable
class Estimator(Protocol):
    """The protocol. Anything with these members works in `infoplane.analyze`.

    `prepare(blocks, y, x) -> Self` is added by methods that need the whole run: it returns a frozen copy
    with what it found in fields made by `prepared()`, which go into the recorded configuration.
    A class attribute `uses_repeats = True` asks for the further noisy passes as rows of their own, told apart by
    equal `x_ids`, where every input has as many of them; "partial" asks for them also where only some inputs were
    repeated. Without it an estimator sees the first pass only.
    A class attribute `shannon = False` says that what it gives of (T;Y) is no Shannon information: such a method may
    compare two layers that are functions of one X.
    One that chooses between methods says which in the prepared fields `branch` and `reason` (for I(X;T) in `branch_xt`
    and `reason_xt`): figures mark layers of another branch. Its `settled(t, y, x=, x_ids=) -> Self` has the choice of
    one call, which shuffles and parts of wrappers keep.
    A class attribute `not_extrapolated = "why"` refuses `+extrapolate` with that reason: for errors that do not fall as
    1/N. Values of the estimands "binned", "noisy-finite" and "softmax-output" are never extrapolated.
    """

    name: ClassVar[str]
    targets: ClassVar[frozenset[str]]
    guarantees: ClassVar[frozenset[str]]

    def bytes_per_snapshot(self, samples: int, units: int) -> int: ...

    def estimate(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Quantities: ...


@runtime_checkable
class Preparing(Protocol):
    """An estimator that needs something of the whole run before it estimates."""

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self: ...


_FINITE: ContextVar[bool] = ContextVar("assume_finite", default=False)


@contextlib.contextmanager
def raised(flag: ContextVar[bool]) -> Iterator[None]:
    """Return a context in which `flag` is True; at its end the flag has the value from before."""
    token = flag.set(True)
    try:
        yield
    finally:
        flag.reset(token)


def assume_finite() -> AbstractContextManager[None]:
    """Return a context in which `estimate` need not look for NaN and infinity: the caller has done so.

    Saves one read of the activations, which for a wide layer can be most of the time. With non-finite values
    in the input results are then undefined.
    """
    return raised(_FINITE)


def assumed_finite() -> bool:
    """Return whether `assume_finite` is in force."""
    return _FINITE.get()


_VALUES_ONLY: ContextVar[bool] = ContextVar("values_only", default=False)


def values_only() -> AbstractContextManager[None]:
    """Return a context in which `estimate` may leave out costly checks that only raise flags; other flags stay."""
    return raised(_VALUES_ONLY)


def only_values() -> bool:
    """Return whether `values_only` is in force."""
    return _VALUES_ONLY.get()


def check_inputs(
    t: Tensor,
    y: Tensor,
    x_ids: Tensor | None = None,
    *,
    targets: frozenset[str],
    name: str,
    min_samples: int = 2,
    as_given: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Check and normalise the arguments of `estimate`.

    Returns `t` as real floating (S, N, U), `y` (int64 classes renumbered from 0, or float64 targets) and
    `x_ids` renumbered from 0, all on the device of `t`. Integers and bools become float64 exactly, those that
    would not are refused; float16 and bfloat16 become float32 exactly, and NaN and infinity are refused, unless `t` is
    to stay `as_given`.

    Raises
    ------
    ValueError, TypeError
        With what was expected, what came, and what to do.
    """
    if not isinstance(t, Tensor):
        raise TypeError(f"t must be a torch.Tensor, got {type(t).__name__}; use torch.as_tensor(t)")
    if t.ndim != 3:
        hint = "; for one snapshot pass t[None]" if t.ndim == 2 else ""
        raise ValueError(f"t must have shape (snapshots, samples, units), got {tuple(t.shape)}{hint}")
    if t.is_complex():
        raise TypeError(f"t must be real, got {t.dtype}; pass its real and imaginary parts as units")
    samples = t.shape[1]
    if t.shape[0] == 0 or t.shape[2] == 0:
        raise ValueError(f"t must have at least one snapshot and one unit, got shape {tuple(t.shape)}")
    if samples < min_samples:
        raise ValueError(f"{name} needs at least {min_samples} samples, got {samples}")
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch.Tensor, got {type(y).__name__}; use torch.as_tensor(y)")
    if y.shape[:1] != (samples,):
        raise ValueError(f"y must have one label per sample ({samples}), got shape {tuple(y.shape)}")
    if not as_given or t.dtype not in (torch.float16, torch.bfloat16):
        t = widened(t)
    y = y.to(t.device)
    if y.is_floating_point():
        if "continuous" not in targets:
            raise ValueError(
                f"{name} takes integer classes, got {y.dtype} targets; bin them first with "
                "infoplane.estimators.bin_targets(y, n_bins=10), or give integer labels"
            )
        if y.ndim > 2:
            raise ValueError(f"targets must have shape (samples,) or (samples, k), got {tuple(y.shape)}")
        y = finite_targets(y)
    else:
        if y.is_complex():
            raise TypeError(f"y must be real, got {y.dtype}")
        if "discrete" not in targets:
            raise ValueError(
                f"{name} takes continuous targets, got {y.dtype} classes; for I(T;Y) of classes use 'probe:family=mlp' "
                "or pass y.double() if they are numbers"
            )
        if y.ndim != 1:
            raise ValueError(f"class labels must have shape (samples,), got {tuple(y.shape)}")
        y = _renumbered(y.to(torch.int64))
    if x_ids is None:
        x_ids = torch.arange(samples, device=t.device)
    else:
        if x_ids.shape != (samples,):
            raise ValueError(f"x_ids must have shape ({samples},), got {tuple(x_ids.shape)}")
        if x_ids.is_floating_point() or x_ids.is_complex():
            raise TypeError(f"x_ids must be integers, got {x_ids.dtype}")
        x_ids = _renumbered(x_ids.to(t.device, torch.int64))
    if not as_given and not assumed_finite():
        refuse_unless_finite(t, *torch.aminmax(t))
    return t, y, x_ids


def widened(t: Tensor) -> Tensor:
    """Return the same values as float32 or float64: integers and bools as float64, narrower floats as float32.

    Raises
    ------
    ValueError
        For integers beyond 2**53, which float64 does not tell apart.
    """
    if t.dtype in (torch.float32, torch.float64):
        return t
    return t.to(torch.float32) if t.dtype.is_floating_point else as_floats(t, "t")


def last_finite(blocks: Iterable[Tensor]) -> Tensor | None:
    """Return the last snapshot (N, U) of a run in blocks (S, N, U) that is finite throughout, widened; else None."""
    last: Tensor | None = None
    for block in map(widened, blocks):
        finite = torch.isfinite(block).flatten(1).all(1).nonzero()
        if len(finite):
            last = block[int(finite[-1])]
    return last


def as_floats(a: Tensor, what: str) -> Tensor:
    """Return floats as they are, integers and bools as float64; ValueError, naming `what`, where that is not exact."""
    if a.is_floating_point():
        return a
    refuse_inexact(*_extremes(a), what)
    return a.to(torch.float64)


def finite_targets(y: Tensor) -> Tensor:
    """Return targets (N, ...) as float64; ValueError where they are not finite, or integers that are not exact."""
    y = as_floats(y, "y").to(torch.float64)
    if not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).nonzero()[0, 0])
        raise ValueError(f"y has non-finite values, first at sample {bad}; remove these samples")
    return y


def _extremes(a: Tensor) -> tuple[int, int]:
    """Return the smallest and the largest of 64-bit integers; (0, 0) for other types, whose numbers float64 holds."""
    if a.dtype == torch.uint64:  # which torch cannot compare
        return extremes(a.detach().cpu().numpy())
    if a.dtype != torch.int64 or not a.numel():
        return 0, 0
    least, most = torch.aminmax(a)
    return int(least), int(most)


def whole_cells(t: Tensor, width: float) -> Tensor:
    """Return `t`; if it has whole numbers too large for float64, return floats in the place of all its values.

    Two of these floats are in one cell floor(t / width) exactly if the whole numbers are. A cell of width 1 or less
    holds one whole number, and a whole width divides exactly; for any other width `t` is returned as it is.
    """
    if not isinstance(t, Tensor) or fits_float64(*_extremes(t)) or not (width <= 1 or width == int(width)):
        return t
    values = t.detach().cpu().numpy()
    cells = values if width <= 1 else values // values.dtype.type(int(width))
    numbers = np.unique(cells, return_inverse=True)[1].reshape(cells.shape)
    # Cells are numbered anew from 0, and each value is the middle of its cell: rounding puts it into no other.
    return torch.from_numpy((numbers + 0.5) * width).to(t.device)


def _renumbered(ids: Tensor) -> Tensor:
    """Return the ids (N,) replaced by 0, 1, ...: the smallest id becomes 0, the next larger one 1."""
    least, most = (int(v) for v in torch.aminmax(ids))
    # Ids that are spread widely are sorted: a table of all numbers between them would be much longer than they are.
    if most - least >= 4 * len(ids) + 1024:
        inverse: Tensor = torch.unique(ids, return_inverse=True)[1]
        return inverse
    # Marking the ids that occur is 20 times faster than sorting them.
    place: Tensor = ids - least
    seen = torch.zeros(most - least + 1, dtype=torch.int64, device=ids.device).scatter_(0, place, 1)
    number: Tensor = torch.cumsum(seen, 0) - 1
    return number.gather(0, place)


def refuse_unless_finite(t: Tensor, least: Tensor, most: Tensor) -> None:
    """Raise ValueError if `t` has values that are not finite, told by its extremes `least` and `most`, of any shape."""
    # Extremes are finite exactly when all values are, and cost one read.
    if not bool((torch.isfinite(least) & torch.isfinite(most)).all()):
        refuse_nonfinite(t)


def refuse_nonfinite(t: Tensor) -> None:
    """Raise ValueError, which counts and locates them, if values of `t` (S, N, U) are NaN or infinite."""
    bad = ~torch.isfinite(t)
    if bool(bad.any()):
        s, n, u = (int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"t has {int(bad.sum())} non-finite values, first at snapshot {s}, sample {n}, "
            f"unit {u}; did training diverge?"
        )
