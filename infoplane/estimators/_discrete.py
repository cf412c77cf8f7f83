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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infoplane.estimators._corrections import CORRECTIONS, corrected_entropy, log_table
from infoplane.estimators._counts import Digitizer, Group, Labels, groups
from infoplane.estimators._keys import collision_bound
from infoplane.estimators._null import ShuffledLabels
from infoplane.estimators._protocol import Quantity
from infoplane.estimators._runs import Runs, lookup, sort_rows, weigh

# Nats of first-order bias beyond which I(T;Y) has the flag `few_samples`: plain, and with corrections that
# take off this order only. The others estimate the cells that were not seen.
_MOST_BIAS = {"": 0.07, "miller-madow": 0.15, "jackknife": 0.15, "grassberger": 0.15}

__all__ = ["PlugIn", "collision_bound", "plug_in", "quantities"]


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
    thin : (S,) bool or None
        Most pairs (code, class) are seen once; known where something is corrected.
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
    thin: Tensor | None = None


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
    scale = float(labels.samples * 2**k)
    whole, s_y = int(table[-1]), int(lookup(table, labels.class_counts).sum())
    shuffled = ShuffledLabels(labels, null_draws, seed, table) if null_draws else None
    parts: dict[str, list[Any]] = {name: [] for name in ("t", "ty", "tx", "txy", "codes", "singles", "cells", "null")}
    corrected: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in corrections}
    thin: list[Tensor] = []
    for group in groups(t, labels, digitize):
        parts["t"].append(weigh(group.t, table))
        parts["ty"].append(weigh(group.ty, table))
        parts["codes"].append(group.t.codes)
        parts["singles"].append(_codes_of_one_input(group, labels))
        parts["cells"].append(group.ty.codes)
        if group.tx is not None and group.txy is not None:
            parts["tx"].append(weigh(group.tx, table))
            parts["txy"].append(parts["tx"][-1] if group.txy is group.tx else weigh(group.txy, table))
        if shuffled is not None:
            parts["null"].append(shuffled.joint_sums(group))
        if corrections:
            thin.append(_tensor(mostly_single(group.ty.codes, group.ty.singles)))
        for name, pairs in corrected.items():
            pairs.append(
                (corrected_entropy(group.t, labels.samples, name), corrected_entropy(group.ty, labels.samples, name))
            )
    s = {name: _joined(found) for name, found in parts.items() if found}
    s_x = s_xy = 0
    if not labels.distinct:
        s_x = s_xy = int(lookup(table, torch.bincount(labels.x_ids)).sum())
        if labels.label_of_input is None:
            s_xy = int(lookup(table, torch.bincount(labels.pairs()[0])).sum())
    s_t, s_ty, s_tx, s_txy = s["t"], s["ty"], s.get("tx", 0), s.get("txy", 0)
    sums = [whole - s_t, (whole - s_x) - (s_t - s_tx), (whole - s_y) - (s_t - s_ty), (s_y - s_xy) - (s_ty - s_txy)]
    h_t, i_xt, i_ty, i_xt_given_y = (_tensor(part).to(torch.float64) / scale for part in sums)
    null = None
    if parts["null"]:
        null = ((whole - s_y) - (_tensor(s_t)[:, None] - s["null"])).to(torch.float64) / scale
    return PlugIn(
        h_x=float(whole - s_x) / scale,
        h_y=float(whole - s_y) / scale,
        h_x_given_y=float(s_y - s_xy) / scale,
        h_t=h_t,
        i_xt=i_xt,
        i_ty=i_ty,
        i_xt_given_y=i_xt_given_y,
        null=null,
        codes=_tensor(s["codes"]),
        singles=_tensor(s["singles"]),
        cells=_tensor(s["cells"]),
        corrected={name: _corrected(name, pairs, labels) for name, pairs in corrected.items()},
        thin=torch.cat(thin) if thin else None,
    )


def mostly_single(codes: Any, singles: Any) -> Any:
    """(G,) bool: whether more than half of the codes are seen once."""
    return 2 * singles > codes


def _codes_of_one_input(group: Group, labels: Labels) -> Any:
    """(G,) number of codes that only rows of one input have."""
    if group.ids is None or group.order is None:
        return group.t.singles
    pairs = sort_rows(group.ids * labels.inputs + labels.x_ids[group.order])
    first = torch.ones_like(pairs)
    first[:, 1:] = pairs[:, 1:] != pairs[:, :-1]
    code = torch.div(pairs, labels.inputs, rounding_mode="floor")
    inputs_of_code = torch.zeros_like(pairs).scatter_add_(1, code, first)
    return (inputs_of_code == 1).sum(1)


