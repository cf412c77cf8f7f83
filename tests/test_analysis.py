from __future__ import annotations

import json
import logging
import math
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from analysis_cases import SAMPLES, Broken, Spread, activations, layer_of, make_run, probe, request
from click.testing import CliRunner

from infoplane import cli
from infoplane.analysis import analyze
from infoplane.analysis.workers import progress_bar
from infoplane.core import Snapshot, StoreError
from infoplane.estimators import available, config_json, parse
from infoplane.results import ResultTable
from infoplane.store import StoreWriter, open_run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def quiet(*args, **kwargs):
    return analyze(*args, progress=False, **kwargs)


def by_step(table, **select):
    chosen = table.select(**select)
    return dict(zip(chosen.step.tolist(), chosen.value.tolist(), strict=True))


# What is computed


def test_values_are_those_of_a_direct_estimate(run):
    store = open_run(run)
    estimator = parse("binning:n_bins=5,range=(-1,1),null_draws=3")
    table = quiet(run, estimator, layers="fc1", block_bytes=3000)
    t = torch.from_numpy(store.read("fc1", store.steps("fc1")).copy())
    direct = estimator.estimate(t, torch.from_numpy(store.probe.labels.copy()), x_ids=torch.arange(SAMPLES))
    for name, quantity in direct.items():
        rows = table.select(quantity=name)
        assert rows.step.tolist() == [0, 1, 2, 3, 4, 5]
        assert rows.value.tolist() == quantity.value.tolist()
        assert rows.ceiling.tolist() == quantity.ceiling.expand(6).tolist()
        assert rows.flag("saturated").tolist() == quantity.flags.get("saturated", torch.zeros(6, dtype=bool)).tolist()
    null = table.select(quantity="I(T;Y) null")
    assert null.low.tolist() == direct["I(T;Y) null"].low.tolist()


def test_rows_say_where_they_come_from(run):
    store = open_run(run)
    table = quiet(run, "binning:range=(-1,1)")
    (row,) = table.select(layer="fc1", step=3, quantity="I(X;T)")
    assert (row.run, row.epoch, row.depth, row.subset) == (store.run_id, 1.5, 1, "all")
    assert (row.n_samples, row.n_units, row.unit, row.bound) == (SAMPLES, 2, "bit", "point")
    assert row.config == config_json(parse("binning:range=(-1,1)"))
    assert row.source == store.source("fc1", 3)


def test_prepare_sees_the_run_once_and_its_findings_are_recorded(run, tmp_path):
    log = tmp_path / "calls"
    table = quiet(run, Spread(log=str(log)), block_bytes=2000, subsets=("all", "train", "class=*"))
    # Two layers, each prepared on all rows and on the training rows; the classes take over what "all" found.
    assert log.read_text().count("p") == 4
    top = max(np.abs(activations(0, s, 0, 4)).max() for s in range(6))
    found = {json.loads(c)["prepared"]["top"] for c in table.select(layer="fc0", subset=["all", "class=*"]).config}
    assert found == {float(top)}
    assert len({*table.select(estimator="spread").settings}) == 1


def test_returned_table_is_the_file(run):
    table = request(run)
    read = ResultTable.read(run)
    assert list(map(repr, table)) == list(map(repr, read))
    assert table.meta == {k: v for k, v in read.meta.items() if k != "table"}
    again = request(run)
    assert list(map(repr, again)) == list(map(repr, table))


def test_recorded_metrics_are_copied(run):
    rows = quiet(run).select(estimator="recorded")
    assert rows.quantity.tolist() == ["loss"] * 6
    assert rows.value.tolist() == [1 / (1 + s) for s in range(6)]
    assert set(rows.layer) == {""}
    assert set(rows.config) == {"{}"}
    assert set(rows.unit) == {""}


def test_meta_describes_run_and_estimators(run):
    meta = quiet(run).meta
    about = meta["runs"][open_run(run).run_id]
    counts = np.bincount(probe().labels)
    h_y = -sum(c / SAMPLES * math.log2(c / SAMPLES) for c in counts)
    assert about["h_y"] == pytest.approx(h_y, abs=1e-12)
    assert about["h_x"] == pytest.approx(math.log2(SAMPLES), abs=1e-12)
    assert about["n"] == SAMPLES
    assert about["parts"] == {"train": 40, "test": 20}
    assert [layer["role"] for layer in about["layers"]] == ["activation", "activation"]
    assert about["chain"] is True
    assert about["metrics"] == [{"name": "loss", "layer": ""}]
    assert meta["estimators"]["binning"]["class"] == "infoplane.estimators.binning.Binning"
    assert meta["versions"]["torch"] == torch.__version__


