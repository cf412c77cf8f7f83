"""Capture: watch a model on a probe set while it trains, without leaving anything attached to it."""

from infoplane.hooks._out.destination import close_recorders
from infoplane.hooks.collection import CollectionRecorder
from infoplane.hooks.metrics import GradientMoments
from infoplane.hooks.noise import NoiseInjection
from infoplane.hooks.overview import LayerTable, SizePlan, layers
from infoplane.hooks.probe import next_tokens
from infoplane.hooks.recorder import Recorder
from infoplane.hooks.reduce import Flatten, Last, Mean, Projection, Tokens, Units, projection, tokens, units
from infoplane.hooks.replay import Replay, replay
from infoplane.hooks.schedule import Plan, Schedule, epochs, every, log_spaced

__all__ = [
    "CollectionRecorder",
    "Flatten",
    "GradientMoments",
    "Last",
    "LayerTable",
    "Mean",
    "NoiseInjection",
    "Plan",
    "Projection",
    "Recorder",
    "Replay",
    "Schedule",
    "SizePlan",
    "Tokens",
    "Units",
    "close_recorders",
    "epochs",
    "every",
    "layers",
    "log_spaced",
    "next_tokens",
    "projection",
    "replay",
    "tokens",
    "units",
]
