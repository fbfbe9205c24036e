"""What a visitor entered and whether it can run: the form, its limits, its prompt. Knows no gradio and no HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..answers.methods import check_names
from ..engine.model import LanguageModel
from ..errors import InputError
from ..prompt import SegmentedPrompt, build_prompt
from ..request import FIELDS, Limits, Request, default, face_of, shortened

GIVEN, CONFIDENCE = "given", "confidence"  # where weights come from: the visitor, or samples


@dataclass(frozen=True)
class Form:
    """What one visitor entered. Row k of `paraphrases` is called P(k + 2); blank rows are left out of the prompt.

    Settings that Request has too are as the widgets gave them, None where one was emptied.
    """

    question: str
    paraphrases: tuple[str, ...]
    weights: tuple[float | None, ...]
    strategy: str
    positions: str
    methods: tuple[str, ...]
    max_new_tokens: int | None = default("max_new_tokens")
    temperature: float | None = default("temperature")
    top_p: float | None = default("top_p")
    seed: int | None = default("seed")
    prefix: str = default("prefix")
    weights_from: str = GIVEN
    samples: int | None = default("samples")
    sample_temperature: float | None = default("sample_temperature")
    ape_temperature: float | None = default("ape_temperature")
    ape_scale: float | None = default("ape_scale")
    model: str = ""  # name of one of the models offered; "" is the default

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Form:
        """From the widgets' values: question, rows, weights (the question's first), then the settings in order."""
        settings = len(fields(cls)) - 3
        rows = (len(values) - 2 - settings) // 2
        question, texts, weights = values[0], values[1 : 1 + rows], values[1 + rows : 2 + 2 * rows]
        strategy, positions, methods, length, temperature, top_p, seed, prefix, *weighing = values[-settings:]
        decoding = (length, temperature, top_p, seed)
        named = (question or "", tuple(text or "" for text in texts), tuple(weights))
        return cls(*named, strategy, positions, tuple(methods or ()), *decoding, prefix or "", *weighing)

    @property
    def filled(self) -> tuple[int, ...]:
        """Rows that hold text, as indices."""
        return tuple(i for i, text in enumerate(self.paraphrases) if text.strip())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the wordings as the page shows them, the question's first."""
        return ("P1", *(f"P{i + 2}" for i in self.filled))

    @property
    def wordings(self) -> tuple[tuple[str, str], ...]:
        """(name, text) of the wordings that go into the prompt."""
        return tuple(zip(self.names, (self.question, *(self.paraphrases[i] for i in self.filled)), strict=True))

    @property
    def by_confidence(self) -> bool:
        return self.weights_from == CONFIDENCE

    @property
    def settings(self) -> tuple[Any, ...]:
        """All that the answers depend on beside wordings, their weights and the model."""
        decoding = (self.max_new_tokens, self.temperature, self.top_p, self.seed)
        ape = (self.ape_temperature, self.ape_scale)
        return (self.strategy, self.positions, *decoding, self.prefix, self.weights_from, *ape)

    @property
    def used_weights(self) -> tuple[float, ...] | None:
        """The weights entered for `wordings`; None if the run sets them."""
        if self.by_confidence:
            return None
        chosen = [self.weights[0], *(self.weights[i + 1] for i in self.filled)]
        for name, weight in zip(self.names, chosen, strict=True):
            if weight is None:
                raise InputError(f"the weight of {name} is empty: give a number, 0 or more")
            check_number(f"the weight of {name}", weight)
        return tuple(float(weight) for weight in chosen if weight is not None)

    def request(self, **more: Any) -> Request:
        """What a run asks for, with `more` settings that the page sets itself."""
        numbers = {}
        for name in NUMBERS:
            value = getattr(self, name)
            if value is None:
                raise InputError(f"{LABELS[name]} is empty: give a number")
            numbers[name] = int(value) if isinstance(value, float) and value.is_integer() else value
        return Request(
            question=self.question,
            paraphrases=[self.paraphrases[i] for i in self.filled],
            methods=self.methods,
            mask=self.strategy,
            positions=self.positions,
            weights=CONFIDENCE if self.by_confidence else self.used_weights,
            prefix=self.prefix,
            **numbers,
            **more,
        )


