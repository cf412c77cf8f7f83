"""Speed and memory, as ratios inside one run: `python -m benchmarks [module ...] [--quick]`.

Each module has `rows(quick=False)`, which yields `Row`s. A ratio is the median over rounds in which the
reference and the candidate alternate on the same data, one thread, CPU time; the results of both are compared
in the same run, and a wrong result is an error, not a row.
"""
