"""Weights from confidence: how often a wording's sampled answers agree with its greedy one. Knows no methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..engine.decode import Answer, generate
from ..engine.model import LanguageModel
from ..engine.reading import Prefill
from ..plan import Stream, View
from ..prompt import SegmentedPrompt, decode_ids, normalise_weights
from ..request import Decoding, Samples
from .metrics import answer_text, normalise
from .result import Confidence


def measure_confidence(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    decoding: Decoding,
    *,
    samples: Samples,
    view: Callable[[SegmentedPrompt, int, str], View],
    known: Prefill,
) -> Iterator[Confidence | None]:
    """Yield None after every token, so that the work can be stopped, and the Confidence in the end.

    The greedy answer of every wording alone (`view(prompt, i, name)`) and its samples decode as rows of one batch.
    """
    alone = [view(prompt, i, segment.name) for i, segment in enumerate(prompt.paraphrases)]
    streams = [
        Stream((each,), seed=i * samples.count + k, temperature=samples.temperature if k else 0.0)
        for i, each in enumerate(alone)
        for k in range(samples.count + 1)
    ]
    answers: Sequence[Answer] = ()
    for progress in generate(lm, [prompt], streams, replace(decoding, mass=False, candidates=0), known=known):
        answers = progress.answers
        yield None
    forms = [
        normalise(
            answer_text(decode_ids(lm.tokenizer, answer.token_ids, skip_special=True), thinking=prompt.opens_thinking)
        )
        for answer in answers
    ]
    shares, each = [], samples.count + 1
    for start in range(0, len(forms), each):
        greedy, *sampled = forms[start : start + each]
        shares.append(sum(form == greedy for form in sampled) / samples.count)
    yield Confidence(tuple(shares), samples.count, samples.temperature)


def confidence_weights(confidence: Confidence) -> tuple[float, ...]:
    """The shares, normalised to sum to 1; equal weights where no sample agrees, as then nothing is known."""
    shares = confidence.shares
    return normalise_weights(shares if any(shares) else None, len(shares))
