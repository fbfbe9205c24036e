"""The page that is kept between two starts: what of it is answered, when it is the same, and when it is not shown."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import browser_support
import pytest
from test_waiting import NAVIGATION, asked, later, program

import app
from flexdemo.answers.ask import ask
from flexdemo.engine.loading import load_model
from flexdemo.gone import kept
from flexdemo.gone.kept import Answer, Kept
from flexdemo.gone.waiting import Waiting

HTML = (
    '<html><head><title>x</title></head><script>window.gradio_config = {"app_id":0,"root":"http://kept.invalid",'
    '"theme_hash":"ab12"};</script></html>'
)
READY, REFUSED = 30_000, 20_000  # ms


@pytest.fixture
def frontend(tmp_path: Path) -> Path:
    for name in ("assets/Index-a1.js", "assets/fonts/x.woff2", "static/img/logo.svg", "assets/notes.txt", "secret.js"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return tmp_path


def test_a_kept_page_has_the_address_under_which_it_is_asked(frontend: Path) -> None:
    page = Kept(HTML, {"/theme.css?v=ab12": Answer("text/css", "no-cache", b"a{}")}, frontend)
    for host in ("127.0.0.1:7860", "demo.example.org", "[::1]:7860"):
        answer = page.answer("/?q=Who%3F", host)
        text = answer.body.decode()
        assert f'"root":"http://{host}"' in text and "kept.invalid" not in text
        assert f'"app_id":{page.app_id}' in text and page.digest in text and answer.stored == "no-store"
        assert text.index("data-kept") < text.index("<title>"), "it sees files that are lost from the first one on"
    assert page.answer("/theme.css?v=ab12", None).body == b"a{}"


@pytest.mark.parametrize("host", [None, "", 'x"></script><script>alert(1)', "a b", "user@host", "host:123456", "x/y"])
def test_a_name_that_is_none_gets_no_page(host: str | None) -> None:
    assert Kept(HTML).answer("/", host) is None


def test_only_files_of_the_frontend_are_answered(frontend: Path) -> None:
    page = Kept(HTML, {}, frontend)
    assert page.answer("/assets/Index-a1.js", None) == Answer("text/javascript", kept.FOREVER, b"assets/Index-a1.js")
    assert page.answer("/assets/fonts/x.woff2", None).kind == "font/woff2"
    assert page.answer("/static/img/logo.svg", None).stored == "no-cache", "its name does not change with it"
    for path in (
        "/assets/../secret.js", "/assets/%2e%2e/secret.js", "/assets//secret.js", "/assets/./Index-a1.js", "/secret.js",
        "/assets/notes.txt", "/assets/none.js", "/assets", "/assets/", "/gradio_api/info", "/config", "/?deep_link=x",
    ):  # fmt: skip
        assert page.answer(path, "localhost") is None, path


class Serves(BaseHTTPRequestHandler):
    """A page whose program's own numbers change with every request."""

    def do_GET(self) -> None:
        self.server.count += 1
        own = {"app_id": self.server.count, "fn": f"<function f at {self.server.count:#x}>"}
        root = f"http://{self.headers['Host']}"
        bodies = {
            "/": f'{json.dumps(own)[:-1]},"title":"{self.server.title}","root":"{root}","theme_hash":"ab12"}}',
            "/theme.css?v=ab12": "a{}",
            "/favicon.ico": "\x89PNG",
        }
        body = bodies.get(self.path, "").encode("latin-1")
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "text/x")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def served() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Serves)
    server.count, server.title = 0, "one"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_two_starts_of_one_page_are_the_same_page(served: ThreadingHTTPServer, tmp_path: Path) -> None:
    url, file = f"http://127.0.0.1:{served.server_port}/", tmp_path / "cache" / "page-1.json"
    assert kept.find(file) is None
    first = kept.read(url)
    kept.keep(first, file)
    found, again = kept.find(file), kept.read(url)
    assert found.page == again.page and found.digest == again.digest == first.digest
    assert found.files == again.files and found.files["/favicon.ico"].body == b"\x89PNG"
    assert file.stat().st_mode & 0o077 == 0, "nobody else reads it"
    served.title = "two"
    assert kept.read(url).digest != first.digest
    served.title = ""
    file.write_text("{")
    assert kept.find(file) is None


