"""Puts `tests/` on the import path, so that every test can say `from truths import ...`."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, by numpy and torch, and by every process of a test
sys.path.insert(0, str(Path(__file__).parent))

from devices import _branch, _computed_there, device, pytest_addoption, pytest_sessionstart  # noqa: F401
from processes import _no_process_left_behind, pytest_configure, pytest_unconfigure, warm_workers  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """Tests are small: more threads cost more than they give on a shared machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What depends on syncing is tested on a simulated disk or in a process: here a run is synced a dozen times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


def pytest_collection_finish() -> None:
    """What is imported by now stays: looking through it again for garbage took an eighth of the time of the tests."""
    gc.freeze()


# With INFOPLANE_STRICT_SKIPS a test may be skipped only for what its markers say it needs: "1" on a machine without
# the extras and a browser, "all" where everything that can be installed is.
_STRICT = os.environ.get("INFOPLANE_STRICT_SKIPS", "")
_EXCUSES = {"gpu", "data"} | (set() if _STRICT == "all" else {"extra", "browser"})
_unexcused: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called in the process that collects the results, whichever process ran the test."""
    if report.skipped and not hasattr(report, "wasxfail") and not _EXCUSES & set(report.keywords):
        _unexcused.append(f"{report.nodeid}: {report.longrepr[2] if isinstance(report.longrepr, tuple) else 'skipped'}")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped and _STRICT == "all":
        _unexcused.append(f"{report.nodeid}: its imports")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _STRICT and _unexcused and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _STRICT and _unexcused:
        terminalreporter.section("skipped without an excuse", red=True)
        terminalreporter.write_line("\n".join(_unexcused))


@pytest.fixture
def short_trainings(monkeypatch):
    """Networks that an estimator trains end after a few steps: for what must hold however long a training goes on."""
    from infoplane.estimators import _network_probe, auto

    monkeypatch.setattr(_network_probe, "PLAN", replace(_network_probe.PLAN, steps=40))
    monkeypatch.setattr(auto, "LOW", {**auto.LOW, "flow": {"steps": 20, "folds": 2}})


@pytest.fixture
def foreign_here(monkeypatch):
    """HDF5 and MATLAB files of other programs are read in this process, without limits: a child costs half a second."""
    from infoplane.core import limited
    from infoplane.store import unpack

    monkeypatch.setattr(limited, "limits_of_this_process", limited.Limits)
    monkeypatch.setattr(limited, "take", lambda *_, **__: None)
    monkeypatch.setattr(limited, "ask", lambda words, *_: json.loads(json.dumps(unpack(*words[2:]))))
    monkeypatch.setenv("HDF5_PLUGIN_PRELOAD", "::")
