"""Encode, branch into views, decode in lockstep. Knows nothing of methods' names, of pages or of files.

A prompt is encoded once for each encoding; a view is one row of the decode batch over a copy of that KV cache.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from .attention import BACKENDS, MassRecorder, Plan, UnsupportedModelError
from .cache import branch, select_rows
from .config import Decoding, InputError
from .masks import STRATEGIES, Layout, dense_mask, make_mask_mod
from .model import LanguageModel
from .prompt import ANSWER, PAD, PARAPHRASE, SUFFIX, SegmentedPrompt, decode_ids

Combine = Callable[[Tensor, Sequence[float]], Tensor]


@dataclass(frozen=True)
class Encoding:
    """Mask strategy + position scheme: one prefill, one KV cache."""

    strategy: str = "segment"
    positions: str = "aligned"


@dataclass(frozen=True)
class View:
    """One row: which encoding it reads, the weight of each paraphrase (0 hides it), where its suffix starts."""

    name: str = field(compare=False)  # views that differ only in name are computed once
    encoding: Encoding
    weights: tuple[float, ...]
    suffix_position: int


@dataclass(frozen=True)
class Stream:
    """One answer: a view, or several views whose next-token logits are combined and that share each token.

    `combine` maps logits (rows, V) and the paraphrases' weights to logits (V,). `prompt` is the index in the batch.
    """

    views: tuple[View, ...]
    combine: Combine | None = None
    weights: tuple[float, ...] = ()
    prompt: int = 0
    seed: int = 0  # added to the request's seed, so that samples of one view differ
    forced: tuple[int, ...] = ()  # tokens to feed instead of choosing: their log-probabilities are what is wanted


@dataclass(frozen=True)
class Answer:
    """What a stream has produced so far. `masses[v][t]` is the attention mass of view v by segment for token t.

    `attention[t]` is that of the first view by layer and head to every slot, (layers, heads, slots), if detail was
    asked for; `candidates[t]` are the likeliest tokens and their probabilities.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    masses: tuple[tuple[tuple[float, ...], ...], ...]
    stopped_by: str | None
    seconds: float
    attention: tuple[Tensor, ...] = ()
    candidates: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True)
class Progress:
    """State after the prompt was encoded (no tokens yet) and after every token; seconds since the request began."""

    answers: tuple[Answer, ...]
    rows: int
    encode_seconds: float
    first_token_seconds: float
    total_seconds: float


@dataclass
class _Decoding:
    """Mutable state of one stream while it runs."""

    stream: Stream
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    masses: list[list[tuple[float, ...]]] = field(default_factory=list)
    stopped_by: str | None = None
    seconds: float = 0.0
    attention: list[Tensor] = field(default_factory=list)
    candidates: list[tuple[tuple[int, float], ...]] = field(default_factory=list)

    def take(self, token: int, logits: Tensor, candidates: int) -> None:
        """Append a token chosen from logits (V,)."""
        logprobs = torch.log_softmax(logits, dim=-1)
        self.token_ids.append(token)
        self.logprobs.append(float(logprobs[token]))
        if candidates:
            top = logprobs.exp().topk(candidates)
            self.candidates.append(tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)))

    def snapshot(self) -> Answer:
        masses = tuple(tuple(view) for view in self.masses)
        return Answer(
            tuple(self.token_ids),
            tuple(self.logprobs),
            masses,
            self.stopped_by,
            self.seconds,
            tuple(self.attention),
            tuple(self.candidates),
        )


@dataclass(frozen=True)
class _Slots:
    """Where things lie in a row: paraphrases in [0, prompt), suffix in [prompt, answer), answer tokens behind it."""

    layout: Layout
    prompt: int
    answer: int
    capacity: int


