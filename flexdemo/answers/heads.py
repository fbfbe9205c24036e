"""Where a head looks in the whole prompt; which heads read a wording, and what the answer loses where one may not.

Attention is descriptive; an effect is causal, of one change at a time: effects of several heads need not add up to that
of hiding the wording from all of them. Knows no page and no files.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..engine.attention import BACKENDS, Plan, attend_written_out
from ..engine.fast.compiled import call_of, next_scores
from ..engine.flex import Attend
from ..engine.layers import branching, check_said, feed, said_from
from ..engine.model import LanguageModel
from ..engine.reading import Prefill, encode, given, prefill, settled
from ..engine.recorders import Scoring, additive, attention_probabilities
from ..errors import InputError
from ..plan import View
from ..prompt import SegmentedPrompt, weights_without
from .result import Result

MOST_TOKENS = 512  # of a prompt whose attention is shown
STRONGEST = 12
MOST_ROWS = 16  # of a pass: each has a copy of the keys and values of one layer at a time
Hidden = tuple[Sequence[int], Sequence[int]]  # layers, and the heads of each that may not see the wording


def heads_of(lm: LanguageModel) -> tuple[int, int]:
    """Number of layers, and of attention heads in each."""
    config = lm.model.config.get_text_config()
    return config.num_hidden_layers, config.num_attention_heads


def check_head(lm: LanguageModel, layer: int, head: int, *, first: int = 0) -> None:
    """Raise InputError for a layer or a head that the model does not have; the first of each has the number `first`."""
    for what, value, count in zip(("layer", "head"), (layer, head), heads_of(lm), strict=True):
        if not first <= value < first + count:
            raise InputError(f"there is no {what} {value}: choose from {first} to {first + count - 1} of {lm.name}")


@torch.no_grad()
def attention_map(lm: LanguageModel, result: Result, layer: int, head: int) -> np.ndarray:
    """Attention (T, T) of a layer and head, counted from 0, in fp32, row = query, over the axes of the mask of
    `result`; rows sum to 1.

    The prompt is read once more, as for the fused answer's first token. Raises InputError for a prompt of more than
    MOST_TOKENS tokens, or a layer or head that is not there.
    """
    check_head(lm, layer, head)
    prompt = result.prompt
    length, start = len(prompt.token_ids), prompt.suffix_start
    if length > MOST_TOKENS:
        raise InputError(f"attention is shown for at most {MOST_TOKENS} tokens, not for {length}: shorten the prompt")
    view, seen = settled(lm, prompt, result.fused, 1), []
    looks = functools.partial(_seeing, layer, head, seen)
    read = encode(lm, given(lm, [prompt], view.encoding), looks(BACKENDS[lm.backend].attend))
    forward = functools.partial(next_scores, lm.model, call=call_of(lm.model))
    known = Prefill({}, {view.encoding: read}, lm.model)
    feed(lm, prompt, [view], (), known, forward, attend=looks(attend_written_out))
    rows = np.zeros((length, length), dtype=np.float32)
    rows[:start, :start] = seen[0][:start, :start]
    rows[start:] = seen[1]
    return rows


def _seeing(layer: int, head: int, seen: list[Tensor], attend: Attend) -> Attend:
    """Attention that also tells one head's, from all queries to all keys, (q, kv)."""
    layers = itertools.count()

    def attend_seen(query: Tensor, key: Tensor, value: Tensor, mask: Any, how: Scoring) -> Tensor:
        if next(layers) == layer:
            shared = head // (query.shape[1] // key.shape[1])  # query heads that share a key head are neighbours
            one, bias = (query[:, head : head + 1], key[:, shared : shared + 1]), additive(mask, query.device)
            seen.append(attention_probabilities(*one, bias, how)[0, 0].cpu())
        return attend(query, key, value, mask, how)

    return attend_seen


@dataclass(frozen=True)
class HeadEffect:
    """A head and its layer, counted from 0, the share of its attention that falls on a wording, and its effect as in
    `Reads`."""

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


