"""What recording costs on a network of the size people use: `python -m benchmarks.resnet`.

ResNet-18 on 32 x 32 images, ten recorded blocks as means over positions, a probe of 2,000 samples, 50 snapshots, one
at the end of each epoch of 50,000 images. Steps and snapshots are timed in turn, epochs are not run: what recording
adds is the time of a snapshot over that of an epoch's steps.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import infoplane
from infoplane.hooks import every

BATCH, IMAGES = 128, 50_000


class Block(nn.Module):
    """Two 3 x 3 convolutions and the way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        around = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.around = nn.Identity() if same else nn.Sequential(*around)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.around(x))


def resnet18() -> nn.Sequential:
    """The stem, eight blocks, the head: He et al. (2016) as it is used for 32 x 32 images."""
    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    parts: dict[str, nn.Module] = {
        "stem": nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    }
    parts |= {f"block{i}": Block(*size) for i, size in enumerate([*sizes, (512, 512, 1)])}
    parts["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    parts["fc"] = nn.Linear(512, 10)
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--snapshots", type=int, default=50)
    options = parser.parse_args()
    torch.manual_seed(0)
    model, loss_of = resnet18(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    y = torch.arange(options.samples) % 10
    x = torch.randn(options.samples, 3, 32, 32) + y[:, None, None, None] / 3

    def step() -> None:
        rows = torch.randint(0, len(x), (BATCH,))
        optimizer.zero_grad()
        loss_of(model(x[rows]), y[rows]).backward()
        optimizer.step()

    step()
    with tempfile.TemporaryDirectory() as folder:
        run, steps, snapshots = Path(folder) / "run", [], []
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        layers = ["stem", "block*", "pool"]
        taken = {"schedule": every(1), "initial": False, "quiet": True}
        with infoplane.Recorder(model, probe=(x, y), run=run, layers=layers, reduce="mean", **taken) as recorder:
            for number in range(options.snapshots):
                steps.append(seconds(step))
                snapshots.append(seconds(lambda number=number: recorder.snapshot(number)))
        recorded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        disk = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
        plane = seconds(lambda: infoplane.plots.plane(infoplane.analyze(run, "binning", progress=False)))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one, each = statistics.median(snapshots), statistics.median(steps)
    epoch = each * IMAGES / BATCH
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.samples} samples, 10 blocks")
    print(f"a training step {each:.2f} s, a snapshot {one:.2f} s: +{100 * one / epoch:.1f} % at one snapshot an epoch")
    print(f"disk {disk / 1e6:.0f} MB for {options.snapshots} snapshots; to the plane {plane:.1f} s")
    print(f"peak memory {before / 2**20:.2f} GiB in training, {recorded / 2**20:.2f} with recording, "
          f"{after / 2**20:.2f} in the end")  # fmt: skip


if __name__ == "__main__":
    main()
