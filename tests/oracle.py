"""An independent reference, written from DESIGN.md alone: slow, plain, and without a line of flexdemo.

The mask is a double loop over the segments' roles; the forward pass is the plain transformers model with eager
attention and a dense additive mask, recomputed from scratch for every token, without a cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

STRATEGIES = ("segment", "isolated", "causal", "anchor", "late_fusion", "bidirectional")
# Some for three wordings; in the last an answer token sees no other one.
OWN_MASKS = ("segment+P2>P1", "causal-P3>P1-suffix>P2", "bidirectional+P3>*-P2>P2", "late_fusion-*>answer")
SCHEMES = ("aligned", "right_aligned", "sequential")


@dataclass(frozen=True)
class Token:
    """What the mask needs to know of a token: its role, and for a token of a paraphrase, or of the separator behind it,
    which paraphrase (1..N)."""

    role: str
    paraphrase: int = 0


def prompt_tokens(segments: Sequence[Mapping[str, Any]], answers: int = 0) -> list[Token]:
    """The tokens of a packed prompt from `Result.to_dict()["prompt"]["segments"]`, and answer tokens behind it."""
    tokens: list[Token] = []
    number = 0
    for segment in segments:
        number += segment["role"] == "paraphrase"
        one = Token(segment["role"], number if segment["role"] in ("paraphrase", "separator") else 0)
        tokens += [one] * (segment["end"] - segment["start"])
    return tokens + [Token("answer")] * answers


@functools.cache
def pairs_of(text: str) -> tuple[str, list[tuple[str, str, str]]]:
    """A mask of one's own, such as `segment+P2>P1-suffix>P3`, as its strategy and (+ or -, query, key) of each pair."""
    strategy, *rest = text.replace("+", " +").replace("-", " -").split()
    return strategy, [(pair[0], *pair[1:].split(">")) for pair in rest]


def is_meant(name: str, token: Token, sign: str) -> bool:
    """Whether a name in a pair means a token; a separator is closed with the paraphrase before it, never opened."""
    if token.role == "separator":
        return sign == "-" and name in ("*", f"P{token.paraphrase}")
    return name in ("*", f"P{token.paraphrase}" if token.role == "paraphrase" else token.role)


def fuses(text: str, token: Token) -> bool:
    """Whether a query sees everything earlier, if no pair is closed, and feels the weights."""
    if pairs_of(text)[0] == "late_fusion":
        return token.role == "answer"
    return token.role in ("suffix", "answer")


def sees(text: str, tokens: Sequence[Token], q: int, k: int) -> bool:
    """One cell of a strategy, or of one with pairs opened and closed for earlier keys, the last of them counting."""
    query, key = tokens[q], tokens[k]
    if q == k or "pad" in (query.role, key.role):
        return q == k
    strategy, pairs = pairs_of(text)
    seen = sees_by_strategy(strategy, tokens, q, k)
    for sign, of_query, of_key in pairs:
        if k < q and is_meant(of_query, query, sign) and is_meant(of_key, key, sign):
            seen = sign == "+"
    return seen


def sees_by_strategy(strategy: str, tokens: Sequence[Token], q: int, k: int) -> bool:
    """The table of DESIGN.md section 1, one cell between two tokens."""
    query, key = tokens[q], tokens[k]
    if strategy != "causal" and "separator" in (query.role, key.role):
        return False
    if strategy == "bidirectional" and query.role == "paraphrase" and query == key:
        return True
    if k > q:
        return False
    if strategy == "causal" or fuses(strategy, query):
        return True
    if query.role == "prefix":
        return key.role == "prefix"
    if query.role == "suffix":  # late fusion: it belongs to the last paraphrase
        last = max(token.paraphrase for token in tokens)
        return key.role in ("prefix", "suffix") or key.paraphrase == last
    if key.role == "prefix":
        return strategy != "isolated"
    return key.paraphrase == query.paraphrase or (strategy == "anchor" and key.paraphrase == 1)


@functools.lru_cache(maxsize=64)
def _mask(strategy: str, tokens: tuple[Token, ...]) -> list[list[bool]]:
    return [[sees(strategy, tokens, q, k) for k in range(len(tokens))] for q in range(len(tokens))]


