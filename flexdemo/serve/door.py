"""The door of the page: what a request over HTTP may be before anything reads it. Knows no gradio and no model.

An ASGI middleware. It closes every route that the page does not use, bounds bodies and connections, reads JSON
strictly, and has the data checked against the widgets that it is for. What it refuses is told in one line.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl

from ..data.files import make_room
from ..errors import InputError
from .profiles import Profile

API = "/gradio_api/"
# Routes of gradio that the page, its clients and MCP use. All others are closed: proxies, deep links, monitoring, ...
OPEN = frozenset(
    {
        "app_id", "call", "cancel", "file=", "heartbeat", "info", "login_check", "mcp", "openapi.json", "queue",
        "reset", "run", "startup-events", "theme.css", "upload", "upload_progress", "user",
    }
)  # fmt: skip
MOST_DROPPED = 200_000_000  # bytes of a body that are taken only to be able to answer
REMEMBERED = 10_000  # visitors
ASKS = ("queue/join", "call", "run")  # routes that run something
SESSION = re.compile(r"[A-Za-z0-9_-]{4,64}")
LONGEST_ADDRESS = 60_000  # bytes of path and query; what reads an address behind the door takes 65,536
HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])?(?::\d{1,5})?", re.ASCII)
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Refused(InputError):
    """A request that goes no further: `status` as HTTP has it; `is_public` is whether an endpoint was asked.

    `is_unread` is whether its body is still to come: a browser hears no answer before it has sent all.
    """

    def __init__(self, status: int, why: str, *, is_unread: bool = False) -> None:
        super().__init__(why)
        self.status, self.is_unread, self.is_public = status, is_unread, False


@dataclass(frozen=True)
class Asked:
    """What a request would run: an endpoint (`is_public`) or an event of the page; whether it runs the model."""

    name: str
    is_public: bool
    is_queued: bool
    runs_model: bool


class Behind(Protocol):
    """What the door asks the page behind it."""

    folder: Path

    def asked(self, route: str, name: str, body: Mapping[str, Any]) -> Asked:
        """Raises Refused for what there is not."""

    def check(self, route: str, asked: Asked, body: Mapping[str, Any]) -> None:
        """Raises Refused for data that does not fit."""

    def knows(self, session: str) -> bool:
        """Whether a page with this session has asked before."""

    def silence(self, route: str, query: Mapping[str, str]) -> bytes | None:
        """What a client is told that listens where there is nothing to hear; None for any other request."""

    def waiting(self, who: Callable[[Scope], str]) -> Counter[tuple[str, bool]]:
        """How many requests of each visitor wait or run: {(visitor, runs the model): count}."""


class Visits:
    """How many pages or endpoints each visitor may still open: `most` at once, and as many again a minute."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # visitor -> (how many, when that was)

    def spend(self, who: str, now: float) -> None:
        if self._most is None:
            return
        left, then = self._left.get(who, (float(self._most), now))
        left = min(float(self._most), left + (now - then) * self._most / 60)
        if left < 1:
            raise Refused(429, f"you opened {self._most} pages or calls within a minute, the most that one may: wait")
        self._left[who] = (left - 1, now)
        self._left.move_to_end(who)
        while len(self._left) > REMEMBERED:
            self._left.popitem(last=False)


