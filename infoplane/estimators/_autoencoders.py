"""Autoencoders: few coordinates from which a side, or what it is paired with, is rebuilt; all are trained together."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._codes import principal_code
from infoplane.estimators._scaling import first_rows, numbered_rows, zscore
from infoplane.estimators._trained import AT_ONCE, Batches, Rows, Stack, TrainingPlan, in_stacks, mean_loss, train

WIDE, NARROW, DROPOUT = 128, 64, 0.5
"""Units of the hidden layers, and share of them that drop out in the decoder of the other side."""
OWN_SHARE = 0.1
"""Weight of what a code loses of its own side beside what it loses of the other: equal ones keep loud directions."""
RATE, BATCH, EVERY, PATIENCE = 3e-3, 256, 50, 6
"""Of the training: see `TrainingPlan`."""
LEFT, LEAST = 60, 0.1
"""Principal coordinates of what is not rebuilt, and the variance, in units of the layer, from which one counts."""


class Autoencoders:
    """Networks that turn the units of one side into a code of a few coordinates, and rebuild sides from the code.

    Codes and what is rebuilt from them begin as principal components; perceptrons add to both, at first nothing.

    S are snapshots, F folds, N samples, B rows of a batch, U units, k coordinates of a code. Networks of all snapshots
    and folds are trained together: "(S F, ...)" has one axis for both.

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
        units, snapshots = z.shape[2], len(z)
        # Principal components are code = z @ axes, and z is rebuilt as code @ back: a matrix and its pseudo-inverse.
        self.back = torch.stack([_loadings(side[chosen], dims) for side in z for chosen in rows.fitted])  # (S F, k, U)
        self.axes = (self.back / self.back.square().sum(2, keepdim=True).clamp(min=1e-12)).mT
        # A linear map and a perceptron, whose outputs are added.
        encoder, decoder = (units, WIDE, NARROW, dims), (dims, NARROW, WIDE, units)
        self.encoders = [Stack(rows.seeds, snapshots, sizes, z.device) for sizes in ((units, dims), encoder)]
        self.decoders = [Stack(rows.seeds, snapshots, sizes, z.device) for sizes in ((dims, units), decoder)]
        self.other_decoders = []  # none, or the one of the other side
        if other is not None:
            sizes = (dims, NARROW, WIDE, other.shape[2])
            self.other_decoders = [Stack(rows.seeds, snapshots, sizes, z.device, dropout=DROPOUT)]

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases of all networks."""
        return [p for stack in (*self.encoders, *self.decoders, *self.other_decoders) for p in stack.parameters]

    def encoded(self, batch: Tensor) -> Tensor:
        """Return the codes (S F, B, k) of rows (S F, B, U)."""
        return batch @ self.axes + _summed(self.encoders, batch)

    def rebuilt(self, code: Tensor) -> Tensor:
        """Return rows (S F, B, U) rebuilt from codes (S F, B, k)."""
        return code @ self.back + _summed(self.decoders, code)

    def loss(self, rows: Tensor, *, training: bool = True) -> Tensor:
        """Return the loss (S F,) over the rows (F, B) of a batch: the share of variance that is not rebuilt.

        With another side it is the share lost of that side, plus `OWN_SHARE` times the share lost of the own side.
        """
        batch = self.z[:, rows].flatten(0, 1)
        code = self.encoded(batch)
        own = _share_lost(self.rebuilt(code), batch)
        if self.other is None:
            return own
        of_other = _share_lost(self.other_decoders[0](code, training=training), self.other[:, rows].flatten(0, 1))
        return OWN_SHARE * own + of_other

    def criterion(self) -> Tensor:
        """Return the loss (S F,) on the held-out rows by which the step to keep is chosen."""
        return mean_loss(partial(self.loss, training=False), self.rows.checked)

    def train(self, steps: int) -> Tensor:
        """Train for at most `steps`; return (S,) whether some fold of a snapshot diverged or needs more steps."""
        plan = TrainingPlan(RATE, 0.0, BATCH, steps, every=EVERY, patience=PATIENCE, cosine=True)
        batches = Batches(self.rows.fitted, self.rows.seeds, plan.batch, self.z.device)
        trained = train(self.parameters, self.loss, self.criterion, batches, plan)
        return (trained.unfinished | trained.diverged).view(self.shape).any(1)

    def read(self) -> dict[str, Tensor]:
        """Return, by name, the code of each row and what is not rebuilt from it, both by the fold that reads the row.

        Returns
        -------
        code : (S, N, k) float32
        left : (S, N, `LEFT`) float64
            Principal coordinates of what is not rebuilt, found in each fold by itself; 0 in columns that it lacks.
        kept : (S,)
            Share of the variance of the units that is rebuilt, the mean over folds.
        """
        codes, residuals, lost, whole = [], [], [], []
        for some in torch.split(self.rows.read, AT_ONCE, 1):
            batch = self.z[:, some].flatten(0, 1)
            codes.append(self.encoded(batch))
            residuals.append(batch - self.rebuilt(codes[-1]))
            lost.append(residuals[-1].square().sum((1, 2)))
            whole.append(batch.square().sum((1, 2)))
        share = torch.stack(lost).double().sum(0) / torch.stack(whole).double().sum(0).clamp(min=1e-12)
        kept = 1 - torch.unflatten(share, 0, self.shape).mean(1)
        return {**self.by_row(torch.cat(codes, 1), torch.cat(residuals, 1)), "kept": kept}

    def by_row(self, codes: Tensor, residuals: Tensor) -> dict[str, Tensor]:
        """Bring codes (S F, R, k) and residuals (S F, R, U) of the R rows that each fold reads into the order of rows.

        Residuals become principal coordinates. Returns "code" (S, N, k) and "left" (S, N, `LEFT`), as in `read`.
        """
        codes, residuals = (torch.unflatten(each, 0, self.shape) for each in (codes, residuals))
        shape = (len(self.z), self.z.shape[1])
        code = codes.new_zeros(*shape, codes.shape[3])
        left = codes.new_zeros(*shape, LEFT, dtype=torch.float64)
        for fold, numbers in enumerate(self.rows.read):
            code[:, numbers] = codes[:, fold]
            for s in range(len(self.z)):
                found = _residual_coordinates(residuals[s, fold].double())
                left[s, numbers, : found.shape[1]] = found
        return {"code": code, "left": left}


class LearnedSide(NamedTuple):
    """A side of a pair (S, N, D), and what autoencoders read of snapshots with more units than coordinates.

    Attributes
    ----------
    blocks : (S, N, D)
    wide : list of bool
        Which snapshots are read through a code; the others stand for themselves.
    code, left : (S, N, k) and (S, N, r)
        Codes, and principal coordinates of what they do not rebuild; without columns where no snapshot is wide.
    kept : (S,)
        Share of the variance of the units that the code rebuilds; 1 for a snapshot that is not wide.
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
        """Train codes of `dims` coordinates for a side `blocks` (S, N, D), from which `other` (S, N, V) is rebuilt too.

        Without `other` only `blocks` is rebuilt. Nothing is trained if no snapshot has more than `dims` varying units.
        """
        z, z_other = _standard(blocks), None if other is None else _standard(other)
        # Whether more units vary than a code has coordinates: a z-scored unit that varies has a value above 0.
        wide = ((z.amax(1) > 0).sum(1) > dims).tolist()
        if not any(wide):
            none = z.new_zeros(len(z), 0, 0)
            return cls(blocks, wide, none, none, z.new_ones(len(z)), z.new_zeros(len(z), dtype=torch.bool))

        def work(numbers: Tensor) -> dict[str, Tensor]:
            """Train autoencoders of the snapshots with these consecutive numbers (s,), and return what they read."""
            span = slice(int(numbers[0]), int(numbers[-1]) + 1)
            networks = Autoencoders(z[span], None if z_other is None else z_other[span], rows, dims)
            doubtful = networks.train(steps)
            with torch.no_grad():
                return networks.read() | {"doubtful": doubtful}

        others = 0 if z_other is None else z_other.shape[2]
        each = bytes_of_autoencoders(z.shape[1], z.shape[2], others, len(rows.fitted))
        read = in_stacks(torch.arange(len(z), device=z.device), each, work)
        coded = torch.tensor(wide, device=z.device)
        kept = torch.where(coded, read["kept"], 1.0)
        return cls(blocks, wide, read["code"], read["left"], kept, read["doubtful"] & coded)

    def repeated(self, snapshots: int) -> LearnedSide:
        """Return this side, which has one snapshot, with that snapshot repeated `snapshots` times."""
        blocks, *read = (each.expand(snapshots, *each.shape[1:]) for each in (self.blocks, *self[2:]))
        return LearnedSide(blocks, self.wide * snapshots, *read)

    def of_rows(self, s: int, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return coordinates (n, k) of the `rows` (n,) of snapshot `s`, and what they do not rebuild (n, r).

        A snapshot that is not wide has its units as coordinates, which leave nothing: None.
        """
        block = self.blocks[s, rows]
        if not self.wide[s]:
            return block, None
        # Networks may give equal rows codes that differ by rounding: each row takes the code of the first equal one.
        number, counts = numbered_rows(block)
        first = first_rows(number, len(counts))
        return self.code[s, rows][first[number]], self.left[s, rows]


def _standard(side: Tensor) -> Tensor:
    """Return (S, N, D) as float32 with units of variance 1."""
    # A side that was expanded over the snapshots (stride 0) is scaled once and stays one in memory.
    one = side[:1] if side.stride(0) == 0 else side
    return zscore(one).float().expand(len(side), -1, -1)


def bytes_of_autoencoders(samples: int, units: int, others: int, folds: int) -> int:
    """Return the bytes of one snapshot: weights with their gradients, moments and best values, a batch, residuals.

    `others` are the units of the other side, 0 without it.
    """
    weights = 2 * (WIDE + 8) * units + WIDE * others + 40_000  # the last for layers of fixed sizes
    batch = AT_ONCE * (4 * units + 3 * others + 10 * WIDE)
    return folds * 4 * (5 * weights + 2 * batch) + 12 * samples * units + 8 * samples * LEFT


def _residual_coordinates(residual: Tensor) -> Tensor:
    """Return the principal coordinates (n, r) of a residual (n, U) with a variance above `LEAST`, a tenth of a unit."""
    # Those of small variance may well be curved functions of the code, that is, nothing new.
    code = principal_code(residual, LEFT)[0]
    return code[:, (code.T @ residual / len(residual)).square().sum(1) > LEAST]


def _loadings(rows: Tensor, dims: int) -> Tensor:
    """Return the slope (`dims`, U) of each unit on each principal component of rows (n, U); 0 for missing ones."""
    rows = rows.double()
    code = principal_code(rows, dims)[0]
    found = code.T @ rows / len(rows)
    return torch.nn.functional.pad(found, (0, 0, 0, dims - len(found))).float()


def _summed(stacks: list[Stack], rows: Tensor) -> Tensor:
    """Return (S F, B, out) the sum of what linear maps and perceptrons, a stack of each, give for rows (S F, B, in)."""
    return torch.stack([stack(rows) for stack in stacks]).sum(0)


def _share_lost(found: Tensor, true: Tensor) -> Tensor:
    """Return the squared error (S F,) of `found` over the sum of squares of `true`; both are (S F, B, U)."""
    # A share of each batch's own square: a batch with a far row counts no more than others.
    return (found - true).square().sum((1, 2)) / true.square().sum((1, 2)).clamp(min=1e-12)
