"""Checks that several estimators share: whether a value, or what stands beside it, means what it seems to."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._counting.counts import sort_rows
from infoplane.estimators._neighbors import Points
from infoplane.estimators._protocol import Quantity, raised, widened
from infoplane.estimators._scaling import bits_of, equal_rows, first_rows, normal_numbers, numbered_rows, odd_numbers

VOIDING: tuple[str, ...] = ("saturated", "degenerate", "few_samples", "out_of_domain", "unreliable")
"""Flags under which the error of a value is not that of sampling: an interval beside it would promise too much."""

ABOVE = 0.05
"""Bits by which an unbiased estimate of full information may exceed its ceiling."""

_IN_CACHE = 1 << 16
"""Values whose keys stay in the cache of a CPU."""

_SAMPLES_A_DIMENSION = 40
"""Dimensions of a side that `hidden_information` looks at: no more than N over this, as its bias is of first order."""
_FAR = 2.5
"""Standard deviations at which `hidden_products` cuts coordinates off."""
_MIXTURES = 20
"""Columns of a side that `hidden_products` looks at; more are mixed to as many."""

Estimate = Callable[..., dict[str, Quantity]]
PairValue = Callable[[Tensor, Tensor], float]
"""An estimate in nats from two blocks of rows, (N, D) and (N, D')."""

_EXCESS_ROWS, _EXCESS_NEIGHBORS, _EXCESS_TWINS = 4096, 3, 2
"""Rows that `excess_over_gaussian` looks at, the neighbour it measures to, and Gaussian samples it compares with."""
_TWIN_NATS = 0.5
"""Least information of a Gaussian twin: with less, scatter would hide which share of it is lost."""
_LEAST_KEPT = 0.05
"""Least share of its information that is taken to be found in a Gaussian twin."""

_LEAST_INPUTS = 16
"""Inputs below which equal rows say nothing about inputs that were given several times."""
_NOTICING: ContextVar[bool] = ContextVar("rows_looked_at", default=False)
"""Whether an estimate around this one has looked for copied rows already."""


def blank_intervals(quantities: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """Return the quantities with `low` and `high` NaN wherever a flag of `VOIDING` is up.

    An interval shows sampling error. A value that is only `below_null`, `ties` or `out_of_range` keeps it, and so does
    every null ("... null"), whose points are what shuffled labels gave.
    """
    return {name: q if name.endswith(" null") else _blanked(q) for name, q in quantities.items()}


def _blanked(quantity: Quantity) -> Quantity:
    """Return the quantity with `low` and `high` NaN where one of `VOIDING` is up."""
    raised = [quantity.flags[flag].to(quantity.value.device) for flag in VOIDING if flag in quantity.flags]
    if not raised or (quantity.low is None and quantity.high is None):
        return quantity
    void = torch.stack([flag.expand(quantity.value.shape) for flag in raised]).any(0)

    def blanked(end: Tensor | None) -> Tensor | None:
        return None if end is None else torch.where(void, float("nan"), end)

    return dataclasses.replace(quantity, low=blanked(quantity.low), high=blanked(quantity.high))


def above_ceiling(value: Tensor, ceiling: Tensor) -> Tensor:
    """Return whether values (S,) exceed their ceiling by more than `ABOVE` bits: by more than chance explains."""
    return value > ceiling + ABOVE


def copied_inputs(rows: Tensor, y: Tensor) -> Tensor | None:
    """Return input ids (N,), the same for equal rows, if inputs of `rows` (N, U) look given several times; else None.

    Equal rows alone prove nothing: units may be dead, layers may have few values, and codes may coincide. But inputs
    that are given twice (or m times) have the same number of copies of nearly every row, where chance gives one, two or
    three, and each copy has the same label or target `y` (N, ...). So at least a third of the different rows must come
    more than once, four fifths of these equally often, and nine tenths of all rows must be labelled as the first of
    their copies.
    """
    number, counts = numbered_rows(rows)
    several = counts[counts > 1]
    if len(counts) < _LEAST_INPUTS or 3 * len(several) < len(counts):
        return None
    usual = int(torch.bincount(several).max())  # how many different rows come equally often, at most
    if 5 * usual < 4 * len(several):
        return None
    first = first_rows(number, len(counts))[number]
    alike = (y[first] == y).reshape(len(rows), -1).all(1).double().mean()
    # The id of an input: how many other inputs come before its first row.
    return torch.unique(first, return_inverse=True)[1] if float(alike) >= 0.9 else None


def _open_snapshots(found: Mapping[str, Quantity], t: Tensor) -> Tensor:
    """Return the indices of snapshots of `t` (S, N, U) whose rows may repeat, as far as H(T) in `found` says."""
    h_t = found.get("H(T)")
    if h_t is None or h_t.estimand != "binned":
        return torch.arange(len(t), device=t.device)
    # There are at least 2^H(T) codes, and as many different rows; copied inputs leave at most 3 N / 4 of them.
    # 1e-9 bit: H(T) is rounded.
    return (h_t.value <= math.log2(0.75 * t.shape[1]) + 1e-9).nonzero()[:, 0]


def _may_be_copied(t: Tensor, snapshots: Tensor) -> Tensor:
    """Return those of the `snapshots` (indices) of `t` (S, N, U) whose rows may repeat, judged by three units."""
    for unit in sorted({0, t.shape[2] // 2, t.shape[2] - 1}):
        values = t[:, :, unit].index_select(0, snapshots)
        values = widened(values) if t.is_floating_point() else values.to(torch.int64)
        # If a third of the D different rows come again, N - D is D / 3 or more, and so N / 4 or more. As many sorted
        # values, at least, equal the one before.
        snapshots = snapshots[4 * _equal_neighbours(sort_rows(values)) >= t.shape[1]]
        if not len(snapshots):
            break
    return snapshots


def _equal_neighbours(ordered: Tensor) -> Tensor:
    """Return how many values (S,) of the sorted rows of `ordered` (S, N) equal the value before them."""
    if on_accelerator(ordered.device):
        return (ordered[:, 1:] == ordered[:, :-1]).sum(1)
    values = ordered.numpy()
    # numpy compares eight times faster, and adds bytes twice as fast as truth values.
    return torch.from_numpy((values[:, 1:] == values[:, :-1]).view(np.uint8).sum(1, dtype=np.int32))


def _guessed_inputs(
    found: Mapping[str, Quantity], t: Tensor, y: Tensor, x: Tensor | None, x_ids: Tensor | None
) -> list[tuple[Tensor, list[int]]]:
    """Look for rows that are copies of one input, and return guesses: input ids (N,), and the snapshots they hold for.

    Equal rows have one id. The list is empty where nothing looks copied, or where `x_ids` repeat already.
    """
    # If x is given and its rows differ, the inputs differ, even where a layer maps them to equal rows of T.
    samples, t = t.shape[1], t.detach()
    if samples < 2 * _LEAST_INPUTS or (x_ids is not None and len(torch.unique(x_ids)) < samples):
        return []
    # (1, N, F), as one snapshot.
    features = None if x is None or len(x) != samples else (x.flatten(1) if x.ndim > 1 else x[:, None])[None]
    if features is not None and features.shape[2]:
        first = torch.zeros(1, dtype=torch.int64, device=features.device)
        ids = copied_inputs(features[0], y.to(features.device)) if len(_may_be_copied(features, first)) else None
        return [] if ids is None else [(ids.to(t.device), list(range(len(t))))]
    # Snapshots with the same ids stand together, so that one more estimate serves all of them.
    groups: dict[bytes, tuple[Tensor, list[int]]] = {}
    for i in _may_be_copied(t, _open_snapshots(found, t)).tolist():
        ids = copied_inputs(t[i], y.to(t.device))
        if ids is not None:
            groups.setdefault(ids.cpu().numpy().tobytes(), (ids, []))[1].append(i)
    return list(groups.values())


def _replaced(whole: Mapping[str, Quantity], other: Mapping[str, Quantity], at: list[int]) -> dict[str, Quantity]:
    """Return the quantities of `whole`; for the snapshots `at` (indices) those of `other`, with the flag `ties`."""
    # A flag that either raises stays; a quantity that `other` does not give keeps its value.
    out = {}
    for name, quantity in whole.items():
        off = torch.zeros(len(quantity.value), dtype=torch.bool, device=quantity.value.device)
        here = off.index_fill(0, torch.tensor(at, device=off.device), True)
        flags = {"ties": off, **quantity.flags}
        numbers = {part: getattr(quantity, part) for part in ("value", "low", "high", "ceiling")}
        if name in other:
            for part, now in numbers.items():
                new = getattr(other[name], part)
                if now is not None and new is not None:
                    numbers[part] = torch.where(here, new, now)
            flags |= {flag: flags.get(flag, off) | (on & here) for flag, on in other[name].flags.items()}
        flags["ties"] = flags["ties"] | here
        out[name] = dataclasses.replace(quantity, flags=flags, **numbers)
    return out


def checked(estimate: Estimate) -> Estimate:
    """Return the method `estimate` with the checks that hold for every estimator; as it is if it has them already.

    Rows that look given several times without `x_ids` are taken as the rows of one input, so that ceilings, nulls and
    their flags are those of the inputs, and flagged `ties`. Intervals go through `blank_intervals`.
    """
    if getattr(estimate, "checked", False):
        return estimate

    @functools.wraps(estimate)
    def within_checks(self: object, t: Tensor, y: Tensor, **more: Tensor | None) -> dict[str, Quantity]:
        """Call `estimate`, again with guessed `x_ids` for snapshots whose rows look copied, and blank intervals."""
        if _NOTICING.get():  # a wrapper has looked already, and hands on the ids that it found
            return blank_intervals(estimate(self, t, y, **more))
        with raised(_NOTICING):
            found = estimate(self, t, y, **more)
            for ids, snapshots in _guessed_inputs(found, t, y, more.get("x"), more.get("x_ids")):
                # All snapshots again, since a range or width that was not prepared is that of the whole block.
                found = _replaced(found, estimate(self, t, y, **{**more, "x_ids": ids}), snapshots)
        return blank_intervals(found)

    within_checks.checked = True  # type: ignore[attr-defined]
    return within_checks


def content_halves(layer: Tensor, y: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return indices of two parts of the rows of `layer` (N, U), `y`: to fit on, and to test on (half, at most `most`).

    A row's part follows from what it holds, not from its place: permuted samples or units give the same two parts.
    """
    order = content_keys(layer, y).argsort(stable=True)
    n = len(order)
    size = min(n // 2, most)
    # Evenly spaced in the order, so that equal rows, which stand together, fall into both parts.
    place = torch.arange(size, device=order.device) * n // size
    chosen = torch.zeros(n, dtype=torch.bool, device=order.device)
    chosen[place] = True
    return order[~chosen], order[place]


def content_keys(layer: Tensor, y: Tensor) -> Tensor:
    """Return keys (N,) int64 from the values and the label of each row, the same for units in any order."""
    # Sums over labels, rows and units wrap in int64, which does not depend on their order either.
    own = _scrambled(bits_of(y[:, None] if y.ndim == 1 else y))
    own = _scrambled((own * odd_numbers(own.shape[1]).to(own.device)).sum(1))  # (N,) of the label or target alone
    step = max(1, _IN_CACHE // layer.shape[1])
    parts = [slice(start, start + step) for start in range(0, len(layer), step)]
    # Each unit has a signature made of its values and their labels, so that rows (0, 1) and (1, 0) differ.
    signature = torch.zeros(layer.shape[1], dtype=torch.int64, device=layer.device)
    for rows in parts:
        signature += _scrambled(_scrambled(bits_of(layer[rows])) ^ own[rows, None]).sum(0)
    signature = _scrambled(signature)
    keys = [_scrambled(_scrambled(bits_of(layer[rows])) ^ signature).sum(1) for rows in parts]
    return _scrambled(torch.cat(keys) ^ own)


def _scrambled(key: Tensor) -> Tensor:
    """Return the keys (int64) scrambled, so that every bit of a result depends on every bit of its key."""
    # As in the hash function splitmix64: shifts bring high bits down, products with odd factors carry low bits up.
    key = (key ^ (key >> 32)) * -7046029254386353131
    key = (key ^ (key >> 29)) * -4658895280553007687
    return key ^ (key >> 32)


def repeated_entropy_nats(rows: Tensor) -> float:
    """Return the plug-in entropy in nats of rows (N, D), a bound on any information; infinite unless half repeat."""
    if len(torch.unique(rows[:, 0])) > len(rows) / 2:  # one column may be enough to see that they do not
        return math.inf
    others = equal_rows(rows.double())  # (N,) how many other rows equal each
    if float((others > 0).double().mean()) < 0.5:
        return math.inf
    return float((len(rows) / (others + 1).double()).log().mean())


def hidden_information(kept: Tensor, dropped: Tensor, other: Tensor) -> float:
    """Return the Gaussian information in nats of `dropped` (N, r) about `other` (N, q), given `kept` (N, d).

    What polynomials of the kept coordinates (up to cubic, with enough samples) explain is first taken off both, so that
    curved functions of the kept coordinates do not count. The value is -1/2 log det(1 - R^2) with the canonical
    correlations R of what is left, less r q / 2N, which independent columns show.
    """
    known, most = _orthonormal(_polynomials(kept)), max(1, len(kept) // _SAMPLES_A_DIMENSION)
    # Of both sides only the first `most` columns: with more, correlations would be chance.
    a, b = (_orthonormal(rows[:, :most], known) for rows in (dropped, other))
    squares = torch.linalg.svdvals(a.T @ b).square().clamp(max=1 - 1e-12)
    free = max(len(kept) - known.shape[1], 1)  # samples, less the polynomials that were taken off
    return float(-0.5 * torch.log1p(-squares).sum()) - a.shape[1] * b.shape[1] / (2.0 * free)


def hidden_products(kept: Tensor, dropped: Tensor, other: Tensor) -> float:
    """Return the nats that products of two coordinates, kept or dropped, tell of `other`: parities, unequal spreads.

    In white coordinates z, products are uncorrelated, and sum_ij <y z_i z_j>^2 / 2 is the share of y that they explain.
    Terms of one sample with itself are left out, so that the value is 0 on average where there is nothing.
    """
    n = len(kept)
    y = _orthonormal(other, _orthonormal(_polynomials(kept))) * math.sqrt(n)
    z = torch.cat([_orthonormal(rows - rows.mean(0)) for rows in (kept, dropped)], 1) * math.sqrt(n)
    z = z.clamp(-_FAR, _FAR)  # else a few values in heavy tails would decide
    z = z - z.mean(0)
    z = z / z.square().mean(0).sqrt()
    own, total = z.square().sum(1).square(), 0.0  # (N,) sum_ij (z_i z_j)^2 of one sample: |z|^4
    mixed = _mixtures(y, _MIXTURES)
    for column in mixed.T:
        moments = z.T @ (column[:, None] * z)
        share = 0.5 * float(moments.square().sum() - (own * column.square()).sum()) / n**2
        total -= 0.5 * math.log1p(-min(max(share, 0.0), 0.999))  # nats of a Gaussian with this R^2
    return total * y.shape[1] / max(mixed.shape[1], 1)  # from the mixtures looked at to all columns


def _mixtures(columns: Tensor, most: int) -> Tensor:
    """Return the columns (N, q), or `most` random orthonormal mixtures of them where there are more."""
    if columns.shape[1] <= most:
        return columns
    random = normal_numbers((columns.shape[1], most), 0)
    return torch.matmul(columns, torch.linalg.qr(random)[0].to(columns.device))


def _polynomials(rows: Tensor) -> Tensor:
    """Return products (N, features) of up to three columns of `rows` (N, d), fewer where there are many; 1 is first."""
    # `layer`: the products of one degree, each with the number of its last column. The next degree multiplies it by
    # this column and later ones only, so that each product is made once.
    layer = [(torch.ones_like(rows[:, 0]), 0)]
    columns, (n, d) = [layer[0][0]], rows.shape
    for degree in range(1, 4):
        if degree > 1 and math.comb(d + degree, degree) > n // 10:  # fewer than ten samples for each product
            break
        layer = [(column * rows[:, j], j) for column, first in layer for j in range(first, d)]
        columns += [column for column, _ in layer]
    return torch.stack(columns, 1)


def _orthonormal(rows: Tensor, known: Tensor | None = None) -> Tensor:
    """Return orthonormal columns that span what is left of `rows` (N, r) without their parts along `known` (N, f)."""
    # `known` is orthonormal. Columns that it explains, but for rounding, are dropped; so are directions that other
    # columns span already.
    left = rows if known is None else rows - known @ (known.T @ rows)
    length = left.square().sum(0).sqrt()
    left = (left / length)[:, length > 1e-6 * rows.square().sum(0).sqrt()]
    if left.shape[1] == 0:
        return left
    values, vectors = torch.linalg.eigh(left.T @ left)
    whole = values > 1e-9 * values[-1]
    columns: Tensor = left @ vectors[:, whole] / values[whole].sqrt()
    return columns


def normal_scores(columns: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return normal scores (N, D) of columns (N, D), and which values are repeated in their column (N, D) bool.

    A repeated value has an interval of ranks. Without `generator` its rows share the middle of it. With a generator
    each row gets a uniform place in it: the scores are then Gaussian in each column and carry the same information,
    since the place is independent of all else and the value can be read off the score. A constant column stays 0.
    """
    values = columns.T.contiguous()
    ordered = values.sort(1).values
    below, upto = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    width = upto - below
    rank = below + 0.5 * width.double()
    if generator is not None:
        place = torch.rand(values.shape, generator=generator, device="cpu", dtype=torch.float64).to(values.device)
        rank = below + width * torch.where(width > 1, place, 0.5)
    scores = torch.special.ndtri(rank / values.shape[1])
    scores = torch.where(width == values.shape[1], 0.0, scores)
    return scores.T, (width > 1).T


def whitened(rows: Tensor, least: float = 1e-9) -> Tensor:
    """Return principal coordinates (N, r) of rows (N, D), of variance 1, without those below `least` of the largest."""
    rows = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    kept = values > least * float(values.max().clamp(min=1e-9))
    white: Tensor = rows @ vectors[:, kept] / values[kept].sqrt()
    return white


def excess_over_gaussian(white: Tensor) -> float:
    """Return how much less entropy white rows (N, D) have than Gaussian ones, in nats: the difference of D <log r>.

    r is the distance to a near neighbour; what does not depend on the law cancels in the difference (Kozachenko and
    Leonenko). Of dependence between a few of many columns only a part is seen: about all of it for up to 4 columns, a
    third for 8, a fifth for 16.
    """
    rows = white[:: -(-len(white) // _EXCESS_ROWS)]  # every so many-th row
    generator = torch.Generator().manual_seed(0)
    twins = (normal_numbers(rows.shape, generator) for _ in range(_EXCESS_TWINS))
    gaussian = sum(_mean_log_distance(whitened(twin).to(rows.device)) for twin in twins) / _EXCESS_TWINS
    return rows.shape[1] * (gaussian - _mean_log_distance(rows))


def _mean_log_distance(rows: Tensor) -> float:
    """Return the mean over `rows` (N, D) of log r, r the distance to the third neighbour, or the last of fewer."""
    return float(Points(rows).nearest(min(_EXCESS_NEIGHBORS, len(rows) - 1))[0][:, -1].log().mean())


def kept_of_gaussian(value: PairValue, rows: int, units: tuple[int, int], nats: float, *, like: Tensor) -> float:
    """Return the share of the information in a Gaussian pair of this size and strength that the estimate `value` finds.

    The pair has `rows` rows, `units` on each side and about `nats` of information, at least half a nat, spread evenly
    over all directions of the narrower side. Its information is taken to be that of the sample, the mean of
    log p(a, b) / p(a) p(b), so that scatter moves both alike. Rows lie on the device of `like`.
    """
    narrow = min(units)
    kept = math.exp(-2.0 * max(nats, _TWIN_NATS) / narrow)  # 1 - rho^2
    generator = torch.Generator().manual_seed(0)
    a, b = (normal_numbers((rows, u), generator, like.device) for u in units)
    x = a[:, :narrow]
    z = math.sqrt(1.0 - kept) * x + math.sqrt(kept) * b[:, :narrow]
    noise = b[:, :narrow].square()
    truth = 0.5 * float((z.square() - noise - math.log(kept)).sum(1).mean())
    return max(_LEAST_KEPT, value(a, torch.cat([z, b[:, narrow:]], dim=1)) / truth)
