"""Information of continuous pairs by a flow: networks carry one side from its marginal law to its conditional one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.core.units import BITS_PER_NAT, Z_95
from infoplane.estimators._canonical import canonical_nats, gaussian_log_ratio, independent_nats
from infoplane.estimators._coordinates import (
    FEW_UNITS,
    LEAST_VARIANCE,
    Coordinates,
    Marginal,
    is_steep,
    pair_nats,
    scaled_where_normal,
)
from infoplane.estimators._driver import Given, Problem, report
from infoplane.estimators._flow_networks import HIDDEN, PairNetworks, Scores, Sides, Velocities
from infoplane.estimators._labels import fold_of_row
from infoplane.estimators._neighbors import Points, intrinsic_dimension
from infoplane.estimators._network_noise import NoisyMethod, other_sides, with_noise
from infoplane.estimators._protocol import Quantity
from infoplane.estimators._registry import register
from infoplane.estimators._scaling import drawn_rows, equal_rows, normal_numbers, principal_coordinates
from infoplane.estimators._settings import at_least, one_of, setting
from infoplane.estimators._trained import Rows, TrainingPlan, in_stacks

CHUNK = 8
"""Snapshots trained as one program."""
RATE, DECAY, BATCH, EVERY, PATIENCE = 1e-2, 1e-2, 256, 50, 10
IN_CACHE = 16
"""Networks that a CPU trains together: the activations of more do not fit its cache."""
MOST_KEPT, MOST_MOVED = 64, 16
"""Components kept of a side at most, and leading coordinates of them that networks see."""
FILLED, WIDER = 0.85, 1.25
"""Share of the intrinsic dimension of Gaussian rows from which rows fill their coordinates; where they do not, how many
coordinates are kept for each dimension of the curve or surface that they lie on."""
TIED = 0.05
"""Share of rows equal to another one, above which a side counts as having no density."""
APART_BITS, APART_SHARE = 0.25, 0.1
"""Bits, and share of the value, by which both directions may differ."""
ROWS_A_DIMENSION, ROWS_A_COMPONENT = 20, 3
"""Training rows for each component: with fewer there are few samples; so many each component needs to be kept."""
_NEIGHBORS, _DIMENSION_ROWS = 10, 2000
"""Neighbours and rows that an intrinsic dimension is found from."""
_STREAM = 1_000_003
"""Keeps the places of ties of the other side apart from those of the layer."""


@register
@dataclass(frozen=True, kw_only=True)
class FlowMatching(NoisyMethod):
    """I(T;Y) of real targets and I(X;T) of noisy networks, by conditional flow matching.

    Networks learn the mean velocity v of straight ways from samples of one side to samples of it that belong to a given
    other side. Along them entropy grows by E div v, so with z on the way at time t

        I = h(Y) - h(Y|T) = -E div v(z, t, T),

    read on rows that neither trained the networks nor chose their step. No density is estimated and no log N limits the
    value. Each side moves in turn, given the other; the value is the mean.

    Both sides are first brought to normal scores, unit by unit (ranks, which leaves the information as it is; units
    that are normal already are scaled only, where there are many and rows fill them), to
    principal components (all that vary, up to 64 and to a third of the training rows, where rows fill them, else 1.25
    times the dimension that rows lie on)
    and to canonical coordinates. With `base="gaussian"` networks add to the velocity of the Gaussian pair with these
    correlations, whose part of the integral is exact: nothing is to be learned where the pair is Gaussian. They see the
    16 leading coordinates of each side; the others count as Gaussian. Where one side has more, as a wide layer beside
    few inputs, those lead that go with the other side, then those that follow products of its coordinates beyond
    chance, and the rest is left out: noise in many coordinates would hide what there is to learn.

    `method="score"` takes another loss: networks remove noise from one side, with the other and without it, and the
    information is the integral over noise of what the other side takes off the error (MINDE-c). "I(T;Y) inside" is the
    form that cannot be negative, "I(T;Y) outside" the one that can; the value is their mean.

    **I(X;T) needs noise in the network**, as in `compressed`: in a deterministic layer it is infinite, and absent here.
    Where a `NoiseInjection` was recorded, noise is drawn and added (`noise="network"`); `noise="recorded"` says that
    the values are random already. For the recorded inputs alone `noise` is exact, and the better choice. Classes as Y
    are no obstacle then, but I(T;Y) of classes is for `probe:family=mlp`.

    How it misleads: *the value is no bound*, and errs either way where networks are trained too little or too few rows
    say too little. Above 5 nats it reads too little of curved pairs, with few rows earlier. Components of small
    variance are left out whatever they tell (`variance kept` does not show it), and dependence beyond the 16 leading
    canonical coordinates that is not linear is not seen; in a wide layer beside few inputs, none that takes three of
    them together. `low` and `high` are of the rows that are read and know nothing of errors of training. Flags:

    - `unreliable`: both directions differ by more than 0.25 bit and a tenth (of `score`: both forms), more steps would
      help, a network diverged or errs on its own rows less by a quarter, neither side has a density in its
      coordinates, one pair of coordinates comes near to what ranks can tell (log n - 1 nats of n training rows), or
      I(X;T) is less than I(T;Y) by more than 0.1 bit: what T knows of Y it has from X;
    - `ties`: more than 5 % of the rows of a side repeat, or a side lies on a curve or surface in its coordinates (a
      circle in the plane): only the other side moves;
    - `few_samples`: fewer than 20 training rows for each dimension kept.

    :measures: continuous pairs: velocities that carry one side to its law given the other
    :assumes: a few smooth coordinates, or Gaussian ones; I(X;T) needs noise in the network
    :errs: either side; down for much information and few samples
    :cost: folds steps (k + 128) 128, k kept
    :memory: folds N k
    :gives: I(T;Y) of targets, I(X;T) of noisy networks
    :unit: bit
    :ceiling: none
    :source: Butakov et al. 2025; Franzese et al. 2024

    Parameters
    ----------
    method : {"flow", "score"}
        What networks learn: velocities or noise.
    base : {"gaussian", "off"}
        What they add to: the solution for a Gaussian pair, or nothing.
    steps : int
        The most steps of training; 0 leaves the base alone.
    folds : int
        Parts that are each read by networks of the others. Samples with equal `x_ids` stay together.
    noise : {"network", "recorded", "off"}
        Where the randomness of T is; "off" leaves I(X;T) out.
    seed : int
        Seeds folds, first weights, batches, places of repeated values and added noise; the same in every snapshot.

    Notes
    -----
    Eight snapshots are trained at a time, as one program; alone or together they agree within 0.02 bit. Nothing is
    clipped: independent pairs read slightly negative values as often as positive ones.

    Raises
    ------
    ValueError
        If a parameter is out of its domain, the inputs do not fit, Y are classes and T has no noise, noise is there and
        `x` is missing, or a layer declared random is not.

    References
    ----------
    Butakov, Semenenko, Frolov and Oseledets, "FMMI: Flow matching mutual information estimation", 2025.
    Lipman, Chen, Ben-Hamu, Nickel and Le, "Flow matching for generative modeling", 2023.
    Franzese, Bounoua and Michiardi, "MINDE: Mutual information neural diffusion estimation", 2024.
    Guo, Shamai and Verdu, "Mutual information and minimum mean-square error in Gaussian channels", 2005.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> t = torch.randn(400, 2, generator=g)
    >>> y = t + 0.5 * torch.randn(400, 2, generator=g)              # 2 x 1/2 log2(1 + 4) bits
    >>> found = FlowMatching(steps=50).estimate(t[None], y)["I(T;Y)"]
    >>> abs(float(found.value) - math.log2(5)) < 0.3
    True
    """

    name: ClassVar[str] = "flow"
    targets: ClassVar[frozenset[str]] = frozenset({"continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset()
    chunk: ClassVar[int] = CHUNK
    not_extrapolated: ClassVar[str] = "its error does not fall as 1/N: networks of many samples are trained too little"

    method: Literal["flow", "score"] = setting("flow", one_of("flow", "score"))
    base: Literal["gaussian", "off"] = setting("gaussian", one_of("gaussian", "off"))
    steps: int = setting(1000, at_least(0))
    folds: int = setting(4, at_least(2))

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes of the layer with its ranks, coordinates of every fold, and activations of a batch."""
        return 40 * samples * units + self.folds * _bytes_of_fold(samples, MOST_MOVED, MOST_MOVED)

    @property
    def min_samples(self) -> int:
        """Return the least number of samples: one in each of the two parts of every fold."""
        return 2 * self.folds

    def start(self, given: Given) -> _CarriedPairs:
        """Return the problem of one call: the sides that every snapshot is paired with, and the folds."""
        return _CarriedPairs(self, given)


