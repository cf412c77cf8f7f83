"""Names of estimators, wrappers and presets: each stands for one thing."""

from __future__ import annotations

import subprocess
import sys
from typing import ClassVar

import pytest

from infoplane.estimators import available, describe, get, register
from infoplane.estimators._registry import _ESTIMATORS, preset, presets, register_wrapper


def foreign(label: str, qualname: str = "Mine") -> type:
    """A class with the members of an estimator, from a module of somebody else."""

    class Mine:
        name: ClassVar[str] = label
        targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
        guarantees: ClassVar[frozenset[str]] = frozenset()

        def bytes_per_snapshot(self, samples, units):
            return 8

        def estimate(self, t, y, *, x=None, x_ids=None):
            return {}

    Mine.__qualname__ = qualname
    return Mine


@pytest.mark.parametrize("name", sorted(available()))
def test_no_foreign_class_takes_the_name_of_a_built_in_one(name):
    """Not even a class that is called as the built-in class is."""
    for qualname in ("Mine", get(name).__qualname__):
        with pytest.raises(ValueError, match=f"'{name}' is the name of a built-in estimator .*a name of its own"):
            register(foreign(name, qualname))
    assert get(name).__module__.startswith("infoplane.estimators.")


@pytest.mark.slow
def test_a_foreign_class_that_comes_first_takes_no_built_in_name():
    code = """
from typing import ClassVar
from infoplane.estimators import parse, register
class Binning:
    name: ClassVar[str] = "binning"
    targets = guarantees = frozenset()
    def bytes_per_snapshot(self, samples, units): return 8
    def estimate(self, t, y, *, x=None, x_ids=None): return {}
try:
    register(Binning)
except ValueError as error:
    print(error)
assert type(parse("binning")).__module__ == "infoplane.estimators.binning"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'binning' is the name of a built-in estimator" in done.stdout


def test_one_class_may_come_twice_and_two_may_not_share_a_name():
    try:
        register(foreign("of-mine"))
        register(foreign("of-mine"))
        with pytest.raises(ValueError, match="'of-mine' is the name of another estimator"):
            register(foreign("of-mine", "Other"))
    finally:
        _ESTIMATORS.pop("of-mine", None)


@pytest.mark.parametrize("name", ["knn+null", "knn@mine", "knn:k=1", "two words", "bad\x1b[2J", "", None, "recorded"])
def test_names_that_a_spec_or_the_table_cannot_hold_are_refused(name):
    with pytest.raises(ValueError, match="an estimator's name must"):
        register(foreign(name))


def test_suffixes_and_presets_keep_their_meaning():
    with pytest.raises(ValueError, match=r"'\+null' is infoplane.estimators._wrappers.PermutationNull"):
        register_wrapper("null")(foreign("null"))
    known = presets("binning")["saxe-2018"]
    preset("binning", "saxe-2018", **known)
    with pytest.raises(ValueError, match=r"binning@saxe-2018 stands for .*0.07.* already"):
        preset("binning", "saxe-2018", width=0.08)
    assert presets("binning")["saxe-2018"] == known


def test_the_page_of_an_estimator_says_which_values_a_setting_may_have():
    page = describe("softmax")
    assert "temperature = 1.0 (positive and finite)" in page
    assert "sigma = 'median' (a positive number, 'median' or 'snapshot')" in describe("hsic")
    assert "run_sigma = " not in describe("hsic")
