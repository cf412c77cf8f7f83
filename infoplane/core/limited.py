"""The command line run again in a child process with limits: a crash, a hang or a greedy file there is one error here.

The child has the user's rights: this bounds crashes, time and memory, and is no sandbox.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from infoplane.core.errors import StoreError
from infoplane.core.files import MIB
from infoplane.core.interrupts import handled

MAX_ANSWER_BYTES = 64 * MIB
OUT_OF_MEMORY = 77
"""The exit status of a child that ran out of memory."""
_VARIABLE = "INFOPLANE_LIMITS"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Limits:
    """The memory and time that a child may use.

    Attributes
    ----------
    memory_bytes : int
        Memory beyond that of the interpreter and its libraries.
    cpu_seconds, wall_seconds : float
        Time of the processor, for each process, and of the clock.
    file_bytes : int or None
        Largest file it may write; None sets no limit.
    """

    memory_bytes: int = 2048 * MIB
    cpu_seconds: float = 60.0
    wall_seconds: float = 120.0
    file_bytes: int | None = None

    def longer(self, seconds: float) -> Limits:
        """Return the same limits with so many seconds more, of the processor and of the clock."""
        return replace(self, cpu_seconds=self.cpu_seconds + seconds, wall_seconds=self.wall_seconds + seconds)


def run_again(arguments: Sequence[str], limits: Limits, what: str) -> int:
    """Run `infoplane ARGUMENTS` in a limited child that shares this terminal, and return its exit status.

    Ctrl-C and SIGTERM are passed on, and the child decides what they end.

    Raises
    ------
    StoreError
        The child crashed or passed a limit; `what` names what it was reading.
    """
    # The child is in another session: signals that would end this process are passed on to it.
    with _child(arguments, limits) as child, handled(_SIGNALS, lambda number, _: child.send_signal(number)):
        why = _watch(child, limits)
    return _status(child, limits, why, what, hint=", or allow more with --max-memory and --max-time")


def ask(arguments: Sequence[str], limits: Limits, what: str, kind: str = "run") -> Any:
    """Run `infoplane ARGUMENTS` in a limited child, and return what it prints, decoded from JSON.

    In errors `what` names what the child reads, and `kind` says what that is. Where `limits` set no size for files,
    the child may write none.

    Raises
    ------
    StoreError
        With the child's own line of error, or as `run_again`.
    """
    limits = replace(limits, file_bytes=limits.file_bytes or 0)
    answer, complaint = bytearray(), bytearray()
    with _child(arguments, limits, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        # Both pipes are read while the child is watched: it would wait for ever to write into a full one.
        pipes = ((child.stdout, answer), (child.stderr, complaint))
        readers = [threading.Thread(target=_read, args=pipe_and_text, daemon=True) for pipe_and_text in pipes]
        for reader in readers:
            reader.start()
        why = _watch(child, limits, stop=lambda: max(len(answer), len(complaint)) > MAX_ANSWER_BYTES)
        for reader in readers:
            reader.join()
    if _status(child, limits, why, what, kind=kind) == 2:  # the command refused what it was asked, in one line
        raise StoreError(complaint.decode(errors="replace").removeprefix("Error: ").strip() or what)
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise StoreError(_sentence(what, "gave no answer", kind)) from None


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no more memory; torch has no class for it."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def limits_of_this_process() -> Limits | None:
    """Return the limits under which this process was started as a child; None if it was not."""
    given = os.environ.get(_VARIABLE)
    return Limits(**json.loads(given)) if given else None


def take(limits: Limits, *, address_space: bool = True) -> None:
    """Set these limits on this process, which cannot undo them, and switch core dumps off.

    Without `address_space` memory is left to the parent, which watches what is resident: CUDA reserves addresses for
    all the memory of the machine and could not start.
    """
    import resource  # not on every system

    wanted = {"RLIMIT_CORE": 0, "RLIMIT_CPU": math.ceil(limits.cpu_seconds + time.process_time())}
    if limits.file_bytes is not None:
        wanted["RLIMIT_FSIZE"] = limits.file_bytes
    statm = Path("/proc/self/statm")
    if address_space and statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()  # bytes of addresses that are in use now
        wanted["RLIMIT_AS"] = used + limits.memory_bytes
    for name, value in wanted.items():
        kind = getattr(resource, name)
        _, most = resource.getrlimit(kind)
        if most == resource.RLIM_INFINITY or value < most:
            # A soft limit and a hard one: beyond those of processor time come SIGXCPU and, a second later, SIGKILL.
            resource.setrlimit(kind, (value, value + 1 if name == "RLIMIT_CPU" else value))


def _child(arguments: Sequence[str], limits: Limits, **streams: Any) -> subprocess.Popen[bytes]:
    """Start `infoplane ARGUMENTS` in a child that takes these limits."""
    command = [sys.executable, "-P", "-m", "infoplane", *arguments]
    env = os.environ | {_VARIABLE: json.dumps(asdict(limits))}
    # A session of its own: what the child starts can be found and ended with it.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, env=env, **streams)


def _read(pipe: IO[bytes], text: bytearray) -> None:
    """Add what comes through the pipe to `text`, to its end or until there is more than an answer may have."""
    while len(text) <= MAX_ANSWER_BYTES and (block := os.read(pipe.fileno(), MIB)):
        text += block


def _watch(child: subprocess.Popen[bytes], limits: Limits, stop: Callable[[], bool] = lambda: False) -> str:
    """Wait until the child ends, or end it at a limit; return the reason why it was ended, or "".

    `stop()` is true as soon as the child has printed too much.
    """
    deadline = time.monotonic() + limits.wall_seconds
    # Resident memory includes libraries and their buffers. A child that sets the limits on itself is held tighter.
    most, pause, why = limits.memory_bytes + 512 * MIB, 0.002, ""
    try:
        while child.poll() is None and not why:
            if time.monotonic() > deadline:
                why = f"took longer than {limits.wall_seconds:g} s"
            elif stop():
                why = f"gave an answer of more than {MAX_ANSWER_BYTES // MIB} MiB"
            # Looking through /proc takes time: not while a child may still end in a moment.
            elif pause >= 0.1 and _resident(child.pid) > most:
                why = _too_much_memory(limits)
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(pause)
                pause = min(2 * pause, 0.25)  # looks less and less often: most children end soon
    finally:
        # End what the child started, too. The system gives its number to no other group while one of these lives.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return why


def _resident(session: int) -> int:
    """Return the resident bytes of all processes of a session; 0 where there is no /proc."""
    pages = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found = file.read_text().rpartition(")")[2].split()  # fields from the third on, see proc(5)
            pages += int(found[21]) if int(found[3]) == session else 0  # 24: resident pages; 6: session
    return pages * os.sysconf("SC_PAGE_SIZE")


def _status(
    child: subprocess.Popen[bytes], limits: Limits, why: str, what: str, hint: str = "", kind: str = "run"
) -> int:
    """Return the exit status of a child that ended by itself; StoreError where a limit or a crash ended it.

    `why` is the limit at which `_watch` ended the child, "" for none. `hint` tells the user how to allow more. `what`
    and `kind` are for the error, as in `ask`.
    """
    status = child.returncode
    if not why and -status in _SIGNALS:
        return 128 - status  # as a shell reports a process that the user ended
    if not why and status in (OUT_OF_MEMORY, -signal.SIGXCPU):
        processor = f"needed more than {limits.cpu_seconds:g} s of processor time"
        why = _too_much_memory(limits) if status == OUT_OF_MEMORY else processor
    elif not why and status < 0:
        why, hint = f"crashed ({signal.Signals(-status).name})", ""  # no larger limit would help
    if why:
        raise StoreError(_sentence(what, why, kind) + hint)
    return status


def _too_much_memory(limits: Limits) -> str:
    """Return the reason for a child that passed its limit of memory."""
    return f"needed more than {limits.memory_bytes / MIB:g} MiB of memory"


def _sentence(what: str, why: str, kind: str) -> str:
    """Return the line of error for a child that could not read `what`."""
    return f"{what}: reading it {why}; do not trust this {kind}"
