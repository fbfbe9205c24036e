"""What each request was, took and came to: a JSON line each. Knows no pages, no models.

Without `log_text` nothing that a visitor wrote is kept: no text, no answer, no message that might quote one.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ..errors import InputError, OutOfMemory, within_memory

TEXTS = ("question", "paraphrases", "prefix", "message")  # what only `log_text` writes


class Interrupted(InputError):
    """Work that nobody waits for any more, or that the server has no time for."""


@dataclass
class Entry:
    """One request while it runs. `reason` says why its work should end now, None while it should go on."""

    endpoint: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    began: float = field(default_factory=time.perf_counter)
    outcome: str = "ok"
    facts: dict[str, Any] = field(default_factory=dict)
    reason: Callable[[], str | None] = lambda: None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Work in here belongs to this request."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


_CURRENT: ContextVar[Entry | None] = ContextVar("request", default=None)


def note(*, outcome: str | None = None, **facts: Any) -> None:
    """Add to what is known of the running request; nothing where none is counted."""
    entry = _CURRENT.get()
    if entry is not None:
        entry.outcome = outcome or entry.outcome
        entry.facts |= facts


def checkpoint() -> Callable[[], None]:
    """A function that raises Interrupted once the running request's work should end; it works in any thread."""
    entry = _CURRENT.get()

    def check() -> None:
        reason = entry.reason() if entry is not None else None
        if reason is not None:
            raise Interrupted(reason)

    return check


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Ledger:
    """The log."""

    def __init__(self, *, log: Callable[[str], None] = to_stderr, log_text: bool = False) -> None:
        self._log, self._log_text = log, log_text

    def end(self, entry: Entry, *, error: BaseException | None = None) -> None:
        """Write the line of a request that is over; an unexpected `error` as its class and the code it came through."""
        seconds = round(time.perf_counter() - entry.began, 4)
        facts = entry.facts | ({} if error is None else {**fault(error), "message": str(error)})
        facts = {name: value for name, value in facts.items() if self._log_text or name not in TEXTS}
        told = {"id": entry.id, "endpoint": entry.endpoint, "outcome": entry.outcome, "seconds": seconds}
        self.tell("request", **told, **facts)

    def tell(self, event: str, **facts: Any) -> None:
        """A line of the log, of a request or of the server itself, with the time in UTC."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._log(json.dumps({"time": now, "event": event, **facts}, ensure_ascii=False, default=str))


def fault(error: BaseException) -> dict[str, Any]:
    """What the log says of an unexpected error: its class and the lines of code it came through, not its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "traceback": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


@contextmanager
def within_noted_memory(size: Callable[[], str] | None = None, *, give_up: Callable[[], None]) -> Iterator[None]:
    """`within_memory` of the running request, whose log line then tells of it."""
    try:
        with within_memory(size, give_up=give_up):
            yield
    except OutOfMemory:
        note(out_of_memory=True)
        raise
