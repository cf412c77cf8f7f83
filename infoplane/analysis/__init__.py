"""From recorded activations to a results table: every layer, every snapshot, any estimator, resumable.

The work is cut into tasks, one block of snapshots of one layer, subset and estimator each. Tasks are done in
any process; their rows are written by this one alone, in the order of the tasks and synced after each. An
analysis that was stopped at any moment goes on where it was, and its table is byte for byte the one that an
uninterrupted analysis writes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch

from infoplane.analysis.advice import Advice as Advice
from infoplane.analysis.advice import advise as advise
from infoplane.analysis.differences import difference as difference
from infoplane.analysis.index import TableIndex, open_table
from infoplane.analysis.pairs import Pairs
from infoplane.analysis.plan import Analysis, RunPlan
from infoplane.analysis.tasks import single_thread
from infoplane.analysis.workers import executor_of, progress_bar
from infoplane.estimators import Estimator, config_json, parse
from infoplane.results import ResultTable, csv_path
from infoplane.store import ActivationStore, open_run

HELD_RUNS = 8
"""Runs that are kept open at once."""


def analyze(
    run: str | os.PathLike[str] | ActivationStore | Sequence[str | os.PathLike[str] | ActivationStore],
    estimators: Any = "binning",
    *,
    layers: str | Sequence[str] | None = None,
    subsets: str | Sequence[str] = ("all",),
    steps: Sequence[int] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    against: str | os.PathLike[str] | ActivationStore | None = None,
    device: str | torch.device | None = None,
    table: str | os.PathLike[str] | None = None,
    block_bytes: int = 256 * 2**20,
    progress: bool | None = None,
    jobs: int | Executor = 1,
) -> ResultTable:
    """Estimate information quantities on recorded activations and keep them in a results table.

    Parameters
    ----------
    run : path, ActivationStore, or a sequence of these
    estimators : spec, instance, or a sequence of these
        A spec is `name[@preset][:field=value,...]`: "binning:n_bins=60", "binning@saxe-2018".
    layers : names or globs, optional
        By default every recorded layer. `block2[token=17]` is one position of a layer that was recorded with its
        tokens, `block*[token=-1]` the last of each, `[token=*]` and `[token=0:64:4]` several: each is a layer in
        the table. Where the probe has a label for each position, a position is estimated with its own, on the samples
        that have one there (`n_samples`), and of a whole layer there is I(X;T) alone.
    subsets : names
        "all"; a part of the probe ("train", "test"); "class=3"; "class=*" for each class; "train&class=*".
        With "class=*" the weighted mean sum_y p(y) I(X;T|Y=y) is added as the quantity "I(X;T|Y)" of the
        surrounding subset, except for estimators that return that quantity themselves. A class is
        estimated with what `prepare` found on the surrounding subset: T is the same for all classes.
    steps : sequence of int, optional
        Only these snapshots; what an estimator finds of the whole run (edges, scale) is found on all of them. By
        default every one.
    pairs : sequence of two layers each, optional
        `pairs=[("fc1", "fc4")]`: estimate pairs of layers instead of single ones. The second layer of a pair takes the
        place of the labels, and gives "I(T;T')" in the place of "I(T;Y)". Names and globs as in `layers`; the column
        `partner` names the second layer.
    against : "previous", "view=2", or another run, optional
        Where the second array of a pair is taken from: the step before, the second row of each input (a further noisy
        pass, or another view with the same input id), or another run of the same probe. Without `pairs` each layer is
        paired with itself.
        Estimators of Shannon information refuse a pair of functions of one X: docs/results.md.
    device : str or torch.device, optional
        By default CUDA where there is one, else the CPU.
    table : path, optional
        One CSV for all runs; by default `results.csv` in each run directory. The JSON of settings lies beside.
    block_bytes : int
        Memory that the snapshots estimated together may need, by the estimator's own account. An estimator that does
        not declare the guarantee `blocks` gets a fixed number of snapshots instead: its attribute `chunk`, else 1.
    progress : bool, optional
        False shows nothing. Otherwise a bar on a terminal or in a notebook, else a line a minute on stderr.
    jobs : int or concurrent.futures.Executor
        Spawned processes, or any executor, such as Dask's `client.get_executor(pure=False)` (`pure=True`, its
        default, would answer from memory). The table does not depend on it: each task uses one torch thread,
        so on a CPU with several cores give as many jobs. A script needs an `if __name__ == "__main__":` guard.

    Returns
    -------
    ResultTable
        The rows of this request, computed now or found in the table, and the recorded metrics, as they
        follow one another in the file.

    Raises
    ------
    ValueError
        For an unknown layer, subset, estimator or field, a run without snapshots, or when every layer was
        refused. What an estimator refuses on some layers is logged and listed in
        `table.meta["runs"][run]["skipped"]`, and the rest goes on. So does what is missing or damaged in the run,
        in `table.meta["runs"][run]["lost"]`: figures and reports say it.
    StoreError
        When a run cannot be read, or changes meanwhile.
    BlockingIOError
        When another process is writing the table.

    Notes
    -----
    Snapshots with NaN or infinite values get rows without a value and with the flag `nonfinite`. Rows are
    kept under the digest of the activations they came from: altered activations are estimated again.
    """
    choice: dict[str, Any] = {"layers": layers, "subsets": subsets, "steps": steps, "pairs": pairs, "against": against}
    how: dict[str, Any] = {"device": device, "block_bytes": block_bytes, "progress": progress, "jobs": jobs}
    done = _analyzed(run, estimators, table=table, **how, **choice)
    if table is None:
        tables = [each.table() for each in done]
        return tables[0] if len(tables) == 1 else ResultTable.concat(tables)
    [index, *_], orders = zip(*((each.index, each.order) for each in done), strict=True)
    return cast(TableIndex, index).table(sorted(set().union(*orders)))


def analyze_each(run: Any, estimators: Any = "binning", **options: Any) -> Iterator[ResultTable]:
    """Analyze runs as `analyze` does, but give the table of each run as soon as that run is done.

    So memory does not grow with the number of runs, unless `table` is given: then the rows of all runs stand in one
    CSV, and in memory. All runs are checked before the first is estimated, and they share the worker processes.

    Parameters
    ----------
    run, estimators, options
        As for `analyze`, which raises the same errors.

    Returns
    -------
    iterator of ResultTable
        In the order of the runs, each of them once. The worker processes end when it is exhausted.
    """
    done = _analyzed(run, estimators, **{**(analyze.__kwdefaults__ or {}), **options})
    return (each.table() for each in done)


def _analyzed(
    run: Any, estimators: Any, *, device: Any, table: Any, block_bytes: int, progress: Any, jobs: Any, **choice: Any
) -> Iterator[RunPlan]:
    """Return an iterator that yields each run when its last rows are written.

    A wrong request raises here, before any run is begun. `choice` holds `layers`, `subsets`, `steps`, `pairs` and
    `against`.
    """
    where = device_of(device)
    if block_bytes < 1:
        raise ValueError(f"block_bytes must be positive, got {block_bytes}")
    built = build_estimators(estimators)
    pairs, against = choice.pop("pairs"), choice.pop("against")
    choice["pairs"] = None if pairs is None and against is None else Pairs(pairs, against)
    checked: deque[Any] = deque()
    work = 0.0
    for given, store in _distinct(run):
        plan = RunPlan(store, **choice)
        work += plan.work(built)
        # The plans of the first runs are kept, with the runs open. Of later runs given by path only the path is kept,
        # and they are opened again in their turn.
        checked.append(given if len(checked) >= HELD_RUNS and given is not store else plan)

    def plans() -> Iterator[RunPlan]:
        """Yield the plan of each run in turn; runs of which only the path was kept are opened again."""
        while checked:
            plan = checked.popleft()
            yield plan if isinstance(plan, RunPlan) else RunPlan(open_run(plan), **choice)

    def finished() -> Iterator[RunPlan]:
        """Yield each run when it is done; table, executor and progress bar are open meanwhile."""
        with ExitStack() as stack:
            shared = None if table is None else TableIndex(stack.enter_context(open_table(csv_path(table))))
            stack.callback(torch.set_num_threads, torch.get_num_threads())  # puts the caller's number back at the end
            single_thread()
            executor, window = stack.enter_context(executor_of(jobs))
            bar = stack.enter_context(progress_bar(progress))
            bar.total = work
            analysis = Analysis(where, block_bytes, executor, window, bar)
            yield from analysis.run(plans(), built, shared)

    return finished()


def device_of(device: str | torch.device | None) -> str:
    """The name of a torch device, by default CUDA where there is one; ValueError for one that is not there."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"no device {device!r}; expected cpu, cuda or cuda:N") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, torch finds no CUDA; leave device out for the CPU")
    return str(found)


