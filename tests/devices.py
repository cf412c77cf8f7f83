"""`pytest --device`: where the suites compute, and whether a CPU takes the accelerator's branches.

`cpu` is as always; `accelerator-on-cpu` takes the accelerator's branches on CPU tensors; on `cuda` or `cuda:N`
estimates, probe passes and analyses run there, and their results come back for the tests to look at.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infoplane import analysis
from infoplane.core.device import accelerator_branches
from infoplane.estimators import Quantity, available

CPU = torch.device("cpu")
ON_CPU = "accelerator-on-cpu"
_asked = "cpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", metavar="DEVICE", help=f"cpu, cuda, cuda:N or {ON_CPU}")


def pytest_sessionstart(session: pytest.Session) -> None:
    global _asked
    _asked = session.config.getoption("--device")
    if _asked in ("cpu", ON_CPU):
        return
    kind, _, index = _asked.partition(":")
    if kind != "cuda" or (":" in _asked and not index.isdecimal()):
        raise pytest.UsageError(f"--device must be cpu, cuda, cuda:N or {ON_CPU}, got {_asked!r}")
    found = torch.cuda.device_count()
    if int(index or 0) >= found:
        raise pytest.UsageError(
            f"--device {_asked} was asked for, torch finds {found} CUDA devices; --device {ON_CPU} runs the "
            "accelerator's branches without one"
        )


def asked() -> torch.device:
    """Where the session computes."""
    return CPU if _asked == ON_CPU else torch.device(_asked)


@pytest.fixture
def device() -> torch.device:
    return asked()


@pytest.fixture(autouse=True)
def _branch(request: pytest.FixtureRequest) -> Iterator[None]:
    """The accelerator's branches where they were asked for, but in tests that pin down the CPU's own."""
    own = request.node.get_closest_marker("cpu_branch")
    if own and _asked.startswith("cuda"):
        pytest.skip("pins down the CPU's branch")
    with contextlib.nullcontext() if own or _asked != ON_CPU else accelerator_branches():
        yield


@pytest.fixture(scope="session", autouse=True)
def _computed_there() -> Iterator[None]:
    if not _asked.startswith("cuda"):
        yield
        return
    with estimates_on(asked()), analyses_on(_asked):
        yield


@contextlib.contextmanager
def estimates_on(device: torch.device) -> Iterator[None]:
    """Every built-in estimator computes on `device`; its results come back to where its inputs are."""
    with pytest.MonkeyPatch.context() as patch:
        for cls in available().values():
            patch.setattr(cls, "estimate", _estimating(cls.estimate, device))
            if hasattr(cls, "prepare"):
                patch.setattr(cls, "prepare", _preparing(cls.prepare, device))
        yield


def _estimating(estimate: Any, device: torch.device) -> Any:
    @functools.wraps(estimate)
    def there(self: Any, t: Any, y: Any, **more: Any) -> Any:
        found = estimate(self, moved(t, device), moved(y, device), **moved(more, device))
        return moved(found, t.device)

    return there


def _preparing(prepare: Any, device: torch.device) -> Any:
    @functools.wraps(prepare)
    def there(self: Any, blocks: Any, y: Any, x: Any = None) -> Any:
        return prepare(self, _Moved(blocks, device), moved(y, device), moved(x, device))

    return there


class _Moved:
    """Blocks of a run whose tensors are brought to a device as they are read."""

    def __init__(self, blocks: Any, device: torch.device) -> None:
        self._blocks, self._device = blocks, device

    def __iter__(self) -> Iterator[Tensor]:
        return (block.to(self._device) for block in self._blocks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blocks, name)


@contextlib.contextmanager
def analyses_on(device: str) -> Iterator[None]:
    """`analyze` takes this device where it is given none."""
    chosen = analysis.device_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "device_of", lambda given: chosen(device if given is None else given))
        yield


@contextlib.contextmanager
def model_on(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model is on `device` within, and back on the CPU afterwards."""
    if device == CPU:
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to(CPU)


def moved(value: Any, device: torch.device) -> Any:
    """The same with every tensor within on `device`: in tuples, lists, dicts and quantities as well."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(part, device) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(part, device) for part in value)
    if isinstance(value, Quantity):
        parts = {name: moved(getattr(value, name), device) for name in ("value", "low", "high", "ceiling", "flags")}
        return Quantity(bound=value.bound, unit=value.unit, estimand=value.estimand, **parts)
    return value
