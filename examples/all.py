"""Run every example, each in a process of its own; exit code 1 when an assertion fails.

python examples/all.py --quick                              seconds each
python examples/all.py --write docs/experiments.md          minutes each, and the page with the figures
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INTRODUCTION = """# Experiments

The field's headline results, each reproduced by one script through the public interface. A line says what is asserted,
what was measured here and, as reference, what an independent prototype without any of this code measured before.
"Not about Y" stands beside a line that holds for shuffled labels as well (`--quick --shuffle`): it says something of
networks or of a method.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("examples-out"))
    parser.add_argument("--only", default="e[0-9]*", help="glob of the scripts' names, as 'e0[12]*'")
    parser.add_argument("--jobs", type=int, default=1, help="examples at a time")
    parser.add_argument("--reuse", action="store_true", help="take the outcomes that --out holds from an earlier run")
    parser.add_argument("--write", type=Path, help="page to write the outcomes into, as docs/experiments.md")
    given = parser.parse_args()
    scripts = sorted(HERE.glob(f"{given.only}.py"))
    if not scripts:
        parser.error(f"no example is called {given.only!r}")
    with ThreadPoolExecutor(max(1, given.jobs)) as pool:
        records = list(pool.map(lambda script: outcome(script, given), scripts))
    if given.write:
        write(given.write, given.out, list(zip(scripts, records, strict=True)), given.quick)
    failed = [script.stem for script, r in zip(scripts, records, strict=True) if not (holds(r) or "skipped" in r)]
    skipped = [script.stem for script, r in zip(scripts, records, strict=True) if "skipped" in r]
    if skipped:
        print(f"{len(skipped)} skipped: {', '.join(skipped)}")
    print(
        f"{len(failed)} failed: {', '.join(failed)}"
        if failed
        else "all others hold"
        if skipped
        else "all examples hold"
    )
    sys.exit(1 if failed else 0)


def holds(record: dict[str, Any]) -> bool:
    return bool(record["outcomes"]) and all(o["holds"] for o in record["outcomes"])


def outcome(script: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What one example recorded; an empty record when it broke."""
    kept = given.out / script.stem / "outcomes.json"
    if given.reuse and kept.exists() and (old := json.loads(kept.read_text()))["quick"] == given.quick:
        return old
    kept.unlink(missing_ok=True)
    words = [sys.executable, str(script), "--out", str(kept.parent), *["--quick"] * given.quick]
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    record = json.loads(kept.read_text()) if kept.exists() else {"seconds": 0, "outcomes": [], "figures": []}
    lines = [f"    {'holds' if o['holds'] else 'FAILS'}  {said(o)}" for o in record["outcomes"]]
    if done.returncode == 3:  # data that are not on this machine
        record["skipped"] = done.stdout.strip()
        print(f"{script.stem}: {record['skipped']}", flush=True)
        return record
    verdict = "ok" if done.returncode == 0 else "FAILED"
    print("\n".join([f"{script.stem}: {verdict} in {time.monotonic() - started:.0f} s", *lines]), flush=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    return record


def anchor(title: str) -> str:
    """The place of a heading in a page, as GitHub and Sphinx both make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def said(o: dict[str, Any]) -> str:
    return f"{o['claim']}: {o['measured']} (reference {o['reference']})"


def write(page: Path, out: Path, records: list[tuple[Path, dict[str, Any]]], quick: bool) -> None:
    """The page: a table of all, then for each script its text, its outcomes and its figures, copied beside the page."""
    folder = page.parent / page.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    total = sum(r["seconds"] for _, r in records)
    lines = [
        INTRODUCTION,
        f"Made by `python examples/all.py{' --quick' * quick} --write {page.as_posix()}`: "
        f"{total / 60:.0f} minutes in all, one thread each, on a machine with two cores.\n",
        "| script | asserted | hold | seconds |\n| --- | --- | --- | --- |",
    ]
    for script, r in records:
        title = script.read_text().split('"""')[1].partition("\n")[0].rstrip(".")
        held = sum(o["holds"] for o in r["outcomes"])
        lines.append(
            f"| [`{script.name}`](#{anchor(title)}) | {title} | {held} of {len(r['outcomes'])} | {r['seconds']} |"
        )
    for script, r in records:
        title, _, text = script.read_text().split('"""')[1].partition("\n")
        lines += [
            f"\n## {title.rstrip('.')}\n",
            f"`python examples/{script.name}`\n",
            text.strip(),
        ]
        if "skipped" in r:
            lines.append(f"\nNot run here, {r['skipped']}")
            continue
        lines += ["", "| | asserted | measured | reference |\n| --- | --- | --- | --- |"]
        lines += [
            f"| **{'holds' if o['holds'] else 'FAILS'}**{'' if o.get('about_y', True) else ', not about Y'} | "
            + " | ".join(o[key].replace("|", "\\|") for key in ("claim", "measured", "reference")) + " |"
            for o in r["outcomes"]
        ]  # fmt: skip
        lines += [f"\n{table}" for table in r.get("tables", [])]
        for figure in r["figures"]:
            name = f"{script.stem}-{figure['name']}.png"
            shutil.copyfile(out / script.stem / f"{figure['name']}.png", folder / name)
            lines.append(f"\n![{figure['caption']}]({folder.name}/{name})\n\n*{figure['caption']}*")
    page.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
