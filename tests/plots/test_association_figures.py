"""The map and the points of an association: what they show, and that nothing is cut in any style."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from extents import STYLES, check, texts_drawn
from many_runs import of
from matplotlib.text import Text

from infoplane import plots
from infoplane.studies import Association


@functools.cache
def found(columns: int = 8, control: bool = False, **how) -> Association:
    random = np.random.default_rng(0)
    y = random.normal(size=20)
    x = random.normal(size=(20, columns)) - np.outer(y, [9.0, *[0.0] * (columns - 1)])
    study = of(x, y, n_weights=np.arange(20).tolist())
    return study.association(control="n_weights" if control else None, permutations=99, draws=50, **how)


@pytest.fixture(autouse=True)
def written() -> Iterator[list[Text]]:
    with texts_drawn() as seen:
        yield seen


def test_the_map_has_a_row_a_layer_and_a_column_for_what_differs():
    data = plots.association_data(found())
    assert data.layers == ["fc0", "fc1", "fc2", "fc3"]
    assert data.across == ["binning, n_bins = 30", "binning, n_bins = 60"]
    np.testing.assert_array_equal(data.value.ravel(), found().value)
    assert data.value[0, 0] < -0.9
    assert data.p_adjusted[0, 0] == 0.01
    ax = plots.association(found())
    hatched = "7 of 8 with an adjusted p of 0.05 or more (hatched)"
    assert " ".join(plots.caption(ax).split()).startswith(f"I(X;T), fall · {hatched} · with gap")
    numbers = [text.get_text() for text in ax.texts]
    assert numbers[0] == f"\u2212{-found().value[0]:.2f}"
    assert len(numbers) == 8


def test_cells_without_room_have_signs_and_none_are_written_where_rows_are_thin():
    one = found(16)
    many = {f"c{i}": replace(one.measures["c0"], settings=f'{{"n_bins":{i}}}') for i in range(16)}
    ax = plots.association(replace(one, measures=many), style="column")
    assert {text.get_text() for text in ax.texts} == {"+", "\u2212"}
    assert not plots.association(found(120)).texts


def test_more_than_a_map_has_room_for_is_refused():
    one = found(41)
    many = {f"c{i}": replace(one.measures["c0"], settings=f'{{"n_bins":{i}}}') for i in range(41)}
    with pytest.raises(ValueError, match="41 things were tried of each layer, a map has room for 40; choose"):
        plots.association(replace(one, measures=many))


def test_the_points_are_those_of_the_strongest_column_or_of_the_one_that_is_asked_for():
    data = plots.association_scatter_data(found(control=True))
    np.testing.assert_array_equal(data.x, found(control=True).x[:, 0])
    assert data.x_label == "fall of I(X;T), fc0 [bits]"
    assert (data.y_label, data.z_label) == ("gap", "n_weights")
    assert data.caption[0].startswith("Spearman with gap, given n_weights: -0.9")
    other = plots.association_scatter_data(found(), "c3")
    np.testing.assert_array_equal(other.x, found().x[:, 3])
    with pytest.raises(ValueError, match="'c9' was not tried; closest: c"):
        plots.association_scatter_data(found(), "c9")
    ax = plots.association_scatter(found(), names=True)
    assert {text.get_text() for text in ax.texts} <= {f"run {i}" for i in range(20)}
    assert len(ax.texts) > 10
    assert not plots.association_scatter(found(), names=False).texts


@pytest.mark.parametrize("style", [pytest.param(s, marks=[pytest.mark.slow] * (s != "column")) for s in STYLES])
def test_nothing_is_cut(style, written):
    check(plots.association(found(control=True), style=style), written, style)
    check(plots.association_scatter(found(control=True), style=style), written, style)
