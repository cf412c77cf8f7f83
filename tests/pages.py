"""Runs the code of a page of the documentation as a reader would: from top to bottom, in one directory."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from infoplane.cli import main

DOCS = Path(__file__).parents[1] / "docs"
MADE_BY_A_SCRIPT = {"gallery", "experiments", "certificate"}
FENCE = re.compile(r"^```(python|console|sh)\n(.*?)^```", re.M | re.S)
PROGRAMS = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}


def pages() -> Iterator[str]:
    """The pages with code that people write, as `guides/cnn`."""
    for path in sorted(DOCS.rglob("*.md")):
        page = path.relative_to(DOCS).with_suffix("").as_posix()
        if page not in MADE_BY_A_SCRIPT and not page.startswith(("_build", "api/")) and FENCE.search(path.read_text()):
            yield page


def run_page(page: str, around: Callable[[str], Any] = lambda code: contextlib.nullcontext()) -> dict[str, Any]:
    """Run the code and the commands of a page, each in what `around` makes of it; the names that are then known.

    A block that begins with `# train.py` is a file of that name, which the commands below it run; the script of a job
    array is run once for each of its tasks.
    """
    names: dict[str, Any] = {"__name__": "page"}
    for kind, code in FENCE.findall((DOCS / f"{page}.md").read_text()):
        file = re.match(r"# (\w+\.py)\n", code)
        with around(code):
            if kind == "console":
                run_commands(code)
            elif kind == "sh":
                run_array(code)
            elif file:
                Path(file[1]).write_text(code)
            else:
                exec(compile(code, page, "exec", dont_inherit=True), names)
    return names


def run_commands(block: str) -> None:
    """The lines of a block that begin with `$ `; what else stands there is output."""
    for line in re.findall(r"^\$ (.*)$", block.replace("\\\n", " "), re.M):
        program, *given = words(line)
        if program == "infoplane":
            outcome = CliRunner().invoke(main, ["-q", *given])
            assert outcome.exit_code == 0, (line, outcome.output)
        else:
            done = subprocess.run([*PROGRAMS[program], *given], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)


def run_array(script: str) -> None:
    """The tasks of a job array, as the queue would start them, one after the other."""
    first, last = re.findall(r"--array=(\d+)-(\d+)", script)[0]
    here = f'infoplane() {{ "{sys.executable}" -m infoplane "$@"; }}\n'
    for task in range(int(first), int(last) + 1):
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task)}
        done = subprocess.run(
            ["bash", "-c", here + script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (task, done.stderr)


def words(line: str) -> list[str]:
    """A command as a shell takes it apart."""
    return [found for word in shlex.split(line) for found in sorted(map(str, Path().glob(word))) or [word]]
