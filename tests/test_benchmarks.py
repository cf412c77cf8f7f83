"""The benchmarks of a device: their own arithmetic, and what they say where there is none."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from benchmarks import _device
from infoplane.estimators import parse


@pytest.mark.parametrize(
    "spec", [_device.SPECS[0], *(pytest.param(spec, marks=pytest.mark.slow) for spec in _device.SPECS[1:])]
)
def test_every_row_has_its_times(spec):
    line = _device.measure(spec, 60, 3, torch.device("cpu"))
    assert min(line.device_ms, line.cpu_ms, line.plain_ms, line.copy_ms) > 0
    assert len(str(line).split()) == 11


def test_what_stands_beside_is_the_same_method():
    """Nothing is compared with code that computes something else."""
    device = torch.device("cpu")
    t, y = _device.layer(1, 400, 2, device), _device.labels(400, device)
    found = {spec.partition(":")[0]: parse(spec).estimate(t, y) for spec in _device.SPECS}
    codes = float(_device.plain_binning(t[0], y))
    mine = parse("binning:n_bins=30,null_draws=0,range=(-1,1)").estimate(t, y)
    assert codes == pytest.approx(float(mine["I(T;Y)"].value - torch.tensor(math.log2(10))), abs=1e-3)
    assert float(_device.plain_kde(t[0], y)[0]) == pytest.approx(float(found["kde"]["I(X;T)"].value), abs=1e-3)
    assert float(_device.plain_knn(t[0], y)) / math.log(2) == pytest.approx(
        float(found["knn"]["I(T;Y)"].value), abs=0.05
    )
    assert float(_device.plain_noise(t[0], y)[0]) == pytest.approx(float(found["noise"]["I(X;T)"].value), abs=0.2)


def test_without_the_device_one_line_and_exit_code_2():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--device", "xpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "benchmarks: torch finds no device 'xpu' on this machine; leave --device out for the CPU's rows"
    ]
