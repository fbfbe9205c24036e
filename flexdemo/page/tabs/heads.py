"""Tab *Heads that read wordings*: which heads look at a wording, and what the answer loses when they may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ...answers.heads import Reads, reading_heads
from ...engine.loading import Models
from ...engine.reading import Prefill, Readings
from ...errors import InputError
from ...figures.layers import heads_figure
from ...serve.log import checkpoint, within_noted_memory
from ...serve.zerogpu import Gpu, answer_seconds
from ..run import LastRun, belongs_html, kept, lacking
from ..terms import terms_html
from ..widgets import RUNNING, Changes, Values, Visit, Widgets, alert_html, chip, plot, shown, table_html
from .head import check_same

TITLE, NAME = "Heads that read wordings", "heads"
CHANGES = ("heads_note", "heads_wording", "heads_plot", "heads_list")
BEFORE = "After a run: which heads of the model look at a wording, and which of them matter to the answer."
SAID = (
    "Left: the share of its attention that each head gives the wording, mean over the answer's tokens; looking is no "
    "influence. So the wording is hidden from those that look most, one at a time, and the same answer is scored "
    "again: above 0 its look helped. Click a head to open it in <b>A head</b>."
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


def build(widgets: Widgets, models: Models) -> None:
    widgets["heads_note"] = gr.HTML(f'<p class="to-come">{BEFORE}</p>', elem_id="heads-note")
    widgets["heads_wording"] = gr.Radio([], label="Wording", elem_id="heads-wording", visible=False)
    widgets["heads_plot"] = plot("heads-plot")
    widgets["heads_list"] = gr.HTML("", elem_id="heads-list", js_on_load=CHOOSE)
    gr.HTML(terms_html("Hidden from a head", "Attention mass", "Leave-one-out"), elem_classes="terms")


def fill(models: Models, last: LastRun) -> Changes:
    return lacking(last, _cleared)


def _cleared(note: str) -> Changes:
    return {
        "heads_note": note, "heads_wording": gr.update(visible=False), "heads_plot": shown(None), "heads_list": ""
    }  # fmt: skip


def wire(
    widgets: Widgets, models: Models, gpu: Gpu, readings: Readings
) -> Callable[[LastRun, Visit], Iterator[Changes]]:
    """Another wording is looked at by its name; returns the look at a run that is new to the tab."""

    def look(last: LastRun, wording: int, known: Prefill | None) -> Iterator[Reads]:
        with within_noted_memory(give_up=models.let_go):
            lm = models.that_made(last.result.model)
            check_same(lm, last)
            yield from reading_heads(lm, last.result, wording, known=known, check=checkpoint())

    looked = gpu.wrap(look, lambda *_: answer_seconds(32))

    def read(last: LastRun, wording: int, visit: Visit) -> Iterator[Changes]:
        for found in looked(last, wording, kept(readings, visit, models, last)):
            listed = list_html(found) if found.strongest else f"<p>{HIDING}</p>"
            yield {"heads_plot": shown(picture(found)), "heads_list": listed}
        if not found.strongest:
            yield {"heads_plot": shown(picture(found)), "heads_list": f"<p>{NOTHING}</p>"}

    def begun(last: LastRun, visit: Visit) -> Iterator[Changes]:
        yield _cleared(f"<p>{WAITING}</p>")
        names = [segment.name for segment in last.result.prompt.paraphrases]
        radio = gr.update(choices=names, value=names[0], visible=True)
        told = {"heads_note": f"<p>{SAID}</p>{belongs_html(last)}", "heads_wording": radio}
        for changes in read(last, 0, visit):
            yield told | changes  # all of it each time: of changes that come quickly a page may show the last only

    def wording(values: Values, visit: Visit) -> Iterator[Changes]:
        last = values["last"]
        names = [segment.name for segment in last.result.prompt.paraphrases] if last else []
        if values["heads_wording"] not in names:
            return
        try:
            for changes in read(last, names.index(values["heads_wording"]), visit):
                yield {"heads_wording": values["heads_wording"], **changes}
        except InputError as error:
            yield {"heads_list": alert_html(str(error)), "heads_plot": shown(None)}

    reads, changes = ["last", "heads_wording"], ["heads_wording", "heads_plot", "heads_list"]
    model = {**RUNNING, "trigger_mode": "always_last", "busy": "heads_note"}
    widgets.on(widgets["heads_wording"].input, wording, reads=reads, changes=changes, **model)
    return begun


def picture(found: Reads) -> Any:
    places = [(each.layer, each.head) for each in found.strongest]
    return heads_figure(found.attention, found.name, places, found.by_layer, found.without)


def list_html(found: Reads) -> str:
    """The heads that look most, each with its effect; then a layer as a whole, and all of them."""
    lines = [
        f'<tr><td class="number">{place}</td><th scope="row"><button type="button" data-layer="{each.layer + 1}" '
        f'data-head="{each.head + 1}">layer {each.layer + 1}, head {each.head + 1}</button></th>'
        f'<td class="number" style="--share: {each.attention * 100:.1f}%">{each.attention:.3f}</td>'
        f'<td class="number">{effect_text(each.effect)}</td></tr>'
        for place, each in enumerate(found.strongest, start=1)
    ]
    wholes = []
    if found.by_layer:
        layer = max(range(len(found.by_layer)), key=lambda i: abs(found.by_layer[i]))
        share = float(found.attention[layer].mean())
        said = f"layer {layer + 1}, all its heads at once (the layer that matters most)"
        wholes.append(_whole(said, f"{share:.3f}", found.by_layer[layer]))
    if found.without is not None:
        share = float(found.attention.mean())
        wholes.append(_whole("all layers and heads at once (leave-one-out)", f"{share:.3f}", found.without))
    titles = ("", "Wording hidden from", "Attention", "Log-prob. lost")
    bodies = f"<tbody>{''.join(lines)}</tbody><tbody>{''.join(wholes)}</tbody>"
    table = table_html(titles, bodies, numbers=(0, 2, 3))
    why = (
        f"Heads that look most at {chip(found.name)}, with their numbers in the picture. Each row is one change by "
        "itself. Rows need not add up: other heads may make up for one that is missing."
    )
    if not any(round(effect, 3) for effect in (found.without, *(each.effect for each in found.strongest))):
        why += " <b>Here no single change moves the answer: the model is as sure of it without this wording.</b>"
    return f"<p>{why}</p>{table}"


def _whole(said: str, share: str, effect: float) -> str:
    return (
        f'<tr><td></td><th scope="row">{said}</th><td class="number">{share}</td>'
        f'<td class="number">{effect_text(effect)}</td></tr>'
    )


def effect_text(effect: float) -> str:
    return f"{effect:+.3f}" if round(effect, 3) else "0.000"
