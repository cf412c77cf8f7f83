"""The probe set: inputs for the forward pass, with labels, ids and parts for the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from infoplane.core.exact import extremes, fits_float64
from infoplane.core.files import digest
from infoplane.core.interrupts import surely
from infoplane.core.labels import (
    as_array,
    as_ids,
    as_labels,
    as_sample_ids,
    check_label_names,
    doubts,
    position_words,
    unlabelled,
)
from infoplane.core.records import NO_LABEL, Layer, Probe
from infoplane.core.tokens import token_units
from infoplane.core.warn import warn
from infoplane.hooks._pass.state import keep_random_state

KEPT_INPUT_BYTES = 256 << 20
"""Inputs up to this size go into the record; larger ones leave only their ids."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeSet:
    """The inputs of the probe, and their record, with a row for each input in each pass.

    The first pass runs all inputs. `passes` are the further ones, for networks with noise: the indices of the inputs
    that each of them runs. `rows` are the rows of the record that this process holds, None for all.
    """

    inputs: Inputs
    record: Probe
    passes: tuple[Tensor, ...] = ()
    rows: npt.NDArray[np.int64] | None = None

    @property
    def first_pass(self) -> int:
        """Rows of the first pass: the number of inputs."""
        return len(self.inputs)

    @property
    def samples(self) -> int:
        """Rows of all passes that this process holds."""
        return self.first_pass + sum(len(p) for p in self.passes)

    def share(self, rank: int, world_size: int) -> ProbeSet:
        """Return the part of process `rank` out of `world_size`: contiguous inputs, with their rows of every pass.

        ValueError where there are fewer inputs than processes.
        """
        n = self.first_pass
        start, stop = n * rank // world_size, n * (rank + 1) // world_size
        if n < world_size:
            raise ValueError(f"{n} samples cannot be shared by {world_size} ranks")
        inputs = self.inputs.take(slice(start, stop))
        # Keep this process's inputs in each further pass, and number them from its own first one.
        passes = tuple(p[(p >= start) & (p < stop)] - start for p in self.passes)
        of_rows = torch.cat([torch.arange(n, device="cpu"), *self.passes])  # the input of each row of the record
        rows = ((of_rows >= start) & (of_rows < stop)).nonzero().flatten().numpy()
        return dataclasses.replace(self, inputs=inputs, passes=passes, rows=rows)

    def chunks(self, size: int) -> Iterator[tuple[int, int, Inputs, int]]:
        """Yield (first row, one past the last, inputs, number of the pass) for at most `size` rows, pass after pass."""
        row = 0
        passes: list[range | Tensor] = [range(self.first_pass), *self.passes]
        for k, indices in enumerate(passes):
            for a in range(0, len(indices), size):
                part = indices[a : a + size]
                yield row, row + len(part), self.inputs.take(part), k
                row += len(part)


def as_probe_set(
    probe: Any,
    *,
    sample_ids: Any = None,
    input_ids: Any = None,
    label_names: Sequence[str] = (),
    mask: Tensor | str | None = None,
    repeats: tuple[int, int] | None = None,
    repeat_seed: int | None = None,
) -> ProbeSet:
    """Build the probe set from (x, y) or {"train": (x, y), "test": (x, y)}.

    Parameters
    ----------
    probe : (x, y) or mapping from part name to (x, y)
        Parts are recorded one after the other and share ids, chunks and labels' kind. A DataLoader that neither
        shuffles nor drops samples may stand for a pair; it is read once.
    sample_ids : (samples,) integers, optional
        The user's identifiers, unique; 0, 1, 2, ... by default.
    input_ids : (samples,) integers, optional
        Equal for equal inputs; found by comparing the inputs by default.
    mask : (samples, tokens) tensor, or name of a keyword input, optional
        True where a token is no padding; no mask where there is no such input.
    repeats : (m, n_x), optional
        n_x further passes over m of the inputs: the first m, or m drawn with `repeat_seed`.

    Raises
    ------
    ValueError
        For fewer than 2 samples, and bad labels, ids or names: with the values.
    TypeError
        If `probe` has another form.
    """
    names, xs, ys = _parts(probe)
    parts = [as_inputs(x) for x in xs]
    labels = [as_labels(y, len(p)) for p, y in zip(parts, ys, strict=True)]
    inputs = concatenated(names, parts)
    n = len(inputs)
    if isinstance(mask, str):
        mask = inputs.kwargs.get(mask)
    elif mask is not None and (mask.ndim != 2 or len(mask) != n):
        raise ValueError(f"mask must have shape ({n}, tokens), got {tuple(mask.shape)}")
    inputs = dataclasses.replace(inputs, mask=None if mask is None else mask.detach().clone())
    if n < 2:
        raise ValueError(f"the probe needs at least 2 samples, got {n}")
    y = _joined_labels(names, labels)
    check_label_names(y, label_names)
    for doubt in [*doubts(y), *_own_tokens(inputs, y)]:
        warn(doubt)
    again = () if repeats is None else _further_passes(n, repeats, repeat_seed)
    # The inputs of all rows; a slice where there are no more rows than inputs, since it copies nothing.
    rows = np.concatenate([np.arange(n), *again]) if again else slice(None)
    kept = _kept_inputs(inputs)
    record = Probe(
        sample_ids=as_sample_ids(sample_ids, n)[rows],
        input_ids=(as_ids(input_ids, n) if input_ids is not None else equal_input_ids(inputs))[rows],
        repeats=np.repeat(np.arange(1 + len(again), dtype=np.int64), [n, *map(len, again)]),
        labels=y[rows],
        part=np.repeat(np.arange(len(parts), dtype=np.int64), [len(p) for p in parts])[rows],
        part_names=names,
        inputs=None if kept is None else kept[rows],
        label_names=tuple(str(s) for s in label_names),
        input_shapes=tuple(tuple(t.shape[1:]) for t in inputs.tensors),
    )
    return ProbeSet(inputs=inputs, record=record, passes=again)


