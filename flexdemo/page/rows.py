"""Wording rows: what can be done with them, their widgets, and how much of the model's room they take.

Rows stand in a pool of hidden widgets, so that what is typed never waits for the program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..answers.paraphrase import paraphrase
from ..engine.loading import Models
from ..engine.model import LanguageModel
from ..errors import InputError, OutOfTime
from ..figures.cells import unseen
from ..prompt import build_prompt
from ..request import Limits
from ..serve.log import checkpoint, within_noted_memory
from ..serve.zerogpu import LOCAL, Gpu, answer_seconds
from .state import HEAVIEST, PageState, check_request, token_limit
from .widgets import RUNNING, Changes, Values, Visit, Widgets, alert_html

MOST_READ = 10_000  # characters in which those that cannot be seen are looked for
WRITTEN = 4  # paraphrases that one click asks the model for
HINT = "Another wording; several pasted lines become several rows"
# What page.js tells: of a row {row, act}, or {row, lines} of a paste; and that a text was typed.
EDITS = """
document.addEventListener('flexdemo:row', (event) => trigger('select', event.detail));
document.addEventListener('flexdemo:typed', () => trigger('input'));
"""


@dataclass(frozen=True)
class Rows:
    """The paraphrases' rows in use and their weights; `weights` begins with the question's. They grow up to `room`."""

    texts: tuple[str, ...]
    weights: tuple[float | None, ...]
    room: int

    @classmethod
    def of(cls, values: Values, room: int) -> Rows:
        """From the widgets' values, of which `used` rows count."""
        numbers = range(1, values["used"] + 1)
        texts = tuple(values[f"paraphrase-{i}"] or "" for i in numbers)
        return cls(texts, (values["weight-0"], *(values[f"weight-{i}"] for i in numbers)), room)

    @classmethod
    def of_texts(cls, texts: Sequence[str], room: int) -> Rows:
        """As many of some texts as there is room for, all of one weight."""
        return cls((), (1.0,), room).added(*texts)

    def values(self) -> Changes:
        """What `of` reads, and which rows are shown."""
        count = len(self.texts)
        texts = (*self.texts, *[""] * (self.room - count))
        weights = (*self.weights, *[1] * (self.room - count))
        return {
            **{f"paraphrase-{i}": text for i, text in enumerate(texts, start=1)},
            **{f"weight-{i}": weight for i, weight in enumerate(weights)},
            **{f"row-{i}": gr.update(visible=i <= count) for i in range(1, self.room + 1)},
            "used": count,
        }

    @property
    def free(self) -> int:
        """How many more rows there may be."""
        return max(0, self.room - len(self.texts))

    def added(self, *texts: str) -> Rows:
        """With more rows at the end, as far as there is room."""
        more = texts[: self.free]
        return Rows((*self.texts, *more), (*self.weights, *[1.0] * len(more)), self.room)

    def removed(self, index: int) -> Rows:
        """Without one row; those below move up with their texts and weights."""
        return self._ordered([i for i in range(len(self.texts)) if i != index])

    def moved(self, index: int, by: int) -> Rows:
        """With one row `by` places further down, with its weight; as it is where there is no such place."""
        place = index + by
        if not (0 <= index < len(self.texts) and 0 <= place < len(self.texts)):
            return self
        order = list(range(len(self.texts)))
        order.insert(place, order.pop(index))
        return self._ordered(order)

    def _ordered(self, order: Sequence[int]) -> Rows:
        """The rows of some indices, with their weights."""
        weights = (self.weights[0], *(self.weights[i + 1] for i in order))
        return Rows(tuple(self.texts[i] for i in order), weights, self.room)

    def pasted(self, index: int, lines: Sequence[str]) -> tuple[Rows, int]:
        """With `lines` in place of one row and in new rows below it, and how many lines there was no room for.

        Blank rows make room if there is no other; a row that holds text stays.
        """
        short = len(lines) - 1 - self.room + len(self.texts)
        blanks = [i for i, text in enumerate(self.texts) if i != index and not text.strip()]
        given_up = blanks[-short:] if short > 0 else []
        kept = self._ordered([i for i in range(len(self.texts)) if i not in given_up])
        below = index + 1 - sum(i < index for i in given_up)
        texts, weights, fresh = list(kept.texts), list(kept.weights), list(lines[1 : 1 + kept.free])
        texts[below - 1 : below] = [lines[0], *fresh]
        weights[below + 1 : below + 1] = [1.0] * len(fresh)
        return Rows(tuple(texts), tuple(weights), self.room), len(lines) - 1 - len(fresh)

    def written(self, lm: LanguageModel, limits: Limits, question: str, seed: int) -> Rows:
        """With paraphrases by the model in blank and new rows; what is there stays."""
        blanks = [i for i, text in enumerate(self.texts) if not text.strip()]
        most = min(WRITTEN, self.free + len(blanks))
        if most < 1:
            raise InputError(full(self.room))
        check_request(limits, question, [])
        known = {text.strip().casefold() for text in self.texts}
        until = limits.until()
        offered = paraphrase(lm, question, min(100, most + len(known)), seed=seed, until=until, check=checkpoint())
        fresh = [text for text in offered if text.casefold() not in known][:most]
        if not fresh and time.monotonic() >= until:
            raise OutOfTime(limits.time_is_up())
        if not fresh:
            raise InputError("the model wrote nothing new: write a paraphrase yourself")
        texts = list(self.texts)
        for place, text in zip(blanks, fresh, strict=False):
            texts[place] = text
        return Rows(tuple(texts), self.weights, self.room).added(*fresh[len(blanks) :])


