"""Diffusion spectral information follows accuracy where label noise moves both (Liao, Liu et al. 2024).

96 networks of the bundled digits: three widths of the last hidden layer, four shares of training labels drawn at
random, with and without weight decay, four seeds. DSMI and DSE are of 500 images that training does not show.

Look for: over the whole sweep DSMI(T;Y) and accuracy rise together, at the kernel width of the paper (10) as at one
that follows the layer, and so does DSMI with clusters of the inputs, which know of no label. It would be falsified by a
correlation over the sweep near 0.

Did not reproduce: that DSMI predicts accuracy. The published sweep is of 962 models of ImageNet; here, given the share
of wrong labels, which moves both, nothing of it is left at the following width, and at width 10 the networks of higher
DSMI are the worse ones after 25 epochs, the better ones after 12 (the quick form). A correlation over a sweep is as
good as what was swept: a study names its control.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import common
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import infoplane
from infoplane.hooks import CollectionRecorder
from infoplane.studies import Association

WIDTHS, WRONG, DECAYS = (8, 32, 128), (0.0, 0.3, 0.6, 0.9), (0.0, 1e-3)
SPECS = {"following width": "dse:sigma=snapshot", "width 10": "dse@liao-2024"}
CODE, HELD, QUANTITIES = "act2", 500, ("DSMI(T;Y)", "DSMI(X;T)", "DSE")


def train(options: common.Options, width: int, seeds: int, epochs: int) -> list[Path]:
    """Every share of wrong training labels, weight decay and seed of one width, in one program."""
    x, y = map(torch.from_numpy, infoplane.datasets.digits())
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(len(x), generator=g)
    learned, held = order[:-HELD], order[-HELD:]
    x = (x - x[learned].mean(0)) / x[learned].std(0).clamp(min=0.01)  # some pixels are never inked
    if options.shuffle:
        y = y[torch.randperm(len(y), generator=g)]
    cells = itertools.product(WRONG, DECAYS, range(seeds))
    each = [{"wrong": wrong, "decay": decay, "seed": seed} for wrong, decay, seed in cells]
    own = y[learned].repeat(len(each), 1)
    for labels, member in zip(own, each, strict=True):
        drawn = torch.rand(len(learned), generator=g) < member["wrong"]
        labels[drawn] = torch.randint(10, (int(drawn.sum()),), generator=g)
    decay = torch.tensor([member["decay"] for member in each])
    model = common.stacked_mlp((64, 64, width, 10), nn.ReLU, 3.0**-0.5, [member["seed"] for member in each])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    runs = [options.out / "runs" / f"{width}-{m['wrong']}-{m['decay']:g}-{m['seed']}" for m in each]
    with CollectionRecorder(
        model, (x[held], y[held]), runs, member_dim=0, members=len(each), layers=[CODE], quiet=True,
        about=[{"width": width, **member} for member in each],
    ) as recorder:  # fmt: skip
        for _ in range(epochs):
            for rows in torch.randperm(len(learned), generator=g).split(128):
                loss = common.member_loss(model(x[learned[rows]]), own[:, rows])
                loss = loss + sum(decay @ p.square().flatten(1).sum(1) for p in model.parameters())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        parts = {"test": torch.arange(HELD).expand(len(each), -1)}
        recorder.snapshot(epochs, metrics=common.accuracy_and_loss(model, x[held], y[held], parts), force=True)
    return runs


def drawn(found: dict[str, Association]) -> Figure:
    """Accuracy against DSMI(T;Y), a panel for each kernel width, coloured by the share of wrong labels."""
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    for ax, (name, one) in zip(figure.subplots(1, 2, sharey=True), found.items(), strict=True):
        points = ax.scatter(one.x[:, common.place(one, "DSMI(T;Y)")], one.y, c=one.z, cmap="viridis", s=10)
        ax.set(title=name, xlabel="DSMI(T;Y) [spectral bits]")
    figure.axes[0].set_ylabel("test accuracy")
    figure.colorbar(points, ax=figure.axes, label="share of wrong labels")
    return figure


def run(options: common.Options) -> list[common.Outcome]:
    seeds, epochs = (1, 12) if options.quick else (4, 25)
    runs, rows, found = [r for width in WIDTHS for r in train(options, width, seeds, epochs)], [], {}
    for name, spec in SPECS.items():
        file = options.out / f"{name.replace(' ', '-')}.csv"
        table = infoplane.analyze(runs, spec, layers=[CODE], steps=[epochs], progress=False, table=file)
        found[name] = infoplane.study(table).association("test accuracy_final", control="wrong", summary="final")
        for quantity in QUANTITIES:
            m = common.place(found[name], quantity)
            rows.append((name, quantity, *(common.told(found[name], m, given) for given in (False, True))))
    options.table(("kernel", "quantity", "with test accuracy", "given the share of wrong labels"), rows)
    options.figure(drawn(found), "accuracy", "Every network once: the share of wrong labels moves both.")
    own, paper = found.values()
    m, e, least = common.place(own, "DSMI(T;Y)"), common.place(own, "DSE"), 0.4 if options.quick else 0.7
    (low, high), learned = own.interval, np.median(own.y)
    outcomes = [
        common.Outcome(f"DSMI(T;Y) and accuracy go together over the sweep, the intervals above {least}",
                       f"{common.told(own, m)}, at width 10 {common.told(paper, m)}", "-",
                       min(own.numbers["low"][m], paper.numbers["low"][m]) > least),
        common.Outcome("most networks learn", f"median accuracy {learned:.3f}", "-",
                       learned > (0.6 if options.quick else 0.8)),
        common.Outcome("given the share of wrong labels nothing of it is left at a width that follows the layer",
                       common.told(own, m, True), "-", low[m] < 0 < high[m]),
        common.Outcome("and at width 10 it is negative", common.told(paper, m, True), "-", paper.value[m] < 0),
        common.Outcome("DSE goes with accuracy with one sign at one width and with the other at the other",
                       f"{common.told(own, e)} and {common.told(paper, e)}", "-",
                       own.numbers["spearman"][e] < -0.5 and paper.numbers["spearman"][e] > 0.5),
    ]  # fmt: skip
    return outcomes[:2] if options.quick else outcomes


if __name__ == "__main__":
    common.main(run, __doc__)
