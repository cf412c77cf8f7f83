"""Any order of recording, sealing, killing, resuming, damaging and reading, against a model of what must be readable.

The model knows of each step which session counts for it. A run that is killed goes on from what stood on the disk at
that moment: a copy of the directory, made between two of the system calls that change it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from store_cases import layer, probe, shards, snapshot, writer

from infoplane.core import StoreError
from infoplane.store import ActivationStore, StoreWriter, open_run
from infoplane.store._records import ManifestEntry, read_manifest
from infoplane.store.layout import RUN_FILE, lock_file, manifest_file

SAMPLES = 4
LAYERS = (layer("fc"), layer("out", (), "float64", 1))
GAPS = st.lists(st.integers(1, 3), max_size=3)
CALLS = ("open", "write", "fsync", "ftruncate", "link", "replace", "unlink")


def recorded(step: int, session: int, key: str) -> np.ndarray:
    """Values that tell which session recorded them."""
    spec = LAYERS[0] if key == "fc" else LAYERS[1]
    numbers = np.arange(SAMPLES * spec.units).reshape(SAMPLES, *spec.unit_shape)
    return (1000 * session + 10 * step + numbers).astype(spec.dtype)


@contextmanager
def copied_after(calls: int, source: Path, target: Path) -> Iterator[None]:
    """Copies the directory after so many system calls: what a kill at that moment would leave."""
    left = calls

    def counted(name):
        real = getattr(os, name)

        def call(*args, **options):
            nonlocal left
            done = real(*args, **options)
            left -= 1
            if left == 0:
                shutil.copytree(source, target)
            return done

        return call

    with mock.patch.multiple(os, **{name: counted(name) for name in CALLS}):
        yield
    if not target.exists():
        shutil.copytree(source, target)


class Run(RuleBasedStateMachine):
    """One run directory with at most one writer."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.places = 0
        self.path = self.next_place()
        self.out: StoreWriter | None = None
        # step -> (session that counts for it, whether it has both layers)
        self.readable: dict[int, tuple[int, bool]] = {}
        self.pending: dict[int, tuple[int, bool]] = {}  # handed over, not sealed
        self.last: int | None = None  # step of this session
        self.start = 0  # first step of this session
        self.damaged: dict[str, tuple[bytes, ManifestEntry]] = {}  # what a shard was
        self.published: dict[str, bytes] = {}  # shards that were there once

    def next_place(self) -> Path:
        self.places += 1
        return self.folder / str(self.places)

    def sealed(self) -> dict[int, tuple[int, bool]]:
        """What is readable once all that is pending is sealed: a session ends the older ones where it starts."""
        if not self.pending:
            return self.readable
        own = self.out.session
        return {s: at for s, at in self.readable.items() if at[0] == own or s < self.start} | self.pending

    def seal(self) -> None:
        self.readable, self.pending = self.sealed(), {}

    def at_risk(self) -> set[int]:
        """Steps that lie in a damaged shard, and in no newer one."""
        entries = [entry for _, entry in self.damaged.values()]
        return {s for e in entries for s in e.steps if self.readable.get(s, (0, False))[0] == e.session}

    # Recording

    def opened(self) -> StoreWriter:
        """A writer; it says so where it takes over the lock of a killed one."""
        locked = (self.path / lock_file(0)).exists()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            out = writer(self.path, probe=probe(SAMPLES), resume=True)
        assert [("took over the lock" in str(each.message)) for each in said] == [True] * locked
        return out

    @precondition(lambda self: self.out is None)
    @rule(gaps=GAPS, back=st.integers(0, 4), both=st.booleans())
    def open(self, gaps: list[int], back: int, both: bool) -> None:
        steps, sessions = [], 0
        if (self.path / RUN_FILE).exists():
            before = open_run(self.path)
            steps, sessions = before.steps(), max((each["session"] for each in before.sessions), default=0)
        self.out, self.last = self.opened(), None
        assert (self.out.last_step, self.out.session) == (max(steps, default=None), sessions + 1)
        assert open_run(self.path).sessions[-1]["resumed_from"] == self.out.last_step
        if not self.damaged:
            assert set(self.manifest()) == {path.name for path in shards(self.path)}
        self.record(gaps, back, both)

    def record(self, gaps: list[int], back: int, both: bool) -> None:
        """Further steps; a new session may begin before the last step of the run."""
        for gap in gaps:
            first = max(0, max(self.readable, default=-1) + 1 - back)
            self.record_one(first if self.last is None else self.last + gap, both)

    def record_one(self, step: int, both: bool) -> None:
        layers, own = LAYERS[: 1 + both], self.out.session
        self.start = step if self.last is None else self.start
        if self.pending and (own, both) not in self.pending.values():
            self.seal()  # other layers need another shard
        self.out(snapshot(step, layers, SAMPLES, arrays={la.key: recorded(step, own, la.key) for la in layers}))
        self.pending[step], self.last = (own, both), step

    @precondition(lambda self: self.out is not None and self.last is not None)
    @rule(back=st.integers(0, 2))
    def record_out_of_order(self, back: int) -> None:
        with pytest.raises(ValueError, match="does not come after step"):
            self.out(snapshot(max(0, self.last - back), LAYERS, SAMPLES))

    @precondition(lambda self: self.out is not None)
    @rule(gaps=GAPS, both=st.booleans())
    def seal_and_go_on(self, gaps: list[int], both: bool) -> None:
        assert self.out.flush()
        self.seal()
        self.record(gaps, 0, both)

    @precondition(lambda self: self.out is not None)
    @rule()
    def close(self) -> None:
        self.out.close()
        self.seal()
        self.out = None

    @precondition(lambda self: self.out is not None)
    @rule(calls=st.integers(0, 30), closing=st.booleans())
    def kill(self, calls: int, closing: bool) -> None:
        """While it waits, seals or closes: the shard on its way is there as a whole or not at all."""
        killed, target, sealed = self.path, self.next_place(), self.sealed()
        if calls == 0:
            shutil.copytree(killed, target)
            sealed = self.readable
        else:
            with copied_after(calls, killed, target):
                self.out.close() if closing else self.out.flush()
        self.out.close()
        self.path = target
        found = open_run(target).steps()
        if sealed != self.readable and set(self.pending) <= set(found):
            self.readable = sealed
        self.pending, self.out = {}, None

    @precondition(lambda self: self.out is None)
    @rule(calls=st.integers(1, 40))
    def kill_while_opening(self, calls: int) -> None:
        target = self.next_place()
        with copied_after(calls, self.path, target):
            self.opened().close()
        self.path = target

    # Damage

    def manifest(self) -> dict[str, ManifestEntry]:
        path = self.path / manifest_file(0)
        return read_manifest(path).entries if path.exists() else {}

    @precondition(lambda self: self.out is None and set(self.manifest()) - set(self.damaged))
    @rule(which=st.integers(0, 50), how=st.sampled_from(["flip", "cut", "empty", "gone"]), where=st.floats(0, 0.999))
    def damage(self, which: int, how: str, where: float) -> None:
        """A shard that the manifest lists: of another that is gone nobody could know."""
        listed = self.manifest()
        name = sorted(set(listed) - set(self.damaged))[which % len(set(listed) - set(self.damaged))]
        path = self.path / "shards" / name
        data = path.read_bytes()
        at = int(where * len(data))
        self.damaged[name] = data, listed[name]
        if how == "gone":
            path.unlink()
        else:
            flipped = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
            path.write_bytes({"flip": flipped, "cut": data[:at], "empty": b""}[how])

    @precondition(lambda self: self.out is None and self.damaged)
    @rule()
    def mend(self) -> None:
        name, (data, _) = self.damaged.popitem()
        (self.path / "shards" / name).write_bytes(data)

    @precondition(lambda self: self.out is None and self.manifest() and not self.damaged)
    @rule(how=st.sampled_from(["cut", "line", "gone"]), where=st.floats(0, 1))
    def cut_the_manifest(self, how: str, where: float) -> None:
        """The shards do without; the next session lists them again."""
        path = self.path / manifest_file(0)
        if how == "gone":
            path.unlink()
        elif how == "cut":
            path.write_bytes(path.read_bytes()[: int(where * path.stat().st_size)])
        else:
            lines = path.read_bytes().splitlines(keepends=True)
            del lines[int(where * (len(lines) - 1))]
            path.write_bytes(b"".join(lines))

    # Reading

    def read_all(self, store: ActivationStore, key: str, order: np.random.Generator) -> set[int]:
        """Read all steps of a layer in any order, again without those that prove damaged; the steps that were read."""
        while steps := store.steps(key):
            order.shuffle(steps)
            try:
                values = store.read(key, steps)
            except StoreError:
                assert len(store.steps(key)) < len(steps)
                continue
            some = order.choice(steps, int(order.integers(len(steps) + 2))).tolist()  # several times, or none
            again = store.read(key, some)
            assert len(again) == len(some)
            for step, got in [*zip(steps, values, strict=True), *zip(some, again, strict=True)]:
                session = self.readable[step][0]
                assert got.tobytes() == recorded(step, session, key).tobytes()
                assert (store.session(step), store.epoch(step), store.time(step)) == (session, step / 2, 1e9 + step)
                assert store.nbytes(key) == got.nbytes
            break
        return set(steps)

    def keep(self) -> None:
        """No shard that was there once has gone or changed, superseded ones included."""
        here = {path.name: path.read_bytes() for path in shards(self.path) if path.name not in self.damaged}
        assert here.items() >= {n: data for n, data in self.published.items() if n not in self.damaged}.items()
        self.published |= here

    @precondition(lambda self: (self.path / RUN_FILE).exists())
    @rule(seed=st.integers(0, 100))
    def read(self, seed: int) -> None:
        self.keep()
        store, risk = open_run(self.path), self.at_risk()
        assert store.steps() == sorted(store.steps())
        assert store.steps() or not set(self.readable) - risk
        order = np.random.default_rng(seed)
        for spec in store.layers:
            wanted = {s for s, (_, both) in self.readable.items() if both or spec.key == "fc"}
            got = self.read_all(store, spec.key, order)
            assert wanted - risk <= got <= wanted
            named = {step for problem in store.problems for step in problem.steps}
            assert wanted - got <= named, "a step is gone and nothing says so"
        if not self.damaged:
            assert store.problems == ()

    @precondition(lambda self: (self.path / RUN_FILE).exists())
    @rule()
    def verify(self) -> None:
        """Names the damaged files, all of them and no others."""
        assert {p.file for p in open_run(self.path).verify()} == {f"shards/{name}" for name in self.damaged}

    def teardown(self) -> None:
        try:
            if self.out is not None:
                self.close()
            if (self.path / RUN_FILE).exists():
                self.read(0)
                self.verify()
        finally:
            shutil.rmtree(self.folder)


@pytest.mark.parametrize(
    ("examples", "steps"),
    [(20, 25), pytest.param(2000, 60, marks=[pytest.mark.full, pytest.mark.timeout(3600)])],
)
def test_a_run_is_what_the_model_says(examples, steps):
    limits = settings(max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=examples < 100)
    run_state_machine_as_test(Run, settings=limits)
