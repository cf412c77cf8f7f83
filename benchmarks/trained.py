"""T1 to T3: networks that are trained together, against the same networks one after the other, and what they cost.

`python -m benchmarks.trained [KIND ...] [--device cuda] [--quick]`: the rows (on the CPU), then slices a second for
several sizes of the stack, on a device up to the largest that its memory takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from benchmarks._data import labels, tanh_network
from benchmarks._harness import Case, Row, table
from infoplane.estimators import _network_probe as probe
from infoplane.estimators import assume_finite
from infoplane.estimators._autoencoders import Autoencoders
from infoplane.estimators._critics import Critics, Setup
from infoplane.estimators._flow_networks import Sides, Velocities
from infoplane.estimators._held_out import Classes
from infoplane.estimators._trained import Batches, Rows, TrainingPlan, in_stacks, train
from infoplane.estimators.flow import most_at_once
from infoplane.estimators.probe import LinearProbe

SAMPLES, UNITS, WIDTH, CLASSES = 1000, 10, 64, 10
STEPS, FULL = 50, 400
"""Steps that are timed, and those that a network takes: slices a second are of the second."""
TOLERANCE = 0.02
"""Nats between the criterion of a stack and of its networks alone, on average over the networks."""
SIZES, QUICK_SIZES, LARGE = (16, 64, 256, 1024), (16, 64), (4096, 16384, 65536)
"""Networks of a stack; the large ones on a device only, as far as its memory goes."""
FOLDS = 4


class Networks(Protocol):
    """The networks of some snapshots and folds, each a problem of its own."""

    def train(self, snapshots: slice, folds: slice) -> Tensor:
        """Train those together; what they reach (slices,), in nats."""


def halves(folds: int, device: torch.device) -> probe.Folds:
    """Three fifths of the rows to fit, a fifth to choose the step."""
    fold = (torch.arange(SAMPLES)[None] + torch.arange(folds)[:, None]) % 5
    return probe.Folds.of((fold > 1).to(device), (fold == 1).to(device), seed=0)


def part(folds: probe.Folds, some: slice) -> probe.Folds:
    return probe.Folds(folds.fitted[some], folds.checked[some], folds.seeds[some])


class Classifiers:
    """Those of `probe:family=mlp`, which start from linear probes that say nothing."""

    def __init__(self, snapshots: int, folds: int, device: torch.device) -> None:
        g = torch.Generator().manual_seed(0)
        self.task = Classes(labels(SAMPLES, CLASSES).to(device))
        self.z = torch.randn(snapshots, SAMPLES, UNITS, generator=g, dtype=torch.float64).to(device)
        self.z[:, :, 0] += self.task.y
        self.linear = torch.zeros(snapshots, folds, CLASSES, SAMPLES, dtype=torch.float64, device=device)
        self.folds = halves(folds, device)
        self.plan = dataclasses.replace(probe.PLAN, steps=STEPS, patience=STEPS)

    def train(self, snapshots: slice, folds: slice) -> Tensor:
        some = part(self.folds, folds)
        networks = probe._Networks(self.task, self.z[snapshots], self.linear[snapshots, folds], some)
        batches = Batches(some.fitted, some.seeds, self.plan.batch, self.z.device)
        train(networks.parameters, networks.loss, networks.criterion, batches, self.plan)
        with torch.no_grad():
            return networks.criterion()


def pairs(snapshots: int, folds: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides (S, F, N, D) of curved pairs, and their correlations (S, F, D)."""
    g = torch.Generator().manual_seed(0)
    u, noise = (torch.randn(snapshots, folds, SAMPLES, UNITS, generator=g).to(device) for _ in range(2))
    return u, (u + u.square() + noise) / 2, torch.full((snapshots, folds, UNITS), 0.5, device=device)


class Contrasts:
    """Those of `critic`."""

    def __init__(self, snapshots: int, folds: int, device: torch.device) -> None:
        self.u, self.v, self.rho = pairs(snapshots, folds, device)
        self.folds = halves(folds, device)
        plan = TrainingPlan(2e-3, 1e-2, 256, STEPS, every=25, patience=STEPS, cosine=True)
        self.setup = Setup("infonce", 64, 16, 0.2, plan)

    def train(self, snapshots: slice, folds: slice) -> Tensor:
        some, at = part(self.folds, folds), (snapshots, folds)
        critics = Critics(self.u[at], self.v[at], self.rho[at], self.setup, some.seeds)
        critics.train(some.fitted, some.checked, some.seeds)
        with torch.no_grad():
            return critics.criterion(some.checked)


class Flows:
    """Those of `flow`, one way; a stack is cut as the estimator cuts it."""

    def __init__(self, snapshots: int, folds: int, device: torch.device) -> None:
        self.u, self.v, self.rho = pairs(snapshots, folds, device)
        self.folds, self.most = halves(folds, device), most_at_once(folds, device)
        self.plan = TrainingPlan(1e-2, 1e-2, 256, STEPS, every=50, patience=STEPS, cosine=True)

    def train(self, snapshots: slice, folds: slice) -> Tensor:
        some = part(self.folds, folds)
        rows = Rows(some.fitted, some.checked, some.checked, some.seeds)
        numbers = torch.arange(len(self.u))[snapshots]
        return in_stacks(numbers, 1, lambda few: self._stack(few, folds, rows), most=self.most)["nats"].flatten()

    def _stack(self, few: Tensor, folds: slice, rows: Rows) -> dict[str, Tensor]:
        sides = Sides(self.u[few][:, folds], self.v[few][:, folds], self.rho[few][:, folds])
        networks = Velocities(sides, rows, True)
        networks.train(self.plan)
        with torch.no_grad():
            return {"nats": networks.criterion().view(networks.shape)}


