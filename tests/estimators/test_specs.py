"""Specs: what a user types for an estimator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from infoplane.estimators import config_json, parse
from infoplane.estimators._settings import POSITIVE, added, check_settings, one_of, setting


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ("binning:n_bins=60", "n_bins", 60),
        ("binning:range=(-1,1)", "range", (-1.0, 1.0)),
        ("binning:range=unit", "range", "unit"),
        ("binning@saxe-2018", "width", 0.07),
        ("binning@saxe-2018:null_draws=0", "null_draws", 0),
        ("binning:corrections=miller-madow", "corrections", ("miller-madow",)),
        (
            "binning:corrections=(chao-wang-jost, miller-madow),n_bins=4",
            "corrections",
            ("chao-wang-jost", "miller-madow"),
        ),
        ("binning:corrections=()", "corrections", ()),
        ("adaptive:per_unit=true", "per_unit", True),
    ],
)
def test_a_spec_sets_its_field(spec, field, value):
    assert getattr(parse(spec), field) == value


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("binning@saxe", "binning has no preset 'saxe'; closest: saxe-2018; available: .*saxe-2018"),
        ("binning@Shwartz-Ziv", "binning has no preset 'Shwartz-Ziv'; closest: shwartz-ziv-2017; available: "),
        ("binning@xqzk", "binning has no preset 'xqzk'; available: [^;]*$"),
        ("softmax@ye", "softmax has no preset 'ye'; available: none$"),
        ("binning:bins=4", "binning has no field 'bins'; closest: n_bins; available: n_bins, "),
        ("binning:N_BINS=4", "binning has no field 'N_BINS'; closest: n_bins; available: n_bins, "),
        ("knn+nul", r"no wrapper named 'nul'; closest: null; available: extrapolate, interval, null, synergy, units$"),
        ("Binning", "no estimator named 'Binning'; closest: binning, "),
        ("KDE", "no estimator named 'KDE'; closest: kde"),
    ],
)
def test_a_name_that_is_nearly_right_is_shown_the_nearest(spec, line):
    with pytest.raises(ValueError, match=line):
        parse(spec)


@pytest.mark.parametrize("spec", ["binning:n_bins", "binning:n_bins=(", "binning:range=(1,2"])
def test_a_broken_spec_is_one_line(spec):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse(spec)


@dataclass(frozen=True, kw_only=True)
class Grown:
    name: ClassVar[str] = "grown"
    width: float = setting(1.0, POSITIVE)
    kind: str = added("old", one_of("old", "new"))


def test_a_setting_that_came_later_is_recorded_only_where_it_differs_from_its_default():
    """The key of a row is its configuration: rows of before must be found again."""
    assert config_json(Grown()) == config_json(Grown(kind="old")) == '{"width":1.0}'
    assert config_json(Grown(kind="new")) == '{"kind":"new","width":1.0}'
    with pytest.raises(ValueError, match="kind must be 'old' or 'new', got 'other'"):
        check_settings(Grown(kind="other"))
