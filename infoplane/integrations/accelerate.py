"""Recording a loop that uses Accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from infoplane.hooks import Recorder
from infoplane.integrations._common import autocast_of

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError("infoplane.integrations.accelerate needs accelerate: pip install 'infoplane[hf]'") from error


def recorder(
    accelerator: Accelerator, model: nn.Module, probe: Any, run: str | Path | None = None, **options: Any
) -> Recorder:
    """A Recorder for a model that `accelerator.prepare` returned.

    The probe runs the unwrapped model in the accelerator's mixed precision: inner activations are then
    bfloat16 or float16, and stored so, although Accelerate hands the model's output out as float32. The
    model stays prepared as it is. Every process makes the same calls; see `shard_probe` of Recorder.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
    model, probe, run, **options
        As in Recorder; `autocast` is the accelerator's unless given.
    """
    options = {"autocast": autocast_of(str(accelerator.mixed_precision)), **options}
    return Recorder(accelerator.unwrap_model(model), probe, run, **options)