def next_tokens(ids: Any, mask: Any = None) -> Tensor:
    """The token that comes next at each position, as labels of a language model's probe.

    Parameters
    ----------
    ids : (samples, positions) integers
        The model's input, or its `labels` as a Hugging Face model takes them: the tokens themselves, which the model
        shifts for its loss; -100 where there is none.
    mask : (samples, positions), optional
        True where a token is no padding, as `attention_mask`: padding has no next token, and is never one.

    Returns
    -------
    (samples, positions) int64 tensor
        ids[:, p + 1] at position p, and -100 at the last and where `ids` or `mask` have no token.

    Raises
    ------
    ValueError
        `ids` have another number of axes, or `mask` has not their shape.

    Examples
    --------
    >>> next_tokens([[5, 7, 2, 0]], mask=[[1, 1, 1, 0]]).tolist()
    [[7, 2, -100, -100]]
    """
    tokens = torch.as_tensor(ids).long()
    if tokens.ndim != 2:
        raise ValueError(f"ids must have shape (samples, positions), got {tuple(tokens.shape)}")
    labels = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=NO_LABEL)
    if mask is None:
        return labels
    real = torch.as_tensor(mask).to(tokens.device).bool()
    if real.shape != tokens.shape:
        raise ValueError(f"mask must have shape {tuple(tokens.shape)}, got {tuple(real.shape)}")
    return labels.masked_fill(~(real & torch.nn.functional.pad(real[:, 1:], (0, 1))), NO_LABEL)


def label_words(record: Probe, layers: Iterable[Layer]) -> str:
    """Return the line of the printed plan about labels for each position; "" where each sample has one label."""
    if record.positions is None:
        return ""
    words = position_words(record.positions, record.samples, int(unlabelled(record.labels).sum()))
    kept = any(len(token_units(layer)) > 0 for layer in layers)
    how = "estimate them with layers=['LAYER[token=*]']" if kept else "no layer keeps its positions (reduce=)"
    return f"labels: {words}; {how}"


def _own_tokens(inputs: Inputs, y: npt.NDArray[Any]) -> list[str]:
    """A warning, in a list, where labels are the model's own input tokens, a trap of language models; else none."""
    if y.ndim != 2 or y.dtype.kind != "i":
        return []
    labels = torch.from_numpy(y)
    for t in inputs.tensors:
        alike = t.shape == labels.shape and not t.is_floating_point() and not t.is_complex()
        if alike and bool(((t.cpu() == labels) | (labels == NO_LABEL)).all()):
            return [
                "the labels are the inputs themselves, so the label of a position is its own token; for the token that "
                "comes next pass infoplane.hooks.next_tokens(y)"
            ]
    return []


