"""Which heads read a wording: their attention, and what the answer loses when one of them may not see it.

Attention is descriptive; an effect is causal, of one change at a time: effects of several heads need not add up to that
of hiding the wording from all of them. Knows no page and no files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..engine.attention import Plan, attend_written_out
from ..engine.decode import generate
from ..engine.fast.compiled import call_of
from ..engine.forced import feed
from ..engine.model import LanguageModel
from ..engine.reading import Prefill
from ..engine.recorders import ApeRows
from ..errors import InputError
from ..plan import Encoding, Stream, View, fused_view
from ..prompt import weights_without
from ..request import Decoding
from .head import heads_of
from .result import Result

STRONGEST = 12
MOST_ROWS = 16  # of a pass: each has a copy of the prompt's keys and values
Heads = tuple[int, tuple[int, ...]]  # a layer, and heads of it


@dataclass(frozen=True)
class HeadEffect:
    """A head, the share of its attention that falls on a wording, and its effect as in `Reads`."""

    layer: int
    head: int
    attention: float
    effect: float


@dataclass(frozen=True)
class Reads:
    """How the answer reads one wording, through L layers of H heads.

    attention (L, H) is the share that falls on it, mean over the answer's tokens. An effect is the log-probability of
    the answer minus that with the wording hidden: from one head in `strongest`, from all heads of a layer at once in
    `by_layer` (L,), from all of them in `without`. Where there is no other wording to read, all three are empty.
    """

    name: str
    attention: np.ndarray
    strongest: tuple[HeadEffect, ...] = ()
    by_layer: tuple[float, ...] = ()
    without: float | None = None


@dataclass
class _HiddenFrom:
    """Attention in which some heads of each row see what the last row of the pass sees: one wording less."""

    layers: int
    rows: Sequence[Heads | None]
    _calls: int = 0

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        scale: float,
        softcap: float | None,
        ape: ApeRows | None = None,
    ) -> Tensor:
        layer = self._calls % self.layers
        self._calls += 1
        own = [(row, heads[1]) for row, heads in enumerate(self.rows) if heads is not None and heads[0] == layer]
        if own:
            mask = mask.repeat(1, query.shape[1], 1, 1)
            for row, heads in own:
                mask[row, list(heads)] = mask[-1, :1]
        return attend_written_out(query, key, value, mask, scale, softcap, ape)


def reading_heads(
    lm: LanguageModel, result: Result, wording: int, *, check: Callable[[], None] = lambda: None
) -> Iterator[Reads]:
    """How the fused answer of `result` reads a wording, counted from 0: its attention, then what hiding it does.

    The answer is fed again, not chosen again. `check` is called between passes, and what it raises ends the work.
    """
    prompt, token_ids = result.prompt, result["flex"].token_ids
    if not 0 <= wording < len(prompt.paraphrases):
        raise InputError(f"there is no wording {wording}: choose from 0 to {len(prompt.paraphrases) - 1}")
    full = fused_view(prompt, Encoding(result.mask["strategy"], result.mask["positions"]), result.ape)
    kept: list[Prefill] = []
    stream, decoding = Stream((full,), forced=token_ids), Decoding(len(token_ids), detail=True)
    for progress in generate(lm, [prompt], [stream], decoding, keep=kept.append):
        detail = progress.answers[0].detail
        check()
    masses = np.stack([by_head.numpy() for by_head, _ in detail])  # (T, L, H, S)
    read = Reads(prompt.paraphrases[wording].name, masses[..., 1 + wording].mean(axis=0))
    yield read

    shares = weights_without(full.weights, wording)
    if shares is None or not full.weights[wording]:
        return
    logprobs = functools.partial(_logprobs, lm, result, full, replace(full, weights=shares), kept[0])
    layers, heads = heads_of(lm)
    order = np.argsort(-read.attention, axis=None, kind="stable")[:STRONGEST]
    strongest = [(int(at) // heads, int(at) % heads) for at in order]
    whole, *told, hidden = logprobs([None, *((layer, (head,)) for layer, head in strongest)])
    listed = tuple(
        HeadEffect(layer, head, float(read.attention[layer, head]), whole - each)
        for (layer, head), each in zip(strongest, told, strict=True)
    )
    read = replace(read, strongest=listed, without=whole - hidden)
    yield read

    effects: list[float] = []
    for first in range(0, layers, MOST_ROWS - 1):
        check()
        some = range(first, min(first + MOST_ROWS - 1, layers))
        effects += [whole - each for each in logprobs([(layer, tuple(range(heads))) for layer in some])[:-1]]
    yield replace(read, by_layer=tuple(effects))


@torch.no_grad()
def _logprobs(
    lm: LanguageModel, result: Result, full: View, without: View, known: Prefill, rows: Sequence[Heads | None]
) -> list[float]:
    """Log-probability of the answer for each row, and last for the view without the wording."""
    token_ids = result["flex"].token_ids
    name = call_of(lm.model).cache

    def forward(ids: Tensor, positions: Tensor, plan: Plan, cache: Cache) -> Tensor:
        given = {name: cache, "use_cache": True, "segment_plan": plan}
        return lm.model(input_ids=ids, position_ids=positions, **given).logits.float()

    attend = _HiddenFrom(heads_of(lm)[0], rows)
    views = [*[full] * len(rows), without]
    suffix, *behind = feed(lm, result.prompt, views, token_ids[:-1], forward, attend=attend, read=known)
    logits = torch.cat([suffix[:, -1:], *behind], dim=1)  # (rows, T, V)
    chosen = torch.tensor(token_ids, device=logits.device).expand(len(views), -1)[..., None]
    return (logits.gather(2, chosen)[..., 0] - logits.logsumexp(dim=-1)).double().sum(dim=-1).tolist()
