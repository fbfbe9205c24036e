"""METHODS, the one table behind page, command line and evaluation; `ask` runs it. Imports no torch: help lists it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import InputError
from ..plan import Combine, Encoding, Stream, View, check_encoding, fused_view
from ..prompt import SegmentedPrompt, check_wordings, weights_without
from ..request import Request
from .metrics import majority

if TYPE_CHECKING:
    from torch import Tensor

SEGMENT = Encoding("segment", "aligned")
CAUSAL = Encoding("causal", "sequential")


Streams = Callable[[SegmentedPrompt, View], tuple[Stream, ...]]


@dataclass(frozen=True)
class Method:
    """One way to answer: the streams to decode, and which stream's answer speaks for it.

    `streams(prompt, fused)` gets the view chosen for `flex`; the other methods have their own.
    """

    name: str
    label: str
    summary: str
    streams: Streams
    spokesman: Callable[[Sequence[str]], int] = lambda answers: 0
    minimum: int = 1  # wordings without which the method means nothing
    answers_each: bool = False  # its views have answers of their own to show
    mix_from: int | None = None  # layer from which on its rows share hidden states; 0: that of the request
    packed: Callable[[SegmentedPrompt], SegmentedPrompt] = lambda prompt: prompt  # what it reads of what was asked


def one_by_one(prompt: SegmentedPrompt) -> tuple[View, ...]:
    """Each wording alone, as in a prompt of its own."""
    places = range(len(prompt.paraphrases))
    return tuple(
        View(s.name, SEGMENT, tuple(float(j == i) for j in places), prompt.suffix_position("aligned", only=i))
        for i, s in enumerate(prompt.paraphrases)
    )


def _flex(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    return (Stream((fused,)),)


def _origin(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    return (Stream((replace(one_by_one(prompt)[0], name="origin"),)),)


def _per_prompt(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    return tuple(Stream((view,)) for view in one_by_one(prompt))


def _standard(name: str) -> Streams:
    def streams(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
        everything = (1.0,) * len(prompt.paraphrases)
        return (Stream((View(name, CAUSAL, everything, prompt.suffix_position(CAUSAL.positions)),)),)

    return streams


def mean_logits(logits: Tensor, weights: Sequence[float]) -> Tensor:
    """Mean of the rows' raw logits, (rows, V) -> (V,)."""
    return logits.mean(dim=0)


def weighted_mean_logits(logits: Tensor, weights: Sequence[float]) -> Tensor:
    """Mean of the rows' raw logits weighted by the paraphrases' shares, (rows, V) -> (V,)."""
    shares = logits.new_tensor(weights)
    return (shares / shares.sum()) @ logits


def max_probability(logits: Tensor, weights: Sequence[float]) -> Tensor:
    """Log of the element-wise maximum of the rows' softmaxes, (rows, V) -> (V,)."""
    return logits.log_softmax(dim=-1).amax(dim=0)


def _combined(combine: Combine) -> Streams:
    return lambda prompt, fused: (Stream(one_by_one(prompt), combine),)


