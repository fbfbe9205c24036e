"""Weights from confidence: how often a wording's sampled answers agree with its greedy one. Knows no methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from .config import Decoding, InputError
from .encoding import Prefill, View
from .generation import Answer, Stream, generate
from .metrics import answer_text, normalise
from .model import LanguageModel
from .prompt import SegmentedPrompt, decode_ids, normalise_weights
from .results import Confidence

SAMPLES, SAMPLE_TEMPERATURE = 8, 0.7
MOST_SAMPLES = 64


def check_sampling(samples: int, temperature: float) -> None:
    """Raise InputError for a number or a temperature with which nothing can be sampled."""
    if not 1 <= samples <= MOST_SAMPLES:
        raise InputError(f"the number of samples must be from 1 to {MOST_SAMPLES}, not {samples}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"the samples' temperature must be a positive number, not {temperature}")


def measure_confidence(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    decoding: Decoding,
    *,
    samples: int,
    temperature: float,
    view: Callable[[SegmentedPrompt, int, str], View],
    known: Prefill,
) -> Iterator[Confidence | None]:
    """Yield None after every token, so that the work can be stopped, and the Confidence in the end.

    The greedy answer of every wording alone (`view(prompt, i, name)`) and its samples decode as rows of one batch.
    """
    check_sampling(samples, temperature)
    alone = [view(prompt, i, segment.name) for i, segment in enumerate(prompt.paraphrases)]
    streams = [
        Stream((each,), seed=i * samples + k, temperature=temperature if k else 0.0)
        for i, each in enumerate(alone)
        for k in range(samples + 1)
    ]
    answers: Sequence[Answer] = ()
    for progress in generate(lm, [prompt], streams, replace(decoding, mass=False, candidates=0), known=known):
        answers = progress.answers
        yield None
    forms = [
        normalise(answer_text(decode_ids(lm.tokenizer, answer.token_ids, skip_special=True))) for answer in answers
    ]
    shares = []
    for i in range(len(alone)):
        greedy, *sampled = forms[i * (samples + 1) : (i + 1) * (samples + 1)]
        shares.append(sum(form == greedy for form in sampled) / samples)
    yield Confidence(tuple(shares), samples, temperature)


def confidence_weights(confidence: Confidence) -> tuple[float, ...]:
    """The shares, normalised to sum to 1; equal weights where no sample agrees, as then nothing is known."""
    shares = confidence.shares
    return normalise_weights(shares if any(shares) else None, len(shares))