def _arrange(prompts: Sequence[SegmentedPrompt], new_tokens: int, multiple: int) -> _Slots:
    """Common slots of a batch of prompts: shorter ones are padded between their last paraphrase and the suffix."""
    suffixes = {len(prompt.segments[-1]) for prompt in prompts}
    if len(suffixes) != 1 or 0 in suffixes:
        raise ValueError("prompts of one batch must have the same suffix, of at least one token")
    start = max(prompt.suffix_start for prompt in prompts)
    answer = start + suffixes.pop()
    capacity = -(-(answer + new_tokens) // multiple) * multiple
    segments, roles = [], []
    for prompt in prompts:
        n, pads = prompt.suffix_start, start - prompt.suffix_start
        last = len(prompt.segments) - 1
        segments.append([*prompt.segment_ids[:n], *[-1] * pads, *[last] * (capacity - start)])
        roles.append([*prompt.roles[:n], *[PAD] * pads, *[SUFFIX] * (answer - start), *[ANSWER] * (capacity - answer)])
    return _Slots(Layout(torch.tensor(segments), torch.tensor(roles)), start, answer, capacity)


def _forward(lm: LanguageModel, ids: Tensor, positions: Tensor, plan: Plan, cache: object) -> Tensor:
    """Logits of the last token, (rows, V) in fp32; fills the cache."""
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(lm.model.forward).parameters else {}
    ids, positions = ids.to(lm.device), positions.to(lm.device)
    out = lm.model(
        input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, segment_plan=plan, **keep
    )
    return out.logits[:, -1].float()  # (rows, T or 1, V) -> (rows, V)


def encode(lm: LanguageModel, prompts: Sequence[SegmentedPrompt], encoding: Encoding, slots: _Slots) -> DynamicCache:
    """Prefill prefix and paraphrases of all prompts under one encoding, into at least `slots.prompt` slots."""
    backend = BACKENDS[lm.backend]
    length = backend.padded(slots.prompt)
    ids, positions = (
        torch.zeros(len(prompts), length, dtype=torch.long),
        torch.zeros(len(prompts), length, dtype=torch.long),
    )
    segments = torch.full((len(prompts), length), -1)
    roles = torch.full((len(prompts), length), PAD)
    for row, prompt in enumerate(prompts):
        n = prompt.suffix_start
        ids[row, :n] = torch.tensor(prompt.token_ids[:n])
        positions[row, :n] = torch.tensor(prompt.position_ids(encoding.positions)[:n])
        segments[row, :n], roles[row, :n] = slots.layout.segments[row, :n], slots.layout.roles[row, :n]
    masks = {}
    for device in lm.devices:
        layout = Layout(segments.to(device), roles.to(device))
        masks[device] = backend.prompt_mask(make_mask_mod(encoding.strategy, layout), layout)
    cache = DynamicCache()
    _forward(lm, ids, positions, Plan(lm.backend, masks), cache)
    return cache


def row_biases(slots: _Slots, views: Sequence[View], prompts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Additive biases in fp32: of suffix queries (rows, 1, suffix, capacity), of answer queries (rows, 1, 1, capacity).

    -inf where the mask hides a key, log(weight) on the keys of a paraphrase for queries that fuse, 0 elsewhere. The
    answer bias is that of the first answer token; a later one also sees the slots before it.
    """
    visible = {
        encoding: dense_mask(
            make_mask_mod(encoding.strategy, slots.layout), slots.layout, start=slots.prompt, stop=slots.answer + 1
        )
        for encoding in {view.encoding for view in views}
    }
    suffix, answer = [], []
    for view, prompt in zip(views, prompts, strict=True):
        log_weights = torch.zeros(slots.capacity)
        is_paraphrase = slots.layout.roles[prompt] == PARAPHRASE
        owners = slots.layout.segments[prompt][is_paraphrase] - 1
        log_weights[is_paraphrase] = torch.tensor(view.weights, dtype=torch.float64).log().float()[owners]
        rows = visible[view.encoding][prompt]  # (suffix + 1, capacity)
        felt = log_weights if STRATEGIES[view.encoding.strategy].fuses_at == SUFFIX else torch.zeros_like(log_weights)
        suffix.append(felt.where(rows[:-1], -torch.inf)[None])
        answer.append(log_weights.where(rows[-1:], -torch.inf)[None])
    return torch.stack(suffix), torch.stack(answer)


def _key_groups(slots: _Slots, prompts: Sequence[int]) -> Tensor:
    """Groups of keys whose mass is told, (rows, capacity, S): prefix, each paraphrase, suffix and own answer."""
    owner = slots.layout.segments[torch.tensor(prompts)]  # (rows, capacity)
    return (owner[..., None] == torch.arange(int(owner.max()) + 1)).float()


def choose(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    """Next token from logits (V,): greedy at temperature 0, else sampled from the top-p nucleus."""
    if decoding.temperature == 0:
        return int(logits.argmax())
    scaled = (
        logits.double() - logits.max()
    ) / decoding.temperature  # no temperature is too small: 0 or below, never nan
    probabilities, order = torch.softmax(scaled, dim=-1).sort(descending=True)
    before = probabilities.cumsum(0) - probabilities
    kept = probabilities.where(before < decoding.top_p, 0.0)
    return int(order[torch.multinomial(kept.cpu(), 1, generator=generator)])


def stop_reason(lm: LanguageModel, prompt: SegmentedPrompt, token_ids: Sequence[int], limit: int) -> str | None:
    """The stop rule, the same for every method: end token, end of the first answer line of a plain prompt, length."""
    if token_ids[-1] in lm.end_ids:
        return "end token"
    if prompt.kind == "plain" and "\n" in decode_ids(lm.tokenizer, token_ids).lstrip():
        return "end of line"
    return "length" if len(token_ids) >= limit else None


def _check_room(
    lm: LanguageModel, prompts: Sequence[SegmentedPrompt], streams: Sequence[Stream], decoding: Decoding
) -> None:
    need = 0
    for stream in streams:
        suffix = len(prompts[stream.prompt].segments[-1])
        need = max(need, *(view.suffix_position + suffix + decoding.max_new_tokens for view in stream.views))
    need = max(need, *(len(prompt.token_ids) + decoding.max_new_tokens for prompt in prompts))
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


@torch.no_grad()
def generate(
    lm: LanguageModel, prompts: Sequence[SegmentedPrompt], streams: Sequence[Stream], decoding: Decoding
) -> Iterator[Progress]:
    """Decode all streams over all prompts in lockstep, yielding after the encoding and after every token.

    Closing the generator stops the work. Raises InputError if the model cannot hold prompt and answer.
    """
    began = time.perf_counter()
    _check_room(lm, prompts, streams, decoding)

    # 1. Encode: one prefill for each distinct encoding.
    backend = BACKENDS[lm.backend]
    slots = _arrange(prompts, decoding.max_new_tokens, backend.multiple)
    views = [view for stream in streams for view in stream.views]
    owners = [i for i, stream in enumerate(streams) for _ in stream.views]
    encodings = list(dict.fromkeys(view.encoding for view in views))
    caches = [encode(lm, prompts, encoding, slots) for encoding in encodings]

    # 2. Branch: one row for each view.
    row_prompts = [streams[i].prompt for i in owners]
    sources = [(encodings.index(view.encoding), prompt) for view, prompt in zip(views, row_prompts, strict=True)]
    cache = branch(caches, sources, length=slots.prompt, capacity=slots.capacity)
    del caches
    suffix_bias, answer_bias = row_biases(slots, views, row_prompts)
    biases = {device: answer_bias.to(device) for device in lm.devices}
    groups = _key_groups(slots, row_prompts)
    on_devices = None if decoding.detail else {device: groups.to(device) for device in lm.devices}
    recorder = MassRecorder(on_devices) if decoding.mass or decoding.detail else None
    states = [_Decoding(stream, masses=[[] for _ in stream.views]) for stream in streams]
    generators = [torch.Generator().manual_seed(decoding.seed + stream.seed) for stream in streams]
    encoded = time.perf_counter() - began
    yield Progress(tuple(s.snapshot() for s in states), len(views), encoded, 0.0, encoded)

    # 3. Read the suffix: its last token is the query that produces the first answer token.
    suffix_ids = torch.tensor([prompts[p].token_ids[prompts[p].suffix_start :] for p in row_prompts])
    starts = torch.tensor([view.suffix_position for view in views])
    positions = starts[:, None] + torch.arange(suffix_ids.shape[1])  # (rows,) -> (rows, suffix)
    masks = {device: suffix_bias.to(device) for device in lm.devices}
    logits = _forward(lm, suffix_ids, positions, Plan(lm.backend, masks, recorder), cache)
    first = 0.0

    # 4. Decode: one token for each stream and step; rows of finished streams leave the batch.
    positions = positions[:, -1:] + 1
    for step in range(decoding.max_new_tokens):
        attention = recorder.take() if recorder else None  # (layers, rows, heads, S, or slots in detail)
        masses = None if attention is None else attention.mean(dim=(0, 2))
        if masses is not None and decoding.detail:
            masses = (masses[:, None] @ groups)[:, 0]  # (rows, slots) -> (rows, S)
        chosen: dict[int, int] = {}
        for i in dict.fromkeys(owners):
            rows = [row for row, owner in enumerate(owners) if owner == i]
            state, stream = states[i], states[i].stream
            if state.stopped_by is not None:
                continue
            combined = logits[rows[0]] if stream.combine is None else stream.combine(logits[rows], stream.weights)
            forced = stream.forced[len(state.token_ids)] if stream.forced else None
            chosen[i] = choose(combined, decoding, generators[i]) if forced is None else forced
            state.take(chosen[i], combined, decoding.candidates)
            if masses is not None:
                for history, row in zip(state.masses, rows, strict=True):
                    history.append(tuple(masses[row].tolist()))
            if attention is not None and decoding.detail:
                state.attention.append(attention[:, rows[0]])
            limit = len(stream.forced) or decoding.max_new_tokens
            state.stopped_by = stop_reason(lm, prompts[stream.prompt], state.token_ids, limit)
            state.seconds = time.perf_counter() - began
        total = time.perf_counter() - began
        first = first or total  # taken when the token is known: a GPU's forward pass returns before it is done
        yield Progress(tuple(s.snapshot() for s in states), len(owners), encoded, first, total)

        alive = [row for row, owner in enumerate(owners) if states[owner].stopped_by is None]
        if not alive:
            return
        if len(alive) < len(owners) and backend.multiple == 1:  # a compiled kernel keeps its shapes
            owners = [owners[row] for row in alive]
            select_rows(cache, alive)
            positions = positions[alive]
            biases = {device: bias[alive] for device, bias in biases.items()}
            groups = groups[alive]
            if recorder and recorder.groups is not None:
                recorder = MassRecorder({device: group[alive] for device, group in recorder.groups.items()})
        for bias in biases.values():
            bias[..., slots.answer + step] = 0.0
        tokens = torch.tensor([[chosen.get(owner, 0)] for owner in owners])
        logits = _forward(lm, tokens, positions, Plan(lm.backend, biases, recorder), cache)
        positions = positions + 1
