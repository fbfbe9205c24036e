"""How long each stage of a start took. Knows nothing of what is started."""

from __future__ import annotations

import time
from collections.abc import Callable


class Stages:
    """Seconds by stage, in the order in which they ended; one ends where the next one begins."""

    def __init__(self, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._last = now, now()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        now = self._now()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def told(self) -> dict[str, float]:
        """All stages to the millisecond, and their sum."""
        return {name: round(spent, 3) for name, spent in (*self.seconds.items(), ("total", sum(self.seconds.values())))}
