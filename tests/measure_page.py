"""How long a newcomer waits: from `python app.py` to the page, and to the first answer. Run it; it is no test.

python tests/measure_page.py [--rounds 5] [--against OTHER_CHECKOUT] [--json]

Each round starts the server anew and opens its address in a new Chromium profile, already running, as soon as something
listens there. With --against two checkouts take turns, so that what else the machine does meets both. All times are
seconds since the server's start.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import browser_support

EVENTS = {
    "first paint": "first contentful paint of whatever the address shows: that it starts, or the page",
    "page painted": "first contentful paint of the page itself",
    "run enabled": "the button Run is there and enabled",
    "first token": "the first token of an answer is on screen",
    "answer": "all answers are there",
}
WATCH = """() => {
    const seen = window.seen = JSON.parse(sessionStorage.getItem('seen') ?? '{}'); // it may load more than one document
    const note = (name, at) => {
        seen[name] ??= performance.timeOrigin + at;
        sessionStorage.setItem('seen', JSON.stringify(seen));
    };
    new PerformanceObserver((list) => {
        for (const entry of list.getEntriesByName('first-contentful-paint')) {
            note('first paint', entry.startTime);
            const [own] = performance.getEntriesByType('navigation');
            if (own.responseStatus === 200) note('page painted', entry.startTime);
        }
    }).observe({type: 'paint', buffered: true});
    const look = () => {
        const run = document.querySelector('#run');
        if (run && !run.disabled && !seen['run enabled'] && document.querySelector('#status-run')) {
            note('run enabled', performance.now());
            run.click();
        }
        const text = (name) => document.querySelector(name)?.textContent ?? '';
        if (seen['run enabled'] && !text('#status-run').includes('Recorded')
            && text('#answer-flex') + text('#answer-causal')) note('first token', performance.now());
        if (text('#status-run').includes('Done')) note('answer', performance.now());
        if (!seen['answer']) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""


def visit(browser: Any, root: Path, *, threads: str | None = None) -> dict[str, float]:
    """Seconds from the start of the server in `root` to each of EVENTS."""
    port = browser_support.free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"} | ({"OMP_NUM_THREADS": threads} if threads else {})
    command = [sys.executable, str(root / "app.py"), "--port", str(port)]
    url = f"http://127.0.0.1:{port}/"
    began = time.time()
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        page = context.new_page()
        page.add_init_script(f"({WATCH})()")
        while not listens(port):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
            time.sleep(0.01)
        page.goto(url, wait_until="commit")
        page.wait_for_function("() => window.seen?.answer && window.seen['page painted']", timeout=30_000)
        seen = page.evaluate("() => window.seen")
        context.close()
        return {name: at / 1000 - began for name, at in seen.items()}
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def measure(roots: list[Path], rounds: int, *, threads: str | None = None) -> dict[str, dict[str, float]]:
    """Medians over the rounds for each checkout."""
    from playwright.sync_api import sync_playwright

    times: dict[Path, list[dict[str, float]]] = {root: [] for root in roots}
    with sync_playwright() as playwright:
        executable = browser_support.find_chromium(playwright)
        browser = playwright.chromium.launch(executable_path=executable, args=list(browser_support.ARGUMENTS))
        for i in range(rounds):
            for root in roots[:: 1 if i % 2 else -1]:  # nobody is always first
                times[root].append(visit(browser, root, threads=threads))
                told = ", ".join(f"{name} {times[root][-1][name]:.2f}" for name in EVENTS)
                print(f"{root.name}: {told}", file=sys.stderr, flush=True)
        browser.close()
    return {
        str(root): {name: statistics.median(each[name] for each in times[root]) for name in EVENTS} for root in roots
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="starts of each server (default: 5)")
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--threads", help="OMP_NUM_THREADS of the server (default: as it is)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    roots = [browser_support.ROOT, *([args.against.resolve()] if args.against else [])]
    medians = measure(roots, args.rounds, threads=args.threads)
    if args.json:
        print(json.dumps(medians))
        return
    own, *others = medians.values()
    for name, meaning in EVENTS.items():
        ratio = "".join(f"  {own[name] / other[name]:.2f} of {other[name]:.2f}" for other in others)
        print(f"{name:>15} {own[name]:6.2f} s{ratio}  {meaning}")


if __name__ == "__main__":
    main()
