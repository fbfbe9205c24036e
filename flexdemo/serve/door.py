"""The door of the page: what a request over HTTP may be before gradio reads it. Knows no model and no widgets.

An ASGI middleware. It closes every route that the page does not use, bounds bodies, reads JSON strictly, lets no
request name a file that was not uploaded, and counts what each visitor asks. What it refuses is told in one line; what
a widget takes is gradio's to check.
"""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic_core import from_json
from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from ..errors import InputError, first_line
from . import internals
from .host import make_room
from .profiles import Profile

API = "/gradio_api/"
# Routes of gradio that the page, its clients and MCP use. All others are closed: proxies, deep links, monitoring, ...
OPEN = frozenset(
    {
        "app_id", "call", "cancel", "file=", "heartbeat", "info", "login_check", "mcp", "openapi.json", "queue",
        "reset", "run", "startup-events", "theme.css", "upload", "upload_progress", "user",
    }
)  # fmt: skip
MOST_READ = 4_000_000  # bytes of a request, files apart
PORT = re.compile(r"\[(.+)\](?::\d+)?|([^:]+):\d+")  # an address with a port, as some proxies tell it
HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])?(?::\d{1,5})?", re.ASCII)
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Refused(InputError):
    """A request that goes no further: `status` as HTTP has it; `is_public` is whether an endpoint was asked."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.is_public = status, False


class Visits:
    """Pages and endpoints that each visitor opened in the running minute: at most `most`, which None leaves open."""

    def __init__(self, most: int | None) -> None:
        self._most, self._minute = most, 0.0
        self._counts: Counter[str] = Counter()

    def spend(self, who: str) -> None:
        minute = time.monotonic() // 60
        if self._minute != minute:
            self._minute = minute
            self._counts.clear()
        self._counts[who] += 1
        if self._most is not None and self._counts[who] > self._most:
            raise Refused(429, f"you opened {self._most} pages or calls within a minute, the most that one may: wait")


class Door:
    """Wraps the app of a page that gradio made."""

    def __init__(self, app: Any, *, profile: Profile) -> None:
        self._app, self._profile = app, profile
        self._joining: Counter[tuple[str, bool]] = Counter()  # requests let in that are not in gradio's queue yet
        self._visits = Visits(profile.visits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        who, route, key = visitor(scope, self._profile.proxies), "", ("", False)
        try:
            route = _route(scope)
            if _path(scope).rstrip("/") == "/login":  # or a password could be guessed a thousand times a second
                self._visits.spend(who)
            if scope["method"] == "POST":
                receive, key = await self._checked(scope, receive, route, who)
            self._joining[key] += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._joining -= Counter([key])  # which keeps no count of 0
        except Refused as refusal:
            answer = _answer(refusal, public=refusal.is_public or route.startswith("call/"))
            await answer(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, route: str, who: str) -> tuple[Receive, tuple[str, bool]]:
        """The body to go on with, and as whose it counts; Refused for what goes no further."""
        first, nobody = route.split("/")[0], ("", False)
        if first == "upload":  # how large a file may be is checked by gradio, while it comes
            if not self._profile.uploads:
                await _body(scope, receive, 0)
                raise Refused(403, "this host takes no files: open results files in a flexdemo of your own")
            if (most := self._profile.disk_bytes) is not None:
                folder = internals.upload_folder(scope["app"])
                await asyncio.to_thread(make_room, folder, most, self._profile.limits.file_bytes)
            return receive, nobody
        data = await _body(scope, receive, MOST_READ)
        if data is None:
            raise Refused(413, f"the request is too long: at most {MOST_READ / 1e6:g} MB are read")
        again = _replayed(data, receive)
        if not route:
            return again, nobody
        body = _json(data)
        if first == "mcp":
            if body.get("method") == "tools/call":  # which asks as one session of gradio's own
                self._visits.spend(who)
            return again, nobody
        if first not in ("call", "run") and route != "queue/join":
            return again, nobody
        fn = _function(scope["app"], route, body)
        key = (who, fn.concurrency_id == "model")
        try:
            _check_files(scope["app"], body)
            if route.startswith("call/v2/"):
                _check_arguments(fn, body)
            self._check_rates(scope["app"], body, key)
        except Refused as refusal:
            refusal.is_public = fn.api_visibility == "public"
            raise
        return again, key

    def _check_rates(self, app: Any, body: Mapping[str, Any], key: tuple[str, bool]) -> None:
        if not internals.has_session(app, body.get("session_hash")):
            self._visits.spend(key[0])
        most = self._profile.waiting
        if most is None:
            return
        most = most if key[1] else 8 * most  # pictures are cheap, and typing asks for many
        page = internals.page_of(app)
        asked = [*itertools.chain(*internals.waiting(page).values()), *internals.running(page)]
        proxies = self._profile.proxies
        theirs = sum((visitor(each.request.scope, proxies), each.fn.concurrency_id == "model") == key for each in asked)
        if theirs + self._joining[key] >= most:
            raise Refused(
                429, f"{most} of your requests are waiting or running, the most that one visitor may have: wait"
            )


# What the door asks of gradio's app


def _function(app: Any, route: str, body: Mapping[str, Any]) -> Any:
    """The event that a request would run; Refused if there is none."""
    functions, (first, _, name) = internals.events(internals.page_of(app)), route.partition("/")
    if first == "call" or body.get("fn_index") is None:
        public = {fn.api_name: fn for fn in functions.values() if fn.api_visibility == "public"}
        found = public.get(name.rsplit("/", 1)[-1])
    else:
        index = body["fn_index"]
        found = functions.get(index) if isinstance(index, int) else None
    if found is None or found.fn is None:
        raise Refused(404, "the page has no such endpoint or event: its info tells the endpoints, /config the events")
    return found


def _check_files(app: Any, body: Mapping[str, Any]) -> None:
    """Only what was uploaded here may be named: gradio would also fetch an address, and tell the log of any path."""
    uploaded, left = internals.uploads(app), [body]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            path = each.get("path")
            if path is not None and not (isinstance(path, str) and path in uploaded):
                raise Refused(400, "there is no such uploaded file: upload it again")
            left.extend(each.values())
        elif isinstance(each, list):
            left.extend(each)


def _check_arguments(fn: Any, body: Mapping[str, Any]) -> None:
    """Names of arguments, which gradio would stumble over; what they hold is checked by the endpoint."""
    try:
        inspect.signature(fn.fn).bind(**body)
    except TypeError as error:
        raise Refused(400, f"{fn.api_name}: {str(error)[:120]}") from error


# Addresses


def _route(scope: Scope) -> str:
    """What stands behind gradio's prefix, "" for anything else; Refused for what is closed."""
    path = _path(scope)
    told = ",".join(Headers(scope=scope).getlist("x-forwarded-host"))
    if not all(HOST.fullmatch(host.strip()) for host in told.split(",")):
        raise Refused(400, "X-Forwarded-Host must be the name of a host, as the proxy in front knows it")
    if "deep_link" in QueryParams(scope.get("query_string", b"")):
        raise Refused(404, "there are no deep links here: the page's own links hold its state")
    if not path.startswith(API):
        return ""
    route = path.removeprefix(API)
    first = "file=" if route.startswith("file=") else route.split("/")[0]
    if first not in OPEN:
        raise Refused(404, "there is nothing here")
    return route.rstrip("/")


