"""Checks made once, at the start: whether a model has its weights, rows are samples, and passes are alike."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from infoplane.core.device import on_accelerator
from infoplane.core.text import listed, printable
from infoplane.core.warn import warn
from infoplane.hooks._pass.calls import Attached, info, tensors_in, with_hooks
from infoplane.hooks._pass.capture import Capture, Captured, axis_advice
from infoplane.hooks._pass.state import Surroundings
from infoplane.hooks.probe import Inputs, ProbeSet
from infoplane.hooks.select import is_scripted, named_modules

KEPT_UNITS = 4096
"""Values of a row that are compared: every k-th where a layer has twice as many, or more."""

TOLERANCE_EPS = 1000.0
TOLERANCE_MOST = 0.1
"""Two orders of the same rows may differ by so many rounding units of a layer's largest value, but at most by this
share of it."""

ROWS_SHARE = 0.01
"""Share of the rows that may differ by more: rounding turns a few close decisions, as of a maximum."""

PERTURB_EPS = 16.0
"""Rounding units by which inputs are perturbed; a deep network rounds at every layer."""
PERTURBATIONS = 3
"""Times that they are perturbed."""

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
    """Runs the model on inputs, with injected noise off, and captures layers and outputs.

    Passes of one `random_state` draw the same random numbers. With `perturb_seed` the embeddings are changed in their
    last digits: see `with_perturbed_embeddings`.
    """

    def __call__(self, inputs: Inputs, random_state: int, perturb_seed: int | None = None, /) -> Captured: ...


def look_at_rows(
    run: RunChunk, probe: ProbeSet, rows: int, captures: Sequence[Capture], rel_tol: float, *, alone: bool
) -> str:
    """Run one chunk of at most `rows` rows again, with other random numbers, and in another order; compare.

    What differs when nothing has changed is state that the forward pass keeps, what differs with the random state is
    noise: both are warned of, and the order of such rows cannot be checked. All other rows have to go where their
    inputs go, whether or not a layer mixes rows (batch statistics do). `rel_tol` is the share of a layer's largest
    value that counts as equal. `alone` says that no other process has to make the same passes: only then may further
    passes show what rounding alone does. Returns the warning about state, "" where there was none.

    Raises
    ------
    ValueError
        If rows do not follow their samples, in a layer whose sample axis the user has not given.
    """
    chunk, first = _reference(run, probe, rows)
    repeated, reseeded = run(chunk, 0), run(chunk, 1)
    order = _cycle(len(chunk))
    reordered = _unless_refused(lambda: run(chunk.take(order), 0))
    changed = _changed(first, repeated, rel_tol)
    state = f"{_named(changed, 'not the same')} {_STATE}" if changed else ""
    if state:
        warn(state)
    random = [k for k, v in first.values.items() if k not in changed and _differ(v, reseeded.values.get(k), rel_tol)]
    if len(chunk) < 4:  # another order of so few rows is a mere shift
        return state
    if random:
        warn(f"{_named(random)} random: whether rows are in the probe's order cannot be checked there")
    if isinstance(reordered, str):
        warn(f"whether rows are in the probe's order cannot be checked: the model does not run on another, {reordered}")
        return state
    sensitive = _sensitive(run, chunk, first, rel_tol) if alone else lambda key: 0
    misplaced: list[tuple[Capture, int]] = []  # layers whose rows do not follow, and in how many rows
    unclear: list[str] = []
    for capture in (c for c in captures if c.layer.key not in (*changed, *random)):
        key = capture.layer.key
        n_moved = _rows_moved(first.values[key][order], reordered.values.get(key), rel_tol)
        if n_moved > max(1, ROWS_SHARE * len(chunk)):
            # Where changing the inputs' last digits moves more than a tenth as many rows, it may all be by rounding.
            by_rounding = sensitive(key) > 0.1 * n_moved
            unclear += [key] if by_rounding else []
            misplaced += [] if by_rounding else [(capture, n_moved)]
    if unclear:
        which = _named(unclear, "changed by rounding alone")
        warn(f"{which} as much as by another order: whether they are in the probe's order cannot be checked there")
    _refuse_misplaced(misplaced, len(chunk))
    return state


def tolerance(dtypes: Iterable[torch.dtype], device: torch.device) -> float:
    """The share of its largest value by which a layer may differ between two orders of the same rows.

    1,000 rounding units of the coarsest format in use, at most a tenth.
    """
    eps = max((torch.finfo(d).eps for d in dtypes if d.is_floating_point), default=torch.finfo(torch.float32).eps)
    if eps >= torch.finfo(torch.float32).eps:  # not for a network of float64 alone
        # Products of float32 are made of fewer bits where that was allowed, as of TensorFloat-32 (units of 2^-10) or of
        # bfloat16 (2^-7); cuDNN does so by default.
        eps = max(eps, {"highest": 0.0, "high": 2.0**-10}.get(torch.get_float32_matmul_precision(), 2.0**-7))
        eps = max(eps, 2.0**-10 if on_accelerator(device) else 0.0)
    return min(TOLERANCE_MOST, TOLERANCE_EPS * eps)


def thinned(values: Tensor) -> Tensor:
    """Copy every k-th value of each row: (rows, ...) as (rows, at most about 2 x KEPT_UNITS)."""
    flat = values.detach().reshape(len(values), math.prod(values.shape[1:]))
    return flat[:, :: max(1, flat.shape[1] // KEPT_UNITS)].clone()


def returned(output: Any) -> dict[str, Tensor]:
    """Thinned copies of the dense tensors in what a model returned, by their path; of sharded ones none."""
    dense = {k: t for k, t in tensors_in(output).items() if not (info(t).odd or hasattr(t, "full_tensor"))}
    return {k: thinned(t if t.ndim else t[None]) for k, t in dense.items()}


def _reference(run: RunChunk, probe: ProbeSet, rows: int) -> tuple[Inputs, Captured]:
    """Return at most `rows` inputs and what the model gives on them, with which later passes are compared.

    The inputs are drawn from the probe; if the model fails on these, its first ones are taken.
    """
    # Drawn from all of the probe, since the first ones may be of one class, which all go to one expert. They keep their
    # order, since a model may need its rows sorted.
    n = min(rows, probe.first_pass)
    drawn = torch.randperm(probe.first_pass, generator=torch.Generator().manual_seed(0), device="cpu")[:n]
    chunk = probe.inputs.take(drawn.sort().values)
    captured = _unless_refused(lambda: run(chunk, 0).whole())
    if isinstance(captured, str):
        chunk = probe.inputs.take(slice(0, n))  # on these the model has run before
        captured = run(chunk, 0).whole()
    return chunk, captured


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
    """The result of a pass, or the model's reason for not running on these rows, in words."""
    try:
        return work()
    except _REFUSALS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first_line = str(error).partition("\n")[0]
        return f"{type(error).__name__}: {printable(first_line)}"


