"""A new user's first hour without a model: `python tests/journeys/files.py [--out FOLDER]`.

Activations in .npz, .h5 and .mat files become runs on the command line and go the whole way to a report; then the same
arrays in a notebook, whose cells show what they made.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image
from walk import chromium, journey, kernel, look, read_page, refused, said, shell, spec_of

import infoplane
from infoplane import plots

N, STEPS, LAYERS = 240, [0, 1, 3, 10, 30], ["fc1", "fc2", "out"]
RUNS = {"runs/numpy": "step-*.npz", "runs/hdf5": "acts.h5", "runs/matlab": "acts.mat"}


def activations() -> tuple[dict[int, dict[str, np.ndarray]], np.ndarray]:
    """What other code may have saved: three layers that come to tell three classes apart."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 6)), rng.integers(3, size=N)
    first, second, head = (rng.normal(size=shape) for shape in ((6, 8), (8, 6), (6, 3)))
    acts = {}
    for step in STEPS:
        fc1 = np.tanh((x + 0.06 * step * np.eye(6)[y]) @ first / 2)
        fc2 = np.tanh(fc1 @ second / 2)
        acts[step] = {"fc1": fc1, "fc2": fc2, "out": fc2 @ head}
    return acts, y


def save() -> None:
    """As numpy, h5py and MATLAB write them, with what belongs beside them."""
    acts, y = activations()
    for step in STEPS:
        np.savez(f"step-{step:04d}.npz", **acts[step], labels=y)
    with h5py.File("acts.h5", "w", track_order=True) as file:
        file["labels"] = y
        for step in STEPS:
            for layer in LAYERS:
                file.create_dataset(f"{step}/{layer}", data=acts[step][layer], compression="gzip", chunks=True)
    stacked = {layer: np.stack([acts[step][layer] for step in STEPS]) for layer in LAYERS}
    scipy.io.savemat("acts.mat", {**stacked, "steps": STEPS, "labels": y + 1.0})
    Path("parts.txt").write_text("\n".join("train" if i < 160 else "test" for i in range(N)))
    Path("log.csv").write_text("step,loss\n" + "\n".join(f"{step},{1 / (1 + step)}" for step in STEPS))


def bring_in() -> None:
    """Each kind of file becomes a run of the same numbers; what is missing is asked for by its option."""
    said("files become runs")
    beside = ["--parts", "parts.txt", "--metrics", "log.csv", "--role", "fc*=activation", "--role", "out=output"]
    beside += ["--label-names", "cat,dog,owl", "--chain"]
    shell("import", *sorted(Path().glob("step-*.npz")), *beside, "-o", "runs/numpy", "--name", "ours")
    shell("import", "acts.h5", *beside, "-o", "runs/hdf5")
    classes = [word if word != "cat,dog,owl" else "none,cat,dog,owl" for word in beside]  # they count from 1
    refused("import", "acts.mat", *classes, "-o", "runs/matlab", names="--classes")
    shell("import", "acts.mat", "--classes", *classes, "-o", "runs/matlab")
    refused("import", "acts.h5", "-o", "runs/hdf5", names="--overwrite")
    shell("import", "acts.h5", *beside, "-o", "runs/hdf5", "--overwrite")
    first, *others = (infoplane.open_run(run) for run in RUNS)
    for other in others:
        for step in STEPS:
            for layer in LAYERS:
                assert np.array_equal(first.read(layer, [step]), other.read(layer, [step]))
    assert [layer.role for layer in first.layers] == ["activation", "activation", "output"]
    assert first.probe.part_names == ("train", "test")


