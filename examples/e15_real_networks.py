"""What the planes of a ResNet, a BERT and a GPT-2 show.

Small networks recorded by the lines of the README: the blocks that their own structure names, each as its mean over the
map or the tokens, through noise that `infoplane.advise` finds. The ResNet-18 reads digits at 32 x 32 pixels; BERT and
GPT-2 tell speech from narration in twelve words of "Alice's Adventures in Wonderland". One seed, unseen samples.

Look for: the last block learns about labels that training never showed, far above shuffled ones. The embeddings of BERT
and GPT-2 lie at the top right and seem to know most, yet most of that is what shuffled labels give as well; above them
the last block of each network ends higher than its first layer. What was trained on tells more than what was not. It
would be falsified by a last block no better than shuffled labels, or no further above them than the first layer.

The trap: the noise is one for all steps, a share of the size that a layer has at the end. So a layer that training
makes larger, as every block of the ResNet and of GPT-2, begins near 0 although it tells its inputs apart.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import common
import torch
from common import Outcome
from networks import WORDS, Inputs, ResNet18, at, bert, gpt2, images, sentences
from torch import Tensor, nn

import infoplane
from infoplane import plots
from infoplane.hooks import log_spaced


def recorded(model: nn.Module, x: Inputs, y: Tensor, n: int, run: Path, *, epochs: int, points: int, lr: float):
    """Train on all but the last n samples; record the blocks on as many that were trained on, and on these."""
    probe = {"train": (at(x, slice(n)), y[:n]), "test": (at(x, slice(-n, None)), y[-n:])}
    batches = [rows for _ in range(epochs) for rows in torch.randperm(len(y) - n).split(40)]
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    with infoplane.Recorder(model, probe, run, schedule=log_spaced(points, len(batches)), quiet=True) as recorder:
        for step, rows in enumerate(batches, 1):
            loss = nn.functional.cross_entropy(logits(model, at(x, rows)), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.snapshot(step, metrics={"loss": loss})
    advice = infoplane.advise(run, "noise", subset="test", progress=False)
    spec = (advice.specs or ["noise"])[0]  # there is none where nothing was learned
    return infoplane.analyze(run, spec, subsets=["train", "test", "class=*"], progress=False)


def logits(model: nn.Module, x: Inputs) -> Tensor:
    return model(**x).logits if isinstance(x, dict) else model(x)


def run(options: common.Options) -> list[Outcome]:
    torch.manual_seed(0)
    (x, y), (ids, spoken, words), out = images(), sentences(), options.out / "runs"
    if options.shuffle:
        y, spoken = y[torch.randperm(len(y))], spoken[torch.randperm(len(spoken))]
    n, (images_seen, texts_seen), points = (300, (1, 2), 6) if options.quick else (500, (8, 12), 30)
    tables = {"ResNet": recorded(ResNet18(8), x, y, n, out / "resnet", epochs=images_seen, points=points, lr=5e-3)}
    if importlib.util.find_spec("transformers"):
        for name, make in {"BERT": bert, "GPT-2": gpt2}.items():
            model, place = make(words, WORDS, 2), out / name.replace("-", "").lower()
            tables[name] = recorded(model, ids, spoken, n, place, epochs=texts_seen, points=points, lr=2e-3)
    else:
        print("transformers is not installed (pip install 'infoplane[hf]'): the ResNet alone")
    for name, table in tables.items():
        file = name.replace("-", "").lower()
        options.figure(plots.plane(table, subset="test"), file, f"{name}: samples that it was not trained on.")
        options.figure(plots.null(table, subset="test"), f"{file}-null", f"{name}: each layer beside shuffled labels.")
    return [outcome for name, table in tables.items() for outcome in outcomes(name, table, options.quick)]


def outcomes(name: str, table: infoplane.ResultTable, quick: bool) -> list[Outcome]:
    full = plots.plane_data(table, subset="test").saturated.mean()
    seen, unseen = (plots.curve_data(table, "I(T;Y)", subset=part) for part in ("train", "test"))
    block, last, above = unseen.layers[-2], unseen.value[:, -2], (unseen.value - unseen.null)[-1]
    chance, least = unseen.null_high[-1, -2], 0.05 if quick else 0.2
    found = [
        Outcome(f"{name}: under 20 % of the points are saturated", f"{full:.0%}", "-", full < 0.2,
                about_y=name != "ResNet"),
        Outcome(f"{name}: I({block};Y) rises with training, and ends above shuffled labels",
                f"{last[0]:.2f} to {last[-1]:.2f} bits, shuffled at most {chance:.2f}", "-",
                last[-1] >= max(last[0], chance) + least),
        Outcome(f"{name}: it ends further above them than {unseen.layers[0]}",
                f"{above[-2]:.2f} against {above[0]:.2f} bits", "-", above[-2] >= above[0] + least),
        Outcome(f"{name}: what was trained on tells more", f"{seen.value[-1, -2]:.2f} bits", "-",
                seen.value[-1, -2] >= last[-1] + 0.1),
    ]  # fmt: skip
    return found[: 3 if quick or name == "ResNet" else 4]  # the ResNet tells all digits, seen or not


if __name__ == "__main__":
    common.main(run, __doc__)
