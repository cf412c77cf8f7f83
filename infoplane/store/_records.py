"""The JSON of the store: run, session, manifest line, and the `meta` of shards and probe.

Text from disk is data from a stranger: sizes are bounded, numbers finite, every field that is used is
checked, unknown fields are ignored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import xxhash

from infoplane.core.errors import StoreError
from infoplane.core.records import Layer
from infoplane.core.strict import canonical_json, load_object
from infoplane.store.layout import (
    ARRAY_DTYPES,
    FORMAT_VERSION,
    MAX_FILE_BYTES,
    MAX_LAYERS,
    MAX_PARTS,
    MAX_RANKS,
    MAX_SESSIONS,
    MAX_STEP,
    ShardName,
)

T = TypeVar("T")


def seal_json(data: Mapping[str, Any], what: str = "value") -> bytes:
    """The object with the XXH3-64 of itself, written without this field, as the last field "check"."""
    body = canonical_json(data, what)
    return body[:-1] + f',"check":"{xxhash.xxh3_64(body).hexdigest()}"}}'.encode()


def load_sealed(data: bytes) -> dict[str, Any]:
    """What `seal_json` wrote. Raises StoreError when a byte of it has changed."""
    head, found, tail = data.removesuffix(b"\n").rpartition(b',"check":"')
    body = head + b"}"
    if not found or tail != f'{xxhash.xxh3_64(body).hexdigest()}"}}'.encode():
        raise StoreError("it does not match its checksum; it was cut short or altered")
    return load_json(body)


def load_json(data: bytes) -> dict[str, Any]:
    """A JSON object, strictly: UTF-8, no NaN, no key twice. Raises StoreError."""
    try:
        return load_object(data)
    except ValueError as error:
        raise StoreError(str(error)) from error


def check_version(data: Mapping[str, Any], name: str) -> None:
    """Refuse a format that this release does not know."""
    version = data.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise StoreError(f"{name} has no format_version")
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{name} has format_version {version}, this release reads up to {FORMAT_VERSION}; upgrade infoplane"
        )


def load_checked(data: bytes, name: str) -> dict[str, Any]:
    """A sealed JSON file of a format that this release knows; a newer one may be sealed in another way."""
    try:
        raw = load_sealed(data)
    except StoreError:
        check_version(load_json(data), name)
        raise
    check_version(raw, name)
    return raw


def get(data: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = data.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise StoreError(f"field {key!r} must be {kind.__name__}, got {value!r:.60}")
    return value


def get_int(data: Mapping[str, Any], key: str, low: int = 0, high: int = MAX_STEP) -> int:
    value = get(data, key, int)
    if not low <= value <= high:
        raise StoreError(f"field {key!r} must lie in {low}..{high}, got {value}")
    return value


def get_seconds(data: Mapping[str, Any], key: str) -> float:
    """A length of time, 0 where it is not given."""
    value = data.get(key, 0.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e18:
        raise StoreError(f"field {key!r} must be a number of seconds, got {value!r:.60}")
    return float(value)


def get_hex(data: Mapping[str, Any], key: str, digits: int) -> str:
    value = get(data, key, str)
    if len(value) != digits or set(value) - set("0123456789abcdef"):
        raise StoreError(f"field {key!r} must be {digits} hexadecimal digits, got {value!r:.60}")
    return value


def get_strings(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = get(data, key, list)
    if not all(isinstance(item, str) for item in value):
        raise StoreError(f"field {key!r} must be a list of strings")
    return tuple(value)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """run.json: written once, when the run is created."""

    run_id: str
    created: str
    probe_digest: str
    samples: int
    settings: dict[str, Any]
    format_version: int = FORMAT_VERSION

    def dump(self) -> bytes:
        return seal_json({"kind": "run", **self.__dict__}, "settings") + b"\n"

    @classmethod
    def load(cls, data: bytes, name: str) -> Self:
        raw = load_checked(data, name)
        if raw.get("kind") != "run":
            raise StoreError(f"kind 'run' expected, got {raw.get('kind')!r:.40}")
        return cls(
            run_id=get(raw, "run_id", str),
            created=get(raw, "created", str),
            probe_digest=get_hex(raw, "probe_digest", 32),
            samples=get_int(raw, "samples", 1),
            settings=get(raw, "settings", dict),
        )


@dataclass(kw_only=True)
class SessionRecord:
    """sessions/NNNN.json: one process start of one rank; rewritten whole when something is to be added."""

    run_id: str
    session: int
    rank: int
    world_size: int
    created: str
    pid: int
    host: str
    resumed_from: int | None
    settings: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False
    stalled_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"kind": "session", "format_version": FORMAT_VERSION, **self.__dict__}

    def dump(self) -> bytes:
        return seal_json(self.to_json(), "session") + b"\n"

    def unrecorded(self) -> list[tuple[str, tuple[int, ...], bool]]:
        """What the recorder could not record, at which steps, and whether nothing is wrong with that."""
        out = []
        listed = get(self.notes, "problems", list) if "problems" in self.notes else []
        for item in listed:
            if not isinstance(item, dict):
                raise StoreError("field 'problems' of 'notes' must be a list of objects")
            steps = get(item, "steps", list)
            if not all(type(s) is int and 0 <= s <= MAX_STEP for s in steps):
                raise StoreError("field 'steps' must be a list of integers")
            out.append((get(item, "what", str), tuple(steps), get(item, "note", bool)))
        return out

    @classmethod
    def load(cls, data: bytes, name: str) -> Self:
        raw = load_checked(data, name)
        resumed = raw.get("resumed_from")
        dropped = get(raw, "dropped", list)
        if not all(isinstance(d, dict) for d in dropped):
            raise StoreError("field 'dropped' must be a list of objects")
        for item in dropped:
            get_int(item, "step")
            get(item, "reason", str)
        return cls(
            run_id=get(raw, "run_id", str),
            session=get_int(raw, "session", 1, MAX_SESSIONS),
            rank=get_int(raw, "rank", 0, MAX_RANKS - 1),
            world_size=get_int(raw, "world_size", 1, MAX_RANKS),
            created=get(raw, "created", str),
            pid=get_int(raw, "pid"),
            host=get(raw, "host", str),
            resumed_from=None if resumed is None else get_int(raw, "resumed_from"),
            settings=get(raw, "settings", dict),
            notes=get(raw, "notes", dict),
            dropped=dropped,
            closed=get(raw, "closed", bool),
            stalled_seconds=get_seconds(raw, "stalled_seconds"),
        )


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One line of a manifest: what a published shard must be."""

    name: str
    size: int
    xxh3_128: str
    rank: int
    session: int
    steps: tuple[int, ...]

    def line(self) -> bytes:
        """The object with its own checksum as the last field, no line end."""
        return seal_json(
            {
                "bytes": self.size,
                "name": self.name,
                "rank": self.rank,
                "session": self.session,
                "steps": list(self.steps),
                "xxh3_128": self.xxh3_128,
            }
        )

    @classmethod
    def parse(cls, line: bytes) -> Self:
        raw = load_sealed(line)
        name = get(raw, "name", str)
        if ShardName.parse(name) is None:
            raise StoreError(f"{name!r:.80} is not a shard's name")
        steps = get(raw, "steps", list)
        if not steps or not all(type(s) is int and 0 <= s <= MAX_STEP for s in steps):
            raise StoreError("field 'steps' must be a list of integers")
        if any(b <= a for a, b in itertools.pairwise(steps)):
            raise StoreError("field 'steps' must ascend")
        return cls(
            name=name,
            size=get_int(raw, "bytes", 1),
            xxh3_128=get_hex(raw, "xxh3_128", 32),
            rank=get_int(raw, "rank", 0, MAX_RANKS - 1),
            session=get_int(raw, "session", 1, MAX_SESSIONS),
            steps=tuple(steps),
        )