def open_runs(run: Any) -> list[ActivationStore]:
    """Stores of one run or several, each run once."""
    return [store for _, store in _distinct(run)]


def _distinct(run: Any) -> Iterator[tuple[Any, ActivationStore]]:
    """Yield (what was given, its store) for each run, once; ValueError for two copies of a run, or for no run."""
    paths: dict[str, Path] = {}
    for each in run if isinstance(run, list | tuple) else [run]:
        store = open_run(each) if isinstance(each, str | os.PathLike) else each
        known = paths.get(store.run_id)
        if known is None:
            paths[store.run_id] = store.path
            yield each, store
        elif os.path.abspath(known) != os.path.abspath(store.path):  # noqa: PTH100
            raise ValueError(f"{known} and {store.path} are copies of one run; give one of them")
    if not paths:
        raise ValueError("analyze needs at least one run, got an empty sequence")


def build_estimators(estimators: Any) -> list[Estimator]:
    """Estimators from specs, classes and instances, each once."""
    built: dict[tuple[str, str], Estimator] = {}
    for each in estimators if isinstance(estimators, list | tuple) else [estimators]:
        estimator = parse(each) if isinstance(each, str) else each() if isinstance(each, type) else each
        if not isinstance(estimator, Estimator):
            raise TypeError(f"expected an estimator or its spec as 'binning:n_bins=60', got {type(estimator).__name__}")
        built.setdefault((estimator.name, config_json(estimator)), estimator)
    if not built:
        raise ValueError("analyze needs at least one estimator, got none")
    return list(built.values())
