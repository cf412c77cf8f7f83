"""The doubts on a results table, in words: the first thing that a report says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from infoplane.core.records import BoolArray
from infoplane.core.text import listed, printable, shorten
from infoplane.results import ResultTable
from infoplane.results.losses import losses
from infoplane.results.overview import named_way, shared_words
from infoplane.results.trajectories import groups
from infoplane.results.views import Series, choose, is_in, of_layers, options, ordered_layers

DPI_SHARE = 0.05
"""Share of pairs of layers beyond which violations of data processing are a doubt."""
NULL_SHARE = 0.5
"""Share of H(Y) beyond which the null of I(T;Y) is a doubt."""
MOST_LOSSES = 20
"""Losses that are told one by one."""
MOST_NAMED = 2
"""Estimates that a doubt names; of more it says their number."""

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
    "methods": "Layers are estimated by different methods: {methods}. A step between them may be the methods', and is "
    "not counted for data processing.",
    "one_run": "There is one run only. Information curves vary much between seeds; one run shows one initialisation.",
}
HEADS: dict[str, str] = {
    "lost": "Parts of the recording are missing",
    "nonfinite": "No number: activations were not finite",
    "saturated": "{quantity} is at its ceiling",
    "below_null": "I(T;Y) is no more than chance",
    "high_null": "High even on shuffled labels",
    "dpi": "Data processing is violated",
    "bound": "I(X;T) is a bound",
    "out_of_range": "Activations beyond the bins",
    "ties": "Equal values",
    "degenerate": "Layers that hardly vary",
    "single_class": "One label only",
    "few_samples": "Too few samples",
    "out_of_domain": "Outside the method's domain",
    "unreliable": "Unreliable by the method's own check",
    "methods": "Layers by different methods",
    "one_run": "One run only",
}
"""Each kind of doubt in a few words, the gravest first."""
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
        The flag or check: "lost", "saturated", "below_null", "nonfinite", "dpi", "bound", "methods", "one_run" ...
    estimate : str
        Estimator, settings, subset; "" for the table as a whole.
    text : str
    head : str
        The same in a few words, alike for all estimates.
    count, of : int
        How many values it concerns (pairs of layers for "dpi", things for "lost"), of how many; 0 where it is on none.
    """

    kind: str
    estimate: str
    text: str
    head: str = ""
    count: int = 0
    of: int = 0


@dataclass(frozen=True)
class Gathered:
    """One kind of doubt over all estimates, as a line of the report's list."""

    head: str
    doubts: list[Doubt]

    @property
    def count_words(self) -> str:
        """`38 of 54 values`, summed over the estimates; "" where the doubt is not about values."""
        count, of = (sum(getattr(doubt, name) for doubt in self.doubts) for name in ("count", "of"))
        unit = "pairs" if self.doubts[0].kind == "dpi" else "values"
        return f"{count} of {of} {unit}" if of else str(count) if count else ""

    def estimate_words(self, known: Mapping[str, str]) -> str:
        """Return which estimates the doubt concerns, in words: `all 5 estimates`, `kde, binning and 1 more estimates`.

        `known` has the short names of all estimates by their full names.
        """
        names = list(dict.fromkeys(known[doubt.estimate] for doubt in self.doubts if doubt.estimate))
        every = len(names) == len(known) > MOST_NAMED
        return f"all {len(known)} estimates" if every else listed(names, MOST_NAMED, "estimates")


def estimates(table: ResultTable) -> Iterator[Series]:
    """Yield each estimate of a table, an estimator with its settings on a subset, with all its runs and layers."""
    rows = of_layers(table.current())
    ways = [rows[name] for name in ("estimator", "settings", "subset")]
    for (*_, subset), index in groups(ways, [np.arange(len(rows))]):
        of_way = rows.take(index)
        yield choose(of_way, several_runs=True, subset=subset, layers=ordered_layers(of_way))


def estimate_name(series: Series) -> str:
    """Return the estimator, the settings and the subset of a series in words: `binning, n_bins = 30 (test)`."""
    return named_way(series.estimator, series.words, series.subset)


def short_names(ways: Sequence[Series]) -> list[str]:
    """Return the name of each estimate, with only those settings in which estimates by the same estimator differ."""
    words = [(series.estimator, series.words) for series in ways]
    alike = shared_words(words)
    own = [[word for word in each if word not in alike[estimator]] for estimator, each in words]
    return [named_way(series.estimator, each, series.subset) for series, each in zip(ways, own, strict=True)]


def doubts(table: ResultTable) -> list[Doubt]:
    """Return all doubts about a table: on what was lost, on each estimate, and whether there is one run only."""
    table = table.current()
    out = lost_doubts(table)
    for series in estimates(table):
        out += doubts_of(series)
    if len(options(table, "run")) == 1:
        out.append(Doubt("one_run", "", SENTENCES["one_run"], HEADS["one_run"]))
    return out


