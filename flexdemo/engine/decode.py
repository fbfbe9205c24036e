"""Branch into views, decode in lockstep, stream. Knows nothing of methods' names, of pages or of files."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..plan import Encoding, Stream, View
from ..prompt import SegmentedPrompt, decode_ids
from ..request import Decoding
from .cache import Download, SlotCache, branch, upload
from .fast.compiled import Scores
from .fast.rows import Abreast, Queries, Rows, Steps
from .mixing import Mixing
from .model import NO_NUMBERS, LanguageModel
from .reading import Prefill, check_recorded, check_room, multiple_of, on_devices, padded, prefill, settled
from .recorders import MassRecorder
from .slots import Slots, arrange, key_groups, row_biases

WORTH_TRUNKS = 96  # slots of a prompt
LIKELIEST = 1024  # tokens in which the nucleus is looked for first: to sort a whole vocabulary takes much longer


@dataclass(frozen=True)
class Answer:
    """What a stream has produced so far. `masses[v][t]` is the attention mass of view v by segment for token t.

    `detail[t]` is that of the first view by layer and head, (layers, heads, S), and its mean attention to every slot,
    (slots,), if detail was asked for; `candidates[t]` are the likeliest tokens and their probabilities.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    masses: tuple[tuple[tuple[float, ...], ...], ...]
    stopped_by: str | None
    seconds: float
    detail: tuple[tuple[Tensor, Tensor], ...] = ()
    candidates: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True)
class Progress:
    """State after the prompt was encoded (no tokens yet) and after every token; seconds since the request began."""

    answers: tuple[Answer, ...]
    rows: int
    encode_seconds: float
    first_token_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class _Row:
    """A view that wants a row of the batch, settled for the model, and its stream, by number and itself."""

    owner: int
    stream: Stream
    view: View


@dataclass
class _Decoding:
    """One stream while it runs, and what it has said."""

    stream: Stream
    generator: torch.Generator
    answer: Answer


