"""I(X;T) of a noisy layer beside I(T;Y): what data processing says of both."""

from __future__ import annotations

import pytest
import torch

from infoplane.estimators import parse
from infoplane.estimators._driver import report
from infoplane.estimators._network_noise import checked_by_labels

NO = {"unreliable": False}


def raised(found):
    return {name: q.flags["unreliable"].tolist() for name, q in found.items()}


def quantities(of_x, of_y, **others):
    """Points of both pairs, and further quantities by keywords: (values, bound)."""
    found = {"I(X;T)": (of_x, "point"), "I(T;Y)": (of_y, "point"), **others}
    out = {}
    for name, (values, bound) in found.items():
        out |= report(name, torch.tensor(values, dtype=torch.float64), bound=bound, flags=NO)
    return out


def test_less_of_the_inputs_than_of_the_labels_cannot_be():
    """By 0.05 bit it may be chance; of two points either may be the wrong one."""
    found = checked_by_labels(quantities([1.0, 0.95, 0.5], [1.0, 1.0, 1.0]))
    assert raised(found) == {"I(X;T)": [False, False, True], "I(T;Y)": [False, False, True]}


def test_a_lower_bound_says_which_of_both_is_wrong():
    lower = ([0.9, 0.4], "lower")
    found = checked_by_labels(quantities([0.5, 0.5], [1.0, 1.0], **{"I(T;Y) lower": lower, "I(X;T) inside": lower}))
    assert raised(found)["I(X;T)"] == [True, True]
    assert raised(found)["I(T;Y)"] == [False, True]
    assert raised(found)["I(T;Y) lower"] == raised(found)["I(X;T) inside"] == [False, False]


def test_one_pair_alone_is_left_as_it_is():
    found = quantities([0.5], [1.0])
    del found["I(X;T)"]
    assert checked_by_labels(found) is found


@pytest.mark.parametrize("name", ["auto", "compressed", "critic", "flow"])
def test_every_method_for_noisy_layers_looks(name):
    assert type(parse(name)).estimate.__qualname__ == "NoisyMethod.estimate"


def test_a_product_of_three_inputs_is_missed_aloud():
    """A noisy unit has the sign of x0 x1 x2 with 0.91 bit, which few rows do not show of six inputs."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, 6, generator=g, dtype=torch.float64)
    y = (x[:, :3].prod(1) > 0).long()
    t = 2.0 * (2 * y - 1)[:, None] + torch.randn(600, 1, generator=g, dtype=torch.float64)
    found = parse("compressed:noise=recorded").estimate(t[None], y, x=x)
    assert abs(float(found["I(T;Y)"].value) - 0.913) < 0.1
    assert float(found["I(X;T)"].value) < float(found["I(T;Y)"].value) - 0.1
    assert bool(found["I(X;T)"].flags["unreliable"])


@pytest.mark.parametrize("name", ["auto", "compressed", "critic", "flow", "noise"])
def test_a_list_of_snapshots_is_a_run_without_noise(name):
    t = torch.randn(1, 60, 3, generator=torch.Generator().manual_seed(0))
    prepared = parse(name).prepare([t], torch.arange(60) % 2)
    assert getattr(prepared, "network_std", None) is None
