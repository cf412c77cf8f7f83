"""The Cauchy-Schwarz bottleneck trades what a code keeps of X against the error of a regression (Yu et al. 2024).

Networks minimise squared error plus beta times the normalised CS-QMI of inputs and code, on the bundled diabetes data
(442 patients, 10 inputs) and on as many samples of Friedman's first problem. Five betas times eight seeds, each seed
with its own split, are one batched program.

Look for: the larger beta, the further left a path ends. Up to 0.1 the code drops a third of what it holds of X and the
test error stays; at 1 it rises, at 10 the network predicts the mean, of Friedman's problem less than half the variance.
It would be falsified by a CS-QMI that does not fall with beta, or an error that rises with the first fall. At a fixed
kernel width a code falls by shrinking too; standardised it falls less. Differs: at beta = 0 the code of the diabetes
data holds 0.15 to 0.5 CS bits, as its first scale is set.

Did not reproduce: robustness. With inputs moved 0.3 std against the network (FGSM) no beta that predicts has a smaller
error than 0, and 1 has a larger one, on either data set. Neither ten steps of PGD nor the paper's conditional
divergence instead of squared error, both tried here on diabetes, change that. The paper has other data.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import common
import numpy as np
import torch
from regression import cs_qmi, diabetes, friedman, kernel
from torch import nn

import infoplane
from infoplane import plots
from infoplane.hooks import CollectionRecorder, log_spaced

BETAS = (0.0, 0.01, 0.1, 1.0, 10.0)
CODE, SCALES = "encoder.logits", {"raw": "cs-qmi:sigma=1,standardize=false", "standardised": "cs-qmi:sigma=snapshot"}
ERRORS = ["test RMSE", "test RMSE under FGSM"]
PAIR, GROUPS = ["CS-QMI(X;T)", "CS-QMI(T;Y)"], {f"beta {b:g}": f"beta-{b:g}-seed-*" for b in BETAS}
DATA = {"diabetes": diabetes, "Friedman": friedman}
REFERENCE = {"diabetes": ("0.254/0.236/0.165/0.065/0.011", "0.753/0.752/0.745/0.788/0.970", "1.19/1.19/1.18/1.30/1.10"),
             "Friedman": ("-", "-", "-")}  # fmt: skip
FAR = {"diabetes": (0.85, "predicts the mean"), "Friedman": (0.65, "adds half to it")}
REACH = 0.3 / 3.0  # inputs are divided by 3, so that the kernel width 1 serves inputs, code and target


def train(x: torch.Tensor, y: torch.Tensor, seeds: range, epochs: int, runs: Path) -> list[Path]:
    """Train every beta from every seed on the seed's split, and record all of them on all of x."""
    each = [seed for _ in BETAS for seed in seeds]
    beta = torch.tensor(BETAS).repeat_interleave(len(seeds))
    encoder = common.stacked_mlp((10, 32, 8), nn.ReLU, 0.6, each)
    decoder = common.stacked_mlp((8, 32, 1), nn.ReLU, 0.6, [1000 + seed for seed in each])
    model = nn.Sequential(OrderedDict(encoder=encoder, decoder=decoder))
    encoder.linear1.weight.data.mul_(3.0)
    order = torch.stack([torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) for seed in each])
    own, test = order[:, :331], order[:, 331:]
    shuffle, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(model.parameters(), lr=1e-3)
    paths = [runs / f"beta-{b:g}-seed-{seed}" for b in BETAS for seed in seeds]
    more = {"member_dim": 0, "members": len(each), "schedule": log_spaced(12, epochs), "layers": [CODE], "quiet": True}
    with CollectionRecorder(model, (x, y), paths, **more) as recorder:
        for epoch in range(1, epochs + 1):
            rows = own.gather(1, torch.rand(len(seeds), 331, generator=shuffle).argsort(1).repeat(len(BETAS), 1))
            for batch in rows.split(128, dim=1):
                code = encoder(x[batch])
                k, m = kernel(x[batch]), kernel(code)
                kept = cs_qmi(k, m) / (cs_qmi(k, k) * cs_qmi(m, m)).clamp(min=1e-12).sqrt()
                loss = (decoder(code)[..., 0] - y[batch]).square().mean(1) + beta * kept
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
            if recorder.due(epoch):
                clean = x[test].requires_grad_()
                (slope,) = torch.autograd.grad((model(clean)[..., 0] - y[test]).square().sum(), clean)
                tried = zip(ERRORS, (clean, clean + REACH * slope.sign()), strict=True)
                errors = {name: (model(z)[..., 0] - y[test]).square().mean(1).sqrt() for name, z in tried}
                recorder.snapshot(epoch, metrics=errors)
    return paths


def sweep(options: common.Options, data: str, seeds: range, epochs: int) -> dict[str, np.ndarray]:
    """What the code keeps, raw and standardised, and the errors at the end: each (betas, seeds)."""
    x, y = (torch.tensor(a, dtype=torch.float32) for a in DATA[data]())
    x, y = (x - x.mean(0)) / x.std(0) / 3.0, (y - y.mean()) / y.std()
    if options.shuffle:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    runs, found = train(x, y, seeds, epochs, options.out / "runs" / data), {}
    for name, spec in SCALES.items():
        table = infoplane.analyze(runs, spec, layers=[CODE], progress=False, table=options.out / f"{data}-{name}.csv")
        for form in ("plane", "curves") if data == "diabetes" else ("plane",):
            drawn = plots.compare(table, form=form, quantity=PAIR, groups=GROUPS)
            options.figure(drawn, f"{data}-{form}-{name}", f"{data}: the {name} code over training for each beta.")
        for quantity in (PAIR[0], *ERRORS):
            last = np.array([curve.value[-1] for curve in table.curves(quantity)]).reshape(len(BETAS), -1)
            found[name if quantity in PAIR else quantity] = last
    return found


def run(options: common.Options) -> list[common.Outcome]:
    outcomes, (seeds, epochs) = [], (range(2), 60) if options.quick else (range(8), 120)
    for data, (raw, rmse, attacked) in REFERENCE.items():
        found = sweep(options, data, seeds, epochs)
        told = {name: "/".join(f"{value:.3f}" for value in values.mean(1)) for name, values in found.items()}
        kept, scaled, clean, fgsm = (found[key].mean(1) for key in (*SCALES, *ERRORS))
        steady = (np.diff(found["raw"], axis=0) < 0).all(0).sum()
        outcomes += [
            common.Outcome(f"{data}: CS-QMI(X;T) falls with beta ({'/'.join(map(str, BETAS))})",
                           f"{told['raw']} CS bits; step by step in {steady} of {len(seeds)} seeds", raw,
                           bool((np.diff(kept) < 0).all()), False),
            common.Outcome(f"{data}: beta 0.1 drops a fifth and the error stays, beta 10 {FAR[data][1]}",
                           f"RMSE {told[ERRORS[0]]} std", rmse, kept[2] < 0.8 * kept[0]
                           and clean[2] < min(0.85, 1.03 * clean[0]) and clean[4] > FAR[data][0]),
            common.Outcome(f"{data}: the standardised code falls too, but less", f"{told['standardised']} CS bits", "-",
                           bool((np.diff(scaled) < 0).all()) and scaled[0] / scaled[4] < kept[0] / kept[4], False),
            common.Outcome(f"{data}: no beta that predicts lowers the error under FGSM by 2 %",
                           f"RMSE {told[ERRORS[1]]} std", attacked, fgsm[1:4].min() > 0.98 * fgsm[0]),
        ]  # fmt: skip
    return outcomes


if __name__ == "__main__":
    common.main(run, __doc__)
