"""Lossy compression, then nearest-neighbour entropies: information of wide layers in a few coordinates."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT, Z_95
from infoplane.estimators._autoencoders import LearnedSide, bytes_of_autoencoders
from infoplane.estimators._checks import above_ceiling, hidden_information, hidden_products
from infoplane.estimators._codes import DENSE, Code, coded
from infoplane.estimators._driver import Flags, Given, Number, Problem, report, side_by_side
from infoplane.estimators._entropies import NOTHING, Part, class_information, pair_information
from infoplane.estimators._labels import entropy_of_counts, fold_of_row
from infoplane.estimators._network_noise import NoisyMethod, random_inputs, with_noise
from infoplane.estimators._protocol import Quantities, Quantity
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import is_constant
from infoplane.estimators._settings import SWITCH, added, at_least, one_of, setting
from infoplane.estimators._trained import Rows
from infoplane.estimators.knn import TIED

MISSING = 0.3
"""Dimensions that a code, or two together, may leave unfilled: the value is off by about as many nats."""
DRIFT = 0.2
"""Nats that four times as many neighbours may change."""
HIDDEN = 0.08
"""Nats that dropped components may tell beyond the kept ones."""
UNSURE, TAILED = 0.15, 4.0
"""Largest trusted standard error, in nats or in nats times sqrt(N): Gaussians of 4 and 4 dimensions have about 2.5."""
CHUNK, FOLDS, PARTS = 8, 2, 5
"""Snapshots trained at once; halves, each read by codes trained on the other; parts of a half, one to choose a step."""
ROWS_A_DIMENSION = 20
"""Training rows for each coordinate of a code, below which there are few samples."""

Role = Literal["t", "x", "y"]
_STREAM = 1_000_003  # between the seeds of generators, so that no two draw the same numbers


@register
@dataclass(frozen=True, kw_only=True)
class Compressed(NoisyMethod):
    """Principal components or a trained code, whitening, then Kozachenko-Leonenko entropies, per snapshot.

    T, and X or a vector of targets, are projected on their first `dims` principal components, fitted anew for
    every snapshot, and whitened. With h the entropy from k-th neighbour distances in these few coordinates,

        I(T;Y) = h(T) - sum_y p(y) h(T|y)   or   h(T) + h(Y) - h(T,Y),     I(X;T) = h(X) + h(T) - h(X,T),

    each entropy in coordinates whitened for itself. `low` and `high` come from the standard errors of the
    entropies, added as if they were independent: they are not, and largely cancel, so the interval is too wide by
    about half. `compressed+interval` has a tighter one from subsamples.

    Values that repeat, of T, X or Y, have no differential entropy: they are atoms. With A the atom of a row, or
    "none" in the continuous part, I(T;Y) = I(T;A) + P(none) I(T;Y|none) exactly, so too from the sides of X and T;
    two discrete sides are counted. Rarer values (under 50 rows, on a line under 2 %) on a grid are spread evenly over
    its cells, which leaves the information as it is. Nothing else is added to the values.

    **I(X;T) needs noise in the network.** In a deterministic layer it is infinite for continuous X, and the
    estimate would grow with N without end: it is absent there. Where the recorder saw a `NoiseInjection`, noise
    of that std and kind is drawn and added to the recorded clean value (`noise="network"`). A layer whose
    recorded values are random already (dropout left on) is declared by `noise="recorded"`; this is refused where
    rows of one input agree. The estimand is `noisy-population`: X from its law, so log2 N is no ceiling.

    `code="autoencoder"` trains networks to rebuild each side that is wider than `dims` from as many coordinates, for
    layers that curve: those of all snapshots together, on units of variance 1, starting as the principal components.
    With `cross=True` a second decoder rebuilds the other side (or tells the class), and what a code loses of its own
    side counts a tenth of what it loses of the other: it keeps what tells, however quiet (latent MI). Codes are
    trained on one half of the rows and the entropies taken of the other, both ways round; of a fifth of the first half
    the step is chosen. `reconstruction kept` is the share of the variance of T that is rebuilt, of rows not trained on.

    Its ground: X, T and targets that a few smooth coordinates describe, up to 4 of both sides together, and up to
    2 nats.

    How it misleads: projections can only lose information, so the truth in the compressed coordinates is below
    that of the layer, but *the estimate is no bound*: its own error has either sign. Principal components keep
    variance, not dependence: a signal of small variance is gone, and the quantity `variance kept` does not
    show it. So do codes without `cross`; with it `reconstruction kept` is often small, and says nothing against the
    value. What `cross` keeps it had to find in a few hundred rows: of weak dependence on many units it keeps nothing,
    and reads 0. A code of more coordinates than the layer has dimensions is a curved sheet, on which entropies
    fail; one of fewer loses the rest. Errors of the entropies do not cancel as in `knn`. The flag `unreliable` says
    that one of these was seen:

    - the next 60 components tell of the other side what the kept ones do not: linearly, or by products of two;
    - the codes, or both together, have fewer dimensions than coordinates: curves, surfaces, ReLU units, edges;
    - four times as many neighbours give another value;
    - the value is below 0 by more than its interval, or above H(Y), or of tails so heavy that its interval is wide;
    - of codes: training diverged, or more steps would help;
    - a class has collapsed, values repeat too rarely for atoms and lie on no grid, or the cells of a grid are wider
      than what the other side knows of them (more than half of psi(N) - psi(k)).

    Of a code the next 60 components are those of what it does not rebuild, where one holds at least a tenth of a unit's
    variance. No flag sees dependence on dropped components through products of three or more, or with about as many
    units as samples. `ties` says that more than 5 % of the rows of T repeat; `few_samples` that a code was trained on
    fewer than 20 rows for each coordinate, or a class has few rows.

    :measures: principal components or a trained code, then nearest-neighbour entropies
    :assumes: few coordinates carry T; I(X;T) needs noise in the network
    :errs: either side; loses what the coordinates lose
    :cost: N D² + N log N; a code: steps 256 D 128
    :memory: N D; a code: 10 D 128
    :gives: I(T;Y), I(X;T) of noisy networks
    :unit: bit
    :ceiling: H(Y)
    :source: Butakov et al. 2024; Gowri et al. 2024

    Parameters
    ----------
    dims : int
        Coordinates kept of each of X, T and a vector target.
    n_neighbors : int
        k.
    noise : {"network", "recorded", "off"}
        Where the randomness of T is; "off" leaves I(X;T) out.
    seed : int
        Seeds the added noise, the places of T, X and Y in the cells of a grid (each with a generator of its own), and
        first weights and batches. All are the same in every snapshot.
    code : {"pca", "autoencoder"}
        What the coordinates are. Autoencoders of eight snapshots are trained at a time, as one program; alone or
        together values agree within 0.02 bit.
    cross : bool
        Whether the code of one side is trained to rebuild the other, too; needs `code="autoencoder"`.
    steps : int
        The most steps of training, looked at every 50; 0 leaves the principal components of standardised units.

    Raises
    ------
    ValueError
        If a parameter is out of its domain, `cross` is set for "pca", the inputs do not fit, noise is there and `x` is
        missing, or a layer declared random is not.

    References
    ----------
    Butakov, Tolmachev, Malanchuk, Neopryatnaya, Frolov and Andreev, "Information bottleneck analysis of deep
    neural networks via lossy compression", 2024. There the standard errors are added linearly.
    Gowri, Lun, Klein and Yin, "Approximating mutual information of high-dimensional variables using learned
    representations", 2024, is `cross=True` but for its weights, its networks and its estimator.
    Kozachenko and Leonenko, "Sample estimate of the entropy of a random vector", 1987.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(2000, 1, generator=g)
    >>> t = (x + 0.5 * torch.randn(2000, 1, generator=g)) @ torch.randn(1, 64, generator=g)
    >>> found = Compressed(noise="recorded").estimate(t[None], (x[:, 0] > 0).long(), x=x)
    >>> abs(float(found["I(X;T)"].value) - 0.5 * math.log2(5)) < 0.15
    True
    """

    name: ClassVar[str] = "compressed"
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "constant_zero"})

    dims: int = setting(4, at_least(1))
    n_neighbors: int = setting(5, at_least(1))
    code: Literal["pca", "autoencoder"] = added("pca", one_of("pca", "autoencoder"))
    cross: bool = added(False, SWITCH)
    steps: int = added(1000, at_least(0))

    def __post_init__(self) -> None:
        """Check that the settings fit together; trained codes have fewer guarantees and fixed chunks."""
        super().__post_init__()
        if self.code == "autoencoder":  # networks that are trained together differ by rounding from those trained alone
            object.__setattr__(self, "guarantees", frozenset({"constant_zero"}))
            object.__setattr__(self, "chunk", CHUNK)
            object.__setattr__(self, "not_extrapolated", "codes of few rows are worse, by no law of 1/N")
        elif self.cross:
            raise ValueError("cross=True needs code='autoencoder': principal components are of one side alone")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes of the centred snapshot, its Gram matrix, codes and their checks, and of autoencoders."""
        networks = bytes_of_autoencoders(samples, units, units, FOLDS) if self.code == "autoencoder" else 0
        return networks + 24 * samples * units + 16 * min(samples, units, DENSE) ** 2 + 4000 * samples

    @property
    def min_samples(self) -> int:
        """Return the least number of samples: each part of the rows that is read by itself needs enough neighbours."""
        return (FOLDS if self.code == "autoencoder" else 1) * max(self.n_neighbors + 2, 10)

    def start(self, given: Given) -> _Codes:
        """Return the problem of one call, which begins with the codes of X and of real targets."""
        return _Codes(self, given) if self.code == "pca" else _LearnedCodes(self, given)


