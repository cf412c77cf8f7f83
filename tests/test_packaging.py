"""What an installation asks for and says of itself."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import infoplane

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CITATION = (ROOT / "CITATION.cff").read_text()
# Modules whose distribution has another name, or comes with one that is asked for.
DISTRIBUTION = {"PIL": "matplotlib", "imageio_ffmpeg": "imageio-ffmpeg"}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower()


def imported() -> set[str]:
    """The distributions that some module of the package imports, anywhere in it."""
    modules = set()
    for path in Path(infoplane.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    return {DISTRIBUTION.get(m, m) for m in modules - set(sys.stdlib_module_names) - {"infoplane"}}


def test_what_is_imported_is_asked_for():
    asked = {name_of(r) for r in [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]}
    assert imported() - asked == set()


def test_nothing_is_installed_that_no_line_imports():
    assert {name_of(r) for r in PROJECT["dependencies"]} - imported() == set()


def test_the_lowest_versions_are_those_that_the_full_check_installs():
    """As `torch>=2.6` says, so does `torch==2.6.0`; of torch no wheel that old for the CPU is to be had."""
    pins = dict(re.findall(r"^([a-z0-9]+)==([0-9.]+)$", (ROOT / "constraints-lowest.txt").read_text(), re.M))
    for requirement in PROJECT["dependencies"]:
        name, lowest = requirement.split(">=")
        if name != "torch":
            assert (pins[name] + ".0").startswith(lowest + ".0"), name
    assert f"torch=={pins['torch']}" in (ROOT / "constraints.txt").read_text()
    assert f"`torch` {pins['torch']}" in (ROOT / "docs" / "start.md").read_text()


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", infoplane.__version__)
    assert not re.search(r"^version:", CITATION, re.M)  # it would be a second place
    files = [ROOT / "pyproject.toml", *(ROOT / "infoplane").rglob("*.py")]
    lines = [line for path in files for line in path.read_text().splitlines() if f'"{infoplane.__version__}"' in line]
    assert lines == [f'__version__ = "{infoplane.__version__}"']


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cff-version", "1.2.0"),
        ("title", f"{PROJECT['name']}: {PROJECT['description']}"),
        ("license", PROJECT["license"]),
        ("type", "software"),
    ],
)
def test_the_citation_says_what_the_package_says(key, value):
    (found,) = re.findall(rf"^{key}: (.*)$", CITATION, re.M)
    assert found.strip('"') == value
