"""What an analysis reads: one interface to stored and to live snapshots, and the steps of one layer of a run."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infoplane.core.errors import StoreError, closest
from infoplane.core.exact import extremes, fits_float64
from infoplane.core.files import fingerprint
from infoplane.core.globs import across_parts, name_matches
from infoplane.core.records import NO_LABEL, Layer, Probe
from infoplane.core.steps import step_words
from infoplane.core.tokens import fitting_count, split_token, token_key, token_range, token_units
from infoplane.results.names import lasting, pair_name
from infoplane.store import ActivationStore, Problem

Values = npt.NDArray[Any] | Tensor
Pieces = list[tuple[list[int], Values]]
"""What was read: in each entry some steps, and the values (S, N, *unit_shape) at these."""
Names = str | Sequence[str]
"""A name or a glob, or several."""


class SnapshotSource(Protocol):
    """Snapshots of one run: `infoplane.store.ActivationStore`, or the one snapshot of a live sink.

    `read` gives (S, N, *unit_shape) as stored, or as a tensor on the device where the values are.
    """

    run_id: str
    path: Path
    probe: Probe

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def layers(self) -> tuple[Layer, ...]: ...

    @property
    def problems(self) -> tuple[Problem, ...]: ...

    def layer(self, key: str, /) -> Layer: ...

    def steps(self, key: str | None = None, /) -> list[int]: ...

    def why(self, key: str, step: int, /) -> Problem | None: ...

    def epoch(self, step: int, /) -> float: ...

    def metrics(self) -> list[tuple[int, float, str, str, float]]: ...

    def source(self, key: str, step: int, /) -> str: ...

    def read(self, key: str, steps: Sequence[int], /) -> Values: ...


@dataclass(frozen=True)
class Partner:
    """A recorded array in the place of labels: a layer of the run at `path`, or one of its tokens.

    `steps` has its own step for each step of the layer beside which it stands, and `view` says which row of each input
    it is taken on (1: the row of the layer itself). `name` is what the table calls it, where it has the same step.
    """

    path: str
    fingerprint: str
    layer: str
    token: int | None
    steps: Mapping[int, int]
    name: str
    view: int = 1

    def called(self, step: int) -> str:
        """Return the partner's name in the table beside the layer at `step`, with its own step if that differs."""
        partner_step = self.steps[step]
        return self.name if partner_step == step else f"{self.name}@step={partner_step}"

    def digest(self, step: int, layer_digest: str, partner_digest: str) -> str:
        """Return one digest for a pair, from those of its two arrays and the partner's name at this step."""
        return fingerprint(f"{layer_digest} {partner_digest} {self.called(step)}".encode())


@dataclass(frozen=True)
class LayerSteps:
    """Steps of one layer of one run, or of one of its tokens, by content.

    `keys` are pairs of a step and the digest of its content: a process that finds another digest stops instead of
    mixing two states of a run. `bad` are the steps with NaN or infinite values. `token` is a position, None for the
    whole layer. With a `partner` digests and bad values are those of both.
    """

    path: str
    fingerprint: str
    run: str
    layer: str
    keys: tuple[tuple[int, str], ...]
    bad: frozenset[int] = frozenset()
    token: int | None = None
    partner: Partner | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(step for step, _ in self.keys)

    @property
    def name(self) -> str:
        """The layer's name in the table."""
        return self.layer if self.token is None else token_key(self.layer, self.token)

    @property
    def partner_name(self) -> str:
        """The partner's name in the table, in a form that is the same at all steps; "" without a partner or steps."""
        return lasting(self.partner.called(self.keys[0][0])) if self.partner and self.keys else ""

    @property
    def title(self) -> str:
        """The name of the layer, or of the pair, in messages."""
        return pair_name(self.name, self.partner_name)

    def held(self, source: SnapshotSource, other: SnapshotSource) -> dict[int, str]:
        """Return {step: digest as it is now} for the steps that can be read; `other` is the run of the partner."""
        readable = set(source.steps(self.layer))
        digests = {step: source.source(self.layer, step) for step in self.steps if step in readable}
        if (partner := self.partner) is None:
            return digests
        partner_readable = set(other.steps(partner.layer))
        return {
            step: partner.digest(step, digest, other.source(partner.layer, partner.steps[step]))
            for step, digest in digests.items()
            if partner.steps[step] in partner_readable
        }

    def blocks(self, size: int) -> Iterator[LayerSteps]:
        """Yield the steps in blocks of `size`, counted from the first; the last block may have fewer."""
        for i in range(0, len(self.keys), size):
            yield replace(self, keys=self.keys[i : i + size])

    def at(self, steps: Collection[int]) -> LayerSteps:
        """The same layer at some of the steps."""
        wanted = set(steps)
        return replace(self, keys=tuple(key for key in self.keys if key[0] in wanted))


