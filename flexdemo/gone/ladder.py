"""The ladder from standard attention to the fused answer, one change a step, decoded in lockstep. Knows no page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..answers.metrics import answer_text
from ..engine.decode import Answer, generate
from ..engine.model import LanguageModel
from ..engine.reading import Prefill
from ..plan import LADDER, Scheme, Stream
from ..prompt import SegmentedPrompt, decode_ids, normalise_weights, token_texts
from ..request import Decoding

CHANGES = ("Standard attention", "+ segment mask", "+ aligned positions", "+ weights 1/N")


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: what changed from the step before, the scheme that ran, its answer so far."""

    change: str
    scheme: Scheme
    answer: str
    generation: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    stopped_by: str | None

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability of the answer's tokens; None before the first."""
        return math.fsum(self.logprobs) / len(self.logprobs) if self.logprobs else None


def climb(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    decoding: Decoding,
    *,
    known: Prefill | None = None,
    keep: Callable[[Prefill], None] | None = None,
) -> Iterator[tuple[Rung, ...]]:
    """The rungs after every step of the decode; all have `stopped_by` in the last. Weights are 1/N on the last rung.

    `known` and `keep` are as in `generate`. Closing the iterator stops the work within one token.
    """
    equal = prompt.reweighted(normalise_weights(None, len(prompt.paraphrases)))
    streams = [Stream((scheme.view(equal),)) for scheme in LADDER]
    distinct = list(dict.fromkeys(streams))  # one wording: its weight is 1 with and without weights
    for progress in generate(lm, [equal], distinct, decoding, known=known, keep=keep):
        answers = dict(zip(distinct, progress.answers, strict=True))
        yield tuple(
            _rung(lm, change, scheme, answers[stream])
            for change, scheme, stream in zip(CHANGES, LADDER, streams, strict=True)
        )


def _rung(lm: LanguageModel, change: str, scheme: Scheme, answer: Answer) -> Rung:
    text = decode_ids(lm.tokenizer, answer.token_ids, skip_special=True)
    tokens = tuple(token_texts(lm.tokenizer, answer.token_ids))
    return Rung(change, scheme, answer_text(text), text, answer.token_ids, tokens, answer.logprobs, answer.stopped_by)
