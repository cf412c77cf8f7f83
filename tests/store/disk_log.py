"""A record of every system call that changes the disk, and the disks that a crash could leave behind."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Op:
    """One call. `node` is a file (not a name), `name` and `to` are paths within the watched directory."""

    kind: str  # create, write, sync, sync_dir, rename, link, unlink, cut, mkdir, ack
    node: int = -1
    name: str = ""
    to: str = ""
    data: bytes = b""
    steps: tuple[int, ...] = ()


@dataclass
class Disk:
    """Names, and the content of the files that they name."""

    directories: list[str] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    content: dict[int, bytearray] = field(default_factory=dict)

    def apply(self, op: Op, fraction: float = 1.0) -> None:
        if op.kind == "mkdir":
            self.directories.append(op.name)
        elif op.kind == "create":
            self.names[op.name] = op.node
            self.content.setdefault(op.node, bytearray())
        elif op.kind == "write":
            self.content[op.node] += op.data[: int(len(op.data) * fraction)]
        elif op.kind == "rename":
            self.names[op.to] = self.names.pop(op.name)
        elif op.kind == "link":
            self.names[op.to] = self.names[op.name]
        elif op.kind == "unlink":
            self.names.pop(op.name, None)

    def build(self, target: Path) -> Path:
        target.mkdir(parents=True)
        for name in self.directories:
            (target / name).mkdir(parents=True, exist_ok=True)
        for name, node in self.names.items():
            (target / name).write_bytes(self.content[node])
        return target


class DiskLog:
    """Watches the calls below one directory while `watching`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ops: list[Op] = []
        self._nodes: dict[int, int] = {}  # inode -> node
        self._numbers = itertools.count()
        self._open: dict[int, tuple[int, str]] = {}  # descriptor -> node, name

    def ack(self, steps: list[int]) -> None:
        self.ops.append(Op("ack", steps=tuple(steps)))

    def _name(self, path: Any) -> str | None:
        path = Path(os.fsdecode(path)).absolute()
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else None

    @contextmanager
    def watching(self) -> Iterator[DiskLog]:
        real = {name: getattr(os, name) for name in ("open", "close", "write", "fsync", "replace", "rename", "link",
                                                     "unlink", "mkdir", "ftruncate")}  # fmt: skip

        def open_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            name = self._name(path)
            new = name is not None and not Path(path).exists()
            fd = real["open"](path, flags, *args, **kwargs)
            if name is not None:
                inode = os.fstat(fd).st_ino
                if new or inode not in self._nodes:  # inodes are used again
                    self._nodes[inode] = next(self._numbers)
                node = self._nodes[inode]
                self._open[fd] = node, name
                if new:
                    self.ops.append(Op("create", node, name))
            return int(fd)

        def close(fd: int) -> None:
            self._open.pop(fd, None)
            real["close"](fd)

        def write(fd: int, data: Any) -> int:
            n = int(real["write"](fd, data))
            if fd in self._open:
                self.ops.append(Op("write", self._open[fd][0], data=bytes(memoryview(data).cast("B")[:n])))
            return n

        def fsync(fd: int) -> None:
            if fd in self._open:
                node, name = self._open[fd]
                directory = (self.root / name).is_dir()
                self.ops.append(Op("sync_dir", name=name) if directory else Op("sync", node))

        def two(kind: str, call: str) -> Callable[..., None]:
            def run(a: Any, b: Any, **kwargs: Any) -> None:
                real[call](a, b, **kwargs)
                self.ops.append(Op(kind, name=str(self._name(a)), to=str(self._name(b))))

            return run

        def unlink(path: Any, **kwargs: Any) -> None:
            real["unlink"](path, **kwargs)
            self.ops.append(Op("unlink", name=str(self._name(path))))

        def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            real["mkdir"](path, *args, **kwargs)
            if self._name(path) is not None:
                self.ops.append(Op("mkdir", name=str(self._name(path))))

        with pytest.MonkeyPatch.context() as patch:
            for name, function in {
                "open": open_, "close": close, "write": write, "fsync": fsync, "unlink": unlink, "mkdir": mkdir,
                "replace": two("rename", "replace"), "rename": two("rename", "rename"), "link": two("link", "link"),
            }.items():  # fmt: skip
                patch.setattr(os, name, function)
            yield self


def killed(ops: list[Op], at: int, fraction: float = 1.0) -> tuple[Disk, list[int]]:
    """The disk after the first `at` calls, the last of them done by a fraction; and the acknowledged steps."""
    disk, acked = Disk(), []
    for i, op in enumerate(ops[:at]):
        disk.apply(op, fraction if i == at - 1 else 1.0)
        acked += op.steps
    return disk, acked


def power_cut(ops: list[Op], at: int, seed: int) -> tuple[Disk, list[int]]:
    """A disk that honours only fsync: of what was not synced, a random part is there, in 4 KiB pages.

    Names not synced with their directory are taken over in order up to a random point; file content not
    synced with its file loses random pages, or its end.
    """
    choose = random.Random(seed)
    synced_data: dict[int, int] = {}
    done = ops[:at]
    names: dict[str, list[Op]] = {}
    disk = Disk()
    acked: list[int] = []
    full = Disk()
    for op in done:
        full.apply(op)
        acked += op.steps
        if op.kind == "mkdir":
            disk.directories.append(op.name)
        elif op.kind == "sync":
            synced_data[op.node] = len(full.content[op.node])
        elif op.kind in ("create", "rename", "link", "unlink"):
            names.setdefault(str(Path(op.name).parent), []).append(op)
        elif op.kind == "sync_dir":
            for waiting in names.pop(op.name, []):
                disk.apply(waiting)
    for waiting in names.values():
        for op in waiting[: choose.randint(0, len(waiting))]:
            disk.apply(op)
    for node, data in full.content.items():
        kept = synced_data.get(node, 0)
        out = bytearray(data[: choose.randint(kept, len(data))])
        for page in range(kept // 4096, -(-len(out) // 4096)):
            a, b = max(kept, page * 4096), min(len(out), (page + 1) * 4096)
            if choose.random() < 0.3:
                out[a:b] = bytes(b - a)
        disk.content[node] = out
    return disk, acked
