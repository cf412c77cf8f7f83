"""Figures of a running training: when they are drawn, and what loggers get, in their own files too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import infoplane
from infoplane.hooks import Recorder, every
from infoplane.integrations.figures import FigureLog

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Writer:
    """As a SummaryWriter."""

    def __init__(self):
        self.images = []

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HWC"
        self.images.append((tag, step, image))


def record(path, steps, writer, figures=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    live = infoplane.live("kde")
    log = FigureLog(live, figures or {"plane": infoplane.plots.plane}, writer, **options)
    sinks = {"sinks": [live, log], "keep_activations": False, "schedule": every(1), "quiet": True}
    with Recorder(model, (X, Y), path, **sinks) as recorder:
        for step in range(1, steps + 1):
            with torch.no_grad():
                model[0].weight += 0.1
            recorder.snapshot(step)
    return recorder


@pytest.mark.parametrize(("steps", "drawn"), [(4, [0, 3, 4]), (3, [0, 3])])
def test_first_every_third_and_last(tmp_path, steps, drawn):
    writer = Writer()
    record(tmp_path / "a", steps, writer, every=3)
    assert [(tag, step) for tag, step, _ in writer.images] == [("plane", step) for step in drawn]
    first, last = writer.images[0][2], writer.images[-1][2]
    assert first.dtype == np.uint8
    assert first.shape[2] == 3
    assert first.shape[1] > 900
    assert last.shape != first.shape or (last != first).any()


def test_a_figure_that_fails_at_first_is_said_at_once_and_later_stops_no_training(tmp_path):
    def fails(table):
        raise ValueError("no such figure")

    with pytest.raises(ValueError, match="no such figure"):
        record(tmp_path / "a", 1, Writer(), {"plane": fails})
    calls = []

    def fails_later(table):
        calls.append(len(table))
        return infoplane.plots.plane(table) if len(calls) != 2 else fails(table)

    with pytest.warns(UserWarning, match="no such figure"):
        recorder = record(tmp_path / "b", 3, Writer(), {"plane": fails_later}, every=1)
    assert [problem.steps for problem in recorder.problems] == [(1,)]
    assert len(calls) == 4


def test_what_is_refused():
    live = infoplane.live("kde")
    with pytest.raises(TypeError, match="a SummaryWriter or a wandb run, got list_iterator"):
        FigureLog(live, {}, iter([]))
    with pytest.raises(ValueError, match="figures need a logger"):
        FigureLog(live, {}, [])
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        FigureLog(live, {}, Writer(), every=0)


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_holds_the_picture(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "tb")) as writer:
        record(tmp_path / "a", 2, writer)
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [image.step for image in events.Images("plane")] == [0, 2]
    assert events.Images("plane")[0].encoded_image_string.startswith(b"\x89PNG")


WANDB = """
import sys, warnings
warnings.simplefilter("ignore")
import wandb
sys.path.insert(0, {tests!r})
from test_figure_log import record
with wandb.init(mode="offline", project="p", dir=".", settings=wandb.Settings(console="off")) as run:
    record("a", 2, run)
"""


@pytest.mark.extra
def test_weights_and_biases_offline(tmp_path):
    """In a process of its own: wandb leaves a service running until it ends."""
    pytest.importorskip("wandb")
    code = WANDB.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    images = sorted(tmp_path.glob("wandb/offline-run-*/files/media/images/plane_*.png"))
    assert len(images) == 2
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"infoplane/step" in file.read_bytes()
