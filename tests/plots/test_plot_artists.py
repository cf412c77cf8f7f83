from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.colors import to_rgb

from infoplane.core.palette import OKABE_ITO, layer_colors
from infoplane.plots._artists import limits, place_labels, spread
from infoplane.plots.style import step_colormap, step_norm, step_ticks, text_color
from infoplane.results.trajectories import Ceiling


@given(hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(-50, 150)))
@settings(deadline=None)
def test_spread_keeps_gap_order_and_range(wishes):
    placed = spread(wishes, 5.0, 0.0, 100.0)
    order = np.argsort(wishes, kind="stable")
    assert np.all(np.diff(placed[order]) >= 5.0 - 1e-9)
    assert placed.min() >= -1e-9
    assert placed.max() <= 100 + 1e-9


def test_spread_leaves_what_is_apart_and_divides_what_does_not_fit():
    assert spread(np.array([50.0, 10.0]), 5.0, 0.0, 100.0).tolist() == [50.0, 10.0]
    assert spread(np.array([20.0, 20.0]), 6.0, 0.0, 100.0).tolist() == [17.0, 23.0]
    assert spread(np.array([3.0, 2.0, 1.0]), 60.0, 0.0, 100.0).tolist() == [100.0, 50.0, 0.0]


def test_labels_of_one_place_do_not_overlap():
    anchors = np.full((5, 2), 100.0)
    sizes = np.tile([30.0, 9.0], (5, 1))
    centres = anchors + place_labels(anchors, sizes, anchors, (0, 0, 200, 200))
    for i in range(5):
        for j in range(i):
            apart = np.abs(centres[i] - centres[j])
            assert apart[0] >= 30 or apart[1] >= 9


@pytest.mark.parametrize(
    ("values", "ceiling", "inside"),
    [([0.4, 0.9], 1.0, True), ([0.01, 0.1], 12.0, False), ([3.0, 3.0], 3.0, True), ([0.0, 0.0], None, False)],
)
def test_limits_take_the_ceiling_in_unless_it_squeezes_the_data(values, ceiling, inside):
    low, high = limits(np.array(values), None if ceiling is None else Ceiling(ceiling, "H(Y)"))
    assert low < min(values) <= max(values) < high
    if ceiling is not None:
        assert (high >= ceiling) == inside


def test_limits_without_data():
    assert limits(np.array([np.nan]), None)[0] < 0 < limits(np.array([np.nan]), None)[1]


def luminance(color):
    return float(np.dot([0.2126, 0.7152, 0.0722], to_rgb(color)))


def test_steps_keep_their_order_in_grey():
    shades = [luminance(c) for c in step_colormap()(np.linspace(0, 1, 50))]
    assert np.all(np.diff(shades) > 0)


def test_step_zero_has_its_own_place_on_the_logarithmic_scale():
    norm = step_norm([0, 1, 10, 100, 1000])
    places = norm(np.array([0.0, 1.0, 10.0, 100.0, 1000.0]))
    assert places[0] == 0
    assert places[-1] == 1
    assert np.all(np.diff(places) > 0.05)
    assert step_norm([0, 50, 100])(np.array([50.0])).tolist() == [0.5]
    assert step_ticks([0, 1, 8000], True) == [0, 1, 10, 100, 1000]
    assert step_ticks([0, 1, 7], True) == [0, 1, 2, 5]
    assert 0 <= float(step_norm([7])(7.0)) <= 1


def test_layers_have_distinct_colours_and_readable_text():
    assert len(set(layer_colors(8))) == 8
    assert layer_colors(3) == list(OKABE_ITO[:3])
    many = [luminance(c) for c in layer_colors(20)]
    assert np.all(np.diff(many) > 0)
    for color in OKABE_ITO:
        assert luminance(text_color(color)) <= luminance(color) + 1e-12
