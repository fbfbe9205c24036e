"""Tab *Heads that read wordings*: which heads look at a wording, and what the answer loses when they may not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...answers.heads import Reads, reading_heads
from ...answers.result import Result
from ...engine.model import LanguageModel
from ...engine.reading import Prefill
from ...figures.layers import heads_figure
from ...figures.results import table_html
from ...serve.log import checkpoint
from ..run import LastRun
from ..widgets import RUNNING, Changes, Page, Values, Visit, chip, plot, shown

TITLE, NAME = "Heads that read wordings", "heads"
CHANGES, NEEDS = ("heads_wording", "heads_plot", "heads_list"), ("flex",)
TERMS = ("Hidden from a head", "Attention mass", "Leave-one-out")
SAID = (
    "Left: the share of its attention that each head gives the wording, mean over the answer's tokens. Right and in "
    "the list: what the answer loses when the heads that look most may not see it, one at a time; above 0 their look "
    "helped. Click a head to open it in <b>A head</b>."
)
WAITING = "Reading the answer once more, head by head …"
HIDING = "Hiding this wording from the heads that look most, one at a time …"
NOTHING = "No other wording is left to read, or this one weighs 0: there is nothing to hide."
# A head of the list or of the picture that is clicked; plotly keeps what the mouse is over.
CHOOSE = """
const choose = (layer, head) => trigger('select', {layer: Number(layer), head: Number(head)});
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-head]');
  if (button) choose(button.dataset.layer, button.dataset.head);
});
document.addEventListener('click', (event) => {
  const graph = event.target.closest?.('#heads-plot')?.querySelector('.js-plotly-plot');
  const cell = graph?._hoverdata?.find((point) => point.data.type === 'heatmap');
  if (cell) choose(cell.y, cell.x);
});
"""


def build(page: Page) -> None:
    page["heads_wording"] = gr.Radio([], label="Wording", elem_id="heads-wording", visible=False)
    page["heads_plot"] = plot("heads-plot")
    page["heads_list"] = gr.HTML("", elem_id="heads-list", js_on_load=CHOOSE)


def names_of(last: LastRun | None) -> list[str]:
    return [segment.name for segment in last.result.prompt.paraphrases] if last else []


def fill(page: Page, last: LastRun, visit: Visit) -> Iterator[Changes]:
    radio = gr.update(choices=names_of(last), value=names_of(last)[0], visible=True)
    for changes in read(page, last, 0, visit):
        yield {"heads_wording": radio, **changes}


def read(page: Page, last: LastRun, wording: int, visit: Visit) -> Iterator[Changes]:
    for found in page.steps(look, last.result, wording, page.known(last, visit), tokens=32):
        listed = list_html(found) if found.strongest else f"<p>{HIDING}</p>"
        yield {"heads_plot": shown(picture(found)), "heads_list": listed}
    if not found.strongest:
        yield {"heads_plot": shown(picture(found)), "heads_list": f"<p>{NOTHING}</p>"}


def look(lm: LanguageModel, result: Result, wording: int, known: Prefill | None) -> Iterator[Reads]:
    yield from reading_heads(lm, result, wording, known=known, check=checkpoint())


def wire(page: Page) -> None:
    def wording(values: Values, visit: Visit) -> Iterator[Changes]:
        """Another wording is looked at by its name."""
        chosen, names = values["heads_wording"], names_of(values["last"])
        if chosen in names:
            for changes in read(page, values["last"], names.index(chosen), visit):
                yield {"heads_wording": chosen, **changes}

    options = {**RUNNING, "trigger_mode": "always_last", "busy": "heads_note", "refused": ["heads_list", "heads_plot"]}
    page.on(page["heads_wording"].input, wording, reads=["last", "heads_wording"], changes=CHANGES, **options)


def picture(found: Reads) -> Any:
    places = [(each.layer, each.head) for each in found.strongest]
    return heads_figure(found.attention, found.name, places, found.by_layer, found.without)


def list_html(found: Reads) -> str:
    """The heads that look most, each with its effect; then a layer as a whole, and all of them."""
    lines = []
    for place, each in enumerate(found.strongest, start=1):
        layer, head = each.layer + 1, each.head + 1
        said = f"layer {layer}, head {head}"
        button = f'<button type="button" data-layer="{layer}" data-head="{head}">{said}</button>'
        share = f'<td class="number" style="--share: {each.attention * 100:.1f}%">{each.attention:.3f}</td>'
        lines.append((str(place), button, share, effect_text(each.effect)))
    wholes = []
    if found.by_layer:
        layer = max(range(len(found.by_layer)), key=lambda i: abs(found.by_layer[i]))
        said = f"layer {layer + 1}, all its heads at once (the layer that matters most)"
        wholes.append(("", said, f"{found.attention[layer].mean():.3f}", effect_text(found.by_layer[layer])))
    if found.without is not None:
        said = "all layers and heads at once (leave-one-out)"
        wholes.append(("", said, f"{found.attention.mean():.3f}", effect_text(found.without)))
    titles = ("", "Wording hidden from", "Attention", "Log-prob. lost")
    why = (
        f"Heads that look most at {chip(found.name)}, with their numbers in the picture. Each row is one change by "
        "itself. Rows need not add up: other heads may make up for one that is missing."
    )
    if not any(round(effect, 3) for effect in (found.without, *(each.effect for each in found.strongest))):
        why += " <b>Here no single change moves the answer: the model is as sure of it without this wording.</b>"
    return f"<p>{why}</p>{table_html(titles, lines, wholes, head=1, numbers=(0, 2, 3))}"


def effect_text(effect: float) -> str:
    return f"{effect:+.3f}" if round(effect, 3) else "0.000"
