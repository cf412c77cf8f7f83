"""Labels that are easily mistaken: the same words for a recorder's probe and for arrays from elsewhere."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import infoplane
from infoplane.core.labels import as_labels, doubts
from infoplane.hooks.probe import as_probe_set

N = 12
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = np.arange(N) % 3
HOT = np.eye(3)[Y]
SOFT = np.full((N, 3), 0.05) + 0.85 * HOT

REFUSED = {
    "one-hot floats": (HOT.astype(np.float32), r"one-hot rows \(12, 3\); for the classes pass y\.argmax\(1\)"),
    "one-hot integers": (HOT.astype(int), r"one-hot rows .* y\.argmax\(1\)"),
    "one-hot bools in a tensor": (torch.tensor(HOT).bool(), r"one-hot rows .* y\.argmax\(1\)"),
    "multi-label floats": (np.maximum(HOT, HOT[::-1]), r"several labels for a sample; pass one column, y\[:, j\]"),
    "multi-label bytes": (np.maximum(HOT, HOT[::-1]).astype(np.uint8), "or number the combinations"),
    "no label at all": (np.zeros((N, 2)), "several labels for a sample"),
    "smoothed": (SOFT, r"soft, rows \(12, 3\) that sum to 1; for classes pass y\.argmax\(1\)"),
    "probabilities in bfloat16": (torch.tensor(SOFT).bfloat16(), r"leave out one column.* y\[:, :-1\]"),
    "two columns of them": (np.stack([Y / 2, 1 - Y / 2], 1), "that sum to 1|one-hot"),
    "text": (np.array(["cat", "dog", "owl"])[Y], r"labels are text \('cat', \.\.\.\); number the classes"),
    "text as objects": (np.array(["cat", "dog", "owl"], dtype=object)[Y], "return_inverse=True.* label_names"),
    "bytes": (np.array([b"cat", b"dog", b"owl"])[Y], "labels are text"),
    "a list of text": (["cat", "dog"] * 6, "labels are text"),
    "ignored": (np.where(Y == 2, -100, Y), "got -100 at sample 2, which losses ignore; leave these 4 samples out"),
    "minus one": (torch.tensor(Y) - 1, "must not be negative, got -1 at sample 0; leave these 4"),
    "both signs": (np.sign(Y - 0.5).astype(np.int8), "got -1 at sample 0; .* number the classes from 0"),
    "masked": (np.ma.masked_equal(Y, 2), "labels have 4 masked entries; leave those rows out"),
    "dates": (np.array(["2020-01-01"] * N, dtype="datetime64[D]"), r"got datetime64\[D\]"),
    "lists of different lengths": ([[1], [1, 2]] * 6, "rows of different lengths"),
    "lists as objects": (np.array([[1], [1, 2]] * 6, dtype=object), "rows of different lengths"),
    "not finite": (np.where(Y == 1, np.inf, 0.5), "labels must be finite, got inf at sample 1; leave these 4 out"),
}
DOUBTED = {
    "classes as floats": (Y.astype(np.float32), r"regression targets, but these are whole .* pass y\.long\(\)"),
    "a column of them": (torch.tensor(Y)[:, None].double(), "whole numbers with few values"),
    "void": (np.where(Y == 2, 255, Y), "class 255 stands beside classes up to 1: .* leave these 4 samples out"),
    "void in bytes": (
        torch.tensor(np.where(Y == 0, 255, Y)).to(torch.uint8),
        "class 255 stands beside classes up to 2",
    ),
}
FINE = {
    "classes": Y,
    "bytes that use their range": np.array([0, 255, 254, 128, 1, 201] * 2, dtype=np.uint8),
    "targets": np.linspace(0, 1, N),
    "vectors": np.linspace(0, 1, 2 * N).reshape(N, 2),
    "whole numbers": np.arange(N) * 1000.0 + 0.5,
    "a masked array without a mask": np.ma.array(Y),
    "a column of Python integers": np.array(list(Y), dtype=object),
}


def recorded(y, tmp_path):
    return as_probe_set((X, y)).record.labels


def imported(y, tmp_path):
    return infoplane.from_arrays(tmp_path / "run", {1: {"fc": X}}, y).probe.labels


@pytest.mark.parametrize("take", [recorded, imported])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_what_to_do(case, take, tmp_path):
    y, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        take(y, tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("take", [recorded, imported])
@pytest.mark.parametrize("case", DOUBTED)
def test_taken_with_a_warning_at_the_users_line(case, take, tmp_path):
    y, message = DOUBTED[case]
    with pytest.warns(UserWarning, match=message) as caught:
        labels = take(y, tmp_path)
    assert caught[0].filename == __file__
    assert labels.tolist() == np.asarray(y).reshape(-1).tolist()


@pytest.mark.parametrize("take", [recorded, imported])
@pytest.mark.parametrize("case", FINE)
def test_taken_in_silence(case, take, tmp_path):
    np.testing.assert_array_equal(take(FINE[case], tmp_path), np.asarray(FINE[case]).astype(float))


def test_labels_of_any_size_stay_exact():
    y = np.array([2**60, 2**60 + 1, 2**62 + 3])
    assert as_labels(y, 3).tolist() == y.tolist()
    assert as_labels(y.astype(np.uint64), 3).tolist() == y.tolist()


def test_many_classes_as_floats():
    dense, sparse = np.repeat(np.arange(50.0), 4), np.arange(200) * 7.0
    assert "whole numbers" in doubts(dense)[0]
    assert doubts(sparse) == []


def test_a_loader_of_text_and_a_probe_of_parts():
    data = [(x, ("cat", "dog")[i % 2]) for i, x in enumerate(X)]
    with pytest.raises(ValueError, match="labels are text"):
        as_probe_set(DataLoader(data, batch_size=5))
    pairs = [(x, (0.1 * i, 0.2)) for i, x in enumerate(X)]  # collated to two rows of labels, not two columns
    with pytest.raises(TypeError, match="2 tensors of labels a batch; choose one, or stack them"):
        as_probe_set(DataLoader(pairs, batch_size=2))
    with pytest.warns(UserWarning, match="class 255") as caught:
        as_probe_set({"train": (X, Y), "test": (X, np.where(Y == 0, 255, 1))})
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_probe_set({"train": (X, Y), "test": (X, Y)})
