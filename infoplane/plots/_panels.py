"""What figures of several panels share: one for each run, estimator, subset or setting, with titles and one caption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from infoplane.plots._about import merged
from infoplane.plots.text import safe_names
from infoplane.results import ResultTable, run_names
from infoplane.results.views import Selection, options

T = TypeVar("T")

MAX_PANELS = 30
"""Panels that one page holds."""
KINDS = ("estimator", "run", "subset", "settings")
"""What panels may differ in, each a keyword that chooses one of it."""


def panels_by(
    table: ResultTable, by: str, data: Callable[..., T], select: Selection, *, shows: str | None = None
) -> dict[str, T]:
    """Return {name of a panel: `data(**select)`} with a panel for each run, estimator, subset or setting (`by`).

    Only those that fit the other choices in `select` get a panel. `shows` is the quantity of all panels, where the
    figure has only one.

    Raises
    ------
    ValueError
        For an unknown `by`, where `select` chooses one of it already, and for more panels than a page holds.
    """
    chosen: dict[str, Any] = {**select}
    if by not in KINDS:
        raise ValueError(f"by must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {by!r}")
    if chosen[by] is not None:
        raise ValueError(f"by={by!r} makes a panel of each {by}, so it cannot be chosen; got {by}={chosen[by]!r}")
    fixed = {name: value for name, value in chosen.items() if name not in (by, "layers", "against")}
    names = run_names(table) if by == "run" else {}
    known = options(table, by, shows=shows, **fixed)
    check_count(known, "a smaller table")
    if not known:
        data(**chosen)  # nothing fits: this raises an error that says what is missing
    return {names.get(value, value): data(**{**chosen, by: value}) for value in known}


def check_count(panels: Sequence[str], what: str) -> None:
    """Raise ValueError where there are more panels than a page holds; the error advises `what` to choose fewer."""
    if len(panels) > MAX_PANELS:
        raise ValueError(f"{len(panels)} panels are more than a page holds ({MAX_PANELS}); choose with {what}")


def panel_texts(captions: Mapping[str, Sequence[str]], by: str) -> tuple[list[str], list[str]]:
    """Return the titles of the panels, and one caption for all of them.

    `captions` has, by the name of each panel, the parts of the caption that it would have as a figure of its own. `by`
    is what the panels differ in.
    """
    parts = [list(caption) for caption in captions.values()]
    titles = list(safe_names(captions, limit=28).values())
    # What the title of a panel says is taken out of its caption.
    if by == "settings":
        words = [caption[0].split(", ") for caption in parts]  # the estimator, and a text for each setting
        common = [word for word in words[0] if all(word in of_panel for of_panel in words)]
        titles = [", ".join(word for word in of_panel if word not in common) or "default" for of_panel in words]
        parts = [[", ".join(common), *caption[1:]] for caption in parts]
    elif by == "run":
        parts = [[part for part in caption if not part.startswith("run ")] for caption in parts]
    elif by == "subset":
        parts = [[one.partition(" (")[0] if one.startswith("N = ") else one for one in caption] for caption in parts]
    return titles, merged(dict(zip(safe_names(titles, limit=60), parts, strict=True)))
