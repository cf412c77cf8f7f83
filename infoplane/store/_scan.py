"""Everything in a run directory that can be used, and a list of what cannot."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from infoplane.core import files
from infoplane.core.errors import StoreError
from infoplane.core.files import parse_temporary
from infoplane.core.steps import step_words
from infoplane.core.text import listed, printable, shorten
from infoplane.store._records import ManifestEntry, RunRecord, SessionRecord, read_manifest
from infoplane.store._shard import Shard, decode_probe, decode_shard
from infoplane.store.layout import (
    MAX_FILE_BYTES,
    MAX_INDEX_BYTES,
    PROBE_FILE,
    RUN_FILE,
    SESSIONS_DIR,
    SHARDS_DIR,
    ShardName,
    is_manifest_file,
    parse_dropped_file,
    parse_session_file,
    session_file,
)

T = TypeVar("T")

_NAMED = 100  # problems of one sort that are listed one by one
_RECORDER_NAMES = 2000  # the same for what could not be recorded; a recorder itself lists fewer
DAMAGED = "the content does not match its digest"


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
    note : bool
        Nothing is wrong: the model did not call a layer, so that there was nothing to record.
    """

    file: str
    what: str
    steps: tuple[int, ...] = ()
    note: bool = False

    def __str__(self) -> str:
        steps = f" ({step_words(self.steps)})" if self.steps else ""
        kind = "note: " if self.note else ""
        return printable(f"{kind}{self.file + ': ' if self.file else ''}{self.what}{steps}")

    @property
    def lost(self) -> bool:
        """Whether steps are missing or damaged because of it: not so for a damaged manifest, or a foreign file."""
        return bool(self.steps) and not self.note


