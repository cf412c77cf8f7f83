"""A new user's first hour with a small BERT: `python tests/journeys/transformer.py [--out FOLDER]`.

The lines of the README on sequences with padding, the mean over tokens and the first token beside it, then token by
token, each looked at on the way. GPT-2 has the same lines, and its last token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from walk import journey, look, models, read_page, recorded, refused, said, shell, spec_of

import infoplane
from infoplane import plots
from infoplane.hooks import next_tokens, tokens

RUNS: dict[str, dict[str, str]] = {"runs/mean": {}, "runs/cls": {"reduce": "cls"}, "runs/last": {"reduce": "last"}}
HOW = {"runs/mean": "mean over tokens", "runs/cls": "tokens 0", "runs/last": "last token"}


def train(make: Any, run: str, epochs: int = 5, **options: Any) -> tuple[infoplane.Recorder, list[str]]:
    """The lines of the README, with another model."""
    torch.manual_seed(0)
    model, (x, y), layers = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with infoplane.Recorder(model, probe=(x, y), run=run, **options) as recorder:
        for epoch in range(epochs):
            loss = nn.functional.cross_entropy(model(**x).logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.snapshot(epoch, metrics={"loss": loss.item()})
    return recorder, layers


def record() -> list[str]:
    """Blocks as means over tokens where nobody chose; as one token where somebody did, the logits as they are."""
    said("record a BERT with the lines of the README: embeddings, blocks, logits")
    for run, options in RUNS.items():
        (recorder, layers), plan = recorded(lambda run=run, options=options: train(models.bert, run, **options))
        assert [layer.key for layer in recorder.layers] == layers
        assert {layer.reduction for layer in recorder.layers[:-1]} == {HOW[run]}
    assert "bert.encoder.layer.3" in plan
    return layers


def pooled(layers: list[str]) -> None:
    """Three ways to make one vector of a sequence, side by side."""
    said("pooled: which scale, a table, and planes")
    for run in RUNS:
        shell("info", run)
    spec = spec_of(shell("-q", "advise", "runs/mean", "-e", "noise"), "noise")
    table = shell("-q", "estimate", "runs/mean", "-e", spec)
    assert len(table.strip().splitlines()) < 20
    assert all(layer in table for layer in layers)
    shell("-q", "estimate", *RUNS, "-e", spec, "-s", "all", "-s", "class=*")
    every = infoplane.read_table(list(RUNS))
    data = plots.plane_data(infoplane.read_table("runs/mean"), estimator=spec, subset="all")
    assert data.layers == layers
    assert data.present.all()
    assert data.saturated.mean() < 0.2, f"{data.saturated.sum()} of {data.saturated.size} points are saturated"
    assert "no data-processing share: pooled layers are no chain" in data.caption
    chosen = {"estimator": spec, "subset": "all", "drawn": layers}
    one = {**chosen, "run": "mean", "names": ["run mean"]}
    look("plane", plots.plane, every, **one)
    look("curves", plots.curves, every, metrics=["loss"], **one)
    look("heatmap", plots.heatmap, every, **{**one, "drawn": ()})
    look("pooled", plots.plane_grid, every, by="run", names=["mean", "cls", "last"], **chosen)
    look("classes", plots.plane_grid, infoplane.read_table("runs/mean"), by="layer", estimator=spec, subset="all")
    own = infoplane.read_table("runs/mean").select(subset="class=*")
    look("by-class", plots.heatmap, own, by="subset", estimator=spec, names=["class=0", "class=1", "class=2"])
    ax = plots.plane(
        every, **{k: v for k, v in one.items() if k not in ("drawn", "names")}, labels={"classifier": "head"}
    )
    assert any("head" in text.get_text() for text in ax.figure.findobj(lambda a: hasattr(a, "get_text")))


def by_token() -> None:
    """Every position as a layer of its own."""
    said("token by token")
    (recorder, _), _ = recorded(lambda: train(models.bert, "runs/tokens", reduce={"bert.**": tokens([0, 1, 2, 3])}))
    assert "tokens" in recorder.layers[1].reduction
    table = infoplane.analyze(
        "runs/tokens", "probe", layers=["bert.encoder.layer.*[token=*]"], steps=[0, 5], progress=False
    )
    look("tokens", plots.tokens, table, quantity="I(T;Y)", layers="bert.encoder.layer.3", names=["tokens"])


def decoder() -> None:
    """The same lines on a GPT-2, whose last token has read all the others."""
    said("a GPT-2")
    (recorder, layers), _ = recorded(lambda: train(models.gpt2, "runs/gpt2", reduce="last"))
    assert [layer.key for layer in recorder.layers] == layers
    shell("-q", "estimate", "runs/gpt2", "-e", "noise:relative_std=1.0")
    look("gpt2", plots.plane, infoplane.read_table("runs/gpt2"), drawn=layers, names=["run gpt2"])


def next_token() -> None:
    """A language model has a label at every position, and none at the last and where sentences have ended."""
    said("a GPT-2 that writes: a label for each position")
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 8, "vocab_size": 9}
    writer = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    real = torch.arange(8) < torch.randint(6, 9, (300, 1))
    ids = torch.randint(1, 9, (300, 4)).repeat(1, 2) * real
    following = next_tokens(ids, real)
    how = {"layers": "transformer.h.*", "reduce": "flatten", "logits": False}
    optimizer = torch.optim.Adam(writer.parameters(), lr=1e-2)
    with infoplane.Recorder(writer, ({"input_ids": ids}, following), "runs/next", quiet=True, **how) as recorder:
        for epoch in range(10):
            loss = nn.functional.cross_entropy(writer(input_ids=ids).logits.flatten(0, 1), following.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.snapshot(epoch, metrics={"loss": loss.item()})
    text = shell("-q", "estimate", "runs/next", "-e", "probe", "-l", "transformer.h.1[token=*]")
    for words in ("have no label at a position", "skipped: transformer.h.1[token=7]"):
        assert words in text, f"the table does not say {words!r}"
    look(
        "next",
        plots.tokens,
        infoplane.read_table("runs/next"),
        quantity="I(T;Y)",
        names=["run next", "no label at a position"],
    )


def at_the_shell() -> None:
    said("errors at the shell, and a page")
    refused("plot", "runs/mean", "-s", "all", "-l", "bert.encoder.*", names="bert.encoder.*.**")
    refused("estimate", "runs/mean", "-s", "clas=1", names="class=LABEL")
    refused("plot", "runs/mean", "-s", "all", "--quantity", "I(X:T)", "-k", "heatmap", names="I(X;T)")
    shell("report", *RUNS, "-o", "pooled.html")
    read_page(Path("pooled.html"), names=["mean", "cls", "last"])


def main() -> None:
    with journey(__doc__ or ""):
        layers = record()
        pooled(layers)
        by_token()
        decoder()
        next_token()
        at_the_shell()


if __name__ == "__main__":
    main()
