"""Gradio's inside, as far as the program needs it: all of it is touched here and nowhere else. Decides nothing.

Gradio promises to keep none of the names (seen in 6.31); what each is for stands in the function that uses it. Where
gradio offers the same in public, that is used instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

LOOK_SECONDS = 0.01


def events(demo: gr.Blocks) -> Mapping[int, Any]:
    """The events of a page that have been wired, by their numbers."""
    return demo.fns


def read_values_by(demo: gr.Blocks, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `wrap` around what makes a handler's arguments of the values that a browser sends."""
    demo.preprocess_data = wrap(demo.preprocess_data)


def queue(demo: gr.Blocks, most: int | None) -> None:
    """Let requests to a page wait, `most` of them; to be called before it is launched.

    Gradio looks whether one came a thousand times a second, which takes 5 % of a processor while nobody asks.
    """
    demo.queue(max_size=most, api_open=False)
    demo._queue.sleep_when_free = LOOK_SECONDS


def presence(demo: gr.Blocks) -> Callable[[], bool]:
    """Whether somebody still waits for what the running handler makes; to be called when it begins."""
    event_id = LocalContext.event_id.get(None)
    event = demo._queue.event_ids_to_events.get(event_id) if event_id else None
    return lambda: event is None or event.alive


def waiting(demo: gr.Blocks) -> dict[str, list[Any]]:
    """The requests that wait, by their queue's `concurrency_id`."""
    queues = dict(demo._queue.event_queue_per_concurrency_id)
    return {name: list(queue.queue) for name, queue in queues.items()}


def running(demo: gr.Blocks) -> list[Any]:
    """The requests that run."""
    return [event for job in demo._queue.active_jobs if job is not None for event in job]


def page_of(app: Any) -> gr.Blocks:
    """The page behind an app of gradio."""
    return app.get_blocks()


def has_session(app: Any, session: object) -> bool:
    return isinstance(session, str) and session in app.state_holder


def upload_folder(app: Any) -> Path:
    return Path(app.uploaded_file_dir)


def uploads(app: Any) -> Iterable[str]:
    """Paths of all files that were uploaded."""
    return page_of(app).upload_file_set


def served_folder(component: gr.components.Component) -> Path:
    """Where a file must lie so that a component hands it out under its own path, and not under one of gradio's, which
    follow from the contents."""
    return Path(component.GRADIO_CACHE)


def delete_with_page(component: gr.components.Component, path: str) -> None:
    """Have a file deleted when its time has come."""
    component.temp_files.add(path)


def tell_tools_in_json(demo: gr.Blocks) -> None:
    """Have the MCP tools of a launched page answer with JSON text."""
    tools = demo.mcp_server_obj
    if tools is None:
        return
    told = tools.postprocess_output_data

    def as_json(data: Iterable[Any], root_url: str) -> Any:
        return told([json.dumps(each, ensure_ascii=False) for each in data], root_url)

    tools.postprocess_output_data = as_json
