"""`python -m benchmarks [module ...] [--quick]`: one table, exit code 1 when a row is below its `must`."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys

import benchmarks
from benchmarks import _harness

# One thread, and a heap that keeps its pages: else page faults on fresh arrays flatter every ratio.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}


def modules() -> list[str]:
    found = (m.name for m in pkgutil.iter_modules(benchmarks.__path__))
    # `silent` measures errors, not time, and has a command of its own.
    return sorted(name for name in found if not name.startswith("_") and name != "silent")


def main() -> int:
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("module", nargs="*", help=f"out of {', '.join(modules())}; all by default")
    parser.add_argument("--quick", action="store_true", help="the small cases only, three rounds")
    options = parser.parse_args()
    unknown = sorted(set(options.module) - set(modules()))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; available: {', '.join(modules())}")
    rows = []
    for name in options.module or modules():
        for row in importlib.import_module(f"benchmarks.{name}").rows(quick=options.quick):
            print(_harness.table([row]).splitlines()[1], file=sys.stderr, flush=True)
            rows.append(row)
    print(_harness.table(rows))
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
