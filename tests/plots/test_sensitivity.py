"""The figure of a quantity over the scale it was estimated at."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from click.testing import CliRunner

from infoplane import cli, plots
from infoplane.results import ResultTable
from infoplane.results.scales import by_scale

BINS, STEPS = (30, 4, 8), (0, 10, 1000)
LAYERS = ("act1", "act2", "out")


def rows_of(bins: int, **how) -> list:
    """At fewer bins every layer tells less apart; the values name the bins, the depth and the step."""
    config = {"n_bins": bins, "null_draws": 20, "range": "layer", "seed": 0} | how.pop("config", {})
    rows = synthetic.layer_rows(layers=LAYERS, steps=how.pop("steps", STEPS), config=config, **how)
    return [
        r._replace(value=bins / 10 + r.depth / 100 + r.step / 1e6, flags="saturated" if bins == 30 else "")
        if r.quantity == "I(X;T)" else r
        for r in rows
    ]  # fmt: skip


def table_of(*parts: list) -> ResultTable:
    return ResultTable.from_rows([row for part in parts for row in part], synthetic.about_runs("a1b2c3", layers=LAYERS))


@pytest.fixture
def table() -> ResultTable:
    return table_of(*map(rows_of, BINS))


def test_values_stand_at_their_scale_layer_and_step(table):
    data = plots.sensitivity_data(table, steps=[0, 1000])
    assert (data.scale, data.scales.tolist(), data.steps.tolist()) == ("n_bins", [4.0, 8.0, 30.0], [0.0, 1000.0])
    assert data.layers == list(LAYERS)
    want = np.array([0.4, 0.8, 3.0])[None, :, None] + np.arange(3) / 100 + np.array([0.0, 1e-3])[:, None, None]
    np.testing.assert_allclose(data.value, want, rtol=1e-12)
    assert data.saturated[:, 2].all()
    assert not data.saturated[:, :2].any()
    assert data.ceiling.value == 12.0
    assert np.isnan(data.null).all()
    shuffled = plots.sensitivity_data(table, "I(T;Y)")
    assert shuffled.steps.tolist() == [1000.0]
    assert np.isfinite(shuffled.null).all()
    assert (shuffled.null_low < shuffled.null_high).all()


def test_the_caption_has_what_all_scales_share(table):
    caption = plots.sensitivity_data(table).caption
    assert caption[0] == "binning, range = layer"
    assert "at step 1000" in caption
    text = " ".join(t.get_text() for t in plots.sensitivity(table).figure.findobj(lambda a: hasattr(a, "get_text")))
    for part in ("bins per unit", "I(X;T) [bits]", "I(T;Y) [bits]", "shuffled labels, mean and 95 %", "saturated"):
        assert part in text


def test_layers_and_steps_are_those_that_every_scale_has():
    short = [r for r in rows_of(4, steps=(0, 10)) if r.layer != "act2"]
    data = plots.sensitivity_data(table_of(rows_of(8), short, rows_of(30)))
    assert data.layers == ["act1", "out"]
    assert data.steps.tolist() == [10.0]
    with pytest.raises(ValueError, match="no step 1000 at every setting; nearest are 0, 10"):
        plots.sensitivity_data(table_of(rows_of(8), short), steps=1000)


def test_the_scale_is_the_number_that_varies(table):
    both = table_of(*map(rows_of, BINS), rows_of(4, config={"gain": 0.5}), rows_of(8, config={"gain": 2.0}))
    with pytest.raises(ValueError, match=r"settings of one n_bins differ in gain as well; choose with settings=\.\.\."):
        plots.sensitivity(both)
    seeds = table_of(*map(rows_of, BINS), rows_of(4, config={"seed": 1}))
    assert list(by_scale(seeds, settings={"seed": 0})[1]) == [4.0, 8.0, 30.0]
    two = table_of(rows_of(4, config={"gain": 0.5}), rows_of(8, config={"gain": 2.0}))
    with pytest.raises(ValueError, match=r"settings of binning differ in gain, n_bins; choose the axis with scale="):
        plots.sensitivity(two)
    assert plots.sensitivity_data(two, scale="gain").scales.tolist() == [0.5, 2.0]
    with pytest.raises(ValueError, match="'range' is no number that varies between settings of binning; such are: n_"):
        plots.sensitivity(table, scale="range")
    with pytest.raises(
        ValueError, match="binning was estimated at one scale; estimate it at others, as binning:n_bins=8"
    ):
        plots.sensitivity(table_of(rows_of(4)))
    with pytest.raises(ValueError, match="estimate it at others, as binning:relative_std=1,"):
        plots.sensitivity(table_of(synthetic.layer_rows(config={"n_draws": 8, "relative_std": 0.5})))
    kde = synthetic.layer_rows(layers=LAYERS, steps=STEPS, estimator="kde", config={"scale": 0.1})
    with pytest.raises(ValueError, match="2 estimators, choose one"):
        plots.sensitivity(table_of(*map(rows_of, BINS), kde))


def test_steps_are_few_and_ax_takes_one_quantity(table):
    with pytest.raises(ValueError, match="steps must name one to 4 steps, got 5"):
        plots.sensitivity(table, steps=range(5))
    ax = plots.sensitivity(table, quantity="I(X;T)", steps=[0, 1000])
    styles = {line.get_linestyle() for line in ax.get_lines() if len(line.get_xdata()) == len(BINS)} - {"None"}
    assert len(styles) == 2
    with pytest.raises(ValueError, match=r"got 1: one for each of I\(X;T\), I\(T;Y\); draw fewer"):
        plots.sensitivity(table, ax=ax)
    with pytest.raises(ValueError, match=r"binning has no quantity 'I\(X:T\)' in this table; available: I\(X;T\)"):
        plots.sensitivity_data(table, "I(X:T)")


def test_from_the_command_line(table, tmp_path):
    table.write(tmp_path / "results.csv")
    words = ["plot", tmp_path, "-k", "sensitivity", "-e", "binning", "-o", tmp_path / "s.svg", "--quantity", "I(X;T)"]
    result = CliRunner().invoke(cli.main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert "bins per unit" in (tmp_path / "s.svg").read_text()