class _Side(NamedTuple):
    """One side of a pair, without what pairs it.

    Attributes
    ----------
    marginal : Marginal
        Its columns (N, D), ranked or scaled.
    kept : int
        How many principal components of the columns are used.
    filled : bool
        Whether rows fill these components, so that the side has a density in them; then it can be moved.
    """

    marginal: Marginal
    kept: int
    filled: bool

    @classmethod
    def of(cls, block: Tensor, seed: int) -> _Side | None:
        """Prepare the side with rows `block` (N, D); return None where all rows are equal."""
        ranked = Marginal.of(block, seed)
        columns = ranked.columns
        if columns.shape[1] == 0:
            return None
        # Ranks straighten curved layers of few latents and leave no far rows. Where rows fill all of many units, units
        # that are normal already are scaled only.
        kept, filled = _dimensions(columns, seed)
        if FEW_UNITS < columns.shape[1] == kept:
            columns = scaled_where_normal(columns, Marginal.of(block, seed, ranks=False).columns)
        # Repeated values of one unit do no harm where whole rows differ.
        tied = ranked.tied and float((equal_rows(columns) > 0).double().mean()) > TIED
        return cls(ranked._replace(columns=columns), kept, filled and not tied)

    @property
    def moved(self) -> int:
        """Coordinates that networks see; the others count as Gaussian."""
        return min(self.kept, MOST_MOVED)


