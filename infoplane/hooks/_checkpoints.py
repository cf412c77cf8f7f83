"""Saved weights: read without executing anything, and copied into a model only where all of them fit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from infoplane.core.files import MAX_JSON_BYTES
from infoplane.core.globs import name_matches
from infoplane.core.pickles import one_line, refuse_compressed, why_refused
from infoplane.core.steps import steps_of_files, whole_step
from infoplane.core.text import listed, printable
from infoplane.hooks.select import without_wrappers

# Where training loops, Lightning, DeepSpeed and others put the weights among their other state.
_WEIGHTS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
_COUNTERS = ("step", "steps", "global_step", "iteration", "iter", "epoch")
# Files with the weights in a folder of Hugging Face, the first that is there: whole, or an index of pieces.
_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_STATE = "trainer_state.json"
_EXTRA = "_extra_state"  # end of the key under which a module keeps state that is no tensor


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights by their keys, and the single numbers that stand beside them."""

    weights: Mapping[str, Any]
    numbers: Mapping[str, float]

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers beside the weights, without the counters of training, as `step` and `epoch`."""
        return {name: value for name, value in self.numbers.items() if name not in _COUNTERS}


# Reading


def read_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """Read the weights, and the single numbers beside them, of one checkpoint.

    `path` is a `.safetensors`, a file of `torch.save`, or a folder as Hugging Face saves models. `key` names the entry
    with the weights; without it, that is the whole file, or the entry with a usual name such as `state_dict`.

    Raises
    ------
    ValueError
        The file holds anything that would be executed on loading, is cut short, or has no weights. The message is one
        line.
    OSError
        The file cannot be read.
    """
    loaded = _of_folder(path) if path.is_dir() else _of_file(path)
    held = loaded if key is None and _is_state(loaded) else loaded[_key_of_weights(loaded, key)]
    # Where the file is the state dict itself, a single number in it, as a count of batches, is a weight and no metric.
    beside = {k: v for k, v in loaded.items() if held is not loaded or not isinstance(v, Tensor)}
    weights = {k: v for k, v in held.items() if isinstance(v, Tensor) or k.endswith(_EXTRA)}
    return Checkpoint(weights, {str(k): float(v) for k, v in _numbers(beside)})


def _of_file(path: Path) -> Mapping[Any, Any]:
    """Read one file and return its entries by key, executing nothing in it; ValueError where it cannot be read so."""
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        refuse_compressed(path)
        # Have torch check the indices of sparse tensors: a damaged file may hold wrong ones, and by default torch does
        # not look.
        with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise ValueError(f"reading it needs {error.name}; pip install infoplane[safetensors]") from error
    except (OSError, MemoryError, ValueError):
        raise
    except Exception as error:
        raise ValueError(why_refused(path, error) or f"it cannot be read as weights: {one_line(error)}") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"it holds a {type(loaded).__name__}, not the weights by their keys, as model.state_dict()")
    return loaded


def _of_folder(folder: Path) -> dict[str, Any]:
    """Read a Hugging Face folder: return its weights as entry `state_dict`, and the numbers that its trainer logged.

    The weights are one file, or several that an index file lists. ValueError where the folder has neither.
    """
    found = next((folder / name for name in _FOLDER if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"the folder holds no {', '.join(_FOLDER[::2])} or index of one; name the checkpoints in it")
    names = _pieces(found) if found.suffix == ".json" else [found.name]
    weights = {key: value for name in names for key, value in _of_file(folder / name).items()}
    return {"state_dict": weights, **_trainer_state(folder / _STATE)}


def _pieces(index: Path) -> list[str]:
    """Return the weight files that an index file lists; ValueError for none, or one in a folder other than its own."""
    named = _json(index).get("weight_map")
    names = sorted({str(name) for name in named.values()}) if isinstance(named, Mapping) else []
    foreign = next((name for name in names if Path(name).name != name), None)
    if foreign is not None or not names:
        raise ValueError(f"{index.name} should name files beside it, got {foreign!r:.80}")
    return names


def _trainer_state(file: Path) -> dict[str, float]:
    """The numbers that Hugging Face's trainer logged at this checkpoint's step, by name; empty without its file."""
    if not file.is_file():
        return {}
    state = _json(file)
    step, log = state.get("global_step"), state.get("log_history")
    entries = log if isinstance(log, list) else []
    here = [entry for entry in entries if isinstance(entry, Mapping) and entry.get("step") == step]
    # Take the counters (step, epoch) alone from the state itself, but all numbers from its log entries.
    return {k: v for entry in [state, *here] for k, v in _numbers(entry) if entry is not state or k in _COUNTERS}


def _json(file: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where it holds something else; ValueError where it is no JSON or too large."""
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file.name} has {file.stat().st_size:,} bytes, more than any index or log")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))  # a trainer's log may hold NaN
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not valid JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _numbers(values: Mapping[Any, Any]) -> Iterator[tuple[str, float]]:
    """Yield (name, number) for each value that is a single number, also those inside an entry `metrics`."""
    for name, value in values.items():
        if isinstance(value, Mapping) and name == "metrics":
            yield from _numbers(value)
        elif isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
            yield str(name), value.item()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield str(name), value


