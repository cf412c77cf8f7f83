"""Runs with a number: `runs/digits-001`, `runs/digits-002` ... for cells and scripts that run again."""

from __future__ import annotations

import re
from pathlib import Path

from infoplane.hooks._ranks import Ranks


def last_numbered(path: Path) -> Path | None:
    """The directory of this name with the highest number, if there is one."""
    found = _numbers(path)
    return path.with_name(f"{path.name}-{max(found):03d}") if found else None


def choose_numbered(path: Path, ranks: Ranks, *, resume: bool) -> Path:
    """A new directory with the number after the highest, or the last one to resume it; on every rank the same."""
    found = ranks.from_first(lambda: (last_numbered(path) if resume else None) or _make(path))
    return Path(found)


def _make(path: Path) -> Path:
    """Make the directory with the next number at once, so that no other process takes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        made = path.with_name(f"{path.name}-{max(_numbers(path), default=0) + 1:03d}")
        try:
            made.mkdir()
        except FileExistsError:
            continue  # another process was faster
        return made


def _numbers(path: Path) -> list[int]:
    pattern = re.compile(re.escape(path.name) + r"-(\d{3,9})")
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return [int(match[1]) for match in map(pattern.fullmatch, names) if match]
