"""The difference of a quantity between two parts: 0 for one law at unequal N, known where labels are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

import infoplane
from infoplane.analysis import difference
from infoplane.plots import curve_data


def recorded(path, one, two, labels, steps=(0,), **options):
    """A run of layer "fc" with the parts train and test."""
    t = np.concatenate([one, two])
    parts = ["train"] * len(one) + ["test"] * len(two)
    return infoplane.from_arrays(path, {s: {"fc": t * (1 + s)} for s in steps}, labels, parts=parts, **options)


def test_one_law_at_unequal_numbers(tmp_path):
    """64 cells on 600 and on 100 rows of noise: plug-in values differ by over .15 bit of bias, the difference is 0."""
    rng = np.random.default_rng(0)
    t, y = rng.normal(size=(700, 2)), rng.integers(0, 2, 700)
    run = recorded(tmp_path / "run", t[:600], t[600:], y, steps=(0, 1))
    spec = "binning:n_bins=8"
    table = difference(run, spec, draws=10)
    plain = infoplane.analyze(run, spec, subsets=["train", "test"], steps=[0], progress=False)
    apart = [plain.select(subset=part, quantity="I(T;Y)").value[0] for part in ("train", "test")]
    assert apart[1] - apart[0] > 0.15
    (row,) = table.select(quantity="I(T;Y) difference", step=0).df.itertuples()
    assert abs(row.value) < 0.05
    assert row.low < 0 < row.high
    assert (row.subset, row.n_samples, row.bound, row.layer) == ("train-test", 100, "point", "fc")
    # Edges are those of both parts together, and settings say how samples were drawn.
    settings = json.loads(row.config)
    assert (
        settings["prepared"]
        == json.loads(
            infoplane.analyze(run, spec, table=tmp_path / "all.csv", progress=False).select(quantity="I(T;Y)").config[0]
        )["prepared"]
    )
    assert {n: settings[n] for n in settings if "difference" in n} == {
        "difference_draws": 10, "difference_fraction": 0.5, "difference_seed": 0
    }  # fmt: skip
    assert curve_data(table, "I(T;Y) difference").value.shape == (2, 1)
    assert not any("null" in quantity for quantity in table["quantity"])
    assert difference(run, spec, draws=10).df.equals(table.df)


def test_a_known_difference(tmp_path):
    """A label with one in ten flipped is worth .531 bit in train; in test T is independent of it. 3 sd are .1 bit."""
    rng = np.random.default_rng(1)
    y = np.arange(1200) % 2
    t = np.where(np.arange(1200) < 800, y ^ (rng.random(1200) < 0.1), rng.integers(0, 2, 1200))[:, None].astype(float)
    run = recorded(tmp_path / "run", t[:800], t[800:], y)
    (row,) = difference(run, "binning:n_bins=2").select(quantity="I(T;Y) difference").df.itertuples()
    assert row.value == pytest.approx(0.531, abs=0.1)
    assert row.low < 0.531 < row.high
    assert 0.02 < row.high - row.low < 0.3
    several = difference([run, recorded(tmp_path / "again", t[:800], t[800:], y)], "binning:n_bins=2")
    assert several.select(quantity="I(T;Y) difference").value.tolist() == [row.value, row.value]
    (back,) = difference(run, "binning:n_bins=2", between=("test", "train")).select(quantity="I(T;Y) difference").value
    assert back == pytest.approx(-row.value, abs=0.02)  # thinned by other draws


def test_inputs_that_both_share_are_drawn_together(tmp_path):
    """The same inputs twice with the same activations: 0, and no interval; of other inputs there is one."""
    rng = np.random.default_rng(2)
    t, y, x = rng.normal(size=(80, 1)), rng.integers(0, 2, 80), rng.normal(size=(80, 3))
    order = rng.permutation(80)
    same = recorded(tmp_path / "a", t, t[order], np.append(y, y[order]), inputs=np.concatenate([x, x[order]]))
    other = recorded(tmp_path / "b", t, t[order], np.append(y, y[order]))
    for spec in ("binning:n_bins=4", "knn"):
        paired, apart = (
            next(difference(run, spec, draws=5).select(quantity="I(T;Y) difference").df.itertuples())
            for run in (same, other)
        )
        assert paired.value == apart.value == pytest.approx(0, abs=1e-12)
        assert paired.low == pytest.approx(0, abs=1e-12)
        assert apart.low < -0.01


def test_what_an_estimator_refuses_is_said(tmp_path, caplog):
    rng = np.random.default_rng(3)
    run = recorded(tmp_path / "run", rng.normal(size=(20, 2)), rng.normal(size=(10, 2)), rng.normal(size=30))
    with pytest.raises(ValueError, match=r"nothing could be estimated: .*takes integer classes"):
        difference(run, "binning")
    table = difference(run, ["binning", "gaussian"], draws=5)
    assert set(table["estimator"]) == {"gaussian"}
    assert "takes integer classes" in caplog.text


def test_steps_with_bad_values_are_left_out_and_named(tmp_path, caplog):
    t = np.random.default_rng(5).normal(size=(40, 2))
    steps = {0: {"fc": t}, 3: {"fc": np.where(np.arange(40)[:, None] == 7, np.nan, t)}}
    run = infoplane.from_arrays(tmp_path / "run", steps, np.arange(40) % 2, parts=["train"] * 20 + ["test"] * 20)
    assert set(difference(run, "binning:n_bins=3", draws=5)["step"]) == {0}
    assert "fc has NaN or infinite values at step 3" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between": ("train", "all")}, r"share no row of the probe, got \('train', 'all'\)"),
        ({"between": ("train", "train")}, "two subsets"),
        ({"between": ("train", "valid")}, "no subset 'valid'"),
        ({"draws": 2}, r"draws must be at least 5 .* got 2, 0.5"),
        ({}, r"at least 8 inputs on both sides, got \[20, 5\]"),
    ],
)
def test_bad_requests(options, message, tmp_path):
    t = np.random.default_rng(4).normal(size=(25, 2))
    run = recorded(tmp_path / "run", t[:20], t[20:], np.arange(25) % 2)
    with pytest.raises(ValueError, match=message):
        difference(run, **options)
