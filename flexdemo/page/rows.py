"""Wording rows: what can be done with them, their widgets, and how much of the model's room they take.

Rows stand in a pool of hidden widgets, so that what is typed never waits for the program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from ..answers.ask import with_room
from ..answers.paraphrase import paraphrase
from ..engine.model import LanguageModel
from ..errors import InputError, OutOfTime
from ..figures.cells import unseen
from ..prompt import SegmentedPrompt
from ..request import Limits, Request
from ..serve.log import checkpoint
from .state import HEAVIEST, PageState, Row, check_limits, prompt_of, row_values, rows_of, token_limit
from .widgets import RUNNING, Changes, Page, Values, Visit, alert_html, script

MOST_READ = 10_000  # characters in which those that cannot be seen are looked for
WRITTEN = 4  # paraphrases that one click asks the model for
HINT = "Another wording; several pasted lines become several rows"
CHANGED = "() => { document.dispatchEvent(new CustomEvent('flexdemo:changed')); }"
WEIGHED = f"(by, status) => {{ if (by === 'confidence' && /data-state=.done/.test(status)) ({CHANGED})(); }}"


def moved(rows: Sequence[Row], index: int, by: int) -> list[Row]:
    """With one row `by` places further down; as they are where there is no such place."""
    order = list(rows)
    if index + by in range(len(rows)):
        order.insert(index + by, order.pop(index))
    return order


# What a row's buttons do: sign, name, and the rows after it.
EDIT: dict[str, tuple[str, str, Callable[[list[Row], int], list[Row]]]] = {
    "up": ("↑", "Move paraphrase {} up", lambda rows, i: moved(rows, i, -1)),
    "down": ("↓", "Move paraphrase {} down", lambda rows, i: moved(rows, i, 1)),
    "remove": ("✕", "Remove paraphrase {}", lambda rows, i: rows[:i] + rows[i + 1 :]),
}


def pasted(rows: Sequence[Row], index: int, lines: Sequence[str], room: int) -> tuple[list[Row], int]:
    """With `lines` in place of one row and in new rows below it, and how many lines there was no room for.

    Blank rows make room if there is no other; a row that holds text stays.
    """
    short = len(rows) + len(lines) - 1 - room
    blanks = [i for i, (text, _) in enumerate(rows) if i != index and not text.strip()]
    given_up = blanks[-short:] if short > 0 else []
    kept = [(i, row) for i, row in enumerate(rows) if i not in given_up]
    above, below = ([row for i, row in kept if i < index], [row for i, row in kept if i > index])
    fresh = [(line, 1.0) for line in lines[1 : 1 + max(0, room - len(kept))]]
    return [*above, (lines[0], rows[index][1]), *fresh, *below], len(lines) - 1 - len(fresh)


def written(lm: LanguageModel, model: str, limits: Limits, rows: Sequence[Row], question: str, seed: int) -> list[Row]:
    """With paraphrases by the model in blank and new rows; what is there stays."""
    blanks = [i for i, (text, _) in enumerate(rows) if not text.strip()]
    most = min(WRITTEN, limits.paraphrases - len(rows) + len(blanks))
    if most < 1:
        raise InputError(full(limits.paraphrases))
    check_limits(limits, Request(question=question))
    known = {text.strip().casefold() for text, _ in rows}
    until = limits.until()
    offered = paraphrase(lm, question, min(100, most + len(known)), seed=seed, until=until, check=checkpoint())
    fresh = [text for text in offered if text.casefold() not in known][:most]
    if not fresh and time.monotonic() >= until:
        raise OutOfTime(limits.time_is_up())
    if not fresh:
        raise InputError("the model wrote nothing new: write a paraphrase yourself")
    filled = list(rows)
    for place, text in zip(blanks, fresh, strict=False):
        filled[place] = (text, rows[place][1])
    return [*filled, *((text, 1.0) for text in fresh[len(blanks) :])]


def full(room: int) -> str:
    return f"there is room for {room} paraphrases: remove one first"


def row_changes(rows: Sequence[Row], room: int) -> Changes:
    """The rows as they are to be; those that are not in use are hidden."""
    visible = {f"row-{i}": gr.update(visible=i <= len(rows)) for i in range(1, room + 1)}
    return row_values(rows, room) | visible


def names(room: int) -> list[str]:
    """The widgets of the rows, and the weight of the question."""
    return ["weight-0", *row_changes((), room)]


def build_rows(page: Page, start: PageState, opening: Changes) -> None:
    """The question and the pool of rows: text, weight, share, and what each wording answers alone."""
    values, count = start.values(page.room), len(start.paraphrases)
    page["used"] = gr.State(count)
    for i in range(page.room + 1):
        label = f"Paraphrase {i} (P{i + 1})" if i else "Question (P1)"
        name = f"paraphrase-{i}" if i else "question"
        with gr.Row(visible=i <= count, elem_classes=["wording-row", f"is-P{i + 1}"]) as row:
            box = gr.Textbox(
                values[name], label=label, elem_id=name, lines=1, max_lines=5, placeholder=HINT if i else None,
                autofocus=not i, show_label=False, container=False, min_width=100,
            )  # fmt: skip
            weight = gr.Slider(
                0, HEAVIEST, values[f"weight-{i}"], step=0.1, label=f"Weight of P{i + 1}", elem_id=f"weight-{i}",
                elem_classes="weight", min_width=60, container=False, buttons=[],
            )  # fmt: skip
            told = gr.HTML(opening[f"alone-{i}"], elem_id=f"alone-{i}", elem_classes="alone")
            share = gr.HTML(opening[f"share-{i}"], elem_id=f"share-{i}", elem_classes="share")
        page.update({name: box, f"weight-{i}": weight, f"alone-{i}": told, f"share-{i}": share})
        if i:
            page[f"row-{i}"] = row
    with gr.Row(elem_id="row-tools"):
        page["add"] = gr.Button("+ wording", size="sm", elem_id="add-paraphrase", min_width=70)
        page["write"] = gr.Button("Write with the model", size="sm", elem_id="write-paraphrases", min_width=120)
        page["equal"] = gr.Button("Equal weights", size="sm", elem_id="equal-weights", min_width=90)
    page["rows_message"] = gr.HTML("", elem_id="rows-message", elem_classes="message")
    page["edits"] = gr.HTML("", visible="hidden", elem_id="edits", js_on_load=script("rows.js"))


def wire_rows(page: Page) -> Any:
    """Events of the rows. Returns the one that makes all weights equal, after which the answers are decoded again."""
    room = page.room

    def add(values: Values, visit: Visit) -> Changes:
        rows = rows_of(values)
        if len(rows) >= room:
            raise InputError(full(room))
        return row_changes([*rows, ("", 1.0)], room)

    def edit(values: Values, visit: Visit) -> Changes:
        row, act, lines = (visit.told(name) for name in ("row", "act", "lines"))
        rows = rows_of(values)
        if not isinstance(row, int) or row not in range(len(rows)):  # the row has gone meanwhile
            return {}
        if act in EDIT:
            return row_changes(EDIT[act][-1](rows, row), room) | unanswered
        if not (isinstance(lines, list) and lines and all(isinstance(line, str) for line in lines)):
            raise InputError("what was pasted is no list of lines")
        rows, left_out = pasted(rows, row, lines, room)
        said = f"{left_out} of {len(lines)} pasted lines were left out: there is room for {room} paraphrases"
        return {**row_changes(rows, room), **unanswered, "rows_message": alert_html(said if left_out else "")}

    def write(values: Values, visit: Visit) -> Changes:
        model, rows, question = values["model"], rows_of(values), values["question"] or ""
        asked = (model, page.limits, rows, question, int(values["seed"] or 0))
        return row_changes(page.ask(written, *asked, tokens=64, rows=10), room)

    def equal(values: Values, visit: Visit) -> Changes:
        return dict.fromkeys(weights, 1)

    # What a wording answered alone would stand beside another one.
    unanswered = dict.fromkeys((f"alone-{i}" for i in range(1, room + 1)), "")
    wired = {"changes": [*row_changes((), room), *unanswered], "refused": ["rows_message"]}
    reads, weights = list(row_values((), room)), [f"weight-{i}" for i in range(room + 1)]
    page.on(page["add"].click, add, reads=reads, **wired)
    page.on(page["edits"].select, edit, reads=reads, **wired)
    page.on(page["write"].click, write, reads=[*reads, "question", "seed", "model"], busy="write", **wired, **RUNNING)
    return page.on(page["equal"].click, equal, changes=weights)


def shares_of(state: PageState, weights: Sequence[float] | None, room: int) -> Changes:
    """The share of each wording, `weights` in the order of the prompt; none where the run finds them, or of blank rows.

    `weights` sum to 1.
    """
    told = dict.fromkeys(range(room + 1), "")
    if weights is None:
        told |= dict.fromkeys(state.rows, "by confidence")
    else:
        equal = max(weights) - min(weights) < 1e-9
        shares = (f"1/{len(weights)}" if equal else f"{share:.3f}" for share in weights)
        told |= dict(zip(state.rows, shares, strict=True))
    return {f"share-{i}": f"<span title='Share of the weights'>{text}</span>{_tools(i)}" for i, text in told.items()}


def _tools(i: int) -> str:
    """Buttons of a paraphrase's row, which rows.js tells of."""
    buttons = "".join(
        f'<button type="button" data-act="{act}" aria-label="{name.format(i)}" title="{name.format(i)}">{sign}</button>'
        for act, (sign, name, _) in EDIT.items()
    )
    return f'<span class="row-tools">{buttons}</span>' if i else ""


