"""How far an analysis is: a bar where somebody looks at one, a line a minute in a log."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol, TextIO

LINE_SECONDS = 60.0


class Progress(Protocol):
    def plan(self, work: float) -> None: ...

    def skip(self, work: float) -> None: ...

    def done(self, work: float, what: str) -> None: ...

    def close(self) -> None: ...


def progress_of(wanted: bool | None) -> Progress:
    """None or True: a bar on a terminal or in a notebook, else lines on stderr. False: nothing."""
    if wanted is False:
        return _Silent()
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return _Bar()
    return _Lines(sys.stderr)


class _Silent:
    def plan(self, work: float) -> None:
        pass

    def skip(self, work: float) -> None:
        pass

    def done(self, work: float, what: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    """tqdm over the values to be read, which is nearer to the time needed than the number of tasks."""

    def __init__(self) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(
            total=0.0, desc="estimating", bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        )

    def plan(self, work: float) -> None:
        self._bar.total += work

    def skip(self, work: float) -> None:
        self._bar.total -= work

    def done(self, work: float, what: str) -> None:
        self._bar.set_postfix_str(what, refresh=False)
        self._bar.update(work)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """One line a minute: bars fill a log file with copies of themselves."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._start = self._last = time.monotonic()
        self._total = self._done = 0.0

    def plan(self, work: float) -> None:
        self._total += work

    def skip(self, work: float) -> None:
        self._total -= work

    def done(self, work: float, what: str) -> None:
        self._done += work
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        left = (now - self._start) * (self._total / self._done - 1.0)
        share = 100.0 * self._done / self._total
        print(f"estimating: {share:.0f} %, {left / 60.0:.0f} min left, at {what}", file=self._file, flush=True)

    def close(self) -> None:
        pass
