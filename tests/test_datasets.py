"""The shipped data against independent statements of what it must be."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import math
import struct
from collections import Counter

import numpy as np
import pytest

from infoplane import datasets

# I(T;Y) in bits of the first and of the last k columns of the patterns, from the published labels.
FIRST = """.0339062579 .0709404345 .1108190831 .1591223431 .2091849754 .2608961427 .3201247040 .3966851003
.4957202553 .6209631208 .7833368084 .9991571209"""
LAST = """.0339062579 .0704015965 .1106783704 .1545979932 .2061546427 .2608961427 .3314076839 .4081496914
.5010927264 .6235433027 .7833368084 .9991571209"""


def entropy(values) -> float:
    counts = Counter(values)
    n = sum(counts.values())
    return -sum(c / n * math.log2(c / n) for c in counts.values())


def information(t, y) -> float:
    t = [tuple(row) for row in t]
    return entropy(t) + entropy(y.tolist()) - entropy(zip(t, y.tolist(), strict=True))


def test_label_counts_and_entropy():
    x, y = datasets.twelve_bit()
    assert x.shape == (4096, 12)
    assert y.sum() == 2118
    assert entropy(y.tolist()) == pytest.approx(0.9991571208502711, abs=1e-15)
    assert (x @ 2 ** np.arange(11, -1, -1) == np.arange(4096)).all()


@pytest.mark.parametrize("k", range(1, 13))
def test_columns_carry_the_published_information(k):
    x, y = datasets.twelve_bit()
    assert information(x[:, :k], y) == pytest.approx(float(FIRST.split()[k - 1]), abs=1e-10)
    assert information(x[:, 12 - k :], y) == pytest.approx(float(LAST.split()[k - 1]), abs=1e-10)


def test_row_sum_carries_the_binomial_information():
    x, y = datasets.twelve_bit()
    assert information(x.sum(1, keepdims=True), y) == pytest.approx(0.627641239216, abs=1e-11)


def symmetries() -> list[tuple[int, ...]]:
    """All permutations of the vertices that keep every dot product, by extension one vertex at a time."""
    cosine = np.round(datasets.icosahedron() @ datasets.icosahedron().T, 6)
    found: list[tuple[int, ...]] = [()]
    for i in range(12):
        found = [
            (*p, c)
            for p, c in itertools.product(found, range(12))
            if c not in p and all(cosine[c, p[j]] == cosine[i, j] for j in range(i))
        ]
    return found


def test_labels_have_the_120_symmetries_of_the_icosahedron_and_no_other_transposition():
    x, y = datasets.twelve_bit()
    group = symmetries()
    assert len(group) == 120
    weights = 2 ** np.arange(11, -1, -1)
    for permutation in group:
        image = (x[:, permutation] @ weights).astype(int)
        assert (y[image] == y).all()
    swapped = x.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    assert (y[(swapped @ weights).astype(int)] != y).any()


def test_label_noise_follows_its_logistic_law():
    exact, noisy = datasets.twelve_bit().y, datasets.twelve_bit(noise=4.0, seed=1).y
    score = datasets.twelve_bit_score(datasets.twelve_bit().x.astype(float))
    p = 1 / (1 + np.exp(-(score - 98.5) / 4.0))
    # Sum of 4096 independent Bernoullis: six standard deviations.
    assert abs(noisy.sum() - p.sum()) < 6 * math.sqrt((p * (1 - p)).sum())
    assert 0 < (noisy != exact).sum() < 2048
    with pytest.raises(ValueError, match="at least 0, got -1"):
        datasets.twelve_bit(noise=-1)


def test_digits_equal_scikit_learns_copy():
    sklearn = pytest.importorskip("sklearn.datasets")
    x, y = datasets.digits()
    ours = sklearn.load_digits()
    assert x.shape == (1797, 64)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x * 16, ours.data)
    np.testing.assert_array_equal(y, ours.target)


def test_text_is_the_book_and_nothing_else():
    book = datasets.text()
    assert len(book) == 148_380
    assert hashlib.sha256(book.encode("ascii")).hexdigest() == (
        "443f3601e06a6fe1fe02bcdedaf10fc642b712b15b4dcee5307538488da175be"
    )
    assert len(set(book)) == 70
    assert [ord(c) for c in book if not (c == "\n" or 32 <= ord(c) < 127)] == []
    assert book.count("CHAPTER") == 12
    assert book.endswith("happy summer days.\n\nTHE END\n")
    lower = book.lower()
    for word in ("gutenberg", "fulcrum", " etext", "copyright", "licen", "trademark", "http", "www", "donation"):
        assert word not in lower
    # English in 27 symbols has 4.03 bits a letter, and 3.32 after one letter (Shannon, 1951, table of F_N).
    letters = " ".join("".join(c if c.isalpha() else " " for c in lower).split())
    assert entropy(letters) == pytest.approx(4.03, abs=0.05)
    assert entropy(itertools.pairwise(letters)) - entropy(letters[:-1]) == pytest.approx(3.32, abs=0.15)


def write_idx(path, array, compress):
    raw = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if compress else raw)


@pytest.mark.parametrize("compress", [False, True])
def test_idx_reads_both_forms(tmp_path, compress, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 5, dtype=np.uint8)
    suffix = ".gz" if compress else ""
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images, compress)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", labels, compress)
    monkeypatch.setenv("INFOPLANE_DATA", str(tmp_path))
    x, y = datasets.idx()
    np.testing.assert_array_equal(x, images.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(y, labels)
    with pytest.raises(FileNotFoundError, match="test split"):
        datasets.idx(tmp_path, split="test")


def test_idx_names_a_damaged_file(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, np.zeros((2, 28, 28), np.uint8), False)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"should hold 1584 bytes for shape \(2, 28, 28\), it has 1577"):
        datasets.read_idx(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="no IDX file"):
        datasets.read_idx(path)