def test_chain_of_the_recorder_gives_the_data_processing_count(run):
    (found,) = quiet(run, "binning:range=(-1,1)").dpi()
    assert found.chain == ("fc0", "fc1")
    assert found.pairs == 6


def test_specs_instances_classes_and_lists_are_taken_each_once(run):
    same = ["binning@saxe-2018", parse("binning@saxe-2018"), available()["binning"], "binning"]
    table = quiet(run, same)
    assert len({*table.select(estimator="binning").settings}) == 2


def test_layers_by_key_and_glob(run):
    assert set(quiet(run, layers="fc1").select(estimator="binning").layer) == {"fc1"}
    assert set(quiet(run, layers=["fc1", "f*0"]).select(estimator="binning").layer) == {"fc0", "fc1"}


# Subsets


def test_parts_are_estimated_on_their_rows(run):
    table = quiet(run, Spread(), subsets=("train", "test"), layers="fc0")
    expected = np.square(activations(0, 2, 0, 4)[:40].astype(np.float64)).mean()
    assert by_step(table, subset="train", quantity="H(T)")[2] == pytest.approx(expected, rel=1e-12)
    assert set(table.select(subset="train", estimator="spread").n_samples) == {40}
    assert set(table.select(subset="test", estimator="spread").n_samples) == {20}


@pytest.mark.parametrize("base", ["all", "train"])
def test_classes_average_to_the_conditional_information_of_one_layer(run, base):
    """The edges of T are common to all classes, so sum_y p(y) I(X;T|Y=y) is I(X;T|Y) of the T of `base`."""
    each = "class=*" if base == "all" else "train&class=*"
    table = quiet(run, "binning:n_bins=3", subsets=(base, each))
    labels = open_run(run).probe.labels[: None if base == "all" else 40]
    names = [f"class={c}" if base == "all" else f"train&class={c}" for c in range(3)]
    for layer in ("fc0", "fc1"):
        native = by_step(table, layer=layer, subset=base, quantity="I(X;T|Y)")
        parts = [by_step(table, layer=layer, subset=n, quantity="I(X;T)") for n in names]
        assert len(native) == 6
        for step, value in native.items():
            mean = sum((labels == c).mean() * part[step] for c, part in enumerate(parts))
            assert mean == pytest.approx(value, abs=1e-12)


def test_conditional_information_is_derived_where_the_estimator_has_none(run):
    table = quiet(run, Spread(), subsets=("class=*", "all"), block_bytes=2000)
    weights = np.bincount(probe().labels) / SAMPLES
    for layer in ("fc0", "fc1"):
        derived = table.select(layer=layer, subset="all", quantity="I(X;T|Y)")
        assert derived.step.tolist() == list(range(6))
        assert set(derived.n_samples) == {SAMPLES}
        assert set(derived.ceiling) == {2.0}
        parts = [by_step(table, layer=layer, subset=f"class={c}", quantity="I(X;T)") for c in range(3)]
        for row in derived:
            assert row.value == pytest.approx(sum(w * p[row.step] for w, p in zip(weights, parts, strict=True)))


def test_class_rows_alone_do_not_count_as_the_whole(run):
    quiet(run, Spread(), subsets="class=*")
    table = quiet(run, Spread(), subsets="all")
    assert len(table.select(quantity="I(X;T)", subset="all")) == 12


def test_class_by_number_and_by_name(tmp_path):
    path = make_run(tmp_path / "run", on=probe(label_names=("cat", "dog", "owl")))
    table = quiet(path, Spread(), subsets=("class=2", "class=dog"))
    assert {*table.select(estimator="spread").subset} == {"class=2", "class=1"}


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ("val", r"no subset 'val'; expected all, train, test, class=\* or class=LABEL"),
        ("class=9", "no class for subset 'class=9'; the probe has 0, 1, 2"),
        ("class=cat", "no class for subset 'class=cat'"),
        ("val&class=1", "no subset 'val&class=1'"),
        ((), "subsets must name at least one"),
    ],
)
def test_unknown_subset_says_what_there_is(run, subset, message):
    with pytest.raises(ValueError, match=message):
        quiet(run, subsets=subset)
    assert not (run / "results.csv").exists()