# Layers and positions along their token axis


def at_token(layer: Layer, position: int | None) -> Layer:
    """Return the record of a layer cut to one token position, with its name and number of units; as it is for None."""
    if position is None:
        return layer
    units = token_units(layer)[position]
    return replace(layer, key=token_key(layer.key, position), unit_shape=(units.stop - units.start,))


def choose_layers(source: SnapshotSource, wanted: Names | None) -> list[tuple[str, int | None]]:
    """Return (layer, position) in forward order for names, globs and `layer[token=...]`; every layer for None.

    The position is None for a whole layer.

    Raises
    ------
    ValueError
        Nothing matches, the layer has no axis of tokens, it has no such position, or another number of positions than
        the probe has labels for.
    """
    order = {layer.key: i for i, layer in enumerate(source.layers)}
    if wanted is None:
        return [(key, None) for key in order]
    found: set[tuple[str, int | None]] = set()
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        name, which = (pattern, None) if pattern in order else split_token(pattern)
        hits = [name] if name in order else [key for key in order if name_matches(key, name)]
        if not hits:
            near = ", ".join(closest(name, order)) + across_parts(name, order)
            raise ValueError(f"no layer of {source.path} matches {pattern!r}; closest: {near}")
        found.update([(key, None) for key in hits] if which is None else _positions(source, pattern, hits, which))
    if not found:
        raise ValueError("layers must name at least one layer, got none; leave it out for all")
    return sorted(found, key=lambda each: (order[each[0]], -1 if each[1] is None else each[1]))


def _positions(source: SnapshotSource, pattern: str, keys: Sequence[str], which: str) -> list[tuple[str, int | None]]:
    """Return (layer, position) for the positions `which`, as "17" or "0:64:4", of those of `keys` that have tokens.

    ValueError where none of them has any, or one has none of these positions. `pattern` is what the caller wrote.
    """
    found: list[tuple[str, int | None]] = []
    for layer in map(source.layer, keys):
        units = token_units(layer)
        if not units:
            continue
        chosen = [p for p in token_range(which, fitting_count(layer, source.probe)) if p in units]
        if not chosen:
            recorded = ", ".join(map(str, units))
            raise ValueError(f"layer {layer.key!r} was recorded at tokens {recorded}, none of {pattern!r}")
        found += [(layer.key, position) for position in chosen]
    if not found:
        layer = source.layer(keys[0])
        raise ValueError(
            f"{pattern!r} needs a layer with an axis of tokens; {layer.key!r} was recorded as "
            f"{layer.reduction!r} with shape {layer.unit_shape}: use reduce='flatten' or tokens([...])"
        )
    return found


# Reading


@dataclass(frozen=True)
class Refusal:
    """Steps that gave no value, and why: an estimator's reason, or the damage that kept them from being read."""

    steps: tuple[int, ...]
    reason: str
    damages: tuple[Problem, ...] = ()


def no_units(shape: Sequence[int]) -> str:
    """The reason for refusing a layer of this shape (without samples), which has no unit."""
    return f"it has no units, shape {tuple(shape)} beside the samples"


def read_alike(source: SnapshotSource, layer: str, steps: Sequence[int], refused: list[Refusal]) -> Pieces:
    """Return the values of a layer at these steps, as read; append steps that cannot be read to `refused`.

    Neighbouring steps of one shape and dtype are joined in one entry.
    """
    readable = set(source.steps(layer))
    refused += _lost(source, layer, [s for s in steps if s not in readable])
    steps = [s for s in steps if s in readable]
    if not steps:
        return []
    try:
        return [(steps, source.read(layer, steps))]
    except StoreError:
        # The source no longer lists a step whose damage this reading has found: then the others are read again.
        if not readable.issubset(source.steps(layer)):
            return read_alike(source, layer, steps, refused)
        # All steps are still listed, so several of them may differ in shape: they are read one by one below. For a
        # single step the error is real.
        if len(steps) == 1:
            raise
    pieces = [piece for step in steps for piece in read_alike(source, layer, [step], refused)]
    groups: Pieces = []
    for _, alike in itertools.groupby(pieces, key=lambda piece: (piece[1].shape[1:], piece[1].dtype)):
        read_steps, arrays = zip(*alike, strict=True)
        groups.append((list(itertools.chain(*read_steps)), np.concatenate(arrays)))
    return groups


