"""What a run holds, in words and as JSON."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from infoplane.core.about import plain_about
from infoplane.core.labels import position_words, unlabelled
from infoplane.core.records import NO_LABEL, Probe
from infoplane.core.steps import describe_steps
from infoplane.core.text import aligned, printable

if TYPE_CHECKING:
    from infoplane.store.reader import ActivationStore


@dataclass(frozen=True)
class RunSummary:
    """A run's contents, taken when it was made. Print it, or use `to_json`."""

    data: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return self.data

    def __str__(self) -> str:
        """Lines about the run, a table of its layers, and its problems."""
        d = self.data
        probe, called = d["probe"], d["settings"].get("name") or Path(d["path"]).absolute().name
        parts = ", ".join(f"{printable(name)} {count}" for name, count in probe["parts"].items())
        target = f"{probe['classes']} classes" if probe["classes"] is not None else "continuous targets"
        if "positions" in probe:
            target += ", " + position_words(probe["positions"], probe["samples"], probe["unlabelled"])
        rows = [("layer", "role", "module", "shape", "stored", "bytes", "snapshots", "non-finite")]
        for la in d["layers"]:
            shape, stored = "x".join(map(str, la["unit_shape"])) or "1", f"{la['dtype']}, {la['reduction']}"
            counts = f"{la['bytes']:,}", str(la["snapshots"]), str(la["nonfinite_steps"] or "-")
            rows.append((la["key"], la["role"], la["module_type"], shape, stored, *counts))
        lines = [
            f"run {printable(called)} in {printable(d['path'])}",
            f"model    {printable(str(d['settings'].get('model', 'unknown')))}",
            f"probe    {probe['samples']} rows ({parts}), {probe['distinct_inputs']} distinct inputs, {target}",
            *_about_line(d["settings"].get("about")),
            f"steps    {len(d['steps'])}: {describe_steps(d['steps'])}",
            f"sessions {d['sessions']}",
            f"metrics  {', '.join(printable(m) for m in d['metrics']) or 'none'}",
            "",
            *aligned(rows),
        ]
        if d["problems"]:
            lines += ["", f"{len(d['problems'])} problems", *(f"  {printable(p)}" for p in d["problems"])]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return HTML for a notebook: the words of `str`, every name escaped."""
        return f"<pre>{html.escape(str(self))}</pre>"


def summarize(store: ActivationStore) -> RunSummary:
    """Describe an open run: its layers, steps, probe, metrics and problems. Reads no activations."""
    probe = store.probe
    metrics = dict.fromkeys(f"{layer}.{name}" if layer else name for _, _, name, layer, _ in store.metrics())
    return RunSummary(
        {
            "path": str(store.path),
            "run_id": store.run_id,
            "created": store.created,
            "format_version": store.format_version,
            "sessions": len({session["session"] for session in store.sessions}),
            "settings": store.settings,
            "steps": store.steps(),
            "metrics": list(metrics),
            "probe": {
                "samples": probe.samples,
                "distinct_inputs": _distinct(probe.input_ids),
                "parts": {name: int((probe.part == i).sum()) for i, name in enumerate(probe.part_names)},
                "classes": _distinct(probe.labels[probe.labels != NO_LABEL]) if probe.target == "discrete" else None,
                **_positions(probe),
            },
            "layers": [
                la.to_json()
                | {
                    "bytes": store.nbytes(la.key),
                    "snapshots": len(store.steps(la.key)),
                    "nonfinite_steps": sum(store.nonfinite(la.key, s) > 0 for s in store.steps(la.key)),
                }
                for la in store.layers
            ],
            "problems": [str(problem) for problem in store.problems],
            "lost_steps": sorted({step for problem in store.lost for step in problem.steps}),
        }
    )


def _about_line(about: object) -> list[str]:
    """Return a list with one line of all hyper-parameters; empty where there are none, or one is not plain."""
    try:
        said = plain_about(about)
    except (TypeError, ValueError):
        return []
    words = ", ".join(f"{name} = {value}" for name, value in said.items())
    return [f"about    {printable(words)}"] if words else []


def _positions(probe: Probe) -> dict[str, int]:
    """Return what a summary says of labels for each position, {} where the probe has none.

    That is the number of positions, and of pairs of sample and position without a label.
    """
    if probe.positions is None:
        return {}
    return {"positions": probe.positions, "unlabelled": int(unlabelled(probe.labels).sum())}


def _distinct(values: npt.NDArray[Any]) -> int:
    """Return how many different values there are in `values`, which must not be empty."""
    # `np.unique` would import numpy.ma, which takes time.
    return 1 + int(np.count_nonzero(np.diff(np.sort(values))))
