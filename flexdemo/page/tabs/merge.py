"""Tab *Where wordings merge*: what each wording would say after each layer, and how alike their states are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from ...answers.merge import Merge, merging
from ...answers.methods import mixing_layer
from ...figures.cells import visible_text
from ...figures.layers import merge_figure
from ...figures.results import table_html
from ..run import LastRun
from ..widgets import RUNNING, Changes, Page, Values, Visit, chip, plot, shown

TITLE, NAME = "Where wordings merge", "merge"
CHANGES, NEEDS = ("merge_words", "merge_token", "merge_plot", "merge_table"), ("flex",)
TERMS = ("Logit lens", "Cosine of hidden states")
SAID = (
    "Each wording is asked alone, and all of them fused, with the answer so far. Above: how probable the fused "
    "answer's token would be if the model spoke after that layer; a full dot is a first choice. Below: how alike "
    "their hidden states are there; look at how the lines bend."
)
WAITING = "Reading the answer once more, layer by layer …"


def build(page: Page) -> None:
    page["merge_token"] = gr.Slider(
        1, 2, 1, step=1, label="Token of the answer", elem_id="merge-token", visible=False, buttons=[], min_width=110
    )
    page["merge_words"] = gr.HTML("", elem_id="merge-words")
    page["merge_plot"] = plot("merge-plot")
    page["merge_table"] = gr.HTML("", elem_id="merge-table")


def fill(page: Page, last: LastRun, visit: Visit) -> Iterator[Changes]:
    count = len(last.methods["flex"].token_ids)
    label = f"Token of the answer, 1 to {count}"
    slider = gr.update(value=1, maximum=max(2, count), visible=count > 1, label=label)
    yield {"merge_token": slider, **read(page, last, 0, visit)}


def read(page: Page, last: LastRun, step: int, visit: Visit) -> Changes:
    """One token of the answer in words, as a picture, and as a table."""
    found = page.ask(partial(merging, known=page.known(last, visit)), last.result, step, tokens=2)
    words, table = words_html(last, found, step), says_html(found)
    return {"merge_words": words, "merge_plot": shown(picture(last, found)), "merge_table": table}


def wire(page: Page) -> None:
    def token(values: Values, visit: Visit) -> Changes:
        """Another token is looked at by its number."""
        last, step = values["last"], int(values["merge_token"] or 1) - 1
        return read(page, last, step, visit) if last else {}

    names = ["merge_words", "merge_plot", "merge_table"]
    options = {**RUNNING, "trigger_mode": "always_last", "busy": "merge_words", "refused": names}
    page.on(page["merge_token"].input, token, reads=["last", "merge_token"], changes=names, **options)


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
        said = [f"<code>{escape(visible_text(says[row]))}</code>" for says in found.says]
        hits = found.top[:, row] == found.token_id
        label = chip(name) if row < len(found.names) - 1 else "fused"
        lines.append([label, *(f"<b>✓ {text}</b>" if hit else text for text, hit in zip(said, hits, strict=True))])
    table = table_html(["Layer", *map(str, range(1, found.layers + 1))], lines, head=0)
    return f"<details><summary>What each would say after each layer</summary>{table}</details>"
