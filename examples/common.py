"""What the examples share: seeds trained as one batched program, the command line, and asserted outcomes."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from infoplane import ResultTable, datasets, plots
from infoplane.hooks import CollectionRecorder, GradientMoments, log_spaced
from infoplane.studies import Association


@dataclass(frozen=True)
class Outcome:
    """One asserted line: what was claimed, what was measured, what an independent prototype had measured."""

    claim: str
    measured: str
    reference: str
    holds: bool
    about_y: bool = True
    """False for a line that holds under shuffled labels too: it says something of the network or of the method."""


@dataclass(frozen=True)
class Options:
    quick: bool
    out: Path
    shuffle: bool
    figures: list[dict[str, str]] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def figure(self, drawn: Axes | Figure, name: str, caption: str) -> None:
        """Save a figure into the folder of the example, with the sentence that stands under it."""
        plots.save(drawn, self.out / f"{name}.png", dpi=110)
        self.figures.append({"name": name, "caption": caption})

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table, which then also stands on the page of the experiments, as Markdown."""
        lines = [[cell.replace("|", r"\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
        self.tables.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
        print(self.tables[-1])


class DataAbsent(Exception):
    """The data of an example are not on this machine; the message says which command gets them."""


def main(run: Callable[[Options], Sequence[Outcome]], description: str) -> None:
    """Run one example from the command line; exit code 1 when an outcome does not hold, 3 when its data are absent.

    The folder then holds outcomes.json: what was asserted and measured, the figures, and the seconds it took.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, with weaker assertions")
    parser.add_argument("--out", type=Path, default=Path("examples-out") / Path(sys.argv[0]).stem)
    parser.add_argument("--shuffle", action="store_true", help="shuffled labels: the assertions must then fail")
    given = parser.parse_args()
    clear(given.out)
    torch.set_num_threads(1)  # the networks are small: more threads wait longer than they work
    options = Options(given.quick, given.out, given.shuffle)
    started = time.monotonic()
    try:
        outcomes = run(options)
    except DataAbsent as absent:
        print(f"skipped: {absent}")
        sys.exit(3)
    for o in outcomes:
        words = "" if o.about_y else ", not about Y"
        print(f"{'holds' if o.holds else 'FAILS'}  {o.claim}: {o.measured} (reference {o.reference}{words})")
    record = {
        "quick": given.quick,
        "seconds": round(time.monotonic() - started),
        "outcomes": [asdict(o) | {"holds": bool(o.holds)} for o in outcomes],
        "figures": options.figures,
        "tables": options.tables,
    }
    (given.out / "outcomes.json").write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(0 if all(o.holds for o in outcomes) else 1)


def clear(out: Path) -> None:
    """Make the folder, or empty it where an example made it before; anything else in the way is left alone."""
    mark = out / ".made-by-an-example"
    if mark.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()


def images(options: Options, probe: int) -> list[datasets.Data]:
    """Training images (N, H, W) and the first `probe` test images: Fashion-MNIST, or the bundled digits if quick."""
    if options.quick:
        x, y = datasets.digits()
        order = np.random.default_rng(0).permutation(len(y))
        train, test = (datasets.Data(x[rows].reshape(-1, 8, 8), y[rows]) for rows in (order[:1200], order[1200:]))
    else:
        try:
            train, test = (datasets.idx(split=split) for split in ("train", "test"))
        except FileNotFoundError as absent:
            raise DataAbsent(str(absent)) from None
    parts = [train, datasets.Data(test.x[:probe], test.y[:probe])]
    if options.shuffle:
        parts = [datasets.Data(x, np.random.default_rng(1).permutation(y)) for x, y in parts]
    return parts


def by_run(table: ResultTable, quantity: str, layer: str = "") -> npt.NDArray[np.float64]:
    """Values (runs, steps) of one quantity or, without a layer, of a recorded metric."""
    rows = table.select(quantity=quantity, layer=layer)
    return np.stack([rows.select(run=run).value for run in dict.fromkeys(rows.run.tolist())])


def place(one: Association, quantity: str = "I(X;T)") -> int:
    """Where a quantity stands among those that were tried."""
    return [measure.quantity for measure in one.measures.values()].index(quantity)


def told(one: Association, m: int, given: bool = False) -> str:
    """A correlation with its 95 % interval, or that given the control."""
    before, value = ("partial_", one.numbers["partial"]) if given else ("", one.numbers[one.method])
    low, high = (one.numbers[before + end][m] for end in ("low", "high"))
    return f"{value[m]:+.2f} ({low:+.2f} to {high:+.2f})"


def member_loss(out: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of (members, N, classes) and (members, N): the mean over N, summed over the members.

    Summed, so that each member has the gradient it would have alone.
    """
    loss = nn.functional.cross_entropy(out.flatten(0, 1), labels.flatten(), reduction="sum")
    return loss / labels.shape[1]


class StackedLinear(nn.Module):
    """One linear layer for every member: (N, in) or (members, N, in) -> (members, N, out)."""

    def __init__(self, members: int, fan_in: int, fan_out: int, gain: float, generators: Sequence[torch.Generator]):
        super().__init__()
        weight = torch.empty(members, fan_in, fan_out)
        for own, generator in zip(weight, generators, strict=True):
            nn.init.trunc_normal_(own, std=gain / math.sqrt(fan_in), generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(members, 1, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def stacked_mlp(sizes: Sequence[int], activation: type[nn.Module], gain: float, seeds: Sequence[int]) -> nn.Sequential:
    """A fully connected network for every seed, in one module: linear1, act1, ..., logits."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    model = nn.Sequential()
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), 1):
        last = i == len(sizes) - 1
        linear = StackedLinear(len(seeds), fan_in, fan_out, gain, generators)
        model.add_module("logits" if last else f"linear{i}", linear)
        if not last:
            model.add_module(f"act{i}", activation())
    return model


def train_seeds(
    model: nn.Sequential,
    x: Tensor,
    y: Tensor,
    runs: Path,
    *,
    epochs: int,
    points: int,
    batch: int = 512,
    lr: float = 4e-4,
    decay: float | Tensor = 0.0,
    split: float = 0.8,
    names: Sequence[str] = (),
    gradients: bool = False,
    **recorded: Any,
) -> list[Path]:
    """Train every member on its own random split and record all of them on all of x; the run of each member.

    `decay` is the factor of half the squared weights of the hidden layers, added to the loss: one number, or one for
    each member. With `gradients` their moments over the batches of each recorded epoch are recorded as well; further
    arguments are those of the recorder.
    """
    members = model[0].weight.shape[0]
    generator = torch.Generator().manual_seed(12345)
    order = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(members)])
    train, test = order[:, : int(split * len(x))], order[:, int(split * len(x)) :]
    hidden = [m.weight for m in list(model)[:-1] if isinstance(m, StackedLinear)]
    factor = 0.5 * torch.as_tensor(decay).expand(members)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    paths = [runs / name for name in names or [f"seed-{i}" for i in range(members)]]
    schedule, moments = log_spaced(points, epochs), GradientMoments(model, members=members) if gradients else None
    with CollectionRecorder(
        model, (x, y), paths, member_dim=0, members=members, schedule=schedule, total=epochs, quiet=True,
        gradients=moments, **recorded,
    ) as recorder:  # fmt: skip
        for epoch in range(1, epochs + 1):
            if moments is not None and recorder.due(epoch):
                moments.take()  # those of this epoch alone: over more of them the drift of the mean counts as spread
            shuffled = train.gather(1, torch.rand(train.shape, generator=generator).argsort(1))
            for rows in shuffled.split(batch, dim=1):
                loss = member_loss(model(x[rows]), y[rows])
                if factor.any():
                    loss = loss + sum(factor @ w.square().sum((1, 2)) for w in hidden)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if recorder.due(epoch):
                recorder.snapshot(epoch, metrics=accuracy_and_loss(model, x, y, {"train": train, "test": test}))
    return paths


def accuracy_and_loss(model: nn.Module, x: Tensor, y: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Accuracy and loss of every member on each part, its rows (members, N), in evaluation mode."""
    model.eval()
    with torch.no_grad():
        out = model(x)
    model.train()
    loss = nn.functional.cross_entropy(out.mT, y.expand(len(out), -1), reduction="none")
    of = {"accuracy": (out.argmax(2) == y).double(), "loss": loss.double()}
    return {f"{part} {name}": own.gather(1, rows).mean(1) for part, rows in parts.items() for name, own in of.items()}
