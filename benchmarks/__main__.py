"""`python -m benchmarks [module ...] [--quick]`: one table, exit code 1 when a row is below its `must`."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys

import benchmarks
from benchmarks import _device, _harness

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
    # `silent` measures errors, `size` the code, `resnet` one network as a whole; they have commands of their own.
    return sorted(name for name in found if not name.startswith("_") and name not in ("silent", "size", "resnet"))


def size(text: str) -> tuple[int, int]:
    """Samples and units, from "4096x10"."""
    samples, units = text.split("x")
    return int(samples), int(units)


def main() -> int:
    if "--device" not in sys.argv and any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("module", nargs="*", help=f"out of {', '.join(modules())}; all by default")
    parser.add_argument("--quick", action="store_true", help="the small cases only, three rounds")
    parser.add_argument(
        "--device", help="five estimators there, against our CPU, plain torch and the device's bandwidth"
    )
    parser.add_argument("--sizes", nargs="+", type=size, default=(), metavar="NxD", help="with --device: only these")
    options = parser.parse_args()
    if options.device:
        return _device.main(options.device, options.sizes)
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
