"""A run of every released format stays readable, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from make_format_run import describe, make

from infoplane.store import FORMAT_VERSION, open_run

DATA = Path(__file__).parent.parent / "data"


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_a_run_of_an_old_format_is_read(version):
    path = DATA / f"format-{version}"
    store = open_run(path / "run")
    assert describe(store) == json.loads((path / "expected.json").read_text())
    assert store.problems == ()
    assert store.verify() == []
    raw = json.loads((path / "run/run.json").read_bytes())
    assert raw["format_version"] == version


def test_the_kept_run_has_what_it_is_kept_for(tmp_path):
    """A run made now has the same shape; the numbers of the kept one may come from another numpy."""
    make(tmp_path)
    now = json.loads((tmp_path / "expected.json").read_text())
    kept = json.loads((DATA / f"format-{FORMAT_VERSION}/expected.json").read_text())
    for what in ("layers", "steps", "metrics", "sessions", "settings", "labels", "parts", "problems"):
        assert now[what] == kept[what], what
    names = sorted(p.name for p in (tmp_path / "run/shards").iterdir())
    assert names == sorted(p.name for p in (DATA / f"format-{FORMAT_VERSION}/run/shards").iterdir())
    assert sum("p0" in name for name in names) > 1
    assert {spec["dtype"] for spec in now["layers"]} == {"float32", "bfloat16", "bool", "int64", "float16"}
