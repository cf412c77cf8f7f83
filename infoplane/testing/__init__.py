"""The contract of an estimator, as checks that anyone can run on their own one.

from infoplane.testing import check_estimator
check_estimator(MyEstimator, n_neighbors=3)
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from infoplane.core.units import BIT
from infoplane.estimators import (
    ALL_GUARANTEES,
    FLAGS,
    VOIDING,
    Estimator,
    Quantity,
    above_ceiling,
    build,
    config_json,
)
from infoplane.testing._subject import (
    SAME,
    SAMPLES,
    SNAPSHOTS,
    UNITS,
    InMemory,
    Subject,
    ready,
    require,
    require_finite,
    require_zero,
)

__all__ = ["InMemory", "check_estimator", "ready"]

_ONE_VALUE = ("single_class", "degenerate")
"""Flags of an estimate from labels that are all the same."""


def check_estimator(cls: type[Any], **config: Any) -> dict[str, str]:
    """Check that an estimator class keeps the protocol and every guarantee it declares.

    Parameters
    ----------
    cls : type
        The estimator class.
    **config
        Settings that make it fast on 3 snapshots of 64 samples and 4 units.

    Returns
    -------
    dict from check to "passed", "not promised" or "needs a GPU"

    Raises
    ------
    AssertionError
        Lists every check that failed, with what was expected.

    Notes
    -----
    Passing says that an estimator behaves, not that its numbers are right: compare those with a closed form
    or a slow reference.
    """
    outcome: dict[str, str] = {}
    failures: list[str] = []
    _require_declaration(cls)
    subject = Subject(cls, config)
    for title, check in _CHECKS.items():
        if title in ALL_GUARANTEES and title not in cls.guarantees:
            outcome[title] = "not promised"
        elif title == "device_exact" and not torch.cuda.is_available():
            outcome[title] = "needs a GPU"
        else:
            outcome[title] = "passed"
            try:
                check(subject)
            except AssertionError as error:
                failures.append(f"{title}: {error}")
            except Exception as error:
                error.add_note(f"while checking {title} of {cls.__name__}")
                raise
    if failures:
        raise AssertionError(f"{cls.__name__} breaks the estimator contract:\n  " + "\n  ".join(failures))
    return outcome


def _require_declaration(cls: type[Any]) -> None:
    """Require that the class declares its name, targets, guarantees and methods, and nothing unknown."""
    for member in ("name", "targets", "guarantees", "bytes_per_snapshot", "estimate"):
        require(hasattr(cls, member), f"{cls.__name__} lacks {member!r}")
    require(isinstance(cls.name, str) and bool(cls.name), f"name must be a string, got {cls.name!r}")
    known = bool(cls.targets) and set(cls.targets) <= {"discrete", "continuous"}
    require(known, f"targets must be out of 'discrete', 'continuous', got {sorted(cls.targets)}")
    unknown = sorted(set(cls.guarantees) - ALL_GUARANTEES)
    require(not unknown, f"guarantees {unknown} are unknown; known: {sorted(ALL_GUARANTEES)}")


def _check_dataclass(s: Subject) -> None:
    """The class is a frozen dataclass with a default for every field."""
    require(dataclasses.is_dataclass(s.cls), "must be a dataclass")
    require(s.cls.__dataclass_params__.frozen, "must be frozen: @dataclass(frozen=True, kw_only=True)")
    for f in dataclasses.fields(s.cls):
        has_default = f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        require(has_default, f"field {f.name!r} needs a default")
    require(isinstance(s.cls(), Estimator), f"{s.cls.__name__}() does not have the members of Estimator")
    require(s.make() == s.make(), "two estimators of the same settings must be equal")


def _check_config(s: Subject) -> None:
    """Settings survive JSON and pickling, and `prepare` finds the same each time."""
    first = s.ready(s.t, s.y, s.x)
    settings = json.loads(config_json(first))
    settings.pop("prepared", None)
    again = build(s.cls, settings)
    read, own = config_json(again), config_json(s.make())
    require(read == own, f"settings read back from JSON differ: {read} against {own}")
    found = ready(again, s.t, s.y, s.x)
    require(config_json(found) == config_json(first), "prepare found something else the second time")
    copy = pickle.loads(pickle.dumps(first))
    _same(copy.estimate(s.t, s.y, x=s.x), first.estimate(s.t, s.y, x=s.x), 0.0, "a pickled copy")


def _check_prepare(s: Subject) -> None:
    """Preparing returns a copy and leaves the original as it was."""
    if not hasattr(s.cls, "prepare"):
        return
    fresh = s.make()
    before = config_json(fresh)
    found = fresh.prepare(InMemory(s.t), s.y, s.x)
    require(type(found) is s.cls, f"prepare must return {s.cls.__name__}, got {type(found).__name__}")
    require(config_json(fresh) == before, "prepare must return a copy and leave the original as it was")


def _check_bytes(s: Subject) -> None:
    """The memory that the estimator declares is positive and does not fall with samples or units."""
    estimator = s.make()
    sizes = [estimator.bytes_per_snapshot(n, u) for n, u in ((64, 4), (4096, 4), (4096, 1024))]
    require(all(isinstance(b, int) and b > 0 for b in sizes), f"bytes must be positive integers, got {sizes}")
    require(sizes == sorted(sizes), f"bytes must not fall with samples or units, got {sizes}")


def _check_quantities(s: Subject) -> None:
    """What `estimate` returns has the right types, shapes, bounds, units and flags."""
    found = s.found
    require(bool(found), "estimate returned nothing")
    for name, q in found.items():
        require(isinstance(q, Quantity), f"{name} must be a Quantity, got {type(q).__name__}")
        for part in ("value", "low", "high", "ceiling"):
            value = getattr(q, part)
            if value is None and part != "value":
                continue
            shapes = {(SNAPSHOTS,), ()} if part == "ceiling" else {(SNAPSHOTS,)}
            fits = isinstance(value, Tensor) and value.dtype == torch.float64 and tuple(value.shape) in shapes
            got = f"{getattr(value, 'dtype', type(value))} {tuple(getattr(value, 'shape', ()))}"
            require(fits, f"{name} {part} must be a float64 tensor ({SNAPSHOTS},), got {got}")
            require(value.device == s.t.device, f"{name} {part} must be on the device of t, got {value.device}")
        require(bool(torch.isfinite(q.value).all()), f"{name} must be finite here, got {q.value.tolist()}")
        if q.low is not None and q.high is not None:
            require(not bool((q.low > q.high).any()), f"{name} has low above high")
        require(q.bound in ("point", "upper", "lower"), f"{name} has bound {q.bound!r}")
        require(bool(q.unit), f"{name} has no unit")
        if name.startswith(("I(", "H(")):
            require(q.unit == BIT, f"{name} is Shannon information and must be in bits, got {q.unit!r}")
        for flag, mask in q.flags.items():
            require(flag in FLAGS, f"{name} has the unknown flag {flag!r}; known: {', '.join(FLAGS)}")
            fits = isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == (SNAPSHOTS,)
            require(fits, f"{name} flag {flag} must be a bool tensor ({SNAPSHOTS},)")


def _check_repeatable(s: Subject) -> None:
    """The same settings on the same data give the same numbers, and torch's random state is not used."""
    torch.manual_seed(1)
    first = s.found
    torch.manual_seed(2)
    state = torch.get_rng_state()
    _same(s.run(), first, 0.0, "the same settings on the same data")
    require(bool((torch.get_rng_state() == state).all()), "the global random state must not be used")