def _joined_labels(names: Sequence[str], labels: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the labels of all parts, joined in order; ValueError where kind or columns differ between parts."""
    if len({a.dtype.kind for a in labels}) > 1:
        raise ValueError("labels of all probe parts must be of one kind: integers (classes) or floats (targets)")
    if len({a.shape[1:] for a in labels}) > 1:
        shown = ", ".join(f"{name} {a.shape}" for name, a in zip(names, labels, strict=True))
        raise ValueError(f"targets of all probe parts must have the same columns, got {shown}")
    return np.concatenate(labels)


def _parts(probe: Any) -> tuple[tuple[str, ...], list[Any], list[Any]]:
    """Return (names, inputs, labels) of the parts of a probe; TypeError for a part that is no (x, y)."""
    named = probe if isinstance(probe, Mapping) else {"all": probe}
    if not named:
        raise ValueError("the probe has no parts")
    pairs = [(k, _collected(p) if isinstance(p, DataLoader) else p) for k, p in named.items()]
    for name, pair in pairs:
        if _is_pair(pair):
            continue
        got = type(pair).__qualname__
        if named is probe:
            raise TypeError(f"probe part {name!r} must be (x, y), got {got}")
        got += f" of length {len(pair)}" if isinstance(pair, tuple | list) else ""
        raise TypeError(f'probe must be (x, y) or {{"train": (x, y), "test": (x, y)}}, got {got}')
    return tuple(str(k) for k, _ in pairs), [p[0] for _, p in pairs], [p[1] for _, p in pairs]


def _is_pair(value: Any) -> bool:
    """Whether a value is a tuple or list of two, as (x, y)."""
    return isinstance(value, tuple | list) and len(value) == 2


def _collected(loader: DataLoader[Any]) -> tuple[Inputs, npt.NDArray[Any]]:
    """Return (x, y) of all batches of a loader, joined in order; ValueError where it shuffles or drops samples."""
    # Every snapshot needs the same samples in the same order, so refuse a loader that shuffles. Read it twice to see
    # whether its inputs change, and restore the global random state, which a random transform draws from.
    if not isinstance(loader.sampler, SequentialSampler) and not isinstance(loader.dataset, IterableDataset):
        sampler = type(loader.sampler).__name__
        raise ValueError(f"the probe's loader draws its samples by a {sampler}; pass one with shuffle=False")
    if loader.drop_last and (dropped := len(loader.dataset) % (loader.batch_size or 1)):  # type: ignore[arg-type]
        raise ValueError(f"the probe's loader drops the last {dropped} samples; pass one with drop_last=False")
    (x, y), (again, _) = surely(keep_random_state(torch.device("cpu")), lambda: (_one_pass(loader), _one_pass(loader)))
    if not all(torch.equal(a, b) for a, b in zip(x.tensors, again.tensors, strict=True)):
        warn("two passes over the probe's loader gave different inputs (a random transform?); the first is kept")
    return x, y


def _one_pass(loader: DataLoader[Any]) -> tuple[Inputs, npt.NDArray[Any]]:
    """Return (inputs, labels) of all batches that a loader gives; TypeError where a batch is no (x, y)."""
    xs, ys = [], []
    for batch in loader:
        if not _is_pair(batch):
            raise TypeError(f"the probe's loader must give (x, y) batches, got {type(batch).__qualname__}")
        x, y = batch
        xs.append(as_inputs(x))
        if isinstance(y, tuple | list) and any(isinstance(part, Tensor) and part.ndim for part in y):
            raise TypeError(f"the probe's loader gives {len(y)} tensors of labels a batch; choose one, or stack them")
        ys.append(as_array(y, "labels"))
    if not xs:
        raise ValueError("the probe's loader is empty")
    return concatenated([f"batch {i}" for i in range(len(xs))], xs), np.concatenate(ys)


def _kept_inputs(inputs: Inputs) -> npt.NDArray[Any] | None:
    """The inputs as one array (N, features) for the record; None where they are too large or not kept exactly."""
    tensors = inputs.tensors
    if sum(t.nbytes for t in tensors) > KEPT_INPUT_BYTES or any(t.is_complex() for t in tensors):
        return None
    if len({t.dtype for t in tensors}) > 1:
        if not all(t.is_floating_point() or fits_float64(*extremes(t.cpu().numpy())) for t in tensors):
            warn(
                "the probe's inputs have whole numbers beyond 2**53 beside inputs of another type; only their ids are "
                "kept, and estimators that need inputs will say so"
            )
            return None
        tensors = [t.double() for t in tensors]
    if tensors[0].dtype in (torch.bfloat16, torch.float16):
        tensors = [t.float() for t in tensors]
    return torch.cat([t.reshape(len(t), -1) for t in tensors], dim=1).cpu().numpy()


def _further_passes(n: int, repeats: tuple[int, int], seed: int | None) -> tuple[Tensor, ...]:
    """Return the indices (m,) of the inputs of each further pass; ValueError for impossible `repeats` = (m, n_x).

    All n_x passes run the same m of the n inputs: the first m, or m drawn with `seed`.
    """
    m, n_x = repeats
    if not 1 <= m <= n or n_x < 1:
        raise ValueError(f"repeats=(m, n_x) needs 1 <= m <= {n} inputs and n_x >= 1 passes, got {repeats}")
    rows = torch.arange(n, device="cpu")
    if seed is not None:
        rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")
    return (rows[:m].sort().values,) * n_x


@dataclass(frozen=True, eq=False)
class Inputs:
    """Arguments of the model: positional and keyword tensors that share their first axis.

    `mask` is for reductions over tokens and does not reach the model.
    """

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Tensor]
    mask: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.args, *self.kwargs.values()]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, rows: range | slice | Tensor) -> Inputs:
        """Return the inputs of these rows, with their mask."""
        at = slice(rows.start, rows.stop) if isinstance(rows, range) else rows  # a slice gives a view
        mask = None if self.mask is None else self.mask[at]
        return dataclasses.replace(self.map(lambda t: t[at]), mask=mask)

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """Inputs with `function` applied to every tensor, positional ones first; the mask stays."""
        return Inputs(tuple(map(function, self.args)), {k: function(t) for k, t in self.kwargs.items()}, self.mask)

    def to(self, device: torch.device, dtypes: frozenset[torch.dtype]) -> Inputs:
        """Return a copy on the model's device; floating inputs take the dtype of the model's weights, if it is one.

        A copy in any case: a model that works in place on its input would otherwise change the probe itself.
        """
        # Of a model with weights of several dtypes nobody knows which one it expects: its inputs keep theirs.
        expected = next(iter(dtypes)) if len(dtypes) == 1 else None
        return self.map(lambda t: t.to(device, expected if t.is_floating_point() else None, copy=True))


def as_inputs(x: Any) -> Inputs:
    """Make Inputs of a tensor, a tuple of tensors (positional) or a dict of tensors (keywords); arrays will do, too.

    The tensors are copied, so that later changes by the caller do not reach the probe. ValueError where there are
    none, or their numbers of samples differ; TypeError for what is no tensor.
    """
    if isinstance(x, Inputs):
        return x
    if isinstance(x, Mapping):
        inputs = Inputs((), {str(k): _tensor(v, f"probe input {k!r}") for k, v in x.items()})
    elif isinstance(x, tuple | list):
        inputs = Inputs(tuple(_tensor(v, f"probe input {i}") for i, v in enumerate(x)), {})
    else:
        inputs = Inputs((_tensor(x, "the probe input"),), {})
    if not inputs.tensors:
        raise ValueError("the probe has no inputs; pass probe=(x, y)")
    if any(t.ndim == 0 for t in inputs.tensors):
        raise ValueError("probe inputs need a first axis of samples, got a scalar")
    lengths = {len(t) for t in inputs.tensors}
    if len(lengths) > 1:
        raise ValueError(f"probe inputs must have the same number of samples, got {sorted(lengths)}")
    return inputs


def _tensor(value: Any, what: str) -> Tensor:
    """Return a copy of one input as a tensor; TypeError for what is no tensor or array. Its message says `what`."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{what} must be a tensor (or a tuple or dict of tensors), got {type(value).__qualname__}; "
            "collect a loader's batches once and pass torch.cat of them"
        )
    return value.detach().clone()


