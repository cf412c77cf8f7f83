"""C1 to C6: what recording costs a training, against the same forward pass without it and with other recorders."""

from __future__ import annotations

import copy
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks._harness import Case, Row, cpu_ms, median_ms, package
from benchmarks.store import probe
from infoplane.core import Snapshot
from infoplane.hooks import Recorder, every
from infoplane.store import StoreWriter

CHUNK = 256


def networks(quick: bool) -> Iterator[tuple[str, nn.Module, Tensor, dict]]:
    """Name, model, probe inputs and recorder options."""
    torch.manual_seed(0)
    widths = (12, 10, 7, 5, 4, 3, 2)
    pairs = itertools.pairwise(widths)
    tanh = [m for a, b in pairs for m in (nn.Linear(a, b), nn.Tanh())]
    yield "tanh 12-10-7-5-4-3-2, N 4096", nn.Sequential(*tanh), torch.randn(4096, 12), {}
    mlp = [m for a, b in ((784, 256), (256, 128), (128, 64)) for m in (nn.Linear(a, b), nn.ReLU())]
    n = 1024 if quick else 4096
    yield (
        f"MLP 784-256-128-64-10, N {n}",
        nn.Sequential(*mlp, nn.Linear(64, 10)),
        torch.randn(n, 784),
        {"layers": nn.ReLU},
    )
    convolutions = [
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 10),
    ]  # fmt: skip
    x = torch.randn(256 if quick else 1024, 1, 28, 28)
    yield f"CNN 16-32, full maps, N {len(x)}", nn.Sequential(*convolutions), x, {"layers": nn.ReLU}
    yield f"CNN 16-32, means, N {len(x)}", nn.Sequential(*convolutions), x, {"layers": nn.ReLU, "reduce": "mean"}


def bare_forward(model: nn.Module, x: Tensor) -> Callable[[], None]:
    model.eval()

    def run() -> None:
        with torch.no_grad():
            for a in range(0, len(x), CHUNK):
                model(x[a : a + CHUNK])

    return run


