"""A new user's first hour with a ResNet-18 on 32 x 32 images: `python tests/journeys/resnet.py [--out FOLDER]`.

From the lines of the README to two runs, figures in every style and a report, each looked at on the way.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn
from walk import complains, journey, look, models, read_page, recorded, refused, said, shell, spec_of

import infoplane
from infoplane import plots
from infoplane.core.errors import StoreError

RUNS = ["first/resnet", "second/resnet"]  # as `train.py --out first` and `--out second` leave them
NAMES = ["first/resnet", "second/resnet"]


def train(run: str, seed: int, epochs: int = 6, **options: object) -> infoplane.Recorder:
    """The lines of the README, with another model and a probe of two parts."""
    torch.manual_seed(seed)
    model, (x, y), _ = models.resnet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    probe = {"train": (x[:200], y[:200]), "test": (x[200:], y[200:])}
    with infoplane.Recorder(model, probe=probe, run=run, **options) as recorder:
        for epoch in range(epochs):
            loss = nn.functional.cross_entropy(model(x[:200]), y[:200])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.snapshot(epoch, metrics={"loss": loss.item()})
    return recorder


def record() -> list[str]:
    """The printed plan says what is recorded; a cell that runs again is told how."""
    said("record two runs of one name, with the lines of the README")
    layers = models.resnet()[2]
    for seed, run in enumerate(RUNS):
        recorder, plan = recorded(lambda seed=seed, run=run: train(run, seed))
        assert [layer.key for layer in recorder.layers] == layers
        for words in (*layers, "mean over space", "maps and sequences as means", "a snapshot"):
            assert words in plan, f"the plan does not say {words!r}"
    said("run the cell again")
    complains(lambda: train(RUNS[0], 0), StoreError, "overwrite=True", "resume=True")
    Path("notes").mkdir(exist_ok=True)
    Path("notes/mine.txt").write_text("not a run")
    train("notes", 0, epochs=1, overwrite=True, quiet=True)
    assert Path("notes/mine.txt").read_text() == "not a run"
    train(RUNS[0], 0, overwrite=True, quiet=True)
    assert train("again/resnet", 0, epochs=1, number=True, quiet=True).run.name == "resnet-001"
    said("go on with a run: its layers stay")
    resumed = train(RUNS[0], 0, epochs=8, resume=True, quiet=True)
    assert [layer.key for layer in resumed.layers] == layers
    return layers


def estimate(layers: list[str]) -> str:
    """One command says at which noise the layers show something, the next one shows it in a table."""
    said("what was recorded, and at which scale it shows something")
    about = shell("info", RUNS[0])
    assert "probe    300 rows (train 200, test 100)" in about
    spec = spec_of(shell("-q", "advise", RUNS[0], "-e", "noise", "-e", "binning"), "noise")
    kept = json.loads(Path(RUNS[0], "results.json").read_text())
    assert spec in json.dumps(kept)
    table = shell("-q", "estimate", RUNS[0], "-e", spec)
    assert len(table.strip().splitlines()) < 20, "the table is no longer read at a glance"
    assert "scale chosen by looking" in table
    for layer in layers:
        assert layer in table
    shell("-q", "estimate", *RUNS, "-e", spec, "-s", "train", "-s", "test", "-s", "all")
    said("other scales, on the test part of one run only")
    shell("-q", "estimate", RUNS[0], "-e", "noise:relative_std=0.3", "-e", "noise:relative_std=3", "-s", "test")
    return spec


def figures(spec: str, layers: list[str]) -> None:
    """Every figure in every style."""
    said("figures of one run")
    one = infoplane.read_table(RUNS[0])
    data = plots.plane_data(one, estimator=spec, subset="all")
    assert data.layers == layers
    assert data.present.all()
    assert data.saturated.mean() < 0.2, f"{data.saturated.sum()} of {data.saturated.size} points are saturated"
    caption = " ".join(data.caption)
    for words in ("no data-processing share: pooled layers are no chain", "scale chosen by looking", "N = 300"):
        assert words in caption, f"the caption does not say {words!r}"
    chosen = {"estimator": spec, "drawn": layers, "names": ["resnet"]}
    for subset in ("train", "test"):
        look(f"plane-{subset}", plots.plane, one, subset=subset, **chosen)
    look("plane-by-layer", plots.plane, one, subset="all", by="layer", **chosen)
    look("subsets", plots.plane_grid, one, by="subset", **chosen)
    look("curves", plots.curves, one, subset="test", metrics=True, **chosen)
    look("heatmap", plots.heatmap, one, subset="test", estimator=spec, names=["resnet", *layers])
    look("sensitivity", plots.sensitivity, one, subset="test", estimator="noise", drawn=layers, names=["resnet"])
    look("null", plots.null, one, subset="test", estimator=spec, names=["resnet", *layers])
    said("figures of both")
    both = infoplane.read_table(RUNS)
    chosen = {"estimator": spec, "subset": "test"}
    look("compare", plots.compare, both, drawn=layers, **chosen)
    groups = {"mine": NAMES[0], "yours": NAMES[1]}
    look("groups", plots.compare, both, groups=groups, by="layer", names=list(groups), **chosen)
    look("one-of-two", plots.plane, both, run=NAMES[1], names=[NAMES[1]], drawn=layers, **chosen)
    look("runs", plots.plane_grid, both, by="run", names=NAMES, drawn=layers, **chosen)


def at_the_shell(spec: str) -> None:
    """The same from the command line, where names have to be typed."""
    said("figures and errors at the shell")
    chosen = ("-e", spec, "-s", "test")
    shell("plot", *RUNS, *chosen, "--run", NAMES[1], "--title", "mine", "-o", "plot.pdf")
    text = shell("compare", *RUNS, *chosen, "-o", "compare.png")
    assert text.count(" of noise, test: ") == 2 * len(models.resnet()[2]), "a row a layer and quantity, of one setting"
    refused("plot", *RUNS, *chosen, "--run", "frist/resnet", names=NAMES[0])
    refused("plot", RUNS[0], "-e", spec, "-s", "tset", names="test")
    refused("plot", RUNS[0], "-e", "nois", names="noise")
    refused("plot", RUNS[0], "-e", spec, "-s", "test", "-l", "layer4.2", names="layer4.1")
    refused("plot", RUNS[0], "-k", "plnae", names="plane")
    refused("estimate", RUNS[0], "-e", "nois", names="noise")
    refused("report", RUNS[0], "-o", "page.pdf", names=".html")
    refused("info", "first/resnte", names="is not a run directory: not found")


def report() -> None:
    """One page of both runs, though one has estimates that the other lacks."""
    said("a page")
    shell("report", *RUNS, "-o", "both.html")
    read_page(Path("both.html"), names=NAMES)


def main() -> None:
    with journey(__doc__ or ""):
        layers = record()
        spec = estimate(layers)
        figures(spec, layers)
        at_the_shell(spec)
        report()


if __name__ == "__main__":
    main()
