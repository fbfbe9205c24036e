"""The attention function registered with transformers, and its backends. Knows tensors and masks; nothing of text."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from ..errors import BackendError, InputError
from .blocks import BLOCK, Layout, block_mask, dense_mask, round_up
from .cache import Trunk
from .flex import Attend, attend_flex_compiled, attend_flex_eager, attend_flex_of_any_length, on_gpu
from .recorders import ApeRows, MassRecorder, Scoring, attention_probabilities, is_one_query

if TYPE_CHECKING:
    from .mixing import Mixing

NAME = "flexdemo_segments"
STRIP = 128  # queries that a CPU looks at together


class UnsupportedModelError(InputError):
    """A model whose attention cannot honour our mask; the message names the model's feature."""


@dataclass(frozen=True)
class Plan:
    """What one forward pass needs to attend, as it travels through `model(..., segment_plan=plan)`.

    `masks` has one entry for each device that holds a layer: a BlockMask, booleans (B, 1, T, T), or an additive bias
    (rows, 1, q, kv) in fp32. `ape` likewise, if some row sharpens its scores, and `mixing`, if some rows share
    hidden states. Made once before the forward, so that no layer moves or makes a mask. `trunks` are what the rows of a
    SlotCache share. `attend` runs instead of the backend's own, layer by layer in their order.
    """

    backend: str
    masks: Mapping[torch.device, BlockMask | Tensor]
    recorder: MassRecorder | None = None
    ape: Mapping[torch.device, ApeRows] | None = None
    mixing: Mapping[torch.device, Mixing] | None = None
    trunks: Mapping[int, Sequence[Trunk]] = field(default_factory=dict)
    attend: Attend | None = None


def attend_sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Any, how: Scoring) -> Tensor:
    if how.softcap is not None:
        raise BackendError(
            "this model caps its attention scores, which backend sdpa cannot do: use --backend flex-eager"
        )
    # It gives no log-sum-exp; the few queries of suffix and answer can afford the scores.
    if how.ape is not None or how.trunks:
        return attend_written_out(query, key, value, mask, how)
    rows, heads, length, width = query.shape
    groups = heads // key.shape[1]
    if mask.dtype != torch.bool:
        # Few queries: the heads that share a key head become more of them, so that keys are not copied.
        packed = query.reshape(rows, key.shape[1], groups * length, width)
        mask = mask.to(query.dtype) if length == 1 else mask.to(query.dtype).repeat(1, 1, groups, 1)
        out = scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=how.scale)
        return out.reshape(rows, heads, length, -1)
    on_cpu = not torch.compiler.is_compiling() and query.device.type == "cpu"
    if on_cpu and length > STRIP and mask.shape[3] == key.shape[2]:  # of a mask for other keys SDPA says so itself
        return _attend_in_strips(query, key, value, mask, how.scale)
    key, value = _repeated(key, groups), _repeated(value, groups)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=how.scale)


def _repeated(states: Tensor, groups: int) -> Tensor:
    """Keys or values for each head of a group."""
    return states.repeat_interleave(groups, dim=1) if groups > 1 else states


def _attend_in_strips(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """SDPA of some queries at a time, over the keys that any of them sees: what is hidden from all costs nothing."""
    groups, parts = query.shape[1] // key.shape[1], []
    wide = _repeated(key, groups), _repeated(value, groups)
    for few, visible in zip(query.split(STRIP, dim=2), mask.split(STRIP, dim=2), strict=True):
        seen = visible.any(dim=2).any(dim=0)[0].nonzero()[:, 0]  # (B, 1, q, kv) -> (keys,)
        end = 1 + int(seen[-1]) if len(seen) else 1  # padding sees nothing
        if 2 * len(seen) < end:
            visible, given = visible[..., seen], (_repeated(each[:, :, seen], groups) for each in (key, value))
        else:  # most of them: nothing is copied
            visible, given = visible[..., :end], (each[:, :, :end] for each in wide)
        parts.append(scaled_dot_product_attention(few, *given, attn_mask=visible, scale=scale))
    return torch.cat(parts, dim=2)


def attend_written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    how: Scoring,
    *,
    tell: Callable[[Tensor], None] = lambda probabilities: None,
) -> Tensor:
    """Softmax of scores times values, for the few queries of suffix and answer; a compiler fuses what stands here."""
    probabilities = attention_probabilities(query, key, bias, how)
    tell(probabilities)
    rows, kv_heads, length = key.shape[:3]
    # (rows, H, q, kv) -> (rows, KVH, G * q, kv), of a row's own keys
    grouped = probabilities[..., -length:].reshape(rows, kv_heads, -1, length)
    if is_one_query(query):
        context = (grouped[..., None] * value[:, :, None].float()).sum(-2).to(value.dtype)
    else:
        context = grouped.to(value.dtype) @ value
    context = context.reshape(query.shape[:3] + value.shape[-1:])
    for trunk in how.trunks:
        context.index_add_(0, trunk.rows, trunk.context(probabilities))
    return context


