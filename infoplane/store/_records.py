"""The JSON of the store: run, session, manifest, and the `meta` of shards and probe.

Text from disk is data from a stranger: sizes are bounded, numbers finite, every field that is used is
checked, unknown fields are ignored.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

import xxhash

from infoplane.core import files
from infoplane.core.errors import StoreError
from infoplane.core.records import Layer
from infoplane.core.strict import canonical_json, load_object
from infoplane.core.text import first_lines
from infoplane.store.layout import (
    ARRAY_DTYPES,
    FIRST_VERSION,
    FORMAT_VERSION,
    MAX_FILE_BYTES,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    MAX_MANIFEST_DAMAGE,
    MAX_MANIFEST_LINE,
    MAX_MANIFEST_LINES,
    MAX_PARTS,
    MAX_RANKS,
    MAX_SESSIONS,
    MAX_STEP,
    ShardName,
)

T = TypeVar("T")

_NAMED_LINES = 10  # damaged lines that are named one by one
_WITHOUT = "the shards are read without it"


def seal_json(data: Mapping[str, Any], what: str = "value") -> bytes:
    """Return the JSON of an object, with the XXH3-64 of that JSON added as a last field "check"."""
    body = canonical_json(data, what)
    return body[:-1] + f',"check":"{xxhash.xxh3_64(body).hexdigest()}"}}'.encode()


def load_sealed(data: bytes) -> dict[str, Any]:
    """Return the object in sealed JSON, without "check"; StoreError where a byte has changed since it was sealed."""
    head, found, tail = data.removesuffix(b"\n").rpartition(b',"check":"')
    body = head + b"}"
    if not found or tail != f'{xxhash.xxh3_64(body).hexdigest()}"}}'.encode():
        raise StoreError("it does not match its checksum; it was cut short or altered")
    return load_json(body)


def load_json(data: bytes) -> dict[str, Any]:
    """Return a JSON object, strictly: UTF-8, no NaN, no key twice; StoreError for anything else."""
    try:
        return load_object(data)
    except ValueError as error:
        raise StoreError(str(error)) from error


def check_version(data: Mapping[str, Any], name: str) -> None:
    """Raise StoreError for a format that this release does not know; `name` is the file's."""
    version = data.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise StoreError(f"{name} has no format_version")
    if version > FORMAT_VERSION:
        advice = f"this release reads up to {FORMAT_VERSION}; upgrade infoplane"
        raise StoreError(f"{name} has format_version {version}, {advice}")


