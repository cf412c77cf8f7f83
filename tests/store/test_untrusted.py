"""A stranger's run: whatever reading it does to the process ends in one line, and it touches nothing outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from store_cases import copy_run, record
from test_hostile import BAD, INDEXES, OBJECTS, rebuild

from infoplane.cli import main
from infoplane.core import StoreError
from infoplane.store import (
    UntrustedReader,
    _untrusted,
    is_foreign,
    open_run,
    summarize,
    summarize_untrusted,
    verify_untrusted,
)
from infoplane.store._limited import LimitedCalls, Limits

HERE = Path(__file__).parent


@pytest.fixture
def run(tmp_path: Path) -> Path:
    record(tmp_path / "run", [[0, 1], [5, 6]])
    (tmp_path / "run/manifest.jsonl").unlink()
    return tmp_path / "run"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    return done.exit_code, done.output


LIMITS = Limits(memory_bytes=256 << 20, cpu_seconds=1, wall_seconds=8)


@pytest.mark.parametrize(
    ("job", "limits", "why"),
    [
        ("abort", LIMITS, "crashed (SIGABRT)"),
        ("fault", LIMITS, "crashed (SIGSEGV)"),
        ("allocate", Limits(256 << 20, 60, 60), "needed more than 256 MiB of memory"),
        ("sleep", Limits(wall_seconds=3), "took longer than 3 s"),
        ("close_and_sleep", Limits(wall_seconds=3), "took longer than 3 s"),
        ("spin", Limits(cpu_seconds=1, wall_seconds=60), "needed more than 1 s of processor time"),
        ("talk", Limits(wall_seconds=60), "gave an answer of more than 64 MiB"),
        ("babble", Limits(), "gave no answer"),
        ("silent", Limits(), "gave no answer"),
        ("fail", Limits(), "failed (exit status 1)"),
    ],
)
@pytest.mark.usefixtures("jobs")
def test_a_child_that_ends_badly_is_one_line(job, limits, why):
    with LimitedCalls() as calls:
        with pytest.raises(StoreError) as caught:
            calls.call(f"untrusted_jobs:{job}", "runs/theirs", limits)
        assert calls.call("untrusted_jobs:echo", "x", Limits()) == ["x", True]
    assert str(caught.value) == f"runs/theirs: reading it {why}; do not trust this run"


@pytest.mark.usefixtures("jobs")
def test_a_child_answers_and_writes_no_file(tmp_path):
    odd = tmp_path / "a b\n'é"
    with LimitedCalls() as calls:
        assert calls.call("untrusted_jobs:echo", odd, Limits()) == [str(odd), True]
        with pytest.raises(StoreError, match="File too large"):
            calls.call("untrusted_jobs:write", tmp_path, Limits())
    assert (tmp_path / "left").read_bytes() == b""


def test_a_limit_ends_the_command_with_one_line_and_exit_code_2(run, monkeypatch):
    monkeypatch.setattr(_untrusted, "Limits", lambda **given: Limits(wall_seconds=0.0001))
    for name in ("info", "verify"):
        assert call(name, "--untrusted", run) == (
            2, f"Error: {run}: reading it took longer than 0.0001 s; do not trust this run\n",
        )  # fmt: skip


def test_a_good_run_reads_the_same(run):
    for arguments in (("info", run), ("info", run, "--json"), ("verify", run)):
        assert call(*arguments, "--untrusted") == call(*arguments)
    assert str(summarize_untrusted(run)) == str(summarize(open_run(run)))
    assert verify_untrusted(run) == []


def test_damage_and_a_run_that_cannot_be_opened_read_the_same(run):
    shard = run / "shards" / BAD
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    assert verify_untrusted(run) == open_run(run).verify() != []
    assert call("verify", "--untrusted", run) == call("verify", run)
    (run / "probe.h5").write_bytes(b"x")
    for name in ("info", "verify"):
        code, text = call(name, "--untrusted", run)
        assert (code, text.count("\n")) == (2, 1)
        assert (code, text) == call(name, run)


def test_many_runs_share_a_helper_of_one_thread_and_a_lost_one_is_replaced(run, tmp_path):
    with UntrustedReader() as reader:
        assert [reader.verify(run), reader.summarize(run).to_json()["steps"]] == [[], [0, 1, 5, 6]]
        first = reader._helper.pid
        with pytest.raises(StoreError, match="not a run directory"):
            reader.summarize(tmp_path / "none")
        assert reader._helper.pid == first
        status = Path(f"/proc/{first}/status")
        if status.exists():
            assert "Threads:\t1\n" in status.read_text()
        os.kill(first, signal.SIGKILL)
        with pytest.raises(StoreError, match="ended its helper process"):
            reader.verify(run)
        assert reader.verify(run) == []
        assert reader._helper.pid != first
        last = reader._helper
    assert last.returncode == -signal.SIGKILL


CALLER = """
import sys
from infoplane.store._limited import LimitedCalls, Limits

