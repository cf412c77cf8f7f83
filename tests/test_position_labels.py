"""Labels for each position of a sequence: whose they are, which samples count, and where they say nothing."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import infoplane
from infoplane import plots
from infoplane.cli import main, subsets_of
from infoplane.core import Layer, Probe
from infoplane.core.labels import as_labels, doubts
from infoplane.core.tokens import doubt_positions, token_count
from infoplane.estimators import parse
from infoplane.hooks import CollectionRecorder, NoiseInjection, Recorder, next_tokens, tokens
from infoplane.report.data import page_data
from infoplane.store import open_run, summarize
from infoplane.testing import InMemory

N, CLASSES, MISSING = 400, 4, (0, 40, 200, 400)
POSITIONS = len(MISSING)
EXACT = "binning:range=(-0.5,3.5),n_bins=4"


def sequences(seed=0):
    """Labels, every class equally often among the labelled samples of each position, and layers that hold them.

    `own` has at each token the label of that token, `before` that of the token before; where there is no label, a
    value that would spoil the estimate.
    """
    rng = np.random.default_rng(seed)
    labels = np.full((N, POSITIONS), -100)
    for p, missing in enumerate(MISSING):
        rows = rng.permutation(N)[missing:]
        labels[rows, p] = np.arange(len(rows)) % CLASSES
    own = np.where(labels < 0, rng.integers(0, CLASSES, labels.shape), labels).astype(np.float32)[..., None]
    return labels, {"own": own, "before": np.roll(own, 1, 1), "pooled": own.mean(1)}


def written(path, labels=None, **how):
    y, layers = sequences()
    return infoplane.from_arrays(path, {0: layers, 1: layers}, y if labels is None else labels, **how)


def analyze(run, layers=None, estimators=EXACT, **how):
    return infoplane.analyze(run, estimators, layers=layers, progress=False, device="cpu", **how)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return written(tmp_path_factory.mktemp("positions") / "run", inputs=np.arange(N)[:, None] / N).path


@pytest.fixture(scope="module")
def table(run, tmp_path_factory):
    return analyze(run, ["own[token=*]", "before[token=*]"], table=tmp_path_factory.mktemp("table") / "t.csv")


def skipped(found, layer):
    (about,) = found.meta["runs"].values()
    return {entry["reason"]: entry["steps"] for entry in about["skipped"] if entry["layer"] == layer}


def test_a_token_tells_its_own_label_and_not_the_next(table):
    """log2 of four equal classes at a token's own label; at the next one the bias of 3 * 3 cells and no more."""
    for p, missing in list(enumerate(MISSING))[:3]:
        rows = {layer: table.select(layer=f"{layer}[token={p}]", quantity="I(T;Y)") for layer in ("own", "before")}
        assert {*rows["own"].n_samples, *rows["before"].n_samples} == {N - missing}
        np.testing.assert_allclose(rows["own"].value, 2.0, atol=1e-12)
        bias = (CLASSES - 1) ** 2 / (2 * (N - missing) * np.log(2))
        assert (rows["before"].value < 4 * bias).all()
        np.testing.assert_allclose(rows["own"].ceiling, 2.0, atol=1e-12)


def test_a_position_without_a_label_is_named(table):
    assert "own[token=3]" not in table.layer.tolist()
    assert skipped(table, "own[token=3]") == {"no sample has a label at position 3": [0, 1]}


