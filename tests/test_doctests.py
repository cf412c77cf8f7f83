"""Every example in a docstring of the package gives what stands below it."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import infoplane

PACKAGE = Path(infoplane.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_there_are_some():
    assert {"infoplane.hooks.recorder", "infoplane.store.reader", "infoplane.estimators.binning"} < set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch, capsys):
    """What an example writes without a path of its own falls into a directory of the test."""
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0, capsys.readouterr().out


def test_a_wrong_example_fails(capsys):
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner().run(example).failed == 1
    assert "Expected:\n    3\nGot:\n    2" in capsys.readouterr().out