calls = LimitedCalls()
print(calls.call("untrusted_jobs:parent", "x", Limits()), flush=True)
calls.call("untrusted_jobs:sleep", "x", Limits())
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.usefixtures("jobs")
def test_helper_and_child_end_with_their_caller():
    caller = subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE, text=True)
    helper = int(caller.stdout.readline())
    time.sleep(0.2)  # now it waits for a child that sleeps
    assert _lives(helper)
    caller.kill()
    caller.communicate()
    until = time.monotonic() + 20
    while _lives(helper) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _lives(helper)


def _lives(group: int) -> bool:
    """Whether the group of processes has a member that is more than an entry in the table."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, found, *_ = file.read_text().rpartition(")")[2].split()
            if int(found) == group and state not in "ZX":
                return True
    return False


def test_what_belongs_to_another_user_is_read_in_a_child(run, tmp_path, monkeypatch):
    assert not is_foreign(run)
    assert not is_foreign(tmp_path / "none")
    me = os.geteuid()
    monkeypatch.setattr(_untrusted, "Limits", lambda **given: Limits(wall_seconds=0.0001))
    assert call("info", run)[0] == call("verify", run)[0] == 0
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert is_foreign(run)
    for name in ("info", "verify"):
        assert "took longer than 0.0001 s" in call(name, run)[1]
        assert call(name, "--trusted", run)[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.full
@pytest.mark.parametrize("name", ["run.json", "shards", f"shards/{BAD}", "sessions/0001.json", "."])
def test_one_file_of_another_user_is_enough(run, name):
    os.chown(run / name, 12345, -1)
    assert is_foreign(run)


def test_a_run_is_shown_without_control_characters(run):
    from infoplane.store._records import load_sealed, seal_json

    record_ = load_sealed((run / "run.json").read_bytes()) | {"run_id": "\x1b[31mred\u202e"}
    (run / "run.json").write_bytes(seal_json(record_))
    assert call("info", run) == (2, "Error: probe.h5: it is not the probe of run \\x1b[31mred\\u202e\n")


@pytest.mark.parametrize("case", ["soft link", "never stored", "variable length", "huge rows", "deep JSON"])
def test_a_hostile_shard_is_named_in_one_line(run, case):
    if case in OBJECTS:
        rebuild(run / "shards" / BAD, after=OBJECTS[case][0])
    else:
        rebuild(run / "shards" / BAD, INDEXES[case][0])
    code, text = call("verify", "--untrusted", run)
    assert code == 1
    first, last = text.splitlines()
    assert first.startswith(f"shards/{BAD}: ")
    assert last == f"{run}: 1 problems"


AUDIT = """
import json, os, sys
from infoplane.core import StoreError
from infoplane.store import open_run

inside, bad, opened = None, [], 0
FORBIDDEN = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "os.forkpty",
             "ctypes.dlopen", "exec", "compile", "import", "pickle.find_class", "marshal.loads", "socket.connect",
             "os.remove", "os.rename", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}

