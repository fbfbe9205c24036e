"""What a visitor entered and whether it can run: the form, its limits, its prompt. Knows no gradio and no HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..engine.model import LanguageModel
from ..errors import InputError
from ..plan import Encoding, check_encoding
from ..prompt import SegmentedPrompt, build_prompt
from ..request import Ape, Limits, Samples

ROWS = 10
GIVEN, CONFIDENCE = "given", "confidence"  # where weights come from: the visitor, or samples


@dataclass(frozen=True)
class Form:
    """What one visitor entered. Row k of `paraphrases` is called P(k + 2); blank rows are left out of the prompt."""

    question: str
    paraphrases: tuple[str, ...]
    weights: tuple[float | None, ...]
    strategy: str
    positions: str
    methods: tuple[str, ...]
    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    prefix: str
    weights_from: str = GIVEN
    samples: int | None = Samples.count
    sample_temperature: float | None = Samples.temperature
    ape_temperature: float | None = Ape.temperature
    ape_scale: float | None = Ape.scale
    model: str = ""  # name of one of the models offered; "" is the default

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Form:
        """From the widgets' values: question, rows, weights (the question's first), then the settings in order."""
        question, rows, weights = values[0], values[1 : 1 + ROWS], values[1 + ROWS : 2 + 2 * ROWS]
        strategy, positions, methods, length, temperature, top_p, seed, prefix, *weighing = values[2 + 2 * ROWS :]
        texts, chosen = tuple(row or "" for row in rows), tuple(methods or ())
        decoding = (length, temperature, top_p, seed)
        return cls(
            question or "", texts, tuple(weights), strategy, positions, chosen, *decoding, prefix or "", *weighing
        )

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

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `flexdemo.stream`."""
        numbers = {
            "max_new_tokens": ("the answer length", self.max_new_tokens, int),
            "temperature": ("the temperature", self.temperature, float),
            "top_p": ("top-p", self.top_p, float),
            "seed": ("the seed", self.seed, int),
            "samples": ("the number of samples", self.samples, int),
            "sample_temperature": ("the samples' temperature", self.sample_temperature, float),
            "ape_temperature": ("the attention temperature", self.ape_temperature, float),
            "ape_scale": ("the attention scale", self.ape_scale, float),
        }
        for what, value, _ in numbers.values():
            if value is None:
                raise InputError(f"{what} is empty: give a number")
            check_number(what, value)
        return {
            "question": self.question,
            "paraphrases": [self.paraphrases[i] for i in self.filled],
            "methods": self.methods,
            "mask": self.strategy,
            "positions": self.positions,
            "weights": CONFIDENCE if self.by_confidence else self.used_weights,
            "prefix": self.prefix,
            **{name: convert(value) for name, (_, value, convert) in numbers.items() if value is not None},
        }


def is_number(value: Any) -> bool:
    """Whether it is a finite number that fits in a float; truth values and texts are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def check_number(what: str, value: Any) -> None:
    if not is_number(value):
        raise InputError(f"{what} must be a number, not {shortened(value)}")


def shortened(value: Any) -> str:
    """A value of anybody's as it would be written, on one line and not too long."""
    if isinstance(value, str | list | dict):
        value = value[:60] if not isinstance(value, dict) else dict(list(value.items())[:3])
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."


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
    if methods > limits.methods:
        raise InputError(f"{methods} methods are too many: choose at most {limits.methods}")


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
    arguments = form.arguments()
    check_encoding(Encoding(form.strategy, form.positions))
    length = arguments["max_new_tokens"]
    lengths = {"max_new_tokens": length, "samples": arguments["samples"], "methods": len(form.methods)}
    check_request(limits, form.question, arguments["paraphrases"], prefix=form.prefix, **lengths)
    Samples(arguments["samples"], arguments["sample_temperature"])
    Ape(arguments["ape_temperature"], arguments["ape_scale"])
    prompt = build_prompt(
        lm.tokenizer, form.question, arguments["paraphrases"], weights=form.used_weights, prefix=form.prefix
    )
    check_room(lm, limits, prompt, length)
    return named(prompt, form)


def named(prompt: SegmentedPrompt, form: Form) -> SegmentedPrompt:
    """The prompt with its segments called as the page calls the wordings: blank rows leave gaps in the numbers."""
    names = dict(zip((segment.start for segment in prompt.paraphrases), form.names, strict=True))
    segments = (replace(segment, name=names.get(segment.start, segment.name)) for segment in prompt.segments)
    return replace(prompt, segments=tuple(segments))
