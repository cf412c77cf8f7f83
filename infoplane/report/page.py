"""The report as one HTML file that needs no network, runs no foreign text, and opens from disk."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from infoplane.core.shown import ShownFile
from infoplane.report.associations import associated, section
from infoplane.report.data import embed, escaped, html_table, page_data
from infoplane.report.doubts import Gathered, doubts, estimate_name, estimates, gathered, short_names
from infoplane.results import ResultTable, read_table, run_names
from infoplane.results.views import is_in, settings_words
from infoplane.studies import Association

LIBRARY = "vendor/plotly-basic-4.1.1.min.js"
"""The script that draws, which is installed with the package and stands in the page."""
MOST_DOUBTS = 5
"""Doubts that a page shows before a reader unfolds the others."""


def write_report(
    runs: ResultTable | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] = "report.html",
    *,
    title: str = "Information plane",
    target: str | None = None,
    control: str | None = None,
) -> Path:
    """Write the interactive report of a table, or of the results of run directories, to one HTML file.

    The page begins with what should not be believed, then has the plane with a slider over training, curves
    of each quantity, training metrics, and last the settings and versions; of three or more runs it shows the
    mean first. What is shown can be saved as CSV and SVG, with seven digits. It holds the basic bundle of plotly.js
    (1.2 MB), loads nothing, and is the same, byte for byte, for the same table and release of zlib. Of five or more
    runs with a generalisation gap it shows what goes with it (`infoplane.study`).

    Parameters
    ----------
    runs : table, run directories or CSV files
    out : path
    title : str
    target, control : str, optional
        Another column than the gap, and a control, as in `Study.association`.

    Returns
    -------
    Path
        The file written; a notebook shows the page, with a link to it.

    Raises
    ------
    ValueError
        If there are no estimates to report, `out` does not end in .html or .htm, or an association that was asked for
        cannot be made.
    """
    file = ShownFile(out)
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"a report is a page to open in a browser, so its file ends in .html, got {file.name!r}")
    table = runs if isinstance(runs, ResultTable) else read_table(runs)
    file.write_text(report_html(table, title=title, target=target, control=control), encoding="utf-8", newline="\n")
    return file


@dataclass(frozen=True)
class Watched:
    """What a page needs that looks for a newer version of itself.

    `words` are on the run that is being watched, `seconds` is the time between looks, `number` counts the versions.
    """

    words: str
    seconds: float
    number: int


def report_html(
    table: ResultTable, *, title: str = "Information plane", target: str | None = None, control: str | None = None
) -> str:
    """Return the report as text; in a notebook it can stand in the `srcdoc` of an iframe. See `write_report`."""
    return page_of(table, title, found=associated(table, target, control))


def page_of(
    table: ResultTable, title: str, watched: Watched | None = None, found: Association | str | None = None
) -> str:
    """Return the HTML of the report of a table; with `watched` the page looks for newer versions of itself.

    `found` is what `associated` returned: the association over the runs, a text on why there is none, or None.
    """
    scripts = [_asset(LIBRARY), _asset("report.js")]
    parts = {
        "title": escaped(title),
        "watched": "" if watched is None else f'<p id="watched">{escaped(watched.words)}</p>',
        "warnings": _warnings(table),
        "study": section(found),
        "provenance": _provenance(table),
        "data": embed(page_data(table)),
    }
    body = _asset("report.html")
    for name, text in parts.items():
        body = body.replace(f"<!--{name}-->", text, 1)
    about = "" if watched is None else f' data-seconds="{watched.seconds:g}" data-number="{watched.number}"'
    sources = " ".join(f"'sha256-{_digest(text)}'" for text in scripts)
    policy = f"script-src {sources}; " + ("" if watched is None else "connect-src 'self'; ")
    return _page(title, policy, f"<body{about}>{body}\n" + "".join(f"<script>{text}</script>\n" for text in scripts))


def waiting_page(watched: Watched) -> str:
    """Return the HTML of a page for a run with nothing to report yet, which a browser loads again every few seconds."""
    body = f'<body><main><p id="watched">{escaped(watched.words)}</p></main>'
    return _page("Information plane", "", body, f'<meta http-equiv="refresh" content="{math.ceil(watched.seconds)}">\n')


def _page(title: str, policy: str, body: str, head: str = "") -> str:
    """Return an HTML page with this body, which loads nothing from elsewhere; `head` is put into its head.

    `policy` is what the Content-Security-Policy of the page allows beside its own styles and pictures, such as scripts;
    a text that is empty or ends in "; ".
    """
    always = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    policy = f"default-src 'none'; {policy}{always}"
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n{head}'
        f"<title>{escaped(title)}</title>\n<style>{_asset('report.css')}</style></head>\n"
        f"{body}</body></html>\n"
    )


def _asset(name: str) -> str:
    """Return the text of a file that is installed beside this module."""
    return files("infoplane.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return the SHA-256 of a script in base64, by which the Content-Security-Policy allows the script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _warnings(table: ResultTable) -> str:
    """Return the HTML list of doubts: a line for each kind, which a reader can open for a sentence on each estimate.

    The lines beyond the first five are hidden until a reader opens the list. Without doubts it is a sentence on that.
    """
    found = gathered(doubts(table))
    if not found:
        return "<p>No check of the table raised a doubt. That is not proof: read what each estimator assumes.</p>"
    of_table = list(estimates(table))
    short_name = dict(zip(map(estimate_name, of_table), short_names(of_table), strict=True))
    lines = [_doubt_line(one, short_name) for one in found]
    first, rest = "".join(lines[:MOST_DOUBTS]), "".join(lines[MOST_DOUBTS:])
    more = f"<details><summary>{len(lines) - MOST_DOUBTS} more</summary><ul>{rest}</ul></details>" if rest else ""
    return f"<ul>{first}</ul>{more}"


def _doubt_line(one: Gathered, short_name: Mapping[str, str]) -> str:
    """Return the HTML line of one kind of doubt: its head, its count and its estimates, and inside its sentences.

    `short_name` has the short names of the table's estimates by their full names.
    """
    parts = [escaped(words, 200) for words in (one.count_words, one.estimate_words(short_name)) if words]
    several = len(short_name) > 1  # where the table has only one estimate, sentences do not repeat its name
    sentences = "".join(
        f"<p>{f'<b>{escaped(d.estimate)}</b>: ' if d.estimate and several else ''}{escaped(d.text, 900)}</p>"
        for d in one.doubts
    )
    where = f" <span>{': '.join(parts)}</span>" if parts else ""
    return (
        f'<li data-kind="{escaped(one.doubts[0].kind)}"><details><summary><b>{escaped(one.head)}</b>{where}</summary>'
        f"{sentences}</details></li>"
    )


def _provenance(table: ResultTable) -> str:
    """Return the HTML tables of estimates with their full settings, of runs, and of versions."""
    rows = table.take((table["estimator"] != "recorded") & (table["partner"] == ""))
    configs = dict.fromkeys(zip(rows["estimator"], rows["settings"], rows["subset"], rows["n_samples"], strict=True))
    estimated = [(name, ", ".join(settings_words(settings, every=True)), *more) for name, settings, *more in configs]
    out = ["<h3>Estimates</h3>", html_table(("estimator", "settings", "subset", "N"), estimated)]
    about, names = table.meta.get("runs", {}), run_names(table)
    runs = []
    for run in dict.fromkeys(str(r) for r in table["run"]):
        info = about.get(run, {}) if isinstance(about, Mapping) else {}
        of_run = rows.take(is_in(rows["run"], [run]))
        steps = {int(s) for s in of_run["step"]}
        span = f"{len(steps)} ({min(steps)} to {max(steps)})" if steps else "none"
        runs.append((names[run], span, len(set(of_run["layer"])), "yes" if info.get("chain") else "not known"))
    out += ["<h3>Runs</h3>", html_table(("run", "snapshots (steps)", "layers", "plain chain"), runs)]
    versions = table.meta.get("versions", {})
    packages = {"infoplane": table.meta.get("infoplane", ""), **(versions if isinstance(versions, Mapping) else {})}
    if known := [(name, version) for name, version in packages.items() if version]:
        out += ["<h3>Versions</h3>", html_table(("package", "version"), known)]
    return "".join(out)