def _dimensions(columns: Tensor, seed: int) -> tuple[int, bool]:
    """Return how many principal components of `columns` (N, D) to keep, and whether rows fill them."""
    rows = drawn_rows(len(columns), _DIMENSION_ROWS, seed)  # None where all are few enough
    coordinates, squares = principal_coordinates((columns if rows is None else columns[rows.to(columns.device)])[None])
    largest = squares[0].topk(min(MOST_KEPT, squares.shape[1]))
    chosen = largest.indices[largest.values > LEAST_VARIANCE * largest.values[0]]
    coordinates, count = coordinates[0][:, chosen], len(chosen)
    if _filled(coordinates, seed):
        return count, True
    # Rows lie on a curve or surface: a few components more than its dimension hold it.
    kept = min(count, MOST_MOVED, max(2, math.ceil(WIDER * _intrinsic(coordinates))))
    return kept, kept < count and _filled(coordinates[:, :kept], seed)


def _filled(coordinates: Tensor, seed: int) -> bool:
    """Return whether coordinates (N, k) have nearly the intrinsic dimension of Gaussian noise of the same shape."""
    if coordinates.shape[1] == 1:  # a line is filled by whatever varies on it
        return True
    normal = normal_numbers(coordinates.shape, seed, coordinates.device)
    return _intrinsic(coordinates / coordinates.std(0)) >= FILLED * _intrinsic(normal)


def _intrinsic(rows: Tensor) -> float:
    """Estimate the dimension of the curve or surface that rows (N, k) lie on, from distances of neighbours."""
    return intrinsic_dimension(Points(rows).nearest(min(_NEIGHBORS, len(rows) - 1))[0])


