"""Files of activations -> steps, layers and rows that fit together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infoplane.core.errors import closest
from infoplane.core.labels import as_array
from infoplane.core.steps import counts_steps, steps_of_files, whole_step, without_counts
from infoplane.core.warn import warn
from infoplane.importers._arrays import from_arrays
from infoplane.importers._beside import without_files
from infoplane.importers._read import Key, read_entries
from infoplane.importers._rows import (
    IDS,
    INPUTS,
    LABELS,
    STEPS,
    Rows,
    agree,
    column,
    in_order,
    is_mat,
    samples_first,
    samples_of,
)
from infoplane.store import ActivationStore

MASKS = ("mask", "attention_mask")
_Step = tuple[int | None, dict[str, Any]]  # None for a step that the file's name tells


@dataclass(eq=False)
class _Piece:
    """Layers and metrics of one step of a file; `step` is None until the name of the file has told it."""

    file: Path
    step: int | None
    layers: dict[str, Any]
    numbers: dict[str, float]
    source: Rows

    @classmethod
    def of(cls, file: Path, step: int | None, values: Mapping[str, Any], source: Rows) -> _Piece:
        """A piece of these values by name: arrays are layers, single numbers metrics."""
        numbers = {name: _number(file, name, v) for name, v in values.items() if np.ndim(v) == 0}
        return cls(file, step, {name: v for name, v in values.items() if np.ndim(v)}, numbers, source)


def _number(file: Path, name: str, value: Any) -> float:
    """A single value as a float; ValueError for text and the like."""
    array = as_array(value, name)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{file.name}: {name!r} is neither an array nor a number, but {array.dtype}; leave it out")
    return float(array)


def from_files(
    run: str | os.PathLike[str],
    files: Sequence[str | os.PathLike[str]],
    *,
    labels: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ActivationStore:
    """Make a run of saved activations: `.npz`, `.npy`, `.safetensors`, `.pt`, `.h5` or `.mat`.

    A file holds one step, `{layer: (N, ...)}`, or, when it has an array `steps` (S,), many: `{layer: (S, N, ...)}`; a
    `.pt` or `.h5` may also hold `{step: {layer: (N, ...)}}`. The step of a file is the number `steps` in it, or the one
    in its name (`step-0100.npz`): that after the word step, epoch, iter or checkpoint, or that which varies from file
    to file. A `.npy` holds one layer, named by the file's folder or, for a single file, by the file. Single numbers
    are metrics of the step. Other nested dicts of a `.pt`, and groups of a `.h5`, give layers `outer/inner`. In a
    `.mat` the samples lie on the axis that is as long as the labels, the steps on that which is as long as `steps`.

    Arrays named `labels` or `y`, `inputs` or `x`, and `sample_ids` or `ids` are what their names say; labels may also
    come from a file of their own. Each may stand in one file, for all, or in several, which must then agree. Where
    files have `sample_ids`, their rows are brought into the order of the first one's.

    Parameters
    ----------
    run, options
        As for `from_arrays`; `parts` and `label_names` may be files with a name for each row or class (a line of text,
        or a value of one array), `metrics` a CSV file with a column `step` or JSON `{step: {name: number}}`.
    files : sequence of paths
    labels : path, optional
        A file with one array, or with `labels` and `sample_ids`.

    Raises
    ------
    ValueError, TypeError
        A file of another kind, or with something in it that is no array; a step that is not plain or comes twice; no
        labels anywhere; files that contradict each other, or that do not fit together. Nothing has been written then.
    OSError
        A file cannot be read.
    """
    known = from_arrays.__kwdefaults__ or {}
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise TypeError(f"from_files has no option {unknown!r}; closest: {', '.join(closest(unknown, known))}")
    given = [] if labels is None else [_labels_file(Path(labels))]
    pieces, sources = _read([Path(file) for file in files], given)
    sources += given
    options = without_files(options, {piece.step for piece in pieces if piece.step is not None})
    # Inputs and ids that the caller gives are one more source, with which the files have to agree.
    if options.get("inputs") is not None:
        sources.append(Rows.of("the argument inputs", inputs=options["inputs"]))
    if options.get("sample_ids") is not None:
        sources.append(Rows.of("the argument sample_ids", ids=options["sample_ids"]))
    agreed = agree(sources)
    if agreed.labels is None:
        raise ValueError("no labels: expected an array named 'labels' or 'y' in a file, or a file of their own")
    if options.get("parts") is not None and any(rows.order is not None for rows in sources):
        raise ValueError("parts cannot be given where the files hold their rows in different orders")
    _warn_of_steps_in_names(pieces)
    metrics = _merged(_by_step(pieces, "numbers"), options.pop("metrics", None) or {})
    options |= {"inputs": agreed.inputs, "sample_ids": agreed.ids}
    return from_arrays(run, _by_step(pieces, "layers"), agreed.labels, metrics=metrics, **options)


def _warn_of_steps_in_names(pieces: Sequence[_Piece]) -> None:
    """Warn of layers `epoch_1/fc` and `epoch_2/fc` at one step: they may be one layer at two steps."""
    for piece in pieces:
        first: dict[str, str] = {}
        for name in piece.layers:
            other = first.setdefault(without_counts(name), name)
            if other != name:
                warn(
                    f"{piece.file.name}: {other!r:.60} and {name!r:.60} are taken as two layers at step {piece.step}; "
                    "if they are one layer at two steps, save {step: {layer: tensor}}, or a file for each step"
                )
                return


def _read(files: Sequence[Path], given: Sequence[Rows]) -> tuple[list[_Piece], list[Rows]]:
    """Read all files; return their pieces, each with its step, and the `Rows` of each file or step in it.

    `given` are the rows of a separate file of labels, if there is one.
    """
    if not files:
        raise ValueError("no files to import")
    pieces: list[_Piece] = []
    named = Counter(file.name for file in files)
    alone = sum(not _is_special(file) for file in files) == 1
    sources: list[Rows] = []
    contents = [(file, read_entries(file)) for file in files]
    # The numbers of labels, `given` in a file of their own or found in another one: by them the samples' axis is known.
    counts = [len(rows.labels) for rows in given if rows.labels is not None and rows.labels.ndim]
    if any(map(is_mat, files)):
        counts += [count for _, entries in contents if (count := samples_of(entries)) is not None]
    for file, entries in contents:
        if is_mat(file):
            entries = samples_first(file, entries, counts[0] if counts else None)
        if _is_npy(file):
            entries = _named_by_folder(file, entries, alone=alone)
        for step, values in _parts_of(file, entries):
            where = file.name if named[file.name] == 1 else str(file)
            source, parts = _taken(where if step is None else f"{where}, step {step}", step, values)
            sources.append(source)
            pieces += [_Piece.of(file, one, own, source) for one, own in parts]
    _name_steps([piece for piece in pieces if piece.step is None])
    return pieces, sources


def _taken(where: str, step: int | None, values: dict[str, Any]) -> tuple[Rows, list[_Step]]:
    """Split the values of a file, or of one step in it, into (labels, inputs and ids; layers and metrics by step).

    `where` names it in messages. ValueError for a mask, which an import cannot apply.
    """
    found = {kind: _pop(where, values, names) for kind, names in _SPECIAL.items()}
    masked = next((name for name in MASKS if name in values), None)
    if masked is not None:
        raise ValueError(
            f"{where}: {masked!r} hides positions, which an import cannot leave out; reduce the layers over "
            "their tokens and save them without it, or give the array another name if it is a layer"
        )
    stated = found.pop("steps")
    source = Rows.of(where, layers=any(np.ndim(value) for value in values.values()), **found)
    return source, list(_steps(where, step, stated, values, source)) if values or stated is not None else []


_SPECIAL = {"labels": LABELS, "inputs": INPUTS, "ids": IDS, "steps": STEPS}
_ROWS = {*LABELS, *INPUTS, *IDS}


def _pop(where: str, values: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Remove and return the value that has one of these names; None where there is none, ValueError for two."""
    held = [name for name in names if name in values]
    if len(held) > 1:
        raise ValueError(f"{where} has both {held[0]!r} and {held[1]!r}; keep one, or rename one that is a layer")
    return values.pop(held[0]) if held else None


