"""What the commands ask of the system while they read strangers' runs, as strace sees it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile_files import SHARD, Change, changed_metadata, corpus, made_hdf5, restore, spoil
from store_cases import copy_run, record
from test_foreign import REFUSED
from test_hostile import I8, filtered, low_level, rebuild, replace

from infoplane.core.files import MIB
from infoplane.core.limited import Limits

COMMAND = [sys.executable, "-P", "-m", "infoplane"]
TRACE = ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=file,process,network"]
WORKERS = 2

# All that may happen from the first byte of a run on: looking at names and opening to read, and the end of a process.
LOOKS = re.compile(
    r"open|openat|openat2|stat|lstat|stat64|newfstatat|statx|access|faccessat2?|readlink|readlinkat|getcwd"
)
ENDS = re.compile(r"exit|exit_group|wait4|waitid|kill|tgkill|pidfd_\w+")
CALL = re.compile(r"(?:\[pid +)?(\d+)\]? +(?:<\.\.\. )?(\w+)(.*)")


def outside(trace: str, run: Path) -> tuple[list[str], int]:
    """Lines that should not be there, and how often a file of the run was opened."""
    bad, opened = [], 0
    for line in trace.splitlines():
        call = CALL.match(line)
        if call is None:  # a signal or the end of a process
            assert re.match(r"\d+ +(---|\+\+\+)", line), line
            continue
        _, name, rest = call.groups()
        paths = re.findall(r'"((?:[^"\\]|\\.)*)"', rest)
        inside = [path for path in paths if path == str(run) or path.startswith(f"{run}/")]
        if name.startswith("open") and inside and "O_DIRECTORY" not in rest:
            opened += 1
        if re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND", rest) and paths != ["/dev/null"]:
            bad.append(line)
        elif not opened:
            if "socket" in name or name in ("connect", "bind", "sendto", "sendmsg"):
                bad.append(line)
        elif not ENDS.fullmatch(name) and (
            not LOOKS.fullmatch(name) or (name != "getcwd" and [path for path in paths if path] != inside)
        ):
            bad.append(line)
    return bad, opened


def outward(trap: Path) -> Iterator[Change]:
    """Shards that lead out of their file."""

    def external_storage(creation: object) -> None:
        creation.set_external(str(trap).encode(), 0, h5py.h5f.UNLIMITED)

    def virtual(file: h5py.File, name: str, data: np.ndarray) -> None:
        made = h5py.VirtualLayout(data.shape, data.dtype)
        made[...] = h5py.VirtualSource(str(trap), "x", data.shape)
        file.create_virtual_dataset(name, made)

    for after in (
        lambda file: file.__setitem__("epoch2", h5py.ExternalLink(str(trap), "/x")),
        lambda file: file.__setitem__("more/x", h5py.ExternalLink(str(trap), "/x")),
        replace("step", lambda file, name, data: file.__setitem__(name, h5py.ExternalLink(str(trap), "/x"))),
        replace("step", low_level(I8, (2,), external_storage)),
        replace("step", low_level(I8, (2,), filtered)),
        replace("acts/0000", virtual),
    ):
        yield "corpus", SHARD, lambda path, after=after: rebuild(path, after=after)


def read_all(good: Path, copy: Path, trap: Path, made: int, worker: int) -> Counter[str]:
    """Every `WORKERS`-th file read by both commands, one of them with a child."""
    copy_run(good, copy)
    random = np.random.default_rng(made)
    files = chain(
        (item for item in corpus(trap) if not item[1].startswith("results")),
        outward(trap), changed_metadata(good, random, made), made_hdf5(random, made),
    )  # fmt: skip
    environment = {
        **os.environ, "HDF5_PLUGIN_PATH": str(trap.parent), "PYTHONDONTWRITEBYTECODE": "1",
        "LANGUAGE": "C",  # or click would look for its translation of "Error"
    }  # fmt: skip
    log = copy.with_suffix(".strace")
    seen: Counter[str] = Counter()
    for number, (kind, name, change) in enumerate(islice(files, worker, None, WORKERS)):
        spoil(copy, name, change)
        for command in ("info", "verify"):
            how = "--untrusted" if (number + (command == "info")) % 2 else "--trusted"
            done = subprocess.run(
                [*TRACE, "-o", str(log), *COMMAND, command, how, str(copy)],
                env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            bad, opened = outside(log.read_text(errors="replace"), copy)
            assert bad == [], (kind, name, command, how)
            assert done.returncode in (0, 1, 2), (kind, name, command, how, done.stderr)
            assert done.stderr.count("\n") == (done.returncode == 2), done.stderr
            seen["commands"] += 1
            seen["opened"] += opened
            if command == "verify":
                seen.update([kind, "files"])
                seen["rejected"] += kind == "corpus" and done.returncode > 0
        restore(good, copy)
    return seen


@pytest.fixture
def good(tmp_path: Path) -> Path:
    record(tmp_path / "good", [[0, 1], [5, 6]])
    for name in ("results.csv", "results.json"):
        (tmp_path / "good" / name).write_text("")
    os.mkfifo(tmp_path / "trap")
    return tmp_path / "good"


def traces() -> bool:
    """Whether there is strace, and this process may use it."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True).returncode == 0


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not traces(), reason="needs strace and leave to trace processes")
def test_the_commands_touch_nothing_but_the_run(good, tmp_path, capsys):
    began = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        work = [pool.submit(read_all, good, tmp_path / f"copy-{i}", tmp_path / "trap", 60, i) for i in range(WORKERS)]
        seen = sum((future.result() for future in work), Counter())
    with capsys.disabled():
        print(f"\n  strace of {seen['commands']} commands on {seen['files']} files ({seen['opened']} opens in the "
              f"runs): opens outside 0, writes 0, programs run 0, libraries loaded 0, sockets 0; hostile rejected "
              f"{seen['rejected']}/{seen['corpus']}; {time.monotonic() - began:.0f} s")  # fmt: skip
    assert seen["rejected"] == seen["corpus"] - 1  # an empty manifest is no mistake
    assert seen["opened"] > 3 * seen["commands"]


