"""Paraphrases of a question, sampled from the model that will answer it. Knows no page and no files."""

from __future__ import annotations

import re
from dataclasses import replace

from .config import Decoding, InputError
from .encoding import Encoding, View
from .generation import Stream, generate
from .metrics import answer_text, normalise
from .model import LanguageModel
from .prompt import SegmentedPrompt, Template, check_text, decode_ids, encode_text, make_template, pack

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
    pieces = make_template(lm.tokenizer)
    if pieces.kind == "chat":
        return make_template(lm.tokenizer, INSTRUCTION)
    cue = tuple(encode_text(lm.tokenizer, CUE))
    if getattr(lm.model.config, "trained_to_paraphrase", False):
        return replace(pieces, suffix_ids=cue)
    shots = "".join(f"Q: {question}\n{CUE} {other}\n" for question, other in SHOTS)
    return replace(make_template(lm.tokenizer, shots), suffix_ids=cue)


def _names(question: str) -> set[str]:
    """Words that a paraphrase must keep: numbers, and words with a capital letter after the first word."""
    words = re.findall(r"\w+", question)
    return {
        w.casefold()
        for i, w in enumerate(words)
        if w.isdigit() or (i > 0 and w[0].isupper() and not question.isupper())
    }


def _sample(lm: LanguageModel, prompt: SegmentedPrompt, count: int, decoding: Decoding, first_seed: int) -> list[str]:
    view = View("paraphrase", Encoding(), (1.0,), prompt.suffix_position("aligned", only=0))
    streams = [Stream((view,), seed=first_seed + i) for i in range(count)]
    *_, last = generate(lm, [prompt], streams, decoding)
    finished = [answer.token_ids for answer in last.answers if answer.stopped_by != "length"]
    return [answer_text(decode_ids(lm.tokenizer, ids, skip_special=True)) for ids in finished]


def check_request(question: str, n: int, temperature: float) -> str:
    """The question to rewrite; InputError for what cannot be asked of any model."""
    if not 1 <= n <= 100:
        raise InputError(f"the number of paraphrases must be between 1 and 100, not {n}")
    if not temperature > 0:
        raise InputError("paraphrases are sampled: the temperature must be above 0")
    return check_text(question, "the question")


def paraphrase(
    lm: LanguageModel, question: str, n: int = 5, *, seed: int = 0, temperature: float = 0.7, top_p: float = 0.9
) -> list[str]:
    """Up to n distinct paraphrases, none equal to the question; fewer if the model has no more to offer.

    Samples of one prompt decode as rows of one batch. Duplicates, copies of the question and texts that lose one of
    its names or numbers are dropped and drawn again.
    """
    question = check_request(question, n, temperature)
    prompt = pack(lm.tokenizer, [question], (1.0,), _template(lm))
    length = 2 * len(prompt.paraphrases[0]) + 24
    decoding = Decoding(length, temperature, top_p, seed, mass=False)
    kept: dict[str, str] = {}
    names, asked = _names(question), normalise(question)
    for attempt in range(ROUNDS):
        count = min(32, 2 * (n - len(kept)) + 2)
        for text in _sample(lm, prompt, count, decoding, 1000 * attempt):
            form = normalise(text)
            if form and form != asked and names <= {w.casefold() for w in re.findall(r"\w+", text)}:
                kept.setdefault(form, text)
        if len(kept) >= n:
            break
    return list(kept.values())[:n]
