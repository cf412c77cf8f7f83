"""Specs: what a user types for an estimator."""

from __future__ import annotations

import pytest

from infoplane.estimators import parse


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


@pytest.mark.parametrize("spec", ["binning:n_bins", "binning:n_bins=(", "binning:range=(1,2"])
def test_a_broken_spec_is_one_line(spec):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse(spec)
