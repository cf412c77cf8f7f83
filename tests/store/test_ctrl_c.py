"""Ctrl-C while a writer takes a snapshot or waits for the disk: no lock stays taken, and the rest is written."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from store_cases import LAYERS, check_clean, snapshot, values, writer

from infoplane.core import files


class Pressed(threading.Condition):
    """Gets Ctrl-C where the lock has been taken and `with` does not know it yet."""

    on = True

    def __enter__(self):
        entered = super().__enter__()
        if self.on and threading.current_thread() is threading.main_thread():
            self.on = False
            signal.raise_signal(signal.SIGINT)
        return entered


CALLS = {
    "call": lambda out: out(snapshot(1)),
    "flush": lambda out: out.flush(),
    "close": lambda out: out.close(),
}


@pytest.mark.parametrize("call", CALLS)
def test_it_leaves_no_lock_taken(tmp_path, call):
    out = writer(tmp_path / "run", background=True)
    out(snapshot(0))
    changed = out._worker._changed
    changed.__class__ = Pressed
    try:
        with pytest.raises(KeyboardInterrupt):
            CALLS[call](out)
        assert not changed._is_owned()
    finally:
        while changed._is_owned():
            changed.release()
    out.close()
    check_clean(tmp_path / "run", [0, 1] if call == "call" else [0])


def press_soon():
    threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()


@pytest.mark.parametrize("call", CALLS)
def test_it_ends_the_wait_for_a_slow_disk(tmp_path, monkeypatch, call):
    gate = threading.Event()
    publish = files.publish

    def slow(directory, name, pieces, **options):
        if name.endswith(".h5"):
            gate.wait(20)
        return publish(directory, name, pieces, **options)

    nbytes = sum(values(spec, 0).nbytes for spec in LAYERS)
    out = writer(tmp_path / "run", background=True, queue_bytes=nbytes)
    out(snapshot(0))
    monkeypatch.setattr(files, "publish", slow)
    began = time.monotonic()
    press_soon()
    with pytest.raises(KeyboardInterrupt):
        CALLS[call](out)
    assert time.monotonic() - began < 10
    gate.set()
    out.close()
    check_clean(tmp_path / "run", [0])


def test_a_writer_in_the_calling_thread_ends_what_it_is_at(tmp_path, monkeypatch):
    publish = files.publish

    def pressed(directory, name, pieces, **options):
        signal.raise_signal(signal.SIGINT)
        return publish(directory, name, pieces, **options)

    out = writer(tmp_path / "run")
    out(snapshot(0))
    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", pressed)
        with pytest.raises(KeyboardInterrupt):
            out.flush()
    out(snapshot(1))
    out.close()
    check_clean(tmp_path / "run", [0, 1])
