"""A given answer fed to rows over one prompt, in two passes: the suffix, then its tokens. Knows no methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..plan import View
from ..prompt import SegmentedPrompt
from .attention import Plan, attend_written_out
from .cache import branch, upload
from .flex import Attend
from .model import LanguageModel
from .reading import Prefill, arrange, check_recorded, on_devices, prefill, row_biases, settled

Forward = Callable[[Tensor, Tensor, Plan, Cache], Any]  # of ids and positions (rows, q)


def feed(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    views: Sequence[View],
    token_ids: Sequence[int],
    forward: Forward,
    *,
    attend: Attend = attend_written_out,
    read: Prefill | None = None,
) -> list[Any]:
    """What `forward` makes of the suffix and, if there are any, of answer tokens behind it; a row for each view.

    The few queries of these passes are written out, whatever the backend: a callable for `attend` may tell layers and
    heads apart. Encodings that `read` holds are not computed again. Views that LongRoPE reads otherwise than each other
    are for calls of their own.
    """
    check_recorded(lm)
    count = len(token_ids)
    views = [settled(lm, prompt, view, count + 1) for view in views]
    slots = arrange([prompt], count + 1, 1)
    encodings = list(dict.fromkeys(view.encoding for view in views))
    read = prefill(lm, {encoding: [prompt] for encoding in encodings}, read)
    sources = [(encodings.index(view.encoding), 0) for view in views]
    caches = [read.caches[encoding] for encoding in encodings]
    cache = branch(caches, sources, length=slots.prompt, capacity=slots.capacity)

    biases = row_biases(slots, views, [0] * len(views))
    behind = biases.answer.repeat(1, 1, count, 1)
    # An answer token sees itself and those before it.
    behind[..., slots.answer :] = torch.full((count, count + 1), -torch.inf).triu(1)
    suffix = prompt.token_ids[prompt.suffix_start :]
    starts = torch.tensor([view.suffix_position for view in views])[:, None]
    told = []
    for ids, first, bias, ape in (
        (suffix, slots.prompt, biases.suffix, biases.ape_suffix),
        (token_ids, slots.answer, behind, biases.ape_answer),
    ):
        if not ids:
            continue
        cache.point(first, first + len(ids))
        positions = starts + (first - slots.prompt) + torch.arange(len(ids))
        plan = Plan(lm.backend, on_devices(lm, bias) or {}, ape=on_devices(lm, ape), attend=attend)
        fed = torch.tensor([list(ids)] * len(views))
        told.append(forward(upload(fed, lm.device), upload(positions, lm.device), plan, cache))
    return told