@pytest.mark.parametrize(
    "spec", ["binning", "adaptive", "kde", "noise:n_draws=2", "knn", "gaussian", "probe", "hsic", "dse", "renyi",
             "cs-qmi", "geometry", "knn+null", "binning+interval"]
)  # fmt: skip
def test_a_position_is_estimated_on_its_labelled_samples_alone(run, tmp_path, spec):
    """Values, intervals and nulls are those of the samples with a label, as if there were no others."""
    found = analyze(run, "own[token=2]", spec, table=tmp_path / "t.csv", steps=[0])
    labels, layers = sequences()
    rows = labels[:, 2] >= 0
    t, y = torch.from_numpy(layers["own"][None, rows, 2]), torch.from_numpy(labels[rows, 2])
    x, ids = torch.from_numpy(open_run(run).probe.inputs[rows]), torch.arange(N)[torch.from_numpy(rows)]
    estimator = parse(spec)
    if hasattr(estimator, "prepare"):
        estimator = estimator.prepare(InMemory(t.repeat(2, 1, 1)), y, x)
    direct = estimator.estimate(t, y, x=x, x_ids=ids)
    assert list(found.quantity) == list(direct)
    assert set(found.n_samples) == {rows.sum()}
    np.testing.assert_allclose(found.value, [float(q.value[0]) for q in direct.values()], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("spec", "left"),
    [("binning", {"I(X;T)", "H(T)"}), ("kde", {"I(X;T)", "I(X;T) lower"}), ("noise:n_draws=2", {"I(X;T)"}),
     ("dse", {"DSE", "DSMI(X;T)"}), ("renyi", {"Renyi S(T)", "Renyi I(X;T)"})],
)  # fmt: skip
def test_of_a_whole_layer_nothing_is_said_of_y(run, tmp_path, spec, left, caplog):
    plain = written(tmp_path / "plain", labels=np.arange(N) % 3, inputs=open_run(run).probe.inputs).path
    with caplog.at_level(logging.WARNING, "infoplane"):
        found = analyze(run, ["own", "pooled"], spec, table=tmp_path / "t.csv")
    assert left <= set(found.quantity)
    assert set(found.n_samples) == {N}
    ordinary = analyze(plain, ["own", "pooled"], spec, table=tmp_path / "p.csv")
    ordinary = ordinary.take(np.array(["Y" not in quantity for quantity in ordinary.quantity]))
    assert found.quantity.tolist() == ordinary.quantity.tolist()
    # The draws of noise go by place, and places by class: as far apart as the interval of either is wide.
    apart = np.nan_to_num(ordinary.high - ordinary.low) + 1e-7 * abs(ordinary.value)
    assert (abs(found.value - ordinary.value) <= apart).all()
    assert found.flags.tolist() == ordinary.flags.tolist()
    (reason,) = skipped(found, "own")
    assert reason == (
        "no I(T;Y) nor anything else of Y: the probe has a label for each of 4 positions, which would it be? "
        "estimate LAYER[token=*]"
    )
    assert "skipped layer own, subset all: no I(T;Y)" in caplog.text
    (reason,) = skipped(found, "pooled")
    assert "what was recorded (flatten, shape (1,)) has no axis of them; record with reduce='flatten' or tok" in reason
    again = analyze(run, ["own", "pooled"], spec, table=tmp_path / "t.csv")  # nothing is left to estimate
    assert skipped(again, "own") == skipped(found, "own")
    assert again.value.tolist() == found.value.tolist()


def test_geometry_of_classes_is_of_y_too(run, tmp_path):
    found = analyze(run, "pooled", "geometry", table=tmp_path / "t.csv")
    assert not [name for name in set(found.quantity) if "class" in name or "centroid" in name]


def test_an_estimator_of_y_alone_has_nothing_to_say_of_a_whole_layer(run, tmp_path):
    with pytest.raises(ValueError, match=r"nothing could be estimated: no I\(T;Y\) nor anything else of Y"):
        analyze(run, "pooled", "probe", table=tmp_path / "t.csv")


def test_one_class_and_few_samples_are_what_they_are_elsewhere(tmp_path):
    labels, layers = sequences()
    labels[:, 1] = np.where(labels[:, 1] < 0, -100, 2)
    labels[1:, 2] = -100
    labels[0, 2] = 1
    run = infoplane.from_arrays(tmp_path / "run", {0: layers}, labels).path
    found = analyze(run, "own[token=*]", "binning")
    of = found.select(layer="own[token=1]", quantity="I(T;Y)")
    assert (of.value[0], of.flag("single_class").tolist()) == (0.0, [True])
    assert skipped(found, "own[token=2]") == {"binning needs at least 2 samples, got 1": [0]}


def test_padding_without_a_number_spoils_nothing(tmp_path, table):
    """A number that is missing where there is no label is not asked for; one that is missing beside a label is."""
    labels, layers = sequences()
    layers["own"][labels < 0] = np.nan
    spoiled = layers["own"].copy()
    spoiled[np.flatnonzero(labels[:, 1] >= 0)[3], 1] = np.inf
    run = infoplane.from_arrays(tmp_path / "run", {0: {"own": layers["own"]}, 1: {"own": spoiled}}, labels).path
    found = analyze(run, "own[token=*]").select(quantity="I(T;Y)")
    known = {(layer, step): value for layer, step, value in zip(found.layer, found.step, found.value, strict=True)}
    assert [place for place, value in known.items() if np.isnan(value)] == [("own[token=1]", 1)]
    np.testing.assert_allclose([value for value in known.values() if not np.isnan(value)], 2.0, atol=1e-12)