def hook(event, arguments):
    global opened
    if inside is None:
        return
    if event in FORBIDDEN:
        bad.append([event, repr(arguments)])
    elif event in ("open", "os.listdir", "os.scandir"):
        opened += 1
        path = arguments[0]
        if isinstance(path, int):
            return
        path = os.path.abspath(os.fsdecode(path))
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes or os.path.commonpath([path, inside]) != inside:
            bad.append([event, path])

def libraries():
    with open("/proc/self/maps") as file:
        return {line.split()[-1] for line in file if ".so" in line}

def read(path):
    try:
        store = open_run(path)
        return len(store.problems) + len(store.verify())
    except StoreError:
        return 1

warm, *paths = sys.argv[1:]
assert read(warm) > 0
sys.addaudithook(hook)
loaded = libraries()
rejected = 0
for path in paths:
    inside = os.path.abspath(path)
    found = read(path)
    inside = None
    rejected += found > 0
print(json.dumps({"opened": opened, "bad": bad, "loaded": sorted(libraries() - loaded), "rejected": rejected}))
"""


def test_reading_hostile_runs_opens_nothing_outside_and_runs_nothing(tmp_path, capsys):
    record(tmp_path / "good", [[0, 1], [5, 6]])
    (tmp_path / "good/manifest.jsonl").unlink()
    warm = copy_run(tmp_path / "good", tmp_path / "warm")  # what is imported only for a problem is imported here
    rebuild(warm / "shards" / BAD, after=OBJECTS["soft link"][0])
    os.mkfifo(tmp_path / "trap")
    paths = []
    for number, case in enumerate([*OBJECTS, *INDEXES, "outside", "link", "pipe", "probe", "run"]):
        path = copy_run(tmp_path / "good", tmp_path / f"hostile-{number}")
        shard = path / "shards" / BAD
        if case in OBJECTS:
            rebuild(shard, after=OBJECTS[case][0])
        elif case in INDEXES:
            rebuild(shard, INDEXES[case][0])
        elif case == "outside":
            import h5py

            rebuild(shard, after=lambda file: file.__setitem__("x", h5py.ExternalLink(str(tmp_path / "trap"), "/x")))
        elif case == "link":
            shard.unlink()
            shard.symlink_to(tmp_path / "trap")
        elif case == "pipe":
            shard.unlink()
            os.mkfifo(shard)
        else:
            name = {"probe": "probe.h5", "run": "run.json"}[case]
            (path / name).unlink()
            (path / name).symlink_to(tmp_path / "good" / name)
        paths.append(path)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(warm), *map(str, paths)],
        env={**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bad"] == []
    assert found["loaded"] == []
    assert found["rejected"] == len(paths)
    assert found["opened"] > 5 * len(paths)
    with capsys.disabled():
        print(f"\n  hostile runs rejected {found['rejected']}/{len(paths)}; {found['opened']} opens, outside 0, "
              f"libraries loaded 0, programs run 0; {time.monotonic() - began:.1f} s")  # fmt: skip


def test_every_hostile_shard_reads_the_same_in_a_child(run, capsys):
    shard = run / "shards" / BAD
    original = shard.read_bytes()
    slowest = 0.0
    with UntrustedReader() as reader:
        for case in [*OBJECTS, *INDEXES]:
            shard.write_bytes(original)
            rebuild(shard, INDEXES.get(case, (None,))[0], after=OBJECTS.get(case, (None,))[0])
            began = time.monotonic()
            found = reader.verify(run, Limits(memory_bytes=256 << 20, cpu_seconds=10, wall_seconds=60))
            slowest = max(slowest, time.monotonic() - began)
            assert [problem.file for problem in found] == [f"shards/{BAD}"]
            assert found == open_run(run).verify()
    with capsys.disabled():
        print(f"\n  hostile shards in a child of 256 MiB: {len(OBJECTS) + len(INDEXES)} named as without it, over time "
              f"0, over memory 0; slowest {slowest:.2f} s")  # fmt: skip