def _sensitive(run: RunChunk, chunk: Inputs, first: Captured, rel_tol: float) -> Callable[[str], int]:
    """Return a function that tells how many rows of a layer move when inputs change in their last digits."""
    perturbed: list[Captured] = []

    def rows_moved(key: str) -> int:
        """The largest number of rows of a layer that a perturbation of the inputs moves."""
        for seed in range(0 if perturbed else PERTURBATIONS):  # the passes are made when the first layer is asked for
            generator = torch.Generator().manual_seed(seed)
            perturbed.append(run(chunk.map(partial(_perturbed, generator=generator)), 0, seed))
        return max(_rows_moved(first.values[key], other.values.get(key), rel_tol) for other in perturbed)

    return rows_moved


def _perturbed(t: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor with each number changed by PERTURB_EPS rounding units, up or down at random; whole numbers stay."""
    if not t.is_floating_point():
        return t
    sign = torch.randint(0, 2, t.shape, generator=generator, device="cpu").to(t.device, t.dtype) * 2 - 1  # -1 or 1
    return t * (1 + PERTURB_EPS * torch.finfo(t.dtype).eps * sign)


def with_perturbed_embeddings(model: nn.Module, seed: int | None, work: Callable[[], T]) -> T:
    """Return `work()`, run with the last digits of every embedding changed; with none changed where `seed` is None."""
    if seed is None:
        return work()
    # Tokens are whole numbers, with no last digits to change: their embeddings are changed instead.
    generator = torch.Generator().manual_seed(seed)

    def run(attached: Attached) -> T:
        """Attach a hook to every embedding, and do the work."""
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                attached.after(module, lambda module, args, output: _perturbed(output, generator))
        return work()

    return with_hooks(run)


def _changed(first: Captured, repeated: Captured, rel_tol: float) -> list[str]:
    """Keys of the layers that differ between two passes over the same rows; if none does, of the model's outputs."""
    layers = [k for k, v in first.values.items() if _differ(v, repeated.values.get(k), rel_tol)]
    outputs = [k for k, v in first.outputs.items() if k in repeated.outputs]
    # "@out" is the model itself; "[0]" or ".logits" behind it is the part of its output.
    return layers or ["@out" + k for k in outputs if _differ(first.outputs[k], repeated.outputs[k], rel_tol)]


def _differ(a: Tensor, b: Tensor | None, rel_tol: float) -> bool:
    """Whether two passes over the same rows, (rows, values) each, differ: on the CPU in any bit, else by `rel_tol`."""
    if b is None or a.shape != b.shape:
        return True
    return _rows_moved(a, b, rel_tol if on_accelerator(a.device) else 0.0) > 0


def _rows_moved(a: Tensor, b: Tensor | None, rel_tol: float) -> int:
    """In how many rows of two tensors (rows, values) a value differs by more than `rel_tol` times the largest of `a`.

    All of them where the shapes differ, or the layer is missing (None).
    """
    if b is None or a.shape != b.shape:
        return len(a)
    if a.is_floating_point():
        a, b = a.double(), b.double()
    same = (a == b) | ((a != a) & (b != b))  # NaN is unequal to itself
    if a.is_floating_point():
        finite = a.isfinite() & b.isfinite()
        largest = float(a[finite].abs().max()) if bool(finite.any()) else 0.0
        same |= finite & ((a - b).abs() <= rel_tol * largest)
    return int((~same).any(1).sum())


def _refuse_misplaced(misplaced: Sequence[tuple[Capture, int]], n: int) -> None:
    """Raise ValueError for layers whose rows are not the samples; only warn where the user gave their axis.

    Each comes with the number of its rows, out of `n`, that do not follow their inputs.
    """
    wrong = [(capture, n_moved) for capture, n_moved in misplaced if capture.batch_dim is None]
    shown = wrong or misplaced
    if not shown:
        return
    which = _named([capture.layer.key for capture, _ in shown], "not in the order of the samples")
    text = f"{which}: given in another order, {max(n_moved for _, n_moved in shown)} of {n} rows do not follow"
    if not wrong:
        warn(f"{text}; recorded as they are, since batch_dim= names their axis")
        return
    layer = wrong[0][0].layer
    axes = [i for i, size in enumerate(layer.raw_shape, start=1) if size == n]
    advice = "leave it out, or reduce inside the model to one row per sample in the order of the input; "
    advice = axis_advice(layer.key, axes, f"{advice}batch_dim={{{layer.key!r}: 0}} records it as it is")
    raise ValueError(f"{text}; {advice}")


def _named(keys: Sequence[str], what: str = "") -> str:
    """`rows of layer 'fc1' are random`, for a message."""
    return f"rows of layer{'s' * (len(keys) > 1)} {listed(list(map(repr, keys)), 8)} are {what}".rstrip()


def refuse_lazy(model: nn.Module) -> None:
    """Raise ValueError where a lazy module has not seen an input yet."""
    modules = named_modules(model).values()
    held = [(m, [*m.module._parameters.values(), *m.module._buffers.values()]) for m in modules]
    lazy = [m for m, tensors in held if any(t is not None and is_lazy(t) for t in tensors)]
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
        dicts = [d for m in modules for d in (m.__dict__, m._parameters, m._buffers, m._modules)]
        self._before = [(held, dict(held)) for held in dicts]
        self._weights = set(_weights(self._model))

    def refuse_new_weights(self) -> None:
        """Raise ValueError where the first pass has made parameters, as layers sized by their first input do."""
        new = [name for name in _weights(self._model) if name not in self._weights]
        self._refuse_any(new, "first appeared in the probe's forward pass")

    @contextlib.contextmanager
    def watch_second(self) -> Iterator[None]:
        """Watch the second pass, which runs in a `with` block; ValueError for tensors that only the first pass set."""
        try:
            yield
        except (RuntimeError, AttributeError, TypeError, IndexError) as error:
            # Buffers that the first pass made are taken away again. Where an attribute of the model still says that
            # they are there, the second pass fails.
            if not isinstance(error, torch.OutOfMemoryError):
                self._refuse_set_once("replaced")
            raise
        self._refuse_set_once("changed")

    def _refuse_set_once(self, how: Literal["changed", "replaced"]) -> None:
        """Raise ValueError for tensors that only the first pass changed, or replaced."""
        first, last = self._surroundings.first, self._surroundings.last
        once = sorted(getattr(first, how) - getattr(last, how)) if first and last else []
        self._refuse_any(once, "is set by the first forward pass only")

    def _refuse_any(self, names: Sequence[str], what: str) -> None:
        """If there are names, put the modules back as they were and raise ValueError that `what` is true of them."""
        if names:
            for held, before in self._before:
                held.clear()
                held.update(before)
            shown = listed(list(map(repr, names)), 1)
            raise ValueError(f"{shown} {what} of {printable(type(self._model).__name__)}; {_REMEDY}")


def _weights(model: nn.Module) -> list[str]:
    """Every name of every parameter; one that modules share has several."""
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]
