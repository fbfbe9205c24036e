"""PageState: all that the page holds, made of the widgets' values and back, and what a host allows of it. Knows no
gradio and no HTML.

A value's name is that of its field; rows have numbered ones: `paraphrase-1` ..., and `weight-0` ..., the question's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ..answers.methods import check_names, resolve_methods
from ..answers.result import Result
from ..engine.loading import NAME
from ..engine.model import LanguageModel
from ..errors import InputError
from ..masks import renamed
from ..plan import Encoding, Scheme, check_encoding
from ..prompt import SegmentedPrompt, build_prompt
from ..request import FIELDS as REQUEST
from ..request import Face, Limits, Request, Texts, chosen, face_of, shortened

FORM = "form"  # in place of a side's strategy: the mask and positions that are set for the fused answer
WEIGHTED = ("weights", "raw")
FUSED, STANDARD = "form.aligned.weights", "causal.sequential.raw"
START_METHODS = ("flex", "per_prompt", "causal")
HEAVIEST = 10  # of a weight's slider


class PageState(Request):
    """What the page holds: a Request whose wordings may be blank, and how the page shows it.

    `weights` are the rows' numbers; `weights_from` says whether they count ("mine") or those by confidence. `left` and
    `right` are what the two sides answer with: a mask, or "form"; position scheme; "weights" or "raw". `model` is one
    of the names that a host offers, "" its default. What exists can be in a link.
    """

    methods: Annotated[Texts, face_of(REQUEST["methods"])] = Field(
        START_METHODS, description=REQUEST["methods"].description
    )
    weights_from: Annotated[Literal["mine", "confidence"], Face("weights", "Weights")] = "mine"
    left: Annotated[str, Face("left", "Left side")] = FUSED
    right: Annotated[str, Face("right", "Right side")] = STANDARD
    model: Annotated[str, Face("model", "Model")] = ""

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_shown(cls, value: Any, info: ValidationInfo) -> Any:
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and ("\0" in text or any("\ud800" <= c <= "\udfff" for c in text)):
                raise InputError("the text holds a NUL or half a character (a lone surrogate): type it again")
        if check := CHECKS.get(str(info.field_name)):
            check(value)
        return value

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PageState:
        """From the widgets' values, of which `used` rows of paraphrases count. InputError names what is wrong."""
        rows = rows_of(values)
        weights = [values["weight-0"], *(weight for _, weight in rows)]
        for i, weight in enumerate(weights, start=1):
            if weight is None:
                raise InputError(f"the weight of P{i} is empty: give a number, 0 or more")
        given = {name: _whole(values[name]) for name in SETTINGS}
        for name in NUMBERS:
            if given[name] is None:
                raise InputError(f"{LABELS[name]} is empty: give a number")
        return cls(
            **given,
            question=values["question"] or "",
            paraphrases=[text for text, _ in rows],
            weights=None if set(weights) == {1} else [float(weight) for weight in weights],
        )

    def values(self, room: int) -> dict[str, Any]:
        """What `of` reads; rows that are not in use, up to `room`, are blank."""
        count = len(self.wordings) if "all" in self.methods else 2  # one may be chosen that rows are still missing for
        first, *weights = self.weights or [1.0] * (1 + len(self.paraphrases))
        return {
            "question": self.question,
            "weight-0": first,
            **row_values(list(zip(self.paraphrases, weights, strict=True)), room),
            **{name: getattr(self, name) for name in SETTINGS},
            "methods": [method.name for method in resolve_methods(self.methods, count)],
        }

    @property
    def rows(self) -> tuple[int, ...]:
        """The wordings that hold text, the question always: wording i is called P(i + 1)."""
        return (0, *(i for i, text in enumerate(self.paraphrases, start=1) if text.strip()))

    @property
    def wordings(self) -> tuple[tuple[str, str], ...]:
        """(name, text) of the wordings that go into the prompt."""
        texts = (self.question, *self.paraphrases)
        return tuple((f"P{i + 1}", texts[i]) for i in self.rows)

    def asked(self, **more: Any) -> Request:
        """What a run asks for: blank rows are left out with their weights. `more` are settings of the page's own."""
        kept = chosen(self) | more
        kept["paraphrases"] = [text for _, text in self.wordings[1:]]
        if isinstance(self.weights, tuple):
            kept["weights"] = [self.weights[i] for i in self.rows]
        if self.weights_from == "confidence":
            kept["weights"] = "confidence"
        kept["mask"] = renamed(self.mask, self.numbers)
        return Request(**kept)

    @property
    def numbers(self) -> dict[str, str]:
        """What a request calls each wording of the page: blank rows leave no gap there."""
        return {name: f"P{i}" for i, (name, _) in enumerate(self.wordings, start=1)}

    def scheme(self, side: str) -> Scheme:
        """What a side stands for."""
        strategy, positions, weighted = side_parts(side)
        return Scheme(self.mask, self.positions) if strategy == FORM else Scheme(strategy, positions, weighted)

    @property
    def schemes(self) -> tuple[Scheme, Scheme]:
        """Those of the left and of the right side."""
        return self.scheme(self.left), self.scheme(self.right)

    @property
    def asks_fused(self) -> bool:
        """Whether one of the sides answers as the mask and positions are set."""
        return any(side_parts(side)[0] == FORM for side in (self.left, self.right))

    def compose(self, lm: LanguageModel, limits: Limits) -> SegmentedPrompt:
        """The prompt that a run packs, its wordings called as the page calls them: blank rows leave gaps.

        Where the run sets the weights, they are equal here. InputError for what cannot run here.
        """
        check_limits(limits, self)  # which calls each row what the page does
        asked = self.asked()
        prompt = self.named(packed(lm, limits, asked, asked.max_new_tokens))
        for scheme in self.schemes:
            check_encoding(scheme.encoding, prompt)
        return prompt

    def told(self, result: Result) -> Result:
        """A result with the page's names for its wordings, in its masks too."""
        names = {number: name for name, number in self.numbers.items()}

        def mask(facts: Mapping[str, Any]) -> dict[str, Any]:
            return {**facts, "strategy": renamed(facts["strategy"], names)}

        results = tuple(replace(each, mask=mask(each.mask)) for each in result.results)
        sides = tuple(
            replace(each, mask=mask(each.mask), method=Scheme.of(each.method).renamed(names).name)
            for each in result.sides
        )
        return replace(result, prompt=self.named(result.prompt), mask=mask(result.mask), results=results, sides=sides)

    def named(self, prompt: SegmentedPrompt) -> SegmentedPrompt:
        """A prompt of these wordings with the page's names for its segments."""
        starts = (segment.start for segment in prompt.paraphrases)
        names = dict(zip(starts, (name for name, _ in self.wordings), strict=True))
        segments = (replace(segment, name=names.get(segment.start, segment.name)) for segment in prompt.segments)
        return replace(prompt, segments=tuple(segments))


