"""`infoplane watch`: the page grows with the recording, and nobody else gets it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from infoplane import Recorder, _watch, analyze, cli, store
from infoplane.hooks import every

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 2


@contextlib.contextmanager
def recording(path: Path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with Recorder(model, (X, Y), path, quiet=True, initial=False, schedule=every(1)) as recorder:
        yield model, recorder


def recorded(path: Path, steps=(0, 1, 2)) -> Path:
    with recording(path) as (_, recorder):
        for step in steps:
            recorder.snapshot(step)
    return path


class Watching:
    """`infoplane watch` in a process of its own, whose temporary files are in `folder`."""

    def __init__(self, run: Path, folder: Path, *words: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "infoplane", "watch", str(run), "--every", "0.2", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder)},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = urlsplit(self.process.stdout.readline().strip())

    def get(self, path: str | None = None, method: str = "GET", **headers: str) -> tuple[int, str]:
        return ask(self.url.port, self.url.path if path is None else path, method, **headers)

    def until(self, words: str) -> str:
        """The page, when it says this."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            status, page = self.get()
            assert status == 200
            if re.search(words, page):
                return page
            time.sleep(0.1)
        raise AssertionError(f"the page never said {words!r}: {page[:2000]}")

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        said = "".join(self.process.communicate(timeout=30))
        return self.process.returncode, said


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        if value:
            connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.fixture
def watching(tmp_path):
    found = []

    def start(run: Path, *words: str) -> Watching:
        found.append(Watching(run, tmp_path / "temporary", *words))
        return found[-1]

    yield start
    for one in found:
        one.process.kill()
        one.process.communicate()


def files_of(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def test_the_page_grows_with_the_recording(tmp_path, watching):
    run = tmp_path / "growing"
    with recording(run) as (model, recorder):
        watched = watching(run, "-e", "binning:n_bins=4")
        page = watched.until("no snapshot yet, and this page waits for the first one")
        assert "growing is being recorded" in page
        assert 'http-equiv="refresh" content="1"' in page
        recorder.snapshot(0)
        recorder.flush()
        page = watched.until(r"1 \(0 to 0\)")
        assert "n_bins = 4, null_draws" in page
        assert "growing is being recorded" in page
        number = re.search('data-number="([0-9]+)"', page)[1]
        assert watched.get(If_None_Match=f'"{number}"') == (304, "")
        with torch.no_grad():
            model[0].weight *= 3  # the range of the layers grows, and with it every number
        recorder.snapshot(10)
        recorder.flush()
        page = watched.until(r"2 \(0 to 10\)")
        assert int(re.search('data-number="([0-9]+)"', page)[1]) > int(number)
    watched.until("growing is closed")
    before = files_of(run)
    assert "results.csv" not in before
    code, said = watched.stop()
    assert code == 130
    assert "growing is being recorded" in said
    assert "growing is closed" in said
    assert files_of(run) == before
    assert list(watched.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_closed_run_is_served_and_nothing_is_left(tmp_path, watching, number, code):
    run = recorded(tmp_path / "done")
    analyze(run, "kde", progress=False)
    before = files_of(run)
    watched = watching(run)
    page = watched.until("done is closed: nothing more comes")
    assert ">kde<" in page  # what the run's own table has
    assert ">binning<" in page
    assert watched.stop(number)[0] == code
    assert list(watched.folder.iterdir()) == []
    assert files_of(run) == before


def test_what_was_estimated_before_is_not_estimated_again(tmp_path, monkeypatch):
    run = recorded(tmp_path / "run")
    analyze(run, "binning", progress=False)
    monkeypatch.setattr("infoplane.analysis.plan.run_task", lambda *args, **kwargs: pytest.fail("estimated again"))
    state, table = _watch.look(run, tmp_path / "results.csv", ["binning"], {})
    assert state == "run is closed: nothing more comes unless its recording goes on"
    assert set(table["step"]) == {0, 1, 2}


def test_a_run_that_was_left_says_so(tmp_path):
    run = recorded(tmp_path / "run")
    sessions = sorted((run / "sessions").iterdir())
    text = sessions[0].read_text()
    assert text.count('"closed":true') == 1
    assert _watch.state_of(store.open_run(run)).startswith("run is closed")
    with recording(tmp_path / "open") as (_, recorder):
        recorder.snapshot(0)
        recorder.flush()
        held = tmp_path / "open" / "writer.r000.lock"
        assert _watch.state_of(store.open_run(tmp_path / "open")) == "open is being recorded"
        aside = held.rename(tmp_path / "lock")
        assert _watch.state_of(store.open_run(tmp_path / "open")) == "open was not closed, and no process records it"
        aside.rename(held)


@pytest.fixture
def server():
    with _watch.serving() as one:
        one.publish("words", None, 5)
        yield one


def test_only_the_page_is_served_and_only_to_its_address(server):
    path = server.path
    status, page = ask(server.port, path)
    assert status == 200
    assert "words; as of " in page
    assert ask(server.port, path, Host=f"localhost:{server.port}")[0] == 200
    assert len(path) > 30
    with _watch.serving() as other:
        assert other.path != path


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.1.evil.example:{port}",
     "[::1]:{port}", "LOCALHOST.:{port}", ""],
)  # fmt: skip
def test_a_request_that_names_another_host_is_refused(server, host):
    """A site whose name leads to this machine sends its own name."""
    status, page = ask(server.port, server.path, Host=host.format(port=server.port))
    assert (status, page) == (403, "Forbidden\n")


