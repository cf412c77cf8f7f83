"""The accelerator's branches on CPU tensors: the same values, few waits, no stray tensors, memory as declared."""

from __future__ import annotations

import math

import pytest
import torch
from watching import Allocations, Waits

from infoplane.core.device import accelerator_branches
from infoplane.estimators import available, parse
from infoplane.testing import ready

pytestmark = pytest.mark.usefixtures("short_trainings")

CASES = [
    (name, kind)
    for name, cls in sorted(available().items())
    for kind in ("discrete", "continuous")
    if kind in cls.targets
]
# Networks magnify how sums are rounded, which branches may do in another order: up to 0.02 bit.
TRAINED = "probe:family=mlp"
CASES += [(TRAINED, "discrete"), (TRAINED, "continuous")]


def layer(kind, snapshots, samples, units, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % 3
    x = torch.randn(samples, 3, generator=g)
    t = torch.tanh(torch.randn(snapshots, samples, units, generator=g) + 0.5 * y[:, None]).to(dtype)
    return t, y if kind == "discrete" else x.double().sum(1), x


QUICK = {"auto": "auto:effort=low", "critic": "critic:steps=25,hidden=8", "flow": "flow:steps=20,folds=2"}
"""Methods that train with fewer steps."""


def estimated(name, t, y, x):
    return ready(parse(QUICK.get(name, name)), t, y, x).estimate(t, y, x=x)


def assert_same(got, want, tolerance):
    assert got.keys() == want.keys()
    for key, q in want.items():
        for part in ("value", "low", "high", "ceiling"):
            a, b = getattr(got[key], part), getattr(q, part)
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=0, atol=tolerance, equal_nan=True, msg=f"{key} {part}")
        assert got[key].flags.keys() == q.flags.keys()
        for flag, mask in q.flags.items():
            assert torch.equal(got[key].flags[flag], mask), f"{key} {flag}"


# Binary and constant layers, ties, one unit, more units than samples: where the branches sort, count and measure apart.
# (float64 of few units: every row of the table of truths.)
LAYERS = {
    "float32": lambda kind: layer(kind, 2, 90, 5),
    "one unit": lambda kind: layer(kind, 2, 60, 1, torch.float64),
    "wide": lambda kind: layer(kind, 2, 40, 70),
    "signs": lambda kind: (lambda t, y, x: (t.sign(), y, x))(*layer(kind, 2, 60, 3)),
}


@pytest.mark.parametrize("which", LAYERS)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_both_branches_give_the_same_values(name, kind, which):
    t, y, x = LAYERS[which](kind)
    want = estimated(name, t, y, x)
    with accelerator_branches():
        found = estimated(name, t, y, x)
    # On a CPU `critic` looks whether a shorter sum has all its digits, for which a device would wait.
    assert_same(found, want, 0.02 if name in ("auto", TRAINED) else 1e-6 if name == "critic" else 1e-9)


