"""What each paraphrase contributed to an answer: attention mass, leave-one-out effect, agreement.

Attention mass is descriptive; the leave-one-out effect is causal. Knows no page and no files.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..engine.decode import generate
from ..engine.model import LanguageModel
from ..errors import OutOfTime
from ..plan import Stream
from ..prompt import SegmentedPrompt, weights_without
from ..request import Decoding
from .metrics import normalise
from .result import MethodResult, Result


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


def attribute(
    lm: LanguageModel, result: Result, *, until: float = math.inf, check: Callable[[], None] = lambda: None
) -> Attribution:
    """Attribute the fused answer of `result` to segments and paraphrases, in one more decode of the same tokens.

    The answer is forced, so that all rows read the same tokens: the full view and one without each paraphrase. Raises
    OutOfTime if it is not done at the time `until` (of `time.monotonic`), and what `check` raises, called after every
    token.
    """
    prompt, full, forced = result.prompt, result.fused, result["flex"].token_ids
    without = [(segment.name, weights_without(full.weights, i)) for i, segment in enumerate(prompt.paraphrases)]
    hidden = [
        replace(full, name=name, weights=shares)
        for (name, shares), weight in zip(without, full.weights, strict=True)
        if weight and shares is not None
    ]
    streams = [Stream((view,), forced=forced) for view in (full, *hidden)]
    for progress in generate(lm, [prompt], streams, Decoding(len(forced), detail=True)):
        whole, *others = progress.answers
        check()
        if time.monotonic() >= until and not all(answer.stopped_by for answer in progress.answers):
            raise OutOfTime("there was no time left to explain the answer")
    effects = tuple(
        Effect(view.name, answer.logprobs, math.fsum(whole.logprobs) - math.fsum(answer.logprobs))
        for view, answer in zip(hidden, others, strict=True)
    )
    mass = np.stack([by_head.numpy() for by_head, _ in whole.detail])  # (T, layers, heads, S)
    attention = np.stack([to_slots.numpy() for _, to_slots in whole.detail])
    steps = len(mass)
    per_token = mass.mean(axis=(1, 2)) / seen_counts(prompt, result.mask["strategy"], steps)
    return Attribution(mass, attention[:, : len(prompt.token_ids) + steps - 1], per_token, effects)


def seen_counts(prompt: SegmentedPrompt, strategy: str, steps: int) -> np.ndarray:
    """How many tokens of each group an answer token can see, (T, S), 1 where there is none; a later one sees those
    before it as well."""
    seen = np.tile([float(max(1, count)) for count in prompt.tokens_seen(strategy)], (steps, 1))
    seen[:, -1] += np.arange(steps)
    return seen


def agreement(fused: str, answers: Sequence[str]) -> Agreement:
    """Which answers equal the fused one after normalisation, how many differ among themselves, and their entropy."""
    forms = [normalise(answer) for answer in answers]
    counts = Counter(forms)
    shares = [count / len(forms) for count in counts.values()]
    entropy = -math.fsum(share * math.log2(share) for share in shares) + 0.0
    return Agreement(tuple(form == normalise(fused) for form in forms), len(counts), entropy)


NEEDED = ("flex", "per_prompt")  # methods that an explanation reads
CANDIDATES = 5


@dataclass(frozen=True)
class Explanation:
    """What each paraphrase contributed; `steps` has the candidates of every method for each token."""

    attribution: Attribution
    agreement: Agreement
    steps: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "attention_mass": self.attribution.to_dict(),
            "agreement": asdict(self.agreement),
            "candidates": [dict(step) for step in self.steps],
        }

    def describe(self) -> str:
        """What each wording contributed, for reading in a terminal."""
        mean = self.attribution.mean_mass.mean(axis=0)
        lines = ["attention mass of the fused answer (descriptive), mean over its tokens, layers and heads:"]
        names = ["prefix", *(f"P{i}" for i in range(1, len(mean) - 1)), "suffix + answer"]
        lines.append("  " + ", ".join(f"{name} {share:.3f}" for name, share in zip(names, mean, strict=True)))
        lines.append("leave-one-out effect (causal), log-probability of the answer lost without a wording:")
        lines.append("  " + ", ".join(f"{e.hidden} {e.effect:+.3f}" for e in self.attribution.effects))
        agreed = self.agreement
        lines.append(
            f"{sum(agreed.agree)} of {len(agreed.agree)} wordings alone agree with the fused answer; {agreed.spread}"
        )
        return "\n".join(lines)


def candidate_steps(results: Sequence[MethodResult]) -> tuple[Mapping[str, Any], ...]:
    """Candidates of each method with an answer of its own at each step, and whether methods chose differently there."""
    spoken = [result for result in results if result.candidates]
    steps = []
    for step in range(max((len(result.candidates) for result in spoken), default=0)):
        going = [result for result in spoken if step < len(result.candidates)]
        parts_ways = len({result.token_ids[step] for result in going}) > 1 or len(going) < len(spoken)
        methods = {result.method: [asdict(c) for c in result.candidates[step]] for result in going}
        steps.append({"step": step, "parts_ways": parts_ways, "methods": methods})
    return tuple(steps)


def explain(
    lm: LanguageModel, result: Result, *, until: float = math.inf, check: Callable[[], None] = lambda: None
) -> Explanation:
    """Explain a finished result of `ask` that ran the methods NEEDED, in one more decode of the fused answer.

    Raises OutOfTime if that is not done at the time `until` (of `time.monotonic`), and what `check` raises, called
    after every token.
    """
    fused, alone = (result[name] for name in NEEDED)
    attribution = attribute(lm, result, until=until, check=check)
    agreed = agreement(fused.answer, [view.answer for view in alone.views])
    return Explanation(attribution, agreed, candidate_steps(result.results))