@pytest.mark.parametrize(
    "path",
    ["/", "/x/", "{path}x", "{path}../", "{path}?x", "{path}results.csv", "/%2e%2e/", "http://127.0.0.1{path}", "*"],
)
def test_every_other_path_is_refused(server, path):
    asked = path.format(path=server.path)
    status, page = ask(server.port, asked, Host=f"127.0.0.1:{server.port}")
    assert (status, page) == (404, "Not Found\n")


def test_a_part_of_the_token_is_no_token(server):
    for cut in (server.path[:-2], server.path[:-1], server.path.upper(), server.path[1:]):
        assert ask(server.port, cut)[0] in (400, 404)


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "GETT"])
def test_every_other_method_is_refused(server, method):
    status, page = ask(server.port, server.path, method)
    assert status == 501
    assert page in ("", "Not Implemented\n")


def test_two_hosts_and_none_are_refused(server):
    for lines in ("", f"Host: 127.0.0.1:{server.port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            raw.sendall(f"GET {server.path} HTTP/1.1\r\n{lines}\r\n".encode())
            said = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))
        assert said.startswith(b"HTTP/1.0 403 Forbidden")
        assert b"words" not in said


def test_what_comes_with_an_answer(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", server.path)
    answer = connection.getresponse()
    answer.read()
    found = {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    assert found["cache-control"] == "no-store"
    assert found["referrer-policy"] == "no-referrer"
    assert found["cross-origin-resource-policy"] == "same-origin"
    assert found["content-security-policy"] == "frame-ancestors 'none'"
    assert "access-control-allow-origin" not in found
    assert found["server"].strip() == "infoplane"


def test_only_the_loopback_address_listens(server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_server_that_has_ended_leaves_no_thread_and_no_port():
    before = threading.active_count()
    with _watch.serving() as server:
        port = server.port
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, ["watch", *map(str, words)])
    return result.exit_code, result.output + result.stderr


def test_what_cannot_be_watched_is_one_line(tmp_path):
    assert call(tmp_path / "none")[0] == 2
    run = recorded(tmp_path / "run")
    code, said = call(run, "-e", "bining")
    assert (code, "binning" in said) == (2, True)
    code, said = call(run, "-l", "nosuch*")
    assert (code, "0, 1, 2" in said) == (2, True)
    with _watch.serving() as server:
        code, said = call(run, "--port", server.port)
        assert (code, "in use" in said) == (2, True)


@pytest.mark.slow
def test_an_untrusted_run_is_watched_in_a_child(tmp_path, watching):
    run = recorded(tmp_path / "run")
    watched = watching(run, "--untrusted")
    watched.until("run is closed")
    code, _ = watched.stop()
    assert code == 130
    assert list(watched.folder.iterdir()) == []


def test_the_temporary_table_keeps_only_what_is_current(tmp_path):
    """With each growth of the range every number is new; the old ones would fill the disk."""
    run, table = tmp_path / "run", Path(tempfile.mkdtemp(dir=tmp_path)) / "results.csv"
    with recording(run) as (model, recorder):
        for step in range(4):
            with torch.no_grad():
                model[0].weight *= 2
            recorder.snapshot(step)
            recorder.flush()
            _, found = _watch.look(run, table, ["binning"], {})
            assert len(table.read_text().splitlines()) == 1 + len(found) == 1 + len(found.current())