def choose(
    logits: Tensor, temperatures: Sequence[float], top_p: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Next tokens (n,) from logits (n, V), each sampled from its top-p nucleus at its temperature, above 0.

    A row's token depends on its own generator alone. Of what is no number some token is taken: its log-probability is
    none either, and that is what is looked at.
    """
    logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
    heats = torch.tensor(temperatures, dtype=torch.float64)[:, None].to(logits.device)
    scaled = (logits.double() - logits.amax(dim=-1, keepdim=True)) / heats  # no temperature is too small: 0 or below
    shares = torch.softmax(scaled.nan_to_num(), dim=-1)
    drawn = torch.stack([torch.rand(1, dtype=torch.float64, generator=each) for each in generators]).to(shares.device)
    if top_p >= 1:
        return _drawn(shares, drawn)
    likeliest, tokens = shares.topk(min(LIKELIEST, shares.shape[-1]))
    chosen = tokens.gather(1, _drawn(_nucleus(likeliest, top_p), drawn)[:, None])[:, 0]
    for row in (likeliest.sum(dim=-1) < top_p).nonzero()[:, 0].tolist():
        ranked, tokens = shares[row : row + 1].sort(descending=True)
        chosen[row] = tokens[0, _drawn(_nucleus(ranked, top_p), drawn[row : row + 1])]
    return chosen


def _nucleus(ranked: Tensor, top_p: float) -> Tensor:
    """Shares (n, W), the largest first, with 0 for those behind the ones that sum to top_p."""
    return ranked.where(ranked.cumsum(dim=-1) - ranked < top_p, 0.0)


def _drawn(shares: Tensor, drawn: Tensor) -> Tensor:
    """The places (n,) that numbers from 0 to 1, drawn (n, 1), mean among shares (n, W)."""
    sums = shares.cumsum(dim=-1)
    return torch.searchsorted(sums, drawn * sums[:, -1:], right=True).clamp(max=sums.shape[-1] - 1)[:, 0]


def stop_reason(lm: LanguageModel, prompt: SegmentedPrompt, token_ids: Sequence[int], limit: int) -> str | None:
    """The stop rule, the same for every method: end token, end of the first answer line of a plain prompt, length.

    A chat's answer may have several lines, and reasoning before it.
    """
    if token_ids[-1] in lm.end_ids:
        return "end token"
    if prompt.kind == "plain" and "\n" in decode_ids(lm.tokenizer, token_ids).lstrip():
        return "end of line"
    return "length" if len(token_ids) >= limit else None


@torch.no_grad()
def generate(
    lm: LanguageModel,
    prompts: Sequence[SegmentedPrompt],
    streams: Sequence[Stream],
    decoding: Decoding,
    *,
    known: Prefill | None = None,
    keep: Callable[[Prefill], None] | None = None,
    began: float | None = None,
) -> Iterator[Progress]:
    """Decode all streams over all prompts in lockstep, yielding after the encoding and after every token.

    Encodings that `known` holds are not computed again; `keep` is given the Prefill that the views branch off. Times
    count from `began` (of `time.perf_counter`), or from here. Closing the generator stops the work. Raises InputError
    if the model cannot hold prompt and answer.
    """
    began = time.perf_counter() if began is None else began
    for prompt in prompts:
        check_room(lm, prompt, decoding.max_new_tokens)

    # 1. Encode: one prefill for each distinct encoding, of the prompts that are seen through it.
    slots = arrange(prompts, decoding.max_new_tokens, functools.partial(padded, lm))
    rows = [
        _Row(i, stream, settled(lm, prompts[stream.prompt], view, decoding.max_new_tokens, stream.together))
        for i, stream in enumerate(streams)
        for view in stream.views
    ]
    seen: dict[Encoding, list[int]] = {}
    for encoding, prompt in dict.fromkeys((row.view.encoding, row.stream.prompt) for row in rows):
        seen.setdefault(encoding, []).append(prompt)
    read = prefill(lm, {encoding: [prompts[i] for i in places] for encoding, places in seen.items()}, known)
    if keep is not None:
        keep(read)

    # 2. Branch: one row for views that are the same; those that LongRoPE reads otherwise are passes of their own.
    owners, at = [row.owner for row in rows], _shared(lm, rows)
    rows = list(dict(zip(at, rows, strict=True)).values())
    lanes: dict[bool, list[int]] = {}
    for place, row in enumerate(rows):
        lanes.setdefault(row.view.encoding.shift > 0, []).append(place)
    apart = [[rows[place] for place in lane] for lane in lanes.values()]
    caches = [read.caches[encoding] for encoding in seen]
    index = {(e, p): (i, k) for i, (e, places) in enumerate(seen.items()) for k, p in enumerate(places)}
    branched = []
    for lane in apart:
        sources = [index[row.view.encoding, row.stream.prompt] for row in lane]
        # Of few slots, or few rows, copies cost less than two looks; a compiled pass keeps its shape.
        worth = slots.prompt >= WORTH_TRUNKS and 2 * len(set(sources)) <= len(sources)
        shared = worth and lm.shares and lm.compiled is None
        branched.append(branch(caches, sources, length=slots.prompt, capacity=slots.capacity, shared=shared))
    del caches, read
    made = [_made(lm, slots, lane, branched.pop(0), decoding) for lane in apart]
    states = [
        _Decoding(
            stream,
            torch.Generator().manual_seed(decoding.seed + stream.seed),
            Answer((), (), ((),) * len(stream.views), None, 0.0),
        )
        for stream in streams
    ]
    encoded = time.perf_counter() - began
    yield Progress(tuple(each.answer for each in states), len(rows), encoded, 0.0, encoded)

    # Popped, as memory kept from an earlier request may take the place of what was made.
    parts = [(lane, Steps(lm, made.pop(0), prompt=slots.prompt, answer=slots.answer)) for lane in lanes.values()]
    with Abreast(parts) as steps:
        yield from _decode(lm, prompts, steps, states, owners, at, decoding, began=began, encoded=encoded)


def _shared(lm: LanguageModel, wanted: Sequence[_Row]) -> list[int]:
    """Numbers of the rows that serve those wanted: on the CPU the same ones share one while their tokens are the same.

    Not so where a pass is to keep its shape, nor on a GPU, whose next step begins before tokens are known.
    """
    shares = multiple_of(lm) == 1 and lm.device.type != "cuda"
    found: dict[Hashable, int] = {}
    alone = [None if shares and row.stream.mix_from is None else i for i, row in enumerate(wanted)]
    kinds = [(row.view, row.stream.prompt, i) for row, i in zip(wanted, alone, strict=True)]
    return [found.setdefault(kind, len(found)) for kind in kinds]


def _made(lm: LanguageModel, slots: Slots, rows: Sequence[_Row], cache: SlotCache, decoding: Decoding) -> Rows:
    """What the passes over some rows work on, over a prompt of `slots`."""
    views, row_prompts = [row.view for row in rows], [row.stream.prompt for row in rows]
    felt = row_biases(slots, views, row_prompts)
    suffix, answer = (Queries(*(on_devices(lm, part) for part in each)) for each in felt)
    recorder = None
    if decoding.mass or decoding.detail:
        check_recorded(lm)
        recorder = MassRecorder(on_devices(lm, key_groups(slots, row_prompts)), decoding.detail)
    mixing = on_devices(lm, Mixing.of([row.owner for row in rows], [row.stream.mix_from for row in rows]))
    ids = torch.tensor([slots.prompts[prompt].token_ids[slots.prompt - slots.answer :] for prompt in row_prompts])
    starts = torch.tensor([view.suffix_position for view in views])
    positions = starts[:, None] + torch.arange(ids.shape[1])  # (rows,) -> (rows, suffix)
    return Rows(cache, upload(ids, lm.device), upload(positions, lm.device), suffix, answer, recorder, mixing)


def _decode(
    lm: LanguageModel,
    prompts: Sequence[SegmentedPrompt],
    steps: Abreast,
    states: Sequence[_Decoding],
    owners: Sequence[int],
    at: Sequence[int],
    decoding: Decoding,
    *,
    began: float,
    encoded: float,
) -> Iterator[Progress]:
    """Stages 3 and 4 of `generate`; views belong to the streams `owners` and are the rows `at`."""
    # 3. Read the suffix: its last token is the query that produces the first answer token.
    out = steps.read_suffix()
    first = 0.0

    @functools.cache
    def index(*places: int) -> Tensor:
        return upload(torch.tensor(places), lm.device)

    # 4. Decode: one token for each stream and step; rows of finished streams leave the batch.
    while True:
        means = None if out.mass is None else out.mass.mean(dim=(0, 2))  # (layers, rows, heads, S) -> (rows, S)
        going = [i for i in dict.fromkeys(owners) if states[i].answer.stopped_by is None]
        places = {i: [row for row, owner in zip(at, owners, strict=True) if owner == i] for i in going}
        scores = _combined(out.scores, [(states[i].stream, places[i]) for i in going], index)
        chosen, logprob = _choose_all(scores, [states[i] for i in going], decoding)  # (streams,)
        sources, count = {row: place for place, i in enumerate(going) for row in places[i]}, 1 + max(at)
        fed = _taken(chosen, [sources.get(row, 0) for row in range(count)], index)[:, None]  # (streams,) -> (rows, 1)
        coming = Download(chosen, logprob, means, *_likeliest(scores, decoding.candidates))

        # A GPU begins the next step before this one's tokens are read, so that it never waits for us.
        more = any(len(states[i].answer.token_ids) + 1 < _limit(states[i].stream, decoding) for i in going)
        overlaps = lm.device.type == "cuda" and first > 0 and more and not decoding.detail
        ahead = steps.run(fed) if overlaps else None

        tokens, logprobs, masses, *likeliest = coming.lists()
        if any(map(math.isnan, logprobs)):
            raise InputError(f"this model cannot answer: {NO_NUMBERS}")
        candidates = [tuple(zip(*each, strict=True)) for each in zip(*likeliest, strict=True)]  # of each stream
        total = time.perf_counter() - began
        for place, i in enumerate(going):
            stream, said, rows = states[i].stream, states[i].answer, places[i]
            token_ids, seen, detail = (*said.token_ids, tokens[place]), said.masses, said.detail
            if masses is not None:
                seen = tuple((*view, tuple(masses[row])) for view, row in zip(seen, rows, strict=True))
            if out.mass is not None and out.attention is not None:
                detail = (*detail, (out.mass[:, rows[0]].cpu(), out.attention[rows[0]].cpu()))
            states[i].answer = Answer(
                token_ids,
                (*said.logprobs, logprobs[place]),
                seen,
                stop_reason(lm, prompts[stream.prompt], token_ids, _limit(stream, decoding)),
                total,
                detail,
                (*said.candidates, *candidates[place : place + 1]),
            )
        first = first or total  # taken when the token is known: a GPU's forward pass returns before it is done
        yield Progress(tuple(each.answer for each in states), count, encoded, first, total)

        alive = [(i, row) for i, row in zip(owners, at, strict=True) if states[i].answer.stopped_by is None]
        if not alive:
            return
        kept: dict[tuple[int, int], int] = {}  # a row goes on once for each token that it is fed
        going_to = [kept.setdefault((row, states[i].answer.token_ids[-1]), len(kept)) for i, row in alive]
        came_from = [row for row, _ in kept]
        # Compiled and captured steps keep their shapes, until half of their rows are done. Elsewhere too a few that are
        # done cost less than a copy of all others.
        if len(set(came_from)) < len(kept) or len(kept) <= count * (0.5 if multiple_of(lm) > 1 else 0.75):
            owners, at = [i for i, _ in alive], going_to
            fed = upload(torch.tensor([[token] for _, token in kept]), lm.device)
            ahead = ahead and ahead.select(index(*came_from))  # first: the memory behind it is given back now
            steps.select(came_from)
        out = ahead or steps.run(fed)


def _limit(stream: Stream, decoding: Decoding) -> int:
    """The most tokens that a stream's answer may have."""
    return len(stream.forced) or stream.limit or decoding.max_new_tokens


def _taken(values: Tensor, places: Sequence[int], at: Callable[..., Tensor]) -> Tensor:
    """Values at some places; the values themselves if that is all of them, for a kernel less in every step."""
    return values if list(places) == list(range(len(values))) else values[at(*places)]


def _combined(scores: Scores, streams: Sequence[tuple[Stream, list[int]]], at: Callable[..., Tensor]) -> Scores:
    """What each stream chooses from: Scores of rows -> Scores of streams."""
    if all(stream.combine is None for stream, _ in streams):
        firsts = [rows[0] for _, rows in streams]
        return Scores(*(_taken(each, firsts, at) for each in scores))
    return Scores.of(
        torch.stack(
            [
                scores.logits[rows[0]]
                if stream.combine is None
                else stream.combine(scores.logits[at(*rows)], stream.weights)
                for stream, rows in streams
            ]
        )
    )


def _choose_all(scores: Scores, states: Sequence[_Decoding], decoding: Decoding) -> tuple[Tensor, Tensor]:
    """The next token of each stream and its log-probability, (streams,) each: forced, greedy or sampled."""
    heats = [decoding.temperature if s.stream.temperature is None else s.stream.temperature for s in states]
    if not any(heats) and not any(state.stream.forced for state in states):
        return scores.best, scores.logprob
    chosen = scores.best.clone()
    warm = [place for place, heat in enumerate(heats) if heat and not states[place].stream.forced]
    if warm:
        at = torch.tensor(warm, device=chosen.device)
        given = [heats[place] for place in warm], decoding.top_p, [states[place].generator for place in warm]
        chosen[at] = choose(scores.logits[at], *given).to(chosen)
    for place, state in enumerate(states):
        if state.stream.forced:
            chosen[place] = state.stream.forced[len(state.answer.token_ids)]
    return chosen, scores.logits.gather(1, chosen[:, None])[:, 0] - scores.lse


def _likeliest(scores: Scores, candidates: int) -> tuple[Tensor, ...]:
    """The likeliest tokens and their probabilities, (streams, candidates) each; nothing for none."""
    if not candidates:
        return ()
    top = scores.logits.topk(min(candidates, scores.logits.shape[-1]))
    return top.indices, (top.values - scores.lse[:, None]).exp()
