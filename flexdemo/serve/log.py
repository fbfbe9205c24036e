"""What each request was, took and came to: a JSON line each, and counts for Prometheus. Knows no pages, no models.

Without `log_text` nothing that a visitor wrote is kept: no text, no answer, no message that might quote one.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ..errors import InputError, OutOfMemory, within_memory

ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
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
    """Counts of all requests since the start, and the log."""

    def __init__(self, *, log: Callable[[str], None] = to_stderr, log_text: bool = False) -> None:
        self._log, self._log_text = log, log_text
        self._lock = threading.Lock()
        self._counts = Counter({sample("out_of_memory_total"): 0.0})

    def begin(self, endpoint: str) -> Entry:
        with self._lock:
            self._counts[sample("running", endpoint=endpoint)] += 1
        return Entry(endpoint)

    def end(self, entry: Entry, *, logged: bool = True, error: BaseException | None = None) -> None:
        """Count a request that is over, and write its line; `logged` is False for what happens at every key press.

        An unexpected `error` is always written, as its class and the lines of code it came through.
        """
        seconds, whose = time.perf_counter() - entry.began, {"endpoint": entry.endpoint}
        grown = {
            sample("running", **whose): -1,
            sample("requests_total", **whose, outcome=entry.outcome): 1,
            sample("request_seconds_sum", **whose): seconds,
            sample("request_seconds_count", **whose): 1,
            sample("out_of_memory_total"): bool(entry.facts.get("out_of_memory")),
            sample("tokens_total", kind="prompt_tokens"): entry.facts.get("prompt_tokens", 0),
            sample("tokens_total", kind="new_tokens"): entry.facts.get("new_tokens", 0),
        }
        with self._lock:
            self._counts.update(grown)
        if logged or error is not None:
            facts = entry.facts | ({} if error is None else {**fault(error), "message": str(error)})
            facts = {name: value for name, value in facts.items() if self._log_text or name not in TEXTS}
            told = {"id": entry.id, "endpoint": entry.endpoint, "outcome": entry.outcome, "seconds": round(seconds, 4)}
            self.tell("request", **told, **facts)

    def tell(self, event: str, **facts: Any) -> None:
        """A line of the log, of a request or of the server itself, with the time in UTC."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._log(json.dumps({"time": now, "event": event, **facts}, ensure_ascii=False, default=str))

    def metrics(self, gauges: Mapping[str, float]) -> str:
        """All counts and some gauges, by their `sample`, in Prometheus' text format. Seconds leave out waiting."""
        with self._lock:
            return "".join(f"{name} {value}\n" for name, value in (*self._counts.items(), *gauges.items()))


def sample(name: str, **labels: Any) -> str:
    """What one number of the metrics is called."""
    told = ",".join(f'{key}="{str(label).translate(ESCAPES)}"' for key, label in labels.items())
    return f"flexdemo_{name}{{{told}}}" if told else f"flexdemo_{name}"


def fault(error: BaseException) -> dict[str, Any]:
    """What the log says of an unexpected error: its class and the lines of code it came through, not its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "traceback": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


@contextmanager
def within_noted_memory(size: Callable[[], str] | None = None, *, give_up: Callable[[], None]) -> Iterator[None]:
    """`within_memory` of the running request, whose log line and the counts then tell of it."""
    try:
        with within_memory(size, give_up=give_up):
            yield
    except OutOfMemory:
        note(out_of_memory=True)
        raise
