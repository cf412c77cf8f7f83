"""What goes with the gap over the runs of a report: a map, the strongest run by run, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infoplane.core.records import FloatArray
from infoplane.core.text import printable, shorten
from infoplane.report.data import escaped, html_table
from infoplane.results import ResultTable
from infoplane.studies import Association, AssociationMap, study
from infoplane.studies.associate import LEAST

POSITIVE, NEGATIVE = "#c0392b", "#2166ac"
"""Colours of cells: red for correlations above 0, blue for those below."""
CELL, ROW, LETTER = 58, 24, 7.2
"""Width and height of a cell and of a letter, in pixels of the drawing."""
MOST_ROWS, MOST_ACROSS = 15, 40
"""Rows of the table of numbers, and columns of the map, at most."""
WIDE, HIGH, EDGE = 440, 260, 70
"""Width, height and the margins for numbers of the scatter plot, in pixels."""


def associated(table: ResultTable, target: str | None, control: str | None) -> Association | str | None:
    """Return the association over the runs of a table, or a text that says why it cannot be made.

    It is that of the summaries of all curves with `target`, by default the generalisation gap. None where it was not
    asked for, and runs are few or have no gap.

    Raises
    ------
    ValueError
        It was asked for by `target` or `control` and cannot be made.
    """
    asked = target is not None or control is not None
    if not asked and len(set(table.run.tolist())) < LEAST:
        return None
    try:
        found = study(table)
        known = [name for name in ("gap", "error_gap") if name in found.columns]
        return found.association(target or known[0], control=control) if asked or known else None
    except ValueError as error:
        if asked:
            raise
        return printable(str(error))


def section(found: Association | str | None) -> str:
    """Return the section of the page on an association as HTML; `found` is what `associated` returned, "" for None."""
    if found is None:
        return ""
    if isinstance(found, str):
        return _section_html("What goes with the gap", f"<p>No association over the runs: {escaped(found)}.</p>")
    data = found.layer_map()
    weak = f"{int(data.weak.sum())} of {len(found.measures)} have an adjusted p of 0.05 or more (hatched)"
    words = "; ".join([*data.alike, weak, *found.words])
    drawn = map_svg(data) if len(data.across) <= MOST_ACROSS else ""
    strongest = found.strongest()[0]
    points = f'<p class="note">{escaped(found.value_words(strongest))}</p>{scatter_svg(found, strongest)}'
    head, *rows = found.rows(MOST_ROWS)
    blocks = "".join(f'<div class="scroll">{block}</div>' for block in (drawn, points) if block)
    body = f'<p class="note">{escaped(words, 1500)}</p>{blocks}{html_table(head, rows)}'
    return _section_html(f"{found.label}, over {len(found.runs)} runs", body)


def map_svg(data: AssociationMap) -> str:
    """Return the correlations as an SVG: layers down, cells with numbers, hatched for an adjusted p from 0.05 on.

    Under the mouse a cell shows its names, its correlation and its adjusted p.
    """
    layers, across = ([shorten(printable(name), 40) for name in names] for names in (data.layers, data.across))
    left, top = (int(LETTER * max(map(len, names))) + 14 for names in (layers, across))
    width, height = left + CELL * len(across) + 8, ROW * len(layers) + top + 8
    out = []
    for i, j in np.argwhere(np.isfinite(data.value)).tolist():
        value, p = data.value[i, j], data.p_adjusted[i, j]
        x, y = left + CELL * j, ROW * i
        box = f'x="{x}" y="{y}" width="{CELL}" height="{ROW}"'
        color = POSITIVE if value > 0 else NEGATIVE
        weak = f'<rect {box} fill="url(#weak)"/>' if data.weak[i, j] else ""
        words = escaped(f"{data.layers[i]}, {data.across[j]}: {value:+.3f}, adjusted p {p:.2g}")
        out.append(
            f'<g><title>{words}</title><rect {box} fill="{color}" fill-opacity="{0.75 * abs(value):.3f}"/>{weak}'
            f'<text x="{x + CELL / 2}" y="{y + 16}" text-anchor="middle">{value:+.2f}</text></g>'
        )
    for i, name in enumerate(layers):
        out.append(f'<text x="{left - 8}" y="{ROW * i + 16}" text-anchor="end">{escaped(name)}</text>')
    for j, name in enumerate(across):
        at = f"{left + CELL * (j + 0.5) + 4},{ROW * len(layers) + 10}"
        out.append(f'<text transform="translate({at}) rotate(-90)" text-anchor="end">{escaped(name)}</text>')
    hatch = (
        '<defs><pattern id="weak" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<line x1="0" y1="0" x2="0" y2="6" stroke="currentColor" stroke-opacity="0.28"/></pattern></defs>'
    )
    return _svg("correlations by layer", width, height, hatch + "".join(out))


def scatter_svg(found: Association, place: int) -> str:
    """Return an SVG of a scatter plot: the summary in column number `place` against the target.

    Each run has a point, which shows the run's name under the mouse.
    """
    x, y = found.x[:, place], found.y  # (R,)
    measure = found.measures[found.columns[place]]
    across = f"{measure.what} of {measure.quantity}, {measure.layer}"
    out = [f'<path d="M{EDGE} 8V{HIGH - EDGE}H{WIDE - 8}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>']
    # In an SVG y grows downwards: hence -y.
    for run, right, down in zip(found.runs, _pixels(x, EDGE, WIDE), _pixels(-y, 0, HIGH - EDGE), strict=True):
        out.append(f'<circle cx="{right:.1f}" cy="{down:.1f}" r="3.5"><title>{escaped(run)}</title></circle>')
    for value, at, anchor in ((x.min(), EDGE, "start"), (x.max(), WIDE - 8, "end")):
        out.append(f'<text x="{at}" y="{HIGH - EDGE + 16}" text-anchor="{anchor}">{value:.3g}</text>')
    for value, at in ((y.min(), HIGH - EDGE), (y.max(), 18)):
        out.append(f'<text x="{EDGE - 6}" y="{at}" text-anchor="end">{value:.3g}</text>')
    below, beside = f'x="{(WIDE + EDGE) / 2}" y="{HIGH - EDGE + 36}"', f"translate(12,{(HIGH - EDGE) / 2}) rotate(-90)"
    out.append(f'<text {below} text-anchor="middle">{escaped(across, 60)}</text>')
    out.append(f'<text transform="{beside}" text-anchor="middle">{escaped(found.target, 40)}</text>')
    return _svg(f"{across} and {found.target}", WIDE, HIGH, "".join(out))


def _pixels(values: FloatArray, low: float, high: float) -> Sequence[float]:
    """Return the positions in pixels of values (R,) on an axis from `low`, near the least value, to `high`.

    A margin of 12 pixels stays free at both ends.
    """
    # Where all values are equal, the tiny number keeps 0 / 0 from occurring: all stand at the lower end.
    share = (values - values.min()) / max(float(np.ptp(values)), 1e-300)
    return [low + 12 + (high - low - 24) * float(each) for each in share]


def _svg(words: str, width: float, height: float, content: str) -> str:
    """Return an SVG with this content; `words` are its label for screen readers."""
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg {size} role="img" aria-label="{escaped(words)}">{content}</svg>'


def _section_html(title: str, body: str) -> str:
    """Return the HTML of the section with this title and body."""
    head = f'<h2 id="study-title">{escaped(title)}</h2>'
    return f'<section id="study" aria-labelledby="study-title">{head}{body}</section>'