@pytest.mark.full
@pytest.mark.skipif(not traces(), reason="needs strace and leave to trace processes")
@pytest.mark.parametrize(
    "code",
    ["open('/etc/hostname')", "import socket; socket.socket()", "import os; os.system('true')", "import colorsys",
     "open(run + '/left', 'w')", "import os; os.mkdir(run + '/left')"],
)  # fmt: skip
def test_a_reader_that_touches_more_is_caught(good, tmp_path, code):
    log = tmp_path / "log"
    read = f"run = {str(good)!r}\nopen(run + '/run.json').read()\n"
    subprocess.run([*TRACE, "-o", str(log), sys.executable, "-c", read], check=True)
    assert outside(log.read_text(), good) == ([], 1)
    subprocess.run([*TRACE, "-o", str(log), sys.executable, "-c", read + code], check=True)
    assert outside(log.read_text(), good)[0] != []


@pytest.mark.full
@pytest.mark.skipif(not traces(), reason="needs strace and leave to trace processes")
@pytest.mark.parametrize("case", ["links", *REFUSED])
def test_a_file_of_another_program_makes_its_child_touch_nothing_but_itself_and_the_folder(tmp_path, case):
    file, folder, log = tmp_path / "a.h5", tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    os.mkfifo(tmp_path / "trap")
    with h5py.File(file, "w") as made:
        made["fc"] = np.ones((40, 3))
        if case == "links":
            made["x"], made["y/z"] = (h5py.ExternalLink(str(tmp_path / "trap"), "/x") for _ in range(2))
        else:
            REFUSED[case][0](made, str(tmp_path / "trap"))
    limits = json.dumps(asdict(Limits(file_bytes=MIB)))
    environment = {**os.environ, "INFOPLANE_LIMITS": limits, "HDF5_PLUGIN_PATH": str(tmp_path), "LANGUAGE": "C"}
    done = subprocess.run(
        [*TRACE, "-o", str(log), *COMMAND, "unpack", str(file), str(folder)],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == (0 if case == "links" else 2), done.stderr
    lines = log.read_text(errors="replace").splitlines()
    begin = next(i for i, line in enumerate(lines) if "open" in line and f'"{file}", O_RDONLY' in line)
    calls = [found.groups() for line in lines[begin:] if (found := CALL.match(line)) and not ENDS.fullmatch(found[2])]
    calls = [call for call in calls if call[1] != "getcwd"]
    touched = {path for _, _, rest in calls for path in re.findall(r'"((?:[^"\\]|\\.)*)"', rest) if path}
    assert touched - {str(folder)} == {str(file)} | ({f"{folder}/0.npy"} if case == "links" else set())
    assert {name for _, name, _ in calls if not LOOKS.fullmatch(name)} <= {"statfs"}  # of the folder: how much is free