def mask(strategy: str, tokens: Sequence[Token]) -> list[list[bool]]:
    return _mask(strategy, tuple(tokens))


def bias(strategy: str, tokens: Sequence[Token], weights: Sequence[float]) -> torch.Tensor:
    """The dense additive mask (1, 1, n, n): -inf where hidden, log w for a paraphrase under a fusing query."""
    felt = [weights[token.paraphrase - 1] if token.role == "paraphrase" else 1.0 for token in tokens]
    out = torch.zeros(len(tokens), len(tokens))
    out[torch.tensor([fuses(strategy, token) for token in tokens])] = torch.tensor([float(w) for w in felt]).log()
    out[~torch.tensor(mask(strategy, tokens))] = -math.inf
    return out[None, None]


def positions(
    segments: Sequence[Mapping[str, Any]], scheme: str, *, suffix_position: int | None = None, answers: int = 0
) -> list[int]:
    """Position ids of a packed prompt and of answer tokens behind it."""
    lengths = [s["end"] - s["start"] for s in segments]
    prefix, suffix = lengths[0], lengths[-1]
    longest = max(s["end"] - s["start"] for s in segments if s["role"] == "paraphrase")
    if scheme == "sequential":
        ids = list(range(sum(lengths[:-1])))
        start = len(ids)
    else:
        ids = list(range(prefix))
        for segment, length in list(zip(segments, lengths, strict=True))[1:-1]:
            first = prefix + (longest - length if scheme == "right_aligned" else 0)
            if segment["role"] == "separator":  # right behind its paraphrase
                first = ids[-1] + 1
            ids += [first + j for j in range(length)]
        start = prefix + longest
    start = start if suffix_position is None else suffix_position
    return ids + [start + j for j in range(suffix + answers)]


@dataclass(frozen=True)
class Decoded:
    """Greedy tokens, their log-probabilities and, for each, the attention mass by segment."""

    token_ids: list[int]
    logprobs: list[float]
    masses: list[list[float]]


@torch.no_grad()
def decode(
    model: Any,
    token_ids: Sequence[int],
    segments: Sequence[Mapping[str, Any]],
    strategy: str,
    scheme: str,
    weights: Sequence[float],
    new_tokens: int,
    *,
    suffix_position: int | None = None,
    masses: bool = False,
) -> Decoded:
    """Greedy decoding by a plain eager model, the whole sequence recomputed for every token."""
    ids, chosen, logprobs, told = list(token_ids), [], [], []
    whole = bias(strategy, prompt_tokens(segments, answers=max(0, new_tokens - 1)), weights)  # a later token hides none
    told_of = [
        i for i, segment in enumerate(segments) if segment["role"] != "separator"
    ]  # it counts with the one before
    for t in range(new_tokens):
        out = model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([positions(segments, scheme, suffix_position=suffix_position, answers=t)]),
            attention_mask=whole[:, :, : len(ids), : len(ids)],
            use_cache=False,
            output_attentions=masses,
        )
        logits = out.logits[0, -1].double()
        chosen.append(int(logits.argmax()))
        logprobs.append(float(logits.log_softmax(-1)[chosen[-1]]))
        ids.append(chosen[-1])
        if masses:
            row = torch.stack([layer[0, :, -1] for layer in out.attentions]).mean(dim=(0, 1))  # (n,)
            starts = [segments[i]["start"] for i in told_of]
            told.append([float(row[a:b].sum()) for a, b in zip(starts, [*starts[1:], len(row)], strict=True)])
    return Decoded(chosen, logprobs, told)


# The methods of DESIGN.md section 1: mask strategy and position scheme; None where the user's choice counts.
ENCODINGS = {
    "flex": None,
    "origin": ("segment", "aligned"),
    "per_prompt": ("segment", "aligned"),
    "causal": ("causal", "sequential"),
    "repeat": ("causal", "sequential"),
    "vote": ("segment", "aligned"),
    "weighted_max": ("segment", "aligned"),
    "leave_one_out": ("segment", "aligned"),
}
COMBINED = ("avg", "max", "weighted_avg")  # their rows share tokens: test_combinations recomputes them
MIXED = "hidden_avg"  # and those of this one hidden states: decode_mixed does
ENCODINGS |= dict.fromkeys((*COMBINED, MIXED), ("segment", "aligned"))


