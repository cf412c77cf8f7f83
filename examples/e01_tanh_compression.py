"""Saturating units compress under fixed bins (Shwartz-Ziv and Tishby 2017).

Look for: the binned I(X;T) of the narrow hidden layers rises first and falls later, while I(T;Y) rises; the wide layers
sit at log2 N and say nothing. It would be falsified by a last hidden layer whose I(X;T) does not fall from its maximum,
or by layers out of the order that data processing demands. With shuffled labels I(T;Y) of the last layer stays low.

Three more claims of the paper. Most epochs are compression: nearly all come after the maximum, since that is early; the
sentence is about a logarithmic axis. Gradients turn from drift to diffusion, their mean over the batches of an epoch
falling below their spread, where compression begins: so it is, to a factor of two, for the weights of layers 1 to 3.

Did not reproduce: that this is one turn of all layers. It moves through the network from input to output; in the layer
that compresses it comes four times as late as the knee, in the output ten times. And converged layers lie near the
bound in one direction only: act5 has all of the label that its I(X;T) allows, to hundredths of a bit, and two bits of X
beyond those. With labels that X determines the bound is min(I(X;T), H(Y)).
"""

from __future__ import annotations

import math

import common
import numpy as np
import numpy.typing as npt
import torch

import infoplane
from infoplane import ResultTable, diagnostics, plots

LAST, WEIGHTS = "act5", ["linear1", "linear2", "linear3", "linear4", "linear5", "logits"]


def turns(table: ResultTable, layer: str) -> npt.NDArray[np.float64]:
    """The first recorded epoch of each run, from the largest ratio on, whose mean gradient is below its spread."""
    found = []
    for mean, std in zip(
        *(table.curves(f"gradient_{part}_norm", layer=layer) for part in ("mean", "std")), strict=True
    ):
        known = np.isfinite(mean.value) & (std.value > 0)
        step, ratio = mean.step[known], mean.value[known] / std.value[known]
        found.append(min(step[np.argmax(ratio) :][ratio[np.argmax(ratio) :] < 1.0], default=math.inf))
    return np.array(found)


def run(options: common.Options) -> list[common.Outcome]:
    x, y = map(torch.from_numpy, infoplane.datasets.twelve_bit())
    if options.shuffle:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    seeds = range(2 if options.quick else 8)
    model = common.stacked_mlp((12, 10, 7, 5, 4, 3, 2), torch.nn.Tanh, 1.0, seeds)
    epochs, lr = (300, 4e-3) if options.quick else (8000, 4e-4)
    runs = common.train_seeds(model, x, y, options.out / "runs", epochs=epochs, points=45, lr=lr, gradients=True)
    estimator = "binning:range=(-1,1),null_draws=5" if options.quick else "binning:range=(-1,1)"
    table = infoplane.analyze(runs, estimator, layers=["act*"], progress=False, table=options.out / "results.csv")
    options.figure(plots.compare(table, form="plane"), "plane", "Mean over the seeds, with the spread at the end.")
    options.figure(plots.compare(table), "compare", "Every layer over training, with the band over the seeds.")
    options.figure(plots.compression(table), "compression", "How far each layer falls from its maximum, in every seed.")
    drawn = plots.snr(table, run=table.run[0], layers=WEIGHTS)
    options.figure(drawn, "snr", "One seed: gradients over the batches of an epoch; layers turn in their order.")

    scores = diagnostics.compression_score(table)
    falls, knee = (scores.select(layer=LAST, quantity=f"{name} I(X;T)").value for name in ("C", "argmax"))
    final = table.select(layer=LAST, step=epochs)
    kept, learned = (final.select(quantity=quantity).value for quantity in ("I(X;T)", "I(T;Y)"))
    violated = np.mean([d.share for d in table.dpi()])
    fell = (falls >= 1.0).sum()
    bound = diagnostics.ib_frontier(np.eye(2)[y.numpy()])
    short, beyond = bound.at(kept) - learned, kept - learned
    after = 1.0 - knee / epochs
    outcomes = [
        common.Outcome(
            f"I(X;{LAST}) falls by 1 bit or more",
            f"{fell} of {len(falls)} seeds, fall {falls.mean():.2f} +- {falls.std(ddof=1):.2f} bits",
            "8 of 8, 4.97 +- 1.19 bits", fell >= (1 if options.quick else 6), about_y=False,
        ),
        common.Outcome(
            f"I({LAST};Y) ends high", f"{learned.mean():.3f} bits", "0.98 bits",
            learned.mean() >= (0.6 if options.quick else 0.95),
        ),
        common.Outcome("data processing is violated nowhere", f"{violated:.1%} of pairs", "0 %", not violated, False),
        common.Outcome("most epochs come after the maximum of I(X;T), in every seed", f"{after.min():.1%} or more", "-",
                       after.min() > 0.5),
        common.Outcome(f"{LAST} ends near the bound, but a bit or more of X beyond it",
                       f"{short.mean():.3f} bits below it, {beyond.mean():.2f} beyond", "-",
                       short.max() < (0.4 if options.quick else 0.1) and beyond.min() > 0.5 and beyond.mean() > 1.0),
    ]  # fmt: skip
    if options.quick:
        return outcomes
    turned = [turns(table, layer) for layer in WEIGHTS]
    apart = np.array([np.median(np.log10(own / knee)) for own in turned])
    told = "/".join(f"{np.median(own):.0f}" for own in turned)
    return [
        *outcomes,
        common.Outcome("gradients of layers 1 to 3 turn to diffusion within a factor of two of that maximum (median)",
                       f"epochs {told} from the first layer to the output, maximum at {np.median(knee):.0f}; log10 of "
                       f"the ratio {'/'.join(f'{v:.2f}' for v in apart)}", "-", (np.abs(apart[:3]) <= 0.3).all()),
        common.Outcome("those of the last hidden layer and of the output do so later than that",
                       f"{10 ** apart[4]:.1f} and {10 ** apart[5]:.1f} times", "-", apart[4:].min() > 0.3),
    ]  # fmt: skip


if __name__ == "__main__":
    common.main(run, __doc__)