def test_pairs_ask_for_no_label(tmp_path):
    """A pair is estimated on all samples, so that a number which is missing beside no label is missing there."""
    labels, layers = sequences()
    spoiled = layers["own"].copy()
    spoiled[np.flatnonzero(labels[:, 1] < 0)[0], 1] = np.nan
    given = {0: layers, 1: layers | {"own": spoiled}}
    run = infoplane.from_arrays(tmp_path / "run", given, labels).path
    found = infoplane.analyze(run, "hsic", pairs=[("own[token=1]", "pooled")], progress=False, device="cpu")
    assert set(found.take(found.estimator == "hsic").n_samples) == {N}
    assert np.isnan(found.value).tolist() == (found.step == 1).tolist()
    assert "without" not in str(found)


def test_parts_and_classes(tmp_path):
    part = ["train" if i % 4 else "test" for i in range(N)]
    run = written(tmp_path / "run", parts=part).path
    found = analyze(run, "own[token=1]", subsets=["train", "test"])
    labels, _ = sequences()
    counts = {name: int((labels[:, 1] >= 0)[np.array(part) == name].sum()) for name in ("train", "test")}
    assert {s: n for s, n in zip(found.subset, found.n_samples, strict=True)} == counts
    for subset in ("class=*", "class=1", "train&class=*"):
        with pytest.raises(ValueError, match="one for each of 4 positions; for classes at position p record with"):
            analyze(run, "own[token=1]", subsets=[subset])
    assert subsets_of([run]) == ["all", "test", "train"]


