"""docs/methods.md speaks of every estimator that is registered, and of nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import infoplane
from benchmarks.silent import GROUND
from infoplane import diagnostics
from infoplane.estimators import available, presets

PAGE = (Path(infoplane.__file__).parents[1] / "docs" / "methods.md").read_text()


def own(name: str) -> bool:
    return available()[name].__module__.startswith("infoplane.")


@pytest.mark.parametrize("name", sorted(n for n in available() if own(n)))
def test_every_estimator_has_a_row_and_a_section(name):
    assert re.search(rf"^\| `{re.escape(name)}` \|", PAGE, re.M), f"docs/methods.md has no row of {name}"
    section = re.search(rf"^### `{re.escape(name)}`\n(.*?)(?=^##)", PAGE, re.M | re.S)
    assert section, f"docs/methods.md has no section of {name}"
    for word in ("*Assumes*", "*Errs*", "*Distrust*"):
        assert word in section.group(1).replace("*Errs*:", "*Errs*"), f"the section of {name} lacks {word}"


def test_no_section_of_an_estimator_that_is_gone():
    for name in re.findall(r"^### `([^`]+)`$", PAGE, re.M):
        assert name in available()


def test_presets_and_diagnostics_named_exist():
    for name, preset in re.findall(r"`([\w-]+)@([\w-]+)`", PAGE):
        assert preset in presets(name), f"{name} has no preset {preset}"
    table = PAGE.split("## 7. Diagnostics")[1].split("## 8.")[0]
    for name in re.findall(
        r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if line[:3] == "| `")
    ):
        assert hasattr(diagnostics, name), f"infoplane.diagnostics has no {name}"


def test_what_no_flag_catches_is_said_of_every_estimator_that_is_measured():
    section = PAGE.split("## 6. What no flag catches")[1].split("## 7.")[0]
    for name in GROUND:
        assert re.search(rf"^\| `{name}` \|", section, re.M), f"no figures of {name}"
        assert re.search(rf"^- [^:]*`{name}`[^:]*:", section, re.M), f"nothing is said of {name}"
