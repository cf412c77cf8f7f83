"""The writer's thread, its budget, its lock, and the sessions of a resumed run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from store_cases import LAYERS, check, check_clean, layer, probe, record, shards, snapshot, values, writer

from infoplane.core import StoreError, files
from infoplane.core.files import alive, process_start
from infoplane.store import StoreWriter, layout, open_run


def threaded(path: Path, **options) -> StoreWriter:
    return writer(path, **({"background": True} | options))


# The thread


def test_snapshots_are_written_behind_the_back_of_training(tmp_path):
    with threaded(tmp_path / "run") as out:
        for step in range(40):
            out(snapshot(step))
        assert out.flush()
        check_clean(tmp_path / "run", list(range(40)))
        out(snapshot(40))
    check_clean(tmp_path / "run", list(range(41)))


def test_a_shard_is_sealed_by_size_and_by_time(tmp_path):
    nbytes = sum(values(spec, 0).nbytes for spec in LAYERS)
    with writer(tmp_path / "size", seal_bytes=3 * nbytes) as out:
        for step in range(7):
            out(snapshot(step))
        assert [path.name[:17] for path in shards(tmp_path / "size")] == ["00000000-00000002", "00000003-00000005"]
    with threaded(tmp_path / "time", seal_seconds=0.05) as out:
        out(snapshot(0))
        for _ in range(400):
            if shards(tmp_path / "time"):
                break
            time.sleep(0.01)
        check_clean(tmp_path / "time", [0])


def test_no_file_is_larger_than_the_limit(tmp_path):
    limit = 64 << 10
    big = layer("a", (40,))
    with writer(tmp_path / "run", max_file_bytes=limit) as out:
        for step in range(30):
            out(snapshot(step, (big,)))
    sizes = [path.stat().st_size for path in shards(tmp_path / "run")]
    assert len(sizes) > 1
    assert max(sizes) <= limit
    check(open_run(tmp_path / "run"), list(range(30)), (big,))


def test_the_call_waits_when_the_budget_is_used_up_and_counts_it(tmp_path, monkeypatch):
    gate = threading.Event()
    real, most = files.publish, []

    def slow(directory, name, pieces, **options):
        if name.endswith(".h5"):
            gate.wait(10)
            most.append(out._worker.waiting_bytes)
        return real(directory, name, pieces, **options)

    nbytes = sum(values(spec, 0).nbytes for spec in LAYERS)
    out = threaded(tmp_path / "run", queue_bytes=4 * nbytes)
    monkeypatch.setattr(files, "publish", slow)
    threading.Timer(0.3, gate.set).start()
    began = time.monotonic()
    for step in range(20):
        out(snapshot(step))
    assert time.monotonic() - began > 0.2
    assert out.stalled_s > 0.2
    out.close()
    assert max(most) <= 5 * nbytes  # what is being written is still counted beside the queue
    assert open_run(tmp_path / "run").sessions[0]["stalled_seconds"] > 0.2
    check_clean(tmp_path / "run", list(range(20)))


def test_a_snapshot_larger_than_the_whole_budget_is_still_taken(tmp_path):
    with threaded(tmp_path / "run", queue_bytes=10) as out:
        for step in range(4):
            out(snapshot(step))
    check_clean(tmp_path / "run", [0, 1, 2, 3])


def test_waiting_for_the_disk_is_reported_when_it_costs_much(tmp_path):
    out = writer(tmp_path / "run")
    out(snapshot(0))
    out._worker.stalled_s = 7.0
    with pytest.warns(RuntimeWarning, match=r"training waited 7\.0 s of .* s for the disk .* record fewer layers"):
        out.close()


def test_arrays_are_given_back_once_they_are_written(tmp_path):
    back: list[int] = []
    with threaded(tmp_path / "run", release=lambda shot: back.append(shot.step)) as out:
        for step in range(5):
            out(snapshot(step))
        assert back == []
        out.flush()
        assert back == [0, 1, 2, 3, 4]
        out(snapshot(5))
    assert back == [0, 1, 2, 3, 4, 5]


def test_the_hand_off_is_short(tmp_path, capsys):
    """At most 0.2 ms in the median while nothing waits: 4 MiB snapshots."""
    wide = (layer("a", (512,)),)
    shot = snapshot(0, wide, 2000)
    times = []
    with threaded(tmp_path / "run", probe=probe(2000), seal_seconds=1) as out:
        for step in range(60):
            next_ = type(shot)(**{**vars(shot), "step": step})
            began = time.perf_counter()
            out(next_)
            times.append(time.perf_counter() - began)
    with capsys.disabled():
        print(f"\n  hand-off of 4 MiB: median {1e3 * np.median(times):.3f} ms, worst {1e3 * max(times):.2f} ms")
    assert np.median(times) < 0.2e-3


def test_several_threads_may_hand_over(tmp_path):
    lock, steps = threading.Lock(), iter(range(60))
    out = threaded(tmp_path / "run", queue_bytes=20_000)

    def hand_over():
        while True:
            with lock:
                step = next(steps, None)
                if step is None:
                    return
                out(snapshot(step))

    threads = [threading.Thread(target=hand_over) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out.close()
    check_clean(tmp_path / "run", list(range(60)))


def test_a_closed_writer_is_closed(tmp_path):
    out = writer(tmp_path / "run")
    out.close()
    out.close()
    for use in (out.flush, lambda: out(snapshot(0)), lambda: out.annotate(a=1)):
        with pytest.raises(ValueError, match=r"the writer of .*run is closed"):
            use()


def test_a_relative_directory_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = writer("run")
    store_before = Path("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    out(snapshot(0))
    out.close()
    assert not store_before.exists()
    check_clean(tmp_path / "run", [0])


def run_python(code: str, *args: object) -> subprocess.Popen[str]:
    """A process that can import the test cases and needs no torch."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error", "-c", code, *map(str, args)]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def forked(code: str, *args: object) -> subprocess.Popen[str]:
    """A process that forks others, so that imports are paid once; they wait until `communicate` ends its input."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_what_was_never_closed_is_closed_at_the_end_of_the_process(tmp_path):
    code = (
        "import sys, store_cases as c\n"
        "out = c.writer(sys.argv[1], background=True)\n"
        "for step in range(5): out(c.snapshot(step))\n"
        "assert 'torch' not in sys.modules\n"
    )
    child = run_python(code, tmp_path / "run")
    assert child.communicate(timeout=120) == ("", "")
    check_clean(tmp_path / "run", [0, 1, 2, 3, 4])
    assert open_run(tmp_path / "run").sessions[0]["closed"]


def test_a_forked_child_cannot_use_it_and_does_not_disturb_it(tmp_path):
    code = (
        "import os, sys, store_cases as c\n"
        "out = c.writer(sys.argv[1], background=True)\n"
        "out(c.snapshot(0)); out.flush()\n"
        "if os.fork() == 0:\n"
        "    try: out(c.snapshot(1))\n"
        "    except RuntimeError as error: print(error, flush=True)\n"
        "    sys.exit()\n"
        "os.wait(); out(c.snapshot(2)); out.close()\n"
    )
    child = run_python(code, tmp_path / "run")
    text, errors = child.communicate(timeout=120)
    assert errors == ""
    assert f"this writer belongs to process {child.pid}, and cannot be used in child" in text
    check_clean(tmp_path / "run", [0, 2])


@pytest.mark.parametrize("seed", range(3))
def test_an_interrupt_loses_nothing_that_was_handed_over(tmp_path, seed):
    code = (
        "import sys, store_cases as c\n"
        "c.snapshot(0)  # numpy's first use of its generators loses interrupts\n"
        "out = c.writer(sys.argv[1], background=True, seal_bytes=20_000)\n"
        "step = 0\n"
        "try:\n"
        "    with out:\n"
        "        print('go', flush=True)\n"
        "        while True:\n"
        "            out(c.snapshot(step)); step += 1\n"
        "except KeyboardInterrupt:\n"
        "    print(step)\n"
    )
    child = run_python(code, tmp_path / "run")
    assert child.stdout.readline() == "go\n"
    time.sleep(0.03 + 0.05 * seed)
    child.send_signal(signal.SIGINT)
    text, errors = child.communicate(timeout=60)
    assert errors == ""
    store = open_run(tmp_path / "run")
    assert store.problems == ()
    counted = int(text)  # a signal may fall between the call and the count
    assert len(store.steps()) in (counted, counted + 1)
    check(store, list(range(len(store.steps()))))


# The lock


def test_a_second_writer_is_refused_with_the_number_of_the_first(tmp_path):
    code = "import sys, time, store_cases as c\nout = c.writer(sys.argv[1])\nprint('go', flush=True)\ntime.sleep(60)\n"
    child = run_python(code, tmp_path / "run")
    try:
        assert child.stdout.readline() == "go\n"
        for resume in (False, True):
            with pytest.raises(StoreError, match=f"is being written by process {child.pid}; wait for it"):
                writer(tmp_path / "run", resume=resume)
    finally:
        child.kill()
        child.communicate()
    with pytest.warns(RuntimeWarning, match=f"took over the lock of process {child.pid}, which has ended"):
        out = writer(tmp_path / "run", resume=True)
    with out:
        out(snapshot(0))
    assert out.session == 2
    check_clean(tmp_path / "run", [0])


def test_two_writers_of_one_process(tmp_path):
    with (
        writer(tmp_path / "run"),
        pytest.raises(StoreError, match=r"by another writer of this process \(\d+\); close it first"),
    ):
        writer(tmp_path / "run", resume=True)
    writer(tmp_path / "run", resume=True).close()


def lock_of(path: Path, **owner: object) -> None:
    (path / layout.lock_file(0)).write_text(json.dumps(owner))


def test_a_number_that_another_process_has_now_is_not_the_owner(tmp_path):
    writer(tmp_path / "run").close()
    lock_of(tmp_path / "run", host=socket.gethostname(), pid=os.getppid(), started=1)
    assert alive(os.getppid())
    assert not alive(os.getppid(), 1)
    assert process_start(os.getpid()) > 0
    with pytest.warns(RuntimeWarning, match="took over"):
        writer(tmp_path / "run", resume=True).close()


def test_a_lock_of_another_host_is_left_to_the_user(tmp_path):
    writer(tmp_path / "run").close()
    lock_of(tmp_path / "run", host="elsewhere", pid=7)
    with pytest.raises(StoreError, match=r"by process 7 on host elsewhere; if that process has ended, remove writer"):
        writer(tmp_path / "run", resume=True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": -1, "host": "h"}'])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path, content):
    writer(tmp_path / "run").close()
    (tmp_path / "run" / layout.lock_file(0)).write_text(content)
    with pytest.warns(RuntimeWarning, match="took over"):
        writer(tmp_path / "run", resume=True).close()


def test_a_lock_that_changes_hands_during_the_take_over_is_given_back(tmp_path, monkeypatch):
    writer(tmp_path / "run").close()
    path = tmp_path / "run" / layout.lock_file(0)
    lock_of(tmp_path / "run", host=socket.gethostname(), pid=2**22 - 1, started=1)
    new = b'{"host":"elsewhere","pid":1}'
    real = Path.rename

    def rename(self, target):
        path.write_bytes(new)  # another process was faster
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StoreError, match="was taken by another process at the same moment"):
        writer(tmp_path / "run", resume=True)
    assert path.read_bytes() == new


def test_many_starters_and_one_winner(tmp_path):
    code = (
        "import os, sys, store_cases as c\n"
        "from infoplane.core import StoreError\n"
        "def start():\n"
        "    os.read(0, 1)\n"
        "    try: out = c.writer(sys.argv[1])\n"
        "    except StoreError: return os.write(1, b'refused\\n')\n"
        "    os.write(1, b'won\\n'); out(c.snapshot(0)); out.close()\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        start()\n"
        "        os._exit(0)\n"
        "assert not any(os.wait()[1] for _ in range(4))\n"
    )
    starters = forked(code, tmp_path / "run")
    said = starters.communicate(timeout=120)[0].splitlines()
    assert starters.returncode == 0
    assert sorted(said) == ["refused"] * 3 + ["won"]
    check_clean(tmp_path / "run", [0])


# Sessions


def test_a_directory_with_a_run_is_not_recorded_into(tmp_path):
    record(tmp_path / "run", [[0]])
    with pytest.raises(StoreError, match=r"already holds a run of 2\d{3}-.*; pass resume=True to continue it"):
        writer(tmp_path / "run")
    check_clean(tmp_path / "run", [0])


def test_resume_supersedes_and_deletes_nothing(tmp_path):
    record(tmp_path / "run", [[0, 1, 2, 3], [4, 5, 6]])
    before = {path: path.read_bytes() for path in shards(tmp_path / "run")}
    with writer(tmp_path / "run", resume=True) as out:
        assert (out.last_step, out.session) == (6, 2)
        changed = snapshot(3, arrays={spec.key: values(spec, 103) for spec in LAYERS})
        out(changed)
        out(snapshot(8))
    store = open_run(tmp_path / "run")
    assert store.steps() == [0, 1, 2, 3, 8]
    assert store.read("fc1", [3])[0].tobytes() == values(LAYERS[0], 103).tobytes()
    assert [store.session(s) for s in store.steps()] == [1, 1, 1, 2, 2]
    assert all(path.read_bytes() == data for path, data in before.items())
    assert [(s["session"], s["resumed_from"]) for s in store.sessions] == [(1, None), (2, 6)]
    with writer(tmp_path / "run", resume=True) as out:
        assert (out.last_step, out.session) == (8, 3)
        out(snapshot(5))
    assert open_run(tmp_path / "run").steps() == [0, 1, 2, 3, 5]
    assert open_run(tmp_path / "run").verify() == []


def test_a_damaged_newest_session_does_not_bring_back_what_it_superseded(tmp_path):
    record(tmp_path / "run", [[0, 1, 2, 3]])
    record(tmp_path / "run", [[2], [4]], resume=True)
    first = tmp_path / "run/shards/00000002-00000002.s0002.r000.h5"
    second = tmp_path / "run/shards/00000004-00000004.s0002.r000.h5"
    first.write_bytes(first.read_bytes()[:-1])
    assert open_run(tmp_path / "run").steps() == [0, 1, 4]
    second.write_bytes(b"")
    assert open_run(tmp_path / "run").steps() == [0, 1]
    assert [p.steps for p in open_run(tmp_path / "run").problems] == [(2,), (4,)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({"dtype": "float32"}, {"dtype": "float16"}, r"with dtype = 'float32', now it is 'float16'"),
        ({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 3]}}, r"with b\.c = \[1, 2\], now it is \[1, 3\]"),
        ({"a": 1}, {"a": 1, "b": 2}, r"with b = None, now it is 2"),
        ({"a": 1, "b": 2}, {"b": 2}, r"with a = 1, now it is None"),
        ({"a": True}, {"a": 1}, r"with a = True, now it is 1"),
    ],
)
def test_the_first_setting_that_differs_is_named(tmp_path, old, new, message):
    writer(tmp_path / "run", settings=old).close()
    with pytest.raises(StoreError, match=message):
        writer(tmp_path / "run", settings=new, resume=True)
    assert not (tmp_path / "run" / layout.lock_file(0)).exists()
    writer(tmp_path / "run", settings=new, resume=True, may_differ=set(old) | set(new)).close()


def test_versions_may_differ_and_each_session_keeps_its_own(tmp_path):
    writer(tmp_path / "run", settings={"a": (1, 2), "versions": {"torch": "2.6"}}).close()
    writer(tmp_path / "run", settings={"a": [1, 2], "versions": {"torch": "2.7"}}, resume=True).close()
    store = open_run(tmp_path / "run")
    assert [s["settings"]["versions"]["torch"] for s in store.sessions] == ["2.6", "2.7"]
    assert store.settings["versions"]["torch"] == "2.6"


def test_another_probe_is_refused(tmp_path):
    writer(tmp_path / "run").close()
    with pytest.raises(StoreError, match=r"was recorded with another probe: digest [0-9a-f]{32} there"):
        writer(tmp_path / "run", probe=probe(labels=np.zeros(24, int)), resume=True)


def test_notes_are_in_the_session_at_once(tmp_path):
    with writer(tmp_path / "run") as out:
        out.annotate(shift=1)
        assert open_run(tmp_path / "run").sessions[0]["notes"] == {"shift": 1}
        out.annotate(other="x")
    assert open_run(tmp_path / "run").sessions[0]["notes"] == {"shift": 1, "other": "x"}


def test_leftovers_of_a_dead_writer_are_removed_and_those_of_others_are_not(tmp_path):
    writer(tmp_path / "run").close()
    mine = ".00000000-00000000.s0001.r000.h5.999999.tmp"
    other = ".00000000-00000000.s0001.r001.h5.999999.tmp"
    foreign = ".something.txt.999999.tmp"
    for name in (mine, other, foreign):
        (tmp_path / "run/shards" / name).write_bytes(b"x")
    arriving = tmp_path / f"run/.writer.r000.lock.{os.getppid()}.tmp"  # a living process that will be refused
    gone = tmp_path / "run/.writer.r000.lock.4194303.tmp"
    for path in (arriving, gone):
        path.write_bytes(b"x")
    assert open_run(tmp_path / "run").problems == ()
    writer(tmp_path / "run", resume=True).close()
    left = [path.name for path in (tmp_path / "run/shards").iterdir()]
    assert sorted(left) == sorted([other, foreign])
    assert arriving.exists()
    assert not gone.exists()


def test_shards_without_a_run_are_not_built_upon(tmp_path):
    record(tmp_path / "run", [[0]])
    (tmp_path / "run/run.json").unlink()
    with pytest.raises(StoreError, match=r"has shards but no run\.json; choose another directory"):
        writer(tmp_path / "run", resume=True)


# Ranks


def test_ranks_in_processes_find_the_session_of_rank_0(tmp_path):
    code = (
        "import os, sys, numpy as np, store_cases as c\n"
        "def record(rank, steps):\n"
        "    rows = np.arange(rank, c.SAMPLES, 3)\n"
        "    with c.writer(sys.argv[1], rank=rank, world_size=3, resume=True, background=True) as out:\n"
        "        for step in steps.split(','): out(c.snapshot(int(step), rows=rows))\n"
        "        out.flush()\n"
        "        os.write(1, f'{out.session}\\n'.encode())\n"
        "        os.read(0, 1)\n"
        "for rank in (2, 1, 0):\n"
        "    if os.fork() == 0:\n"
        "        record(rank, sys.argv[2 + rank])\n"
        "        os._exit(0)\n"
        "assert not any(os.wait()[1] for _ in range(3))\n"
    )
    for session, steps in ((1, ["0,1,2,3", "0,1,2,3", "0,1,3"]), (2, ["2,3", "2,3", "2,3"])):
        ranks = forked(code, tmp_path / "run", *steps)
        assert [ranks.stdout.readline() for _ in range(3)] == [f"{session}\n"] * 3
        assert ranks.communicate(timeout=60)[0] == ""
        assert ranks.returncode == 0
        store = open_run(tmp_path / "run")
        if session == 1:
            check(store, [0, 1, 3])
            assert [(p.what, p.steps) for p in store.problems] == [("incomplete: rank 2 of 3 missing", (2,))]
    check(store, [0, 1, 2, 3])
    assert store.problems == ()
    assert store.verify() == []


@pytest.mark.parametrize("world", [8, pytest.param(48, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
def test_killed_ranks_are_named_step_by_step(tmp_path, capsys, world):
    """A quarter of the ranks is killed at a step of its own; every pair of rank and step that is missing is listed."""
    code = (
        "import os, signal, sys, numpy as np, store_cases as c\n"
        "run, last = sys.argv[1], list(map(int, sys.argv[2:]))\n"
        "def record(rank, world, last):\n"
        "    rows = np.arange(rank, 96, world)\n"
        "    with c.writer(run, probe=c.probe(96), rank=rank, world_size=world, resume=True, background=True) as out:\n"
        "        for step in range(6):\n"
        "            out(c.snapshot(step, samples=96, rows=rows))\n"
        "            out.flush()\n"
        "            if step == last: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        os.write(1, b'done\\n')\n"
        "        os.read(0, 1)\n"
        "for rank in range(len(last)):\n"
        "    if os.fork() == 0:\n"
        "        record(rank, len(last), last[rank])\n"
        "        os._exit(0)\n"
        "for _ in last:\n"
        "    if os.wait()[1]: os.write(1, b'dead\\n')\n"
    )
    dead = {rank: rank % 5 for rank in range(3, world, 4)}
    ranks = forked(code, tmp_path / "run", *(dead.get(rank, -1) for rank in range(world)))
    said = sorted(ranks.stdout.readline() for _ in range(world))
    assert said == ["dead\n"] * len(dead) + ["done\n"] * (world - len(dead))
    assert ranks.communicate(timeout=120)[0] == ""
    assert ranks.returncode == 0
    store = open_run(tmp_path / "run")
    gone = {step: [rank for rank, last in dead.items() if last < step] for step in range(6)}
    assert store.steps() == [step for step, ranks in gone.items() if not ranks]
    told = {step: p.what for p in store.problems if p.what.startswith("incomplete") for step in p.steps}
    for step, ranks in gone.items():
        if ranks:
            word = "ranks" if len(ranks) > 1 else "rank"
            assert told[step] == f"incomplete: {word} {', '.join(map(str, ranks))} of {world} missing"
    assert store.verify() == list(store.problems)
    with capsys.disabled():
        missing = sum(map(len, gone.values()))
        print(f"\n  ranks {world}, killed {len(dead)}: {missing} missing pairs of rank and step listed")


def test_a_rank_without_rank_0_says_so(tmp_path):
    with pytest.raises(StoreError, match=r"no run\.json in .* after 0\.1 s; open the writer of rank 0 first"):
        writer(tmp_path / "run", rank=1, world_size=2, join_seconds=0.1)
    writer(tmp_path / "run", world_size=2).close()
    with pytest.raises(StoreError, match=r"rank 1 found no session of rank 0 to join in .* within 0\.1 s"):
        writer(tmp_path / "run", rank=1, world_size=2, join_seconds=0.1)
