"""The probe set: ids, labels, parts, repeats, and what is refused."""

import numpy as np
import pytest
import torch

from infoplane.hooks.probe import as_probe_set

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def test_duplicate_inputs_share_an_id():
    x = X[[0, 1, 0, 2, 1, 0]].clone()
    assert as_probe_set((x, Y)).record.input_ids.tolist() == [0, 1, 0, 2, 1, 0]
    x[2, 1] += 1e-6
    assert as_probe_set((x, Y)).record.input_ids.tolist() == [0, 1, 2, 3, 1, 0]


def test_minus_zero_is_zero():
    x = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, -1.0]])
    assert as_probe_set((x, Y[:3])).record.input_ids.tolist() == [0, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_ids_in_every_dtype(dtype):
    x = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 1]]).to(dtype)
    assert as_probe_set((x, Y[:4])).record.input_ids.tolist() == [0, 1, 0, 2]


def test_several_inputs_are_compared_together():
    a, b = torch.tensor([1, 1, 1, 2]), torch.tensor([[5.0], [6.0], [5.0], [5.0]])
    for x in ((a, b), {"a": a, "b": b}):
        probe = as_probe_set((x, Y[:4]))
        assert probe.record.input_ids.tolist() == [0, 1, 0, 2]
        assert probe.record.inputs.tolist() == [[1, 5], [1, 6], [1, 5], [2, 5]]


def test_the_probe_does_not_follow_the_callers_tensor():
    x = X.clone()
    probe = as_probe_set((x, Y))
    x.zero_()
    assert torch.equal(probe.inputs.args[0], X)


def test_parts_are_concatenated():
    probe = as_probe_set({"train": (X[:4], Y[:4]), "test": (X[4:], Y[4:])})
    assert probe.record.part_names == ("train", "test")
    assert probe.record.part.tolist() == [0, 0, 0, 0, 1, 1]
    assert torch.equal(probe.inputs.args[0], X)
    assert probe.record.labels.tolist() == Y.tolist()
    assert probe.record.labels.dtype == np.int64


def test_repeats_append_rows_with_the_same_input_ids():
    probe = as_probe_set((X, Y), repeats=(2, 3))
    record = probe.record
    assert record.samples == 12
    assert record.repeats.tolist() == [0] * 6 + [1, 1, 2, 2, 3, 3]
    assert record.input_ids.tolist() == [*range(6), 0, 1, 0, 1, 0, 1]
    assert record.labels.tolist() == [*Y.tolist(), 0, 1, 0, 1, 0, 1]
    chunks = list(probe.chunks(4))
    assert [(a, b, k) for a, b, _, k in chunks] == [(0, 4, 0), (4, 6, 0), (6, 8, 1), (8, 10, 2), (10, 12, 3)]
    assert torch.equal(chunks[3][2].args[0], X[:2])


def test_repeats_of_a_seeded_subset():
    a, b = (as_probe_set((X, Y), repeats=(3, 1), repeat_seed=s).record.sample_ids[6:].tolist() for s in (1, 1))
    others = {tuple(as_probe_set((X, Y), repeats=(3, 1), repeat_seed=s).record.sample_ids[6:]) for s in range(9)}
    assert a == b == sorted(set(a))
    assert len(others) > 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_shares_cover_the_probe_once(world_size):
    probe = as_probe_set((X, Y), repeats=(3, 2))
    shares = [probe.share(r, world_size) for r in range(world_size)]
    assert sorted(np.concatenate([s.rows for s in shares]).tolist()) == list(range(12))
    for share in shares:
        inputs = torch.cat([c[2].args[0] for c in share.chunks(2)])
        np.testing.assert_array_equal(inputs.numpy(), probe.record.inputs[share.rows])


def test_regression_targets():
    assert as_probe_set((X, torch.rand(6))).record.target == "continuous"
    assert as_probe_set((X, torch.rand(6, 1))).record.labels.shape == (6,)
    assert as_probe_set((X, torch.rand(6, 2))).record.labels.shape == (6, 2)
    with pytest.warns(UserWarning, match=r"regression targets, .* pass y.long\(\)"):
        assert as_probe_set((X, Y.float())).record.target == "continuous"


