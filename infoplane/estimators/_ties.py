"""Equal rows, and the rank of a neighbour among samples at one distance, averaged over the orders they could take."""

from __future__ import annotations

import torch
from torch import Tensor

_TERMS = 1 << 20


def mean_digamma_of_rank(inside: Tensor, shell: Tensor, own: Tensor, place: Tensor) -> Tensor:
    """E psi(m) for the rank m of a neighbour of the own class in a shell of samples at one distance.

    `inside` samples are closer. The shell has `shell` samples, `own` of them of the own class, in random
    order; the wanted one is the `place`-th of its class. So m = inside + M, with M negative
    hypergeometric:

        P(M = x) = C(x - 1, place - 1) C(shell - x, own - place) / C(shell, own).

    With nothing inside the mean is psi(place) + psi(shell + 1) - psi(own + 1): for M-th of n uniform order
    statistics u, E[log u | M] = psi(M) - psi(n + 1), and E[log u] = psi(place) - psi(own + 1).

    All arguments (N,) int64; returns (N,) float64. Rows with an empty shell (no neighbour) give 0.
    """
    out = torch.zeros(len(shell), dtype=torch.float64, device=shell.device)
    # A place outside of the own part of the shell (rounding of a distance) counts as its nearest end.
    place = torch.minimum(place, own).clamp(min=1)
    some = (shell > 0) & (own > 0)
    single = some & (shell == own)  # the places are the ranks
    out[single] = (inside + place)[single].double().digamma()
    first = some & ~single & (inside == 0)
    if bool(first.any()):
        s, o, p = (v[first].double() for v in (shell, own, place))
        out[first] = p.digamma() + (s + 1).digamma() - (o + 1).digamma()
    rest = (some & ~single & (inside > 0)).nonzero()[:, 0]
    if len(rest) == 0:
        return out
    cases = torch.stack([v[rest] for v in (inside, shell, own, place)], dim=1)
    cases, number = torch.unique(cases, dim=0, return_inverse=True)
    values = torch.empty(len(cases), dtype=torch.float64, device=out.device)
    widest = int((cases[:, 1] - cases[:, 2]).max()) + 1
    step = max(1, _TERMS // widest)
    for start in range(0, len(cases), step):
        values[start : start + step] = _by_terms(cases[start : start + step])
    out[rest] = values[number]
    return out


def _by_terms(cases: Tensor) -> Tensor:
    """E psi(inside + M) of cases (n, 4) = (inside, shell, own, place), term by term."""
    inside, shell, own, place = (c[:, None].double() for c in cases.T)
    others = shell - own
    before = torch.arange(int(others.max()) + 1, device=cases.device).double()  # of the other classes
    valid = before <= others
    x = place + torch.minimum(before, others)
    log_p = _log_choose(x - 1, place - 1) + _log_choose(shell - x, own - place) - _log_choose(shell, own)
    p = torch.where(valid, log_p.exp(), 0.0)
    mean: Tensor = (p * (inside + x).digamma()).sum(1)
    return mean


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def equal_rows(rows: Tensor) -> Tensor:
    """How many other rows equal each row of `rows` (N, D) float64, (N,) int64."""
    number, counts = numbered_rows(rows)
    others: Tensor = counts[number] - 1
    return others


def numbered_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """A number (N,) int64 for each row of `rows` (N, D), the same for equal rows, and how often each comes."""
    if rows.is_floating_point():
        bits = (rows.double() + 0.0).contiguous().view(torch.int64)  # one zero
    else:
        bits = rows.to(torch.int64)  # exact beyond 2**53, too
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator, device="cpu").to(rows.device) * 2 + 1
    # Round numbers differ in their high bits only: brought down before they are multiplied.
    key = (bits ^ (bits >> 32)) * -7046029254386353131
    key = ((key ^ (key >> 29)) * odd).sum(1)
    number, counts = torch.unique(key, return_inverse=True, return_counts=True)[1:]
    return number, counts
