"""`ask` and `stream`: one request through the engine, a Result after every token. Knows no page and no files."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..engine.decode import Answer, Progress, generate
from ..engine.model import LanguageModel
from ..engine.reading import Prefill, Reading, check_room, prefill
from ..errors import InputError
from ..plan import Encoding, Scheme, Stream, View, check_encoding, mask_facts
from ..prompt import SegmentedPrompt, build_prompt, decode_ids, normalise_weights, token_texts
from ..request import Request, parameters_of, shortened
from .methods import SEGMENT, Method, check_names, one_by_one, plan_all
from .metrics import answer_text, is_reasoning, normalise
from .result import Candidate, Confidence, MethodResult, Result, ViewResult

REASONING = 512  # tokens behind a prompt that begins the model's reasoning, where nobody chose a length
WITH_ROOM = "the prompt begins the model's reasoning: its answer may have {} tokens (max_new_tokens)"
STILL_REASONING = "the model was still reasoning after {} tokens, which is no answer: give it more (max_new_tokens)"
NEVER_ANSWERED = (
    "the model ended without </think>, so all that it wrote is reasoning and no answer: "
    "if it does not reason, use template plain"
)


def _view_result(
    lm: LanguageModel, prompt: SegmentedPrompt, view: View, answer: Answer, mass: tuple[tuple[float, ...], ...]
) -> ViewResult:
    text = decode_ids(lm.tokenizer, answer.token_ids, skip_special=True)
    tokens = tuple(token_texts(lm.tokenizer, answer.token_ids))
    width = len(view.weights) + 2  # prefix, paraphrases, suffix + own answer
    return ViewResult(
        view.name,
        view.weights,
        view.suffix_position,
        answer_text(text, thinking=prompt.opens_thinking),
        text,
        answer.token_ids,
        tokens,
        answer.logprobs,
        tuple(row[:width] for row in mass if row),
    )


def told(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    method: Method,
    streams: Sequence[Stream],
    answers: Mapping[Stream, Answer],
) -> tuple[tuple[ViewResult, ...], ViewResult, Stream]:
    """What every view of a method answered, which of them speaks for the method, and the stream it is of."""
    views = tuple(
        _view_result(lm, prompt, view, answers[stream], mass)
        for stream in streams
        for view, mass in zip(stream.views, answers[stream].masses, strict=True)
    )
    firsts = [sum(len(s.views) for s in streams[:i]) for i in range(len(streams))]
    index = method.spokesman([views[first].answer for first in firsts])
    return views, views[firsts[index]], streams[index]


def _method_result(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    method: Method,
    streams: Sequence[Stream],
    answers: Mapping[Stream, Answer],
    facts: Mapping[tuple[int, Encoding], Any],
) -> MethodResult:
    views, spoken, chosen = told(lm, prompt, method, streams, answers)
    return MethodResult(
        method.name,
        spoken.answer,
        spoken.generation,
        spoken.token_ids,
        spoken.tokens,
        spoken.logprobs,
        answers[chosen].stopped_by,
        max(answers[stream].seconds for stream in streams),
        facts[chosen.prompt, streams[0].views[0].encoding],
        lm.backend,
        views,
        tuple(
            tuple(Candidate(token, *token_texts(lm.tokenizer, [token]), share) for token, share in step)
            for step in answers[chosen].candidates
        ),
    )


def measure_confidence(
    lm: LanguageModel, prompt: SegmentedPrompt, request: Request, known: Prefill
) -> Iterator[Confidence | None]:
    """Yield None after every token, so that the work can be stopped, and in the end how often the sampled answers of
    each wording alone agree with its greedy one; all of them decode as rows of one batch."""
    count, warmth = request.samples, request.sample_temperature
    streams = [
        Stream((view,), seed=i * count + k, temperature=warmth if k else 0.0)
        for i, view in enumerate(one_by_one(prompt))
        for k in range(count + 1)
    ]
    for progress in generate(lm, [prompt], streams, replace(request.decoding, mass=False, candidates=0), known=known):
        answers = progress.answers
        yield None
    texts = [decode_ids(lm.tokenizer, answer.token_ids, skip_special=True) for answer in answers]
    forms = [normalise(answer_text(text, thinking=prompt.opens_thinking)) for text in texts]
    shares = []
    for start in range(0, len(forms), count + 1):
        greedy, *sampled = forms[start : start + count + 1]
        shares.append(sampled.count(greedy) / count)
    yield Confidence(tuple(shares), count, warmth)


def confidence_weights(confidence: Confidence) -> tuple[float, ...]:
    """The shares, normalised to sum to 1; equal weights where no sample agrees, as then nothing is known."""
    shares = confidence.shares
    return normalise_weights(shares if any(shares) else None, len(shares))


@dataclass
class Pace:
    """Which results of a stream are worth showing: one each `seconds`, the first token at once; none before the first
    token where the prompt is `known`."""

    seconds: float
    known: bool = False
    shown: float = -math.inf
    answering: bool = False

    def __call__(self, tokens: int) -> bool:
        now, begun = time.monotonic(), tokens > 0
        due = now - self.shown >= self.seconds or begun > self.answering
        if not due or (self.known and not begun):
            return False
        self.shown, self.answering = now, begun
        return True


Asked = TypeVar("Asked", bound=Request)


def with_room(lm: LanguageModel, request: Asked, prompts: Sequence[SegmentedPrompt], most: int = REASONING) -> Asked:
    """The request with up to `most` tokens for the reasoning that its prompts begin, where nobody chose a length."""
    if "max_new_tokens" in request.model_fields_set or not any(prompt.opens_thinking for prompt in prompts):
        return request
    left = (lm.context_length or math.inf) - max(len(prompt.token_ids) for prompt in prompts)
    return request.but(max_new_tokens=max(request.max_new_tokens, min(most, left)))


def stream(
    lm: LanguageModel,
    question: str | Request,
    paraphrases: Sequence[str] = (),
    *,
    wanted: Callable[[int], bool] = lambda tokens: True,
    schemes: Sequence[Scheme] = (),
    reading: Reading | None = None,
    reasoning: int = REASONING,
    until: float = math.inf,
    check: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Iterator[Result]:
    """Yield the Result so far after the prompt is encoded and after every token; the last one is `done`.

    `wanted` is asked each time, with the number of tokens so far, whether the Result is to be made; the last one always
    is, and without it the others cost nothing.

    The question is P1 and `paraphrases` are P2..PN; `settings` are the other fields of a Request, or the question is a
    Request that holds everything. `schemes` are decoded in the same lockstep, as the Result's `sides`. A prompt that
    `reading` holds is not read again; afterwards it holds this one. A prompt that begins the model's reasoning has
    `reasoning` tokens for it if the request has no length of its own. Closing the generator stops the work within one
    token, and so does what `check`, called after every token, raises, and the time `until` (of `time.monotonic`): then
    the last Result is not `done`. Raises InputError for what cannot be asked.
    """
    began = time.perf_counter()
    if not isinstance(lm, LanguageModel):
        raise InputError(f"lm must be a model that load_model gave, not {shortened(lm)}: flexdemo.load_model(...)")
    request = _request(question, paraphrases, settings)
    chosen = check_names(request)
    for each in schemes:
        check_encoding(each.encoding)
    prompt = build_prompt(
        lm.tokenizer, request.question, request.paraphrases,
        weights=request.given_weights, prefix=request.prefix, template=request.template,
    )  # fmt: skip
    packed = [method.packed(prompt) for method in chosen]
    given, request = request, with_room(lm, request, packed, reasoning)
    for each in packed:  # before a mask is counted: what no model holds may be very long
        check_room(lm, each, request.max_new_tokens)
    decoding, encoding = request.decoding, Encoding(request.mask, request.positions)
    known, confidence, spent = reading.known(prompt) if reading else None, None, 0.0
    facts = {(0, encoding): mask_facts(prompt, encoding)}

    def result(results: tuple[MethodResult, ...], seconds: Mapping[str, float], done: bool) -> Result:
        views = [view for each in results for view in each.views] if done else []
        thinks = [view for view in views if is_reasoning(view.generation, thinking=prompt.opens_thinking)]
        cut = {len(view.token_ids) >= request.max_new_tokens for view in thinks}
        holding = ((WITH_ROOM, request is not given), (STILL_REASONING, True in cut), (NEVER_ANSWERED, False in cut))
        said = [text for text, holds in holding if holds]
        notes = (*lm.notes, *(text.format(request.max_new_tokens) for text in said))
        where = (lm.name, str(lm.device), lm.dtype, lm.backend)
        asked = (facts[0, encoding], prompt, prompt.position_ids(request.positions))
        answered = (results[: len(chosen)], seconds, done, request, confidence, results[len(chosen) :])
        return Result(*where, *asked, *answered, notes)

    if request.by_confidence:
        sampling = time.perf_counter()
        known = prefill(lm, {SEGMENT: [prompt]}, known)
        for measured in measure_confidence(lm, prompt, request, known):
            check()
            now, late = time.perf_counter(), time.monotonic() >= until
            confidence, spent = measured, now - sampling
            if wanted(0) or late:
                yield result((), _seconds(lm, Progress((), 0, spent, 0.0, now - began), spent), False)
            if late:
                return
        assert confidence is not None
        prompt = prompt.reweighted(confidence_weights(confidence))

    sides = [
        Method(each.name, each.name, "", lambda prompt, fused, each=each: (Stream((each.view(prompt),)),))
        for each in dict.fromkeys(schemes)
    ]
    batch, (plans,) = plan_all([prompt], (*chosen, *sides), request, depth=lm.depth)
    distinct = list(dict.fromkeys(s for streams in plans.values() for s in streams))
    read = {(each.prompt, view.encoding) for each in distinct for view in each.views}
    facts |= {(place, each): mask_facts(batch[place], each) for place, each in read - set(facts)}
    keep = reading.keep if reading else None
    for progress in generate(lm, batch, distinct, decoding, known=known, keep=keep, began=began):
        check()
        done, late = all(answer.stopped_by for answer in progress.answers), time.monotonic() >= until
        tokens = max(len(answer.token_ids) for answer in progress.answers)
        if not (wanted(tokens) or done or late):
            continue
        answers = dict(zip(distinct, progress.answers, strict=True))
        results = tuple(_method_result(lm, prompt, m, streams, answers, facts) for m, streams in plans.items())
        yield result(results, _seconds(lm, progress, spent), done)
        if late:
            return


def _seconds(lm: LanguageModel, progress: Progress, spent: float) -> dict[str, float]:
    """Times since the request began; `confidence` is the time `spent` on samples, part of all others but `encode`."""
    first, total = progress.first_token_seconds, progress.total_seconds
    seconds = {
        "load": lm.load_seconds,
        "encode": progress.encode_seconds - spent,
        "first_token": first,
        "decode": max(0.0, total - first) if first else 0.0,
        "total": total,
    }
    return seconds | ({"confidence": spent} if spent else {})


def ask(lm: LanguageModel, question: str | Request, paraphrases: Sequence[str] = (), **options: Any) -> Result:
    """The last Result of `stream` with the same arguments: the finished one, unless its time was up."""
    (finished,) = stream(lm, question, paraphrases, wanted=lambda tokens: False, **options)
    return finished


def _request(question: str | Request, paraphrases: Sequence[str], settings: Mapping[str, Any]) -> Request:
    if not isinstance(question, Request):
        return Request(question=question, paraphrases=paraphrases, **settings)
    given = {**settings, **({"paraphrases": paraphrases} if paraphrases else {})}
    if given:
        raise InputError(f"a Request holds {min(given)} already: use request.but({min(given)}=...)")
    return question


def _tell_settings(function: Callable[..., Any]) -> None:
    """Show the fields of Request in a function's signature, for help() and editors, in place of `settings`."""
    *own, _ = inspect.signature(function).parameters.values()
    names = [each.name for each in own]
    fields = [each for each in parameters_of(Request) if each.name not in names]
    function.__signature__ = inspect.Signature([*own, *(each.replace(kind=each.KEYWORD_ONLY) for each in fields)])


_tell_settings(stream)
_tell_settings(ask)
