"""Information from Kozachenko-Leonenko entropies, with repeated values split off as atoms.

Shapes: N rows, D coordinates. The `index` (N,) of a code says which atom a row is, 0 for none; k is the neighbour whose
distance gives an entropy. `crowded` rows (N,) bool are equal to so many others that they have none, and are no atom.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._codes import RANK, Code
from infoplane.estimators._neighbors import Points, intrinsic_dimension
from infoplane.estimators.knn import kozachenko_terms

_WIDER = 4
"""Neighbours of the second entropy, over those of the first; at most half of the rows."""
_ENOUGH = 30
"""Rows from which an intrinsic dimension is asked for."""


class Part(NamedTuple):
    """An entropy or information in nats, its standard error, and what there is to doubt.

    Attributes
    ----------
    value, error : float
    drift : float
        The same from four times as many neighbours, less the value: what smoothness at that scale is worth.
    missing : float
        Dimensions of the coordinates that the distances do not fill, the largest of the entropies.
    collapsed : bool
        Whether a covariance had no volume, or neighbours no distance.
    unused : float
        Share of rows, too few for an entropy, that were taken to say nothing.
    """

    value: float
    error: float
    drift: float = 0.0
    missing: float = 0.0
    collapsed: bool = False
    unused: float = 0.0

    def and_share(self, share: float, other: Part) -> Part:
        """Return this information plus that of `other`, times the `share` of rows it holds for.

        As in I(T;Y) = I(T;A) + P(none) I(T;Y|none), where A is the atom of a row, or none.
        """
        return Part(
            self.value + share * other.value,
            math.hypot(self.error, share * other.error),
            self.drift + share * other.drift,
            self.missing + share * other.missing,
            self.collapsed or other.collapsed,
            self.unused + share * other.unused,
        )


NOTHING = Part(0.0, 0.0)
_UNUSED = Part(0.0, 0.0, unused=1.0)


def pair_information(a: Code, b: Code, k: int) -> Part:
    """Return the information of two codes: of the atoms of either with the other, and of rows that are in no atom."""
    # Let A be the atom of b's row, or "none". It is a function of b, so I(a;b) = I(a;A) + P(none) I(a;b|none) exactly.
    # First the atoms of b are split off so, then in the rows that are left those of a, with both codes exchanged.
    # Crowded rows have no entropy: they are left out.
    crowded = a.crowded | b.crowded
    if bool(crowded.any()):
        return _without(crowded, pair_information(a.part(~crowded), b.part(~crowded), k))
    if not bool((b.index > 0).any()):
        return pair_information(b, a, k) if bool((a.index > 0).any()) else _continuous(a.rows, b.rows, k)
    found, rest = class_information(a, b.index, k), b.index == 0
    if not bool(rest.any()):
        return found
    return found.and_share(float(rest.double().mean()), pair_information(a.part(rest), b.part(rest), k))


def class_information(a: Code, y: Tensor, k: int) -> Part:
    """Return the information of a code and classes (N,): atoms are counted, of other rows h(a) - sum_y p(y) h(a|y)."""
    # Crowded rows equal too many others to have an entropy: they are left out and counted as unused.
    if bool(a.crowded.any()):
        return _without(a.crowded, class_information(a.part(~a.crowded), y[~a.crowded], k))
    rest = a.index == 0
    if bool(rest.all()):
        return _classes(a.rows, y, k)
    found = _counted(a.index, y)
    if not bool(rest.any()):
        return found
    return found.and_share(float(rest.double().mean()), _classes(a.rows[rest], y[rest], k))


def _without(left_out: Tensor, found: Part) -> Part:
    """Return `found`, of the other rows, with the share of the rows `left_out` (N,) bool added to `unused`."""
    return found._replace(unused=found.unused + float(left_out.double().mean()))


def _counted(a: Tensor, b: Tensor) -> Part:
    """Return the information of two codes (N,) from counts, less its bias for independent codes (Miller 1955)."""
    n = len(a)
    a, b = (torch.unique(v, return_inverse=True)[1] for v in (a, b))
    pair, both = torch.unique(a * (b.max() + 1) + b, return_inverse=True, return_counts=True)[1:]
    of_a, of_b = torch.bincount(a), torch.bincount(b)
    # log n n(a,b) / n(a) n(b) of each row; bias = (cells in use - values of a - values of b + 1) / 2n.
    local = (both[pair].double() * n / (of_a[a] * of_b[b]).double()).log()
    excess = (len(both) - len(of_a) - len(of_b) + 1) / (2.0 * n)
    return Part(float(local.mean()) - excess, float(local.std()) / math.sqrt(n))


def _continuous(a: Tensor, b: Tensor, k: int) -> Part:
    """Return the information h(a) + h(b) - h(a, b) of rows (N, D), (N, D'), each entropy in whitened coordinates."""
    if len(a) < k + 2:  # too few for the distance to the k-th neighbour
        return _UNUSED
    of_a, of_b, of_both = (_entropy(*whiten(rows), k) for rows in (a, b, torch.cat([a, b], dim=1)))
    return Part(
        of_a.value + of_b.value - of_both.value,
        math.hypot(of_a.error, of_b.error, of_both.error),
        of_a.drift + of_b.drift - of_both.drift,
        max(0.0, of_a.missing, of_b.missing, of_both.missing),
        of_a.collapsed or of_b.collapsed or of_both.collapsed,
    )


def _classes(code: Tensor, y: Tensor, k: int) -> Part:
    """Return the information h(code) - sum_y p(y) h(code|y) of continuous rows (N, D) and classes (N,)."""
    labels = torch.unique(y)
    if len(labels) == 1:
        return NOTHING
    if len(code) < k + 2:
        return _UNUSED
    whole = _entropy(*whiten(code), k)
    within = NOTHING
    for label in labels:
        members = code[y == label]
        share = len(members) / len(y)
        # One row has no entropy: that of the whole stands for it, so that the class adds no information.
        of_class = whole._replace(error=0.0) if len(members) == 1 else _entropy_of_class(members, k)
        within = within.and_share(share, of_class)
    return whole.and_share(-1.0, within)._replace(missing=max(0.0, whole.missing, within.missing))


def _entropy_of_class(members: Tensor, k: int) -> Part:
    """Return the entropy of the rows (n, D) of one class, whitened if they are more than twice as many as D."""
    k = min(k, len(members) - 1)
    # Of fewer rows the covariance would be chance.
    return _entropy(*(whiten(members) if len(members) > 2 * members.shape[1] else (members, 0.0, False)), k)


def _entropy(rows: Tensor, log_volume: float, flat: bool, k: int) -> Part:
    """Return the entropy of whitened rows (N, D), in the units that they had before.

    `log_volume` is the log of the volume that whitening took off; `flat` says whether it found a direction without
    variance, which makes the result `collapsed`.
    """
    n, units = rows.shape
    far = max(k, min(_WIDER * k, n // 2))
    distances = Points(rows).nearest(max(far, min(2, n - 1)))[0]
    # More than k equal rows have a distance of 0, whose log is infinite: the floor keeps it finite, `collapsed` tells.
    near = distances.clamp(min=torch.finfo(torch.float64).eps)
    local, wide = (kozachenko_terms(near[:, j - 1], j, units) for j in (k, far))
    full = n > _ENOUGH  # of fewer rows the dimension is too rough to find any missing
    missing = units - intrinsic_dimension(distances[:, : max(k, 2)]) if full else 0.0
    error = float(local.std()) / math.sqrt(n) if n > 1 else 0.0
    collapsed = flat or bool((distances[:, k - 1] < near[:, k - 1]).any())
    return Part(float(local.mean()) + log_volume, error, float((wide - local).mean()), missing, collapsed)


def whiten(rows: Tensor) -> tuple[Tensor, float, bool]:
    """Return whitened rows (N, D), the log of the volume that whitening took off, and whether the rows were flat.

    Rows are multiplied by an inverse root of their covariance, and the volume is the determinant of that root. Rows are
    flat if some direction has (nearly) no variance.

    Directions whose variance is below 1e-10 of the largest are stretched as if it were that much.
    """
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    floor = RANK * float(values[-1].clamp(min=1e-300))
    std = values.clamp(min=floor).sqrt()
    return centred @ vectors / std, float(std.log().sum()), bool((values < floor).any())
