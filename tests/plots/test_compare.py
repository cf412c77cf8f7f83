"""Families of runs side by side: how they are named, told apart and drawn in other planes than Shannon's."""

from __future__ import annotations

import pytest
import synthetic
from matplotlib.colors import to_hex

from infoplane import plots
from infoplane.core.palette import OKABE_ITO
from infoplane.results import ResultTable

FOLDERS = {"aa01": "tanh-0", "aa02": "tanh-1", "aa03": "relu-0", "aa04": "relu-1"}
GROUPS = {"tanh": "tanh-*", "ReLU": ["relu-0", "relu-1"]}


@pytest.fixture(scope="module")
def families() -> ResultTable:
    rows = [row for i, run in enumerate(FOLDERS) for row in synthetic.layer_rows(run=run, seed=i, steps=[0, 1, 10])]
    meta = synthetic.about_runs(*FOLDERS)
    for run, folder in FOLDERS.items():
        meta["runs"][run]["path"] = f"sweep/{folder}"
    return ResultTable.from_rows(rows, meta)


def paths(ax):
    """Lines that a group draws, without the markers and the ceilings."""
    return [line for line in ax.lines if len(line.get_xdata()) == 3 and line.get_linestyle() != "None"]


def test_runs_are_grouped_by_the_names_of_their_directories(families):
    data = plots.compare_data(families, groups=GROUPS)
    assert [g.runs for g in data.groups] == [["aa01", "aa02"], ["aa03", "aa04"]]
    assert [g.runs for g in plots.compare_data(families, groups={"ids": "aa0[13]"}).groups] == [["aa01", "aa03"]]
    with pytest.raises(ValueError, match="group 'none' matches no run; available: tanh-0, tanh-1, relu-0, relu-1"):
        plots.compare_data(families, groups={"none": "gelu-*"})


@pytest.mark.parametrize("form", ["curves", "plane"])
def test_colours_tell_groups_of_one_layer_apart(families, form):
    ax = plots.compare(families, form=form, groups=GROUPS, layers=["act3"])
    assert [to_hex(line.get_color()).upper() for line in paths(ax)] == list(OKABE_ITO[:2])
    assert "layer act3" in plots.compare_data(families, groups=GROUPS, layers=["act3"]).caption
    several = plots.compare(families, form=form, groups=GROUPS, layers=["act3", "act4"])
    assert [to_hex(line.get_color()).upper() for line in paths(several)] == list(OKABE_ITO[:2]) * 2


def test_what_all_groups_share_stands_once_in_the_legend(families):
    legend = plots.compare(families, groups=GROUPS, layers=["act3"], spread="sd").get_legend()
    assert legend.get_title().get_text() == "mean of 2 runs, band: standard deviation"
    assert [text.get_text().strip() for text in legend.get_texts()] == ["tanh", "ReLU"]
    uneven = plots.compare(families, groups={"one": "tanh-0", "two": "relu-*"}, spread="sd").get_legend()
    assert {text.get_text().strip() for text in uneven.get_texts()} == {
        "one: mean of 1 run",
        "two: mean of 2 runs, band: standard deviation",
        "saturated",
    }


def test_the_plane_takes_any_two_quantities(families):
    shannon = families.select(quantity=["I(X;T)", "I(T;Y)"])
    rows = [row._replace(quantity=f"CS-{row.quantity}", unit="CS bit") for row in shannon]
    other = ResultTable.from_rows(rows, families.meta)
    ax = plots.compare(other, form="plane", quantity=["CS-I(T;Y)", "CS-I(X;T)"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("CS-I(T;Y) [CS bit]", "CS-I(X;T) [CS bit]")
    mean = plots.compare_data(other, ["CS-I(T;Y)", "CS-I(X;T)"]).groups[0].summaries["CS-I(T;Y)"].mean
    assert paths(ax)[0].get_xdata().tolist() == mean[:, 0].tolist()
    with pytest.raises(ValueError, match=r"the plane takes two quantities, got CS-I\(X;T\)"):
        plots.compare(other, form="plane", quantity="CS-I(X;T)")
