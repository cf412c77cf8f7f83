"""Full disks and I/O errors: training goes on, nothing acknowledged is lost, what was dropped is listed."""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from store_cases import LAYERS, check, check_clean, shards, snapshot, writer

from infoplane.core import StoreError, files
from infoplane.store import Problem, open_run

CALLS = ("open", "write", "fsync", "replace", "link")


class Faults:
    """Counts the calls that change the disk, and lets one or all of some kind fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fail_at: int | None = None
        self.fail_all: tuple[str, ...] = ()
        self.error = errno.ENOSPC
        self.short = False
        self.below = ""

    def hit(self, call: str) -> None:
        self.count += 1
        if self.count == self.fail_at or call in self.fail_all:
            raise OSError(self.error, os.strerror(self.error))


@contextmanager
def faulty(**settings: object) -> Iterator[Faults]:
    faults = Faults()
    vars(faults).update(settings)
    real = {name: getattr(os, name) for name in CALLS}

    def wrap(call: str):
        def run(*args, **kwargs):
            if call != "open" or args[1] & os.O_CREAT:
                faults.hit(call)
            if call == "write" and faults.short:
                return real["write"](args[0], memoryview(args[1])[: max(1, len(args[1]) // 2)])
            return real[call](*args, **kwargs)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for call in CALLS:
            patch.setattr(os, call, wrap(call))
        yield faults


def record_three(path: Path) -> tuple[list[int], dict[int, str], bool]:
    """Steps 0 to 2, a shard each: (acknowledged, dropped, whether the writer could be made)."""
    acked: list[int] = []
    try:
        out = writer(path)
    except OSError:
        return acked, {}, False
    for step in range(3):
        before = set(out.dropped)
        out(snapshot(step))
        out.flush()
        if set(out.dropped) == before and not out._ledger.uncertain:
            acked.append(step)
    out.close()
    return acked, out.dropped, True


def fault_loop(tmp_path: Path, errors: list[int]) -> tuple[int, int]:
    """Fail call 1, 2, 3, ... until a whole recording passes; (fault points, of them reported)."""
    points = reported = 0
    for error in errors:
        for short in (False, True):
            at = 0
            while True:
                at += 1
                path = tmp_path / f"{error}-{short}-{at}"
                with faulty(fail_at=at, error=error, short=short) as faults, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    acked, dropped, made = record_three(path)
                if faults.count < at:
                    assert acked == [0, 1, 2]
                    break
                points += 1
                if not made:
                    reported += 1
                    assert not list(path.glob("*.lock"))
                    writer(path).close() if not (path / "run.json").exists() else writer(path, resume=True).close()
                    continue
                store = open_run(path)
                reported += bool(dropped)
                check(store, [step for step in range(3) if step not in dropped])
                assert set(acked) <= set(store.steps())
                assert not [p for p in path.rglob(".*.tmp") if p.is_file()]
                assert store.verify() == [p for p in store.problems if p.what.startswith("not written")]
                assert {s for p in store.problems for s in p.steps} == set(dropped)
    return points, reported


def test_every_call_may_fail_once(tmp_path, capsys):
    points, reported = fault_loop(tmp_path, [errno.ENOSPC])
    assert points > 80
    with capsys.disabled():
        print(f"\n  fault points {points}: acknowledged lost 0, torn 0; {reported} dropped a step and said so")


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_every_call_may_fail_once_with_every_error(tmp_path, capsys):
    errors = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ENOMEM]
    points, reported = fault_loop(tmp_path, errors)
    assert points >= 500
    with capsys.disabled():
        print(f"\n  fault points {points}: acknowledged lost 0, torn 0; {reported} dropped a step and said so")


def test_capture_goes_on_when_space_returns_and_the_gap_is_recorded(tmp_path):
    out = writer(tmp_path / "run")
    out(snapshot(0))
    assert out.flush()
    with faulty(fail_all=("write",)):
        out(snapshot(1))
        with pytest.warns(RuntimeWarning, match=r"step 1 could not be written \(OSError: \[Errno 28\] No space"):
            assert not out.flush()
        out(snapshot(2))
        assert not out.flush()  # said once
    out(snapshot(3))
    assert not out.flush()
    with pytest.warns(RuntimeWarning, match="steps 1-2 could not be written .*; 2 in all, training was not affected"):
        out.close()
    store = open_run(tmp_path / "run")
    check(store, [0, 3])
    reason = "OSError: [Errno 28] No space left on device"
    assert store.sessions[0]["dropped"] == [{"step": 1, "reason": reason}, {"step": 2, "reason": reason}]
    assert store.problems == (Problem("sessions/0001.json", f"not written while recording: {reason}", (1, 2)),)
    again = writer(tmp_path / "run", resume=True)
    for step in (1, 2, 3):  # trained again: the gap closes
        again(snapshot(step))
    again.flush()
    again(snapshot(5))
    with faulty(fail_all=("replace",)), pytest.warns(RuntimeWarning, match="step 5 could not"):
        again.flush()
    with pytest.warns(RuntimeWarning, match="step 5 could not"):
        again.close()
    store = open_run(tmp_path / "run")
    check(store, [0, 1, 2, 3])
    assert [p.steps for p in store.problems] == [(5,)]


@pytest.mark.parametrize("call", CALLS[:4])
@pytest.mark.parametrize("background", [False, True])
def test_a_shard_that_a_passing_error_stopped_is_written_again_from_memory(tmp_path, call, background):
    out = writer(tmp_path / "run", background=background, seal_bytes=1)
    released = []
    out._worker._release = released.append
    out(snapshot(0))
    out.flush()
    with faulty(fail_all=(call,), error=errno.EIO):
        out(snapshot(1))
        wait_until(lambda: out._worker._held)
    assert out._worker.waiting_bytes > 0
    assert [s.step for s in released] == [0]
    out(snapshot(2))
    assert out.flush()
    assert out._worker.waiting_bytes == 0
    assert [s.step for s in released] == [0, 1, 2]
    out.close()
    assert out.dropped == {}
    check_clean(tmp_path / "run", [0, 1, 2])


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 5 s")


def test_a_shard_that_waits_for_a_second_attempt_gets_it_in_time_and_in_order(tmp_path):
    """Without another snapshot too, and at the end; never more than one waits."""
    out = writer(tmp_path / "run", background=True, seal_bytes=1, seal_seconds=0.2)
    with faulty(fail_all=("fsync",), error=errno.ESTALE):
        out(snapshot(0))
        wait_until(lambda: out._worker._held)
    wait_until(lambda: len(shards(tmp_path / "run")) == 1)
    out._worker._seal_seconds = 1e9
    with faulty(fail_all=("fsync",), error=errno.ESTALE):
        out(snapshot(1))
        wait_until(lambda: out._worker._held)
    out.close()
    check_clean(tmp_path / "run", [0, 1])
    again = writer(tmp_path / "run", resume=True, seal_bytes=1)
    with faulty(fail_all=("write",)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in (2, 3, 4):
            again(snapshot(step))
            assert [frame.step for frame in again._worker._held] == [step]
    assert set(again.dropped) == {2, 3}
    with pytest.warns(RuntimeWarning, match="steps 2-3 could not be written"):
        again.close()
    check(open_run(tmp_path / "run"), [0, 1, 4])


def test_what_waits_for_a_second_attempt_is_listed_where_the_end_comes_first(tmp_path):
    out = writer(tmp_path / "run", seal_bytes=1)
    with faulty(fail_all=("write",)):
        out(snapshot(0))
    out.abandon(TimeoutError("stopped"))
    assert out.dropped == {0: "TimeoutError: stopped"}
    assert [p.steps for p in open_run(tmp_path / "run").problems] == [(0,)]
    with pytest.warns(RuntimeWarning, match="step 0"):
        out.close()


# A disk that stays full: what was dropped is known ever after, whoever goes on with the run.


def stay_full(path: Path, first: list[int], then: list[int], **options: object) -> list[str]:
    """Record, with the disk full for the steps of `then` and through the end; the warnings of the end."""
    out = writer(path, **options)
    for step in first:
        out(snapshot(step))
        assert out.flush()
    with faulty(fail_all=("write",)), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in then:
            out(snapshot(step))
            out.flush()
        out.close()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("first", "then"), [([0], [1, 2]), ([], [0]), ([0, 1, 2], [7, 8, 9, 20])])
def test_what_a_full_disk_cost_is_not_forgotten_by_resume(tmp_path, first, then):
    path = tmp_path / "run"
    said = stay_full(path, first, then)
    mark = f"dropped.s0001.r000.{then[0]:08d}-{then[-1]:08d}"
    assert any(f"only in the name of {mark}; leave it there" in text for text in said)
    assert not any("makes up for it" in text for text in said)
    what = f"of the steps from {then[0]} to {then[-1]} some could not be written while recording, nor their list"
    expected = Problem(mark, what, tuple(sorted({then[0], then[-1]})))
    assert open_run(path).verify() == [expected]
    with writer(path, resume=True) as again:  # goes on behind the gap, from a checkpoint of its own
        again(snapshot(then[-1] + 1))
    assert open_run(path).verify() == [expected]
    assert open_run(path).problems == (expected,)
    check(open_run(path), [*first, then[-1] + 1])
    with writer(path, resume=True) as again:  # trained again from there: the gap closes
        for step in then:
            again(snapshot(step))
    check_clean(path, [*first, *then])


def test_the_mark_of_a_full_disk_goes_when_the_list_can_be_written(tmp_path):
    path = tmp_path / "run"
    out = writer(path)
    with faulty(fail_all=("write",)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in (3, 5):
            out(snapshot(step))
            out.flush()
            assert [p.name for p in path.glob("dropped.*")] == [f"dropped.s0001.r000.00000003-{step:08d}"]
    with pytest.warns(RuntimeWarning, match="steps 3, 5 could not"):
        out.close()
    assert not list(path.glob("dropped.*"))
    (problem,) = open_run(path).problems
    assert (problem.file, problem.steps) == ("sessions/0001.json", (3, 5))
    (path / "dropped.s0001.r000.00000003-00000005").touch()  # could not be removed: it says nothing new
    assert open_run(path).problems == (problem,)


def test_where_not_even_a_name_can_be_left_the_last_message_says_to_note_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "touch", lambda path: _no_space())
    said = stay_full(tmp_path / "run", [0], [1])
    assert any("nothing in the directory says that step 1 was dropped; make a note of it" in text for text in said)


def test_a_session_that_lost_everything_is_remembered(tmp_path):
    """It has published no shard, so that it ends no other session, and none before it can end it."""
    path = tmp_path / "run"
    out = writer(path)
    with faulty(fail_all=("link", "replace")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out(snapshot(0))
        out.flush()
    with pytest.warns(RuntimeWarning, match="step 0"):
        out.close()
    with writer(path, resume=True) as again:
        again(snapshot(4))
    (problem,) = open_run(path).problems
    assert (problem.file, problem.steps) == ("sessions/0001.json", (0,))
    assert open_run(path).verify() == [problem]


def test_on_error_raise_says_so_at_the_call_and_can_go_on(tmp_path):
    out = writer(tmp_path / "run", on_error="raise")
    with faulty(fail_all=("fsync",), error=errno.EIO):
        out(snapshot(0))
        with pytest.raises(OSError, match="Input/output error") as caught:
            out.flush()
    assert caught.value.errno == errno.EIO
    assert caught.value.__notes__ == ["steps not written: 0"]
    out(snapshot(1))
    with pytest.warns(RuntimeWarning, match="step 0 could not be written"):
        out.close()
    check(open_run(tmp_path / "run"), [1])


def test_on_error_raise_reaches_the_training_thread(tmp_path):
    out = writer(tmp_path / "run", on_error="raise", background=True, seal_bytes=1)
    with faulty(fail_all=("write",)):
        out(snapshot(0))
        with pytest.raises(OSError, match="No space left"):
            out.flush()
    with pytest.warns(RuntimeWarning, match="step 0 could not be written"):
        out.close()


def test_a_failed_part_takes_the_other_parts_of_its_snapshot_with_it(tmp_path):
    """An unfinished split snapshot leaves nothing behind, so that a later one can take its step."""
    out = writer(tmp_path / "run", max_file_bytes=800)
    real = os.replace

    def replace(a, b):
        if ".p02." in str(b):  # at the second attempt too
            raise OSError(errno.ENOSPC, "No space left on device")
        real(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        out(snapshot(0))
        assert shards(tmp_path / "run") == []
        with pytest.warns(RuntimeWarning, match="step 0"):
            assert not out.flush()
    assert shards(tmp_path / "run") == []
    out(snapshot(1))
    with pytest.warns(RuntimeWarning, match="step 0"):
        out.close()
    check(open_run(tmp_path / "run"), [1])


def test_a_directory_that_cannot_be_synced_is_said_and_costs_no_step(tmp_path, monkeypatch):
    out = writer(tmp_path / "run")

    def fail(directory):
        raise files.NotDurable(errno.EIO, "cannot sync")

    monkeypatch.setattr(files, "sync_directory", fail)
    out(snapshot(0))
    assert not out.flush()
    assert out.dropped == {}
    monkeypatch.undo()
    with pytest.warns(RuntimeWarning, match="may not survive a power failure"):
        out.close()
    check_clean(tmp_path / "run", [0])


def test_a_manifest_that_cannot_be_written_is_caught_up(tmp_path, monkeypatch):
    out = writer(tmp_path / "run")
    real = files.Journal.append

    def fail(self, lines):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.Journal, "append", fail)
    out(snapshot(0))
    assert out.flush()
    assert not (tmp_path / "run/manifest.jsonl").exists()
    check_clean(tmp_path / "run", [0])
    monkeypatch.setattr(files.Journal, "append", real)
    out(snapshot(1))
    out.close()
    assert (tmp_path / "run/manifest.jsonl").read_bytes().count(b"\n") == 2
    check_clean(tmp_path / "run", [0, 1])


def test_a_torn_manifest_line_is_cut_off_or_left_alone(tmp_path):
    journal = files.Journal(tmp_path / "log")
    journal.append([b"one"])
    with faulty(short=True), pytest.MonkeyPatch.context() as patch:
        real = os.write
        patch.setattr(os, "write", lambda fd, data: real(fd, data) if len(data) > 3 else _no_space())
        with pytest.raises(OSError, match="No space"):
            journal.append([b"two"])
        assert (tmp_path / "log").read_bytes() == b"one\n"
        patch.setattr(os, "ftruncate", lambda fd, n: _no_space())
        with pytest.raises(OSError, match="No space"):
            journal.append([b"two"])
    journal.append([b"three"])
    journal.append([b"four"])
    lines = (tmp_path / "log").read_bytes().split(b"\n")
    assert lines[0] == b"one"
    assert lines[-3:] == [b"three", b"four", b""]
    (tmp_path / "torn").write_bytes(b"one\ntw")
    files.Journal(tmp_path / "torn").append([b"three"])
    assert (tmp_path / "torn").read_bytes() == b"one\ntw\nthree\n"


def _no_space() -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_that_takes_nothing_is_an_error_and_no_endless_loop(tmp_path, monkeypatch):
    out = writer(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: 0)
        out(snapshot(0))
        with pytest.warns(RuntimeWarning, match="write accepted no bytes"):
            assert not out.flush()
    with pytest.warns(RuntimeWarning, match="step 0"):
        out.close()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError):
        writer(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        writer(tmp_path / "file/run")
    with pytest.raises(StoreError, match="is not a run directory: a file"):
        open_run(tmp_path / "file")


def test_a_fault_of_the_program_stops_recording_and_is_raised(tmp_path, monkeypatch):
    """Not an I/O error: going on would hide a bug."""
    out = writer(tmp_path / "run", background=True)

    def broken(*args):
        raise ZeroDivisionError("bug")

    monkeypatch.setattr("infoplane.store._worker.encode_shard", broken)
    out(snapshot(0))
    out(snapshot(1, LAYERS[:1]))  # other layers: the first is sealed, the second still waits
    with pytest.raises(StoreError, match=r"recording into .* has stopped: ZeroDivisionError: bug"):
        out.flush()
    with pytest.raises(StoreError, match="has stopped"):
        out(snapshot(2))
    with pytest.raises(StoreError, match="has stopped"):
        out.close()
    assert not list((tmp_path / "run").glob("*.lock"))
    assert out.dropped == dict.fromkeys([0, 1], "ZeroDivisionError: bug")


def test_an_interrupt_while_writing_lists_what_it_cost(tmp_path):
    """Without a thread Ctrl-C can come in the middle of a shard."""
    out = writer(tmp_path / "run")
    out(snapshot(0))

    def interrupted(fd, data):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            out.flush()
    assert out.dropped == {0: "KeyboardInterrupt: "}
    _expect_warning(lambda: out(snapshot(1)))
    _expect_warning(out.close)
    check(open_run(tmp_path / "run"), [1])
    assert not list((tmp_path / "run/shards").glob(".*"))


def _expect_warning(action: Callable[[], object]) -> None:
    with pytest.warns(RuntimeWarning, match="step 0 could not be written"):
        action()


def test_what_could_not_be_listed_is_said_at_the_end(tmp_path, monkeypatch):
    out = writer(tmp_path / "run")
    out(snapshot(0))
    monkeypatch.setattr(files.Journal, "append", lambda self, lines: _no_space())
    with pytest.warns(RuntimeWarning, match=r"the shards are whole, but not the manifest .*No space left"):
        out.close()
    monkeypatch.undo()
    check_clean(tmp_path / "run", [0])
    writer(tmp_path / "run", resume=True).close()
    assert (tmp_path / "run/manifest.jsonl").read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch, error):
    def refuse(a, b):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refuse)
    with writer(tmp_path / "run") as out:
        out(snapshot(0))
        with pytest.raises(StoreError, match="by another writer of this process"):
            writer(tmp_path / "run", resume=True)
    check_clean(tmp_path / "run", [0])


def test_a_file_system_that_cannot_sync_directories_will_do(tmp_path, monkeypatch):
    def fsync(fd):
        if Path(f"/dev/fd/{fd}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with writer(tmp_path / "run") as out:
        out(snapshot(0))
        assert out.flush()
    check_clean(tmp_path / "run", [0])
