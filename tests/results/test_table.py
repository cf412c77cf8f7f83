from __future__ import annotations

import csv
import gc
import io
import json
import math
import multiprocessing
import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoplane.results import COLUMNS, ResultTable, Row, TableWriter, read_table
from infoplane.results._csv import HEADER, format_rows, format_text, parse_table, parse_text


def row(**changes):
    base = {
        "run": "r1",
        "step": 0,
        "epoch": 0.0,
        "layer": "fc1",
        "depth": 0,
        "subset": "all",
        "estimator": "binning",
        "config": '{"n_bins":30}',
        "n_samples": 100,
        "n_units": 3,
        "quantity": "I(X;T)",
        "value": 1.5,
        "source": "aa",
    }
    return Row(**{**base, **changes})


def plane_rows(steps=(0, 1), layers=("fc1", "fc2"), run="r1", x=None, **changes):
    out = []
    for step in steps:
        for depth, layer in enumerate(layers):
            value = 5.0 - depth if x is None else x[step][depth]
            shared = {"run": run, "step": step, "layer": layer, "depth": depth, **changes}
            out.append(row(quantity="I(X;T)", value=value, ceiling=6.0, **shared))
            out.append(row(quantity="I(T;Y)", value=0.1 * depth, ceiling=1.0, **shared))
            out.append(row(quantity="I(T;Y) null", value=0.05, low=0.01, high=0.09, **shared))
    return out


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.csv"


# Text and numbers survive


@settings(max_examples=400, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=12))
def test_any_text_survives_on_one_line_and_starts_no_formula(text):
    cell = format_text(text)
    assert "\n" not in cell
    assert "\r" not in cell
    cell.encode()
    (read,) = next(csv.reader(io.StringIO(cell + ",\n")))[:1]
    assert read[:1] not in set("=+-@\t\r")
    assert parse_text(read) == text


NAMES = [
    "=HYPERLINK(1)",
    "'quoted",
    "a,b",
    'say "x"',
    "two\nlines",
    "\x1b[31mred",
    "back\\slash\\n",
    "\u202egnp",
    "lone \ud800",
    "",
    " padded ",
    "-1",
    "é",
    "é",
]


def test_names_survive_in_a_table(path):
    rows = [row(layer=name, run=name, step=i) for i, name in enumerate(NAMES)]
    ResultTable.from_rows(rows).write(path)
    assert format_rows(ResultTable.read(path)) == format_rows(rows)
    assert ResultTable.read(path).layer.tolist() == NAMES
    data = path.read_bytes()
    assert data.count(b"\n") == len(NAMES) + 1
    assert b"\x1b" not in data


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False))
def test_floats_survive_exactly(tmp_path_factory, value):
    data = HEADER + format_rows([row(value=value)])
    read = parse_table(data, tmp_path_factory.getbasetemp())["value"][0]
    assert read == value
    assert math.copysign(1, read) == math.copysign(1, value)


def test_random_doubles_survive_exactly(path):
    """Of all exponents, subnormal ones and the ends of the range among them, in each column of numbers."""
    draw = np.random.default_rng(0)
    values = draw.integers(0, 2**64, 20_000, dtype=np.uint64).view(np.float64)
    small = draw.integers(0, 2**52, 2_000, dtype=np.uint64).view(np.float64)
    ends = [-0.0, 0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308, math.inf]
    values = np.concatenate([values[np.isfinite(values)], small, -small, ends, draw.random(2_000)])
    rows = [row(value=v, low=v, high=-v, ceiling=v, epoch=v) for v in values.tolist()]
    ResultTable.from_rows(rows).write(path)
    table = ResultTable.read(path)
    for name, wanted in (("value", values), ("low", values), ("high", -values), ("ceiling", values), ("epoch", values)):
        np.testing.assert_array_equal(table[name].view(np.uint64), wanted.view(np.uint64))


