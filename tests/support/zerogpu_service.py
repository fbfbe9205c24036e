"""A stand-in for ZeroGPU's scheduler: the real package `spaces` asks it over HTTP, and it lends the first GPU here.

It has no quota. It ends a worker, by its process id, when another function wants the GPU; a worker of the same function
is kept, as the real one keeps an idle one.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Scheduler:
    """Who has the GPU. `lent` are the seconds that calls asked for."""

    def __init__(self) -> None:
        self.lent: list[int] = []
        self._free, self._lock = threading.Semaphore(), threading.Lock()
        self._task, self._worker = "", 0

    def schedule(self, asked: dict[str, str]) -> dict[str, Any]:
        self._free.acquire(timeout=120)
        with self._lock:
            self.lent.append(int(asked["durationSeconds"]))
            idle = self._task == asked["taskId"] and bool(self._worker)
            if not idle:
                self.end_worker()
            self._task = asked["taskId"]
            return {"idle": idle, "nvidiaIndex": 0, "nvidiaUUID": "0", "allowToken": str(len(self.lent))}

    def allow(self, asked: dict[str, str]) -> dict[str, Any]:
        self._worker = int(asked["pid"])
        return {}

    def release(self, asked: dict[str, str]) -> dict[str, Any]:
        with self._lock:
            if asked["fail"] == "true":
                self.end_worker()
        self._free.release()
        return {}

    def end_worker(self) -> None:
        if self._worker:
            with suppress(ProcessLookupError):
                os.kill(self._worker, signal.SIGKILL)
        self._worker = 0


@contextmanager
def scheduler() -> Iterator[tuple[Scheduler, dict[str, str]]]:
    """The stand-in at work, and what the environment of a Space says of it."""
    made = Scheduler()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            parts = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            does = {"/schedule": made.schedule, "/allow": made.allow, "/release": made.release}.get(parts.path)
            body = json.dumps(does(asked) if does else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield (
            made,
            {
                "SPACES_ZERO_GPU": "true",
                "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{server.server_address[1]}",
            },
        )
    finally:
        made.end_worker()
        server.shutdown()
        server.server_close()
