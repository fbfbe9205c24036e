"""FlexAttention as our backends call it: over a BlockMask or a bias, compiled or not. Knows tensors and masks only."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention, noop_mask

from ..errors import BackendError, first_line
from .blocks import BLOCK
from .fast.compiler import ALONE, COMPILER_ERRORS, mark_ape, mark_mask, mark_sizes, suit_dynamo
from .recorders import ApeRows, Scoring

MOST_SPLIT = 64  # queries of all heads to a key head
WHOLE = 1 << 20  # queries of a block that holds them all
# Tiles of queries and keys, and stages of loads, by the most bytes of a query: chosen for what they take of a GPU's
# shared memory, of which 99 KiB is the least from compute capability 8.0 on.
TILES = ((256, (64, 64, 2)), (512, (64, 32, 2)), (math.inf, (32, 16, 2)))
FEW = 16  # queries: the smallest tile
FEW_TILES = ((128, (FEW, 64, 3)), (256, (FEW, 32, 4)), (512, (FEW, 32, 2)), (math.inf, (FEW, 16, 2)))
Run = Callable[..., Any]  # of a kernel, query, key and value, with `packed` and the kernel's options
Attend = Callable[[Tensor, Tensor, Tensor, Any, Scoring], Tensor]


def _with_softcap(score_mod: Callable | None, softcap: float | None) -> Callable | None:
    if softcap is None:
        return score_mod

    def capped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        score = softcap * torch.tanh(score / softcap)
        return score if score_mod is None else score_mod(score, b, h, q, kv)

    return capped


def _bias_score_mod(bias: Tensor) -> Callable:
    one = bias.shape[2] == 1

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + bias[b, 0, 0 if one else q, kv]

    return score_mod


def _paraphrase_score_mod(bias: Tensor, ape: ApeRows) -> Callable:
    one = bias.shape[2] == 1

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        sharpened = score / ape.temperature[b, 0, 0, 0] + bias[b, 0, 0 if one else q, kv]
        return torch.where(ape.keys[b, 0, 0, kv], sharpened, -torch.inf)

    return score_mod


def _rest_score_mod(bias: Tensor, ape: ApeRows) -> Callable:
    one = bias.shape[2] == 1

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return torch.where(ape.keys[b, 0, 0, kv], -torch.inf, score + bias[b, 0, 0 if one else q, kv])

    return score_mod


def splits(rows: int, length: int, groups: int) -> bool:
    """Whether the kernel that splits the keys runs: for one row, few queries, a power of two of heads to a key head.

    torch has none for other groups, would compile one for each number of rows, and gives it one tile for all queries.
    """
    return rows == 1 and groups & (groups - 1) == 0 and length * groups <= MOST_SPLIT


def tiles(rows: int, length: int, groups: int, width: int) -> dict[str, Any] | None:
    """The kernel's options for a bias over `length` queries of some rows; None: the compiler's own choice.

    groups is heads to a key head, width the bytes of one head's query. The compiler's tiles, made for prompts, do not
    fit the shared memory of every GPU with a bias.
    """
    if splits(rows, length, groups):
        return {"num_warps": 4, "num_stages": 2} if width <= 256 else None
    table = FEW_TILES if length <= FEW else TILES
    queries, keys, stages = next(tile for most, tile in table if width <= most)
    tile = {"BLOCK_M": queries, "BLOCK_N": keys, "num_warps": 4, "num_stages": stages}
    return {"FORCE_USE_FLEX_ATTENTION": True, **tile}


def on_gpu(tensor: Tensor) -> bool:
    """Whether kernels with tiles run over it."""
    return tensor.is_cuda


def _prompt_tiles(query: Tensor) -> dict[str, int] | None:
    """The compiler's tile for a width of 64 is too large for our masks on Hopper: it spills, and takes nine times."""
    if not on_gpu(query) or query.element_size() != 2 or query.shape[-1] != 64:
        return None
    return {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3}