def on_the_way() -> None:
    """From the run to figures and a page, without a line of Python."""
    said("the whole way at the shell")
    text = shell("info", "runs/numpy")
    assert "run ours" in text
    spec = spec_of(shell("-q", "advise", "runs/numpy", "-e", "binning", "-e", "kde"), "binning")
    table = shell("-q", "estimate", "runs/numpy", "-e", spec)
    assert len(table.strip().splitlines()) < 20
    assert "scale chosen by looking" in table
    shell("-q", "estimate", *RUNS, "-e", spec, "-s", "train", "-s", "test", "-s", "all", "-s", "class=*")
    shell("-q", "estimate", "runs/hdf5", "-e", "binning:n_bins=3", "-s", "test")
    chosen = ["-e", spec, "-s", "test"]
    for kind in ("plane", "curves", "heatmap", "null"):
        shell("plot", "runs/numpy", *chosen, "-k", kind, "-o", f"{kind}.png")
    shell("plot", *RUNS, *chosen, "-k", "plane_grid", "--by", "run", "-o", "grid.pdf")
    shell("compare", *RUNS, *chosen, "-o", "compare.svg")
    shell("animate", "runs/numpy", *chosen, "-o", "plane.gif", "--dpi", "60")
    shell("report", *RUNS, "-o", "report.html")
    read_page(Path("report.html"), names=["ours", "hdf5", "matlab"])
    said("the figures, looked at")
    ours, every = infoplane.read_table("runs/numpy"), infoplane.read_table(list(RUNS))
    data = plots.plane_data(ours, estimator=spec, subset="all")
    assert data.layers == LAYERS
    assert data.saturated.mean() < 0.2, f"{data.saturated.sum()} of {data.saturated.size} points are saturated"
    one = {"estimator": spec, "drawn": LAYERS, "names": ["ours"]}
    look("plane-looked-at", plots.plane, ours, subset="test", **one)
    look("curves-looked-at", plots.curves, ours, subset="test", metrics=True, **one)
    look("dpi", plots.dpi, ours, subset="test", estimator=spec)
    look("compare-looked-at", plots.compare, every, estimator=spec, subset="test", drawn=LAYERS)
    look("compression", plots.compression, every, estimator=spec, subset="test")


CELLS = [
    """
import numpy as np
import infoplane
from infoplane import plots
acts = {step: dict(np.load(f"step-{step:04d}.npz")) for step in (0, 1, 3, 10, 30)}
labels = [arrays.pop("labels") for arrays in acts.values()][0]
""",
    'infoplane.from_arrays("runs/cell", acts, labels, overwrite=True)',
    'infoplane.from_arrays("runs/cell", acts, labels, overwrite=True)',  # the cell is run again
    'advice = infoplane.advise("runs/cell", "binning")\nadvice',
    'table = infoplane.analyze("runs/cell", advice.specs[0])\ntable',
    "plots.plane(table)",
    "plots.curves(table)",
    "plots.heatmap(table)",
    'plots.animate(table, "cell.gif", dpi=60)',
    'infoplane.report.write_report(table, "cell.html")',
]


def notebook() -> None:
    """Each cell shows what it made, once, whole, and without a line that switches something on."""
    said("the same in a notebook")
    below = kernel.outputs(CELLS, Path())
    shown = [outputs[-1].data if outputs else {} for outputs in below]
    bars = [one.data["text/plain"] for outputs in below for one in outputs[:-1]]
    assert all(bar.startswith("estimating 100%") for bar in bars), (
        f"something is shown twice, or left half-done: {bars}"
    )
    for words in (shown[1], shown[2], shown[3]):
        assert words["text/html"].startswith("<pre>")
    assert "<table>" in shown[4]["text/html"]
    assert "scale chosen by looking" in shown[4]["text/html"]
    for data in shown[5:8]:
        assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).width > 900
    assert shown[8]["text/html"].startswith('<img src="data:image/gif;base64,')
    page = shown[9]["text/html"]
    assert '<a href="cell.html"' in page
    Path("below.html").write_text(f"<!DOCTYPE html><body>{page}", encoding="utf-8")
    with chromium.launched() as browser:
        opened = browser.new_page()
        asked: list[str] = []
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(Path("below.html").absolute().as_uri())
        opened.frame_locator("iframe").locator("body[data-ready]").wait_for(timeout=60_000)
        assert [url for url in asked if not url.startswith(("about:", "data:"))] == [
            Path("below.html").absolute().as_uri()
        ]
        opened.screenshot(path="below.png")
        opened.close()
    print(f"{len(CELLS)} cells", flush=True)


def main() -> None:
    with journey(__doc__ or ""):
        save()
        bring_in()
        on_the_way()
        notebook()


if __name__ == "__main__":
    main()
