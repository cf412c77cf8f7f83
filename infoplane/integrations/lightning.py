"""Recording a Lightning training: `Trainer(callbacks=[RecorderCallback(...)])`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infoplane.integrations._common import By, Recording, only_numbers

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise ImportError("infoplane.integrations.lightning needs Lightning: pip install 'infoplane[lightning]'") from error


class RecorderCallback(Recording, pl.Callback):  # type: ignore[misc,unused-ignore]
    """Record activations while a Lightning Trainer fits.

    Step 0 is taken before the first batch (not at the sanity check), the last one at the end of the fit; after
    an exception the run is closed with what it has. Before a checkpoint is written, all snapshots so far
    are made durable, so a checkpoint never knows more than the run. A fit from `ckpt_path` resumes the run.
    In a distributed job it does what `Recorder` does there.

    Parameters
    ----------
    probe, run : as in Recorder
    by : "epoch" or "step"
        Whether the schedule counts completed epochs or optimizer steps (`trainer.global_step`).
    module : str
        Submodule of the LightningModule to record, by name; all of it by default, run by its `forward`.
    figures : mapping from name to function of a results table, optional
        As `{"plane": infoplane.plots.plane}`, with `sinks=[infoplane.live(...)]`: drawn as it trains and shown by the
        loggers, see `infoplane.integrations.figures.FigureLog`.
    loggers : SummaryWriter, wandb run, or several of them, optional
        Where figures go; by default the TensorBoard and Weights & Biases loggers of the Trainer.
    **options
        Further arguments of Recorder. `total`, for the size plan, is the trainer's unless given.
        `autocast` is the trainer's mixed precision unless given.

    Attributes
    ----------
    recorder : Recorder or None
        The recorder of the fit.
    """

    def __init__(
        self, probe: Any, run: str | Path | None = None, *, by: By = "epoch", module: str = "", **options: Any
    ) -> None:
        super().__init__(probe, run, by, **options)
        self._module = module

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start recording, with the length and the precision of the training as the Trainer has them."""
        model = pl_module.get_submodule(self._module)
        self._trainer = trainer
        total = trainer.max_epochs if self._by == "epoch" else trainer.estimated_stepping_batches
        self._start(model, str(trainer.precision), resume=trainer.ckpt_path is not None, total=total)

    def _found(self) -> list[Any]:
        return [logger.experiment for logger in self._trainer.loggers]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._by == "epoch":
            self._snapshot(trainer, trainer.current_epoch + 1, None)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Hand a new optimizer step to the recorder; with gradient accumulation only some batches end in one."""
        if self._by == "step" and trainer.global_step > self._seen:
            batches = trainer.num_training_batches
            # The part of the epoch that is done; 0 where the length of an epoch is unknown.
            share = (batch_idx + 1) / batches if 0 < batches < float("inf") else 0.0
            self._snapshot(trainer, trainer.global_step, trainer.current_epoch + share)

    _seen = 0  # the step handed over last

    def _snapshot(self, trainer: Any, step: int, epoch: float | None) -> None:
        """Hand a step and its metrics to the recorder, which takes it where its schedule says so."""
        self._seen = step
        if self.recorder is not None:
            self.recorder.snapshot(step, epoch=epoch, metrics=only_numbers(trainer.callback_metrics))

    on_save_checkpoint = Recording._flush

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.recorder is not None:
            self.recorder.__exit__(type(exception), exception, exception.__traceback__)