def test_names_that_read_like_something_else_stay_names(path):
    names = [
        "NA",
        "nan",
        "NaN",
        "null",
        "None",
        "N/A",
        "<NA>",
        "",
        "1e5",
        "007",
        "1.0",
        "inf",
        "True",
        " x",
        "#NA",
        "|",
    ]
    texts = [c for c in COLUMNS if isinstance(getattr(row(), c), str)]
    rows = [row(step=i, **dict.fromkeys(texts, name)) for i, name in enumerate(names)]
    ResultTable.from_rows(rows).write(path)
    table = ResultTable.read(path)
    for name in texts:
        assert table[name].tolist() == names
        assert {type(text) for text in table[name]} == {str}
        assert table.df[name].tolist() == names
    assert len(table.select(layer="NA")) == 1


def test_nan_is_an_empty_cell(path):
    ResultTable.from_rows([row(value=float("nan"), flags="nonfinite")]).write(path)
    record = next(csv.DictReader(path.read_text().splitlines()))
    assert record["value"] == ""
    assert record["flags"] == "nonfinite"
    assert math.isnan(ResultTable.read(path).value[0])


# Files


def test_columns_and_order_are_the_documented_ones(path):
    ResultTable.from_rows([row()]).write(path)
    assert path.read_text().splitlines()[0] == (
        "run,step,epoch,layer,depth,subset,estimator,config,n_samples,n_units,quantity,estimand,value,low,high,"
        "bound,ceiling,unit,flags,source,partner"
    )


def test_written_and_appended_files_are_equal(tmp_path):
    rows = plane_rows()
    ResultTable.from_rows(rows).write(tmp_path / "a.csv")
    for i in range(0, len(rows), 5):
        ResultTable.append(tmp_path / "b.csv", rows[i : i + 5])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_run_directory_stands_for_its_table(tmp_path):
    ResultTable.from_rows([row()], {"runs": {"r1": {"n": 3}}}).write(tmp_path)
    table = read_table(tmp_path)
    assert len(table) == 1
    assert table.meta["runs"]["r1"]["n"] == 3
    assert (tmp_path / "results.csv").exists()


def test_every_truncation_reads_as_the_whole_rows_before_it(path):
    rows = plane_rows(steps=(0,))
    ResultTable.append(path, rows)
    path.with_suffix(".json").unlink()
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        table = ResultTable.read(path)
        assert len(table) == max(0, data[:length].count(b"\n") - 1)
        assert list(format_rows(table)) == list(format_rows(rows[: len(table)]))
        with TableWriter(path) as writer:
            writer.append(rows[len(table) :])
        assert path.read_bytes() == data
        path.with_suffix(".json").unlink()


def test_missing_column_is_named(path):
    ResultTable.from_rows([row()]).write(path)
    text = path.read_text().replace(",ceiling,", ",").replace(",source", "")
    path.write_text(text)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"columns ceiling, source missing, got run, step.*expected run, step"):
        ResultTable.read(path)
    with pytest.raises(ValueError, match="columns ceiling, source missing"):
        ResultTable.append(path, [row()])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,b", "line 3 has 2 fields, expected 21"),
        (format_rows([row()]).decode().strip() + ",more", "line 3 has 22 fields, expected 21"),
        (format_rows([row()]).decode().strip().removesuffix(","), "line 3 has 20 fields, expected 21"),
        ("", "line 3 has 0 fields, expected 21"),
        (format_rows([row()]).decode().strip().replace('30}"', '30}"x'), "line 3: ',' expected after '\"'"),
        (format_rows([row()]).decode().strip().replace("fc1", "f\0"), "line 3 holds a NUL character"),
        (
            format_rows([row()]).decode().strip().replace(",1.5,", ",1.5bit,"),
            "line 3: value must be a number, got '1.5bit'",
        ),
        (
            format_rows([row()]).decode().strip().replace("r1,0,", "r1,0.5,"),
            "line 3: step must be an integer, got '0.5'",
        ),
    ],
)
def test_damaged_line_is_named(path, line, message):
    path.write_bytes(HEADER + format_rows([row()]) + line.encode() + b"\n")
    with pytest.raises(ValueError, match=message):
        ResultTable.read(path)


def test_a_first_line_with_too_many_fields_is_named(path):
    path.write_bytes(HEADER + format_rows([row()]).replace(b",aa", b",aa,more"))
    with pytest.raises(ValueError, match="line 2 has 22 fields, expected 21"):
        ResultTable.read(path)


