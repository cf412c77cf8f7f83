"""Autoencoders: few coordinates from which a side, or what it is paired with, is rebuilt; all are trained together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._codes import principal_code
from infoplane.estimators._scaling import first_rows, numbered_rows, zscore
from infoplane.estimators._trained import Batches, Rows, Stack, TrainingPlan, in_stacks, train

WIDE, NARROW, DROPOUT = 128, 64, 0.5
"""Units of the hidden layers, and share of them that drop out in the decoder of the other side."""
OWN_SHARE = 0.1
"""Weight of what a code loses of its own side beside what it loses of the other: equal ones keep loud directions."""
RATE, BATCH, EVERY, PATIENCE = 3e-3, 256, 50, 6
"""Of the training: see `TrainingPlan`."""
LEFT, LEAST = 60, 0.1
"""Principal coordinates of what is not rebuilt, and the variance, in units of the layer, from which one counts."""
_AT_ONCE = 512
"""Rows of a fold that are read at a time."""


class Autoencoders:
    """Principal components with perceptrons that add to them, at first nothing, and decoders of one side or of both.

    Parameters
    ----------
    z : (S, N, U) float32
        The side that has codes, every unit of variance 1, or constant and 0.
    other : (S, N, V) float32 or None
        The other side, likewise; None for codes that know nothing of it.
    rows : Rows
    dims : int
        Coordinates of a code.
    """

    def __init__(self, z: Tensor, other: Tensor | None, rows: Rows, dims: int) -> None:
        """Find the principal components of each fold, and make the networks that add to them."""
        self.z, self.other, self.rows, self.shape = z, other, rows, (len(z), len(rows.fitted))
        units, copies = z.shape[2], len(z)
        # Principal components are code = z @ axes, and z is rebuilt as code @ back: a matrix and its pseudo-inverse.
        self.back = torch.stack([_loadings(side[chosen], dims) for side in z for chosen in rows.fitted])  # (S F, k, U)
        self.axes = (self.back / self.back.square().sum(2, keepdim=True).clamp(min=1e-12)).mT
        encoder, decoder = (units, WIDE, NARROW, dims), (dims, NARROW, WIDE, units)
        self.encoders = [Stack(rows.seeds, copies, sizes, z.device) for sizes in ((units, dims), encoder)]
        self.decoders = [Stack(rows.seeds, copies, sizes, z.device) for sizes in ((dims, units), decoder)]
        self.across = []
        if other is not None:
            sizes = (dims, NARROW, WIDE, other.shape[2])
            self.across = [Stack(rows.seeds, copies, sizes, z.device, dropout=DROPOUT)]

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases of all networks."""
        return [p for stack in (*self.encoders, *self.decoders, *self.across) for p in stack.parameters]

    def taken(self, side: Tensor, rows: Tensor) -> Tensor:
        """The rows (F, B) of each fold from a side (S, N, ...), (S F, B, ...)."""
        return side[:, rows].flatten(0, 1)

    def encoded(self, batch: Tensor) -> Tensor:
        """Codes (S F, B, k) of rows (S F, B, U)."""
        return batch @ self.axes + _summed(self.encoders, batch)

    def rebuilt(self, code: Tensor) -> Tensor:
        """Rows (S F, B, U) rebuilt from codes (S F, B, k)."""
        return code @ self.back + _summed(self.decoders, code)

    def loss(self, rows: Tensor, *, training: bool = True) -> Tensor:
        """(S F,) the share of variance that codes of the rows (F, B) lose: of their own side, or of both, weighted."""
        batch = self.taken(self.z, rows)
        code = self.encoded(batch)
        own = _share_lost(self.rebuilt(code), batch)
        if self.other is None:
            return own
        seen = self.taken(self.other, rows)
        return OWN_SHARE * own + _share_lost(self.across[0](code, training=training), seen)

    def criterion(self) -> Tensor:
        """(S F,) the loss on the rows that choose the step."""
        checked = self.rows.checked
        parts = [self.loss(some, training=False) * some.shape[1] for some in torch.split(checked, _AT_ONCE, 1)]
        return torch.stack(parts).sum(0) / checked.shape[1]

    def train(self, steps: int) -> Tensor:
        """Train for at most `steps`; returns whether a snapshot (S,) is in doubt: diverged, or not at its end."""
        plan = TrainingPlan(RATE, 0.0, BATCH, steps, every=EVERY, patience=PATIENCE, cosine=True)
        size = min(plan.batch, *map(len, self.rows.fitted))
        batches = Batches(self.rows.fitted, self.rows.seeds, size, self.z.device)
        trained = train(self.parameters, self.loss, self.criterion, batches, plan)
        return (trained.unfinished & (steps > 0) | trained.diverged).view(self.shape).any(1)

    def read(self) -> dict[str, Tensor]:
        """Codes of the rows that each fold reads.

        Returns
        -------
        code : (S, N, k) float32
        left : (S, N, `LEFT`) float64
            Principal coordinates of what the code does not rebuild, of each fold for itself.
        kept : (S,)
            Share of the variance of the units that is rebuilt.
        """
        codes, residuals, lost, whole = [], [], [], []
        for some in torch.split(self.rows.read, _AT_ONCE, 1):
            batch = self.taken(self.z, some)
            codes.append(self.encoded(batch))
            residuals.append(batch - self.rebuilt(codes[-1]))
            lost.append(residuals[-1].square().sum((1, 2)))
            whole.append(batch.square().sum((1, 2)))
        share = torch.stack(lost).double().sum(0) / torch.stack(whole).double().sum(0).clamp(min=1e-12)
        return {**self.by_row(torch.cat(codes, 1), torch.cat(residuals, 1)), "kept": 1 - self.apart(share).mean(1)}

    def by_row(self, codes: Tensor, residuals: Tensor) -> dict[str, Tensor]:
        """Codes (S F, R, k) as (S, N, k), and coordinates (S, N, `LEFT`) of residuals (S F, R, U), in order of rows."""
        codes, residuals = self.apart(codes), self.apart(residuals)
        shape = (len(self.z), self.z.shape[1])
        code = codes.new_zeros(*shape, codes.shape[3])
        left = codes.new_zeros(*shape, LEFT, dtype=torch.float64)
        for fold, numbers in enumerate(self.rows.read):
            code[:, numbers] = codes[:, fold]
            for s in range(len(self.z)):
                found = _left(residuals[s, fold].double())
                left[s, numbers, : found.shape[1]] = found
        return {"code": code, "left": left}

    def apart(self, out: Tensor) -> Tensor:
        """Numbers (S F, ...) with snapshots and folds as axes of their own, (S, F, ...)."""
        return out.view(*self.shape, *out.shape[1:])