def test_classes_of_a_regression_probe_are_refused(tmp_path):
    path = make_run(tmp_path / "run", on=probe(labels=np.linspace(0, 1, SAMPLES)))
    with pytest.raises(ValueError, match="needs class labels, the probe has regression targets"):
        quiet(path, Spread(), subsets="class=*")
    assert quiet(path, Spread()).meta["runs"][open_run(path).run_id]["h_y"] is None


def test_further_passes_go_to_estimators_that_ask_for_them(tmp_path):
    on = probe(
        input_ids=np.arange(SAMPLES) % 30, repeats=np.arange(SAMPLES) // 30, labels=np.tile(np.arange(30) % 3, 2)
    )
    path = make_run(tmp_path / "run", on=on)
    table = quiet(path, [Spread(), "binning:n_bins=3"])
    assert set(table.select(estimator="spread").n_samples) == {30}
    rows = table.select(estimator="binning", quantity="I(X;T)", layer="fc0", step=0)
    assert rows.n_samples.tolist() == [60]
    assert rows.ceiling[0] == pytest.approx(math.log2(30))


# Bad snapshots, refusals, errors


def test_nonfinite_snapshot_becomes_rows_without_a_value(tmp_path):
    path = make_run(tmp_path / "run", bad={(0, 2), (0, 3)})
    log = tmp_path / "calls"
    table = quiet(path, Spread(log=str(log)))
    rows = table.select(layer="fc0", step=2)
    assert rows.quantity.tolist() == ["I(X;T)", "I(T;Y)", "H(T)"]
    assert np.isnan(rows.value).all()
    assert rows.flags.tolist() == ["nonfinite"] * 3
    assert not np.isnan(table.select(layer="fc0", step=[0, 1, 4, 5]).value).any()
    assert not np.isnan(table.select(layer="fc1").value).any()
    calls = log.read_text()
    quiet(path, Spread(log=str(log)))
    assert log.read_text() == calls


def test_block_of_nonfinite_snapshots_gets_one_row_each(tmp_path):
    path = make_run(tmp_path / "run", bad={(0, s) for s in range(6)})
    table = quiet(path, "binning:range=(-1,1)", layers="fc0").select(estimator="binning")
    assert table.quantity.tolist() == ["I(X;T)"] * 6
    assert table.flags.tolist() == ["nonfinite"] * 6


OF_CLASSES = [name for name, cls in available().items() if "discrete" in cls.targets]


@pytest.mark.usefixtures("short_trainings")
@pytest.mark.parametrize("spec", [*OF_CLASSES, "knn+null+interval", "binning:range=unit", "adaptive:whole_run=true"])
@pytest.mark.parametrize("shape", [0, (3, 0, 2)])
def test_a_layer_without_units_is_skipped_aloud_and_no_other(tmp_path, caplog, spec, shape):
    path = make_run(tmp_path / "run", units=(shape, 3), steps=(1, 2))
    spec = {"noise": "noise:std=0.5"}.get(spec, spec)
    with caplog.at_level(logging.WARNING, "infoplane"):
        table = quiet(path, spec, layers=["fc0", "fc1"])
    skipped = {s["layer"]: s["reason"] for s in table.meta["runs"][open_run(path).run_id]["skipped"]}
    said = f"it has no units, shape {shape if shape else (0,)} beside the samples"
    assert skipped.pop("fc0") == said
    assert said in caplog.text
    rows = table.select(estimator=parse(spec).name)
    # The preset noise and the like may refuse this layer for a reason of their own; then that is listed.
    assert set(rows.layer) | set(skipped) == {"fc1"}


def test_the_command_says_so_and_exits_clean(tmp_path, caplog):
    path = make_run(tmp_path / "run", units=(4, 0), steps=(1, 2))
    result = CliRunner().invoke(cli.main, ["estimate", str(path), "-e", "binning"])
    assert result.exit_code == 0, result.output
    said = "binning skipped layer fc1, subset all: it has no units, shape (0,) beside the samples"
    assert said in caplog.text + result.stderr


