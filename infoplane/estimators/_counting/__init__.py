"""Counts of codes -> plug-in entropies and informations, and the quantities a counting estimator returns.

Entropies are sums of c log2 c over counts, held as whole multiples of 2**-k in int64. Integer sums do not
depend on the order of their terms, so permuting samples or units, splitting the block, or moving to another
device changes no bit of the result; a constant layer gives exactly 0 and N distinct codes exactly log2 N. The
rounding of the table is below 2**-(k + 1) bit per code, in all less than 1e-11 bit up to a million samples.

Codes are told apart by 64-bit keys: without error where the codes fit the key, else with a probability of any
mistake that `collision_bound` returns, about 1e-11 for 4,096 samples and 1e-9 for 50,000.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from infoplane.core.files import fingerprint
from infoplane.estimators._counting.corrections import CORRECTIONS, corrected_entropy, log_table
from infoplane.estimators._counting.counts import Digitizer, Group, Labels, Runs, groups, lookup, sort_rows, weigh
from infoplane.estimators._counting.null import ShuffledLabels
from infoplane.estimators._driver import Flags, Null, report
from infoplane.estimators._labels import percentiles_95
from infoplane.estimators._protocol import ALL_GUARANTEES, Quantity

# Nats of first-order bias beyond which I(T;Y) has the flag `few_samples`: plain, and with corrections that
# take off this order only. The others estimate the cells that were not seen.
_MOST_BIAS = {"": 0.07, "miller-madow": 0.15, "jackknife": 0.15, "grassberger": 0.15}


class Counting:
    """What `binning` and `adaptive` share: their promises, edges that `prepare` found, and the counts of cells."""

    targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
    guarantees: ClassVar[frozenset[str]] = ALL_GUARANTEES
    uses_repeats: ClassVar[bool] = True
    recorded_units: ClassVar[int]
    """Units whose edges are recorded one by one; those of more units by their digest."""

    corrections: tuple[str, ...]
    null_draws: int
    seed: int

    def remembering(self, name: str, edges: Tensor) -> Self:
        """A copy whose field `name` holds edges (U, E), or the digest of many, with the edges beside it."""
        if len(edges) <= self.recorded_units:
            return replace(self, **{name: tuple(tuple(row) for row in edges.tolist())})  # type: ignore[type-var]
        digest = fingerprint(edges.cpu().double().numpy().tobytes(), method="sha256")
        found = replace(self, **{name: f"sha256:{digest}"})  # type: ignore[type-var]
        found.__dict__[f"_{name}"] = edges.cpu()
        return found

    def remembered(self, name: str, what: str, units: int) -> Tensor:
        """The edges (U, E) in the field `name`; ValueError where they are not there, or of another number of units."""
        kept = getattr(self, name)
        if not isinstance(kept, str):
            edges = torch.tensor(kept, dtype=torch.float64, device="cpu")
        elif f"_{name}" in self.__dict__:
            edges = self.__dict__[f"_{name}"]
        else:
            raise ValueError(f"the {what} {kept} are known by their digest only; call prepare on the run")
        if len(edges) != units:
            raise ValueError(f"the prepared {what} have {len(edges)} units, t has {units}; call prepare on this run")
        return edges

    def counted(
        self, t: Tensor, y: Tensor, x_ids: Tensor, digitize: Digitizer, flags: Mapping[str, Tensor]
    ) -> dict[str, Quantity]:
        """The quantities of a block, from the cells of its values."""
        labels = Labels.of(y, x_ids)
        found = plug_in(t, labels, digitize, null_draws=self.null_draws, seed=self.seed, corrections=self.corrections)
        return quantities(found, labels, flags)


@dataclass(frozen=True)
class PlugIn:
    """Plug-in estimates in bits; (S,) float64 unless said otherwise.

    Attributes
    ----------
    h_x, h_y, h_x_given_y : float
    null : (S, draws) float64 or None
        I(T;Y) with shuffled labels.
    codes, singles, cells : (S,) int64
        Different codes, those of a single input, and different pairs of code and class.
    corrected : mapping from correction to entropies (H(T), I(T;Y)), each (S,)
    thin : (S,) bool
        Most pairs (code, class) are seen once; all False where nothing is corrected.
    """

    h_x: float
    h_y: float
    h_x_given_y: float
    h_t: Tensor
    i_xt: Tensor
    i_ty: Tensor
    i_xt_given_y: Tensor
    null: Tensor | None
    codes: Tensor
    singles: Tensor
    cells: Tensor
    corrected: dict[str, tuple[Tensor, Tensor]]
    thin: Tensor


def plug_in(
    t: Tensor,
    labels: Labels,
    digitize: Digitizer,
    *,
    null_draws: int = 0,
    seed: int = 0,
    corrections: tuple[str, ...] = (),
) -> PlugIn:
    """Count a block (S, N, U) and return its entropies and informations.

    All differences are taken between integers and converted once, so an information of 0 is exactly 0 and one
    at its ceiling is exactly the ceiling.
    """
    table, k = log_table(labels.samples)
    table = table.to(t.device)
    shuffled = ShuffledLabels(labels, null_draws, seed, table) if null_draws else None
    found = [_sums(group, labels, table, shuffled, corrections) for group in groups(t, labels, digitize)]
    s = found[0] if len(found) == 1 else {name: torch.cat([one[name] for one in found]) for name in found[0]}
    whole, s_y = int(table[-1]), int(lookup(table, labels.class_counts).sum())
    s_x = s_xy = 0
    if not labels.distinct:
        s_x = s_xy = int(lookup(table, torch.bincount(labels.x_ids)).sum())
        if not labels.one_label:
            s_xy = int(lookup(table, torch.bincount(labels.pairs()[0])).sum())

    scale = float(labels.samples * 2**k)

    def bits(total: Tensor) -> Tensor:
        return total.to(torch.float64) / scale

    h_y = {name: corrected_entropy(Runs.of_counts(labels.class_counts), labels.samples, name) for name in corrections}
    return PlugIn(
        h_x=float(whole - s_x) / scale,
        h_y=float(whole - s_y) / scale,
        h_x_given_y=float(s_y - s_xy) / scale,
        h_t=bits(whole - s["t"]),
        i_xt=bits((whole - s_x) - (s["t"] - s.get("tx", 0))),
        i_ty=bits((whole - s_y) - (s["t"] - s["ty"])),
        i_xt_given_y=bits((s_y - s_xy) - (s["ty"] - s.get("txy", 0))),
        null=bits((whole - s_y) - (s["t"][:, None] - s["null"])) if shuffled else None,
        codes=s["codes"],
        singles=s["singles"],
        cells=s["cells"],
        corrected={name: (s[f"t {name}"], s[f"t {name}"] + h_y[name] - s[f"ty {name}"]) for name in corrections},
        thin=s.get("thin", s["codes"] == 0),
    )


def _sums(
    group: Group, labels: Labels, table: Tensor, shuffled: ShuffledLabels | None, corrections: tuple[str, ...]
) -> dict[str, Tensor]:
    """Sums of c log2 c, numbers of codes and corrected entropies of the snapshots of one group."""
    t, ty = weigh(group.t, table), weigh(group.ty, table)
    out = {"t": t, "ty": ty, "codes": group.t.codes, "cells": group.ty.codes}
    out["singles"] = _codes_of_one_input(group, labels)
    if group.tx is not None and group.txy is not None:
        out["tx"] = weigh(group.tx, table)
        out["txy"] = out["tx"] if group.txy is group.tx else weigh(group.txy, table)
    if corrections:
        out["thin"] = mostly_single(group.ty.codes, group.ty.singles)
    if shuffled is not None:
        out["null"] = shuffled.joint_sums(group)
    for name in corrections:
        for key, runs in (("t", group.t), ("ty", group.ty)):
            out[f"{key} {name}"] = corrected_entropy(runs, labels.samples, name)
    return out


def mostly_single(codes: Tensor, singles: Tensor) -> Tensor:
    """(G,) bool: whether more than half of the codes are seen once."""
    return 2 * singles > codes


def _codes_of_one_input(group: Group, labels: Labels) -> Tensor:
    """(G,) number of codes that only rows of one input have."""
    if group.ids is None or group.order is None:
        return group.t.singles
    pairs = sort_rows(group.ids * labels.inputs + labels.x_ids[group.order])
    first = torch.ones_like(pairs)
    first[:, 1:] = pairs[:, 1:] != pairs[:, :-1]
    code = torch.div(pairs, labels.inputs, rounding_mode="floor")
    inputs_of_code = torch.zeros_like(pairs).scatter_add_(1, code, first)
    return (inputs_of_code == 1).sum(1)


def quantities(found: PlugIn, labels: Labels, flags: Mapping[str, Tensor]) -> dict[str, Quantity]:
    """The quantities of a counting estimator, with ceilings, null and flags.

    Flags: `saturated` where most codes are of one input or the value is at its ceiling; `degenerate` where the
    layer has one code; `single_class`; `few_samples` where classes have fewer than ten samples on average, one
    has a single sample, or the pairs of code and class are too many for the samples; `below_null` where I(T;Y)
    does not exceed the 97.5 % point of its null; `unreliable` where rows of one input have different codes while
    other inputs have fewer rows: H(T|X) is then too low.
    """
    few = labels.samples < 10 * labels.classes or int(labels.class_counts.min()) < 2
    common: dict[str, Tensor | bool] = {**flags, "degenerate": found.codes == 1}
    of_labels = {**common, "single_class": labels.classes == 1, "few_samples": few}
    of_inputs = common if labels.uniform else {**common, "unreliable": found.i_xt < found.h_t}
    # Miller 1955: to first order the plug-in I(T;Y) is (cells - codes - classes + 1) / 2N nats too high.
    bias = (found.cells - found.codes - (labels.classes - 1)).to(torch.float64) / (2 * labels.samples)
    # Rows that only repeat their input are no further samples.
    bias = torch.where(found.i_xt >= found.h_t, bias * (labels.samples / labels.inputs), bias)
    few_cells = {name: few | (bias > _MOST_BIAS.get(name, math.inf)) for name in ("", *CORRECTIONS)}
    single = mostly_single(found.codes, found.singles)
    ceilings = {
        "I(X;T)": found.h_x,
        "H(T)": math.log2(labels.samples),
        "I(X;T|Y)": found.h_x_given_y,
        "I(T;Y)": found.h_y,
    }
    at = dict(zip(ceilings, found.h_t.new_tensor(list(ceilings.values())).unbind(), strict=True))

    def of(name: str, value: Tensor, flags: Flags, **more: Any) -> dict[str, Quantity]:
        full = single | (value >= ceilings[name]) if ceilings[name] > 0 else single
        return report(name, value, ceiling=at[name], estimand="binned", flags={**flags, "saturated": full}, **more)

    out = of("I(X;T)", found.i_xt, of_inputs) | of("H(T)", found.h_t, common)
    out |= of("I(X;T|Y)", found.i_xt_given_y, {**of_labels, **of_inputs})
    null: Null | None = None
    if found.null is not None:
        # Added one by one: the order of the sum, and so its last bit, must not depend on the device.
        total = functools.reduce(torch.add, found.null.unbind(1))
        null = Null(total / found.null.shape[1], *percentiles_95(found.null))
    plain = {**of_labels, "few_samples": few_cells[""]}
    i_ty = of("I(T;Y)", found.i_ty, plain, null=null, null_flags=of_labels)
    # The null comes before the value: this is the order of rows in a table.
    out |= dict(reversed(i_ty.items()))
    if null is not None:
        of_labels["below_null"] = out["I(T;Y)"].flags["below_null"]
    for name, corrected in found.corrected.items():
        # What most codes say by being seen once is a guess at the codes not seen, whatever formula makes it.
        of_t = {**common, "few_samples": single}
        of_pairs = {**of_labels, "few_samples": few_cells[name] | single | found.thin}
        # A correction cannot see what one code a sample hides: its value is saturated where the plain one is.
        full = {key: out[key].flags["saturated"] for key in ("I(X;T)", "H(T)", "I(T;Y)")}
        full["I(T;Y)"] = full["I(T;Y)"] | ((corrected[1] >= found.h_y) & (found.h_y > 0))
        if labels.distinct:
            out |= _corrected(f"I(X;T) {name}", corrected[0], of_t, full["I(X;T)"])
        out |= _corrected(f"H(T) {name}", corrected[0], of_t, full["H(T)"])
        out |= _corrected(f"I(T;Y) {name}", corrected[1], of_pairs, full["I(T;Y)"], ceiling=at["I(T;Y)"])
    return out


def _corrected(name: str, value: Tensor, flags: Flags, full: Tensor, **more: Any) -> dict[str, Quantity]:
    return report(name, value, estimand="binned", flags={**flags, "saturated": full}, **more)