EDIT: dict[str, Callable[[Rows, int], Rows]] = {
    "remove": lambda rows, i: rows.removed(i),
    "up": lambda rows, i: rows.moved(i, -1),
    "down": lambda rows, i: rows.moved(i, 1),
}


def full(room: int) -> str:
    return f"there is room for {room} paraphrases: remove one first"


def names(room: int) -> list[str]:
    """The widgets that hold the rows, in the order of `Rows.values`."""
    return list(Rows.of_texts((), room).values())


def read(room: int) -> list[str]:
    """The widgets that `Rows.of` reads."""
    return [name for name in names(room) if not name.startswith("row-")]


def build_rows(widgets: Widgets, start: PageState, limits: Limits, opening: Changes) -> None:
    """The question and the pool of rows: text, weight, share, and what each wording answers alone."""
    values, count = start.values(limits.paraphrases), len(start.paraphrases)
    widgets["used"] = gr.State(count)
    for i in range(limits.paraphrases + 1):
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
        widgets.update({name: box, f"weight-{i}": weight, f"alone-{i}": told, f"share-{i}": share})
        if i:
            widgets[f"row-{i}"] = row
    with gr.Row(elem_id="row-tools"):
        widgets["add"] = gr.Button("+ wording", size="sm", elem_id="add-paraphrase", min_width=70)
        widgets["write"] = gr.Button("Write with the model", size="sm", elem_id="write-paraphrases", min_width=120)
        widgets["equal"] = gr.Button("Equal weights", size="sm", elem_id="equal-weights", min_width=90)
    widgets["rows_message"] = gr.HTML("", elem_id="rows-message", elem_classes="message")
    widgets["edits"] = gr.HTML("", visible="hidden", elem_id="edits", js_on_load=EDITS)


