"""Panels of one figure: of equal size, under one caption that says what each of them would."""

from __future__ import annotations

import pytest
import synthetic

from infoplane import plots
from infoplane.plots._about import merged
from infoplane.plots._figure import CAPTION_LABEL
from infoplane.results import ResultTable

STEPS = synthetic.log_steps(12, 400)


def captions(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda a: a.get_label() == CAPTION_LABEL)]


def sizes(figure) -> set[tuple[float, float]]:
    figure.draw_without_rendering()
    boxes = [ax.get_position() for ax in figure.axes if ax.get_visible() and ax.get_label() != "<colorbar>"]
    return {(round(box.width, 4), round(box.height, 4)) for box in boxes}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([["N = 300"], ["N = 300"]], ["N = 300"]),
        ([["8 of 24 points saturated"], ["12 of 24 points saturated"]], ["8 to 12 of 24 points saturated"]),
        ([["9 %"], ["10.5 %"], ["0.2 %"]], ["0.2 to 10.5 % (a, b, c)"]),
        ([["in 1\u202f200"], ["in 900"]], ["in 900 to 1\u202f200"]),
        ([["x"], []], ["x (a)"]),
        ([["x"], ["x"], ["x"], []], ["x (3 of 4 panels)"]),
        ([["lost of layer4.1, seed-1"], ["lost of layer4.2, seed-1"]],
         ["lost of layer4.1, seed-1 (a)", "lost of layer4.2, seed-1 (b)"]),
        ([["a {b} 3"], ["a {b} 4"]], ["a {b} 3 to 4"]),
    ],
)  # fmt: skip
def test_captions_are_merged_into_one(parts, said):
    panels = dict(zip("abcd", parts, strict=False))
    found = merged(panels)
    assert found == [text.replace(" (a, b, c)", "") for text in said]


@pytest.mark.parametrize("style", ["column", "page", "screen"])
@pytest.mark.parametrize("by", ["layer", "run", "settings"])
def test_planes_are_of_one_size_under_one_caption(by, style):
    runs = [f"seed-{i}" for i in range(5)]
    if by == "settings":
        rows = [
            row for bins in (4, 8, 30) for row in synthetic.layer_rows(steps=STEPS, config={"n_bins": bins}, seed=bins)
        ]
        runs = ["a1b2c3"]
    else:
        rows = [r for i, run in enumerate(runs) for r in synthetic.layer_rows(run=run, steps=STEPS, seed=i)]
    table = ResultTable.from_rows(rows, synthetic.about_runs(*runs))
    figure = plots.plane_grid(table, by=by, style=style, **({"run": "seed-1"} if by == "layer" else {})).figure
    assert len(sizes(figure)) == 1
    (caption,) = captions(figure)
    assert "DPI violated in" in caption
    assert len([ax for ax in figure.axes if ax.get_title(loc="left")]) == {"layer": 6, "run": 5, "settings": 3}[by]
