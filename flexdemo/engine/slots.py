"""Where things lie in a row behind its prompt, and what suffix and answer feel there. Knows no models and no text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..masks import EARLIER, Mask, parse
from ..plan import View
from ..prompt import SegmentedPrompt
from ..request import PLAIN
from .blocks import dense_mask, lay_out
from .recorders import ApeRows


@dataclass(frozen=True)
class Slots:
    """Where things lie in a row: paraphrases in [0, prompt), suffix in [prompt, answer), answer tokens behind it.

    For each prompt and slot, (B, capacity): `wordings` is the number of the paraphrase whose token it holds, 0 for any
    other; `groups` whose mass it counts with, as the prompt's `groups`, -1 for padding. `owners` are segments of the
    prompt's mask, None for padding.
    """

    prompts: tuple[SegmentedPrompt, ...]
    owners: tuple[tuple[int | None, ...], ...]
    wordings: Tensor
    groups: Tensor
    prompt: int
    answer: int
    capacity: int


class Felt(NamedTuple):
    """What some queries of a batch of rows add to their scores, in fp32, and where these are sharpened, if they are.

    bias (rows, 1, q, capacity): -inf where the mask hides a key, log(weight) on the keys of a paraphrase for queries
    that fuse, 0 elsewhere. shut (rows, 1, 1, capacity): the answer's slots of rows in which no answer token sees
    another; None if there is no such row.
    """

    bias: Tensor
    ape: ApeRows | None
    shut: Tensor | None = None


def arrange(
    prompts: Sequence[SegmentedPrompt], new_tokens: int, padded: Callable[[int], int] = lambda count: count
) -> Slots:
    """Common slots of a batch of prompts: shorter ones are padded between their last paraphrase and the suffix, all of
    them behind the answer."""
    suffixes = {len(prompt.segments[-1]) for prompt in prompts}
    if len(suffixes) != 1 or 0 in suffixes:
        raise ValueError("prompts of one batch must have the same suffix, of at least one token")
    start = max(prompt.suffix_start for prompt in prompts)
    answer = start + suffixes.pop()
    capacity = padded(answer + new_tokens)
    owners, wordings, groups = [], [], []
    for prompt in prompts:
        ids, count = prompt.segment_ids, len(prompt.segments)  # the answer's index is `count`
        n, pads = prompt.suffix_start, start - prompt.suffix_start
        own = (*ids[:n], *[None] * pads, *ids[n:], *[count] * (capacity - answer))
        counted = [*prompt.groups, prompt.groups[-1]]
        is_wording = [*(segment.role == "paraphrase" for segment in prompt.segments), False]
        owners.append(own)
        groups.append([-1 if i is None else counted[i] for i in own])
        wordings.append([0 if i is None or not is_wording[i] else counted[i] for i in own])
    return Slots(tuple(prompts), tuple(owners), torch.tensor(wordings), torch.tensor(groups), start, answer, capacity)


def row_biases(slots: Slots, views: Sequence[View], prompts: Sequence[int]) -> tuple[Felt, Felt]:
    """What the suffix and the first answer token of each view's row feel; `prompts` says which prompt a row reads.

    A later answer token also sees the slots before it, unless they are `shut`.
    """
    visible, alone = {}, {}
    for strategy in {view.encoding.strategy for view in views}:
        masks = [Mask.over(strategy, each.segments) for each in slots.prompts]
        layout = lay_out(masks, slots.owners, slots.capacity)
        alone[strategy] = not masks[0].visible[-1, -1, EARLIER]
        visible[strategy] = dense_mask(layout, start=slots.prompt, stop=slots.answer + 1)
    suffix, answer = [], []
    for view, prompt in zip(views, prompts, strict=True):
        weights = torch.tensor([1.0, *view.weights], dtype=torch.float64)  # the first is that of all other tokens
        log_weights = weights.log().float()[slots.wordings[prompt]]  # (capacity,)
        rows = visible[view.encoding.strategy][prompt]  # (suffix + 1, capacity)
        felt = log_weights if _suffix_fuses(view) else torch.zeros_like(log_weights)
        suffix.append(felt.where(rows[:-1], -torch.inf)[None])
        answer.append(log_weights.where(rows[-1:], -torch.inf)[None])
    fuse = [_suffix_fuses(view) for view in views], [True] * len(views)
    first, later = (_ape_rows(slots, views, prompts, each) for each in fuse)
    shut = torch.tensor([alone[view.encoding.strategy] for view in views])[:, None, None, None]
    shut = shut & (torch.arange(slots.capacity) >= slots.answer) if shut.any() else None
    return Felt(torch.stack(suffix), first), Felt(torch.stack(answer), later, shut)


def _suffix_fuses(view: View) -> bool:
    return "suffix" in parse(view.encoding.strategy).strategy.fuses


def _ape_rows(slots: Slots, views: Sequence[View], prompts: Sequence[int], fuses: Sequence[bool]) -> ApeRows | None:
    """Sharpening of each row; rows whose queries do not fuse, or that ask for none, have T = S = 1."""
    asked = [view.ape if fused else PLAIN for view, fused in zip(views, fuses, strict=True)]
    if all(ape.is_plain for ape in asked):
        return None
    keys = (slots.wordings[torch.tensor(prompts)] > 0)[:, None, None]  # (rows, 1, 1, capacity)
    numbers = torch.tensor([(ape.temperature, ape.scale) for ape in asked], dtype=torch.float32)
    numbers = numbers[:, :, None, None, None]
    return ApeRows(keys, numbers[:, 0], numbers[:, 1])


def key_groups(slots: Slots, prompts: Sequence[int]) -> Tensor:
    """Groups of keys whose mass is told, (rows, capacity, S): prefix, each paraphrase with the separator behind it,
    suffix and own answer."""
    group = slots.groups[torch.tensor(prompts)]  # (rows, capacity)
    return (group[..., None] == torch.arange(int(group.max()) + 1)).float()
