"""A table of results in under twenty lines: a row a layer, from the first to the last step, and what is in doubt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from infoplane.core.text import aligned, listed, printable
from infoplane.core.tokens import token_position
from infoplane.results.branches import prepared_fields
from infoplane.results.names import PAIR, pair_name

if TYPE_CHECKING:
    from infoplane.results.table import ResultTable

FLAG_WORDS = {
    "nonfinite": "no finite activations",
    "saturated": "saturated",
    "below_null": "no better than shuffled labels",
    "out_of_range": "values beyond the bins",
    "ties": "equal values",
    "degenerate": "hardly varies",
    "single_class": "one label only",
    "few_samples": "too few samples",
    "out_of_domain": "outside the method's domain",
    "unreliable": "unreliable",
}
"""Each flag in words."""
REMEDIES = {
    "nonfinite": "look at the loss: did training diverge?",
    "saturated": "`infoplane advise RUN` looks for bins or noise that show something",
    "below_null": "record more samples or fewer units, or look more coarsely",
    "few_samples": "record more samples",
    "out_of_domain": "docs/methods.md says which estimator suits which layer",
    "unreliable": "docs/methods.md says which estimator suits which layer",
}
"""What to do about a flag."""
_HAVE = frozenset({"nonfinite", "few_samples"})
"""Flags whose words follow "values have"; those of other flags follow "values are"."""
# Settings that need no word whatever their value.
_UNINTERESTING = frozenset({"seed", "null_draws", "null_seed", "prepared"})
TECHNICAL: dict[str, object] = {
    "dtype": "auto",
    "n_draws": 8,
    "target_scale": 0.1,
    "rounding": "floor",
    "top": "closed",
    "low": "auto",
    "quantile": "distinct",
    "separate_saturated": False,
    "per_unit": False,
    "whole_run": False,
    "standardize": True,
    "corrected": True,
    "shrinkage": "auto",
    "epsilon": 1e-05,
    "jitter": 0.0001,
    "formula": "auto",
    "metric": "euclidean",
    "code_length": False,
    "random_features": 0,
}
"""Settings that need no word while they have this value, their default: how a number is computed, not what it means."""
PLANE = ("I(X;T)", "I(T;Y)")
"""The two coordinates of the information plane."""
MOST_COLUMNS, MOST_LAYERS = 3, 12
"""Quantities and layers that one table shows."""


def overview(table: ResultTable, *, most: int | None = None) -> str:
    """Return a text with a table for each estimator, settings and subset, which has a row for each layer.

    Only the first `most` tables are shown, and the others counted.
    """
    table = table.current()
    rows = table.take(table.estimator != "recorded")
    # Pairs of layers have a table of their own, apart from that of single layers.
    names = [rows[c].tolist() for c in ("estimator", "settings", "subset")]
    ways = list(dict.fromkeys(zip(map(bool, rows.partner.tolist()), *names, strict=True)))
    lines = [line for way in ways[:most] for line in [*_way(rows, *way), ""]]
    if most is not None and len(ways) > most:
        lines.append(f"and {len(ways) - most} more estimate{'s' if len(ways) > most + 1 else ''}")
    return "\n".join(lines).removesuffix("\n") or "no estimates"  # no blank line after the last table


def _way(table: ResultTable, pairs: bool, estimator: str, settings: str, subset: str) -> Iterator[str]:
    """Yield the lines on one estimator with its settings on one subset: a table, then remarks on it.

    With `pairs` the rows of the table are pairs of layers, else single layers.
    """
    same_way = (table.estimator == estimator) & (table.settings == settings) & (table.subset == subset)
    rows = table.take(same_way & ((table.partner != "") == pairs))
    quantities = _quantities(rows)
    yield _head(rows, estimator, settings, subset, quantities)
    called = np.array(list(map(pair_name, rows.layer, rows.partner)), dtype=object)
    layers = list(dict.fromkeys(called[np.argsort(rows.depth, kind="stable")].tolist()))
    null = f"{quantities[-1]} null"
    chosen = any(rows.branch.tolist())
    cells = [["pair" if pairs else "layer", *quantities, null, *(["by"] * chosen), "in doubt"]]
    half = MOST_LAYERS // 2 if len(layers) > MOST_LAYERS else len(layers)
    for layer in [*layers[:half], *layers[half:][-half:]]:
        of_layer = rows.take(called == layer)
        spans = [" -> ".join(_ends(of_layer, quantity)) or "no value" for quantity in quantities]
        by = [_methods(of_layer, quantities)] * chosen
        cells.append([layer, *spans, "".join(_ends(of_layer, null)[-1:]), *by, _doubts(of_layer, quantities)])
    at = 1 + len(quantities)
    if not any(row[at] for row in cells[1:]):
        cells = [[*row[:at], *row[at + 1 :]] for row in cells]
    lines = list(aligned(cells))
    if left := max(0, len(layers) - MOST_LAYERS):
        # Of many layers the first and the last are shown, and this line stands for those between them.
        lines.insert(half + 1, f"... {left} more {'pair' if pairs else 'layer'}{'s' if left > 1 else ''}")
    yield from lines
    yield from _reasons(rows.take(np.isin(rows.quantity, quantities)))
    yield from _skipped(table, estimator, settings, subset)
    yield from _violations(rows)
    yield from _to_do(rows.take(np.isin(rows.quantity, quantities)))


def _quantities(rows: ResultTable) -> list[str]:
    """Return the quantities to show: I(X;T) and I(T;Y) as far as rows have them, or without both the first few."""
    known = list(dict.fromkeys(rows.quantity.tolist()))
    return [q for q in PLANE if q in known] or [q for q in known if not q.endswith((" null", " lower"))][:MOST_COLUMNS]


def _head(rows: ResultTable, estimator: str, settings: str, subset: str, quantities: Sequence[str]) -> str:
    """Return the line above a table: estimator, settings, subset, N, steps, and the ceilings of the quantities."""
    looked = advice_words(rows, estimator, settings, dict.fromkeys(rows.run.tolist()))
    words = named_way(estimator, [*words_of(settings, rows.config.tolist()), *looked], subset)
    sizes = dict.fromkeys([min(rows.n_samples), max(rows.n_samples)])
    left_out = "".join(f", {each}" for each in unlabelled_words(rows, subset, dict.fromkeys(rows.run.tolist())))
    runs = len(set(rows.run.tolist()))
    several = f", mean of {runs} runs" if runs > 1 else ""
    tops = [(q, rows.ceiling[rows.quantity == q]) for q in quantities]
    most = [f"{q} {np.nanmax(top):.4g}" for q, top in tops if np.isfinite(top).any()]
    unit = ", ".join(dict.fromkeys(rows.unit[np.isin(rows.quantity, quantities)].tolist()))
    at_most = f"; at most {', '.join(most)} {'bits' if unit == 'bit' else unit}".rstrip() if most else ""
    n = " to ".join(map(str, sizes))
    return f"{words}, N = {n}{left_out}, steps {min(rows.step)} to {max(rows.step)}{several}{at_most}"


def _ends(rows: ResultTable, quantity: str) -> list[str]:
    """Return the value of a quantity at the first and at the last step as texts, each the mean over runs.

    The list has one text where there is one step, and none where there is no value.
    """
    found = rows.take((rows.quantity == quantity) & np.isfinite(rows.value))
    if not len(found):
        return []
    runs = [found.take(found.run == run) for run in dict.fromkeys(found.run.tolist())]
    means = [np.mean([of_run.value[of_run.step == end(of_run.step)][0] for of_run in runs]) for end in (min, max)]
    return [f"{mean:.2f}" for mean in means[: 1 if min(found.step) == max(found.step) else 2]]


def _doubts(rows: ResultTable, quantities: Sequence[str]) -> str:
    """Return the flags of these quantities in words: `I(X;T), I(T;Y) saturated (38 of 51)`; "" where none is raised."""
    said: dict[str, list[str]] = {}
    for quantity in quantities:
        values = rows.take(rows.quantity == quantity)
        for flag, words in FLAG_WORDS.items():
            if count := int(values.flag(flag).sum()):
                share = "" if count == len(values) else f" ({count} of {len(values)})"
                said.setdefault(words + share, []).append(quantity)
    return "; ".join(f"{', '.join(names)} {words}" for words, names in said.items())


def _methods(rows: ResultTable, quantities: Sequence[str]) -> str:
    """Return the methods that an estimator chose for these quantities: `knn`, or `I(X;T) flow, I(T;Y) knn`."""
    chosen = [(q, branch) for q in quantities for branch in dict.fromkeys(rows.branch[rows.quantity == q].tolist())]
    branches = list(dict.fromkeys(branch for _, branch in chosen))
    return branches[0] if len(branches) == 1 else ", ".join(f"{q} {branch}" for q, branch in chosen)


def _reasons(rows: ResultTable) -> Iterator[str]:
    """Yield a line for each method that an estimator chose, with its reasons for the choice."""
    found: dict[str, dict[str, None]] = {}
    for branch, reason in zip(rows.branch.tolist(), rows.reason.tolist(), strict=True):
        found.setdefault(branch, {})[reason] = None
    yield from (printable(f"by {branch}: {'; '.join(reasons)}") for branch, reasons in found.items() if branch)


def _skipped(table: ResultTable, estimator: str, settings: str, subset: str) -> Iterator[str]:
    """Yield a line with the layers that the estimator refused for the first of its reasons, if it refused any."""
    by_reason: dict[str, list[str]] = {}
    for about in table.meta.get("runs", {}).values():
        for entry in about.get("skipped", []):
            if (entry["estimator"], entry["subset"]) == (estimator, subset) and _same(entry["settings"], settings):
                by_reason.setdefault(entry["reason"], []).append(printable(entry["layer"]))
    for reason, layers in list(by_reason.items())[:1]:
        more = f" (and {len(by_reason) - 1} more reasons, in results.json)" if len(by_reason) > 1 else ""
        yield f"skipped: {listed(list(dict.fromkeys(layers)), 4)}: {printable(reason)}{more}"


def _violations(rows: ResultTable) -> Iterator[str]:
    """Yield a line on how often the data-processing inequality is violated, if it ever is."""
    found = rows.dpi()
    rises, pairs = sum(row.violations for row in found), sum(row.pairs for row in found)
    if rises:
        yield f"I(X;T) rises to the next layer in {rises} of {pairs} pairs, which no true value can (data processing)"


def _same(a: str, b: str) -> bool:
    """Return whether two JSON texts have the same content, however they are written."""
    return a == b or json.loads(a) == json.loads(b)


def _to_do(rows: ResultTable) -> Iterator[str]:
    """Yield a line on what to do about the flag that is raised most often, if any is."""
    counts = {flag: int(rows.flag(flag).sum()) for flag in REMEDIES}
    worst = max(counts, key=lambda flag: counts[flag])
    if counts[worst]:
        verb = "have" if worst in _HAVE else "are"
        yield f"{counts[worst]} of {len(rows)} values {verb} {FLAG_WORDS[worst]}: {REMEDIES[worst]}"


def named_way(estimator: str, settings: Sequence[str], subset: str) -> str:
    """Return an estimate in words, such as `binning, n_bins = 30 (test)`; the subset is left out where it is "all"."""
    words = ", ".join([estimator, *settings])
    return printable(words if subset == "all" else f"{words} ({subset})")


def shared_words(ways: Iterable[tuple[str, Sequence[str]]]) -> dict[str, set[str]]:
    """Return {estimator: the settings, as words, that all of its estimates share}.

    `ways` has a pair for each estimate: the estimator and its settings as words, such as "n_bins = 30".
    """
    alike: dict[str, set[str]] = {}
    for estimator, words in ways:
        alike[estimator] = alike.get(estimator, set(words)).intersection(words)
    return alike


BY_LOOKING = "scale chosen by looking"
"""What figures say of a scale, such as a number of bins, that `infoplane advise` chose by looking at the data."""


def advice_words(table: ResultTable, estimator: str, settings: str, runs: Iterable[str] | None = None) -> list[str]:
    """Flag settings that were chosen by looking at the data: return [BY_LOOKING] for these, [] for others.

    The settings of an estimator, as JSON, were chosen so if `infoplane advise` recommended them for any of these runs
    (by default, of all runs of the table).
    """
    known = table.meta.get("runs", {})
    for run in known if runs is None else runs:
        for advice in known.get(run, {}).get("advice", ()):
            for each in advice.get("settings", ()):
                if each.get("estimator") == estimator and _same(str(each.get("config")), settings):
                    return [BY_LOOKING]
    return []


def unlabelled_words(table: ResultTable, subset: str, runs: Iterable[str]) -> list[str]:
    """Return ["without the 3 to 12 samples that have no label at a position"], or [] where all samples have labels.

    Labels of a sequence belong to positions, and a sample without one is left out at that position. The numbers are the
    least and the largest over the positions in the table and these runs.
    """
    known, missing = table.meta.get("runs", {}), []
    if any(PAIR in quantity for quantity in set(table.quantity.tolist())):
        return []  # a pair needs no labels
    places = {token_position(layer) for layer in set(table.layer.tolist())} - {None}
    for run in runs:
        counts = known.get(run, {}).get("unlabelled", {}).get(subset, [])
        missing += [count for position, count in enumerate(counts) if position in places and type(count) is int]
    if not any(missing):
        return []
    ends = " to ".join(f"{n:,}" for n in dict.fromkeys([min(missing), max(missing)]))
    return [f"without the {ends} samples that have no label at a position"]


def words_of(settings: str, configs: Iterable[str]) -> list[str]:
    """Return the settings in words, for rows with these `configs`.

    Where the estimator took the noise that the network itself adds, its std stands in place of the std in the settings.
    """
    words = settings_words(settings)
    own = {_own_noise(config) for config in dict.fromkeys(configs)}
    if None in own or not own:
        return words
    told = f"noise of the network, std = {own.pop():g}" if len(own) == 1 else "noise of the network"
    return [told, *(word for word in words if not word.startswith(("std =", "relative_std =")))]


def _own_noise(config: str) -> float | None:
    """Return the std of the network's own noise if the estimator took it, as noted in `config`; else None."""
    std = prepared_fields(config).get("network_std") if '"network_std"' in config else None
    return float(std) if isinstance(std, int | float) else None


def settings_words(settings: str, *, every: bool = False) -> list[str]:
    """Return the settings that change what a number means, each as `n_bins = 30`.

    `settings` is a JSON text. With `every`, seeds and technical settings at their default are returned, too.
    """
    fields = json.loads(settings or "{}")
    inner, out = fields.get("estimator"), []
    if isinstance(inner, dict):  # a wrapper around another estimator, whose name is part of the wrapper's own name
        out = settings_words(json.dumps({n: v for n, v in inner.items() if n != "name"}), every=every)
        del fields["estimator"]
    for name, value in fields.items():
        dull = name in _UNINTERESTING or (name, value) in TECHNICAL.items()
        if value is None or value == [] or (dull and not every):
            continue
        if isinstance(value, list):
            value = "(" + ", ".join(f"{v:g}" if isinstance(v, int | float) else str(v) for v in value) + ")"
        out.append(f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}")
    return out
