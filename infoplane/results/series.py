"""The names of `infoplane.results.views` under the module's earlier name."""

from infoplane.results.views import (
    RECORDED,
    Grid,
    Series,
    ceiling_name,
    choose,
    default_layers,
    grid,
    is_in,
    layer_metrics,
    match_layers,
    metrics,
    options,
    ordered_layers,
    parse_settings,
    settings_words,
)

__all__ = [
    "RECORDED",
    "Grid",
    "Series",
    "ceiling_name",
    "choose",
    "default_layers",
    "grid",
    "is_in",
    "layer_metrics",
    "match_layers",
    "metrics",
    "options",
    "ordered_layers",
    "parse_settings",
    "settings_words",
]
