"""I(T;Y), and I(X;T) of noisy networks, by the method whose assumptions the layer meets: a fixed tree of facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from infoplane.estimators._driver import Given, Problem
from infoplane.estimators._neighbor_formulas import scaled_block
from infoplane.estimators._neighbors import Points, intrinsic_dimension, pair_counts
from infoplane.estimators._network_noise import NoisyMethod, is_random, random_inputs, with_noise
from infoplane.estimators._protocol import Blocks, Quantity, finite_targets, values_only, widened
from infoplane.estimators._registry import parse, register
from infoplane.estimators._scaling import drawn_rows, is_constant
from infoplane.estimators._settings import one_of, prepared, setting

CHUNK = 4
BRANCHES = ("knn", "probe:family=mlp", "flow")
"""In the order of the tree: where snapshots of one run lead to several, the last of them is taken."""
# Settings of each branch with effort="low".
LOW: dict[str, dict[str, int]] = {"knn": {}, "probe:family=mlp": {"folds": 3}, "flow": {"steps": 300, "folds": 2}}
FEW_UNITS = 2
FEW_DIMENSIONS = 2.4
"""Dimension of a pair, T and the other side together, up to which neighbours are near.

Of generated pairs those of two dimensions showed 1.72 to 2.10, those of four 2.65 and more (0 to 8 nats, 500 to 8,000
samples, 149 pairs)."""
AVERAGED = (2, 3, 4, 5)
"""For classes the value is the mean of `knn` over these numbers of neighbours: its default alone scatters more."""
_ROWS, _NEIGHBORS = 2000, 3
"""Rows and neighbours that the dimension of a pair is found from."""


class Branch(NamedTuple):
    """The method that the tree leads to, and why."""

    method: str
    reason: str


@register
@dataclass(frozen=True, kw_only=True)
class Auto(NoisyMethod):
    """Information by the method that fits the layer: which one, is decided by facts and never by a value.

    - Classes: `knn` where at most two units vary, else `probe:family=mlp`. The value of `knn` is the mean over 2, 3, 4
      and 5 neighbours, which errs by 4 % less; its flags are those of 3.
    - Targets, the second layer of a pair, and inputs: `knn` where both sides together have about two dimensions
      (distances to neighbours, 2.4 at most), else `flow`. Where the Gaussian that `critic` starts from passes its
      checks, `critic` takes half of the time; but on such generated pairs `flow` erred by a fraction of what it did.

    What is returned is what the branch returns: "I(T;Y)" is a point ("lower" beside it is the bound of
    `probe:family=mlp`), with the branch's flags, interval and ceiling. *It misleads as its branch does*, and **values
    of two branches are not of one method**: a step between layers of different branches may be the methods', so
    figures mark such layers and no violation of data processing is counted between them.

    `prepare` decides once for a run, layer and subset, from its first, middle and last snapshot: where they disagree
    the later branch in the order `knn`, `probe:family=mlp`, `flow` is taken, which assumes less. So no curve
    changes its method between steps. `branch` and `reason` are recorded with every value (of I(X;T) `branch_xt` and
    `reason_xt`). A call of `estimate` without `prepare` decides on its own snapshots, once for all of them; `settled`
    is the estimator with that decision.

    **I(X;T) needs noise in the network**, as in `flow`; of a deterministic layer it is infinite, and
    absent or refused here. For the recorded inputs alone `noise` is exact, and the better choice.

    :measures: I(T;Y) by `knn`, `probe:family=mlp` or `flow`, as a fixed tree of facts says
    :assumes: what the branch assumes; I(X;T) needs noise in the network
    :errs: as the branch, which is recorded
    :cost: that of the branch
    :memory: that of the branch
    :gives: I(T;Y), I(X;T) of noisy networks
    :unit: bit
    :ceiling: H(Y)
    :source: of the branches; Levina and Bickel 2004

    Parameters
    ----------
    effort : {"full", "low"}
        "full": every branch with its own defaults. "low", for a first look, in a fifth to half of the time and less
        accurate: 3 folds of `probe:family=mlp`, 2 folds and 300 steps of `flow`, 3 neighbours of classes alone.
    noise : {"network", "recorded", "off"}
        Where the randomness of T is; "off" leaves I(X;T) out.
    seed : int
        Of the branch, of added noise, and of the rows that the facts are taken from.

    Raises
    ------
    ValueError
        If a parameter is out of its domain, the inputs do not fit, noise is there and `x` is missing, or a layer
        declared random is not.

    References
    ----------
    Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension", 2004.
    Facco, d'Errico, Rodriguez and Laio, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
    information", 2017.

    Examples
    --------
    >>> y = torch.arange(200) % 2
    >>> t = (y + 0.1 * torch.rand(200, generator=torch.Generator().manual_seed(0)))[None, :, None]
    >>> auto = Auto().settled(t, y)
    >>> auto.branch, auto.reason
    ('knn', 'at most 2 units vary')
    >>> round(float(auto.estimate(t, y)["I(T;Y)"].value), 2)
    1.0
    """

    name: ClassVar[str] = "auto"
    guarantees: ClassVar[frozenset[str]] = frozenset()
    chunk: ClassVar[int] = CHUNK
    not_extrapolated: ClassVar[str] = (
        "its branch may be `flow`, whose error does not fall as 1/N; extrapolate the branch, as in 'knn+extrapolate'"
    )
    min_samples = 20

    effort: Literal["full", "low"] = setting("full", one_of("full", "low"))
    branch: str | None = prepared()
    reason: str | None = prepared()
    branch_xt: str | None = prepared()
    reason_xt: str | None = prepared()

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes of the branch, or of the largest one before it is known, and of the layer in float64."""
        possible = (self.branch, self.branch_xt) if self.branch else BRANCHES
        each = (int(self.method(branch).bytes_per_snapshot(samples, units)) for branch in possible if branch)
        return 16 * samples * units + max(each)

    def method(self, branch: str) -> Any:
        """Return the estimator of a branch, with the settings that this effort gives it."""
        found = replace(parse(branch), seed=self.seed, **(LOW[branch] if self.effort == "low" else {}))
        # Noise is drawn in `_Branches`, and a branch takes the inputs of I(X;T) as its targets.
        return replace(found, noise="off") if isinstance(found, NoisyMethod) else found

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Return this estimator with the noise of the network, and branches decided by three snapshots of a run."""
        return super().prepare(blocks, y, x)._decided(_ends(blocks, y), x)

    def settled(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Self:
        """Return this estimator with the branch that `estimate` takes for these arguments; itself if that is decided.

        Raises
        ------
        ValueError, TypeError
            As `estimate`.
        """
        return self._settled(self._given(t, y, x, x_ids))

    def _settled(self, given: Given) -> Self:
        """Return this estimator with its branches: those known, else those that three snapshots of `given` lead to."""
        if self.branch is not None:
            return self
        places = sorted({0, len(given.t) // 2, len(given.t) - 1})
        return self._decided([(given.t[i], given.y) for i in places], given.x)

    def _decided(self, snapshots: list[tuple[Tensor, Tensor]], x: Tensor | None) -> Self:
        """Return this estimator with the branches that these snapshots (N, U), each with its targets, lead to."""
        noisy = [(with_noise(t, self), y) for t, y in snapshots]
        found = _last(self._choice(t, y) for t, y in noisy)
        # I(X;T) has a branch of its own, where the inputs are known and the layer has noise.
        inputs = None if x is None or not is_random(self) or not noisy else _inputs(noisy[0][0], x)
        of_x = None if inputs is None else _last(self._choice(t, inputs) for t, _ in noisy)
        branch_xt, reason_xt = (None, None) if of_x is None else of_x
        return replace(self, branch=found.method, reason=found.reason, branch_xt=branch_xt, reason_xt=reason_xt)

    def _choice(self, t: Tensor, other: Tensor) -> Branch:
        """Return the branch for one snapshot (N, U) with classes (N,), or with targets or inputs (N, k)."""
        if not other.is_floating_point():
            few = int((~is_constant(t.T[..., None])).sum()) <= FEW_UNITS
            return Branch(BRANCHES[not few], f"{'at most' if few else 'more than'} {FEW_UNITS} units vary")
        other = finite_targets(other).reshape(len(other), -1)
        rows = drawn_rows(len(t), _ROWS, self.seed)
        if rows is not None:  # else all are few enough
            t, other = t[rows.to(t.device)], other[rows.to(other.device)]
        return _of_pair(t, other)

    def start(self, given: Given) -> _Branches:
        """Return the problems of the branches, which are decided here unless `prepare` has."""
        return _Branches(self._settled(given), given)


class _Branches(Problem):
    """The problems of the branches, one for each pair, "(T;Y)" and "(X;T)"."""

    config: Auto

    def __init__(self, config: Auto, given: Given) -> None:
        """Draw the network's noise once for all branches, and start them."""
        super().__init__(config, given)
        x = random_inputs(config, given)
        given = given._replace(t=torch.stack([with_noise(layer, config) for layer in given.t]), x=None)
        self.parts: dict[str, Problem] = {}
        for pair, branch, other in (("(X;T)", config.branch_xt, x), ("(T;Y)", config.branch, given.y)):
            if other is not None:  # T is paired with it, so a branch was decided
                assert branch is not None
                # A branch takes the inputs as targets, and its I(T;Y) is the I(X;T) that is asked for.
                given_pair = given._replace(y=other.double() if pair == "(X;T)" else other)
                averaged = branch == "knn" and config.effort == "full" and not given_pair.y.is_floating_point()
                method = config.method(branch)
                self.parts[pair] = _MeanOfNeighbors(method, given_pair) if averaged else method.start(given_pair)

    def numbers(self) -> dict[str, Tensor]:
        """Return the numbers of all branches, the pair in front of each key."""
        return {f"{pair} {k}": value for pair, part in self.parts.items() for k, value in part.numbers().items()}

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities of all branches; those of the inputs, which a branch calls (T;Y), become (X;T)."""
        out: dict[str, Quantity] = {}
        for pair, part in self.parts.items():
            of_part = {k.removeprefix(f"{pair} "): value for k, value in found.items() if k.startswith(pair)}
            for name, q in part.finish(of_part).items():
                of_x = pair == "(X;T)" and "(T;Y)" in name
                out[name.replace("(T;Y)", pair)] = replace(q, estimand="noisy-population") if of_x else q
        return out


class _MeanOfNeighbors(Problem):
    """`knn` with the mean of its values over several numbers of neighbours; everything else is that of its default."""

    def __init__(self, config: Any, given: Given) -> None:
        """Start `knn` with its default and with each other number of neighbours."""
        super().__init__(config, given)
        self.default = config.start(given)
        numbers = (k for k in AVERAGED if k != config.n_neighbors)
        self.others = [replace(config, n_neighbors=k).start(given) for k in numbers]

    def numbers(self) -> dict[str, Tensor]:
        """Return the numbers of the default, with the mean of all values as "nats"."""
        found: dict[str, Tensor] = self.default.numbers()
        with values_only():
            nats = [found["nats"], *(other.numbers()["nats"] for other in self.others)]
        return found | {"nats": torch.stack(nats).mean(0)}

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities that the default makes of these numbers."""
        out: dict[str, Quantity] = self.default.finish(found)
        return out


