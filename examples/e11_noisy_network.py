"""In a network with noise of its own, compression is clustering (Goldfeld et al. 2019).

Gaussian noise of std 0.05 is part of the network, in training and when it is measured, so I(X;T) is finite and a
property of the network; it is sampled, not binned.

Look for: I(X;T) of the late layers rises early and falls slowly, and with it the distance within classes over that
between classes: samples of one class move together. A penalty that keeps the weights orthonormal prevents both. It
would be falsified by a fall of I(X;T) without clustering, or by clustering under the penalty.
"""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np
import torch

import infoplane
from infoplane import plots
from infoplane.hooks import CollectionRecorder, NoiseInjection, log_spaced

LAYERS = ["act3", "act4", "act5"]
PROBE = 800


def train(x: torch.Tensor, y: torch.Tensor, runs: list[Path], penalty: float, epochs: int, passes: tuple[int, int]):
    """Train the seeds with noise and record them on the first inputs, some of them in repeated passes."""
    generator = torch.Generator().manual_seed(0)
    model = common.stacked_mlp((12, 10, 7, 5, 4, 3, 2), torch.nn.Tanh, 1.0, range(len(runs)))
    hidden = [m.weight for m in list(model)[:-1] if hasattr(m, "weight")]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    order = torch.randperm(len(x), generator=generator)
    chosen, learned = order[:PROBE], order[: int(0.8 * len(x))]
    with (
        NoiseInjection(model, "act*", std=0.05, seed=0),
        CollectionRecorder(
            model, (x[chosen], y[chosen]), runs, member_dim=0, members=len(runs), layers=["act*"], repeats=passes,
            schedule=log_spaced(12, epochs), total=epochs, quiet=True,
        ) as recorder,
    ):  # fmt: skip
        for epoch in range(1, epochs + 1):
            for rows in learned[torch.randperm(len(learned), generator=generator)].split(512):
                out = model(x[rows])
                loss = torch.nn.functional.cross_entropy(
                    out.flatten(0, 1), y[rows].repeat(len(runs)), reduction="sum"
                ) / len(rows)  # fmt: skip
                if penalty:
                    for w in hidden:
                        loss = loss + penalty * (w.mT @ w - torch.eye(w.shape[-1])).square().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if recorder.due(epoch):
                with torch.no_grad():
                    right = (model(x).argmax(2) == y).double().mean(1)
                recorder.snapshot(epoch, metrics={"accuracy": right})


def run(options: common.Options) -> list[common.Outcome]:
    x, y = map(torch.from_numpy, infoplane.datasets.twelve_bit())
    if options.shuffle:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    seeds = 2 if options.quick else 3
    passes = (16, 48) if options.quick else (48, 96)
    noise = "noise:null_draws=0" + (",n_draws=2" if options.quick else "")
    info, shape = {}, {}
    for name, penalty, epochs in (
        ("free", 0.0, 250 if options.quick else 6000),
        ("orthonormal", 0.05, 250 if options.quick else 1200),
    ):
        runs = [options.out / "runs" / f"{name}-{seed}" for seed in range(seeds)]
        train(x, y, runs, penalty, epochs, passes)
        given = {"layers": LAYERS, "progress": False}
        info[name] = infoplane.analyze(runs, noise, **given, table=options.out / f"results-{name}.csv")
        shape[name] = infoplane.analyze(runs, "geometry", **given, table=options.out / f"geometry-{name}.csv")
    for name, words in (("free", "without a penalty"), ("orthonormal", "with orthonormal weights")):
        options.figure(
            plots.compare(info[name], quantities=["I(X;T)"], layers=LAYERS), name, f"Over training, {words}."
        )
        ratio = plots.compare(shape[name], quantities=["class distance ratio"], layers=LAYERS)
        options.figure(ratio, f"ratio-{name}", f"Distance within over between classes, {words}: 1 is no cluster.")
    options.figure(plots.compare(info["free"], form="plane", layers=LAYERS), "plane", "The plane, mean over the seeds.")

    def curve(table: infoplane.ResultTable, quantity: str, layer: str) -> np.ndarray:
        return np.mean([c.value for c in table.curves(quantity, layer=layer)], axis=0)

    ratios = {name: curve(table, "class distance ratio", "act5") for name, table in shape.items()}
    values = np.concatenate([t.select(quantity="I(X;T)", layer=LAYERS).value for t in info.values()])
    paths = [curve(info["free"], "I(X;T)", layer) for layer in LAYERS]
    peaks, ends = "/".join(f"{p.max():.2f}" for p in paths), "/".join(f"{p[-1]:.2f}" for p in paths)
    free = ratios["free"]
    outcomes = [
        common.Outcome(
            "the distance ratio of act5 falls to less than half", f"{free[0]:.2f} to {free[-1]:.2f}", "0.98 to 0.18",
            bool(free[-1] <= 0.5 * free[0]),
        ),
        common.Outcome(
            "with orthonormal weights it ends 1.5 times as high or higher", f"{ratios['orthonormal'][-1]:.2f}", "0.62",
            bool(ratios["orthonormal"][-1] >= 1.5 * free[-1]),
        ),
        common.Outcome(
            "0 <= I(X;T) <= log2 N", f"{values.min():.2f} to {values.max():.2f} bits", "-",
            bool((values >= 0).all() and (values <= np.log2(PROBE) + 1e-9).all()),
        ),
    ]  # fmt: skip
    if not options.quick:
        told = f"layers 3 to 5 from {peaks} to {ends} bits"
        fell = bool(paths[2].max() - paths[2][-1] >= 0.25)
        outcomes.append(
            common.Outcome("I(X;T) of act5 falls with it", told, "5.68/4.46/3.04 to 4.72/3.36/2.56", fell)
        )  # fmt: skip
    return outcomes


if __name__ == "__main__":
    common.main(run, __doc__)
