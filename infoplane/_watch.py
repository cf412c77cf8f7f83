"""`infoplane watch`: the report of a run that is being recorded, made anew as it grows, for a browser on this machine.

The page is served on the loopback address alone. Any program and any page in the browser can ask there, so the address
holds a random token, and a request has to be meant for this server by its Host header: a site whose name leads here
(DNS rebinding) is refused.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from infoplane.analysis import analyze, build_estimators
from infoplane.core.errors import StoreError
from infoplane.core.files import is_held
from infoplane.core.interrupts import handled
from infoplane.report.page import Watched, page_of, waiting_page
from infoplane.results import ResultTable, csv_path, read_table
from infoplane.store import ActivationStore, open_run
from infoplane.store.layout import SESSIONS_DIR, SHARDS_DIR, lock_file

HOST, TITLE = "127.0.0.1", "Information plane"
IDLE_SECONDS = 10.0
"""A connection that says nothing for so long is closed."""
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class PageServer(ThreadingTCPServer):
    """Serves one page at one address with a token, to requests that name this host; `publish` replaces the page."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        """Listen on this port, or a free one for 0, at an address with a new token."""
        super().__init__((HOST, port), PageRequest)
        self.path = f"/{secrets.token_urlsafe(24)}/"
        self.port: int = self.server_address[1]
        self.url = f"http://{HOST}:{self.port}{self.path}"
        self.page, self.number = b"", 0

    def publish(self, state: str, table: ResultTable | None, every: float) -> None:
        """Serve the report of this table from now on; without a table, a page that says `state` and waits for one.

        The page asks for a newer one every `every` seconds.
        """
        watched = Watched(f"{state}; as of {time.strftime('%H:%M:%S')}", every, self.number + 1)
        page = waiting_page(watched) if table is None else page_of(table, TITLE, watched)
        self.page, self.number = page.encode(), watched.number

    def refusal(self, path: str, headers: Message) -> HTTPStatus | None:
        """The status with which a request is refused, None where it is to be answered."""
        # Refuse any other host name: it belongs to a web site that made its name lead to this machine (DNS rebinding).
        if headers.get_all("Host") not in ([f"{HOST}:{self.port}"], [f"localhost:{self.port}"]):
            return HTTPStatus.FORBIDDEN
        if not hmac.compare_digest(path.encode(), self.path.encode()):
            return HTTPStatus.NOT_FOUND
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a browser may close its connection at any time."""


class PageRequest(BaseHTTPRequestHandler):
    """GET of the page; every other method is refused by the base class, which knows no `do_POST`."""

    server: PageServer
    timeout = IDLE_SECONDS
    server_version, sys_version = "infoplane", ""

    def do_GET(self) -> None:
        """Send the page; status 304 without it if the browser has the newest one, an error if it may not ask."""
        page, tag = self.server.page, f'"{self.server.number}"'
        why = self.server.refusal(self.path, self.headers)
        if why is not None:
            self.send_error(why)
        elif self.headers.get("If-None-Match") == tag:
            self._answer(HTTPStatus.NOT_MODIFIED, b"", tag)
        else:
            self._answer(HTTPStatus.OK, page, tag)

    def _answer(self, status: HTTPStatus, body: bytes, tag: str = "") -> None:
        """Send status, headers and body; `tag` is the number of the page, by which a browser asks for a newer one."""
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if tag:
            self.send_header("ETag", tag)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with the status alone: nothing of what was asked for comes back."""
        self.close_connection = True
        self._answer(HTTPStatus(code), f"{HTTPStatus(code).phrase}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Log no requests: the line would hold the token."""


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[PageServer]:
    """Run a server in a thread of its own until the block ends; yield the server."""
    with PageServer(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def watch(
    run: Path,
    estimators: Sequence[str] = ("binning",),
    *,
    port: int = 0,
    every: float = 5.0,
    echo: Callable[[str], Any] = print,
    **asked: Any,
) -> None:
    """Serve the report of a run and make it anew as the run grows, until Ctrl-C. The run is read, never written.

    What is estimated stands in a temporary table, beside what the run's own table has; `asked` goes to `analyze`.
    """
    build_estimators(list(estimators))  # a wrong name or setting is refused before anything is served
    open_run(run)
    with (
        # SIGTERM leaves the block as Ctrl-C does, so that the temporary folder goes.
        handled([signal.SIGTERM], lambda number, _: sys.exit(128 + number)),
        tempfile.TemporaryDirectory(prefix="infoplane-watch-") as folder,
        serving(port) as server,
    ):
        server.publish(f"{run} is being read", None, every)
        echo(f"{server.url}\nthe report of {run}; Ctrl-C ends it")
        seen, told = None, ""  # the files as last looked at, and the state as last printed
        while True:
            now = contents(run)
            if now != seen:
                state, table = look(run, Path(folder) / "results.csv", estimators, asked)
                server.publish(state, table, every)
                if state != told:
                    echo(state)
                seen, told = now, state
            time.sleep(every)


def look(run: Path, table: Path, estimators: Sequence[str], asked: dict[str, Any]) -> tuple[str, ResultTable | None]:
    """Estimate what is new in a run; return its state in words, and all estimates so far, None where there are none.

    The new ones are kept in the file `table`, those that the run has already are read from its own; `asked` goes to
    `analyze`.
    """
    store = open_run(run)
    state = state_of(store)
    known = [read_table(run)] if csv_path(run).exists() else []
    if known and not table.exists():
        known[0].write(table)  # what was estimated before is not estimated again
    if store.steps():
        try:
            found = analyze(store, list(estimators), table=table, progress=False, **asked)
        except StoreError as error:
            return f"{state}; this time it could not be estimated: {error}", known[0] if known else None
        # `analyze` adds rows to the file, and returns those of the run as it is now. Where the range of a layer has
        # grown, its bins and so all its numbers are other ones: drop the rows of before from the file.
        found.write(table)
        known.append(found)
    if not known:
        return f"{state}; no snapshot yet, and this page waits for the first one", None
    return state, ResultTable.concat(known)


def state_of(store: ActivationStore) -> str:
    """What a run does, in words: it is being recorded, is closed, or was left without being closed."""
    newest = max((session["session"] for session in store.sessions), default=0)
    # One entry for each process that records in the newest session.
    last = [session for session in store.sessions if session["session"] == newest]
    if any(is_held(store.path / lock_file(session["rank"])) for session in last):
        return f"{store.path.name} is being recorded"
    if last and all(session["closed"] for session in last):
        return f"{store.path.name} is closed: nothing more comes unless its recording goes on"
    return f"{store.path.name} was not closed, and no process records it"


def contents(run: Path) -> list[tuple[str, int, int]]:
    """Return what changes as a run grows or ends: names, sizes and times of its files, and which locks are held."""
    found = []
    for folder in (run, run / SESSIONS_DIR, run / SHARDS_DIR):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # the run's writer may remove a file at any time
                    about = entry.stat(follow_symlinks=False)
                    found.append((entry.path, about.st_size, about.st_mtime_ns))
    locks = [Path(path) for path, *_ in found if path.endswith(".lock")]
    return sorted(found) + [(str(lock), is_held(lock), 0) for lock in locks]
