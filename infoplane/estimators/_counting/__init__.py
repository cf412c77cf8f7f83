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
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from infoplane.core.files import fingerprint
from infoplane.estimators._counting.corrections import CORRECTIONS, check_corrections, corrected_entropy, log_table
from infoplane.estimators._counting.counts import Digitizer, Group, Labels, Runs, groups, lookup, sort_rows, weigh
from infoplane.estimators._counting.null import ShuffledLabels
from infoplane.estimators._driver import Flags, Given, Method, Null, Problem, joined, report
from infoplane.estimators._labels import percentiles_95
from infoplane.estimators._protocol import ALL_GUARANTEES, Quantity

# Nats of first-order bias beyond which I(T;Y) has the flag `few_samples`: plain, and with corrections that
# take off this order only. The others estimate the cells that were not seen.
_MOST_BIAS = {"": 0.07, "miller-madow": 0.15, "jackknife": 0.15, "grassberger": 0.15}


class Counting(Method):
    """What `binning` and `adaptive` share: their promises, and edges that `prepare` found."""

    targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
    guarantees: ClassVar[frozenset[str]] = ALL_GUARANTEES
    uses_repeats: ClassVar[bool] = True
    # Cells need the extremes of the values anyway, which show what is not finite.
    as_given: ClassVar[bool] = True
    recorded_units: ClassVar[int]
    """Units whose edges are recorded one by one; those of more units by their digest."""

    corrections: tuple[str, ...]
    null_draws: int
    seed: int
    edges: Tensor | None

    def __post_init__(self) -> None:
        """Check the settings, and make `corrections` a tuple; a single name becomes a tuple of one."""
        super().__post_init__()
        object.__setattr__(self, "corrections", check_corrections(self.corrections))

    def remembering(self, name: str, edges: Tensor) -> Self:
        """Return a copy with edges (U, E) in the field `name`; of many units in `edges`, with a digest in `name`."""
        if len(edges) <= self.recorded_units:
            return replace(self, **{name: tuple(tuple(row) for row in edges.tolist())})  # type: ignore[type-var]
        digest = fingerprint(edges.cpu().double().numpy().tobytes(), method="sha256")
        return replace(self, **{name: f"sha256:{digest}", "edges": edges.cpu()})  # type: ignore[type-var]

    def remembered(self, name: str, what: str, units: int) -> Tensor:
        """Return the edges (U, E) that the field `name` stands for; `what` is a word for them in an error.

        Raises ValueError if only their digest is known, or if they are not of `units` units.
        """
        recorded, edges = getattr(self, name), self.edges
        if not isinstance(recorded, str):
            edges = torch.tensor(recorded, dtype=torch.float64, device="cpu")
        if edges is None:
            raise ValueError(f"the {what} {recorded} are known by their digest only; call prepare on the run")
        if len(edges) != units:
            raise ValueError(f"the prepared {what} have {len(edges)} units, t has {units}; call prepare on this run")
        return edges


