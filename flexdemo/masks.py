"""Masks over token indices. Knows nothing of text or models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from .config import InputError
from .prompt import ANSWER, PAD, PARAPHRASE, PREFIX, SUFFIX

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


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


def _owners(strategy: Strategy, layout: Layout) -> Tensor:
    """Segment of each token as the rule sees it: a suffix that does not fuse joins the last paraphrase."""
    last = layout.segments.where(layout.roles == PARAPHRASE, -1).amax(dim=1, keepdim=True)
    joins_last = (layout.roles == SUFFIX) & (strategy.fuses_at > SUFFIX)
    alone = -1 - torch.arange(layout.roles.shape[1], device=layout.roles.device)
    return torch.where(layout.roles == PAD, alone, torch.where(joins_last, last, layout.segments))


def make_mask_mod(name: str, layout: Layout) -> MaskMod:
    """The one mask_mod of a strategy over a layout; True = visible. Every view of the mask comes from it.

    All strategies share one closure and differ only in the vectors it reads, so a kernel compiled for one serves all.
    """
    if name not in STRATEGIES:
        raise InputError(f"unknown mask strategy {name!r}: choose from {', '.join(STRATEGIES)}")
    strategy = STRATEGIES[name]
    owner = _owners(strategy, layout)  # (B, T)
    real = layout.roles != PAD
    shared = strategy.shared(layout) & real
    fuses = (layout.roles >= strategy.fuses_at) & real
    both_ways = (layout.roles == PARAPHRASE) & strategy.both_ways

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        earlier = kv <= q
        same_segment = owner[b, q] == owner[b, kv]
        key_is_shared = shared[b, kv] & real[b, q]
        query_fuses = fuses[b, q] & real[b, kv]
        query_looks_ahead = both_ways[b, q]
        return (earlier & (same_segment | key_is_shared | query_fuses)) | (query_looks_ahead & same_segment)

    return mask_mod


def block_mask(mask_mod: MaskMod, layout: Layout) -> BlockMask:
    """The BlockMask (B, 1, T, T) that FlexAttention runs, on the layout's device."""
    batch, length = layout.segments.shape
    return create_block_mask(mask_mod, batch, None, length, length, device=layout.segments.device)


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