@pytest.mark.parametrize("forced", [False, True], ids=["cpu", "accelerator"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_no_tensor_is_made_on_the_default_device(name, kind, forced):
    """With a default device on which nothing can be computed the estimates are what they are."""
    t, y, x = layer(kind, 2, 64, 4)
    with accelerator_branches() if forced else torch.device("cpu"):
        want = estimated(name, t, y, x)
    with accelerator_branches() if forced else torch.device("cpu"), torch.device("meta"):
        found = estimated(name, t, y, x)
    assert_same(found, want, 0.0)


# How often a chunk waits for the device: at most so often, and so many times more for each snapshot. Where the second
# number is not 0 the method decides something for each snapshot on the host; these may fall, and must not rise.
SPREAD = "the spread of a layer chooses the precision of its kernel, the noise std scales it"
NULLS = SPREAD + "; for each shuffle of the targets again"
RANKS = "ranks, spectra and the method's own checks of each layer choose what is fitted"
OPEN = "rows whose neighbours rounding leaves open are measured again, class by class"
WAITS = {
    ("adaptive", "discrete"): (25, 0, ""),
    ("binning", "discrete"): (25, 0, ""),
    ("auto", "discrete"): (85, 36, "as `probe:family=mlp`, its branch here"),
    ("auto", "continuous"): (45, 34, "as `flow`, its branch here"),
    ("compressed", "discrete"): (40, 78, RANKS),
    ("compressed", "continuous"): (51, 66, RANKS),
    ("critic", "continuous"): (50, 162, "canonical coordinates of every fold, and the checks of the Gaussian start"),
    ("cs-qmi", "discrete"): (10, 0, ""),
    ("cs-qmi", "continuous"): (8, 0, ""),
    ("dimension", "discrete"): (3, 25, "neighbours of a layer are found alone, for each part of its rows"),
    ("dimension", "continuous"): (3, 25, "neighbours of a layer are found alone, for each part of its rows"),
    ("dse", "discrete"): (80, 0, ""),
    ("dse", "continuous"): (120, 0, ""),
    ("flow", "continuous"): (45, 34, "coordinates of a layer are found alone, for each fold"),
    ("gaussian", "discrete"): (123, 183, RANKS),
    ("gaussian", "continuous"): (126, 98, RANKS),
    ("geometry", "discrete"): (13, 0, ""),
    ("geometry", "continuous"): (5, 0, ""),
    ("hsic", "discrete"): (15, 0, ""),
    ("hsic", "continuous"): (14, 0, ""),
    ("kde", "discrete"): (20, 3, SPREAD),
    ("kde", "continuous"): (14, 45, NULLS),
    ("knn", "discrete"): (8, 74, OPEN),
    ("knn", "continuous"): (42, 79, OPEN),
    ("noise", "discrete"): (23, 2, SPREAD),
    ("noise", "continuous"): (16, 44, NULLS),
    ("probe", "discrete"): (420, 32, "Newton steps of a layer go on until it has converged"),
    ("probe", "continuous"): (220, 4, "folds of a layer choose their penalty"),
    (TRAINED, "discrete"): (220, 13, "as for the linear probe; beyond, once at every check of all networks"),
    (TRAINED, "continuous"): (146, 11, "as for the linear probe; beyond, once at every check of all networks"),
    ("renyi", "discrete"): (12, 0, ""),
    ("renyi", "continuous"): (6, 0, ""),
    ("softmax", "discrete"): (18, 0, ""),
}
SIZES = [(4, 64, 4), (2, 128, 8)]


def waits(name, kind, sizes):
    t, y, x = layer(kind, *sizes)
    estimator = ready(parse(QUICK.get(name, name)), t, y, x)
    with accelerator_branches(), Waits() as watched:
        estimator.estimate(t, y, x=x)
    return watched.found


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_waits_for_the_device_do_not_grow(name, kind):
    once, each, _ = WAITS[name, kind]
    for sizes in SIZES:
        found = waits(name, kind, sizes)
        assert found.total() <= once + each * sizes[0], f"{sizes} (snapshots, samples, units): {dict(found)}"


def test_every_wait_that_grows_has_its_reason():
    assert set(WAITS) == set(CASES)
    assert {case for case, (_, each, why) in WAITS.items() if bool(each) != bool(why)} == set()


T, MASK = torch.tensor([1, 2]), torch.tensor([True, False])
ONE = torch.tensor(1)
PLANTED = {
    "item": lambda: ONE.item(),
    "tolist": lambda: T.tolist(),
    "cpu": lambda: T.cpu(),
    "to": lambda: T.to("cpu"),
    "numpy": lambda: T.numpy(),
    "__bool__": lambda: bool(ONE),
    "__float__": lambda: float(ONE),
    "__int__": lambda: int(ONE),
    "__index__": lambda: [0, 1][ONE],
    "nonzero": lambda: T.nonzero(),
    "mask": lambda: T[MASK],
    "masked_select": lambda: T.masked_select(MASK),
    "unique": lambda: T.unique(),
    "bincount": lambda: T.bincount(),
    "repeat_interleave": lambda: torch.repeat_interleave(T),
    "equal": lambda: torch.equal(T, MASK.long()),
    "linalg": lambda: torch.linalg.cholesky(torch.eye(2)),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_wait_is_found(kind):
    with Waits() as watched:
        torch.ones(2).add_(1)[1:].sum()
        PLANTED[kind]()
    assert dict(watched.found) == {kind: 1}


def test_more_kinds_of_the_same_waits_are_found():
    with Waits() as watched:
        T.unique_consecutive()
        torch.unique(T[None], dim=0)
        T.clone()[MASK] = T[:1]
    assert dict(watched.found) == {"unique": 2, "mask": 1}
    with Waits() as watched:
        torch.repeat_interleave(T, output_size=3)
        T[T - 1].to(torch.float64).to(T.device)
    assert dict(watched.found) == {}


# The most that one call makes and holds, in units of what it declares for its snapshots; `t` itself, which the caller
# holds, is not counted. The methods below go snapshot by snapshot, and hold beside what they declare the working
# blocks of one: pairs of rows, up to 4,096 at a time on an accelerator.
MOST = 1.5
PAIRS = "blocks of pairs of rows, of one size whatever the snapshots"
# case -> on the CPU, on an accelerator, why; each the factors at the two sizes.
MEMORY_SIZES = [(2, 512, 32), (2, 1024, 64)]
MORE = {
    ("compressed", "discrete"): ((1.5, 1.5), (1.7, 2.6), PAIRS),
    ("compressed", "continuous"): ((1.5, 1.5), (1.7, 2.6), PAIRS),
    ("dimension", "discrete"): ((2.6, 1.8), (3.3, 2.6), PAIRS),
    ("dimension", "continuous"): ((2.6, 1.8), (3.3, 2.6), PAIRS),
    ("geometry", "discrete"): ((8.2, 3.0), (8.2, 3.0), "stacks of small matrices of one size whatever the snapshots"),
    ("kde", "discrete"): ((1.6, 1.6), (12.5, 15.5), PAIRS),
    ("kde", "continuous"): ((5.3, 2.2), (5.3, 6.6), PAIRS),
    ("knn", "discrete"): ((2.3, 1.3), (4.2, 4.7), PAIRS),
    ("knn", "continuous"): ((4.1, 4.6), (7.9, 8.9), PAIRS),
    ("noise", "discrete"): ((3.8, 5.3), (13.0, 17.2), PAIRS),
    ("noise", "continuous"): ((20.0, 8.5), (20.0, 26.0), PAIRS + ": of the layer, the targets and their shuffles"),
}


# Every step of a training holds what the first holds: the networks themselves are of full size.
FEW_STEPS = {"auto": "auto:effort=low", "critic": "critic:steps=25", "flow": "flow:steps=50"}


@pytest.mark.slow
@pytest.mark.parametrize("forced", [False, True], ids=["cpu", "accelerator"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_memory_is_what_is_declared(name, kind, forced):
    most = MORE[name, kind][forced] if (name, kind) in MORE else (MOST, MOST)
    for limit, (snapshots, samples, units) in zip(most, MEMORY_SIZES, strict=True):
        t, y, x = layer(kind, snapshots, samples, units)
        estimator = ready(parse(FEW_STEPS.get(name, name)), t, y, x)
        with accelerator_branches() if forced else torch.device("cpu"), Allocations() as seen:
            estimator.estimate(t, y, x=x)
        declared = snapshots * estimator.bytes_per_snapshot(samples, units)
        assert seen.peak <= limit * declared, f"{seen.peak / declared:.2f} times {declared:,} bytes"


def test_allocations_are_counted_while_they_are_held():
    with Allocations() as seen:
        first = torch.zeros(1000, dtype=torch.float64)
        view = first.view(10, 100)
        del first
        assert seen.held == 8000
        del view
        assert seen.held == 0
        stacked = torch.stack([torch.zeros(500), torch.ones(500)]) * 2
        assert (seen.held, seen.peak) == (4000, 8000)
        assert math.isclose(float(stacked.sum()), 1000)
