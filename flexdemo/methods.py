"""METHODS, the one table behind UI, CLI and evaluation; `ask` and `stream` run it. Knows no page and no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from .config import Decoding, InputError
from .generation import Answer, Encoding, Progress, Stream, View, generate
from .masks import STRATEGIES, dense_mask, density, make_layout, make_mask_mod
from .metrics import answer_text
from .model import LanguageModel
from .prompt import POSITIONS, SegmentedPrompt, build_prompt, decode_ids, token_texts

SEGMENT = Encoding("segment", "aligned")
CAUSAL = Encoding("causal", "sequential")


@dataclass(frozen=True)
class Method:
    """One way to answer: the streams to decode, and which stream's answer speaks for it.

    `streams(prompt, encoding)` gets the encoding chosen for `flex`; the other methods have their own.
    """

    name: str
    label: str
    summary: str
    streams: Callable[[SegmentedPrompt, Encoding], tuple[Stream, ...]]
    spokesman: Callable[[Sequence[str]], int] = lambda answers: 0


def _alone(prompt: SegmentedPrompt, i: int, name: str) -> View:
    one_hot = tuple(float(j == i) for j in range(len(prompt.paraphrases)))
    return View(name, SEGMENT, one_hot, prompt.suffix_position("aligned", only=i))


def _flex(prompt: SegmentedPrompt, encoding: Encoding) -> tuple[Stream, ...]:
    return (Stream((View("flex", encoding, prompt.weights, prompt.suffix_position(encoding.positions)),)),)


def _origin(prompt: SegmentedPrompt, encoding: Encoding) -> tuple[Stream, ...]:
    return (Stream((_alone(prompt, 0, "origin"),)),)


def _per_prompt(prompt: SegmentedPrompt, encoding: Encoding) -> tuple[Stream, ...]:
    return tuple(Stream((_alone(prompt, i, s.name),)) for i, s in enumerate(prompt.paraphrases))


def _causal(prompt: SegmentedPrompt, encoding: Encoding) -> tuple[Stream, ...]:
    everything = (1.0,) * len(prompt.paraphrases)
    return (Stream((View("causal", CAUSAL, everything, prompt.suffix_position(CAUSAL.positions)),)),)


_ALL = (
    Method("flex", "Fused (flex)", "All paraphrases fused by the chosen mask, positions and weights.", _flex),
    Method("origin", "Question alone", "Only the question, as a plain prompt.", _origin),
    Method(
        "per_prompt",
        "Each paraphrase alone",
        "Each wording as a plain prompt; the first answer stands for all.",
        _per_prompt,
    ),
    Method(
        "causal",
        "Standard attention",
        "All paraphrases one after the other, every token seeing all before it.",
        _causal,
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})


@dataclass(frozen=True)
class ViewResult:
    """One view's own answer; `segment_mass` has a row for each token: prefix, P1..PN, suffix + own answer."""

    name: str
    weights: tuple[float, ...]
    suffix_position: int
    answer: str
    generation: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    segment_mass: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class MethodResult:
    """What one method answered; `seconds` is the time from the request to this method's last token."""

    method: str
    answer: str
    generation: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    stopped_by: str | None
    seconds: float
    mask: Mapping[str, Any]
    backend: str
    views: tuple[ViewResult, ...]


@dataclass(frozen=True)
class Result:
    """Everything one request produced, so far or in the end (`done`). `to_dict` is the JSON of the command line."""

    model: str
    device: str
    dtype: str
    backend: str
    mask: Mapping[str, Any]
    prompt: SegmentedPrompt
    position_ids: tuple[int, ...]
    results: tuple[MethodResult, ...]
    seconds: Mapping[str, float]
    done: bool

    def __getitem__(self, method: str) -> MethodResult:
        return next(result for result in self.results if result.method == method)

    def to_dict(self) -> dict[str, Any]:
        prompt = {
            "token_ids": list(self.prompt.token_ids),
            "tokens": list(self.prompt.tokens),
            "segment_ids": list(self.prompt.segment_ids),
            "position_ids": list(self.position_ids),
            "segments": [asdict(segment) for segment in self.prompt.segments],
        }
        return {
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "backend": self.backend,
            "mask": dict(self.mask),
            "prompt": prompt,
            "results": [asdict(result) for result in self.results],
            "seconds": dict(self.seconds),
        }


def check_encoding(encoding: Encoding) -> None:
    """Raise InputError for an unknown strategy or position scheme."""
    for what, name, table in (
        ("mask strategy", encoding.strategy, STRATEGIES),
        ("position scheme", encoding.positions, POSITIONS),
    ):
        if name not in table:
            raise InputError(f"unknown {what} {name!r}: choose from {', '.join(table)}")


def mask_array(prompt: SegmentedPrompt, strategy: str) -> np.ndarray:
    """The mask over the packed prompt as booleans (T, T), row = query, True = visible."""
    layout = make_layout(prompt.segment_ids, prompt.roles)
    return dense_mask(make_mask_mod(strategy, layout), layout)[0].numpy()


