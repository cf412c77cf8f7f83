"""Reading a run: every damaged, foreign or incomplete part is named, the rest is served."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infoplane.core import files
from infoplane.core.errors import StoreError, closest
from infoplane.core.files import digest
from infoplane.core.records import Layer
from infoplane.core.steps import describe_steps, step_words
from infoplane.core.strict import canonical_json
from infoplane.store._scan import DAMAGED, Problem, Scan, few
from infoplane.store._shard import Shard
from infoplane.store.layout import ARRAY_DTYPES, SESSIONS_DIR, SHARDS_DIR, ShardName, listed_rows, session_file
from infoplane.store.summary import summarize

__all__ = ["ActivationStore", "Problem", "open_run"]


class _SnapshotPart(NamedTuple):
    """What one shard holds of the snapshot of a step: its own snapshot number `at`."""

    shard: Shard
    at: int


class ActivationStore:
    """A run on disk, opened for reading; nothing is ever written.

    Opening reads the index of every shard (a few kilobytes each) and checks it. Activations are read
    when asked for, straight into the array that is returned, and checked against their digest there:
    memory is the index, about 40 bytes for each layer of each snapshot, and what the caller keeps.

    A shard that is damaged, foreign or of a newer format is listed in `problems`, and its steps are not
    offered. Where damage shows only when a layer is read, `read` raises, and the step is withdrawn and
    listed from then on; asking again for the steps that remain works.

    Attributes
    ----------
    path : Path
    run_id, created : str
    format_version : int
        2 with labels for each position, 1 for all other runs.
    settings : dict
        What the recorder put into run.json.
    probe : Probe
    probe_digest : str
    sessions : tuple of dict
        The session files, in order of session and rank.
    problems : tuple of Problem
    unrecorded : tuple of Problem
        What the recorder could not record; notes where only the model did not call a layer.

    Raises
    ------
    StoreError
        From the constructor: when run.json or probe.h5 cannot be used, or is of a newer format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        scan = Scan(self.path)
        self.run_id, self.created = scan.record.run_id, scan.record.created
        self.format_version = scan.record.format_version
        self.settings = scan.record.settings
        self.probe, self.probe_digest = scan.probe, scan.record.probe_digest
        self.sessions = tuple(record.to_json() for record in scan.sessions)
        self._problems = scan.problems
        self._shards = tuple(scan.shards)
        self._bad: dict[tuple[str, int], Problem] = {}
        self._steps = self._resolve(scan)
        self.unrecorded = tuple(scan.unrecorded())
        layers: dict[str, Layer] = {}
        for layer in (layer for shard in self._shards for layer in shard.meta.layers):
            layers.setdefault(layer.key, layer)
        self._layers = dict(sorted(layers.items(), key=lambda item: item[1].depth))

    def __repr__(self) -> str:
        bad = f", {len(self._problems)} problems" if self._problems else ""
        return f"ActivationStore({str(self.path)!r}: {len(self._layers)} layers, {len(self.steps())} steps{bad})"

    def _repr_html_(self) -> str:
        """Return HTML for a notebook: what the run holds."""
        return summarize(self)._repr_html_()

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._problems)

    @property
    def lost(self) -> tuple[Problem, ...]:
        """Problems by which steps are missing or damaged, with these steps.

        Those in `unrecorded` count only for steps without a complete snapshot.
        """
        have = set(self.steps())
        gone = [(p, tuple(s for s in p.steps if s not in have)) for p in self.unrecorded if not p.note]
        return (*(p for p in self._problems if p.lost), *(replace(p, steps=steps) for p, steps in gone if steps))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers of the run in forward order."""
        return tuple(self._layers.values())

    def layer(self, key: str, step: int | None = None) -> Layer:
        """Return the layer with this key, as first recorded or as at `step`; ValueError with the closest names."""
        if step is not None:
            pieces, number = self._places(key, step)
            return pieces[0].shard.meta.layers[number]
        try:
            return self._layers[key]
        except KeyError:
            names = ", ".join(closest(key, self._layers)) or "none"
            raise ValueError(f"no layer {key!r} in run {self.path}; closest: {names}") from None

    def steps(self, key: str | None = None) -> list[int]:
        """Return the steps with a complete snapshot, ascending; with `key`, those that hold this layer."""
        if key is None:
            bad = {step for _, step in self._bad}
            return [s for s, pieces in self._steps.items() if pieces[0].shard.acts and s not in bad]
        self.layer(key)
        layers = {step: pieces[0].shard.layer_number for step, pieces in self._steps.items()}
        return [step for step, numbers in layers.items() if key in numbers and (key, step) not in self._bad]

    def recorded(self, key: str, step: int) -> bool:
        """Whether the snapshot of this step holds this layer."""
        return key in self._pieces(step)[0].shard.layer_number

    def why(self, key: str, step: int) -> Problem | None:
        """Return the reason why `steps(key)` does not have a step that was recorded; None where none is known."""
        known = self._bad.get((key, step)) or next((p for p in self._problems if step in p.steps), None)
        return known or next((p for p in self._problems if self._spans(p, step)), None)

    def _spans(self, problem: Problem, step: int) -> bool:
        """Whether a shard that could not be read may have had this step, going by its name."""
        name = ShardName.parse(problem.file.removeprefix(f"{SHARDS_DIR}/"))
        return name is not None and name.first <= step <= name.last and name not in {s.name for s in self._shards}

    def epoch(self, step: int) -> float:
        """Return the training loop's own counter at this step; NaN where it had none."""
        piece = self._pieces(step)[0]
        return float(piece.shard.epoch[piece.at])

    def time(self, step: int) -> float:
        """Seconds since the Unix epoch."""
        piece = self._pieces(step)[0]
        return float(piece.shard.time[piece.at])

    def session(self, step: int) -> int:
        """Return the session that recorded this step."""
        return self._pieces(step)[0].shard.meta.session

    def metrics(self) -> list[tuple[int, float, str, str, float]]:
        """Return (step, epoch, name, layer, value) of every metric recorded; layer "" is the whole model."""
        out = []
        for step, pieces in self._steps.items():
            seen: set[tuple[str, str]] = set()
            for piece in pieces:  # by rank: where several recorded a metric, the value of the lowest is taken
                shard = piece.shard
                for m in np.flatnonzero(shard.recorded[piece.at]).tolist():
                    pair = name, layer = shard.meta.metrics[m]
                    if pair not in seen:
                        seen.add(pair)
                        value = float(shard.metrics[piece.at, m])
                        out.append((step, float(shard.epoch[piece.at]), name, layer, value))
        return out

    def source(self, key: str, step: int) -> str:
        """Return the digest of the content of this layer at this step and of the probe, 32 hexadecimal digits."""
        pieces, i = self._places(key, step)
        parts = [(p.shard.rows.tolist(), p.shard.digests[p.at, i].tobytes()) for p in pieces]
        return source_digest(self.probe_digest, pieces[0].shard.meta.layers[i], parts)

    def nonfinite(self, key: str, step: int) -> int:
        """Return the number of NaN and infinite values of this layer at this step."""
        pieces, i = self._places(key, step)
        return sum(int(p.shard.nonfinite[p.at, i]) for p in pieces)

    def nbytes(self, key: str) -> int:
        """Return how many bytes one snapshot of this layer has."""
        layer = self.layer(key)
        return int(self.probe.samples * layer.units * ARRAY_DTYPES[layer.dtype].itemsize)

    def read(self, key: str, steps: Sequence[int]) -> npt.NDArray[Any]:
        """Return the activations of one layer at S steps on all N rows of the probe, `(S, N, *unit_shape)`, checked.

        The rows are in probe order. The dtype is the stored one; bfloat16 comes as its uint16 bits (`Layer.dtype` says
        so).

        Raises
        ------
        ValueError
            For a layer or step that is not there.
        StoreError
            When the shape differs between the steps, or a shard cannot be read or is damaged. The
            damaged steps are then listed in `problems` and no longer offered by `steps(key)`.
        """
        steps = [int(s) for s in steps]
        places = [self._places(key, step) for step in steps]
        layers = (pieces[0].shard.meta.layers[i] for pieces, i in places)
        first = self.layer(key)
        specs = {(layer.unit_shape, layer.dtype) for layer in layers} or {(first.unit_shape, first.dtype)}
        if len(specs) > 1:
            two = " and ".join(f"{kind} {shape}" for shape, kind in sorted(specs)[:2])
            raise StoreError(f"layer {key!r} changes between these steps: {two}; read them apart")
        ((unit_shape, dtype),) = specs
        out = np.empty((len(steps), self.probe.samples, *unit_shape), ARRAY_DTYPES[dtype])
        wanted: dict[Shard, list[tuple[int, int, int]]] = {}  # shard -> (place in out, snapshot, layer)
        for s, (pieces, i) in enumerate(places):
            for piece in pieces:
                wanted.setdefault(piece.shard, []).append((s, piece.at, i))
        damaged: dict[int, Problem] = {}
        for shard, jobs in wanted.items():
            file = f"{SHARDS_DIR}/{shard.name}"
            try:
                bad = self._read_shard(shard, jobs, out)
                what = DAMAGED
            except (OSError, StoreError) as error:
                bad, what = [s for s, *_ in jobs], str(error)
            damaged |= {steps[s]: Problem(file, f"layer {key!r}: {what}", (steps[s],)) for s in bad}
        if damaged:
            self._bad |= {(key, step): problem for step, problem in damaged.items()}
            self._problems += damaged.values()
            one = next(iter(damaged.values()))
            raise StoreError(f"layer {key!r} cannot be read at {step_words(damaged)}: {one.file}: {one.what}")
        return out

    def valid_shards(self) -> tuple[Shard, ...]:
        """Return the index of every shard that could be read, superseded ones included."""
        return self._shards

    def verify(self) -> list[Problem]:
        """Read the directory again, every byte of it, check all digests, and return everything that is wrong.

        Things that could not be recorded are listed too; as a note where the model only did not call a layer.
        """
        scan = Scan(self.path)
        self._resolve(scan)
        unrecorded = scan.unrecorded()
        return [*scan.verify(), *unrecorded]

    def _resolve(self, scan: Scan) -> dict[int, tuple[_SnapshotPart, ...]]:
        """Return the parts of each complete snapshot by its step; add what is lost to the problems of `scan`."""
        # A session replaces the older ones from its first step on.
        ends = scan.session_ends()
        groups: dict[int, list[_SnapshotPart]] = {}
        for shard in scan.shards:
            for at, step in enumerate(shard.step.tolist()):
                if step < ends[shard.meta.session]:
                    groups.setdefault(step, []).append(_SnapshotPart(shard, at))
        out: dict[int, tuple[_SnapshotPart, ...]] = {}
        complaints: dict[tuple[str, str], list[int]] = {}
        incomplete = functools.cache(self._incomplete)  # most steps lie in the same shards as the one before
        for step in sorted(groups):
            pieces = sorted(groups[step], key=lambda p: (p.shard.name.rank, p.shard.name.part or 0))
            what = incomplete(tuple(piece.shard for piece in pieces))
            if what is None:
                out[step] = tuple(pieces)
            else:
                complaints.setdefault(what, []).append(step)
        for (file, text), steps in complaints.items():
            scan.complain(file, text, steps)
        for record in scan.sessions:
            gaps: dict[str, list[int]] = {}
            for item in record.dropped:
                if item["step"] < ends[record.session] and item["step"] not in out:
                    gaps.setdefault(item["reason"], []).append(item["step"])
            file = f"{SESSIONS_DIR}/{session_file(record.session, record.rank)}"
            lost = [Problem(file, f"not written while recording: {why}", tuple(steps)) for why, steps in gaps.items()]
            scan.problems += few(lost, file, "more reasons why steps were not written while recording")
        # A mark may be left behind though the session's file was written later: only what that does not list is lost.
        for name, (session, rank, first, last) in scan.marks.items():
            listed = {d["step"] for r in scan.sessions if (r.session, r.rank) == (session, rank) for d in r.dropped}
            if first < ends[session] and not {first, last} <= listed:
                text = f"of the steps from {first} to {last} some could not be written while recording, nor their list"
                scan.complain(name, text, sorted({first, last}))
        return out

    def _incomplete(self, shards: tuple[Shard, ...]) -> tuple[str, str] | None:
        """Return (file, reason) where a step that lies in these shards cannot be used; None where it can."""
        samples, first = self.probe.samples, shards[0]
        if len(shards) == 1 and len(first.rows) == 1 and first.samples == samples:
            return None
        file = f"{SHARDS_DIR}/{first.name}" if len(shards) == 1 else ""
        if any(_specs(shard) != _specs(first) for shard in shards):
            return file, "its parts hold different layers"
        present = np.zeros(samples, np.int64)
        for shard in shards:
            for start, stop in shard.rows.tolist():
                present[start:stop] += 1
        if (present > 1).any():
            row = int(np.argmax(present > 1))
            return file, f"probe row {row} is present {int(present[row])} times"
        if (present == 1).all():
            return None
        world = max(shard.meta.world_size for shard in shards)
        ranks = sorted(set(range(world)) - {shard.meta.rank for shard in shards})
        if ranks:
            missing = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
            return "", f"incomplete: {missing} of {world} missing"
        gone, row = int((present == 0).sum()), int(np.argmin(present))
        return "", f"incomplete: {gone} of {samples} probe rows missing, the first is {row}"

    def _pieces(self, step: int) -> tuple[_SnapshotPart, ...]:
        """Return the parts of the snapshot at a step; ValueError where there is none."""
        try:
            return self._steps[int(step)]
        except KeyError:
            have = describe_steps(self._steps) or "none"
            raise ValueError(f"no complete snapshot at step {step} in run {self.path}; has {have}") from None

    def _places(self, key: str, step: int) -> tuple[tuple[_SnapshotPart, ...], int]:
        """Return a snapshot's parts, and the layer's number in each of them; ValueError where it was not recorded."""
        self.layer(key)
        pieces = self._pieces(step)
        i = pieces[0].shard.layer_number.get(key)
        if i is None:
            have = step_words(self.steps(key))
            raise ValueError(f"layer {key!r} was not recorded at step {step}; it has {have}")
        return pieces, i

    def _read_shard(self, shard: Shard, jobs: Sequence[tuple[int, int, int]], out: npt.NDArray[Any]) -> list[int]:
        """Read some snapshots of a shard into `out`; return the places in it that are damaged.

        Each of `jobs` is (place along the first axis of `out`, number of the snapshot, number of the layer).
        """
        bad: list[int] = []
        # Straight into `out` where the shard has one range of rows; several ranges go by way of a block of their own.
        start, stop = (int(n) for n in shard.rows[0])
        whole = len(shard.rows) == 1 and stop - start == out.shape[1]  # then one read can fill several snapshots
        with files.opened(self.path / SHARDS_DIR / str(shard.name)) as fd:
            size = os.fstat(fd).st_size
            if size != shard.size:
                raise StoreError(f"{shard.size} bytes expected, got {size}")
            for s, at, i, n in _runs(jobs, whole):
                extent = shard.acts[i]
                offset = extent.offset + at * (extent.nbytes // len(shard.step))
                if whole:
                    block = out[s : s + n]
                elif len(shard.rows) == 1:
                    block = out[s : s + 1, start:stop]
                else:
                    block = np.empty((1, shard.samples, *out.shape[2:]), out.dtype)
                files.read_into(fd, files.byte_view(block), offset)
                for k in range(n):
                    view = files.byte_view(block[k])
                    if digest(view) != shard.digests[at + k, i].tobytes() or _bad_bool(block[k]):
                        bad.append(s + k)
                if len(shard.rows) > 1:
                    out[s, listed_rows(shard.rows)] = block[0]
        return bad


def _runs(jobs: Sequence[tuple[int, int, int]], merge: bool) -> Iterable[tuple[int, int, int, int]]:
    """Yield (place, snapshot, layer, n) for each read that the jobs take.

    With `merge`, n jobs of one layer whose places and snapshots are consecutive are one read; else n is 1.
    """
    at = 0
    while at < len(jobs):
        s, snapshot, i = jobs[at]
        n = 1
        while merge and at + n < len(jobs) and jobs[at + n] == (s + n, snapshot + n, i):
            n += 1
        yield s, snapshot, i, n
        at += n


def _specs(shard: Shard) -> list[tuple[str, tuple[int, ...], str]]:
    """Return the key, shape and type of each layer of a shard."""
    return [(layer.key, layer.unit_shape, layer.dtype) for layer in shard.meta.layers]


def _bad_bool(block: npt.NDArray[Any]) -> bool:
    """Whether a byte of a boolean array is neither 0 nor 1."""
    return block.dtype == np.bool_ and bool((block.view(np.uint8) > 1).any())


def source_digest(probe_digest: str, layer: Layer, parts: Iterable[tuple[list[list[int]], bytes]]) -> str:
    """Return the digest of the content of a layer at one step and of the probe, 32 hexadecimal digits.

    `parts` are, for each shard that holds some of it, the ranges of probe rows and the digest of their values.
    """
    content = [[rows, values.hex()] for rows, values in parts]
    return digest(canonical_json([probe_digest, layer.dtype, list(layer.unit_shape), content])).hex()


def open_run(path: str | os.PathLike[str]) -> ActivationStore:
    """Open a run directory for reading.

    Raises
    ------
    StoreError
        When it is no run directory, when run.json or probe.h5 is damaged, or when the format is newer
        than this release.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from infoplane.hooks import Recorder
    >>> folder = tempfile.TemporaryDirectory()
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    >>> x, y = torch.randn(8, 4), torch.arange(8) % 2
    >>> with Recorder(model, (x, y), folder.name + "/run", schedule=[5], quiet=True) as recorder:
    ...     taken = recorder.snapshot(5)
    >>> run = open_run(folder.name + "/run")
    >>> run.read("0", run.steps("0")).shape                                  # (S, N, U)
    (2, 8, 3)
    >>> folder.cleanup()
    """
    return ActivationStore(path)
