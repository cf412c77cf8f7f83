from __future__ import annotations

import itertools
import subprocess

import numpy as np
import pytest
import synthetic
from PIL import Image, ImageSequence

from infoplane import plots
from infoplane.plots import animation
from infoplane.plots._figure import DEFAULTS, Look
from infoplane.plots.curves import chosen_metrics
from infoplane.plots.plane import plane_data
from infoplane.results.views import choose

STEPS = [0, 1, 10, 100, 1000]
SMALL = {"style": "column", "dpi": 60}


@pytest.fixture(scope="module")
def table():
    return synthetic.table(steps=STEPS)


@pytest.mark.parametrize("kind", ["gif", "webp", "apng", "png"])
def test_a_frame_per_snapshot_without_ffmpeg(kind, table, tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "find_ffmpeg", lambda: pytest.fail("looked for ffmpeg"))
    path = plots.animate(table, tmp_path / f"plane.{kind}", fps=10, **SMALL)
    with Image.open(path) as image:
        assert image.n_frames == len(STEPS)
        assert image.width % 2 == image.height % 2 == 0
        assert abs(image.width - 85 / 25.4 * 60) <= 2
        pictures = [np.asarray(frame.convert("RGB"), dtype=int) for frame in ImageSequence.Iterator(image)]
        assert all(np.abs(a - b).sum() > 0 for a, b in itertools.pairwise(pictures))


def test_gif_says_what_was_measured_holds_the_last_frame_and_repeats_itself(table, tmp_path):
    first = plots.animate(table, tmp_path / "a.gif", fps=10, **SMALL)
    with Image.open(first) as image:
        assert image.info["comment"].startswith(b"binning, n_bins = 30")
        assert image.info["loop"] == 0
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert durations == [100, 100, 100, 100, 1500]
    assert plots.animate(table, tmp_path / "b.gif", fps=10, **SMALL).read_bytes() == first.read_bytes()


@pytest.mark.extra
def test_mp4_with_the_binary_of_the_extra(table, tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra 'video'")
    path = plots.animate(table, tmp_path / "plane.mp4", fps=10, **SMALL)
    assert path.read_bytes()[4:8] == b"ftyp"
    done = subprocess.run([animation.find_ffmpeg(), "-i", path, "-f", "null", "-"], capture_output=True, check=True)
    assert b"frame=   20" in done.stderr  # five snapshots and a second and a half of the last
    broken = tmp_path / "no" / "plane.mp4"
    with pytest.raises(OSError, match=r"ffmpeg could not write .*No such file"):
        plots.animate(table, broken, **SMALL)


def test_without_ffmpeg_the_line_says_what_to_do(table, tmp_path, monkeypatch):
    monkeypatch.setattr(animation.shutil, "which", lambda name: None)
    monkeypatch.setattr(animation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"MP4 needs ffmpeg.*infoplane\[video\].*or write plane.gif"):
        plots.animate(table, tmp_path / "plane.mp4")
    assert not (tmp_path / "plane.mp4").exists()


def test_wrong_names_and_rates_are_refused(table, tmp_path):
    with pytest.raises(ValueError, match="written as gif, webp, apng, png, mp4, got 'avi'"):
        plots.animate(table, tmp_path / "plane.avi")
    with pytest.raises(ValueError, match="fps must be above 0 and at most 100, got 0"):
        plots.animate(table, tmp_path / "plane.gif", fps=0)


def test_frames_are_all_snapshots_or_evenly_many():
    assert animation.frame_indices(5).tolist() == [0, 1, 2, 3, 4]
    assert animation.frame_indices(1).tolist() == [0]
    some = animation.frame_indices(1000, 100)
    assert (some.size, some[0], some[-1]) == (100, 0, 999)
    assert set(np.diff(some)) <= {10, 11}


def test_fewer_frames_are_said(table, tmp_path):
    path = plots.animate(table, tmp_path / "plane.webp", frames=3, **SMALL)
    with Image.open(path) as image:
        assert image.n_frames == 3
    with pytest.raises(ValueError, match="two frames, got 5 and 1"):
        plots.animate(table, tmp_path / "plane.webp", frames=1)


@pytest.fixture(scope="module")
def film(table):
    recorded = chosen_metrics(choose(table), True)
    look = dict.fromkeys(Look.__annotations__) | {**DEFAULTS, "style": SMALL["style"]}
    return animation.Film(plane_data(table), recorded, look, log=None, dpi=SMALL["dpi"])


def test_artists_stand_where_the_snapshot_is(film, table):
    data = plane_data(table)
    film.show(2)
    assert film.title.get_text() == "step 10"
    np.testing.assert_array_equal(film.now_line.get_xdata(), data.i_xt[2])
    np.testing.assert_array_equal([m.get_ydata()[0] for m in film.now], data.i_ty[2])
    assert film.marks[0].get_xdata()[0] == 10
    assert film.lines.get_colors()[:, 3].tolist() == [0.45, 0.45, 0.45, 0, 0]
    assert film.now[0].get_markerfacecolor() == "white"  # the first layer is saturated


def test_the_step_stands_clear_of_the_legend_that_names_the_layers(film):
    legend = film.plane.get_legend()
    assert {"act1", "act2", "out"} <= {text.get_text() for text in legend.get_texts()}
    assert not any(text.get_text() in synthetic.LAYERS for text in film.plane.texts)
    assert not film.title.get_window_extent().overlaps(legend.get_window_extent())


def test_loss_and_accuracy_share_the_time_axis(film):
    panels = [ax for ax in film.figure.axes if ax.get_ylabel() in ("loss", "accuracy")]
    assert [ax.get_ylabel() for ax in panels] == ["loss", "accuracy"]
    assert panels[0].get_xlim() == panels[1].get_xlim()
    assert [t.get_text() for t in panels[0].get_legend().get_texts()] == ["loss", "train accuracy", "test accuracy"]


def test_without_metrics_there_is_the_plane_alone(table, tmp_path):
    silent = table.select(estimator="binning")
    assert plots.animate(silent, tmp_path / "a.webp", **SMALL).stat().st_size > 1000
