"""`python -m benchmarks.branches`: how often the tree of `auto` takes the better branch.

On generated problems of known information every branch is estimated, also those that the tree leaves aside. Its limits
are chosen on seeds 0 to 9, the default here; `benchmarks.silent` has other seeds. About half an hour on one core.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterator

import torch

from benchmarks._problems import FAMILIES, Problem, problems
from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators.auto import BRANCHES, Auto

NEAR = 0.05
"""Nats by which the branch may err more than the best of them."""
OF_CLASSES, OF_PAIRS = ("knn", "probe:family=mlp"), ("knn", "flow")
Errors = dict[str, float]


def errors(problem: Problem, effort: str) -> tuple[str, Errors]:
    """The branch that the tree takes, and by how many nats each of the possible ones is off."""
    t = problem.t[None]
    known = OF_CLASSES if problem.kind == "classes" else OF_PAIRS
    values = {branch: Auto(effort=effort, branch=branch).estimate(t, problem.y)["I(T;Y)"].value for branch in known}
    off = {branch: abs(float(value[0]) / BITS_PER_NAT - problem.nats) for branch, value in values.items()}
    return str(Auto().settled(t, problem.y).branch), off


def measured(seeds: range, most: int, effort: str) -> Iterator[tuple[str, str, Errors]]:
    """Kind, branch and errors of each problem of classes or pairs with at most so many samples."""
    names = [family.__name__ for family in FAMILIES if family.__name__.endswith(("classes", "pairs"))]
    for seed in seeds:
        for problem in problems(seed, names):
            if problem.samples <= most and not math.isnan(problem.nats):
                yield problem.kind, *errors(problem, effort)


def table(found: list[tuple[str, str, Errors]]) -> str:
    """A line for each branch of each kind: mean errors of all methods on its problems, how often it is near best."""
    groups: dict[tuple[str, str], list[Errors]] = defaultdict(list)
    for kind, branch, off in found:
        groups[kind, branch].append(off)
    lines = [
        f"| branch | problems | {' | '.join(BRANCHES)} | within {NEAR} of the best |",
        "|" + "---|" * (3 + len(BRANCHES)),
    ]
    for (kind, branch), rows in sorted(groups.items(), key=lambda each: (each[0][0], BRANCHES.index(each[0][1]))):
        means = [f"{statistics.fmean(off[b] for off in rows):.2f}" if b in rows[0] else "" for b in BRANCHES]
        near = sum(off[branch] <= min(off.values()) + NEAR for off in rows)
        lines.append(f"| {kind}, {branch} | {len(rows)} | {' | '.join(means)} | {near} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-9", help="first-last")
    parser.add_argument("--most", type=int, default=2000, help="leave out problems of more samples")
    parser.add_argument("--effort", default="full", choices=("full", "low"))
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(table(list(measured(range(int(first), int(last or first) + 1), options.most, options.effort))))


if __name__ == "__main__":
    main()
