"""The page's widgets by name, and events whose handlers take and return values by those names. Knows no models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
DRAWING: dict[str, Any] = {**PRIVATE, "concurrency_id": "draw", "concurrency_limit": 4}
RUNNING: dict[str, Any] = {**PRIVATE, "concurrency_id": "model", "concurrency_limit": 1}
Values = Mapping[str, Any]
Changes = dict[str, Any]


@dataclass(frozen=True)
class Visit:
    """Who an event comes from, and the query of his page's address."""

    session: str
    query: str
    event: gr.EventData

    def told(self, name: str) -> Any:
        """A detail of the event as the browser told it, None where it did not: what is told may be anything."""
        try:
            return getattr(self.event, name, None)
        except TypeError:  # it told no details at all, or a text in their place
            return None


class Widgets(dict[str, Any]):
    """Widgets by name, and their events. A handler gets the values of those it reads, by name, and a Visit; it returns,
    or yields, the values of those that change, by name, and nothing of the others."""

    def __init__(self) -> None:
        super().__init__()
        self._wired: list[tuple[set[str], Any]] = []

    def that_change(self, *names: str) -> list[Any]:
        """The events so far that may change one of these widgets."""
        return [event for changes, event in self._wired if not changes.isdisjoint(names)]

    def on(
        self,
        triggers: Any,
        work: Callable[[Values, Visit], Any],
        *,
        reads: Iterable[str] = (),
        changes: Sequence[str],
        busy: str = "",
        **options: Any,
    ) -> Any:
        """Wire what listens to widgets, or what follows an event; `options` are gradio's, DRAWING where none are given.

        While somebody waits, the widget `busy` says so; without one nothing does, and gradio's page is told of a state
        that shows nothing: else each step of an event would touch all that any event may change. Returns the event.
        """
        inputs, outputs = {name: self[name] for name in reads}, {name: self[name] for name in changes}

        def told(made: Mapping[str, Any]) -> dict[Any, Any]:
            # Gradio does not take an empty dictionary for one.
            return {outputs[name]: value for name, value in made.items()} or {outputs[changes[0]]: gr.skip()}

        def asked(given: Mapping[Any, Any], request: gr.Request, event: gr.EventData) -> tuple[Values, Visit]:
            values = {name: given[widget] for name, widget in inputs.items()}
            return values, Visit(request.session_hash or "", str(request.query_params), event)

        def once(given: dict, request: gr.Request, event: gr.EventData) -> dict[Any, Any]:
            return told(work(*asked(given, request, event)))

        def streamed(given: dict, request: gr.Request, event: gr.EventData) -> Any:
            made: Changes | None = None
            for made in work(*asked(given, request, event)):
                yield told(made)
            if made is None:  # gradio would empty all that a generator changes which yields nothing
                yield told({})

        handler = streamed if inspect.isgeneratorfunction(work) else once
        handler.__name__ = work.__name__
        wired = {"inputs": set(inputs.values()), "outputs": list(outputs.values()), **DRAWING, **options}
        wired |= {"show_progress_on": self[busy or "tab"], **({"show_progress": "minimal"} if busy else {})}
        made = triggers.then(handler, **wired) if hasattr(triggers, "then") else gr.on(triggers, handler, **wired)
        self._wired.append((set(changes), made))
        return made


def alert_html(message: str) -> str:
    return f'<div role="alert" class="alert">{escape(message[:1].upper() + message[1:])}</div>' if message else ""


def chip(name: str) -> str:
    """A segment's name behind a square of its colour; the colours of `is-...` are the page's style."""
    return f'<span class="chip is-{escape(name)}">{escape(name)}</span>'


def table_html(titles: Sequence[str], bodies: str, *, kind: str = "", numbers: Container[int] = ()) -> str:
    """A table in a box that scrolls; `bodies` are its <tbody> elements, `numbers` the columns set to the right."""
    kinds = (' class="number"' if i in numbers else "" for i in range(len(titles)))
    head = "".join(f'<th scope="col"{each}>{escape(title)}</th>' for each, title in zip(kinds, titles, strict=True))
    table = f'<table class="facts {kind}"><thead><tr>{head}</tr></thead>{bodies}</table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'


def chooser(name: str) -> str:
    """A script of a gr.HTML whose buttons with `data-NAME` select what has that number."""
    return f"""element.addEventListener('click', (event) => {{
      const button = event.target.closest('button[data-{name}]');
      if (button) trigger('select', {{index: Number(button.dataset.{name})}});
    }});"""


def plot(name: str, figure: Any = None, **options: Any) -> gr.Plot:
    """A figure's place; it takes no room while there is none, unless it is said to be visible."""
    shown = {"show_label": False, "container": False, "elem_classes": ["figure"], "visible": figure is not None}
    return gr.Plot(figure, elem_id=name, **{**shown, **options})


def shown(figure: Any) -> Any:
    """A figure, or None, as a change of its place."""
    return gr.update(value=figure, visible=figure is not None)
