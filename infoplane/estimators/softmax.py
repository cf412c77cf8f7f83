"""Information in the class that a softmax output draws: exact on the samples, nothing is estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._driver import Flags, Given, Method, Problem, report
from infoplane.estimators._protocol import Quantity
from infoplane.estimators._registry import register
from infoplane.estimators._scaling import is_constant, shannon_bits
from infoplane.estimators._settings import POSITIVE, setting

ESTIMAND = "softmax-output"


@register
@dataclass(frozen=True, kw_only=True)
class SoftmaxOutput(Method):
    """Exact information of the class C drawn from softmax(T), where T are the logits of the network.

    With X uniform on the samples, I(X;C) = H(mean p) - mean H(p), I(C;Y) and I(X;C|Y) follow from the same
    probabilities, I(X;C) = I(C;Y) + I(X;C|Y) where Y is a function of X, and none has estimation noise or a smoothing
    scale. They are one more point of the plane for the output, under the names of the others: T stands for C.

    It says nothing about the logits as a vector: softmax forgets a common shift and, once confident, everything but the
    largest logit; I(X;C) <= log2 units. Any other layer gives a number without meaning; the flag `out_of_domain` is
    raised where it shows: fewer units than classes, or rows that are probabilities already (they sum to 1).
    I(X;T|Y) is the within-class spread that knowledge distillation wants large (Ye et al.).

    :measures: the class drawn from the network's softmax
    :assumes: T are the logits
    :errs: exact for the probe
    :cost: N D
    :memory: N D
    :gives: I(X;T), I(T;Y), I(X;T|Y) of the drawn class
    :unit: bit
    :ceiling: log2 D
    :source: Ye et al. 2024

    Parameters
    ----------
    temperature : float
        Logits are divided by it; 1 is what the network was trained with.

    Notes
    -----
    Returns "I(X;T)", "I(T;Y)", "I(X;T|Y)" and "H(T)" in bits, estimand "softmax-output". Rows with equal `x_ids` are
    one input, with their mean probabilities.

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    References
    ----------
    Ye, Hamidi, Tan and Yang, "Bayes conditional distribution estimation for knowledge distillation based on
    conditional mutual information", 2024.

    Examples
    --------
    >>> y = torch.arange(4).repeat(25)
    >>> t = 1000.0 * torch.nn.functional.one_hot(y)[None].double()       # certain, and always right
    >>> found = SoftmaxOutput().estimate(t, y)
    >>> [float(found[name].value) for name in ("I(X;T)", "I(T;Y)", "I(X;T|Y)")]
    [2.0, 2.0, 0.0]
    """

    name: ClassVar[str] = "softmax"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order"})
    uses_repeats: ClassVar[bool] = True

    temperature: float = setting(1.0, POSITIVE)

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes one snapshot needs: probabilities, their logarithms and two copies, in float64."""
        return 40 * samples * units

    def start(self, given: Given) -> _Groups:
        """Return the problem of one call, with the samples grouped by input, by class, and by both."""
        return _Groups(self, given)


class _Groups(Problem):
    """Entropies of the mean probabilities of all samples, of each input, class, and pair of both."""

    config: SoftmaxOutput

    def __init__(self, config: SoftmaxOutput, given: Given) -> None:
        """Number the pairs of input and class: `pairs` (N,)."""
        super().__init__(config, given)
        self.bytes_each = config.bytes_per_snapshot(self.samples, self.units)
        self.x_ids = given.x_ids
        self.classes = int(given.y.max()) + 1
        self.pairs = torch.unique(given.x_ids * self.classes + given.y, return_inverse=True)[1]

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return entropies (S,) of the class drawn, alone and given X, Y and both, for some snapshots (S, N, U)."""
        rows = t.double()
        p = torch.softmax(rows / self.config.temperature, 2)
        # H(C), H(C|X), H(C|Y) and H(C|X,Y): groups of all rows, of each input, class, and pair of both.
        groups = {"h": torch.zeros_like(self.y), "h_x": self.x_ids, "h_y": self.y, "h_xy": self.pairs}
        out = {name: _mean_entropy(p, ids) for name, ids in groups.items()}
        # Rows that are probabilities already are no logits.
        probabilities = (rows >= 0).all(2).all(1) & ((rows.sum(2) - 1.0).abs() < 1e-3).all(1)
        return out | {"constant": is_constant(t), "probabilities": probabilities}

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the informations, differences of entropies, with ceilings and flags."""
        constant, most = found["constant"], math.log2(self.units)
        x_bits, y_bits, xy_bits = (
            float(shannon_bits(torch.bincount(ids).double() / self.samples)) for ids in (self.x_ids, self.y, self.pairs)
        )
        off = (found["probabilities"] & ~constant) | (self.units < self.classes)
        flags: Flags = {"degenerate": constant, "out_of_domain": off}
        of_labels = {**flags, "single_class": self.classes == 1}

        def between(whole: str, parts: str, name: str, ceiling: float, flags: Flags) -> dict[str, Quantity]:
            """Return the information `name`, the entropy `whole` less the conditional entropy `parts`."""
            value = torch.where(constant, 0.0, found[whole] - found[parts])
            return report(name, value, ceiling=min(ceiling, most), flags=flags, estimand=ESTIMAND)

        return {
            **between("h", "h_x", "I(X;T)", x_bits, flags),
            **between("h", "h_y", "I(T;Y)", y_bits, of_labels),
            **between("h_y", "h_xy", "I(X;T|Y)", xy_bits - y_bits, of_labels),
            **report("H(T)", found["h"], ceiling=most, flags=flags, estimand=ESTIMAND),
        }


def _mean_entropy(p: Tensor, ids: Tensor) -> Tensor:
    """Return the entropy (S,) in bits of the mean of `p` (S, N, K) over each group of rows, averaged over rows."""
    # `ids` (N,) is the group of each row, from 0 without gaps.
    counts = torch.bincount(ids)
    if len(counts) == p.shape[1]:  # groups of one row each: the mean over rows is the same in any order
        mean, weight = p, p.new_full((p.shape[1],), 1.0 / p.shape[1])
    else:
        sums = p.new_zeros(len(p), len(counts), p.shape[2]).index_add_(1, ids, p)
        mean = sums / counts[:, None]
        weight = counts.double() / p.shape[1]
    entropy: Tensor = -torch.special.xlogy(mean, mean).sum(2) @ weight
    return entropy * BITS_PER_NAT