def _path(scope: Scope) -> str:
    return scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))


def visitor(scope: Mapping[str, Any], proxies: int) -> str:
    """The address that a request is from, /64 networks of IPv6 as one: their owner has all of their addresses.

    `proxies` of the host each append the address they see to X-Forwarded-For; what stands before is anybody's word.
    """
    address = (scope.get("client") or ("unknown", 0))[0]
    if proxies:
        told = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
        hops = [hop.strip() for hop in told.split(",") if hop.strip()]
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


# Bodies


async def _body(scope: Scope, receive: Receive, most: int) -> bytes | None:
    """What a request sends; None for more than `most` bytes, all of which are taken but not kept: a browser hears no
    answer before it has sent everything."""
    parts: list[bytes] = []
    size = 0
    try:
        async for part in Request(scope, receive).stream():
            size += len(part)
            if size <= most:
                parts.append(part)
    except ClientDisconnect as error:
        raise Refused(400, "the request ended before its end") from error
    return b"".join(parts) if size <= most else None


def _replayed(data: bytes, receive: Receive) -> Receive:
    rest = iter([{"type": "http.request", "body": data, "more_body": False}])

    async def again() -> dict[str, Any]:
        told = next(rest, None)
        return await receive() if told is None else told

    return again


def _json(data: bytes) -> Mapping[str, Any]:
    """The object that a body holds; Refused for what is no strict JSON, or has texts that are no Unicode."""
    try:
        body = from_json(data, allow_inf_nan=False)
        json.dumps(body, allow_nan=False)  # a number above a double was read as infinite
    except ValueError as error:
        raise Refused(400, f"the request is no strict JSON: {first_line(error)[:120]}") from error
    if not isinstance(body, dict):
        raise Refused(400, "the request must be a JSON object")
    return body


def _answer(refusal: Refused, *, public: bool) -> JSONResponse:
    """The reason; where endpoints are asked, in the form that gradio's clients show."""
    why, status = str(refusal), refusal.status
    told: Any = why
    if public and status != 413:
        status = 422
        told = [{"__type__": "validate", "is_valid": False, "parameter_name": "request", "message": why}]
    return JSONResponse({"detail": told}, status, {"connection": "close"})
