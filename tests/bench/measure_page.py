"""How long a newcomer waits: from `python app.py` to the page, and to the first answer. Run it; it is no test.

python tests/bench/measure_page.py [--rounds 5] [--against OTHER_CHECKOUT] [--alone] [--json]

Each round starts the server anew and opens its address in a new Chromium profile, already running, as soon as something
listens there. With --against two checkouts take turns, so that what else the machine does meets both; with --alone a
program asks instead of a browser. All times are seconds since the server's start; below them, the CPU time of both
sides until the answer.
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
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # flexdemo, which need not be installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import browser_support

EVENTS = {
    "first paint": "first contentful paint of whatever the address shows: that it starts, or the page",
    "page painted": "the page itself is on screen: its heading",
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
        for (const entry of list.getEntriesByName('first-contentful-paint')) note('first paint', entry.startTime);
    }).observe({type: 'paint', buffered: true});
    const look = () => {
        if (document.querySelector('#masthead h1')) note('page painted', performance.now());
        const run = document.querySelector('#run');
        if (run && !run.disabled && !seen['run enabled'] && document.querySelector('#status')) {
            note('run enabled', performance.now());
            run.click();
        }
        const text = (name) => document.querySelector(name)?.textContent ?? '';
        if (seen['run enabled'] && !text('#status').includes('Recorded')
            && text('#answer-flex') + text('#answer-causal')) note('first token', performance.now());
        if (text('#status').includes('Done')) note('answer', performance.now());
        if (!seen['answer']) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""


def visit(browser: Any | None, root: Path, *, threads: str | None = None) -> dict[str, float]:
    """Seconds from the start of the server in `root` to each of EVENTS, and the CPU time until then. Without a browser
    only the last event, of an endpoint."""
    port = browser_support.free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": threads} if threads else {}
    command = [sys.executable, str(root / "app.py"), "--port", str(port)]
    url = f"http://127.0.0.1:{port}/"
    began = time.time()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=root, env=environment, **quiet)
    try:
        while not listens(port):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
            time.sleep(0.01)
        seen = {"answer": asked_at(url)} if browser is None else seen_at(browser, url)
        told = cpu_seconds(process.pid)
        return {name: at - began if name in EVENTS else at for name, at in seen.items()} | told
    finally:
        process.kill()
        process.wait()


def seen_at(browser: Any, url: str) -> dict[str, float]:
    """When a new visitor saw each of EVENTS, as times of the system's clock, and the CPU time of the browser."""
    before = browser_seconds(browser)
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.add_init_script(f"({WATCH})()")
    page.goto(url, wait_until="commit")
    page.wait_for_function("() => window.seen?.answer && window.seen['page painted']", timeout=30_000)
    seen = page.evaluate("() => window.seen")
    spent = browser_seconds(browser) - before
    context.close()
    return {name: at / 1000 for name, at in seen.items()} | {"browser CPU": spent}


def browser_seconds(browser: Any) -> float:
    """CPU time of all processes of a browser that are there now."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return sum(each["cpuTime"] for each in processes)


def asked_at(url: str) -> float:
    """When a program had the answer for which it asked while the server was still starting."""
    call = f"{url}gradio_api/call/v2/generate"
    body = json.dumps({"question": "What is the capital of Peru?", "paraphrases": ["Which city is Peru's capital?"]})
    asked = urllib.request.Request(call, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{call}/{event}", timeout=60) as answer:
        told = answer.read()
    if b"event: complete" not in told:
        raise RuntimeError(f"no answer, but {told[:200]!r}")
    return time.time()


def cpu_seconds(process: int) -> dict[str, float]:
    """CPU time of a process and its threads so far; empty where the system does not tell."""
    told = Path(f"/proc/{process}/stat")
    if not told.is_file():
        return {}
    ticks = told.read_text().rpartition(")")[2].split()[11:13]
    return {"server CPU": sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def measure(
    roots: list[Path], rounds: int, *, threads: str | None = None, alone: bool = False
) -> dict[str, dict[str, float]]:
    """Medians over the rounds for each checkout."""
    times: dict[Path, list[dict[str, float]]] = {root: [] for root in roots}
    with nullcontext() if alone else browser_support.chromium() as browser:
        for i in range(rounds):
            for root in roots[:: 1 if i % 2 else -1]:  # nobody is always first
                times[root].append(visit(browser, root, threads=threads))
                told = ", ".join(f"{name} {at:.2f}" for name, at in times[root][-1].items() if name in EVENTS)
                print(f"{root.name}: {told}", file=sys.stderr, flush=True)
    return {
        str(root): {name: statistics.median(each[name] for each in times[root]) for name in times[root][0]}
        for root in roots
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="starts of each server (default: 5)")
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--threads", help="OMP_NUM_THREADS of the server (default: as it is)")
    parser.add_argument("--alone", action="store_true", help="no browser: time an endpoint's first answer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    roots = [browser_support.ROOT, *([args.against.resolve()] if args.against else [])]
    medians = measure(roots, args.rounds, threads=args.threads, alone=args.alone)
    if args.json:
        print(json.dumps(medians))
        return
    own, *others = medians.values()
    for name, seconds in own.items():
        ratio = "".join(f"  {seconds / other[name]:.2f} of {other[name]:.2f}" for other in others if name in other)
        print(f"{name:>26} {seconds:6.2f} s{ratio}  {EVENTS.get(name, '')}".rstrip())


if __name__ == "__main__":
    main()
