"""Tables of released versions are read forever. The file is never written again; a new format gets a new one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from infoplane.results import ResultTable, Row

DATA = Path(__file__).parents[1] / "data"
FOLDER = DATA / "results-0.1"
PAIRS = DATA / "results-0.1-pairs"
CONFIG = '{"n_bins":30,"prepared":{"run_range":[-0.9990234375,1.0]},"range":"layer"}'
META = {"runs": {"r1": {"chain": True, "h_y": 0.9991571208502711, "layers": []}}, "versions": {"infoplane": "0.1.0"}}
GOLDEN = [
    Row("r1", 0, 0.0, "", -1, "all", "recorded", "{}", 0, 0, "loss", value=0.1 + 0.2, unit="", source="0" * 32),
    Row(
        "r1", 0, 0.0, "fc1", 0, "all", "binning", CONFIG, 4096, 10, "I(X;T)", "binned",
        12.0, bound="point", ceiling=12.0, flags="saturated", source="1" * 32,
    ),
    Row(
        "r1", 0, 0.0, "fc1", 0, "all", "binning", CONFIG, 4096, 10, "I(T;Y)", "",
        0.9991571208502711, 0.99, 1.0, "point", 0.9991571208502711, "bit", "below_null;saturated", "1" * 32,
    ),
    Row(
        "r1", 7, float("nan"), '=1+1, "x"\n\x1b[0m\\', 1, "train&class=3", "kde", "{}", 5, 2**40, "I(X;T) lower",
        "noisy-finite", 5e-324, -1e308, float("inf"), "lower", source="2" * 32,
    ),
    Row("r1", 8, 4.0, "fc1", 0, "all", "kde", "{}", 5, 1, "I(X;T)", flags="nonfinite", source="3" * 32),
]  # fmt: skip


PAIR = Row(
    "r1", 8, 4.0, "fc1", 0, "all", "hsic", "{}", 5, 1, "nHSIC(T;T')", value=0.5, unit="nHSIC",
    source="4" * 32, partner="fc1@step=7",
)  # fmt: skip


@pytest.mark.parametrize(("folder", "rows"), [(FOLDER, GOLDEN), (PAIRS, [*GOLDEN, PAIR])])
def test_table_of_0_1_is_read(folder, rows):
    table = ResultTable.read(folder)
    assert list(map(repr, table)) == list(map(repr, rows))
    assert {k: v for k, v in table.meta.items() if k != "table"} == META


def test_table_of_0_1_is_still_what_is_written(tmp_path):
    ResultTable.from_rows([*GOLDEN, PAIR], META).write(tmp_path / "results.csv")
    for name in ("results.csv", "results.json"):
        assert (tmp_path / name).read_bytes() == (PAIRS / name).read_bytes()


def test_a_table_without_the_last_column_is_appended_to_in_the_new_form(tmp_path):
    """The rows that are there are written anew, once; with the new one it is the table that the release writes."""
    shutil.copytree(FOLDER, tmp_path / "copy")
    ResultTable.append(tmp_path / "copy", [PAIR])
    for name in ("results.csv", "results.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (PAIRS / name).read_bytes()


@pytest.mark.parametrize("call", range(3))
def test_a_stop_while_an_older_table_is_written_anew_leaves_a_whole_one(tmp_path, monkeypatch, call):
    """Stopped before each of the renames: of the settings, of the table, and of the settings at the end."""
    shutil.copytree(FOLDER, tmp_path / "copy")
    renamed, real = [], os.replace

    def replace(source, target):
        if len(renamed) == call:
            raise KeyboardInterrupt
        renamed.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        ResultTable.append(tmp_path / "copy", [PAIR])
    monkeypatch.undo()
    kept = [*GOLDEN, PAIR] if call == 2 else GOLDEN
    assert list(map(repr, ResultTable.read(tmp_path / "copy"))) == list(map(repr, kept))
    old = (tmp_path / "copy" / "results.csv").read_bytes() == (FOLDER / "results.csv").read_bytes()
    assert old == (call < 2)
    if call < 2:
        ResultTable.append(tmp_path / "copy", [PAIR])
    assert (tmp_path / "copy" / "results.csv").read_bytes() == (PAIRS / "results.csv").read_bytes()


def test_a_torn_last_line_of_an_older_table_is_dropped(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "copy")
    csv = tmp_path / "copy" / "results.csv"
    csv.write_bytes(csv.read_bytes() + b"r1,9,4.5,fc1,0,al")
    ResultTable.append(tmp_path / "copy", [PAIR])
    assert csv.read_bytes() == (PAIRS / "results.csv").read_bytes()


def test_altered_copy_is_refused(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "copy")
    csv = tmp_path / "copy" / "results.csv"
    csv.write_bytes(csv.read_bytes().replace(b",12.0,", b",11.0,", 1))
    with pytest.raises(ValueError, match="changed after it was written"):
        ResultTable.read(csv)


def test_no_flipped_bit_is_read_as_a_result(tmp_path):
    """Of every bit of the table; without its JSON there is nothing to compare with, but it never crashes."""
    shutil.copytree(FOLDER, tmp_path / "copy")
    csv = tmp_path / "copy" / "results.csv"
    data = csv.read_bytes()
    for bit in range(0, 8 * len(data), 3):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        csv.write_bytes(altered)
        with pytest.raises(ValueError, match="changed after it was written"):
            ResultTable.read(csv)
        try:
            assert len(ResultTable.read(csv, verify=False)) <= len(GOLDEN) + 1
        except ValueError as error:
            assert str(csv) in str(error)  # noqa: PT017
