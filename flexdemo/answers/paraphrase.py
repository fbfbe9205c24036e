"""Paraphrases of a question, sampled from the model that will answer it. Knows no page and no files."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..engine.decode import Answer, generate
from ..engine.model import LanguageModel
from ..errors import InputError
from ..plan import Encoding, Stream, View
from ..prompt import SegmentedPrompt, alike, decode_ids, pack
from ..request import Decoding, check_settings
from ..template import Template, check_text, make_template, plain_template
from .metrics import answer_text, contains, normalise, words

INSTRUCTION = "You rewrite questions in other words. You never answer them."
SHOTS = (
    ("Who painted Guernica?", "Which artist painted Guernica?"),
    ("How many legs does a spider have?", "Do you know how many legs a spider has?"),
    ("What is the currency of Japan?", "Which currency is used in Japan?"),
    ("Where was Mozart born?", "Can you tell me where Mozart was born?"),
    ("When was the Eiffel Tower built?", "In what year was the Eiffel Tower built?"),
)
CUE = "P:"
TOP_P = 0.9
ROUNDS = 4  # of samples without an opening
# How an English draft begins in later rounds: a small model goes on from there, where by itself it copies or answers.
OPENINGS = ("Can you tell me", "Do you know", "May I ask", "Could you say")
ASKING = frozenset(("what", "which", "who", "whom", "whose", "when", "where", "why", "how"))
# Words that say nothing of what is asked for.
PLAIN_WORDS = ASKING | frozenset(
    re.findall(
        r"\w+",
        """a an the of in on at to for from by with and or as it its this that there i you me can could would may do
        does did is are was were be been has have had tell say know ask name called please give s""",
    )
)
BLANKS = re.compile(r"\[MASK\]|_{2,}|<mask>")
QUESTION_MARKS = "?？؟;՞፧"  # of Latin, East Asian, Arabic, Greek, Armenian and Ethiopic writing


def _is_trained(lm: LanguageModel) -> bool:
    """Whether the model learnt to write paraphrases, behind the cue alone."""
    return bool(getattr(lm.model.config, "trained_to_paraphrase", False))


def _template(lm: LanguageModel) -> Template:
    """How this model is asked: by instruction and shots as turns, by shots as lines, or by the cue alone."""
    if getattr(lm.tokenizer, "chat_template", None):
        return make_template(lm.tokenizer, INSTRUCTION, shots=SHOTS)
    return plain_template(lm.tokenizer, shots=() if _is_trained(lm) else SHOTS, cue=CUE)


def _begun(template: Template, opening: str) -> Template:
    """The template with the draft's first words written already."""
    if not opening:
        return template
    begin = opening if template.kind == "chat" else f" {opening}"
    return replace(template, tail=template.tail + begin, render=lambda wording: template.render(wording) + begin)


def _names(text: str) -> set[str]:
    """Numbers of a text, and words with a capital letter that do not begin it, in small letters."""
    found = re.findall(r"\w+", text)
    return {
        w.casefold()
        for i, w in enumerate(found)
        if w[0].isdigit() or (i > 0 and w != "I" and w[0].isupper() and not text.isupper())
    }


def _off(question: str, draft: str) -> str:
    """Why a draft of a model that was not trained to write paraphrases is none; "" for one that seems to be."""
    blanks = BLANKS.findall(question)
    if blanks:
        if BLANKS.findall(draft) != blanks:
            return "lost the blank"
    elif not draft.rstrip('"”’» ').endswith(tuple(QUESTION_MARKS)):
        as_asked = question[-1] not in QUESTION_MARKS and draft.split()[0] == question.split()[0]
        if not as_asked:
            return "is no question"
    if _names(draft) - {word.casefold() for word in re.findall(r"\w+", question)}:
        return "brought a name or number in"
    if not {"how", "why"}.isdisjoint(set(words(draft)) - set(words(question))):
        return "asks for something else"
    asked = [word for word in words(question) if word not in PLAIN_WORDS | _names(question)]
    kept = {word[:4] for word in words(draft)}
    return "" if 2 * sum(word[:4] in kept for word in asked) >= len(asked) else "lost what is asked for"


def check_request(question: str, n: int, temperature: float, *, fewest: int = 1) -> str:
    """The question to rewrite; InputError for what cannot be asked of any model."""
    if not fewest <= n <= 100:
        raise InputError(f"the number of paraphrases must be between {fewest} and 100, not {n}")
    if not 0 < temperature < math.inf:
        raise InputError("paraphrases are sampled: the temperature must be above 0 and finite")
    return check_text(question, "the question")