def combine(method: str, rows: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """One score for each token from the next-token logits of every wording alone."""
    if method == "avg":
        return sum(rows) / len(rows)
    if method == "max":
        return torch.stack([row.softmax(-1) for row in rows]).max(dim=0).values.log()
    return sum(weight * row for weight, row in zip(weights, rows, strict=True)) / sum(weights)


@torch.no_grad()
def decode_combined(
    model: Any, prompts: Sequence[Sequence[int]], method: str, weights: Sequence[float], new_tokens: int
) -> list[int]:
    """Greedy tokens of an ensemble over plain prompts, each recomputed whole by the plain model for every token."""
    chosen: list[int] = []
    for _ in range(new_tokens):
        rows = [
            model(input_ids=torch.tensor([[*ids, *chosen]]), use_cache=False).logits[0, -1].double() for ids in prompts
        ]
        chosen.append(int(combine(method, rows, weights).argmax()))
    return chosen


def repeated(
    token_ids: Sequence[int], segments: Sequence[Mapping[str, Any]]
) -> tuple[list[int], list[Mapping[str, Any]]]:
    """The packed prompt with the question (P1) in place of every wording, as ids and segments."""
    ids: list[int] = []
    made = []
    question = next(segment for segment in segments if segment["role"] == "paraphrase")
    for segment in segments:
        source, start = (question if segment["role"] == "paraphrase" else segment), len(ids)
        ids += token_ids[source["start"] : source["end"]]
        made.append({**segment, "start": start, "end": len(ids)})
    return ids, made


@torch.no_grad()
def decode_mixed(model: Any, prompts: Sequence[Sequence[int]], layer: int, told: Sequence[int]) -> Decoded:
    """Greedy tokens of plain prompts that share hidden states, by one pass over a left-padded batch.

    Each follows the tokens of `told` before it: if those are not the greedy ones, the first that is not differs here.
    At the output of the layers from `layer` on, counted from 1, every token that predicts (the last of a prompt and
    those of the answer) has the rows' mean hidden state; the next token is that of the mean logits.
    """
    depth = model.config.get_text_config().num_hidden_layers
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth)
    predict = slice(-len(told), None)

    def average(module: Any, args: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        states[..., predict, :] = states[..., predict, :].mean(dim=-3, keepdim=True)  # (..., rows, tokens, width)
        return output

    hooks = [each.register_forward_hook(average) for each in layers[layer - 1 :]]
    try:
        pads = [max(map(len, prompts)) - len(ids) for ids in prompts]
        ids = torch.tensor([[0] * pad + [*row, *told[:-1]] for pad, row in zip(pads, prompts, strict=True)])
        there = torch.arange(ids.shape[1])[None] >= torch.tensor(pads)[:, None]
        places = (there.cumsum(1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=there.long(), position_ids=places, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    logits = out.logits[:, predict].double().mean(0)
    logprobs = logits.log_softmax(-1).max(-1).values
    return Decoded(logits.argmax(-1).tolist(), logprobs.tolist(), [])


def decode_views(
    model: Any, result: Mapping[str, Any], *, masses: bool = False
) -> dict[tuple[str, str], tuple[Any, Decoded]]:
    """What every view of a `Result.to_dict()` should have said: {(method, view): (the view told, the reference)}."""
    prompt, told = result["prompt"], {}
    for method in result["results"]:
        ids, segments = prompt["token_ids"], prompt["segments"]
        if method["method"] == "repeat":
            ids, segments = repeated(ids, segments)
        if method["method"] in (*COMBINED, MIXED):
            continue
        chosen = ENCODINGS[method["method"]] or (result["mask"]["strategy"], result["mask"]["positions"])
        for view in method["views"]:
            told[method["method"], view["name"]] = view, decode(
                model, ids, segments, *chosen, view["weights"], len(view["token_ids"]),
                suffix_position=view["suffix_position"], masses=masses,
            )  # fmt: skip
    return told


def expected_views(
    segments: Sequence[Mapping[str, Any]], scheme: str
) -> dict[tuple[str, str], tuple[list[float], int]]:
    """{(method, view): (weights, suffix position)} as DESIGN.md gives them."""
    given = [s["weight"] for s in segments if s["role"] == "paraphrase"]
    n, prefix = len(given), segments[0]["end"]
    own = [prefix + s["end"] - s["start"] for s in segments if s["role"] == "paraphrase"]
    one_hot = [[float(i == j) for j in range(n)] for i in range(n)]
    start = segments[-1]["start"]
    views = {("flex", "flex"): (given, start if scheme == "sequential" else max(own))}
    views["origin", "origin"] = (one_hot[0], own[0])
    for i in range(n):
        views["per_prompt", f"P{i + 1}"] = (one_hot[i], own[i])
        for method in ("vote", *COMBINED, MIXED):
            views[method, f"P{i + 1}"] = (one_hot[i], own[i])
        rest = [0.0 if j == i else weight for j, weight in enumerate(given)]
        total = 1 if given == [1.0] * n else sum(rest)  # raw weights are 1, whatever is hidden
        views["leave_one_out", f"without P{i + 1}"] = ([weight / total for weight in rest], max(own))
    heaviest = max(range(n), key=lambda i: (given[i], -i))
    views["weighted_max", f"P{heaviest + 1}"] = (one_hot[heaviest], own[heaviest])
    views["causal", "causal"] = ([1.0] * n, start)
    views["repeat", "repeat"] = ([1.0] * n, repeated([0] * segments[-1]["end"], segments)[1][-1]["start"])
    return views


def ape_eager_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, *, ape: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention under APE's temperature T and scale S, two softmaxes merged by their log-sum-exps, in plain PyTorch.

    ape = (T, S, log weights (n,), paraphrase keys (n,), fusing queries (n,)); the mask has no weights in it.
    """
    temperature, scale, log_weights, context, fusing = ape
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = (query @ key.transpose(2, 3)) * scaling + attention_mask
    plain = scores.softmax(-1) @ value
    inside = scores[..., context] / temperature + log_weights[context]
    outside = scores[..., ~context]
    inside_lse = temperature * scale * inside.logsumexp(-1, keepdim=True)
    outside_lse = outside.logsumexp(-1, keepdim=True)
    total = torch.logaddexp(inside_lse, outside_lse)
    merged = (inside_lse - total).exp() * (inside.softmax(-1) @ value[:, :, context])
    merged = merged + (outside_lse - total).exp() * (outside.softmax(-1) @ value[:, :, ~context])
    out = torch.where(fusing[None, None, :, None], merged, plain)
    return out.transpose(1, 2).contiguous(), None


@torch.no_grad()
def decode_ape(model: Any, result: Mapping[str, Any], temperature: float, scale: float, new_tokens: int) -> Decoded:
    """Greedy tokens of the fused view under APE, by a plain model that runs `ape_eager_attention`, uncached."""
    prompt, facts, view = result["prompt"], result["mask"], result["results"][0]["views"][0]
    ids, chosen, logprobs = list(prompt["token_ids"]), [], []
    whole = bias(
        facts["strategy"], prompt_tokens(prompt["segments"], answers=new_tokens - 1), [1.0] * len(view["weights"])
    )
    for t in range(new_tokens):
        tokens = prompt_tokens(prompt["segments"], answers=t)
        fusing = torch.tensor([fuses(facts["strategy"], token) for token in tokens])
        context = torch.tensor([token.role == "paraphrase" for token in tokens])
        weights = [view["weights"][k.paraphrase - 1] if k.role == "paraphrase" else 1.0 for k in tokens]
        felt = torch.tensor(weights).log()
        places = positions(prompt["segments"], facts["positions"], suffix_position=view["suffix_position"], answers=t)
        out = model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([places]),
            attention_mask=whole[:, :, : len(ids), : len(ids)],
            use_cache=False,
            ape=(temperature, scale, felt, context, fusing),
        )
        logits = out.logits[0, -1].double()
        chosen.append(int(logits.argmax()))
        logprobs.append(float(logits.log_softmax(-1)[chosen[-1]]))
        ids.append(chosen[-1])
    return Decoded(chosen, logprobs, [])
