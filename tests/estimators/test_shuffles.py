"""Labels under the null move between inputs: duplicates and repeated passes are no independent samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from infoplane.estimators import parse
from infoplane.estimators._labels import AllShuffles, percentiles_95, shuffles_of_inputs, shuffles_of_rows


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


def every_shuffle(ids: list[int]):
    """All orders of rows that move whole inputs to inputs of as many rows."""
    rows = {i: [r for r, j in enumerate(ids) if j == i] for i in sorted(set(ids))}
    for target in itertools.permutations(rows):
        if all(len(rows[a]) == len(rows[b]) for a, b in zip(rows, target, strict=True)):
            order = [0] * len(ids)
            for a, b in zip(rows, target, strict=True):
                for here, there in zip(rows[a], rows[b], strict=True):
                    order[here] = there
            yield torch.tensor(order)


@pytest.mark.parametrize(
    "ids", [[0, 1, 2, 3], [0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 1, 2, 3], [0, 0, 1, 2, 2, 3, 3, 3, 4], [0, 0]]
)
def test_mean_over_all_shuffles_as_written_out(ids):
    g = torch.Generator().manual_seed(len(ids))
    a, b = torch.randn(2, 3, len(ids), len(ids), generator=g, dtype=torch.float64)
    want = torch.stack([(a * b[:, s][:, :, s]).sum((1, 2)) for s in every_shuffle(ids)]).mean(0)
    shuffles = AllShuffles(torch.tensor(ids))
    torch.testing.assert_close(shuffles.mean(shuffles.sums(a), shuffles.sums(b)), want)
    # One of the two may be the same for all snapshots.
    torch.testing.assert_close(shuffles.mean(shuffles.sums(a), shuffles.sums(b[:1]))[0], want[0])


@pytest.mark.parametrize("ids", [[0, 1, 0, 2, 1, 2, 3], [5, 5, 1, 1, 2, 2], [0, 1, 2]])
def test_drawn_shuffles_are_some_of_all(ids):
    ids = torch.unique(torch.tensor(ids), return_inverse=True)[1]
    known = {tuple(s.tolist()) for s in every_shuffle(ids.tolist())}
    drawn = {tuple(s.tolist()) for s in shuffles_of_rows(ids, 200, seed=0)}
    assert drawn == known


def test_labels_that_differ_within_inputs_move_with_them():
    """One wrong label among 40 inputs of ten rows: the null of all others must not fall to that of single rows."""
    g = torch.Generator().manual_seed(0)
    t = torch.randn(40, 6, generator=g).repeat_interleave(10, 0)[None]
    y = torch.randint(0, 4, (40,), generator=g).repeat_interleave(10)
    y[3] = 1 - y[3].clamp(max=1)
    ids = torch.arange(40).repeat_interleave(10)
    for spec in ("binning", "kde", "noise:std=0.1", "knn+null", "gaussian+null"):
        found = parse(spec).estimate(t, y, x_ids=ids)
        assert float(found["I(T;Y) null"].value) > 0.5 * float(found["I(T;Y)"].value), spec


@pytest.mark.parametrize("spec", ["kde", "noise:std=0.3", "gaussian+null", "probe+null:draws=5"])
def test_targets_of_repeated_inputs_are_shuffled_together(spec):
    """Random targets of 30 inputs, twelve rows each: what a layer that tells inputs apart reads is chance."""
    g = torch.Generator().manual_seed(1)
    t = torch.randn(30, 8, generator=g).repeat_interleave(12, 0)[None]
    y = torch.randn(30, generator=g).double().repeat_interleave(12)
    found = parse(spec).estimate(t, y, x_ids=torch.arange(30).repeat_interleave(12))
    assert bool(found["I(T;Y)"].flags["below_null"]) or float(found["I(T;Y)"].value) < 0.1


@pytest.mark.parametrize("passes", [1, 2, 10])
def test_hsic_of_random_labels_is_what_shuffled_inputs_read(passes):
    g = torch.Generator().manual_seed(2)
    t, y = torch.randn(1, 40, 6, generator=g).double(), torch.randint(0, 4, (40,), generator=g)
    once = parse("hsic").estimate(t, y)
    ids = torch.arange(40).repeat_interleave(passes)
    found = parse("hsic").estimate(t.repeat_interleave(passes, 1), y.repeat_interleave(passes), x_ids=ids)
    for name in ("nHSIC(T;Y)", "nHSIC(T;Y) null"):
        assert float(found[name].value) == pytest.approx(float(once[name].value), rel=0.02)
    assert float(found["nHSIC(T;Y) null"].value) > 0.9 * float(found["nHSIC(T;Y)"].value)
    plain, null = (float(found[f"HSIC(T;Y){end}"].value) for end in ("", " null"))
    assert 0.5 * plain < null < 2 * plain


@pytest.mark.parametrize("passes", [1, 2, 10])
def test_spectral_information_of_random_labels_does_not_grow_with_repeats(passes):
    """DSMI compares a class with as many samples drawn from all: drawn by input, or a class has too few."""
    g = torch.Generator().manual_seed(3)
    t, y = 30 * torch.randn(1, 40, 6, generator=g).double(), torch.randint(0, 4, (40,), generator=g)
    ids = torch.arange(40).repeat_interleave(passes)
    found = parse("dse:sigma=1.0").estimate(t.repeat_interleave(passes, 1), y.repeat_interleave(passes), x_ids=ids)
    assert abs(float(found["DSMI(T;Y)"].value)) < 0.1


@pytest.mark.parametrize("draws", [1, 2, 20, 41, 200])
def test_percentiles_are_those_of_numpy(draws):
    values = torch.randn(3, draws, generator=torch.Generator().manual_seed(draws), dtype=torch.float64)
    for found, percent in zip(percentiles_95(values), (2.5, 97.5), strict=True):
        assert found.numpy() == pytest.approx(np.percentile(values.numpy(), percent, axis=-1), abs=1e-12)
