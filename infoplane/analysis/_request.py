"""What the caller of an analysis asked for, checked before any work: device, runs, estimators."""

from __future__ import annotations

import os
from typing import Any

import torch

from infoplane.estimators import Estimator, config_json, parse
from infoplane.store import ActivationStore, open_run


def device_of(device: str | torch.device | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"no device {device!r}; expected cpu, cuda or cuda:N") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, torch finds no CUDA; leave device out for the CPU")
    return str(found)


def device_memory(device: str) -> int:
    """Bytes that the device has in all."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def open_runs(run: Any) -> list[ActivationStore]:
    """Stores of one run or several, each run once."""
    several = isinstance(run, list | tuple)
    stores: dict[str, ActivationStore] = {}
    for each in run if several else [run]:
        store = open_run(each) if isinstance(each, str | os.PathLike) else each
        known = stores.setdefault(store.run_id, store)
        if os.path.abspath(known.path) != os.path.abspath(store.path):  # noqa: PTH100
            raise ValueError(f"{known.path} and {store.path} are copies of one run ({store.run_id}); give one of them")
    if not stores:
        raise ValueError("analyze needs at least one run, got an empty sequence")
    return list(stores.values())


def build_estimators(estimators: Any) -> list[Any]:
    """Estimators from specs, classes and instances, each once."""
    wanted = list(estimators) if isinstance(estimators, list | tuple) else [estimators]
    built: dict[tuple[str, str], Any] = {}
    for each in wanted:
        estimator = parse(each) if isinstance(each, str) else each() if isinstance(each, type) else each
        if not isinstance(estimator, Estimator):
            raise TypeError(
                f"expected an estimator or its spec such as 'binning:n_bins=60', got {type(estimator).__name__}"
            )
        built.setdefault((estimator.name, config_json(estimator)), estimator)
    if not built:
        raise ValueError("analyze needs at least one estimator, got none")
    return list(built.values())
