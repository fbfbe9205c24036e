"""Masks over token indices. Knows nothing of text or models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from .errors import InputError
from .prompt import ANSWER, PAD, PARAPHRASE, PREFIX, SUFFIX

BLOCK = 128  # tokens: FlexAttention's own block size
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def round_up(length: int, multiple: int) -> int:
    """The least multiple that is not below a length."""
    return -(-length // multiple) * multiple


@dataclass(frozen=True)
class Layout:
    """Which segment and role each token has: two integer tensors of shape (B, T) on one device.

    Segment ids: 0 prefix, 1..N paraphrases, N + 1 suffix and answer. Roles are those of `prompt`. A token of role PAD
    belongs to nobody: no other token sees it, and it sees only itself.
    """

    segments: Tensor
    roles: Tensor

    def __post_init__(self) -> None:
        if self.segments.ndim != 2 or self.segments.shape != self.roles.shape:
            raise ValueError("segments and roles must both have shape (B, T)")

    def to(self, device: torch.device | str) -> Layout:
        return Layout(self.segments.to(device), self.roles.to(device))

    def until(self, stop: int) -> Layout:
        """The first `stop` tokens."""
        return Layout(self.segments[:, :stop], self.roles[:, :stop])


def make_layout(segment_ids: Sequence[int], roles: Sequence[int], *, answers: int = 0, pads: int = 0) -> Layout:
    """Layout (1, T + answers + pads) of one prompt, with room for answer tokens and padding behind it."""
    segments = torch.tensor([[*segment_ids, *[max(segment_ids, default=0)] * answers, *[-1] * pads]])
    return Layout(segments, torch.tensor([[*roles, *[ANSWER] * answers, *[PAD] * pads]]))


@dataclass(frozen=True)
class Strategy:
    """One way to mask, as properties of tokens.

    `shared` marks the keys that every later query sees; `fuses_at` is the first role whose queries see everything
    earlier (and feel the weights); with `both_ways` a paraphrase's tokens also see later tokens of their own.
    """

    name: str
    label: str
    summary: str
    shared: Callable[[Layout], Tensor]
    fuses_at: int = SUFFIX
    both_ways: bool = False


def _prefix(layout: Layout) -> Tensor:
    return layout.roles == PREFIX


def _prefix_and_first(layout: Layout) -> Tensor:
    return (layout.roles == PREFIX) | (layout.segments == 1)


def _nothing(layout: Layout) -> Tensor:
    return torch.zeros_like(layout.roles, dtype=torch.bool)


def _everything(layout: Layout) -> Tensor:
    return torch.ones_like(layout.roles, dtype=torch.bool)


_ALL = (
    Strategy("segment", "Segment", "A paraphrase sees the prefix and itself; suffix and answer see all.", _prefix),
    Strategy("isolated", "Isolated", "A paraphrase sees only itself, not even the prefix.", _nothing),
    Strategy("causal", "Causal (standard attention)", "Every token sees everything earlier.", _everything),
    Strategy("anchor", "Anchor", "A paraphrase sees the prefix, paraphrase 1 and itself.", _prefix_and_first),
    Strategy(
        "late_fusion",
        "Late fusion",
        "The suffix belongs to the last paraphrase; only answer tokens see all.",
        _prefix,
        fuses_at=ANSWER,
    ),
    Strategy(
        "bidirectional",
        "Bidirectional (models are not trained for it)",
        "As segment, but a paraphrase's tokens also see the later tokens of their own paraphrase.",
        _prefix,
        both_ways=True,
    ),
)
STRATEGIES: Mapping[str, Strategy] = MappingProxyType({strategy.name: strategy for strategy in _ALL})


def _owners(strategy: Strategy, layout: Layout, real: Tensor) -> Tensor:
    """Segment of each token as the rule sees it: a suffix that does not fuse joins the last paraphrase."""
    owners = layout.segments
    if strategy.fuses_at > SUFFIX:
        last = owners.where(layout.roles == PARAPHRASE, -1).amax(dim=1, keepdim=True)
        owners = torch.where(layout.roles == SUFFIX, last, owners)
    alone = torch.arange(-1, -1 - owners.shape[1], -1, device=owners.device)
    return owners.where(real, alone)


@dataclass(frozen=True)
class _Rule:
    """A strategy over a layout as properties of tokens, each (B, T): all that its mask_mod reads."""

    owner: Tensor
    real: Tensor
    shared: Tensor
    fuses: Tensor
    both_ways: Tensor


def _rule(name: str, layout: Layout) -> _Rule:
    if name not in STRATEGIES:
        raise InputError(f"unknown mask strategy {name!r}: choose from {', '.join(STRATEGIES)}")
    strategy = STRATEGIES[name]
    real = layout.roles != PAD
    return _Rule(
        _owners(strategy, layout, real),
        real,
        strategy.shared(layout) & real,
        (layout.roles >= strategy.fuses_at) & real,
        layout.roles == PARAPHRASE if strategy.both_ways else _nothing(layout),
    )


def make_mask_mod(name: str, layout: Layout) -> MaskMod:
    """The one mask_mod of a strategy over a layout; True = visible. Every view of the mask comes from it.

    All strategies share one closure and differ only in the vectors it reads, so a kernel compiled for one serves all.
    """
    return _mask_mod(_rule(name, layout))


def _mask_mod(rule: _Rule, start: int = 0) -> MaskMod:
    owner, real, shared, fuses, both_ways = rule.owner, rule.real, rule.shared, rule.fuses, rule.both_ways

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        earlier = kv <= q
        same_segment = owner[b, q] == owner[b, kv]
        key_is_shared = shared[b, kv] & real[b, q]
        query_fuses = fuses[b, q] & real[b, kv]
        query_looks_ahead = both_ways[b, q]
        return (earlier & (same_segment | key_is_shared | query_fuses)) | (query_looks_ahead & same_segment)

    if not start:
        return mask_mod
    offset = torch.tensor(start, device=owner.device)  # of no dimension: FlexAttention would count one more

    def from_start(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return mask_mod(b, h, q + offset, kv)

    return from_start


def block_mask(name: str, layout: Layout, *, start: int = 0) -> BlockMask:
    """The BlockMask (B, 1, T - start, T) that FlexAttention runs, on the layout's device; start is a multiple of BLOCK.

    Which blocks are empty, partial or full follows from the tokens' properties alone, as a row's segments stand in
    order: no (T, T) tensor is made. Partial blocks are left to the mask_mod, which stays the only rule.
    """
    rule = _rule(name, layout)
    length = layout.segments.shape[1]
    if start % BLOCK:
        raise ValueError(f"a BlockMask begins at a multiple of {BLOCK}, not at {start}")
    some, full = _block_kinds(rule, -(-length // BLOCK), looks_ahead=STRATEGIES[name].both_ways)
    (partial, whole), (partial_at, whole_at) = _listed(torch.stack([some > full, full])[:, :, start // BLOCK :])
    lengths, mask_mod = (length - start, length), _mask_mod(rule, start)
    return BlockMask.from_kv_blocks(
        partial, partial_at, whole, whole_at, BLOCK, mask_mod, lengths, compute_q_blocks=False
    )


def _listed(kinds: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of a row are True, (kinds, B, 1, blocks), and their indices in order, with zeros behind."""
    rank = kinds.cumsum(dim=-1)  # from 1 on
    blocks = kinds.shape[-1]
    # Each index goes to its rank; those of False blocks go to place 0, which is cut off.
    index = torch.arange(blocks, dtype=torch.int32, device=kinds.device).expand(kinds.shape)
    listed = index.new_zeros(*kinds.shape[:-1], blocks + 1).scatter_(-1, rank * kinds, index)
    return rank[:, :, None, :, -1].to(torch.int32), listed[:, :, None, :, 1:].contiguous()