def _over_all_keys(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """FlexAttention over one row's keys named as blocks: the kernel that splits keys splits what is named only."""
    blocks = -(-key.shape[2] // BLOCK)
    counts = torch.full((1, 1, 1), blocks, dtype=torch.int32, device=key.device)
    listed = torch.arange(blocks, dtype=torch.int32, device=key.device)[None, None, None]
    lengths = (query.shape[2], key.shape[2])
    mask = BlockMask.from_kv_blocks(
        counts, listed, BLOCK_SIZE=(WHOLE, BLOCK), mask_mod=noop_mask, seq_lengths=lengths, compute_q_blocks=False
    )
    return flex_attention(query, key, value, block_mask=mask, **options)


def _attend_bias(run: Run, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, how: Scoring) -> Tensor:
    """Attention under a bias; with APE two calls, over paraphrase keys and the rest, merged by their log-sum-exps."""
    (rows, heads, length, width), packed = query.shape, query.shape[2] == 1
    shape = (rows, heads, length, value.shape[3])  # whose width may be another, as DeepSeek-V3's
    if packed:  # the heads that share a key head become queries of it, so that its keys are read once
        query = query.reshape(rows, key.shape[1], -1, width)
    kernel, kernel_options = flex_attention, None
    if on_gpu(query):
        asked = rows, query.shape[2], query.shape[1] // key.shape[1]
        kernel = _over_all_keys if splits(*asked) else flex_attention
        kernel_options = tiles(*asked, width * query.element_size())

    def attend(score_mod: Callable, **options: Any) -> Any:
        return run(
            kernel,
            query,
            key,
            value,
            packed=packed,
            score_mod=_with_softcap(score_mod, how.softcap),
            scale=how.scale,
            enable_gqa=query.shape[1] != key.shape[1],
            kernel_options=kernel_options,
            **options,
        )

    if (ape := how.ape) is None:
        return attend(_bias_score_mod(bias)).reshape(shape)
    parts = []
    for score_mod in (_paraphrase_score_mod(bias, ape), _rest_score_mod(bias, ape)):
        out, aux = attend(score_mod, return_aux=AuxRequest(lse=True))
        parts.append((out.float(), aux.lse[..., None].float()))  # (rows, heads, q, D), (rows, heads, q, 1)
    (context, context_lse), (rest, rest_lse) = parts
    share = torch.sigmoid(ape.scale * ape.temperature * context_lse - rest_lse)
    return (share * context + (1 - share) * rest).to(query.dtype).reshape(shape)


def _attend_flex(run: Run, query: Tensor, key: Tensor, value: Tensor, mask: Any, how: Scoring) -> Tensor:
    if not isinstance(mask, BlockMask):
        return _attend_bias(run, query, key, value, mask, how)
    return run(
        flex_attention,
        query,
        key,
        value,
        score_mod=_with_softcap(None, how.softcap),
        block_mask=mask,
        scale=how.scale,
        enable_gqa=query.shape[1] != key.shape[1],
        kernel_options=_prompt_tiles(query),
    )


@functools.cache
def _compiled(kernel: Callable, device_type: str) -> Callable:
    # fullgraph: past the recompilation limit it raises, instead of running uncompiled under the name of the compiled.
    # One compilation per shape is the rule on the CPU, whose kernels do not build with symbolic lengths (torch 2.13).
    return torch.compile(kernel, fullgraph=True, dynamic=False if device_type == "cpu" else None)


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """FlexAttention over (B, H, blocks, BLOCK, D): no block of any length is cut off, which makes a faster kernel."""
    query, key, value = (each.flatten(2, 3) for each in (query, key, value))
    return flex_attention(query, key, value, **options)


def _run_compiled(
    kernel: Callable, query: Tensor, key: Tensor, value: Tensor, *, packed: bool = False, **options: Any
) -> Any:
    """A kernel compiled once for all numbers of rows, queries and keys; on the CPU for each of them.

    packed: a query's heads stand in the place of queries, whose number is then the model's.
    """
    device = query.device.type
    if device == "cpu":
        return _compiled(kernel, device)(query, key, value, **options)
    if options.get("block_mask") is not None:
        kernel = _in_blocks
        query, key, value = (each.unflatten(2, (-1, BLOCK)) for each in (query, key, value))
    for each in (query, key, value):
        mark_sizes(each, *((0,) if packed and each is query else (0, 2)))
    return _compiled(kernel, device)(query, key, value, **options)


def attend_flex_compiled(query: Tensor, key: Tensor, value: Tensor, mask: Any, how: Scoring) -> Tensor:
    if how.ape is not None and query.device.type == "cpu":
        raise BackendError(
            "compiled FlexAttention returns no log-sum-exp on the CPU, which the APE temperature and scale need: "
            "use --backend sdpa or flex-eager"
        )
    suit_dynamo()
    if query.device.type != "cpu":
        mark_mask(mask)
        mark_ape(how.ape)
    try:
        with ALONE:
            return _attend_flex(_run_compiled, query, key, value, mask, how)
    except COMPILER_ERRORS as error:
        reason = first_line(error)
        raise BackendError(f"backend flex cannot be compiled here ({reason}): use flex-eager or sdpa") from error


def _run_as_it_is(
    kernel: Callable, query: Tensor, key: Tensor, value: Tensor, *, packed: bool = False, **options: Any
) -> Any:
    return kernel(query, key, value, **options)


attend_flex_eager: Attend = functools.partial(_attend_flex, _run_as_it_is)


def attend_flex_of_any_length(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, how: Scoring) -> Tensor:
    """FlexAttention whose BlockMask has its lengths from query and key: its own are numbers, each compiled anew."""
    lists = (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices)
    lengths = (query.shape[2], key.shape[2])
    mask = BlockMask.from_kv_blocks(*lists, BLOCK, mask.mask_mod, lengths, compute_q_blocks=False)
    return attend_flex_eager(query, key, value, mask, how)
