"""From recorded activations to a results table: every layer, every snapshot, any estimator, resumable.

The work is cut into tasks, one block of snapshots of one layer, subset and estimator each. Tasks are done in
any process; their rows are written by this one alone, in the order of the tasks and synced after each. An
analysis that was stopped at any moment goes on where it was, and its table is byte for byte the one that an
uninterrupted analysis writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from infoplane.analysis._index import TableIndex
from infoplane.analysis._progress import progress_of
from infoplane.analysis._request import build_estimators, device_of, open_runs
from infoplane.analysis._schedule import RunWork, Schedule
from infoplane.analysis._tasks import opened, single_thread
from infoplane.analysis._workers import executor_of
from infoplane.results import ResultTable, TableWriter
from infoplane.results._files import csv_path
from infoplane.store import ActivationStore


def analyze(
    run: str | os.PathLike[str] | ActivationStore | Sequence[str | os.PathLike[str] | ActivationStore],
    estimators: Any = "binning",
    *,
    layers: str | Sequence[str] | None = None,
    subsets: str | Sequence[str] = ("all",),
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
        the table.
    subsets : names
        "all"; a part of the probe ("train", "test"); "class=3"; "class=*" for each class; "train&class=*".
        With "class=*" the weighted mean sum_y p(y) I(X;T|Y=y) is added as the quantity "I(X;T|Y)" of the
        surrounding subset, except for estimators that return that quantity themselves. A class is
        estimated with what `prepare` found on the surrounding subset: T is the same for all classes.
    device : str or torch.device, optional
        By default CUDA where there is one, else the CPU.
    table : path, optional
        One CSV for all runs; by default `results.csv` in each run directory. The JSON of settings lies beside.
    block_bytes : int
        Memory that the snapshots estimated together may need, by the estimator's own account.
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
    where = device_of(device)
    if block_bytes < 1:
        raise ValueError(f"block_bytes must be positive, got {block_bytes}")
    built = build_estimators(estimators)
    runs = [RunWork.plan(store, layers, subsets) for store in open_runs(run)]
    with ExitStack() as stack:
        indices: dict[Path, TableIndex] = {}
        for each in runs:
            path = csv_path(table if table is not None else each.store.path)
            if path not in indices:
                indices[path] = TableIndex(stack.enter_context(_writer(path)))
            each.index = indices[path]
            stack.enter_context(opened(each.path, each.fingerprint, each.store))
        stack.enter_context(_one_thread())
        executor, window = stack.enter_context(executor_of(jobs))
        shown = progress_of(progress)
        stack.callback(shown.close)
        for each in runs:
            each.describe(built)
        try:
            Schedule(built, where, block_bytes, executor, window, shown).go(runs)
        finally:
            for each in runs:
                each.note_refusals(built)
                each.note_losses()
    tables = [index.table(sorted({n for r in runs if r.index is index for n in r.order})) for index in indices.values()]
    if not any(r.estimated for r in runs):
        reasons = list(dict.fromkeys(refusal["reason"] for r in runs for refusal in r.refusals))
        raise ValueError(f"nothing could be estimated: {'; '.join(reasons[:3]) or 'no layer has a snapshot'}")
    return tables[0] if len(tables) == 1 else ResultTable.concat(tables)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    single_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _writer(path: Path) -> TableWriter:
    try:
        return TableWriter(path)
    except PermissionError as error:
        error.add_note("give table=PATH, or --table PATH on the command line, to keep the results elsewhere")
        raise
