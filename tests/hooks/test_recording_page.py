"""The code of docs/recording.md runs, and leaves the runs it names."""

import contextlib
import re
from pathlib import Path

import pytest

import infoplane

PAGE = Path(__file__).parents[2] / "docs" / "recording.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 11
    names = {}
    for block in blocks:
        with pytest.warns(UserWarning, match="not recorded") if "class Mixture" in block else contextlib.nullcontext():
            exec(compile(block, str(PAGE), "exec"), names)
    out = capsys.readouterr().out
    assert "Sequential" in out
    assert "Noise(std=0.1" in out
    said = " ".join(PAGE.read_text().split())
    assert out.split("\n['1: ")[1].splitlines()[0] in said
    assert "['0[token=7]']" in out
    assert "note: layer 'second': was not called (step 1)\n[0] [0, 1]\n" in out
    steps = {p.name: infoplane.open_run(p).steps() for p in Path("runs").iterdir() if (p / "run.json").exists()}
    collections = [f"{name}-{i}" for name in ("moments", "seed") for i in range(3)]
    assert sorted(steps) == ["a", "b", "blocks", "c", "d", "mixture", *collections, "tokens"]
    assert steps["a"] == list(names["log_spaced"](20, 40).plan(40))
    assert steps["d"] == [0, 1, 2, 3]
    metrics = {n for s, _, n, layer, _ in infoplane.open_run("runs/d").metrics() if layer == "0" and s}
    assert metrics == {"gradient_mean_norm", "gradient_steps", "weight_norm"}  # one step an epoch has no spread
    stored = [infoplane.open_run(f"runs/moments-{i}").metrics() for i in range(3)]
    spreads = [[v for _, _, n, layer, v in rows if (n, layer) == ("gradient_std_norm", "4")] for rows in stored]
    assert len({tuple(v) for v in spreads}) == 3
    assert all(len(v) == 2 for v in spreads)
    assert infoplane.open_run("runs/c").probe.samples == 300 + 50 * 20