def gathered(found: Sequence[Doubt]) -> list[Gathered]:
    """Return the doubts grouped by their heads, the gravest kind first."""
    by_head: dict[str, list[Doubt]] = {}
    gravity = list(HEADS)
    for doubt in sorted(found, key=lambda doubt: gravity.index(doubt.kind)):
        by_head.setdefault(doubt.head, []).append(doubt)
    return [Gathered(head, alike) for head, alike in by_head.items()]


def lost_doubts(table: ResultTable) -> list[Doubt]:
    """Return a doubt for each loss of recorded data, but one for all losses beyond the first `MOST_LOSSES`."""
    told = [(f"The numbers are not of the whole recording. {loss}.", 1) for loss in losses(table)]
    if (rest := len(told) - MOST_LOSSES) > 0:
        told[MOST_LOSSES:] = [(f"{rest} more things are missing or damaged in these runs.", rest)]
    return [Doubt("lost", "", text, HEADS["lost"], count) for text, count in told]


def doubts_of(series: Series) -> list[Doubt]:
    """Return all doubts about one estimate: an estimator with its settings on a subset."""
    name, rows = estimate_name(series), series.table
    found: list[Doubt] = []

    def say(kind: str, count: int = 0, of: int = 0, **words: Any) -> None:
        """Add a doubt of this kind about `count` of `of` values; `words` fill the places in its sentence."""
        found.append(Doubt(kind, name, SENTENCES[kind].format(**words), HEADS[kind].format(**words), count, of))

    def say_of(kind: str, mask: BoolArray, **words: Any) -> None:
        """Add a doubt about the values in `mask` (rows,), if any, counted among all values of their quantities."""
        if mask.any():
            alike = is_in(rows["quantity"], set(rows["quantity"][mask].tolist()))
            say(kind, int(mask.sum()), int(alike.sum()), layers=layer_words(rows, mask), **words)

    say_of("nonfinite", rows.flag("nonfinite"))
    for quantity, meaning in MEANINGS.items():
        mask = is_in(rows["quantity"], [quantity]) & rows.flag("saturated")
        ceiling = ceiling_words(series, quantity, mask) if mask.any() else ""
        say_of("saturated", mask, quantity=quantity, ceiling=ceiling, meaning=meaning)
    say_of("below_null", rows.flag("below_null"))
    null = (rows["quantity"] == "I(T;Y) null") & np.isfinite(rows["ceiling"])
    say_of("high_null", null & (rows["value"] > NULL_SHARE * rows["ceiling"]), share=NULL_SHARE)
    for row in series.dpi():
        if row.share > DPI_SHARE:
            run = shown([series.name(row.run)])[0]
            words = {"run": run, "violations": row.violations, "pairs": row.pairs, "worst": row.worst}
            say("dpi", row.violations, row.pairs, **words)
    known = set(rows["bound"][rows["quantity"] == "I(X;T)"])
    if bounds := [words for bound, words in (("lower", "a lower"), ("upper", "an upper")) if bound in known]:
        say("bound", bounds=" and ".join(bounds))
    methods = series.by_method()
    if len(methods) > 1:
        said = (f"{listed(shown(layers), 6)} ({words})" for words, layers in methods.items())
        say("methods", methods="; ".join(said))
    for flag in PLAIN_FLAGS:
        say_of(flag, rows.flag(flag))
    return found


def shown(names: Sequence[str]) -> list[str]:
    """Return names of layers or runs as they stand in a sentence: printable, and shortened to 32 letters."""
    return [shorten(printable(name), 32) for name in names]


def ceiling_words(series: Series, quantity: str, mask: BoolArray) -> str:
    """Return the largest ceiling of the rows in `mask` as "12 bits = log₂ N", or "its ceiling" if they have none."""
    tops = series.table["ceiling"][mask]
    if not np.isfinite(tops).any():
        return "its ceiling"
    one = series.of_run(str(series.table["run"][mask][0])).grid(quantity)
    return f"{float(np.nanmax(tops)):.4g} bits = {one.ceiling_name(series.n_samples)}"


def layer_words(rows: ResultTable, mask: BoolArray, most: int = 6) -> str:
    """Return the layers that have rows in `mask` (rows,) with the number of these: `layers a (54 of 54), b (3 of 54)`.

    Of each layer only one quantity is counted, the first one that has such a row. At most `most` layers are named.
    """
    first_quantity: dict[str, str] = {}
    for quantity, layer in zip(rows["quantity"][mask], rows["layer"][mask], strict=True):
        first_quantity.setdefault(str(layer), str(quantity))
    parts = []
    for layer, quantity in first_quantity.items():
        counted = is_in(rows["layer"], [layer]) & is_in(rows["quantity"], [quantity])
        parts.append(f"{shown([layer])[0]} ({int((mask & counted).sum())} of {int(counted.sum())})")
    return ("layer " if len(parts) == 1 else "layers ") + listed(parts, most)