@pytest.mark.parametrize("spec", ["binning", "adaptive", "kde", "dse"])
@pytest.mark.parametrize("first", [0, 3])
def test_only_the_steps_without_units_are_skipped(tmp_path, first, spec):
    path = make_run(tmp_path / "run", units=(first,), steps=(1, 2))
    make_run(path, units=(3 - first,), steps=(3, 4), resume=True)
    table = quiet(path, spec)
    sound, empty = ([1, 2], [3, 4]) if first else ([3, 4], [1, 2])
    assert sorted(set(table.select(estimator=spec).step.tolist())) == sound
    (skipped,) = table.meta["runs"][open_run(path).run_id]["skipped"]
    assert (skipped["layer"], skipped["steps"]) == ("fc0", empty)


def test_refused_layer_is_named_and_the_rest_goes_on(run, caplog):
    with caplog.at_level(logging.WARNING, "infoplane"):
        table = quiet(run, Spread(refuse_units=4))
    assert set(table.select(estimator="spread").layer) == {"fc1"}
    assert "spread skipped layer fc0, subset all: spread wants no layers of 4 units" in caplog.text
    (skipped,) = table.meta["runs"][open_run(run).run_id]["skipped"]
    assert skipped["layer"] == "fc0"
    assert skipped["steps"] == [0, 1, 2, 3, 4, 5]
    assert skipped["reason"] == "spread wants no layers of 4 units"
    kept = quiet(run, "binning").meta["runs"][open_run(run).run_id]["skipped"]
    assert kept == [skipped]
    assert quiet(run, Spread(refuse_units=4)).meta["runs"][open_run(run).run_id]["skipped"] == [skipped]


def test_nothing_at_all_is_an_error_with_the_reason(run):
    with pytest.raises(ValueError, match="nothing could be estimated: spread wants no layers of 2 units"):
        quiet(run, Spread(refuse_units=2), layers="fc1")


def test_layer_too_large_for_the_machine_is_refused_before_it_is_read(run, monkeypatch):
    monkeypatch.setattr("infoplane.analysis.plan.device_memory", lambda device: 999)
    with pytest.raises(ValueError, match="one snapshot needs 1,000 bytes, the cpu device has 999"):
        quiet(run, Spread())


@pytest.mark.parametrize("kind", [RuntimeError, ZeroDivisionError])
def test_other_errors_keep_their_type_and_say_where(run, kind):
    quiet(run, Spread())
    with pytest.raises(kind, match="no such luck") as caught:
        quiet(run, Broken(kind=kind.__name__))
    (note,) = caught.value.__notes__
    assert f"run {open_run(run).run_id}, layer fc0, subset all, steps 0 to 5, broken" in note
    assert f'"kind":"{kind.__name__}"' in note
    assert len(ResultTable.read(run).select(estimator="spread")) == 36


def test_damage_found_on_reading_costs_the_damaged_steps_only(tmp_path):
    path = make_run(tmp_path / "run", seal_bytes=1)
    store = open_run(path)
    shard = sorted((path / "shards").iterdir())[2]
    data = bytearray(shard.read_bytes())
    content = activations(0, 2, 0, 4).tobytes()
    at = bytes(data).index(content)
    data[at + 10] ^= 1
    shard.write_bytes(data)
    table = quiet(store, Spread(), block_bytes=10**6)
    assert table.select(layer="fc0", quantity="H(T)").step.tolist() == [0, 1, 3, 4, 5]
    assert table.select(layer="fc1", quantity="H(T)").step.tolist() == [0, 1, 2, 3, 4, 5]
    (skipped,) = table.meta["runs"][store.run_id]["skipped"]
    assert (skipped["layer"], skipped["steps"]) == ("fc0", [2])


