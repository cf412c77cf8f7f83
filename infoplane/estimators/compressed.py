"""Lossy compression, then nearest-neighbour entropies: information of wide layers in a few coordinates."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._mixture import entropy_of_counts
from infoplane.estimators._neighbors import Points, intrinsic_dimension
from infoplane.estimators._protocol import Blocks, Quantity, check_inputs, input_features, prepared
from infoplane.estimators._registry import preset, register
from infoplane.estimators._ties import equal_rows
from infoplane.estimators.knn import TIED, local_entropies

FOLDED = 0.75
"""Intrinsic dimension of the code, as a share of its coordinates, below which it lies on lines or surfaces."""

_RANK = 1e-10
_JITTER = 1e-4
_DENSE = 2048
_Z95 = 1.959964


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

    **I(X;T) needs noise in the network.** In a deterministic layer it is infinite for continuous X, and the
    estimate would grow with N without end: it is absent there. Where the recorder saw a `NoiseInjection`, noise
    of that std and kind is drawn and added to the recorded clean value (`noise="network"`). A layer whose
    recorded values are random already (dropout left on) is declared by `noise="recorded"`; this is refused where
    rows of one input agree. The estimand is `noisy-population`: X from its law, so log2 N is no ceiling.

    How it misleads: projections can only lose information, so the truth in the compressed coordinates is below
    that of the layer, but *the estimate is no bound*: its own error has either sign. Principal components keep
    variance, not dependence: a signal of small variance is gone, and the quantity `variance kept` does not
    show it. Errors of the entropies do not cancel as in `knn`; more than about 4 dimensions on a side lose by
    nats. Classes that collapse to a point or a plane make h(T|y) fall without end, and I(T;Y) pass H(Y); codes that
    lie on lines or surfaces, as those of a few ReLU units do, have no density: flag `unreliable`, for these from
    the dimension that the distances show. Equal samples (`ties`) get a jitter of 1e-4 std, whose size cancels in
    I(T;Y) only.

    Parameters
    ----------
    dims : int
        Principal components kept of each of X, T and a vector target.
    n_neighbors : int
        k.
    noise : {"network", "recorded", "off"}
        Where the randomness of T is; "off" leaves I(X;T) out.
    seed : int
        Of added noise and jitter, the same in every snapshot.

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
        """The centred snapshot with its Gram matrix, and the codes."""
        return 24 * samples * units + 16 * min(samples, units, _DENSE) ** 2 + 400 * samples

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
        code_y = None
        if y.is_floating_point():
            code_y = self._code(y[:, None] if y.ndim == 1 else y)
        counts = None if y.is_floating_point() else torch.bincount(y)
        rows = [self._snapshot(layer, y, code_x, code_y) for layer in t]

        def stack(values: list[float] | list[bool], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=t.device)

        def quantity(parts: list[_Part], estimand: str = "") -> Quantity:
            value = stack([p.value for p in parts]) * BITS_PER_NAT
            half = stack([p.error for p in parts]) * BITS_PER_NAT * _Z95
            flags = {
                "degenerate": stack([r.degenerate for r in rows], torch.bool),
                "ties": stack([r.tied > TIED for r in rows], torch.bool),
                "unreliable": stack(
                    [r.folded or r.tied > TIED or p.collapsed for r, p in zip(rows, parts, strict=True)], torch.bool
                ),
            }
            return Quantity(value=value, low=value - half, high=value + half, estimand=estimand, flags=flags)

        out = {"I(T;Y)": quantity([r.i_ty for r in rows])}
        if counts is not None:
            out["I(T;Y)"] = self._with_classes(out["I(T;Y)"], counts)
        if random:
            out["I(X;T)"] = quantity([r.i_xt for r in rows], estimand="noisy-population")
        out["variance kept"] = Quantity(
            value=stack([r.kept for r in rows]), unit="share", flags={"degenerate": out["I(T;Y)"].flags["degenerate"]}
        )
        return out

    def _with_classes(self, q: Quantity, counts: Tensor) -> Quantity:
        ceiling = entropy_of_counts(counts)
        one = torch.full_like(q.flags["ties"], len(counts) == 1)
        few = torch.full_like(one, int(counts.min()) <= max(self.n_neighbors, self.dims + 1))
        above = q.flags["unreliable"] | (q.value > ceiling + 0.05)
        return dataclasses.replace(
            q, ceiling=ceiling, flags={**q.flags, "unreliable": above, "single_class": one, "few_samples": few}
        )

    def _code_of_inputs(self, x: Tensor | None, t: Tensor) -> Tensor | None:
        if x is None:
            raise ValueError(
                "compressed needs the inputs x for I(X;T) of a layer with noise; pass x=..., record a probe small "
                "enough for its inputs to be kept, or set noise='off'"
            )
        return self._code(input_features(x, t, keep=True))

    def _code(self, block: Tensor) -> Tensor | None:
        """(N, d) whitened principal components, None for a constant block."""
        code = principal_code(block, self.dims, self.seed)[0]
        return jittered(code, self.seed)[0] if code.shape[1] else None

    def _snapshot(self, layer: Tensor, y: Tensor, code_x: Tensor | None, code_y: Tensor | None) -> _Row:
        zero = _Part(0.0, 0.0)
        if bool((layer == layer[:1]).all()):
            return _Row(zero, zero, degenerate=True)
        code, kept = principal_code(self._with_noise(layer), self.dims, self.seed)
        if code.shape[1] == 0:
            return _Row(zero, zero, degenerate=True)
        code, tied = jittered(code, self.seed)
        if y.is_floating_point():
            i_ty = zero if code_y is None else self._pair(code, code_y)
        else:
            i_ty = self._classes(code, y)
        i_xt = zero if code_x is None else self._pair(code, code_x)
        seen = intrinsic_dimension(Points(code).nearest(max(self.n_neighbors, 2))[0])
        return _Row(i_ty, i_xt, kept=kept, tied=tied, folded=seen < FOLDED * code.shape[1])

    def _with_noise(self, layer: Tensor) -> Tensor:
        if self.noise != "network" or not self.network_clean or self.network_std is None:
            return layer
        generator = torch.Generator().manual_seed(self.seed)
        z = torch.randn(layer.shape, generator=generator, dtype=torch.float64).to(layer.device)
        clean = layer.double()
        return clean + self.network_std * (z * clean.abs() if self.network_kind == "multiplicative" else z)

    def _pair(self, a: Tensor, b: Tensor) -> _Part:
        joint = torch.cat([a, b], dim=1)
        both, log_volume, collapsed = whiten(joint)
        h_a, h_b, h_ab = (_entropy(rows, self.n_neighbors) for rows in (a, b, both))
        error = math.hypot(h_a.error, h_b.error, h_ab.error)
        return _Part(h_a.value + h_b.value - h_ab.value - log_volume, error, collapsed)

    def _classes(self, code: Tensor, y: Tensor) -> _Part:
        whole, collapsed = _entropy(code, self.n_neighbors), False
        labels = torch.unique(y)
        if len(labels) == 1:
            return _Part(0.0, 0.0)
        value, variance = whole.value, whole.error**2
        for label in labels:
            members = (y == label).nonzero()[:, 0]
            k, share = min(self.n_neighbors, len(members) - 1), len(members) / len(y)
            if k == 0:  # says nothing: counted as the whole
                value -= share * whole.value
                continue
            part, log_volume, flat = code[members], 0.0, False
            if len(members) > 2 * code.shape[1]:
                part, log_volume, flat = whiten(part)
            within = _entropy(part, k)
            value -= share * (within.value + log_volume)
            variance += (share * within.error) ** 2
            collapsed |= flat
        return _Part(value, math.sqrt(variance), collapsed)


class _Part(NamedTuple):
    """A value and its standard error in nats; whether a covariance had no volume."""

    value: float
    error: float
    collapsed: bool = False


class _Row(NamedTuple):
    i_ty: _Part
    i_xt: _Part
    kept: float = 0.0
    tied: float = 0.0
    folded: bool = False
    degenerate: bool = False


def _entropy(rows: Tensor, k: int) -> _Part:
    local = local_entropies(rows, k)
    error = float(local.std()) / math.sqrt(len(local)) if len(local) > 1 else 0.0
    return _Part(float(local.mean()), error)


def principal_code(block: Tensor, dims: int, seed: int = 0) -> tuple[Tensor, float]:
    """First principal components (N, d) of a block (N, D), each of variance 1, and the share of variance kept.

    d is at most `dims`, and less where the variance of a component is within 1e-10 of the first one's.
    """
    eps = torch.finfo(torch.float32 if block.dtype == torch.float32 else torch.float64).eps
    largest = block.double().abs().max()
    z = block.double() / (largest if largest > 0 else 1.0)
    z = z - z.mean(0)
    total = float(z.square().sum())
    if total <= z.numel() * (4 * eps) ** 2:  # no more than rounding of the type
        return z[:, :0], 0.0
    coordinates = _components(z, min(dims, *z.shape), seed)
    square = coordinates.square().sum(0)
    kept = square > _RANK * square.max()
    return coordinates[:, kept] * (len(z) / square[kept]).sqrt(), min(float(square.sum()) / total, 1.0)


def _components(z: Tensor, dims: int, seed: int) -> Tensor:
    """(N, dims) coordinates along the principal axes: dense, or by subspace iteration where that is too large."""
    samples, units = z.shape
    if units <= min(samples, _DENSE):
        axes: Tensor = torch.linalg.eigh(z.T @ z)[1][:, -dims:]
        return z @ axes.flip(1)
    values: Tensor
    vectors: Tensor
    if samples <= _DENSE:
        values, vectors = torch.linalg.eigh(z @ z.T)
        return (vectors[:, -dims:] * values[-dims:].clamp(min=0).sqrt()).flip(1)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(units, dims + 8, generator=generator, dtype=torch.float64).to(z.device)
    basis = torch.linalg.qr(z @ start)[0]
    for _ in range(12):
        basis = torch.linalg.qr(z @ torch.linalg.qr(z.T @ basis)[0])[0]
    values, vectors = torch.linalg.eigh(basis.T @ z @ (z.T @ basis))
    vectors = basis @ vectors
    return (vectors[:, -dims:] * values[-dims:].clamp(min=0).sqrt()).flip(1)


def whiten(rows: Tensor) -> tuple[Tensor, float, bool]:
    """Rows (N, D) times the inverse root of their covariance, log det of that root, and whether it was flat.

    Directions whose variance is below 1e-10 of the largest are stretched as if they had that much.
    """
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    floor = _RANK * float(values[-1].clamp(min=1e-300))
    std = values.clamp(min=floor).sqrt()
    return centred @ vectors / std, float(std.log().sum()), bool((values < floor).any())


def jittered(code: Tensor, seed: int) -> tuple[Tensor, float]:
    """The code with a jitter of 1e-4 where it has equal rows, and the share of these."""
    share = float((equal_rows(code) > 0).double().mean())
    if share == 0:
        return code, share
    generator = torch.Generator().manual_seed(seed)
    return code + _JITTER * torch.randn(code.shape, generator=generator, dtype=torch.float64).to(code.device), share


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