def test_lines_may_end_as_on_windows(path):
    path.write_bytes((HEADER + format_rows([row(), row(step=1)])).replace(b"\n", b"\r\n"))
    assert list(format_rows(ResultTable.read(path))) == list(format_rows([row(), row(step=1)]))


def test_other_column_order_is_read_but_not_appended_to(path):
    order = list(reversed(COLUMNS))
    values = dict(zip(COLUMNS, next(csv.reader(io.StringIO(format_rows([row()]).decode()))), strict=True))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[*order, "note"], [*(values[c] for c in order), "mine"]])
    assert next(iter(ResultTable.read(path))).layer == "fc1"
    with pytest.raises(ValueError, match="other columns or another order"):
        ResultTable.append(path, [row()])


def test_changed_number_is_found_out(path):
    ResultTable.append(path, plane_rows())
    data = path.read_bytes()
    path.write_bytes(data.replace(b"5.0", b"4.0", 1))
    with pytest.raises(ValueError, match=r"changed after it was written.*verify=False"):
        ResultTable.read(path)
    with pytest.raises(ValueError, match="changed after it was written"):
        ResultTable.append(path, [row()])
    assert ResultTable.read(path, verify=False).value[0] == 4.0
    path.with_suffix(".json").unlink()  # what the message advises, from the command line too
    assert ResultTable.read(path).value[0] == 4.0


@pytest.mark.parametrize("text", ['{"runs": {}, "runs": {}}', '{"runs": {"a": {"n": 1, "n": 2}}}'])
def test_a_key_that_is_twice_in_the_settings_is_refused(path, text):
    ResultTable.append(path, plane_rows())
    path.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"the key '(runs|n)' is there twice; delete it, and analyse again"):
        ResultTable.read(path)


def test_settings_of_giant_size_are_not_read(path):
    ResultTable.append(path, plane_rows())
    os.truncate(path.with_suffix(".json"), 2**40)
    with pytest.raises(ValueError, match=rf"has {2**40} bytes, at most {2**28} expected"):
        ResultTable.read(path)


def test_missing_table_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="analyse the run first"):
        ResultTable.read(tmp_path)


def test_meta_must_be_strict_json(path):
    ResultTable.from_rows([row()]).write(path)
    path.with_suffix(".json").write_text('{"a": NaN}')
    with pytest.raises(ValueError, match="NaN is not JSON"):
        ResultTable.read(path)


def _hold(path, ready, go):
    with TableWriter(path):
        ready.set()
        go.wait(30)


def test_second_writer_is_refused_until_the_first_is_done(path):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, ready, go))
    other.start()
    try:
        assert ready.wait(60)
        refused = f"process {other.pid} is writing this results table; wait for it, stop it, or"
        with pytest.raises(BlockingIOError, match=refused):
            ResultTable.append(path, [row()])
        with pytest.raises(BlockingIOError, match=refused):
            ResultTable.from_rows([row()]).write(path)
    finally:
        go.set()
        other.join(30)
    ResultTable.append(path, [row()])
    assert len(ResultTable.read(path)) == 1


def test_lock_of_a_killed_writer_is_gone(path):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, ready, go))
    other.start()
    assert ready.wait(60)
    other.kill()
    other.join(30)
    ResultTable.append(path, [row()])
    assert len(ResultTable.read(path)) == 1


def test_the_lock_is_a_file_that_names_its_owner(path):
    lock = path.with_name("results.csv.lock")
    with TableWriter(path) as writer:
        assert json.loads(lock.read_bytes())["pid"] == os.getpid()
        with pytest.raises(BlockingIOError, match=r"another writer of this process \(\d+\) is writing .*close it"):
            TableWriter(path)
        writer.append([row()])
    assert not lock.exists()
    assert len(ResultTable.read(path)) == 1


