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
AT_ONCE = 512
"""Rows of a fold for which wide networks are evaluated at a time."""
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
    def of(cls, part_of_row: Tensor, parts_a_fold: int, seeds: Sequence[int]) -> Rows:
        """Cut rows into folds by the part (N,) that each is in, `parts_a_fold` consecutive parts being a fold.

        A fold reads the rows of its own parts, chooses the step on the one part after them, and is trained on the rest.
        """
        fold = torch.arange(len(seeds), device="cpu")[:, None]
        # (F, N) number of the part of each row, counted from the first part of the fold itself and around the end.
        place = (part_of_row.cpu() - parts_a_fold * fold) % (parts_a_fold * len(seeds))
        read, checked = place < parts_a_fold, place == parts_a_fold
        fitted = tuple(row.nonzero()[:, 0] for row in ~read & ~checked)
        device = part_of_row.device
        return cls(fitted, _equally_many(checked).to(device), _equally_many(read).to(device), tuple(seeds))


def _equally_many(chosen: Tensor) -> Tensor:
    """Return the numbers (F, n) of the rows chosen in (F, N) bool; folds with fewer rows than n repeat their first."""
    numbers = [row.nonzero()[:, 0] for row in chosen]
    place = torch.arange(max(map(len, numbers)), device="cpu")
    return torch.stack([row[place % len(row)] for row in numbers])


class Stack:
    """Perceptrons of one shape with GELU between their layers; slice c * len(seeds) + i is copy c of seed i.

    The last layer starts at 0: a network adds nothing at first to what it corrects. Its first `random_outputs` outputs
    start at random instead: a product of two networks that both start at 0 would stay there. With `dropout`, masks come
    from the first seed and are the same for all copies.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        copies: int,
        sizes: Sequence[int],
        device: torch.device,
        *,
        random_outputs: int = 0,
        dropout: float = 0.0,
    ) -> None:
        """Draw first weights for `sizes`, the inputs, hidden units and outputs of a network, once for each seed."""
        self.shape, self.dropout = (len(seeds), copies), dropout
        self.masks = torch.Generator().manual_seed(seeds[0])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            # (seeds, in + 1, out): the last row is the bias.
            start = torch.stack([_uniform(inputs + 1, outputs, generator=g) for g in generators])
            start = (2 * start - 1) / math.sqrt(inputs)  # uniform, as torch.nn.Linear begins
            if layer == len(sizes) - 2:  # the last one
                start[:, :, random_outputs:] = 0
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
        """Return the outputs (slices, B, out) for inputs (slices, B, in); hidden units drop out while `training`."""
        masks = [self._mask(rows.shape[1], w.shape[2]) for w in self.weights[:-1] if training and self.dropout]
        out: Tensor = _Perceptrons.apply(rows, masks, *self.parameters)  # type: ignore[no-untyped-call]  # of torch
        return out

    def _mask(self, rows: int, width: int) -> Tensor:
        """Draw factors (seeds, B, width): 0 for units that drop out, above 1 for the others, so that the mean stays."""
        stays = _uniform(self.shape[0], rows, width, generator=self.masks) >= self.dropout
        return (stays.float() / (1 - self.dropout)).to(self.weights[0].device)

    def slopes(self, rows: Tensor) -> list[Tensor]:
        """Return the derivatives of GELU at inputs (slices, B, in): (slices, B, width) for each hidden layer."""
        found = []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = torch.baddbmm(bias, rows, weight)
            # d/dx x Phi(x) = Phi(x) + x phi(x).
            bell = (-0.5 * rows.square()).exp() / math.sqrt(2 * math.pi)
            found.append(torch.special.ndtr(rows) + rows * bell)
            rows = torch.nn.functional.gelu(rows)
        return found

    def along(self, directions: Tensor, slopes: Sequence[Tensor]) -> Tensor:
        """Return the derivatives (slices, B, out) of the outputs along `directions` (slices, B, in).

        They are taken at the inputs for which `slopes` were found.
        """
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
        """Return outputs for rows (slices, B, in); `parameters` are all weights, then all biases.

        `masks` has one for each hidden layer, or none without drop-out.
        """
        # `before` and `seen`: the units of each layer before and after GELU (and drop-out), which `backward` needs.
        weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
        seen, before = [rows], []
        for layer, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            before.append(torch.baddbmm(bias, seen[-1], weight))
            seen.append(torch.nn.functional.gelu(before[-1]))
            if masks:
                _drop_out(seen[-1], masks[layer])
        ctx.save_for_backward(*weights, *seen, *before)
        ctx.masks = masks
        return torch.baddbmm(biases[-1].mT, weights[-1].mT, seen[-1].mT).mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients for the arguments of `forward`, found layer by layer from the last; None for masks."""
        # Saved are `count` weights, as many layers as were `seen`, and one less from `before`.
        grad, count = grads[0], (len(ctx.saved_tensors) + 1) // 3
        weights, seen, before = (ctx.saved_tensors[i * count : (i + 1) * count] for i in range(3))
        of_weights: list[Tensor] = []
        of_biases: list[Tensor] = []
        for layer in reversed(range(count)):
            if layer < count - 1:
                if ctx.masks:
                    _drop_out(grad, ctx.masks[layer])
                torch.ops.aten.gelu_backward.grad_input(grad, before[layer], grad_input=grad)
                of_weights.insert(0, torch.bmm(seen[layer].mT, grad))
            else:
                of_weights.insert(0, torch.bmm(grad.mT, seen[layer]).mT)
            of_biases.insert(0, grad.sum(1, keepdim=True))
            if layer or ctx.needs_input_grad[0]:
                grad = torch.bmm(grad, weights[layer].mT)
        return grad if ctx.needs_input_grad[0] else None, None, *of_weights, *of_biases


