"""A staircase of information, and what trained critics read on it (Song and Ermon 2020; Poole et al. 2019).

Two Gaussian vectors of 20 units share 2, 4, ... 10 nats, a stair of as many training steps each, with fresh batches of
64 pairs. Separable critics are trained by InfoNCE, by the bound of Donsker and Varadhan, and by the Jensen-Shannon loss
whose clipped reading is SMILE; each is read on the batches it is trained on, as the papers do.

Look for: InfoNCE ends at log 64 = 4.16 nats however much there is; Donsker and Varadhan's value scatters from batch to
batch; SMILE comes nearest on the upper stairs. Beside them: the distance of the joint law from the shuffled one (Ozair
et al. 2019), whose scatter does not grow, and `critic`, whose Gaussian start is the answer here, from 2,000 pairs.
It would be falsified by InfoNCE above log 64, or by a value of Donsker and Varadhan that is no rougher than SMILE.
"""

from __future__ import annotations

import itertools
import math

import common
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import infoplane
from infoplane import diagnostics
from infoplane.estimators.critic import infonce, log_mean_apart, own, smile

UNITS, BATCH, TAU, NATS = 20, 64, 5.0, math.log(2)
STAIRS = (2.0, 4.0, 6.0, 8.0, 10.0)  # nats


def jensen_shannon(scores: Tensor) -> Tensor:
    strangers = nn.functional.softplus(scores[:, ~torch.eye(BATCH, dtype=torch.bool)])
    return nn.functional.softplus(-own(scores)).mean() + strangers.mean()


# What is minimised, and what is read of scores (1, 64, 64), in nats.
CRITICS = {
    "InfoNCE": (infonce, lambda f: math.log(BATCH) - infonce(f)),
    "DV": (lambda f: log_mean_apart(f) - own(f).mean(1), lambda f: own(f).mean(1) - log_mean_apart(f)),
    "SMILE": (jensen_shannon, lambda f: smile(f, TAU)),
}


def climb(name: str, steps: int, seed: int, shuffle: bool) -> np.ndarray:
    """Readings (stairs, steps) in nats of one critic on the way up."""
    generator, (loss, read), seen = torch.manual_seed(seed), CRITICS[name], []
    f, g = (nn.Sequential(nn.Linear(UNITS, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 32))
            for _ in range(2))  # fmt: skip
    optimizer = torch.optim.Adam([*f.parameters(), *g.parameters()], lr=5e-4, fused=True)
    for nats in STAIRS:
        rho = math.sqrt(1 - math.exp(-2 * nats / UNITS))
        for _ in range(steps):
            x, e = torch.randn(2, BATCH, UNITS, generator=generator)
            y = e if shuffle else rho * x + math.sqrt(1 - rho**2) * e
            scores = (f(x) @ g(y).mT)[None]
            optimizer.zero_grad()
            loss(scores).mean().backward()
            optimizer.step()
            seen.append(float(read(scores.detach())))
    return np.reshape(seen, (len(STAIRS), steps))


def beside(options: common.Options, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """`critic` in nats (stairs,), and the distance of the joint law from the shuffled one (stairs, seeds)."""
    known = [infoplane.datasets.gaussian_pair(2000, bits=nats / NATS, dims=UNITS, seed=0) for nats in STAIRS]
    order = np.random.default_rng(0).permutation(2000) if options.shuffle else slice(None)
    activations = {round(nats): {"y": pair.y[order]} for nats, pair in zip(STAIRS, known, strict=True)}
    run = infoplane.from_arrays(options.out / "run", activations, known[0].t)
    table = infoplane.analyze(run, "critic:steps=100", progress=False, table=options.out / "results.csv")
    apart = []
    for pair, seed in itertools.product(known, range(seeds)):
        rows = np.random.default_rng(seed).permutation(2000)
        x, y = pair.t, pair.y[order]
        joint, strangers = (np.hstack([x[a], y[b]]) for a, b in ((rows[:300],) * 2, (rows[300:600], rows[600:900])))
        apart.append(diagnostics.wasserstein(joint, strangers, directions=8, null_draws=5).exact)
    return table.select(quantity="I(T;Y)").value * NATS, np.reshape(apart, (len(STAIRS), seeds))


def drawn(found: dict[str, np.ndarray], steps: int) -> Axes:
    axes = Figure(figsize=(7.0, 4.0), layout="constrained").add_subplot(xlabel="step", ylabel="information [nats]")
    axes.axhline(math.log(BATCH), color="0.6", linewidth=0.8, label="log 64")
    for name, each in found.items():
        axes.plot(each.ravel(), linewidth=0.5, label=name)
    axes.step(np.arange(len(STAIRS) + 1) * steps, [*STAIRS, STAIRS[-1]], "k--", where="post", label="truth")
    axes.set_ylim(0, 1.5 * STAIRS[-1])
    axes.legend(loc="upper left", fontsize="small")
    return axes


def run(options: common.Options) -> list[common.Outcome]:
    steps = 200 if options.quick else 700
    found = {name: climb(name, steps, 0, options.shuffle) for name in CRITICS}
    ours, apart = beside(options, 3 if options.quick else 10)
    options.figure(drawn(found, steps), "stairs", "Three critics on the way up, read on their own batches of 64.")
    late = {name: each[:, steps // 2 :] for name, each in found.items()}
    told = {name: "/".join(f"{v:.1f}" for v in each.mean(1)) for name, each in late.items()}
    rough = {name: each.std(1) for name, each in late.items()}
    smooth, least = apart.std(1) / apart.mean(1), 1.5 if options.quick else 2.0
    off, short = late["SMILE"][3:].mean(1) / STAIRS[3:] - 1, math.log(BATCH) - late["InfoNCE"][-1].mean()
    close = np.abs(ours - STAIRS) < np.maximum(0.3, 0.1 * np.array(STAIRS))
    return [
        common.Outcome("InfoNCE is never above log 64 = 4.16 nats", f"{told['InfoNCE']} nats", "4.09 at 10 nats",
                       bool(found["InfoNCE"].max() <= math.log(BATCH) + 1e-4), False),
        common.Outcome(f"Donsker and Varadhan's value at 10 nats scatters at least {least} times as much as SMILE",
                       f"std {rough['DV'][-1]:.2f} and {rough['SMILE'][-1]:.2f} nats", "1.98 and 0.55",
                       rough["DV"][-1] > least * rough["SMILE"][-1]),
        common.Outcome("critic, which starts from the Gaussian ratio, is within 0.3 nats or 10 % on every stair",
                       "/".join(f"{v:.1f}" for v in ours) + " nats", "-", bool(close.all())),
        common.Outcome("the distance of the joint from the shuffled law scatters by few per cent on every stair",
                       f"{smooth[0]:.1%} to {smooth[-1]:.1%}", "flat", bool((smooth < 0.03).all()), False),
        common.Outcome("SMILE is within 15 % at 8 and 10 nats, InfoNCE ends within 0.3 nats of its limit",
                       f"{told['SMILE']} nats", "9.36 at 10", options.quick or bool(max(*abs(off), short / 2) < 0.15)),
    ][: 4 if options.quick else 5]  # fmt: skip


if __name__ == "__main__":
    common.main(run, __doc__)
