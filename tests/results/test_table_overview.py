"""The table in under twenty lines: what it says of values, ceilings, flags, refusals, runs."""

import json

import numpy as np
import pytest

from infoplane.cli import main as cli
from infoplane.results import ResultTable, Row
from infoplane.results.overview import FLAG_WORDS, overview


def row(layer="fc", step=0, quantity="I(X;T)", value=1.0, flags="", **other):
    fields = dict(
        run="r1", step=step, epoch=float(step), layer=layer, depth=0, subset="all", estimator="binning",
        config='{"n_bins":30,"seed":0}', n_samples=300, n_units=4, quantity=quantity, value=value, unit="bit",
        ceiling=8.0, flags=flags, source="s",
    )  # fmt: skip
    return Row(**{**fields, **other})


def table(*rows, **meta):
    return ResultTable.from_rows(rows, meta)


def test_first_and_last_step_ceiling_null_and_flags():
    text = overview(
        table(
            row(step=0, value=2.0),
            row(step=5, value=7.25, flags="saturated"),
            row(step=0, quantity="I(T;Y)", value=0.5, ceiling=1.0, flags="below_null"),
            row(step=5, quantity="I(T;Y)", value=0.75, ceiling=1.0),
            row(step=0, quantity="I(T;Y) null", value=0.5, ceiling=1.0),
            row(step=5, quantity="I(T;Y) null", value=0.125, ceiling=1.0),
        )
    )
    head, heads, line, to_do = text.splitlines()
    assert head == "binning, n_bins = 30, N = 300, steps 0 to 5; at most I(X;T) 8, I(T;Y) 1 bits"
    assert heads.split("  ")[0] == "layer"
    assert "2.00 -> 7.25" in line
    assert "0.50 -> 0.75" in line
    assert "0.12" in line
    assert "I(X;T) saturated (1 of 2); I(T;Y) no better than shuffled labels (1 of 2)" in line
    assert to_do.startswith("1 of 4 values are saturated: `infoplane advise RUN`")


def test_quantities_that_are_flagged_alike_are_named_together():
    rows = [row(quantity=q, step=s, flags=f) for q in ("I(X;T)", "I(T;Y)") for s, f in enumerate(("saturated", "ties"))]
    assert "I(X;T), I(T;Y) saturated (1 of 2); I(X;T), I(T;Y) equal values (1 of 2)" in overview(table(*rows))


def test_of_many_layers_the_first_and_the_last_stand():
    lines = overview(table(*[row(layer=f"layer{i}", depth=i) for i in range(15)])).splitlines()
    assert [line.split()[0] for line in lines[7:10]] == ["layer5", "...", "layer9"]
    assert lines[8] == "... 3 more layers"
    assert lines[-1].startswith("layer14")


def test_what_to_do_is_a_sentence():
    assert "1 of 1 values have too few samples: record" in overview(table(row(flags="few_samples")))


def test_settings_of_a_wrapped_estimator_are_words():
    config = '{"draws":1,"estimator":{"jitter":0.0001,"n_neighbors":3,"name":"knn","seed":0},"min_inputs":200,"seed":0}'
    head = overview(table(row(estimator="knn+extrapolate", config=config))).splitlines()[0]
    assert head.startswith("knn+extrapolate, n_neighbors = 3, draws = 1, min_inputs = 200, N = 300")


@pytest.mark.parametrize("flag", FLAG_WORDS)
def test_every_flag_is_said_in_words(flag):
    text = overview(table(row(flags=flag, value=np.nan if flag == "nonfinite" else 1.0)))
    assert FLAG_WORDS[flag] in text


def test_every_flag_of_the_estimators_has_words():
    from infoplane.estimators import FLAGS

    assert set(FLAGS) <= set(FLAG_WORDS)


def test_technical_settings_are_the_defaults_of_the_estimators():
    from dataclasses import fields

    from infoplane import estimators
    from infoplane.results.overview import TECHNICAL

    found = {}
    for name in estimators.available():
        for field in fields(estimators.get(name)):
            found.setdefault(field.name, set()).add(field.default)
    assert [name for name, value in TECHNICAL.items() if value not in found.get(name, ())] == []