def test_the_lock_of_another_host_is_left_to_the_user(path):
    lock = path.with_name("results.csv.lock")
    lock.write_text('{"host": "elsewhere", "pid": 7}')
    with pytest.raises(BlockingIOError, match=r"process 7 on host elsewhere is writing .*remove results\.csv\.lock"):
        ResultTable.append(path, [row()])
    assert not path.exists()
    lock.unlink()
    ResultTable.append(path, [row()])


def test_a_writer_that_was_lost_in_this_process_does_not_keep_the_lock(path):
    """An interrupt can take a writer from its owner before it can be closed."""
    TableWriter(path)._file.close()
    gc.collect()
    assert path.with_name("results.csv.lock").exists()
    ResultTable.append(path, [row()])
    assert not path.with_name("results.csv.lock").exists()


def test_failed_write_keeps_what_was_there(path, monkeypatch):
    ResultTable.append(path, plane_rows())
    before = path.read_bytes()
    writer = TableWriter(path)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        writer.append([row(step=9)])
    monkeypatch.undo()
    writer.close()
    assert path.read_bytes()[: len(before)] == before
    assert len(ResultTable.read(path)) >= 12


def test_a_table_cut_short_reads_as_its_whole_rows(path):
    ResultTable.append(path, plane_rows())
    path.write_bytes(path.read_bytes()[:-40])
    assert len(ResultTable.read(path)) == len(plane_rows()) - 1
    with TableWriter(path) as writer:
        assert writer.unsealed


def test_unsealed_tells_a_killed_writer_from_a_closed_one(path):
    with TableWriter(path) as writer:
        assert not writer.columns["run"].size
        writer.append([row()])
    with TableWriter(path) as writer:
        assert not writer.unsealed
    with path.open("ab") as file:
        file.write(format_rows([row(step=1)]))
    with TableWriter(path) as writer:
        assert writer.unsealed


def test_loading_grows_with_the_rows_and_not_faster(path):
    rows = [row(step=s, layer=f"fc{d}", depth=d, value=s + d / 7) for s in range(1000) for d in range(10)]
    times = []
    for copies in (1, 12):
        data = HEADER + b"".join([format_rows(rows)] * copies)
        start = time.process_time()
        table = ResultTable(parse_table(data, path))
        times.append(time.process_time() - start)
    assert len(table) == 120_000
    assert times[1] < 12 * 4 * times[0]  # a copy of the rows for every row would be 144 times


# Rows


def test_columns_are_typed_and_reached_by_name():
    table = ResultTable.from_rows(plane_rows())
    assert table.step.dtype == np.int64
    assert table["value"].dtype == np.float64
    assert table.layer.dtype == object
    with pytest.raises(KeyError, match="no column 'vlaue'"):
        table["vlaue"]
    with pytest.raises(AttributeError, match="no attribute 'vlaue'"):
        table.vlaue  # noqa: B018
    empty = ResultTable.from_rows([])
    assert len(empty) == 0
    assert empty.step.dtype == np.int64


def test_the_frame_holds_the_rows():
    table = ResultTable.from_rows(plane_rows())
    assert tuple(table.df.columns) == COLUMNS
    assert table.df["value"].dtype == np.float64
    assert table.df.index.tolist() == list(range(12))
    chosen = table.select(layer="fc2")
    assert chosen.df.index.tolist() == list(range(6))
    assert chosen.df["layer"].tolist() == ["fc2"] * 6


def test_an_unknown_column_to_select_by_is_named():
    with pytest.raises(TypeError, match=r"select takes .*layer.*, got 'layr'"):
        ResultTable.from_rows([row()]).select(layr="fc1")


def test_unequal_columns_are_refused():
    columns = {c: ResultTable.from_rows([row()])[c] for c in COLUMNS}
    with pytest.raises(ValueError, match=r"column value must have shape \(1,\)"):
        ResultTable({**columns, "value": np.zeros(2)})
    columns.pop("ceiling")
    with pytest.raises(ValueError, match="missing: ceiling"):
        ResultTable(columns)


