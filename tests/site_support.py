"""A launched page as a program meets it, for the tests of limits and abuse. No tests here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client

import flexdemo
from flexdemo import ui
from flexdemo.model import LanguageModel
from flexdemo.profiles import DEFAULT, PROFILES, Profile

QUESTION = "What is the capital of Peru?"
SPACE = PROFILES["space"]
HUGE = 10**400


class Site:
    """A launched page as a program meets it that does not care for its widgets."""

    def __init__(self, url: str, demo: Any) -> None:
        self.url, self.demo, self.api = url.rstrip("/"), demo, f"{url.rstrip('/')}/gradio_api"
        self.http = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
        config = self.http.get(f"{self.url}/config").json()
        self.widgets = {each["id"]: each for each in config["components"]}
        self.events = {each["id"]: each for each in config["dependencies"]}
        self.sessions = iter(range(10**6))

    def name(self, widget: int) -> str | None:
        return self.widgets[widget]["props"].get("elem_id") if widget in self.widgets else None

    def event(self, name: str, kind: str = "click") -> int:
        """The event of the widget with this id that runs on the server."""
        return next(
            number
            for number, event in self.events.items()
            if event["backend_fn"] and any(self.name(t[0]) == name and t[1] == kind for t in event["targets"])
        )

    def data(self, event: int, **changes: Any) -> list[Any]:
        """What the page would send at its start, with changes by the widgets' ids."""
        ids = [(self.name(widget) or str(widget)).replace("-", "_") for widget in self.events[event]["inputs"]]
        assert set(changes) <= set(ids)
        values = [self.widgets[widget]["props"].get("value") for widget in self.events[event]["inputs"]]
        return [changes.get(name, value) for name, value in zip(ids, values, strict=True)]

    def session(self) -> str:
        return f"session{next(self.sessions):06d}"

    def post(self, route: str, body: Any, visitor: str = "203.0.113.1") -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-forwarded-for": visitor}
        return self.http.post(f"{self.api}/{route}", content=raw, headers=headers)

    def join(self, event: Any, data: Any, session: str | None = None, **more: Any) -> httpx.Response:
        visitor = more.pop("visitor", "203.0.113.1")
        body = {"fn_index": event, "data": data, "session_hash": session or self.session(), **more}
        return self.post("queue/join", body, visitor)

    def outcome(self, event: int, data: list[Any], session: str | None = None, **more: Any) -> dict[str, Any]:
        """What an event of the page gives in the end."""
        session = session or self.session()
        joined = self.join(event, data, session, **more)
        assert joined.status_code == 200, joined.text
        with self.http.stream("GET", f"{self.api}/queue/data", params={"session_hash": session}) as lines:
            told = [json.loads(line[6:]) for line in lines.iter_lines() if line]
        (done,) = (each for each in told if each["msg"] == "process_completed")
        generating = [each["output"]["data"] for each in told if each["msg"] == "process_generating"]
        return {"success": done["success"], "output": done["output"], "generating": generating}


@contextmanager
def launched(lm: LanguageModel, profile: Profile, folder: Path) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        demo = ui.build_demo(lm, profile=profile)
        demo.queue(max_size=profile.queue)
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **ui.launch_options(profile))
    yield Site(url, demo)
    demo.close()


def reason(answer: httpx.Response) -> str:
    """What a refusal says, to a page or to a client of the endpoints."""
    told = answer.json()["detail"]
    said = told if isinstance(told, str) else told[0]["message"]
    assert said and "\n" not in said and len(said) < 400
    return said


@pytest.fixture(scope="session")
def bundled() -> LanguageModel:
    return flexdemo.load_model()


@pytest.fixture(scope="session")
def space(bundled: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A public host, but for the number of visits: here one visitor makes hundreds."""
    with launched(bundled, replace(SPACE, visits=None), tmp_path_factory.mktemp("space")) as site:
        yield site


@pytest.fixture(scope="session")
def local(bundled: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with launched(bundled, DEFAULT, tmp_path_factory.mktemp("local")) as site:
        yield site


@pytest.fixture(scope="session")
def space_client(space: Site) -> Client:
    return Client(space.url, verbose=False)


@pytest.fixture(autouse=True)
def no_traceback(capsys: pytest.CaptureFixture) -> Iterator[None]:
    """Servers run in this process: what they print is seen here."""
    yield
    told = capsys.readouterr()
    assert "Traceback" not in told.err + told.out
