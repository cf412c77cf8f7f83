"""Run every example, each in a process of its own; exit code 1 when an assertion fails.

python examples/all.py --quick        seconds each
python examples/all.py                minutes each; then writes docs/experiments.md with --write
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("examples-out"))
    parser.add_argument("--write", type=Path, help="page to write the outcomes into, as docs/experiments.md")
    options = parser.parse_args()
    failed, page = [], ["# Experiments", "", "Made by `python examples/all.py --write docs/experiments.md`.", ""]
    for script in sorted(HERE.glob("e[0-9]*.py")):
        started = time.monotonic()
        words = [sys.executable, str(script), "--out", str(options.out / script.stem), *["--quick"] * options.quick]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        took = time.monotonic() - started
        print(f"{script.stem}: {'ok' if done.returncode == 0 else 'FAILED'} in {took:.0f} s", flush=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith(("holds  ", "FAILS  "))]
        print("\n".join(f"    {line}" for line in lines), flush=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            failed.append(script.stem)
        title, _, rest = (script.read_text().split('"""')[1]).partition("\n")
        page += [f"## {title}", "", rest.strip(), "", f"`python examples/{script.name}`, {took:.0f} s.", ""]
        page += [f"- **{line[:5]}** {line[7:]}" for line in lines] + [""]
    if options.write:
        options.write.write_text("\n".join(page))
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "all examples hold")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
