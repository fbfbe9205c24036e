"""The page: Gradio blocks and their wiring. What it shows is made in `ui_parts`, what it does in `ui_work`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ..answers.methods import resolve_methods
from ..answers.recording import Recorded
from ..engine.loading import Models, offered
from ..engine.model import LanguageModel
from ..engine.reading import Readings
from ..errors import InputError
from ..figures.cells import Window
from ..request import Limits, default
from ..serve.door import Door
from ..serve.profiles import DEFAULT, Profile
from ..serve.zerogpu import LOCAL, Gpu
from . import parts
from . import run as work
from .endpoints import add_endpoints, program_section
from .entered import Form, compose, token_limit
from .examples import cards_html, line_html, recorded_of, recorded_run
from .form import ask_side, note_of
from .pair import PAIR, SAVE, Pair, PairWidgets, live_html, png_html
from .parts import Drawing
from .results import ResultsFile
from .rows import RowPool, budget_of
from .tabs.tabs import Tabs
from .tabs.told import SCRIPT
from .terms import CHIPS, FONTS, MONO, THEME
from .tools import ResultTools

START_METHODS = ("flex", "origin", "per_prompt", "causal")
UPLOAD_MARGIN = 5_000_000  # above the limit of a file, so that a file a little too large is told of in words
KEPT = (3600, 86_400)  # every hour, files of visitors that are older than a day are deleted
ASSETS = Path(__file__).resolve().parents[2] / "assets"
FALLBACK_EXAMPLE = {
    "question": "What is the capital of Peru?",
    "paraphrases": ["Which city is Peru's capital?", "Name the capital city of Peru."],
    "note": "",
}


def launch_options(profile: Profile = DEFAULT, *, routes: Sequence[Any] = ()) -> dict[str, Any]:
    """Arguments of `Blocks.launch` that make the page look and behave as it should: theme, style, keys, its door.

    `routes` are those that the app has beside the page's.
    """
    sizes = {"text_size": "sm", "spacing_size": "sm", "radius_size": "sm"}
    hues = {"primary_hue": gr.themes.colors.blue, "neutral_hue": gr.themes.colors.slate}
    # Plain names of fonts: gradio would fetch a GoogleFont from outside.
    theme = gr.themes.Base(font=list(FONTS), font_mono=list(MONO), **sizes, **hues).set(**THEME)
    return {
        "theme": theme,
        "css": CHIPS,
        "css_paths": [ASSETS / "style.css"],
        "js": SCRIPT,
        "head": f"<script defer>{(ASSETS / 'views.js').read_text(encoding='utf-8')}</script>",
        "footer_links": ["api", "settings"],
        "max_file_size": profile.limits.file_bytes + UPLOAD_MARGIN,
        "state_session_capacity": profile.sessions,
        "enable_monitoring": False,
        "app_kwargs": {"middleware": [Middleware(Door, profile=profile)], "routes": list(routes)},
        "ssr_mode": False,
        "show_error": profile.waiting is None,  # of errors that nobody expects: their texts may hold paths
    }


def shown(part: Any) -> Any:
    """None, which leaves a part of the page as it is, in gradio's words."""
    return gr.skip() if part is None else part


