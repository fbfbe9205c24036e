"""One forward pass to the last token's logits, plain or compiled. Knows no prompts, masks or methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .attention import COMPILER_ERRORS, BackendError, Plan, suit_dynamo
from .config import first_line

Pass = Callable[[PreTrainedModel, Tensor, Tensor, Plan, Any, Mapping[str, int]], Tensor]


@functools.cache
def last_only(kind: type[PreTrainedModel]) -> Mapping[str, int]:
    """Arguments that make a model of a class compute the last token's logits and no others, if it can."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(kind.forward).parameters else {}


def last_logits(
    model: PreTrainedModel, ids: Tensor, positions: Tensor, plan: Plan, cache: Any, keep: Mapping[str, int]
) -> Tensor:
    """Logits of the last of ids (rows, T), as (rows, V) in fp32; fills the cache."""
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
        for tensor in (ids, positions):
            _mark(tensor, 0, 1)
        for layer in cache.layers:
            _mark(layer.keys, 0, 2)
            _mark(layer.values, 0, 2)
        for mask in plan.masks.values():
            if isinstance(mask, Tensor):
                _mark(mask, *((0, 2, 3) if mask.dtype == torch.bool else (0, 3)))
        for group in getattr(plan.recorder, "groups", {}).values():
            _mark(group, 0, 1, 2)
        try:
            return run(model, ids, positions, plan, cache, keep)
        except COMPILER_ERRORS as error:
            reason = first_line(error)
            raise BackendError(
                f"the forward pass of {type(model).__name__} cannot be compiled ({reason}): leave --compile out"
            ) from error

    return compiled


def _mark(tensor: Tensor, *dimensions: int) -> None:
    """Sizes that differ from request to request; 1 stays 1, as it has kernels of its own."""
    for dimension in dimensions:
        if tensor.shape[dimension] > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, dimension)
