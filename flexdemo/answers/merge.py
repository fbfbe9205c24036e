"""Where several wordings become one answer: their hidden states layer by layer, and what each would say there.

Descriptive: that states are alike proves no influence. Knows no page and no files.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..engine.fast.compiled import call_of, next_scores
from ..engine.layers import check_said, feed, said_from, watched
from ..engine.model import LanguageModel
from ..engine.reading import Prefill, prefill, settled
from ..errors import InputError
from ..plan import View
from ..prompt import SegmentedPrompt, token_texts
from .methods import one_by_one
from .result import Result

MOST_ROWS = 64  # whose scores over the whole vocabulary are held at once


@dataclass(frozen=True)
class Merge:
    """L layers at the place that says one token of the fused answer; the last of the R rows is the fused one.

    probability (L, R) is that of the fused answer's token were the layer the last one, top (L, R) the likeliest token
    there and says (L, R) its text. to_fused (L, R - 1) are cosines of each wording's state and the fused one, between
    (L,) their mean over all pairs of wordings, nan where there is but one. Layers count from 1.
    """

    names: tuple[str, ...]
    token_id: int
    token: str
    probability: np.ndarray
    top: np.ndarray
    says: tuple[tuple[str, ...], ...]
    to_fused: np.ndarray
    between: np.ndarray

    @property
    def layers(self) -> int:
        return len(self.top)

    @property
    def agree_from(self) -> int | None:
        """The first layer from which on every wording would say the fused answer's token; None if they never do."""
        return self._from((self.top[:, :-1] == self.token_id).all(axis=1))

    def says_it_from(self, row: int) -> int | None:
        """The first layer from which on one row would say it."""
        return self._from(self.top[:, row] == self.token_id)

    @staticmethod
    def _from(holds: np.ndarray) -> int | None:
        lasting = int(np.logical_and.accumulate(holds[::-1]).sum())
        return len(holds) - lasting + 1 if lasting else None


@torch.no_grad()
def merging(lm: LanguageModel, result: Result, step: int, *, known: Prefill | None = None) -> Merge:
    """Look at the place in the fused answer of `result` that says its token `step`, counted from 0.

    The suffix and the answer so far are fed to the fused view and to each wording alone, and the state of the last of
    these tokens is kept after every layer. A prompt that `known` holds is not read again.
    """
    answer = result["flex"]
    if not 0 <= step < len(answer.token_ids):
        raise InputError(f"there is no token {step} of the answer: choose from 0 to {len(answer.token_ids) - 1}")
    prompt, token = result.prompt, answer.token_ids[step]
    views = [settled(lm, prompt, view, step + 1) for view in (*one_by_one(prompt), result.fused)]
    read = prefill(lm, {view.encoding: [prompt] for view in views}, known)
    states, logits = _states(lm, prompt, views, answer.token_ids[:step], read)

    said, shares, tops = said_from(lm.model), [], []
    for layers in states.split(max(1, MOST_ROWS // len(views))):
        told = said(layers.flatten(0, 1)[:, None]).unflatten(0, layers.shape[:2])[:, :, 0]  # (layers, rows, V)
        shares.append(told.softmax(dim=-1)[..., token].cpu())
        tops.append(told.argmax(dim=-1).cpu())
    check_said(lm.model, told[-1], logits)
    top = torch.cat(tops).numpy()
    distinct = sorted({int(each) for each in top.flat})
    texts = dict(zip(distinct, token_texts(lm.tokenizer, distinct), strict=True))
    to_fused, between = _alike(states)
    return Merge(
        tuple(view.name for view in views),
        token,
        answer.tokens[step],
        torch.cat(shares).numpy(),
        top,
        tuple(tuple(texts[int(each)] for each in row) for row in top),
        to_fused,
        between,
    )


def _states(
    lm: LanguageModel, prompt: SegmentedPrompt, views: Sequence[View], token_ids: Sequence[int], read: Prefill
) -> tuple[Tensor, Tensor]:
    """What each layer makes of the last token fed, (L, rows, width), and logits (rows, V), on one device."""
    shifts = [view.encoding.shift > 0 for view in views]
    parts, order, call = [], [], call_of(lm.model)
    for shift in dict.fromkeys(shifts):  # LongRoPE reads these rows otherwise than the others
        rows = [row for row, other in enumerate(shifts) if other == shift]
        seen: list[Tensor] = []
        forward = functools.partial(next_scores, watched(lm.model, seen.append), call=call)
        logits = feed(lm, prompt, [views[row] for row in rows], token_ids, read, forward).logits
        parts.append((torch.stack([each.to(logits.device) for each in seen], dim=1), logits))
        order += rows
    index = [order.index(row) for row in range(len(order))]
    states, logits = (torch.cat(each)[index] for each in zip(*parts, strict=True))
    return states.transpose(0, 1), logits


def _alike(states: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of the wordings' states to the fused one, (L, N), and among themselves, their mean, (L,)."""
    to_fused, between = [], []
    for layer in states:
        unit = normalize(layer.double().cpu(), dim=-1)
        cosines = (unit @ unit.T).numpy()
        to_fused.append(cosines[-1, :-1])
        pairs = cosines[:-1, :-1][np.triu_indices(len(cosines) - 1, 1)]
        between.append(pairs.mean() if len(pairs) else np.nan)
    return np.array(to_fused), np.array(between)
