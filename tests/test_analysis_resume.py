"""An analysis stopped at any moment and resumed writes the bytes of one that was not."""

from __future__ import annotations

import math
import random
import time
from concurrent.futures import ThreadPoolExecutor

import analysis_cases
import pytest
from analysis_cases import STOP, Deadly, Spread, Together, child, die, make_run, request
from processes import fork_server

from infoplane.analysis import analyze, analyze_each
from infoplane.results import ResultTable
from infoplane.results._csv import whole_lines


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", bad={(1, 2)})


@pytest.fixture
def whole(run, tmp_path):
    request(run, tmp_path / "whole.csv")
    return (tmp_path / "whole.csv").read_bytes()


def cuts(data, count, seed):
    """Ends of lines, which tear tasks and snapshots apart, and places within lines."""
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    random_of = random.Random(seed)
    return [0, ends[0], *random_of.sample(ends, count), *random_of.sample(range(len(data)), count // 3)]


@pytest.mark.parametrize("count", [6, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kept_meta", [False, True])
def test_cut_anywhere(run, whole, tmp_path, kept_meta, count):
    """Cut by a killed writer (whose JSON is older than the table) or behind our back (JSON of the whole table)."""
    table = tmp_path / "cut.csv"
    meta = (tmp_path / "whole.json").read_bytes()
    for length in cuts(whole, count, seed=kept_meta):
        table.write_bytes(whole[:length])
        if kept_meta:
            table.with_suffix(".json").write_bytes(meta)
        else:
            table.with_suffix(".json").unlink(missing_ok=True)
        found = request(run, table)
        assert table.read_bytes() == whole, f"cut at byte {length}"
        assert len(found) == whole.count(b"\n") - 1


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_cut_at_every_line(run, whole, tmp_path):
    table = tmp_path / "cut.csv"
    for length in (i + 1 for i, byte in enumerate(whole) if byte == 10):
        table.write_bytes(whole[:length])
        table.with_suffix(".json").unlink(missing_ok=True)
        request(run, table)
        assert table.read_bytes() == whole, f"cut at byte {length}"


def test_cut_and_resumed_by_threads(run, whole, tmp_path):
    table = tmp_path / "cut.csv"
    with ThreadPoolExecutor(2) as pool:
        for length in cuts(whole, 6, seed=2):
            table.write_bytes(whole[:length])
            table.with_suffix(".json").unlink(missing_ok=True)
            request(run, table, jobs=pool)
            assert table.read_bytes() == whole, f"cut at byte {length}"


def test_what_is_finished_is_not_done_again(run, tmp_path, monkeypatch):
    """Ctrl-C at any call: on resuming, only the block in hand is estimated a second time."""
    log, table = tmp_path / "log", tmp_path / "t.csv"
    arguments = {"subsets": ("all", "test"), "block_bytes": 2000, "progress": False, "table": table}
    analyze(run, Spread(log=str(log)), **arguments)
    calls, whole = log.read_text(), table.read_bytes()
    # Two layers of six snapshots, one of them refused, on two subsets; the subsets are prepared apart.
    assert sorted(calls) == ["e"] * 22 + ["p"] * 4
    for stop in range(1, len(calls) + 1):
        for file in (log, table, table.with_suffix(".json")):
            file.unlink(missing_ok=True)
        monkeypatch.setitem(STOP, "after", stop)
        with pytest.raises(KeyboardInterrupt):
            analyze(run, Spread(log=str(log)), **arguments)
        monkeypatch.setitem(STOP, "after", math.inf)
        assert whole.startswith(table.read_bytes())
        assert ResultTable.read(table).meta["runs"]
        analyze(run, Spread(log=str(log)), **arguments)
        assert table.read_bytes() == whole, f"stopped at call {stop}"
        assert log.read_text().count("e") <= 22 + 2


def test_finished_analysis_prepares_and_estimates_nothing(run, tmp_path):
    log = tmp_path / "log"
    for expected in ("some", ""):
        analyze(run, Spread(log=str(log)), subsets=("all", "class=*"), progress=False)
        text = log.read_text()
        assert bool(text) == bool(expected)
        log.write_text("")


# Estimators that estimate several snapshots as one


def together(path, table, jobs=1, block_bytes=10**9):
    return analyze(
        path, Together(), subsets=("all", "class=*"), block_bytes=block_bytes, progress=False, jobs=jobs, table=table
    )


def stopped_anywhere(run, whole, table, start=0):
    """Cut at the ends of lines from byte `start` on, spread over all chunks, and within lines; then resumed."""
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10 and i + 1 >= start]
    with ThreadPoolExecutor(2) as pool:
        for number, length in enumerate([*ends[::5], *(end - 20 for end in ends[1::17])]):
            table.write_bytes(whole[:length])
            table.with_suffix(".json").unlink(missing_ok=True)
            together(run, table, jobs=pool if number % 2 else 1, block_bytes=(1, 3000, 10**9)[number % 3])
            assert table.read_bytes() == whole, f"cut at byte {length}"


def values(table, step):
    rows = table.select(layer="fc0", subset="all", quantity="I(X;T)", step=step)
    return rows.value.tolist()


@pytest.mark.usefixtures("warm_workers")
def test_chunks_are_the_same_wherever_they_were_stopped(tmp_path):
    run = make_run(tmp_path / "run", bad={(1, 2)})
    table = together(run, tmp_path / "whole.csv")
    whole = (tmp_path / "whole.csv").read_bytes()
    # Six snapshots are chunks of four and two, on the whole layer and with one of the four left out.
    assert [int(values(table, step)[0]) for step in range(6)] == [4, 4, 4, 4, 2, 2]
    other = table.select(layer="fc1", subset="all", quantity="I(X;T)", step=[0, 1, 3])
    assert other.value.astype(int).tolist() == [3, 3, 3]
    together(run, tmp_path / "two.csv", jobs=2, block_bytes=1)
    assert (tmp_path / "two.csv").read_bytes() == whole
    stopped_anywhere(run, whole, tmp_path / "cut.csv")


@pytest.mark.usefixtures("warm_workers")
def test_a_run_that_has_grown_keeps_the_rows_of_its_last_chunk(tmp_path):
    run = make_run(tmp_path / "run")
    before = together(run, tmp_path / "whole.csv")
    short = (tmp_path / "whole.csv").read_bytes()
    make_run(run, steps=range(6, 10), resume=True)
    (tmp_path / "two.csv").write_bytes(short)
    after = together(run, tmp_path / "whole.csv")
    whole = (tmp_path / "whole.csv").read_bytes()
    assert whole.startswith(short)
    assert [values(after, step) for step in range(6)] == [values(before, step) for step in range(6)]
    # The new rows are of chunks counted from the first step: steps 4 to 7 together, then 8 and 9.
    assert [int(values(after, step)[0]) for step in range(6, 10)] == [4, 4, 2, 2]
    together(run, tmp_path / "two.csv", jobs=2, block_bytes=1)
    assert (tmp_path / "two.csv").read_bytes() == whole
    stopped_anywhere(run, whole, tmp_path / "cut.csv", start=len(short))


def killed(context, arguments, target, seconds):
    """Kill an analysis `seconds` after its table has grown to `target` bytes; True unless it was through before."""
    table = arguments[1]
    started = context.Event()
    process = context.Process(target=child, args=(*arguments, started))
    process.start()
    assert started.wait(60)
    while process.is_alive() and (not table.exists() or table.stat().st_size < target):
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    process.join(60)
    assert process.exitcode in (0, -9)
    return process.exitcode == -9


def kills(run, whole, tmp_path, wanted, seed):
    """SIGKILL at random moments, up to three times in a row, then one analysis to the end; again and again."""
    context = fork_server()
    chance = random.Random(seed)
    table = tmp_path / "killed.csv"
    done = with_rows = 0
    while done < wanted:
        table.unlink(missing_ok=True)
        table.with_suffix(".json").unlink(missing_ok=True)
        for target in sorted(chance.randrange(len(whole)) for _ in range(3)):
            stopped = killed(context, (run, table), target, chance.uniform(0, 0.02))
            done += stopped
            with_rows += stopped and len(ResultTable.read(table)) > 0
            assert whole.startswith(whole_lines(table.read_bytes()))
        request(run, table)
        assert table.read_bytes() == whole, f"after {done} kills, seed {seed}"
    print(f"kills survived {done}/{done}, of these {with_rows} with rows on the disk")
    return with_rows


def test_killed_and_resumed(run, whole, tmp_path):
    assert kills(run, whole, tmp_path, wanted=12, seed=0) > 0


@pytest.mark.full
@pytest.mark.timeout(3000)
def test_killed_and_resumed_two_hundred_times(run, whole, tmp_path):
    assert kills(run, whole, tmp_path, wanted=200, seed=1) > 50


@pytest.mark.usefixtures("warm_workers")
def test_died_worker_is_reported_and_rows_stay(run, tmp_path, monkeypatch):
    """A worker killed for want of memory ends the analysis with a line that says so; resuming works."""
    from concurrent.futures.process import BrokenProcessPool

    table = tmp_path / "t.csv"
    monkeypatch.setattr("infoplane.analysis.plan.estimate", die)
    with pytest.raises(BrokenProcessPool) as caught:
        request(run, table, jobs=2)
    assert any("fewer jobs or smaller block_bytes" in note for note in caught.value.__notes__)
    monkeypatch.undo()
    request(run, table)
    request(run, tmp_path / "whole.csv")
    assert table.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.usefixtures("warm_workers")
def test_a_lost_worker_costs_its_task_only(tmp_path, caplog):
    """What the other process and the other runs do is not done twice, and the tables are those of one process."""
    runs = [make_run(tmp_path / name, seed=i) for i, name in enumerate("abc")]
    log, fuse = tmp_path / "log", tmp_path / "fuse"
    estimator = Deadly(log=str(log), fuse=str(fuse))

    def tables(jobs):
        log.write_text("")
        for each in analyze_each(runs, estimator, progress=False, jobs=jobs):
            assert len(each) == 42
        found = [(run / "results.csv").read_bytes() for run in runs]
        for run in runs:
            (run / "results.csv").unlink()
            (run / "results.json").unlink()
        return found, sorted(log.read_text())

    assert not fuse.exists()
    with_a_loss = tables(2)
    assert fuse.exists()
    assert [record.message for record in caplog.records] == ["a worker process died; its task is done again"]
    assert with_a_loss == tables(1)


@pytest.mark.extra
def test_dask_workers_write_the_same_bytes(run, whole, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    for name, value in vars(analysis_cases).copy().items():
        monkeypatch.setattr(analysis_cases, name, value)  # an upload reloads it here, too; put back at the end
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.upload_file(analysis_cases.__file__)  # where `Spread` is; an installed estimator is there already
        request(run, tmp_path / "dask.csv", jobs=client.get_executor(pure=False))
    assert (tmp_path / "dask.csv").read_bytes() == whole
