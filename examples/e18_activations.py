"""Which activation functions compress, with and without batch norm and weight decay (Chelombiev et al. 2019).

Six activation functions, each with and without batch norm of the hidden layers and with and without a penalty on the
squared hidden weights, five seeds of each, all 120 networks of the 12-bit problem in one batched program. The table has
the median over the seeds and their range, in bins of equal counts but for its last column.

Look for: in bins of equal counts I(X;T) of the last hidden layer falls for saturating and other functions alike, with
wide bands over the seeds; equal-width bins over the range of the run see it for tanh alone. Weight decay makes layers 2
to 4 fall in every function, and batch norm the last one, softplus included. It would be falsified by bins of equal
counts that see a fall in tanh alone, or by a penalty after which layers fall no further.

The trap: not every fall is compression. Softplus with weight decay and no batch norm falls furthest of all, for most of
its seeds have died: they tell nothing of X and nothing of Y. And with the penalty equal-width bins fall as well, since
activations shrink under edges that stay. One learning rate serves all; another would move bands, not only accuracy.
"""

from __future__ import annotations

import itertools

import common
import numpy as np
import torch
from activations import KINDS, network
from matplotlib.figure import Figure

import infoplane
from infoplane import diagnostics

NORMS, DECAYS = ("", "batch norm"), {"": 0.0, "weight decay": 0.015}
LAYERS = [f"act{i}" for i in range(1, 6)]
SPECS = {"bins of equal counts": "adaptive:low=min,null_draws=0", "bins of equal width": "binning:null_draws=0"}


def cell_words(norm: int, decay: int) -> str:
    return " and ".join(filter(None, (NORMS[norm], list(DECAYS)[decay]))) or "neither"


def drawn(falls: dict[str, np.ndarray]) -> Figure:
    """Median and range over the seeds of the fall of the last hidden layer: a panel for each kind of bins."""
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    for ax, (title, values) in zip(figure.subplots(1, 2, sharex=True, sharey=True), falls.items(), strict=True):
        for i, (norm, decay) in enumerate(itertools.product(range(2), range(2))):
            own = values[norm, :, decay, :, -1]  # (kinds, seeds)
            middle, y = np.median(own, axis=1), np.arange(len(KINDS)) + 0.15 * (i - 1.5)
            reach = [middle - own.min(1), own.max(1) - middle]
            ax.errorbar(middle, y, xerr=reach, fmt="o^sD"[i], ms=3.5, lw=1, label=cell_words(norm, decay))
        ax.set(title=title, xlabel="fall of I(X;act5) [bits]", yticks=range(len(KINDS)), yticklabels=KINDS)
    ax.invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def middle(values: np.ndarray) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f}..{values.max():.2f})"


def run(options: common.Options) -> list[common.Outcome]:
    x, y = map(torch.from_numpy, infoplane.datasets.twelve_bit())
    if options.shuffle:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    quick = options.quick
    seeds, points, epochs, lr, batch = (2, 5, 20, 6e-3, 1024) if quick else (5, 16, 300, 4e-3, 512)
    cells = list(itertools.product(NORMS, KINDS, DECAYS, range(seeds)))
    names = ["-".join(filter(None, (kind, norm, decay, str(seed)))) for norm, kind, decay, seed in cells]
    runs = common.train_seeds(
        network(cells), x, y, options.out / "runs", epochs=epochs, points=points, lr=lr, batch=batch, layers=LAYERS,
        decay=torch.tensor([DECAYS[cell[2]] for cell in cells]), names=[name.replace(" ", "-") for name in names],
    )  # fmt: skip
    falls, shape = {}, (len(NORMS), len(KINDS), len(DECAYS), seeds)
    for name, spec in SPECS.items():
        file = options.out / f"{name.replace(' ', '-')}.csv"
        table = infoplane.analyze(runs, spec, layers=LAYERS, progress=False, table=file)
        scores = diagnostics.compression_score(table)
        own = [scores.select(layer=layer, quantity="C I(X;T)").value.reshape(shape) for layer in LAYERS]
        falls[name] = np.stack(own, -1)
    accuracy = np.array([curve.value[-1] for curve in table.curves("test accuracy")]).reshape(shape)
    counts, width = falls.values()
    places = itertools.product(range(len(KINDS)), range(len(NORMS)), range(len(DECAYS)))
    options.table(
        ["function", "", "test accuracy", *(f"fall of {la} [bits]" for la in LAYERS[2:]), "act5, equal width"],
        ([[*KINDS][k], cell_words(n, d), middle(accuracy[n, k, d]),
          *(middle(counts[n, k, d, :, la]) for la in range(2, 5)), middle(width[n, k, d, :, 4])] for k, n, d in places),
    )  # fmt: skip
    options.figure(drawn(falls), "falls", "The last hidden layer: median and range over the seeds.")
    last, ruled, learned = np.median(counts[..., 4], 3), np.median(width[..., 4], 3), np.median(accuracy, 3)
    more = np.median(counts[0, ..., 1:4], 2).sum(2) @ [-1, 1]  # what the penalty adds to layers 2 to 4, (kinds,)
    told = ["/".join(f"{v:.2f}" for v in values) for values in (last[0, :, 0], last[1, :, 0], ruled[0, :, 0], more)]
    least = (5, 5, 4) if quick else (5, 6, 6)
    rest = np.delete(learned.ravel(), 9)  # without softplus under the penalty alone
    return [
        common.Outcome(f"bins of equal counts see act5 fall by 0.25 bit in {least[0]} of six functions or more",
                       f"medians {told[0]} bits", "tanh 4.97, ReLU 1.66",
                       (last[0, :, 0] > 0.25).sum() >= least[0]),
        common.Outcome(f"with batch norm in at least {least[1]}", f"medians {told[1]} bits", "-",
                       (last[1, :, 0] > 0.25).sum() >= least[1]),
        common.Outcome("bins of equal width see it fall in tanh " + ("most" if quick else "alone"),
                       f"medians {told[2]} bits", "ReLU 0 of 8 seeds",
                       ruled[0, :, 0].argmax() == 0 and (quick or (ruled[0, 1:, 0] < 0.25).all())),
        common.Outcome(f"the penalty adds a bit to the fall of layers 2 to 4 together in {least[2]} functions or more",
                       f"{told[3]} bits", "ReLU 9.91", (more > 1).sum() >= least[2], False),
        common.Outcome("all cells learn but that of softplus with the penalty alone",
                       f"median accuracy {rest.min():.3f} or more, there {learned[0, 4, 1]:.3f}", "-",
                       np.median(rest) > 0.75 if quick else rest.min() > 0.85 > learned[0, 4, 1]),
    ]  # fmt: skip


if __name__ == "__main__":
    common.main(run, __doc__)
