"""Speed and memory, as ratios inside one run: `python -m benchmarks [module ...] [--quick]`.

Each module has `cases(quick=False)`, which yields `Case`s, one for a row. A ratio is the median over rounds in which
the reference and the candidate alternate on the same data, one thread, CPU time; the results of both are compared
in the same run, and a wrong result is an error, not a row.
"""
