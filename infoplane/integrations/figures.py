"""Figures of a running training, in TensorBoard and in Weights & Biases."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from infoplane.core import Snapshot

Figures = Mapping[str, Callable[[Any], Any]]
"""Functions that draw a results table and return axes, by the names of their figures."""

DPI = 144


class FigureLog:
    """A sink of a Recorder that draws what a live estimation has found so far, and hands the figures to loggers.

    It draws at the first snapshot, at every `every`-th after it and when the recording ends, and takes half a second
    for a figure. The callbacks of `infoplane.integrations` make one from `figures=`.

    Parameters
    ----------
    live : sink
        What `infoplane.live(...)` made; it stands before this one in `sinks`.
    figures : mapping from name to function of a results table
        As `{"plane": infoplane.plots.plane}`; the function returns axes.
    loggers : SummaryWriter, wandb run, or several of them
        They are used, never opened or closed.
    every : int
        Snapshots from one drawing to the next.

    Raises
    ------
    TypeError
        For a logger that takes no images.
    ValueError
        If there is no logger, or `every` is below 1.

    Examples
    --------
    >>> live = infoplane.live("kde:scale=0.3")  # doctest: +SKIP
    >>> log = FigureLog(live, {"plane": infoplane.plots.plane}, SummaryWriter())  # doctest: +SKIP
    >>> recorder = infoplane.Recorder(model, (x, y), "runs/a", sinks=[live, log])  # doctest: +SKIP
    """

    on_device: ClassVar[bool] = True  # it reads the table alone

    def __init__(self, live: Any, figures: Figures, loggers: Any, *, every: int = 10) -> None:
        each = list(loggers) if isinstance(loggers, list | tuple) else [loggers]
        if not each:
            raise ValueError("figures need a logger: a SummaryWriter of TensorBoard or a run of Weights & Biases")
        for logger in each:
            if not takes_images(logger):
                raise TypeError(f"figures go to a SummaryWriter or a wandb run, got {type(logger).__name__}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._live, self._figures, self._loggers, self._every = live, dict(figures), each, every
        self._seen, self._step, self._drawn = 0, -1, -1

    def __call__(self, snapshot: Snapshot) -> None:
        """Draw at the first snapshot, and at every `every`-th after it."""
        self._step = snapshot.step
        if self._seen % self._every == 0:
            self._draw()
        self._seen += 1

    def close(self) -> None:
        """Draw the last step, if that has not been done."""
        if self._drawn != self._step:
            self._draw()

    def _draw(self) -> None:
        """Draw every figure from the table so far, and hand it to every logger."""
        self._drawn = self._step
        for name, draw in self._figures.items():
            image = picture(draw(self._live.table))
            for logger in self._loggers:
                give(logger, name, image, self._step)


def takes_images(logger: Any) -> bool:
    """Whether a logger is a writer of TensorBoard (or tensorboardX) or a run of Weights & Biases."""
    return hasattr(logger, "add_image") or hasattr(logger, "define_metric")


def picture(axes: Any) -> Image.Image:
    """The figure of the axes, as a picture in memory."""
    out = io.BytesIO()
    axes.figure.savefig(out, format="png", dpi=DPI)
    return Image.open(out).convert("RGB")


def give(logger: Any, name: str, image: Image.Image, step: int) -> None:
    """Hand one picture to a logger, with its step."""
    if hasattr(logger, "add_image"):
        logger.add_image(name, np.asarray(image), step, dataformats="HWC")
    else:
        # A step of our own, since wandb's counts the calls of everybody.
        logger.log({name: sys.modules["wandb"].Image(image), "infoplane/step": step})


def with_figures(sinks: Iterable[Any], figures: Figures, loggers: Iterable[Any]) -> list[Any]:
    """Return the sinks, and after them a FigureLog that draws what the live estimation among them has found.

    ValueError unless there is exactly one live estimation. Of `loggers`, those that take no images are left out.
    """
    sinks = list(sinks)
    live = [sink for sink in sinks if hasattr(sink, "table")]
    if len(live) != 1:
        raise ValueError(f"figures= draws what one live estimation finds, got {len(live)}; pass sinks=[live(...)]")
    return [*sinks, FigureLog(live[0], figures, [logger for logger in loggers if takes_images(logger)])]
