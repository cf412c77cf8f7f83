"""What the journeys share: a person's shell, eyes and browser, each of which complains."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that a script finds what the tests share

import chromium
import kernel
import models
import torch
from click.testing import CliRunner
from extents import STYLES, check, texts_drawn
from matplotlib.axes import Axes

from infoplane import plots
from infoplane.cli import main
from infoplane.results import ResultTable

__all__ = [
    "chromium",
    "complains",
    "journey",
    "kernel",
    "look",
    "models",
    "read_page",
    "recorded",
    "refused",
    "said",
    "shell",
    "spec_of",
]

HASH = re.compile(r"\b(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{10,}\b")
SCREENS = ((1280, 800), (390, 844))
MOST_PAGE = 2_000_000
START = time.perf_counter()
KEEP: list[bool] = []
STARTED: list[bool] = []


@contextlib.contextmanager
def journey(about: str) -> Iterator[Path]:
    """Go to the folder of `--out`, else to one that is removed at the end; on one thread, with its own seed."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, help="keep runs, figures and pages here")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(0)
    KEEP.append(out is not None)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder if out is None else made(out)):
        yield Path()
    said("nothing was in the way")


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def said(step: str) -> None:
    print(f"\n== {step} ({time.perf_counter() - START:.0f} s)", flush=True)


def read(text: str, where: str) -> str:
    """What a person reads must name nothing by a hash and show no traceback."""
    assert not (found := HASH.search(text)), f"{where} shows a hash: {found[0]}"
    assert "Traceback" not in text, where
    return text


def shell(*words: object) -> str:
    """Run `infoplane` as a person would and read what it prints: the first command in a process of its own."""
    line = ["infoplane", *map(str, words)]
    print("$", *line, flush=True)
    code, text = (here if STARTED else started)(line)
    print(text, flush=True)
    assert code == 0, f"{' '.join(line)}: exit code {code}"
    return read(text, " ".join(line))


def started(line: Sequence[str]) -> tuple[int, str]:
    """Exit code and words of a command in a process of its own."""
    STARTED.append(True)
    command = [sys.executable, "-m", *line]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"})
    return done.returncode, done.stdout + done.stderr


def here(line: Sequence[str]) -> tuple[int, str]:
    """The same in this process, which has torch already: there are many."""
    done = CliRunner(env={"COLUMNS": "100"}).invoke(main, line[1:], prog_name="infoplane")
    return done.exit_code, done.output


def refused(*words: object, names: str) -> None:
    """A command that cannot be done ends in one line, which has what to write instead, and writes nothing."""
    before = set(Path().rglob("*"))
    line = list(map(str, words))
    print("$ infoplane", *line, flush=True)
    code, text = here(["infoplane", *line])
    print(text, flush=True)
    assert code == 2, text
    error = [each for each in read(text, "an error").splitlines() if each.startswith("Error: ")]
    assert len(error) == 1, text
    assert names in error[0], f"{error[0]!r} does not say {names!r}"
    assert set(Path().rglob("*")) == before


def complains(call: Callable[[], object], error: type[Exception], *words: str) -> None:
    """A call that cannot be done says what to write instead."""
    text = ""
    try:
        call()
    except error as found:
        text = str(found)
    print(text, flush=True)
    assert text, f"no {error.__name__} came"
    for each in words:
        assert each in read(text, "an error"), f"{text!r} does not say {each!r}"


def recorded(make: Callable[[], Any]) -> tuple[Any, str]:
    """What a recorder returns, and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        out = make()
    print(printed.getvalue(), flush=True)
    return out, read(printed.getvalue(), "the recorder")


def spec_of(advice: str, estimator: str) -> str:
    """The spec to paste, from what `infoplane advise` prints."""
    found = re.search(rf"^({estimator}:\S+)  for .*$", advice, re.M)
    assert found, f"advise has no setting of {estimator}"
    return found[1]


def look(
    name: str, draw: Callable[..., Axes], table: ResultTable, *, names: Sequence[str] = (), **options: Any
) -> None:
    """Draw a figure in every style and look at it: room, text, layers, names. With `--out` it is kept as a picture."""
    layers = options.pop("drawn", ())
    for style in STYLES:
        with texts_drawn() as written:
            ax = draw(table, style=style, **options)
            check(ax, written, style)
            text = read(" ".join(one.get_text() for one in written), f"{name} in {style}")
        shown = f"{text} {plots.caption(ax)}"
        for run in names:
            assert run in " ".join(shown.split()), f"{name} in {style} does not say {run!r}"
        ids = {artist.get_gid() or "" for artist in ax.figure.findobj()}
        for layer in layers:
            found = any(one.startswith(f"infoplane:{layer}:") for one in ids)
            assert found or layer in shown, f"{name} in {style} neither draws {layer} nor says that it does not"
        for one in ax.figure.axes:
            assert not one.yaxis.get_offset_text().get_text(), f"{name} in {style} writes numbers as an offset"
        if any(KEEP):  # nobody sees the others
            plots.save(ax, f"{name}-{style}.png", dpi=110)
    print(f"{name}: {', '.join(STYLES)}", flush=True)


def read_page(path: Path, *, names: Sequence[str]) -> None:
    """Open a report on a desk and on a telephone: all in the first screen, nobody asked for anything, no hashes."""
    assert path.stat().st_size <= MOST_PAGE, f"{path} has {path.stat().st_size} bytes"
    with chromium.launched() as browser:
        for width, height in SCREENS:
            opened = chromium.Opened(browser, path.absolute(), viewport={"width": width, "height": height})
            opened.check_first_screen()
            text = opened.page.inner_text("body")
            text += " ".join(opened.page.locator("svg text").all_text_contents())
            read(text, f"{path} at {width}")
            for name in names:
                assert name in text, f"{path} at {width} does not say {name!r}"
            opened.page.screenshot(path=f"{path.stem}-{width}.png")
            assert opened.asked == [path.absolute().as_uri()], opened.asked
            assert opened.said == [], opened.said
            opened.page.close()
    print(f"{path}: {' and '.join(f'{w} x {h}' for w, h in SCREENS)}", flush=True)