def test_pages_of_the_longest_ago_are_forgotten(tmp_path: Path) -> None:
    files = [tmp_path / f"page-{i}.json" for i in range(kept.MOST + 3)]
    for i, file in enumerate(files):
        kept.keep(Kept(HTML), file)
        os.utime(file, (1000 + i, 1000 + i))
    kept.keep(Kept(HTML), tmp_path / "page-last.json")
    assert sorted(tmp_path.iterdir()) == sorted([*files[-(kept.MOST - 1) :], tmp_path / "page-last.json"])


def test_a_page_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, **options: Any) -> None:
        with self.open("w", **options) as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        kept.keep(Kept("a page"), tmp_path / "page-0.json")
    assert not list(tmp_path.iterdir())


def test_the_place_changes_with_the_sources_and_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept.FOLDER, str(tmp_path / "cache"))
    (tmp_path / "flexdemo").mkdir()
    source = tmp_path / "flexdemo" / "ui.py"
    source.write_text("a")
    places = [kept.place(tmp_path, {"model": None}), kept.place(tmp_path, {"model": "x"})]
    source.write_text("ab")
    places.append(kept.place(tmp_path, {"model": None}))
    assert len(set(places)) == 3 and places[2] == kept.place(tmp_path, {"model": None})
    monkeypatch.setenv(kept.FOLDER, "")
    assert kept.place(tmp_path, {"model": None}) is None