def mask_facts(prompt: SegmentedPrompt, encoding: Encoding) -> dict[str, Any]:
    """Strategy, positions and density of the mask over the packed prompt, suffix included, before weights hide any."""
    layout = make_layout(prompt.segment_ids, prompt.roles)
    visible = density(make_mask_mod(encoding.strategy, layout), layout)
    return {"strategy": encoding.strategy, "positions": encoding.positions, "density": visible}


def mask_dict(prompt: SegmentedPrompt, strategy: str, positions: str, against: str | None = None) -> dict[str, Any]:
    """The JSON of the command `mask` and of `/mask`: rows of 0 and 1 (1 = visible), a row for each query token."""
    rows = mask_array(prompt, strategy)
    facts = mask_facts(prompt, Encoding(strategy, positions))
    out: dict[str, Any] = {"rows": ["".join(map(str, row)) for row in rows.astype(int).tolist()], **facts}
    out["tokens"] = list(prompt.tokens)
    out["segment_ids"] = list(prompt.segment_ids)
    out["position_ids"] = list(prompt.position_ids(positions))
    if against is not None:
        other = mask_array(prompt, against)
        out["against"] = {
            **mask_facts(prompt, Encoding(against, positions)),
            "kept": int((rows & other).sum()),
            "removed": int((~rows & other).sum()),
            "added": int((rows & ~other).sum()),
        }
    return out


def resolve_methods(names: Sequence[str]) -> tuple[Method, ...]:
    """Methods by name, in order, each once; "all" stands for every one."""
    wanted = [name for given in names for name in (METHODS if given == "all" else (given,))]
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise InputError(f"unknown method {unknown[0]!r}: choose from all, {', '.join(METHODS)}")
    if not wanted:
        raise InputError(f"choose at least one method of {', '.join(METHODS)}")
    return tuple(METHODS[name] for name in dict.fromkeys(wanted))


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


def _method_result(
    lm: LanguageModel,
    method: Method,
    streams: Sequence[Stream],
    answers: Mapping[Stream, Answer],
    facts: Mapping[Encoding, Any],
) -> MethodResult:
    views = tuple(
        _view_result(lm, view, answers[stream], mass)
        for stream in streams
        for view, mass in zip(stream.views, answers[stream].masses, strict=True)
    )
    spokesmen = [views[sum(len(s.views) for s in streams[:i])] for i in range(len(streams))]
    index = method.spokesman([view.answer for view in spokesmen])
    spoken, answer = spokesmen[index], answers[streams[index]]
    return MethodResult(
        method.name,
        spoken.answer,
        spoken.generation,
        spoken.token_ids,
        spoken.tokens,
        spoken.logprobs,
        answer.stopped_by,
        max(answers[stream].seconds for stream in streams),
        facts[streams[0].views[0].encoding],
        lm.backend,
        views,
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
    prefix: str = "",
    template: str = "auto",
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    mass: bool = True,
) -> Iterator[Result]:
    """Yield the Result so far after the prompt is encoded and after every token; the last one is `done`.

    The question is P1 and `paraphrases` are P2..PN; `weights` has one number for each of them, or is "raw" (every
    weight 1). Closing the generator stops the work within one token. Raises InputError for what cannot be asked.
    """
    decoding = Decoding(max_new_tokens, temperature, top_p, seed, mass)
    chosen = resolve_methods(methods)
    encoding = Encoding(mask, positions)
    check_encoding(encoding)
    prompt = build_prompt(lm.tokenizer, question, paraphrases, weights=weights, prefix=prefix, template=template)
    position_ids = prompt.position_ids(positions)
    plans = {method: method.streams(prompt, encoding) for method in chosen}
    distinct = list(dict.fromkeys(s for streams in plans.values() for s in streams))
    used = {encoding} | {view.encoding for s in distinct for view in s.views}
    facts = {each: mask_facts(prompt, each) for each in used}

    def result(progress: Progress) -> Result:
        answers = dict(zip(distinct, progress.answers, strict=True))
        times = {
            "load": lm.load_seconds,
            "encode": progress.encode_seconds,
            "first_token": progress.first_token_seconds,
            "decode": max(0.0, progress.total_seconds - progress.first_token_seconds)
            if progress.first_token_seconds
            else 0.0,
            "total": progress.total_seconds,
        }
        return Result(
            lm.name,
            str(lm.device),
            lm.dtype,
            lm.backend,
            facts[encoding],
            prompt,
            position_ids,
            tuple(_method_result(lm, method, streams, answers, facts) for method, streams in plans.items()),
            times,
            all(answer.stopped_by for answer in progress.answers),
        )

    for progress in generate(lm, [prompt], distinct, decoding):
        yield result(progress)


def ask(lm: LanguageModel, question: str, paraphrases: Sequence[str] = (), **options: Any) -> Result:
    """The finished Result of `stream` with the same arguments."""
    *_, last = stream(lm, question, paraphrases, **options)
    return last
