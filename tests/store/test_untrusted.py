"""A stranger's run: whatever reading it does to the process ends in one line, and it touches nothing outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from limited_calls import LimitedCalls
from store_cases import copy_run, record
from test_hostile import BAD, INDEXES, OBJECTS, rebuild

import infoplane
from infoplane.cli import main
from infoplane.core import StoreError
from infoplane.core.limited import Limits, ask, run_again
from infoplane.store import (
    UntrustedReader,
    is_foreign,
    limits_for,
    open_run,
    summarize,
    summarize_untrusted,
    verify_untrusted,
)

HERE = Path(__file__).parent


@pytest.fixture
def run(tmp_path: Path) -> Path:
    record(tmp_path / "run", [[0, 1], [5, 6]])
    (tmp_path / "run/manifest.jsonl").unlink()
    return tmp_path / "run"


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children know the jobs, and an infoplane whose command line is one of them."""
    package = tmp_path / "jobs/infoplane"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"__path__ = [{str(package)!r}, {str(Path(infoplane.__file__).parent)!r}]\n__version__ = '0'\n"
    )
    (package / "__main__.py").write_text(
        "import sys, json, bad_ends\n"
        "from infoplane.core import limited\n"
        "limited.take(limited.limits_of_this_process(), address_space=sys.argv[1] != 'hoard')\n"
        "try: found = getattr(bad_ends, sys.argv[1])(sys.argv[2])\n"
        "except MemoryError: sys.exit(limited.OUT_OF_MEMORY)\n"
        "except OSError as error: sys.exit((print(f'Error: {error}', file=sys.stderr), 2)[1])\n"
        "print(json.dumps(found))\n"
    )
    path = [str(package.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    return done.exit_code, done.output


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """As `call`, but what a child of it says is heard as well."""

    def made(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        code, text = call(*arguments)
        return code, text + "".join(capfd.readouterr())

    return made


LIMITS = Limits(memory_bytes=256 << 20, cpu_seconds=1, wall_seconds=8)
BAD_ENDS = [
    ("abort", LIMITS, "crashed (SIGABRT)"),
    ("fault", LIMITS, "crashed (SIGSEGV)"),
    ("allocate", Limits(256 << 20, 60, 60), "needed more than 256 MiB of memory"),
    ("sleep", Limits(wall_seconds=1), "took longer than 1 s"),
    ("close_and_sleep", Limits(wall_seconds=1), "took longer than 1 s"),
    ("spin", Limits(cpu_seconds=0.5, wall_seconds=60), "needed more than 0.5 s of processor time"),
    ("talk", Limits(wall_seconds=60), "gave an answer of more than 64 MiB"),
    ("babble", Limits(), "gave no answer"),
    ("silent", Limits(), "gave no answer"),
]


@pytest.mark.parametrize(("job", "limits", "why"), BAD_ENDS)
@pytest.mark.usefixtures("jobs")
def test_a_child_that_ends_badly_is_one_line(job, limits, why):
    with pytest.raises(StoreError) as caught:
        ask([job, "runs/theirs"], limits, "runs/theirs")
    assert str(caught.value) == f"runs/theirs: reading it {why}; do not trust this run"


@pytest.mark.parametrize(("job", "limits", "why"), BAD_ENDS[:4])
@pytest.mark.usefixtures("jobs")
def test_so_is_one_that_has_the_terminal_and_what_can_be_allowed_is_said(job, limits, why):
    with pytest.raises(StoreError) as caught:
        run_again([job, "runs/theirs"], limits, "runs/theirs")
    more = "" if "crashed" in why else ", or allow more with --max-memory and --max-time"
    assert str(caught.value) == f"runs/theirs: reading it {why}; do not trust this run{more}"


@pytest.mark.usefixtures("jobs")
def test_a_child_without_an_address_limit_is_watched():
    """As on a device other than the CPU: the memory that is resident counts."""
    with pytest.raises(StoreError, match="needed more than 100 MiB of memory"):
        ask(["hoard", "x"], Limits(memory_bytes=100 << 20), "x")


@pytest.mark.usefixtures("jobs")
def test_what_a_child_started_ends_with_it(tmp_path):
    with pytest.raises(StoreError, match="took longer"):
        run_again(["start_another", str(tmp_path / "pid")], Limits(wall_seconds=2), "x")
    until = time.monotonic() + 20
    started = int((tmp_path / "pid").read_text())
    while _lives(started) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _lives(started)


@pytest.mark.usefixtures("jobs")
def test_a_child_answers_and_writes_no_file(tmp_path):
    odd = tmp_path / "a b\n'\xe9"
    assert ask(["echo", str(odd)], Limits(), "x") == [str(odd), True]
    with pytest.raises(StoreError, match="File too large"):
        ask(["write", str(tmp_path)], Limits(), "x")
    assert (tmp_path / "left").read_bytes() == b""


COMMANDS = ["info", "verify", "estimate", "advise", "plot", "compare", "study", "animate", "report", "watch", "export"]


def test_every_command_that_reads_a_run_can_do_so_in_a_child():
    for name, known in main.commands.items():
        reads = {"run", "runs"} & {parameter.name for parameter in known.params}
        assert (name in COMMANDS) == bool(reads) == ("untrusted" in {parameter.name for parameter in known.params})


@pytest.mark.parametrize("name", COMMANDS)
def test_a_limit_ends_the_command_with_one_line_and_exit_code_2(run, tmp_path, name):
    out = ["-o", tmp_path / "out.csv"] if name == "export" else []
    assert call(name, "--untrusted", "--max-time", 0.0001, run, *out) == (
        2, f"Error: {run}: reading it took longer than 0.0001 s; do not trust this run, or allow more with "
           "--max-memory and --max-time\n",
    )  # fmt: skip


def test_a_good_run_reads_the_same(run, command):
    for arguments in (("info", run), ("info", run, "--json"), ("verify", run), ("verify", run, "--json")):
        assert command(*arguments, "--untrusted") == call(*arguments)
    assert str(summarize_untrusted(run)) == str(summarize(open_run(run)))
    assert verify_untrusted(run) == []


@pytest.mark.slow
def test_a_run_is_analysed_and_drawn_in_a_child(run, tmp_path, command):
    """All options arrive, in front of the command and behind it, and what is written is the same."""
    words = ["-q", "estimate", run, "-e", "binning:n_bins=4", "-t"]
    there, here = tmp_path / "there.csv", tmp_path / "here.csv"
    code, text = command(*words, there, "--untrusted")
    assert (code, text.splitlines()[0]) == (0, f"{there}: 64 rows")
    assert call(*words, here) == (0, text.replace(str(there), str(here)))
    assert there.read_bytes() == here.read_bytes()
    assert call("-q", "estimate", run)[0] == 0
    assert command("export", "--untrusted", run, "-o", tmp_path / "all.csv")[0] == 0
    assert command("plot", "--untrusted", run, "-o", tmp_path / "plane.svg") == (0, f"{tmp_path / 'plane.svg'}\n")
    assert (tmp_path / "plane.svg").read_text().startswith("<?xml")


def test_ctrl_c_goes_to_the_child(run, tmp_path):
    """Its exit status, 130, and what it says are those of the command."""
    many = [run, "-e", "knn", "-e", "kde:null_draws=200", "-e", "renyi", "-t", tmp_path / "t.csv"]
    words = [sys.executable, "-m", "infoplane", "estimate", "--untrusted", *map(str, many)]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "t.csv").exists() and time.monotonic() < until:
        time.sleep(0.002)
    parent.send_signal(signal.SIGINT)
    said = parent.communicate(timeout=60)[1]
    assert parent.returncode in (0, 130)  # 0: it was done before the signal came
    assert "Traceback" not in said
    assert ("interrupted" in said) == (parent.returncode == 130)


def test_damage_and_a_run_that_cannot_be_opened_read_the_same(run, command):
    shard = run / "shards" / BAD
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    assert verify_untrusted(run) == open_run(run).verify() != []
    assert command("verify", "--untrusted", run) == call("verify", run)
    (run / "probe.h5").write_bytes(b"x")
    for name in ("info", "verify"):
        code, text = command(name, "--untrusted", run)
        assert (code, text.count("\n")) == (2, 1)
        assert (code, text) == call(name, run)


def test_a_reader_of_many_runs_goes_on_after_a_bad_one(run, tmp_path):
    with UntrustedReader() as reader:
        assert [reader.verify(run), reader.summarize(run).to_json()["steps"]] == [[], [0, 1, 5, 6]]
        with pytest.raises(StoreError, match="not a run directory"):
            reader.summarize(tmp_path / "none")
        with pytest.raises(StoreError, match=r"took longer than 0\.001 s"):
            reader.verify(run, Limits(wall_seconds=0.001))
        assert reader.verify(run) == []


def test_limits_grow_with_the_runs(run):
    one, two = limits_for([run]), limits_for([run, run], work_seconds=100.0)
    assert Limits().cpu_seconds < one.cpu_seconds < two.cpu_seconds - 100.0
    assert limits_for([run], memory_bytes=5, seconds=7.0) == Limits(5, 7.0, 7.0)


def _lives(process: int) -> bool:
    """Whether a process is more than an entry in the table."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_what_belongs_to_another_user_is_read_in_a_child(run, tmp_path, monkeypatch):
    assert not is_foreign(run)
    assert not is_foreign(tmp_path / "none")
    me, short = os.geteuid(), ["--max-time", 0.0001]
    assert call("info", *short, run)[0] == call("verify", *short, run)[0] == 0
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert is_foreign(run)
    for name in COMMANDS[:-1]:
        assert "took longer than 0.0001 s" in call(name, *short, run)[1]
    for name in ("info", "verify"):
        assert call(name, "--trusted", *short, run)[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.full
@pytest.mark.parametrize("name", ["run.json", "shards", f"shards/{BAD}", "sessions/0001.json", "."])
def test_one_file_of_another_user_is_enough(run, name):
    os.chown(run / name, 12345, -1)
    assert is_foreign(run)


def test_a_run_is_shown_without_control_characters(run):
    from infoplane.store._records import load_sealed, seal_json

    record_ = load_sealed((run / "run.json").read_bytes()) | {"run_id": "\x1b[31mred\u202e"}
    (run / "run.json").write_bytes(seal_json(record_))
    assert call("info", run) == (2, "Error: probe.h5: it is not the probe of run \\x1b[31mred\\u202e\n")


@pytest.mark.parametrize("case", ["soft link", "never stored", "variable length", "huge rows", "deep JSON"])
def test_a_hostile_shard_is_named_in_one_line(run, case, command):
    if case in OBJECTS:
        rebuild(run / "shards" / BAD, after=OBJECTS[case][0])
    else:
        rebuild(run / "shards" / BAD, INDEXES[case][0])
    code, text = command("verify", "--untrusted", run)
    assert code == 1
    first, last = text.splitlines()
    assert first.startswith(f"shards/{BAD}: ")
    assert last == f"{run}: 1 problems"


AUDIT = """
import json, os, sys
from infoplane.core import StoreError
from infoplane.store import open_run

inside, bad, opened = None, [], 0
FORBIDDEN = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "os.forkpty",
             "ctypes.dlopen", "exec", "compile", "import", "pickle.find_class", "marshal.loads", "socket.connect",
             "os.remove", "os.rename", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}

def hook(event, arguments):
    global opened
    if inside is None:
        return
    if event in FORBIDDEN:
        bad.append([event, repr(arguments)])
    elif event in ("open", "os.listdir", "os.scandir"):
        opened += 1
        path = arguments[0]
        if isinstance(path, int):
            return
        path = os.path.abspath(os.fsdecode(path))
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes or os.path.commonpath([path, inside]) != inside:
            bad.append([event, path])

def libraries():
    with open("/proc/self/maps") as file:
        return {line.split()[-1] for line in file if ".so" in line}

def read(path):
    try:
        store = open_run(path)
        return len(store.problems) + len(store.verify())
    except StoreError:
        return 1

warm, *paths = sys.argv[1:]
assert read(warm) > 0
sys.addaudithook(hook)
loaded = libraries()
rejected = 0
for path in paths:
    inside = os.path.abspath(path)
    found = read(path)
    inside = None
    rejected += found > 0
print(json.dumps({"opened": opened, "bad": bad, "loaded": sorted(libraries() - loaded), "rejected": rejected}))
"""


def test_reading_hostile_runs_opens_nothing_outside_and_runs_nothing(tmp_path, capsys):
    record(tmp_path / "good", [[0, 1], [5, 6]])
    (tmp_path / "good/manifest.jsonl").unlink()
    warm = copy_run(tmp_path / "good", tmp_path / "warm")  # what is imported only for a problem is imported here
    rebuild(warm / "shards" / BAD, after=OBJECTS["soft link"][0])
    os.mkfifo(tmp_path / "trap")
    paths = []
    for number, case in enumerate([*OBJECTS, *INDEXES, "outside", "link", "pipe", "probe", "run"]):
        path = copy_run(tmp_path / "good", tmp_path / f"hostile-{number}")
        shard = path / "shards" / BAD
        if case in OBJECTS:
            rebuild(shard, after=OBJECTS[case][0])
        elif case in INDEXES:
            rebuild(shard, INDEXES[case][0])
        elif case == "outside":
            import h5py

            rebuild(shard, after=lambda file: file.__setitem__("x", h5py.ExternalLink(str(tmp_path / "trap"), "/x")))
        elif case == "link":
            shard.unlink()
            shard.symlink_to(tmp_path / "trap")
        elif case == "pipe":
            shard.unlink()
            os.mkfifo(shard)
        else:
            name = {"probe": "probe.h5", "run": "run.json"}[case]
            (path / name).unlink()
            (path / name).symlink_to(tmp_path / "good" / name)
        paths.append(path)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(warm), *map(str, paths)],
        env={**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bad"] == []
    assert found["loaded"] == []
    assert found["rejected"] == len(paths)
    assert found["opened"] > 5 * len(paths)
    with capsys.disabled():
        print(f"\n  hostile runs rejected {found['rejected']}/{len(paths)}; {found['opened']} opens, outside 0, "
              f"libraries loaded 0, programs run 0; {time.monotonic() - began:.1f} s")  # fmt: skip


def test_every_hostile_shard_reads_the_same_in_a_child(run, monkeypatch, capsys):
    shard = run / "shards" / BAD
    original = shard.read_bytes()
    slowest = 0.0
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    with LimitedCalls() as calls:
        for case in [*OBJECTS, *INDEXES]:
            shard.write_bytes(original)
            rebuild(shard, INDEXES.get(case, (None,))[0], after=OBJECTS.get(case, (None,))[0])
            began = time.monotonic()
            limits = Limits(memory_bytes=256 << 20, cpu_seconds=10, wall_seconds=60)
            found = calls.call("untrusted_jobs:verify", run, limits)
            slowest = max(slowest, time.monotonic() - began)
            assert len(found) == 1
            assert found[0].startswith(f"shards/{BAD}: ")
            assert found == list(map(str, open_run(run).verify()))
    with capsys.disabled():
        print(f"\n  hostile shards in a child of 256 MiB: {len(OBJECTS) + len(INDEXES)} named as without it, over time "
              f"0, over memory 0; slowest {slowest:.2f} s")  # fmt: skip