Row = tuple[str, float | None]  # text and weight of a paraphrase


def rows_of(values: Mapping[str, Any]) -> list[Row]:
    """The rows in use, from the widgets' values."""
    return [(values[f"paraphrase-{i}"] or "", values[f"weight-{i}"]) for i in range(1, values["used"] + 1)]


def row_values(rows: Sequence[Row], room: int) -> dict[str, Any]:
    """What `rows_of` reads; rows that are not in use are blank."""
    values: dict[str, Any] = {"used": len(rows)}
    for i, (text, weight) in enumerate([*rows, *[("", 1.0)] * (room - len(rows))], start=1):
        values |= {f"paraphrase-{i}": text, f"weight-{i}": weight}
    return values


def side_parts(side: str) -> tuple[str, str, bool]:
    """(mask or FORM, position scheme, whether weights act) of one side; InputError for what is none."""
    parts = side.split(".")
    if len(parts) != 3 or parts[2] not in WEIGHTED:
        raise InputError(f"{side[:60]!r} is no mask, positions and {' or '.join(WEIGHTED)}, such as anchor.aligned.raw")
    strategy, positions, weights = parts
    check_encoding(Encoding(positions=positions) if strategy == FORM else Encoding(strategy, positions))
    return strategy, positions, weights == WEIGHTED[0]


