"""Reading a run: every damaged, foreign or incomplete part is named, the rest is served."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.errors import StoreError, closest
from infoplane.core.records import Layer, Probe
from infoplane.store import _files
from infoplane.store._records import ManifestEntry, RunRecord, SessionRecord, dump_json
from infoplane.store._shard import Shard, decode_probe, decode_shard, open_source
from infoplane.store.layout import (
    ARRAY_DTYPES,
    MAX_INDEX_BYTES,
    MAX_JSON_BYTES,
    PROBE_FILE,
    RUN_FILE,
    SESSIONS_DIR,
    SHARDS_DIR,
    ShardName,
    describe_steps,
    digest,
    parse_manifest_file,
    parse_session_file,
    parse_temporary,
)


@dataclass(frozen=True)
class Problem:
    """Something in a run directory that could not be used.

    Attributes
    ----------
    file : str
        Path within the run directory; "" where a step as a whole is concerned.
    what : str
        One line: what was expected and what was found.
    steps : tuple of int
        The steps that are lost by it, as far as they are known.
    """

    file: str
    what: str
    steps: tuple[int, ...] = ()

    def __str__(self) -> str:
        steps = f" (steps {describe_steps(self.steps)})" if self.steps else ""
        return f"{self.file + ': ' if self.file else ''}{self.what}{steps}"


@dataclass(frozen=True)
class _Piece:
    """Snapshot number `at` of a shard."""

    shard: Shard
    at: int


class ActivationStore:
    """A run on disk, opened for reading; nothing is ever written.

    Opening reads the index of every shard (a few kilobytes each) and checks it. Activations are read
    when asked for, straight into the array that is returned, and checked against their digest there:
    memory is the index, about 40 bytes per layer and snapshot, and whatever the caller keeps.

    A shard that is damaged, foreign or of a newer format is listed in `problems`, and its steps are not
    offered. Where damage shows only when a layer is read, `read` raises, and the step is withdrawn and
    listed from then on; asking again for the steps that remain works.

    Attributes
    ----------
    path : Path
    run_id : str
    settings : dict
        What the recorder put into run.json.
    probe : Probe
    sessions : tuple of dict
        The session files, in order of session and rank.
    problems : tuple of Problem

    Raises
    ------
    StoreError
        From the constructor: when run.json or probe.h5 cannot be used, or is of a newer format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / RUN_FILE).exists():
            raise StoreError(f"{self.path} is not a run directory: no {RUN_FILE} in it")
        record = _named(RUN_FILE, lambda: RunRecord.load(_files.read_file(self.path / RUN_FILE), RUN_FILE))
        self.run_id = record.run_id
        self.settings = record.settings
        self.created = record.created
        self._problems: list[Problem] = []
        self.probe, self.probe_digest = _named(PROBE_FILE, self._load_probe)
        if self.probe_digest != record.probe_digest:
            raise StoreError(
                f"{PROBE_FILE} has the digest {self.probe_digest}, {RUN_FILE} says {record.probe_digest}; "
                "one of them was altered"
            )
        self.sessions = tuple(self._load_sessions())
        self._manifest = self._load_manifests()
        self._shards = self._load_shards()
        self._steps: dict[int, tuple[_Piece, ...]] = {}
        self._layers: dict[str, Layer] = {}
        self._bad: set[tuple[str, int]] = set()
        self._resolve()

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._problems)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers of the run in forward order."""
        return tuple(self._layers.values())

    def layer(self, key: str) -> Layer:
        """The layer with this key. Raises ValueError with the closest names."""
        try:
            return self._layers[key]
        except KeyError:
            names = ", ".join(closest(key, self._layers)) or "none"
            raise ValueError(f"no layer {key!r} in run {self.path}; closest: {names}") from None

    def steps(self, key: str | None = None) -> list[int]:
        """Steps with a complete snapshot, ascending; with `key`, those that hold this layer."""
        if key is None:
            bad = {step for _, step in self._bad}
            return [s for s, pieces in self._steps.items() if pieces[0].shard.meta.layers and s not in bad]
        self.layer(key)
        return [
            step
            for step, pieces in self._steps.items()
            if (key, step) not in self._bad and any(layer.key == key for layer in pieces[0].shard.meta.layers)
        ]

    def epoch(self, step: int) -> float:
        """The training loop's own counter at this step; NaN where it had none."""
        piece = self._pieces(step)[0]
        return float(piece.shard.epoch[piece.at])

    def time(self, step: int) -> float:
        """Seconds since the Unix epoch."""
        piece = self._pieces(step)[0]
        return float(piece.shard.time[piece.at])

    def session(self, step: int) -> int:
        """The session that recorded this step."""
        return self._pieces(step)[0].shard.meta.session

    def metrics(self) -> list[tuple[int, float, str, str, float]]:
        """(step, epoch, name, layer, value) of everything recorded; layer "" is the whole model."""
        out = []
        for step, pieces in self._steps.items():
            seen: set[tuple[str, str]] = set()
            for piece in pieces:
                shard = piece.shard
                for m in np.flatnonzero(shard.recorded[piece.at]).tolist():
                    name, layer = shard.meta.metrics[m]
                    if (name, layer) not in seen:
                        seen.add((name, layer))
                        value = float(shard.metrics[piece.at, m])
                        out.append((step, float(shard.epoch[piece.at]), name, layer, value))
        return out

    def source(self, key: str, step: int) -> str:
        """Digest of the content of this layer at this step and of the probe, 32 hexadecimal digits."""
        parts = []
        for piece, i in self._places(key, step):
            parts.append([piece.shard.rows.tolist(), piece.shard.digests[piece.at, i].tobytes().hex()])
        layer = self._at(key, step)
        return digest(dump_json([self.probe_digest, layer.dtype, list(layer.unit_shape), parts])).hex()

    def nonfinite(self, key: str, step: int) -> int:
        """Number of NaN and infinite values."""
        return sum(int(p.shard.nonfinite[p.at, i]) for p, i in self._places(key, step))

    def nbytes(self, key: str) -> int:
        """Bytes of one snapshot of this layer."""
        layer = self.layer(key)
        return int(self.probe.samples * layer.units * ARRAY_DTYPES[layer.dtype].itemsize)

    def read(self, key: str, steps: Sequence[int]) -> npt.NDArray[Any]:
        """Activations of one layer, (S, N, *unit_shape), rows in probe order, checked.

        The dtype is the stored one; bfloat16 comes as its uint16 bits (`Layer.dtype` says so).

        Raises
        ------
        ValueError
            For a layer or step that is not there.
        StoreError
            When the shape differs between the steps, or a shard cannot be read or is damaged. The
            damaged steps are then listed in `problems` and no longer offered by `steps(key)`.
        """
        steps = [int(s) for s in steps]
        layer = self.layer(key)
        specs = {(at.unit_shape, at.dtype) for at in (self._at(key, s) for s in steps)}
        if len(specs) > 1:
            (a, kind_a), (b, kind_b) = sorted(specs)[:2]
            raise StoreError(
                f"layer {key!r} changes between these steps: {kind_a} {a} and {kind_b} {b}; read them apart"
            )
        unit_shape, dtype = next(iter(specs)) if specs else (layer.unit_shape, layer.dtype)
        out = np.empty((len(steps), self.probe.samples, *unit_shape), ARRAY_DTYPES[dtype])
        jobs: dict[ShardName, list[tuple[int, int, Shard, int]]] = {}
        for s, step in enumerate(steps):
            for piece, i in self._places(key, step):
                jobs.setdefault(piece.shard.name, []).append((s, piece.at, piece.shard, i))
        damaged: dict[int, str] = {}
        for name, wanted in jobs.items():
            try:
                self._read_shard(wanted, out, steps, damaged)
            except (OSError, StoreError) as error:
                damaged |= {steps[s]: f"{SHARDS_DIR}/{name}: {error}" for s, *_ in wanted}
        if damaged:
            self._withdraw(key, damaged)
            raise StoreError(
                f"layer {key!r} cannot be read at steps {describe_steps(damaged)}: {next(iter(damaged.values()))}"
            )
        return out

    def valid_shards(self) -> tuple[Shard, ...]:
        """The index of every shard that could be read, superseded ones included."""
        return tuple(self._shards)

    def verify(self) -> list[Problem]:
        """Read every byte of every file and check all digests; what is wrong, with `problems` first."""
        out = list(self._problems)
        known = {problem.file for problem in out}
        for shard in self._shards:
            file = f"{SHARDS_DIR}/{shard.name}"
            if file in known:
                continue
            try:
                what = self._verify_shard(shard)
            except (OSError, StoreError) as error:
                what = str(error)
            if what:
                out.append(Problem(file, what, tuple(shard.step.tolist())))
        return out

    # Opening

    def _load_probe(self) -> tuple[Probe, str]:
        fd = _files.open_regular(self.path / PROBE_FILE)
        try:
            return decode_probe(fd, self.run_id)
        finally:
            os.close(fd)

    def _load_sessions(self) -> list[dict[str, Any]]:
        found = []
        for name in self._names(SESSIONS_DIR):
            place = parse_session_file(name)
            if place is None:
                self._complain(f"{SESSIONS_DIR}/{name}", "not a file of this format")
                continue
            try:
                data = _files.read_file(self.path / SESSIONS_DIR / name)
                record = SessionRecord.load(data, name)
                if (record.session, record.rank) != place or record.run_id != self.run_id:
                    raise StoreError(f"it belongs to session {record.session} of run {record.run_id:.40}")
            except (OSError, StoreError) as error:
                self._complain(f"{SESSIONS_DIR}/{name}", str(error))
                continue
            found.append((place, record.to_json()))
        return [record for _, record in sorted(found, key=lambda item: item[0])]

    def _load_manifests(self) -> dict[str, ManifestEntry]:
        out: dict[str, ManifestEntry] = {}
        for name in self._names("."):
            if parse_manifest_file(name) is None:
                continue
            try:
                lines = _files.read_file(self.path / name, 16 * MAX_JSON_BYTES).split(b"\n")
            except (OSError, StoreError) as error:
                self._complain(name, f"{error}; the shards are read without it")
                continue
            for number, line in enumerate(lines[:-1], 1):  # a last line without its end was cut by a kill
                try:
                    if line:
                        entry = ManifestEntry.parse(line)
                        out[entry.name] = entry
                except StoreError as error:
                    self._complain(name, f"line {number}: {error}; the shards are read without it")
        return out

    def _load_shards(self) -> list[Shard]:
        out = []
        found = set()
        for name in self._names(SHARDS_DIR):
            file = f"{SHARDS_DIR}/{name}"
            parsed = ShardName.parse(name)
            if parsed is None:
                self._complain(file, "not a shard of this format")
                continue
            found.add(name)
            entry = self._manifest.get(name)
            try:
                shard = self._load_shard(parsed, entry)
            except (OSError, StoreError) as error:
                steps = entry.steps if entry is not None else tuple({parsed.first, parsed.last})
                self._complain(file, str(error), tuple(sorted(steps)))
                continue
            out.append(shard)
        for name, entry in self._manifest.items():
            if name not in found:
                self._complain(f"{SHARDS_DIR}/{name}", "missing, though the manifest lists it", entry.steps)
        return out

    def _load_shard(self, name: ShardName, entry: ManifestEntry | None) -> Shard:
        fd, source = open_source(self.path / SHARDS_DIR / str(name), MAX_INDEX_BYTES)
        try:
            if entry is not None and source.size != entry.size:
                raise StoreError(f"{entry.size} bytes expected, got {source.size}")
            shard = decode_shard(source, name)
        finally:
            os.close(fd)
        if shard.meta.run_id != self.run_id:
            raise StoreError(f"it belongs to run {shard.meta.run_id:.40}, this is run {self.run_id}")
        if int(shard.rows.max()) > self.probe.samples:
            raise StoreError(f"row {int(shard.rows.max()) - 1}, but the probe has {self.probe.samples}")
        return shard

    def _names(self, directory: str) -> Iterable[str]:
        where = self.path / directory
        if directory != "." and where.is_symlink():
            self._complain(directory, "a symbolic link, not a directory")
            return []
        try:
            with os.scandir(where) as entries:
                return sorted(e.name for e in entries if parse_temporary(e.name) is None)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._complain(directory, str(error))
            return []

    def _complain(self, file: str, what: str, steps: Iterable[int] = ()) -> None:
        self._problems.append(Problem(file, what, tuple(int(s) for s in steps)))

    # Which shard counts for which step

    def _resolve(self) -> None:
        """Newest session first; a session ends the older ones where it starts."""
        starts: dict[int, int] = {}
        for shard in self._shards:
            session = shard.meta.session
            first = min(shard.meta.start_step, int(shard.step[0]))
            starts[session] = min(first, starts.get(session, first))
        cut: dict[int, int] = {}
        end = 2**63 - 1
        for session in sorted(starts, reverse=True):
            cut[session] = end
            end = min(end, starts[session])
        groups: dict[int, list[_Piece]] = {}
        for shard in self._shards:
            for at, step in enumerate(shard.step.tolist()):
                if step < cut[shard.meta.session]:
                    groups.setdefault(step, []).append(_Piece(shard, at))
        complaints: dict[tuple[str, str], list[int]] = {}
        for step in sorted(groups):
            pieces = sorted(groups[step], key=lambda p: (p.shard.name.rank, p.shard.name.part or 0))
            what = self._incomplete(pieces)
            if what:
                complaints.setdefault(what, []).append(step)
            else:
                self._steps[step] = tuple(pieces)
        for (file, text), steps in complaints.items():
            self._complain(file, text, steps)
        for shard in self._shards:
            for layer in shard.meta.layers:
                self._layers.setdefault(layer.key, layer)
        self._layers = dict(sorted(self._layers.items(), key=lambda item: item[1].depth))

    def _incomplete(self, pieces: list[_Piece]) -> tuple[str, str] | None:
        samples = self.probe.samples
        first = pieces[0].shard
        if len(pieces) == 1 and len(first.rows) == 1 and first.samples == samples:
            return None
        file = f"{SHARDS_DIR}/{first.name}" if len(pieces) == 1 else ""
        if any(not _same_layers(piece.shard.meta.layers, first.meta.layers) for piece in pieces[1:]):
            return file, "the ranks recorded different layers"
        present = np.zeros(samples, np.int64)
        for piece in pieces:
            for start, stop in piece.shard.rows.tolist():
                present[start:stop] += 1
        if (present > 1).any():
            row = int(np.argmax(present > 1))
            return file, f"probe row {row} is present {int(present[row])} times"
        if (present == 1).all():
            return None
        world = {piece.shard.meta.world_size for piece in pieces}
        ranks = sorted(set(range(max(world))) - {piece.shard.meta.rank for piece in pieces})
        if ranks:
            missing = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
            return "", f"incomplete: {missing} of {max(world)} missing"
        gone = int((present == 0).sum())
        return "", f"incomplete: {gone} of {samples} probe rows missing, first {int(np.argmin(present))}"

    def _pieces(self, step: int) -> tuple[_Piece, ...]:
        try:
            return self._steps[int(step)]
        except KeyError:
            have = describe_steps(self._steps) or "none"
            raise ValueError(f"no complete snapshot at step {step} in run {self.path}; has {have}") from None

    def _places(self, key: str, step: int) -> list[tuple[_Piece, int]]:
        """The pieces of one layer at one step, with the layer's number in each."""
        out = []
        for piece in self._pieces(step):
            for i, layer in enumerate(piece.shard.meta.layers):
                if layer.key == key:
                    out.append((piece, i))
        if not out or (key, step) in self._bad:
            self.layer(key)
            have = describe_steps(self.steps(key)) or "none"
            raise ValueError(f"layer {key!r} was not recorded at step {step}; it has steps {have}")
        return out

    def _at(self, key: str, step: int) -> Layer:
        piece, i = self._places(key, step)[0]
        return piece.shard.meta.layers[i]

    # Reading

    def _read_shard(
        self,
        wanted: list[tuple[int, int, Shard, int]],
        out: npt.NDArray[Any],
        steps: Sequence[int],
        damaged: dict[int, str],
    ) -> None:
        shard, i = wanted[0][2], wanted[0][3]
        extent = shard.acts[i]
        stride = extent.nbytes // len(shard.step)
        fd = _files.open_regular(self.path / SHARDS_DIR / str(shard.name))
        try:
            if os.fstat(fd).st_size != shard.size:
                raise StoreError(f"{shard.size} bytes expected, got {os.fstat(fd).st_size}; it was altered")
            whole = len(shard.rows) == 1
            start, stop = (int(n) for n in shard.rows[0])
            run = 0
            while run < len(wanted):
                # Consecutive snapshots of the shard that are consecutive in the result come in one call.
                n = 1
                s, at = wanted[run][:2]
                if whole and stop - start == out.shape[1]:
                    while run + n < len(wanted) and wanted[run + n][:2] == (s + n, at + n):
                        n += 1
                offset = extent.offset + at * stride
                if whole:
                    block = out[s : s + n] if n > 1 else out[s, start:stop][None]
                    _files.read_into(fd, _files.byte_view(block), offset)
                else:
                    block = np.empty((1, shard.samples, *out.shape[2:]), out.dtype)
                    _files.read_into(fd, _files.byte_view(block), offset)
                    rows = np.concatenate([np.arange(a, b) for a, b in shard.rows.tolist()])
                    out[s, rows] = block[0]
                for k in range(n):
                    if digest(block[k].reshape(-1).view("u1")) != shard.digests[at + k, i].tobytes():
                        damaged[steps[s + k]] = f"{SHARDS_DIR}/{shard.name}: the content does not match its digest"
                run += n
        finally:
            os.close(fd)

    def _withdraw(self, key: str, damaged: Mapping[int, str]) -> None:
        for step, text in damaged.items():
            self._bad.add((key, step))
            file, _, what = text.partition(": ")
            self._complain(file, f"layer {key!r}: {what}", (step,))

    def _verify_shard(self, shard: Shard) -> str:
        path = self.path / SHARDS_DIR / str(shard.name)
        entry = self._manifest.get(str(shard.name))
        fd = _files.open_regular(path)
        try:
            size, found = _files.file_digest(fd)
            for i, (layer, extent) in enumerate(zip(shard.meta.layers, shard.acts, strict=True)):
                stride = extent.nbytes // len(shard.step)
                for at, step in enumerate(shard.step.tolist()):
                    data = bytearray(stride)
                    _files.read_into(fd, memoryview(data), extent.offset + at * stride)
                    if digest(data) != shard.digests[at, i].tobytes():
                        return f"layer {layer.key!r} at step {step} does not match its digest"
        finally:
            os.close(fd)
        if entry is not None and (size, found) != (entry.size, entry.xxh3_128):
            return f"digest {entry.xxh3_128} expected, got {found}"
        return ""


def _same_layers(a: tuple[Layer, ...], b: tuple[Layer, ...]) -> bool:
    return a is b or [(x.key, x.unit_shape, x.dtype) for x in a] == [(x.key, x.unit_shape, x.dtype) for x in b]


def _named(name: str, load: Any) -> Any:
    """Run `load`; whatever it cannot read is reported with the file's name."""
    try:
        return load()
    except StoreError as error:
        text = str(error)
        raise StoreError(text if text.startswith(name) else f"{name}: {text}") from error


def open_run(path: str | os.PathLike[str]) -> ActivationStore:
    """Open a run directory for reading.

    Raises
    ------
    StoreError
        When it is no run directory, when run.json or probe.h5 is damaged, or when the format is newer
        than this release.

    Examples
    --------
    >>> run = open_run("runs/digits")                                        # doctest: +SKIP
    >>> t = run.read("fc1", run.steps("fc1"))                                # (S, N, U)
    """
    return ActivationStore(path)