def _weighted(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    if len(set(prompt.weights)) == 1:  # the plain mean, whose rows it then shares
        return (Stream(one_by_one(prompt), mean_logits),)
    return (Stream(one_by_one(prompt), weighted_mean_logits, prompt.weights),)


def _heaviest(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    return (Stream((one_by_one(prompt)[prompt.weights.index(max(prompt.weights))],)),)


def _leave_one_out(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    n, place, streams = len(prompt.paraphrases), prompt.suffix_position("aligned"), []
    for i, segment in enumerate(prompt.paraphrases):
        # Where only the hidden one had weight, the others share.
        shares = weights_without(prompt.weights, i) or weights_without((1 / n,) * n, i)
        streams.append(Stream((View(f"without {segment.name}", SEGMENT, shares, place),)))
    return tuple(streams)


_ALL = (
    Method("flex", "Fused (flex)", "All paraphrases fused by the chosen mask, positions and weights.", _flex),
    Method("origin", "Question alone", "Only the question, as a plain prompt.", _origin),
    Method(
        "per_prompt",
        "Each paraphrase alone",
        "Each wording as a plain prompt; P1 speaks for all.",
        _per_prompt,
        answers_each=True,
    ),
    Method("vote", "Vote", "Each wording as a plain prompt; the most frequent answer wins.", _per_prompt, majority),
    Method("avg", "Mean of logits", "One token for all wordings, from their mean logits.", _combined(mean_logits)),
    Method(
        "max",
        "Most confident",
        "One token for all wordings, from their highest probability.",
        _combined(max_probability),
    ),
    Method(
        "hidden_avg",
        "Mean of hidden states",
        "One token for all wordings, whose hidden states are averaged from a layer on.",
        _combined(mean_logits),
        mix_from=0,
    ),
    Method("weighted_avg", "Weighted mean of logits", "As avg, with the weights.", _weighted),
    Method("weighted_max", "Heaviest paraphrase", "Only the wording with the largest weight.", _heaviest),
    Method(
        "leave_one_out",
        "Leave one out",
        "Fused without each wording in turn; needs two wordings.",
        _leave_one_out,
        minimum=2,
        answers_each=True,
    ),
    Method(
        "causal",
        "Standard attention",
        "All wordings one after the other, each token seeing all before it.",
        _standard("causal"),
    ),
    Method(
        "repeat",
        "Standard attention, copies",
        "The question as often as there are wordings, in a prompt of its own, each token seeing all before it.",
        _standard("repeat"),
        packed=SegmentedPrompt.repeated,
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})


def resolve_methods(names: Sequence[str], wordings: int = 2) -> tuple[Method, ...]:
    """Methods by name, in order, each once; "all" stands for every one that so many wordings allow."""
    possible = [name for name, method in METHODS.items() if wordings >= method.minimum]
    wanted = [name for given in names for name in (possible if given == "all" else (given,))]
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise InputError(f"unknown method {unknown[0]!r}: choose from all, {', '.join(METHODS)}")
    if not wanted:
        raise InputError(f"choose at least one method of {', '.join(METHODS)}")
    lacking = [name for name in wanted if name not in possible]
    if lacking:
        raise InputError(f"{lacking[0]} needs at least {METHODS[lacking[0]].minimum} wordings: add a paraphrase")
    return tuple(METHODS[name] for name in dict.fromkeys(wanted))


Plan = dict[Method, tuple[Stream, ...]]


def plan_all(
    prompts: Sequence[SegmentedPrompt], methods: Sequence[Method], request: Request, *, depth: int
) -> tuple[list[SegmentedPrompt], list[Plan]]:
    """The prompts of a batch, those that a method packs for itself behind the ones that are asked, and the streams of
    every method for each of these, in a model of so many layers; `request` has the fused answer's settings."""
    batch, plans = list(prompts), []
    encoding, layer = Encoding(request.mask, request.positions), mixing_layer(request.hidden_layer, depth)
    for place, asked in enumerate(prompts):
        plan: Plan = {}
        places = {asked: place}
        for method in methods:
            prompt = method.packed(asked)
            at = places.setdefault(prompt, len(batch))
            batch += [prompt] if at == len(batch) else []
            start = layer if method.mix_from == 0 else method.mix_from
            streams = method.streams(prompt, fused_view(prompt, encoding, request.ape))
            plan[method] = tuple(replace(stream, prompt=at, mix_from=start) for stream in streams)
        plans.append(plan)
    return batch, plans


def mixing_layer(asked: int, depth: int) -> int:
    """The layer, counted from 1, from whose output on hidden_avg mixes: that asked for, or for 0 two thirds of the
    depth, rounded to the nearest."""
    return asked or round(2 * depth / 3)


def check_names(request: Request) -> tuple[Method, ...]:
    """The methods of a request; InputError for what no model can be asked: an empty text, a name in no table."""
    check_wordings(request.question, request.paraphrases, request.given_weights)
    check_encoding(Encoding(request.mask, request.positions))
    return resolve_methods(request.methods, 1 + len(request.paraphrases))
