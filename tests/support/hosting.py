"""A served page as a program meets it: launched in this process, or anywhere by its address. No tests here."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import browser_support
import gradio as gr
import httpx
import pytest
from gradio_client import Client

from flexdemo.engine.loading import Models, offered
from flexdemo.engine.model import LanguageModel
from flexdemo.page import page as ui
from flexdemo.page.endpoints import endpoints
from flexdemo.page.widgets import Page
from flexdemo.request import Limits
from flexdemo.serve import internals
from flexdemo.serve.guard import Guard
from flexdemo.serve.health import State, routes
from flexdemo.serve.log import Ledger
from flexdemo.serve.profiles import DEFAULT, PROFILES, Profile
from flexdemo.serve.zerogpu import LOCAL, Gpu

QUESTION = "What is the capital of Peru?"
SPACE = PROFILES["space"]
HUGE = 10**400
NO_MODEL: Any = SimpleNamespace(name="none")  # for calls that are refused before they would need one


class Site:
    """A page at an address, as a program meets it that does not care for its widgets."""

    def __init__(self, url: str) -> None:
        self.url, self.api = url.rstrip("/"), f"{url.rstrip('/')}/gradio_api"
        self.http = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
        self.sessions = iter(range(10**6))

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.http.get(f"{self.url}/config").json()

    @cached_property
    def widgets(self) -> dict[int, dict[str, Any]]:
        return {each["id"]: each for each in self.config["components"]}

    @cached_property
    def events(self) -> dict[int, dict[str, Any]]:
        return {each["id"]: each for each in self.config["dependencies"]}

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

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        answer = self.http.get(f"{self.url}{path}", headers=headers)
        return answer.status_code, answer.text

    def post(self, route: str, body: Any, visitor: str = "203.0.113.1") -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-forwarded-for": visitor}
        return self.http.post(f"{self.api}/{route}", content=raw, headers=headers)

    def join(self, event: Any, data: Any, session: str | None = None, **more: Any) -> httpx.Response:
        """Put a call into the queue, as a browser does."""
        visitor = more.pop("visitor", "203.0.113.1")
        body = {"fn_index": event, "data": data, "session_hash": session or self.session(), **more}
        return self.post("queue/join", body, visitor)

    def listen(self, session: str) -> http.client.HTTPResponse:
        """The stream of messages to a session."""
        connection = http.client.HTTPConnection(self.url.split("/")[2], timeout=60)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
        return connection.getresponse()

    def messages(
        self, event: int, data: list[Any], session: str | None = None, **more: Any
    ) -> Iterator[dict[str, Any]]:
        """What the queue says of an event of the page, as it comes."""
        session, wait = session or self.session(), more.pop("timeout", 60)
        joined = self.join(event, data, session, **more)
        assert joined.status_code == 200, joined.text
        asked = {"params": {"session_hash": session}, "timeout": wait}
        with self.http.stream("GET", f"{self.api}/queue/data", **asked) as lines:
            for line in lines.iter_lines():
                if line:
                    yield json.loads(line[6:])

    def outcome(self, event: int, data: list[Any], session: str | None = None, **more: Any) -> dict[str, Any]:
        """What an event of the page gives in the end."""
        told = list(self.messages(event, data, session, **more))
        (done,) = (each for each in told if each["msg"] == "process_completed")
        generating = [each["output"]["data"] for each in told if each["msg"] == "process_generating"]
        return {"success": done["success"], "output": done["output"], "generating": generating}


class Served(Site):
    """A page that runs in this process, and what it has logged."""

    def __init__(self, url: str, demo: Any, state: State, lines: list[str]) -> None:
        super().__init__(url)
        self.demo, self.state, self.lines = demo, state, lines

    @property
    def told(self) -> list[dict]:
        return [json.loads(line) for line in self.lines]

    def index(self, name: str) -> int:
        """Number of the handler of an endpoint, or of the page's function of that name."""
        return next(i for i, fn in self.demo.fns.items() if name in (fn.api_name, fn.name))


def launched(demo: gr.Blocks, **options: Any) -> tuple[Any, str]:
    """App and address of a page that runs now. Of the ports that gradio would try another worker's page may take one at
    the same moment."""
    port = browser_support.free_port()
    app, url, _ = demo.launch(server_port=port, prevent_thread_lock=True, quiet=True, **options)
    return app, url


