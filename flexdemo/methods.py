"""METHODS, the one table behind UI, CLI and evaluation; `ask` and `stream` run it. Knows no page and no files."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .confidence import confidence_weights, measure_confidence
from .config import Ape, Decoding, InputError, Samples
from .encoding import Encoding, View, fused_view, prefill
from .generation import Answer, Combine, Progress, Stream, check_room, generate
from .metrics import answer_text, majority
from .model import LanguageModel
from .prompt import SegmentedPrompt, build_prompt, decode_ids, token_texts, weights_without
from .prompt_masks import mask_facts
from .reading import Reading
from .results import Candidate, MethodResult, Request, Result, ViewResult
from .schemes import Scheme

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


def _alone(prompt: SegmentedPrompt, i: int, name: str) -> View:
    one_hot = tuple(float(j == i) for j in range(len(prompt.paraphrases)))
    return View(name, SEGMENT, one_hot, prompt.suffix_position("aligned", only=i))


def _flex(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    return (Stream((fused,)),)


def _origin(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    return (Stream((_alone(prompt, 0, "origin"),)),)


def _per_prompt(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    return tuple(Stream((_alone(prompt, i, s.name),)) for i, s in enumerate(prompt.paraphrases))


def _causal(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    everything = (1.0,) * len(prompt.paraphrases)
    return (Stream((View("causal", CAUSAL, everything, prompt.suffix_position(CAUSAL.positions)),)),)


def _one_by_one(prompt: SegmentedPrompt) -> tuple[View, ...]:
    return tuple(_alone(prompt, i, segment.name) for i, segment in enumerate(prompt.paraphrases))


def mean_logits(logits: Tensor, weights: Sequence[float]) -> Tensor:
    """Mean of the rows' raw logits, (rows, V) -> (V,)."""
    return logits.mean(dim=0)


def weighted_mean_logits(logits: Tensor, weights: Sequence[float]) -> Tensor:
    """Mean of the rows' raw logits weighted by the paraphrases' shares, (rows, V) -> (V,)."""
    shares = torch.tensor(weights, dtype=logits.dtype, device=logits.device)
    return (shares / shares.sum()) @ logits


def max_probability(logits: Tensor, weights: Sequence[float]) -> Tensor:
    """Log of the element-wise maximum of the rows' softmaxes, (rows, V) -> (V,)."""
    return torch.log_softmax(logits, dim=-1).amax(dim=0)


def _combined(combine: Combine) -> Streams:
    return lambda prompt, fused: (Stream(_one_by_one(prompt), combine),)


