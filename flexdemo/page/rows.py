"""Events of the paraphrases' rows: add, remove, move, duplicate, paste, write. What they do is in `ui_work`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from . import parts
from .entered import Form, check_request, is_number, token_limit

MOST_READ = 10_000  # characters in which those that cannot be seen are looked for
# A paste of several lines into a paraphrase becomes several rows. The first line joins what stands before the cursor,
# the last one what stands after it, as in any text box; blank lines are left out.
PASTE = r"""
document.addEventListener('paste', (event) => {
  const row = event.target.closest?.('[id^="paraphrase-"]');
  const lines = (event.clipboardData?.getData('text/plain') ?? '').split(/[\r\n]+/).filter((line) => line.trim());
  if (!row || lines.length < 2) return;
  event.preventDefault();
  const {value, selectionStart, selectionEnd} = event.target;
  lines[0] = value.slice(0, selectionStart) + lines[0];
  lines[lines.length - 1] += value.slice(selectionEnd);
  trigger('select', {row: Number(row.id.split('-')[1]) - 1, lines});
}, true);
document.addEventListener('input', (event) => { // a box itself tells of pressed keys only: no deletion, no dictation
  if (event.target.matches('textarea') && event.target.closest('#question, [id^="paraphrase-"]')) trigger('input');
}, true);
"""


def full(room: int) -> str:
    return f"there is room for {room} paraphrases: remove one first"


def budget_html(tokens: int | None, answer: int | None, room: int) -> str:
    """How much of the room for prompt and answer is taken, in tokens; None for a prompt that cannot be counted."""
    if tokens is None:
        return f"Tokens: – of {room:,}"
    taken = tokens + int(answer or 0)
    said = f"Tokens: prompt {tokens:,} + answer up to {int(answer or 0):,} = <b>{taken:,}</b> of {room:,}"
    over = f' <b class="over">{taken - room:,} too many</b>' if taken > room else ""
    share = min(100.0, 100 * taken / room)
    bar = f'<span class="bar" aria-hidden="true"><span style="width: {share:.1f}%"></span></span>'
    return f"<span>{said}{over}</span>{bar}"


def limits_html(limits: Limits) -> str:
    """What one request may have where the page runs, in one line."""
    said = [
        f"at most {limits.paraphrases} paraphrases",
        f"{limits.characters:,} characters a text",
        f"{limits.new_tokens:,} tokens an answer",
    ]
    said += [] if limits.methods is None else [f"{limits.methods} methods"]
    said += [] if limits.seconds is None else [f"{limits.seconds:g} seconds a run"]
    return f"<p>Limits here: {', '.join(said)}.</p>"


def unseen_html(form: Form) -> str:
    """Which characters of the form's texts cannot be seen or change the direction of what is around them."""
    texts = [("the question", form.question)]
    texts += [(f"paraphrase {i}", text) for i, text in enumerate(form.paraphrases, start=1)]
    said = [
        f"{what} holds {told}"
        for what, text in (*texts, ("the prefix", form.prefix))
        if (told := unseen(text[:MOST_READ]))
    ]
    if not said:
        return ""
    note = f"{'; '.join(said)}. The model reads them; the token view has their codes, or \ufffd for a part of one."
    return f'<span class="unseen" role="note">{escape(note[0].upper() + note[1:])}</span>'


def count_tokens(lm: LanguageModel, limits: Limits, form: Form) -> int | None:
    """Tokens of the packed prompt, also of one that is too long to run; None for one that cannot be packed."""
    paraphrases = [form.paraphrases[i] for i in form.filled]
    try:
        check_request(limits, form.question, paraphrases, prefix=form.prefix)
        return len(build_prompt(lm.tokenizer, form.question, paraphrases, prefix=form.prefix).token_ids)
    except InputError:
        return None  # why is told elsewhere, by the redraw


def budget_of(lm: LanguageModel, limits: Limits, form: Form, tokens: int | None = None) -> str:
    """The budget of a form, whose prompt has `tokens` if that is known already."""
    tokens = count_tokens(lm, limits, form) if tokens is None else tokens
    length = form.max_new_tokens if is_number(form.max_new_tokens) else None
    return budget_html(tokens, length, token_limit(lm, limits)) + unseen_html(form)


def detail(event: gr.EventData, name: str) -> Any:
    """A detail of an event as the browser told it, None where it did not: what is told may be anything."""
    try:
        return getattr(event, name, None)
    except TypeError:  # it told no details at all, or a text in their place
        return None


