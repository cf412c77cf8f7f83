"""The information plane over training as a moving picture, with loss and accuracy below."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infoplane.core.shown import ShownFile
from infoplane.core.text import printable
from infoplane.plots._artists import CEILING_LABEL, legend, limits, step_axis, step_colorbar
from infoplane.plots._figure import Options, add_caption, caption, figure_canvas, keep_tick_style, keywords, selected
from infoplane.plots._layers import layer_looks
from infoplane.plots.curves import Metrics, chosen_metrics
from infoplane.plots.plane import NAME_SHARE, frame, name_layers, series_plane
from infoplane.plots.style import INK, layer_line, number, rc_context, step_colormap, step_norm, style_of
from infoplane.plots.text import safe_text
from infoplane.results import Plane, ResultTable
from infoplane.results.limits import drawable
from infoplane.results.views import choose

FORMATS: tuple[str, ...] = ("gif", "webp", "apng", "png", "mp4")
"""Suffixes of an animation; a PNG is an APNG by another name."""
MOST_FRAMES = 240
"""The most frames of a film, by default."""
HOLD = 1.5
"""Seconds that the last frame stays."""


def frame_indices(snapshots: int, most: int = MOST_FRAMES) -> npt.NDArray[np.int64]:
    """Return the indices of the snapshots to show: all, or `most` at even distances, the first and the last included.

    ValueError without snapshots, or if `most` is below 2.
    """
    if snapshots < 1 or most < 2:
        raise ValueError(f"need at least one snapshot and two frames, got {snapshots} and {most}")
    return np.unique(np.round(np.linspace(0, snapshots - 1, min(snapshots, most))).astype(np.int64))


@keywords(Options)
def animate(
    table: ResultTable,
    path: str | os.PathLike[str],
    *,
    metrics: bool = True,
    log: bool | None = None,
    fps: float = 12,
    frames: int = MOST_FRAMES,
    dpi: float = 110,
    **options: Unpack[Options],
) -> Path:
    """Write the plane over training as GIF, WebP, APNG or MP4.

    Every frame is one snapshot: its line through the layers, those before it faint behind, the step in
    words. Below it are the recorded loss and accuracy with the place in training marked. Limits and colours
    stay the same throughout.

    Parameters
    ----------
    path : path
        Ends in .gif, .webp, .apng (or .png, an animated PNG) or .mp4. MP4 needs `ffmpeg` on the PATH or the
        package imageio-ffmpeg (extra `video`); the others need neither.
    metrics : bool
        Show the recorded metrics where there are any.
    fps : float
        Frames in a second; the last is held for a second and a half.
    frames : int
        With more snapshots than this, snapshots at even distances are shown; the caption then says so.
    dpi : float
        Pixels per inch; with the style's width that sets the size.
    table, estimator, settings, run, subset, layers, against, log, caption, style, width
        As in `infoplane.plots.plane`.

    Returns
    -------
    Path
        The file written; a notebook plays it.

    Raises
    ------
    ValueError
        For another format, or MP4 where no ffmpeg is found.
    """
    target = ShownFile(path)
    kind = target.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise ValueError(f"an animation is written as {', '.join(FORMATS)}, got {kind!r}; name it like plane.gif")
    if not 0 < fps <= 100:
        raise ValueError(f"fps must be above 0 and at most 100, got {fps}")
    encoder = find_ffmpeg() if kind == "mp4" else None
    series = choose(table, **selected(options))
    data = series_plane(series)
    shown = frame_indices(data.steps.size, frames)
    if shown.size < data.steps.size:
        data.caption.append(f"{shown.size} of {data.steps.size} snapshots shown")
    film = Film(data, chosen_metrics(series, metrics), options, log=log, dpi=dpi)
    about = caption(film.figure)
    if encoder is None:
        write_images(film.images(shown), target, kind, fps, about)
    else:
        write_video(film.images(shown), target, encoder, fps, about)
    return target


class Film:
    """A figure whose layout is fixed once, and in which each snapshot changes only a few artists.

    Each frame draws these artists anew on a stored picture of all others: to draw the whole figure takes several times
    as long.

    Attributes
    ----------
    data : Plane
        The points, (snapshots, layers).
    figure : matplotlib Figure
    plane : matplotlib Axes
    lines, dots : artists
        The line through the layers at every snapshot, and for each layer its points at all snapshots.
    now_line, now : artists
        The line of the snapshot shown, and for each layer its large marker.
    marks : list of artists
        The vertical line in the axes of the metrics that says where in training the snapshot is; none without metrics.
    moving : list of artists
        All that each frame draws anew.
    still : picture of everything else, on which the frames are drawn
    """

    def __init__(self, data: Plane, recorded: Metrics, options: Options, *, log: bool | None, dpi: float) -> None:
        """Draw the figure once, fix its layout, and keep the picture of what stays the same."""
        self.data, self.against = data, options["against"]
        self.rc = style_of(options["style"])[1]
        norm = step_norm(data.times, log)
        self.colors = np.asarray(step_colormap(options["cmap"])(norm(data.times)))
        heights = [1, 0.3] if recorded else [1]
        with figure_canvas(options, aspect=0.95 if recorded else 0.75) as figure:
            self.figure: Figure = figure
            FigureCanvasAgg(figure)
            figure.set_dpi(dpi)
            grid: Any = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
            self.plane: Axes = grid[0, 0]
            self.marks: list[Any] = []
            frame(self.plane, [data], options)
            self.looks = layer_looks(
                self.plane, data.layers, options, share=NAME_SHARE, colors=[INK] * len(data.layers), marks=data.marks
            )
            add_caption(grid[-1, 0], data.caption, own=True, shown=options["caption"])
            self._draw_plane()
            if recorded:
                self._draw_metrics(grid[1, 0], recorded, options, log)
            step_colorbar(self.plane, norm, data.times, options, self.against)
            self.title = self.plane.set_title(self._title(data.steps.size - 1), loc="right")  # beside the legend
            for ax in grid[:, 0]:
                keep_tick_style(ax)
            name_layers(self.plane, data, self.looks, options, beside=False)
            self._draw_still()

    def _draw_still(self) -> None:
        """Fix the layout, and keep a picture of all that stays the same in every frame."""
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")
        # Names of layers lie on top of the points, which change: so each frame draws them anew, too.
        names = [text for text in self.plane.texts if text.get_label() != CEILING_LABEL]
        self.moving = [self.lines, *self.dots, self.now_line, *self.now, *self.marks, *names, self.title]
        for artist in self.moving:
            artist.set_animated(True)
        canvas: Any = self.figure.canvas
        canvas.draw()
        self.still = canvas.copy_from_bbox(self.figure.bbox)

    def _draw_plane(self) -> None:
        """Make the artists of the plane that change from frame to frame; `show` gives them their places and colours."""
        data, size = self.data, float(mpl.rcParams["lines.markersize"])
        self.lines = LineCollection(data.paths, linewidths=0.5 * size / 3.4, zorder=2)
        self.plane.add_collection(self.lines, autolim=False)
        (self.now_line,) = self.plane.plot([], [], color=INK, linewidth=1.2, zorder=4)
        self.dots, self.now = [], []
        for i, (x, y) in enumerate(zip(data.i_xt.T, data.i_ty.T, strict=True)):
            marker: Any = self.looks[i].marker
            self.dots.append(self.plane.scatter(x, y, s=(0.7 * size) ** 2, linewidths=0.5, zorder=2.5, marker=marker))
            style: dict[str, Any] = {"marker": marker, "markersize": 1.5 * size, "color": INK, "linestyle": "none"}
            self.now += self.plane.plot([], [], zorder=5, **style)

    def _draw_metrics(self, ax: Axes, recorded: Metrics, options: Options, log: bool | None) -> None:
        """Draw the metrics that share the first scale at the left, and those of the second at the right.

        Metrics of further scales are left out: there is no third axis. The vertical line marks the snapshot shown.
        """
        step_axis(ax, self.data.times, log=log)
        ax.set_xlabel(self.against)
        sides: list[Axes] = [ax]
        if len(recorded) > 1:
            sides.append(ax.twinx())
            sides[1].spines["right"].set_visible(True)
            keep_tick_style(sides[1])
        handles: list[Any] = []
        for side, (group, members) in zip(sides, recorded.items(), strict=False):
            side.set_ylabel(safe_text(group, limit=20))
            for name, (x, y) in members.items():
                keep, i = np.isfinite(drawable(y)), len(handles)
                style: dict[str, Any] = {"color": str(0.15 + 0.2 * (i % 3)), "linestyle": layer_line(i)}
                handles += side.plot(x[keep], y[keep], label=safe_text(name, limit=24, legend=True), **style)
            side.set_ylim(limits(drawable(np.concatenate([y for _, y in members.values()])), None, unit=group))
        legend(ax, handles, options)
        self.marks.append(ax.axvline(self.data.times[0], color=INK, linewidth=0.9, zorder=5))

    def _title(self, index: int) -> str:
        """Return the title of the frame of snapshot number `index`, its time in training: `step 100`."""
        return f"{self.against} {number(float(self.data.times[index]))}"

    def show(self, index: int) -> None:
        """Give the moving artists the places and colours that they have at snapshot number `index`."""
        data = self.data
        shades = self.colors.copy()  # (S, 4): red, green, blue, opacity
        shades[:, 3] = 0.0  # later snapshots are invisible; earlier ones, and this one, are faint
        shades[: index + 1, 3] = 0.45
        self.lines.set_colors(list(shades))
        for i, dots in enumerate(self.dots):
            faces = shades.copy()
            faces[data.saturated[:, i], :3] = 1.0  # white: the marker is open
            dots.set_facecolor(list(faces))
            dots.set_edgecolor(list(shades))
        keep = data.present[index]
        self.now_line.set_data(data.i_xt[index, keep], data.i_ty[index, keep])
        self.now_line.set_color(self.colors[index])
        for i, marker in enumerate(self.now):
            marker.set_data(data.i_xt[index, i : i + 1], data.i_ty[index, i : i + 1])
            marker.set_markerfacecolor("white" if data.saturated[index, i] else self.colors[index])
        for mark in self.marks:
            mark.set_xdata([data.times[index]] * 2)
        self.title.set_text(self._title(index))

    def images(self, shown: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[Image.Image]:
        """Yield one RGB image, of even width and height, for each of the snapshots `shown`."""
        for index in shown:
            with rc_context(self.rc):
                self.show(int(index))
                canvas: Any = self.figure.canvas
                canvas.restore_region(self.still)
                for artist in self.moving:
                    self.figure.draw_artist(artist)
                pixels = np.array(canvas.buffer_rgba())[..., :3]
            # H.264 with half the colour resolution (yuv420p) takes only even sizes: cut an odd row or column off.
            even = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
            yield Image.fromarray(np.ascontiguousarray(even))


def write_images(images: Iterator[Image.Image], target: Path, kind: str, fps: float, about: str) -> None:
    """Write a looping GIF, WebP or APNG, as `kind` says.

    `about` is the caption, for the metadata of GIF and APNG. All frames of a GIF have the palette of the last one, in
    which all colours occur.
    """
    pictures = list(images)
    times = [round(1000 / fps)] * (len(pictures) - 1) + [round(1000 * HOLD)]
    options: dict[str, Any] = {"save_all": True, "duration": times, "loop": 0}
    if kind == "gif":
        # A GIF may have 256 colours, and a comment of 255 bytes.
        palette = pictures[-1].quantize(256, method=Image.Quantize.MEDIANCUT)
        pictures = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
        options |= {"format": "GIF", "comment": about.encode("utf-8", "replace")[:255], "optimize": False}
    elif kind == "webp":
        options |= {"format": "WEBP", "lossless": False, "quality": 85, "method": 4}
    else:
        info = PngInfo()
        info.add_itxt("Description", about)
        options |= {"format": "PNG", "pnginfo": info}
    pictures[0].save(target, append_images=pictures[1:], **options)


def write_video(images: Iterator[Image.Image], target: Path, encoder: str, fps: float, about: str) -> None:
    """Write an MP4 (H.264) by sending the frames to ffmpeg through a pipe; `encoder` is the path of ffmpeg.

    `about` is the caption, for the metadata. OSError with the end of ffmpeg's own message where it fails.
    """
    first = next(images)
    raw = f"-f rawvideo -pix_fmt rgb24 -s {first.width}x{first.height} -r {fps:g} -i -"
    coded = "-an -c:v libx264 -pix_fmt yuv420p -crf 18"
    about_file = ["-metadata", "title=Information plane", "-metadata", f"comment={about}", "-fflags", "+bitexact"]
    command = [encoder, *["-loglevel", "error", "-y"], *raw.split(), *coded.split(), *about_file]
    command += ["-movflags", "+faststart", "-f", "mp4", os.fspath(target.absolute())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as ffmpeg:
        frames: Any = ffmpeg.stdin
        # A broken pipe means that ffmpeg has ended early. Its message, read below, says why.
        with contextlib.suppress(BrokenPipeError):
            for image in itertools.chain([first], images):
                frames.write(image.tobytes())
            for _ in range(round(HOLD * fps)):  # the last frame again, so that it stays
                frames.write(image.tobytes())
        said = ffmpeg.communicate()[1].decode(errors="replace").strip()
    if code := ffmpeg.returncode:
        raise OSError(f"ffmpeg could not write {target}: {printable(said[-300:]) or f'exit code {code}'}")


def find_ffmpeg() -> str:
    """Return the path of the ffmpeg on the PATH, else of that in imageio-ffmpeg; ValueError where there is neither."""
    found = shutil.which("ffmpeg")
    if found is None and importlib.util.find_spec("imageio_ffmpeg") is not None:
        import imageio_ffmpeg

        found = str(imageio_ffmpeg.get_ffmpeg_exe())
    if found is None:
        raise ValueError(
            "MP4 needs ffmpeg, and none is on the PATH; install the extra with pip install 'infoplane[video]', "
            "or write plane.gif or plane.webp, which need nothing"
        )
    return found
