"""A run from saved weights: the store that recording the training live would have written."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from infoplane.core.steps import step_words
from infoplane.core.text import printable
from infoplane.core.warn import warn
from infoplane.hooks._checkpoints import Checkpoint, load, read_checkpoint, steps_of
from infoplane.hooks.recorder import Recorder
from infoplane.hooks.schedule import as_schedule, every
from infoplane.hooks.select import unwrap
from infoplane.store import open_run
from infoplane.store.layout import RUN_FILE

# Options of Recorder that a replay sets by itself.
_OWN = ("initial", "resume", "number", "total", "gradients")


@dataclass(frozen=True)
class Replay:
    """The outcome of a replay: which checkpoints were recorded.

    Attributes
    ----------
    run : Path
        The directory of the run.
    recorded, kept : tuple of int
        Steps that were recorded now, and those that were there already.
    lost : tuple of str
        Each checkpoint that could not be used, and all else that could not be recorded, with the reason.
    """

    run: Path
    recorded: tuple[int, ...]
    kept: tuple[int, ...]
    lost: tuple[str, ...]

    def __str__(self) -> str:
        kept = f", {step_words(self.kept)} were there" if self.kept else ""
        return f"{printable(self.run)}: recorded {step_words(self.recorded)}{kept}"


def replay(
    model: nn.Module,
    probe: Any,
    run: str | os.PathLike[str],
    checkpoints: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    steps: Sequence[int] | None = None,
    schedule: Any = None,
    key: str | None = None,
    ignore: str | Sequence[str] = (),
    overwrite: bool = False,
    progress: bool | None = None,
    **options: Any,
) -> Replay:
    """Record a model at each of its saved checkpoints: the same store as if it had been recorded while it trained.

    A checkpoint is a `.safetensors`, any file of `torch.save` (read as weights only: nothing in it is executed), or a
    folder as Hugging Face saves models (`checkpoint-500`). The weights are the file, or its entry `state_dict`,
    `model`, ...; the prefixes of DDP, torch.compile, FSDP and of one module that holds the model are taken off. Single
    numbers beside them are metrics of the step, and `epoch` is its epoch; in a folder those that the trainer logged.

    A checkpoint that cannot be read, or does not fit the model, is warned of and listed in the run, and the others go
    on. Called again, it goes on from the first step that the run has not, or whose checkpoint is newer than its
    snapshot. At the end the model holds the weights of the last checkpoint that was read.

    Parameters
    ----------
    model, probe, run
        As for `Recorder`.
    checkpoints : path or paths
        In any order.
    steps : sequence of int, optional
        The step of each checkpoint. By default the number in its name (`step-0100.pt`, `checkpoint-500`, `epoch_3.pt`),
        after the word step, epoch, iter or checkpoint, or that which varies; where the names tell none, the number
        `step`, `global_step`, `iteration` or `epoch` in it.
    schedule : optional
        Which of the steps to record, as for `Recorder`; every one by default. The first and the last always are.
    key : str, optional
        The entry of a checkpoint that holds the weights, where it has several ("model_ema").
    ignore : glob or several
        Keys of a checkpoint that the model need not have. One that the checkpoint lacks is always an error.
    overwrite : bool
        Replace the run that is there.
    progress : bool, optional
        False shows no bar; otherwise there is one on a terminal.
    options
        Further arguments of `Recorder`: `layers`, `reduce`, `dtype`, `name`, ...

    Returns
    -------
    Replay

    Raises
    ------
    ValueError
        Names that tell no step or one step twice, or not one checkpoint that fits: nothing has been written then.
    StoreError
        The run that is there was recorded in another way, from another probe, or from another network.

    Examples
    --------
    >>> import tempfile, torch
    >>> folder = Path(tempfile.mkdtemp())
    >>> model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.randn(32, 4)
    >>> for step in (0, 10):
    ...     torch.save(model.state_dict(), folder / f"step-{step}.pt")
    >>> replay(model, (x, torch.arange(32) % 2), folder / "run", folder.glob("*.pt"), quiet=True).recorded
    (0, 10)
    """
    if unfit := next((name for name in _OWN if name in options), None):
        raise TypeError(f"replay takes no {unfit!r}: its steps are those of the checkpoints, and it always resumes")
    where, lost = Path(run), dict[Path, str]()
    ignored = [ignore] if isinstance(ignore, str) else ignore
    paths = [checkpoints] if isinstance(checkpoints, str | os.PathLike) else checkpoints
    chosen = _scheduled(_series([Path(path) for path in paths], steps, key, lost), schedule)
    there = {} if overwrite else _times(where, chosen)
    planned: dict[str, Any] = {"schedule": list(chosen), "total": max(chosen), "initial": False}
    if options.get("weight_distance") is True:
        options = {**options, "weight_distance": _first_weights(model, chosen.values(), key, ignored)}
    recorder = Recorder(model, probe, where, **options, **planned, resume=not overwrite, overwrite=overwrite)
    bar = tqdm(chosen.items(), desc="replaying", disable=None if progress is None else not progress)
    recorded: list[int] = []
    with ExitStack() as stack:
        for step, path in bar:
            # Up to the first step that is recorded now, pass over those that the run has, if their checkpoint has not
            # changed since.
            if not recorded and there.get(step, -math.inf) > _changed(path):
                continue
            found = _loaded(model, path, key, ignored, lost)
            if found is None:
                recorder._session.problems.note(lost[path], step)
                continue
            if not recorded:
                stack.enter_context(recorder)  # starts the recording: no file is written before a checkpoint fits
            recorder.snapshot(step, epoch=found.numbers.get("epoch"), metrics=found.metrics, force=True)
            recorded.append(step)
        kept = tuple(step for step in there if not recorded or step < recorded[0])
        if not recorded and not kept:
            raise ValueError(f"none of {len(chosen)} checkpoints could be used: {next(iter(lost.values()))}")
        if not recorded:
            stack.enter_context(recorder)  # records nothing, but raises if the run has other settings
    failed = [str(p) for p in recorder.problems if not p.note and p.what not in lost.values()]
    return Replay(where, tuple(recorded), kept, (*lost.values(), *failed))


def _series(paths: list[Path], steps: Sequence[int] | None, key: str | None, lost: dict[Path, str]) -> dict[int, Path]:
    """Return step -> checkpoint in rising order; ValueError where two have one step, or the steps cannot be told.

    A checkpoint that cannot be read is left out, and entered into `lost` with the reason.
    """
    if not paths:
        raise ValueError("no checkpoints to replay")
    series: dict[int, Path] = {}
    for path, step in zip(paths, steps_of(paths, steps, key), strict=True):
        if isinstance(step, Exception):
            _lose(path, step, lost)
        elif series.setdefault(step, path) != path:
            raise ValueError(
                f"{printable(series[step])} and {printable(path)} are both of step {step}; leave one out, or give "
                "steps=[...]"
            )
    return dict(sorted(series.items()))


def _scheduled(series: dict[int, Path], schedule: Any) -> dict[int, Path]:
    """The checkpoints at steps that the schedule takes; the first and the last are always taken."""
    plan = every(1) if schedule is None else as_schedule(schedule)
    ends = (min(series), max(series))
    before = dict(zip(series, [-1, *series], strict=False))  # step -> the one before it, -1 ahead of the first
    return {step: path for step, path in series.items() if step in ends or plan.due(step, before[step])}


def _times(run: Path, wanted: Collection[int]) -> dict[int, float]:
    """Step -> when it was recorded (Unix seconds), for the wanted steps that the run has."""
    if not (run / RUN_FILE).exists():
        return {}
    store = open_run(run)
    return {step: store.time(step) for step in store.steps() if step in wanted}


def _changed(path: Path) -> float:
    """When a checkpoint was last written (Unix seconds); infinity for one that is not there."""
    try:
        files = [path, *(path.iterdir() if path.is_dir() else ())]
        return max(float(file.stat().st_mtime) for file in files)
    except OSError:
        return math.inf


def _loaded(
    model: nn.Module, path: Path, key: str | None, ignore: Sequence[str], lost: dict[Path, str]
) -> Checkpoint | None:
    """Read a checkpoint, copy its weights into the model and return it.

    Where that fails, return None and enter the reason into `lost`. `key` and `ignore` are those of `replay`.
    """
    try:
        found = read_checkpoint(path, key)
        rounded = load(unwrap(model), found.weights, ignore)
    except (ValueError, OSError) as error:
        _lose(path, error, lost)
        return None
    if rounded:
        warn(f"the model rounds {printable(rounded[0])}, whose type in its checkpoints is wider; make it of that type")
    return found


def _first_weights(
    model: nn.Module, paths: Iterable[Path], key: str | None, ignore: Sequence[str]
) -> dict[str, Tensor] | bool:
    """Return the model's weights at the first checkpoint that fits, by name; True where none does.

    They are the `weight_distance` of the Recorder, for which True stands for the weights at its start.
    """
    for path in paths:
        if _loaded(model, path, key, ignore, {}) is not None:
            return {name: p.detach().clone() for name, p in unwrap(model).named_parameters()}
    return True  # none of them fits, which is said where they are replayed


def _lose(path: Path, error: Exception, lost: dict[Path, str]) -> None:
    """Enter into `lost` why a checkpoint is left out, and warn of it."""
    lost[path] = f"checkpoint {printable(path)} is left out: {' '.join(printable(error).split())}"
    warn(lost[path])
