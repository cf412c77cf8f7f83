"""Scale advice: the bins or the noise through which the layers of a run show something."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infoplane.analysis.record import ADVICE
from infoplane.core.text import aligned, listed, printable
from infoplane.estimators import config_json, parse
from infoplane.results import ResultTable, TableWriter, csv_path
from infoplane.store import ActivationStore

SCALES: dict[str, tuple[str, tuple[float, ...]]] = {
    "binning": ("n_bins", (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 100)),
    "kde": ("scale", (0.003, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)),
    "noise": ("relative_std", (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 3.0)),
}
"""The field that sets the scale of an estimator, and the values that are tried, from small."""
LOW, HIGH = 0.1, 0.9
"""Shares of the ceiling between which I(X;T) shows something."""
LOOKED_AT = 3
"""Snapshots that are estimated: the first, the last, and those between at equal distance."""


@dataclass(frozen=True)
class LayerAdvice:
    """One estimator on one layer: the values of its field at which I(X;T) lies between a tenth and nine tenths
    of its ceiling and I(T;Y) above its null.

    `shown` are these values. `share` is the largest I(X;T) over the snapshots looked at as a share of the ceiling
    and `above_null` whether I(T;Y) is above its null at the last of them, for each value of `tried`. `remedy` says what
    to do where `shown` is empty.
    """

    layer: str
    estimator: str
    field: str
    tried: tuple[float, ...]
    share: tuple[float | None, ...]
    above_null: tuple[bool, ...]
    shown: tuple[float, ...]
    remedy: str


@dataclass(frozen=True)
class Setting:
    """One value of an estimator's `field` for all layers, and in `without` the layers that show nothing at it.

    `spec` is the estimator with this value, to paste into `analyze`; `estimator` and `config` are the values of these
    columns in the rows that it gives.
    """

    estimator: str
    config: str
    field: str
    value: float
    spec: str
    without: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Advice:
    """What `advise` found. It shows itself as words; `advice.specs` are the specs to paste, the best first.

    Attributes
    ----------
    run : str
        Path of the run.
    layers : tuple of LayerAdvice
        One for each estimator and layer.
    settings : tuple of Setting
        One for each estimator that has a setting at which some layer shows something; that with most layers first.
    steps : tuple of int
        The snapshots that were looked at.
    """

    run: str
    subset: str
    samples: int
    steps: tuple[int, ...]
    layers: tuple[LayerAdvice, ...]
    settings: tuple[Setting, ...]

    @property
    def specs(self) -> list[str]:
        """Specs for `analyze`, the one that shows most layers first."""
        return [setting.spec for setting in self.settings]

    def __repr__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        """HTML for a notebook: the words of `str`, every name escaped."""
        return f"<pre>{html.escape(str(self))}</pre>"


def advise(
    run: str | os.PathLike[str] | ActivationStore,
    estimators: str | Sequence[str] = ("binning", "kde", "noise"),
    *,
    layers: str | Sequence[str] | None = None,
    subset: str = "all",
    device: str | None = None,
    progress: bool | None = None,
    jobs: int | Executor = 1,
    keep: bool = True,
) -> Advice:
    """Find the bin counts and noise levels at which the layers of a run are neither saturated nor blurred away.

    Each estimator is tried at ten or so scales on the first, the middle and the last snapshot. A scale shows a layer
    where the largest I(X;T) of these lies between 10 and 90 % of its ceiling, and I(T;Y) at the last is above that of
    shuffled labels.

    A scale found so is chosen by looking at the data: of several that show as many layers it is the one whose I(X;T)
    lie nearest to half the ceiling, only to make the figure clear, and another would move every curve. The advice is
    kept in `results.json`, and captions and tables say of rows at this scale how it was chosen.

    Parameters
    ----------
    run : path or ActivationStore
    estimators : names
        Of "binning" (`n_bins`), "kde" (`scale`), "noise" (`relative_std`); further settings as in a spec,
        "noise:seed=3".
    layers : names or globs, optional
        The layers that are to be seen together. By default every recorded layer.
    subset : name
        Samples to look at, as in `analyze`; a ceiling belongs to their number.
    device, progress, jobs
        As in `analyze`.
    keep : bool
        Write the advice into `results.json`.

    Returns
    -------
    Advice

    Raises
    ------
    ValueError
        For an estimator without a scale to choose, and as `analyze`.

    Examples
    --------
    >>> import tempfile, torch, infoplane
    >>> folder = tempfile.mkdtemp()
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch...>
    >>> x = torch.randn(200, 2)
    >>> run = infoplane.from_arrays(folder + "/run", {0: {"layer": x}}, labels=(x[:, 0] > 0).long())
    >>> advice = infoplane.advise(folder + "/run", "binning", progress=False)
    >>> advice.specs
    ['binning:n_bins=6']
    """
    from infoplane.analysis import analyze, open_runs

    [store] = open_runs(run)
    specs = [estimators] if isinstance(estimators, str) else list(estimators)
    grids = [_grid(spec) for spec in specs]
    steps = _looked_at(store.steps())
    every = [each for _, _, _, built in grids for each in built]
    how: dict[str, Any] = {"layers": layers, "subsets": subset, "steps": steps}
    how |= {"device": device, "progress": progress, "jobs": jobs}
    with tempfile.TemporaryDirectory() as folder:
        table = analyze(store, every, table=Path(folder) / "advice.csv", **how)
    found, settings = [], []
    for spec, field, values, built in grids:
        of_estimator = _of_layers(table, spec, field, values, built)
        found += of_estimator
        settings += _settings(spec, field, built, of_estimator)
    settings.sort(key=lambda setting: len(setting.without))
    n = int(max(table["n_samples"], default=0))
    advice = Advice(str(store.path), subset, n, tuple(steps), tuple(found), tuple(settings))
    if keep:
        _keep(store, advice)
    return advice


def _grid(spec: str) -> tuple[str, str, tuple[float, ...], list[Any]]:
    """Return (spec, field that sets its scale, values to try, estimator at each value).

    ValueError for a spec of an estimator without a scale, or that sets the field itself.
    """
    name = parse(spec).name if "+" not in spec else spec  # with a null, as "binning+null", it is none of SCALES
    if name not in SCALES:
        raise ValueError(f"no scale is to be chosen for {spec!r}; expected one of {', '.join(SCALES)}")
    field, values = SCALES[name]
    if f"{field}=" in spec:
        raise ValueError(f"{spec!r} fixes {field}, which is what advice is about; leave it out")
    return spec, field, values, [parse(_at(spec, field, value)) for value in values]


def _at(spec: str, field: str, value: float) -> str:
    """The spec with this value of its field, as `binning:n_bins=30`."""
    return f"{spec}{',' if ':' in spec else ':'}{field}={value:g}"


def _looked_at(steps: Sequence[int]) -> list[int]:
    """At most `LOOKED_AT` steps, evenly spaced: the first, the last, and some between."""
    places = np.linspace(0, len(steps) - 1, LOOKED_AT).round().astype(int)
    return [steps[i] for i in dict.fromkeys(places.tolist())]


def _of_layers(
    table: ResultTable, spec: str, field: str, values: tuple[float, ...], built: Sequence[Any]
) -> list[LayerAdvice]:
    """Return the advice on each layer, in forward order: at which of the `values` of `field` it shows something.

    `built` are the estimators at these values, whose rows are in the table.
    """
    rows = [table.take((table.estimator == e.name) & (table.settings == config_json(e))) for e in built]
    found = []
    for layer in dict.fromkeys(table.layer[table.estimator == built[0].name].tolist()):
        seen = [_seen(each.take(each.layer == layer)) for each in rows]
        shown = tuple(v for v, (share, above) in zip(values, seen, strict=True) if _shows(share) and above)
        shares, above_null = zip(*seen, strict=True)
        remedy = "" if shown else _remedy(field, values, shares)
        found.append(LayerAdvice(layer, spec, field, values, shares, above_null, shown, remedy))
    return found


def _shows(share: float | None) -> bool:
    """Whether I(X;T), given as a share of its ceiling, lies between LOW and HIGH; False for None."""
    return share is not None and LOW <= share <= HIGH


def _seen(rows: ResultTable) -> tuple[float | None, bool]:
    """Return (largest I(X;T) as a share of its ceiling; whether I(T;Y) at the last step is above its null).

    `rows` are those of one layer at one setting. The share is None where I(X;T) or its ceiling has no value.
    """
    i_xt, i_ty = (rows.take(rows.quantity == quantity) for quantity in ("I(X;T)", "I(T;Y)"))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = i_xt.value / i_xt.ceiling
    finite = shares[np.isfinite(shares)]
    # Without labels there is no I(T;Y), and I(X;T) alone decides.
    above = len(i_ty) == 0 or not bool(i_ty.flag("below_null")[np.argmax(i_ty.step)])
    return (float(finite.max()) if len(finite) else None), above


def _remedy(field: str, values: Sequence[float], shares: Sequence[float | None]) -> str:
    """Return what to do about a layer that shows nothing; `shares` are its I(X;T) over the ceiling at each value."""
    known = [share for share in shares if share is not None]
    if not known:
        return "it has no value at any scale: see what was skipped in results.json"
    if min(known) > HIGH:
        return (
            "it tells nearly all inputs apart at every scale: record more samples, fewer units "
            "(reduce=projection(n) or the mean over positions), or take noise"
        )
    if max(known) < LOW:
        return "it tells nearly nothing apart at any scale: it is constant, or dead"
    if any(map(_shows, known)):
        return "I(T;Y) is not above shuffled labels where I(X;T) shows something: record more samples or fewer units"
    return f"it goes from nothing to everything between two neighbours of {field} = {values[0]:g} to {values[-1]:g}"


def _settings(spec: str, field: str, built: Sequence[Any], found: Sequence[LayerAdvice]) -> list[Setting]:
    """Return a list of one setting, that at which most layers show something; [] where no layer does at any.

    Of values with as many layers it is that at which the I(X;T) of these lie nearest to half the ceiling.
    """
    if not any(each.shown for each in found):
        return []

    def worth(value: float) -> tuple[int, float]:
        """Return the rank of a value: the number of layers that it shows, then how near they are to half the ceiling.

        The second is minus the largest distance of a layer's I(X;T) from half its ceiling.
        """
        showing = [each for each in found if value in each.shown]
        distance = max((abs((e.share[e.tried.index(value)] or 0.0) - 0.5) for e in showing), default=1.0)
        return len(showing), -distance

    best = max(found[0].tried, key=worth)
    without = tuple(each.layer for each in found if best not in each.shown)
    estimator = built[found[0].tried.index(best)]
    return [Setting(estimator.name, config_json(estimator), field, best, _at(spec, field, best), without)]


def _keep(store: ActivationStore, advice: Advice) -> None:
    """Write the advice into the meta of the run's table, in place of earlier advice on the same subset."""
    with TableWriter(csv_path(store.path)) as writer:
        about = writer.meta.setdefault("runs", {}).setdefault(store.run_id, {})
        kept = [each for each in about.get(ADVICE, []) if each["subset"] != advice.subset]
        about[ADVICE] = [*kept, asdict(advice)]