def test_layer_that_changes_its_shape_is_estimated_in_pieces(tmp_path):
    on = probe()
    with StoreWriter(tmp_path / "run", probe=on, settings={}, background=False) as write:
        for step, units in enumerate((3, 3, 5, 3)):
            layers = (layer_of(0, units),)
            arrays = {"fc0": activations(0, step, 0, units)}
            write(Snapshot(step=step, epoch=float(step), time=0.0, layers=layers, arrays=arrays))
    table = quiet(tmp_path / "run", Spread()).select(quantity="H(T)")
    assert table.n_units.tolist() == [3, 3, 5, 3]
    for step, units in enumerate((3, 3, 5, 3)):
        expected = np.square(activations(0, step, 0, units).astype(np.float64)).mean()
        assert table.value[step] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": "conv*"}, ValueError, "no layer of .* matches 'conv\\*'; closest: fc"),
        ({"layers": []}, ValueError, "layers must name at least one"),
        ({"estimators": "bining"}, ValueError, "no estimator named 'bining'; closest: binning"),
        ({"estimators": "binning:bins=3"}, ValueError, "binning has no field 'bins'"),
        ({"estimators": 3}, TypeError, "expected an estimator or its spec"),
        ({"estimators": []}, ValueError, "at least one estimator"),
        ({"device": "tpu9"}, ValueError, "no device 'tpu9'"),
        ({"block_bytes": 0}, ValueError, "block_bytes must be positive, got 0"),
        ({"jobs": 0}, ValueError, "jobs must be at least 1, got 0"),
        ({"jobs": "2"}, TypeError, "number of processes or a concurrent.futures.Executor, got '2'"),
    ],
)
def test_bad_requests_are_one_clear_line(run, arguments, error, message):
    with pytest.raises(error, match=message):
        quiet(run, **arguments)


def test_run_without_snapshots(tmp_path):
    path = make_run(tmp_path / "run", steps=())
    with pytest.raises(ValueError, match="has no complete snapshot"):
        quiet(path)


