"""What goes in comes out, bit for bit: dtypes, shapes, names, metrics, rows, sessions, splits."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_cases import (
    LAYERS,
    SAMPLES,
    bits,
    check,
    check_clean,
    layer,
    probe,
    record,
    shards,
    snapshot,
    values,
    writer,
)

from infoplane.core import Layer, Noise, StoreError
from infoplane.core.strict import canonical_json
from infoplane.store import ActivationStore, Problem, StoreWriter, _shard, open_run
from infoplane.store.layout import ARRAY_DTYPES, count_nonfinite, cut_ranges, row_ranges


@pytest.mark.parametrize("dtype", sorted(ARRAY_DTYPES))
def test_every_dtype_keeps_every_bit(tmp_path, dtype):
    spec = layer("a", (7,), dtype)
    with writer(tmp_path / "run") as out:
        for step in range(3):
            out(snapshot(step, (spec,)))
    store = open_run(tmp_path / "run")
    check(store, [0, 1, 2], (spec,))
    assert store.layer("a").dtype == dtype
    assert store.read("a", [1]).dtype == ARRAY_DTYPES[dtype]
    for step in range(3):
        assert store.nonfinite("a", step) == slow_nonfinite(values(spec, step), dtype)


def slow_nonfinite(array: np.ndarray, dtype: str) -> int:
    """By the definition of each type."""
    if dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if dtype.startswith("float8"):
        exponent_bits, mantissa_bits = (4, 3) if "e4m3" in dtype else (5, 2)
        exponent = (array >> mantissa_bits) & (2**exponent_bits - 1)
        mantissa = array & (2**mantissa_bits - 1)
        top = exponent == 2**exponent_bits - 1
        return int((top & (mantissa == 7)).sum() if "e4m3" in dtype else top.sum())
    return int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0


def test_nonfinite_values_are_counted_and_stored():
    array = np.zeros((300, 3000), np.float32)
    assert count_nonfinite(array, "float32") == 0
    array[0, 0], array[7, 9], array[299, 2999] = np.nan, np.inf, -np.inf
    assert count_nonfinite(array, "float32") == 3
    assert count_nonfinite(np.full((9, 9), 3e38, np.float32), "float32") == 0  # only the sum overflows
    assert count_nonfinite(array.astype(np.float16), "float16") == 3


def test_a_bfloat16_layer_is_a_true_16_bit_float_in_the_file(tmp_path):
    """Any HDF5 reader decodes the exact numbers, NaN and infinities included."""
    h5py = pytest.importorskip("h5py")
    spec = layer("a", (64,), "bfloat16")
    with writer(tmp_path / "run") as out:
        out(snapshot(0, (spec,)))
    with h5py.File(shards(tmp_path / "run")[0]) as file:
        decoded = file["acts/0000"][...][0]
    exact = (values(spec, 0).astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(decoded, exact, equal_nan=True)


def test_plain_h5py_reads_everything(tmp_path):
    """The format page in practice: names, types and shapes as docs/format.md gives them."""
    h5py = pytest.importorskip("h5py")
    record(tmp_path / "run", [[0, 1, 5]])
    with h5py.File(shards(tmp_path / "run")[0]) as file:
        meta = json.loads(file["meta"][...].tobytes())
        assert meta["format_version"] == 1
        assert meta["kind"] == "activations"
        assert [spec["key"] for spec in meta["layers"]] == ["fc1", "fc2", "out"]
        assert file["step"][...].tolist() == [0, 1, 5]
        assert file["rows"][...].tolist() == [[0, SAMPLES]]
        assert bits(file["acts/0000"][2]) == bits(values(LAYERS[0], 5))
        assert file["acts/0002"].shape == (3, SAMPLES)
        assert file["metrics"][:, 0].tolist() == [1.0, 0.5, 1 / 6]
        for name in ("meta", "step", "rows", "digests", "acts/0000"):
            assert file[name].id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
            assert file[name].id.get_offset() % 64 == 0


def test_the_same_snapshots_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("infoplane.store._records.uuid.uuid4", lambda: type("U", (), {"hex": "0" * 32}))
    for name in "ab":
        record(tmp_path / name, [[0, 1], [2]])
    for a, b in zip(shards(tmp_path / "a"), shards(tmp_path / "b"), strict=True):
        assert a.name == b.name
        assert a.read_bytes() == b.read_bytes()
    assert (tmp_path / "a/manifest.jsonl").read_bytes() == (tmp_path / "b/manifest.jsonl").read_bytes()
    assert (tmp_path / "a/probe.h5").read_bytes() == (tmp_path / "b/probe.h5").read_bytes()


def test_probe_and_settings_come_back(tmp_path):
    given_ = probe(labels=np.linspace(0, 1, SAMPLES * 2).reshape(SAMPLES, 2), label_names=())
    settings_ = {"model": "mlp", "sizes": [12, 10], "versions": {"torch": "2"}, "x": None, "deep": {"a": 1.5}}
    writer(tmp_path / "run", probe=given_, settings=settings_).close()
    store = open_run(tmp_path / "run")
    for name in ("sample_ids", "input_ids", "repeats", "labels", "part", "inputs"):
        assert np.array_equal(getattr(store.probe, name), getattr(given_, name)), name
    assert store.probe.target == "continuous"
    assert store.probe.part_names == ("train", "test")
    assert store.settings == settings_
    assert store.steps() == []
    assert store.layers == ()
    assert store.metrics() == []


def test_inputs_beyond_the_limit_are_left_out_but_still_identify_the_probe(tmp_path, monkeypatch):
    monkeypatch.setattr("infoplane.store._shard.MAX_INPUT_BYTES", 100)
    writer(tmp_path / "run").close()
    assert open_run(tmp_path / "run").probe.inputs is None
    writer(tmp_path / "run", resume=True).close()
    with pytest.raises(StoreError, match=r"another probe: digest [0-9a-f]{32} there, [0-9a-f]{32} now"):
        writer(tmp_path / "run", resume=True, probe=probe(inputs=np.zeros((SAMPLES, 4), np.float32)))


SHAPES = ((2, 1), (), (1,))


def test_the_shapes_of_inputs_come_back(tmp_path):
    writer(tmp_path / "run", probe=probe(input_shapes=SHAPES)).close()
    found = open_run(tmp_path / "run").probe
    assert found.input_shapes == SHAPES
    assert [a.shape for a in found.shaped_inputs()] == [(SAMPLES, *shape) for shape in SHAPES]
    assert np.array_equal(found.shaped_inputs()[0].reshape(SAMPLES, 2), found.inputs[:, :2])
    assert np.array_equal(found.shaped_inputs()[2], found.inputs[:, 3:])
    (flat,) = probe().shaped_inputs()
    assert np.array_equal(flat, probe().inputs)
    with pytest.raises(ValueError, match="the probe's inputs were not kept"):
        probe(inputs=None, input_shapes=SHAPES).shaped_inputs()


@pytest.mark.parametrize(("first", "then"), [((), SHAPES), (SHAPES, ()), (SHAPES, SHAPES)])
def test_a_run_without_shapes_of_inputs_is_resumed(tmp_path, first, then):
    writer(tmp_path / "run", probe=probe(input_shapes=first)).close()
    writer(tmp_path / "run", probe=probe(input_shapes=then), resume=True).close()
    assert open_run(tmp_path / "run").probe.input_shapes == first


@pytest.mark.parametrize("shapes", [[[3]], [[-4]], [[4.0]], [4], {"x": [4]}, [["4"]], [[True, 4]], None])
def test_shapes_that_do_not_fit_are_refused(tmp_path, shapes, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_shard, "canonical_json", lambda value, *rest: canonical_json(_with(value, shapes), *rest))
        writer(tmp_path / "run").close()
    with pytest.raises(StoreError, match="input_shapes"):
        open_run(tmp_path / "run")


def _with(value, shapes):
    return value | {"input_shapes": shapes} if isinstance(value, dict) and value.get("kind") == "probe" else value


def test_layers_keep_all_their_fields(tmp_path):
    full = Layer(
        key="block#1@out[0]", name="block", depth=3, unit_shape=(2, 2), dtype="float16", module_type="LSTM",
        role="activation", call=1, path="[0]", raw_shape=(2, 2, 9), reduction="mean",
        noise=Noise(std=0.25, kind="multiplicative", clean=False), aliases=("alias", "β"),
    )  # fmt: skip
    with writer(tmp_path / "run") as out:
        out(snapshot(0, (full,)))
    assert open_run(tmp_path / "run").layers == (full,)


ODD_NAMES = [
    "", ".", "..", "a/b", "/abs", "%2F", "\n", "\x00", "a\x1b[31mred", "<img src=x>", "$(rm)", "=1+1", "ß✓😀",
    "\u202eevil", "é", "e\u0301", "\ud800", "x" * 70_000, "acts", "meta", '"', "\\",
]  # fmt: skip


def test_odd_layer_and_metric_names_round_trip(tmp_path):
    layers = tuple(layer(name, (1,), depth=i) for i, name in enumerate(ODD_NAMES))
    metrics = {name: float(i) for i, name in enumerate(ODD_NAMES)}
    per_layer = {(name, "norm"): -float(i) for i, name in enumerate(ODD_NAMES) if name}
    with writer(tmp_path / "run") as out:
        out(snapshot(3, layers, metrics=metrics, layer_metrics=per_layer))
    store = open_run(tmp_path / "run")
    check(store, [3], layers)
    assert [spec.key for spec in store.layers] == ODD_NAMES
    got = {(name, key): value for _, _, name, key, value in store.metrics()}
    assert got == {(n, ""): v for n, v in metrics.items()} | {(m, n): v for (n, m), v in per_layer.items()}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.characters(codec=None)), min_size=1, max_size=4, unique=True))
def test_any_text_is_a_layer_name(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("names") / "run"
    layers = tuple(layer(name, (1,), depth=i) for i, name in enumerate(names))
    with writer(path) as out:
        out(snapshot(0, layers))
    check(open_run(path), [0], layers)


def test_metrics_tell_missing_from_nan(tmp_path):
    with writer(tmp_path / "run") as out:
        out(snapshot(0, metrics={"loss": math.nan}))
        out(snapshot(1, metrics={"accuracy": 0.5}, layer_metrics={("fc1", "norm"): math.inf}))
        out(snapshot(2, metrics={}))
    assert len(shards(tmp_path / "run")) == 1
    got = open_run(tmp_path / "run").metrics()
    assert [(s, e, n, key) for s, e, n, key, _ in got] == [
        (0, 0.0, "loss", ""), (1, 0.5, "accuracy", ""), (1, 0.5, "norm", "fc1"),
    ]  # fmt: skip
    assert math.isnan(got[0][-1])
    assert [v for *_, v in got[1:]] == [0.5, math.inf]


def test_a_snapshot_of_metrics_alone_is_no_step_of_activations(tmp_path):
    with writer(tmp_path / "run") as out:
        out(snapshot(0, ()))
        out(snapshot(1))
    store = open_run(tmp_path / "run")
    assert store.steps() == [1]
    assert [step for step, *_ in store.metrics()] == [0, 1]
    assert store.problems == ()


def test_steps_of_more_digits_than_names_have_room_for_stay_in_order(tmp_path):
    steps = [99_999_999, 100_000_000]
    record(tmp_path / "run", [[step] for step in steps])
    assert [path.name[:9] for path in shards(tmp_path / "run")] == ["100000000", "99999999-"]
    check_clean(tmp_path / "run", steps)


def test_what_is_not_there_is_named(tmp_path):
    record(tmp_path / "run", [[0, 3, 4]])
    store = open_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no layer 'fc3' in run .*; closest: fc2, fc1"):
        store.read("fc3", [0])
    with pytest.raises(ValueError, match=r"no complete snapshot at step 2 in run .*; has 0, 3-4"):
        store.read("fc1", [2])
    with pytest.raises(StoreError, match=r"is not a run directory: no run\.json in it"):
        open_run(tmp_path)
    with pytest.raises(StoreError, match="is not a run directory: not found"):
        open_run(tmp_path / "nothing")


def test_layers_and_shapes_may_change_between_snapshots(tmp_path):
    wide = layer("fc1", (9,))
    with writer(tmp_path / "run") as out:
        out(snapshot(0))
        out(snapshot(1, (wide, LAYERS[1])))
        out(snapshot(2, (wide,)))
    store = open_run(tmp_path / "run")
    assert len(shards(tmp_path / "run")) == 3
    assert store.steps() == store.steps("fc1") == [0, 1, 2]
    assert store.steps("fc2") == [0, 1]
    assert store.steps("out") == [0]
    assert bits(store.read("fc1", [1, 2])[1]) == bits(values(wide, 2))
    with pytest.raises(StoreError, match=r"'fc1' changes between these steps: float32 \(5,\) and float32 \(9,\)"):
        store.read("fc1", [0, 1])
    with pytest.raises(ValueError, match="'out' was not recorded at step 2; it has step 0"):
        store.read("out", [2])


def test_the_source_changes_with_the_content_and_with_the_probe(tmp_path):
    record(tmp_path / "a", [[0, 1]])
    record(tmp_path / "b", [[0], [1]])
    record(tmp_path / "c", [[0]], probe=probe(labels=np.arange(SAMPLES) % 2))
    a, b, c = (open_run(tmp_path / name) for name in "abc")
    assert a.source("fc1", 0) == b.source("fc1", 0)
    assert len({a.source("fc1", 0), a.source("fc1", 1), a.source("fc2", 0), c.source("fc1", 0)}) == 4


# Splits and ranks


def test_a_snapshot_above_the_limit_is_split_by_samples(tmp_path):
    with writer(tmp_path / "run", max_file_bytes=2 * 400, seal_bytes=1) as out:
        for step in range(2):
            out(snapshot(step))
    files = shards(tmp_path / "run")
    assert len(files) > 4
    assert files[0].name == "00000000-00000000.s0001.r000.p00.h5"
    check_clean(tmp_path / "run", [0, 1])
    store = open_run(tmp_path / "run")
    assert [name for _, _, name, _, _ in store.metrics()] == ["loss", "loss"]
    files[1].unlink()
    store = open_run(tmp_path / "run")
    assert store.steps() == [1]
    missing, incomplete = store.problems
    assert missing == Problem(f"shards/{files[1].name}", "missing, though the manifest lists it", (0,))
    assert incomplete.steps == (0,)
    assert incomplete.what.startswith("incomplete: ")
    assert "probe rows missing, the first is" in incomplete.what


def test_a_sample_that_fits_no_file_is_refused_at_the_call(tmp_path):
    with (
        writer(tmp_path / "run", max_file_bytes=100) as out,
        pytest.raises(ValueError, match="one sample of step 0 has 400 bytes, more than the 50 of a file"),
    ):
        out(snapshot(0, (layer("a", (100,)),)))
    assert open_run(tmp_path / "run").steps() == []


def ranks_of(tmp_path, rows: list[np.ndarray], steps: list[list[int]]) -> ActivationStore:
    world = len(rows)
    first = writer(tmp_path / "run", world_size=world)
    others = [writer(tmp_path / "run", rank=rank, world_size=world, session=first.session) for rank in range(1, world)]
    for out, mine, at in zip([first, *others], rows, steps, strict=True):
        for step in at:
            out(snapshot(step, rows=mine))
    for out in [*others, first]:
        out.close()
    return open_run(tmp_path / "run")


def test_ranks_merge_by_probe_row(tmp_path):
    rows = [np.arange(0, 9), np.arange(9, 20), np.arange(20, SAMPLES)]
    store = ranks_of(tmp_path, rows, [[0, 1], [0, 1], [0, 1]])
    check(store, [0, 1])
    assert store.problems == ()
    assert store.verify() == []
    assert store.nonfinite("fc2", 0) == slow_nonfinite(values(LAYERS[1], 0), "bfloat16")
    assert sorted(p.name for p in (tmp_path / "run").glob("*.jsonl")) == [
        "manifest.jsonl", "manifest.r001.jsonl", "manifest.r002.jsonl",
    ]  # fmt: skip


def test_interleaved_and_permuted_rows(tmp_path):
    mixed = np.random.default_rng(0).permutation(SAMPLES)
    store = ranks_of(tmp_path, [np.arange(0, SAMPLES, 2), np.arange(1, SAMPLES, 2)], [[4], [4]])
    check(store, [4])
    with writer(tmp_path / "permuted") as out:
        out(snapshot(0, rows=mixed))
    check(open_run(tmp_path / "permuted"), [0])


def test_a_missing_rank_is_named_and_not_filled(tmp_path):
    rows = [np.arange(0, 8), np.arange(8, 16), np.arange(16, SAMPLES)]
    store = ranks_of(tmp_path, rows, [[0, 1, 2], [0], [0, 2]])
    check(store, [0])
    assert set(store.problems) == {
        Problem("", "incomplete: ranks 1, 2 of 3 missing", (1,)),
        Problem("", "incomplete: rank 1 of 3 missing", (2,)),
    }


def test_rows_present_twice_are_refused(tmp_path):
    store = ranks_of(tmp_path, [np.arange(0, 13), np.arange(12, SAMPLES)], [[0], [0]])
    assert store.steps() == []
    assert store.problems == (Problem("", "probe row 12 is present 2 times", (0,)),)


@given(
    rows=st.lists(st.integers(0, 50), max_size=30, unique=True), cut=st.tuples(st.integers(0, 30), st.integers(0, 30))
)
def test_row_ranges_list_the_rows_in_order(rows, cut):
    ranges = row_ranges(np.array(rows, np.int64))
    assert [r for a, b in ranges.tolist() for r in range(a, b)] == rows
    start, stop = min(cut), max(cut)
    part = cut_ranges(ranges, start, stop)
    assert [r for a, b in part.tolist() for r in range(a, b)] == rows[start:stop]


# Refusals at the call


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 4}, "step 4 does not come after step 4"),
        ({"step": 2}, "step 2 does not come after step 4, the last one of this session"),
        ({"step": -1}, "step must be 0 or above, got -1"),
        ({"arrays": {}}, "snapshot 5 has no array for layer 'fc1'"),
        ({"layers": (layer("fc1", (6,)),)}, r"layer 'fc1' must have shape \(24, 6\), got \(24, 5\)"),
        ({"layers": (layer("fc1", (5,), "float64"),)}, "layer 'fc1' is float64 and needs float64 arrays, got float32"),
        ({"layers": (layer("fc1", (5,), "complex64"),)}, "dtype 'complex64', which cannot be stored"),
        ({"layers": (LAYERS[0], LAYERS[0])}, "two layers have the key 'fc1'"),
        ({"rows": np.array([0, 1, 1])}, r"rows must be distinct and lie in 0\.\.23"),
        ({"rows": np.array([0, 24])}, r"rows must be distinct and lie in 0\.\.23"),
        ({"rows": np.array([0.5])}, "rows must be a vector of probe rows, got float64"),
        ({"metrics": {"loss": "low"}}, "metric 'loss' must be a number, got 'low'"),
    ],
)  # fmt: skip
def test_a_snapshot_that_does_not_fit_is_refused_and_costs_nothing(tmp_path, changes, message):
    with writer(tmp_path / "run") as out:
        out(snapshot(4))
        with pytest.raises(ValueError, match=message):
            out(dataclasses.replace(snapshot(5), **changes))
        out(snapshot(6))
    check_clean(tmp_path / "run", [4, 6])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe": probe(0, inputs=None)}, "the probe has no samples"),
        ({"probe": probe(labels=np.arange(5))}, r"probe\.labels must have 24 rows, got shape \(5,\)"),
        ({"probe": probe(part=np.full(SAMPLES, 2))}, r"probe\.part must index the 2 names in part_names, got 2\.\.2"),
        ({"probe": probe(inputs=np.zeros((3, 2)))}, r"probe\.inputs must have 24 rows"),
        ({"settings": {"lr": math.nan}}, "settings cannot be written as JSON"),
        ({"rank": 2, "world_size": 2}, r"rank must lie in 0\.\.world_size-1, got rank 2 of 2"),
        ({"on_error": "ignore"}, "on_error must be 'warn' or 'raise', got 'ignore'"),
        ({"max_file_bytes": 1 << 40}, r"max_file_bytes must lie in 1\.\.268435456"),
    ],
)  # fmt: skip
def test_a_writer_that_makes_no_sense_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        writer(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_settings_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(TypeError, match="settings cannot be written as JSON: Object of type"):
        StoreWriter(tmp_path / "run", probe=probe(), settings={"model": object()})