class LearnedSide(NamedTuple):
    """A side of a pair (S, N, D), and what autoencoders read of snapshots with more units than coordinates.

    Attributes
    ----------
    blocks : (S, N, D)
    wide : list of bool
        Which snapshots are read through a code; the others stand for themselves.
    code, left : (S, N, k) and (S, N, r)
    kept : (S,)
    doubtful : (S,) bool
        Whether training is in doubt.
    """

    blocks: Tensor
    wide: list[bool]
    code: Tensor
    left: Tensor
    kept: Tensor
    doubtful: Tensor

    @classmethod
    def of(cls, blocks: Tensor, other: Tensor | None, rows: Rows, dims: int, steps: int) -> LearnedSide:
        """The side `blocks` (S, N, D) with codes trained for it, which tell of `other` (S, N, V) too, if given."""
        z, seen = _standard(blocks), None if other is None else _standard(other)
        # A z-scored unit that varies has a value above 0.
        wide = ((z.amax(1) > 0).sum(1) > dims).tolist()
        none = z.new_zeros(len(z), 0, 0)
        if not any(wide):
            return cls(blocks, wide, none, none, none.new_ones(len(z)), none.new_zeros(len(z), dtype=torch.bool))

        def work(some: Tensor) -> dict[str, Tensor]:
            """What autoencoders of the snapshots `some` (consecutive numbers) read, and whether they are in doubt."""
            span = slice(int(some[0]), int(some[-1]) + 1)
            networks = Autoencoders(z[span], None if seen is None else seen[span], rows, dims)
            doubtful = networks.train(steps)
            with torch.no_grad():
                return networks.read() | {"doubtful": doubtful}

        each = bytes_of_autoencoders(z.shape[1], z.shape[2], 0 if seen is None else seen.shape[2], len(rows.fitted))
        read = in_stacks(torch.arange(len(z), device=z.device), each, work)
        coded = torch.tensor(wide, device=z.device)
        kept = torch.where(coded, read["kept"], 1.0)
        return cls(blocks, wide, read["code"], read["left"], kept, read["doubtful"] & coded)

    def repeated(self, snapshots: int) -> LearnedSide:
        """This side, which is the same for all snapshots, as if each of them had its own."""
        blocks, *read = (each.expand(snapshots, *each.shape[1:]) for each in (self.blocks, *self[2:]))
        return LearnedSide(blocks, self.wide * snapshots, *read)

    def of_rows(self, s: int, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coordinates (n, k) of some rows of snapshot `s`, and what they leave (n, r), None where that is nothing."""
        block = self.blocks[s, rows]
        if not self.wide[s]:
            return block, None
        number, counts = numbered_rows(block)
        # Networks may give equal rows codes that differ by rounding: each row takes the code of the first equal one.
        first = first_rows(number, len(counts))
        return self.code[s, rows][first[number]], self.left[s, rows]


def _standard(side: Tensor) -> Tensor:
    """(S, N, D) float32 with units of variance 1; a block that was expanded over the snapshots stays one in memory."""
    one = side[:1] if side.stride(0) == 0 else side
    return zscore(one).float().expand(len(side), -1, -1)


def bytes_of_autoencoders(samples: int, units: int, others: int, folds: int) -> int:
    """Memory of one snapshot: weights with gradients, moments and best values, a batch, and what is not rebuilt."""
    weights = 2 * (WIDE + 8) * units + WIDE * others + 40_000  # the last for layers of fixed sizes
    batch = _AT_ONCE * (4 * units + 3 * others + 10 * WIDE)
    return folds * 4 * (5 * weights + 2 * batch) + 12 * samples * units + 8 * samples * LEFT


def _left(residual: Tensor) -> Tensor:
    """Principal coordinates (n, r) of a residual (n, U), what a code does not rebuild; those of small variance go."""
    # Small ones may well be a curved function of the code, that is, nothing new.
    code = principal_code(residual, LEFT)[0]
    return code[:, (code.T @ residual / len(residual)).square().sum(1) > LEAST]


def _loadings(rows: Tensor, dims: int) -> Tensor:
    """(k, U) each unit's slope on each principal component of rows (n, U); 0 beyond the number of components."""
    rows = rows.double()
    code = principal_code(rows, dims)[0]
    found = code.T @ rows / len(rows)
    return torch.nn.functional.pad(found, (0, 0, 0, dims - len(found))).float()


def _summed(stacks: list[Stack], rows: Tensor) -> Tensor:
    """(slices, B, out) the sum of what the networks of both stacks, linear maps and perceptrons, give for rows."""
    return torch.stack([stack(rows) for stack in stacks]).sum(0)


def _share_lost(found: Tensor, true: Tensor) -> Tensor:
    """(S F,) squared error of `found` as a share of the square of `true`, (S F, B, U) both."""
    # A share of each batch's own square: a batch with a far row counts no more than others.
    return (found - true).square().sum((1, 2)) / true.square().sum((1, 2)).clamp(min=1e-12)
