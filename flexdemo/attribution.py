"""What each paraphrase contributed to an answer: attention mass, leave-one-out effect, agreement.

Attention mass is descriptive; the leave-one-out effect is causal. Knows no page and no files.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .config import PLAIN, Ape, Decoding, OutOfTime
from .encoding import Encoding, View, fused_view
from .generation import Answer, Stream, generate
from .metrics import normalise
from .model import LanguageModel
from .prompt import SegmentedPrompt, weights_without


@dataclass(frozen=True)
class Effect:
    """Log-probability of the answer, token by token, with one paraphrase hidden and positions held.

    `effect` is the full view's log-probability of the whole answer minus this one: above 0, the paraphrase helped.
    """

    hidden: str
    logprobs: tuple[float, ...]
    effect: float


@dataclass(frozen=True)
class Agreement:
    """How the paraphrases' own answers relate to the fused one; entropy in bits over the distinct answers."""

    agree: tuple[bool, ...]
    distinct: int
    entropy: float

    @property
    def spread(self) -> str:
        """How far the answers differ among themselves, in words."""
        return f"{self.distinct} distinct answer{'' if self.distinct == 1 else 's'}, entropy {self.entropy:.2f} bits"


@dataclass(frozen=True)
class Attribution:
    """Arrays over the tokens of the fused answer, T of them.

    mass (T, layers, heads, S): attention by segment (prefix, P1..PN, suffix + own answer), summing to 1.
    token_attention (T, slots): mean over layers and heads of the attention to each token of prompt and answer.
    mass_per_token (T, S): mean mass divided by the number of tokens in the segment that the query could see.
    """

    mass: np.ndarray
    token_attention: np.ndarray
    mass_per_token: np.ndarray
    effects: tuple[Effect, ...]

    @property
    def mean_mass(self) -> np.ndarray:
        """(T, layers, heads, S) -> (T, S)."""
        return self.mass.mean(axis=(1, 2))

    def to_dict(self) -> dict[str, Any]:
        return {
            "mass": self.mean_mass.tolist(),
            "mass_by_layer": self.mass.mean(axis=2).tolist(),
            "mass_by_head": self.mass.tolist(),
            "mass_per_token": self.mass_per_token.tolist(),
            "leave_one_out": [asdict(effect) for effect in self.effects],
        }


def _hidden_views(prompt: SegmentedPrompt, view: View) -> list[View]:
    """The fused view without each paraphrase that has weight and is not the only one, positions held."""
    views = []
    for i, segment in enumerate(prompt.paraphrases):
        shares = weights_without(view.weights, i)
        if view.weights[i] and shares is not None:
            views.append(View(segment.name, view.encoding, shares, view.suffix_position, view.ape))
    return views


def attribute(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    encoding: Encoding,
    token_ids: Sequence[int],
    *,
    ape: Ape = PLAIN,
    until: float = math.inf,
    check: Callable[[], None] | None = None,
) -> Attribution:
    """Attribute an answer of the fused view to segments and paraphrases, in one more decode of the same tokens.

    The answer is forced, so that all rows read the same tokens: the full view and one without each paraphrase. Raises
    OutOfTime if it is not done at the time `until` (of `time.monotonic`), and what `check` raises, called after every
    token.
    """
    full = fused_view(prompt, encoding, ape)
    hidden = _hidden_views(prompt, full)
    forced = tuple(token_ids)
    streams = [Stream((view,), forced=forced) for view in (full, *hidden)]
    for progress in generate(lm, [prompt], streams, Decoding(len(forced), detail=True)):
        whole, *others = progress.answers
        if check is not None:
            check()
        if time.monotonic() >= until and not all(answer.stopped_by for answer in progress.answers):
            raise OutOfTime("there was no time left to explain the answer")
    effects = tuple(
        Effect(view.name, answer.logprobs, math.fsum(whole.logprobs) - math.fsum(answer.logprobs))
        for view, answer in zip(hidden, others, strict=True)
    )
    return _arrays(prompt, whole, effects)


def _arrays(prompt: SegmentedPrompt, answer: Answer, effects: tuple[Effect, ...]) -> Attribution:
    mass = np.stack([by_head.numpy() for by_head, _ in answer.detail])  # (T, layers, heads, S)
    steps, length = len(mass), len(prompt.token_ids)
    attention = np.stack([to_slots.numpy() for _, to_slots in answer.detail])[:, : length + steps - 1]
    seen = np.tile([float(max(1, len(segment))) for segment in prompt.segments], (steps, 1))  # (T, S)
    seen[:, -1] += np.arange(steps)  # a later token also sees those before it
    return Attribution(mass, attention, mass.mean(axis=(1, 2)) / seen, effects)


def agreement(fused: str, answers: Sequence[str]) -> Agreement:
    """Which answers equal the fused one after normalisation, how many differ among themselves, and their entropy."""
    forms = [normalise(answer) for answer in answers]
    counts = Counter(forms)
    shares = [count / len(forms) for count in counts.values()]
    entropy = -math.fsum(share * math.log2(share) for share in shares) + 0.0
    return Agreement(tuple(form == normalise(fused) for form in forms), len(counts), entropy)
