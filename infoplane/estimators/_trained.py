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
from typing import NamedTuple

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
    """(F, n) numbers of the rows chosen in (F, N) bool; folds with fewer repeat their own."""
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
        self.shape, self.dropout = (len(seeds), copies), dropout
        self.masks = torch.Generator().manual_seed(seeds[0])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        for place, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            # (seeds, in + 1, out): the last row is the bias.
            start = torch.stack([_uniform(inputs + 1, outputs, generator=g) for g in generators])
            start = (2 * start - 1) / math.sqrt(inputs)
            if place == len(sizes) - 2:
                start[:, :, drawn:] = 0
            start = start.repeat(copies, 1, 1).to(device)
            self.weights.append(start[:, :-1].contiguous().requires_grad_())
            self.biases.append(start[:, -1:].contiguous().requires_grad_())

    @property
    def parameters(self) -> list[Tensor]:
        """Every weight and bias, (slices, ...) each."""
        return [*self.weights, *self.biases]

    def __call__(self, rows: Tensor, *, training: bool = False) -> Tensor:
        """(slices, B, out) from (slices, B, in); units drop out while `training`."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = torch.nn.functional.gelu(torch.baddbmm(bias, rows, weight))
            if training and self.dropout:
                rows = rows * self._mask(rows)
        return torch.baddbmm(self.biases[-1], rows, self.weights[-1])

    def _mask(self, rows: Tensor) -> Tensor:
        """(slices, B, width) 0 for units that drop out; the others are scaled up, so that the mean stays."""
        seeds, copies = self.shape
        drawn = _uniform(seeds, *rows.shape[1:], generator=self.masks) >= self.dropout
        return (drawn.float() / (1 - self.dropout)).to(rows.device).repeat(copies, 1, 1)

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


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Float32 in [0, 1) on the CPU, whatever the default type and device are."""
    return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32)


class Batches:
    """Rows of the batches of each seed: one permutation of its training rows after another.

    `rows` are the training rows of each seed, (n_i,) int64 on the CPU; seeds that are equal draw alike.
    """

    def __init__(self, rows: Sequence[Tensor], seeds: Sequence[int], size: int, device: torch.device) -> None:
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
    """What `work` finds in (S, ...), in halves where memory does not suffice for all."""
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
