"""`infoplane demo`: the whole way on real input, in about a minute and without a network connection."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from infoplane import datasets, plots
from infoplane.analysis import analyze
from infoplane.hooks import Recorder, log_spaced
from infoplane.results import ResultTable
from infoplane.results.views import default_layers

ESTIMATOR = "binning:n_bins=30"
"""The estimator of Shwartz-Ziv and Tishby (2017), with their number of bins."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Data, network (`widths` of its layers, inputs first; `gain` of its weights) and optimiser settings."""

    title: str
    data: Callable[[], datasets.Data]
    widths: tuple[int, ...]
    activation: type[nn.Module]
    gain: float
    epochs: int
    batch_size: int
    lr: float
    look_for: str

    def model(self) -> nn.Sequential:
        """Make the network: fully connected layers, the last without activation, with new weights.

        Weights are truncated normal of std gain / sqrt(fan in), biases zero.
        """
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(self.widths), 1):
            linear = nn.Linear(fan_in, fan_out)
            nn.init.trunc_normal_(linear.weight, std=self.gain / math.sqrt(fan_in))
            nn.init.zeros_(linear.bias)
            last = i == len(self.widths) - 1
            parts["logits" if last else f"linear{i}"] = linear
            if not last:
                parts[f"{self.activation.__name__.lower()}{i}"] = self.activation()
        return nn.Sequential(parts)


DEMOS = {
    # The network and problem of Shwartz-Ziv and Tishby (2017), with its own optimiser settings.
    "twelve-bit": Demo(
        title="12-10-7-5-4-3-2 tanh network on the 4,096 patterns of Shwartz-Ziv and Tishby (2017)",
        data=datasets.twelve_bit,
        widths=(12, 10, 7, 5, 4, 3, 2),
        activation=nn.Tanh,
        gain=1.0,
        epochs=2500,
        batch_size=512,
        lr=4e-4,
        look_for="tanh5, the narrowest hidden layer: I(T;Y) rises far above its null while binned I(X;T) falls. "
        "tanh1 to tanh3 sit at the ceilings log2 N and H(Y) from the first step on: they tell nothing.",
    ),
    "digits": Demo(
        title="64-32-16-8-10 ReLU network on 1,797 handwritten digits",
        data=datasets.digits,
        widths=(64, 32, 16, 8, 10),
        activation=nn.ReLU,
        gain=math.sqrt(2.0),
        epochs=300,
        batch_size=64,
        lr=2e-3,
        look_for="relu1 holds I(T;Y) = H(Y) from the first step on, and as much of shuffled labels: 30 bins of 32 "
        "units tell every image apart. The deeper layers seem to gain; their null gains with them, since growing ReLU "
        "activations spread over more cells. What lies above the null (curves) is what they learn.",
    ),
}


def train(demo: Demo, run: Path, *, epochs: int, seed: int = 0, progress: bool = True) -> None:
    """Train `demo` and record it into the run directory `run`: 80 % of the rows train, all are the probe."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.from_numpy(a) for a in demo.data())
    train_rows, test_rows = torch.randperm(len(x), generator=generator).tensor_split([int(0.8 * len(x))])
    model = demo.model()
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=demo.lr, fused=True)  # one call for all weights: quicker here
    probe = {"train": (x[train_rows], y[train_rows]), "test": (x[test_rows], y[test_rows])}

    def accuracy(rows: Tensor) -> float:
        """Return the share of these rows that the network classifies as labelled."""
        with torch.no_grad():
            return float((model(x[rows]).argmax(1) == y[rows]).double().mean())

    about: dict[str, Any] = {"run": run, "name": run.absolute().parent.name}  # the directory itself is always "run"
    with Recorder(model, probe=probe, schedule=log_spaced(60, epochs), total=epochs, **about) as recorder:
        for epoch in tqdm(range(1, epochs + 1), desc="training", unit="epoch", disable=not progress, mininterval=0.5):
            total = 0.0
            shuffled = train_rows[torch.randperm(len(train_rows), generator=generator)]
            for rows in torch.split(shuffled, demo.batch_size):
                loss = loss_of(model(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(rows)
            if recorder.due(epoch):
                measured = {"loss": total / len(train_rows)}
                measured |= {"train accuracy": accuracy(train_rows), "test accuracy": accuracy(test_rows)}
                recorder.snapshot(epoch, metrics=measured)


def doubts(table: ResultTable) -> list[str]:
    """Return lines that say which numbers in the table should not be believed, and why."""
    rows = table.select(layer=default_layers(table), subset="all")
    layers = list(dict.fromkeys(rows.layer))
    width = max(map(len, layers))
    start = rows.select(step=int(np.min(rows.step)))
    lines = ["Before training nothing is learned, yet I(T;Y) reads, beside its 95 % range on shuffled labels:"]
    for layer in layers:
        value = start.select(layer=layer, quantity="I(T;Y)").value[0]
        null = start.select(layer=layer, quantity="I(T;Y) null")
        verdict = "within chance" if value <= null.high[0] else "above chance: a random layer still sees the input"
        lines.append(f"  {layer:<{width}}  {value:.3f} bits  [{null.low[0]:.3f}, {null.high[0]:.3f}]  {verdict}")
    lines.append("Saturated: most inputs have a code of their own, so I(X;T) is near log2 N whatever the layer does:")
    for layer in layers:
        own = rows.select(layer=layer, quantity="I(X;T)")
        flagged = own.flag("saturated")
        if flagged.any():
            reached = f"{own.value[flagged].min():.2f} to {own.value[flagged].max():.2f} of {own.ceiling[0]:.2f} bits"
            lines.append(f"  {layer:<{width}}  {flagged.sum()} of {flagged.size} snapshots, I(X;T) {reached}")
    return lines


def free_folder(wanted: Path) -> Path:
    """Return the first of `wanted`, `wanted-2`, `wanted-3`, ... that does not exist: nothing is overwritten."""
    numbered = (wanted.with_name(f"{wanted.name}-{i}") for i in itertools.count(2))
    return wanted if not wanted.exists() else next(path for path in numbered if not path.exists())


def draw(table: ResultTable, out: Path) -> list[Path]:
    """Save plane and curves as PNG, SVG and PDF; return the paths that were written."""
    drawn = {"plane": plots.plane(table), "curves": plots.curves(table)}
    return [plots.save(ax, out / f"{name}.{suffix}") for name, ax in drawn.items() for suffix in ("png", "svg", "pdf")]


def show(data: str, out: Path, *, epochs: int | None, seed: int, progress: bool, echo: Callable[[str], None]) -> None:
    """Train, record, estimate and draw, then say what was written, what to look for and what to doubt."""
    torch.set_num_threads(1)  # the networks are small: a second thread waits longer than it works
    demo = DEMOS[data]
    run = out / "run"
    echo(demo.title)
    train(demo, run, epochs=epochs or demo.epochs, seed=seed, progress=progress)
    table = analyze(run, ESTIMATOR, progress=progress)
    figures = draw(table, out)
    echo(f"\nWritten\n  activations  {run}   (infoplane info, infoplane verify)")
    echo(f"  results      {run / 'results.csv'}   {len(table)} rows")
    for figure in figures:
        echo(f"  figure       {figure}")
    echo(f"\nLook for\n  {demo.look_for}")
    echo("\nDo not believe")
    for line in doubts(table):
        echo(f"  {line}")