def _lines(advice: Advice) -> Iterator[str]:
    """Yield lines: the table of ranges, one setting for each estimator, then what to do about other layers."""
    steps = ", ".join(map(str, advice.steps))
    yield f"I(X;T) is 10 to 90 % of its ceiling, and I(T;Y) above its null, at (N = {advice.samples}, steps {steps})"
    names = list(dict.fromkeys(each.estimator for each in advice.layers))
    layers = list(dict.fromkeys(each.layer for each in advice.layers))
    cells = {(each.layer, each.estimator): _range(each) for each in advice.layers}
    heads = {each.estimator: f"{each.estimator} {each.field}" for each in advice.layers}
    rows = [["layer", *(heads[name] for name in names)]]
    rows += [[printable(layer), *(cells.get((layer, name), "") for name in names)] for layer in layers]
    yield from aligned(rows)
    for setting in advice.settings:
        shown = f"{len(layers) - len(setting.without)} of " if setting.without else ""
        missing = f"; not {listed([*map(printable, setting.without)], 3)}" if setting.without else ""
        yield f"{setting.spec}  for {shown}{len(layers)} layers{missing}"
    estimators: dict[tuple[str, str], list[str]] = {}
    for each in advice.layers:
        if each.remedy:
            estimators.setdefault((each.layer, each.remedy), []).append(each.estimator)
    remedies: dict[str, list[str]] = {}  # what to say -> the layers of which it is said, in one line
    for (layer, remedy), names in estimators.items():
        remedies.setdefault(f"{', '.join(names)}: {remedy}", []).append(printable(layer))
    for remedy, concerned in remedies.items():
        yield f"{listed(concerned, 3)}, {remedy}"
    yield "A scale chosen so is chosen by looking; say so beside the figure."


def _range(found: LayerAdvice) -> str:
    """The values at which a layer shows something, in words: `5 to 12`, `5`, or `none`."""
    if not found.shown:
        return "none"
    low, high = found.shown[0], found.shown[-1]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
