"""Tab *The mask up close*: both sides' rules in words, what changes between them, the mask as CSV and PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
from ...serve.profiles import Profile
from ..picture import seen_by
from ..sides import scheme_label
from ..state import PageState
from ..tools import wire_save
from ..widgets import Changes, Values, Visit, Widgets, plot, shown

TITLE, NAME = "The mask up close", "upclose"
CHANGES = ("difference_caption", "difference_plot")


def build(widgets: Widgets, models: Models) -> None:
    widgets["difference_caption"] = gr.HTML("", elem_id="difference-caption")
    with gr.Row(elem_id="mask-tools"):
        for kind, (label, _, _) in FILES.items():
            widgets[f"mask-{kind}"] = gr.Button(label, size="sm", elem_id=f"mask-{kind}", min_width=90, scale=0)
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


FILES: dict[str, tuple[str, str, Callable[[SegmentedPrompt, tuple[Scheme, Scheme]], bytes]]] = {
    "png": ("Left mask, PNG", "mask.png", _png),
    "difference": ("Difference, PNG", "difference.png", _difference),
    "csv": ("Left mask, CSV", "mask.csv", _csv),
}


def fill(models: Models, last: Any) -> Changes:
    """The tab shows the page as it is, whatever ran: see `wire_masks`."""
    return {}


def wire_masks(widgets: Widgets, models: Models, profile: Profile, page: Sequence[str]) -> Any:
    """Events over the page as it is, without a run; returns what draws the tab, for when it is opened or changed."""

    def here(values: Values) -> tuple[SegmentedPrompt, tuple[Scheme, Scheme]]:
        state = PageState.of(values)
        return state.compose(models.of(state.model), profile.limits), state.schemes

    def difference(values: Values, visit: Visit) -> Changes:
        try:
            return draw(*here(values))
        except InputError:  # the redraw of the page says why
            return {}

    def made(kind: str, values: Values) -> tuple[str, bytes]:
        _, name, make = FILES[kind]
        return name, make(*here(values))

    for kind in FILES:
        wire_save(widgets, f"mask-{kind}", partial(made, kind), reads=page, disk_bytes=profile.disk_bytes)
    return difference
