"""Tab *The mask up close*: pairs to open and close, both sides' rules in words and what changes between them, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from ...engine.loading import Models
from ...errors import InputError
from ...figures.cells import difference_png, mask_png
from ...figures.mask import difference_figure
from ...masks import parse
from ...plan import Scheme
from ...prompt import POSITIONS, SegmentedPrompt
from ...serve.profiles import Profile
from ..examples import prompt_shown
from ..sides import scheme_label, seen_by
from ..state import PageState
from ..tools import csv_bytes, wire_save
from ..widgets import Changes, Values, Visit, Widgets, plot, shown
from . import pairs

TITLE, NAME = "The mask up close", "upclose"
CHANGES = ("difference_caption", "difference_plot", *pairs.CHANGES)


def build(widgets: Widgets, models: Models) -> None:
    pairs.build(widgets)
    widgets["difference_caption"] = gr.HTML("", elem_id="difference-caption")
    with gr.Row(elem_id="mask-tools"):
        for kind, (label, _, _) in FILES.items():
            widgets[f"mask-{kind}"] = gr.Button(label, size="sm", elem_id=f"mask-{kind}", min_width=130, scale=0)
    widgets["difference_plot"] = plot("difference-plot")


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


def fill(models: Models, last: Any) -> Changes:
    """The tab shows the page as it is, whatever ran: see `wire_masks`."""
    return {}


def wire_masks(
    widgets: Widgets, models: Models, profile: Profile, page: Sequence[str], reads: Sequence[str]
) -> tuple[Any, list[Any]]:
    """Events over the page as it is, without a run; returns what draws the tab, for when it is opened or changed, and
    the events that change the mask. `page` are the widgets of a PageState; `reads` also tell of a recording."""

    def compose(state: PageState) -> SegmentedPrompt:
        return state.compose(models.of(state.model), profile.limits)

    def seen(values: Values) -> tuple[PageState, SegmentedPrompt]:
        state = PageState.of(values)
        return state, prompt_shown(values["last"], state, values["drawn"]) or compose(state)

    def difference(values: Values, visit: Visit) -> Changes:
        try:
            state, prompt = seen(values)
            return draw(prompt, state.schemes) | pairs.shown_of(prompt, state)
        except InputError:  # the redraw of the page says why
            return {}

    def made(kind: str, values: Values) -> tuple[str, bytes]:
        _, name, make = FILES[kind]
        state, prompt = seen(values)
        return name, make(prompt, *(seen_by(prompt, scheme).cells() for scheme in state.schemes))

    for kind in FILES:
        wire_save(widgets, f"mask-{kind}", partial(made, kind), reads=reads)
    return difference, pairs.wire(widgets, compose, page)