def read_place(
    source: SnapshotSource, layer: Layer, token: int | None, steps: Sequence[int], refused: list[Refusal]
) -> Pieces:
    """Return the values of a layer, or of one token of it; append what is damaged to `refused`."""
    if token is None:
        return read_alike(source, layer.key, steps, refused)
    found = list(read_token(source, layer, token, steps, refused))
    return [([step for step, _ in found], np.concatenate([values for _, values in found]))] if found else []


def read_token(
    source: SnapshotSource, layer: Layer, token: int, steps: Sequence[int], refused: list[Refusal]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (step, values (1, N, U)) of one token; steps that are damaged or have another shape go to `refused`.

    The whole layer is in memory for one step at a time.
    """
    units = token_units(layer)[token]
    for step in steps:
        for _, whole in read_alike(source, layer.key, [step], refused):
            if whole.shape[2:] == layer.unit_shape:
                # A copy: a view would keep the whole layer in memory.
                yield step, np.array(whole.reshape(*whole.shape[:2], -1)[:, :, units])
            else:
                refused.append(Refusal((step,), f"its shape is {whole.shape[2:]}, that of other tokens"))


def _lost(source: SnapshotSource, layer: str, steps: Sequence[int]) -> list[Refusal]:
    """Return refusals, one for each reason, of `steps` that the analysis began with and that are gone now."""
    found: dict[tuple[str, str], list[int]] = {}
    for step in steps:
        problem = source.why(layer, step)
        file, what = ("", "gone from the run meanwhile") if problem is None else (problem.file, problem.what)
        found.setdefault((file, what.removeprefix(f"layer {layer!r}: ")), []).append(step)
    refusals = []
    for (file, what), gone in found.items():
        damage = Problem(file, f"layer {layer!r}: {what}", tuple(gone))
        reason = f"{step_words(gone)} can no longer be read: {f'{file}: ' if file else ''}{what}"
        refusals.append(Refusal(tuple(gone), reason, (damage,)))
    return refusals


def bad_steps(store: ActivationStore, key: str, token: int | None, *, labelled: bool = False) -> frozenset[int]:
    """Return the steps at which a layer, or one token of it, has NaN or infinite values.

    The store knows this of whole layers; a token is read to see. With `labelled` only samples with a label at the token
    count: padding has none, and attention over nothing but padding is NaN.
    """
    layer = store.layer(key)
    bad = [step for step in store.steps(key) if store.nonfinite(key, step)]
    if token is None:
        return frozenset(bad)
    probe = store.probe
    counts = torch.ones(probe.samples, dtype=torch.bool)  # (N,) the samples that count
    if labelled and probe.positions is not None:
        counts = torch.from_numpy(probe.labels[:, token] != NO_LABEL)
    tokens = read_token(store, layer, token, bad, [])
    finite = {s for s, values in tokens if torch.isfinite(to_tensor(values, layer.dtype, "cpu"))[:, counts].all()}
    return frozenset(bad) - finite


def to_tensor(values: Values, dtype: str, device: str) -> Tensor:
    """Return values (S, N, *unit_shape), as read, as (S, N, U) on the device, in a type that estimators take.

    `dtype` is the layer's, as torch calls it ("bfloat16").
    """
    flat = values.reshape(*values.shape[:2], -1)
    if not isinstance(flat, Tensor):
        flat = torch.from_numpy(np.require(flat, requirements=["C", "W"])).to(device)
        # Numpy has no bfloat16 and no float8: their bits are stored as unsigned integers.
        if flat.dtype != (kind := getattr(torch, dtype)):
            flat = flat.view(kind)
    return widened(flat)


def widened(t: Tensor) -> Tensor:
    """The same numbers in a type that estimators take: narrow floats as float32, unsigned integers as float64.

    Unsigned integers of 64 bits that float64 would mix up stay what they are, for estimators to refuse.
    """
    if t.is_floating_point() and t.element_size() < 4:
        return t.float()
    if t.dtype == torch.uint64 and not fits_float64(*extremes(t.cpu().numpy())):
        return t
    return t.double() if t.dtype in (torch.uint16, torch.uint32, torch.uint64) else t


def contents(store: ActivationStore, keys: Collection[str]) -> dict[str, tuple[tuple[int, str], ...]]:
    """{layer: ((step, digest of what was recorded there), ...)} for these layers."""
    return {key: tuple((s, store.source(key, s)) for s in store.steps(key)) for key in keys}


def features(x: npt.NDArray[Any]) -> Tensor:
    """Inputs (N, F) as floats; whole numbers that float64 would mix up stay what they are, for estimators to refuse."""
    t = torch.from_numpy(x)
    exact = x.dtype.kind not in "iu" or fits_float64(*extremes(x))
    return t.to(torch.float64) if exact and not t.is_floating_point() else t