def wire_rows(widgets: Widgets, models: Models, limits: Limits, gpu: Gpu = LOCAL) -> Any:
    """Events of the rows; returns the one after which all weights are equal."""
    room = limits.paraphrases
    reads, changes = read(room), [*names(room), "rows_message"]

    def add(values: Values, visit: Visit) -> Changes:
        said = full(room) if values["used"] >= room else ""
        return {**Rows.of(values, room).added("").values(), "rows_message": alert_html(said)}

    def edit(values: Values, visit: Visit) -> Changes:
        row, act, lines = (visit.told(name) for name in ("row", "act", "lines"))
        rows = Rows.of(values, room)
        if not isinstance(row, int) or row not in range(len(rows.texts)):  # the row has gone meanwhile
            return {}
        if act in EDIT:
            return {**EDIT[act](rows, row).values(), "rows_message": ""}
        if not (isinstance(lines, list) and lines and all(isinstance(line, str) for line in lines)):
            return {"rows_message": alert_html("what was pasted is no list of lines")}
        rows, left_out = rows.pasted(row, lines)
        said = f"{left_out} of {len(lines)} pasted lines were left out: there is room for {room} paraphrases"
        return {**rows.values(), "rows_message": alert_html(said if left_out else "")}

    def more(rows: Rows, question: str, seed: int, model: str) -> Rows:
        with within_noted_memory(give_up=models.let_go):
            return rows.written(models.of(model), limits, question, seed)

    written = gpu.wrap(more, lambda *_: answer_seconds(64, rows=10))

    def write(values: Values, visit: Visit) -> Changes:
        asked = (values["question"] or "", int(values["seed"] or 0), values["model"])
        try:
            return {**written(Rows.of(values, room), *asked).values(), "rows_message": ""}
        except InputError as error:
            return {"rows_message": alert_html(str(error))}

    widgets.on(widgets["add"].click, add, reads=reads, changes=changes)
    widgets.on(widgets["edits"].select, edit, reads=reads, changes=changes)
    waiting = {**RUNNING, "show_progress": "minimal", "show_progress_on": widgets["write"]}
    asked = [*reads, "question", "seed", "model"]
    widgets.on(widgets["write"].click, write, reads=asked, changes=changes, **waiting)
    weights = [f"weight-{i}" for i in range(room + 1)]

    def equal(values: Values, visit: Visit) -> Changes:
        return dict.fromkeys(weights, 1)

    return widgets.on(widgets["equal"].click, equal, changes=weights)


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
    """Buttons of a paraphrase's row, which page.js tells of."""
    signs = (("up", "↑", f"Move paraphrase {i} up"), ("down", "↓", f"Move paraphrase {i} down"))
    signs += (("remove", "✕", f"Remove paraphrase {i}"),)
    buttons = "".join(
        f'<button type="button" data-act="{act}" aria-label="{name}" title="{name}">{sign}</button>'
        for act, sign, name in signs
    )
    return f'<span class="row-tools">{buttons}</span>' if i else ""


def budget_html(tokens: int | None, answer: int | None, room: int) -> str:
    """How much of the room for prompt and answer is taken, in tokens; None for a prompt that cannot be counted."""
    if tokens is None:
        return f"<span>– of {room:,} tokens</span>"
    taken = tokens + int(answer or 0)
    over = f' <b class="over">{taken - room:,} too many</b>' if taken > room else ""
    return f"<span><b>{tokens:,}</b> prompt tokens + up to {int(answer or 0):,}, of {room:,}{over}</span>"


def unseen_html(state: PageState) -> str:
    """Which characters of the texts cannot be seen or change the direction of what is around them."""
    texts = [(name, text) for name, text in state.wordings] + [("the prefix", state.prefix)]
    said = [f"{what} holds {told}" for what, text in texts if (told := unseen(text[:MOST_READ]))]
    if not said:
        return ""
    note = f"{'; '.join(said)}. The model reads them; the token view has their codes, or \ufffd for a part of one."
    return f'<span class="unseen" role="note">{escape(note[0].upper() + note[1:])}</span>'


def budget_of(lm: LanguageModel, limits: Limits, state: PageState, tokens: int | None = None) -> str:
    """The budget of a page, whose prompt has `tokens` if that is known already; also of one too long to run."""
    if tokens is None:
        texts = [text for _, text in state.wordings]
        try:
            check_request(limits, texts[0], texts[1:], prefix=state.prefix)
            told = {"prefix": state.prefix, "template": state.template}
            tokens = len(build_prompt(lm.tokenizer, texts[0], texts[1:], **told).token_ids)
        except InputError:
            tokens = None  # why is told elsewhere, by the redraw
    return budget_html(tokens, state.max_new_tokens, token_limit(lm, limits)) + unseen_html(state)
