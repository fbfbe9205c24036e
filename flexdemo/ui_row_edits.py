"""Edits of the paraphrases' rows, as values: added, removed, moved, pasted, written. Knows no widgets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .config import InputError, Limits, OutOfTime
from .ledger import checkpoint
from .model import LanguageModel
from .paraphrase import paraphrase
from .ui_form import ROWS, check_request

WRITTEN = 4  # paraphrases that one click asks the model for


@dataclass(frozen=True)
class Rows:
    """The paraphrases' rows in use and their weights; `weights` begins with the question's."""

    texts: tuple[str, ...]
    weights: tuple[float | None, ...]

    @classmethod
    def from_values(cls, count: int, values: Sequence[Any]) -> Rows:
        """From the pool's boxes and weights, of which the first `count` rows are in use."""
        return cls(tuple(text or "" for text in values[:count]), tuple(values[ROWS : ROWS + 1 + count]))

    def added(self, *texts: str) -> Rows:
        """With more rows at the end, as far as the pool goes."""
        more = texts[: ROWS - len(self.texts)]
        return Rows((*self.texts, *more), (*self.weights, *[1.0] * len(more)))

    def removed(self, index: int) -> Rows:
        """Without one row; those below move up with their texts and weights."""
        return Rows(self.texts[:index] + self.texts[index + 1 :], self.weights[: index + 1] + self.weights[index + 2 :])

    def moved(self, index: int, by: int) -> Rows:
        """With one row `by` places further down, with its weight; as it is where there is no such place."""
        place = index + by
        if not (0 <= index < len(self.texts) and 0 <= place < len(self.texts)):
            return self
        order = list(range(len(self.texts)))
        order.insert(place, order.pop(index))
        weights = (self.weights[0], *(self.weights[i + 1] for i in order))
        return Rows(tuple(self.texts[i] for i in order), weights)

    def duplicated(self, index: int) -> Rows:
        """With a copy of one row below it, its weight included, as far as the pool goes."""
        if not 0 <= index < len(self.texts) < ROWS:
            return self
        cut = index + 1
        texts = (*self.texts[:cut], self.texts[index], *self.texts[cut:])
        return Rows(texts, (*self.weights[: cut + 1], self.weights[cut], *self.weights[cut + 1 :]))

    def pasted(self, index: int, lines: Sequence[str]) -> tuple[Rows, int]:
        """With `lines` in place of one row and in new rows below it, and how many lines the pool had no room for.

        Blank rows make room if there is no other; a row that holds text stays.
        """
        texts, weights = list(self.texts), list(self.weights)
        texts[index] = lines[0]
        room = ROWS - len(texts)
        blanks = [i for i, text in enumerate(texts) if not text.strip()]
        for i in reversed(blanks[: max(0, len(lines) - 1 - room)]):
            del texts[i], weights[i + 1]
            index -= i < index
        fresh = list(lines[1 : 1 + ROWS - len(texts)])
        texts[index + 1 : index + 1] = fresh
        weights[index + 2 : index + 2] = [1.0] * len(fresh)
        return Rows(tuple(texts), tuple(weights)), len(lines) - 1 - len(fresh)

    def written(self, lm: LanguageModel, limits: Limits, question: str, seed: int) -> Rows:
        """With paraphrases by the model in blank and new rows; what is there stays."""
        blanks = [i for i, text in enumerate(self.texts) if not text.strip()]
        room = min(WRITTEN, len(blanks) + ROWS - len(self.texts))
        if not room:
            raise InputError(f"all {ROWS} rows hold a paraphrase: remove one first")
        check_request(limits, question, [])
        known = {text.strip().casefold() for text in self.texts}
        until = limits.until()
        offered = paraphrase(lm, question, min(100, room + len(known)), seed=seed, until=until, check=checkpoint())
        fresh = [text for text in offered if text.casefold() not in known][:room]
        if not fresh and time.monotonic() >= until:
            raise OutOfTime(limits.time_is_up())
        if not fresh:
            raise InputError("the model wrote nothing new: write a paraphrase yourself")
        texts = list(self.texts)
        for place, text in zip(blanks, fresh, strict=False):
            texts[place] = text
        return Rows(tuple(texts), self.weights).added(*fresh[len(blanks) :])
