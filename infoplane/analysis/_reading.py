"""Reading layers for an analysis: steps in groups of one shape, what is lost by name, and tensors for estimators."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infoplane.analysis._positions import token_units
from infoplane.core.errors import StoreError
from infoplane.core.exact import extremes, fits_float64
from infoplane.core.steps import step_words
from infoplane.store import ActivationStore, Problem

_NARROW = {
    "bfloat16": (torch.int16, torch.bfloat16),
    "float8_e4m3fn": (torch.uint8, torch.float8_e4m3fn),
    "float8_e5m2": (torch.uint8, torch.float8_e5m2),
}


@dataclass(frozen=True)
class Refusal:
    """Steps that gave no value, and why: an estimator's reason, or the damage that kept them from being read."""

    steps: tuple[int, ...]
    reason: str
    damages: tuple[Problem, ...] = ()


def no_units(shape: tuple[int, ...]) -> str:
    """Why nothing can be said of a layer of this shape (without samples)."""
    return f"it has no units, shape {tuple(shape)} beside the samples"


def read_alike(
    store: ActivationStore, layer: str, steps: Sequence[int], refused: list[Refusal]
) -> list[tuple[list[int], npt.NDArray[Any]]]:
    """Read steps in groups of one shape and dtype; what proves damaged on reading is refused, the rest is read."""
    held = set(store.steps(layer))
    refused += _lost(store, layer, [s for s in steps if s not in held])
    steps = [s for s in steps if s in held]
    while steps:
        try:
            return [(steps, store.read(layer, steps))]
        except StoreError:
            held = set(store.steps(layer))
            gone = [s for s in steps if s not in held]
            if gone:
                refused += _lost(store, layer, gone)
                steps = [s for s in steps if s in held]
            elif len(steps) == 1:
                raise
            else:
                return _read_singly(store, layer, steps, refused)
    return []


def read_one_by_one(
    store: ActivationStore, layer: str, steps: Sequence[int], refused: list[Refusal]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The steps each by itself, (1, N, *unit_shape): for one token of a layer that is many times as large."""
    for step in steps:
        for _, array in read_alike(store, layer, [step], refused):
            yield step, array


def _lost(store: ActivationStore, layer: str, steps: Sequence[int]) -> list[Refusal]:
    """Steps that were there when the analysis began, each with the damage that took it."""
    found: dict[tuple[str, str], list[int]] = {}
    for step in steps:
        problem = store.why(layer, step)
        file, what = ("", "gone from the run meanwhile") if problem is None else (problem.file, problem.what)
        found.setdefault((file, what.removeprefix(f"layer {layer!r}: ")), []).append(step)
    out = []
    for (file, what), gone in found.items():
        damage = Problem(file, f"layer {layer!r}: {what}", tuple(gone))
        reason = f"{step_words(gone)} can no longer be read: {f'{file}: ' if file else ''}{what}"
        out.append(Refusal(tuple(gone), reason, (damage,)))
    return out


def _read_singly(
    store: ActivationStore, layer: str, steps: Sequence[int], refused: list[Refusal]
) -> list[tuple[list[int], npt.NDArray[Any]]]:
    single = [piece for step in steps for piece in read_alike(store, layer, [step], refused)]
    out = []
    for _, group in itertools.groupby(single, key=lambda piece: (piece[1].shape[1:], piece[1].dtype)):
        pieces = list(group)
        out.append(([s for kept, _ in pieces for s in kept], np.concatenate([array for _, array in pieces])))
    return out


def units_of(array: npt.NDArray[Any], units: slice) -> npt.NDArray[Any]:
    return array.reshape(*array.shape[:2], -1)[:, :, units]


def bad_at(store: ActivationStore, layer: str, steps: frozenset[int], token: int) -> frozenset[int]:
    """Those of the steps, at which the layer has NaN or infinite values, where this token has some."""
    units = token_units(store.layer(layer))[token]
    fine = {
        step
        for step, array in read_one_by_one(store, layer, sorted(steps), [])
        if torch.isfinite(to_tensor(units_of(array, units), store.layer(layer).dtype, "cpu")).all()
    }
    return steps - fine


def to_tensor(array: npt.NDArray[Any], dtype: str, device: str) -> Tensor:
    """(S, N, *unit_shape) as stored -> (S, N, U) on the device; narrow floats widened there to float32, exactly.

    Unsigned integers, which torch knows little about, become float64 where that is exact.
    """
    flat = np.require(array.reshape(*array.shape[:2], -1), requirements=["C", "W"])
    if dtype in _NARROW:
        bits, kind = _NARROW[dtype]
        t = torch.from_numpy(flat.view(np.int16) if bits is torch.int16 else flat).to(device).view(kind)
    else:
        t = torch.from_numpy(flat).to(device)
    if t.dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        return t.to(torch.float32)
    if t.dtype in (torch.uint16, torch.uint32) or (t.dtype == torch.uint64 and fits_float64(*extremes(array))):
        return t.to(torch.float64)
    return t