def _check_inputs_untouched(s: Subject) -> None:
    """`estimate` does not write to its arguments, and ids of distinct inputs change nothing."""
    ids = torch.arange(SAMPLES)
    given = {"t": s.t.clone(), "y": s.y.clone(), "x": s.x.clone(), "x_ids": ids.clone()}
    with_ids = s.run(given["t"], given["y"], given["x"], x_ids=given["x_ids"])
    for name, original in (("t", s.t), ("y", s.y), ("x", s.x), ("x_ids", ids)):
        require(bool((given[name] == original).all()), f"{name} was changed")
    _same(with_ids, s.found, 0.0, "x_ids of distinct inputs against none")


def _check_blocks(s: Subject) -> None:
    """A snapshot alone has the value that it has among others."""
    whole, seen = s.found, s.ready(s.t, s.y, s.x)
    for i in range(SNAPSHOTS):
        one = seen.estimate(s.t[i : i + 1], s.y, x=s.x)
        of_one = operator.itemgetter(slice(i, i + 1))
        _same(one, {name: _each(q, of_one) for name, q in whole.items()}, SAME, f"snapshot {i} alone")


def _check_sample_order(s: Subject) -> None:
    """The order of samples does not matter."""
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(3))
    _same(s.run(s.t[:, order], s.y[order], s.x[order]), s.found, SAME, "permuted samples")