@dataclass
class Written:
    """One question and what was written of it: the paraphrases kept, by their normal form, and why others were not."""

    question: str
    seed: int
    answers: Sequence[str] = ()  # what no paraphrase may give away
    loose: bool = False  # whether the model was trained, so that only its names and numbers are looked at
    kept: dict[str, str] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def keep(self, text: str) -> None:
        """Keep a paraphrase unless it is a duplicate, the question, no question, gives an answer or lost a name."""
        form = normalise(text)
        if not form or form == normalise(self.question) or form in self.kept:
            return
        said = {word.casefold() for word in re.findall(r"\w+", text)}
        why = "" if self.loose else _off(self.question, text)
        why = why if _names(self.question) <= said else "lost a name or number"
        if contains(text, self.answers) and not contains(self.question, self.answers):
            why = "gave an answer"
        if why:
            self.dropped[why] += 1
        else:
            self.kept[form] = text

    def openings(self) -> tuple[str, ...]:
        """How drafts begin, round by round."""
        english = self.question.isascii() and not ASKING.isdisjoint(words(self.question))
        begun = OPENINGS if english and not self.loose and not BLANKS.search(self.question) else ()
        return ("", *begun, *[""] * (ROUNDS - 1))


@dataclass(frozen=True)
class _Round:
    """What one question lacks in a round: its prompt, the samples to draw, how many of them may be kept."""

    asked: Written
    prompt: SegmentedPrompt
    opening: str
    seeds: range
    most: int

    @property
    def length(self) -> int:
        return 2 * len(self.prompt.paraphrases[0]) + 24

    def streams(self, place: int) -> list[Stream]:
        """Samples to draw: each has a seed of its own, and a length that does not depend on the batch."""
        view = View("paraphrase", Encoding(), (1.0,), self.prompt.suffix_position("aligned", only=0))
        return [Stream((view,), prompt=place, seed=seed, limit=self.length) for seed in self.seeds]


def paraphrase(
    lm: LanguageModel,
    question: str,
    n: int = 5,
    *,
    seed: int = 0,
    temperature: float = 0.7,
    until: float = math.inf,
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """Up to n distinct paraphrases, none equal to the question; fewer if the model has no more to offer.

    At the time `until` (of `time.monotonic`) the work stops within one token, and those that are complete are all; so
    does what `check`, called after every token, raises, and then there are none.
    """
    check_settings(seed=seed)
    options = {"temperature": temperature, "until": until, "check": check}
    (written,) = paraphrase_all(lm, [question], n, seeds=[seed], **options)
    return list(written.kept.values())


def paraphrase_all(
    lm: LanguageModel,
    questions: Sequence[str],
    n: int = 5,
    *,
    seeds: Sequence[int],
    answers: Sequence[Sequence[str]] | None = None,
    temperature: float = 0.7,
    until: float = math.inf,
    check: Callable[[], None] = lambda: None,
) -> list[Written]:
    """Up to n distinct paraphrases of each question, all samples decoding as rows of one batch.

    Duplicates, copies of the question, texts that are no question, lose one of its names or numbers or give one of its
    `answers` are dropped and drawn again. What a question gets depends on its seed, not on the others in the batch.
    """
    template, loose = _template(lm), _is_trained(lm)
    known = answers or [()] * len(questions)
    asked = [
        Written(check_request(question, n, temperature), seed, right, loose)
        for question, seed, right in zip(questions, seeds, known, strict=True)
    ]
    for attempt in range(ROUNDS + len(OPENINGS)):
        rounds = []
        for each in asked:
            openings, lacking = each.openings(), n - len(each.kept)
            if lacking > 0 and attempt < len(openings):
                opening = openings[attempt]
                most = min(lacking, -(-n // len(OPENINGS))) if opening else lacking
                first = each.seed + 1000 * attempt
                seeds_drawn = range(first, first + min(32, most + 2 if opening else 2 * lacking + 2))
                prompt = pack(lm.tokenizer, [each.question], (1.0,), _begun(template, opening))
                rounds.append(_Round(each, prompt, opening, seeds_drawn, most))
        for group in alike([each.prompt for each in rounds]):
            if time.monotonic() < until:
                _draw(lm, [rounds[i] for i in group], temperature, until, check)
    return asked


def _draw(
    lm: LanguageModel,
    rounds: Sequence[_Round],
    temperature: float,
    until: float,
    check: Callable[[], None],
) -> None:
    """One round of samples for questions that lack paraphrases, as rows of one batch."""
    streams = [stream for i, each in enumerate(rounds) for stream in each.streams(i)]
    decoding = Decoding(max(each.length for each in rounds), temperature, TOP_P, mass=False)
    answers: Sequence[Answer] = ()
    for progress in generate(lm, [each.prompt for each in rounds], streams, decoding):
        answers = progress.answers
        check()
        if time.monotonic() >= until:
            break
    had = [len(each.asked.kept) for each in rounds]
    for stream, answer in zip(streams, answers, strict=True):
        each = rounds[stream.prompt]
        if answer.stopped_by not in (None, "length") and len(each.asked.kept) - had[stream.prompt] < each.most:
            text = each.opening + decode_ids(lm.tokenizer, answer.token_ids, skip_special=True)
            each.asked.keep(answer_text(text, thinking=each.prompt.opens_thinking))
