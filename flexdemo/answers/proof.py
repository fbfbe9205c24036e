"""Proof of an answer on its own input: computed again, dense and uncached, by transformers' eager attention.

What is shared with the engine is the model's weights and its own code for layers. Mask, positions and weights are those
that are shown, so what ran must be what is shown. Knows no page and no files.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from transformers import PreTrainedModel

from ..engine.fast.compiled import Sibling, part_siblings
from ..engine.model import LanguageModel
from ..errors import InputError
from ..masks import Mask
from ..prompt import SegmentedPrompt
from .result import MethodResult, Result

PROVED = ("flex", "causal")
MOST_TOKENS = 1024  # eager attention holds every score of a layer at once
# Largest difference of log-probabilities that rounding may explain. On the bundled model all strategies stay below 3e-6
# in float32 and 0.06 in bfloat16, where logits are rounded to steps of up to 1/8: only gross errors can be told there.
TOLERANCES = MappingProxyType({"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5})


@dataclass(frozen=True)
class Proof:
    """How far the answers told are from those computed again.

    `difference` is the largest absolute difference of a log-probability over the `tokens` of the answers of `methods`,
    of which a side's is its scheme.
    `tokens_agree` says whether each token is the likeliest one, within `tolerance`; None for sampled answers, which
    only their log-probabilities can prove. `failure` says what does not hold, "" if `ok`.
    """

    methods: tuple[str, ...]
    difference: float
    tokens_agree: bool | None
    tokens: int
    backend: str
    dtype: str
    tolerance: float
    ok: bool
    failure: str = ""

    def describe(self) -> str:
        """One line for a reader."""
        if not self.ok:
            return f"not proved: {self.failure}"
        kind = "sampled" if self.tokens_agree is None else "greedy"
        coarse = "" if self.dtype == "float32" else f"; {self.dtype} rounds so much that only gross errors would show"
        return (
            f"proved: {self.tokens} {kind} tokens of {', '.join(self.methods)}, computed by {self.backend} in "
            f"{self.dtype} and again in one dense, uncached pass of transformers' eager attention: log-probabilities "
            f"differ by at most {self.difference:.1e} (tolerance {self.tolerance:g}){coarse}"
        )


def reference_model(lm: LanguageModel) -> PreTrainedModel:
    """The same weights (shared, not copied) in modules of their own, which run transformers' eager attention.

    `lm` is not touched, so requests may run meanwhile. Costs milliseconds: it is made for one proof and let go.
    """
    groups = [module.group for module in lm.model.modules() if isinstance(module, Sibling)]  # of fused weights
    shared = [*lm.model.parameters(), *lm.model.buffers(), *groups]
    with lm.hooks.off():
        model = copy.deepcopy(lm.model, {id(each): each for each in shared})
    part_siblings(model)  # nothing of what is proved computes the proof
    model.set_attn_implementation("eager")
    return model


def prove(lm: LanguageModel, result: Result) -> Proof:
    """Compute the answers of the methods PROVED and of the sides again, and compare.

    Raises InputError for what cannot be proved: an unfinished result or one of another model, APE, a long prompt.
    """
    answers = [*(answer for answer in result.results if answer.method in PROVED), *result.sides]
    tolerance = _check(lm, result, answers)
    model = reference_model(lm)
    greedy = result.request.temperature == 0
    differences, failures, agree = [], [], True
    for answer in answers:
        logits = _logits(model, lm, result, answer)
        chosen = logits[np.arange(len(logits)), list(answer.token_ids)]
        gaps = np.abs((chosen - logits.logsumexp(dim=-1)).numpy() - np.array(answer.logprobs))
        gaps[np.isnan(gaps)] = np.inf
        differences.append(float(gaps.max()))
        if gaps.max() > tolerance:
            failures.append(f"{answer.method}: a log-probability differs by {gaps.max():.2g}")
        if greedy and (chosen < logits.amax(dim=-1) - tolerance).any():
            agree = False
            failures.append(f"{answer.method}: a token is not the likeliest")
    return Proof(
        tuple(answer.method for answer in answers),
        max(differences),
        agree if greedy else None,
        sum(len(answer.token_ids) for answer in answers),
        result.backend,
        lm.dtype,
        tolerance,
        not failures,
        "; ".join(failures),
    )


def _check(lm: LanguageModel, result: Result, answers: Sequence[MethodResult]) -> float:
    """The tolerance, or an InputError for what cannot be proved."""
    if not result.done:
        raise InputError("only a finished answer can be proved: let it run to its end")
    if not answers:
        raise InputError(f"nothing to prove: run one of the methods {', '.join(PROVED)}")
    if (result.model, result.dtype) != (lm.name, lm.dtype):
        raise InputError(
            f"the answer is of {result.model} in {result.dtype}, not of {lm.name} in {lm.dtype}: ask again to prove it"
        )
    if not result.ape.is_plain:
        raise InputError("an answer with an APE temperature or scale cannot be proved: set both to 1")
    longest = len(result.prompt.token_ids) + max(len(answer.token_ids) for answer in answers)
    if longest > MOST_TOKENS:
        raise InputError(
            f"prompt and answer have {longest} tokens: at most {MOST_TOKENS} can be proved, use a shorter prompt"
        )
    return TOLERANCES[lm.dtype]


@torch.no_grad()
def _logits(model: PreTrainedModel, lm: LanguageModel, result: Result, answer: MethodResult) -> torch.Tensor:
    """Logits (T, V) in fp64 on the CPU that each of the T answer tokens was chosen from, in one forward pass."""
    count, prompt = len(answer.token_ids), result.prompt
    facts = result.mask if answer.method == "flex" else answer.mask
    mask, scheme, weights = facts["strategy"], facts["positions"], [1.0] * len(prompt.weights)
    if answer.method == "flex" or answer.method.endswith("/weights"):  # a side's is its scheme's name
        weights = prompt.weights
    ids = [*prompt.token_ids, *answer.token_ids[:-1]]
    positions = list(prompt.position_ids(scheme))
    turn, end = lm.turn, positions[-1] + 1
    positions += range(end, end + count - 1)
    if turn is not None:  # the side of LongRoPE's switch on which the prompt lies is kept for its answer
        positions = [place + (turn if end > turn else -count) for place in positions]
    bias = dense_bias(prompt, mask, weights, answers=count - 1)
    keep = {"logits_to_keep": count} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    out = model(
        input_ids=torch.tensor([ids], device=lm.device),
        position_ids=torch.tensor([positions], device=lm.device),
        attention_mask=torch.from_numpy(bias)[None, None].to(lm.device, model.dtype),
        use_cache=False,
        **keep,
    )
    return out.logits[0, -count:].double().cpu()


def dense_bias(prompt: SegmentedPrompt, mask: str, weights: Sequence[float], *, answers: int) -> np.ndarray:
    """What is added to scores, (n, n) in fp32 with n prompt and answer tokens, row = query.

    -inf where a key is hidden; log(weight) on a paraphrase's keys for queries that fuse; else 0.
    """
    drawn = Mask.over(mask, prompt.segments, answers=answers)
    felt = iter(weights)
    shares = [next(felt) if segment.role == "paraphrase" else 1.0 for segment in drawn.segments]
    fuses = [[segment.role in drawn.rule.strategy.fuses] for segment in drawn.segments]
    with np.errstate(divide="ignore"):  # log 0 is -inf, which hides
        logs = np.where(fuses, np.log(shares), 0.0)  # of each segment that asks and each that is seen
    lengths = [len(segment) for segment in drawn.segments]
    bias = np.where(drawn.cells(), logs.repeat(lengths, axis=0).repeat(lengths, axis=1), -np.inf)
    return bias.astype(np.float32)