@dataclass(frozen=True, kw_only=True)
class ShardMeta:
    """`meta` of a shard."""

    run_id: str
    session: int
    start_step: int
    rank: int
    world_size: int
    part: int
    parts: int
    layers: tuple[Layer, ...]
    metrics: tuple[tuple[str, str], ...]
    writer: str

    def to_json(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "kind": "activations",
            "format_version": FORMAT_VERSION,
            "layers": [layer.to_json() for layer in self.layers],
            "metrics": [list(pair) for pair in self.metrics],
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        if raw.get("kind") != "activations":
            raise StoreError(f"kind 'activations' expected, got {raw.get('kind')!r:.40}")
        metrics = get(raw, "metrics", list)
        for pair in metrics:
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) for s in pair)):
                raise StoreError("field 'metrics' must be a list of [name, layer]")
        parts = get_int(raw, "parts", 1, MAX_PARTS)
        world_size = get_int(raw, "world_size", 1, MAX_RANKS)
        return cls(
            run_id=get(raw, "run_id", str),
            session=get_int(raw, "session", 1, MAX_SESSIONS),
            start_step=get_int(raw, "start_step"),
            rank=get_int(raw, "rank", 0, world_size - 1),
            world_size=world_size,
            part=get_int(raw, "part", 0, parts - 1),
            parts=parts,
            layers=load_layers(get(raw, "layers", list)),
            metrics=tuple((name, layer) for name, layer in metrics),
            writer=get(raw, "writer", str),
        )


def load_layers(raw: list[Any]) -> tuple[Layer, ...]:
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
