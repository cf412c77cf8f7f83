from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import infoplane
from infoplane.analysis.source import to_tensor


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_every_narrow_float_is_widened_exactly(dtype):
    kind = getattr(torch, dtype)
    if kind.itemsize == 2:
        bits = np.arange(2**16, dtype=np.uint16).reshape(1, 2**8, 2**8)
        expected = torch.from_numpy(bits.view(np.int16).copy()).view(kind).double()
    else:
        bits = np.arange(2**8, dtype=np.uint8).reshape(1, 2**4, 2**4)
        expected = torch.from_numpy(bits.copy()).view(kind).double()
    stored = bits.view(np.float16) if dtype == "float16" else bits
    t = to_tensor(stored, dtype, "cpu")
    assert t.dtype == torch.float32
    assert torch.equal(t.double().nan_to_num(nan=12345.0), expected.nan_to_num(nan=12345.0))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int64", "uint8", "uint16", "uint32", "bool"])
def test_other_kinds_keep_their_values(dtype):
    values = np.array([[[0, 1, 1], [1, 0, 1]]]).astype(dtype)
    if dtype.startswith("uint"):
        values[0, 0, 0] = np.iinfo(dtype).max
    assert to_tensor(values, dtype, "cpu").double().tolist() == values.astype(np.float64).tolist()


def test_read_only_and_strided_arrays_are_taken_without_a_warning():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    values.setflags(write=False)
    t = to_tensor(values[:, ::2], "float32", "cpu")
    assert t.tolist() == values[:, ::2].tolist()
    t.zero_()
    assert values.sum() == 276


def test_unit_axes_are_flattened():
    assert to_tensor(np.zeros((2, 3, 4, 5), np.float32), "float32", "cpu").shape == (2, 3, 20)
    assert to_tensor(np.zeros((2, 3), np.float32), "float32", "cpu").shape == (2, 3, 1)


@pytest.mark.gpu
def test_widening_happens_on_the_device():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    bits = np.arange(2**16, dtype=np.uint16).reshape(1, 2**8, 2**8)
    t = to_tensor(bits, "bfloat16", "cuda")
    assert t.is_cuda
    assert torch.equal(t.cpu().nan_to_num(), to_tensor(bits, "bfloat16", "cpu").nan_to_num())


@pytest.mark.parametrize(("repeats", "rows"), [((5, 3), 20), ((20, 3), 80)])
def test_passes_over_some_inputs_do_not_weigh_more(tmp_path, repeats, rows):
    """H(X) is that of the probe, log2 20, whichever inputs were repeated: the ceiling of I(X;T)."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=g), torch.arange(20) % 2
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 2), torch.nn.Tanh())
    recorder = infoplane.Recorder(model, (x, y), tmp_path / "run", repeats=repeats, mode="train", quiet=True)
    with pytest.warns(UserWarning, match="order cannot be checked"), recorder:
        pass
    table = infoplane.analyze(tmp_path / "run", ["binning", "noise:std=0.1"], layers="2", progress=False)
    own = table.select(quantity="I(X;T)")
    assert own.ceiling == pytest.approx([math.log2(20)] * 2, abs=1e-12)
    assert own.select(estimator="binning").n_samples.tolist() == [rows]
    assert own.select(estimator="noise").n_samples.tolist() == [20 * 4 if rows == 80 else 35]
