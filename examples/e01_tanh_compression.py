"""Saturating units compress under fixed bins (Shwartz-Ziv and Tishby 2017).

Look for: the binned I(X;T) of the narrow hidden layers rises first and falls later, while I(T;Y) rises; the wide layers
sit at log2 N and say nothing. It would be falsified by a last hidden layer whose I(X;T) does not fall from its maximum,
or by layers out of the order that data processing demands. With shuffled labels I(T;Y) of the last layer stays low.
"""

from __future__ import annotations

import common
import numpy as np
import torch

import infoplane
from infoplane import diagnostics, plots


def run(options: common.Options) -> list[common.Outcome]:
    x, y = map(torch.from_numpy, infoplane.datasets.twelve_bit())
    if options.shuffle:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    seeds = range(2 if options.quick else 8)
    model = common.stacked_mlp((12, 10, 7, 5, 4, 3, 2), torch.nn.Tanh, 1.0, seeds)
    epochs, lr = (300, 4e-3) if options.quick else (8000, 4e-4)
    runs = common.train_seeds(model, x, y, options.out / "runs", epochs=epochs, points=45, lr=lr)
    estimator = "binning:range=(-1,1),null_draws=5" if options.quick else "binning:range=(-1,1)"
    table = infoplane.analyze(runs, estimator, layers=["act*"], progress=False, table=options.out / "results.csv")
    options.figure(plots.compare(table, form="plane"), "plane", "Mean over the seeds, with the spread at the end.")
    options.figure(plots.compare(table), "compare", "Every layer over training, with the band over the seeds.")
    options.figure(plots.compression(table), "compression", "How far each layer falls from its maximum, in every seed.")

    last = max(table.layer)
    falls = diagnostics.compression_score(table).select(layer=last, quantity="C I(X;T)").value
    final = table.select(layer=last, quantity="I(T;Y)", step=int(table.step.max()))
    violated = np.mean([d.share for d in table.dpi()])
    fell, learned = (falls >= 1.0).sum(), final.value.mean()
    return [
        common.Outcome(
            f"I(X;{last}) falls by 1 bit or more",
            f"{fell} of {len(falls)} seeds, fall {falls.mean():.2f} +- {falls.std(ddof=1):.2f} bits",
            "8 of 8, 4.97 +- 1.19 bits",
            fell >= (1 if options.quick else 6),
        ),
        common.Outcome(
            f"I({last};Y) ends high", f"{learned:.3f} bits", "0.98 bits", learned >= (0.6 if options.quick else 0.95)
        ),
        common.Outcome("data processing is violated nowhere", f"{violated:.1%} of pairs", "0 %", violated == 0.0),
    ]


if __name__ == "__main__":
    common.main(run, __doc__)