def _is_state(value: Any) -> bool:
    """Whether a value looks like a state dict: a mapping from texts, with tensors, and no mapping but extra state."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    plain = not any(isinstance(v, Mapping) and not k.endswith(_EXTRA) for k, v in value.items())
    return plain and any(isinstance(v, Tensor) for v in value.values())


def _key_of_weights(loaded: Mapping[Any, Any], key: str | None) -> str:
    """Return the key of the weights: `key` if given, else the one usual name, else the only state dict there is.

    ValueError where there are no weights under it, or several entries could be meant.
    """
    held = [k for k, v in loaded.items() if _is_state(v)]
    candidates = [key] if key is not None else [name for name in _WEIGHTS if name in held] or held
    if len(candidates) == 1 and candidates[0] in held:
        return str(candidates[0])
    what = "no weights" if key is None and not held else f"no weights {key!r}" if key else "several sets of weights"
    more = f"; choose with key={held[0]!r}" if held else "; save model.state_dict()"
    raise ValueError(f"it has {what}, but {listed([printable(k) for k in loaded], 8) or 'nothing'}{more}")


# Steps


def steps_of(paths: Sequence[Path], steps: Sequence[Any] | None, key: str | None) -> list[int | Exception]:
    """Return the step of each checkpoint; in its place the exception where the file cannot be read.

    The steps are those given. Without any they are the numbers in the names of the files, or, where the names tell
    none, the counters (`step`, `epoch`, ...) stored in the files, whose weights are found by `key`.

    Raises
    ------
    ValueError
        `steps` and `paths` differ in length, or neither names nor contents tell the steps.
    """
    if steps is not None:
        if len(steps) != len(paths):
            raise ValueError(f"steps must be one for each of the {len(paths)} checkpoints, got {len(steps)}")
        return [whole_step(step) for step in steps]
    try:
        return list(steps_of_files([path.absolute() for path in paths]))
    except ValueError as error:
        found = [_stated(path, key) for path in paths]
        if all(step is None or isinstance(step, Exception) for step in found) or None in found:
            error.add_note("or leave the file out, or give steps=[...]")
            raise
        return [step for step in found if step is not None]


def _stated(path: Path, key: str | None) -> int | Exception | None:
    """Return the step stored in a checkpoint, None where none is stored; the exception where it cannot be read."""
    try:
        numbers = read_checkpoint(path, key).numbers
        stated = next((numbers[name] for name in _COUNTERS if name in numbers), None)
        return None if stated is None else whole_step(stated)
    except (ValueError, TypeError, OSError) as error:
        return error


# Loading


def load(model: nn.Module, weights: Mapping[str, Any], ignore: Sequence[str] = ()) -> list[str]:
    """Copy weights into the model; return the names of those that are rounded to the model's own type.

    Nothing is copied unless all fit. `ignore` are globs of the checkpoint's keys: what the model does not have is left
    out if a glob fits. Every key of the model must be in the checkpoint, or the model would keep its value of an
    earlier step.

    Raises
    ------
    ValueError
        A key is missing or unexpected, or a shape differs.
    """
    own: dict[str, Any] = model.state_dict()
    found = _renamed(weights, own)
    strange = [k for k in found if k not in own and not any(name_matches(k, glob) for glob in ignore)]
    found = {k: v for k, v in found.items() if k in own}
    absent = _absent(own, found)
    if absent or strange:
        lacks = f"lacks {listed(list(map(printable, absent)), 3)}" if absent else ""
        has = f"has {listed(list(map(printable, strange)), 3)}, which the model does not" if strange else ""
        raise ValueError(f"it {' and '.join(filter(None, [lacks, has]))}: is it of this model?")
    for name, value in found.items():
        mine = own[name]
        if isinstance(mine, Tensor) and not is_lazy(mine) and mine.shape != value.shape:
            was, is_ = tuple(value.shape), tuple(mine.shape)
            raise ValueError(f"its {printable(name)} has shape {was}, the model's {is_}: another architecture")
    try:
        model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise ValueError(f"it does not load: {' '.join(str(error).split())[:300]}") from error
    return [k for k, v in found.items() if _narrower(own[k], v)]


def _absent(own: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the keys of the model's state `own` that `found` lacks.

    A tensor that the model has under several keys (tied weights) needs to be found under one of them alone.
    """

    def place(key: str) -> object:
        """Return what is equal for all keys of one tensor: its memory and shape; the key itself where it has none."""
        tensor = own[key]
        return (tensor.data_ptr(), tensor.shape) if isinstance(tensor, Tensor) and tensor.numel() else key

    there = {place(key) for key in found}
    return [key for key in own if key not in found and place(key) not in there]


def _narrower(mine: Any, value: Any) -> bool:
    """Whether the model's tensor has fewer bytes for each number than the checkpoint's."""
    floating = isinstance(mine, Tensor) and mine.is_floating_point() and value.is_floating_point()
    return floating and mine.element_size() < value.element_size()


def _renamed(weights: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the weights under the model's own keys `own`: take off what wrappers or an outer module put in front."""
    if own.keys() <= weights.keys():
        return weights
    clean = {without_wrappers(key): key for key in own}
    found = {without_wrappers(key): value for key, value in weights.items()}
    if len(clean) < len(own) or len(found) < len(weights):
        return weights  # without the names of wrappers, two keys would be the same
    # A Lightning module that holds the model puts its attribute in front (`net.fc1.weight`). Take that off where the
    # keys do not fit with it, and all keys of the model are there without it.
    for outer in dict.fromkeys(key.partition(".")[0] for key in found):
        inner = {key.removeprefix(f"{outer}."): value for key, value in found.items()}
        if not clean.keys() <= found.keys() and clean.keys() <= inner.keys():
            found = inner
    return {clean.get(key, key): value for key, value in found.items()}
