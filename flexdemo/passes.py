"""One forward pass to the next token's scores, plain or compiled. Knows no prompts, masks or methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel

from .attention import Plan
from .config import BackendError, first_line
from .dynamo import ALONE, COMPILER_ERRORS, mark_mask, mark_sizes, suit_dynamo
from .masks import BLOCK


class Scores(NamedTuple):
    """Of the token that comes next: logits (rows, V) in fp32; of each row the likeliest, its log-probability, the lse.

    lse is the logits' log-sum-exp.
    """

    logits: Tensor
    best: Tensor
    logprob: Tensor
    lse: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Scores:
        lse = logits.logsumexp(dim=-1)
        return cls(logits, logits.argmax(dim=-1), logits.amax(dim=-1) - lse, lse)

    def select(self, rows: Tensor) -> Scores:
        return Scores(*(each[rows] for each in self))


Pass = Callable[[PreTrainedModel, Tensor, Tensor, Plan, Any, Mapping[str, int]], Scores]


@functools.cache
def last_only(kind: type[PreTrainedModel]) -> Mapping[str, int]:
    """Arguments that make a model of a class compute the last token's logits and no others, if it can."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(kind.forward).parameters else {}


def next_scores(
    model: PreTrainedModel, ids: Tensor, positions: Tensor, plan: Plan, cache: Any, keep: Mapping[str, int]
) -> Scores:
    """What follows the last of ids (rows, T); fills the cache.

    ids and positions may come as (rows, blocks, BLOCK): their length is then known to be a multiple of BLOCK.
    """
    ids, positions = ids.flatten(1), positions.flatten(1)
    out = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, segment_plan=plan, **keep)
    return Scores.of(out.logits[:, -1].float())  # (rows, T or 1, V) -> (rows, V)


def compiled_pass(backend: str = "inductor") -> Pass:
    """`next_scores` compiled as one graph at its first calls, for each kind of pass once and then for all lengths.

    Kinds are: a prompt, a suffix and an answer token, each of one row or of several. Raises BackendError where it
    cannot be compiled; nothing runs uncompiled in its place.
    """
    common: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}  # loaded for good

    def make(**options: Any) -> Pass:
        chosen = {**common, **options} if backend == "inductor" else None
        return torch.compile(next_scores, fullgraph=True, backend=backend, options=chosen)

    # A step's kernels are small and run for every token: they are tuned, and those that can are launched as one.
    run, run_step = make(), make(coordinate_descent_tuning=True, combo_kernels=True)

    def compiled(
        model: PreTrainedModel, ids: Tensor, positions: Tensor, plan: Plan, cache: Any, keep: Mapping[str, int]
    ) -> Scores:
        suit_dynamo()
        mask = next(iter(plan.masks.values()))
        if isinstance(mask, BlockMask):  # whose kernel is faster where no block is cut off
            ids, positions = (each.unflatten(1, (-1, BLOCK)) for each in (ids, positions))
        for tensor in (ids, positions):
            mark_sizes(tensor, 0, 1)
        for layer in cache.layers:
            mark_sizes(layer.keys, 0, 2)
            mark_sizes(layer.values, 0, 2)
        for mask in plan.masks.values():
            mark_mask(mask)
        for group in getattr(plan.recorder, "groups", {}).values():
            mark_sizes(group, 0, 1, 2)
        try:
            with ALONE:  # it may compile
                return (run_step if ids.shape[1:] == (1,) else run)(model, ids, positions, plan, cache, keep)
        except COMPILER_ERRORS as error:
            reason = first_line(error)
            raise BackendError(
                f"the forward pass of {type(model).__name__} cannot be compiled ({reason}): leave --compile out"
            ) from error

    return compiled
