"""Paraphrases of a question, sampled from the model that will answer it. Knows no page and no files."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..engine.decode import Answer, generate
from ..engine.model import LanguageModel
from ..errors import InputError
from ..plan import Encoding, Stream, View
from ..prompt import SegmentedPrompt, alike, decode_ids, pack
from ..request import Decoding, check_settings
from ..template import Template, check_text, make_template, plain_template
from .metrics import answer_text, normalise

INSTRUCTION = (
    "Say the following question in other words. Keep its meaning and every name and number in it. "
    "Reply with the new question and nothing else."
)
SHOTS = (
    ("Who painted Guernica?", "Which artist is Guernica by?"),
    ("How many legs does a spider have?", "What is the number of legs on a spider?"),
    ("In what year did the Second World War end?", "When was the Second World War over? Give the year."),
)
CUE = "P:"
ROUNDS = 4


def _template(lm: LanguageModel) -> Template:
    """How this model is asked: by instruction, by shots, or by the cue alone if it was trained on it."""
    if getattr(lm.tokenizer, "chat_template", None):
        return make_template(lm.tokenizer, INSTRUCTION, shots=SHOTS)
    shots = () if getattr(lm.model.config, "trained_to_paraphrase", False) else SHOTS
    return plain_template(lm.tokenizer, shots=shots, cue=CUE)


def _names(question: str) -> set[str]:
    """Words that a paraphrase must keep: numbers, and words with a capital letter after the first word."""
    words = re.findall(r"\w+", question)
    return {
        w.casefold()
        for i, w in enumerate(words)
        if w.isdigit() or (i > 0 and w[0].isupper() and not question.isupper())
    }


def check_request(question: str, n: int, temperature: float) -> str:
    """The question to rewrite; InputError for what cannot be asked of any model."""
    if not 1 <= n <= 100:
        raise InputError(f"the number of paraphrases must be between 1 and 100, not {n}")
    if not temperature > 0:
        raise InputError("paraphrases are sampled: the temperature must be above 0")
    return check_text(question, "the question")


@dataclass
class _Asked:
    """One question and the paraphrases kept so far, by their normal form."""

    question: str
    seed: int
    prompt: SegmentedPrompt
    kept: dict[str, str] = field(default_factory=dict)

    def streams(self, place: int, lacking: int, attempt: int) -> list[Stream]:
        """Samples to draw: each has a seed of its own, and a length that does not depend on the batch."""
        view = View("paraphrase", Encoding(), (1.0,), self.prompt.suffix_position("aligned", only=0))
        seeds = range(self.seed + 1000 * attempt, self.seed + 1000 * attempt + min(32, 2 * lacking + 2))
        return [Stream((view,), prompt=place, seed=seed, limit=self.length) for seed in seeds]

    @property
    def length(self) -> int:
        return 2 * len(self.prompt.paraphrases[0]) + 24

    def keep(self, text: str) -> None:
        """Keep a paraphrase unless it is a duplicate, the question, or lost one of its names and numbers."""
        form = normalise(text)
        words = {word.casefold() for word in re.findall(r"\w+", text)}
        if form and form != normalise(self.question) and _names(self.question) <= words:
            self.kept.setdefault(form, text)


def paraphrase(
    lm: LanguageModel,
    question: str,
    n: int = 5,
    *,
    seed: int = 0,
    temperature: float = 0.7,
    top_p: float = 0.9,
    until: float = math.inf,
    check: Callable[[], None] | None = None,
) -> list[str]:
    """Up to n distinct paraphrases, none equal to the question; fewer if the model has no more to offer.

    At the time `until` (of `time.monotonic`) the work stops within one token, and those that are complete are all; so
    does what `check`, called after every token, raises, and then there are none.
    """
    check_settings(seed=seed, top_p=top_p)
    drawing = {"temperature": temperature, "top_p": top_p, "until": until, "check": check}
    return paraphrase_all(lm, [question], n, seeds=[seed], **drawing)[0]


def paraphrase_all(
    lm: LanguageModel,
    questions: Sequence[str],
    n: int = 5,
    *,
    seeds: Sequence[int],
    temperature: float = 0.7,
    top_p: float = 0.9,
    until: float = math.inf,
    check: Callable[[], None] | None = None,
) -> list[list[str]]:
    """Up to n distinct paraphrases of each question, all samples decoding as rows of one batch.

    Duplicates, copies of the question and texts that lose one of its names or numbers are dropped and drawn again.
    What a question gets depends on its seed, not on the others in the batch.
    """
    template = _template(lm)
    asked = []
    for question, seed in zip(questions, seeds, strict=True):
        text = check_request(question, n, temperature)
        asked.append(_Asked(text, seed, pack(lm.tokenizer, [text], (1.0,), template)))
    for attempt in range(ROUNDS):
        lacking = [each for each in asked if len(each.kept) < n]
        for group in alike([each.prompt for each in lacking]):
            if time.monotonic() < until:
                _draw(lm, [lacking[i] for i in group], n, attempt, temperature, top_p, until, check)
    return [list(each.kept.values())[:n] for each in asked]


def _draw(
    lm: LanguageModel,
    open_ones: Sequence[_Asked],
    n: int,
    attempt: int,
    temperature: float,
    top_p: float,
    until: float,
    check: Callable[[], None] | None,
) -> None:
    """One round of samples for questions that lack paraphrases, as rows of one batch."""
    streams = [s for i, each in enumerate(open_ones) for s in each.streams(i, n - len(each.kept), attempt)]
    decoding = Decoding(max(each.length for each in open_ones), temperature, top_p, mass=False)
    answers: Sequence[Answer] = ()
    for progress in generate(lm, [each.prompt for each in open_ones], streams, decoding):
        answers = progress.answers
        if check is not None:
            check()
        if time.monotonic() >= until:
            break
    for stream, answer in zip(streams, answers, strict=True):
        if answer.stopped_by not in (None, "length"):
            text = decode_ids(lm.tokenizer, answer.token_ids, skip_special=True)
            asker = open_ones[stream.prompt]
            asker.keep(answer_text(text, thinking=asker.prompt.opens_thinking))