def test_unwritable_place_says_what_to_do(run, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("infoplane.analysis.index.TableWriter", refuse)
    with pytest.raises(PermissionError) as caught:
        quiet(run)
    assert caught.value.__notes__ == ["give table=PATH to keep the results elsewhere"]


# Several runs


def test_several_runs_have_a_table_each(tmp_path):
    paths = [make_run(tmp_path / name, seed=i) for i, name in enumerate("ab")]
    both = quiet(paths, Spread())
    ids = [open_run(p).run_id for p in paths]
    assert list(dict.fromkeys(both.run)) == ids
    assert set(both.meta["runs"]) == set(ids)
    for path, name in zip(paths, ids, strict=True):
        assert set(ResultTable.read(path).run) == {name}
    assert (paths[0] / "results.csv").read_bytes() != (paths[1] / "results.csv").read_bytes()


def test_several_runs_in_one_table(tmp_path):
    paths = [make_run(tmp_path / name, seed=i) for i, name in enumerate("ab")]
    both = quiet(paths, Spread(), table=tmp_path / "all.csv")
    read = ResultTable.read(tmp_path / "all.csv")
    assert list(map(repr, read)) == list(map(repr, both))
    assert {r["path"] for r in read.meta["runs"].values()} == set(map(str, paths))  # on the disk "a" and "b"
    assert not (paths[0] / "results.csv").exists()


def test_a_copied_run_is_not_counted_twice(tmp_path):
    import shutil

    path = make_run(tmp_path / "a")
    shutil.copytree(path, tmp_path / "b")
    with pytest.raises(ValueError, match="are copies of one run"):
        quiet([path, tmp_path / "b"], Spread())
    store = open_run(path)
    for twice in ([path, path], [store, store], [path, store]):
        assert len(quiet(twice, Spread())) == len(quiet(path, Spread()))


# Changed data


def test_superseded_steps_are_estimated_again(tmp_path):
    path = make_run(tmp_path / "run")
    before = quiet(path, Spread(), layers="fc0")
    make_run(path, steps=range(4, 8), seed=9, resume=True)
    after = quiet(path, Spread(), layers="fc0")
    values = by_step(after, quantity="H(T)")
    assert sorted(values) == list(range(8))
    assert by_step(before, quantity="H(T)")[3] == values[3]
    assert by_step(before, quantity="H(T)")[4] != values[4]
    assert values[4] == pytest.approx(np.square(activations(9, 4, 0, 4).astype(float)).mean(), rel=1e-12)
    current = ResultTable.read(path).current()
    assert by_step(current, quantity="H(T)") == values
    assert by_step(current, quantity="loss")[7] == 1 / 8


def test_a_run_that_grew_keeps_what_does_not_depend_on_it(tmp_path):
    path = make_run(tmp_path / "run")
    log = tmp_path / "calls"
    fixed = replace(Spread(log=str(log)), scale=2.0)
    quiet(path, fixed, layers="fc0")
    top = json.loads(ResultTable.read(path).select(quantity="H(T)").config[0])["prepared"]["top"]
    make_run(path, steps=range(6, 8), resume=True)
    log.unlink()
    table = quiet(path, fixed, layers="fc0")
    grown = json.loads(table.select(quantity="H(T)").config[0])["prepared"]["top"]
    assert grown > top
    assert log.read_text() == "p" + 8 * "e"
    assert len({*table.select(quantity="H(T)").config}) == 1


def test_altered_store_under_a_running_analysis_is_an_error(tmp_path):
    from infoplane.analysis.source import LayerSteps
    from infoplane.analysis.subsets import Subset
    from infoplane.analysis.tasks import Task, estimate, run_task

    path = make_run(tmp_path / "run")
    steps = LayerSteps(str(path), "x", open_run(path).run_id, "fc0", ((0, "0" * 32),))
    with pytest.raises(StoreError, match="layer 'fc0' at step 0 changed during the analysis"):
        run_task(estimate, Task(steps, Subset(), Spread(), "cpu", 1))


# Blocks, executors, progress


def test_blocks_keep_to_their_budget(run, tmp_path):
    log = tmp_path / "calls"
    sizes = []
    estimate = Spread.estimate

    def count(self, t, y, **more):
        sizes.append(len(t))
        return estimate(self, t, y, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spread, "estimate", count)
        quiet(run, Spread(log=str(log)), block_bytes=4000)
        assert sizes == [4, 2, 4, 2]
        sizes.clear()
        quiet(run, Spread(scale=2.0), block_bytes=1)
        assert sizes == [1] * 12


def test_block_size_changes_no_value(run):
    small = quiet(run, "binning:n_bins=4", block_bytes=1)
    other = make_copy(run)
    large = quiet(other, "binning:n_bins=4")
    assert list(map(repr, small)) == list(map(repr, large))


def make_copy(run):
    import shutil

    other = run.with_name("copy")
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("results.*"))
    return other


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(run, tmp_path):
    request(run, tmp_path / "one.csv")
    before = torch.get_num_threads()
    request(run, tmp_path / "two.csv", jobs=2)
    assert torch.get_num_threads() == before
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_any_executor_will_do_and_stays_open(run, tmp_path):
    request(run, tmp_path / "one.csv")
    with ThreadPoolExecutor(3) as pool:
        request(run, tmp_path / "two.csv", jobs=pool)
        assert pool.submit(int, "3").result() == 3
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_forked_processes_are_refused(run):
    import multiprocessing

    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with pytest.raises(ValueError, match=r"torch hangs in forked processes; .*get_context\('spawn'\)"):
        quiet(run, jobs=pool)
    pool.shutdown()


def test_threads_are_restored(run):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        quiet(run, Spread())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_log_gets_a_line_a_minute(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with progress_bar(None) as bar:
        bar.total = 400.0
        for _ in range(9):
            now[0] += 30.0
            bar.set_postfix_str("binning fc1", refresh=False)
            bar.update(40.0)
    assert capsys.readouterr().err.splitlines() == [
        "estimating 20 %, 04:00 left, binning fc1",
        "estimating 40 %, 03:00 left, binning fc1",
        "estimating 60 %, 02:00 left, binning fc1",
        "estimating 80 %, 01:00 left, binning fc1",
        "estimating 90 %, 00:30 left, binning fc1",
    ]


def test_log_of_less_than_a_minute_gets_nothing(run, capsys):
    analyze(run, Spread())
    assert capsys.readouterr().err == ""


def test_terminal_gets_one_bar(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    analyze(run, Spread())
    shown = capsys.readouterr().err
    assert "estimating 100%" in shown
    assert "spread fc1" in shown


def test_progress_false_prints_nothing(run, capsys):
    quiet(run, Spread())
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")
