"""Parts that the callbacks share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from infoplane.hooks import Recorder
from infoplane.integrations.figures import with_figures

By = Literal["epoch", "step"]


class Recording:
    """The settings of a callback, and the recorder that lives as long as its training."""

    recorder: Recorder | None = None

    def __init__(
        self, probe: Any, run: str | Path | None, by: str, figures: Any = None, loggers: Any = None, **options: Any
    ) -> None:
        """Keep the settings until training starts; ValueError for an unknown `by`."""
        super().__init__()
        if by not in ("epoch", "step"):
            raise ValueError(f"by must be 'epoch' or 'step', got {by!r}")
        self._probe, self._run, self._by, self._options = probe, run, by, options
        self._figures, self._given = figures, loggers

    def _start(self, model: nn.Module, precision: str, *, resume: bool, total: float | None) -> None:
        """Start recording `model`; with `resume`, as for training from a checkpoint, go on with the run so far."""
        known = {"autocast": autocast_of(precision), "total": whole(total)} | ({"resume": True} if resume else {})
        options = known | self._options
        if options.get("resume"):
            options["overwrite"] = False  # training goes on from a checkpoint, so its run must not be replaced
        if self._figures is not None:
            options["sinks"] = with_figures(options.get("sinks", ()), self._figures, self._loggers())
        self.recorder = Recorder(model, self._probe, self._run, **options).start()

    def _loggers(self) -> Iterable[Any]:
        """The loggers that get figures: those that the user gave, else those of the training."""
        given = self._given
        return self._found() if given is None else given if isinstance(given, list | tuple) else [given]

    def _found(self) -> Iterable[Any]:
        """The loggers of the training that its framework knows; each callback has its own way to find them."""
        raise NotImplementedError

    def _flush(self, *event: Any, **details: Any) -> None:
        """Make durable what was recorded, before a checkpoint is written."""
        if self.recorder is not None and self.recorder.is_open:
            self.recorder.flush()

    def on_train_end(self, *event: Any, **details: Any) -> None:
        """Take the last snapshot and close the run."""
        if self.recorder is not None:
            self.recorder.close()


def whole(total: float | None) -> int | None:
    """Return a trainer's number of steps as int; None where it has none, which trainers write as None, -1 or inf."""
    return int(total) if total is not None and 0 < total < float("inf") else None


def only_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return, as floats, those of a framework's metrics that are single numbers or tensors of one number."""
    read = {name: float(v.detach()) if isinstance(v, Tensor) and v.numel() == 1 else v for name, v in values.items()}
    return {name: float(v) for name, v in read.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def autocast_of(precision: str) -> torch.dtype | None:
    """The autocast dtype of names like "bf16-mixed", "16-mixed", "bf16", "fp16"; None for full precision."""
    mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16": torch.bfloat16, "fp16": torch.float16}
    return mixed.get(precision)