def hand_written(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """The least a user would write: a hook that copies each leaf's output into a buffer, removed at the end."""
    buffers: dict[int, Tensor] = {}
    start = 0

    def keep(number: int) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            buffer = buffers.get(number)
            if buffer is None:
                buffer = buffers[number] = torch.empty(len(x), *output.shape[1:])
            buffer[start : start + len(output)].copy_(output)

        return hook

    def run() -> None:
        nonlocal start
        handles = [m.register_forward_hook(keep(i)) for i, m in enumerate(model)]
        with torch.no_grad():
            for start in range(0, len(x), CHUNK):
                model(x[start : start + CHUNK])
        for handle in handles:
            handle.remove()

    return run


@contextmanager
def recording(model: nn.Module, x: Tensor, run: Path | None = None, **options) -> Iterator[Recorder]:
    y = torch.zeros(len(x), dtype=torch.int64)
    if run is None:
        options = {"sinks": [lambda snapshot: None], "keep_activations": False} | options
    with Recorder(model, (x, y), run, schedule=every(1), quiet=True, probe_batch_size=CHUNK, **options) as r:
        yield r


def snapshots(recorder: Recorder) -> Callable[[], None]:
    steps = iter(range(1, 1 << 40))
    return lambda: recorder.snapshot(next(steps))


def torchextractor(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """A package that keeps a reference to the outputs of the last chunk; copied here, as its page tells to."""
    from torchextractor import Extractor

    def run() -> None:
        extractor = Extractor(model, module_names=[name for name, _ in model.named_children()])
        kept: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for a in range(0, len(x), CHUNK):
                for name, output in extractor(x[a : a + CHUNK])[1].items():
                    kept.setdefault(name, []).append(output.clone())
        for outputs in kept.values():
            torch.cat(outputs)

    return run


def probe_cases(quick: bool) -> Iterator[Case]:
    rounds = 9 if quick else 25
    for i, (case, model, x, options) in enumerate(networks(quick)):
        with recording(model, x, **options) as recorder:
            chunks, layers = -(-len(x) // CHUNK), len(recorder.layers)
            snapshot, bare = snapshots(recorder), bare_forward(model, x)
            if i > 0:
                yield Case(
                    id="C2", case=case, against="the same forward without hooks", must=0.8, aim=0.9,
                    candidate=snapshot, reference=bare, rounds=rounds,
                )  # fmt: skip
                continue

            def each(ms: float, parts: int = chunks * layers, bare: Callable = bare) -> tuple[float, str]:
                return 1e3 * (ms - median_ms(bare)) / parts, "us a layer and chunk more than the forward"

            yield Case(
                id="C1", case=case, against="hooks by hand (own code)", must=0.5, aim=0.8, candidate=snapshot,
                reference=hand_written(model, x), rounds=rounds, limit=each,
            )  # fmt: skip
            # It leaves an attribute on every module, so it has a model of its own.
            yield Case(
                id="C6", case=case, against=package("torchextractor"), candidate=snapshot,
                reference=torchextractor(copy.deepcopy(model), x), rounds=rounds,
            )  # fmt: skip


def hand_off(quick: bool) -> Iterator[Case]:
    """Wall time that the training thread spends in the store's sink, the queue not being full."""
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU())
    x = torch.randn(2000, 64)
    taken: list[float] = []

    def measure(case: Case) -> Iterator[Row]:
        for _ in range(10 if quick else 60):
            snapshot()
            time.sleep(0.02)
        yield case.row(
            value=f"{statistics.median(taken):.3f} ms (largest {max(taken):.2f})", met=statistics.median(taken) <= 0.2
        )

    with tempfile.TemporaryDirectory() as directory:
        writer = StoreWriter(Path(directory) / "a", probe=probe(len(x)), settings={})

        def timed(snapshot: Snapshot) -> None:
            began = time.perf_counter()
            writer(snapshot)
            taken.append(1e3 * (time.perf_counter() - began))

        with writer, recording(model, x, sinks=[timed]) as recorder:
            snapshot = snapshots(recorder)
            yield Case(
                id="C3", case="8 MiB snapshots to the store", against="hand-off to the writer thread", must="0.2 ms",
                aim="0.1 ms", candidate=lambda: (snapshot(), writer.flush()), measure=measure,
            )  # fmt: skip


def idle(quick: bool) -> Case:
    """Training steps between snapshots, with an open recorder and without."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = torch.randn(128, 784), torch.randint(0, 10, (128,))

    def steps() -> None:
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    def recorded() -> None:
        with recording(model, x):
            steps()

    def measure(case: Case) -> Iterator[Row]:
        steps()
        pairs = []
        for _ in range(9 if quick else 25):
            alone = cpu_ms(steps)
            with recording(model, x):
                pairs.append((cpu_ms(steps), alone))
        ratios = [r / c for c, r in pairs]
        times = {
            "candidate_ms": statistics.median(c for c, _ in pairs),
            "reference_ms": statistics.median(r for _, r in pairs),
        }
        yield case.row(ratio=statistics.median(ratios), low=min(ratios), high=max(ratios), **times)

    return Case(
        id="C4", case="20 steps of an MLP, batch 128", against="the same steps without a recorder", must=0.95, aim=1.0,
        candidate=recorded, measure=measure,
    )  # fmt: skip


def epoch_case(quick: bool) -> Iterator[Case]:
    """An epoch with a snapshot of a tenth of the data at its end, against the epoch alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    n = 4096 if quick else 10240
    x, y = torch.randn(n, 784), torch.randint(0, 10, (n,))

    def epoch() -> None:
        for a in range(0, n, 128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[a : a + 128]), y[a : a + 128]).backward()
            optimizer.step()

    with (
        tempfile.TemporaryDirectory() as directory,
        recording(model, x[: n // 10], Path(directory) / "a", layers=nn.ReLU) as recorder,
    ):
        snapshot, share = snapshots(recorder), 1 / (1 + 1.3 * 0.1 / 3 + 0.02)
        yield Case(
            id="C5", case=f"MLP, {n} samples, probe a tenth, stored", against="the epoch alone", must=share, aim=0.97,
            candidate=lambda: (epoch(), snapshot()), reference=epoch, rounds=5 if quick else 11,
        )  # fmt: skip


def cases(quick: bool = False) -> Iterator[Case]:
    yield from probe_cases(quick)
    yield from hand_off(quick)
    yield idle(quick)
    yield from epoch_case(quick)
