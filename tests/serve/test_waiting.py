"""What a port answers while the program starts, and that requests that wait reach the program unchanged."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import browser_support
import pytest

import app
from flexdemo.gone.waiting import Waiting

NAVIGATION = {"Accept": "text/html,application/xhtml+xml;q=0.9", "Sec-Fetch-Mode": "navigate"}


class Program(BaseHTTPRequestHandler):
    """Says what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = f"{self.command} {self.path} {self.headers.get('X-Mark', '')} ".encode() + body
        self.server.connections.append(self.headers.get_all("Connection"))
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def port() -> int:
    return browser_support.free_port()


@pytest.fixture
def waiting(port: int) -> Iterator[Waiting]:
    made = Waiting("127.0.0.1", port)
    yield made
    made.close()


def connected(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.connect()
    return connection


def asked(
    port: int,
    path: str = "/",
    *,
    method: str = "GET",
    body: bytes | None = None,
    over: http.client.HTTPConnection | None = None,
    **headers: str,
) -> Any:
    """(status, headers, body)"""
    connection = over or connected(port)
    connection.putrequest(method, path, skip_host=False)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def later(port: int, path: str = "/", **options: Any) -> tuple[threading.Thread, list[Any]]:
    """A request that is connected, in a thread that waits for its answer."""
    told: list[Any] = []
    connection = connected(port)  # or the program might listen before it
    thread = threading.Thread(target=lambda: told.append(asked(port, path, over=connection, **options)))
    thread.start()
    return thread, told


def test_a_browser_is_told_at_once_that_the_program_starts(waiting: Waiting, port: int) -> None:
    for path in ("/", "/?q=Who%3F", "/behind/a/proxy/"):
        status, headers, body = asked(port, path, **NAVIGATION)
        assert status == 503 and headers["Retry-After"] == "1" and headers["Cache-Control"] == "no-store"
        assert b"Starting: loading the model" in body and len(body) == int(headers["Content-Length"])
    status, headers, body = asked(port, "/", method="HEAD", **NAVIGATION)
    assert status == 503 and body == b"" and int(headers["Content-Length"]) > 500
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=NAVIGATION)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=5)


def test_who_asks_for_health_is_told_at_once(waiting: Waiting, port: int) -> None:
    status, headers, body = asked(port, "/healthz")
    assert (status, headers["Retry-After"], body) == (503, "1", b'{"status": "starting"}\n')


def program(waiting: Waiting, port: int, **how: bool) -> Any:
    """What starts after the waiting page, on the same port."""
    waiting.close()
    server = ThreadingHTTPServer(("127.0.0.1", port), Program)
    server.daemon_threads, server.connections = True, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    waiting.pass_on(**how)
    return server


def test_other_requests_wait_and_reach_the_program_unchanged(waiting: Waiting, port: int) -> None:
    body = b"\r\nConnection: x\r\n\r\n" + bytes(range(256)) * 3000  # more than one packet
    waits = [
        later(port, "/config?x=%20y", X_Mark="a", connection="keep-alive"),
        later(port, "/run", method="POST", body=body, X_Mark="b"),
    ]
    time.sleep(0.3)
    assert [told for _, told in waits] == [[], []]
    server = program(waiting, port)
    for thread, _ in waits:
        thread.join(10)
    assert server.connections == [["close"]] * 2, "their next requests go to the program itself"
    assert [told[0][2] for _, told in waits] == [b"GET /config?x=%20y a ", b"POST /run b " + body]
    assert asked(port, "/now")[2] == b"GET /now  ", "the port is the program's"


def test_who_leaves_or_says_nothing_disturbs_nobody(waiting: Waiting, port: int) -> None:
    for said in (b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\xff" * 20_000):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(said)
    thread, told = later(port, "/after")
    program(waiting, port)
    thread.join(10)
    assert told[0][2] == b"GET /after  "


def test_a_port_that_is_taken_is_told_in_one_line(waiting: Waiting, port: int, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(app.InputError, match=f"cannot listen on 127.0.0.1:{port} .*: choose another with --port"):
        app.wait_at("127.0.0.1", port)
    assert app.main(["--port", str(port)]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot listen on 127.0.0.1:{port} ")


def test_a_program_that_cannot_start_frees_its_port(port: int, capsys: pytest.CaptureFixture) -> None:
    assert app.main(["--model", "./no-such-folder", "--port", str(port)]) == 2
    assert "no model at" in capsys.readouterr().err
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
