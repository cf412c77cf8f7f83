"""Whose files a run is made of, and reading it in a child process with limits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from infoplane.core.files import MIB
from infoplane.core.limited import Limits, ask
from infoplane.store.layout import SESSIONS_DIR, SHARDS_DIR
from infoplane.store.reader import Problem
from infoplane.store.summary import RunSummary

_BYTES_PER_SECOND = 20 * MIB  # that a slow disk reads
_FILES_PER_SECOND = 50  # that it opens


def summarize_untrusted(path: str | os.PathLike[str], limits: Limits | None = None) -> RunSummary:
    """`summarize(open_run(path))`, done in a child."""
    return RunSummary(_ask("info", path, limits))


def verify_untrusted(path: str | os.PathLike[str], limits: Limits | None = None) -> list[Problem]:
    """`open_run(path).verify()`, done in a child."""
    found = _ask("verify", path, limits)
    return [Problem(**(item | {"steps": tuple(item["steps"])})) for item in found]


def _ask(command: str, path: str | os.PathLike[str], limits: Limits | None) -> Any:
    """Return what `infoplane COMMAND --json PATH` prints in a limited child, decoded from JSON."""
    path = os.fspath(path)
    return ask([command, "--trusted", "--json", "--", path], limits or limits_for([path]), path)


class UntrustedReader:
    """Reads runs of strangers, each in a child process of its own with limits on memory and time.

    `infoplane info` and `infoplane verify` run there, which costs about half a second; what a file does to its child,
    the next one does not see. It is no sandbox: what a file made its child do would be done with the user's rights.

    Without `limits` the time that is allowed grows with the size of the run.

    Raises
    ------
    StoreError
        From both methods: as `open_run`, and when a child crashes or exceeds a limit.

    Examples
    --------
    >>> with UntrustedReader() as reader:                                    # doctest: +SKIP
    ...     for path in Path("downloads").iterdir():
    ...         print(reader.summarize(path))
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close: nothing is kept from run to run."""

    summarize = staticmethod(summarize_untrusted)
    verify = staticmethod(verify_untrusted)


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Whether a run directory, or anything in it, belongs to another user of this system.

    Says who put the files there, not who made them: what you downloaded yourself is yours. False where
    there is no such directory, and on systems without user numbers.
    """
    if not hasattr(os, "geteuid"):
        return False
    me, run = os.geteuid(), Path(path).resolve()
    try:
        found = [run.stat(), *_contents(run), *_contents(run / SESSIONS_DIR), *_contents(run / SHARDS_DIR)]
    except OSError:
        return False
    return any(entry.st_uid != me for entry in found)


def limits_for(
    runs: Iterable[str | os.PathLike[str]],
    *,
    work_seconds: float = 0.0,
    memory_bytes: int | None = None,
    seconds: float | None = None,
) -> Limits:
    """Return limits that grow with the size of the runs.

    `work_seconds` is the time for all work beside reading; `memory_bytes` and `seconds`, where given, replace the
    limits of memory and of time.
    """
    # Bytes on the disk: holes of sparse files do not count.
    shards = [shard for run in runs for shard in _contents(Path(run).resolve() / SHARDS_DIR)]
    # `st_blocks` counts 512 bytes each on every system.
    reading = sum(shard.st_blocks * 512 for shard in shards) / _BYTES_PER_SECOND + len(shards) / _FILES_PER_SECOND
    limits = Limits().longer(reading + work_seconds)
    if seconds is not None:
        limits = replace(limits, cpu_seconds=seconds, wall_seconds=seconds)
    return limits if memory_bytes is None else replace(limits, memory_bytes=memory_bytes)


def _contents(directory: Path) -> list[os.stat_result]:
    """Return the status of everything in a directory, links not followed; none where it cannot be listed."""
    found: list[os.stat_result] = []
    if directory.is_symlink():
        return found
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a writer at work may have removed it meanwhile
                found.append(entry.stat(follow_symlinks=False))
    return found
