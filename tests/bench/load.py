"""Many clients at once: `python tests/bench/load.py --clients 30 --seconds 120`; 1 if anything was wrong.

Every answer is compared with the one that the same request gets from an idle server, and searched for what only other
clients wrote. Without --url it starts app.py on a free port.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import threading
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # flexdemo, which need not be installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import browser_support
import psutil
from gradio_client import Client

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples.json"
LENGTHS = (4, 16, 48)
LOST = 90  # seconds after which an answer is given up
EACH = 4  # different requests of one client


@dataclass
class Met:
    """What all clients met. `seconds` are those of answered requests, waiting included."""

    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    leaked: int = 0
    deepest: int = 0  # the furthest place in the queue that a client was told
    memory: list[float] = field(default_factory=list)  # MB of the server, twice a second

    def lines(self) -> list[str]:
        spread = sorted(self.seconds)
        at = [spread[min(len(spread) - 1, int(len(spread) * share))] for share in (0.5, 0.95)] if spread else [0, 0]
        quarter = max(1, len(self.memory) // 4)
        medians = [
            f"{statistics.median(self.memory[i : i + quarter]):.0f}" for i in range(0, len(self.memory), quarter)
        ]
        return [
            f"requests answered  {len(self.seconds)}",
            f"errors             {dict(self.errors) or 0}",
            f"wrong answers      {self.wrong}",
            f"texts of others    {self.leaked}",
            f"seconds            p50 {at[0]:.2f}, p95 {at[1]:.2f} (waiting included)",
            f"furthest in queue  {self.deepest}",
            f"memory             {self.memory[0]:.0f} MB at the start, {max(self.memory):.0f} at most, "
            f"{self.memory[-1]:.0f} at the end; medians of its quarters {', '.join(medians)}",
        ]

    @property
    def is_clean(self) -> bool:
        return not (self.errors or self.wrong or self.leaked) and bool(self.seconds)


def requests_of(client: int) -> list[dict[str, Any]]:
    """What one client asks: examples, each marked with a text that no other client writes."""
    every = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    chosen = [every[(client + i) % len(every)] for i in range(EACH)]
    asked = []
    for i, example in enumerate(chosen):
        methods = ["all"] if (client + i) % 3 == 0 else ["flex", "causal"]
        asked.append(
            {
                "question": example["question"],
                "paraphrases": example["paraphrases"][:4],
                "methods": methods,
                "prefix": f"{mark(client)} Answer the question.",
                "max_new_tokens": LENGTHS[(client + i) % len(LENGTHS)],
            }
        )
    return asked


def mark(client: int) -> str:
    return f"visitor{client:03d}x"


def told(answered: dict[str, Any]) -> list[list[int]]:
    """What must not depend on who else asks."""
    return [view["token_ids"] for result in answered["results"] for view in result["views"]]


def resident_mb(url: str) -> float:
    """Memory of the process on this machine that listens there; 0 where there is none."""
    port = urlsplit(url).port
    found = [each.pid for each in psutil.net_connections("tcp") if each.laddr.port == port and each.status == "LISTEN"]
    return psutil.Process(found[0]).memory_info().rss / 1e6 if found else 0.0


def visit(url: str, number: int, want: dict[str, list], stop: threading.Event, most: int, met: Met) -> None:
    """One client: asks until told to stop, or `most` times."""
    client, dice = Client(url, verbose=False), random.Random(number)
    asked = requests_of(number)
    for _ in range(most):
        if stop.is_set():
            return
        request, began = dice.choice(asked), time.monotonic()
        job = client.submit(**request, api_name="/generate")
        while not job.done() and time.monotonic() - began < LOST:
            place = job.status().rank
            met.deepest = max(met.deepest, place or 0)
            time.sleep(0.02)
        error = job.exception() if job.done() else TimeoutError(f"no answer within {LOST} s")
        if error is not None:
            met.errors[f"{type(error).__name__}: {str(error)[:80]}"] += 1
            if not job.done():
                return
            continue
        met.seconds.append(time.monotonic() - began)
        answered = job.result()
        met.wrong += told(answered) != want[json.dumps(request)]
        text = json.dumps(answered)
        met.leaked += any(found != mark(number) for found in re.findall(r"visitor\d{3}x", text))


def load(url: str, *, clients: int, seconds: float, most: int = 1_000_000) -> Met:
    """Let so many clients ask at once for so long."""
    met, stop = Met(), threading.Event()
    alone = Client(url, verbose=False)
    kinds = {json.dumps(request): request for number in range(clients) for request in requests_of(number)}
    want = {key: told(alone.predict(**request, api_name="/generate")) for key, request in kinds.items()}

    def watch() -> None:
        while not stop.wait(0.5):
            met.memory.append(resident_mb(url))

    met.memory.append(resident_mb(url))
    threads = [threading.Thread(target=watch)]
    threads += [threading.Thread(target=visit, args=(url, i, want, stop, most, met)) for i in range(clients)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(thread.is_alive() for thread in threads[1:]):
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    met.memory.append(resident_mb(url))
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--url", help="a server that runs (default: app.py is started)")
    args = parser.parse_args()
    with nullcontext(args.url) if args.url else browser_support.serve() as url:
        met = load(url, clients=args.clients, seconds=args.seconds)
    print("\n".join(met.lines()), flush=True)
    return 0 if met.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