@pytest.mark.parametrize(
    "arguments", [["--auth", "user:secret"], ["--root-path", "/flexdemo"], ["--mcp"]], ids=lambda each: each[0]
)
def test_pages_that_not_everybody_may_see_are_not_kept(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(kept.FOLDER, str(tmp_path))
    parser = app.make_parser()
    assert app.place_of_page(parser.parse_args([])).parent == tmp_path
    assert app.place_of_page(parser.parse_args(arguments)) is None


@pytest.fixture
def port() -> int:
    return browser_support.free_port()


@pytest.fixture
def waiting(port: int, frontend: Path) -> Iterator[Waiting]:
    made = Waiting("127.0.0.1", port, known=Kept(HTML, {}, frontend).answer)
    yield made
    made.close()


def test_a_browser_gets_the_kept_page_and_its_files_at_once(waiting: Waiting, port: int) -> None:
    status, headers, body = asked(port, "/", **NAVIGATION)
    assert status == 200 and f"http://127.0.0.1:{port}".encode() in body and int(headers["Content-Length"]) == len(body)
    status, headers, body = asked(port, "/assets/Index-a1.js")
    assert (status, body) == (200, b"assets/Index-a1.js") and "immutable" in headers["Cache-Control"]
    assert asked(port, "/", method="HEAD", **NAVIGATION)[::2] == (200, b"")
    assert asked(port, "/healthz")[::2] == (503, b'{"status": "starting"}\n')
    assert asked(port, "/somewhere", **NAVIGATION)[0] == 503
    for name in ("X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"):
        status, _, body = asked(port, "/", **NAVIGATION, **{name: "other.example"})
        assert status == 503 and b"Starting: loading" in body, "its address is not the one that a browser knows"


@pytest.mark.parametrize("is_same", [True, False])
def test_what_a_page_asks_reaches_its_own_program_only(waiting: Waiting, port: int, is_same: bool) -> None:
    of_page = later(port, "/gradio_api/queue/join", method="POST", body=b"{}", Referer=f"http://127.0.0.1:{port}/")
    of_program = later(port, "/gradio_api/call/mask", method="POST", body=b"{}")
    index = later(port, "/")
    time.sleep(0.3)
    assert [told for _, told in (of_page, of_program, index)] == [[], [], []]
    server = program(waiting, port, pages=is_same)
    for thread, _ in (of_page, of_program, index):
        thread.join(10)
    assert of_program[1][0][2].startswith(b"POST /gradio_api/call/mask") and index[1][0][2].startswith(b"GET / ")
    assert of_page[1][0][0] == (200 if is_same else 503)
    server.shutdown()
    server.server_close()


Started = tuple[subprocess.Popen, str]
HOLD = """
import os, sys, time

class Hold:
    def find_spec(self, name, path=None, target=None):
        while name == "torch._C" and not os.path.exists(os.environ["GO_ON"]):
            time.sleep(0.02)

sys.meta_path.insert(0, Hold())
"""


@contextmanager
def started(cache: Path, *arguments: str, go_on: Path | None = None) -> Iterator[Started]:
    """`python app.py`, from the moment at which its port answers; pages are kept in `cache`.

    `go_on`: a file until which its start waits in the middle.
    """
    port = browser_support.free_port()
    command = [sys.executable, "app.py", "--port", str(port), *arguments]
    environment = {**os.environ, kept.FOLDER: str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if go_on is not None:
        held = go_on.parent / "held"
        held.mkdir()
        (held / "sitecustomize.py").write_text(HOLD)
        environment |= {"GO_ON": str(go_on), "PYTHONPATH": str(held)}
    process = subprocess.Popen(
        command, cwd=app.ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)) != 0:
                assert process.poll() is None
                time.sleep(0.01)
        yield process, f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.communicate()


def is_up(url: str) -> bool:
    status, _, body = asked(int(url.rstrip("/").rpartition(":")[2]), "/healthz")
    return status == 200 and json.loads(body)["status"] == "ready"


def leave_a_page(cache: Path, *arguments: str) -> Path:
    """Start once, and tell the file of the page that is kept then."""
    with started(cache, *arguments) as (process, _):
        lines = iter(process.stderr.readline, "")
        assert any('"event": "started"' in line for line in lines)
    (file,) = cache.glob("page-*.json")
    return file


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    leave_a_page(folder)
    return folder


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    yield context.new_page()
    context.close()


@pytest.mark.browser
@pytest.mark.timeout(180)
def test_a_page_that_was_kept_is_used_before_the_model_is_there(cache: Path, page: Any, tmp_path: Path) -> None:
    """Run is pressed while the program starts; the answer is the one that the engine gives."""
    with started(cache, go_on=tmp_path / "go") as (_, url):
        page.goto(url, wait_until="commit")
        page.wait_for_selector("#run:enabled", timeout=READY)
        page.locator("#question textarea").fill("What is the capital of Chile?")
        page.click("#run")
        assert not is_up(url)
        assert "model is being loaded" in page.locator("#starting").text_content()
        (tmp_path / "go").touch()
        page.wait_for_function("document.querySelector('#status-run').textContent.includes('Done')", timeout=READY)
        assert is_up(url)
        shown = [page.locator(f"#answer-{method}").text_content().strip() for method in ("flex", "causal")]
        page.wait_for_selector("#starting", state="detached", timeout=READY)
        boxes = [page.locator(f"#paraphrase-{i} textarea") for i in range(1, 11)]
        paraphrases = [box.input_value() for box in boxes if box.count() and box.is_visible()]
    assert len(paraphrases) > 1
    result = ask(load_model(), "What is the capital of Chile?", paraphrases, methods=("flex", "causal"))
    assert shown == [answered.answer for answered in result.results]


@pytest.mark.browser
@pytest.mark.timeout(180)
def test_a_page_that_has_changed_since_turns_to_the_new_one(cache: Path, page: Any, tmp_path: Path) -> None:
    other = tmp_path / "cache"
    shutil.copytree(cache, other)
    (file,) = other.glob("page-*.json")
    now = kept.find(file)
    heading = "\\u003ch1\\u003e{}\\u003c/h1\\u003e"
    old = now.page.replace(heading.format("flexdemo"), heading.format("yesterday"))
    assert old != now.page
    kept.keep(replace(now, page=old), file)
    with started(other, go_on=tmp_path / "go") as (_, url):
        page.goto(url, wait_until="commit")
        page.wait_for_selector("#masthead h1:has-text('yesterday')", timeout=READY)
        (tmp_path / "go").touch()
        page.wait_for_selector("#masthead h1:has-text('flexdemo')", timeout=READY)
        assert is_up(url) and page.locator("#starting").count() == 0
    assert kept.find(file).page == now.page, "the new one is kept"


@pytest.mark.browser
@pytest.mark.timeout(180)
def test_a_kept_page_says_that_the_program_could_not_start(page: Any, tmp_path: Path) -> None:
    model, cache = tmp_path / "model", tmp_path / "cache"
    shutil.copytree(browser_support.BUNDLED, model)
    leave_a_page(cache, "--model", str(model))
    (model / "config.json").unlink()
    with started(cache, "--model", str(model), go_on=tmp_path / "go") as (process, url):
        page.goto(url, wait_until="commit")
        page.wait_for_selector("#run:enabled", timeout=READY)
        (tmp_path / "go").touch()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert errors.startswith(f"error: no model at {model}") and errors.count("\n") == 1
        page.wait_for_selector("#starting:has-text('It has stopped')", timeout=REFUSED)
