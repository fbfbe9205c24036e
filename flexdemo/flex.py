"""FlexAttention as our backends call it: over a BlockMask or a bias, compiled or not. Knows tensors and masks only."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from .config import BackendError, first_line
from .dynamo import ALONE, COMPILER_ERRORS, mark_mask, mark_sizes, suit_dynamo
from .masks import BLOCK
from .recorders import ApeRows

SPLIT = 128  # queries from which torch does not split the keys
TILES = ((256, (64, 64)), (512, (64, 32)), (math.inf, (32, 16)))  # up to so many bytes of a query: queries, keys
Attend = Callable[[Tensor, Tensor, Tensor, Any, float, float | None, ApeRows | None], Tensor]


def _with_softcap(score_mod: Callable | None, softcap: float | None) -> Callable | None:
    if softcap is None:
        return score_mod

    def capped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        score = softcap * torch.tanh(score / softcap)
        return score if score_mod is None else score_mod(score, b, h, q, kv)

    return capped


def _bias_score_mod(bias: Tensor) -> Callable:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + bias[b, 0, q, kv]

    return score_mod


def _paraphrase_score_mod(bias: Tensor, ape: ApeRows) -> Callable:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        sharpened = score / ape.temperature[b, 0, 0, 0] + bias[b, 0, q, kv]
        return torch.where(ape.keys[b, 0, 0, kv], sharpened, -torch.inf)

    return score_mod


def _rest_score_mod(bias: Tensor, ape: ApeRows) -> Callable:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return torch.where(ape.keys[b, 0, 0, kv], -torch.inf, score + bias[b, 0, q, kv])

    return score_mod


def tiles(rows: int, length: int, groups: int, width: int) -> dict[str, int] | None:
    """The kernel's options for a bias over `length` queries of some rows; None: the compiler's own choice.

    groups is heads to a key head, width the bytes of one head's query. Beside the compiler's tiles for prompts none of
    a bias fits the shared memory of every GPU (the least has 99 KiB, from compute capability 8.0 on). One row is left
    to the kernel that splits its keys, where torch has it: for short queries and a power of two of heads.
    """
    if rows == 1 and length < SPLIT and groups & (groups - 1) == 0:
        return None
    queries, keys = next(tile for most, tile in TILES if width <= most)
    return {"BLOCK_M": queries, "BLOCK_N": keys, "num_warps": 4, "num_stages": 2}


def _tiles(query: Tensor, key: Tensor) -> dict[str, int] | None:
    if not query.is_cuda:
        return None
    rows, heads, length, width = query.shape
    return tiles(rows, length, heads // key.shape[1], width * query.element_size())


def _attend_flex_ape(
    kernel: Callable,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    scale: float,
    softcap: float | None,
    ape: ApeRows,
) -> Tensor:
    """Two attention calls, over paraphrase keys and over the rest, merged by their log-sum-exps."""
    gqa = query.shape[1] != key.shape[1]
    parts = []
    for score_mod in (_paraphrase_score_mod(bias, ape), _rest_score_mod(bias, ape)):
        out, aux = kernel(
            query,
            key,
            value,
            score_mod=_with_softcap(score_mod, softcap),
            scale=scale,
            enable_gqa=gqa,
            return_aux=AuxRequest(lse=True),
            kernel_options=_tiles(query, key),
        )
        parts.append((out, aux.lse[..., None].float()))  # (rows, heads, q, D), (rows, heads, q, 1)
    (context, context_lse), (rest, rest_lse) = parts
    share = torch.sigmoid(ape.scale * ape.temperature * context_lse - rest_lse)
    return (share * context.float() + (1 - share) * rest.float()).to(query.dtype)


def _attend_flex(
    kernel: Callable,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask | Tensor,
    scale: float,
    softcap: float | None,
    ape: ApeRows | None,
) -> Tensor:
    if ape is not None:
        return _attend_flex_ape(kernel, query, key, value, mask, scale, softcap, ape)
    is_block_mask = isinstance(mask, BlockMask)
    return kernel(
        query,
        key,
        value,
        score_mod=_with_softcap(None if is_block_mask else _bias_score_mod(mask), softcap),
        block_mask=mask if is_block_mask else None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        kernel_options=None if is_block_mask else _tiles(query, key),
    )


@functools.cache
def _compiled_flex(device_type: str, kernel: Callable = flex_attention) -> Callable:
    # fullgraph: past the recompilation limit it raises, instead of running uncompiled under the name of the compiled.
    # One compilation per shape is the rule on the CPU, whose kernels do not build with symbolic lengths (torch 2.13).
    return torch.compile(kernel, fullgraph=True, dynamic=False if device_type == "cpu" else None)


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """FlexAttention over (B, H, blocks, BLOCK, D): no block of any length is cut off, which makes a faster kernel."""
    query, key, value = (each.flatten(2, 3) for each in (query, key, value))
    return flex_attention(query, key, value, **options)


def attend_flex_compiled(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    scale: float,
    softcap: float | None,
    ape: ApeRows | None = None,
) -> Tensor:
    if ape is not None and query.device.type == "cpu":
        raise BackendError(
            "compiled FlexAttention returns no log-sum-exp on the CPU, which the APE temperature and scale need: "
            "use --backend sdpa or flex-eager"
        )
    suit_dynamo()
    kernel = _compiled_flex(query.device.type)
    if query.device.type != "cpu":
        if isinstance(mask, BlockMask):
            kernel = _compiled_flex(query.device.type, _in_blocks)
            query, key, value = (each.unflatten(2, (-1, BLOCK)) for each in (query, key, value))
        for each in (query, key, value):
            mark_sizes(each, 0, 2)
        mark_mask(mask)
    try:
        with ALONE:
            return _attend_flex(kernel, query, key, value, mask, scale, softcap, ape)
    except COMPILER_ERRORS as error:
        reason = first_line(error)
        raise BackendError(f"backend flex cannot be compiled here ({reason}): use flex-eager or sdpa") from error


attend_flex_eager: Attend = functools.partial(_attend_flex, flex_attention)


def attend_flex_of_any_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask,
    scale: float,
    softcap: float | None,
    ape: ApeRows | None = None,
) -> Tensor:
    """FlexAttention whose BlockMask has its lengths from query and key: its own are numbers, each compiled anew."""
    lists = (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices)
    lengths = (query.shape[2], key.shape[2])
    mask = BlockMask.from_kv_blocks(*lists, BLOCK, mask.mask_mod, lengths, compute_q_blocks=False)
    return attend_flex_eager(query, key, value, mask, scale, softcap, ape)