def build_demo(
    lm: LanguageModel | Models,
    *,
    profile: Profile = DEFAULT,
    examples: Sequence[dict] = (),
    recordings: Sequence[Recorded] = (),
    gpu: Gpu = LOCAL,
    notice: str = "",
    warming: str = "",
) -> gr.Blocks:
    """The page over a loaded model, or several to choose from; launch it with `launch_options()`.

    An example has `question`, `paraphrases` and, if wanted, `note`; the first one is filled in at the start. Where one
    of `recordings` asked the same, its result is shown until the first run. `gpu` is how the work comes to a GPU, and
    `notice` a line on top that says what is special about the place where this runs; `warming` one that stays there
    for as long as /healthz tells of it.
    """
    limits, models = profile.limits, offered(lm)
    room = limits.paraphrases  # rows of the page's pool
    shown_examples = [{**each, "paraphrases": each["paraphrases"][:room]} for each in examples or [FALLBACK_EXAMPLE]]
    first = shown_examples[0]
    count = len(first["paraphrases"])
    texts = (*first["paraphrases"], *[""] * (room - count))
    start = Form(first["question"], texts, (1.0,) * (room + 1), default("mask"), default("positions"), START_METHODS)
    drawn = parts.draw(models.default, limits, start)
    with gr.Blocks(title="flexdemo", analytics_enabled=False, fill_width=True, delete_cache=KEPT) as demo:
        gr.HTML(
            "<h1>flexdemo</h1><p>One question, several wordings, one pass. The mask keeps the wordings apart; "
            "the answer is fused from all of them.</p>",
            elem_id="masthead",
        )
        if notice:
            gr.HTML(f"<p>{parts.escape(notice)}</p>", elem_id="notice")
        if warming:
            gr.HTML(f'<p role="status">{parts.escape(warming)}</p>', elem_id="warming")
        with gr.Row(elem_id="page"):
            with gr.Column(scale=4, min_width=320, elem_id="ask"):
                room = token_limit(models.default, limits)
                filled = {"examples": shown_examples, "count": count, "limits": limits, "room": room}
                asked = ask_side(start, drawn, **filled, models=models.choices)
            with gr.Column(scale=7, min_width=320, elem_id="see"):
                seen = _see_side(models, profile, start, drawn, gpu)
        results = ResultsFile(limits) if profile.uploads else None
        _wire(models, limits, shown_examples, recordings, asked, seen, results, demo, gpu)
        add_endpoints(models, limits, gpu)
    return demo


def _see_side(models: Models, profile: Profile, start: Form, drawn: Drawing, gpu: Gpu) -> dict[str, Any]:
    """Right: status, the two answers, every wording alone, the tabs with the mask first."""
    limits = profile.limits
    with gr.Column(elem_id="status"):
        model = gr.HTML(
            parts.model_html(models.default, limits, drawn.tokens, start.max_new_tokens), elem_id="status-model"
        )
        state = gr.HTML("Ready: press Run", elem_id="status-run")
        weights = gr.HTML(parts.weights_html(None), elem_id="status-weights")
        queue = gr.HTML("", elem_id="status-queue")
    pair = PairWidgets(start)
    table = gr.HTML(parts.table_html(start, None), elem_id="answers-alone")
    tools = ResultTools(models, gpu, disk_bytes=profile.disk_bytes)
    tabs = Tabs(models, limits, drawn)
    program_section()
    return {
        "tools": tools,
        "model": model,
        "state": state,
        "weights": weights,
        "queue": queue,
        "pair": pair,
        "table": table,
        "tabs": tabs,
    }


