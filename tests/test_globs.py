"""A glob over names of layers means one thing in the recorder, the analysis, the table and the figures."""

from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

import infoplane
from infoplane.core.globs import across_parts, name_matches
from infoplane.core.tokens import layer_matches
from infoplane.hooks.select import named_modules, select
from infoplane.plots import plane_data

NAMES = ["stem", "body.0.act", "body.0.fc", "body.1.act", "body.1.fc", "body.10.fc", "head"]


def found(pattern):
    return [name for name in NAMES if name_matches(name, pattern)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["stem", "head"]),
        ("*e*", ["stem", "head"]),
        ("body.*", []),
        ("body.*.fc", ["body.0.fc", "body.1.fc", "body.10.fc"]),
        ("body.?.fc", ["body.0.fc", "body.1.fc"]),
        ("body.[1-9]*.fc", ["body.1.fc", "body.10.fc"]),
        ("**", NAMES),
        ("**.fc", ["body.0.fc", "body.1.fc", "body.10.fc"]),
        ("body.**", NAMES[1:6]),
        ("**.1.**", ["body.1.act", "body.1.fc"]),
        ("**.head", ["head"]),
        ("head.**", ["head"]),
    ],
)
def test_a_star_stays_within_a_part_and_two_go_across(pattern, names):
    assert found(pattern) == names


@pytest.mark.parametrize("pattern", ["st*", "*", "?ead", "[sh]*", "x*"])
def test_without_dots_a_glob_is_what_it_always_was(pattern):
    flat = ["stem", "head", "", "lstm@out[0]"]
    assert [name_matches(n, pattern) for n in flat] == [fnmatchcase(n, pattern) for n in flat]


def test_positions_of_tokens_have_their_layers_names():
    assert layer_matches("body.0.act[token=3]", "body.*.act[token=*]")
    assert layer_matches("body.0.act[token=3]", "**[token=3]")
    assert not layer_matches("body.0.act[token=3]", "body*[token=3]")


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [("body*", "body*.**"), ("*.fc", "**.fc"), ("*fc", "**.*fc"), ("*", "**"), ("body.*", "body.*.**"), ("b*c", "**")],
)
def test_what_to_write_where_dots_were_meant(pattern, instead):
    names = NAMES[1:6]
    assert across_parts(pattern, names) == (
        f"; * stays within one part of a dotted name and ** stands for any number: {instead!r}"
    )
    if instead != "**":
        assert [n for n in names if name_matches(n, instead)] == [n for n in names if fnmatchcase(n, pattern)]
    assert across_parts("none*", names) == ""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    body = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(2)))
    model = nn.Sequential()
    model.add_module("body", body)
    model.add_module("head", nn.Linear(3, 2))
    path = tmp_path_factory.mktemp("globs") / "run"
    probe = (torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2)
    with infoplane.Recorder(model, probe, path, quiet=True):
        pass
    return model, path, infoplane.analyze(path, "binning:n_bins=3", progress=False)


@pytest.mark.parametrize("pattern", ["body.*.1", "**.1", "body.**", "**", "*", "head"])
def test_one_pattern_finds_the_same_layers_everywhere(run, pattern, tmp_path):
    model, path, table = run
    leaves = [name for name, named in named_modules(model).items() if not list(named.module.children())]
    named = {target.named.name for target in select(pattern, named_modules(model), "Net")}
    expected = [name for name in leaves if name_matches(name, pattern)]
    assert sorted(named & set(leaves)) == sorted(expected)
    assert set(table.select(layer=pattern).layer) == set(expected)
    assert plane_data(table, layers=[pattern]).layers == expected
    again = infoplane.analyze(path, "binning:n_bins=3", layers=pattern, progress=False, table=tmp_path / "t.csv")
    assert set(again.layer) == set(expected)


def test_the_old_meaning_is_answered_with_the_new_pattern(run, tmp_path):
    model, path, table = run
    said = r"closest: .*; \* stays within one part of a dotted name and \*\* stands for any number: '\*\*\.\*1'"
    for work in (
        lambda: select("*1", {k: v for k, v in named_modules(model).items() if k not in ("", "head")}, "Net"),
        lambda: infoplane.analyze(path, "binning", layers="*1", progress=False, table=tmp_path / "t.csv"),
        lambda: plane_data(table, layers=["*1"]),
    ):
        with pytest.raises(ValueError, match=said):
            work()
    with pytest.raises(ValueError, match=r"no layer that matches '\*1'; \* stays .*'\*\*\.\*1'"):
        table.select(layer="*1")
    assert len(table.select(layer="none*")) == 0