def _named_by_folder(file: Path, entries: dict[Key, Any], *, alone: bool) -> dict[Key, Any]:
    """Name the array of a `.npy` by its folder; a lone layer, and labels and the like, keep the name of the file."""
    name = file.stem if alone or _is_special(file) else file.absolute().parent.name
    (value,) = entries.values()
    return {(name,): value}


def _is_npy(file: Path) -> bool:
    """Whether a file holds one array of numpy."""
    return file.suffix.lower() == ".npy"


def _is_special(file: Path) -> bool:
    """Whether a `.npy` holds labels, inputs, ids, steps or a mask, going by its name."""
    return _is_npy(file) and any(file.stem in names for names in (*_SPECIAL.values(), MASKS))


def _parts_of(file: Path, entries: Mapping[Key, Any]) -> Iterable[_Step]:
    """Split a file that holds `{step: {layer: array}}` into its steps; what stands beside them has None for a step."""
    by_step: dict[int | None, dict[str, Any]] = {}
    for key, value in entries.items():
        # A key of several names is (step, layer, ...) where the first is a number, else parts of a layer's name.
        nested = len(key) > 1 and (isinstance(key[0], int) or key[0].isdecimal())
        names = key[1:] if nested else key
        if not all(isinstance(name, str) for name in names):
            shown = f"{file.name}: {'/'.join(map(str, key))!r:.120}"
            raise ValueError(f"{shown} has a number for a name; expected {{step: {{layer: tensor}}}}")
        step = _whole_steps(file.name, [int(key[0])])[0] if nested else None
        own, name = by_step.setdefault(step, {}), "/".join(map(str, names))
        if name in own:
            raise ValueError(f"{file.name} has {name!r} twice")
        own[name] = value
    beside = next((name for name in by_step.get(None, {}) if name not in _ROWS), None)
    if beside is not None and len(by_step) > 1:
        raise ValueError(f"{file.name}: {beside!r} stands beside the steps, not in one of them")
    return by_step.items()


