"""What reaches a public host past the page: requests that are nobody's, and what they leave in the log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hosting import QUESTION, SPACE, Site, no_traceback, reason, served  # noqa: F401 (no_traceback watches every test)

from flexdemo.engine.model import LanguageModel
from flexdemo.serve.door import Door
from flexdemo.serve.health import ServerLog
from flexdemo.serve.log import Ledger

FILE = {"path": 'x\n{"event": "forged"}', "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("value", [FILE, [FILE], [[{"deep": FILE}]], {"path": "x", "meta": "y"}])
def test_a_file_is_described_to_no_endpoint(space: Site, value: Any, capsys: pytest.CaptureFixture) -> None:
    asked = space.post("call/v2/generate", {"question": QUESTION, "paraphrases": value})
    event = next(n for n, each in space.events.items() if each["api_name"] == "generate")
    data = [QUESTION, value, *[None] * 15]
    for refused in (asked, space.post("call/generate", {"data": data}), space.join(event, data)):
        assert refused.status_code == 422 and "no such uploaded file" in reason(refused)
    assert "forged" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("route", ["cancel", "reset", "queue/join", "call/v2/generate"])
def test_numbers_above_a_double_go_no_further(space: Site, route: str) -> None:
    refused = space.post(route, b'{"question": "a secret", "temperature": 1e999}')
    assert refused.status_code in (400, 422) and "Out of range float" in reason(refused)


@pytest.mark.parametrize("query", ["deep_link=a", "deep%5Flink=a", "%64eep_link=a", "x=1&deep_link"])
def test_deep_links_are_closed_however_they_are_written(space: Site, query: str) -> None:
    assert space.get(f"/?{query}")[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("a.example", "my_app:7860", "[::1]:80", "a, b", "")),
        *((host, 400) for host in ("[::1", "evil</script>", "a:999999", "a b", "a/b")),
    ],
)
def test_a_proxy_tells_the_name_of_a_host(space: Site, host: str, status: int) -> None:
    assert space.get("/config", {"x-forwarded-host": host})[0] == status


# Accounts


def test_passwords_cannot_be_guessed_by_the_thousand(bundled: LanguageModel, tmp_path: Path) -> None:
    with served(
        bundled, profile=replace(SPACE, visits=5), folder=tmp_path, account=("ann", "right"), root_path="/x"
    ) as site:
        form = {"username": "ann", "password": "wrong"}
        for path in ("/login", "/x/login/"):
            who = {"x-forwarded-for": f"192.0.2.{len(path)}"}
            statuses = [site.http.post(f"{site.url}{path}", data=form, headers=who).status_code for _ in range(8)]
            assert statuses[-3:] == [429] * 3 and 429 not in statuses[:5]
        who = {"x-forwarded-for": "192.0.2.100"}
        long = site.http.post(f"{site.url}/login", content=b"username=" + b"a" * 4_100_000, headers=who)
        assert long.status_code == 413
        form["password"] = "right"
        assert site.http.post(f"{site.url}/login", data=form, headers=who).status_code == 200


# MCP, whose package need not be there


@pytest.fixture
def to_mcp() -> Iterator[Callable[[bytes], int]]:
    """Status of a POST to the tools."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    door = Door(app, profile=replace(SPACE, visits=3))

    def post(body: bytes) -> int:
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        scope = {"type": "http", "method": "POST", "path": "/gradio_api/mcp/", "headers": [], "app": None}
        asyncio.run(door(scope, receive, send))
        return statuses[0]

    yield post


def test_tools_called_count_as_visits(to_mcp: Callable[[bytes], int]) -> None:
    assert [to_mcp(b'{"method": "tools/call"}') for _ in range(5)] == [200] * 3 + [429] * 2
    assert to_mcp(b'{"method": "tools/list"}') == 200


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"{{", b""])
def test_tools_read_strict_json(to_mcp: Callable[[bytes], int], body: bytes) -> None:
    assert to_mcp(body) == 400


# The log


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Lines of the log while ServerLog speaks for other packages; their loggers are as before afterwards."""
    lines: list[str] = []
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.error", "uvicorn.asgi", "uvicorn.access")]
    before = [(each, each.handlers[:], each.propagate) for each in loggers]
    handler = ServerLog(Ledger(log=lines.append))
    handler.attach()
    yield lines
    for each, handlers, propagate in before:
        each.handlers[:], each.propagate = handlers, propagate
    assert handler not in logging.getLogger().handlers


def test_errors_of_the_web_server_are_lines_without_texts(log: list[str], capsys: pytest.CaptureFixture) -> None:
    try:
        raise ValueError('a visitor\'s secret\n{"event": "forged"}')
    except ValueError as error:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    logging.getLogger("a.package").warning("validation of %s failed", "a visitor's secret")
    first, second = map(json.loads, log)
    assert (first["error"], first["told"]) == ("ValueError", "Exception in ASGI application")
    assert any("test_hosted.py" in place for place in first["traceback"])
    assert second["by"] == "a.package" and "test_hosted.py" in second["at"]
    assert "secret" not in "".join(log) + "".join(capsys.readouterr()) and "forged" not in "".join(log)


def test_what_is_told_again_and_again_comes_once_a_minute(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask for what is not there, as often as they like."""
    for now in (0.0, 1.0, 59.0, 61.0):
        monkeypatch.setattr("flexdemo.serve.health.time.monotonic", lambda now=now: now)
        logging.getLogger("a.package").warning("again")
    logging.getLogger("a.package").warning("from another place")
    assert len(log) == 3
