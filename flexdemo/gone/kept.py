"""The page as the last start served it, shown again while the next one starts. Knows no model, no widgets, no gradio.

What a browser must do before the page can be used takes as long as a third of a cold start; with the page at hand it
does that beside the imports. What it asks of the program waits. When the program serves its own page, `Keeper` sees
whether that is the same; the script in a page that is not, or that lacks a file, turns to the new one.
Standard library only, so that it is there before anything large.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import first_line

FOLDER = "FLEXDEMO_CACHE"  # environment: where pages are kept; empty to keep none
MOST = 8  # pages of other settings and checkouts that stay
ROOT = "http://kept.invalid"  # stands for the address under which a browser knows the page
HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
OWN = ((re.compile(r'"app_id":\s*\d+'), '"app_id":0'), (re.compile(r" at 0x[0-9a-f]+"), " at 0x0"))  # of one process
FRONTEND = re.compile(r"/(assets|static)/([\w-][\w.-]*(?:/[\w-][\w.-]*)*)")
KINDS = {
    ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".png": "image/png",
    ".woff2": "font/woff2", ".woff": "font/woff", ".ttf": "font/ttf", ".ico": "image/x-icon",
}  # fmt: skip
FOREVER = "public, max-age=31536000, immutable"  # names in /assets/ hold a hash of what is in them
SCRIPT = """<script data-kept>
(() => {
  const digest = "%s", note = document.createElement('div');
  let lost = false, refused = 0;
  note.id = 'starting';
  note.setAttribute('role', 'status');
  note.textContent = 'Starting: the model is being loaded. What you ask now is answered as soon as it is there.';
  note.style = 'position:fixed;z-index:9999;left:50%%;bottom:12px;transform:translateX(-50%%);padding:6px 14px;'
    + 'border-radius:6px;font:14px/1.5 system-ui,sans-serif;background:#1B2430;color:#F6F7F9;max-width:90vw';
  addEventListener('DOMContentLoaded', () => document.body.append(note));
  addEventListener('error', (event) => { lost ||= event.target !== window; }, true);
  addEventListener('unhandledrejection', (event) => { lost ||= /import|fetch|load/i.test(event.reason?.message); });
  async function ask() {
    let told = {};
    try {
      told = await (await fetch('./healthz', {cache: 'no-store'})).json();
      refused = 0;
    } catch { refused += 1; }
    if (told.status === 'ready') return lost || told.page !== digest ? location.reload() : note.remove();
    if (refused > 40) note.textContent = 'It has stopped: its output says why.';
    else setTimeout(ask, 150);
  }
  setTimeout(ask, 150);
})();
</script>"""


@dataclass(frozen=True)
class Answer:
    """What a request gets: a media type, how long it may be stored, the bytes."""

    kind: str
    stored: str
    body: bytes


@dataclass(frozen=True)
class Kept:
    """A page with ROOT in place of its address, and the files that come with it by the path under which they are asked.

    `app_id` is what this start of the program is called in the page: whoever goes on with the page must take it.
    """

    page: str
    files: Mapping[str, Answer] = field(default_factory=dict)
    frontend: Path | None = None
    app_id: int = field(default_factory=lambda: secrets.randbits(53), compare=False)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.page.encode()).hexdigest()

    def answer(self, target: str, host: str | None) -> Answer | None:
        """What a GET of `target` (path and query) gets; None for what is not kept. `host`: None behind a proxy."""
        path, _, query = target.partition("?")
        if path == "/":
            if host is None or not HOST.fullmatch(host) or "deep_link" in query:
                return None
            page = self.page.replace(ROOT, f"http://{host}").replace('"app_id":0', f'"app_id":{self.app_id}', 1)
            head, opening, rest = page.partition("<head>")
            return Answer(
                "text/html; charset=utf-8", "no-store", (head + opening + SCRIPT % self.digest + rest).encode()
            )
        return self.files.get(target) or self._file(path)

    def _file(self, path: str) -> Answer | None:
        named = FRONTEND.fullmatch(path)
        if named is None or self.frontend is None:
            return None
        file = self.frontend / named[1] / named[2]
        kind = KINDS.get(file.suffix)
        if kind is None or not file.is_file():
            return None
        return Answer(kind, FOREVER if named[1] == "assets" else "no-cache", file.read_bytes())


def place(root: Path, facts: Mapping[str, Any]) -> Path | None:
    """The file for the page of this program, by its sources' state and by `facts`; None if none is to be kept."""
    named = os.environ.get(FOLDER)
    if named == "":
        return None
    home = os.path.expanduser(named or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "flexdemo"))
    if home.startswith("~"):  # nobody's home
        return None
    sources = sorted(path for path in _sources(root) if path.is_file())
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    told = json.dumps([str(root), dict(facts), states], sort_keys=True, default=str)
    return Path(home) / f"page-{hashlib.sha256(told.encode()).hexdigest()[:24]}.json"