def get(data: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """Return the field `key`, of type `kind`; StoreError for another type (True is no integer)."""
    value = data.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise StoreError(f"field {key!r} must be {kind.__name__}, got {value!r:.60}")
    return value


def get_int(data: Mapping[str, Any], key: str, low: int = 0, high: int = MAX_STEP) -> int:
    """Return the field `key`, an integer from `low` to `high`; StoreError for anything else."""
    value = get(data, key, int)
    if not low <= value <= high:
        raise StoreError(f"field {key!r} must lie in {low}..{high}, got {value}")
    return value


def get_hex(data: Mapping[str, Any], key: str) -> str:
    """Return the field `key`, a digest of 32 hexadecimal digits; StoreError for anything else."""
    value = get(data, key, str)
    if len(value) != 32 or set(value) - set("0123456789abcdef"):
        raise StoreError(f"field {key!r} must be 32 hexadecimal digits, got {value!r:.60}")
    return value


def get_strings(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the field `key`, a list of strings; StoreError for anything else."""
    return tuple(_get_list(data, key, lambda item: isinstance(item, str), "strings"))


def get_shapes(data: Mapping[str, Any], key: str) -> tuple[tuple[int, ...], ...]:
    """Return the field `key`, a list of shapes, empty where there is no such field; StoreError for anything else."""

    def fits(shape: Any) -> bool:
        """Whether a value is a list of sizes."""
        return isinstance(shape, list) and all(type(n) is int and 0 <= n <= MAX_STEP for n in shape)

    return tuple(map(tuple, _get_list(data, key, fits, "shapes"))) if key in data else ()


def _get_list(data: Mapping[str, Any], key: str, fits: Callable[[Any], bool], what: str) -> list[Any]:
    """Return the field `key`, a list; StoreError, which calls its items `what`, unless `fits` is true of each."""
    value = get(data, key, list)
    if not all(map(fits, value)):
        raise StoreError(f"field {key!r} must be a list of {what}")
    return value


def _get_steps(data: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Return the field `key`, a list of steps; StoreError for anything else."""
    return tuple(_get_list(data, key, lambda s: type(s) is int and 0 <= s <= MAX_STEP, "integers"))


def _get_ascending(data: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Return the field `key`, a list of one step or more in rising order; StoreError for anything else."""
    steps = _get_steps(data, key)
    if not steps:
        raise StoreError(f"field {key!r} must be a list of integers")
    if any(b <= a for a, b in itertools.pairwise(steps)):
        raise StoreError(f"field {key!r} must ascend")
    return steps


def _get_seconds(data: Mapping[str, Any], key: str) -> float:
    """Return the field `key`, a number of seconds, 0 where it is not there; StoreError for anything else."""
    value = data.get(key, 0.0)
    # JSON has no infinity, but 1e999 is read as one.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e18:
        raise StoreError(f"field {key!r} must be a number of seconds, got {value!r:.60}")
    return float(value)


def _get_step_or_none(data: Mapping[str, Any], key: str) -> int | None:
    return None if data.get(key) is None else get_int(data, key)


def _get_objects(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the field `key`, a list of objects; StoreError for anything else."""
    return _get_list(data, key, lambda item: isinstance(item, dict), "objects")


def _get_dropped(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the field `key`, a list of steps that were dropped, each with its reason; StoreError for anything else."""
    dropped = _get_objects(data, key)
    for item in dropped:
        get_int(item, "step")
        get(item, "reason", str)
    return dropped


def _get_shard_name(data: Mapping[str, Any], key: str) -> str:
    """Return the field `key`, the name of a shard; StoreError for anything else."""
    name = get(data, key, str)
    if ShardName.parse(name) is None:
        raise StoreError(f"{name!r:.80} is not a shard's name")
    return name


def _get_pairs(data: Mapping[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    """Return the field `key`, a list of pairs (name, layer); StoreError for anything else."""

    def is_pair(item: Any) -> bool:
        """Whether a value is a list of two strings."""
        return isinstance(item, list) and len(item) == 2 and all(isinstance(s, str) for s in item)

    return tuple((name, layer) for name, layer in _get_list(data, key, is_pair, "[name, layer]"))


_last_layers: tuple[list[Any], tuple[Layer, ...]] = ([], ())  # of the shard read last: JSON, layers


def _get_layers(data: Mapping[str, Any], key: str) -> tuple[Layer, ...]:
    """Return the field `key`, the layers of a shard; StoreError for anything else.

    Shards that follow one another with the same layers share one tuple.
    """
    global _last_layers
    raw = get(data, key, list)
    known, layers = _last_layers
    if raw != known:  # nearly every shard of a run has the layers of the one before
        layers = _checked_layers(raw)
        _last_layers = raw, layers
    return layers


def _checked_layers(raw: list[Any]) -> tuple[Layer, ...]:
    """Return the layers of a shard from their JSON; StoreError where one is not valid, or there are too many."""
    if len(raw) > MAX_LAYERS:
        raise StoreError(f"{len(raw)} layers, at most {MAX_LAYERS} allowed")
    try:
        layers = tuple(Layer.from_json(item) for item in raw)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise StoreError(f"a layer's record is not valid: {error}") from error
    if len({layer.key for layer in layers}) < len(layers):
        raise StoreError("two layers have the same key")
    for layer in layers:
        if layer.dtype not in ARRAY_DTYPES:
            raise StoreError(f"layer {layer.key!r:.80} has the unknown dtype {layer.dtype!r:.40}")
        if any(n < 0 for n in layer.unit_shape) or math.prod(max(n, 1) for n in layer.unit_shape) > MAX_FILE_BYTES:
            raise StoreError(f"layer {layer.key!r:.80} has the shape {layer.unit_shape}")
    return layers


def checked(how: Callable[..., Any], *limits: Any, key: str = "", **options: Any) -> Any:
    """Return a dataclass field (made with `options`) whose value `Checked.read` gets by `how(data, key, *limits)`.

    `data` is the JSON object, and `key` by default the name of the field.
    """
    return field(metadata={"read": lambda data, name: how(data, key or name, *limits)}, **options)


class Checked:
    """A record whose fields, all `checked`, say how they are read from JSON; whatever else stands there is ignored."""

    KIND: ClassVar[str] = ""
    """The field `kind` of the object; "" where it has none."""

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Return a record from a JSON object; StoreError with the first field that does not fit."""
        if cls.KIND and raw.get("kind") != cls.KIND:
            raise StoreError(f"kind {cls.KIND!r} expected, got {raw.get('kind')!r:.40}")
        return cls(**{each.name: each.metadata["read"](raw, each.name) for each in fields(cast(Any, cls))})

    @classmethod
    def load(cls, data: bytes, name: str) -> Self:
        """Return a record from the sealed bytes of the file `name`; StoreError for altered bytes or a newer format."""
        try:
            raw = load_sealed(data)
        except StoreError:
            check_version(load_json(data), name)  # a newer format may be sealed in another way
            raise
        check_version(raw, name)
        return cls.read(raw)

    def to_json(self) -> dict[str, Any]:
        return {"format_version": FIRST_VERSION, **self.__dict__, "kind": self.KIND}

    def dump(self) -> bytes:
        """Return the bytes of the whole file."""
        return seal_json(self.to_json(), self.KIND) + b"\n"


def _now() -> str:
    """Return the time in UTC as text."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, kw_only=True)
class RunRecord(Checked):
    """run.json: written once, when the run is created. A new record has a new id and the time of now by default."""

    KIND = "run"
    format_version: int = checked(get_int, 1, FORMAT_VERSION)
    run_id: str = checked(get, str, default_factory=lambda: uuid.uuid4().hex[:12])
    created: str = checked(get, str, default_factory=_now)
    probe_digest: str = checked(get_hex)
    samples: int = checked(get_int, 1)
    settings: dict[str, Any] = checked(get, dict)


@dataclass(kw_only=True)
class SessionRecord(Checked):
    """sessions/NNNN.json: one process start of one rank; rewritten whole when something is to be added.

    A new record is by default of this process, and begins now.
    """

    KIND = "session"
    run_id: str = checked(get, str)
    session: int = checked(get_int, 1, MAX_SESSIONS)
    rank: int = checked(get_int, 0, MAX_RANKS - 1)
    world_size: int = checked(get_int, 1, MAX_RANKS)
    created: str = checked(get, str, default_factory=_now)
    pid: int = checked(get_int, default_factory=os.getpid)
    host: str = checked(get, str, default_factory=socket.gethostname)
    resumed_from: int | None = checked(_get_step_or_none)
    settings: dict[str, Any] = checked(get, dict)
    notes: dict[str, Any] = checked(get, dict, default_factory=dict)
    dropped: list[dict[str, Any]] = checked(_get_dropped, default_factory=list)
    closed: bool = checked(get, bool, default=False)
    stalled_seconds: float = checked(_get_seconds, default=0.0)

    def unrecorded(self) -> list[tuple[str, tuple[int, ...], bool]]:
        """Return (what, steps, whether it is a mere note) of each thing that the recorder could not record.

        These stand in the notes under "problems"; StoreError where something else stands there.
        """
        listed = _get_objects({"problems": []} | self.notes, "problems")
        return [(get(item, "what", str), _get_steps(item, "steps"), get(item, "note", bool)) for item in listed]


@dataclass(frozen=True, kw_only=True)
class ManifestEntry(Checked):
    """One line of a manifest: what a published shard must be."""

    name: str = checked(_get_shard_name)
    steps: tuple[int, ...] = checked(_get_ascending)
    size: int = checked(get_int, 1, key="bytes")
    xxh3_128: str = checked(get_hex)
    rank: int = checked(get_int, 0, MAX_RANKS - 1)
    session: int = checked(get_int, 1, MAX_SESSIONS)

    def line(self) -> bytes:
        """Return the line: the entry as JSON with a checksum as the last field, without a line end."""
        found = self.__dict__.copy()
        return seal_json(found | {"bytes": found.pop("size")})  # in the file the size is called `bytes`

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Return the entry that a line states; StoreError where the line was altered."""
        return cls.read(load_sealed(line))


@dataclass(frozen=True, kw_only=True)
class ShardMeta(Checked):
    """`meta` of a shard."""

    KIND = "activations"
    parts: int = checked(get_int, 1, MAX_PARTS)
    world_size: int = checked(get_int, 1, MAX_RANKS)
    run_id: str = checked(get, str)
    session: int = checked(get_int, 1, MAX_SESSIONS)
    start_step: int = checked(get_int)
    rank: int = checked(get_int)
    part: int = checked(get_int)
    layers: tuple[Layer, ...] = checked(_get_layers)
    metrics: tuple[tuple[str, str], ...] = checked(_get_pairs)  # (name, layer)
    writer: str = checked(get, str)

    def shard_name(self, first: int, last: int) -> ShardName:
        """Return the name of the file with these first and last steps."""
        return ShardName(first, last, self.session, self.rank, self.part if self.parts > 1 else None)

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"layers": [layer.to_json() for layer in self.layers]}

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Return a record from a JSON object; StoreError where a field does not fit, or rank or part is too large."""
        meta = super().read(raw)
        get_int(raw, "rank", 0, meta.world_size - 1)
        get_int(raw, "part", 0, meta.parts - 1)
        return meta


@dataclass
class Manifest:
    """The lines of one manifest that can be used.

    Attributes
    ----------
    entries : dict of shard name to ManifestEntry
    lines : dict of shard name to bytes
        The line as it stands in the file, without its end.
    complaints : list of str
        What is wrong with other lines: the first ten by number, then how many more.
    clean : bool
        Whether there is nothing in the file but these lines.
    """

    entries: dict[str, ManifestEntry] = field(default_factory=dict)
    lines: dict[str, bytes] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    clean: bool = True
    _first: dict[str, int] = field(default_factory=dict)  # shard name -> number of the first line on it

    def add(self, line: bytes | None, number: int) -> None:
        """Take one line; StoreError with the reason why it cannot be used. None stands for one that is too long."""
        if line is None:
            raise StoreError(f"more than {MAX_MANIFEST_LINE} bytes")
        entry = ManifestEntry.parse(line)
        first = self._first.setdefault(entry.name, number)
        if first == number:
            self.entries[entry.name], self.lines[entry.name] = entry, line
        elif self.entries.get(entry.name) == entry:  # the same entry again: it does no harm
            self.clean = False
        else:  # nobody can say which of the two is right
            self.entries.pop(entry.name, None)
            self.lines.pop(entry.name, None)
            raise StoreError(f"it contradicts line {first} on {entry.name}")


def read_manifest(path: Path) -> Manifest:
    """Return the usable lines of a manifest; OSError or StoreError where the file as a whole cannot be read."""
    found, blank = Manifest(), 0
    bad: list[str] = []  # a complaint for each damaged line
    for number, line in enumerate(_lines(path), 1):
        try:
            if line == b"":  # left by a torn line: no complaint, but it counts towards the limit
                blank += 1
            else:
                found.add(line, number)
        except StoreError as error:
            bad.append(f"line {number}: {error}; {_WITHOUT}")
        too_many = _too_many(len(bad) + blank, number)
        if too_many:
            found.complaints = [*bad[:_NAMED_LINES], f"{too_many}; the rest is not used, and {_WITHOUT}"]
            break
    else:  # every line was read
        found.complaints = first_lines(bad, f"{{}} more lines are damaged; {_WITHOUT}", _NAMED_LINES)
    # A writer that resumes the run rebuilds a manifest that is not clean, as one whose last line has no end.
    found.clean = found.clean and not (bad or blank) and files.last_byte(path) in (b"", b"\n")
    return found


def _too_many(useless: int, lines: int) -> str:
    """Return why reading ends after this many lines, of which `useless` were damaged or empty; "" where it goes on."""
    if useless > MAX_MANIFEST_DAMAGE:
        return f"more than {MAX_MANIFEST_DAMAGE} damaged or empty lines"
    return f"more than {MAX_MANIFEST_LINES} lines" if lines > MAX_MANIFEST_LINES else ""


def _lines(path: Path) -> Iterator[bytes | None]:
    """Yield every whole line without its end, None for one that is too long; a line that was cut off is left out."""
    with files.opened(path) as fd, os.fdopen(fd, "rb", closefd=False) as file:
        size = os.fstat(fd).st_size
        if size > MAX_MANIFEST_BYTES:
            raise StoreError(f"{size} bytes, at most {MAX_MANIFEST_BYTES} expected")
        too_long = False
        while piece := file.readline(MAX_MANIFEST_LINE + 1):
            whole = piece.endswith(b"\n")
            if whole:
                yield None if too_long else piece[:-1]
            elif len(piece) <= MAX_MANIFEST_LINE:
                return  # the last line has no end yet: a writer may be adding to it right now
            too_long = not whole  # without an end it is longer than a line may be, and the next piece continues it
