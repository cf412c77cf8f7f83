"""Recording a loop that uses Accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from infoplane.hooks import Recorder
from infoplane.integrations._common import autocast_of
from infoplane.integrations.figures import Figures, with_figures

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError("infoplane.integrations.accelerate needs accelerate: pip install 'infoplane[hf]'") from error


def recorder(
    accelerator: Accelerator,
    model: nn.Module,
    probe: Any,
    run: str | Path | None = None,
    *,
    figures: Figures | None = None,
    **options: Any,
) -> Recorder:
    """A Recorder for a model that `accelerator.prepare` returned.

    The probe runs the unwrapped model in the accelerator's mixed precision: inner activations are then
    bfloat16 or float16, and stored so, although Accelerate hands the model's output out as float32. The
    model stays prepared as it is. Every process makes the same calls; see `shard_probe` of Recorder.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
    model, probe, run, **options
        As in Recorder; `autocast` is the accelerator's unless given. The loop is yours, so `total` is, too.
    figures : mapping from name to function of a results table, optional
        As `{"plane": infoplane.plots.plane}`, with `sinks=[infoplane.live(...)]`: drawn as it trains and shown by the
        TensorBoard and Weights & Biases trackers of the accelerator (`log_with=`, after `init_trackers`).
    """
    options = {"autocast": autocast_of(str(accelerator.mixed_precision)), **options}
    if figures is not None:
        trackers = [tracker.tracker for tracker in accelerator.trackers]
        options["sinks"] = with_figures(options.get("sinks", ()), figures, trackers)
    return Recorder(accelerator.unwrap_model(model), probe, run, **options)