class RowPool:
    """The rows of one page: built over the widgets of the left side. Holds widgets, nothing of a visitor."""

    def __init__(self, asked: dict[str, Any], limits: Limits) -> None:
        self.asked, self.limits, self.room = asked, limits, limits.paraphrases
        self.pool = [*asked["boxes"], *asked["weights"]]
        self.inputs = [asked["used"], *self.pool]
        self.outputs = [*self.pool, *asked["rows"], asked["used"]]

    def of_texts(self, texts: Sequence[str]) -> Rows:
        """As many of some texts as there is room for, all of one weight."""
        return Rows((), (1.0,), self.room).added(*texts)

    def updates(self, rows: Rows, serial: int) -> list[Any]:
        """Values of `outputs` that show these rows; `serial` is that of the rows before."""
        count = len(rows.texts)
        boxes = [*rows.texts, *[""] * (self.room - count)]
        weights = [*rows.weights, *[1] * (self.room - count)]
        return [*boxes, *weights, *(gr.update(visible=i < count) for i in range(self.room)), (count, serial + 1)]

    def wire(
        self,
        models: Models,
        examples: Sequence[dict],
        note_of: Callable[[dict], str],
        *,
        drawing: dict[str, Any],
        running: dict[str, Any],
        gpu: Gpu = LOCAL,
    ) -> Any:
        """Returns the event after which all weights are equal."""
        asked, message = self.asked, self.asked["message"]

        def edited(edit: Callable[[Rows], Rows], grows: bool, used: tuple[int, int], *values: Any) -> list[Any]:
            said = parts.alert_html(full(self.room)) if grows and used[0] >= self.room else ""
            return [*self.updates(edit(Rows.from_values(used[0], values, self.room)), used[1]), said]

        told = [*self.outputs, asked["rows_message"]]

        def on(button: gr.Button, edit: Callable[[Rows], Rows], *, grows: bool = False) -> None:
            button.click(partial(edited, edit, grows), self.inputs, told, **drawing)

        on(asked["add"], lambda rows: rows.added(""), grows=True)
        for i in range(self.room):
            on(asked["removers"][i], lambda rows, i=i: rows.removed(i))
            on(asked["lifters"][i], lambda rows, i=i: rows.moved(i, -1))
            on(asked["lowerers"][i], lambda rows, i=i: rows.moved(i, 1))
            on(asked["copiers"][i], lambda rows, i=i: rows.duplicated(i), grows=True)
        equalled = asked["equal"].click(lambda: [1] * (self.room + 1), None, asked["weights"], **drawing)

        def paste(event: gr.EventData, used: tuple[int, int], *values: Any) -> list[Any]:
            row, lines = detail(event, "row"), detail(event, "lines")
            if not isinstance(row, int) or row not in range(used[0]):  # the row has gone meanwhile
                return [gr.skip()] * (len(self.outputs) + 1)
            if not (isinstance(lines, list) and lines and all(isinstance(line, str) for line in lines)):
                return [*[gr.skip()] * len(self.outputs), parts.alert_html("what was pasted is no list of lines")]
            rows, left_out = Rows.from_values(used[0], values, self.room).pasted(row, lines)
            said = ""
            if left_out:
                said = f"{left_out} of {len(lines)} pasted lines were left out: "
                said += f"there is room for {self.room} paraphrases"
            return [*self.updates(rows, used[1]), parts.alert_html(said)]

        pasted = gr.HTML("", visible="hidden", elem_id="paste", js_on_load=PASTE)
        pasted.select(paste, self.inputs, told, **drawing)

        def more(rows: Rows, question: str, seed: int, model: str) -> Rows:
            with within_noted_memory(give_up=models.let_go):
                return rows.written(models.of(model), self.limits, question, seed)

        written = gpu.wrap(more, lambda *_: answer_seconds(64, rows=10))

        def write(question: str, seed: float | None, model: str, used: tuple[int, int], *values: Any) -> list[Any]:
            try:
                rows = written(Rows.from_values(used[0], values, self.room), question or "", int(seed or 0), model)
            except InputError as error:
                return [*[gr.skip()] * len(self.outputs), parts.alert_html(str(error))]
            return [*self.updates(rows, used[1]), ""]

        write_inputs = [asked["question"], asked["seed"], asked["model"], *self.inputs]
        waiting = {**running, "show_progress": "minimal", "show_progress_on": asked["write"]}
        asked["write"].click(write, write_inputs, [*self.outputs, message], **waiting)

        def load_example(index: int, used: tuple[int, int], *values: Any) -> list[Any]:
            if index not in range(len(examples)):
                return [gr.skip()] * (len(self.outputs) + 2)
            example = examples[index]
            # What a note tells of was answered with the settings of the start.
            as_told = Form.from_values(values).settings == asked["start"].settings
            note, rows = note_of(example) if as_told else "", self.of_texts(example["paraphrases"])
            return [example["question"], note, *self.updates(rows, used[1])]

        gallery, filled = asked["gallery"], [asked["question"], asked["note"], *self.outputs]
        gallery.click(load_example, [gallery, asked["used"], *asked["form"]], filled, **drawing)
        buttons = [*asked["removers"], *asked["lifters"], *asked["lowerers"], *asked["copiers"], asked["write"]]
        chosen = [each.input for each in asked["form"][1 + self.room :] if each is not asked["methods"]]
        # The note tells of the example as it was.
        quiet = {"api_visibility": "private", "show_progress": "hidden"}
        edits = [pasted.input, *chosen, *(each.click for each in buttons), pasted.select]
        gr.on(edits, None, None, asked["note"], js="() => ''", **quiet)
        # What was said about a paste or about the room is of no more use then.
        gr.on([pasted.input, asked["write"].click], None, None, asked["rows_message"], js="() => ''", **quiet)
        return equalled


WRITTEN = 4  # paraphrases that one click asks the model for


@dataclass(frozen=True)
class Rows:
    """The paraphrases' rows in use and their weights; `weights` begins with the question's. They grow up to `room`."""

    texts: tuple[str, ...]
    weights: tuple[float | None, ...]
    room: int = Limits().paraphrases

    @classmethod
    def from_values(cls, count: int, values: Sequence[Any], room: int) -> Rows:
        """From the pool's boxes and weights, of which the first `count` rows are in use."""
        return cls(tuple(text or "" for text in values[:count]), tuple(values[room : room + 1 + count]), room)

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

    def duplicated(self, index: int) -> Rows:
        """With a copy of one row below it, its weight included, as far as there is room."""
        if not (0 <= index < len(self.texts) and self.free):
            return self
        return self._ordered(sorted([*range(len(self.texts)), index]))

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
        most = min(WRITTEN, self.room - len(self.texts) + len(blanks))
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
