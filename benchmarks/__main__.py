"""`python -m benchmarks [module ...] [--quick]`: one table, exit code 1 when a row is below its `must`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

import benchmarks
from benchmarks import _device, _harness


def size(text: str) -> tuple[int, int]:
    """Samples and units, from "4096x10"."""
    samples, units = text.split("x")
    return int(samples), int(units)


def main() -> int:
    if "--device" not in sys.argv and any(
        os.environ.get(name) != value for name, value in _harness.ENVIRONMENT.items()
    ):
        os.environ.update(_harness.ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("module", nargs="*", help=f"out of {', '.join(_harness.modules())}; all by default")
    parser.add_argument("--quick", action="store_true", help="the small cases only, three rounds")
    parser.add_argument(
        "--device", help="five estimators there, against our CPU, plain torch and the device's bandwidth"
    )
    parser.add_argument("--sizes", nargs="+", type=size, default=(), metavar="NxD", help="with --device: only these")
    options = parser.parse_intermixed_args()
    if options.device:
        return _device.main(options.device, options.sizes)
    unknown = sorted(set(options.module) - set(_harness.modules()))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; available: {', '.join(_harness.modules())}")
    rows = []
    for name in options.module or _harness.modules():
        for case in importlib.import_module(f"benchmarks.{name}").cases(quick=options.quick):
            for row in case.rows():
                print(_harness.table([row]).splitlines()[1], file=sys.stderr, flush=True)
                rows.append(row)
    print(_harness.table(rows))
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
