"""Answers a port while the program behind it still starts: a page that says so. Knows no model and no page of ours.

A browser that opens the address sees the page at once, with status 503, or what `known` has for it. Any other request
waits: when the program listens, it is passed on to it, and its client has noticed nothing but the time.
Standard library only, so that it listens before anything large is imported.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

LONGEST_HEAD = 65_536  # bytes of a request's first line and headers
HEAD_SECONDS = 10.0  # that a client has to send them
HEALTH = "/healthz"  # who asks for it wants to know now
STARTING = b'{"status": "starting"}\n'
UNAVAILABLE = ["HTTP/1.1 503 Service Unavailable", "Retry-After: 1", "Cache-Control: no-store"]
NAVIGATION = rb"^accept:[^\r\n]*text/html"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>flexdemo is starting</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<noscript><meta http-equiv="refresh" content="2"></noscript>
<style>
body { margin: 0; padding: 14px 24px; font: 15px/1.5 system-ui, sans-serif; background: #F6F7F9; color: #1B2430; }
h1 { font-size: 1.35rem; margin: 0 0 4px; }
p { margin: 0; color: #566172; }
@media (prefers-color-scheme: dark) { body { background: #0E1218; color: #E4E8EE; } p { color: #9AA5B4; } }
</style></head><body>
<h1>flexdemo</h1>
<p role="status">Starting: loading the model and the page. <span id="seconds"></span></p>
<script>
const began = performance.now(), seconds = document.getElementById('seconds');
setInterval(() => { seconds.textContent = `${Math.round((performance.now() - began) / 1000)} s`; }, 1000);
let refused = 0;
async function wait() {
  try {
    const answer = await fetch(location.href, {cache: 'no-store'}); // answered once the program listens
    if (answer.ok || answer.status < 500) return location.reload();
    refused = 0;
  } catch { refused += 1; }
  if (refused > 40) document.querySelector('p').textContent = 'It has stopped: its output says why.';
  else setTimeout(wait, 250);
}
wait();
</script>
</body></html>
"""


class Known(Protocol):
    """What is answered at once: a media type, how long it may be stored, the bytes."""

    kind: str
    stored: str
    body: bytes


def nothing(target: str, host: str | None) -> Known | None:
    """What is known of a path and query under a host's name where nothing is."""
    return None


class Waiting:
    """Listens on an address from `Waiting(...)` until `close()`; `pass_on()` then hands over what waits.

    `known` is asked first, for what a GET of a path and query gets under a host's name; the host is None behind a
    proxy, where the name by which the browser knows it is another.
    """

    def __init__(self, host: str, port: int, *, known: Callable[[str, str | None], Known | None] = nothing) -> None:
        self._known, self._refuses_pages = known, False
        self._ready, self._over = threading.Event(), threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(64)
        self._listener.settimeout(0.05)
        self._thread = threading.Thread(target=self._accept, name="waiting", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Free the port. Requests that wait go on waiting."""
        self._over.set()
        self._thread.join()

    def pass_on(self, *, pages: bool = True) -> None:
        """The program listens: what waits is passed on to it; not what a page of this address asks unless `pages`."""
        self._refuses_pages = not pages
        self._ready.set()

    def _accept(self) -> None:
        with self._listener:
            while True:
                last = self._over.is_set()  # then take in who has connected already
                if last:
                    self._listener.settimeout(0)
                try:
                    client, _ = self._listener.accept()
                except (TimeoutError, BlockingIOError):
                    if last:
                        return
                    continue
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):  # a client that goes away is no fault
            client.settimeout(HEAD_SECONDS)
            head = _head(client)
            if head is None:
                return
            answer = self._answer(head)
            if answer is not None:
                client.sendall(answer)
                return
            self._ready.wait()
            if self._refuses_pages and b"\r\nreferer:" in head.lower():
                client.sendall(_response(UNAVAILABLE, "application/json", STARTING))
                return
            client.settimeout(None)
            with socket.create_connection(client.getsockname()[:2]) as program:
                program.sendall(_once(head))
                _pipe(client, program)

    def _answer(self, head: bytes) -> bytes | None:
        """What is answered at once; None for a request that waits."""
        line, _, headers = head.partition(b"\r\n")
        method, _, rest = line.decode("latin-1").partition(" ")
        target = rest.split(" ")[0]
        if method not in ("GET", "HEAD"):
            return None
        asks, path = headers.lower(), target.split("?")[0]
        is_navigation = b"sec-fetch-mode: navigate" in asks or re.search(NAVIGATION, asks, re.MULTILINE)
        known = (
            self._known(target, _host(headers)) if is_navigation or path != "/" else None
        )  # a program wants the page
        if path.endswith(HEALTH):
            answer = _response(UNAVAILABLE, "application/json", STARTING)
        elif known is not None:
            answer = _response(["HTTP/1.1 200 OK", f"Cache-Control: {known.stored}"], known.kind, known.body)
        elif is_navigation:
            answer = _response(UNAVAILABLE, "text/html; charset=utf-8", PAGE.encode())
        else:
            return None
        return answer if method == "GET" else answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _response(first: list[str], kind: str, body: bytes) -> bytes:
    lines = [*first, "Connection: close", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def _host(headers: bytes) -> str | None:
    """The name by which the client knows this address; None behind a proxy, where it may be another."""
    found = re.search(rb"^host: *([^\r\n]*?) *\r?$", headers, re.MULTILINE | re.IGNORECASE)
    is_passed_on = re.search(rb"^(x-)?forwarded", headers, re.MULTILINE | re.IGNORECASE)
    return None if found is None or is_passed_on else found[1].decode("latin-1")


def _head(client: socket.socket) -> bytes | None:
    """The first bytes of a request, at least up to the end of its headers; None if they do not come."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = client.recv(LONGEST_HEAD)
        head += more
        if not more or len(head) > LONGEST_HEAD:
            return None
    return head


def _once(head: bytes) -> bytes:
    """A request after whose answer its connection ends: the next one goes to the program itself."""
    line, _, rest = head.partition(b"\r\n")
    headers, end, body = rest.partition(b"\r\n\r\n")
    kept = [each for each in headers.split(b"\r\n") if each and not each.lower().startswith(b"connection:")]
    return b"\r\n".join([line, b"Connection: close", *kept]) + end + body


def _pipe(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways, until both sides have said all."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=copy, args=(other, one), daemon=True)
    back.start()
    copy(one, other)
    back.join()
