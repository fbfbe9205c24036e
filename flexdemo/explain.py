"""A finished Result explained: attribution of the fused answer, agreement, where methods part ways. Knows no page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .attribution import Agreement, Attribution, agreement, attribute
from .encoding import Encoding
from .model import LanguageModel
from .results import MethodResult, Result

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
    lm: LanguageModel, result: Result, *, until: float = math.inf, check: Callable[[], None] | None = None
) -> Explanation:
    """Explain a finished result of `ask` that ran the methods NEEDED, in one more decode of the fused answer.

    Raises OutOfTime if that is not done at the time `until` (of `time.monotonic`), and what `check` raises, called
    after every token.
    """
    fused, alone = (result[name] for name in NEEDED)
    encoding = Encoding(result.mask["strategy"], result.mask["positions"])
    attributed = attribute(lm, result.prompt, encoding, fused.token_ids, ape=result.ape, until=until, check=check)
    agreed = agreement(fused.answer, [view.answer for view in alone.views])
    return Explanation(attributed, agreed, candidate_steps(result.results))
