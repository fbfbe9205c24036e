"""Tab *The mask up close*: pairs to open and close, both sides' rules in words and what changes between them, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from ...figures.cells import difference_png, mask_png
from ...figures.mask import difference_figure
from ...masks import parse
from ...plan import Scheme
from ...prompt import POSITIONS, SegmentedPrompt
from ..examples import prompt_shown
from ..sides import scheme_label, seen_by
from ..state import PageState
from ..tools import csv_bytes, wire_save
from ..widgets import Changes, Page, Values, Visit, plot, shown
from . import pairs

TITLE, NAME = "The mask up close", "upclose"
CHANGES, BEFORE = ("difference_caption", "difference_plot", *pairs.CHANGES), pairs.HELP
NEEDS, TERMS, SAID, WAITING = (), (), "", ""


def build(page: Page) -> None:
    pairs.build(page)
    page["difference_caption"] = gr.HTML("", elem_id="difference-caption")
    with gr.Row(elem_id="mask-tools"):
        for kind, (label, _, _) in FILES.items():
            page[f"mask-{kind}"] = gr.Button(label, size="sm", elem_id=f"mask-{kind}", min_width=130, scale=0)
    page["difference_plot"] = plot("difference-plot")


def draw(prompt: SegmentedPrompt, schemes: tuple[Scheme, Scheme]) -> Changes:
    """What changes from the right side's mask to the left side's, with exact numbers of cells, and both in words."""
    left, right = masks = [seen_by(prompt, scheme) for scheme in schemes]
    figure = difference_figure(left.cells(), right.cells(), prompt.tokens, prompt.segments, words=False)
    told = [
        f"<p><b>{side}: {escape(scheme_label(scheme))}</b>. {escape(parse(scheme.strategy).summary)} "
        f"{escape(POSITIONS[scheme.positions])} Density {mask.density:.4f}.</p>"
        for side, scheme, mask in zip(("Left", "Right"), schemes, masks, strict=True)
    ]
    changes, cells = left.difference(right), left.tokens**2
    shares = ", ".join(
        f'<span class="chip is-{word}">{word}</span> {count:,} ({count / cells:.4f})' for word, count in changes.items()
    )
    caption = f"{''.join(told)}<p>From right to left: {shares} of {cells:,} cells.</p>"
    return {"difference_caption": caption, "difference_plot": shown(figure)}


# Label, name and contents of each file, of the prompt and both sides' cells.
FILES: dict[str, tuple[str, str, Callable[[SegmentedPrompt, np.ndarray, np.ndarray], bytes]]] = {
    "png": ("Left mask, PNG", "mask.png", lambda prompt, left, right: mask_png(left, prompt.segments)),
    "difference": ("Difference, PNG", "difference.png", lambda prompt, left, right: difference_png(left, right)),
    "csv": ("Left mask, CSV", "mask.csv", lambda prompt, left, right: csv_bytes(prompt, left)),
}


def fill(page: Page, last: Any, visit: Visit) -> Iterator[Changes]:
    """The tab shows the page as it is, whatever ran."""
    yield from ()


def wire(page: Page) -> None:
    def seen(values: Values) -> tuple[PageState, SegmentedPrompt]:
        state = PageState.of(values)
        return state, prompt_shown(values["last"], state, values["drawn"]) or page.compose(state)

    def difference(values: Values, visit: Visit) -> Changes:
        state, prompt = seen(values)
        return draw(prompt, state.schemes) | pairs.shown_of(prompt, state)

    def if_open(values: Values, visit: Visit) -> Changes:
        return difference(values, visit) if values["tab"] == NAME else {}

    def made(kind: str, values: Values) -> tuple[str, bytes]:
        _, name, make = FILES[kind]
        state, prompt = seen(values)
        return name, make(prompt, *(seen_by(prompt, scheme).cells() for scheme in state.schemes))

    masks = {"changes": CHANGES, "refused": (), "trigger_mode": "always_last"}
    page.on(page[f"tab-{NAME}"].select, difference, reads=page.shown, **masks)
    page.on(page["drawn"].change, if_open, reads=[*page.shown, "tab"], **masks)
    for kind in FILES:
        wire_save(page, f"mask-{kind}", partial(made, kind), reads=page.shown)
    pairs.wire(page)
