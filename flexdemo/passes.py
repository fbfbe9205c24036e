"""One forward pass to the last token's logits, plain or compiled. Knows no prompts, masks or methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel

from .attention import BackendError, Plan
from .config import first_line
from .dynamo import COMPILER_ERRORS, mark_mask, mark_sizes, suit_dynamo
from .masks import BLOCK

Pass = Callable[[PreTrainedModel, Tensor, Tensor, Plan, Any, Mapping[str, int]], Tensor]


@functools.cache
def last_only(kind: type[PreTrainedModel]) -> Mapping[str, int]:
    """Arguments that make a model of a class compute the last token's logits and no others, if it can."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(kind.forward).parameters else {}


def last_logits(
    model: PreTrainedModel, ids: Tensor, positions: Tensor, plan: Plan, cache: Any, keep: Mapping[str, int]
) -> Tensor:
    """Logits of the last of ids (rows, T), as (rows, V) in fp32; fills the cache.

    ids and positions may come as (rows, blocks, BLOCK): their length is then known to be a multiple of BLOCK.
    """
    ids, positions = ids.flatten(1), positions.flatten(1)
    out = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, segment_plan=plan, **keep)
    return out.logits[:, -1].float()  # (rows, T or 1, V) -> (rows, V)


def compiled_pass(backend: str = "inductor") -> Pass:
    """`last_logits` compiled as one graph at its first calls, for each kind of pass once and then for all lengths.

    Kinds are: a prompt, a suffix and an answer token, each of one row or of several. Raises BackendError where it
    cannot be compiled; nothing runs uncompiled in its place.
    """
    options = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}  # a loaded model stays as it is
    if backend != "inductor":
        options = None
    run = torch.compile(last_logits, fullgraph=True, backend=backend, options=options)

    def compiled(
        model: PreTrainedModel, ids: Tensor, positions: Tensor, plan: Plan, cache: Any, keep: Mapping[str, int]
    ) -> Tensor:
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
            return run(model, ids, positions, plan, cache, keep)
        except COMPILER_ERRORS as error:
            reason = first_line(error)
            raise BackendError(
                f"the forward pass of {type(model).__name__} cannot be compiled ({reason}): leave --compile out"
            ) from error

    return compiled
