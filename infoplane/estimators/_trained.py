"""Many small networks trained as one program.

A slice is one independent problem: a snapshot with a fold, a null draw or a direction. The weights of all slices stand
in one tensor (slices, in, out), and the loss is summed over slices, so each has the gradient that it would have alone.
What a slice draws depends on its seed only, and the copies of a seed (one for each snapshot) draw alike: steps of a run
differ by their activations and by nothing else. Products of another number of slices round differently, and training
magnifies that: a slice alone and in a stack agree within 0.02 bit, not to the last one.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAST_SHARE, LEAST_GAIN = 1e-3, 3e-4
"""By which share of itself, and by how many nats, the criterion must fall to count as progress."""
STACK_BYTES = 512 << 20
"""What the activations of one stack may take: the cut follows from sizes, so it is the same on every machine."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a stack is trained: AdamW, checked every `every` steps on rows that are held out.

    Attributes
    ----------
    rate, decay : float
        Learning rate and weight decay.
    batch, steps, every : int
        Rows of a batch, the most steps, and steps between two checks.
    patience : int
        Checks without progress after which a slice is done.
    cosine : bool
        Whether the rate falls to 0 along half a cosine.
    """

    rate: float
    decay: float
    batch: int
    steps: int
    every: int
    patience: int
    cosine: bool = False


class Rows(NamedTuple):
    """Numbers of the rows that each fold uses.

    Attributes
    ----------
    fitted : tuple of (n_f,) int64, on the CPU
        Rows that the networks of a fold are trained on.
    checked : (F, V) int64
        Rows that choose the step.
    read : (F, R) int64
        Rows that the value is read from.
    seeds : tuple of int
        One for each fold.
    """

    fitted: tuple[Tensor, ...]
    checked: Tensor
    read: Tensor
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, part: Tensor, parts: int, seeds: Sequence[int]) -> Rows:
        """From the part (N,) of each row: a fold reads its own `parts`, checks on the next, trains on the others."""
        own = torch.arange(len(seeds), device="cpu")[:, None]
        # (F, N) number of the part of each row, counted from the first part of the fold itself and around the end.
        place = (part.cpu() - parts * own) % (parts * len(seeds))
        read, checked = place < parts, place == parts
        fitted = tuple(row.nonzero()[:, 0] for row in ~read & ~checked)
        return cls(fitted, _even(checked).to(part.device), _even(read).to(part.device), tuple(seeds))


def _even(chosen: Tensor) -> Tensor:
    """(F, n) numbers of the rows chosen in (F, N) bool; folds with fewer than the most repeat some of theirs."""
    numbers = [row.nonzero()[:, 0] for row in chosen]
    most = max(map(len, numbers))
    return torch.stack([row.repeat(-(-most // len(row)))[:most] for row in numbers])


class Stack:
    """Perceptrons of one shape with GELU between their layers; slice c * len(seeds) + i is copy c of seed i.

    The last layer starts at 0: at first a network adds nothing to its start. Its first `drawn` outputs start at random
    instead: a product of two networks that both start at 0 would stay there. With `dropout`, masks come from the first
    seed and are the same for all copies.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        copies: int,
        sizes: Sequence[int],
        device: torch.device,
        *,
        drawn: int = 0,
        dropout: float = 0.0,
    ) -> None:
        """Draw first weights for `sizes`, the inputs, hidden units and outputs of a network, once for each seed."""
        self.shape, self.dropout = (len(seeds), copies), dropout
        self.masks = torch.Generator().manual_seed(seeds[0])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        for place, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            # (seeds, in + 1, out): the last row is the bias.
            start = torch.stack([_uniform(inputs + 1, outputs, generator=g) for g in generators])
            start = (2 * start - 1) / math.sqrt(inputs)  # uniform, as torch.nn.Linear begins
            if place == len(sizes) - 2:
                start[:, :, drawn:] = 0
            start = start.repeat(copies, 1, 1).to(device)
            self.weights.append(start[:, :-1].contiguous().requires_grad_())
            self.biases.append(start[:, -1:].contiguous().requires_grad_())
        # The last layer in the order (slices, out, in): see `_Perceptrons`.
        self.weights[-1] = start[:, :-1].mT.contiguous().mT.requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        """Every weight and bias, (slices, ...) each."""
        return [*self.weights, *self.biases]

    def __call__(self, rows: Tensor, *, training: bool = False) -> Tensor:
        """(slices, B, out) from (slices, B, in); units drop out while `training`."""
        masks = [self._mask(rows.shape[1], w.shape[2]) for w in self.weights[:-1] if training and self.dropout]
        out: Tensor = _Perceptrons.apply(rows, masks, *self.parameters)  # type: ignore[no-untyped-call]  # of torch
        return out

    def _mask(self, rows: int, width: int) -> Tensor:
        """Factors (seeds, B, width): 0 for units that drop out, above 1 for the others, so that the mean stays."""
        drawn = _uniform(self.shape[0], rows, width, generator=self.masks) >= self.dropout
        return (drawn.float() / (1 - self.dropout)).to(self.weights[0].device)

    def slopes(self, rows: Tensor) -> list[Tensor]:
        """Derivatives of every GELU at rows (slices, B, in): (slices, B, width) for each hidden layer."""
        found = []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = torch.baddbmm(bias, rows, weight)
            # d/dx x Phi(x) = Phi(x) + x phi(x).
            bell = (-0.5 * rows.square()).exp() / math.sqrt(2 * math.pi)
            found.append(torch.special.ndtr(rows) + rows * bell)
            rows = torch.nn.functional.gelu(rows)
        return found

    def along(self, directions: Tensor, slopes: Sequence[Tensor]) -> Tensor:
        """(slices, B, out) derivatives along `directions` (slices, B, in), at the rows whose `slopes` are given."""
        for weight, slope in zip(self.weights[:-1], slopes, strict=True):
            directions = torch.bmm(directions, weight) * slope
        return torch.bmm(directions, self.weights[-1])