def _attend_traced(mask: BlockMask | Tensor, ape: ApeRows | None) -> Attend:
    """What the compiler of a whole forward pass is given: FlexAttention or SDPA over prompts, else the sums."""
    if isinstance(mask, BlockMask):
        return attend_flex_of_any_length
    if mask.dtype == torch.bool:
        return attend_sdpa
    return attend_flex_eager if on_gpu(mask) and mask.shape[2] == 1 and ape is None else attend_written_out


@dataclass(frozen=True)
class Backend:
    """One way to compute the same attention.

    `blocks`: its prompt mask is a BlockMask, not a dense one; `captures`: a CUDA graph can hold it. Lengths are padded
    to a `multiple`, so that a compiled kernel meets few shapes.
    """

    name: str
    attend: Attend
    blocks: bool
    multiple: int = 1
    captures: bool = True

    def padded(self, length: int) -> int:
        return round_up(length, self.multiple)

    def prompt_mask(self, layout: Layout, *, start: int = 0) -> BlockMask | Tensor:
        """The mask over a layout in the form that `attend` takes: rows for the queries from `start` on."""
        return block_mask(layout, start=start) if self.blocks else dense_mask(layout, start=start)[:, None]


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        backend.name: backend
        for backend in (
            Backend("flex", attend_flex_compiled, True, multiple=BLOCK),
            Backend("flex-eager", attend_flex_eager, True, captures=False),
            Backend("sdpa", attend_sdpa, False),
        )
    }
)


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    segment_plan: Plan | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention under the plan that travels with the forward pass; the signature is that of transformers' interface.

    query (B, H, q, D), key and value (B, KVH, kv, D) -> (B, q, H, D). Raises UnsupportedModelError where the layer
    asks for something that would make the mask a lie.
    """
    layer = type(module).__name__
    if segment_plan is None:
        raise UnsupportedModelError(
            f"{layer} runs with flexdemo's attention but without its plan: its model does not pass the mask on to its "
            "attention (or was called directly, and not by flexdemo.ask or .stream)"
        )
    for asked, why in (
        (attention_mask, "makes an attention mask of its own, which would be lost"),
        (s_aux, "uses attention sinks, which take attention outside the mask"),
        (position_bias, "adds a position bias by token index, so paraphrases cannot share positions"),
    ):
        if asked is not None:
            raise UnsupportedModelError(f"{layer} {why}")
    mask, trunks = segment_plan.masks[query.device], segment_plan.trunks and segment_plan.trunks.get(id(key))
    if trunks is None:
        raise UnsupportedModelError(f"{layer} gives its attention other keys than its cache returned")
    length = mask.shape[-1] if trunks else key.shape[2]
    if sliding_window is not None and length > sliding_window:
        raise UnsupportedModelError(
            f"{layer} has a window of {sliding_window} tokens, shorter than prompt and answer ({length}); "
            "it could not see every paraphrase; use a shorter prompt or answer"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    how = Scoring(scale, softcap, None if segment_plan.ape is None else segment_plan.ape[query.device], trunks)
    attend = segment_plan.attend or BACKENDS[segment_plan.backend].attend
    attend = _attend_traced(mask, how.ape) if torch.compiler.is_compiling() else attend
    recorder, one_query = segment_plan.recorder, query.shape[2] == 1
    if recorder is not None and attend is attend_sdpa and one_query and query.device.type == "cpu":
        # Its probabilities are wanted anyway: they cost more than SDPA, and less than both.
        out = attend_written_out(query, key, value, mask, how, tell=recorder.add)
    else:
        out = attend(query, key, value, mask, how)
        if recorder is not None:
            recorder.observe(query, key, mask, how)
    return out.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make `attn_implementation=NAME` known to transformers; harmless when done twice."""
    AttentionInterface.register(NAME, segment_attention)
    # Running uncompiled is the flex-eager backend's purpose, and its name is on every result.
    warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
