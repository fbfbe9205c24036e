"""Tab *The mask up close*: a mask of one's own, both sides' rules in words and what changes between them, files.

The grid of pairs that open and close by a click is the mask itself: a row for each query segment and a column for each
key segment, as wide as its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from ...errors import InputError
from ...figures.cells import difference_png, mask_png
from ...figures.mask import difference_figure
from ...masks import EARLIER, Mask, parse, toggled
from ...plan import Scheme
from ...prompt import POSITIONS, SegmentedPrompt
from ..examples import prompt_shown
from ..rows import CHANGED
from ..sides import scheme_label, seen_by
from ..state import FUSED, PageState
from ..tools import csv_bytes, wire_save
from ..widgets import PRIVATE, Changes, Page, Values, Visit, plot, script, shown

TITLE, NAME = "The mask up close", "upclose"
CHANGES = ("difference_caption", "difference_plot", "pairs", "mask_text", "pairs_message")
HELP = (
    "<p>Rows ask, columns are seen. A click, or Enter, opens or closes a pair of segments for the left side, which "
    "then answers again. Separators stay as the strategy has them; a token always sees itself.</p>"
)
NEEDS, TERMS, SAID, WAITING = (), (), "", ""


def build(page: Page) -> None:
    gr.HTML(HELP, elem_id="pairs-help")
    page["pairs"] = gr.HTML("", elem_id="pairs", js_on_load=script("pairs.js"))
    page["pairs_message"] = gr.HTML("", elem_id="pairs-message", elem_classes="message")
    with gr.Row(elem_id="pairs-tools"):
        page["mask_text"] = gr.Textbox(
            "", label="This mask as text; Enter sets it", elem_id="mask-text", min_width=220, scale=4, max_lines=1
        )
        page["undo"] = gr.Button("Undo", size="sm", elem_id="mask-undo", min_width=70, scale=0)
        page["reset"] = gr.Button("Reset", size="sm", elem_id="mask-reset", min_width=70, scale=0)
    page["mask_past"] = gr.State([])
    page["difference_caption"] = gr.HTML("", elem_id="difference-caption")
    with gr.Row(elem_id="mask-tools"):
        for kind, (label, _, _) in FILES.items():
            page[f"mask-{kind}"] = gr.Button(label, size="sm", elem_id=f"mask-{kind}", min_width=130, scale=0)
    page["difference_plot"] = plot("difference-plot")


def grid_html(prompt: SegmentedPrompt, text: str) -> str:
    """The pairs of a mask as buttons, pressed where the pair is open; a key segment behind its query has none."""
    mask = Mask.over(text, prompt.segments)
    reasons = mask.reasons()
    shown = [i for i, segment in enumerate(mask.segments) if segment.role != "separator"]
    names = {i: escape(mask.segments[i].name) for i in shown}
    tokens = [max(1, mask.segments[i].end - mask.segments[i].start) for i in shown]
    least = [18 + 9 * len(names[i]) for i in shown]  # px, for the names above
    columns = " ".join(f"minmax({px}px, {n}fr)" for px, n in zip(least, tokens, strict=True))
    heights = " ".join(f"minmax(26px, {n}fr)" for n in tokens)
    heads = "".join(f'<span role="columnheader" class="chip is-{names[k]}">{names[k]}</span>' for k in shown)
    rows = [f'<div role="row"><span role="columnheader"></span>{heads}</div>']
    for row, q in enumerate(shown):
        cells = [f'<span role="rowheader" class="chip is-{names[q]}">{names[q]}</span>']
        for column, k in enumerate(shown):
            if k > q:
                cells.append('<span role="gridcell"></span>')
                continue
            is_open = bool(mask.visible[q, k, EARLIER])
            why = reasons[q, k, EARLIER] or ("visible" if is_open else "hidden")
            told = f"{names[q]} {'sees' if is_open else 'does not see'} {names[k]} ({escape(why)})"
            cells.append(
                f'<span role="gridcell"><button type="button" class="pair is-{names[k]}" '
                f'aria-pressed="{str(is_open).lower()}" '
                f'data-pair="{names[q]}>{names[k]}" data-row="{row}" data-column="{column}" '
                f'tabindex="{0 if row == column == 0 else -1}" title="{told}" aria-label="{told}"></button></span>'
            )
        rows.append(f'<div role="row">{"".join(cells)}</div>')
    size = f"height: max(420px, {28 * (len(shown) + 1)}px)"
    style = f"grid-template-columns: max-content {columns}; grid-template-rows: auto {heights}; {size}"
    label = "Which segment sees which: a row for each that asks, a column for each that is seen"
    return f'<div class="pairs" role="grid" aria-label="{label}" style="{style}">{"".join(rows)}</div>'


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
        return state, prompt_shown(values["last"], state, values["left_figures"]) or page.compose(state)

    def difference(values: Values, visit: Visit) -> Changes:
        state, prompt = seen(values)
        pairs = {"pairs": grid_html(prompt, state.mask), "mask_text": state.mask, "pairs_message": ""}
        return draw(prompt, state.schemes) | pairs

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
        wire_save(page, f"mask-{kind}", partial(made, kind), reads=page.shown, said="pairs_message")
    wire_pairs(page)


def wire_pairs(page: Page) -> None:
    """What sets the mask of the left side, which then answers again."""

    def set_to(values: Values, text_of: Callable[[PageState], str]) -> Changes:
        """The mask that `text_of` makes of the page; what cannot be is refused, and nothing changes."""
        state = PageState.of(values)
        text = text_of(state)  # the page's own may be one that cannot be: it names a row that was removed
        page.compose(PageState.of({**values, "mask": text, "left": FUSED}))
        past = values["mask_past"] if text == state.mask else [*values["mask_past"], state.mask]
        return {"mask": text, "left": FUSED, "mask_past": past}

    def toggle(values: Values, visit: Visit) -> Changes:
        query, _, key = str(visit.told("pair")).partition(">")
        return set_to(values, lambda state: toggled(state.mask, query, key, page.compose(state).segments))

    def typed(values: Values, visit: Visit) -> Changes:
        return set_to(values, lambda state: (values["mask_text"] or "").strip())

    def reset(values: Values, visit: Visit) -> Changes:
        return set_to(values, lambda state: parse(state.mask).strategy.name)

    def undo(values: Values, visit: Visit) -> Changes:
        *past, before = values["mask_past"] or [None]
        if before is None:
            raise InputError("there is nothing to undo")
        return {"mask": before, "left": FUSED, "mask_past": past}  # one that cannot be is told of by the redraw

    changes = ["mask", "left", "mask_past"]
    wired = {"reads": [*page.state, "mask_past", "mask_text"], "changes": changes, "refused": ["pairs_message"]}
    for trigger, work in (
        (page["pairs"].select, toggle),
        (page["mask_text"].submit, typed),
        (page["reset"].click, reset),
        (page["undo"].click, undo),
    ):
        done = page.on(trigger, work, **wired)
        done.then(None, js=CHANGED, **PRIVATE)  # a folded group has no widget that would tell of its change
        page.answering.append(done)
