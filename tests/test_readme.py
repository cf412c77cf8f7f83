"""What the README shows is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from infoplane import estimators
from infoplane.cli import main
from infoplane.results import read_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_program_of_the_readme_makes_its_figure_and_its_commands_run(tmp_path, monkeypatch):
    (program,) = re.findall(r"```python\n(.*?)```", README, re.S)
    shown = [line for line in program.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(shown) <= 15
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {})
    assert (tmp_path / "plane.pdf").read_bytes().startswith(b"%PDF")
    points = read_table(tmp_path / "runs/digits").select(quantity="I(X;T)")
    assert points.flag("saturated").mean() < 0.2, "the first figure that a user sees shows something"
    commands = re.findall(r"^    infoplane (.*)$", README, re.M)
    assert len(commands) == 5
    for command in commands:
        outcome = CliRunner().invoke(main, ["-q", *command.split()])
        assert outcome.exit_code == 0, (command, outcome.output)


@pytest.mark.parametrize("ending", ["infoplane demo", "python -m pytest -n auto"])
def test_each_command_is_one_line_that_the_full_check_finds(ending):
    lines = [line for line in README.splitlines() if line.startswith("    python3 -m venv") and line.endswith(ending)]
    assert len(lines) == 1
    assert "-c constraints.txt" in lines[0]


def test_every_estimator_has_a_row_in_the_table():
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", README, re.M)
    assert sorted(rows) == sorted(estimators.available())


def test_links_and_figures_exist():
    targets = set(re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README))
    for target in targets:
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    pages = ["recording", "guides/index", "results", "figures", "gallery", "methods", "experiments", "format"]
    assert {
        *(f"docs/{page}.md" for page in pages),
        "benchmarks/README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    } <= targets


def test_it_is_read_in_three_minutes():
    """What is longer belongs to a page of its own, to which a line here leads. Each estimator has one line more."""
    lines = [line for line in README.splitlines() if not line.startswith("| `")]
    assert len(lines) <= 96