SHARED = tuple(each.name for each in fields(Form) if each.name in FIELDS)
NUMBERS = tuple(name for name in SHARED if FIELDS[name].annotation in (int, float))
LABELS = {name: face.label for name, field in FIELDS.items() if (face := face_of(field))}


LIMITED = {"max_new_tokens": "new_tokens", "samples": "samples"}  # the field of Limits that ends a setting's slider
SLIDERS = {name: face.slider for name, field in FIELDS.items() if (face := face_of(field)) and face.slider}


def slider_of(name: str, limits: Limits) -> tuple[float, float, float]:
    """Lowest and highest value and step of a setting's slider."""
    low, high, step = SLIDERS[name]
    return low, getattr(limits, LIMITED[name]) if high is None else high, step


def is_number(value: Any) -> bool:
    """Whether it is a finite number that fits in a float; truth values and texts are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def check_number(what: str, value: Any) -> None:
    if not is_number(value):
        raise InputError(f"{what} must be a number, not {shortened(value)}")


def check_request(
    limits: Limits,
    question: str,
    paraphrases: Sequence[str],
    *,
    prefix: str = "",
    max_new_tokens: int = 1,
    samples: int = 1,
    methods: int = 1,
) -> None:
    """Raise InputError for what the page does not take, before any tokenising."""
    if len(paraphrases) > limits.paraphrases:
        raise InputError(f"{len(paraphrases)} paraphrases are too many: give at most {limits.paraphrases}")
    named = [("the question", question), ("the prefix", prefix)]
    named += [(f"paraphrase {i}", text) for i, text in enumerate(paraphrases, start=1)]
    for what, text in named:
        if len(text) > limits.characters:
            raise InputError(
                f"{what} is too long: it has {len(text):,} characters, the limit is {limits.characters:,}; shorten it"
            )
        if "\0" in text:
            raise InputError(f"{what} contains a NUL character, which a page cannot show: remove it")
    if max_new_tokens > limits.new_tokens:
        asked = shortened(max_new_tokens)
        raise InputError(f"an answer of {asked} tokens is too long: ask for at most {limits.new_tokens}")
    if samples > limits.samples:
        raise InputError(f"{samples} samples of each wording are too many: draw at most {limits.samples}")
    if limits.methods is not None and methods > limits.methods:
        raise InputError(f"{methods} methods are too many: choose at most {limits.methods}")


def check_limits(limits: Limits, request: Request) -> None:
    """`check_request` of a whole request."""
    lengths = {"max_new_tokens": request.max_new_tokens, "samples": request.samples}
    count = len(set(request.methods) - {"all"})
    check_request(limits, request.question, request.paraphrases, prefix=request.prefix, methods=count, **lengths)


def token_limit(lm: LanguageModel, limits: Limits) -> int:
    """Tokens that prompt and answer may have together."""
    return min(limits.prompt_tokens, lm.context_length or limits.prompt_tokens)


def check_room(lm: LanguageModel, limits: Limits, prompt: SegmentedPrompt, max_new_tokens: int) -> None:
    need, limit = len(prompt.token_ids) + max_new_tokens, token_limit(lm, limits)
    if need > limit:
        raise InputError(
            f"prompt and answer need {need:,} tokens and the limit is {limit:,}: "
            "use fewer or shorter paraphrases, or a shorter answer"
        )


def compose(lm: LanguageModel, limits: Limits, form: Form) -> SegmentedPrompt:
    """The prompt that a run of this form would pack, its segments named as the page names them.

    Where the run sets the weights, they are equal here.
    """
    request = form.request()
    check_limits(limits, request)
    check_names(request)
    prompt = build_prompt(
        lm.tokenizer, request.question, request.paraphrases, weights=request.given_weights, prefix=request.prefix
    )
    check_room(lm, limits, prompt, request.max_new_tokens)
    return named(prompt, form)


def named(prompt: SegmentedPrompt, form: Form) -> SegmentedPrompt:
    """The prompt with its segments called as the page calls the wordings: blank rows leave gaps in the numbers."""
    names = dict(zip((segment.start for segment in prompt.paraphrases), form.names, strict=True))
    segments = (replace(segment, name=names.get(segment.start, segment.name)) for segment in prompt.segments)
    return replace(prompt, segments=tuple(segments))
