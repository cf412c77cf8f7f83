"""What a code keeps of X beyond Y goes with the generalisation gap (Kawaguchi et al. 2023).

54 networks with a noisy code learn five overlapping classes in the plane from 50 points: a wide and a narrow network,
three weight decays, three draws of the points, three seeds. I(X;T|Y) of the code is that of the 50 points, sampled
with the noise that the network itself has; the gap is test minus training loss, a mean over ten draws of the noise.

Look for: the more bits beyond the label a code keeps of its training points, the larger the gap; the number of weights
says little. It would be falsified by a correlation near 0, or by one that is gone once the number of weights is known.

How it misleads: most of it is the weight decay, which moves both. Given the decay a good half is left, with an interval
that touches 0, and nearly none where the decay is 0.1. Nor is it what is kept beyond Y: I(X;T) does as well. Differs:
the correlations are larger than in the reference, that of the number of weights as well, and here the error gap goes
with I(X;T|Y) like the loss gap; noise of one std on the code stands for noise whose std is learned.
"""

from __future__ import annotations

import common
import numpy as np
from blobs import CODE, DECAYS, WIDTHS, train
from matplotlib.figure import Figure

import infoplane


def drawn(study: infoplane.Study, column: str) -> Figure:
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    ax, decay, weights = figure.subplots(), study["decay"].astype(float), study["weights"].astype(float)
    for marker, width in zip("os", np.unique(weights), strict=True):
        of = weights == width
        colors = np.searchsorted(DECAYS, decay[of])
        ax.scatter(study[column][of], study["gap"][of], c=colors, vmin=0, vmax=2, marker=marker, s=14,
                   label=f"{width:,.0f} weights")  # fmt: skip
    ax.set(xlabel="I(X;T|Y) of the code [bits]", ylabel="test minus training loss")
    ax.legend(title="dark to bright: decay 0, 0.01, 0.1", fontsize="small", title_fontsize="small")
    return figure


def run(options: common.Options) -> list[common.Outcome]:
    draws, seeds = (2, 2) if options.quick else (3, 3)
    runs = [
        r
        for width in WIDTHS
        for draw in range(draws)
        for r in train(options.out / "runs", width, draw, seeds, shuffle=options.shuffle)
    ]
    spec = "noise:null_draws=0,n_draws=16"
    table = infoplane.analyze(runs, spec, steps=[300], progress=False, table=options.out / "results.csv")
    study = infoplane.study(table, layers=[CODE], quantity=["I(X;T)", "I(X;T|Y)"])
    gap, error = (study.association(of, method="pearson", summary="final") for of in ("gap", "error_gap"))
    given = {name: study.association(control=name, summary="final") for name in ("weights", "decay")}
    inputs, beyond = common.place(gap), common.place(gap, "I(X;T|Y)")
    options.table(
        ("Pearson", "loss gap", "its ranks, given the weights", "given the decay", "error gap"),
        ((name, common.told(gap, m), *(common.told(one, m, True) for one in given.values()), common.told(error, m))
         for name, m in (("I(X;T|Y)", beyond), ("I(X;T)", inputs))),
    )  # fmt: skip
    options.figure(drawn(study, gap.columns[beyond]), "gap", "Every network once.")
    r, learned = gap.value[beyond], study["test accuracy_final"].min()
    weights = np.corrcoef(study["weights"].astype(float), study["gap"])[0, 1]
    outcomes = [
        common.Outcome(
            "I(X;T|Y) goes with the loss gap, Pearson 0.3 or more", common.told(gap, beyond), "0.49", r >= 0.3, False
        ),
        common.Outcome("the number of weights does by less than half", f"{weights:+.2f}", "0.07", abs(weights) < r / 2),
        common.Outcome("all networks learn", f"test accuracy {learned:.2f} or more", "-", learned > 0.7),
    ]
    if options.quick:
        return outcomes
    rest = given["decay"]
    return [
        *outcomes,
        common.Outcome("given the number of weights I(X;T|Y) goes with the gap, too",
                       common.told(given["weights"], beyond, True), "-", given["weights"].interval[0][beyond] > 0),
        common.Outcome("given the weight decay less is left, between 0.2 and two thirds",
                       common.told(rest, beyond, True), "-",
                       0.2 < rest.value[beyond] < rest.numbers["spearman"][beyond] * 2 / 3),
        common.Outcome("I(X;T) goes with the gap as well as I(X;T|Y), to 0.05", common.told(gap, inputs), "0.46",
                       abs(gap.value[inputs] - r) < 0.05),
    ]  # fmt: skip


if __name__ == "__main__":
    common.main(run, __doc__)
