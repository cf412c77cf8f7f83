"""From a study to its associations: which columns are tried on which runs, and the numbers of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.errors import closest
from infoplane.core.records import FloatArray, IntArray
from infoplane.core.text import listed, printable
from infoplane.core.tokens import layer_matches
from infoplane.results.names import matches
from infoplane.studies import correlation
from infoplane.studies.association import Association, Claim
from infoplane.studies.correlation import METHODS, Method
from infoplane.studies.design import configurations, orders_of, strata_of, weights_of
from infoplane.studies.frame import Study
from infoplane.studies.reading import Measure

LEAST = 5
"""Configurations that an association needs."""
COMPLETE = 0.9
"""Share of the runs that must have a column for it to be tried."""
SIGNS = {"+": 1, "positive": 1, "-": -1, "negative": -1}
"""The texts by which a claim may name a sign."""

Choice = str | Sequence[str] | None


def associate(
    study: Study,
    target: str = "gap",
    *,
    control: str | None = None,
    method: Method = "spearman",
    permutations: int = 1999,
    draws: int = 1000,
    seed: int = 0,
    repetitions: str | Sequence[str] | None = ("seed",),
    **choice: Choice,
) -> Association:
    """Return the correlations of the target with all columns that are tried; see `Study.association`."""
    if method not in METHODS:
        raise ValueError(f"method must be {', '.join(METHODS)}, got {method!r}")
    if permutations < 1 or draws < 0 or seed < 0:
        raise ValueError(
            f"permutations must be at least 1, draws and seed at least 0, got {permutations}, {draws} and {seed}"
        )
    if control == target:
        raise ValueError(f"the control must be another column than the target, got {printable(target)!r} for both")
    repetitions = known_repetitions(study, repetitions)
    wanted = chosen_columns(study.measures, {target, control}, choice)
    y, z = numbers_of(study, target), None if control is None else numbers_of(study, control)
    x = np.stack([study[column] for column in wanted], axis=1)
    rows, tried, left_out = complete_runs(x, y, z, list(wanted))
    groups = configurations(study, repetitions)[rows]
    x, y, z = x[rows][:, tried], y[rows], None if z is None else z[rows]
    check_enough(groups, {target: y} | ({} if z is None else {str(control): z}), tried, left_out)
    random, strata = np.random.default_rng(seed), strata_of(groups, z)
    orders, possible = orders_of(groups, strata, permutations, random)
    names = [list(wanted)[m] for m in tried]
    words = [
        f"with {target}" + (f" ({study.gaps[target]})" if target in study.gaps else ""),
        *tried_words(groups, len(rows) - len(y), len(tried), study.lost),
        *drawn_words(len(orders), draws, possible, f" of one {control}" if strata.any() else ""),
        *([f"not tried: {listed([f'{name} ({why})' for name, why in left_out.items()], 3)}"] if left_out else []),
    ]
    return Association(
        target=target,
        control=control or "",
        method=method,
        measures={name: wanted[name] for name in names},
        numbers=all_numbers(x, y, z, method, orders, weights_of(groups, draws, random)),
        runs=tuple(study["run"][rows].tolist()),
        x=x,
        y=y,
        z=z,
        configurations=groups,
        left_out=left_out,
        words=[printable(line) for line in words],
        flags={name: study.flags.get(name, {}) for name in names},
    )


def known_repetitions(study: Study, names: str | Sequence[str] | None) -> Sequence[str] | None:
    """Return the names as a sequence, None as it is; ValueError for a name that is no hyper-parameter of the study."""
    names = [names] if isinstance(names, str) else names
    # A misspelt name would make each run a configuration of its own. "seed" is the default, and may be missing.
    if unknown := [name for name in names or () if name not in {*study.hyper, "seed"}]:
        near = ", ".join(closest(unknown[0], study.hyper)) or "none"
        raise ValueError(f"repetitions names no hyper-parameter {printable(unknown[0])!r}; closest: {near}")
    return names


def chosen_columns(
    measures: Mapping[str, Measure], other: set[str | None], choice: Mapping[str, Choice]
) -> dict[str, Measure]:
    """Return the columns of `measures` that match every choice, without the `other` ones, target and control.

    `choice` has names or globs for fields of a measure, such as {"layer": "fc*"}. ValueError for one that matches no
    column, TypeError for an unknown field.
    """
    found = {name: measure for name, measure in measures.items() if name not in other}
    for what, wanted in choice.items():
        if what not in Measure.__annotations__:
            raise TypeError(
                f"association takes no {what!r}; columns are chosen by {', '.join(Measure.__annotations__)}"
            )
        patterns = [wanted] if isinstance(wanted, str) else list(wanted or ())
        cells = {name: str(getattr(measure, what)) for name, measure in found.items()}
        match = layer_matches if what == "layer" else matches
        for pattern in patterns:
            if not any(match(cell, pattern) for cell in cells.values()):
                near = ", ".join(closest(pattern, dict.fromkeys(cells.values())))
                raise ValueError(f"the study has no {what} {printable(pattern)!r}; closest: {near}")
        if patterns:
            found = {name: found[name] for name, cell in cells.items() if any(match(cell, p) for p in patterns)}
    return found


def numbers_of(study: Study, name: str) -> FloatArray:
    """Return a column of the study as numbers (R,), NaN where a run has none.

    ValueError for an unknown name, and for a column with texts.
    """
    if name not in study.columns:
        if name in ("gap", "error_gap"):
            metrics = [printable(c.removesuffix("_final")) for c in study.columns if c.endswith("_final")]
            raise ValueError(
                f"the study has no {name}: no run recorded a held-out metric beside a training one, as 'test loss' and "
                f"'train loss' (recorded: {listed(metrics, 6) or 'none'}); choose them with gap=(held-out, train)"
            )
        near = ", ".join(closest(name, [c for c in study.columns if c not in study.measures]))
        raise ValueError(f"the study has no column {printable(name)!r}; closest: {near}")
    cells = study[name].tolist()
    if texts := [printable(cell) for cell in cells if isinstance(cell, str)]:
        raise ValueError(f"an association needs numbers, the column {printable(name)!r} has {texts[0]!r:.40}")
    return np.array([np.nan if cell is None else float(cell) for cell in cells])


def complete_runs(
    x: FloatArray, y: FloatArray, z: FloatArray | None, names: Sequence[str]
) -> tuple[npt.NDArray[np.bool_], list[int], dict[str, str]]:
    """Return a mask (R,) of the runs with all numbers, the indices of the columns to try, and {other column: why not}.

    `x` (R, M) are the columns `names`, `y` (R,) is the target and `z` (R,) the control. A column is not tried if more
    than a tenth of the runs lack it, or if it is constant; runs that lack any other column are left out.
    """
    known = np.isfinite(y) if z is None else np.isfinite(y) & np.isfinite(z)
    counts = np.isfinite(x[known]).sum(axis=0)  # in how many of these runs each column has a number
    common = counts >= max(COMPLETE * known.sum(), 1)
    rows = known & np.isfinite(x[:, common]).all(axis=1)
    varies = np.ptp(x[rows], axis=0) > 0 if rows.any() else common  # without any run, no column is called constant
    reasons = {
        name: f"in {counts[m]} of {known.sum()} runs" if not common[m] else "constant"
        for m, name in enumerate(names)
        if not (common[m] and varies[m])
    }
    return rows, np.flatnonzero(common & varies).tolist(), reasons


def check_enough(
    groups: IntArray, columns: Mapping[str, FloatArray], tried: Sequence[int], left_out: Mapping[str, str]
) -> None:
    """Raise ValueError for too few configurations, a constant target or control, or no column to try.

    `groups` (R,) has the configuration of each run, `columns` the values of target and control by name, `tried` the
    columns to try, `left_out` the reasons why others are not.
    """
    count = len(np.unique(groups))
    if count < LEAST:
        raise ValueError(
            f"an association needs at least {LEAST} configurations with all numbers, got {count} in {len(groups)} "
            "runs; add runs, or take one configuration, of which each seed counts"
        )
    for name, values in columns.items():
        if np.ptp(values) == 0:
            raise ValueError(f"{printable(name)} is {values[0]:g} in all {len(values)} runs, so nothing goes with it")
    if not tried:
        reasons = listed([printable(f"{name} ({why})") for name, why in left_out.items()], 3) or "the study has none"
        raise ValueError(f"no column can be tried: {reasons}")


def tried_words(groups: IntArray, lost: int, tried: int, damaged: Sequence[str]) -> list[str]:
    """Return lines of a caption: how many columns were `tried`, on how many runs and configurations.

    `lost` runs were left out since they lack a number; `damaged` are the names of runs with lost steps.
    """
    count = len(np.unique(groups))
    of = f" of {count} configurations" if count < len(groups) else ""
    return [
        f"{tried} column{'s' * (tried > 1)} tried on {len(groups)} runs{of}"
        + (f"; {lost} run{'s lack' if lost > 1 else ' lacks'} a number" if lost else ""),
        *([f"steps were lost in {listed(damaged, 3)}"] if damaged else []),
    ]


def drawn_words(orders: int, draws: int, possible: float, among: str) -> list[str]:
    """Return lines of a caption that say how intervals and p were found.

    `orders` permuted orders were used of `possible` ones; `among` limits which configurations change places, in words.
    """
    every = orders + 1 >= round(possible)  # 1 for the given order, which is among the possible ones
    number = f"all {possible:.0f}" if every else f"{orders} random"
    least = f"; no p is below {1 / round(possible):.3g}" if every else ""
    return [
        f"95 % percentile interval of {draws} draws of configurations" if draws else "no intervals",
        f"p from {number} orders of configurations{among}, adjusted for all columns (max-T){least}",
    ]


def all_numbers(
    x: FloatArray, y: FloatArray, z: FloatArray | None, method: Method, orders: IntArray, weights: FloatArray
) -> dict[str, FloatArray]:
    """Return the correlations, intervals and p of the M columns, by their names in `Association.numbers`.

    `orders` (B, R) are permuted orders of the runs, `weights` (D, R) says how often each run is in each bootstrap draw.
    """
    out: dict[str, FloatArray] = {name: correlation.correlations(x, y, name) for name in METHODS}
    out |= interval("", correlation.bootstrap(x, y, weights, method))
    out["p"], out["p_adjusted"] = correlation.p_values(out[method], correlation.null(x, y, orders, method))
    if z is not None:
        out["partial"] = correlation.residuals(y[:, None], z)[:, 0] @ correlation.residuals(x, z)
        out |= interval("partial_", correlation.partial_bootstrap(x, y, z, weights))
        found = correlation.p_values(out["partial"], correlation.partial_null(x, y, z, orders))
        out["partial_p"], out["partial_p_adjusted"] = found
    return out


def interval(before: str, drawn: FloatArray) -> dict[str, FloatArray]:
    """Return the 2.5 and 97.5 % points (M,) of draws (D, M), named `low` and `high` with `before` put before the name.

    They are NaN without draws.
    """
    if not len(drawn):
        none = np.full(drawn.shape[1], np.nan)
        return {f"{before}low": none, f"{before}high": none}
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return {f"{before}low": low, f"{before}high": high}


def claim_of(
    study: Study, sign: int | str, target: str = "gap", *, within: str | Sequence[str] = (), **how: Any
) -> Claim:
    """Count in how many groups of runs and columns the correlation has the claimed sign; see `Study.claim`.

    ValueError for another sign, and where no group can be tried.
    """
    claimed = SIGNS.get(str(sign), sign)
    if claimed not in (1, -1):
        raise ValueError(f"sign must be + or -, got {sign!r}")
    names = [within] if isinstance(within, str) else list(within)
    cells: list[str] = []
    numbers: list[tuple[FloatArray, ...]] = []
    skipped: dict[str, str] = {}
    for group, rows in groups_by(study, names).items():
        try:
            # A claim shows no p: so take one permutation, the least number that `associate` accepts.
            found = associate(study.take(rows), target, **{**how, "permutations": 1})
        except ValueError as error:
            if not group:
                raise
            skipped[group] = str(error)
            continue
        cells += [f"{group}, {column}" if group else column for column in found.columns]
        numbers.append((found.value, *found.interval))
    if not cells:
        raise ValueError(f"no group of {', '.join(names)} can be tried: {next(iter(skipped.values()))}")
    value, low, high = map(np.concatenate, zip(*numbers, strict=True))
    words = printable(f"{'positive' if claimed > 0 else 'negative'} association with {target}")
    return Claim(sign=int(claimed), cells=cells, value=value, low=low, high=high, skipped=skipped, words=words)


def groups_by(study: Study, names: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return {group: mask (R,) of its runs}: groups of runs with the same values in the columns `names`.

    A group is called "lr = 0.1"; without names all runs are one group, called "". ValueError for an unknown column.
    """
    if missing := [name for name in names if name not in study.columns]:
        near = ", ".join(closest(missing[0], study.hyper)) or "none"
        raise ValueError(f"the study has no column {printable(missing[0])!r}; closest: {near}")
    values = [study[name].tolist() for name in names]
    keys = [", ".join(f"{n} = {v}" for n, v in zip(names, of_run, strict=True)) for of_run in zip(*values, strict=True)]
    keys = keys or [""] * len(study)
    return {key: np.array([each == key for each in keys]) for key in dict.fromkeys(keys)}
