"""Do units know Y together or one by one? Synergy of the units of a layer over training (after Westphal et al. 2025).

The 12-bit problem, a ReLU and a tanh network of the same sizes. Synergy is the mean over units i of
I(T;Y) - I(T without i;Y) - I(T_i;Y), all by one estimator (`binning`, 6 cells, layers of 4 and 3 units): above 0 units
know most together, below 0 they repeat one another. The paper reports phases of its measure in ReLU networks; which
features it means was not checked, so this is a test of the definition above and of no more.

Look for: a phase would be a rise above the null of shuffled labels and a fall below it.

Does not hold: that there are phases. In both networks synergy falls from the start, as I(T;Y) rises: what the units
learn they all learn. The ReLU network's is the smaller, for its cells are of the range of the whole run, in which most
early values share one. It would be falsified by synergy above the null, or by one that does not end below it.
"""

from __future__ import annotations

import common
import numpy as np
import torch

import infoplane
from infoplane import plots

LAYERS, SYNERGY = ["act4", "act5"], "synergy(T;Y)"
NETWORKS = {"relu": (torch.nn.ReLU, 2.0**0.5), "tanh": (torch.nn.Tanh, 1.0)}


def run(options: common.Options) -> list[common.Outcome]:
    x, y = map(torch.from_numpy, infoplane.datasets.twelve_bit())
    if options.shuffle:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    seeds, epochs, points = (3, 300, 8) if options.quick else (8, 3000, 24)
    tables = {}
    for name, (activation, gain) in NETWORKS.items():
        model = common.stacked_mlp((12, 10, 7, 5, 4, 3, 2), activation, gain, range(seeds))
        runs = common.train_seeds(
            model, x, y, options.out / name, epochs=epochs, points=points, lr=2e-3 if options.quick else 1e-3
        )
        tables[name] = infoplane.analyze(
            runs, "binning:n_bins=6,null_draws=0+synergy+null:draws=5", layers=LAYERS, progress=False,
            table=options.out / f"{name}.csv",
        )  # fmt: skip
    for name, table in tables.items():
        figure = plots.compare(table, quantity=SYNERGY)
        options.figure(figure, name, f"Synergy of the units of the last two hidden layers, {name}.")
    found = {name: np.stack([common.by_run(t, SYNERGY, layer) for layer in LAYERS]) for name, t in tables.items()}
    null = {name: np.stack([common.by_run(t, f"{SYNERGY} null", la) for la in LAYERS]) for name, t in tables.items()}
    above = {name: (each - null[name]).mean(1).max() for name, each in found.items()}
    ends = {name: "/".join(f"{v:.2f}" for v in each[..., -1].mean(1)) for name, each in found.items()}
    least = {"relu": 0.02 if options.quick else 0.05, "tanh": 0.3 if options.quick else 0.5}
    return [
        common.Outcome(f"{name}: synergy of act4 and act5 ends {least[name]} bits or more below 0, mean over seeds",
                       f"{ends[name]} bits", "-", bool((found[name][..., -1].mean(1) < -least[name]).all()))
        for name in NETWORKS
    ] + [
        common.Outcome("there is no phase of synergy: means over seeds stay within 0.02 bits above the null",
                       " and ".join(f"{v:.3f}" for v in above.values()) + " bits at most", "-",
                       max(above.values()) < 0.02, about_y=False),
    ]  # fmt: skip


if __name__ == "__main__":
    common.main(run, __doc__)
