"""The command line takes what figures take, and its errors speak of its own options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from analysis_cases import make_run
from click.testing import CliRunner

from infoplane import cli


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.main, ["-q", *map(str, words)])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result.output + result.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = [make_run(folder / f"seed-{i}", seed=i) for i in range(2)]
    call("estimate", *made, "-e", "binning:n_bins=4", "-e", "binning:n_bins=8")
    return made


def drawn(out: Path) -> str:
    return " ".join(out.read_text().split())


def test_a_figure_is_drawn_as_the_options_say(runs, tmp_path):
    out = tmp_path / "p.svg"
    choice = ["-e", "binning:n_bins=4", "--run", "seed-1"]
    call("plot", *runs, *choice, "-o", out, "--title", "Both & mine", "--against", "epoch", "--log")
    text = drawn(out)
    assert "Both &amp; mine" in text
    assert ">epoch<" in text
    assert ">run seed-1<" in text or "run seed-1" in text.partition("</metadata>")[2]
    call("plot", *runs, *choice, "-o", out, "--no-caption")
    assert "run seed-1" not in drawn(out).partition("</metadata>")[2]
    call("plot", *runs, *choice, "-k", "curves", "-o", out, "--metrics")
    assert ">loss<" in drawn(out)


def test_pairs_are_asked_for_as_the_error_says(tmp_path):
    pairs = [make_run(tmp_path / f"seed-{i}", seed=i) for i in range(2)]
    call("estimate", *pairs, "-e", "hsic", "--pairs", "fc0,fc1")
    asked = ["--quantity", "nHSIC(T;T')"]
    said = call("plot", *pairs, "-k", "curves", "-e", "hsic", "-o", tmp_path / "p.png", code=2)
    assert """asked for by --quantity "nHSIC(T;T')\"""" in said
    assert "fc0 with fc1 nHSIC(T;T') of hsic" in call("compare", *pairs, *asked, "-o", tmp_path / "p.png")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-e", "binning:n_bins=4"], "the table has 2 runs, choose one with --run: seed-0, seed-1"),
        (["-e", "binning:n_bins=4", "--run", "seed-3"], "the table has no run 'seed-3'; closest: seed-"),
        (["--run", "seed-1"], "choose with --estimator NAME:SETTING=VALUE: n_bins=4; n_bins=8"),
        (["--metrics"], "the figure 'plane' takes no --metrics; it takes --by, --log, "),
        (["-k", "dpi", "-l", "fc0"], "the figure 'dpi' takes no --layer; it takes --estimator, --run, --subset, "),
    ],
)
def test_errors_name_the_options_of_the_command(runs, tmp_path, words, said):
    text = call("plot", *runs, *words, "-o", tmp_path / "p.png", code=2)
    assert said in text
    assert "=..." not in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("use against='step'", "use --against step"),
        ("choose with layers=[...]", "choose with --layer"),
        ("choose layers=['a', 'b[token=*]'], or", "choose --layer a --layer b[token=*], or"),
        ("give groups={name: [run, ...]}", "give groups={name: [run, ...]}"),
        ("runs/run=3/results.csv: damaged", "runs/run=3/results.csv: damaged"),
        ("has no setting n_bins=4", "has no setting n_bins=4"),
        ("or say metrics=True", "or say --metrics"),
        ("leave out caption=False", "leave out --no-caption"),
    ],
)
def test_an_error_of_python_is_put_into_options(error, said):
    assert cli.in_options(error, cli.main.commands["plot"]) == said


@pytest.mark.parametrize("name", ["x.pdf", "x.png", "report"])
def test_a_report_is_a_page_and_nothing_else(runs, tmp_path, name):
    text = call("report", runs[0], "-o", tmp_path / name, code=2)
    assert f"its file ends in .html, got {name!r}" in text
    assert not (tmp_path / name).exists()


def test_a_warning_is_a_line_in_the_words_of_the_command(tmp_path):
    """As a person reads it: not the file of a library and the line of code where the warning arose."""
    np.savez(tmp_path / "step-1.npz", fc=np.ones((20, 2)), labels=np.arange(20) % 2 + 1.0)
    words = [sys.executable, "-m", "infoplane", "import", tmp_path / "step-1.npz", "-o", tmp_path / "run"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: float labels are regression targets")
    assert line.endswith("or say --classes")


def test_names_of_classes_without_classes_are_refused(tmp_path):
    np.savez(tmp_path / "step-1.npz", fc=np.ones((20, 2)), labels=np.arange(20) % 2 + 1.0)
    words = ["import", tmp_path / "step-1.npz", "--label-names", "none,cat,dog", "-o", tmp_path / "run"]
    assert "names of 3 classes were given, and float labels are regression targets" in call(*words, code=2)
    assert not (tmp_path / "run").exists()
    call(*words, "--classes")


@pytest.mark.parametrize("command", ["study", "report", "compare", "animate", "export"])
def test_a_run_without_a_table_is_named_in_plain_words(command, tmp_path):
    said = call(command, tmp_path, *(["-o", tmp_path / "x.csv"] if command == "export" else []), code=2)
    assert f"Error: {tmp_path / 'results.csv'}: no results table; analyse the run first\n" in said
    assert "Errno" not in said