class _Perceptrons(torch.autograd.Function):
    """(slices, B, out) of perceptrons, with their gradient written out: it works in place, and knows the last layer.

    That layer is narrow. A product with few columns takes four times as long as one with few rows, so results, their
    gradients and the weights lie in memory with units before rows: (slices, out, B) and (slices, out, in).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, masks: list[Tensor], *parameters: Tensor) -> Tensor:
        """Outputs from rows (slices, B, in), masks of each hidden layer or none, and all weights, then all biases."""
        # `before` and `seen`: the units of each layer before and after GELU (and drop-out), which `backward` needs.
        weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
        seen, before = [rows], []
        for place, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            before.append(torch.baddbmm(bias, seen[-1], weight))
            seen.append(torch.nn.functional.gelu(before[-1]))
            if masks:
                _drop_out(seen[-1], masks[place])
        ctx.save_for_backward(*weights, *seen, *before)
        ctx.masks = masks
        return torch.baddbmm(biases[-1].mT, weights[-1].mT, seen[-1].mT).mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for the arguments of `forward`, layer by layer from the last; None for rows that need none."""
        # Saved are `count` weights, as many layers as were `seen`, and one less from `before`.
        grad, count = grads[0], (len(ctx.saved_tensors) + 1) // 3
        weights, seen, before = (ctx.saved_tensors[i * count : (i + 1) * count] for i in range(3))
        of_weights: list[Tensor] = []
        of_biases: list[Tensor] = []
        for place in reversed(range(count)):
            if place < count - 1:
                if ctx.masks:
                    _drop_out(grad, ctx.masks[place])
                torch.ops.aten.gelu_backward.grad_input(grad, before[place], grad_input=grad)
                of_weights.insert(0, torch.bmm(seen[place].mT, grad))
            else:
                of_weights.insert(0, torch.bmm(grad.mT, seen[place]).mT)
            of_biases.insert(0, grad.sum(1, keepdim=True))
            if place or ctx.needs_input_grad[0]:
                grad = torch.bmm(grad, weights[place].mT)
        return grad if ctx.needs_input_grad[0] else None, None, *of_weights, *of_biases