class CellCounts(Problem):
    """Counts of the codes (rows of cells) of a block, their entropies and informations in bits, and the quantities.

    Attributes
    ----------
    flags : mapping to (S,) bool
        What the digitizer finds out while it counts, and other flags of its own.
    h_x, h_y, h_x_given_y : float
        H(X), H(Y) and H(X|Y) in bits.
    """

    config: Counting

    def __init__(self, config: Counting, given: Given, digitize: Digitizer, flags: Mapping[str, Tensor]) -> None:
        """Count classes and inputs, which all snapshots share; `digitize` makes cells of the values."""
        super().__init__(config, given)
        self.labels = labels = Labels(given.y, given.x_ids)
        self.digitize, self.flags = digitize, flags
        table, k = log_table(self.samples)
        # Sums of the table over counts, divided by `scale` = N 2^k, are bits.
        self.table, self.scale = table.to(self.t.device), float(self.samples * 2**k)
        self.shuffled: ShuffledLabels | None = None
        if config.null_draws:
            self.shuffled = ShuffledLabels(labels, config.null_draws, config.seed, self.table)
        # Sums of c log2 c over the counts of classes, of inputs, and of both. Counts of 1 add 0: the last two are 0
        # where every row is an input of its own.
        self.whole, self.sum_y = int(table[-1]), int(lookup(self.table, labels.class_counts).sum())
        self.sum_x = self.sum_xy = 0
        if not labels.distinct:
            self.sum_x = self.sum_xy = int(lookup(self.table, torch.bincount(labels.x_ids)).sum())
            if not labels.one_label:
                self.sum_xy = int(lookup(self.table, torch.bincount(labels.pairs()[0])).sum())
        self.h_x, self.h_y = (self.whole - self.sum_x) / self.scale, (self.whole - self.sum_y) / self.scale
        self.h_x_given_y = (self.sum_y - self.sum_xy) / self.scale
        of_y = Runs.of_counts(labels.class_counts)
        self.corrected_h_y = {name: corrected_entropy(of_y, self.samples, name) for name in config.corrections}

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return values (S,) by the names of quantities, "null" (S, draws) for I(T;Y), and numbers (S,) of codes."""
        # s are the sums of c log2 c: t over codes, ty over codes and classes, tx over codes and inputs, txy over all.
        s = joined([self._sums(group) for group in groups(t, self.labels, self.digitize)])
        whole, sum_x, sum_y, sum_xy = self.whole, self.sum_x, self.sum_y, self.sum_xy
        # Differences are taken between integers, and converted once: an information of 0 is exactly 0, and one at
        # its ceiling is exactly the ceiling.
        found = {
            "H(T)": whole - s["t"],
            # Without tx every row is an input of its own: counts of 1, whose sum is 0. So for txy.
            "I(X;T)": (whole - sum_x) - (s["t"] - s.pop("tx", 0)),
            "I(T;Y)": (whole - sum_y) - (s["t"] - s["ty"]),
            "I(X;T|Y)": (sum_y - sum_xy) - (s["ty"] - s.pop("txy", 0)),
        }
        if self.shuffled:
            found["null"] = (whole - sum_y) - (s["t"][:, None] - s.pop("null"))
        return s | {name: total.to(torch.float64) / self.scale for name, total in found.items()}

    def _sums(self, group: Group) -> dict[str, Tensor]:
        """Return sums of c log2 c, numbers of codes and corrected entropies (G,) of the G snapshots of one group."""
        t, ty = weigh(group.t, self.table), weigh(group.ty, self.table)
        out = {"t": t, "ty": ty, "codes": group.t.codes, "cells": group.ty.codes}
        out["singles"] = _codes_of_one_input(group, self.labels)
        if group.tx is not None and group.txy is not None:
            out["tx"] = weigh(group.tx, self.table)
            out["txy"] = out["tx"] if group.txy is group.tx else weigh(group.txy, self.table)
        if self.shuffled is not None:
            out["null"] = self.shuffled.joint_sums(group)
        if self.config.corrections:
            # Whether most pairs of code and class were seen once.
            out["thin"] = mostly_single(group.ty.codes, group.ty.singles)
        for name in self.config.corrections:
            h_t, h_ty = (corrected_entropy(runs, self.samples, name) for runs in (group.t, group.ty))
            out |= {f"H(T) {name}": h_t, f"I(T;Y) {name}": h_t + self.corrected_h_y[name] - h_ty}
        return out

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities, with ceilings, null and flags.

        Flags: `saturated` where most codes are of one input or the value is at its ceiling; `degenerate` where the
        layer has one code; `single_class`; `few_samples` where classes have fewer than ten samples on average, one
        has a single sample, or the pairs of code and class are too many for the samples; `below_null` where I(T;Y)
        does not exceed the 97.5 % point of its null; `unreliable` where rows of one input get different codes
        and inputs are not repeated equally often: H(T|X) is then too low.
        """
        labels, i_xt, h_t = self.labels, found["I(X;T)"], found["H(T)"]
        # Flags of all quantities (`common`), of those about the labels and of those about the inputs.
        few = labels.samples < 10 * labels.classes or int(labels.class_counts.min()) < 2
        common: dict[str, Tensor | bool] = {**self.flags, "degenerate": found["codes"] == 1}
        of_labels = {**common, "single_class": labels.classes == 1, "few_samples": few}
        of_inputs = common if labels.uniform else {**common, "unreliable": i_xt < h_t}
        # Miller 1955: to first order the plug-in I(T;Y) is (cells - codes - classes + 1) / 2N nats too high.
        bias = (found["cells"] - found["codes"] - (labels.classes - 1)).to(torch.float64) / (2 * labels.samples)
        # Where T is a function of X, repeats of an input add no samples: the bias is that of the number of inputs.
        bias = torch.where(i_xt >= h_t, bias * (labels.samples / labels.inputs), bias)
        few_cells = {name: few | (bias > _MOST_BIAS.get(name, math.inf)) for name in ("", *CORRECTIONS)}
        single = mostly_single(found["codes"], found["singles"])
        most = math.log2(labels.samples)  # every sample a code of its own
        ceilings = {"I(X;T)": self.h_x, "H(T)": most, "I(X;T|Y)": self.h_x_given_y, "I(T;Y)": self.h_y}
        tops = dict(zip(ceilings, h_t.new_tensor(list(ceilings.values())).unbind(), strict=True))
        # Where a quantity is saturated.
        full = {n: single | (found[n] >= top) if top > 0 else single for n, top in ceilings.items()}

        def plain(name: str, flags: Flags, **more: Any) -> dict[str, Quantity]:
            """Return the uncorrected quantity `name` with its ceiling and these flags, as a dict by its name."""
            return _binned(name, found[name], flags, full[name], ceiling=tops[name], **more)

        out = plain("I(X;T)", of_inputs) | plain("H(T)", common) | plain("I(X;T|Y)", {**of_labels, **of_inputs})
        null: Null | None = None
        if "null" in found:
            # Added one by one: the order of the sum, and so its last bit, must not depend on the device.
            total = functools.reduce(torch.add, found["null"].unbind(1))
            null = Null(total / found["null"].shape[1], *percentiles_95(found["null"]))
        i_ty = plain("I(T;Y)", {**of_labels, "few_samples": few_cells[""]}, null=null, null_flags=of_labels)
        # The null comes before the value: this is the order of rows in a table.
        out |= dict(reversed(i_ty.items()))
        if null is not None:
            of_labels["below_null"] = out["I(T;Y)"].flags["below_null"]
        for name in self.config.corrections:
            # If most codes occur only once, every correction is a guess about the codes that were not seen.
            of_t = {**common, "few_samples": single}
            of_pairs = {**of_labels, "few_samples": few_cells[name] | single | found["thin"]}
            value, h_t = found[f"I(T;Y) {name}"], found[f"H(T) {name}"]
            # With a code for nearly every sample no correction helps: it is saturated where the plain value is.
            at_top = full["I(T;Y)"] | ((value >= self.h_y) & (self.h_y > 0))
            if labels.distinct:  # else I(X;T) is less than H(T)
                out |= _binned(f"I(X;T) {name}", h_t, of_t, full["I(X;T)"])
            out |= _binned(f"H(T) {name}", h_t, of_t, full["H(T)"])
            out |= _binned(f"I(T;Y) {name}", value, of_pairs, at_top, ceiling=tops["I(T;Y)"])
        return out


def mostly_single(codes: Tensor, singles: Tensor) -> Tensor:
    """Return (G,) bool: whether more than half of the codes were seen once, from the numbers (G,) of both."""
    return 2 * singles > codes


def _codes_of_one_input(group: Group, labels: Labels) -> Tensor:
    """Return the number (G,) of codes that only rows of one input have."""
    if group.ids is None or group.order is None:  # every row is an input of its own
        return group.t.singles
    # One number for each pair of code and input; sorted, equal pairs stand together and the first of them counts.
    pairs = sort_rows(group.ids * labels.inputs + labels.x_ids[group.order])
    first = torch.ones_like(pairs)
    first[:, 1:] = pairs[:, 1:] != pairs[:, :-1]
    code = torch.div(pairs, labels.inputs, rounding_mode="floor")
    inputs_of_code = torch.zeros_like(pairs).scatter_add_(1, code, first)
    return (inputs_of_code == 1).sum(1)


def _binned(name: str, value: Tensor, flags: Flags, full: Tensor, **more: Any) -> dict[str, Quantity]:
    """Return the quantity `name` of binned T, with these flags and `saturated` where `full`."""
    return report(name, value, estimand="binned", flags={**flags, "saturated": full}, **more)
