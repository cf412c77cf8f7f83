"""docs/estimators.md, run as it stands: a new estimator as a file, and as somebody else's package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from infoplane.estimators import parse
from infoplane.estimators._registry import _ESTIMATORS

PAGE = (Path(__file__).parents[2] / "docs/estimators.md").read_text()
CODE, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package with the page's estimator, known to the interpreter by its entry point alone."""
    (tmp_path / "my_package.py").write_text(CODE)
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[infoplane.estimators]\nparticipation = my_package:Participation\nwrong = my_package:Participation\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    _ESTIMATORS.pop("participation", None)
    sys.modules.pop("my_package", None)


def test_a_plugin_is_loaded_when_named_and_not_before(plugin):
    code = """
import sys
from infoplane.estimators import available, parse
assert "participation" not in available() and "my_package" not in sys.modules
assert parse("participation:center=false").center is False
assert "participation" in available()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={"PYTHONPATH": str(plugin)})


def test_the_tests_of_the_page_pass(plugin):
    space: dict = {"Participation": type(parse("participation"))}
    exec(TEST, space)
    space["test_the_contract_holds"]()
    space["test_isotropic_and_single_direction"]()


def test_an_entry_point_must_keep_its_name(plugin):
    with pytest.raises(ValueError, match="gives an estimator 'participation', its entry point says 'wrong'"):
        parse("wrong")


def test_a_built_in_name_cannot_be_replaced(plugin):
    (plugin / "my_package-1.0.dist-info/entry_points.txt").write_text(
        "[infoplane.estimators]\nbinning = my_package:Participation\n"
    )
    assert type(parse("binning")).__module__ == "infoplane.estimators.binning"