def _sources(root: Path) -> Iterable[Path]:
    yield from (root / "app.py", *root.glob("flexdemo/*.py"), *root.glob("assets/*"))


def find(file: Path | None) -> Kept | None:
    """What was kept there; None if nothing was, or it cannot be read: then the page is kept anew."""
    found = importlib.util.find_spec("gradio")
    if file is None or found is None or found.origin is None:
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        files = {name: Answer(kind, "no-cache", body.encode("latin-1")) for name, (kind, body) in told["files"].items()}
        return Kept(str(told["page"]), files, Path(found.origin).parent / "templates" / "frontend")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read(url: str) -> Kept:
    """The page that a program serves at this address. OSError or http.client.HTTPException if it does not."""
    page = _get(url, "/").body.decode()
    for varying, fixed in OWN:
        page = varying.sub(fixed, page)
    theme = re.search(r'"theme_hash":\s*"([0-9a-f]+)"', page)
    wanted = ["/favicon.ico", *([f"/theme.css?v={theme[1]}"] if theme else [])]
    return Kept(page, {path: _get(url, path) for path in wanted})


def _get(url: str, path: str) -> Answer:
    """One answer of a program, to a browser that knows it as ROOT."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": urlsplit(ROOT).netloc, "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise http.client.HTTPException(f"{path} is answered with status {answer.status}")
    return Answer(answer.getheader("Content-Type", "application/octet-stream"), "no-cache", body)


def keep(kept: Kept, file: Path) -> None:
    """Write a page to its file, and forget those of the longest ago. OSError if that cannot be."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {name: (answer.kind, answer.body.decode("latin-1")) for name, answer in kept.files.items()}
    part = file.with_suffix(f".{os.getpid()}")
    try:
        part.write_text(json.dumps({"page": kept.page, "files": files}), encoding="utf-8")
        part.chmod(0o600)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)  # half of it, where the disk is full
    for old in sorted(file.parent.glob("page-*.json"), key=lambda each: each.stat().st_mtime, reverse=True)[MOST:]:
        old.unlink(missing_ok=True)


class Keeper:
    """The page between two starts: what the last one left, and what this one leaves. None of it without a place."""

    def __init__(self, place: Path | None) -> None:
        self._place, self.page, self.is_stale = place, find(place), False

    def name(self, demo: Any) -> None:
        """The page that browsers may have by now goes on under the name that it told them."""
        if self.page is not None:
            demo.app_id = self.page.app_id

    def keep(self, url: str) -> str | None:
        """Keep what the program serves now, and tell what names its form. None, and a line that says why, if it cannot
        be kept."""
        if self._place is None:
            return None
        try:
            now = read(url)
            self.is_stale = self.page is not None and self.page.digest != now.digest
            if self.page is None or self.is_stale or self.page.files != now.files:
                keep(now, self._place)
        except (OSError, http.client.HTTPException) as error:
            print(f"the page is not kept for the next start: {first_line(error)}", file=sys.stderr)
            self.is_stale = self.page is not None
            return ""
        return now.digest
