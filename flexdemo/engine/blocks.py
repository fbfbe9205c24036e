"""Masks as FlexAttention takes them: tables and owners of tokens -> mask_mod, BlockMask, booleans. Knows no prompts.

Nothing here is larger than a row of tokens or a table of blocks, but for the dense mask where that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ..masks import Mask

BLOCK = 128  # tokens: FlexAttention's own block size
# Segments that one integer of a width holds, the padding among them: tables have one of these sizes, so that masks of
# every strategy and of every number of wordings share a kernel and a graph.
WIDTHS = ((31, torch.int32), (63, torch.int64))
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def round_up(length: int, multiple: int) -> int:
    """The least multiple that is not below a length."""
    return -(-length // multiple) * multiple


@dataclass(frozen=True)
class Layout:
    """Whose each token is, owners (B, T), and which segments see which, tables (B, 2, S, S), on one device.

    tables[row, 0] says whether a query's segment sees the earlier tokens of a key's segment, tables[row, 1] the later
    ones. The last segment is the padding: no other token sees it, and each of its tokens sees itself only.
    """

    owners: Tensor
    tables: Tensor

    def __post_init__(self) -> None:
        size = self.tables.shape[-1]
        if self.owners.ndim != 2 or self.tables.shape != (self.owners.shape[0], 2, size, size):
            raise ValueError("a layout has owners (B, T) and tables (B, 2, S, S)")

    @property
    def padding(self) -> int:
        return self.tables.shape[-1] - 1

    def to(self, device: torch.device | str) -> Layout:
        return Layout(self.owners.to(device), self.tables.to(device))

    def until(self, stop: int) -> Layout:
        """The first `stop` tokens."""
        return Layout(self.owners[:, :stop], self.tables)


def lay_out(masks: Sequence[Mask], owners: Sequence[Sequence[int | None]], length: int) -> Layout:
    """A row for each mask, with the index of each token's segment in it; None is padding, also up to `length`."""
    most = 1 + max(len(mask.segments) for mask in masks)
    size = next((width for width, _ in WIDTHS if most <= width), most)
    tables = torch.zeros(len(masks), 2, size, size, dtype=torch.bool)
    told = torch.full((len(masks), length), size - 1)
    for row, (mask, own) in enumerate(zip(masks, owners, strict=True)):
        count = len(mask.segments)
        tables[row, :, :count, :count] = torch.from_numpy(mask.visible).permute(2, 0, 1)
        told[row, : len(own)] = torch.tensor([size - 1 if each is None else each for each in own])
    return Layout(told, tables)


def layout_of(text: str, segments: Sequence[Any], *, answers: int = 0, pads: int = 0) -> Layout:
    """A mask over one prompt, with room for answer tokens and padding behind it."""
    mask = Mask.over(text, segments)
    owners = [i for i, segment in enumerate(segments) for _ in range(segment.end - segment.start)]
    owners += [len(segments)] * answers
    return lay_out([mask], [owners], len(owners) + pads)