def test_labels_of_any_integer_kind():
    for y in (Y.bool(), Y.to(torch.uint8), Y[:, None], Y.numpy(), Y.tolist()):
        record = as_probe_set((X, y)).record
        assert record.target == "discrete"
        assert record.labels.shape == (6,)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ((X, Y[:5]), "the probe has 6 inputs but 5 labels"),
        ((X, torch.tensor(1)), "the probe has 6 inputs but a scalar"),
        ((X, Y - 1), "class labels must not be negative, got -1 at sample 0"),
        ((X, torch.tensor([0.5, float("nan"), 1, 1, 1, 1])), "labels must be finite, got nan at sample 1"),
        ((X, torch.stack([Y, Y], 1)[..., None].repeat(1, 1, 2)), r"or \(samples, positions\), got \(6, 2, 2\)"),
        ((X, torch.full((6,), 2**63 + 1, dtype=torch.uint64)), r"below 2\*\*63, got 9223372036854775809"),
        ((X, ["cat", None, "dog", "cat", "dog", "cat"]), "labels must be integers .* got object"),
        (
            ({"train": (X, torch.rand(6, 2)), "test": (X, torch.rand(6, 3))}),
            "same columns, got train .6, 2., test .6, 3.",
        ),
        ((X, torch.rand(6, 2, 2)), r"\(samples, k\), got \(6, 2, 2\)"),
        ((X, torch.zeros(6, dtype=torch.complex64)), "got complex numbers"),
        ((X[:1], Y[:1]), "at least 2 samples, got 1"),
        ((X[:0], Y[:0]), "at least 2 samples, got 0"),
        (((X, X[:5]), Y), r"same number of samples, got \[5, 6\]"),
        ((torch.tensor(1.0), Y), "got a scalar"),
        (((), Y), "the probe has no inputs"),
        ({}, "the probe has no parts"),
        ({"train": (X, Y), "test": (X[:, :2], Y)}, "parts 'train' and 'test' differ"),
        ({"train": (X, Y), "test": (X.double(), Y)}, r"dtype: 0 \(6, 3\) float32, and 0 \(6, 3\) float64"),
        ({"train": ({"a": X}, Y), "test": ({"b": X}, Y)}, r"names, .*: a \(6, 3\) float32, and b \(6, 3\) float32"),
        ({"train": (X, Y), "test": (X, torch.rand(6))}, "of one kind"),
    ],
)
def test_bad_probes(probe, message):
    with pytest.raises(ValueError, match=message):
        as_probe_set(probe)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (X, "got Tensor"),
        ((X, Y, Y), "got tuple of length 3"),
        ((["a", "b"], Y), "probe input 0 must be a tensor .* got str"),
        ({"x": X}, "probe part 'x' must be"),
    ],
)
def test_bad_forms(probe, message):
    with pytest.raises(TypeError, match=message):
        as_probe_set(probe)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_ids": [3, 4, 3, 5, 4, 6]}, "2 occur more than once, first 3"),
        ({"sample_ids": [1, 2]}, r"ids must be 6 integers, got shape \(2,\)"),
        ({"input_ids": [0.5] * 6}, "ids must be 6 integers"),
        ({"label_names": ("a", "b")}, "label 2 has no name: label_names has 2 entries"),
        ({"repeats": (7, 1)}, r"1 <= m <= 6 .* got \(7, 1\)"),
        ({"repeats": (2, 0)}, r"got \(2, 0\)"),
        ({"mask": torch.ones(5, 2)}, r"mask must have shape \(6, tokens\), got \(5, 2\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        as_probe_set((X, Y), **options)


def test_large_inputs_leave_only_their_ids(monkeypatch):
    monkeypatch.setattr("infoplane.hooks.probe.KEPT_INPUT_BYTES", 6 * 3 * 4 - 1)
    assert as_probe_set((X, Y)).record.inputs is None
    monkeypatch.setattr("infoplane.hooks.probe.KEPT_INPUT_BYTES", 6 * 3 * 4)
    assert as_probe_set((X, Y)).record.inputs is not None


def test_the_inputs_come_back_in_their_shapes():
    images, tokens = torch.randn(5, 1, 2, 3), torch.arange(20).reshape(5, 4)
    record = as_probe_set({"a": (images[:2], [0, 1]), "b": (images[2:], [0, 1, 0])}).record
    (found,) = record.shaped_inputs()
    np.testing.assert_array_equal(found, images.numpy())
    record = as_probe_set(({"x": images, "ids": tokens}, [0, 1] * 2 + [0]), repeats=(2, 1)).record
    assert record.input_shapes == ((1, 2, 3), (4,))
    found = record.shaped_inputs()
    assert [a.shape for a in found] == [(7, 1, 2, 3), (7, 4)]
    np.testing.assert_array_equal(found[1][5:], tokens[:2].numpy())
