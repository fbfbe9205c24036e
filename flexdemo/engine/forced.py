"""A given answer fed to rows over one prompt, in one pass of the suffix and its tokens. Knows no methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..plan import View
from ..prompt import SegmentedPrompt
from .attention import Plan, attend_written_out
from .cache import share, upload
from .flex import Attend
from .model import LanguageModel
from .reading import Felt, Prefill, arrange, check_recorded, on_devices, row_biases
from .recorders import ApeRows

Made = TypeVar("Made")


def feed(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    views: Sequence[View],
    token_ids: Sequence[int],
    read: Prefill,
    forward: Callable[[Tensor, Tensor, Plan, Cache], Made],
    *,
    attend: Attend = attend_written_out,
) -> Made:
    """What `forward` makes of ids and positions (rows, q) of the suffix and answer tokens behind it, a row for each
    view; these are `settled`, and `read` holds their encodings.

    The few queries are written out, whatever the backend: a callable for `attend` may tell layers and heads apart.
    Views of one encoding share its keys, so `forward` may run any number of rows over them.
    """
    check_recorded(lm)
    slots = arrange([prompt], len(token_ids) + 1, 1)
    ids = torch.tensor([[*prompt.token_ids[prompt.suffix_start :], *token_ids]] * len(views))
    positions = torch.tensor([[view.suffix_position] for view in views]) + torch.arange(ids.shape[1])
    encodings = [view.encoding for view in views]
    alike = len(set(encodings)) == 1
    cache = share([read.caches[each] for each in (encodings[:1] if alike else encodings)], length=slots.prompt)

    bias, ape = _behind_each_other(*row_biases(slots, views, [0] * len(views)), len(token_ids), slots.answer)
    plan = Plan(lm.backend, on_devices(lm, bias) or {}, ape=on_devices(lm, ape), attend=attend)
    return forward(upload(ids, lm.device), upload(positions, lm.device), plan, cache)


def _behind_each_other(suffix: Felt, token: Felt, count: int, answer: int) -> Felt:
    """What the suffix and `count` answer tokens, from slot `answer` on, feel as one."""
    behind = token.bias.repeat(1, 1, count, 1)
    # An answer token sees itself and those before it.
    behind[..., answer:] = torch.full((count, count + 1), -torch.inf).triu(1)
    bias = torch.cat([suffix.bias, behind], dim=2)[..., :-1]
    last = token.ape
    if last is None:
        return Felt(bias, None)
    first = suffix.ape or ApeRows(last.keys, torch.ones_like(last.temperature), torch.ones_like(last.scale))
    times = suffix.bias.shape[2], count
    temperature, scale = (
        torch.cat([each.expand(-1, -1, n, -1) for each, n in zip(pair, times, strict=True)], dim=2)
        for pair in ((first.temperature, last.temperature), (first.scale, last.scale))
    )
    return Felt(bias, ApeRows(last.keys[..., :-1], temperature, scale))
