"""Tab *A head*: where every token of the prompt looks, in one layer and head of the last run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from ...answers.heads import attention_map, check_head, heads_of
from ...engine.loading import Models
from ...engine.model import LanguageModel
from ...engine.reading import Readings
from ...errors import InputError
from ...figures.answer import attention_figure
from ...serve.log import within_noted_memory
from ...serve.zerogpu import Gpu, answer_seconds
from ..run import LastRun, belongs_html
from ..widgets import PRIVATE, RUNNING, Changes, Values, Visit, Widgets, alert_html, plot, shown

TITLE, NAME = "A head", "head"
CHANGES = ("head_note", "head_plot", "head_message")
BEFORE = "After a run: where every token of the prompt looks, in one layer and head of your choice."
SAID = (
    "Choose a layer and a head. The prompt is read once more, as the fused answer read it; each row of the picture "
    "sums to 1. Colours follow the square root of the share."
)

OPEN = "() => document.querySelector('#tab-head-button')?.click()"


def build(widgets: Widgets, models: Models) -> None:
    layers, heads = (max(counts) for counts in zip(*(heads_of(lm) for _, lm in models.named), strict=True))
    widgets["head_note"] = gr.HTML(f'<p class="to-come">{BEFORE}</p>', elem_id="head-note")
    with gr.Row(elem_classes="choices"):
        for what, count in (("layer", layers), ("head", heads)):
            label = f"{what.capitalize()}, 1 to {count}"
            widgets[f"head_{what}"] = gr.Number(1, label=label, precision=0, elem_id=f"attention-{what}", min_width=110)
        widgets["head_show"] = gr.Button("Show attention", elem_id="attention-show", min_width=120)
    widgets["head_message"] = gr.HTML("", elem_id="attention-message", elem_classes="message")
    widgets["head_plot"] = plot("attention-plot")


def fill(models: Models, last: LastRun) -> Changes:
    """What was shown stays if it belongs to this run."""
    note = {"head_note": f"<p>{SAID}</p>{belongs_html(last)}"}
    return note if last.head else {**note, "head_plot": shown(None), "head_message": ""}


def wire(widgets: Widgets, models: Models, gpu: Gpu, readings: Readings) -> None:
    def draw(last: LastRun | None, layer: float | None, head: float | None) -> Any:
        with within_noted_memory(give_up=models.let_go):
            lm = models.default if last is None else models.that_made(last.result.model)
            return attention_plot(lm, last, layer, head)

    drawn = gpu.wrap(draw, lambda *_: answer_seconds(1))

    def attention(values: Values, visit: Visit) -> Changes:
        last, layer, head = (values[name] for name in ("last", "head_layer", "head_head"))
        try:
            figure = drawn(last, layer, head)
        except InputError as error:
            return {"head_plot": shown(None), "head_message": alert_html(str(error))}
        return {"head_plot": shown(figure), "head_message": "", "last": replace(last, head=(layer, head))}

    def pointed(values: Values, visit: Visit) -> Changes:
        """A head chosen where heads are compared."""
        numbers = {f"head_{what}": visit.told(what) for what in ("layer", "head")}
        if not all(isinstance(number, int) for number in numbers.values()):
            return {}
        return numbers | attention({**values, **numbers}, visit)

    changes = ["head_plot", "head_message", "last"]
    reads = ["last", "head_layer", "head_head"]
    widgets.on(widgets["head_show"].click, attention, reads=reads, changes=changes, busy="head_show", **RUNNING)
    wired = {"reads": ["last"], "changes": [*changes, "head_layer", "head_head"], "busy": "heads_note"}
    chosen = widgets.on(widgets["heads_list"].select, pointed, **wired, **RUNNING)
    chosen.then(None, None, None, js=OPEN, **PRIVATE)


def check_same(lm: LanguageModel, last: LastRun | None) -> None:
    """InputError for a run that the model at hand did not make."""
    if last is None:
        raise InputError("nothing has run yet: press Run, then look again")
    if (last.result.model, last.result.dtype) != (lm.name, lm.dtype):
        raise InputError(
            f"what is shown was recorded with {last.result.model} in {last.result.dtype}, and the loaded model is "
            f"{lm.name} in {lm.dtype}: press Run, then look again"
        )


def attention_plot(lm: LanguageModel, last: LastRun | None, layer: float | None, head: float | None) -> Any:
    """Attention of a layer and head, counted from 1, over the last run's prompt; InputError where there is none."""
    check_same(lm, last)
    for what, number in (("layer", layer), ("head", head)):
        if number is None or number != int(number):
            raise InputError(f"the number of the {what} is missing: give a whole number, 1 or more")
    chosen = int(layer), int(head)
    check_head(lm, *chosen, first=1)
    rows = attention_map(lm, last.result, *(number - 1 for number in chosen))
    prompt = last.result.prompt
    return attention_figure(rows, prompt.tokens, prompt.segments)
