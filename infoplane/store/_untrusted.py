"""Reading a stranger's run in a child process with limits: a crash or a hang there is one error here."""

from __future__ import annotations

import importlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infoplane.core.errors import StoreError
from infoplane.store.layout import MIB, SHARDS_DIR
from infoplane.store.reader import Problem, open_run
from infoplane.store.summary import RunSummary, summarize

MAX_ANSWER_BYTES = 64 * MIB
_BYTES_PER_SECOND = 20 * MIB  # of a slow disk


@dataclass(frozen=True)
class Limits:
    """What the child may use.

    Attributes
    ----------
    memory_bytes : int
        Address space beyond that of the libraries.
    cpu_seconds, wall_seconds : float
        Time of the processor and of the clock.
    """

    memory_bytes: int = 2048 * MIB
    cpu_seconds: float = 60.0
    wall_seconds: float = 120.0


def summarize_untrusted(path: str | os.PathLike[str], limits: Limits | None = None) -> RunSummary:
    """`summarize(open_run(path))` for a run of a stranger, done in a child process with limits.

    Raises
    ------
    StoreError
        As `open_run`, and when the child crashes or exceeds a limit.
    """
    return RunSummary(run_limited(f"{__name__}:_summary", path, limits or Limits()))


def verify_untrusted(path: str | os.PathLike[str], limits: Limits | None = None) -> list[Problem]:
    """`open_run(path).verify()` for a run of a stranger, done in a child process with limits.

    The limits of time grow with the size of the shards where none are given.

    Raises
    ------
    StoreError
        As `open_run`, and when the child crashes or exceeds a limit.
    """
    if limits is None:
        limits = Limits()
        more = _stored_bytes(Path(path) / SHARDS_DIR) / _BYTES_PER_SECOND
        limits = Limits(cpu_seconds=limits.cpu_seconds + more, wall_seconds=limits.wall_seconds + more)
    found = run_limited(f"{__name__}:_problems", path, limits)
    return [Problem(item["file"], item["what"], tuple(item["steps"])) for item in found]


def _summary(path: str) -> dict[str, Any]:
    return summarize(open_run(path)).to_json()


def _problems(path: str) -> list[dict[str, Any]]:
    return [asdict(problem) for problem in open_run(path).verify()]


def _stored_bytes(directory: Path) -> int:
    """Bytes on the disk; holes of sparse files do not count."""
    try:
        with os.scandir(directory) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    except OSError:
        return 0


def run_limited(function: str, path: str | os.PathLike[str], limits: Limits) -> Any:
    """`function` ("module:name") of the path in a child with limits; its answer, which must be JSON."""
    code = f"from {__name__} import child; child()"
    arguments = [function, str(limits.memory_bytes), str(math.ceil(limits.cpu_seconds)), os.fspath(path)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        said, why = _listen(process, time.monotonic() + limits.wall_seconds, limits)
    finally:
        process.kill()
        status = process.wait()
        if process.stdout is not None:
            process.stdout.close()
    why = why or _reason(status, limits)
    try:
        answer = json.loads(said) if not why else {}
    except (ValueError, RecursionError):
        answer = {}
    if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
        raise StoreError(f"{os.fspath(path)}: reading it {why or 'gave no answer'}; do not trust this run")
    if "error" in answer:
        raise StoreError(str(answer["error"]))
    return answer["result"]


def _listen(process: subprocess.Popen[bytes], deadline: float, limits: Limits) -> tuple[bytes, str]:
    """All that the child says until it ends, or why it must not go on."""
    assert process.stdout is not None
    said = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return b"", f"took longer than {limits.wall_seconds:g} s"
            block = os.read(process.stdout.fileno(), MIB)
            said += block
            if len(said) > MAX_ANSWER_BYTES:
                return b"", f"gave an answer of more than {MAX_ANSWER_BYTES // MIB} MiB"
            if not block:
                break
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return b"", f"took longer than {limits.wall_seconds:g} s"
    return bytes(said), ""


def _reason(status: int, limits: Limits) -> str:
    if status == 0:
        return ""
    if status == _OUT_OF_MEMORY:
        return f"needed more than {limits.memory_bytes / MIB:g} MiB of memory"
    if status == -signal.SIGXCPU:
        return f"needed more than {limits.cpu_seconds:g} s of processor time"
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return f"failed (exit status {status})"


_OUT_OF_MEMORY = 77


def child() -> None:
    """The child: import, take the limits, then touch the run."""
    function, memory, cpu, path = sys.argv[1:]
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    _limit(int(memory), int(cpu))
    try:
        answer = {"result": call(path)}
    except (StoreError, OSError, ValueError) as error:
        answer = {"error": str(error) or type(error).__name__}
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()


def _limit(memory: int, cpu: int) -> None:
    """Less memory and time than before, no file to write, no core dump."""
    import resource  # not on every system

    wanted = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_CPU": cpu + math.ceil(time.process_time())}
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        wanted["RLIMIT_AS"] = used + memory
    for name, value in wanted.items():
        kind = getattr(resource, name)
        _, most = resource.getrlimit(kind)
        if most == resource.RLIM_INFINITY or value < most:
            # beyond the soft limit of processor time comes SIGXCPU, beyond the hard one SIGKILL
            resource.setrlimit(kind, (value, value + 1 if name == "RLIMIT_CPU" else value))