def _check_model(name: str) -> None:
    if name and not NAME.fullmatch(name):
        raise InputError(f"{name[:60]!r} is no name of a model")


# What names something is looked up in the table that it names.
CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "mask": lambda mask: check_encoding(Encoding(mask)),
    "positions": lambda positions: check_encoding(Encoding(positions=positions)),
    "methods": resolve_methods,
    "left": side_parts,
    "right": side_parts,
    "model": _check_model,
}
FIELDS = PageState.model_fields
FACES = {name: face for name, field in FIELDS.items() if (face := face_of(field))}
LABELS = {name: face.label for name, face in FACES.items()}
ROWS = ("question", "paraphrases", "weights")
SETTINGS = tuple(name for name in FACES if name not in ROWS)
NUMBERS = tuple(name for name in SETTINGS if FIELDS[name].annotation in (int, float))
LIMITED = {"max_new_tokens": "new_tokens", "samples": "samples"}  # the field of Limits that ends a setting's slider
SLIDERS = {name: face.slider for name, face in FACES.items() if face.slider}


def slider_of(name: str, limits: Limits) -> tuple[float, float, float]:
    """Lowest and highest value and step of a setting's slider."""
    low, high, step = SLIDERS[name]
    return low, getattr(limits, LIMITED[name]) if high is None else high, step


def _whole(value: Any) -> Any:
    """A number of a widget, which may tell a whole one with a point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_limits(limits: Limits, asked: Request) -> None:
    """Raise InputError for what the page does not take, before any tokenising."""
    for count, most, said in (
        (len(asked.paraphrases), limits.paraphrases, "{} paraphrases are too many: give at most {}"),
        (asked.max_new_tokens, limits.new_tokens, "an answer of {} tokens is too long: ask for at most {}"),
        (asked.samples, limits.samples, "{} samples of each wording are too many: draw at most {}"),
    ):
        if count > most:
            raise InputError(said.format(shortened(count), most))
    named = [("the question", asked.question), ("the prefix", asked.prefix)]
    named += [(f"paraphrase {i}", text) for i, text in enumerate(asked.paraphrases, start=1)]
    for what, text in named:
        if len(text) > limits.characters:
            raise InputError(
                f"{what} is too long: it has {len(text):,} characters, the limit is {limits.characters:,}; shorten it"
            )
        if "\0" in text:
            raise InputError(f"{what} contains a NUL character, which a page cannot show: remove it")


def token_limit(lm: LanguageModel, limits: Limits) -> int:
    """Tokens that prompt and answer may have together."""
    return min(limits.prompt_tokens, lm.context_length or limits.prompt_tokens)


def prompt_of(lm: LanguageModel, asked: Request) -> SegmentedPrompt:
    texts = {"prefix": asked.prefix, "template": asked.template}
    return build_prompt(lm.tokenizer, asked.question, asked.paraphrases, weights=asked.given_weights, **texts)


def packed(lm: LanguageModel, limits: Limits, asked: Request, new_tokens: int) -> SegmentedPrompt:
    """The prompt of a request, if it can run here and has room for `new_tokens`; else InputError."""
    check_limits(limits, asked)
    methods, prompt = check_names(asked), prompt_of(lm, asked)
    longest = max(len(each.token_ids) for each in (prompt, *(method.packed(prompt) for method in methods)))
    need, limit = longest + new_tokens, token_limit(lm, limits)
    if need > limit:
        raise InputError(
            f"prompt and answer need {need:,} tokens and the limit is {limit:,}: "
            "use fewer or shorter paraphrases, or a shorter answer"
        )
    return prompt
