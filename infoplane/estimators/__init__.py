"""Estimators of what a layer knows: one public module each, found by the registry."""

from infoplane.estimators._checks import VOIDING, above_ceiling, blank_intervals
from infoplane.estimators._extrapolation import extrapolate
from infoplane.estimators._labels import bin_targets
from infoplane.estimators._protocol import (
    ALL_GUARANTEES,
    FLAGS,
    Blocks,
    Estimator,
    Preparing,
    Quantity,
    assume_finite,
    check_inputs,
)
from infoplane.estimators._registry import available, build, describe, get, parse, preset, presets, register
from infoplane.estimators._settings import config_json, prepared
from infoplane.estimators._units import per_unit, unit_synergy
from infoplane.estimators._wrappers import interval_of_parts, permutation_null, subsample_interval, without_null

__all__ = [
    "ALL_GUARANTEES",
    "FLAGS",
    "VOIDING",
    "Blocks",
    "Estimator",
    "Preparing",
    "Quantity",
    "above_ceiling",
    "assume_finite",
    "available",
    "bin_targets",
    "blank_intervals",
    "build",
    "check_inputs",
    "config_json",
    "describe",
    "extrapolate",
    "get",
    "interval_of_parts",
    "parse",
    "per_unit",
    "permutation_null",
    "prepared",
    "preset",
    "presets",
    "register",
    "subsample_interval",
    "unit_synergy",
    "without_null",
]
