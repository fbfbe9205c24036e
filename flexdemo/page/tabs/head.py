"""Tab *A head*: where every token of the prompt looks, in one layer and head of the last run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from ...answers.heads import attention_map, check_head, heads_of
from ...answers.result import Result
from ...engine.model import LanguageModel
from ...errors import InputError
from ...figures.answer import attention_figure
from ..run import LastRun
from ..widgets import PRIVATE, RUNNING, Changes, Page, Values, Visit, plot, shown

TITLE, NAME = "A head", "head"
CHANGES, NEEDS, TERMS, WAITING = ("head_plot", "head_message"), (), (), ""
SAID = (
    "Where every token of the prompt looks, in one layer and head of your choice, as the fused answer read it. Each "
    "row of the picture sums to 1; colours follow the square root of the share."
)
OPEN = "() => document.querySelector('#tab-head-button')?.click()"


def build(page: Page) -> None:
    layers, heads = (max(counts) for counts in zip(*(heads_of(lm) for _, lm in page.models.named), strict=True))
    with gr.Row(elem_classes="choices"):
        for what, count in (("layer", layers), ("head", heads)):
            label = f"{what.capitalize()}, 1 to {count}"
            page[f"head_{what}"] = gr.Number(1, label=label, precision=0, elem_id=f"attention-{what}")
        page["head_show"] = gr.Button("Show attention", elem_id="attention-show", min_width=120)
    page["head_message"] = gr.HTML("", elem_id="attention-message", elem_classes="message")
    page["head_plot"] = plot("attention-plot")


def fill(page: Page, last: LastRun, visit: Visit) -> Iterator[Changes]:
    """What was shown stays if it belongs to this run."""
    yield {} if last.head else page.cleared(CHANGES)


def wire(page: Page) -> None:
    def attention(values: Values, visit: Visit) -> Changes:
        last, layer, head = (values[name] for name in ("last", "head_layer", "head_head"))
        if last is None:
            raise InputError("nothing has run yet: press Run, then look again")
        figure = page.ask(attention_plot, last.result, layer, head, tokens=1)
        return {"head_plot": shown(figure), "last": replace(last, head=(layer, head))}

    def pointed(values: Values, visit: Visit) -> Changes:
        """A head chosen where heads are compared."""
        numbers = {f"head_{what}": visit.told(what) for what in ("layer", "head")}
        if not all(isinstance(number, int) for number in numbers.values()):
            return {}
        return numbers | attention({**values, **numbers}, visit)

    numbers, wired = ["head_layer", "head_head"], {"refused": ["head_message", "head_plot"], **RUNNING}
    changes = ["head_plot", "last"]
    page.on(page["head_show"].click, attention, reads=["last", *numbers], changes=changes, busy="head_show", **wired)
    wired |= {"changes": [*changes, *numbers], "busy": "heads_note"}
    page.on(page["heads_list"].select, pointed, reads=["last"], **wired).then(None, js=OPEN, **PRIVATE)


def attention_plot(lm: LanguageModel, result: Result, layer: float | None, head: float | None) -> Any:
    """Attention of a layer and head, counted from 1, over the result's prompt; InputError where there is none."""
    for what, number in (("layer", layer), ("head", head)):
        if number is None or number != int(number):
            raise InputError(f"the number of the {what} is missing: give a whole number, 1 or more")
    chosen = int(layer), int(head)
    check_head(lm, *chosen, first=1)
    rows = attention_map(lm, result, *(number - 1 for number in chosen))
    return attention_figure(rows, result.prompt.tokens, result.prompt.segments)
