"""The code of docs/recording.md runs, and leaves the runs it names."""

import re
from pathlib import Path

import infoplane

PAGE = Path(__file__).parents[2] / "docs" / "recording.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 7
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    out = capsys.readouterr().out
    assert "Sequential" in out
    assert "Noise(std=0.1" in out
    steps = {p.name: infoplane.open_run(p).steps() for p in Path("runs").iterdir() if (p / "run.json").exists()}
    assert sorted(steps) == ["a", "b", "c", "d", "seed-0", "seed-1", "seed-2"]
    assert steps["a"] == list(names["log_spaced"](20, 40).plan(40))
    assert steps["d"] == [0, 1, 2, 3]
    metrics = {n for s, _, n, layer, _ in infoplane.open_run("runs/d").metrics() if layer == "0" and s}
    assert metrics == {"gradient_mean_norm", "gradient_steps", "weight_norm"}  # one step an epoch has no spread
    assert infoplane.open_run("runs/c").probe.samples == 300 + 50 * 20
