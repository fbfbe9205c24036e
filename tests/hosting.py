"""What tests of the served page share: a guarded page, and clients that speak plain HTTP. No tests here."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flexdemo import ui
from flexdemo.ledger import Ledger
from flexdemo.model import LanguageModel
from flexdemo.server import State, routes
from flexdemo.ui_guard import Gate, Guard
from flexdemo.zerogpu import LOCAL, Gpu

QUESTION = "What is the capital of Peru?"


@dataclass
class Served:
    """A page that runs in this process, and what it has logged."""

    url: str
    demo: Any
    state: State
    gate: Gate
    lines: list[str] = field(default_factory=list)

    @property
    def told(self) -> list[dict]:
        return [json.loads(line) for line in self.lines]

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        request = urllib.request.Request(self.url.rstrip("/") + path, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def index(self, name: str) -> int:
        """Number of the handler of an endpoint, or of the page's function of that name."""
        found = [i for i, fn in self.demo.fns.items() if name in (fn.api_name, fn.name)]
        return found[0]

    def join(self, name: str, data: list[Any], session: str) -> None:
        """Put a call into the queue, as a browser does."""
        body = json.dumps({"fn_index": self.index(name), "session_hash": session, "data": data}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}gradio_api/queue/join", data=body, headers=headers)
        urllib.request.urlopen(request, timeout=30).read()

    def listen(self, session: str) -> http.client.HTTPResponse:
        """The stream of messages to a session."""
        host = self.url.split("/")[2]
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
        return connection.getresponse()


@contextmanager
def served(
    lm: LanguageModel,
    *,
    gpu: Gpu = LOCAL,
    log_text: bool = False,
    account: tuple[str, str] | None = None,
    root_path: str | None = None,
) -> Iterator[Served]:
    """The page as app.py starts it, with this model."""
    lines: list[str] = []
    gate, ledger = Gate(), Ledger(log=lines.append, log_text=log_text)
    state = State(lm.name, lm.backend, str(lm.device), ledger, lambda: gate.is_closing, account)
    demo = ui.build_demo(lm, gpu=gpu)
    Guard(ledger, gate).protect(demo)
    demo.queue(max_size=64)
    _, url, _ = demo.launch(
        prevent_thread_lock=True,
        quiet=True,
        auth=account,
        root_path=root_path,
        app_kwargs={"routes": routes(state)},
        **ui.launch_options(),
    )
    state.demo = demo
    try:
        yield Served(url, demo, state, gate, lines)
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


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What a condition gives once it is true; fails if it never is."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "this never came to pass"
        time.sleep(0.002)
    return value
