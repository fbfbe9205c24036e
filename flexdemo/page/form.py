"""The left side of the page: question, paraphrases, weights, buttons, settings, examples. Wires nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..answers.methods import METHODS
from ..masks import STRATEGIES
from ..prompt import POSITIONS
from ..request import FIELDS, Limits
from . import parts
from .entered import CONFIDENCE, GIVEN, LABELS, Form, slider_of
from .parts import Drawing
from .rows import budget_html, limits_html
from .share import Share
from .tabs.tabs import number
from .terms import terms_html

HINT = "Another wording; several pasted lines become several rows"


def ask_side(
    start: Form,
    drawn: Drawing,
    *,
    examples: Sequence[dict],
    count: int,
    limits: Limits,
    room: int,
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """Left: the question, the pool of rows, Run and Stop, settings, examples.

    `room` is how many tokens prompt and answer may have together; `models` are the names to choose from, if any.
    """
    model = gr.Dropdown(
        [*models] or [("the only one", "")],
        value=models[0] if models else "",
        label="Model",
        elem_id="model",
        visible=bool(models),
    )
    link_message = gr.HTML("", elem_id="link-message", elem_classes="message")
    used = gr.State((count, 0))  # rows in use, and a number that grows with each edit of them
    with gr.Row(elem_classes=["wording-row", "is-P1"]):
        question = _wording(LABELS["question"], "question", start.question, focus=True)
        weights = [_weight(0, "Weight of the question")]
    rows, boxes, lifters, copiers, lowerers, removers = [], [], [], [], [], []
    for i in range(limits.paraphrases):
        with gr.Row(visible=i < count, elem_classes=["wording-row", f"is-P{i + 2}"]) as row:
            label = f"Paraphrase {i + 1} (P{i + 2})"
            boxes.append(_wording(label, f"paraphrase-{i + 1}", start.paraphrases[i], hint=HINT))
            weights.append(_weight(i + 1, f"Weight of paraphrase {i + 1}"))
            lifters.append(_row_button("up", i + 1, "Move paraphrase {} up"))
            copiers.append(_row_button("copy", i + 1, "Duplicate paraphrase {}"))
            lowerers.append(_row_button("down", i + 1, "Move paraphrase {} down"))
            removers.append(_row_button("remove", i + 1, "Remove paraphrase {}"))
        rows.append(row)
    with gr.Row(elem_id="row-tools"):
        add = gr.Button("Add paraphrase", size="sm", elem_id="add-paraphrase", min_width=90)
        write = gr.Button("Write with the model", size="sm", elem_id="write-paraphrases", min_width=90)
        equal = gr.Button("Equal weights", size="sm", elem_id="equal-weights", min_width=90)
    rows_message = gr.HTML("", elem_id="rows-message", elem_classes="message")
    budget = gr.HTML(budget_html(drawn.tokens, start.max_new_tokens, room), elem_id="budget")
    if limits != Limits():
        gr.HTML(limits_html(limits), elem_id="limits", elem_classes="help")
    shares = gr.HTML(drawn.shares, elem_id="shares")
    gr.HTML(terms_html("Weights"), elem_classes="terms")
    with gr.Row(elem_id="actions"):
        run = gr.Button("Run", variant="primary", elem_id="run", min_width=90, scale=3)
        stop = gr.Button("Stop", elem_id="stop", min_width=70)
        compare = gr.Button("Compare all", elem_id="compare-all", min_width=100)
    message = gr.HTML("", elem_id="message")
    strategies = [(strategy.label, strategy.name) for strategy in STRATEGIES.values()]
    schemes = [(name.replace("_", " ").capitalize(), name) for name in POSITIONS]
    with gr.Row(elem_id="settings"):
        strategy = gr.Dropdown(
            strategies, value=start.strategy, label=LABELS["mask"], elem_id="strategy", min_width=130
        )
        positions = gr.Dropdown(
            schemes, value=start.positions, label=LABELS["positions"], elem_id="positions", min_width=130
        )
        length = setting("max_new_tokens", start, limits)
    gr.HTML(terms_html("Segment mask", "Aligned positions"), elem_classes="terms")
    methods = gr.CheckboxGroup(
        [(m.label, m.name) for m in METHODS.values()],
        value=list(start.methods),
        label=LABELS["methods"],
        elem_id="methods",
    )
    with gr.Accordion("Weights, sampling and prefix", open=False, elem_id="more"):
        weighing = _weighing(start, limits)
        with gr.Row():
            temperature, top_p = (setting(name, start, limits) for name in ("temperature", "top_p"))
            seed = gr.Number(start.seed, precision=0, label=LABELS["seed"], elem_id="seed", min_width=110)
        _help("temperature", "top_p", "seed")
        label = f"{LABELS['prefix']}: {FIELDS['prefix'].description}"
        prefix = gr.Textbox(start.prefix, label=label, elem_id="prefix", lines=2, max_lines=8)
    share = Share()
    gallery = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[example["question"]] for example in examples],
        type="index",
        label="Examples",
        elem_id="examples",
        samples_per_page=12,
    )
    note = gr.HTML(note_of(examples[0]), elem_id="example-note")
    form = [
        question,
        *boxes,
        *weights,
        strategy,
        positions,
        methods,
        length,
        temperature,
        top_p,
        seed,
        prefix,
        *weighing,
        model,
    ]
    return {
        "form": form, "question": question, "boxes": boxes, "weights": weights, "rows": rows, "removers": removers,
        "lifters": lifters, "copiers": copiers, "lowerers": lowerers, "rows_message": rows_message, "budget": budget,
        "share": share, "link_message": link_message,
        "used": used, "add": add, "write": write, "equal": equal, "shares": shares, "run": run, "methods": methods,
        "stop": stop, "compare": compare, "message": message, "gallery": gallery, "note": note, "seed": seed,
        "model": model, "start": start,
    }  # fmt: skip


def _weighing(start: Form, limits: Limits) -> list[Any]:
    """Where the weights come from, and how the fused answer's attention to the wordings is shaped."""
    source = gr.Radio(
        [("My weights", GIVEN), ("Confidence (samples agreeing with the greedy answer)", CONFIDENCE)],
        value=start.weights_from,
        label=LABELS["weights"],
        info="Confidence: a wording whose sampled answers often repeat its greedy one gets more weight.",
        elem_id="weights-from",
    )
    with gr.Row():
        samples, warmth = (setting(name, start, limits) for name in ("samples", "sample_temperature"))
    _help("samples", "sample_temperature")
    gr.HTML(terms_html("Confidence"), elem_classes="terms")
    with gr.Row():
        ape, scale = (setting(name, start, limits) for name in ("ape_temperature", "ape_scale"))
    _help("ape_temperature", "ape_scale")
    gr.HTML(terms_html("APE (attention T and S)"), elem_classes="terms")
    return [source, samples, warmth, ape, scale]


