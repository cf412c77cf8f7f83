"""Labels under the null move between inputs: duplicates and repeated passes are no independent samples."""

from __future__ import annotations

import pytest
import torch

from infoplane.estimators import parse
from infoplane.estimators._shuffles import shuffles_of_inputs


def test_inputs_move_among_those_of_equal_size():
    rows = torch.tensor([2, 1, 5, 1, 2, 1, 2])
    drawn = shuffles_of_inputs(rows, draws=200, seed=0)
    assert drawn.shape == (200, 7)
    assert torch.equal(drawn.sort(1).values, torch.arange(7).expand(200, -1))
    assert torch.equal(rows[drawn], rows.expand(200, -1))
    assert (drawn[:, 2] == 2).all()
    for members in ([0, 4, 6], [1, 3, 5]):
        orders = {tuple(row) for row in drawn[:, members].tolist()}
        assert len(orders) == 6


def test_inputs_of_equal_size_are_permuted_freely():
    generator = torch.Generator().manual_seed(3)
    expected = torch.stack([torch.randperm(9, generator=generator) for _ in range(4)])
    assert torch.equal(shuffles_of_inputs(torch.full((9,), 3), draws=4, seed=3), expected)


@pytest.mark.parametrize(
    "spec", ["binning:n_bins=64", "adaptive:n_bins=64", "kde:variance=1e-4", "noise:std=0.01", "binning:n_bins=64+null"]
)
def test_random_labels_of_duplicated_inputs_do_not_exceed_the_null(spec):
    """A layer that tells 40 inputs apart reads H(Y), whatever the labels; rows of an input share its label."""
    g = torch.Generator().manual_seed(0)
    rows = torch.tensor([10, 15, 20, 25]).repeat(10)
    x_ids = torch.arange(40).repeat_interleave(rows)
    label = torch.randint(0, 2, (40,), generator=g)
    t = torch.randperm(40, generator=g).double()[x_ids][None, :, None]
    found = parse(spec).estimate(t, label[x_ids], x_ids=x_ids)
    value, null = found["I(T;Y)"], found["I(T;Y) null"]
    assert value.value.item() == pytest.approx(value.ceiling.item())
    assert null.value.item() == pytest.approx(value.value.item())
    assert bool(value.flags["below_null"])


@pytest.mark.parametrize("spec", ["binning:n_bins=32", "adaptive:n_bins=40"])
def test_a_noisy_layer_with_passes_of_some_inputs_is_unreliable(spec):
    """T is pure noise: inputs seen once seem to determine it, and 2.6 bit of I(X;T) come out instead of 0."""
    g = torch.Generator().manual_seed(0)
    x_ids = torch.cat([torch.arange(500), torch.arange(10).repeat(50)])
    noise = torch.randint(0, 32, (1000,), generator=g).double()
    t = torch.stack([noise, (x_ids % 32).double()])[:, :, None]
    found = parse(spec).estimate(t, x_ids % 2, x_ids=x_ids)
    for name in ("I(X;T)", "I(X;T|Y)"):
        assert found[name].flags["unreliable"].tolist() == [True, False]
    assert "unreliable" not in found["I(T;Y)"].flags
    every = x_ids.new_tensor(range(10)).repeat(100)
    assert "unreliable" not in parse(spec).estimate(t, every % 2, x_ids=every)["I(X;T)"].flags