def _check_unit_order(s: Subject) -> None:
    """The order of units does not matter."""
    order = torch.tensor([2, 0, 3, 1])  # moves every unit
    _same(s.run(s.t[:, :, order]), s.found, SAME, "permuted units")


def _check_constant_zero(s: Subject) -> None:
    """A constant layer has exactly 0 bits."""
    for name, q in s.run(torch.full_like(s.t, 0.75)).items():
        if name in ("I(X;T)", "I(T;Y)"):
            require(bool((q.value == 0).all()), f"{name} of a constant layer must be exactly 0, got {q.value.tolist()}")


def _check_device_exact(s: Subject) -> None:
    """A GPU gives the same numbers, bit for bit."""
    there = s.run(s.t.cuda(), s.y.cuda(), s.x.cuda())
    _same({name: _each(q, Tensor.cpu) for name, q in there.items()}, s.found, 0.0, "the GPU")


def _check_constant_layer(s: Subject) -> None:
    """A constant layer gives finite values and the flag `degenerate`."""
    found = s.run(torch.full_like(s.t, 0.75))
    require_finite(found, "of a constant layer must be finite")
    flagged = any(bool(q.flags["degenerate"].all()) for q in found.values() if "degenerate" in q.flags)
    require(flagged, "a constant layer must raise the flag 'degenerate'")


def _check_one_class(s: Subject) -> None:
    """Labels of one class give 0 bits and the flag `single_class`."""
    if not s.discrete:
        return
    found = s.run(y=torch.full_like(s.y, 7))
    require_zero(found, "with one class")
    for name, q in found.items():
        raised = "single_class" in q.flags and bool(q.flags["single_class"].all())
        require(raised or not name.endswith("(T;Y)"), f"one class must raise the flag 'single_class' of {name}")


def _check_one_target(s: Subject) -> None:
    """A target that never changes gives 0 bits and a flag."""
    if "continuous" not in s.make().targets:
        return
    found = s.run(y=torch.full((SAMPLES,), 0.5, dtype=torch.float64))
    require_zero(found, "of a constant target")
    if "I(T;Y)" in found:
        require(bool(_excused(found["I(T;Y)"]).all()), f"a constant target must raise one of {', '.join(_ONE_VALUE)}")


def _separate_classes() -> tuple[Tensor, Tensor]:
    """Ten classes far apart, `t` (3, 200, 12): most estimators reach their ceiling here."""
    g = torch.Generator().manual_seed(4)
    y = torch.arange(200) % 10
    centres = 4.0 * torch.randn(SNAPSHOTS, 10, 12, generator=g)
    return centres[:, y] + 0.2 * torch.randn(SNAPSHOTS, 200, 12, generator=g), y


def _singular_layers() -> dict[str, tuple[Tensor, Tensor]]:
    """Layers whose covariance has no inverse, with ten classes each."""
    g = torch.Generator().manual_seed(5)
    y = torch.arange(100) % 10
    t = torch.randn(SNAPSHOTS, 100, 3, generator=g) + 0.3 * y[:, None]
    constant, zero = torch.full((SNAPSHOTS, 100, 2), 0.75), torch.zeros(SNAPSHOTS, 100, 1)
    wide = torch.randn(SNAPSHOTS, 100, 150, generator=g)
    return {
        "constant units": (torch.cat([constant, t, zero], 2), y),
        "duplicated units": (torch.cat([t, t, t[:, :, :1]], 2), y),
        "units that are sums of others": (torch.cat([t, t.sum(2, keepdim=True)], 2), y),
        "more units than samples": (wide, y),
        "the classes as one-hot rows": (torch.eye(10)[y].expand(SNAPSHOTS, -1, -1).clone(), y),
        "the classes in one unit": (y[:, None].float().expand(SNAPSHOTS, -1, -1).clone(), y),
    }


