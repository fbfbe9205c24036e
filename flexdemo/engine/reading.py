"""Reading prompts: one KV cache for each encoding, and what sessions keep of it. Knows no decoding and no methods."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import InputError
from ..masks import Mask, parse
from ..plan import Encoding, View
from ..prompt import SegmentedPrompt
from .attention import BACKENDS, Plan, UnsupportedModelError
from .blocks import BLOCK, Layout, lay_out, round_up
from .cache import PromptCache, upload
from .fast.compiled import Scores, call_of, next_scores
from .flex import Attend
from .mixing import Mixing
from .model import LanguageModel
from .recorders import ApeRows
from .threads import take_threads

CHUNK = 4096  # tokens of a prompt read in one pass, a multiple of a block: it bounds what activations take
REPLAYED = 2048  # the longest prompt that is read by a graph: beyond it launching its kernels is not what takes time
WORTH = 32  # tokens that need not be read again, for which a pass of their own is made
FEW_SHAPES = 128  # lengths are padded to a multiple of it where graphs are kept


Read = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Prefill:
    """Prompts read once: for each encoding a KV cache of prefix and paraphrases, a row a prompt.

    Views with any weights branch off it; it is never written to. `prompts` has the `read_of` of each row; `owner` is
    the transformers model that read them, the only one that may go on from here.
    """

    prompts: Mapping[Encoding, tuple[Read, ...]]
    caches: Mapping[Encoding, PromptCache]
    owner: Any


def read_of(prompt: SegmentedPrompt) -> Read:
    """What a prefill reads of a prompt: token and segment ids. The same tokens in other segments are another prompt."""
    n = prompt.suffix_start
    return tuple(zip(prompt.token_ids[:n], prompt.segment_ids[:n], strict=True))


def check_room(lm: LanguageModel, prompt: SegmentedPrompt, new_tokens: int) -> None:
    """Raise InputError if the model cannot hold a prompt and its answer, or has no embedding for one of its tokens."""
    rows = lm.model.get_input_embeddings().num_embeddings
    if max(prompt.token_ids) >= rows:
        at = next(i for i, token in enumerate(prompt.token_ids) if token >= rows)
        raise InputError(
            f"the tokenizer gives {prompt.tokens[at]!r} the id {prompt.token_ids[at]}, and {lm.name} has only {rows} "
            "embeddings: give the tokenizer that the model was trained with"
        )
    need = len(prompt.token_ids) + new_tokens
    if lm.context_length is not None and need > lm.context_length:
        raise InputError(
            f"prompt and answer need {need} tokens and {lm.name} holds {lm.context_length}: "
            "use fewer or shorter paraphrases, or a shorter answer"
        )
    if lm.window is not None and need > lm.window:
        raise UnsupportedModelError(
            f"{lm.name} has a sliding window of {lm.window} tokens, shorter than prompt and answer ({need}): "
            "its layers could not see every paraphrase; use fewer or shorter paraphrases, or a shorter answer"
        )


def multiple_of(lm: LanguageModel) -> int:
    """What lengths are padded to, so that compiled kernels and graphs meet few of them."""
    return max(BACKENDS[lm.backend].multiple, FEW_SHAPES if lm.captures else 1)


def padded(lm: LanguageModel, length: int) -> int:
    """The length that so many tokens are padded to. One block would be a shape of its own to a compiler, and is no
    faster on a GPU."""
    few = lm.captures or (lm.device.type == "cuda" and multiple_of(lm) > 1)
    return max(round_up(length, multiple_of(lm)), 2 * FEW_SHAPES if few else 0)


def on_devices(lm: LanguageModel, part: Tensor | ApeRows | Mixing | None) -> dict[torch.device, Any] | None:
    """A part of what a pass needs, on each device that holds a layer; None for None."""
    if part is None:
        return None
    return {device: upload(part, device) if isinstance(part, Tensor) else part.to(device) for device in lm.devices}


def forward(lm: LanguageModel, ids: Tensor, positions: Tensor, plan: Plan, cache: Cache) -> Scores:
    """What follows the last token of each row; fills the cache."""
    # An attention of one's own is for a look now and then: a compiler would make the whole pass anew for each.
    run = next_scores if lm.compiled is None or plan.attend else lm.compiled
    take_threads(ids.numel())
    with lm.hooks.on(lm.model) if plan.mixing else nullcontext():
        return run(lm.model, upload(ids, lm.device), upload(positions, lm.device), plan, cache, call_of(lm.model))


def check_recorded(lm: LanguageModel) -> None:
    """UnsupportedModelError for a model of whose heads this process sees some only."""
    if lm.processes > 1:
        raise UnsupportedModelError(
            f"{lm.name} is split over {lm.processes} processes, each of which sees its own heads only: attention is "
            "not told there; load it in one process"
        )


class Given(NamedTuple):
    """Prompts as a pass takes them under one encoding: ids and positions (B, T), whose each token is and what it sees,
    and how many tokens are read at once."""

    ids: Tensor
    positions: Tensor
    layout: Layout
    chunk: int


def given(lm: LanguageModel, prompts: Sequence[SegmentedPrompt], encoding: Encoding) -> Given:
    """Prefix and paraphrases of all prompts; shorter prompts are padded behind."""
    length = padded(lm, max(prompt.suffix_start for prompt in prompts))
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        n = prompt.suffix_start
        ids[row, :n] = torch.tensor(prompt.token_ids[:n])
        positions[row, :n] = torch.tensor(prompt.position_ids(encoding.positions)[:n]) + encoding.shift
    if encoding.highest is not None:  # what lies beyond belongs to wordings, or prompts, that no view of it sees
        positions.clamp_(max=encoding.highest)
    masks = [Mask.over(encoding.strategy, prompt.segments) for prompt in prompts]
    layout = lay_out(masks, [prompt.segment_ids[: prompt.suffix_start] for prompt in prompts], length)
    # A token that sees later ones must be read in one pass with them.
    return Given(ids, positions, layout, length if parse(encoding.strategy).strategy.both_ways else CHUNK)


def encode(
    lm: LanguageModel, asked: Given, attend: Attend | None = None, lead: PromptCache | None = None
) -> PromptCache:
    """Read the prefix and paraphrases of prompts under an encoding; `lead` is what all begin with, read before."""
    if attend is not None:
        check_recorded(lm)
    ids, positions, layout, chunk = asked
    if attend is None and lm.captures and ids.shape[1] <= REPLAYED:
        # Masks are data to a graph: one serves every strategy, and every pair that a user opens or closes.
        kind = ("prompt", ids.shape, layout.tables.shape)
        inputs = [upload(each, lm.device) for each in (ids, positions, layout.owners, layout.tables)]
        return PromptCache.of(lm.graphs.call(kind, lambda *on: _read(lm, chunk, *on).tensors(), inputs))
    return _read(lm, chunk, ids, positions, layout.owners, layout.tables, attend, lead)


def _read(
    lm: LanguageModel,
    chunk: int,
    ids: Tensor,
    positions: Tensor,
    owners: Tensor,
    tables: Tensor,
    attend: Attend | None = None,
    lead: PromptCache | None = None,
) -> PromptCache:
    """Passes of `chunk` tokens over prompts: ids, positions and owners (B, T), tables (B, 2, S, S)."""
    backend, length, cache, known = BACKENDS[lm.backend], ids.shape[1], PromptCache(), 0
    if lead is not None:
        cache = PromptCache.of([each.expand(len(ids), -1, -1, -1) for each in lead.tensors()])
        known = cache.get_seq_length()
    layouts = {device: Layout(upload(owners, device), upload(tables, device)) for device in lm.devices}
    for start in range(known, length, chunk):
        stop = min(start + chunk, length)
        masks = {device: backend.prompt_mask(layout.until(stop), start=start) for device, layout in layouts.items()}
        forward(lm, ids[:, start:stop], positions[:, start:stop], Plan(lm.backend, masks, attend=attend), cache)
    return cache


def _agreed(read: Sequence[Given]) -> int:
    """How many tokens all rows begin with alike: the same ids at the same positions of segments that see the same of
    each other."""
    parts = [(each.ids, each.positions, each.layout.owners) for each in read]
    n = min(each.ids.shape[1] for each in read)
    same = torch.ones(n, dtype=torch.bool)
    for rows in zip(*parts, strict=True):
        cut = torch.cat([each[:, :n] for each in rows])  # of all encodings: (rows, n)
        same &= (cut == cut[0]).all(dim=0)
    owners = read[0].layout.owners[0, : int(same.cumprod(dim=0).sum())]
    tables = [each.layout.tables for each in read]  # (rows, 2, S, S) each; segments stand in the order of their tokens

    def alike(count: int) -> bool:
        first = torch.cat([each[..., :count, :count] for each in tables])
        return bool((first == first[0]).all())

    counts = range(1 + int(owners.max()) if len(owners) else 0, 0, -1)
    return int((owners < next(filter(alike, counts), 0)).sum())


def _lead(lm: LanguageModel, read: Sequence[Given]) -> PromptCache | None:
    """The tokens that all prompts begin with, under all encodings, read once; None if that is not worth a pass.

    Not where passes keep their shapes, where a token sees later ones, or where LongRoPE looks at all positions.
    """
    rows = sum(len(each.ids) for each in read)
    fixed = multiple_of(lm) > 1 or lm.compiled is not None
    if rows < 2 or fixed or lm.turn is not None or any(each.chunk != CHUNK for each in read):
        return None
    length = _agreed(read)
    if BACKENDS[lm.backend].blocks:
        length -= length % BLOCK  # reading goes on from there, and a BlockMask begins with a block
    if (rows - 1) * length < WORTH:
        return None
    ids, positions, layout, chunk = read[0]
    return _read(lm, chunk, ids[:1, :length], positions[:1, :length], layout.owners[:1, :length], layout.tables[:1])


def settled(
    lm: LanguageModel, prompt: SegmentedPrompt, view: View, new_tokens: int, together: Sequence[View] = ()
) -> View:
    """The view at positions of which LongRoPE makes what it would of the view's own prompt, whatever is read with it.

    It chooses its factors by the largest position of a pass, and rotary positions are relative: shifted ones change
    nothing else. The factors of the prompt are kept for its answer. Views that are `together` must share a pass: the
    one that reaches farthest decides for all of them.
    """
    if lm.turn is None:
        return view
    end = max(each.suffix_position for each in (view, *together)) + len(prompt.segments[-1])
    if end > lm.turn:
        shift, highest = lm.turn, None
    else:
        shift, highest = (-new_tokens if end + new_tokens > lm.turn else 0), lm.turn - 1
    encoding = replace(view.encoding, shift=shift, highest=highest)
    return replace(view, encoding=encoding, suffix_position=view.suffix_position + shift)


@torch.no_grad()
def prefill(
    lm: LanguageModel, asked: Mapping[Encoding, Sequence[SegmentedPrompt]], known: Prefill | None = None
) -> Prefill:
    """Encode prompts under the encodings they are asked with; what `known` holds of the same ones is taken from it."""
    if known is not None and known.owner is not lm.model:
        raise ValueError("a Prefill of another model cannot be reused")
    prompts = {encoding: tuple(read_of(prompt) for prompt in each) for encoding, each in asked.items()}
    held = known.prompts if known is not None else {}
    caches = {encoding: known.caches[encoding] for encoding, read in prompts.items() if held.get(encoding) == read}
    fresh = {encoding: given(lm, each, encoding) for encoding, each in asked.items() if encoding not in caches}
    lead = _lead(lm, list(fresh.values()))
    caches |= {encoding: encode(lm, each, lead=lead) for encoding, each in fresh.items()}
    return Prefill(prompts, caches, lm.model)


MOST_TOKENS = 2048
MOST_SESSIONS = 16


@dataclass
class Reading:
    """At most one Prefill of up to `most_tokens` tokens an encoding; a later one replaces it.

    All are of one model, which `model` names.
    """

    prefill: Prefill | None = None
    most_tokens: int = MOST_TOKENS
    model: str = ""

    def known(self, prompt: SegmentedPrompt) -> Prefill | None:
        """The Prefill held, if it is of the same tokens of prefix and paraphrases in the same segments."""
        held, wanted = self.prefill, read_of(prompt)
        return held if held is not None and any(wanted in each for each in held.prompts.values()) else None

    def keep(self, read: Prefill) -> None:
        """Hold a Prefill; nothing if what was read under one encoding is too long."""
        longest = max(sum(map(len, each)) for each in read.prompts.values())
        self.prefill = read if longest <= self.most_tokens else None


class Readings:
    """One Reading for each of the latest `most` sessions; memory is bounded by their number and their prompts."""

    def __init__(self, most: int = MOST_SESSIONS) -> None:
        self.most = most
        self._held: OrderedDict[str, Reading] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, session: str, model: str = "") -> Reading:
        """A session's Reading of a model, made if there is none: what another model has read is let go.

        The session used longest ago makes room for it.
        """
        with self._lock:
            reading = self._held.get(session)
            if reading is None or reading.model != model:
                reading = self._held[session] = Reading(model=model)
            self._held.move_to_end(session)
            while len(self._held) > self.most:
                self._held.popitem(last=False)
        return reading

    def forget(self, session: str) -> None:
        with self._lock:
            self._held.pop(session, None)