def _steps(where: str, step: int | None, stated: Any, values: dict[str, Any], source: Rows) -> Iterator[_Step]:
    """Yield (step, values) for each step to which the values of a file belong; those of many are cut along axis 0.

    `step` is the one under which the values stand in the file, `stated` the array `steps` beside them; each is None
    where there is none. With neither of them the step is None, and the name of the file has to tell it.
    """
    if stated is None:
        yield step, values
        return
    if step is not None:
        raise ValueError(f"{where} states its step twice, also as 'steps'")
    listed = as_array(stated, "steps")
    steps = _whole_steps(where, np.atleast_1d(listed).tolist() if listed.ndim < 2 else [listed.tolist()])
    if listed.ndim == 0:
        yield steps[0], values
        return
    for name, a in values.items():
        count = len(a) if np.ndim(a) else 0
        if count != len(steps):
            raise ValueError(f"{where}: {name!r} has {count} steps, the array 'steps' has {len(steps)}")
    _check_stacked(where, len(steps), values, source)
    for i, one in enumerate(steps):
        yield one, {name: a[i] for name, a in values.items()}


def _check_stacked(where: str, count: int, values: Mapping[str, Any], source: Rows) -> None:
    """Raise ValueError for labels or inputs (S, N) of a file with many steps: they are (N,), the same at each."""
    # The axes are (S, N) for sure where the first is as long as there are steps, the second as long as the layers have
    # samples, and these numbers differ.
    samples = {np.shape(a)[1] for a in values.values() if np.ndim(a) > 1}
    for what, rows in (("labels", source.labels), ("inputs", source.inputs)):
        shape = () if rows is None else rows.shape
        if len(shape) > 1 and shape[0] == count and samples == {shape[1]} != {count}:
            raise ValueError(
                f"{where}: {what} of shape {shape} come once for each step; expected one for each sample, "
                f"({shape[1]}{', ...' if what == 'inputs' else ','}), or a file for each step"
            )