def _check_ceiling(s: Subject) -> None:
    """I(T;Y) of classes has a ceiling, at most H(Y), and no value above it goes without a flag."""
    if s.discrete:
        _require_ceiling(s, *_separate_classes(), "ten separate classes")
        _require_ceiling(s, s.t, s.y, "three classes")


def _check_singular_layers(s: Subject) -> None:
    """A layer whose covariance has no inverse gives finite or flagged values."""
    for what, (t, y) in _singular_layers().items():
        if s.discrete:
            _require_ceiling(s, t, y, what)
        if "continuous" in s.make().targets:
            _sound(s, t, y.double(), f"{what} and the classes as targets")


def _sound(s: Subject, t: Tensor, y: Tensor, what: str) -> dict[str, Quantity]:
    """Return the estimates on a layer `t` and labels `y`; require that each value is finite, or flagged as void.

    `what` names the layer in messages.
    """
    found = s.run(t, y, torch.randn(len(y), 3, generator=torch.Generator().manual_seed(6)))  # with random inputs (N, 3)
    for name, q in found.items():
        sound = torch.isfinite(q.value) | _excused(q)
        require(bool(sound.all()), f"{name} with {what} must be finite or flagged, got {q.value.tolist()}")
    return found


def _require_ceiling(s: Subject, t: Tensor, y: Tensor, what: str) -> None:
    """Require a ceiling of at most H(Y), and a flag on every value above it."""
    found = _sound(s, t, y, what)
    if "I(T;Y)" not in found:
        return
    q, p = found["I(T;Y)"], torch.bincount(y).double() / len(y)
    h_y = -float((p * p.log2()).sum())  # H(Y) in bits
    require(q.ceiling is not None, "I(T;Y) of classes needs a ceiling: H(Y), or less where T can hold less")
    assert q.ceiling is not None
    top = q.ceiling.expand(len(q.value))
    require(bool((top <= h_y + SAME).all()), f"the ceiling of I(T;Y) with {what} exceeds H(Y) = {h_y:.4g}")
    above = above_ceiling(q.value, top) & ~_excused(q)
    values = f"I(T;Y) with {what} is {float(q.value.max()):.4g} bits, its ceiling {float(top.max()):.4g}"
    require(not bool(above.any()), f"{values}; a value above its ceiling must raise one of {', '.join(VOIDING)}")


def _excused(q: Quantity) -> Tensor:
    """Return (S,) whether a flag says that the value is not to be trusted, or that all labels are the same."""
    raised = (mask.to(q.value.device) for flag, mask in q.flags.items() if flag in (*VOIDING, *_ONE_VALUE))
    return functools.reduce(operator.or_, raised, torch.zeros_like(q.value, dtype=torch.bool))


def _check_one_sample(s: Subject) -> None:
    """One sample is refused, or gives finite values."""
    try:
        found = s.run(s.t[:, :1], s.y[:1], s.x[:1])
    except ValueError as error:
        require("sample" in str(error), f"the error must speak of samples, got {error}")
        return
    require_finite(found, "of one sample must be finite or refused")


def _check_nonfinite(s: Subject) -> None:
    """NaN and infinite activations are refused."""
    seen = s.ready(s.t, s.y, s.x)
    for bad in (math.nan, math.inf, -math.inf):
        t = s.t.clone()
        t[1, 5, 2] = bad
        _raises(ValueError, "non-finite", functools.partial(seen.estimate, t, s.y, x=s.x), f"{bad} in t")


