"""What each request was, took and came to: a JSON line each, and counts for Prometheus. Knows no pages, no models.

Without `log_text` nothing that a visitor wrote is kept: no text, no answer, no message that might quote one.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ..errors import InputError, OutOfMemory, within_memory

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
FAMILIES = {  # of counts: kind and help
    "requests_total": ("counter", "Requests by endpoint and outcome."),
    "running": ("gauge", "Requests at work now."),
    "request_seconds": ("histogram", "Time at work on a request, waiting left out."),
    "tokens_total": ("counter", "Prompt tokens of requests, and tokens that were generated."),
    "out_of_memory_total": ("counter", "Requests that did not fit in memory."),
}
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
        self._counts: Counter[tuple[str, str, tuple[tuple[str, str], ...]]] = Counter()  # family, ending, labels
        self._add("out_of_memory_total", 0)

    def _add(self, family: str, value: float, *, ending: str = "", **labels: str) -> None:
        self._counts[family, ending, tuple(labels.items())] += value

    def begin(self, endpoint: str) -> Entry:
        with self._lock:
            self._add("running", 1, endpoint=endpoint)
        return Entry(endpoint)

    def running(self) -> int:
        """Requests at work now."""
        with self._lock:
            return sum(count for (family, *_), count in self._counts.items() if family == "running")

    def end(self, entry: Entry, *, logged: bool = True, error: BaseException | None = None) -> None:
        """Count a request that is over, and write its line; `logged` is False for what happens at every key press.

        An unexpected `error` is always written, as its class and the lines of code it came through.
        """
        seconds, whose = time.perf_counter() - entry.began, {"endpoint": entry.endpoint}
        with self._lock:
            self._add("running", -1, **whose)
            self._add("requests_total", 1, **whose, outcome=entry.outcome)
            for bound in (*BOUNDS, math.inf):
                le = "+Inf" if bound == math.inf else str(bound)
                self._add("request_seconds", seconds <= bound, ending="_bucket", **whose, le=le)
            self._add("request_seconds", seconds, ending="_sum", **whose)
            self._add("request_seconds", 1, ending="_count", **whose)
            for kind in ("prompt_tokens", "new_tokens"):
                self._add("tokens_total", entry.facts.get(kind, 0), kind=kind)
            self._add("out_of_memory_total", bool(entry.facts.get("out_of_memory")))
        if logged or error is not None:
            self._write(entry, seconds, error)

    def _write(self, entry: Entry, seconds: float, error: BaseException | None) -> None:
        facts = {k: v for k, v in entry.facts.items() if self._log_text or k not in TEXTS}
        line = {"time": timestamp(), "event": "request", "id": entry.id, "endpoint": entry.endpoint}
        line |= {"outcome": entry.outcome, "seconds": round(seconds, 4), **facts}
        if error is not None:
            line |= fault(error)
            if self._log_text:
                line["message"] = str(error)
        self._log(json.dumps(line, ensure_ascii=False, default=str))

    def tell(self, event: str, **facts: Any) -> None:
        """A line of the log about the server itself."""
        self._log(json.dumps({"time": timestamp(), "event": event, **facts}, ensure_ascii=False, default=str))

    def metrics(self, gauges: Iterable[tuple[str, str, Mapping[str, Any], float]] = ()) -> str:
        """All counts in Prometheus' text format; `gauges` are (name, help, labels, value), those of a name together."""
        with self._lock:
            counts = list(self._counts.items())
        lines: list[str] = []
        for family, (kind, text) in FAMILIES.items():
            lines += _head(family, kind, text)
            lines += [_line(of + ending, labels, value) for (of, ending, labels), value in counts if of == family]
        for name, those in itertools.groupby(gauges, key=lambda gauge: gauge[0]):
            samples = list(those)
            lines += _head(name, "gauge", samples[0][1])
            lines += [_line(name, labels.items(), value) for _, _, labels, value in samples]
        return "\n".join(lines) + "\n"


def fault(error: BaseException) -> dict[str, Any]:
    """What the log says of an unexpected error: its class and the lines of code it came through, not its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "traceback": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def timestamp() -> str:
    """Now, in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _head(family: str, kind: str, text: str) -> list[str]:
    return [f"# HELP flexdemo_{family} {text}", f"# TYPE flexdemo_{family} {kind}"]


def _line(name: str, labels: Iterable[tuple[str, Any]], value: float) -> str:
    told = ",".join(f'{key}="{str(label).translate(ESCAPES)}"' for key, label in labels)
    return f"flexdemo_{name}{{{told}}} {value}" if told else f"flexdemo_{name} {value}"


@contextmanager
def within_noted_memory(size: Callable[[], str] | None = None, *, give_up: Callable[[], None]) -> Iterator[None]:
    """`within_memory` of the running request, whose log line and the counts then tell of it."""
    try:
        with within_memory(size, give_up=give_up):
            yield
    except OutOfMemory:
        note(out_of_memory=True)
        raise
