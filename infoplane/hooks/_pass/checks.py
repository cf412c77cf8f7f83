"""Looked at once, at the start: whether a model has its weights, whether rows are samples, whether passes are alike."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from infoplane.core.device import on_accelerator
from infoplane.core.text import listed, printable
from infoplane.core.warn import warn
from infoplane.hooks._pass.calls import Attached, tensors_in, with_hooks
from infoplane.hooks._pass.capture import Capture, Captured, axis_advice
from infoplane.hooks._pass.state import Surroundings
from infoplane.hooks.probe import Inputs, ProbeSet
from infoplane.hooks.select import is_scripted, named_modules

KEPT_UNITS = 4096
"""Values of a row that are compared: every k-th where a layer has twice as many, or more."""

TOLERANCE_EPS = 1000.0
TOLERANCE_MOST = 0.1
"""Rounding units, and at most which share of its largest value, by which two orders of rows may differ in a layer."""

ROWS_SHARE = 0.01
"""Share of the rows that may differ by more: rounding turns a few close decisions, as of a maximum."""

JOLT_EPS = 16.0
"""Rounding units by which inputs are changed; a deep network rounds at every layer."""
JOLTS = 3
"""Times that they are changed."""

_REMEDY = (
    "the probe must not be its first call, which would draw weights from the recorder's random state; run one forward "
    "pass first (model(x[:2])), before the optimizer is made"
)
"""Models that make or set their weights when they are first called: a recording must not be that call."""

_STATE = (
    "when the same rows are passed twice: the forward pass keeps state outside parameters and buffers (a hidden state, "
    "a running mean in an attribute, a generator of its own), which every snapshot changes, so training is not what it "
    "would be without recording; make it a buffer, or reset it"
)

_REFUSALS = (ValueError, TypeError, IndexError, KeyError, AssertionError, RuntimeError)

T = TypeVar("T")


class RunChunk(Protocol):
    def __call__(self, inputs: Inputs, which: int, jolt: int | None = None, /) -> Captured: ...


def look_at_rows(
    run: RunChunk, probe: ProbeSet, rows: int, captures: Sequence[Capture], rounding: float, *, alone: bool
) -> str:
    """Run one chunk again, with other random numbers, and with its rows in another order; compare.

    `run(inputs, k)` is a pass with the k-th random state, injected noise off; a third argument seeds changes of the
    last digits of embeddings. What differs when nothing has changed is state that the forward pass keeps, what
    differs with the random state is noise: both are warned of, and the order of such rows cannot be checked. All
    other rows have to go where their inputs go, whether or not a layer mixes rows (batch statistics do). `rounding`
    is the share of a layer's largest value that counts as equal. Unless `alone`, every process makes the same number
    of passes. Returns the warning about state, "" where there was none.

    Raises
    ------
    ValueError
        If rows do not follow their samples, in a layer whose sample axis the user has not given.
    """
    chunk, plain = _first(run, probe, rows)
    again, other = run(chunk, 0), run(chunk, 1)
    order = _cycle(len(chunk))
    turned = _unless_refused(lambda: run(chunk.take(order), 0))
    kept = _changed(plain, again, rounding)
    state = ""
    if kept:
        state = f"{_named(kept, 'not the same')} {_STATE}"
        warn(state)
    random = [k for k, v in plain.values.items() if k not in kept and _differ(v, other.values.get(k), rounding)]
    if len(chunk) < 4:  # another order of so few rows is a mere shift
        return state
    if random:
        warn(f"{_named(random)} random: whether rows are in the probe's order cannot be checked there")
    if isinstance(turned, str):
        warn(f"whether rows are in the probe's order cannot be checked: the model does not run on another, {turned}")
        return state
    sensitive = _sensitive(run, chunk, plain, rounding) if alone else lambda key: 0
    astray: list[tuple[Capture, int]] = []
    blurred: list[str] = []
    for capture in (c for c in captures if c.layer.key not in (*kept, *random)):
        key = capture.layer.key
        moved = _moved(plain.values[key][order], turned.values.get(key), rounding)
        if moved <= max(1, ROWS_SHARE * len(chunk)):
            continue
        # Where a change of last digits moves a tenth as many rows, the order is not shown to move any.
        if sensitive(key) > 0.1 * moved:
            blurred.append(key)
        else:
            astray.append((capture, moved))
    if blurred:
        warn(
            f"{_named(blurred, 'changed by rounding alone')} as much as by another order: whether they are in the "
            "probe's order cannot be checked there"
        )
    _refuse(astray, len(chunk))
    return state


def tolerance(dtypes: Iterable[torch.dtype], device: torch.device) -> float:
    """The share of its largest value by which a layer may differ between two orders of the same rows.

    1,000 rounding units of the coarsest format in use, at most a tenth.
    """
    eps = max((torch.finfo(d).eps for d in dtypes if d.is_floating_point), default=torch.finfo(torch.float32).eps)
    if eps >= torch.finfo(torch.float32).eps:
        # Products of float32 are made of fewer bits where that was allowed, as of TensorFloat-32 (units of 2^-10) or of
        # bfloat16 (2^-7); cuDNN does so by default.
        eps = max(eps, {"highest": 0.0, "high": 2.0**-10}.get(torch.get_float32_matmul_precision(), 2.0**-7))
        eps = max(eps, 2.0**-10 if on_accelerator(device) else 0.0)
    return min(TOLERANCE_MOST, TOLERANCE_EPS * eps)


def thinned(values: Tensor) -> Tensor:
    """(rows, ...) as (rows, at most about 2 x KEPT_UNITS) in memory of its own."""
    flat = values.detach().reshape(len(values), math.prod(values.shape[1:]))
    return flat[:, :: max(1, flat.shape[1] // KEPT_UNITS)].clone()


def returned(output: Any) -> dict[str, Tensor]:
    """Copies of the dense tensors in what a model returned, by their place."""
    found = tensors_in(output)
    dense = {k: t for k, t in found.items() if not t.is_nested and t.layout is torch.strided and not t.is_quantized}
    return {k: thinned(t if t.ndim else t[None]) for k, t in dense.items() if not hasattr(t, "full_tensor")}


def _first(run: RunChunk, probe: ProbeSet, rows: int) -> tuple[Inputs, Captured]:
    """A chunk of at most `rows` inputs to compare, and what the model gives on it."""
    # Rows from all over the probe: the first ones may be of one class, which all go to one expert. They keep their
    # order, since a model may need its rows sorted.
    n = min(rows, probe.first_pass)
    drawn = torch.randperm(probe.first_pass, generator=torch.Generator().manual_seed(0), device="cpu")[:n]
    chunk = probe.inputs.take(drawn.sort().values)
    found = _unless_refused(lambda: run(chunk, 0).whole())
    if not isinstance(found, str):
        return chunk, found
    chunk = probe.inputs.take(slice(0, n))  # it has run before; another may take another way
    return chunk, run(chunk, 0).whole()


def _cycle(n: int) -> Tensor:
    """An order (n,) of the rows: one cycle through all of them that is neither a shift nor its own mirror image."""
    generator = torch.Generator().manual_seed(1)
    while True:
        visited = torch.randperm(n, generator=generator, device="cpu")  # the rows as the cycle comes to them
        order = torch.empty_like(visited)
        order[visited] = visited.roll(1)
        shift = (order - torch.arange(n, device="cpu")) % n
        # Of fewer than 4 rows every cycle is a shift.
        if n < 4 or not (torch.equal(order.flip(0), n - 1 - order) or bool((shift == shift[0]).all())):
            return order


def _unless_refused(work: Callable[[], Captured]) -> Captured | str:
    """The result of a pass, or the model's reason for not running on these rows."""
    try:
        return work()
    except torch.OutOfMemoryError:
        raise
    except _REFUSALS as error:
        return f"{type(error).__name__}: {printable(str(error).splitlines()[0] if str(error) else '')}"