def concatenated(names: Sequence[str], parts: Sequence[Inputs]) -> Inputs:
    """Return the inputs of all parts of a probe, joined in order; `names` are those of the parts, for the message.

    Raises
    ------
    ValueError
        If parts differ in the names, the shape of a sample or the dtype of their inputs.
    """
    if len(parts) == 1:
        return parts[0]
    head = parts[0]
    for name, part in zip(names[1:], parts[1:], strict=True):
        shapes = [(t.shape[1:], t.dtype) for t in part.tensors]
        if list(part.kwargs) != list(head.kwargs) or shapes != [(t.shape[1:], t.dtype) for t in head.tensors]:
            raise ValueError(
                f"inputs of probe parts {names[0]!r} and {name!r} differ in names, shape or dtype: "
                f"{_described(head)}, and {_described(part)}"
            )
    args = tuple(torch.cat(column) for column in zip(*(p.args for p in parts), strict=True))
    return Inputs(args, {k: torch.cat([p.kwargs[k] for p in parts]) for k in head.kwargs})


def _described(inputs: Inputs) -> str:
    """Name (or number), shape and dtype of each input, for a message."""
    named = zip([*map(str, range(len(inputs.args))), *inputs.kwargs], inputs.tensors, strict=True)
    return ", ".join(f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in named)


def equal_input_ids(inputs: Inputs) -> npt.NDArray[np.int64]:
    """Return an id for each row of the inputs, (N,): 0, 1, ... by first appearance, one for rows of equal numbers.

    Rows are compared by the 128-bit hash of their bytes (-0.0 counts as 0.0).
    """
    rows = zip(*(_row_bytes(t) for t in inputs.tensors), strict=True)
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest(*row), len(first)) for row in rows], dtype=np.int64)


def _row_bytes(t: Tensor) -> npt.NDArray[np.uint8]:
    """Return the bytes of each row, (N, bytes), which are equal for equal numbers."""
    t = t.detach().cpu()
    if t.is_floating_point():
        t = t + 0.0  # -0.0 becomes 0.0
    flat = t.reshape(len(t), -1).contiguous()
    return flat.view(torch.uint8).numpy() if flat.numel() else np.zeros((len(t), 0), np.uint8)
