"""docs/papers.md names nothing that is not there, and leaves no estimator and no diagnostic out."""

from __future__ import annotations

import inspect
import re
from functools import reduce
from pathlib import Path

import pytest

import infoplane
from infoplane import diagnostics
from infoplane.cli import main
from infoplane.estimators import available, parse

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "papers.md").read_text()
NAMED = sorted(set(re.findall(r"`([^`]+)`", PAGE)))
ROWS = [line.strip("| \n").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
OWN = {name for name, found in available().items() if found.__module__.startswith("infoplane.")}


def exists(named):
    """Look up a test, a script, a command, an estimator or a name of the package; an error where there is none."""
    path, _, test = named.partition("::")
    if path.endswith(".py"):
        file = ROOT / path if path.startswith("examples/") else ROOT / "tests" / path
        assert f"def {test}(" in file.read_text() or not test
    elif named.startswith("infoplane "):
        assert named.split()[1] in main.commands
    elif re.split(r"[@:+]", named)[0] in OWN:
        parse(named)
    else:
        name, settings = re.fullmatch(r"([\w.]+)(?:\((.*)\))?", named).groups()
        found = reduce(getattr, name.split("."), infoplane)
        assert set(re.findall(r"(\w+)=", settings or "")) <= set(inspect.signature(found).parameters)


@pytest.mark.parametrize("named", [n for n in NAMED if n != "tests" and " RUN " not in n])
def test_what_is_named_is_there(named):
    exists(named)


@pytest.mark.parametrize(
    "named",
    [
        "test_papers.py::test_that_is_not_there",
        "examples/e99_nothing.py",
        "infoplane nothing",
        "kde@nobody-1999",
        "knn:n_bins=3",
        "diagnostics.nothing",
        "Recorder(nothing=1)",
    ],
)
def test_what_is_not_there_is_noticed(named):
    with pytest.raises((AssertionError, AttributeError, KeyError, ValueError, OSError)):
        exists(named)


def test_every_estimator_and_every_diagnostic_has_a_paper():
    specs = {re.split(r"[@:+]", n)[0] for n in NAMED}
    assert sorted(OWN - specs) == []
    functions = [n for n in diagnostics.__all__ if inspect.isfunction(getattr(diagnostics, n))]
    assert [n for n in functions if f"`diagnostics.{n}" not in PAGE] == []


def test_every_paper_has_a_test_or_a_reason():
    papers = [row for row in ROWS if row[0] != "paper"]
    assert len(papers) > 60
    for row in papers:
        assert "not here" in row[1] or len(row) == 4, f"{row[0]} has neither a call with its test nor a reason"
