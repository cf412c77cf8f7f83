"""Intrinsic dimension of a layer from nearest neighbours, at several scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoplane.estimators._distances import TIE
from infoplane.estimators._driver import Flags, Given, Method, Problem, report
from infoplane.estimators._neighbors import Points, intrinsic_dimension
from infoplane.estimators._protocol import Quantity
from infoplane.estimators._registry import register
from infoplane.estimators._settings import at_least, setting

UNIT = "dimensions"
KEPT = 0.9
"""TwoNN leaves out the largest tenth of the ratios, which the boundary makes."""
TIED = 0.01
"""Ties are flagged where so large a share of rows has its two nearest at one distance; rounding makes fewer."""


@register
@dataclass(frozen=True, kw_only=True)
class Dimension(Method):
    """On how many coordinates the rows of a layer lie, near each row. No information about X or Y.

    - "TwoNN dimension": of the ratios mu of the distances to the second and to the nearest neighbour, the slope through
      0 of -log(1 - F) on log mu over the smallest 90 %.
    - "ML dimension": 1 / mean_i [1/(k-2) sum_{j<k} log(r_k / r_j)] with k = `n_neighbors` distances r of each row.
    - "TwoNN dimension at N/2", "... at N/4", ...: the scale curve, the mean over so many disjoint parts of the rows.
      Fewer rows look at a larger scale. A value that does not depend on it is a dimension; one that falls as rows are
      left out sees noise at the small scale, one that rises sees curvature at the large one.
    - "equal rows": how many rows have an equal one. Their nearest distance is 0; they are left out and raise `ties`.

    Both are low in many dimensions, where the boundary is near to every row: 2000 rows of a cube of 1, 2, 5, 10
    dimensions read .99, 2.05, 4.6, 8.5 (TwoNN) and .96, 1.9, 4.2, 7.6 (ML); a curved sheet reads high (a flat torus of
    10 in 20 units: 11.5, 11.9), and noise in all units reads as their number where rows are dense enough to see it. N
    rows cannot show more than 2 log10 N dimensions (Eckmann and Ruelle 1992): values above are flagged `few_samples`.

    :measures: intrinsic dimension and its dependence on the scale; no information
    :assumes: rows are dense enough that density is constant among neighbours
    :errs: down in many dimensions, up with curvature and noise
    :cost: N log N, or N² D
    :memory: N D
    :gives: TwoNN and ML dimension on N, N/2, ... rows
    :unit: dimensions
    :ceiling: none
    :source: Facco et al. 2017; Levina and Bickel 2004

    Parameters
    ----------
    n_neighbors : int
        k of the ML dimension, at least 3; N - 1 where there are fewer rows.
    halvings : int
        How often the rows are halved for the scale curve; parts of fewer than 2 k rows are left out.
    max_samples : int
        Where there are more samples, this many are drawn, with `seed`.
    seed : int
        Seeds the draw and the parts.

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    References
    ----------
    Facco, d'Errico, Rodriguez and Laio, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
    information", 2017.
    Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension", 2004; MacKay and Ghahramani, comments
    on it, 2005 (the mean of inverses).

    Examples
    --------
    >>> angle = torch.linspace(0, 6.28, 400, dtype=torch.float64) ** 1.1
    >>> t = torch.stack([angle.cos(), angle.sin(), angle], 1)[None]             # a helix in 3 units
    >>> round(float(Dimension().estimate(t, torch.arange(400) % 2)["ML dimension"].value), 1)
    1.1
    """

    name: ClassVar[str] = "dimension"
    shannon: ClassVar[bool] = False
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "unit_order"})

    min_samples = 4  # three neighbours for every row

    n_neighbors: int = setting(20, at_least(3))
    halvings: int = setting(3, at_least(0))
    max_samples: int = setting(10_000, at_least(4))
    seed: int = 0

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes of the snapshot in float64, padded factors, and the nearest of each row."""
        used = min(samples, self.max_samples)
        return 46 * used * units + 400 * used

    def start(self, given: Given) -> _Scales:
        """Return the problem of one call: the samples used, and the parts that they are cut into."""
        return _Scales(self, given._replace(x=None).drawn(self.max_samples, self.seed))


class _Scales(Problem):
    """Both dimensions of all rows, and the mean over halves, quarters, ..."""

    config: Dimension

    def __init__(self, config: Dimension, given: Given) -> None:
        """Cut a random order of the rows into parts: `parts` has row numbers (2^h, n) for each scale."""
        super().__init__(config, given)
        self.k = min(config.n_neighbors, self.samples - 1)
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(config.seed), device="cpu")
        # How many parts: 2, 4, ..., as long as each has at least 2 k rows.
        counts = [2**h for h in range(1, config.halvings + 1) if self.samples // 2**h >= 2 * config.n_neighbors]
        self.parts = {f" at N/{c}": order.to(given.t.device)[: self.samples // c * c].view(c, -1) for c in counts}

    def snapshot(self, layer: Tensor) -> dict[str, Tensor | float | bool]:
        """Return both dimensions of one layer (N, U) at every scale, how many rows are equal, and if there are ties."""
        # No square of a distance may leave the range.
        rows = layer.double()
        rows = rows / rows.abs().max().clamp(min=1e-300)  # zeros stay zeros
        distances = Points(rows).distances(self.k)
        found: dict[str, Tensor | float | bool] = dict(zip(NAMES, _both(distances), strict=True))
        for scale, parts in self.parts.items():
            each = [_both(Points(rows[part]).distances(self.k)) for part in parts]
            for name, d in zip(NAMES, zip(*each, strict=True), strict=True):
                found[f"{name}{scale}"] = math.fsum(d) / len(d)
        equal = distances[:, 0] <= 0
        tied = (distances[:, 1] <= distances[:, 0] * (1.0 + TIE)).double().mean() > TIED
        return found | {"equal rows": float(equal.sum()), "ties": bool(equal.any() | tied)}

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the dimensions at every scale with their flags, and the number of equal rows."""
        out: dict[str, Quantity] = {}
        for scale in ("", *self.parts):
            rows = self.parts[scale].shape[1] if scale else self.samples
            for name in NAMES:
                value = found[f"{name}{scale}"]
                few = value > 2.0 * math.log10(rows)
                flags: Flags = {"ties": found["ties"], "degenerate": value == 0, "few_samples": few}
                out |= report(f"{name}{scale}", value, unit=UNIT, flags=flags)
        return out | report("equal rows", found["equal rows"], unit="rows", flags={"ties": found["ties"]})


NAMES = ("TwoNN dimension", "ML dimension")


def _both(distances: Tensor) -> tuple[float, float]:
    """Return the TwoNN and the ML dimension from distances (N, k), ascending, to the k nearest."""
    k = distances.shape[1]
    # The mean over j < k of an inverse dimension has k - 1 terms; without bias it is divided by k - 2.
    return _two_nearest(distances[:, 0], distances[:, 1]), intrinsic_dimension(distances) * (k - 2) / (k - 1)


def _two_nearest(first: Tensor, second: Tensor) -> float:
    """Return the TwoNN dimension (Facco et al. 2017, eq. 5) from distances (N,) to both nearest rows.

    It is 0 where every row has an equal one, or both its nearest at one distance.
    """
    x = (second / first)[first > 0].log().sort().values  # log mu of the rows without an equal
    # F: the share of rows up to each of them.
    share = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device) / max(len(x), 1)
    kept = int(KEPT * len(x))
    x, y = x[:kept], -torch.log1p(-share[:kept])
    square = float(x.square().sum())
    return float((x * y).sum()) / square if square > 0 else 0.0
