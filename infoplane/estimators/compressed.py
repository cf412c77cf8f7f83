"""Lossy compression, then nearest-neighbour entropies: information of wide layers in a few coordinates."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._checks import above_ceiling, hidden_information, hidden_products
from infoplane.estimators._codes import DENSE, Code, coded
from infoplane.estimators._entropies import NOTHING, Part, class_information, pair_information
from infoplane.estimators._labels import entropy_of_counts
from infoplane.estimators._protocol import Blocks, Quantity, check_inputs, input_features, prepared
from infoplane.estimators._registry import preset, register
from infoplane.estimators.knn import TIED

MISSING = 0.3
"""Dimensions that a code, or two together, may leave unfilled: the value is off by about as many nats."""
DRIFT = 0.2
"""Nats that four times as many neighbours may change."""
HIDDEN = 0.08
"""Nats that dropped components may tell beyond the kept ones."""
UNSURE, TAILED = 0.15, 4.0
"""Standard error in nats, and the same times sqrt(N): Gaussians of up to 4 and 4 dimensions have about 2.5."""

_Z95 = 1.959964
_STREAM = 1_000_003  # between the seeds of generators, so that no two draw the same numbers


@register
@dataclass(frozen=True, kw_only=True)
class Compressed:
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
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "constant_zero"})

    dims: int = 4
    n_neighbors: int = 5
    noise: Literal["network", "recorded", "off"] = "network"
    seed: int = 0
    network_std: float | None = prepared()
    network_kind: str | None = prepared()
    network_clean: bool | None = prepared()

    def __post_init__(self) -> None:
        for field in ("dims", "n_neighbors"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.noise not in ("network", "recorded", "off"):
            raise ValueError(f"noise must be 'network', 'recorded' or 'off', got {self.noise!r}")

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Take over the noise that the network adds to the layer; no value is read."""
        found = blocks.noise
        if found is None or found.std <= 0:
            return dataclasses.replace(self, network_std=None, network_kind=None, network_clean=None)
        return dataclasses.replace(self, network_std=found.std, network_kind=found.kind, network_clean=found.clean)

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """The centred snapshot with its Gram matrix, the codes, and what the checks make of them."""
        return 24 * samples * units + 16 * min(samples, units, DENSE) ** 2 + 4000 * samples

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """I(T;Y), and I(X;T) of a layer with noise, of every snapshot of `t` (S, N, U)."""
        least = max(self.n_neighbors + 2, 10)
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name, min_samples=least)
        random = self.noise == "recorded" or (self.noise == "network" and self.network_std is not None)
        code_x = self._code_of_inputs(x, t) if random else None
        if self.noise == "recorded":
            _refuse_deterministic(t, x_ids)
        code_y, counts = None, None
        if y.is_floating_point():
            code_y = self._code(y[:, None] if y.ndim == 1 else y, "y")
        else:
            counts = torch.bincount(y)
        rows = [self._snapshot(layer, y, code_x, code_y) for layer in t]

        def stack(values: list[float] | list[bool], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=t.device)

        def quantity(found: list[_Found], estimand: str = "") -> Quantity:
            value = stack([f.part.value for f in found]) * BITS_PER_NAT
            half = stack([f.part.error for f in found]) * BITS_PER_NAT * _Z95
            flags = {
                "degenerate": stack([r.degenerate for r in rows], torch.bool),
                "ties": stack([r.tied > TIED for r in rows], torch.bool),
                "unreliable": stack([f.doubtful for f in found], torch.bool),
            }
            return Quantity(value=value, low=value - half, high=value + half, estimand=estimand, flags=flags)

        out = {"I(T;Y)": quantity([r.i_ty for r in rows])}
        constant = out["I(T;Y)"].flags["degenerate"]
        if counts is not None:
            out["I(T;Y)"] = self._with_classes(out["I(T;Y)"], counts)
        elif code_y is None:
            flags = {**out["I(T;Y)"].flags, "degenerate": torch.ones_like(constant)}
            out["I(T;Y)"] = dataclasses.replace(out["I(T;Y)"], flags=flags)
        if random:
            out["I(X;T)"] = quantity([r.i_xt for r in rows], estimand="noisy-population")
        out["variance kept"] = Quantity(
            value=stack([r.kept for r in rows]), unit="share", flags={"degenerate": constant}
        )
        return out

    def _with_classes(self, q: Quantity, counts: Tensor) -> Quantity:
        ceiling = entropy_of_counts(counts)
        one = torch.full_like(q.flags["ties"], len(counts) == 1)
        few = torch.full_like(one, int(counts.min()) <= max(self.n_neighbors, self.dims + 1))
        above = q.flags["unreliable"] | above_ceiling(q.value, ceiling)
        return dataclasses.replace(
            q, ceiling=ceiling, flags={**q.flags, "unreliable": above, "single_class": one, "few_samples": few}
        )

    def _code_of_inputs(self, x: Tensor | None, t: Tensor) -> Code | None:
        if x is None:
            raise ValueError(
                "compressed needs the inputs x for I(X;T) of a layer with noise; pass x=..., record a probe small "
                "enough for its inputs to be kept, or set noise='off'"
            )
        return self._code(input_features(x, t, keep=True), "x")

    def _code(self, block: Tensor, role: Literal["t", "x", "y"]) -> Code | None:
        """The code of a block (N, D), None for a constant one. What is drawn for one role is independent of others."""
        code = coded(block, self.dims, self.n_neighbors, self.seed + _STREAM * (1 + "txy".index(role)))
        return code if code.rows.shape[1] else None

    def _snapshot(self, layer: Tensor, y: Tensor, code_x: Code | None, code_y: Code | None) -> _Row:
        constant = bool((layer == layer[:1]).all())
        code = None if constant else self._code(self._with_noise(layer), "t")
        if code is None:
            return _Row(degenerate=True)
        i_ty = self._pair(code, code_y) if y.is_floating_point() else self._classes(code, y)
        return _Row(i_ty, self._pair(code, code_x), code.kept, code.tied)

    def _with_noise(self, layer: Tensor) -> Tensor:
        if self.noise != "network" or not self.network_clean or self.network_std is None:
            return layer
        generator = torch.Generator().manual_seed(self.seed)
        z = torch.randn(layer.shape, generator=generator, device="cpu", dtype=torch.float64).to(layer.device)
        clean = layer.double()
        return clean + self.network_std * (z * clean.abs() if self.network_kind == "multiplicative" else z)

    def _pair(self, a: Code, b: Code | None) -> _Found:
        if b is None:
            return _ZERO
        whole = torch.cat([b.rows, b.dropped], 1)
        hidden = _hidden(a, whole, b.rows) + _hidden(b, a.rows, a.rows)
        return self._found(pair_information(a, b, self.n_neighbors), hidden, a, b)

    def _classes(self, code: Code, y: Tensor) -> _Found:
        members = torch.nn.functional.one_hot(y).double()[:, 1:]
        hidden = _hidden(code, members, members) if members.shape[1] else 0.0
        return self._found(class_information(code, y, self.n_neighbors), hidden, code)

    def _found(self, part: Part, hidden: float, *codes: Code) -> _Found:
        n, k = torch.tensor([len(codes[0].rows), self.n_neighbors], device="cpu").double().digamma().tolist()
        doubtful = (
            part.collapsed
            or part.missing > MISSING
            or abs(part.drift) > DRIFT
            or hidden > HIDDEN
            or part.value + _Z95 * part.error < 0
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


class _Row(NamedTuple):
    i_ty: _Found = _ZERO
    i_xt: _Found = _ZERO
    kept: float = 0.0
    tied: float = 0.0
    degenerate: bool = False


def _hidden(code: Code, other: Tensor, few: Tensor) -> float:
    """Nats that dropped components tell beyond the kept: of `other` (N, q), and by products of `few` (N, q')."""
    if code.dropped.shape[1] == 0:
        return 0.0
    linear = hidden_information(code.rows, code.dropped, other)
    return max(linear, 0.0) + hidden_products(code.rows, code.dropped, few)


def _refuse_deterministic(t: Tensor, x_ids: Tensor) -> None:
    """Raise ValueError where all rows of every repeated input agree."""
    order = torch.argsort(x_ids, stable=True)
    same_input = x_ids[order][1:] == x_ids[order][:-1]
    if not bool(same_input.any()):
        return
    ordered = t[:, order]
    if bool((ordered[:, 1:] == ordered[:, :-1]).all(2)[:, same_input].all()):
        raise ValueError(
            "rows of the same input are equal: the layer is deterministic, and its I(X;T) is infinite or log2 of the "
            "number of inputs whatever it has learned; use noise='off', or the estimator 'noise'"
        )


preset("compressed", "butakov-2024", dims=4, n_neighbors=5)
