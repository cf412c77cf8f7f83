"""Lossy compression, then nearest-neighbour entropies: information of wide layers in a few coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT, Z_95
from infoplane.estimators._checks import above_ceiling, hidden_information, hidden_products
from infoplane.estimators._codes import DENSE, Code, coded
from infoplane.estimators._driver import Given, Number, Problem, report
from infoplane.estimators._entropies import NOTHING, Part, class_information, pair_information
from infoplane.estimators._labels import entropy_of_counts
from infoplane.estimators._network_noise import NoisyMethod, random_inputs, with_noise
from infoplane.estimators._protocol import Quantity
from infoplane.estimators._registry import preset, register
from infoplane.estimators._settings import at_least, setting
from infoplane.estimators.knn import TIED

MISSING = 0.3
"""Dimensions that a code, or two together, may leave unfilled: the value is off by about as many nats."""
DRIFT = 0.2
"""Nats that four times as many neighbours may change."""
HIDDEN = 0.08
"""Nats that dropped components may tell beyond the kept ones."""
UNSURE, TAILED = 0.15, 4.0
"""Standard error in nats, and the same times sqrt(N): Gaussians of up to 4 and 4 dimensions have about 2.5."""

_STREAM = 1_000_003  # between the seeds of generators, so that no two draw the same numbers


@register
@dataclass(frozen=True, kw_only=True)
class Compressed(NoisyMethod):
    """Principal components, whitening, then Kozachenko-Leonenko entropies, per snapshot.

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

    Its ground: X, T and targets that a few smooth coordinates describe, up to 4 of both sides together, and up to
    2 nats.

    How it misleads: projections can only lose information, so the truth in the compressed coordinates is below
    that of the layer, but *the estimate is no bound*: its own error has either sign. Principal components keep
    variance, not dependence: a signal of small variance is gone, and the quantity `variance kept` does not
    show it. Errors of the entropies do not cancel as in `knn`. The flag `unreliable` says that one of these was seen:

    - the next 60 components tell of the other side what the kept ones do not: linearly, or by products of two;
    - the codes, or both together, have fewer dimensions than coordinates: curves, surfaces, ReLU units, edges;
    - four times as many neighbours give another value;
    - the value is below 0 by more than its interval, or above H(Y), or of tails so heavy that its interval is wide;
    - a class has collapsed, values repeat too rarely for atoms and lie on no grid, or the cells of a grid are wider
      than what the other side knows of them (more than half of psi(N) - psi(k)).

    No flag sees dependence on dropped components through products of three or more, or with about as many units
    as samples. `ties` says that more than 5 % of the rows of T repeat.

    :measures: principal components, then nearest-neighbour entropies
    :assumes: few components carry T; I(X;T) needs noise in the network
    :errs: either side; loses what the components lose
    :cost: N D² + N log N
    :memory: N D
    :gives: I(T;Y), I(X;T) of noisy networks
    :unit: bit
    :ceiling: H(Y)
    :source: Butakov et al. 2024

    Parameters
    ----------
    dims : int
        Principal components kept of each of X, T and a vector target.
    n_neighbors : int
        k.
    noise : {"network", "recorded", "off"}
        Where the randomness of T is; "off" leaves I(X;T) out.
    seed : int
        Of added noise, and, each with a generator of its own, of T, X and Y spread over the cells of a grid; the
        same in every snapshot.

    Raises
    ------
    ValueError
        If a parameter is out of its domain, the inputs do not fit, noise is there and `x` is missing, or a
        layer declared random is not.

    References
    ----------
    Butakov, Tolmachev, Malanchuk, Neopryatnaya, Frolov and Andreev, "Information bottleneck analysis of deep
    neural networks via lossy compression", 2024. There the standard errors are added linearly.
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

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """The centred snapshot with its Gram matrix, the codes, and what the checks make of them."""
        return 24 * samples * units + 16 * min(samples, units, DENSE) ** 2 + 4000 * samples

    @property
    def min_samples(self) -> int:
        """Neighbours for every sample, and some more."""
        return max(self.n_neighbors + 2, 10)

    def start(self, given: Given) -> _Codes:
        """The codes of X and of real targets."""
        return _Codes(self, given)