def unseen_html(state: PageState) -> str:
    """Which characters of the texts cannot be seen or change the direction of what is around them."""
    texts = [(name, text) for name, text in state.wordings] + [("the prefix", state.prefix)]
    said = [f"{what} holds {told}" for what, text in texts if (told := unseen(text[:MOST_READ]))]
    if not said:
        return ""
    note = f"{'; '.join(said)}. The model reads them; the token view has their codes, or \ufffd for a part of one."
    return f'<span class="unseen" role="note">{escape(note[0].upper() + note[1:])}</span>'


def budget_of(lm: LanguageModel, limits: Limits, state: PageState, prompt: SegmentedPrompt | None = None) -> str:
    """How much of the room for prompt and answer a page takes, also one too long to run; `prompt` if it has been made
    already."""
    room, (question, *paraphrases) = token_limit(lm, limits), [text for _, text in state.wordings]
    try:
        asked = Request(question=question, paraphrases=paraphrases, prefix=state.prefix, template=state.template)
        if prompt is None:
            check_limits(limits, asked)
            prompt = prompt_of(lm, asked)
    except InputError:  # why is told elsewhere, by the redraw
        return f"<span>– of {room:,} tokens</span>{unseen_html(state)}"
    tokens, answer = len(prompt.token_ids), state.max_new_tokens
    if answer == asked.max_new_tokens:  # nobody chose it
        answer = with_room(lm, asked, [prompt], limits.new_tokens).max_new_tokens
    taken = tokens + answer
    over = f' <b class="over">{taken - room:,} too many</b>' if taken > room else ""
    said = f"<b>{tokens:,}</b> prompt tokens + up to {answer:,}, of {room:,}{over}"
    return f"<span>{said}</span>{unseen_html(state)}"