class Codes:
    """Those of `compressed:code=autoencoder`, of four coordinates."""

    def __init__(self, snapshots: int, folds: int, device: torch.device) -> None:
        g = torch.Generator().manual_seed(0)
        latent = torch.randn(snapshots, SAMPLES, 4, generator=g)
        self.z = torch.tanh(latent @ torch.randn(4, WIDTH, generator=g)).to(device)
        self.folds = halves(folds, device)

    def train(self, snapshots: slice, folds: slice) -> Tensor:
        some = part(self.folds, folds)
        rows = Rows(some.fitted, some.checked, some.checked, some.seeds)
        networks = Autoencoders(self.z[snapshots], None, rows, dims=4)
        networks.train(STEPS)
        with torch.no_grad():
            return networks.criterion()


# Whoever adds another kind of network adds it here: its name, how it is made, and its "must" and "aim".
KINDS: dict[str, tuple[Callable[[int, int, torch.device], Networks], float, float]] = {
    "classifier": (Classifiers, 3.0, 4.0),
    "critic": (Contrasts, 2.5, 5.0),
    "flow": (Flows, 1.8, 3.0),
    "autoencoder": (Codes, 1.2, 1.5),
}


def stacked(kind: str, snapshots: int, folds: int) -> Case:
    """T1: all of them together, against one after the other."""
    make, must, aim = KINDS[kind]
    networks, everything = make(snapshots, folds, torch.device("cpu")), slice(None)

    def loop() -> Tensor:
        each = [(slice(s, s + 1), slice(f, f + 1)) for s in range(snapshots) for f in range(folds)]
        return torch.cat([networks.train(*one) for one in each])

    def check() -> None:
        gap = float((networks.train(everything, everything).mean() - loop().mean()).abs())
        if gap > TOLERANCE:
            raise AssertionError(f"a stack of {kind}s reaches {gap} nats more or less than its networks alone")

    return Case(
        id="T1", case=f"{snapshots * folds} {kind}s, {STEPS} steps", against="one after the other (own code)",
        must=must, aim=aim, candidate=lambda: networks.train(everything, everything), reference=loop, check=check,
        rounds=3,
    )  # fmt: skip


def cost(samples: int, units: int, snapshots: int) -> Case:
    """T3: the network beside the linear probe that it starts from; at most 2.5 times as dear."""
    (t,) = tanh_network(samples, (units,), snapshots)
    y = labels(samples, CLASSES)

    def estimate(probe: LinearProbe) -> Callable[[], None]:
        def call() -> None:
            with assume_finite():
                probe.estimate(t, y)

        return call

    return Case(
        id="T3", case=f"probe:family=mlp, {snapshots} x {samples} x {units}, {CLASSES} classes", against="probe",
        must=0.4, aim=1.0, candidate=estimate(LinearProbe(family="mlp")), reference=estimate(LinearProbe()), rounds=3,
    )  # fmt: skip


def speed(kind: str, size: int, device: torch.device) -> float:
    """Slices a second, each of `FULL` steps."""
    networks, everything = KINDS[kind][0](size // FOLDS, FOLDS, device), slice(None)

    def seconds() -> float:
        start = time.perf_counter()
        networks.train(everything, everything)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - start

    return size * STEPS / FULL / seconds()


def speeds(case: Case) -> Iterable[Row]:
    """T2: by the size of the stack."""
    speed("classifier", FOLDS, torch.device("cpu"))
    found = " / ".join(f"{speed('classifier', size, torch.device('cpu')):.3g}" for size in QUICK_SIZES)
    return [case.row(value=f"{found} slices a second", met=True)]


def cases(quick: bool = False) -> Iterator[Case]:
    yield stacked("classifier", 10, 5)
    if not quick:
        yield stacked("critic", 10, 5)
        yield stacked("flow", 12, 4)
        yield stacked("autoencoder", 10, 5)
    sizes = ", ".join(map(str, QUICK_SIZES))
    yield Case(id="T2", case=f"stacks of {sizes} classifiers, {FULL} steps", against="", measure=speeds)
    yield cost(1000, 64 if quick else 256, 8)


def print_speeds(kind: str, sizes: Iterable[int], device: torch.device) -> None:
    speed(kind, FOLDS, device)  # imports, and the choice of kernels
    for size in sizes:
        try:
            print(f"{kind:<12} {size:>6} {speed(kind, size, device):10.4g}", flush=True)
        except torch.OutOfMemoryError:
            print(f"{kind:<12} {size:>6} too large for the memory of {device}", flush=True)
            return


def main() -> int:
    """Print the rows, and slices a second on the device; exit code 1 when a row is below its "must"."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trained", description=__doc__)
    parser.add_argument("kind", nargs="*", help=f"out of {', '.join(KINDS)}, for slices a second; all by default")
    parser.add_argument("--device", default="cpu", help="where the stacks of several sizes are trained")
    parser.add_argument("--quick", action="store_true", help="the small cases only")
    options = parser.parse_args()
    if unknown := sorted(set(options.kind) - set(KINDS)):
        parser.error(f"no networks named {', '.join(unknown)}; available: {', '.join(KINDS)}")
    device = torch.device(options.device)
    if device.type != "cpu" and not torch.accelerator.is_available():
        parser.error(f"torch finds no device {options.device!r} on this machine; leave --device out for the CPU")
    torch.set_num_threads(1)
    rows = [] if device.type != "cpu" else [row for case in cases(options.quick) for row in case.rows()]
    if rows:
        print(table(rows), flush=True)
    sizes = QUICK_SIZES if options.quick else SIZES if device.type == "cpu" else SIZES + LARGE
    print(f"slices a second on {device}, {FULL} steps each")
    for kind in options.kind or KINDS:
        print_speeds(kind, sizes, device)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