class _Codes(Problem):
    """The codes of X and of real targets, which the code of every snapshot is compared with."""

    config: Compressed

    def __init__(self, config: Compressed, given: Given) -> None:
        super().__init__(config, given)
        x = random_inputs(config, given)
        self.random, self.code_x = x is not None, None if x is None else self._code(x, "x")
        self.continuous = given.y.is_floating_point()
        self.code_y = self._code(given.y.reshape(len(given.y), -1), "y") if self.continuous else None

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        shared: dict[str, Tensor | bool] = {"degenerate": found["degenerate"], "ties": found["tied"] > TIED}

        def information(name: str, key: str, **more: Any) -> dict[str, Quantity]:
            """The quantity `name` in bits from the numbers `key` in nats, flagged where a check doubts it."""
            value, half = found[key] * BITS_PER_NAT, found[f"{key} error"] * BITS_PER_NAT * Z_95
            doubtful = found[f"{key} doubtful"]
            flags = {**shared, "unreliable": doubtful, **more.pop("flags", {})}
            if more.get("ceiling") is not None:
                flags["unreliable"] = doubtful | above_ceiling(value, more["ceiling"])
            return report(name, value, half=half, flags=flags, **more)

        if self.continuous:
            constant = found["degenerate"] | (self.code_y is None)
            out = information("I(T;Y)", "i_ty", flags={"degenerate": constant})
        else:
            counts = torch.bincount(self.y)
            few = int(counts.min()) <= max(self.config.n_neighbors, self.config.dims + 1)
            flags = {"single_class": len(counts) == 1, "few_samples": few}
            out = information("I(T;Y)", "i_ty", flags=flags, ceiling=entropy_of_counts(counts))
        if self.random:
            out |= information("I(X;T)", "i_xt", estimand="noisy-population")
        return out | report("variance kept", found["kept"], unit="share", flags={"degenerate": found["degenerate"]})

    def _code(self, block: Tensor, role: Literal["t", "x", "y"]) -> Code | None:
        """The code of a block (N, D), None for a constant one. What is drawn for one role is independent of others."""
        config = self.config
        code = coded(block, config.dims, config.n_neighbors, config.seed + _STREAM * (1 + "txy".index(role)))
        return code if code.rows.shape[1] else None

    def snapshot(self, layer: Tensor) -> dict[str, Number]:
        constant = bool((layer == layer[:1]).all())
        code = None if constant else self._code(with_noise(layer, self.config), "t")
        i_ty = i_xt = _ZERO
        if code is not None:
            i_ty = self._pair(code, self.code_y) if self.continuous else self._classes(code)
            i_xt = self._pair(code, self.code_x)
        out: dict[str, Number] = {
            "degenerate": code is None,
            "kept": 0.0 if code is None else code.kept,
            "tied": 0.0 if code is None else code.tied,
        }
        for key, found in (("i_ty", i_ty), ("i_xt", i_xt)):
            out |= {key: found.part.value, f"{key} error": found.part.error, f"{key} doubtful": found.doubtful}
        return out

    def _pair(self, a: Code, b: Code | None) -> _Found:
        if b is None:
            return _ZERO
        whole = torch.cat([b.rows, b.dropped], 1)
        hidden = _hidden(a, whole, b.rows) + _hidden(b, a.rows, a.rows)
        return self._found(pair_information(a, b, self.config.n_neighbors), hidden, a, b)

    def _classes(self, code: Code) -> _Found:
        members = torch.nn.functional.one_hot(self.y).double()[:, 1:]
        hidden = _hidden(code, members, members) if members.shape[1] else 0.0
        return self._found(class_information(code, self.y, self.config.n_neighbors), hidden, code)

    def _found(self, part: Part, hidden: float, *codes: Code) -> _Found:
        n, k = torch.tensor([len(codes[0].rows), self.config.n_neighbors], device="cpu").double().digamma().tolist()
        doubtful = (
            part.collapsed
            or part.missing > MISSING
            or abs(part.drift) > DRIFT
            or hidden > HIDDEN
            or part.value + Z_95 * part.error < 0
            or part.error > max(UNSURE, TAILED / math.sqrt(len(codes[0].rows)))
            or max(part.unused, *(c.loose for c in codes)) > TIED
            or (max(c.spread for c in codes) > TIED and part.value > 0.5 * (n - k))
        )
        return _Found(part, doubtful)


class _Found(NamedTuple):
    """An information, and whether a check doubts it."""

    part: Part
    doubtful: bool


_ZERO = _Found(NOTHING, False)


def _hidden(code: Code, other: Tensor, few: Tensor) -> float:
    """Nats that dropped components tell beyond the kept: of `other` (N, q), and by products of `few` (N, q')."""
    if code.dropped.shape[1] == 0:
        return 0.0
    linear = hidden_information(code.rows, code.dropped, other)
    return max(linear, 0.0) + hidden_products(code.rows, code.dropped, few)


preset("compressed", "butakov-2024", dims=4, n_neighbors=5)