def _wire(
    models: Models,
    limits: Limits,
    examples: Sequence[dict],
    recordings: Sequence[Recorded],
    asked: dict[str, Any],
    seen: dict[str, Any],
    results: ResultsFile | None,
    demo: gr.Blocks,
    gpu: Gpu,
) -> None:
    """Events. Only the endpoints are public; redraws have a queue of their own, so that they never wait for a run."""
    runs, readings, remote = work.Runs(), Readings(), work.Remote(models, limits, gpu)
    private = {"api_visibility": "private", "show_progress": "hidden"}
    drawing = {**private, "concurrency_id": "draw", "concurrency_limit": 4}
    running = {**private, "concurrency_id": "model", "concurrency_limit": 1}
    # Who waits is told the place in the queue, where nothing else is covered by it.
    waiting = {**running, "show_progress": "minimal", "show_progress_on": seen["queue"]}

    pair: PairWidgets = seen["pair"]

    def redraw(show: str, exact: bool, query: float | None, key: float | None, *values: Any) -> tuple[Any, ...]:
        chosen, form = Pair.from_values(values[:6]), Form.from_values(values[6:])
        window = Window(int(query or 0), int(key or 0)) if exact else None
        lm = models.of(form.model)
        try:
            drawn = parts.draw(lm, limits, form, window=window, schemes=chosen.both(form), show=show)
        except InputError as error:
            model = parts.model_html(lm, limits, None, None)
            return (*[gr.skip()] * 6, model, parts.alert_html(str(error)), budget_of(lm, limits, form))
        model = parts.model_html(lm, limits, drawn.tokens, form.max_new_tokens)
        visible = gr.update(visible=drawn.is_long)
        shown_parts = (drawn.figure, drawn.spans, drawn.legend, drawn.caption, drawn.shares, visible, model, "")
        return (*shown_parts, budget_of(lm, limits, form, drawn.tokens))

    tabs: Tabs = seen["tabs"]
    tools: ResultTools = seen["tools"]
    drawn_parts = [tabs.plot, tabs.tokens, tabs.legend, tabs.caption, asked["shares"], tabs.window]
    drawn_parts += [seen["model"], asked["message"], asked["budget"]]
    draw_inputs = [*tabs.window_inputs, *pair.choices, *asked["form"]]

    def reweigh(*values: Any) -> tuple[Any, ...]:
        """What a moved weight changes at once; the mask changes only where a wording is hidden or shown again."""
        form = Form.from_values(values)
        try:
            prompt = compose(models.of(form.model), limits, form)
        except InputError as error:
            return gr.skip(), parts.alert_html(str(error)), gr.skip()
        hidden = tuple(i for i, weight in enumerate(prompt.weights) if weight == 0)
        return parts.shares_html(form, prompt.paraphrases), "", hidden

    hides = gr.State(())
    weights = asked["weights"]
    reweighed = [asked["shares"], asked["message"], hides]
    gr.on(
        [slider.change for slider in weights], reweigh, asked["form"], reweighed, trigger_mode="always_last", **drawing
    )
    # `used` changes with every edit of the rows: boxes that are hidden, before or after, fire no change of their own.
    moving = [widget for widget in draw_inputs if not any(widget is weight for weight in weights)]
    changes = [widget.change for widget in (*moving, hides, asked["used"])]
    gr.on(changes, redraw, draw_inputs, drawn_parts, trigger_mode="always_last", **drawing)

    def png(show: str, *values: Any) -> Any:
        try:
            form = Form.from_values(values[6:])
            return png_html(models.of(form.model), limits, form, Pair.from_values(values[:6]), show)
        except InputError:  # the redraw says why
            return ""

    saved = tabs.png.click(png, [tabs.window_inputs[0], *pair.choices, *asked["form"]], tabs.png_link, **drawing)
    saved.then(None, None, None, js=SAVE, **private)

    def run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        session = request.session_hash or ""
        chosen, form = Pair.from_values(values[:6]), Form.from_values(values[6:])
        current, reading = runs.start(session, chosen), readings.of(session, form.model)
        try:
            made = work.answers(models, limits, form, current, pair=chosen, reading=reading, remote=remote.answers)
            for frame in made:
                said = (*frame.cards, frame.table, frame.line, frame.message, frame.weights, frame.live)
                yield (*map(shown, said), *tabs.filled(frame.last), *tools.filled(frame.last))
        finally:
            runs.end(session, current)

    run_inputs = [*pair.choices, *asked["form"]]
    outputs = [*pair.bodies, seen["table"], seen["state"], asked["message"], seen["weights"], tabs.live]
    outputs += [*tabs.outputs, *tools.outputs]
    triggers = [asked["run"].click, *(box.submit for box in (asked["question"], *asked["boxes"]))]
    event = gr.on(triggers, run, run_inputs, outputs, trigger_mode="once", **waiting)

    def rerun(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Run again what this visitor's last run has read; nothing if the prompt is another by now."""
        form = Form.from_values(values[6:])
        reading = readings.of(request.session_hash or "", form.model)
        if work.has_read(models.of(form.model), limits, form, reading):
            yield from run(request, *values)
        else:
            yield tuple(gr.skip() for _ in outputs)

    def ladder(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        session, form = request.session_hash or "", Form.from_values(values)
        current, reading = runs.start(session), readings.of(session, form.model)
        try:
            for frame in work.ladder(models, limits, form, current, reading=reading, remote=remote.ladder):
                yield tuple(map(shown, frame))
        finally:
            runs.end(session, current)

    said = [pair.ladder, seen["state"], asked["message"]]
    climbed = pair.climb.click(ladder, asked["form"], said, trigger_mode="once", **waiting)

    def tick(*values: Any) -> list[str]:
        wordings = len(Form.from_values(values).wordings)
        return [method.name for method in resolve_methods(["all"], wordings)]

    ticked = asked["compare"].click(tick, asked["form"], asked["methods"], trigger_mode="once", **drawing)
    events = [event, ticked.then(run, run_inputs, outputs, trigger_mode="once", **waiting)]
    rows, share = RowPool(asked, limits), asked["share"]
    equalled = rows.wire(models, examples, note_of, drawing=drawing, running=running, gpu=gpu)
    again: dict[str, Any] = {"trigger_mode": "always_last", **running}
    events.append(gr.on([slider.release for slider in asked["weights"]], rerun, run_inputs, outputs, **again))
    events += [
        changed.then(rerun, run_inputs, outputs, **again)
        for changed in (equalled, *pair.wire(asked["form"], drawing, runs.pair))
    ]
    tools.wire(tabs.last, drawing=drawing, running=running)

    def stop(request: gr.Request) -> Any:
        return shown(runs.stop(request.session_hash or ""))

    def conclude(request: gr.Request) -> Any:
        return tuple(map(shown, runs.last_word(request.session_hash or "")))

    # The flag ends the work within one token; `cancels` also takes a run out of the queue that has not begun. A picture
    # may be on its way to the browser while Stop is pressed, so the last word is said when the run is over.
    asked["stop"].click(stop, None, seen["state"], cancels=[*events, climbed], queue=False, **private)
    for each in (*events, climbed):
        each.then(conclude, None, [seen["state"], *pair.bodies], queue=False, **private)

    def forget(request: gr.Request) -> None:
        runs.forget(request.session_hash or "")
        readings.forget(request.session_hash or "")

    demo.unload(forget)

    compared = [*pair.choices, tabs.window_inputs[0]]
    share.wire(rows, asked["form"], compared, asked["message"], drawing=drawing)
    if results is not None:
        results.wire(rows, asked["note"], drawing=drawing)

    def recorded(request: gr.Request, index: int, *values: Any) -> list[Any]:
        """What a recording of an example shows in the places of `outputs`; all as it is where there is none, and where
        the visitor has pressed Run meanwhile."""
        found, session = recorded_of(recordings, examples[index]), request.session_hash or ""
        if found is None:
            return [gr.skip()] * len(outputs)
        begun = runs.begun(session)
        last = recorded_run(found, START_METHODS)
        chosen = Pair.from_values(values[:6]) if values else PAIR
        form = Form.from_values(values[6:]) if values else asked["start"]
        cards = cards_html(last) if chosen == PAIR else [gr.skip()] * 2
        live = live_html(last.form, PAIR, last.result) if chosen == PAIR else ""
        line = line_html(found, models.of(form.model), as_set=form.settings == last.form.settings)
        said = (*cards, parts.table_html(last.form, last.result), line, gr.skip())
        told = [*said, parts.weights_html(last.result), live, *tabs.filled(last), *tools.filled(last)]
        runs_now = runs.is_running(session) or runs.begun(session) != begun
        return [gr.skip()] * len(outputs) if runs_now else told

    def opened(request: gr.Request, used: tuple[int, int]) -> list[Any]:
        values, alert = share.opened(request, rows, used, limits, models.choices)
        told = [gr.skip()] * len(outputs)
        if values is not None:
            chosen, form = share.filled(rows, values)
            told[outputs.index(seen["table"])] = parts.table_html(form, None, chosen.methods)
            return [*values, alert, "", *told]  # no note: it tells of an example
        example, session = recorded(request, 0), request.session_hash or ""
        # None of it where Run was pressed while the page was still loading.
        return [*[gr.skip()] * len(filled), alert, gr.skip(), *(told if runs.begun(session) else example)]

    filled = share.outputs(rows, asked["form"], compared)
    begun = demo.load(opened, asked["used"], [*filled, asked["link_message"], asked["note"], *outputs], **drawing)
    chosen = asked["gallery"].click(recorded, [asked["gallery"], *run_inputs], outputs, **drawing)
    gr.on(triggers, None, None, asked["link_message"], js="() => ''", **private)
    tabs.wire([*events, begun, chosen], drawing=drawing, running=running, gpu=gpu)