def test_select_by_value_glob_list_and_step():
    table = ResultTable.from_rows(plane_rows(layers=("fc1", "fc2", "lstm@out[0]")))
    assert set(table.select(layer="fc*").layer) == {"fc1", "fc2"}
    assert set(table.select(layer="lstm@out[0]").layer) == {"lstm@out[0]"}
    assert len(table.select(quantity=["I(X;T)", "I(T;Y)"], step=1)) == 6
    assert len(table.select(step=range(2))) == len(table)
    assert len(table.select(step=[7])) == 0
    assert len(table.select(layer="none*")) == 0
    assert len(table.take([]).select(layer="none")) == 0


def test_flag_matches_whole_names():
    table = ResultTable.from_rows([row(flags="saturated;ties"), row(flags="ties"), row()])
    assert table.flag("ties").tolist() == [True, True, False]
    assert table.flag("satur").tolist() == [False, False, False]


def test_settings_leave_out_what_prepare_found():
    table = ResultTable.from_rows([row(config='{"n_bins":30,"prepared":{"edges":[-1.0,2.5]}}'), row()])
    assert table.settings.tolist() == ['{"n_bins":30}', '{"n_bins":30}']


def test_current_takes_the_last_written_of_changed_sources_and_ranges():
    rows = [
        row(value=1.0),
        row(value=2.0, source="bb"),
        row(step=1, value=3.0, config='{"n_bins":30,"prepared":{"edges":[0.0,1.0]}}'),
        row(step=1, value=4.0, config='{"n_bins":30,"prepared":{"edges":[0.0,2.0]}}'),
        row(step=1, value=5.0, config='{"n_bins":60}'),
    ]
    assert ResultTable.from_rows(rows).current().value.tolist() == [2.0, 4.0, 5.0]


def test_concat_keeps_both_runs_and_their_meta():
    a = ResultTable.from_rows([row(run="a")], {"runs": {"a": {"n": 1}}})
    b = ResultTable.from_rows([row(run="b")], {"runs": {"b": {"n": 2}}})
    both = ResultTable.concat([a, b])
    assert both.run.tolist() == ["a", "b"]
    assert both.meta["runs"] == {"a": {"n": 1}, "b": {"n": 2}}


def test_repr_and_html_escape():
    table = ResultTable.from_rows([row(layer="<script>alert(1)</script>\x1b[2J") for _ in range(30)])
    assert "\x1b" not in repr(table)
    page = table._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "… 10 rows …" in page
    assert repr(table).startswith("ResultTable: 30 rows")


def test_dataframe_has_the_columns():
    frame = ResultTable.from_rows(plane_rows()).to_dataframe()
    assert tuple(frame.columns) == COLUMNS
    assert frame["value"].dtype == np.float64
    assert len(frame) == 12


@pytest.mark.extra
def test_xarray_puts_every_value_in_its_place():
    pytest.importorskip("xarray")
    table = ResultTable.from_rows(plane_rows(steps=(3, 1)))
    data = table.to_xarray()
    for r in table:
        where = {
            "run": r.run,
            "estimator": r.estimator,
            "settings": r.config,
            "subset": r.subset,
            "quantity": r.quantity,
            "layer": r.layer,
            "step": r.step,
        }
        assert float(data["value"].sel(where)) == r.value
    assert data["step"].values.tolist() == [1, 3]


def test_meta_survives(path):
    meta = {"runs": {"r1": {"chain": True, "h_y": 0.99915}}, "estimators": {}}
    ResultTable.from_rows([row()], meta).write(path)
    read = ResultTable.read(path).meta
    assert {k: read[k] for k in meta} == meta
    assert json.loads(path.with_suffix(".json").read_text())["table"]["bytes"] == path.stat().st_size


@pytest.mark.timeout(20)
def test_only_a_regular_file_is_read(path):
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is not a regular file"):
        read_table(path)
    path.unlink()
    ResultTable.from_rows([row()]).write(path)
    meta = path.with_suffix(".json")
    meta.unlink()
    meta.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_table(path)


def test_an_altered_table_is_named_in_one_line(path):
    ResultTable.from_rows([row()]).write(path)
    meta = path.with_suffix(".json")
    meta.write_text(json.dumps({"table": {"bytes": "1\n\x1b[31m" + "x" * 1000, "blake2b": "0"}}))
    with pytest.raises(ValueError, match="was changed after it was written") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(path), "")) < 300
