"""Reading a stranger's run in a child process with limits: a crash or a hang there is one error here."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infoplane.core.files import MIB
from infoplane.store._limited import LimitedCalls, Limits
from infoplane.store.layout import SESSIONS_DIR, SHARDS_DIR
from infoplane.store.reader import Problem, open_run
from infoplane.store.summary import RunSummary, summarize

_BYTES_PER_SECOND = 20 * MIB  # of a slow disk
_FILES_PER_SECOND = 50


class UntrustedReader(LimitedCalls):
    """Reads runs of strangers, each in a child process of its own with limits on memory and time.

    For many runs: the libraries are loaded once, a run then costs a few milliseconds more than in this
    process. What a file does to its child, the next one does not see. It is no sandbox: what a
    file made its child do would be done with the rights of the user.

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

    def summarize(self, path: str | os.PathLike[str], limits: Limits | None = None) -> RunSummary:
        """`summarize(open_run(path))`, done in a child."""
        return RunSummary(self.call(f"{__name__}:_summary", path, limits or _limits(Path(path))))

    def verify(self, path: str | os.PathLike[str], limits: Limits | None = None) -> list[Problem]:
        """`open_run(path).verify()`, done in a child."""
        found = self.call(f"{__name__}:_problems", path, limits or _limits(Path(path)))
        return [Problem(**(item | {"steps": tuple(item["steps"])})) for item in found]


def summarize_untrusted(path: str | os.PathLike[str], limits: Limits | None = None) -> RunSummary:
    """`UntrustedReader.summarize` for a single run."""
    with UntrustedReader() as reader:
        return reader.summarize(path, limits)


def verify_untrusted(path: str | os.PathLike[str], limits: Limits | None = None) -> list[Problem]:
    """`UntrustedReader.verify` for a single run."""
    with UntrustedReader() as reader:
        return reader.verify(path, limits)


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


def _summary(path: str) -> dict[str, Any]:
    return summarize(open_run(path)).to_json()


def _problems(path: str) -> list[dict[str, Any]]:
    return [asdict(problem) for problem in open_run(path).verify()]


def _limits(run: Path) -> Limits:
    """More time for a larger run: bytes on the disk, where holes of sparse files do not count, and files."""
    shards = _contents(run.resolve() / SHARDS_DIR)
    more = sum(shard.st_blocks * 512 for shard in shards) / _BYTES_PER_SECOND + len(shards) / _FILES_PER_SECOND
    base = Limits()
    return Limits(cpu_seconds=base.cpu_seconds + more, wall_seconds=base.wall_seconds + more)


def _contents(directory: Path) -> list[os.stat_result]:
    """Of everything in a directory, links not followed; nothing where it cannot be listed, as the reader will say."""
    found: list[os.stat_result] = []
    if directory.is_symlink():
        return found
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a writer at work
                found.append(entry.stat(follow_symlinks=False))
    return found