def setting(name: str, start: Form, limits: Limits) -> gr.Slider:
    """The slider of a setting, as Request describes it; one that a host limits ends there."""
    low, high, step = slider_of(name, limits)
    return number(low, high, min(getattr(start, name), high), step, LABELS[name], name.replace("_", "-"))


def _help(*names: str) -> None:
    """What some settings do, as Request says it."""
    said = " ".join(f"{LABELS[name]}: {FIELDS[name].description}." for name in names)
    gr.HTML(f"<p>{parts.escape(said)}</p>", elem_classes="help")


def _row_button(kind: str, row: int, name: str) -> gr.Button:
    """A button of one row; its text names it for those who cannot see its sign, which is the page's style."""
    classes = ["row-button", kind]
    return gr.Button(name.format(row), size="sm", elem_id=f"{kind}-{row}", elem_classes=classes, min_width=28)


def _wording(label: str, name: str, value: str, *, focus: bool = False, hint: str | None = None) -> gr.Textbox:
    return gr.Textbox(
        value,
        label=label,
        elem_id=name,
        lines=1,
        max_lines=6,
        placeholder=hint,
        autofocus=focus,
        scale=5,
        min_width=120,
    )


def _weight(i: int, label: str) -> gr.Slider:
    return gr.Slider(
        0, 10, 1, step=0.1, label=label, elem_id=f"weight-{i}", elem_classes="weight", scale=0, min_width=96, buttons=[]
    )


def note_of(example: dict) -> str:
    return parts.escape(example.get("note") or "")
