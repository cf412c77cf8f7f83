"""Tables of released versions are read forever. The file is never written again; a new format gets a new one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infoplane.results import ResultTable, Row

FOLDER = Path(__file__).parents[1] / "data" / "results-0.1"
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


def test_table_of_0_1_is_read(tmp_path):
    table = ResultTable.read(FOLDER)
    assert list(map(repr, table)) == list(map(repr, GOLDEN))
    assert {k: v for k, v in table.meta.items() if k != "table"} == META


def test_table_of_0_1_is_still_what_is_written(tmp_path):
    ResultTable.from_rows(GOLDEN, META).write(tmp_path / "results.csv")
    for name in ("results.csv", "results.json"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


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