class Scan:
    """The checked index of a run directory.

    Attributes
    ----------
    record : RunRecord
    probe : Probe
    sessions : list of SessionRecord, by session and rank
    manifest : dict of shard name to ManifestEntry
    shards : list of Shard, by name
    marks : dict of name to (session, rank, first step, last step)
        Empty files left by a session that could not write which steps it dropped.
    problems : list of Problem

    Raises
    ------
    StoreError
        When run.json or probe.h5 cannot be used: without them nothing else means anything.
    """

    def __init__(self, path: Path) -> None:
        """Read and check every index in the directory, but no activations."""
        self.path = path
        self.problems: list[Problem] = []
        if not path.is_dir():
            raise StoreError(f"{path} is not a run directory: " + ("a file" if path.exists() else "not found"))
        if not (path / RUN_FILE).exists():
            raise StoreError(f"{path} is not a run directory: no {RUN_FILE} in it")
        with _named(RUN_FILE):
            self.record = RunRecord.load(files.read_file(path / RUN_FILE), RUN_FILE)
        with _named(PROBE_FILE), files.opened(path / PROBE_FILE) as fd:
            self.probe, found = decode_probe(fd, self.record.run_id)
        said = self.record.probe_digest
        if found != said:
            raise StoreError(f"{PROBE_FILE} has the digest {found}, {RUN_FILE} says {said}; one of them was altered")
        self.sessions = self._load_sessions()
        # The manifest before the shards: a writer that is at work adds a shard first, then its line.
        self.manifest = self._load_manifests()
        self.marks = {name: place for name in self._names(".") if (place := parse_dropped_file(name)) is not None}
        self.shards = self._load_shards()

    def complain(self, file: str, what: object, steps: Iterable[int] = ()) -> None:
        """Add a problem to the list."""
        self.problems.append(Problem(file, str(what), tuple(int(s) for s in steps)))

    def _ours(self, directory: str, parse: Callable[[str], T | None], what: str) -> dict[str, T]:
        """Return {name of each file in a directory: what `parse` reads from the name}.

        A name for which `parse` returns None becomes a problem, "not a `what` of this format".
        """
        found = {name: parse(name) for name in self._names(directory)}
        text = f"not a {what} of this format"
        foreign = [Problem(f"{directory}/{name}", text) for name, place in found.items() if place is None]
        self.problems += few(foreign, directory, f"more files: {text}")
        return {name: place for name, place in found.items() if place is not None}

    def _load_sessions(self) -> list[SessionRecord]:
        """Return the sessions, by number and rank; files that cannot be used become problems."""
        found = []
        for name, place in self._ours(SESSIONS_DIR, parse_session_file, "session").items():
            try:
                record = SessionRecord.load(files.read_file(self.path / SESSIONS_DIR / name), name)
                if (record.session, record.rank) != place or record.run_id != self.record.run_id:
                    raise StoreError(f"it belongs to session {record.session} of run {record.run_id:.40}")
                found.append(record)
            except (OSError, StoreError) as error:
                self.complain(f"{SESSIONS_DIR}/{name}", error)
        return sorted(found, key=lambda record: (record.session, record.rank))

    def _load_manifests(self) -> dict[str, ManifestEntry]:
        """Return the entry of each shard in the manifests of all ranks, by its name; damaged lines become problems."""
        out: dict[str, ManifestEntry] = {}
        for name in self._names("."):
            if not is_manifest_file(name):
                continue
            try:
                found = read_manifest(self.path / name)
            except (OSError, StoreError) as error:
                self.complain(name, f"{error}; the shards are read without it")
                continue
            out |= found.entries
            for what in found.complaints:
                self.complain(name, what)
        return out

    def _load_shards(self) -> list[Shard]:
        """Return the index of every shard, by name; a shard that cannot be used or is missing becomes a problem."""
        out, found = [], self._ours(SHARDS_DIR, ShardName.parse, "shard")
        for name, parsed in found.items():
            entry = self.manifest.get(name)
            try:
                out.append(self._load_shard(parsed, entry))
            except (OSError, StoreError) as error:
                steps = entry.steps if entry else sorted({parsed.first, parsed.last})
                self.complain(f"{SHARDS_DIR}/{name}", error, steps)
        what = "missing, though the manifest lists it"
        gone = [name for name in self.manifest if name not in found]
        lost = [Problem(f"{SHARDS_DIR}/{name}", what, self.manifest[name].steps) for name in gone]
        self.problems += few(lost, SHARDS_DIR, f"more shards: {what}")
        return out

    def _load_shard(self, name: ShardName, entry: ManifestEntry | None) -> Shard:
        """Return the index of one shard; StoreError where it contradicts its manifest entry, the run or the probe."""
        with files.opened(self.path / SHARDS_DIR / str(name)) as fd:
            source = files.PagedFile(fd, MAX_INDEX_BYTES)
            if source.size > MAX_FILE_BYTES:
                raise StoreError(f"{source.size} bytes, a shard has at most {MAX_FILE_BYTES}")
            if entry is not None and source.size != entry.size:
                raise StoreError(f"{entry.size} bytes expected, got {source.size}")
            shard = decode_shard(source, name)
        if shard.meta.run_id != self.record.run_id:
            raise StoreError(f"it belongs to run {shard.meta.run_id:.40}, this is run {self.record.run_id:.40}")
        if int(shard.rows.max()) > self.probe.samples:
            raise StoreError(f"row {int(shard.rows.max()) - 1}, but the probe has {self.probe.samples}")
        if len(shard.rows) > self.probe.samples or shard.samples > self.probe.samples:
            raise StoreError(f"it lists more rows than the {self.probe.samples} of the probe")
        return shard

    def _names(self, directory: str) -> list[str]:
        """Return the sorted names in a directory, without temporary files; none where it is missing or unreadable."""
        where = self.path / directory
        try:
            if directory != "." and where.is_symlink():
                raise StoreError("a symbolic link, not a directory")
            with os.scandir(where) as entries:
                return sorted(e.name for e in entries if parse_temporary(e.name) is None)
        except FileNotFoundError:
            pass
        except (OSError, StoreError) as error:
            self.complain(directory, error)
        return []

    def verify(self) -> list[Problem]:
        """Read every byte of every shard; return `problems` and those that this adds."""
        damaged = {problem.file for problem in self.problems}
        added = []
        for shard in self.shards:
            file = f"{SHARDS_DIR}/{shard.name}"
            if file in damaged:
                continue
            try:
                added += self._verify_shard(shard, file)
            except (OSError, StoreError) as error:
                added.append(Problem(file, str(error), tuple(shard.step.tolist())))
        return [*self.problems, *added]

    def session_ends(self) -> Mapping[int, int]:
        """Return for each session the step from which on a newer session counts in its place.

        A session starts at its lowest step that is known from a shard or from the manifest; one that has
        published nothing ends no other.
        """
        starts: dict[int, int] = {}
        known = [(s.meta.session, min(s.meta.start_step, int(s.step[0]))) for s in self.shards]
        known += [(entry.session, min(entry.steps)) for entry in self.manifest.values()]
        for session, step in known:
            starts[session] = min(step, starts.get(session, step))
        out, end = {}, 2**63 - 1  # no session replaces the newest
        # A session whose every step was dropped is one too: what it lost is not forgotten.
        present = {record.session for record in self.sessions} | {session for session, *_ in self.marks.values()}
        for session in sorted(starts.keys() | present, reverse=True):
            out[session] = end
            end = min(end, starts.get(session, end))
        return out

    def unrecorded(self) -> list[Problem]:
        """Return what the recorder could not record, by the notes of the sessions, at steps that still count.

        A step no longer counts in a session where a newer session has replaced it.
        """
        ends = self.session_ends()
        found: dict[Problem, None] = {}  # each problem once, in order
        for record in self.sessions:
            file = f"{SESSIONS_DIR}/{session_file(record.session, record.rank)}"
            try:
                listed = record.unrecorded()
            except StoreError as error:
                self.complain(file, error)
                continue
            for what, steps, note in listed:
                left = tuple(step for step in steps if step < ends[record.session])
                if left or not steps:
                    found[Problem(f"session {record.session}", what, left, note)] = None
        return few(list(found), "", "more things that could not be recorded", most=_RECORDER_NAMES)

    def _verify_shard(self, shard: Shard, file: str) -> list[Problem]:
        """Return a problem for the layers and steps of a shard whose bytes do not match their digest.

        Where all of these match, the digest of the whole file in the manifest is compared.
        """
        entry = self.manifest.get(str(shard.name))
        damaged: dict[tuple[int, ...], list[str]] = {}  # steps -> keys of the layers that are damaged there
        with files.opened(self.path / SHARDS_DIR / str(shard.name)) as fd:
            for i, (layer, extent) in enumerate(zip(shard.meta.layers, shard.acts, strict=True)):
                stride = extent.nbytes // len(shard.step)
                found = [files.file_digest(fd, extent.offset + at * stride, stride)[1] for at in range(len(shard.step))]
                wanted = [one.tobytes().hex() for one in shard.digests[:, i]]
                bad = tuple(s for s, a, b in zip(shard.step.tolist(), found, wanted, strict=True) if a != b)
                if bad:
                    damaged.setdefault(bad, []).append(layer.key)
            size, whole = files.file_digest(fd)
        if not damaged and entry is not None and (size, whole) != (entry.size, entry.xxh3_128):
            what = f"digest {entry.xxh3_128} expected, got {whole}, outside the arrays: nothing is lost"
            return [Problem(file, what)]
        return [Problem(file, f"{_layers(keys)}: {DAMAGED}", steps) for steps, keys in damaged.items()]


def few(found: list[Problem], file: str, rest: str, *, most: int = _NAMED) -> list[Problem]:
    """Return the first `most` of like problems, and one about all others: their number, the words `rest`, the steps."""
    # A file can name a million things that never were.
    more = found[most:]
    if not more:
        return found
    steps = tuple(sorted({step for problem in more for step in problem.steps}))
    return [*found[:most], Problem(file, f"{len(more)} {rest}", steps, all(problem.note for problem in more))]


def _layers(keys: list[str]) -> str:
    """Return `layer 'fc1'`, or `layers 'fc1', 'fc2'`, for a message."""
    return f"layer{'s' * (len(keys) > 1)} {listed([repr(shorten(key, 60)) for key in keys], 3)}"


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn errors inside the block into StoreErrors that begin with the name of the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{name} is missing") from error
    except (StoreError, OSError) as error:
        text = str(error)
        raise StoreError(text if text.startswith(name) else f"{name}: {text}") from error
