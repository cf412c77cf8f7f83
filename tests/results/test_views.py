from __future__ import annotations

import math

import numpy as np
import pytest

from infoplane.plots.plane import PlaneData, plane_data
from infoplane.results import Plane, ResultTable, Row
from infoplane.results.trajectories import POINT

CONFIG = '{"n_bins":30}'


def row(quantity, value, *, step=0, layer="fc1", depth=0, **changes):
    fields = {"run": "r", "epoch": step / 2, "subset": "all", "estimator": "binning", "config": CONFIG}
    fields |= {"n_samples": 64, "n_units": 2, "source": "s"}
    return Row(step=step, layer=layer, depth=depth, quantity=quantity, value=value, **{**fields, **changes})


def test_plane_pairs_unsuffixed_names_only():
    rows = [
        row("I(X;T)", 3.0, bound="upper", ceiling=6.0, estimand="noisy-finite"),
        row("I(X;T) lower", 2.0, bound="lower"),
        row("I(T;Y)", 0.7, low=0.6, high=0.8, ceiling=1.0, flags="below_null"),
        row("I(T;Y) null", 0.75, high=0.9),
        row("I(X;T)", 2.0, step=1),
    ]
    plane = ResultTable.from_rows(rows).plane()
    assert len(plane) == 1
    assert (plane.i_xt[0], plane.i_ty[0]) == (3.0, 0.7)
    assert (plane.i_xt_bound[0], plane.i_ty_bound[0]) == ("upper", "point")
    assert (plane.i_xt_ceiling[0], plane.i_ty_ceiling[0]) == (6.0, 1.0)
    assert (plane.i_ty_low[0], plane.i_ty_high[0]) == (0.6, 0.8)
    assert math.isnan(plane.i_xt_low[0])
    assert (plane.i_ty_null[0], plane.i_ty_null_high[0]) == (0.75, 0.9)
    assert plane.i_ty_flags[0] == "below_null"
    assert plane.estimand[0] == "noisy-finite"


def test_plane_never_joins_different_settings_or_data():
    rows = [
        row("I(X;T)", 3.0),
        row("I(T;Y)", 0.7, config='{"n_bins":60}'),
        row("I(X;T)", 3.0, step=1),
        row("I(T;Y)", 0.7, step=1, source="other"),
    ]
    with pytest.raises(ValueError, match="no pair of"):
        ResultTable.from_rows(rows).plane()


def test_plane_of_nothing_says_what_there_is():
    table = ResultTable.from_rows([row("I(X;T)", 3.0), row("I(T;Y)", 0.7)])
    with pytest.raises(ValueError, match=r"^the table has no estimator 'kde'; closest: binning$"):
        table.plane("kde")
    with pytest.raises(ValueError, match="in an empty table"):
        table.take([]).plane()


def test_trajectories_are_in_step_order_and_networks_in_depth_order():
    rows = []
    for step in (4, 0, 2):
        for depth, layer in ((1, "b"), (0, "a")):
            rows += [row("I(X;T)", step + depth, step=step, layer=layer, depth=depth)]
            rows += [row("I(T;Y)", 0.5, step=step, layer=layer, depth=depth)]
    plane = ResultTable.from_rows(rows).plane()
    trajectories = {key[-1]: plane.step[index].tolist() for key, index in plane.trajectories()}
    assert trajectories == {"a": [0, 2, 4], "b": [0, 2, 4]}
    networks = {key[-1]: plane.layer[index].tolist() for key, index in plane.networks()}
    assert networks == {4: ["a", "b"], 0: ["a", "b"], 2: ["a", "b"]}


def test_curves_keep_refused_snapshots_as_gaps():
    rows = [row("I(X;T)", 2.0, step=2), row("I(X;T)", float("nan"), step=1, flags="nonfinite"), row("I(X;T)", 1.0)]
    (curve,) = ResultTable.from_rows(rows).curves("I(X;T)")
    assert curve.step.tolist() == [0, 1, 2]
    assert curve.epoch.tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_array_equal(curve.value, [1.0, np.nan, 2.0])
    assert curve.flags.tolist() == ["", "nonfinite", ""]


def chain_table(values, meta):
    rows = [
        row("I(X;T)", v, step=s, layer=f"fc{d}", depth=d) for s, line in enumerate(values) for d, v in enumerate(line)
    ]
    return ResultTable.from_rows(rows, meta)


VALUES = [(6.0, 5.0, 5.01), (6.0, 6.5, 4.0), (6.0, float("nan"), 6.03)]


def test_dpi_counts_rises_over_the_slack():
    (found,) = chain_table(VALUES, {"runs": {"r": {"chain": True}}}).dpi()
    # Step 0: -1, +0.01 within the slack; step 1: +0.5, -2.5; step 2: the refused layer is passed over, +0.03.
    assert (found.pairs, found.violations) == (5, 2)
    assert found.share == pytest.approx(0.4)
    assert found.worst == pytest.approx(0.5)
    assert found.chain == ("fc0", "fc1", "fc2")
    (strict,) = chain_table(VALUES, {"runs": {"r": {"chain": True}}}).dpi(slack=0.0)
    assert strict.violations == 3


def test_dpi_needs_a_chain():
    for meta in ({}, {"runs": {"r": {"chain": False}}}, {"runs": {"r": {"chain": None}}}):
        assert chain_table(VALUES, meta).dpi() == []
    (found,) = chain_table(VALUES, {}).dpi(chain=["fc0", "fc2"])
    assert (found.pairs, found.violations) == (3, 1)
    (found,) = chain_table(VALUES, {"runs": {"r": {"chain": ["fc1", "fc2"]}}}).dpi()
    assert (found.pairs, found.violations) == (2, 0)
    assert chain_table(VALUES, {}).dpi(chain={"other": ["fc0", "fc1"]}) == []


def test_dpi_names_unknown_layers():
    with pytest.raises(ValueError, match="no I\\(X;T\\) of a layer 'fc9'; closest: fc"):
        chain_table(VALUES, {}).dpi(chain=["fc0", "fc9"])
    with pytest.raises(TypeError, match="sequence of layer keys"):
        chain_table(VALUES, {}).dpi(chain="fc0")


def test_the_plane_of_a_figure_has_the_points_of_the_table_by_step_and_layer():
    """One class: the same columns, as points or as (steps, layers), where what is missing is NaN, 0 or ""."""
    rows = [
        row(quantity, value + step + 10 * depth, step=step, layer=layer, depth=depth)
        for depth, layer in ((1, "b"), (0, "a")) for step in (4, 0, 2) if (layer, step) != ("b", 2)
        for quantity, value in (("I(X;T)", 3.0), ("I(T;Y)", 0.5))
    ]  # fmt: skip
    points, grid = ResultTable.from_rows(rows).plane(), plane_data(ResultTable.from_rows(rows))
    assert type(points) is type(grid) is PlaneData is Plane
    assert (grid.layers, grid.steps.tolist(), len(grid)) == (["a", "b"], [0.0, 2.0, 4.0], len(points))
    at = np.searchsorted(grid.steps, points.step), [grid.layers.index(layer) for layer in points.layer]
    for name in POINT:
        np.testing.assert_array_equal(getattr(grid, name)[at], getattr(points, name))
    assert (grid.layer[1, 1], grid.n_units[1, 1], np.isnan(grid.i_xt[1, 1])) == ("", 0, True)
    steps = {key[-1]: grid.step.flat[index].tolist() for key, index in grid.trajectories()}
    assert steps == {"a": [0, 2, 4], "b": [0, 4]}