def _check_bad_shapes(s: Subject) -> None:
    """Arguments of a wrong shape or type are refused, and the error names them."""
    seen = s.ready(s.t, s.y, s.x)
    _raises(ValueError, "shape", lambda: seen.estimate(s.t[0], s.y, x=s.x), "t without a snapshot axis")
    _raises(ValueError, "at least one", lambda: seen.estimate(s.t[:0], s.y, x=s.x), "no snapshot")
    _raises(ValueError, "at least one", lambda: seen.estimate(s.t[:, :, :0], s.y, x=s.x), "no unit")
    _raises(ValueError, "y", lambda: seen.estimate(s.t, s.y[:-1], x=s.x), "one label too few")
    _raises(ValueError, "x_ids", lambda: seen.estimate(s.t, s.y, x=s.x, x_ids=torch.arange(3)), "3 x_ids")
    _raises(TypeError, "t", lambda: seen.estimate(s.t.numpy(), s.y, x=s.x), "a numpy t")


def _check_target_kind(s: Subject) -> None:
    """Labels of a kind that the class does not declare in `targets` are refused."""
    seen = s.ready(s.t, s.y, s.x)
    if "continuous" not in s.cls.targets:
        _raises(ValueError, "bin", lambda: seen.estimate(s.t, s.x[:, 0], x=s.x), "a float target")
    if "discrete" not in s.cls.targets:
        _raises(ValueError, "continuous", lambda: seen.estimate(s.t, s.classes, x=s.x), "integer classes")


def _check_dtypes(s: Subject) -> None:
    """Narrow floats, whole numbers and booleans give the values of their float64 twins."""
    floats, integers = (torch.float16, torch.bfloat16, torch.float32), (torch.int8, torch.int32, torch.int64)
    whole, binary = (4 * s.t).round(), (s.t > 0.5).double()  # the data are quarters: four times them is whole
    for t, dtypes in ((s.t, floats), (whole, integers), (whole + 8, (torch.uint8,)), (binary, (torch.bool,))):
        reference = s.run(t.double())
        for dtype in dtypes:
            _same(s.run(t.to(dtype)), reference, 1e-4, str(dtype))


def _check_memory_layout(s: Subject) -> None:
    """Transposed, strided and read-only memory give the same values."""
    _same(s.run(s.t.permute(2, 1, 0).contiguous().permute(2, 1, 0)), s.found, 1e-6, "a transposed t")
    strided = torch.zeros(SNAPSHOTS, 2 * SAMPLES, 2 * UNITS)[:, ::2, ::2].copy_(s.t)  # every second sample and unit
    _same(s.run(strided), s.found, 1e-6, "a strided t")
    array = s.t.numpy().copy()
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's warning that the memory is read-only
        frozen = torch.from_numpy(array)
    _same(s.run(frozen), s.found, 0.0, "read-only memory")


def _each(q: Quantity, part: Callable[[Tensor], Tensor]) -> Quantity:
    """The quantity with `part` applied to its value and interval, without its flags and its ceiling."""
    low, high = (None if end is None else part(end) for end in (q.low, q.high))
    return dataclasses.replace(q, value=part(q.value), low=low, high=high, ceiling=None, flags={})


def _same(got: dict[str, Quantity], want: dict[str, Quantity], tolerance: float, what: str) -> None:
    """Require that two estimates have the same quantities, and values and intervals within `tolerance`."""
    require(got.keys() == want.keys(), f"{what}: quantities {sorted(got)} against {sorted(want)}")
    for name in want:
        for part in ("value", "low", "high"):
            a, b = getattr(got[name], part), getattr(want[name], part)
            require((a is None) == (b is None), f"{what}: {name} {part} is given once and missing once")
            if a is not None:
                # NaN on both sides is an interval left empty twice.
                gap = float(torch.where(a.isnan() & b.isnan(), 0.0, (a - b).abs()).nan_to_num(math.inf).max())
                require(gap <= tolerance, f"{what}: {name} {part} differs by {gap:.3g}, allowed {tolerance:g}")


def _raises(kind: type[Exception], word: str, call: Callable[[], Any], what: str) -> None:
    """Require that `call()` raises an error of this kind whose text has this word."""
    try:
        call()
    except kind as error:
        require(word in str(error), f"{what}: the error must mention {word!r}, got {error}")
        return
    raise AssertionError(f"{what} must raise {kind.__name__}")


_CHECKS = {name.removeprefix("_check_"): f for name, f in list(globals().items()) if name.startswith("_check_")}
"""Every function of this module whose name begins with `_check_`, in the order in which they stand here."""
