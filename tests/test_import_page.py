"""The code and the commands of docs/guides/import.md run, from top to bottom."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

import infoplane
from infoplane.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "import.md"


def words(line: str) -> list[str]:
    """A command as a shell takes it apart."""
    return [found for word in shlex.split(line) for found in sorted(map(str, Path().glob(word))) or [word]]


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for kind, block in re.findall(r"```(python|console)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        if kind == "python":
            exec(compile(block, str(PAGE), "exec"), names)
            continue
        for line in block.replace("\\\n", " ").splitlines():
            assert line.startswith("$ infoplane ")
            outcome = CliRunner().invoke(main, ["-q", *words(line)[2:]])
            assert outcome.exit_code == 0, (line, outcome.output)
    assert capsys.readouterr().out == "[0, 10, 100] ['fc1', 'out']\n"
    runs = {path.name: infoplane.open_run(path) for path in Path("runs").iterdir()}
    assert sorted(runs) == ["arrays", "hdf5", "matlab", "more", "theirs"]
    assert all(run.steps() == [0, 10, 100] for run in runs.values())
    assert {run.probe.target for run in runs.values()} == {"discrete"}
    assert runs["more"].probe.part_names == ("train", "test")
    assert [layer.role for layer in runs["more"].layers] == ["activation", "output"]
    assert [value for *_, value in runs["matlab"].metrics()] == [1.1, 0.9, 0.4]
    assert Path("plane.pdf").read_bytes().startswith(b"%PDF")


def test_every_option_of_the_command_stands_on_the_page():
    options = {word for one in main.commands["import"].params for word in one.opts if word.startswith("--")}
    missing = sorted(word for word in options - {"--out"} if f"`{word}" not in PAGE.read_text())
    assert not missing