@contextmanager
def served(
    lm: LanguageModel | Models,
    *,
    profile: Profile = DEFAULT,
    folder: Path | None = None,
    gpu: Gpu = LOCAL,
    log_text: bool = False,
    account: tuple[str, str] | None = None,
    root_path: str | None = None,
    warming: str = "",
) -> Iterator[Served]:
    """The page as app.py starts it, with this model; visitors' files go to `folder`."""
    lines: list[str] = []
    closing, ledger = threading.Event(), Ledger(log=lines.append, log_text=log_text)
    first = offered(lm).default
    with pytest.MonkeyPatch.context() as patch:
        if folder is not None:
            patch.setenv("GRADIO_TEMP_DIR", str(folder))
        demo = ui.build_demo(lm, profile=profile, gpu=gpu, warming=warming)
        state = State(demo, first.name, first.backend, str(first.device), ledger, closing, lambda: warming)
        Guard(ledger, closing).protect(demo)
        internals.queue(demo, profile.queue)
        options = {"auth": account, "root_path": root_path, **ui.launch_options(profile, routes=routes(state))}
        _, url = launched(demo, **options)
    try:
        yield Served(url, demo, state, lines)
    finally:
        demo.close(verbose=False)


class Slow:
    """A model whose every forward pass takes so long, and that counts them; `fault` is raised at pass number `at`."""

    def __init__(self, lm: LanguageModel, *, seconds: float = 0.0) -> None:
        self.passes, self.seconds = 0, seconds
        self.fault: Callable[[], Exception] | None = None
        self.at = 0
        self._lock = threading.Lock()
        self._hook = lm.model.register_forward_pre_hook(self._before)

    def _before(self, module: Any, arguments: Any) -> None:
        with self._lock:
            self.passes += 1
            fault = self.fault() if self.fault is not None and self.passes >= self.at else None
            if fault is not None:
                self.fault = None
        time.sleep(self.seconds)
        if fault is not None:
            raise fault

    def break_at(self, number: int, fault: Callable[[], Exception]) -> None:
        """Raise at the pass of that number from now on, once."""
        self.at, self.fault = self.passes + number, fault

    def remove(self) -> None:
        self._hook.remove()


def endpoint_of(name: str, limits: Limits, lm: LanguageModel = NO_MODEL) -> Callable[..., Any]:
    """The function behind an endpoint."""
    return endpoints(Page(offered(lm), replace(DEFAULT, limits=limits), LOCAL))[name]


def generating(lm: LanguageModel, limits: Limits) -> Callable[..., dict[str, Any]]:
    """What `/generate` answers in the end."""
    endpoint = endpoint_of("generate", limits, lm)
    return lambda *args, **options: list(endpoint(*args, **options))[-1]


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What a condition gives once it is true; fails if it never is."""
    end, pause = time.monotonic() + seconds, 0.002
    while not (value := condition()):
        assert time.monotonic() < end, "this never came to pass"
        time.sleep(pause)
        pause = min(2 * pause, 0.05)  # what takes long, as the start of a server does, is not slowed by being watched
    return value


def reason(answer: httpx.Response) -> str:
    """What a refusal says, to a page or to a client of the endpoints."""
    told = answer.json()["detail"]
    said = told if isinstance(told, str) else told[0]["message"]
    assert said and "\n" not in said and len(said) < 400
    return said


@pytest.fixture(scope="session")
def space(bundled: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A public host, but for the number of visits: here one visitor makes hundreds."""
    with served(bundled, profile=replace(SPACE, visits=None), folder=tmp_path_factory.mktemp("space")) as site:
        yield site


@pytest.fixture(scope="session")
def local(bundled: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(bundled, folder=tmp_path_factory.mktemp("local")) as site:
        yield site


@pytest.fixture(scope="session")
def space_client(space: Site) -> Client:
    return Client(space.url, verbose=False)


@pytest.fixture(scope="module")
def client(page: Served) -> Client:
    """A program that asks the page of a file."""
    return Client(page.url, verbose=False)


@pytest.fixture(autouse=True)
def no_traceback(capsys: pytest.CaptureFixture) -> Iterator[None]:
    """Servers run in this process: what they print is seen here."""
    yield
    told = capsys.readouterr()
    assert "Traceback" not in told.err + told.out
