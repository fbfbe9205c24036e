"""A mask of one's own: the grid of segment pairs in *The mask up close*, whose cells open and close by a click.

The grid is the mask itself, a row for each query segment and a column for each key segment, as wide as its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import gradio as gr

from ...errors import InputError
from ...masks import EARLIER, Mask, parse, toggled
from ...prompt import SegmentedPrompt
from ..rows import CHANGED
from ..state import FUSED, PageState
from ..widgets import PRIVATE, Changes, Page, Values, Visit

CHANGES = ("pairs", "mask_text", "pairs_message")
# A click or a key on a cell tells the program the pair; arrows go from cell to cell. A new grid takes the focus along.
GRID = """
const cells = () => [...element.querySelectorAll('button[data-pair]')];
let held = null;
element.addEventListener('click', (event) => {
  const cell = event.target.closest('button[data-pair]');
  if (!cell) return;
  held = cell.dataset.pair;
  trigger('select', {pair: held});
});
document.addEventListener('focusin', (event) => { if (!element.contains(event.target)) held = null; });
element.addEventListener('keydown', (event) => {
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  const from = event.target.closest('button[data-pair]');
  if (!step || !from) return;
  event.preventDefault();
  const [row, column] = [Number(from.dataset.row) + step[0], Number(from.dataset.column) + step[1]];
  const to = cells().find(({dataset}) => Number(dataset.row) === row && Number(dataset.column) === column);
  if (!to) return;
  cells().forEach((cell) => { cell.tabIndex = cell === to ? 0 : -1; });
  to.focus();
});
new MutationObserver(() => {
  const again = held && cells().find((cell) => cell.dataset.pair === held);
  if (!again || document.activeElement === again) return;
  cells().forEach((cell) => { cell.tabIndex = cell === again ? 0 : -1; });
  again.focus();
}).observe(element, {childList: true, subtree: true});
"""
HELP = (
    "Rows ask, columns are seen. A click, or Enter, opens or closes a pair of segments for the left side, which "
    "then answers again. Separators stay as the strategy has them; a token always sees itself."
)


def build(page: Page) -> None:
    page["pairs"] = gr.HTML("", elem_id="pairs", js_on_load=GRID)
    page["pairs_message"] = gr.HTML("", elem_id="pairs-message", elem_classes="message")
    with gr.Row(elem_id="pairs-tools"):
        page["mask_text"] = gr.Textbox(
            "", label="This mask as text; Enter sets it", elem_id="mask-text", min_width=220, scale=4, max_lines=1
        )
        page["undo"] = gr.Button("Undo", size="sm", elem_id="mask-undo", min_width=70, scale=0)
        page["reset"] = gr.Button("Reset", size="sm", elem_id="mask-reset", min_width=70, scale=0)
    page["mask_past"] = gr.State([])


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


def shown_of(prompt: SegmentedPrompt, state: PageState) -> Changes:
    """The grid and the text of the mask that is set."""
    return {"pairs": grid_html(prompt, state.mask), "mask_text": state.mask, "pairs_message": ""}


def wire(page: Page) -> None:
    """What sets the mask of the left side, which then answers again."""

    def set_to(values: Values, text_of: Callable[[PageState, SegmentedPrompt], str]) -> Changes:
        """The mask that `text_of` makes of the page's; what cannot be is refused, and nothing changes."""
        state = PageState.of(values)
        text = text_of(state, page.compose(state))
        page.compose(PageState.of({**values, "mask": text, "left": FUSED}))
        past = values["mask_past"] if text == state.mask else [*values["mask_past"], state.mask]
        return {"mask": text, "left": FUSED, "mask_past": past}

    def toggle(values: Values, visit: Visit) -> Changes:
        query, _, key = str(visit.told("pair")).partition(">")
        return set_to(values, lambda state, prompt: toggled(state.mask, query, key, prompt.segments))

    def typed(values: Values, visit: Visit) -> Changes:
        return set_to(values, lambda state, prompt: (values["mask_text"] or "").strip())

    def reset(values: Values, visit: Visit) -> Changes:
        return set_to(values, lambda state, prompt: parse(state.mask).strategy.name)

    def undo(values: Values, visit: Visit) -> Changes:
        *past, before = values["mask_past"] or [None]
        if before is None:
            raise InputError("there is nothing to undo")
        return set_to(values, lambda state, prompt: before) | {"mask_past": past}

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
