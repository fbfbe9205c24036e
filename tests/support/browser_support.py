"""What browser tests and screenshots share: a Chromium, a server in a process of its own. No tests here."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "assets" / "tinyqa"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def find_chromium(playwright: Any) -> str | None:
    """An installed Chromium, or playwright's own if it was downloaded; None if there is neither."""
    names = ("chromium", "chromium-browser", "google-chrome")
    installed = next((path for path in map(shutil.which, names) if path), None)
    own = playwright.chromium.executable_path
    return installed or (own if Path(own).is_file() else None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser for a program that measures or takes pictures; ends the program where none is installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        executable = find_chromium(playwright)
        if executable is None:
            print("error: no Chromium is installed", file=sys.stderr)
            raise SystemExit(2)
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield browser
        browser.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve(
    *arguments: str, seconds: float = 120.0, environment: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[str]:
    """`python app.py` on a free port; yields its address once it answers. What it writes goes to the file `log`."""
    port = free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **(environment or {})}
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), *arguments]
    # Into a file: a pipe that nobody reads is full after some hundred lines of the log, and then the server waits.
    with tempfile.TemporaryFile() if log is None else log.open("w+b") as output:

        def said() -> str:
            output.seek(0)
            return output.read().decode("utf-8", errors="replace")

        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        with answering(process, port, said, seconds=seconds) as url:
            yield url


@contextmanager
def answering(process: Any, port: int, said: Callable[[], str], *, seconds: float = 120.0) -> Iterator[str]:
    """The address of app.py in a process, once it answers there; in the end the process is over."""
    url, end = f"http://127.0.0.1:{port}/", time.monotonic() + seconds
    try:
        while not answers(f"{url}healthz"):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                process.wait()
                raise RuntimeError(f"app.py did not come up:\n{said()}")
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