def _last(choices: Iterable[Branch]) -> Branch:
    """Return the choice that comes last in `BRANCHES`; the first branch where no snapshot is finite to choose by."""
    of_none = Branch(BRANCHES[0], "no snapshot is finite")
    return max(choices, key=lambda choice: BRANCHES.index(choice.method), default=of_none)


def _of_pair(t: Tensor, other: Tensor) -> Branch:
    """Return the branch for a layer (N, U) and targets or inputs (N, k), by the dimension that both have together."""
    a, b = scaled_block(t, "unit"), scaled_block(other, "unit")
    if min(a.shape[1], b.shape[1]) == 0:
        return Branch("knn", "one side is constant")
    if pair_dimension(a, b) <= FEW_DIMENSIONS:
        return Branch("knn", "both sides together have about 2 dimensions")
    return Branch("flow", "both sides together have more than about 2 dimensions")


def pair_dimension(a: Tensor, b: Tensor) -> float:
    """Return the intrinsic dimension of the joint rows of `a` (N, D) and `b` (N, D').

    The distance of two joint rows is the larger one of their distances in `a` and in `b`.
    """
    k = min(_NEIGHBORS, len(a) - 1)
    return intrinsic_dimension(pair_counts(Points(a), Points(b), k, "open")[0])


def _inputs(t: Tensor, x: Tensor) -> Tensor | None:
    """Return the inputs `x` (N, ...) as (N, F) float64 on the device of a layer `t` (N, U)."""
    # Labels and ids are not read here: the layer stands in for them.
    return Given(t[None], t, x, t).features()


def _ends(blocks: Blocks, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the first, middle and last finite snapshot (N, U) of a run, each with its targets."""
    # The run is read twice: first to count its snapshots.
    count = sum(1 for _ in _finite(blocks, y))
    wanted = {0, count // 2, count - 1}
    return [(t.clone(), targets) for i, (t, targets) in enumerate(_finite(blocks, y)) if i in wanted]


def _finite(blocks: Blocks, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each snapshot (N, U) that is finite throughout, in float32 or float64, with its targets."""
    # Where the target is another layer, it changes from step to step: `with_targets` yields it beside T.
    with_targets = getattr(blocks, "with_targets", None)
    for block, targets in with_targets() if with_targets else ((t, y) for t in blocks):
        whole = widened(block)
        for layer in whole[torch.isfinite(whole).flatten(1).all(1)]:
            yield layer, targets
