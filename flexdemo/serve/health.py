"""The server around a launched page: its account, health, log and stop. Knows no handlers."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import __version__
from ..errors import InputError
from . import internals
from .log import Ledger, fault

STOP_SECONDS = 5.0  # for those that run to end, which takes each a token


def read_account(text: str | None) -> tuple[str, str] | None:
    """(user, password) from USER:PASSWORD, or from a file with that as its first line if the text is @FILE."""
    if not text:
        return None
    if text.startswith("@"):
        try:
            lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the account in {text[1:]}: {error}") from error
        text = lines[0].strip() if lines else ""
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise InputError("the account must be USER:PASSWORD, or @FILE with that as the file's first line")
    return user, password


@dataclass
class State:
    """What /healthz tells, of the page `demo`."""

    demo: Any
    model: str
    backend: str
    device: str
    ledger: Ledger
    closing: threading.Event
    warming: Callable[[], str]  # what to tell of a warm-up that runs

    def health(self) -> dict[str, Any]:
        status = "stopping" if self.closing.is_set() else "ready"
        facts = {"model": self.model, "backend": self.backend, "device": self.device}
        if warming := self.warming():
            facts["warming"] = warming
        waiting = internals.waiting(self.demo).get("model", [])
        return {"status": status, **facts, "queue": len(waiting), "version": __version__}


def routes(state: State) -> list[Route]:
    """/healthz, open to all."""

    async def health(request: Request) -> Response:
        return JSONResponse(state.health(), status_code=503 if state.closing.is_set() else 200)

    return [Route("/healthz", health)]


def serve_until_told(state: State) -> None:
    """Block until SIGTERM or Ctrl+C; then end all requests, which their visitors are told, and close."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda number, frame: state.closing.set())
    while not state.closing.wait(1.0):  # a wait without an end would not hear a signal on every system
        pass
    began = time.monotonic()
    while time.monotonic() - began < STOP_SECONDS:
        if not internals.running(state.demo) and not any(internals.waiting(state.demo).values()):
            break
        time.sleep(0.05)
    time.sleep(0.3)  # the last messages are on their way to the browsers
    state.demo.close(verbose=False)
    state.ledger.tell("stopped", seconds=round(time.monotonic() - began, 2))


class ServerLog(logging.Handler):
    """Lines of the log in place of what the web server and other packages say, without what visitors sent.

    The web server's own words are fixed; of others only the place in their code is told, once a minute: some requests
    that are none make them complain at length.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.WARNING)
        self._ledger = ledger
        self._told: dict[str, float] = {}  # when, by place

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        facts = {} if error is None else fault(error)
        facts |= {"told": str(record.msg).strip()} if record.name.startswith("uvicorn") else {}
        place, now = f"{record.pathname}:{record.lineno}", time.monotonic()
        at = f"{place} {facts.get('traceback', [''])[-1]}"
        if now < self._told.get(at, -math.inf) + 60:
            return
        self._told[at] = now
        self._ledger.tell("server", level=record.levelname.lower(), by=record.name, at=place, **facts)

    def attach(self) -> None:
        """Speak for them from now on; the web server sets up its own log when it starts."""
        for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi", "uvicorn.access"):
            logging.getLogger(name).handlers.clear()
        web = logging.getLogger("uvicorn")
        web.handlers[:], web.propagate = [self], False
        logging.getLogger().addHandler(self)