class Door:
    """Wraps an ASGI app. `page` makes what knows the page from the app of a request."""

    def __init__(self, app: Any, *, profile: Profile, page: Callable[[Any], Behind]) -> None:
        self._app, self._profile, self._page = app, profile, page
        self._open: Counter[str] = Counter()
        self._joining: Counter[tuple[str, bool]] = Counter()
        self._visits = Visits(profile.visits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        who, route = self._who(scope), ""
        self._open[who] += 1
        try:
            most = self._profile.connections
            if most is not None and self._open[who] > most:
                raise Refused(429, f"there are {most} open connections from your address, the most that one may have")
            route = _route(scope)
            listens = scope["method"] == "GET" and route.startswith(("call/", "queue/data"))
            silence = self._page(scope["app"]).silence(route, _query(scope)) if listens else None
            if silence is not None:  # behind the door it would be an error of the server's
                await _send(send, 200, b"text/event-stream", silence)
            elif scope["method"] == "POST" and route:
                receive, key = await self._checked(scope, receive, route, who)
                self._joining[key] += 1
                try:
                    await self._app(scope, receive, send)
                finally:
                    self._joining[key] -= 1
                    if not self._joining[key]:
                        del self._joining[key]
            else:
                if _tries_account(scope):  # or a password could be guessed a thousand times a second
                    self._visits.spend(who, time.monotonic())
                if scope["method"] == "POST":
                    receive = _replayed(await _body(receive, self._profile.request_bytes), receive)
                await self._app(scope, receive, send)
        except Refused as refusal:
            if refusal.is_unread:
                await _drop(receive)
            await _tell(send, refusal, public=refusal.is_public or route.startswith("call/"))
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]

    def _who(self, scope: Scope) -> str:
        return visitor(scope, self._profile.proxies)

    async def _checked(self, scope: Scope, receive: Receive, route: str, who: str) -> tuple[Receive, tuple[str, bool]]:
        """The body to go on with, and as whose it counts; Refused for what goes no further."""
        page = self._page(scope["app"])
        nobody = ("", False)
        if route.split("/")[0] == "upload":
            await self._take_upload(scope, page)
            return receive, nobody
        data = await _body(receive, self._profile.request_bytes)
        again = _replayed(data, receive)
        body = _json(data)
        if route.startswith("mcp"):
            if body.get("method") == "tools/call":  # which asks as one session of gradio's own
                self._visits.spend(who, time.monotonic())
            return again, nobody
        kind = next((kind for kind in ASKS if route == kind or route.startswith(f"{kind}/")), None)
        _check_session(body)
        if kind is None:
            return again, nobody
        asked = page.asked(kind, route.rsplit("/", 1)[-1], body)
        try:
            if kind == "run" and asked.is_queued:
                raise Refused(404, f"{asked.name} is asked through the queue: use call/v2/{asked.name}")
            page.check("call/v2" if route.startswith("call/v2/") else kind, asked, body)
            session = body.get("session_hash")
            if session is None or not page.knows(session):
                self._visits.spend(who, time.monotonic())
            key = (who, asked.runs_model)
            most = self._profile.waiting
            if most is not None:
                most = most if asked.runs_model else 8 * most  # pictures are cheap, and typing asks for many
                if page.waiting(self._who)[key] + self._joining[key] >= most:
                    raise Refused(
                        429, f"{most} of your requests are waiting or running, the most that one visitor may have: wait"
                    )
        except Refused as refusal:
            refusal.is_public = asked.is_public
            raise
        return again, key

    async def _take_upload(self, scope: Scope, page: Behind) -> None:
        profile = self._profile
        if not profile.uploads:
            raise Refused(403, "this host takes no files: open results files in a flexdemo of your own", is_unread=True)
        told = dict(scope["headers"]).get(b"content-length", b"")
        if not told.isdigit():
            raise Refused(411, "an upload must say how long it is (Content-Length)", is_unread=True)
        most = profile.limits.file_bytes
        if int(told) > most + 100_000:  # what wraps the file
            size = f"{int(told) / 1e6:.1f} MB"
            raise Refused(413, f"the file has {size}: at most {most / 1e6:g} MB can be opened here", is_unread=True)
        if profile.disk_bytes is not None:
            await asyncio.to_thread(make_room, page.folder, profile.disk_bytes, int(told))


def _route(scope: Scope) -> str:
    """What stands behind gradio's prefix, "" for anything else; Refused for what is closed."""
    path = _path(scope)
    if len(path) + len(scope.get("query_string", b"")) > LONGEST_ADDRESS:
        raise Refused(414, f"the address is too long: at most {LONGEST_ADDRESS:,} bytes are read")
    told = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-host"]
    if not all(HOST.fullmatch(host.strip()) for hosts in told for host in hosts.split(",")):
        raise Refused(400, "X-Forwarded-Host must be the name of a host, as the proxy in front knows it")
    if "deep_link" in _query(scope):
        raise Refused(404, "there are no deep links here: the page's own links hold its state")
    if path.startswith("/monitoring"):
        raise Refused(404, "there is nothing here")
    if not path.startswith(API):
        return ""
    route = path.removeprefix(API)
    first = "file=" if route.startswith("file=") else route.split("/")[0]
    if first not in OPEN:
        raise Refused(404, "there is nothing here")
    return route.rstrip("/")