def test_an_analysis_goes_on_where_it_was(run, tmp_path):
    analyze(run, "own[token=*]", table=tmp_path / "a.csv")
    analyze(run, "own[token=:2]", table=tmp_path / "b.csv")
    analyze(run, "own[token=*]", table=tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.usefixtures("warm_workers")
def test_other_processes_take_the_same_samples(run, tmp_path):
    for name, jobs in (("a", 1), ("b", 2)):
        analyze(run, ["own[token=*]", "pooled"], table=tmp_path / f"{name}.csv", jobs=jobs)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_what_is_left_out_is_said(run, table):
    assert "N = 200 to 400, without the 0 to 200 samples that have no label at a position" in str(table)
    assert "skipped: own[token=3], before[token=3]: no sample has a label at position 3" in str(table)
    (about,) = table.meta["runs"].values()
    assert about["unlabelled"] == {"all": [*MISSING]}
    assert (about["classes"], about["h_y"]) == (CLASSES, None)
    caption = plots.caption(plots.tokens(table, layers="own"))
    assert "without the 0 to 200 samples that have no label at a position" in " ".join(caption.split())
    assert "without" not in str(table.select(layer="own[token=0]"))
    assert f"4 classes, a label for each of 4 positions, {sum(MISSING)} of 1,600 without (-100)" in str(
        summarize(open_run(run))
    )


def test_the_report_says_it(table):
    assert "samples that have no label at a position" in json.dumps(page_data(table))


def test_advice_at_positions_and_without(run):
    for layers, n in (("own[token=1]", N - 40), ("pooled", N)):
        advice = infoplane.advise(run, "binning", layers=layers, progress=False, keep=False, device="cpu")
        assert advice.samples == n
        assert advice.specs or advice.layers[0].remedy


def test_positions_that_do_not_line_up_are_an_error(tmp_path):
    labels, layers = sequences()
    layers["long"] = np.zeros((N, 6, 2), np.float32)
    run = infoplane.from_arrays(tmp_path / "run", {0: layers}, labels).path
    with pytest.raises(ValueError, match=r"'long' has 6 positions, .* labels for 4: .* \(400, 6\), got \(400, 4\)"):
        analyze(run, "long[token=0]")
    with pytest.raises(ValueError, match=r"no layer has as many \(pooled none, long 6\); of several labels .* y\[:, j"):
        infoplane.from_arrays(tmp_path / "b", {0: {n: layers[n] for n in ("pooled", "long")}}, labels)
    assert not (tmp_path / "b").exists()


def test_files_with_labels_of_positions(tmp_path, run):
    """Rows come in another order in each file, and go through import, info and estimate of the command line."""
    labels, layers = sequences()
    for step, order in enumerate([np.arange(N), np.random.default_rng(5).permutation(N)]):
        np.savez(tmp_path / f"step-{step}.npz", own=layers["own"][order], labels=labels[order], sample_ids=order)
    files, out = [str(tmp_path / f"step-{step}.npz") for step in (0, 1)], str(tmp_path / "run")
    for arguments in (
        ["import", *files, "-o", out],
        ["info", out],
        ["estimate", out, "-e", EXACT, "-l", "own[token=1]"],
    ):
        outcome = CliRunner().invoke(main, arguments)
        assert outcome.exit_code == 0, outcome.output
        if arguments[0] == "info":
            assert "4 classes, a label for each of 4 positions, 640 of 1,600 without (-100)" in outcome.output
    assert (open_run(out).probe.labels == labels).all()
    found = infoplane.read_table(out).select(quantity="I(T;Y)")
    assert set(found.n_samples) == {N - 40}
    np.testing.assert_allclose(found.value, 2.0, atol=1e-12)


# Recording


class Letters(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(9, 3), nn.Linear(3, 9)

    def forward(self, ids):
        return self.head(self.embed(ids))


IDS = torch.randint(9, (60, 5), generator=torch.Generator().manual_seed(1))
NEXT = next_tokens(IDS)


def record(path, y=NEXT, **how):
    with Recorder(Letters(), (IDS, y), path, **{"quiet": True, "schedule": 1, **how}) as recorder:
        recorder.snapshot(1)
    return recorder


def test_a_recorded_language_model(tmp_path, capfd):
    recorder = record(tmp_path / "run", quiet=False)
    plan = capfd.readouterr().err
    assert "labels: a label for each of 5 positions, 60 of 300 without (-100); estimate them with layers=" in plan
    store = open_run(recorder.run)
    assert store.format_version == 2
    assert (store.probe.labels == NEXT.numpy()).all()
    found = analyze(store, "embed[token=*]", "binning:n_bins=4")
    assert list(dict.fromkeys(found.layer)) == [f"embed[token={p}]" for p in range(4)]
    assert set(found.n_samples) == {60}


def test_the_plan_offers_no_positions_where_none_are_kept(tmp_path, capfd):
    with pytest.warns(UserWarning, match="no layer keeps them"):
        record(tmp_path / "run", quiet=False, reduce="mean")
    plan = capfd.readouterr().err
    assert "60 of 300 without (-100); no layer keeps its positions (reduce=)" in plan
    assert "token=*" not in plan


def test_a_run_that_goes_on_with_other_labels_is_refused(tmp_path):
    record(tmp_path / "run")
    with Recorder(Letters(), (IDS, NEXT), tmp_path / "run", quiet=True, schedule=1, resume=True) as recorder:
        recorder.snapshot(2)
    assert open_run(tmp_path / "run").steps() == [0, 1, 2]
    with pytest.raises(infoplane.core.StoreError, match="recorded with another probe"):
        record(tmp_path / "run", NEXT.clamp(max=3), resume=True)


def test_ranks_share_the_rows_of_such_labels(tmp_path):
    """Each rank holds a part of the rows; the labels are those of all of them."""
    from infoplane.hooks.probe import as_probe_set

    whole = as_probe_set({"train": (IDS[:40], NEXT[:40]), "test": (IDS[40:], NEXT[40:])}, repeats=(10, 2))
    assert whole.record.labels.shape == (80, 5)
    assert (whole.record.labels[60:70] == NEXT[:10].numpy()).all()
    assert whole.share(1, 2).record is whole.record


def test_layers_that_keep_no_position_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match=r"no layer keeps them \(embed: mean over tokens\), so there will be no I"):
        record(tmp_path / "run", reduce="mean")
    found = analyze(tmp_path / "run", estimators="binning")
    assert {"I(X;T)", "H(T)"} == set(found.quantity)
    record(tmp_path / "kept", reduce={"embed": tokens([0, -1]), "*": "mean"})
    found = analyze(tmp_path / "kept", "embed[token=*]", "binning")
    assert set(found.layer) == {"embed[token=0]"}
    assert skipped(found, "embed[token=4]") == {"no sample has a label at position 4": [0, 1]}


def test_labels_that_fit_no_layer_are_refused_before_a_file_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"one for each of 3 positions, and no layer has as many \(embed 5, head 5\)"):
        record(tmp_path / "run", NEXT[:, :3])
    assert not (tmp_path / "run").exists()


def test_networks_trained_as_one_program_and_noisy_passes(tmp_path):
    members = [Letters() for _ in range(2)]
    state = torch.func.stack_module_state(members)
    with CollectionRecorder(members[0], (IDS, NEXT), str(tmp_path / "run-{member}"), state=state, quiet=True):
        pass
    found = analyze([tmp_path / "run-0", tmp_path / "run-1"], "embed[token=2]", table=tmp_path / "t.csv")
    assert (len(set(found.run)), set(found.n_samples)) == (2, {60})
    model = Letters()
    padded = NEXT.clone()
    padded[:20, 2] = -100
    with (
        NoiseInjection(model, "embed", std=0.1),
        Recorder(model, (IDS, padded), tmp_path / "c", repeats=(60, 3), quiet=True),
    ):
        pass
    found = analyze(tmp_path / "c", "embed[token=2]", ["binning", "gaussian"])
    assert dict(zip(found.estimator, found.n_samples, strict=True)) == {"binning": 4 * 40, "gaussian": 40}


