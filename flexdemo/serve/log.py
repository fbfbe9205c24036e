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
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, OutOfMemory, within_memory

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
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
        self.requests: Counter[tuple[str, str]] = Counter()
        self.running: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.memory_errors = 0
        self._seconds: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS) + 1))
        self._total: Counter[str] = Counter()

    def begin(self, endpoint: str) -> Entry:
        with self._lock:
            self.running[endpoint] += 1
        return Entry(endpoint)

    def end(self, entry: Entry, *, logged: bool = True, error: BaseException | None = None) -> None:
        """Count a request that is over, and write its line; `logged` is False for what happens at every key press.

        An unexpected `error` is always written, as its class and the lines of code it came through.
        """
        seconds = time.perf_counter() - entry.began
        with self._lock:
            self.running[entry.endpoint] -= 1
            self.requests[entry.endpoint, entry.outcome] += 1
            self._seconds[entry.endpoint][bisect_left(BOUNDS, seconds)] += 1
            self._total[entry.endpoint] += seconds
            self.memory_errors += bool(entry.facts.get("out_of_memory"))
            for kind in ("prompt_tokens", "new_tokens"):
                self.tokens[kind] += entry.facts.get(kind, 0)
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

    def metrics(self, *, gauges: Iterable[tuple[str, str, Mapping[str, Any], float]] = ()) -> str:
        """All counts in Prometheus' text format; `gauges` are (name, help, labels, value), those of a name together."""
        with self._lock:
            requests, tokens, total = Counter(self.requests), Counter(self.tokens), Counter(self._total)
            seconds = {endpoint: list(counts) for endpoint, counts in self._seconds.items()}
            running, memory_errors = Counter(self.running), self.memory_errors
        lines = _head("flexdemo_requests_total", "counter", "Requests by endpoint and outcome.")
        lines += [
            _line("flexdemo_requests_total", {"endpoint": endpoint, "outcome": outcome}, count)
            for (endpoint, outcome), count in sorted(requests.items())
        ]
        lines += _head("flexdemo_running", "gauge", "Requests at work now.")
        lines += [_line("flexdemo_running", {"endpoint": e}, count) for e, count in sorted(running.items())]
        name = "flexdemo_request_seconds"
        lines += _head(name, "histogram", "Time at work on a request, waiting left out.")
        for endpoint, counts in sorted(seconds.items()):
            sum_so_far = 0
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
                sum_so_far += count
                lines.append(_line(f"{name}_bucket", {"endpoint": endpoint, "le": bound}, sum_so_far))
            lines.append(_line(f"{name}_sum", {"endpoint": endpoint}, total[endpoint]))
            lines.append(_line(f"{name}_count", {"endpoint": endpoint}, sum_so_far))
        lines += _head("flexdemo_tokens_total", "counter", "Prompt tokens of requests, and tokens that were generated.")
        lines += [_line("flexdemo_tokens_total", {"kind": kind}, n) for kind, n in sorted(tokens.items())]
        lines += _head("flexdemo_out_of_memory_total", "counter", "Requests that did not fit in memory.")
        lines.append(_line("flexdemo_out_of_memory_total", {}, memory_errors))
        told: set[str] = set()
        for name, text, labels, value in gauges:
            lines += [] if name in told else _head(name, "gauge", text)
            told.add(name)
            lines.append(_line(name, labels, value))
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
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(name: str, labels: Mapping[str, Any], value: float) -> str:
    told = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
    return f"{name}{{{told}}} {value}" if told else f"{name} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@contextmanager
def within_noted_memory(size: Callable[[], str] | None = None, *, give_up: Callable[[], None]) -> Iterator[None]:
    """`within_memory` of the running request, whose log line and the counts then tell of it."""
    try:
        with within_memory(size, give_up=give_up):
            yield
    except OutOfMemory:
        note(out_of_memory=True)
        raise