class _Codes(Problem):
    """The codes (few coordinates) of X and of real targets, which the code of every snapshot is compared with."""

    config: Compressed
    kept = "variance kept"
    """Name of the quantity that says how much of T the code has."""
    halves = 1
    """Parts of the rows that are read apart, each of which needs enough of every class."""

    def __init__(self, config: Compressed, given: Given) -> None:
        """Take inputs and targets as sides, and find their codes."""
        super().__init__(config, given)
        self.x = random_inputs(config, given)
        self.random = self.x is not None
        self.targets = given.y.reshape(len(given.y), -1) if self.continuous else None
        self.find(given.x_ids)

    def find(self, x_ids: Tensor) -> None:
        """Set the codes of X and of real targets, None where missing or constant; `x_ids` is not used here."""
        self.code_x = None if self.x is None else self._code(self.x, "x")
        self.code_y = None if self.targets is None else self._code(self.targets, "y")
        self.constant = self.code_y is None  # which only real targets ask for

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the informations in bits with intervals and flags, and the share of the variance that is kept.

        `found` holds what `snapshot` returns, of S snapshots: one tensor (S,) for each key.
        """
        shared: dict[str, Tensor | bool] = {"degenerate": found["degenerate"], "ties": found["tied"] > TIED}
        if "few" in found:  # only trained codes count their rows
            shared["few_samples"] = found["few"]

        def in_bits(name: str, key: str, flags: Flags, ceiling: Tensor | None = None, estimand: str = "") -> Quantities:
            """Return the quantity `name` in bits from the numbers `key` in nats, flagged where a check doubts it."""
            value, half = found[key] * BITS_PER_NAT, found[f"{key} error"] * BITS_PER_NAT * Z_95
            doubtful = found[f"{key} doubtful"]
            if ceiling is not None:
                doubtful = doubtful | above_ceiling(value, ceiling)
            flags = {**shared, "unreliable": doubtful, **flags}
            return report(name, value, half=half, flags=flags, ceiling=ceiling, estimand=estimand)

        if self.continuous:
            out = in_bits("I(T;Y)", "i_ty", {"degenerate": found["degenerate"] | self.constant})
        else:
            counts = torch.bincount(self.y)
            # In each part that is read apart a class needs more rows than neighbours, and than dimensions and one.
            few = int(counts.min()) <= self.halves * max(self.config.n_neighbors, self.config.dims + 1)
            flags = {"single_class": len(counts) == 1, "few_samples": shared.get("few_samples", False) | few}
            out = in_bits("I(T;Y)", "i_ty", flags, ceiling=entropy_of_counts(counts))
        if self.random:
            out |= in_bits("I(X;T)", "i_xt", {}, estimand="noisy-population")
        return out | report(self.kept, found["kept"], unit="share", flags={"degenerate": found["degenerate"]})

    def _code(self, block: Tensor, role: Role) -> Code | None:
        """Return the code of a block (N, D), None for a constant one; each role draws random numbers of its own."""
        config = self.config
        code = coded(block, config.dims, config.n_neighbors, config.seed + _STREAM * (1 + "txy".index(role)))
        return code if code.rows.shape[1] else None

    def snapshot(self, layer: Tensor) -> dict[str, Number]:
        """Return I(T;Y) and I(X;T) of one layer (N, U) in nats, with errors and doubts, and what its code keeps."""
        constant = bool((layer == layer[:1]).all())  # before noise is added
        code = None if constant else self._code(with_noise(layer, self.config), "t")
        kept, tied = (0.0, 0.0) if code is None else (code.kept, code.tied)
        out: dict[str, Number] = {"degenerate": code is None, "kept": kept, "tied": tied}
        for key, other in (("i_ty", self.code_y if self.continuous else self.y), ("i_xt", self.code_x)):
            part, doubtful = NOTHING, False  # also where a side is constant
            if code is not None and other is not None:
                part, hidden = self._information(code, other)
                doubtful = self._doubtful(part, hidden, [code, other] if isinstance(other, Code) else [code])
            out |= {key: part.value, f"{key} error": part.error, f"{key} doubtful": doubtful}
        return out

    def _information(self, code: Code, other: Code | Tensor) -> tuple[Part, float]:
        """Return the information of a code with another or with classes (N,), and nats that dropped coordinates add."""
        k = self.config.n_neighbors
        if isinstance(other, Code):
            # Both sides' dropped coordinates are compared once, in the first term; products only with those kept.
            whole = torch.cat([other.rows, other.dropped], 1)
            hidden = _hidden(code, whole, other.rows) + _hidden(other, code.rows, code.rows)
            return pair_information(code, other, k), hidden
        members = torch.nn.functional.one_hot(other).double()[:, 1:]  # the first follows from the others
        return class_information(code, other, k), _hidden(code, members, members) if members.shape[1] else 0.0

    def _doubtful(self, part: Part, hidden: float, codes: list[Code]) -> bool:
        """Return whether some check of `Compressed` doubts the information `part` of these codes.

        `hidden` are the nats that dropped coordinates would add.
        """
        # psi(N) and psi(k), whose difference is the most that neighbours can show.
        n, k = torch.tensor([len(codes[0].rows), self.config.n_neighbors], device="cpu").double().digamma().tolist()
        return bool(
            part.collapsed
            or part.missing > MISSING
            or abs(part.drift) > DRIFT
            or hidden > HIDDEN
            or part.value + Z_95 * part.error < 0
            or part.error > max(UNSURE, TAILED / math.sqrt(self.samples))
            or max(part.unused, *(c.loose for c in codes)) > TIED
            or (max(c.spread for c in codes) > TIED and part.value > 0.5 * (n - k))
        )


class _LearnedCodes(_Codes):
    """Codes of each half of the rows by autoencoders that were trained on the other half."""

    kept = "reconstruction kept"
    halves = FOLDS

    @torch.inference_mode(False)
    def find(self, x_ids: Tensor) -> None:
        """Cut the rows into parts, note the other sides, X and Y, and train their codes where these do not depend on T.

        Rows of one input in `x_ids` (N,) fall into one part. Each half of the rows has `PARTS` parts.
        """
        self.part_of_row = fold_of_row(x_ids, FOLDS * PARTS, self.config.seed)
        y = self.y[:, None] if self.targets is None else self.targets
        if self.config.cross and not self.continuous:  # a decoder tells the class
            y = torch.nn.functional.one_hot(self.y)
        self.others: dict[Role, Tensor] = {"y": y.detach()[None]}
        if self.x is not None:
            self.others["x"] = self.x.detach()[None]
        self.constant = bool(is_constant(self.others["y"]))
        self.coded: list[Role] = [role for role in self.others if role == "x" or self.continuous]
        # Classes need no code. Without `cross` the other codes are the same for every T: they are trained once.
        known = [] if self.config.cross else self.coded
        self.known = {role: self._side(self.others[role], None, role) for role in known}
        # Codes are trained on all parts of a half but one.
        self.few = (PARTS - 1) * self.samples < FOLDS * PARTS * ROWS_A_DIMENSION * self.config.dims

    def _side(self, blocks: Tensor, other: Tensor | None, role: Role) -> LearnedSide:
        """Train codes that are to rebuild one side (S, N, D), and the `other` (S, N, D'), too, where it is given."""
        first = _STREAM * (4 + "txy".index(role)) + FOLDS * self.config.seed  # 1 to 3 are the seeds of `_code`
        rows = Rows.of(self.part_of_row, PARTS, range(first, first + FOLDS))
        return LearnedSide.of(blocks, other, rows, self.config.dims, self.config.steps)

    @torch.inference_mode(False)
    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Train codes for snapshots `t` (S, N, U) together; return numbers (S,) with each other side, as `_numbers`."""
        layers = torch.stack([with_noise(layer, self.config) for layer in t.detach()])
        # Without `cross` one code of T serves with every other side.
        plain = None if self.config.cross else self._side(layers, None, "t")
        out: dict[str, Tensor] = {}
        for role, blocks in self.others.items():
            other_blocks = blocks.expand(len(t), -1, -1)
            side_t = self._side(layers, other_blocks, "t") if plain is None else plain
            other = self.known[role].repeated(len(t)) if role in self.known else None  # None: classes
            if self.config.cross and role in self.coded:
                other = self._side(other_blocks, layers, role)
            numbers = [self._numbers(s, side_t, other, role) for s in range(len(t))]
            out = side_by_side(numbers, t.device) | out  # of T alone: from its first pair
        return out

    def _numbers(self, s: int, side_t: LearnedSide, other: LearnedSide | None, role: Role) -> dict[str, Number]:
        """Return the numbers of snapshot `s` for T and another side, as means over both halves of the rows.

        They are information, error and doubt of the pair, and what the code of T keeps. `other` is None for classes.
        """
        sides, total, hidden = [side_t] if other is None else [side_t, other], NOTHING, 0.0
        codes: list[Code] = []
        for half in range(FOLDS):
            rows = self.part_of_row // PARTS == half
            code_t = self._half(side_t, s, rows, "t")
            of_other = self.y[rows] if other is None else self._half(other, s, rows, role)
            if code_t is None or of_other is None:  # nothing varies in this half
                total = total.and_share(1 / FOLDS, NOTHING._replace(unused=1.0))
                continue
            part, hidden_here = self._information(code_t, of_other)
            total, hidden = total.and_share(1 / FOLDS, part), hidden + hidden_here / FOLDS
            codes += [code_t] if isinstance(of_other, Tensor) else [code_t, of_other]
        training_doubtful = any(bool(side.doubtful[s]) for side in sides)
        constant = bool(is_constant(side_t.blocks[s : s + 1]))
        key = "i_xt" if role == "x" else "i_ty"
        return {
            key: total.value,
            f"{key} error": total.error,
            f"{key} doubtful": training_doubtful or (bool(codes) and self._doubtful(total, hidden, codes)),
            "degenerate": constant,
            "kept": 0.0 if constant else float(side_t.kept[s]),
            "tied": max((code.tied for code in codes[:: len(sides)]), default=0.0),  # of the codes of T
            "few": self.few and any(side.wide[s] for side in sides),
        }

    def _half(self, side: LearnedSide, s: int, rows: Tensor, role: Role) -> Code | None:
        """Return the code of some rows of snapshot `s`, what it leaves as `dropped`; None where they are constant."""
        block, left = side.of_rows(s, rows)
        code = self._code(block, role)
        return code if code is None or left is None else dataclasses.replace(code, dropped=left[:, left.any(0)])


def _hidden(code: Code, linear: Tensor, products: Tensor) -> float:
    """Return the nats that the dropped coordinates of a code tell of another side, beyond those kept.

    What they tell linearly is taken of the columns `linear` (N, q), what products of two coordinates tell of `products`
    (N, q').
    """
    if code.dropped.shape[1] == 0:
        return 0.0
    nats = hidden_information(code.rows, code.dropped, linear)
    return max(nats, 0.0) + hidden_products(code.rows, code.dropped, products)


preset("compressed", "butakov-2024", dims=4, n_neighbors=5)