def most_at_once(folds: int, device: torch.device) -> int | None:
    """Return how many snapshots are trained together at most; None on an accelerator, which takes all that fit."""
    return None if on_accelerator(device) else max(1, IN_CACHE // folds)


class _CarriedPairs(Problem):
    """The targets and, where T has noise, the inputs, each paired with the layer of every snapshot.

    S are snapshots, F folds, N samples, R rows that are read. A method reads q values of each row: 1 ("flow") or 2
    ("score", inside and outside).
    """

    config: FlowMatching

    def __init__(self, config: FlowMatching, given: Given) -> None:
        """Take targets and inputs as sides of pairs, and cut the samples into two parts for each fold."""
        super().__init__(config, given)
        sides = other_sides(config, given)
        self.others = {name: _Side.of(block, _STREAM + config.seed) for name, block in sides.items()}
        self.part_of_row = fold_of_row(given.x_ids, 2 * config.folds, config.seed)
        self.plan = TrainingPlan(RATE, DECAY, BATCH, config.steps, every=EVERY, patience=PATIENCE, cosine=True)

    def rows(self, direction: int) -> Rows:
        """Return which rows each fold trains on, checks and reads, with seeds by `direction`: 0 if T moves, or 1."""
        first = self.config.folds * self.config.seed
        # No two folds, directions or values of `seed` share one.
        seeds = [2 * (first + fold) + direction for fold in range(self.config.folds)]
        return Rows.of(self.part_of_row, 2, seeds)

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return what networks read of all snapshots `t` (S, N, U) with every other side: numbers (S, ...) by name.

        The names are those of `_stack` behind that of the pair; a pair with a constant side has zeros (`_zeros`).
        """
        layers = [_Side.of(with_noise(layer, self.config), self.config.seed) for layer in t.detach()]
        found = {"degenerate": torch.tensor([layer is None for layer in layers], device=t.device)}
        varying = {i: layer for i, layer in enumerate(layers) if layer is not None}
        for name, other in self.others.items():
            whole = _zeros(self.config.method, t)
            # Networks of one size are one stack.
            for size in {layer.kept for layer in varying.values() if other is not None}:
                assert other is not None
                members = {i: layer for i, layer in varying.items() if layer.kept == size}
                for key, value in self._trained(list(members.values()), other).items():
                    whole[key][list(members)] = value
            found |= {f"{name} {key}": value for key, value in whole.items()}
        return found

    def _trained(self, layers: list[_Side], other: _Side) -> dict[str, Tensor]:
        """Train networks for layers of equally many components, some at a time as memory allows; return as `_stack`."""
        each = self.config.folds * _bytes_of_fold(self.samples, layers[0].moved, other.moved)
        numbers = torch.arange(len(layers), device=self.t.device)
        most = most_at_once(self.config.folds, self.t.device)
        return in_stacks(numbers, each, lambda some: self._stack([layers[i] for i in some.tolist()], other), most=most)

    def _stack(self, layers: list[_Side], other: _Side) -> dict[str, Tensor]:
        """Train the layers of S snapshots together, each with the other side, and return numbers (S, ...) by name.

        "directions" are nats (S, 2, q) by T moving and by the other side moving, "weight" (S, 2) is what each counts; q
        is 1, or 2 for the method "score".
        """
        gaussian = self.config.base == "gaussian"
        pairs = _FoldCoordinates.of(layers, other, self.rows(0).fitted)
        of_rows, doubtful = [], torch.zeros(len(layers), dtype=torch.bool, device=self.t.device)
        for direction in (0, 1):
            kind = Velocities if self.config.method == "flow" else Scores
            networks: PairNetworks = kind(pairs.sides(direction), self.rows(direction), gaussian)
            trained = networks.train(self.plan)
            doubtful |= torch.unflatten(trained.unfinished | trained.diverged, 0, networks.shape).any(1)
            with torch.no_grad():
                doubtful |= networks.overfitted()
                read = networks.read().double()  # (S, F, R, q)
            # Where `read` leaves out the information of the Gaussian pair, all of it is added here; else its part in
            # coordinates that networks do not see.
            known = pairs.nats if gaussian and networks.exact else pairs.beyond
            whole = read.new_zeros(len(layers), self.samples, read.shape[3])
            for fold, numbers in enumerate(networks.rows.read):
                whole[:, numbers] = read[:, fold] + known[:, fold, None, None]
            of_rows.append(whole)
        values = torch.stack(of_rows, 1)  # (S, 2, N, q)
        # A side without a density has no velocity: then only the other one counts; where neither has one, both do.
        movable = torch.tensor([[layer.filled, other.filled] for layer in layers], device=self.t.device)
        weight = torch.where(movable.any(1, keepdim=True), movable, True).double()
        weight = weight / weight.sum(1, keepdim=True)
        scatter = (values[..., 0] * weight[:, :, None]).sum(1)
        # The exact part is one number for all rows, but its interval must know how its log ratio scatters over them.
        if gaussian and self.config.method == "flow":
            scatter = scatter + pairs.pointwise(self.part_of_row // 2)
        fewest = min(map(len, self.rows(0).fitted))
        few = [fewest < ROWS_A_DIMENSION * max(layer.kept, other.kept) for layer in layers]
        return {
            "directions": values.mean(2),
            "weight": weight,
            "error": scatter.std(1) / math.sqrt(self.samples),
            "doubtful": doubtful | ~movable.any(1) | pairs.steep,
            "tied": ~movable.all(1),
            "kept": pairs.kept,
            "few": torch.tensor(few, device=self.t.device),
        }

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities of every pair of sides, and the share of the variance of T that was kept."""
        out: dict[str, Quantity] = {}
        for name, other in self.others.items():
            of_pair = {key: found[f"{name} {key}"] for key in _zeros(self.config.method, self.t[:0])}
            out |= self._quantities(name, of_pair, found["degenerate"] | (other is None))
        kept = found[f"{next(iter(self.others))} kept"]  # the share of T, whatever it is paired with
        return out | report("variance kept", kept, unit="share", flags={"degenerate": found["degenerate"]})

    def _quantities(self, name: str, found: dict[str, Tensor], constant: Tensor) -> dict[str, Quantity]:
        """Return the quantities of the pair `name` in bits, from the numbers of `_stack`; a side is `constant` (S,)."""
        directions = found["directions"] * BITS_PER_NAT  # (S, 2, q)
        read = (directions * found["weight"][:, :, None]).sum(1)  # (S, q)
        value, score = read[:, 0], self.config.method == "score"
        # Two ways to the same number: inside and outside, or T moved and the other side moved.
        difference = read[:, 0] - read[:, 1] if score else (directions[:, 0, 0] - directions[:, 1, 0]) * ~found["tied"]
        flags = {
            "degenerate": constant,
            "ties": found["tied"],
            "few_samples": found["few"],
            "unreliable": found["doubtful"] | (difference.abs() > APART_BITS + APART_SHARE * value.abs()),
        }
        estimand = "noisy-population" if name == "I(X;T)" else ""
        out = report(name, value, half=found["error"] * (BITS_PER_NAT * Z_95), flags=flags, estimand=estimand)
        if score:
            for i, way in enumerate(("inside", "outside")):
                out |= report(f"{name} {way}", read[:, i], flags=flags, estimand=estimand)
        return out


def _zeros(method: str, t: Tensor) -> dict[str, Tensor]:
    """Return numbers with the keys and shapes of `_stack`, for every snapshot of `t`, that say: no information."""
    zero, no = t.new_zeros(len(t), dtype=torch.float64), torch.zeros(len(t), dtype=torch.bool, device=t.device)
    directions = zero[:, None, None].repeat(1, 2, 1 + (method == "score"))
    weight = torch.full_like(directions[:, :, 0], 0.5)
    # Each key has a tensor of its own, since numbers of pairs that vary are written into them.
    numbers = {"directions": directions, "weight": weight, "error": zero, "kept": zero.clone()}
    return numbers | {"doubtful": no, "tied": no.clone(), "few": no.clone()}


class _FoldCoordinates(NamedTuple):
    """What networks see of T and of the other side in every snapshot and fold, and the Gaussian of the pair.

    Attributes
    ----------
    u, v : (S, F, N, k) and (S, F, N, m) float32
        Coordinates of T and of the other side, in pairs.
    correlations : (S, F, r)
        Of each pair of coordinates.
    nats, beyond : (S, F)
        Information of the Gaussian pair in all coordinates, and in those that no network sees.
    ratio : (S, F, N)
        Log ratio of its densities at each row.
    kept : (S,)
        Share of the variance of T in its coordinates.
    steep : (S,) bool
        Whether one pair of coordinates comes near to what ranks of so many rows can tell.
    """

    u: Tensor
    v: Tensor
    correlations: Tensor
    nats: Tensor
    beyond: Tensor
    ratio: Tensor
    kept: Tensor
    steep: Tensor

    @classmethod
    def of(cls, layers: list[_Side], other: _Side, fitted: tuple[Tensor, ...]) -> _FoldCoordinates:
        """Find coordinates of every layer with the other side, fitted to the training rows of each fold."""
        found = [_coordinates(layer, other, rows) for layer in layers for rows in fitted]
        stacked = (torch.stack(part) for part in zip(*found, strict=True))  # (S F, ...) each
        shape = len(layers), len(fitted)
        u, v, rho, nats, beyond, ratio, kept, steep = (torch.unflatten(part, 0, shape) for part in stacked)
        return cls(u.float(), v.float(), rho, nats, beyond, ratio, kept.mean(1), steep.any(1))

    def sides(self, direction: int) -> Sides:
        """Return which side moves and which stays: T moves in direction 0, the other side in direction 1."""
        moving, still = (self.u, self.v) if direction == 0 else (self.v, self.u)
        return Sides(moving, still, _wide(self.correlations, moving.shape[3]).float())

    def pointwise(self, fold_of_row: Tensor) -> Tensor:
        """Return each row's Gaussian log ratio (S, N) less the mean, from the fold (N,) that reads the row."""
        ratio = self.ratio.gather(1, fold_of_row.expand(len(self.ratio), 1, -1))[:, 0]
        return ratio - ratio.mean(1, keepdim=True)


def _coordinates(layer: _Side, other: _Side, fitted: Tensor) -> tuple[Tensor, ...]:
    """Return the fields of `_FoldCoordinates` for one snapshot, fitted to the training rows (n,) of one fold."""
    rows = fitted.to(other.marginal.columns.device)
    # Of more dimensions than rows all correlations are 1 whatever the sides are.
    most = max(1, len(rows) // ROWS_A_COMPONENT)
    c = Coordinates.of(layer.marginal, other.marginal, rows, (min(layer.kept, most), min(other.kept, most)), MOST_MOVED)
    nats, r = pair_nats(c.correlations), len(c.correlations)  # (r,) of each pair of coordinates
    seen = min(layer.moved, other.moved)
    # Every row is a set of one row, (N, 1, r): only pairs that belong together are compared.
    ratio = gaussian_log_ratio(c.u[:, None, :r], c.v[:, None, :r], c.correlations)[:, 0, 0]
    u, v, rho = _wide(c.u, layer.moved), _wide(c.v, other.moved), _wide(c.correlations, seen)
    # The bias of the sum is known; correlations that are corrected one by one do not add up to a sum without bias.
    whole = canonical_nats(c.found) - independent_nats(c.u.shape[1], c.v.shape[1], len(fitted))
    steep = is_steep(c.correlations, len(fitted))
    return u, v, rho, whole, nats[seen:].sum(), ratio, nats.new_tensor(c.kept[0]), steep


def _wide(columns: Tensor, width: int) -> Tensor:
    """Return the first `width` columns of (..., k), filled up with zeros where there are fewer."""
    found = columns[..., :width]
    return torch.nn.functional.pad(found, (0, width - found.shape[-1]))


def _bytes_of_fold(samples: int, k: int, m: int) -> int:
    """Return the memory of one fold: k and m coordinates of all samples, and the activations of 2,048 draws."""
    return 40 * samples * (k + m) + 4 * 2048 * (8 * HIDDEN + 4 * (k + m))
