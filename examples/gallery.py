"""Draw every figure from the runs of the examples, each with the line that makes it.

python examples/all.py                                      first: the runs, in examples-out
python examples/gallery.py --write docs/gallery.md          then: the page
"""

from __future__ import annotations

import argparse
import ast
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import infoplane
from infoplane import plots
from infoplane.hooks import GradientMoments, log_spaced

INTRODUCTION = """# Gallery

Every figure, drawn from the runs of [the experiments](experiments.md). Made by
`python examples/gallery.py --write {page}`; the lines below are the ones it ran, after

```python
import infoplane
from infoplane import plots
```
"""


@dataclass(frozen=True)
class Entry:
    """A figure: what it shows, the results it is drawn from, and the line; `table` and `path` are known to it.

    `made` names the script and the function that recorded and estimated the results, shown above the figure.
    """

    name: str
    shows: str
    results: tuple[str, ...]
    line: str
    suffix: str = "png"
    says: str = ""
    made: tuple[str, str] | None = None


E01 = ("e01_tanh_compression/results.csv",)
DIGITS = ("digits/results.csv",)
RESNET, BERT, GPT2 = ((f"e15_real_networks/runs/{name}/results.csv",) for name in ("resnet", "bert", "gpt2"))
E02 = tuple(f"e02_relu_bins/results-{name}.csv" for name in ("fixed", "ebab", "kde-adaptive"))
ENTRIES = (
    Entry("plane", "the canonical plane of one run: a line per step through the layers", E01,
          'plots.plane(table, run="seed-0")'),
    Entry("plane-by-layer", "the same run as one path per layer, with start, end and direction", E01,
          'plots.plane(table, run="seed-0", by="layer")'),
    Entry("plane-grid", "one ReLU run seen by three estimators, with equal limits", E02,
          'plots.plane_grid(table, by="estimator", run="seed-0")'),
    Entry("curves", "two bounds of the information seen through noise, with the ribbon between them", E02[2:],
          'plots.curves(table, run="seed-0")'),
    Entry("compare", "mean over the seeds; the legend says what the band is", E01, "plots.compare(table)"),
    Entry("compare-layers", "a panel for each layer, equal in size and limits", E01,
          'plots.compare(table, by="layer")'),
    Entry("compare-plane", "the mean path of each layer, with ellipses of the same band", E01,
          'plots.compare(table, form="plane")'),
    Entry("null", "each layer against the same estimate on shuffled labels", E01,
          'plots.null(table, run="seed-0")'),
    Entry("compression", "how far each layer falls from its own maximum, in every run", E02[1:2],
          "plots.compression(table)"),
    Entry("heatmap", "one quantity over layers and steps; hatched cells are saturated", E01,
          'plots.heatmap(table, run="seed-0")'),
    Entry("tokens", "one quantity along the tokens of a sequence, with the positions that stand out",
          ("e14_character_transformer/runs/inside/results.csv",), "plots.tokens(table)"),
    Entry("sensitivity", "what depends on the number of bins: a line for each layer, its null dotted", DIGITS,
          'plots.sensitivity(table, estimator="binning")'),
    Entry("snr", "gradients on the digits: mean, spread and their ratio for each layer", DIGITS,
          "plots.snr(table)"),
    Entry("dpi", "how often I(X;T) rises from one layer to the next, for each estimator", E02, "plots.dpi(table)"),
    Entry("resnet", "the plane of a ResNet-18: eight blocks, each the mean of its channels over the image", RESNET,
          'plots.plane(table, subset="test", by="layer")', made=("e15_real_networks", "recorded"),
          says="Recorded and estimated by this function of `examples/e15_real_networks.py`, with no layer named. All "
          "blocks climb one curve, deeper ones further. The last keeps 7.5 bits of X at step 22 and 6.1 at the end, "
          "while its I(T;Y) goes on to H(Y): what it forgets is within the digits. One seed, one noise."),
    Entry("bert", "the plane of a BERT with four layers, each the mean over the words", BERT,
          'plots.plane(table, subset="test")',
          says="By the same lines. From layer to layer less of X is kept, 7.8 to 2.7 bits. The embeddings, at the top "
          "right, seem to know most of Y: the next figure says how much of that is chance."),
    Entry("bert-null", "the same layers beside shuffled labels", BERT, 'plots.null(table, subset="test")',
          says="The embeddings tell so many sentences apart that shuffled labels give 0.62 of their 0.87 bits. Above "
          "chance the blocks know more, the last ones most."),
    Entry("gpt2", "the plane of a GPT-2 of the same size", GPT2,
          'plots.plane(table, subset="test")',
          says="By the same lines. All four blocks go one way and end together. They begin at 0 not because they know "
          "nothing: the noise is a share of the size that they have at the end, and training makes them larger."),
    Entry("train-test", "what was trained on beside what was not: a panel for each subset, with equal limits", BERT,
          'plots.plane_grid(table.select(subset=["train", "test"]), by="subset")',
          says="The BERT above: every block tells nearly all of what was trained on, and less of what was not."),
    Entry("classes", "what is told apart within each class: I(X;T) of its samples alone", RESNET,
          'plots.heatmap(table.select(subset="class=*"), by="subset")',
          says="The ResNet above. Within one digit its last block tells 4.6 bits apart at step 22 and 2.8 at the "
          "end, of at most 6.6, in the mean over digits: what it forgets of X is within the classes."),
    Entry("animation", "the plane over training, the metrics below", E01,
          'plots.animate(table, path, run="seed-0", dpi=80)', "gif"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("examples-out"), help="where the examples left their runs")
    parser.add_argument("--write", type=Path, default=Path("docs/gallery.md"))
    given = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no Chromium was found to photograph the report; install the package chromium")
    names = [name for entry in ENTRIES for name in entry.results if name not in DIGITS]
    if missing := [str(given.out / name) for name in names if not (given.out / name).exists()]:
        sys.exit(f"{missing[0]} is missing: run the examples first, python examples/all.py --out {given.out}")
    folder = given.write.parent / given.write.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    digits(given.out / "digits")
    page = [INTRODUCTION.format(page=given.write.as_posix())]
    for entry in ENTRIES:
        table = infoplane.read_table([given.out / name for name in entry.results])
        path = folder / f"{entry.name}.{entry.suffix}"
        # The page shows the very line that is run; it comes from this file alone.
        drawn = eval(entry.line, {"plots": plots, "table": table, "path": path})
        if entry.suffix == "png":
            plots.save(drawn, path, dpi=110)
        page += described(entry, f"{folder.name}/{path.name}")
    page += report(browser, given.out, folder)
    given.write.write_text("\n".join(page) + "\n")


def described(entry: Entry, picture: str) -> list[str]:
    """The part of the page about one figure, with the very lines that were run."""
    shown = ", ".join(f'"examples-out/{name}"' for name in entry.results)
    code = f"table = infoplane.read_table([{shown}])\n{entry.line}"
    if entry.made is not None:
        script, function = entry.made
        text = (Path(__file__).parent / f"{script}.py").read_text()
        (found,) = (node for node in ast.parse(text).body if getattr(node, "name", "") == function)
        code = f"{ast.get_source_segment(text, found)}\n\n\n{code}"
    words = [f"{textwrap.fill(entry.says, 120)}\n"] if entry.says else []
    return [
        f"\n## {entry.name}: {entry.shows}\n",
        *words,
        f"```python\n{code}\n```\n",
        f"![{entry.shows}]({picture})",
    ]


def digits(run: Path) -> None:
    """The one run that no example makes: gradient moments of a network on the digits, its last step in bins."""
    shutil.rmtree(run, ignore_errors=True)
    torch.manual_seed(0)
    x, y = map(torch.from_numpy, infoplane.datasets.digits())
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with (
        GradientMoments(model, optimizer) as moments,
        infoplane.Recorder(model, (x, y), run, gradients=moments, schedule=log_spaced(40, 300), quiet=True) as recorder,
    ):
        for epoch in range(1, 301):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            recorder.snapshot(epoch)
    bins = [f"binning:n_bins={n}" for n in (2, 3, 4, 6, 8, 12, 20, 30)]
    infoplane.analyze(run, bins, steps=[300], progress=False)


def report(browser: str, out: Path, folder: Path) -> list[str]:
    """The page to explore, photographed in a browser."""
    made = infoplane.report.write_report(infoplane.read_table(out / E01[0]), out / "report.html")
    picture = folder / "report.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
    words = [browser, *flags, "--virtual-time-budget=4000", "--window-size=1280,1110", f"--screenshot={picture}"]
    subprocess.run([*words, made.resolve().as_uri()], check=True, capture_output=True, timeout=120)
    return [
        "\n## report: one page to explore, with its warnings first\n",
        f'```python\ntable = infoplane.read_table("examples-out/{E01[0]}")\n'
        'infoplane.report.write_report(table, "report.html")\n```\n',
        f"![the report in a browser]({folder.name}/{picture.name})",
    ]


if __name__ == "__main__":
    main()
