"""Scale advice: ranges against known information, one setting for a plane, what is kept and said."""

import json
import math

import numpy as np
import pytest
import torch

import infoplane
from infoplane.analysis import advice
from infoplane.cli import main as cli
from infoplane.estimators import config_json, parse

SAMPLES = 256


def run_of(tmp_path, layers, labels=None, steps=(0, 5, 10)):
    """A run whose layers are the same at every step."""
    n = len(next(iter(layers.values())))
    y = np.arange(n) % 2 if labels is None else labels
    path = tmp_path / "run"
    infoplane.from_arrays(path, {step: layers for step in steps}, labels=y)
    return path


def spaced(units=1):
    """Distinct equal spacing: with b bins I(X;T) is log2 b bits for b that divides the number of samples."""
    return np.repeat((np.arange(SAMPLES) / (SAMPLES - 1))[:, None], units, 1).astype(np.float32)


def halves():
    """The label is the half, so that every scale sees it."""
    return (np.arange(SAMPLES) >= SAMPLES // 2).astype(np.int64)


def test_bins_between_a_tenth_and_nine_tenths_of_the_ceiling(tmp_path):
    """log2(b) / 8 for 256 equally spaced values: 1/8 at 2 bins, 0.83 at 100."""
    path = run_of(tmp_path, {"line": spaced()}, halves())
    found = infoplane.advise(path, "binning", progress=False).layers[0]
    for bins, share in zip(found.tried, found.share, strict=True):
        assert share == pytest.approx(math.log2(bins) / 8, abs=0.01)
    assert found.shown == found.tried
    assert all(found.above_null)


def test_noise_range_holds_when_estimated_again(tmp_path):
    """What is called shown is so, and the neighbours outside are not."""
    torch.manual_seed(1)
    t = torch.randn(SAMPLES, 3).numpy()
    path = run_of(tmp_path, {"t": t}, (t[:, 0] > 0).astype(np.int64))
    found = infoplane.advise(path, "noise", progress=False).layers[0]
    assert 0 < len(found.shown) < len(found.tried)
    for value in found.tried:
        spec = f"noise:relative_std={value:g}"
        table = infoplane.analyze(path, spec, progress=False)
        rows = table.select(quantity="I(X;T)", settings=config_json(parse(spec)))
        shares = rows.value / rows.ceiling
        assert (0.1 <= shares.max() <= 0.9) == (value in found.shown)


def test_one_setting_for_all_layers_is_the_one_in_the_middle(tmp_path):
    path = run_of(tmp_path, {"narrow": spaced(), "wide": np.random.default_rng(0).normal(size=(SAMPLES, 4))}, halves())
    found = infoplane.advise(path, "binning", progress=False)
    [setting] = found.settings
    both = set(found.layers[0].shown).intersection(found.layers[1].shown)
    # The second layer knows nothing of the half, so its I(T;Y) is below its null: it is left out, by name.
    assert setting.without == (("wide",) if not both else ())
    assert found.specs == [setting.spec] == [f"binning:n_bins={setting.value:g}"]
    assert setting.value in found.layers[0].shown


@pytest.mark.parametrize(
    ("t", "words"),
    [
        (np.random.default_rng(0).normal(size=(64, 50)).astype(np.float32), "more samples"),
        (np.zeros((64, 3), np.float32), "constant, or dead"),
    ],
)
def test_remedy_where_no_scale_shows_a_layer(tmp_path, t, words):
    path = run_of(tmp_path, {"layer": t})
    found = infoplane.advise(path, "binning", progress=False)
    assert found.settings == ()
    assert words in found.layers[0].remedy
    assert words in str(found)
    assert "none" in str(found)


def test_what_several_estimators_say_of_a_layer_is_said_once(tmp_path):
    found = infoplane.advise(run_of(tmp_path, {"dead": np.zeros((64, 3), np.float32)}), progress=False)
    [line] = [line for line in repr(found).splitlines() if "constant, or dead" in line]
    assert line.startswith("dead, binning, kde, noise: ")


def test_advice_is_kept_and_survives_the_next_analysis(tmp_path):
    path = run_of(tmp_path, {"line": spaced()}, halves())
    found = infoplane.advise(path, ["binning"], progress=False)
    [about] = json.loads((path / "results.json").read_text())["runs"].values()
    assert about["advice"][0]["settings"][0]["spec"] == found.specs[0]
    table = infoplane.analyze(path, found.specs, progress=False)
    [about] = table.meta["runs"].values()
    assert about["advice"][0]["settings"][0]["config"] in set(table.settings)
    again = infoplane.advise(path, ["binning"], progress=False)
    assert again == found
    assert len(json.loads((path / "results.json").read_text())["runs"][table["run"][0]]["advice"]) == 1


def test_nothing_is_written_unless_kept(tmp_path):
    path = run_of(tmp_path, {"line": spaced()}, halves())
    infoplane.advise(path, "binning", progress=False, keep=False)
    assert not (path / "results.json").exists()


def test_float_labels_and_names_of_strangers(tmp_path):
    """A layer called NaN, and a nonfinite step: neither stops the advice nor the JSON."""
    t = spaced()
    bad = t.copy()
    bad[3] = np.nan
    infoplane.from_arrays(tmp_path / "run", {0: {"NaN": t}, 5: {"NaN": bad}, 9: {"NaN": t}}, labels=halves())
    found = infoplane.advise(tmp_path / "run", "binning", progress=False)
    assert found.layers[0].layer == "NaN"
    assert found.layers[0].shown
    json.loads((tmp_path / "run" / "results.json").read_text())


@pytest.mark.parametrize("spec", ["knn", "binning:n_bins=30", "kde+null"])
def test_estimators_without_a_scale_to_choose(tmp_path, spec):
    path = run_of(tmp_path, {"line": spaced()}, halves())
    with pytest.raises(ValueError, match=r"scale|leave it out"):
        infoplane.advise(path, spec, progress=False)


def test_first_middle_and_last_are_looked_at():
    assert advice._looked_at([0, 1, 4, 9, 30]) == [0, 4, 30]
    assert advice._looked_at([7]) == [7]
    assert advice._looked_at([2, 3]) == [2, 3]


def test_command_line(tmp_path, capsys):
    path = run_of(tmp_path, {"line": spaced()}, halves())
    assert cli(["-q", "advise", str(path), "-e", "binning", "--json"], standalone_mode=False) is None
    found = json.loads(capsys.readouterr().out)
    assert found["settings"][0]["spec"].startswith("binning:n_bins=")


def test_only_some_steps_with_what_was_found_on_all(tmp_path):
    """`steps=` gives the rows that the whole analysis gives at these steps, and a step that is not there is named."""
    rng = np.random.default_rng(0)
    layers = {step: {"t": (step + 1) * rng.normal(size=(SAMPLES, 2)).astype(np.float32)} for step in range(5)}
    infoplane.from_arrays(tmp_path / "run", layers, labels=halves())
    some = infoplane.analyze(
        tmp_path / "run", ["binning", "noise"], steps=[1, 3], table=tmp_path / "a.csv", progress=False
    )
    every = infoplane.analyze(tmp_path / "run", ["binning", "noise"], table=tmp_path / "b.csv", progress=False)
    assert set(some.step) == {1, 3}
    assert [tuple(map(str, row)) for row in some] == [tuple(map(str, row)) for row in every.select(step=[1, 3])]
    with pytest.raises(ValueError, match="no snapshot of step 7; it has steps 0-4"):
        infoplane.analyze(tmp_path / "run", steps=[1, 7], progress=False)
