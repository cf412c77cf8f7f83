"""The doubts on a results table, in words: the first thing that a report says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.text import listed, printable, shorten
from infoplane.results import ResultTable
from infoplane.results.losses import losses
from infoplane.results.trajectories import groups
from infoplane.results.views import Series, choose, is_in, of_layers, options, ordered_layers, settings_words

BoolArray = npt.NDArray[np.bool_]

DPI_SHARE = 0.05
NULL_SHARE = 0.5
MOST_LOSSES = 20

SENTENCES: dict[str, str] = {
    "nonfinite": "There is no number, for want of finite activations, in {layers}: did training diverge?",
    "saturated": "{quantity} is at its ceiling ({ceiling}) in {layers}: {meaning}.",
    "below_null": "I(T;Y) is no more than chance, within what shuffled labels give, in {layers}.",
    "high_null": "On shuffled labels, which carry nothing, the estimate still is over {share:.0%} of H(Y) in {layers}: "
    "there most of I(T;Y) is the number of samples, not the network.",
    "dpi": "In run {run}, {violations} of {pairs} pairs of neighbouring layers violate the data-processing inequality "
    "(I(X;T) rises by up to {worst:.2g} bits): the layers' numbers are not of one common quantity.",
    "bound": "I(X;T) is {bounds} bound. The difference of two bounds bounds nothing: where the bound falls, I(X;T) "
    "need not.",
    "out_of_range": "{layers} had activations beyond the outer bin edges; they were counted in cells of their own.",
    "ties": "{layers} had equal values where the method assumes a continuous variable.",
    "degenerate": "{layers} hardly varied over the inputs; the estimate is 0 by convention or dominated by rounding.",
    "single_class": "{layers} saw one label only, so I(T;Y) is 0 whatever the layer does.",
    "few_samples": "{layers} had too few samples for this method.",
    "out_of_domain": "{layers} left the domain of the method.",
    "unreliable": "{layers} were marked unreliable by the method itself.",
    "one_run": "There is one run only. Information curves vary much between seeds; one run shows one initialisation.",
}
MEANINGS: dict[str, str] = {
    "I(X;T)": "it says that the estimator tells all inputs apart, not what the layer keeps",
    "I(T;Y)": "the estimator cannot see more, and would say the same of any better layer",
}
PLAIN_FLAGS = ("out_of_range", "ties", "degenerate", "single_class", "few_samples", "out_of_domain", "unreliable")
"""Flags of which the sentence says all."""


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


def estimates(table: ResultTable) -> Iterator[Series]:
    """Each way of estimating in a table, an estimator with its settings on a subset, with all its runs and layers."""
    rows = of_layers(table.current())
    ways = [rows[name] for name in ("estimator", "settings", "subset")]
    for (*_, subset), index in groups(ways, [np.arange(len(rows))]):
        of_way = rows.take(index)
        yield choose(of_way, several_runs=True, subset=subset, layers=ordered_layers(of_way))


def estimate_name(series: Series) -> str:
    """`binning, n_bins = 30 (test)`: one way of estimating, in words."""
    words = ", ".join([series.estimator, *settings_words(series.settings)])
    return printable(words if series.subset == "all" else f"{words} ({series.subset})")


def doubts(table: ResultTable) -> list[Doubt]:
    """Everything that weakens the numbers of a table, the gravest first within each estimate."""
    table = table.current()
    lost = losses(table)
    out = [Doubt("lost", "", f"The numbers are not of the whole recording. {loss}.") for loss in lost[:MOST_LOSSES]]
    if len(lost) > MOST_LOSSES:
        out.append(Doubt("lost", "", f"{len(lost) - MOST_LOSSES} more things are missing or damaged in these runs."))
    for series in estimates(table):
        out += doubts_of(series)
    if len(options(table, "run")) == 1:
        out.append(Doubt("one_run", "", SENTENCES["one_run"]))
    return out


def doubts_of(series: Series) -> list[Doubt]:
    """The doubts of one way of estimating."""
    name, rows = estimate_name(series), series.table
    found: list[Doubt] = []

    def say(kind: str, mask: BoolArray | None = None, **words: Any) -> None:
        """One sentence, unless it is on values of which there are none."""
        if mask is None or mask.any():
            layers = "" if mask is None else layer_words(rows, mask)
            found.append(Doubt(kind, name, SENTENCES[kind].format(layers=layers, **words)))

    say("nonfinite", rows.flag("nonfinite"))
    for quantity, meaning in MEANINGS.items():
        mask = is_in(rows["quantity"], [quantity]) & rows.flag("saturated")
        ceiling = ceiling_words(series, quantity, mask) if mask.any() else ""
        say("saturated", mask, quantity=quantity, ceiling=ceiling, meaning=meaning)
    say("below_null", rows.flag("below_null"))
    null = (rows["quantity"] == "I(T;Y) null") & np.isfinite(rows["ceiling"])
    say("high_null", null & (rows["value"] > NULL_SHARE * rows["ceiling"]), share=NULL_SHARE)
    for row in series.dpi():
        if row.share > DPI_SHARE:
            run = shorten(printable(series.name(row.run)), 32)
            say("dpi", run=run, violations=row.violations, pairs=row.pairs, worst=row.worst)
    known = set(rows["bound"][rows["quantity"] == "I(X;T)"])
    bounds = [words for bound, words in (("lower", "a lower"), ("upper", "an upper")) if bound in known]
    if bounds:
        say("bound", bounds=" and ".join(bounds))
    for flag in PLAIN_FLAGS:
        say(flag, rows.flag(flag))
    return found


def ceiling_words(series: Series, quantity: str, mask: BoolArray) -> str:
    """The ceiling of saturated rows, by value and name where they have one."""
    tops = series.table["ceiling"][mask]
    if not np.isfinite(tops).any():
        return "its ceiling"
    one = series.of_run(str(series.table["run"][mask][0])).grid(quantity)
    return f"{float(np.nanmax(tops)):.4g} bits = {one.ceiling_name(series.n_samples)}"


def layer_words(rows: ResultTable, mask: BoolArray, most: int = 6) -> str:
    """`layers a (54 of 54), b (3 of 54)`, counted in values of the first quantity that the mask has of each layer."""
    first: dict[str, str] = {}
    for quantity, layer in zip(rows["quantity"][mask], rows["layer"][mask], strict=True):
        first.setdefault(str(layer), str(quantity))
    parts = []
    for layer, quantity in first.items():
        mine = is_in(rows["layer"], [layer]) & is_in(rows["quantity"], [quantity])
        parts.append(f"{shorten(printable(layer), 32)} ({int((mask & mine).sum())} of {int(mine.sum())})")
    return ("layer " if len(parts) == 1 else "layers ") + listed(parts, most)