def _joined(parts: list[Any]) -> Any:
    """Arrays or tensors of the groups, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if isinstance(parts[0], Tensor) else np.concatenate(parts)


def _tensor(a: Any) -> Tensor:
    return a if isinstance(a, Tensor) else torch.from_numpy(a)


def _corrected(name: str, pairs: list[tuple[Tensor, Tensor]], labels: Labels) -> tuple[Tensor, Tensor]:
    h_t, h_ty = (torch.cat(part) for part in zip(*pairs, strict=True))
    h_y = corrected_entropy(Runs.of_counts(labels.class_counts), labels.samples, name)
    return h_t, h_t + h_y - h_ty


def _percentile(draws: Tensor, share: float) -> Tensor:
    """(S,) linear interpolation between order statistics of (S, draws)."""
    place = share * (draws.shape[1] - 1)
    below = int(place)
    ordered = draws.sort(dim=1).values
    above = ordered[:, min(below + 1, draws.shape[1] - 1)]
    return ordered[:, below] + (above - ordered[:, below]) * (place - below)


def quantities(found: PlugIn, labels: Labels, flags: Mapping[str, Tensor]) -> dict[str, Quantity]:
    """The quantities of a counting estimator, with ceilings, null and flags.

    Flags: `saturated` where most codes are of one input or the value is at its ceiling; `degenerate` where the
    layer has one code; `single_class`; `few_samples` where classes have fewer than ten samples on average, one
    has a single sample, or the pairs of code and class are too many for the samples; `below_null` where I(T;Y)
    does not exceed the 97.5 % point of its null; `unreliable` where rows of one input have different codes while
    other inputs have fewer rows: H(T|X) is then too low.
    """
    few = labels.samples < 10 * labels.classes or int(labels.class_counts.min()) < 2
    common = {**flags, "degenerate": found.codes == 1}
    of_labels = {
        **common,
        "single_class": torch.full_like(common["degenerate"], labels.classes == 1),
        "few_samples": torch.full_like(common["degenerate"], few),
    }
    of_inputs = common if labels.uniform else {**common, "unreliable": found.i_xt < found.h_t}
    # Miller 1955: to first order the plug-in I(T;Y) is (cells - codes - classes + 1) / 2N nats too high.
    bias = (found.cells - found.codes - (labels.classes - 1)).to(torch.float64) / (2 * labels.samples)
    # Rows that only repeat their input are no further samples.
    bias = torch.where(found.i_xt >= found.h_t, bias * (labels.samples / labels.inputs), bias)
    few_cells = {
        name: of_labels["few_samples"] | (bias > _MOST_BIAS.get(name, math.inf)) for name in ("", *CORRECTIONS)
    }
    plain = {**of_labels, "few_samples": few_cells[""]}
    single = mostly_single(found.codes, found.singles)
    ceilings = {
        "I(X;T)": found.h_x,
        "H(T)": math.log2(labels.samples),
        "I(X;T|Y)": found.h_x_given_y,
        "I(T;Y)": found.h_y,
    }
    at = dict(zip(ceilings, found.h_t.new_tensor(list(ceilings.values())).unbind(), strict=True))

    def quantity(name: str, value: Tensor, flags: Mapping[str, Tensor]) -> Quantity:
        full = single | (value >= ceilings[name]) if ceilings[name] > 0 else single
        return Quantity(value=value, ceiling=at[name], estimand="binned", flags={**flags, "saturated": full})

    out = {
        "I(X;T)": quantity("I(X;T)", found.i_xt, of_inputs),
        "H(T)": quantity("H(T)", found.h_t, common),
        "I(X;T|Y)": quantity("I(X;T|Y)", found.i_xt_given_y, {**of_labels, **of_inputs}),
    }
    if found.null is not None:
        low, high = (_percentile(found.null, share) for share in (0.025, 0.975))
        # Added one by one: the order of the sum, and so its last bit, must not depend on the device.
        total = functools.reduce(torch.add, found.null.unbind(1))
        out["I(T;Y) null"] = Quantity(
            value=total / found.null.shape[1],
            low=low,
            high=high,
            ceiling=at["I(T;Y)"],
            estimand="binned",
            flags=of_labels,
        )
        below = found.i_ty <= high
        of_labels, plain = {**of_labels, "below_null": below}, {**plain, "below_null": below}
    out["I(T;Y)"] = quantity("I(T;Y)", found.i_ty, plain)
    thin = single if found.thin is None else found.thin
    for name, (h_t, i_ty) in found.corrected.items():
        # What most codes say by being seen once is a guess at the codes not seen, whatever formula makes it.
        of_t = {**common, "few_samples": single}
        if labels.distinct:
            out[f"I(X;T) {name}"] = _corrected_quantity(h_t, out["I(X;T)"], of_t)
        out[f"H(T) {name}"] = _corrected_quantity(h_t, out["H(T)"], of_t)
        of_pairs = {**of_labels, "few_samples": few_cells[name] | single | thin}
        corrected = _corrected_quantity(i_ty, out["I(T;Y)"], of_pairs)
        above = corrected.flags["saturated"] | ((i_ty >= found.h_y) & (found.h_y > 0))
        out[f"I(T;Y) {name}"] = replace(corrected, ceiling=at["I(T;Y)"], flags={**corrected.flags, "saturated": above})
    return out


def _corrected_quantity(value: Tensor, plain: Quantity, flags: Mapping[str, Tensor]) -> Quantity:
    """A corrected value, saturated where the plain one is: a correction cannot see what one code a sample hides."""
    return Quantity(value=value, estimand="binned", flags={**flags, "saturated": plain.flags["saturated"]})
