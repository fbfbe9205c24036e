"""Tab *The mask up close*: both sides' rules in words, what changes between them, the mask as CSV and PNG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from ...engine.loading import Models
from ...errors import InputError
from ...figures.cells import difference_png, mask_png
from ...figures.mask import difference_figure
from ...figures.report import mask_csv
from ...masks import parse
from ...plan import Scheme
from ...prompt import POSITIONS, SegmentedPrompt
from ...request import Limits
from ...serve.zerogpu import Gpu
from ..picture import seen_by
from ..sides import scheme_label
from ..state import PageState
from ..widgets import PRIVATE, Changes, Values, Visit, Widgets, plot, shown

TITLE, NAME = "The mask up close", "upclose"
CHANGES = ("difference_caption", "difference_plot")
SAVE = "() => document.querySelector('#mask-files a[download]')?.click()"


def build(widgets: Widgets, models: Models) -> None:
    widgets["difference_caption"] = gr.HTML("", elem_id="difference-caption")
    with gr.Row(elem_id="mask-tools"):
        for kind in FILES:
            widgets[f"mask_{kind}"] = gr.Button(
                FILES[kind][0], size="sm", elem_id=f"mask-{kind}", min_width=90, scale=0
            )
    widgets["mask_files"] = gr.HTML("", elem_id="mask-files")
    widgets["difference_plot"] = plot("difference-plot")


def draw(prompt: SegmentedPrompt, schemes: tuple[Scheme, Scheme]) -> Changes:
    """What changes from the right side's mask to the left side's, and both in words."""
    left, right = (seen_by(prompt, scheme) for scheme in schemes)
    figure = difference_figure(left.cells(), right.cells(), prompt.tokens, prompt.segments, words=False)
    return {"difference_caption": caption_html(prompt, schemes), "difference_plot": shown(figure)}


def caption_html(prompt: SegmentedPrompt, schemes: tuple[Scheme, Scheme]) -> str:
    """Rule, positions and density of each side, and exact numbers of cells that change between them."""
    told = []
    for side, scheme in zip(("Left", "Right"), schemes, strict=True):
        rule, mask = parse(scheme.strategy), seen_by(prompt, scheme)
        told.append(
            f"<p><b>{side}: {escape(scheme_label(scheme))}</b>. {escape(rule.summary)} "
            f"{escape(POSITIONS[scheme.positions])} Density {mask.density:.4f}.</p>"
        )
    left, right = (seen_by(prompt, scheme) for scheme in schemes)
    changes, cells = left.difference(right), left.tokens**2
    shares = ", ".join(
        f'<span class="chip is-{word}">{word}</span> {count:,} ({count / cells:.4f})' for word, count in changes.items()
    )
    return f"{''.join(told)}<p>From right to left: {shares} of {cells:,} cells.</p>"


def _png(prompt: SegmentedPrompt, schemes: tuple[Scheme, Scheme]) -> bytes:
    return mask_png(seen_by(prompt, schemes[0]).cells(), prompt.segments)


def _difference(prompt: SegmentedPrompt, schemes: tuple[Scheme, Scheme]) -> bytes:
    return difference_png(*(seen_by(prompt, scheme).cells() for scheme in schemes))


def _csv(prompt: SegmentedPrompt, schemes: tuple[Scheme, Scheme]) -> bytes:
    # The mark of UTF-8 tells spreadsheets how to read it.
    return mask_csv(prompt, seen_by(prompt, schemes[0]).cells()).encode("utf-8-sig")


FILES: dict[str, tuple[str, str, str, Any]] = {
    "png": ("Left mask, PNG", "mask.png", "image/png", _png),
    "difference": ("Difference, PNG", "difference.png", "image/png", _difference),
    "csv": ("Left mask, CSV", "mask.csv", "text/csv", _csv),
}


def fill(models: Models, last: Any) -> Changes:
    """The tab shows the page as it is, whatever ran: see `wire_masks`."""
    return {}


def wire(widgets: Widgets, models: Models, gpu: Gpu) -> None:
    """See `wire_masks`."""


def wire_masks(widgets: Widgets, models: Models, limits: Limits, page: Sequence[str]) -> Any:
    """Events over the page as it is, without a run; returns what draws the tab, for when it is opened or changed."""

    def difference(values: Values, visit: Visit) -> Changes:
        try:
            state = PageState.of(values)
            return draw(state.compose(models.of(state.model), limits), state.schemes)
        except InputError:  # the redraw of the page says why
            return {}

    def file(kind: str, values: Values) -> Changes:
        _, name, media, make = FILES[kind]
        try:
            state = PageState.of(values)
            data = make(state.compose(models.of(state.model), limits), state.schemes)
        except InputError:  # the redraw of the page says why
            return {"mask_files": ""}
        link = f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"
        return {"mask_files": f'<a download="{name}" href="{link}" tabindex="-1">{name}</a>'}

    for kind in FILES:

        def save(values: Values, visit: Visit, kind: str = kind) -> Changes:
            return file(kind, values)

        saved = widgets.on(widgets[f"mask_{kind}"].click, save, reads=page, changes=["mask_files"])
        saved.then(None, None, None, js=SAVE, **PRIVATE)
    return difference
