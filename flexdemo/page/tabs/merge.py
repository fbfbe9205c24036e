"""Tab *Where wordings merge*: what each wording would say after each layer, and how alike their states are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

from ...answers.merge import Merge, merging
from ...answers.methods import mixing_layer
from ...engine.loading import Models
from ...engine.reading import Prefill, Readings
from ...errors import InputError
from ...figures.cells import visible_text
from ...figures.layers import merge_figure
from ...serve.log import within_noted_memory
from ...serve.zerogpu import Gpu, answer_seconds
from ..run import LastRun, belongs_html, kept, lacking
from ..terms import terms_html
from ..widgets import RUNNING, Changes, Values, Visit, Widgets, alert_html, chip, plot, shown, table_html
from .head import check_same

TITLE, NAME = "Where wordings merge", "merge"
CHANGES = ("merge_note", "merge_words", "merge_token", "merge_plot", "merge_table")
BEFORE = "After a run: at which layer the wordings, each asked alone, come to the fused answer."
SAID = (
    "Each wording is asked alone, and all of them fused, with the answer so far. Above: how probable the fused "
    "answer's token would be if the model stopped after that layer and spoke; a full dot is a first choice. Below: "
    "how alike their hidden states are there; much of it is common to all states, so look at how the lines bend."
)
WAITING = "Reading the answer once more, layer by layer …"


def build(widgets: Widgets, models: Models) -> None:
    widgets["merge_note"] = gr.HTML(f'<p class="to-come">{BEFORE}</p>', elem_id="merge-note")
    widgets["merge_token"] = gr.Slider(
        1, 2, 1, step=1, label="Token of the answer", elem_id="merge-token", visible=False, buttons=[], min_width=110
    )
    widgets["merge_words"] = gr.HTML("", elem_id="merge-words")
    widgets["merge_plot"] = plot("merge-plot")
    widgets["merge_table"] = gr.HTML("", elem_id="merge-table")
    gr.HTML(terms_html("Logit lens", "Cosine of hidden states"), elem_classes="terms")


def fill(models: Models, last: LastRun) -> Changes:
    return lacking(last, _cleared)


def _cleared(note: str) -> Changes:
    hidden = gr.update(visible=False)
    return {"merge_note": note, "merge_words": "", "merge_token": hidden, "merge_plot": shown(None), "merge_table": ""}


def wire(
    widgets: Widgets, models: Models, gpu: Gpu, readings: Readings
) -> Callable[[LastRun, Visit], Iterator[Changes]]:
    """Another token is looked at by its number; returns the look at a run that is new to the tab."""

    def look(last: LastRun, step: int, known: Prefill | None) -> Merge:
        with within_noted_memory(give_up=models.let_go):
            lm = models.that_made(last.result.model)
            check_same(lm, last)
            return merging(lm, last.result, step, known=known)

    looked = gpu.wrap(look, lambda *_: answer_seconds(2))

    def merged(last: LastRun, visit: Visit) -> Iterator[Changes]:
        yield _cleared(f"<p>{WAITING}</p>")
        found = looked(last, 0, kept(readings, visit, models, last))
        count = len(last.methods["flex"].token_ids)
        label = f"Token of the answer, 1 to {count}"
        slider = gr.update(value=1, maximum=max(2, count), visible=count > 1, label=label)
        yield {"merge_note": f"<p>{SAID}</p>{belongs_html(last)}", "merge_token": slider, **told(last, found, 0)}

    def token(values: Values, visit: Visit) -> Changes:
        last, step = values["last"], int(values["merge_token"] or 1) - 1
        if last is None:
            return {}
        try:
            return told(last, looked(last, step, kept(readings, visit, models, last)), step)
        except InputError as error:
            return {"merge_words": alert_html(str(error)), "merge_plot": shown(None), "merge_table": ""}

    reads, changes = ["last", "merge_token"], ["merge_words", "merge_plot", "merge_table"]
    model = {**RUNNING, "trigger_mode": "always_last", "busy": "merge_words"}
    widgets.on(widgets["merge_token"].input, token, reads=reads, changes=changes, **model)
    return merged


def told(last: LastRun, found: Merge, step: int) -> Changes:
    """One token of the answer in words, as a picture, and as a table."""
    return {
        "merge_words": words_html(last, found, step),
        "merge_plot": shown(picture(last, found)),
        "merge_table": says_html(found),
    }


def picture(last: LastRun, found: Merge) -> Any:
    """The layer from which `hidden_avg` mixes is marked, where that ran and the model has it."""
    hits = found.top == found.token_id
    cosines = (found.to_fused, found.between)
    begun = mixing_layer(last.result.request.hidden_layer, found.layers)
    marks = {
        "agree_from": found.agree_from,
        "marked_layer": begun if "hidden_avg" in last.methods and begun <= found.layers else None,
    }
    return merge_figure(found.probability, found.says, hits, *cosines, found.names[:-1], found.token, **marks)


def words_html(last: LastRun, found: Merge, step: int) -> str:
    """At which layer the wordings agree on the token, or who never comes to it."""
    names, depth = found.names[:-1], found.layers
    tokens = [escape(visible_text(token)) for token in last.methods["flex"].tokens]
    token = f"<code>{tokens[step]}</code>"
    tokens[step] = f'<mark class="differs"><b>{tokens[step]}</b></mark>'
    every = "The wording" if len(names) == 1 else "Both wordings" if len(names) == 2 else f"All {len(names)} wordings"
    if found.agree_from == 1:
        agreed = f"{every} would say {token} after every layer."
    elif found.agree_from == depth:
        agreed = f"{every} would say {token}, but only after the last layer, {depth}."
    elif found.agree_from is not None:
        agreed = f"{every} would say {token} from layer {found.agree_from} of {depth} on."
    else:
        others = [row for row in range(len(names)) if found.says_it_from(row) is None]
        each = [f"{chip(names[row])} <code>{escape(visible_text(found.says[-1][row]))}</code>" for row in others]
        agreed = f"The wordings never all come to {token}. After the last layer they still say something else: "
        agreed += f"{', '.join(each)}."
    fused = found.says_it_from(len(names))
    joined = "does not put it first" if fused is None else f"says it from layer {fused} on"
    alike = ""
    if len(names) > 1:
        alike = (
            f" Mean cosine of two wordings' states: {found.between[0]:.3f} after layer 1, "
            f"{found.between[-1]:.3f} after layer {depth}."
        )
    return f'<p class="said">Answer: {" ".join(tokens)}</p><p><b>{agreed}</b> The fused view {joined}.{alike}</p>'


def says_html(found: Merge) -> str:
    """What each would say after each layer, folded."""
    lines = []
    for row, name in enumerate(found.names):
        label = chip(name) if row < len(found.names) - 1 else "fused"
        cells = []
        for layer in range(found.layers):
            text = f"<code>{escape(visible_text(found.says[layer][row]))}</code>"
            hit = found.top[layer, row] == found.token_id
            cells.append(f"<td>{f'<b>✓ {text}</b>' if hit else text}</td>")
        lines.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    table = table_html(["Layer", *map(str, range(1, found.layers + 1))], f"<tbody>{''.join(lines)}</tbody>")
    return f"<details><summary>What each would say after each layer</summary>{table}</details>"