def _sensitive(run: RunChunk, chunk: Inputs, plain: Captured, rounding: float) -> Callable[[str], int]:
    """A function that tells how many rows of a layer move when inputs change in their last digits."""
    found: list[Captured] = []

    def moved(key: str) -> int:
        """How many rows of a layer move at most under the changes."""
        for seed in range(0 if found else JOLTS):  # the passes are made for the first layer that is asked for
            generator = torch.Generator().manual_seed(seed)
            found.append(run(chunk.map(partial(_jolt, generator=generator)), 0, seed))
        return max(_moved(plain.values[key], seen.values.get(key), rounding) for seen in found)

    return moved


def _jolt(t: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor with each number changed by JOLT_EPS rounding units, up or down at random; whole numbers stay."""
    if not t.is_floating_point():
        return t
    sign = torch.randint(0, 2, t.shape, generator=generator, device="cpu").to(t.device, t.dtype) * 2 - 1  # -1 or 1
    return t * (1 + JOLT_EPS * torch.finfo(t.dtype).eps * sign)


def with_jolted_embeddings(model: nn.Module, seed: int | None, work: Callable[[], T]) -> T:
    """Return `work()`, run with the last digits of every embedding changed; with none changed where `seed` is None."""
    if seed is None:
        return work()
    # Tokens are whole numbers, with no last digits to change: their embeddings are changed instead.
    generator = torch.Generator().manual_seed(seed)

    def run(attached: Attached) -> T:
        """Attach a hook to every embedding, and do the work."""
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                attached.after(module, lambda module, args, output: _jolt(output, generator))
        return work()

    return with_hooks(run)


def _changed(plain: Captured, again: Captured, rounding: float) -> list[str]:
    """Keys of layers, or where there are none of outputs, that differ between two passes over the same rows."""
    layers = [k for k, v in plain.values.items() if _differ(v, again.values.get(k), rounding)]
    outputs = [k for k, v in plain.outputs.items() if k in again.outputs and _differ(v, again.outputs[k], rounding)]
    return layers or ["@out" + k for k in outputs]


def _differ(a: Tensor, b: Tensor | None, rounding: float) -> bool:
    """Whether two passes over the same rows differ: on the CPU in any bit, elsewhere beyond rounding."""
    if b is None or a.shape != b.shape:
        return True
    if not on_accelerator(a.device) or not a.is_floating_point():
        return not bool(((a == b) | ((a != a) & (b != b))).all())
    return _moved(a, b, rounding) > 0


def _moved(a: Tensor, b: Tensor | None, rounding: float) -> int:
    """Number of rows in which a value differs by more than `rounding` times the largest; all for another shape."""
    if b is None or a.shape != b.shape:
        return len(a)
    if not a.is_floating_point():
        return int((a != b).any(1).sum())
    a, b = a.double(), b.double()
    finite = a.isfinite() & b.isfinite()
    scale = float(a[finite].abs().max()) if bool(finite.any()) else 0.0
    same = (a == b) | (a.isnan() & b.isnan()) | (finite & ((a - b).abs() <= rounding * scale))
    return int((~same).any(1).sum())


def _refuse(astray: Sequence[tuple[Capture, int]], n: int) -> None:
    """Raise ValueError for layers whose rows are not the samples; only warn where the user gave their axis."""
    wrong = [(c, moved) for c, moved in astray if c.batch_dim is None]
    if wrong:
        raise ValueError(_not_samples(wrong, n) + f"; {_advice(wrong[0][0], n)}")
    if astray:
        warn(f"{_not_samples(astray, n)}; recorded as they are, since batch_dim= names their axis")


def _not_samples(astray: Sequence[tuple[Capture, int]], n: int) -> str:
    """The beginning of the message of `_refuse`: which layers, and how many rows moved at most."""
    which = _named([c.layer.key for c, _ in astray], "not in the order of the samples")
    return f"{which}: given in another order, {max(m for _, m in astray)} of {n} rows do not follow"


def _advice(capture: Capture, n: int) -> str:
    """The end of an error line about a layer whose rows are not the samples."""
    key = capture.layer.key
    axes = [i for i, size in enumerate(capture.layer.raw_shape, start=1) if size == n]
    advice = "leave it out, or reduce inside the model to one row per sample in the order of the input; "
    return axis_advice(key, axes, f"{advice}batch_dim={{{key!r}: 0}} records it as it is")


def _named(keys: Sequence[str], what: str = "") -> str:
    """`rows of layer 'fc1' are random`, for a message."""
    return f"rows of layer{'s' * (len(keys) > 1)} {listed(list(map(repr, keys)), 8)} are {what}".rstrip()


def refuse_lazy(model: nn.Module) -> None:
    """Raise ValueError where a lazy module has not seen an input yet."""
    # Parts 1 and 2 of a module are its parameters and its buffers.
    modules = named_modules(model).values()
    lazy = [m for m in modules if any(is_lazy(t) for part in _parts(m.module)[1:3] for t in part.values())]
    if lazy:
        more = f" and {len(lazy) - 1} more layers" if len(lazy) > 1 else ""
        which = printable(f"layer {lazy[0].name!r} ({lazy[0].type_name}){more} of {type(model).__name__}")
        raise ValueError(f"{which} has no weights yet; {_REMEDY}")


class FirstCall:
    """The content of all modules, noted ahead of the first pass, to be put back where that pass is refused."""

    def __init__(self, surroundings: Surroundings) -> None:
        """Note the content of the modules; the surroundings tell which tensors each pass changes."""
        self._surroundings, self._model = surroundings, surroundings.model
        modules = [module for module in self._model.modules() if not is_scripted(module)]
        # Each dict of a module, and a copy of what was in it.
        self._found = [(part, dict(part)) for module in modules for part in _parts(module)]
        self._weights = set(_weights(self._model))

    def refuse_new_weights(self) -> None:
        """Raise ValueError where the first pass has made parameters, as layers sized by their first input do."""
        made = [name for name in _weights(self._model) if name not in self._weights]
        if made:
            self._refuse(f"{listed(list(map(repr, made)), 1)} first appeared in the probe's forward pass")

    @contextlib.contextmanager
    def watch_second(self) -> Iterator[None]:
        """Watch the second pass, in a block; ValueError where it does not set again what the first had set."""
        try:
            yield
        except (RuntimeError, AttributeError, TypeError, IndexError) as error:
            # It may fail on buffers put back, where the model remembers in an attribute that it made them.
            if not isinstance(error, torch.OutOfMemoryError):
                self._refuse_set_once(1)
            raise
        self._refuse_set_once(0)

    def _refuse_set_once(self, kind: int) -> None:
        """Raise ValueError for tensors that only the first pass changed (kind 0) or replaced (kind 1)."""
        first, last = self._surroundings.first, self._surroundings.last
        once = sorted(first[kind] - last[kind]) if first and last else []
        if once:
            self._refuse(f"{listed(list(map(repr, once)), 1)} is set by the first forward pass only")

    def _refuse(self, what: str) -> None:
        """Put the modules back as they were, and raise ValueError."""
        for part, before in self._found:
            part.clear()
            part.update(before)
        raise ValueError(f"{what} of {printable(type(self._model).__name__)}; {_REMEDY}")


def _parts(module: nn.Module) -> tuple[dict[str, Any], ...]:
    """Where a module keeps its attributes, parameters, buffers and children."""
    return module.__dict__, module._parameters, module._buffers, module._modules


def _weights(model: nn.Module) -> list[str]:
    """Names of all parameters."""
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]
