"""Thousands of calls on damaged files, each in a limited child: what the command line does once, without its start.

A helper process imports what is needed once and never touches a file of the caller. For each call it forks
a child, which takes the limits, makes the call and ends: no call sees what another one left behind.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn, Self

from infoplane.core.errors import StoreError
from infoplane.core.files import MIB, write_all
from infoplane.core.limited import MAX_ANSWER_BYTES, OUT_OF_MEMORY, Limits, take

_GRACE_SECONDS = 60.0  # for the helper itself, which has to be started and scheduled


class LimitedCalls:
    """Makes calls on paths, each in a limited child. A context manager; not for several threads at once.

    The helper process starts with the block or the next call, and ends with `close` or when its parent is gone.
    """

    def __init__(self) -> None:
        self._helper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._helper = _start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the helper and what it may be waiting for."""
        helper, self._helper = self._helper, None
        if helper is not None:
            os.killpg(helper.pid, signal.SIGKILL)  # its own group; not reaped yet, so the number is its own
            with helper:
                pass

    def call(self, function: str, path: str | os.PathLike[str], limits: Limits) -> Any:
        """`function` ("module:name") of the path; its answer, which must be JSON.

        Raises
        ------
        StoreError
            With the text of a StoreError, OSError or ValueError of the function, or with the reason why
            there is no answer.
        """
        path = os.fspath(path)
        try:
            said, why = self._ask(function, path, limits)
        except BaseException:  # an answer that was not waited for would be taken for the next one
            self.close()
            raise
        try:
            answer = json.loads(said) if not why else {}
        except (ValueError, RecursionError):
            answer = {}
        if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
            raise StoreError(f"{path}: reading it {why or 'gave no answer'}; do not trust this run")
        if "error" in answer:
            raise StoreError(str(answer["error"]))
        return answer["result"]

    def _ask(self, function: str, path: str, limits: Limits) -> tuple[bytes, str]:
        if self._helper is None:
            self._helper = _start()
        requests, replies = self._helper.stdin, self._helper.stdout
        assert requests is not None
        assert replies is not None
        deadline = time.monotonic() + limits.wall_seconds + _GRACE_SECONDS
        order = [function, path, limits.memory_bytes, limits.cpu_seconds, limits.wall_seconds]
        try:
            write_all(requests.fileno(), json.dumps(order).encode() + b"\n")
            with selectors.DefaultSelector() as selector:
                selector.register(replies, selectors.EVENT_READ)
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    return b"", f"took longer than {limits.wall_seconds:g} s"
            head = replies.readline()
            size, why = json.loads(head) if head else (0, "")
            said = replies.read(size)
        except BrokenPipeError:
            head = b""
        if not head or len(said) < size:
            self.close()
            return b"", "ended its helper process"
        return said, why


def _start() -> subprocess.Popen[bytes]:
    # One thread: a fork copies no other, and whatever they held stays locked in the child.
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c", f"from {__name__} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | single,
    )


def serve() -> None:
    """The helper: one request a line on stdin; length, reason and what the child said on stdout."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for line in sys.stdin.buffer:
        function, path, memory, cpu, wall = json.loads(line)
        module, _, name = function.partition(":")
        call = getattr(importlib.import_module(module), name)
        limits = Limits(memory, cpu, wall)
        gc.freeze()  # the child's collections leave shared pages alone
        listen, speak = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(nothing, 0)
            os.dup2(speak, 1)
            os.closerange(3, speak + 1)
            _child(call, path, limits)
        os.close(speak)
        try:
            said, why = _supervise(pid, listen, limits)
        finally:
            os.close(listen)
        sys.stdout.buffer.write(json.dumps([len(said), why]).encode() + b"\n" + said)
        sys.stdout.buffer.flush()


def _supervise(pid: int, listen: int, limits: Limits) -> tuple[bytes, str]:
    """All that the child says until it ends, or why that does not count."""
    deadline = time.monotonic() + limits.wall_seconds
    late = f"took longer than {limits.wall_seconds:g} s"
    said, why = bytearray(), ""
    with selectors.DefaultSelector() as selector:
        selector.register(listen, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while not why:
            ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
            if 0 in ready:  # requests come one at a time: the caller is gone
                os.killpg(0, signal.SIGKILL)
            if not ready:
                why = late
                break
            block = os.read(listen, MIB)
            if not block:
                break
            said += block
            if len(said) > MAX_ANSWER_BYTES:
                why = f"gave an answer of more than {MAX_ANSWER_BYTES // MIB} MiB"
    pause = 0.0002
    while True:
        if why:
            os.kill(pid, signal.SIGKILL)
        found, status = os.waitpid(pid, 0 if why else os.WNOHANG)
        if found:
            why = why or _reason(os.waitstatus_to_exitcode(status), limits)
            return (b"", why) if why else (bytes(said), "")
        if time.monotonic() > deadline:
            why = late
        else:
            time.sleep(pause)
            pause = min(2 * pause, 0.05)


def _reason(status: int, limits: Limits) -> str:
    if status == 0:
        return ""
    if status == OUT_OF_MEMORY:
        return f"needed more than {limits.memory_bytes / MIB:g} MiB of memory"
    if status == -signal.SIGXCPU:
        return f"needed more than {limits.cpu_seconds:g} s of processor time"
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return f"failed (exit status {status})"


def _child(call: Callable[[str], Any], path: str, limits: Limits) -> NoReturn:
    """Take the limits, then touch the path; never returns."""
    status = 1
    try:
        take(replace(limits, file_bytes=0))
        try:
            answer = {"result": call(path)}
        except (StoreError, OSError, ValueError) as error:
            answer = {"error": str(error) or type(error).__name__}
        write_all(1, json.dumps(answer).encode())
        status = 0
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        os._exit(status)
