"""What breaks if gradio changes inside: each name that the program takes from there is tried on a page that runs."""

from __future__ import annotations

import ast
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from hosting import launched

from flexdemo.page.widgets import Visit
from flexdemo.serve import internals

INTERNALS = (
    "fns", "preprocess_data", "_queue", "event_queue_per_concurrency_id", "active_jobs",
    "event_ids_to_events", "LocalContext", "get_blocks", "state_holder", "uploaded_file_dir",
    "upload_file_set", "GRADIO_CACHE", "mcp_server_obj", "temp_files", "sleep_when_free",
)  # fmt: skip
PACKAGE = Path(internals.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A page with an event that waits to be let go, a file box and a download; two at once would have to wait."""
    held, told = threading.Event(), []

    def work(text: str) -> str:
        here = internals.presence(demo)
        told.append(here)
        held.wait(30)
        return text.upper()

    with gr.Blocks(analytics_enabled=False) as demo:
        box, file = gr.Textbox(), gr.DownloadButton()
        gr.Button().click(work, box, box, api_name="work", concurrency_id="model", concurrency_limit=1)
        gr.Button().click(lambda given: given, gr.File(), gr.Textbox(), api_name="take")
    app, url = launched(demo, show_error=True)
    yield SimpleNamespace(demo=demo, app=app, url=url, file=file, held=held, told=told)
    held.set()
    demo.close()


def until(holds: Any) -> bool:
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(holds())


def test_who_waits_who_runs_and_whether_somebody_is_there(page: SimpleNamespace) -> None:
    """`_queue`, `event_queue_per_concurrency_id`, `active_jobs`, `event_ids_to_events`, `LocalContext`, `fns`."""
    assert {fn.api_name for fn in internals.events(page.demo).values()} == {"work", "take"}
    assert internals.running(page.demo) == [] and not any(internals.waiting(page.demo).values())
    client = Client(page.url, verbose=False)
    jobs = [client.submit(text, api_name="/work") for text in "ab"]
    assert until(lambda: page.told and len(internals.waiting(page.demo)["model"]) == 1)
    (runs,), (waits,) = internals.running(page.demo), internals.waiting(page.demo)["model"]
    for event in (runs, waits):
        assert event.fn.concurrency_id == "model" and event.request.scope["path"].endswith("/queue/join")
        assert internals.has_session(page.app, event.session_hash)
    assert not internals.has_session(page.app, "nobody") and not internals.has_session(page.app, None)
    assert page.told[0](), "somebody waits"
    page.held.set()
    assert {job.result(timeout=20) for job in jobs} == {"A", "B"}
    assert internals.presence(page.demo)(), "where no request runs nobody is missing"


def test_somebody_who_leaves_is_missed(page: SimpleNamespace) -> None:
    page.held.clear()
    before = len(page.told)
    client = Client(page.url, verbose=False)
    job = client.submit("c", api_name="/work")
    assert until(lambda: len(page.told) > before)
    (event,), here = internals.running(page.demo), page.told[-1]
    assert here()
    event.alive = False  # as gradio says it of an event whose browser has closed
    assert not here()
    page.held.set()
    job.cancel()


def test_uploads_are_known_by_their_paths(page: SimpleNamespace, tmp_path: Path) -> None:
    """`get_blocks`, `upload_file_set`, `uploaded_file_dir`."""
    assert internals.page_of(page.app) is page.demo
    sent = tmp_path / "x.txt"
    sent.write_text("text", encoding="utf-8")
    before = set(internals.uploads(page.app))
    Client(page.url, verbose=False).predict(handle_file(str(sent)), api_name="/take")
    (added,) = set(internals.uploads(page.app)) - before
    assert Path(added).read_text(encoding="utf-8") == "text"
    assert Path(added).is_relative_to(internals.upload_folder(page.app))


def test_a_file_in_the_served_folder_keeps_its_path_and_is_deleted_with_the_page(page: SimpleNamespace) -> None:
    """`GRADIO_CACHE`, `temp_files`."""
    place = internals.served_folder(page.file) / "secret" / "x.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("text", encoding="utf-8")
    try:
        shown = page.file.postprocess(str(place))
        assert shown is not None and shown.path == str(place)
        internals.delete_with_page(page.file, str(place))
        assert any(str(place) in files for files in page.demo.temp_file_sets), "what `delete_cache` goes through"
    finally:
        place.unlink()


def test_a_reading_of_values_can_be_wrapped() -> None:
    """`preprocess_data`."""
    seen: list[Any] = []

    def wrap(read: Any) -> Any:
        async def wrapped(*args: Any, **options: Any) -> Any:
            seen.append(args)
            return await read(*args, **options)

        return wrapped

    with gr.Blocks(analytics_enabled=False) as demo:
        number = gr.Number()
        gr.Button().click(lambda value: value + 1, number, number, api_name="more")
    internals.read_values_by(demo, wrap)
    _, url = launched(demo)
    try:
        assert Client(url, verbose=False).predict(1, api_name="/more") == 2 and len(seen) == 1
    finally:
        demo.close()


def test_a_page_that_nobody_asks_looks_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sleep_when_free`, which gradio reads in a loop."""
    with gr.Blocks(analytics_enabled=False) as demo:
        gr.Textbox()
    internals.queue(demo, 4)
    looks, length = [], type(demo._queue).__len__
    monkeypatch.setattr(type(demo._queue), "__len__", lambda queue: looks.append(queue) or length(queue))
    launched(demo)
    try:
        began = time.monotonic()
        before = looks.count(demo._queue)
        assert until(lambda: looks.count(demo._queue) > before + 5)
        assert (looks.count(demo._queue) - before) / (time.monotonic() - began) < 2 / internals.LOOK_SECONDS
    finally:
        demo.close()


@pytest.mark.parametrize("told", [None, 7, "row", [], {}, {"row": None}], ids=str)
def test_a_detail_that_was_not_told_is_none(told: Any) -> None:
    """gradio's public way to them, whatever a browser sends."""
    assert Visit("", "", gr.EventData(None, told)).told("row") is None
    assert Visit("", "", gr.EventData(None, {"row": 3})).told("row") == 3


def test_nothing_else_takes_anything_from_inside() -> None:
    used: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute | ast.Name):
                used.setdefault(node.attr if isinstance(node, ast.Attribute) else node.id, set()).add(path.name)
    for name in INTERNALS:
        assert used.get(name) == {"internals.py"}, name
