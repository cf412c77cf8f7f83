"""What a notebook shows of a run, a summary and an estimate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import infoplane
from infoplane.estimators import Quantity, parse


def test_a_run_shows_its_layers_escaped(tmp_path):
    arrays = {0: {"<script>alert(1)</script>": np.zeros((12, 2), np.float32)}}
    store = infoplane.from_arrays(tmp_path / "run", arrays, np.arange(12) % 2)
    assert repr(store).endswith("1 layers, 1 steps)")
    page = store._repr_html_()
    assert "12 rows" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_an_estimate_shows_all_that_belongs_to_the_number():
    y = torch.arange(40) % 2
    found = parse("binning:n_bins=2").estimate(y.double()[None, :, None], y)
    page = found["I(T;Y)"]._repr_html_()
    for word in ("1", "point", "bit", "ceiling"):
        assert word in page
    assert found["I(T;Y) null"].rows()[0][1].startswith("[")
    many = Quantity(value=torch.zeros(25, dtype=torch.float64), unit="<b>")
    assert "5 snapshots" in many._repr_html_()
    assert "<td><b>" not in many._repr_html_()
    assert many.rows()[0][3] == ""
    with pytest.raises(AttributeError):
        many.value = None
