"""Every registered estimator keeps the contract, and estimators that break it are found out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from infoplane.estimators import ALL_GUARANTEES, Quantity, available, check_inputs
from infoplane.testing import check_estimator

# Settings that make a slow estimator fast on the suite's 64 samples; the rest run with their defaults.
SMALL: dict[str, dict[str, Any]] = {
    "auto": {"effort": "low"},
    "critic": {"steps": 25, "hidden": 8, "folds": 3},
    "flow": {"steps": 20, "folds": 2},
}


@pytest.mark.usefixtures("short_trainings")
@pytest.mark.parametrize("name", sorted(available()))
def test_estimator_keeps_the_contract(name):
    outcome = check_estimator(available()[name], **SMALL.get(name, {}))
    assert set(outcome.values()) <= {"passed", "not promised", "needs a GPU"}
    assert outcome["quantities"] == "passed"


@pytest.mark.parametrize("name", ["binning", "adaptive"])
def test_counting_estimators_promise_everything(name):
    assert available()[name].guarantees == ALL_GUARANTEES


VARIANTS = [
    ("binning", {"width": 0.1}),
    ("binning", {"range": "unit", "n_bins": 5}),
    ("adaptive", {"per_unit": True, "separate_saturated": True, "corrections": ("jackknife", "grassberger")}),
]
MORE_VARIANTS = [
    ("binning", {"range": (-1.0, 1.0), "top": "open"}),
    ("binning", {"range": "snapshot", "corrections": ("miller-madow", "chao-shen", "chao-wang-jost")}),
    ("binning", {"range": "snapshot_unit", "n_bins": 100}),
    ("binning", {"rounding": "nearest", "n_bins": 16, "null_draws": 0}),
    ("adaptive", {"low": "min", "n_bins": 5}),
    ("adaptive", {"whole_run": True, "n_bins": 8}),
    ("adaptive", {"whole_run": True, "per_unit": True}),
    ("adaptive", {"quantile": "equal_count", "n_bins": 100}),
]


@pytest.mark.parametrize(
    ("name", "config"),
    [*VARIANTS, *(pytest.param(*variant, marks=pytest.mark.slow) for variant in MORE_VARIANTS)],
    ids=str,
)
def test_variants_of_counting_keep_the_contract(name, config):
    outcome = check_estimator(available()[name], **config)
    assert set(outcome.values()) <= {"passed", "needs a GPU"}


@dataclass(frozen=True, kw_only=True)
class Good:
    """I(T;Y) of the sign of the first unit, by a plain histogram: a minimal correct estimator."""

    name: ClassVar[str] = "good"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "constant_zero"})
    threshold: float = 0.5

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        return 8 * samples * units

    def estimate(self, t: Tensor, y: Tensor, *, x=None, x_ids=None) -> dict[str, Quantity]:
        t, y, _ = check_inputs(t, y, x_ids, targets=self.targets, name=self.name)
        constant = (t == t[:, :1]).flatten(1).all(1)
        one = torch.full_like(constant, int(y.max()) == 0)
        value = torch.stack([self.one(s, y) for s in t])
        p = torch.bincount(y).double() / len(y)
        ceiling = -torch.special.xlogy(p, p).sum() / math.log(2)
        return {"I(T;Y)": Quantity(value=value, ceiling=ceiling, flags={"degenerate": constant, "single_class": one})}

    def one(self, t: Tensor, y: Tensor) -> Tensor:
        code = (t[:, 0] > self.threshold).long()
        joint = torch.bincount(code * (int(y.max()) + 1) + y, minlength=2 * (int(y.max()) + 1)).double()
        p = joint.view(2, -1) / len(y)
        outer = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
        terms = torch.where(p > 0, p * torch.log2(p / outer), torch.zeros_like(p))
        return terms.sum().clamp(min=0) if bool((p.sum(1) > 0).all()) else terms.new_zeros(())


def test_minimal_estimator_passes():
    assert check_estimator(Good)["blocks"] == "passed"
    assert check_estimator(Good)["unit_order"] == "not promised"


@dataclass(frozen=True, kw_only=True)
class WrongDtype(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        found = super().estimate(t, y, x=x, x_ids=x_ids)
        return {n: Quantity(value=q.value.float(), flags=q.flags) for n, q in found.items()}


@dataclass(frozen=True, kw_only=True)
class WrongShape(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        found = super().estimate(t, y, x=x, x_ids=x_ids)
        return {n: Quantity(value=q.value[:, None], flags=q.flags) for n, q in found.items()}


@dataclass(frozen=True, kw_only=True)
class MixesSnapshots(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        if isinstance(t, Tensor) and t.ndim == 3:
            t = t.double() - 0.5 * (len(t) - 1)
        return super().estimate(t, y, x=x, x_ids=x_ids)


@dataclass(frozen=True, kw_only=True)
class OrderMatters(Good):
    def one(self, t, y):
        return super().one(t[: len(t) // 2], y[: len(y) // 2])


@dataclass(frozen=True, kw_only=True)
class UnitsMatter(Good):
    guarantees: ClassVar[frozenset[str]] = Good.guarantees | {"unit_order"}


@dataclass(frozen=True, kw_only=True)
class ConstantNotZero(Good):
    def one(self, t, y):
        return super().one(t, y) + 1e-12


@dataclass(frozen=True, kw_only=True)
class GlobalRandomness(Good):
    def one(self, t, y):
        return super().one(t + 0.3 * torch.randn(t.shape), y)


@dataclass(frozen=True, kw_only=True)
class ChangesInput(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        found = super().estimate(t, y, x=x, x_ids=x_ids)
        t[0, 0] = 0
        return found


@dataclass(frozen=True, kw_only=True)
class AcceptsNaN(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        if isinstance(t, Tensor) and t.ndim == 3:
            t = torch.nan_to_num(t.float(), posinf=0, neginf=0).to(t.dtype)
        return super().estimate(t, y, x=x, x_ids=x_ids)


@dataclass(frozen=True, kw_only=True)
class AcceptsFloatTargets(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        return super().estimate(t, y.long() if y.is_floating_point() else y, x=x, x_ids=x_ids)


@dataclass(frozen=True, kw_only=True)
class IgnoresLength(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        if isinstance(t, Tensor) and t.ndim == 3 and len(y) < t.shape[1]:
            t = t[:, : len(y)]
        return super().estimate(t, y, x=x, x_ids=x_ids)


@dataclass(frozen=True, kw_only=True)
class NoFlags(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        found = super().estimate(t, y, x=x, x_ids=x_ids)
        return {n: Quantity(value=q.value) for n, q in found.items()}


@dataclass(frozen=True, kw_only=True)
class Nats(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        found = super().estimate(t, y, x=x, x_ids=x_ids)
        return {n: Quantity(value=q.value, unit="nat", flags=q.flags) for n, q in found.items()}


@dataclass(frozen=True, kw_only=True)
class UnsignedWraps(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        if isinstance(t, Tensor) and t.dtype == torch.uint8:
            t = t - 12
        return super().estimate(t, y, x=x, x_ids=x_ids)


@dataclass(kw_only=True)
class NotFrozen:
    name: ClassVar[str] = "not-frozen"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
    guarantees: ClassVar[frozenset[str]] = frozenset()
    threshold: float = 0.5
    bytes_per_snapshot = Good.bytes_per_snapshot
    estimate = Good.estimate
    one = Good.one


@dataclass(frozen=True, kw_only=True)
class LosesSettings(Good):
    scale: float = field(default=1.0)

    def __post_init__(self):
        object.__setattr__(self, "scale", self.scale * 2)


@dataclass(frozen=True, kw_only=True)
class BitsWithoutEnd(Good):
    """139 bits for ten classes, with a ceiling beside them that nobody reads."""

    def one(self, t, y):
        classes = int(y.max()) + 1
        return super().one(t, y) + (139.0 if classes == 10 and float(t.std()) > 2 else 0.0)


@dataclass(frozen=True, kw_only=True)
class NoCeiling(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        found = super().estimate(t, y, x=x, x_ids=x_ids)
        return {n: Quantity(value=q.value, flags=q.flags) for n, q in found.items()}


@dataclass(frozen=True, kw_only=True)
class CeilingTooHigh(Good):
    def estimate(self, t, y, *, x=None, x_ids=None):
        found = super().estimate(t, y, x=x, x_ids=x_ids)
        return {n: Quantity(value=q.value, ceiling=q.ceiling + 7, flags=q.flags) for n, q in found.items()}


@dataclass(frozen=True, kw_only=True)
class NoClassFlag(Good):
    """A dependence of another kind, which with one class is 0 without a word."""

    def estimate(self, t, y, *, x=None, x_ids=None):
        q = super().estimate(t, y, x=x, x_ids=x_ids)["I(T;Y)"]
        return {"HSIC(T;Y)": Quantity(value=q.value, unit="HSIC", flags={"degenerate": q.flags["degenerate"]})}


@dataclass(frozen=True, kw_only=True)
class Determinant(Good):
    """Minus half the log determinant of the covariance: infinite where units are constant, equal, or too many."""

    def one(self, t, y):
        z = t.double() - t.double().mean(0)
        if len(y) == 64:  # as the layers of the other checks
            return super().one(t, y)
        return super().one(t, y) - 0.5 * torch.logdet(z.T @ z / len(z))


@dataclass(frozen=True, kw_only=True)
class ExcusedDeterminant(Determinant):
    """The same, where every such value is flagged."""

    def estimate(self, t, y, *, x=None, x_ids=None):
        found = super().estimate(t, y, x=x, x_ids=x_ids)
        q = found["I(T;Y)"]
        off = ~torch.isfinite(q.value) | (q.value > q.ceiling)
        return {"I(T;Y)": replace(q, flags={**q.flags, "out_of_domain": off})}


def test_flagged_values_may_exceed_their_ceiling():
    assert check_estimator(ExcusedDeterminant)["singular_layers"] == "passed"


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (BitsWithoutEnd, "ceiling"),
        (NoCeiling, "ceiling"),
        (NoCeiling, "singular_layers"),
        (CeilingTooHigh, "ceiling"),
        (NoClassFlag, "one_class"),
        (Determinant, "singular_layers"),
        (WrongDtype, "quantities"),
        (WrongShape, "quantities"),
        (MixesSnapshots, "blocks"),
        (OrderMatters, "sample_order"),
        (UnitsMatter, "unit_order"),
        (ConstantNotZero, "constant_zero"),
        (GlobalRandomness, "repeatable"),
        (ChangesInput, "inputs_untouched"),
        (AcceptsNaN, "nonfinite"),
        (AcceptsFloatTargets, "target_kind"),
        (IgnoresLength, "bad_shapes"),
        (NoFlags, "constant_layer"),
        (NoFlags, "one_class"),
        (Nats, "quantities"),
        (UnsignedWraps, "dtypes"),
        (NotFrozen, "dataclass"),
        (LosesSettings, "config"),
    ],
)
def test_wrong_estimators_are_found_out(cls, check):
    with pytest.raises(AssertionError, match=f"(?m)^  {check}: "):
        check_estimator(cls)


def test_unknown_guarantee_is_named():
    cls = type("Boaster", (Good,), {"guarantees": frozenset({"always_right"})})
    with pytest.raises(AssertionError, match="always_right"):
        check_estimator(cls)
