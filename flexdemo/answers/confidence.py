"""Weights from confidence: how often a wording's sampled answers agree with its greedy one. Knows no methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..engine.decode import Answer, generate
from ..engine.model import LanguageModel
from ..engine.reading import Prefill
from ..plan import Stream, View
from ..prompt import SegmentedPrompt, decode_ids, normalise_weights
from ..request import Request
from .metrics import answer_text, normalise
from .result import Confidence


def measure_confidence(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    request: Request,
    *,
    view: Callable[[SegmentedPrompt, int, str], View],
    known: Prefill,
) -> Iterator[Confidence | None]:
    """Yield None after every token, so that the work can be stopped, and the Confidence in the end.

    The greedy answer of every wording alone (`view(prompt, i, name)`) and its samples decode as rows of one batch.
    """
    count, warmth = request.samples, request.sample_temperature
    decoding = replace(request.decoding, mass=False, candidates=0)
    alone = [view(prompt, i, segment.name) for i, segment in enumerate(prompt.paraphrases)]
    streams = [
        Stream((each,), seed=i * count + k, temperature=warmth if k else 0.0)
        for i, each in enumerate(alone)
        for k in range(count + 1)
    ]
    answers: Sequence[Answer] = ()
    for progress in generate(lm, [prompt], streams, decoding, known=known):
        answers = progress.answers
        yield None
    forms = [
        normalise(
            answer_text(decode_ids(lm.tokenizer, answer.token_ids, skip_special=True), thinking=prompt.opens_thinking)
        )
        for answer in answers
    ]
    shares, each = [], count + 1
    for start in range(0, len(forms), each):
        greedy, *sampled = forms[start : start + each]
        shares.append(sum(form == greedy for form in sampled) / count)
    yield Confidence(tuple(shares), count, warmth)


def confidence_weights(confidence: Confidence) -> tuple[float, ...]:
    """The shares, normalised to sum to 1; equal weights where no sample agrees, as then nothing is known."""
    shares = confidence.shares
    return normalise_weights(shares if any(shares) else None, len(shares))
