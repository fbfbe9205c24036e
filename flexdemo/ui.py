"""The page: Gradio blocks and their wiring. What it shows is made in `ui_parts`, what it does in `ui_work`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from . import ui_parts as parts
from . import ui_work as work
from .cells import Window
from .config import Decoding, InputError, Limits
from .methods import METHODS, resolve_methods
from .model import LanguageModel
from .ui_access import SCRIPT
from .ui_ask import ask_side, note_of
from .ui_form import ROWS, Form
from .ui_parts import CARDS, Drawing
from .ui_program import add_endpoints, program_section
from .ui_style import CHIPS, FONTS, MONO, THEME
from .ui_tabs import Tabs

START_METHODS = ("flex", "origin", "per_prompt", "causal")
ASSETS = Path(__file__).resolve().parent.parent / "assets"
FALLBACK_EXAMPLE = {
    "question": "What is the capital of Peru?",
    "paraphrases": ["Which city is Peru's capital?", "Name the capital city of Peru."],
    "note": "",
}


def launch_options() -> dict[str, Any]:
    """Arguments of `Blocks.launch` that make the page look and behave as it should: theme, style, keys."""
    sizes = {"text_size": "sm", "spacing_size": "sm", "radius_size": "sm"}
    hues = {"primary_hue": gr.themes.colors.blue, "neutral_hue": gr.themes.colors.slate}
    # Plain names of fonts: gradio would fetch a GoogleFont from outside.
    theme = gr.themes.Base(font=list(FONTS), font_mono=list(MONO), **sizes, **hues).set(**THEME)
    return {
        "theme": theme,
        "css": CHIPS,
        "css_paths": [ASSETS / "style.css"],
        "js": SCRIPT,
        "footer_links": ["api", "settings"],
        "ssr_mode": False,
        "show_error": True,
    }


def shown(part: Any) -> Any:
    """None, which leaves a part of the page as it is, in gradio's words."""
    return gr.skip() if part is None else part


def build_demo(lm: LanguageModel, *, limits: Limits | None = None, examples: Sequence[dict] = ()) -> gr.Blocks:
    """The page over a loaded model; launch it with `launch_options()`.

    An example has `question`, `paraphrases` and, if wanted, `note`; the first one is filled in at the start.
    """
    limits = limits or Limits()
    offered = list(examples) or [FALLBACK_EXAMPLE]
    first = offered[0]
    count = min(len(first["paraphrases"]), ROWS)
    texts = [*first["paraphrases"][:ROWS], *[""] * (ROWS - count)]
    start = Form(
        first["question"],
        tuple(texts),
        (1.0,) * (ROWS + 1),
        "segment",
        "aligned",
        START_METHODS,
        Decoding().max_new_tokens,
        0.0,
        1.0,
        0,
        "",
    )
    drawn = parts.draw(lm, limits, start)
    with gr.Blocks(title="flexdemo", analytics_enabled=False, fill_width=True) as demo:
        gr.HTML(
            "<h1>flexdemo</h1><p>One question, several wordings, one pass. The mask keeps the wordings apart; "
            "the answer is fused from all of them.</p>",
            elem_id="masthead",
        )
        with gr.Row(elem_id="page"):
            with gr.Column(scale=4, min_width=320, elem_id="ask"):
                asked = ask_side(start, drawn, examples=offered, count=count, limits=limits)
            with gr.Column(scale=7, min_width=320, elem_id="see"):
                seen = _see_side(lm, limits, start, drawn)
        _wire(lm, limits, offered, asked, seen, demo)
        add_endpoints(lm, limits)
    return demo


def _see_side(lm: LanguageModel, limits: Limits, start: Form, drawn: Drawing) -> dict[str, Any]:
    """Right: status, the two answers, every wording alone, the tabs with the mask first."""
    with gr.Column(elem_id="status"):
        model = gr.HTML(parts.model_html(lm, limits, drawn.tokens, start.max_new_tokens), elem_id="status-model")
        state = gr.HTML("Ready: press Run", elem_id="status-run")
        weights = gr.HTML(parts.weights_html(None), elem_id="status-weights")
    cards = []
    with gr.Row(elem_id="answers"):
        for name in CARDS:
            method = METHODS[name]
            with gr.Column(elem_classes="card", min_width=240):
                gr.HTML(f"<h2>{parts.escape(method.label)}</h2><p>{parts.escape(method.summary)}</p>")
                cards.append(gr.HTML(parts.card_html(name), elem_classes="card-body"))
    gr.HTML(
        "<b>First token</b>: from Run to the first token, reading the prompt included. <b>Tokens/s</b>: tokens after "
        "the first, over the time since it. All chosen methods decode together as rows of one batch, in that time.",
        elem_id="stats-note",
    )
    table = gr.HTML(parts.table_html(start, None), elem_id="answers-alone")
    tabs = Tabs(lm, limits, drawn)
    program_section()
    return {"model": model, "state": state, "weights": weights, "cards": cards, "table": table, "tabs": tabs}


