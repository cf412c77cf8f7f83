"""The benchmarks of a device: their own arithmetic, and what they say where there is none; another checkout."""

from __future__ import annotations

import importlib
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import _device, _harness, against
from infoplane.estimators import parse


@pytest.mark.parametrize(
    "spec", [_device.SPECS[0], *(pytest.param(spec, marks=pytest.mark.slow) for spec in _device.SPECS[1:])]
)
def test_every_row_has_its_times(spec):
    line = _device.measure(spec, 60, 3, torch.device("cpu"))
    assert min(line.device_ms, line.cpu_ms, line.plain_ms, line.copy_ms) > 0
    assert len(str(line).split()) == 11


def test_every_module_has_rows_or_is_a_command():
    for module in _harness.modules():
        assert "def cases(" in (Path(_harness.__file__).parent / f"{module}.py").read_text(), module


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


def test_without_the_device_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--device", "xpu"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("benchmarks", run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().out.splitlines() == [
        "benchmarks: torch finds no device 'xpu' on this machine; leave --device out for the CPU's rows"
    ]


@pytest.fixture
def checkouts(tmp_path, monkeypatch):
    """Two checkouts whose packages differ in what one call takes; the benchmarks are those of the first."""
    for name, repeats in (("new", 4), ("old", 1)):
        package = tmp_path / name / "infoplane"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"REPEATS = {repeats}\n")
    copied = tmp_path / "new" / "benchmarks"
    copied.mkdir()
    for file in Path(against.__file__).parent.glob("*.py"):
        (copied / file.name).write_text(file.read_text())
    (copied / "one.py").write_text(
        "import infoplane\n"
        "MANY = 200_000 * infoplane.REPEATS\n"
        "from benchmarks._harness import Case\n"
        "def cases(quick=False):\n"
        "    for case in ('burn', 'burn'):\n"
        "        yield Case(id='Z1', case=case, against='-', candidate=lambda: sum(range(MANY)))\n"
        "    yield Case(id='Z2', case='no call', against='-')\n"
    )
    monkeypatch.setattr(against, "HERE", tmp_path / "new")
    return tmp_path / "old"


@pytest.mark.slow
def test_another_checkout_is_measured_row_by_row(checkouts, capsys):
    """The same benchmark on both packages: one that does four times the work is a quarter as fast, and said to be."""
    held = list(against.compare(checkouts, "one", quick=True, only=""))
    lines = capsys.readouterr().out.splitlines()
    assert held == [False, True]
    assert [line.split()[:2] for line in lines] == [["Z1", "burn"]] * 2
    assert float(lines[0].split("x")[1].split()[0]) == pytest.approx(0.25, rel=0.4)
    assert lines[0].endswith("SLOWER")
    assert lines[1].endswith("MiB")


@pytest.mark.slow
def test_a_row_that_fails_names_its_error(checkouts):
    (against.HERE / "benchmarks" / "one.py").write_text("def cases(quick=False):\n    yield undefined\n")
    with pytest.raises(RuntimeError, match="NameError: name 'undefined' is not defined"):
        list(against.compare(checkouts, "one", quick=True, only=""))


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("module", _harness.modules())
def test_every_opponent_computes_the_same(module):
    """What the rows compare agrees within the stated tolerance, and every package named is installed."""
    pytest.importorskip("infomeasure", reason="needs the extra bench")
    joblib = pytest.importorskip("joblib", reason="needs the extra bench")
    # Threads, for joblib's processes would outlive the test.
    with joblib.parallel_config(backend="threading"):
        for case in importlib.import_module(f"benchmarks.{module}").cases(quick=True):
            assert "not installed" not in case.against
            case.check()
            case.reference()
