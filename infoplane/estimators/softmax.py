"""Information in the class that a softmax output draws: exact on the samples, nothing is estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._protocol import Quantity, check_inputs
from infoplane.estimators._registry import register
from infoplane.estimators._scaling import is_constant

ESTIMAND = "softmax-output"


@register
@dataclass(frozen=True, kw_only=True)
class SoftmaxOutput:
    """Exact information of the class C drawn from softmax(T), where T are the logits of the network.

    With X uniform on the samples, I(X;C) = H(mean p) - mean H(p), I(C;Y) and I(X;C|Y) follow from the same
    probabilities, I(X;C) = I(C;Y) + I(X;C|Y) where Y is a function of X, and none has estimation noise or a smoothing
    scale. They are one more point of the plane for the output, under the names of the others: T stands for C.

    It says nothing about the logits as a vector: softmax forgets a common shift and, once confident, everything but the
    largest logit; I(X;C) <= log2 units. Any other layer gives a number without meaning; the flag `out_of_domain` is
    raised where it shows: fewer units than classes, or rows that are probabilities already (they sum to 1).
    I(X;T|Y) is the within-class spread that knowledge distillation wants large (Ye et al.).

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

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Bytes one snapshot needs: probabilities, their logarithms and two copies, in float64."""
        return 40 * samples * units

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """Information in the class drawn from softmax(`t`), `t` (S, N, U) logits, `y` (N,) integers."""
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name)
        logits = t.double() / self.temperature
        p = torch.softmax(logits, 2)
        constant = is_constant(t)
        classes = int(y.max()) + 1
        pairs = torch.unique(x_ids * classes + y, return_inverse=True)[1]
        h_t, h_x, h_y, h_xy = (_mean_entropy(p, ids) for ids in (torch.zeros_like(y), x_ids, y, pairs))
        units = math.log2(t.shape[2])
        entropy = {"x": _counts_entropy(x_ids), "y": _counts_entropy(y), "xy": _counts_entropy(pairs)}
        h_x_given_y = entropy["xy"] - entropy["y"]
        rows = t.double()
        proper = (rows >= 0).all(2).all(1) & ((rows.sum(2) - 1.0).abs() < 1e-3).all(1)
        flags = {"degenerate": constant, "out_of_domain": (proper & ~constant) | (t.shape[2] < classes)}
        of_labels = {**flags, "single_class": torch.full_like(constant, classes == 1)}

        def quantity(value: Tensor, ceiling: float, flags: dict[str, Tensor]) -> Quantity:
            value = torch.where(constant, torch.zeros_like(value), value)
            top = value.new_tensor(min(ceiling, units))
            return Quantity(value=value, ceiling=top, estimand=ESTIMAND, flags=flags)

        return {
            "I(X;T)": quantity(h_t - h_x, entropy["x"], flags),
            "I(T;Y)": quantity(h_t - h_y, entropy["y"], of_labels),
            "I(X;T|Y)": quantity(h_y - h_xy, h_x_given_y, of_labels),
            "H(T)": Quantity(value=h_t, ceiling=h_t.new_tensor(units), estimand=ESTIMAND, flags=flags),
        }


def _mean_entropy(p: Tensor, ids: Tensor) -> Tensor:
    """(S,) entropy in bits of the mean probabilities of each group of rows, averaged over rows; `p` is (S, N, K)."""
    counts = torch.bincount(ids)
    if len(counts) == p.shape[1]:
        mean, weight = p, p.new_full((p.shape[1],), 1.0 / p.shape[1])
    else:
        sums = p.new_zeros(len(p), len(counts), p.shape[2]).index_add_(1, ids, p)
        mean = sums / counts[:, None]
        weight = counts.double() / p.shape[1]
    entropy: Tensor = -torch.special.xlogy(mean, mean).sum(2) @ weight
    return entropy * BITS_PER_NAT


def _counts_entropy(ids: Tensor) -> float:
    q = torch.bincount(ids).double() / len(ids)
    return float(-torch.special.xlogy(q, q).sum() * BITS_PER_NAT)