REAL, NOT_SHARED, NOT_FUSING, AHEAD = range(4)  # kinds of tokens, for blocks


def _block_kinds(rule: _Rule, blocks: int, *, looks_ahead: bool) -> tuple[Tensor, Tensor]:
    """Blocks (B, blocks, blocks) of queries x keys in which some cell is visible, and in which all are.

    `looks_ahead`: whether any token does. The tensors here are small and launching them is what takes time, so what
    can be asked at once is stacked, and none is made in vain.
    """

    def grouped(tokens: Tensor, fill: int | bool) -> Tensor:
        rows, length = tokens.shape
        if length == blocks * BLOCK:
            return tokens.view(rows, blocks, BLOCK)
        padded = torch.full((rows, blocks * BLOCK), fill, dtype=tokens.dtype, device=tokens.device)
        padded[:, :length] = tokens
        return padded.view(rows, blocks, BLOCK)

    owner, real = grouped(rule.owner, -1), grouped(rule.real, False)
    shared, fuses = grouped(rule.shared, False), grouped(rule.fuses, False)
    kinds = [real, real > shared, real > fuses]  # shared and fusing tokens are real
    if looks_ahead:
        kinds.append(grouped(rule.both_ways, False))

    # First and last segment among a block's tokens of each kind; above all others and -1 where there is none.
    chosen = torch.stack(kinds)
    first, last = owner.where(chosen, rule.owner.shape[1]).amin(-1), owner.where(chosen, -1).amax(-1)
    has_none, one_segment = last < 0, first == last
    has_shared, has_fusing = torch.stack([shared, fuses]).any(-1)
    whole = real.all(-1)

    def meets(queries: int) -> Tensor:
        """Whether some segment of the queries' tokens of a kind is among those of the keys."""
        low, high = torch.maximum(first[queries][:, :, None], first[REAL][:, None]), last[queries][:, :, None]
        return low <= torch.minimum(high, last[REAL][:, None])

    def one_and_the_same(queries: int, keys: int) -> Tensor:
        """Whether the queries' tokens of a kind are of one segment, and the keys' of another kind of the same."""
        one = one_segment[queries][:, :, None] & one_segment[keys][:, None]
        return one & (first[queries][:, :, None] == first[keys][:, None])

    index = torch.arange(blocks, device=owner.device)
    before, same = index[None, :] < index[:, None], index[None, :] == index[:, None]
    to_shared = has_none[REAL][:, :, None] < has_shared[:, None]
    to_all = has_fusing[:, :, None] > has_none[REAL][:, None]
    some = (before & (meets(REAL) | to_shared | to_all)) | same

    # All cells of an earlier block: its keys that are not shared, if any, are of the one segment of all queries that
    # do not fuse, if any.
    full = before & (
        one_and_the_same(NOT_FUSING, NOT_SHARED) | has_none[NOT_SHARED][:, None] | has_none[NOT_FUSING][:, :, None]
    )
    if looks_ahead:
        all_look = chosen[AHEAD].all(-1)[:, :, None]
        some, full = some | meets(AHEAD), full | (all_look & one_and_the_same(REAL, REAL))
    return some, full & (whole[:, :, None] & whole[:, None])


def dense_mask(mask_mod: MaskMod, layout: Layout, *, start: int = 0, stop: int | None = None) -> Tensor:
    """The mask as booleans (B, stop - start, T): a row for each query token from `start` to `stop`."""
    batch, length = layout.segments.shape
    device = layout.segments.device
    b = torch.arange(batch, device=device)[:, None, None]
    q = torch.arange(start, length if stop is None else stop, device=device)[None, :, None]
    kv = torch.arange(length, device=device)[None, None, :]
    return mask_mod(b, torch.zeros_like(b), q, kv).expand(batch, q.shape[1], length)


def density(mask_mod: MaskMod, layout: Layout) -> float:
    """Visible cells over all T x T cells of the first layout of a batch, counted some query rows at a time."""
    length = layout.segments.shape[1]
    rows = max(1, 2**22 // length)
    visible = 0
    for start in range(0, length, rows):
        visible += int(dense_mask(mask_mod, layout, start=start, stop=min(length, start + rows))[0].sum())
    return visible / length**2