def _wire(
    lm: LanguageModel,
    limits: Limits,
    examples: Sequence[dict],
    asked: dict[str, Any],
    seen: dict[str, Any],
    demo: gr.Blocks,
) -> None:
    """Events. Only the endpoints are public; redraws have a queue of their own, so that they never wait for a run."""
    runs = work.Runs()
    private = {"api_visibility": "private", "show_progress": "hidden"}
    drawing = {**private, "concurrency_id": "draw", "concurrency_limit": 4}
    running = {**private, "concurrency_id": "model", "concurrency_limit": 1}

    def redraw(exact: bool, query: float | None, key: float | None, *values: Any) -> tuple[Any, ...]:
        form = Form.from_values(values)
        window = Window(int(query or 0), int(key or 0)) if exact else None
        try:
            drawn = parts.draw(lm, limits, form, window=window)
        except InputError as error:
            model = parts.model_html(lm, limits, None, None)
            return (*[gr.skip()] * 6, model, parts.alert_html(str(error)))
        model = parts.model_html(lm, limits, drawn.tokens, form.max_new_tokens)
        visible = gr.update(visible=drawn.is_long)
        return drawn.figure, drawn.spans, drawn.legend, drawn.caption, drawn.shares, visible, model, ""

    tabs: Tabs = seen["tabs"]
    drawn_parts = [tabs.plot, tabs.tokens, tabs.legend, tabs.caption, asked["shares"], tabs.window]
    drawn_parts += [seen["model"], asked["message"]]
    draw_inputs = [*tabs.window_inputs, *asked["form"]]
    # `used` changes with every edit of the rows: boxes that are hidden, before or after, fire no change of their own.
    changes = [widget.change for widget in (*draw_inputs, asked["used"])]
    gr.on(changes, redraw, draw_inputs, drawn_parts, trigger_mode="always_last", **drawing)

    def run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        session = request.session_hash or ""
        current = runs.start(session)
        try:
            for frame in work.answers(lm, limits, Form.from_values(values), current):
                said = (*frame.cards, frame.table, frame.line, frame.message, frame.weights)
                yield (*map(shown, said), *tabs.filled(frame.last))
        finally:
            runs.end(session, current)

    outputs = [*seen["cards"], seen["table"], seen["state"], asked["message"], seen["weights"], *tabs.outputs]
    triggers = [asked["run"].click, *(box.submit for box in (asked["question"], *asked["boxes"]))]
    event = gr.on(triggers, run, asked["form"], outputs, trigger_mode="once", **running)

    def tick(*values: Any) -> list[str]:
        wordings = len(Form.from_values(values).wordings)
        return [method.name for method in resolve_methods(["all"], wordings)]

    ticked = asked["compare"].click(tick, asked["form"], asked["methods"], trigger_mode="once", **drawing)
    events = [event, ticked.then(run, asked["form"], outputs, trigger_mode="once", **running)]
    tabs.wire(lm, events, drawing=drawing, running=running)

    def stop(request: gr.Request) -> Any:
        return shown(runs.stop(request.session_hash or ""))

    def conclude(request: gr.Request) -> Any:
        return shown(runs.last_word(request.session_hash or ""))

    # The flag ends the work within one token; `cancels` also takes a run out of the queue that has not begun. A picture
    # may be on its way to the browser while Stop is pressed, so the last word is said when the run is over.
    asked["stop"].click(stop, None, seen["state"], cancels=events, queue=False, **private)
    for each in events:
        each.then(conclude, None, seen["state"], queue=False, **private)

    def forget(request: gr.Request) -> None:
        runs.forget(request.session_hash or "")

    demo.unload(forget)

    pool = [*asked["boxes"], *asked["weights"]]
    row_outputs = [*pool, *asked["rows"], asked["used"]]

    def as_updates(rows: work.Rows, serial: int) -> list[Any]:
        count = len(rows.texts)
        boxes = [*rows.texts, *[""] * (ROWS - count)]
        weights = [*rows.weights, *[1] * (ROWS - count)]
        return [*boxes, *weights, *(gr.update(visible=i < count) for i in range(ROWS)), (count, serial + 1)]

    def add(used: tuple[int, int], *values: Any) -> list[Any]:
        return as_updates(work.Rows.from_values(used[0], values).added(""), used[1])

    def remove(index: int, used: tuple[int, int], *values: Any) -> list[Any]:
        return as_updates(work.Rows.from_values(used[0], values).removed(index), used[1])

    def write(question: str, seed: float | None, used: tuple[int, int], *values: Any) -> list[Any]:
        try:
            rows = work.Rows.from_values(used[0], values).written(lm, limits, question or "", int(seed or 0))
        except InputError as error:
            return [*[gr.skip()] * len(row_outputs), parts.alert_html(str(error))]
        return [*as_updates(rows, used[1]), ""]

    def load_example(index: int, used: tuple[int, int]) -> list[Any]:
        example = examples[index]
        texts = tuple(example["paraphrases"][:ROWS])
        rows = work.Rows(texts, (1,) * (len(texts) + 1))
        return [example["question"], note_of(example), *as_updates(rows, used[1])]

    row_inputs = [asked["used"], *pool]
    asked["add"].click(add, row_inputs, row_outputs, **drawing)
    for i, button in enumerate(asked["removers"]):
        button.click(partial(remove, i), row_inputs, row_outputs, **drawing)
    asked["equal"].click(lambda: [1] * (ROWS + 1), None, asked["weights"], **drawing)
    edits = [box.input for box in (asked["question"], *asked["boxes"])]
    edits += [button.click for button in (*asked["removers"], asked["write"])]
    gr.on(edits, None, None, asked["note"], js="() => ''", **private)  # it tells of the example as it was
    gallery, example_outputs = asked["gallery"], [asked["question"], asked["note"], *row_outputs]
    gallery.click(load_example, [gallery, asked["used"]], example_outputs, **drawing)
    write_inputs = [asked["question"], asked["seed"], *row_inputs]
    waiting = {**running, "show_progress": "minimal", "show_progress_on": asked["write"]}
    asked["write"].click(write, write_inputs, [*row_outputs, asked["message"]], **waiting)