def _path(scope: Scope) -> str:
    return scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))


def _tries_account(scope: Scope) -> bool:
    """Whether a request brings a name and a password."""
    path = _path(scope).rstrip("/")
    return path == "/login" or (path == "/metrics" and any(name == b"authorization" for name, _ in scope["headers"]))


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))


async def _body(receive: Receive, most: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request ended before its end")
        part = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size > most:
            raise Refused(413, f"the request is too long: at most {most / 1e6:g} MB are read", is_unread=more)
        parts.append(part)
    return b"".join(parts)


async def _drop(receive: Receive) -> None:
    """Take the rest of a body and keep nothing of it; not without end."""
    left, more = MOST_DROPPED, True
    while more and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        more = message.get("more_body", False)


def _replayed(data: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> dict[str, Any]:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": data, "more_body": False}

    return again


def _json(data: bytes) -> Mapping[str, Any]:
    """The object that a body holds; Refused for what is no strict JSON, or has texts that are no Unicode."""

    def constant(name: str) -> None:
        raise Refused(400, f"the request holds {name}, which is no number in JSON: give a finite number")

    def finite(text: str) -> float:
        number = float(text)
        if math.isinf(number):
            raise Refused(400, "the request holds a number that is too large: give one of less than 1e308")
        return number

    try:
        body = json.loads(data.decode("utf-8"), parse_constant=constant, parse_float=finite)
        json.dumps(body, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused(400, "the request holds half a character (a lone surrogate): type the text again") from error
    except UnicodeDecodeError as error:
        raise Refused(400, "the request is no UTF-8 text") from error
    except RecursionError as error:
        raise Refused(400, "the request is nested too deeply") from error
    except Refused:
        raise
    except ValueError as error:
        raise Refused(400, "the request is no JSON, or holds a number of thousands of digits") from error
    if not isinstance(body, dict):
        raise Refused(400, "the request must be a JSON object")
    return body


def _check_session(body: Mapping[str, Any]) -> None:
    session = body.get("session_hash")
    if session is not None and not (isinstance(session, str) and SESSION.fullmatch(session)):
        raise Refused(400, "session_hash must be 4 to 64 letters, digits, - or _")


async def _tell(send: Send, refusal: Refused, *, public: bool) -> None:
    """Answer with the reason; where endpoints are asked, in the form that gradio's clients show."""
    why, status = str(refusal), refusal.status
    told: Any = why
    if public and status != 413:
        status = 422
        told = [{"__type__": "validate", "is_valid": False, "parameter_name": "request", "message": why}]
    await _send(send, status, b"application/json", json.dumps({"detail": told}).encode("ascii"))


async def _send(send: Send, status: int, kind: bytes, data: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(data)).encode("ascii"))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": data})


PORT = re.compile(r"\[(.+)\](?::\d+)?|([^:]+):\d+")  # an address with a port, as some proxies tell it


def visitor(scope: Mapping[str, Any], proxies: int) -> str:
    """The address that a request is from, /64 networks of IPv6 as one: their owner has all of their addresses.

    `proxies` of the host each append the address they see to X-Forwarded-For; what stands before is anybody's word.
    """
    address = (scope.get("client") or ("unknown", 0))[0]
    if proxies:
        told = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        hops = [hop.strip() for hop in b",".join(told).decode("latin-1").split(",") if hop.strip()]
        address = hops[-proxies] if len(hops) >= proxies else address
    if with_port := PORT.fullmatch(address):
        address = with_port[1] or with_port[2]
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 6 and parsed.ipv4_mapped is not None:  # or all of IPv4 would be one network
        parsed = parsed.ipv4_mapped
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
