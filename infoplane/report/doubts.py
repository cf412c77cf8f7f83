"""What in a results table should not be believed, in words: the first thing that a report says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infoplane.core.text import printable, shorten
from infoplane.results import ResultTable
from infoplane.results.losses import losses
from infoplane.results.series import ceiling_name, choose, grid, is_in, options, settings_words

_FLAGS: dict[str, str] = {
    "out_of_range": "had activations beyond the outer bin edges; they were counted in cells of their own",
    "ties": "had equal values where the method assumes a continuous variable",
    "degenerate": "hardly varied over the inputs; the estimate is 0 by convention or dominated by rounding",
    "single_class": "saw one label only, so I(T;Y) is 0 whatever the layer does",
    "few_samples": "had too few samples for this method",
    "out_of_domain": "left the domain of the method",
    "unreliable": "were marked unreliable by the method itself",
}
DPI_SHARE = 0.05
NULL_SHARE = 0.5
MOST_LOSSES = 20


@dataclass(frozen=True)
class Doubt:
    """One sentence on one estimate, and where it comes from.

    Attributes
    ----------
    kind : str
        The flag or check: "lost", "saturated", "below_null", "high_null", "nonfinite", "dpi", "bound", "one_run" ...
    estimate : str
        Estimator, settings, subset; "" for the table as a whole.
    text : str
    """

    kind: str
    estimate: str
    text: str


def estimate_name(estimator: str, settings: str, subset: str) -> str:
    """`binning, n_bins = 30 (test)`: one way of estimating, in words."""
    words = ", ".join([estimator, *settings_words(settings)])
    return printable(words if subset == "all" else f"{words} ({subset})")


def doubts(table: ResultTable) -> list[Doubt]:
    """Everything that weakens the numbers of a table, the gravest first within each estimate."""
    table = table.current()
    runs = options(table, "run")
    lost = losses(table)
    out = [Doubt("lost", "", f"The numbers are not of the whole recording. {loss}.") for loss in lost[:MOST_LOSSES]]
    if len(lost) > MOST_LOSSES:
        out.append(Doubt("lost", "", f"{len(lost) - MOST_LOSSES} more things are missing or damaged in these runs."))
    for estimator in options(table, "estimator"):
        for settings in options(table, "settings", estimator=estimator):
            for subset in options(table, "subset", estimator=estimator, settings=settings):
                out += _of_estimate(table, estimator, settings, subset)
    if len(runs) == 1:
        out.append(
            Doubt(
                "one_run",
                "",
                "There is one run only. Information curves vary much between seeds; one run shows one initialisation.",
            )
        )
    return out


def _of_estimate(table: ResultTable, estimator: str, settings: str, subset: str) -> list[Doubt]:
    name = estimate_name(estimator, settings, subset)
    series = choose(table, estimator=estimator, settings=settings, subset=subset, layers=["*"], several_runs=True)
    rows = series.table
    found: list[Doubt] = []

    def say(kind: str, text: str) -> None:
        found.append(Doubt(kind, name, text))

    lost = rows.flag("nonfinite")
    if lost.any():
        say(
            "nonfinite",
            f"There is no number, for want of finite activations, in {_layers(rows, lost)}: did training diverge?",
        )
    for quantity in ("I(X;T)", "I(T;Y)"):
        mask = is_in(rows["quantity"], [quantity]) & rows.flag("saturated")
        if mask.any():
            top = float(np.nanmax(rows["ceiling"][mask])) if np.isfinite(rows["ceiling"][mask]).any() else np.nan
            one = grid(series.of_run(str(rows["run"][mask][0])), quantity)
            ceiling = f"{top:.4g} bits = {ceiling_name(one, series.n_samples)}" if np.isfinite(top) else "its ceiling"
            meaning = (
                "it says that the estimator tells all inputs apart, not what the layer keeps"
                if quantity == "I(X;T)"
                else "the estimator cannot see more, and would say the same of any better layer"
            )
            say("saturated", f"{quantity} is at its ceiling ({ceiling}) in {_layers(rows, mask)}: {meaning}.")
    chance = rows.flag("below_null")
    if chance.any():
        say(
            "below_null",
            f"I(T;Y) is no more than chance, within what shuffled labels give, in {_layers(rows, chance)}.",
        )
    null = (rows["quantity"] == "I(T;Y) null") & np.isfinite(rows["ceiling"])
    high = null & (rows["value"] > NULL_SHARE * rows["ceiling"])
    if high.any():
        say(
            "high_null",
            f"On shuffled labels, which carry nothing, the estimate still is over {NULL_SHARE:.0%} of H(Y) in "
            f"{_layers(rows, high)}: there most of I(T;Y) is the number of samples, not the network.",
        )
    for row in rows.dpi():
        if row.share > DPI_SHARE:
            say(
                "dpi",
                f"In run {shorten(printable(row.run), 32)}, {row.violations} of {row.pairs} pairs of neighbouring "
                f"layers violate the data-processing inequality (I(X;T) rises by up to {row.worst:.2g} bits): the "
                "layers' numbers are not of one common quantity.",
            )
    bounds = sorted({str(b) for b in rows["bound"][rows["quantity"] == "I(X;T)"]} & {"upper", "lower"})
    if bounds:
        named = " and ".join("an upper" if bound == "upper" else "a lower" for bound in bounds)
        say(
            "bound",
            f"I(X;T) is {named} bound. The difference of two bounds bounds nothing: where the bound falls, I(X;T) "
            "need not.",
        )
    for flag, words in _FLAGS.items():
        mask = rows.flag(flag)
        if mask.any():
            say(flag, f"{_layers(rows, mask)} {words}.")
    return found


def _layers(rows: ResultTable, mask: npt.NDArray[np.bool_], most: int = 6) -> str:
    """`layers a (54 of 54), b (3 of 54)`, counted in values."""
    parts = []
    total: dict[str, str] = {}
    for quantity, layer in zip(rows["quantity"][mask], rows["layer"][mask], strict=True):
        total[str(layer)] = total.get(str(layer), str(quantity))
    for layer, quantity in total.items():
        mine = is_in(rows["layer"], [layer])
        hit = int((mask & mine & is_in(rows["quantity"], [quantity])).sum())
        of = int((mine & is_in(rows["quantity"], [quantity])).sum())
        parts.append(f"{shorten(printable(layer), 32)} ({hit} of {of})")
    rest = len(parts) - most
    more = f" and {rest} more" if rest > 0 else ""
    return "layer " + ", ".join(parts[:most]) + more if len(parts) == 1 else "layers " + ", ".join(parts[:most]) + more