def make_mask_mod(layout: Layout, start: int = 0) -> MaskMod:
    """The one mask_mod of a layout, for queries from `start` on; True = visible. Every view of the mask comes from it.

    A query's row of the table is one integer for earlier keys and one for later ones. All masks share one closure over
    tensors of the same kind, so a kernel compiled for one serves all; with more than 63 segments it reads the table.
    """
    size = layout.tables.shape[-1]
    dtype = next((dtype for width, dtype in WIDTHS if size <= width), None)
    mask_mod = _from_tables(layout) if dtype is None else _from_integers(layout, dtype)
    if not start:
        return mask_mod
    offset = torch.tensor(start, device=layout.owners.device)  # of no dimension: FlexAttention would count one more

    def from_start(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return mask_mod(b, h, q + offset, kv)

    return from_start


def _from_integers(layout: Layout, dtype: torch.dtype) -> MaskMod:
    size = layout.tables.shape[-1]
    bits = torch.arange(size, dtype=dtype, device=layout.tables.device)
    packed = (layout.tables.to(dtype) << bits).sum(dim=-1, dtype=dtype)  # (B, 2, S): key segment s is bit s
    of_queries = layout.owners[:, None].expand(-1, 2, -1)  # (B, T) -> (B, 2, T)
    earlier, later = packed.gather(2, of_queries).unbind(1)
    own = layout.owners.to(dtype)

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        row = torch.where(kv > q, later[b, q], earlier[b, q])
        return ((row >> own[b, kv]) & 1 != 0) | (q == kv)

    return mask_mod


def _from_tables(layout: Layout) -> MaskMod:
    own, (earlier, later) = layout.owners, layout.tables.unbind(1)

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        asks, seen = own[b, q], own[b, kv]
        return torch.where(kv > q, later[b, asks, seen], earlier[b, asks, seen]) | (q == kv)

    return mask_mod


def block_mask(layout: Layout, *, start: int = 0) -> BlockMask:
    """The BlockMask (B, 1, T - start, T) that FlexAttention runs, on the layout's device; start is a multiple of BLOCK.

    Partial blocks are left to the mask_mod, which stays the only rule.
    """
    length = layout.owners.shape[1]
    if start % BLOCK:
        raise ValueError(f"a BlockMask begins at a multiple of {BLOCK}, not at {start}")
    some, full = block_kinds(layout, start)
    (partial, partial_at), (whole, whole_at) = _listed(some > full), _listed(full)
    lengths, mask_mod = (length - start, length), make_mask_mod(layout, start)
    return BlockMask.from_kv_blocks(
        partial, partial_at, whole, whole_at, BLOCK, mask_mod, lengths, compute_q_blocks=False
    )


def block_kinds(layout: Layout, start: int = 0) -> tuple[Tensor, Tensor]:
    """Blocks (B, query blocks, key blocks) in which some cell is visible, and in which all are.

    With P[block, segment], which segments a block holds, and V, the table: some = P V Pt > 0, full = P (not V) Pt == 0.
    Blocks before a query's block hold earlier keys only, those behind it later ones, and its own block both.
    """
    (rows, length), size = layout.owners.shape, layout.tables.shape[-1]
    blocks, first = -(-length // BLOCK), start // BLOCK
    owners = layout.owners
    if length < blocks * BLOCK:  # what a last block lacks is padding: it is never full
        owners = torch.nn.functional.pad(owners, (0, blocks * BLOCK - length), value=layout.padding)
    # Sums of 0 and 1 far below 2 ** 24: floats are exact, and matrix products of them are one kernel.
    holds = torch.zeros(rows, 1, blocks, size, dtype=torch.float32, device=owners.device)
    holds.scatter_(-1, owners.view(rows, 1, blocks, BLOCK), 1.0)
    tables = torch.cat([layout.tables, ~layout.tables], dim=1).to(holds.dtype)  # (B, 4, S, S)
    found = (holds[:, :, first:] @ tables @ holds.transpose(2, 3)) > 0  # (B, 4, query blocks, key blocks)
    some_earlier, some_later, hides_earlier, hides_later = found.unbind(1)

    index = torch.arange(blocks, device=owners.device)
    queries = index[first:, None]
    before, behind = index < queries, index > queries
    some = torch.where(before, some_earlier, some_later) | (index == queries)  # a token sees itself
    return some, ~((hides_earlier & ~behind) | (hides_later & ~before))


def _listed(kinds: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of a row are True, (B, 1, blocks), and their indices in order, with zeros behind.

    Tensors of their own: of a view a compiler would hold on to the sizes of what it is a part of.
    """
    rank = kinds.cumsum(dim=-1)  # from 1 on
    blocks = kinds.shape[-1]
    # Each index goes to its rank; those of False blocks go to place 0, which is cut off.
    index = torch.arange(blocks, dtype=torch.int32, device=kinds.device).expand(kinds.shape)
    listed = index.new_zeros(*kinds.shape[:-1], blocks + 1).scatter_(-1, rank * kinds, index)
    return rank[:, None, :, -1].to(torch.int32), listed[:, None, :, 1:].clone(memory_format=torch.contiguous_format)


def dense_mask(layout: Layout, *, start: int = 0, stop: int | None = None) -> Tensor:
    """The mask as booleans (B, stop - start, T): a row for each query token from `start` to `stop`."""
    (batch, length), device = layout.owners.shape, layout.owners.device
    b = torch.arange(batch, device=device)[:, None, None]
    q = torch.arange(start, length if stop is None else stop, device=device)[None, :, None]
    kv = torch.arange(length, device=device)[None, None, :]
    return make_mask_mod(layout)(b, torch.zeros_like(b), q, kv)
