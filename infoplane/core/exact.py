"""Whole numbers as float64: converted where every one of them stays itself, refused where some would not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_EXACT = 2**53
"""Up to here float64 holds every whole number; beyond it neighbours become one."""


def fits_float64(least: int, most: int) -> bool:
    """Whether float64 tells all whole numbers from `least` to `most` apart."""
    return least >= -LARGEST_EXACT and most <= LARGEST_EXACT


def refuse_inexact(least: int, most: int, what: str) -> None:
    """Raise ValueError, which calls the numbers `what`, unless float64 tells those from `least` to `most` apart."""
    if not fits_float64(least, most):
        raise ValueError(
            f"{what} has whole numbers from {least} to {most}; estimates are made in float64, which tells them apart "
            "up to 2**53 = 9007199254740992: subtract what they share, or put numbers from 0 in their place "
            "(unique(..., return_inverse=True))"
        )


def extremes(array: npt.NDArray[Any]) -> tuple[int, int]:
    """Return the least and the largest of whole numbers, as Python integers; (0, 0) where there are none."""
    return (int(array.min()), int(array.max())) if array.size else (0, 0)


def exact_float64(values: Any, what: str) -> npt.NDArray[np.float64]:
    """Return an array of real numbers as float64.

    Raises
    ------
    ValueError
        For whole numbers beyond 2**53.
    """
    array = np.asarray(values)
    if array.dtype.kind in "iu" and array.itemsize == 8:  # shorter integers all fit
        refuse_inexact(*extremes(array), what)
    return np.asarray(array, dtype=np.float64)