def _drop_out(rows: Tensor, mask: Tensor) -> None:
    """Multiply rows (copies times seeds, B, width) in place by the mask (seeds, B, width) of their seed."""
    rows.view(-1, *mask.shape).mul_(mask)


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Uniform float32 numbers (`shape`) in [0, 1) on the CPU, whatever the default type and device are."""
    return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32)


def rows_of(whole: Tensor, rows: Tensor) -> Tensor:
    """The rows (F, B) of each fold, (S, F, B, C), out of `whole` (S, F, N, C), or (S, 1, N, C) shared by all folds."""
    # Rows are copied whole: an index of folds and rows together goes from number to number, four times as slowly.
    snapshots, folds, samples, width = whole.shape
    first = torch.arange(0, snapshots * folds * samples, samples, device=whole.device)
    place = first.view(snapshots, folds, 1) + rows
    return whole.reshape(-1, width).index_select(0, place.flatten()).view(*place.shape, width)


class Batches:
    """Rows of the batches of each seed: one permutation of its training rows after another.

    `rows` are the training rows of each seed, (n_i,) int64 on the CPU; seeds that are equal draw alike.
    """

    def __init__(self, rows: Sequence[Tensor], seeds: Sequence[int], size: int, device: torch.device) -> None:
        """Begin with no row drawn; `size` is that of a batch."""
        self.rows, self.size, self.device = rows, size, device
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.left = [r[:0] for r in rows]  # drawn already and not yet in a batch

    def draw(self, count: int) -> Tensor:
        """(count, seeds, B) int64, the next `count` batches on the device."""
        need, drawn = count * self.size, []
        for i, (rows, generator) in enumerate(zip(self.rows, self.generators, strict=True)):
            while len(self.left[i]) < need:
                more = rows[torch.randperm(len(rows), generator=generator, device="cpu")]
                self.left[i] = torch.cat([self.left[i], more])
            drawn.append(self.left[i][:need].view(count, self.size))
            self.left[i] = self.left[i][need:]
        return torch.stack(drawn, 1).to(self.device)


@dataclass(frozen=True)
class Trained:
    """What became of each slice (slices,): the step that was kept, and whether more steps would have helped.

    `diverged` slices lost their numbers on the way; they are kept as they were at their best step before.
    """

    step: Tensor
    unfinished: Tensor
    diverged: Tensor


def train(
    parameters: Sequence[Tensor],
    loss: Callable[[Tensor], Tensor],
    criterion: Callable[[], Tensor],
    batches: Batches,
    plan: TrainingPlan,
) -> Trained:
    """Minimise `loss` for every slice, and leave each slice as it was where `criterion` was least, step 0 included.

    Parameters
    ----------
    parameters : sequence of (slices, ...) leaf tensors
    loss : callable
        (slices,) from the rows (seeds, B) of a batch.
    criterion : callable
        (slices,) on rows that `loss` never sees, with the same draws at every call.
    """
    optimizer = torch.optim.AdamW(parameters, lr=plan.rate, weight_decay=plan.decay, fused=True)
    with torch.no_grad():
        best = criterion()
    kept = [p.detach().clone() for p in parameters]
    # `mark` is the value from which progress is counted, `waited` the checks since the last progress.
    mark, step = best.clone(), torch.zeros_like(best, dtype=torch.int64)
    waited, diverged = torch.zeros_like(step), torch.zeros_like(step, dtype=torch.bool)
    for taken in range(plan.every, plan.steps + 1, plan.every):
        for i, rows in enumerate(batches.draw(plan.every)):
            if plan.cosine:
                share = (taken - plan.every + i) / plan.steps
                optimizer.param_groups[0]["lr"] = 0.5 * plan.rate * (1 + math.cos(math.pi * share))
            optimizer.zero_grad()
            torch.autograd.backward(loss(rows).sum())  # a slice has the gradient that it would have alone
            optimizer.step()
        with torch.no_grad():
            now = criterion()
        diverged |= ~now.isfinite()
        better = (now < best) & ~diverged
        for whole, p in zip(kept, parameters, strict=True):
            whole.copy_(torch.where(better.view(-1, *[1] * (p.ndim - 1)), p.detach(), whole))
        best, step = torch.where(better, now, best), torch.where(better, taken, step)
        # The upper limit is there for a mark that is infinite.
        progress = best < mark - (LEAST_SHARE * mark.abs()).clamp(LEAST_GAIN, torch.finfo(mark.dtype).max)
        mark = torch.where(progress, best, mark)
        waited = torch.where(progress, 0, waited + 1)
        if bool(((waited >= plan.patience) | diverged).all()):
            break
    with torch.no_grad():
        for p, whole in zip(parameters, kept, strict=True):
            p.copy_(whole)
    return Trained(step, (waited < 1) & ~diverged, diverged)


def in_stacks(
    t: Tensor, bytes_each: int, work: Callable[[Tensor], dict[str, Tensor]], *, most: int | None = None
) -> dict[str, Tensor]:
    """What `work` finds in snapshots (S, N, U), as many of them at once as `STACK_BYTES` takes, or `most` of them.

    Where memory does not suffice, a warning is given and the stack is halved: the same numbers within 0.02 bit. `work`
    takes gradients in full width, whatever `no_grad`, `inference_mode` or `autocast` the caller is in.
    """
    fit, t = max(1, STACK_BYTES // bytes_each), t.detach()
    size = fit if most is None else min(fit, most)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(t.device.type, enabled=False):
        parts = [_within_memory(t[i : i + size], work) for i in range(0, len(t), size)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _within_memory(t: Tensor, work: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `work` finds in `t` (S, ...), with a warning in halves where memory does not suffice for all."""
    try:
        return work(t)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if len(t) == 1 or not out_of_memory(error):
            raise
    half = len(t) // 2
    warnings.warn(
        f"no memory to train on {len(t)} snapshots at once: {half} are taken; values may differ by up to 0.02 bit "
        "from those of a machine with more",
        RuntimeWarning,
        stacklevel=2,
    )
    parts = [_within_memory(part, work) for part in (t[:half], t[half:])]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on whatever device."""
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
