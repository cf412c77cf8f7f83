"""Recording a Hugging Face training: `Trainer(callbacks=[RecorderCallback(...)])`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from infoplane.integrations._common import By, Recording, only_numbers

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("infoplane.integrations.transformers needs transformers: pip install 'infoplane[hf]'") from error


class RecorderCallback(Recording, TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Record activations while a `transformers.Trainer` trains.

    Step 0 is taken before the first batch and the last one at the end of training. The metrics of a snapshot
    are the newest that the Trainer logged. Before a checkpoint is written, all snapshots so far are
    made durable. A training that goes on from a checkpoint resumes the run. The Trainer does not tell its
    callbacks of an exception: what was taken before is published, the last step is not.

    Parameters
    ----------
    probe : (x, y) or mapping from part name to (x, y)
        x is a dict of keyword inputs, as `{"input_ids": ..., "attention_mask": ...}`. The attention mask is used
        by reductions over tokens, as `reduce="mean"`.
    run : path
    by : "step" or "epoch"
        Whether the schedule counts optimizer steps (`state.global_step`) or completed epochs.
    figures : mapping from name to function of a results table, optional
        As `{"plane": infoplane.plots.plane}`, with `sinks=[infoplane.live(...)]`: drawn as it trains and shown by the
        loggers, see `infoplane.integrations.figures.FigureLog`.
    loggers : SummaryWriter, wandb run, or several of them, optional
        Where figures go; by default the active run of Weights & Biases (`report_to="wandb"`).
    **options
        Further arguments of Recorder. `total`, for the size plan, is the trainer's unless given.
        `autocast` is that of `TrainingArguments(bf16=..., fp16=...)` unless given:
        callbacks run outside the Trainer's own.

    Attributes
    ----------
    recorder : Recorder or None
        The recorder of the training.
    """

    def __init__(self, probe: Any, run: str | Path | None = None, *, by: By = "step", **options: Any) -> None:
        super().__init__(probe, run, by, **options)
        self._logged: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Start recording, with the length and the precision of the training as the Trainer has them."""
        mixed = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
        total = state.max_steps if self._by == "step" else state.num_train_epochs
        self._start(model, mixed, resume=state.global_step > 0, total=total)

    def _found(self) -> list[Any]:
        active = getattr(sys.modules.get("wandb"), "run", None)
        return [] if active is None else [active]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self._logged |= only_numbers(logs or {})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._by == "step":
            self._snapshot(state.global_step, state.epoch)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._by == "epoch":
            self._snapshot(round(state.epoch), state.epoch)

    def _snapshot(self, step: int, epoch: float | None) -> None:
        """Hand a step and the newest metrics to the recorder, which takes it where its schedule says so."""
        if self.recorder is not None and self.recorder.is_open:
            metrics = {name: value for name, value in self._logged.items() if name != "epoch"}
            self.recorder.snapshot(step, epoch=epoch, metrics=metrics)

    on_save = Recording._flush