def _weighted(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    if len(set(prompt.weights)) == 1:  # the plain mean, whose rows it then shares
        return (Stream(_one_by_one(prompt), mean_logits),)
    return (Stream(_one_by_one(prompt), weighted_mean_logits, prompt.weights),)


def _heaviest(prompt: SegmentedPrompt, fused: View) -> tuple[Stream, ...]:
    return (Stream((_one_by_one(prompt)[prompt.weights.index(max(prompt.weights))],)),)


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
        "causal", "Standard attention", "All wordings one after the other, each token seeing all before it.", _causal
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


def _side(scheme: Scheme) -> Method:
    """A scheme as a method of its own, beside those of the table."""
    return Method(scheme.name, scheme.name, "", lambda prompt, fused: (Stream((scheme.view(prompt),)),))


def _view_result(lm: LanguageModel, view: View, answer: Answer, mass: tuple[tuple[float, ...], ...]) -> ViewResult:
    text = decode_ids(lm.tokenizer, answer.token_ids, skip_special=True)
    tokens = tuple(token_texts(lm.tokenizer, answer.token_ids))
    width = len(view.weights) + 2  # prefix, paraphrases, suffix + own answer
    return ViewResult(
        view.name,
        view.weights,
        view.suffix_position,
        answer_text(text),
        text,
        answer.token_ids,
        tokens,
        answer.logprobs,
        tuple(row[:width] for row in mass if row),
    )


def _candidates(lm: LanguageModel, step: Sequence[tuple[int, float]]) -> tuple[Candidate, ...]:
    texts = token_texts(lm.tokenizer, [token for token, _ in step])
    return tuple(Candidate(token, text, p) for (token, p), text in zip(step, texts, strict=True))


def told(
    lm: LanguageModel, method: Method, streams: Sequence[Stream], answers: Mapping[Stream, Answer]
) -> tuple[tuple[ViewResult, ...], ViewResult, Stream]:
    """What every view of a method answered, which of them speaks for the method, and the stream it is of."""
    views = tuple(
        _view_result(lm, view, answers[stream], mass)
        for stream in streams
        for view, mass in zip(stream.views, answers[stream].masses, strict=True)
    )
    firsts = [sum(len(s.views) for s in streams[:i]) for i in range(len(streams))]
    index = method.spokesman([views[first].answer for first in firsts])
    return views, views[firsts[index]], streams[index]


def _method_result(
    lm: LanguageModel,
    method: Method,
    streams: Sequence[Stream],
    answers: Mapping[Stream, Answer],
    facts: Mapping[Encoding, Any],
    spent: float,
) -> MethodResult:
    views, spoken, chosen = told(lm, method, streams, answers)
    return MethodResult(
        method.name,
        spoken.answer,
        spoken.generation,
        spoken.token_ids,
        spoken.tokens,
        spoken.logprobs,
        answers[chosen].stopped_by,
        max(answers[stream].seconds for stream in streams) + spent,
        facts[streams[0].views[0].encoding],
        lm.backend,
        views,
        tuple(_candidates(lm, step) for step in answers[chosen].candidates),
    )


def stream(
    lm: LanguageModel,
    question: str,
    paraphrases: Sequence[str] = (),
    *,
    methods: Sequence[str] = ("flex",),
    mask: str = "segment",
    positions: str = "aligned",
    weights: Sequence[float] | str | None = None,
    samples: int = Samples.count,
    sample_temperature: float = Samples.temperature,
    ape_temperature: float = 1.0,
    ape_scale: float = 1.0,
    prefix: str = "",
    template: str = "auto",
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    mass: bool = True,
    candidates: int = 0,
    partial: bool = True,
    schemes: Sequence[Scheme] = (),
    reading: Reading | None = None,
    until: float = math.inf,
    check: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yield the Result so far after the prompt is encoded and after every token; the last one is `done`.

    The question is P1 and `paraphrases` are P2..PN; `weights` has one number for each of them, or is "raw" (every
    weight 1) or "confidence" (share of `samples` answers at `sample_temperature` that agree with the greedy one; equal
    weights where none does). `ape_temperature` and `ape_scale` act on `flex`, see `config.Ape`. `candidates` keeps that
    many of the likeliest tokens at each step. Without `partial` only the finished Result is made. `schemes` are decoded
    in the same lockstep, as the Result's `sides`. A prompt that `reading` holds is not read again; afterwards it holds
    this one. Closing the generator stops the work within one token, and so does what `check`, called after every token,
    raises, and the time `until` (of `time.monotonic`): then the last Result is not `done`. Raises InputError for what
    cannot be asked.
    """
    decoding = Decoding(max_new_tokens, temperature, top_p, seed, mass, candidates=candidates)
    chosen = resolve_methods(methods, 1 + len(paraphrases))
    encoding, ape = Encoding(mask, positions), Ape(ape_temperature, ape_scale)
    for each in (Scheme(mask, positions), *schemes):
        each.check()
    drawn = Samples(samples, sample_temperature)
    by_confidence = isinstance(weights, str) and weights == "confidence"
    given = None if by_confidence else weights
    prompt = build_prompt(lm.tokenizer, question, paraphrases, weights=given, prefix=prefix, template=template)
    check_room(lm, prompt, max_new_tokens)  # before its mask is counted: what no model holds may be very long
    given = weights if weights is None or isinstance(weights, str) else tuple(map(float, weights))
    request = Request(
        question, tuple(paraphrases), methods=tuple(methods), weights=given, mask=mask, positions=positions,
        samples=samples, sample_temperature=sample_temperature, ape_temperature=ape_temperature, ape_scale=ape_scale,
        prefix=prefix, template=template, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
        seed=seed, mass=mass, candidates=candidates,
    )  # fmt: skip
    known, confidence = reading.known(prompt) if reading else None, None
    spent = 0.0
    facts = {encoding: mask_facts(prompt, encoding)}

    def result(results: tuple[MethodResult, ...], seconds: Mapping[str, float], done: bool) -> Result:
        where = (lm.name, str(lm.device), lm.dtype, lm.backend)
        told = (facts[encoding], prompt, prompt.position_ids(positions), results[: len(chosen)], seconds, done)
        return Result(*where, *told, ape, confidence, request, results[len(chosen) :])

    if by_confidence:
        began = time.perf_counter()
        known = prefill(lm, [prompt], [SEGMENT], known)
        steps = measure_confidence(lm, prompt, decoding, samples=drawn, view=_alone, known=known)
        for measured in steps:
            if check is not None:
                check()
            confidence, spent, late = measured, time.perf_counter() - began, time.monotonic() >= until
            if partial or late:
                yield result((), _seconds(lm, None, spent), False)
            if late:
                return
        assert confidence is not None
        prompt = prompt.reweighted(confidence_weights(confidence))

    wanted = (*chosen, *map(_side, dict.fromkeys(schemes)))
    plans = {method: method.streams(prompt, fused_view(prompt, encoding, ape)) for method in wanted}
    distinct = list(dict.fromkeys(s for streams in plans.values() for s in streams))
    encodings = {view.encoding for each in distinct for view in each.views}
    facts |= {each: mask_facts(prompt, each) for each in encodings - set(facts)}
    keep = functools.partial(reading.keep, encodings=encodings) if reading else None
    for progress in generate(lm, [prompt], distinct, decoding, known=known, keep=keep):
        if check is not None:
            check()
        done, late = all(answer.stopped_by for answer in progress.answers), time.monotonic() >= until
        if not (partial or done or late):
            continue
        answers = dict(zip(distinct, progress.answers, strict=True))
        results = tuple(_method_result(lm, m, streams, answers, facts, spent) for m, streams in plans.items())
        yield result(results, _seconds(lm, progress, spent), done)
        if late:
            return


def _seconds(lm: LanguageModel, progress: Progress | None, spent: float) -> dict[str, float]:
    """Times since the request began; `confidence` is the time spent on samples before, part of the others."""
    encode, first, total = (
        (progress.encode_seconds, progress.first_token_seconds, progress.total_seconds) if progress else (0.0, 0.0, 0.0)
    )
    seconds = {
        "load": lm.load_seconds,
        "encode": encode,
        "first_token": first + spent if first else 0.0,
        "decode": max(0.0, total - first) if first else 0.0,
        "total": total + spent,
    }
    return seconds | ({"confidence": spent} if spent else {})


def ask(lm: LanguageModel, question: str, paraphrases: Sequence[str] = (), **options: Any) -> Result:
    """The last Result of `stream` with the same arguments: the finished one, unless its time was up."""
    (finished,) = stream(lm, question, paraphrases, partial=False, **options)
    return finished
