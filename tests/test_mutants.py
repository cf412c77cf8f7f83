"""The list of mutants is not stale, and (marker `full`) the suite kills each of them."""

from __future__ import annotations

import pytest
from mutants import LIMIT, MUTANTS, ROOT, Copy, named_tests

PARTS = {"estimators/": 15, "hooks/": 8, "store/": 8, "analysis/": 5, "results/": 3, "plots/": 3}


def test_there_are_mutants_of_every_part():
    assert len({(m.file, m.before, m.after) for m in MUTANTS}) == len(MUTANTS) >= 40
    for part, least in PARTS.items():
        assert sum(m.file.startswith(part) for m in MUTANTS) >= least, part


def test_each_expression_stands_in_its_file_once_and_the_tests_are_there():
    for mutant in MUTANTS:
        mutant.broken((ROOT / "infoplane" / mutant.file).read_text())  # raises where it is not so
        for test in mutant.tests.split():
            file, _, name = test.partition("::")
            source = (ROOT / "tests" / file).read_text()
            assert not name or f"def {name.rpartition('::')[2]}(" in source, f"{mutant.fault}: no {test}"


def test_a_mutant_whose_place_is_gone_is_named():
    with pytest.raises(ValueError, match=r"core/units.py must hold .* exactly once, got 0 times"):
        MUTANTS[0].broken("")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    with Copy(tmp_path_factory.mktemp("package")) as out:
        yield out


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_without_a_mutant_the_tests_pass(copy):
    code, said = copy.run(named_tests(MUTANTS))
    assert code == 0, said


@pytest.mark.full
@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.file}: {m.fault}")
def test_the_suite_kills_it(copy, mutant):
    assert copy.survives(mutant) == ""