def test_labels_that_are_the_inputs_are_warned_of(tmp_path):
    masked = torch.where(IDS == 3, -100, IDS)
    with pytest.warns(UserWarning, match=r"labels are the inputs themselves, .* pass infoplane.hooks.next_tokens\(y\)"):
        record(tmp_path / "run", masked)


def test_live_estimates_of_whole_layers(tmp_path, caplog):
    sink = infoplane.live("binning:range=snapshot")
    with caplog.at_level(logging.WARNING, "infoplane"):
        record(tmp_path / "run", sinks=[sink], keep_activations=False)
    assert set(sink.table.quantity) == {"I(X;T)", "H(T)"}
    assert caplog.text.count("is not estimated on layer embed, subset all: no I(T;Y)") == 1
    meta = json.loads((tmp_path / "run/results.json").read_text())
    (about,) = meta["runs"].values()
    assert about["unlabelled"] == {"all": [0, 0, 0, 0, 60]}


def test_next_tokens():
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    assert next_tokens(ids).tolist() == [[2, 3, 4, -100], [6, 0, 0, -100]]
    assert next_tokens(ids, ids > 0).tolist() == [[2, 3, 4, -100], [6, -100, -100, -100]]
    assert next_tokens([[-100, 2, 3, -100]]).tolist() == [[2, 3, -100, -100]]  # a model's own labels
    with pytest.raises(ValueError, match=r"ids must have shape \(samples, positions\), got \(4,\)"):
        next_tokens(ids[0])
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 4\), got \(2, 3\)"):
        next_tokens(ids, ids[:, :3])


# Which labels are taken


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((6, 3), -100), r"labels \(6, 3\) are -100 everywhere: no position has a label"),
        ([[0, 1, 2], [3, -1, 2]], "got -1 at sample 1, position 1; -100 marks a position without a label"),
        (np.zeros((6, 3, 2), int) + 2, r"shape \(samples,\) or \(samples, positions\), got \(6, 3, 2\)"),
        (np.arange(6).reshape(2, 3) % 2, r"where they are two classes for each position of a sequence, pass .* y \+ 1"),
    ],
)
def test_refused_with_what_to_do(labels, message):
    with pytest.raises(ValueError, match=message):
        as_labels(labels, len(labels))


def test_taken_as_they_are():
    labels = np.array([[0, -100, 2], [1, 2, 3]])
    for given in (labels, labels.astype(np.int16), torch.tensor(labels)):
        assert as_labels(given, 2).tolist() == labels.tolist()
    assert as_labels(labels[:, :1] + 1, 2).tolist() == [1, 2]
    assert doubts(as_labels(labels, 2)) == []
    assert "-100 is a number like others; for classes of positions pass y.long()" in doubts(labels.astype(float))[0]


def test_floats_are_classes_of_positions_where_that_is_said(tmp_path):
    labels, layers = sequences()
    store = infoplane.from_arrays(tmp_path / "a", {0: layers}, labels.astype(float), classes=True)
    assert store.probe.positions == POSITIONS
    with pytest.warns(UserWarning, match="targets of 4 columns"):
        store = infoplane.from_arrays(tmp_path / "b", {0: layers}, labels.astype(float))
    assert (store.probe.positions, store.format_version) == (None, 1)


@pytest.mark.parametrize(
    ("shape", "raw", "reduction", "count"),
    [((5, 3), (), "flatten", 5), ((15,), (5, 3), "flatten", 5), ((3,), (5, 3), "mean over tokens", 5),
     ((6,), (5, 3), "tokens 0,-1", 5), ((2,), (5,), "tokens 0,-1", 5), ((3,), (3,), "flatten", 0),
     ((4, 3), (5, 3), "callable f", 4)],
)  # fmt: skip
def test_how_many_positions_a_layer_has(shape, raw, reduction, count):
    layer = Layer(key="a", name="a", depth=0, unit_shape=shape, raw_shape=raw, reduction=reduction)
    assert token_count(layer) == count
    ids = np.arange(4)
    probe = Probe(sample_ids=ids, input_ids=ids, repeats=ids * 0, labels=np.ones((4, 5), int), part=ids * 0)
    if count == 5:
        assert len(doubt_positions(probe, [layer])) == (reduction == "mean over tokens")
    else:
        with pytest.raises(ValueError, match="no layer has as many"):
            doubt_positions(probe, [layer])