def _drop_out(rows: Tensor, mask: Tensor) -> None:
    """Multiply rows (copies times seeds, B, width) in place by the mask (seeds, B, width) of their seed."""
    rows.view(-1, *mask.shape).mul_(mask)


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw uniform float32 numbers (`shape`) in [0, 1) on the CPU, whatever the default type and device are."""
    return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32)


def rows_of(whole: Tensor, rows: Tensor) -> Tensor:
    """Return (S, F, B, C): of `whole` (S, F, N, C), or (S, 1, N, C) shared by all folds, the rows (F, B) of each fold.

    S are snapshots, F folds, N samples, C coordinates; `rows` are row numbers.
    """
    # Rows are copied whole: `whole[:, folds, rows]` copies number by number, four times as slowly.
    snapshots, folds, samples, width = whole.shape
    first = torch.arange(0, snapshots * folds * samples, samples, device=whole.device)
    place = first.view(snapshots, folds, 1) + rows  # in `whole` with all snapshots and folds below one another
    return whole.reshape(-1, width).index_select(0, place.flatten()).view(*place.shape, width)


class Batches:
    """Rows of the batches of each seed: one permutation of its training rows after another.

    `rows` are the training rows of each seed, (n_i,) int64 on the CPU; seeds that are equal draw alike. A batch has
    `size` rows, or as many as the seed with the fewest has.
    """

    def __init__(self, rows: Sequence[Tensor], seeds: Sequence[int], size: int, device: torch.device) -> None:
        """Begin with no row drawn."""
        self.rows, self.size, self.device = rows, min(size, *map(len, rows)), device
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.queues = [r[:0] for r in rows]  # of each seed, rows that were drawn and are not yet in a batch

    def draw(self, count: int) -> Tensor:
        """Return the numbers of the rows of the next `count` batches, (count, seeds, B) int64 on the device."""
        need, batches = count * self.size, []
        for i, (rows, generator) in enumerate(zip(self.rows, self.generators, strict=True)):
            while len(self.queues[i]) < need:
                more = rows[torch.randperm(len(rows), generator=generator, device="cpu")]
                self.queues[i] = torch.cat([self.queues[i], more])
            batches.append(self.queues[i][:need].view(count, self.size))
            self.queues[i] = self.queues[i][need:]
        return torch.stack(batches, 1).to(self.device)


@dataclass(frozen=True)
class Trained:
    """What became of each slice, all (slices,).

    Attributes
    ----------
    step : int64
        The step that was kept.
    unfinished : bool
        Whether the criterion was still falling at the last check, so that more steps would have helped.
    diverged : bool
        Whether the criterion became NaN or infinite; the slice is kept as it was at its best step before.
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
    for taken in range(plan.every, plan.steps + 1, plan.every):  # steps that are taken by the next check
        for i, rows in enumerate(batches.draw(plan.every)):
            if plan.cosine:
                share = (taken - plan.every + i) / plan.steps  # of all steps, those that are behind
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
        # The upper limit keeps an infinite mark from being lowered by infinity, which is no number.
        progress = best < mark - (LEAST_SHARE * mark.abs()).clamp(LEAST_GAIN, torch.finfo(mark.dtype).max)
        mark = torch.where(progress, best, mark)
        waited = torch.where(progress, 0, waited + 1)
        if bool(((waited >= plan.patience) | diverged).all()):
            break
    with torch.no_grad():
        for p, whole in zip(parameters, kept, strict=True):
            p.copy_(whole)
    # Where no step was to be taken, none is missing.
    return Trained(step, (waited < 1) & ~diverged & (plan.steps > 0), diverged)


def mean_loss(loss: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Return the mean (slices,) of `loss` over rows (F, B), which are given to it `AT_ONCE` of each fold at a time."""
    parts = [loss(some) * some.shape[1] for some in torch.split(rows, AT_ONCE, 1)]
    return torch.stack(parts).sum(0) / rows.shape[1]


def in_stacks(
    t: Tensor, bytes_each: int, work: Callable[[Tensor], dict[str, Tensor]], *, most: int | None = None
) -> dict[str, Tensor]:
    """Return what `work` finds in snapshots `t` (S, ...), which is given to it in stacks along the first axis.

    A stack has as many as fit into `STACK_BYTES` if each takes `bytes_each`, and no more than `most`. Where memory does
    not suffice, a warning is given and the stack is halved: the same numbers within 0.02 bit. `work` takes gradients in
    full width, whatever `no_grad`, `inference_mode` or `autocast` the caller is in.
    """
    fit, t = max(1, STACK_BYTES // bytes_each), t.detach()
    size = fit if most is None else min(fit, most)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(t.device.type, enabled=False):
        parts = [part for stack in torch.split(t, size) for part in _within_memory(stack, work)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _within_memory(t: Tensor, work: Callable[[Tensor], dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return what `work` finds in snapshots `t` (S, ...): all at once or, with a warning if memory ends, in parts."""
    try:
        return [work(t)]
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
    return [*_within_memory(t[:half], work), *_within_memory(t[half:], work)]


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is used up, on whatever device."""
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
