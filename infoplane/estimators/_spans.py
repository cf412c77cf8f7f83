"""Consecutive rows, sorted by class, that are worked on as one block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from infoplane.core.device import on_accelerator


def block_size(device: torch.device) -> int:
    """Rows of a block: 1 MiB of float32 stays in a CPU's L2 cache, an accelerator needs more work a launch."""
    return 4096 if on_accelerator(device) else 512


@dataclass(frozen=True)
class Span:
    """Consecutive rows, with the first and the last class among them."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start

    def meets(self, other: Span) -> bool:
        """Whether a later span (or this one) has rows of a class of this one."""
        return other.low <= self.high

    def is_one_class_with(self, other: Span) -> bool:
        return self.low == self.high == other.low == other.high


def class_spans(counts: Sequence[int], size: int) -> list[Span]:
    """Cut rows sorted by class into spans of at most `size` rows.

    A class of at least size / 4 rows has spans of its own, of nearly equal length; smaller ones share.
    """
    spans: list[Span] = []
    start = stop = low = 0

    def close(high: int) -> None:
        if stop > start:
            spans.append(Span(start, stop, low, high))

    for label, count in enumerate(counts):
        alone = 4 * count >= size
        if alone or stop - start + count > size:
            close(label - 1)
            start, low = stop, label
        if not alone:
            stop += count
            continue
        pieces = -(-count // size)
        for k in range(pieces):
            first, last = stop + k * count // pieces, stop + (k + 1) * count // pieces
            spans.append(Span(first, last, label, label))
        stop += count
        start, low = stop, label + 1
    close(len(counts) - 1)
    return spans
