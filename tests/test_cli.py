"""The command line: what it prints, its exit codes, and one line for everything that is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import infoplane
from infoplane import cli
from infoplane.results import ResultTable


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run of a 12-4-2 network on the 12-bit problem, recorded at ten steps."""
    run = tmp_path_factory.mktemp("cli") / "run"
    x, y = map(torch.from_numpy, infoplane.datasets.twelve_bit())
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with infoplane.Recorder(model, probe=(x[::4], y[::4]), run=run, schedule=1, quiet=True) as recorder:
        for epoch in range(9):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.snapshot(epoch, metrics={"loss": loss.item()})
    return run


@pytest.fixture
def run(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "run")


def call(*words, code=0):
    result = CliRunner().invoke(cli.main, ["-q", *map(str, words)])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def one_line(*words):
    """The single line on stderr of a call that fails with exit code 2."""
    result = call(*words, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_info_and_verify(run):
    text = call("info", run).stdout
    assert "1024 rows" in text
    assert "Tanh" in text
    data = json.loads(call("info", run, "--json").stdout)
    assert data["steps"] == list(range(10))
    assert [la["key"] for la in data["layers"]] == ["0", "1", "2"]
    assert call("verify", run).stdout.endswith("clean\n")


def test_verify_names_damage_with_exit_code_1(run):
    shard = next((run / "shards").iterdir())
    raw = bytearray(shard.read_bytes())
    raw[-100] ^= 1
    shard.write_bytes(raw)
    assert shard.name in call("verify", run, code=1).stdout


def test_estimate_then_plot(run, tmp_path):
    call("estimate", run, "-e", "binning:n_bins=8", "-l", "1")
    table = ResultTable.read(run)
    assert set(table.layer[table.estimator == "binning"]) == {"1"}
    assert set(table.estimator) == {"binning", "recorded"}
    before = (run / "results.csv").read_bytes()
    call("estimate", run, "-e", "binning:n_bins=8", "-l", "1")
    assert (run / "results.csv").read_bytes() == before
    for kind in ("plane", "curves"):
        for suffix in ("png", "svg", "pdf"):
            call("plot", run, "-k", kind, "-o", tmp_path / f"{kind}.{suffix}")
            assert (tmp_path / f"{kind}.{suffix}").stat().st_size > 2000
    assert "plane" in call("plot", run, "-k", "list").stdout.split()


def test_a_quantity_is_chosen_by_one_name_in_every_figure(run, tmp_path):
    call("estimate", run, "-e", "binning:n_bins=8")
    out = tmp_path / "figure.svg"

    def drawn(*words):
        call(*words, "-o", out, "-l", "1")
        return {q for q in ("I(X;T)", "I(T;Y)") if f"{q} [bits]" in out.read_text()}

    for words in (("plot", run, "-k", "curves"), ("plot", run, "-k", "compare"), ("compare", run)):
        assert drawn(*words) == {"I(X;T)", "I(T;Y)"}
        assert drawn(*words, "--quantity", "I(X;T)") == {"I(X;T)"}
        assert drawn(*words, "--quantity", "I(X;T)", "--quantity", "I(T;Y)") == {"I(X;T)", "I(T;Y)"}
    for kind in ("heatmap", "null"):
        assert drawn("plot", run, "-k", kind, "--quantity", "I(T;Y)") == {"I(T;Y)"}
    assert call("compare", run, "--quantity", "I(T;Y)", "-l", "1", "-o", out).stdout.count(" bit at step 9 ") == 1
    two = ("--quantity", "I(X;T)", "--quantity", "I(T;Y)")
    assert "takes one quantity, got I(X;T), I(T;Y)" in one_line("plot", run, "-k", "heatmap", *two, "-o", out)
    assert "takes one quantity, got I(X;T), I(T;Y)" in one_line("plot", run, "-k", "null", *two, "-o", out)
    refused = "the figure 'plane' takes no --quantity; it takes --by, --log, --estimator, --run, --subset, --layer"
    assert refused in one_line("plot", run, "--quantity", "I(X;T)", "-o", out)


def test_compare_animate_report_export(run, recorded, tmp_path):
    call("estimate", run, "-e", "binning:n_bins=8")
    other = shutil.copytree(run, tmp_path / "other")
    text = call("compare", run, other, "-l", "1", "-o", tmp_path / "compare.svg").stdout
    assert text.count(" bit at step 9 ") == 2
    assert (tmp_path / "compare.svg").read_text().startswith("<?xml")
    call("estimate", run, "-e", "binning:n_bins=4")  # another setting: what is printed is of the one that is asked for
    one = ("compare", run, other, "-e", "binning:n_bins=8", "-l", "1", "-o", tmp_path / "compare.svg")
    assert [line for line in call(*one).stdout.splitlines() if " bit " in line] == text.splitlines()[:2]
    call("animate", run, "-e", "binning:n_bins=8", "-o", tmp_path / "plane.gif", "--fps", 5, "--dpi", 40)
    assert (tmp_path / "plane.gif").read_bytes().startswith(b"GIF89a")
    call("report", run, "-o", tmp_path / "report.html")
    assert "I(X;T)" in (tmp_path / "report.html").read_text()
    call("export", run, "-o", tmp_path / "all.csv")
    assert len(ResultTable.read(tmp_path / "all.csv")) == len(ResultTable.read(run))


def test_import_makes_a_run(tmp_path):
    np.savez(tmp_path / "step-3.npz", fc=np.random.default_rng(0).normal(size=(20, 3)), y=np.arange(20) % 2)
    assert "20 rows" in call("import", tmp_path / "step-3.npz", "-o", tmp_path / "theirs").stdout
    call("estimate", tmp_path / "theirs")
    assert one_line("import", tmp_path / "step-3.npz", "-o", tmp_path / "theirs").startswith("Error: ")


def test_estimators_are_listed_and_have_pages():
    text = call("estimators").stdout
    page = call("estimators", "binning").stdout
    assert "binning" in text
    assert "n_bins = 30" in page
    assert "binning@saxe-2018: width=0.07" in page


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("info", "{tmp}/nothing"), "not a run directory"),
        (("estimate", "{run}", "-e", "bining"), "no estimator named 'bining'; closest: binning"),
        (
            ("estimate", "{run}", "-e", "binning:bins=4"),
            "binning has no field 'bins'; closest: n_bins; available: n_bins",
        ),
        (("estimate", "{run}", "-e", "binning@saxe"), "no preset 'saxe'; closest: saxe-2018; available: lorenzen"),
        (("estimate", "{run}", "-e", "binning:n_bins=1"), "n_bins must be from 2"),
        (("estimate", "{run}", "-l", "conv*"), "conv*"),
        (("estimate", "{run}", "-s", "validation"), "validation"),
        (("plot", "{run}"), "results"),
        (("plot", "{run}", "-k", "plan"), "no figure named 'plan'; closest: plane"),
        (("estimators", "nope"), "no estimator named 'nope'"),
    ],
)
def test_bad_use_is_one_line(words, expected, run, tmp_path):
    line = one_line(*(w.format(run=run, tmp=tmp_path) for w in words))
    assert expected in line


def test_a_table_with_a_missing_column_is_named(run, tmp_path):
    call("estimate", run, "-e", "binning")
    path = run / "results.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace("ceiling", "roof"), *lines[1:]]) + "\n")
    assert "ceiling" in one_line("plot", run, "-o", tmp_path / "a.png")


def test_a_foreign_shard_is_named_and_the_rest_goes_on(run):
    (run / "shards" / "00000099-00000099.s0001.r000.h5").write_bytes(b"not HDF5" * 100)
    call("estimate", run, "-e", "binning", code=3)  # nobody can tell whether it was one of the run
    assert "00000099-00000099" in call("info", run, code=3).stdout
    assert len(np.unique(ResultTable.read(run).step)) == 10


def test_python_dash_m_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "infoplane", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["infoplane,", "version", infoplane.__version__]


@pytest.mark.parametrize("name", sorted(cli.main.commands))
def test_every_command_shows_an_example(name):
    text = call(name, "--help").stdout
    assert f"Example: infoplane {name}" in " ".join(text.split())