def _whole_steps(where: str, stated: Iterable[Any]) -> list[int]:
    """The stated steps as integers; TypeError or ValueError for what is no step, or comes twice."""
    try:
        steps = [whole_step(value) for value in stated]
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error
    twice = next((step for i, step in enumerate(steps) if step in steps[:i]), None)
    if twice is not None:
        raise ValueError(f"{where}: step {twice} comes twice in the array 'steps'")
    return steps


def _name_steps(pieces: Sequence[_Piece]) -> None:
    """Set the step of these pieces, which state none, from the names of their files; ValueError where these do not."""
    if not pieces:
        return
    paths = [piece.file.absolute() for piece in pieces]
    # The folder of a .npy names its layer: a number in it is no step.
    steps = steps_of_files([p.parent.parent / p.name if _is_npy(p) else p for p in paths])
    for piece, step in zip(pieces, steps, strict=True):
        piece.step = step
    _check_layout([piece.file for piece in pieces if _is_npy(piece.file)])


def _check_layout(files: Sequence[Path]) -> None:
    """Raise ValueError for STEP/LAYER.npy, which would be read as LAYER/STEP.npy."""
    # Such folders are named like steps, and the files are not.
    folders = {file.absolute().parent.name for file in files}
    counted = all(counts_steps(name) or (len(folders) > 1 and name.isdecimal()) for name in folders)
    if files and counted and not all(counts_steps(file.stem) or file.stem.isdecimal() for file in files):
        place, expected = "/".join(files[0].absolute().parts[-2:]), "LAYER/step-0100.npy"
        raise ValueError(f"{place}: the folder of a .npy names its layer and the file its step; expected {expected}")


def _labels_file(file: Path) -> Rows:
    """Labels, and sample ids where there are any, from a file of their own; ValueError where it holds more."""
    values = {"/".join(map(str, key)): value for key, value in read_entries(file).items()}
    names = ", ".join(values)
    ids, labels = _pop(file.name, values, IDS), _pop(file.name, values, LABELS)
    if labels is None and len(values) == 1:
        labels = values.popitem()[1]
    if is_mat(file):
        ids, labels = (None if one is None else column(one) for one in (ids, labels))
    if labels is None or values:
        raise ValueError(f"{file.name} should hold one array of labels, and at most sample_ids beside; it has {names}")
    return Rows.of(file.name, labels=labels, ids=ids)


def _by_step(pieces: Sequence[_Piece], kind: str) -> dict[int, dict[str, Any]]:
    """Return the "layers" or the "numbers" (`kind`) of all files by step and name; rows are in the common order.

    ValueError where two files hold the same layer of a step, or give a metric different values.
    """
    found: dict[int, dict[str, Any]] = {}
    owner: dict[tuple[int, str], Path] = {}
    for piece in pieces:
        assert piece.step is not None
        for name, value in getattr(piece, kind).items():
            other = owner.setdefault((piece.step, name), piece.file)
            own = found.setdefault(piece.step, {})
            if name in own and (kind == "layers" or own[name] != value):
                a, b = (other, piece.file) if other.name == piece.file.name else (other.name, piece.file.name)
                raise ValueError(f"{a} and {b} both hold {name!r} of step {piece.step}; {_remedy(piece.file, other)}")
            own[name] = in_order(value, piece.source, name) if kind == "layers" else value
    return found


def _remedy(file: Path, other: Path) -> str:
    """What to do about two files that hold the same layer of a step."""
    if file == other:
        return "name the file once"
    if _is_npy(file):
        return "keep one, or, where they are two layers, give each a folder of its name: LAYER/step-0100.npy"
    return "keep one, or tell their steps apart"


def _merged(found: dict[int, dict[str, Any]], given: Any) -> Any:
    """Metrics of the files and of the caller together; ValueError where they contradict each other."""
    if not isinstance(given, Mapping) or not found:
        return given or found
    for step, numbers in given.items():
        held = found.get(step, {})
        if not isinstance(numbers, Mapping):  # for which `from_arrays` raises an error
            return given
        twice = next((name for name in numbers if name in held and held[name] != numbers[name]), None)
        if twice is not None:
            raise ValueError(f"metric {twice!r} of step {step} is {held[twice]} in a file, and is given as another")
    return {step: {**found.get(step, {}), **given.get(step, {})} for step in {**found, **given}}
