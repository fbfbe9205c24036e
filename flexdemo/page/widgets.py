"""The page's widgets by name, events whose handlers take and return values by those names, and what all handlers share:
the models, the limits, the way to a GPU. Knows no layout."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..answers.result import Result
from ..engine.loading import Models
from ..engine.model import LanguageModel
from ..engine.reading import Prefill, Readings
from ..errors import InputError
from ..prompt import SegmentedPrompt
from ..serve.log import within_noted_memory
from ..serve.profiles import Profile
from ..serve.zerogpu import Gpu, answer_seconds
from .state import PageState

ASSETS = Path(__file__).resolve().parents[2] / "assets"
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
DRAW: dict[str, Any] = {"concurrency_id": "draw", "concurrency_limit": 4}
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
DRAWING, RUNNING = PRIVATE | DRAW, PRIVATE | MODEL
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


class Page(dict[str, Any]):
    """Widgets by name, and their events. A handler gets the values of those it reads, by name, and a Visit; it returns,
    or yields, the values of those that change, by name, and nothing of the others."""

    def __init__(self, models: Models, profile: Profile, gpu: Gpu) -> None:
        super().__init__()
        self.models, self.profile, self.limits, self.gpu = models, profile, profile.limits, gpu
        self.room, self.readings = profile.limits.paraphrases, Readings()
        self.state = list(PageState(question="").values(self.room))  # all that a PageState is made of
        self.shown = [*self.state, "drawn", "last", "left_figures"]  # all that tells which prompt is seen
        self.answering: list[Any] = []  # events after which the page is to answer again
        self._wired: list[tuple[set[str], Any]] = []

        def steps(work: Callable[..., Any], of: str | Result, *given: Any, tokens: int, rows: int = 1) -> Iterator[Any]:
            with within_noted_memory(give_up=models.let_go):
                lm = models.of(of) if isinstance(of, str) else maker(models, of)
                made = work(lm, of, *given)
                yield from made if inspect.isgenerator(made) else (made,)

        # What `work`, a function of a module, makes of the model that is called `of` or that made the result `of`: step
        # by step, and maybe in another process, so it is given little. `tokens` and `rows` tell how much it decodes.
        self.steps = gpu.wrap(steps, lambda *_, tokens, rows=1: answer_seconds(tokens, rows))

    def ask(self, *given: Any, **size: int) -> Any:
        """The one thing that `steps` makes of the same arguments."""
        (made,) = self.steps(*given, **size)
        return made

    def compose(self, state: PageState) -> SegmentedPrompt:
        """The prompt that a run of this page packs; InputError for what cannot run."""
        return state.compose(self.models.of(state.model), self.limits)

    def known(self, last: Any, visit: Visit) -> Prefill | None:
        """What this visitor's last run has read, unless the prompt that is shown is another."""
        held = self.readings.of(visit.session, last.state.model).known(last.result.prompt)
        return held if held is not None and held.owner is self.models.that_made(last.result.model).model else None

    def that_change(self, *names: str) -> list[Any]:
        """The events so far that may change one of these widgets."""
        return [event for changes, event in self._wired if not changes.isdisjoint(names)]

    def cleared(self, names: Iterable[str]) -> Changes:
        """These widgets without what they show: a text is empty, all else is hidden."""
        empty = gr.update(value="", visible=False)
        hidden = {gr.HTML: "", gr.Plot: shown(None), gr.Textbox: empty, gr.DownloadButton: None}
        return {name: hidden.get(type(self[name]), gr.update(visible=False)) for name in names}

    def refusing(self, work: Callable[..., Any], refused: Sequence[str] | None) -> Callable[[Values, Visit], Any]:
        """`work`, whose InputErrors are told in the first of these widgets, which is emptied where there is none, while
        the others are cleared; without any nothing is told, as the redraw does."""
        if refused is None:
            return work
        clean = dict.fromkeys(refused[:1], "")

        def told(error: InputError) -> Changes:
            return {**self.cleared(refused), **dict.fromkeys(clean, alert_html(str(error)))}

        @wraps(work)
        def once(values: Values, visit: Visit) -> Changes:
            try:
                made = work(values, visit)
                return clean | made if made else made
            except InputError as error:
                return told(error)

        @wraps(work)
        def streamed(values: Values, visit: Visit) -> Iterator[Changes]:
            try:
                for changes in work(values, visit):
                    yield clean | changes
            except InputError as error:
                if refused:
                    yield told(error)

        return streamed if inspect.isgeneratorfunction(work) else once

    def on(
        self,
        triggers: Any,
        work: Callable[[Values, Visit], Any],
        *,
        reads: Iterable[str] = (),
        changes: Sequence[str],
        refused: Sequence[str] | None = None,
        busy: str = "",
        **options: Any,
    ) -> Any:
        """Wire what listens to widgets, or what follows an event; `options` are gradio's, DRAWING where none are given.

        `refused` is as in `refusing`. While somebody waits, the widget `busy` says so; without one nothing does, and
        gradio's page is told of a state that shows nothing: else each step of an event would touch all that any event
        may change. Returns the event.
        """
        work, names = self.refusing(work, refused), list(dict.fromkeys([*changes, *(refused or ())]))
        inputs, outputs = {name: self[name] for name in reads}, {name: self[name] for name in names}

        def told(made: Mapping[str, Any]) -> dict[Any, Any]:
            # Gradio does not take an empty dictionary for one.
            return {outputs[name]: value for name, value in made.items()} or {outputs[names[0]]: gr.skip()}

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
        self._wired.append((set(names), made))
        return made


def maker(models: Models, result: Result) -> LanguageModel:
    """The model that made a result; InputError for one of another, which a recording may show."""
    lm = models.that_made(result.model)
    if (result.model, result.dtype) != (lm.name, lm.dtype):
        raise InputError(
            f"what is shown was recorded with {result.model} in {result.dtype}, and the loaded model is "
            f"{lm.name} in {lm.dtype}: press Run, then look again"
        )
    return lm


def script(name: str) -> str:
    """One of the page's scripts."""
    return (ASSETS / name).read_text(encoding="utf-8")


def alert_html(message: str, *, refused: bool = False) -> str:
    """A message in red; if what the page holds is `refused`, the answers that it shows are of something else."""
    kind = "alert refused" if refused else "alert"
    return f'<div role="alert" class="{kind}">{escape(message[:1].upper() + message[1:])}</div>' if message else ""


def chip(name: str) -> str:
    """A segment's name behind a square of its colour; the colours of `is-...` are the page's style."""
    return f'<span class="chip is-{escape(name)}">{escape(name)}</span>'


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