def _looking(places: Sequence[int], count: int, shares: list[Tensor]) -> Attend:
    """Attention that tells, layer by layer, what share of its heads' falls on some slots, mean over the last queries,
    (H,)."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, how: Scoring) -> Tensor:
        looks = attention_probabilities(query, key, mask, how)[0, :, -count:]
        shares.append(looks[..., places].sum(dim=-1).mean(dim=-1).cpu())
        return attend_written_out(query, key, value, mask, how)

    return attend


def _hiding(hidden: Sequence[Hidden]) -> Attend:
    """Attention in which heads see what the second mask shows where a row hides the wording from them, and elsewhere
    what the first one shows; the first row hides nothing."""
    layers = itertools.count()

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, how: Scoring) -> Tensor:
        layer, rows, own = next(layers), len(query), mask[:1].repeat(len(query), query.shape[1], 1, 1)
        for row, (of_layers, heads) in enumerate(hidden[: rows - 1], start=1):
            if layer in of_layers:
                own[row, list(heads)] = mask[1]
        # A layer that reads the keys of an earlier one has more rows: those that joined since are as the first was.
        key, value = (torch.cat([each, each[:1].expand(rows - len(each), -1, -1, -1)]) for each in (key, value))
        return attend_written_out(query, key, value, own, how._replace(ape=how.ape and how.ape.select([0])))

    return attend


def reading_heads(
    lm: LanguageModel,
    result: Result,
    wording: int,
    *,
    known: Prefill | None = None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Reads]:
    """How the fused answer of `result` reads a wording, counted from 0: its attention, then what hiding it does.

    The answer is fed again, not chosen again, and a prompt that `known` holds is not read again. `check` is called
    between passes, and what it raises ends the work.
    """
    prompt, token_ids = result.prompt, result["flex"].token_ids
    if not 0 <= wording < len(prompt.paraphrases):
        raise InputError(f"there is no wording {wording}: choose from 0 to {len(prompt.paraphrases) - 1}")
    full = settled(lm, prompt, result.fused, len(token_ids))
    known = prefill(lm, {full.encoding: [prompt]}, known)
    check()
    places = [place for place, i in enumerate(prompt.segment_ids) if prompt.groups[i] == 1 + wording]
    looks: list[Tensor] = []
    _logprobs(lm, prompt, token_ids, [full], known, [], _looking(places, len(token_ids), looks))
    read = Reads(prompt.paraphrases[wording].name, torch.stack(looks).numpy())
    yield read

    shares = weights_without(full.weights, wording)
    if shares is None or not full.weights[wording]:
        return
    views = [full, replace(full, weights=shares)]
    layers, heads = (range(count) for count in heads_of(lm))

    def logprobs(hidden: Sequence[Hidden]) -> list[float]:
        check()
        return _logprobs(lm, prompt, token_ids, views, known, hidden, _hiding(hidden))

    order = np.argsort(-read.attention, axis=None, kind="stable")[:STRONGEST]
    strongest = [(int(at) // len(heads), int(at) % len(heads)) for at in order]
    by_layer = sorted(strongest)
    whole, without, *told = logprobs([(layers, heads), *(((layer,), (head,)) for layer, head in by_layer)])
    lost = {place: whole - each for place, each in zip(by_layer, told, strict=True)}
    listed = tuple(HeadEffect(*place, float(read.attention[place]), lost[place]) for place in strongest)
    read = replace(read, strongest=listed, without=whole - without)
    yield read

    effects: list[float] = []
    for first in range(0, len(layers), MOST_ROWS - 1):
        whole, *told = logprobs([((layer,), heads) for layer in layers[first : first + MOST_ROWS - 1]])
        effects += [whole - each for each in told]
    yield replace(read, by_layer=tuple(effects))


@torch.no_grad()
def _logprobs(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    token_ids: Sequence[int],
    views: Sequence[View],
    known: Prefill,
    hidden: Sequence[Hidden],
    attend: Attend,
) -> list[float]:
    """Log-probability of the answer of the first view, then with the wording hidden from each of these, in the order of
    their first layers: a row is computed from there on."""
    seen: list[Tensor] = []
    model, count = branching(lm.model, [of_layers[0] for of_layers, _ in hidden], seen.append), len(token_ids)

    def forward(ids: Tensor, positions: Tensor, plan: Plan, cache: Cache) -> Tensor:
        return next_scores(model, ids[:1], positions[:1], plan, cache, call_of(lm.model)).logits

    logits = feed(lm, prompt, views, token_ids[:-1], known, forward, attend=attend)
    said = said_from(lm.model)(seen[0][..., -count:, :])  # (rows, T, V)
    check_said(lm.model, said[:1, -1], logits)
    chosen = torch.tensor(token_ids, device=said.device).expand(len(said), -1)[..., None]
    return (said.gather(2, chosen)[..., 0] - said.logsumexp(dim=-1)).double().sum(dim=-1).tolist()