def test_a_scale_that_advice_has_picked_is_said_to_be_chosen_by_looking():
    def advised(config):
        return {"runs": {"r1": {"advice": [{"settings": [{"estimator": "binning", "config": config}]}]}}}

    said = overview(table(row(), **advised('{"seed":0,"n_bins":30}'))).splitlines()[0]
    assert said.startswith("binning, n_bins = 30, scale chosen by looking, N = 300")
    assert "looking" not in overview(table(row(), **advised('{"seed":0,"n_bins":5}')))
    assert "looking" not in overview(table(row()))


def test_twelve_layers_take_less_than_twenty_lines():
    rows = [
        row(layer=f"layer{i}", depth=i, step=s, quantity=q, flags="saturated;ties", estimator=e)
        for i in range(12) for s in (0, 1) for q in ("I(X;T)", "I(T;Y)", "I(T;Y) null") for e in ("binning", "kde")
    ]  # fmt: skip
    skipped = [
        dict(
            layer=f"layer{i}",
            subset="all",
            estimator="binning",
            settings='{"n_bins":30,"seed":0}',
            reason=f"why {i}",
            steps=[0],
        )
        for i in range(5)
    ]
    text = repr(table(*rows, runs={"r1": {"skipped": skipped}}))
    assert len(text.splitlines()) < 20
    assert text.splitlines()[-1] == "and 1 more estimate"
    assert "skipped: layer0: why 0" in text


def test_layers_stand_in_forward_order_and_runs_are_averaged():
    rows = [row(layer=n, depth=d, run=r, value=v) for n, d in (("b", 0), ("a", 1)) for r, v in (("x", 1.0), ("y", 3.0))]
    lines = overview(table(*rows)).splitlines()
    assert "mean of 2 runs" in lines[0]
    assert [line.split()[:2] for line in lines[2:4]] == [["b", "2.00"], ["a", "2.00"]]


def test_measures_that_are_no_information_keep_their_unit():
    text = overview(table(row(quantity="HSIC(T;Y)", unit="HSIC", estimator="hsic", ceiling=2.0)))
    assert "HSIC(T;Y) 2 HSIC" in text
    assert "bits" not in text


def test_empty_table_and_names_of_strangers():
    assert overview(table()) == "no estimates"
    assert "\x1b" not in overview(table(row(layer="\x1b[31mred")))


def test_notebook_shows_it_escaped():
    shown = table(row(layer="<b>bold</b>"))._repr_html_()
    assert "<b>" not in shown
    assert "at most I(X;T) 8 bits" in shown


def test_estimate_prints_it(tmp_path, capsys):
    import infoplane

    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    infoplane.from_arrays(tmp_path / "run", {0: {"fc": x}, 3: {"fc": x}}, labels=(x[:, 0] > 0).astype(int))
    cli(["-q", "estimate", str(tmp_path / "run")], standalone_mode=False)
    out = capsys.readouterr().out
    assert "N = 50, steps 0 to 3; at most I(X;T) 5.644" in out
    assert json.loads((tmp_path / "run" / "results.json").read_text())


@pytest.mark.parametrize("wrapped", [False, True])
def test_noise_of_the_network_stands_in_the_place_of_the_setting_that_it_replaces(wrapped):
    def config(std):
        own = '{"network_std":' + std + "}"
        found = '{"estimator":' + own + "}" if wrapped else own
        return '{"n_draws":2,"prepared":' + found + ',"relative_std":0.1}'

    def head(*stds):
        rows = [row(estimator="noise", config=config(std), layer=f"layer{i}") for i, std in enumerate(stds)]
        return overview(table(*rows)).splitlines()[0]

    assert head("0.05", "0.05").startswith("noise, noise of the network, std = 0.05, n_draws = 2, N")
    assert head("0.05", "0.2").startswith("noise, noise of the network, n_draws = 2, N")
    assert head("null").startswith("noise, n_draws = 2, relative_std = 0.1, N")
