"""Request: every setting once, with default, range, help and names; Limits. Knows no model, no page and no files.

Command line, endpoints, links, recordings and the page's form are made from the fields of Request. What a table names
(masks, positions, methods) is checked by whoever owns the table, see `answers.methods.check_names`.
"""

from __future__ import annotations

import inspect
import math
import reprlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from typing_extensions import Self

from .errors import InputError
from .prompt import normalise_weights

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
LENGTH = 60  # characters of a wrong value that are told
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 2, LENGTH, LENGTH


class SettingError(InputError):
    """A setting that cannot be used: `field` is its name, `said` what follows the name in the message."""

    def __init__(self, field: str, said: str) -> None:
        super().__init__(field, said)
        self.field, self.said = field, said

    def __str__(self) -> str:
        return f"{self.field}{self.said}"


@dataclass(frozen=True)
class Face:
    """What a setting is called where people meet it: its key in a link ("" for none), its label on the page, its flag
    and the sample value that help shows, and the slider's lowest and highest value (None: the host's limit) and step.
    A setting without a Face is for Python alone."""

    link: str = ""
    label: str = ""
    flag: str = ""
    metavar: str | None = None
    slider: tuple[float, float | None, float] | None = None


class Checked(BaseModel):
    """A frozen model whose values are what they say (no text becomes a number), with errors of one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise setting_error(type(self), error, given) from None

    def but(self, **changes: Any) -> Self:
        """The same with some settings changed, checked again."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)


Texts = Annotated[tuple[str, ...], Strict(False)]
Weights = Annotated[tuple[float, ...], Strict(False)] | Literal["raw", "confidence"] | None


class Request(Checked):
    """What is asked, and how. The question is wording P1, `paraphrases` are P2 and on; texts may be empty here, as the
    boxes of a page may. Raises SettingError, which names the setting and says what would be right."""

    question: Annotated[str, Face("q", "Question (P1)", metavar="QUESTION")] = Field(
        description="the question; it is wording P1"
    )
    paraphrases: Annotated[Texts, Face("p", "Paraphrases", "--paraphrase", "TEXT")] = Field(
        (), description="other wordings of the question, P2 and on"
    )
    methods: Annotated[Texts, Face("methods", "Methods", "--method", "NAME")] = Field(
        ("flex",), description="names of methods, or all; flex, the fused answer, by default"
    )
    mask: Annotated[str, Face("mask", "Mask strategy", metavar="MASK")] = Field(
        "segment",
        description="mask of the fused answer: a strategy, or one with pairs changed: segment+P2>P1-suffix>P3",
    )
    positions: Annotated[str, Face("positions", "Positions", metavar="SCHEME")] = Field(
        "aligned", description="position scheme of the fused answer"
    )
    weights: Annotated[Weights, Face("w", "Weights", metavar="1,2,0.5")] = Field(
        None, description="one number for each wording, or raw (every weight 1), or confidence; equal by default"
    )
    prefix: Annotated[str, Face("prefix", "Prefix", metavar="TEXT")] = Field(
        "", description="instruction or examples before the question, which every wording sees"
    )
    max_new_tokens: Annotated[int, Face("max_new_tokens", "Answer length", metavar="N", slider=(1, None, 1))] = Field(
        32, ge=1, description="limit of the answer's length, in tokens"
    )
    temperature: Annotated[float, Face("temperature", "Temperature", metavar="T", slider=(0, 2, 0.05))] = Field(
        0.0, ge=0, description="0 is greedy: always the likeliest token"
    )
    top_p: Annotated[float, Face("top_p", "Top-p", metavar="P", slider=(0.05, 1, 0.05))] = Field(
        1.0, gt=0, le=1, description="nucleus of sampling: the fewest tokens whose probabilities sum to it"
    )
    seed: Annotated[int, Face("seed", "Seed", metavar="N")] = Field(
        0, ge=0, le=2**32 - 1, description="seed of sampling"
    )
    samples: Annotated[int, Face("samples", "Samples", metavar="K", slider=(1, None, 1))] = Field(
        8, ge=1, le=64, description="answers sampled from each wording, for the weights by confidence"
    )
    sample_temperature: Annotated[
        float, Face("sample_temperature", "Their temperature", metavar="T", slider=(0.1, 2, 0.05))
    ] = Field(0.7, gt=0, description="temperature of those samples")
    # APE is held to a range in which float32 keeps every score finite and exact enough for all backends to agree.
    ape_temperature: Annotated[float, Face("ape_temperature", "Attention T", metavar="T", slider=(0.1, 2, 0.05))] = (
        Field(1.0, ge=0.01, le=100, description="APE temperature T of the fused answer; 1 is plain attention")
    )
    ape_scale: Annotated[float, Face("ape_scale", "Attention S", metavar="S", slider=(0.1, 2, 0.05))] = Field(
        1.0, ge=0.01, le=100, description="APE scale S of the fused answer; 1 is plain attention"
    )
    template: Annotated[Literal["auto", "plain", "chat"], Face("template", "Template", metavar="NAME")] = Field(
        "auto", description="auto, plain (Q: ... A:) or chat (the model's own)"
    )
    hidden_layer: Annotated[int, Face("hidden_layer", "Layer of hidden_avg", metavar="L")] = Field(
        0,
        ge=0,
        le=1000,
        description="hidden_avg mixes the wordings from the output of this layer on, counted from 1; 0 is two thirds "
        "of the model's layers, rounded to the nearest",
    )
    mass: bool = Field(True, description="record the attention mass by segment")
    candidates: int = Field(0, ge=0, description="how many of the likeliest tokens are kept at each step")

    @model_validator(mode="after")
    def _one_weight_a_wording(self) -> Self:
        if isinstance(self.weights, tuple):
            try:
                normalise_weights(self.weights, 1 + len(self.paraphrases))
            except InputError as error:
                raise SettingError("weights", f": {error}") from error
        return self

    @property
    def by_confidence(self) -> bool:
        return self.weights == "confidence"

    @property
    def given_weights(self) -> tuple[float, ...] | str | None:
        """The weights that the prompt begins with: equal ones where samples will tell."""
        return None if self.by_confidence else self.weights

    @property
    def decoding(self) -> Decoding:
        return Decoding(
            self.max_new_tokens, self.temperature, self.top_p, self.seed, self.mass, candidates=self.candidates
        )

    @property
    def ape(self) -> Ape:
        return Ape(self.ape_temperature, self.ape_scale)


FIELDS: Mapping[str, FieldInfo] = Request.model_fields


def face_of(field: FieldInfo) -> Face | None:
    """What people call a setting; None for one of Python alone."""
    return next((each for each in field.metadata if isinstance(each, Face)), None)


def default(name: str) -> Any:
    """The default of a setting."""
    return FIELDS[name].default


def chosen(values: Request) -> dict[str, Any]:
    """The settings that differ from their defaults, which are nobody's choice: a form holds a value for each."""
    return {name: value for name in FIELDS if (value := getattr(values, name)) != default(name)}


def check_settings(**given: Any) -> None:
    """Raise SettingError for the first of these settings that is out of its range or of another kind."""
    Request(**{"question": "", **given})


def range_of(field: FieldInfo) -> str:
    """The range of a setting in words; "" where every value of its kind will do."""
    bounds = {type(each): each for each in field.metadata}
    low, high, above = (bounds.get(kind) for kind in (Ge, Le, Gt))
    if low and high:
        return f"from {low.ge:.10g} to {high.le:.10g}"
    said = [f"above {above.gt:g}" if above else "", f"at most {high.le:g}" if high else ""]
    if low:
        said = [f"at least {low.ge:g}" if low.ge else "0 or more"]
    return " and ".join(filter(None, said))


def kind_of(annotation: Any) -> str:
    """The kind of a setting's values in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(parts[0])
    if origin is Literal:
        return " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    if origin is tuple:
        return "a list of texts" if parts[0] is str else "a list of numbers, one for each wording"
    if parts:
        return ", or ".join(kind_of(part) for part in parts if part is not NoneType)
    return WORDS[annotation]


def shortened(value: Any) -> str:
    """A value of anybody's as it would be written, on one line and not too long."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    said = SHORT.repr(value)
    return said if len(said) <= LENGTH else f"{said[: LENGTH - 3]}..."


def setting_error(model: type[BaseModel], error: ValidationError, given: Mapping[str, Any]) -> SettingError:
    """What pydantic found first, in one line that names the setting and says what would be right."""
    found = error.errors(include_url=False)[0]
    if isinstance(own := found.get("ctx", {}).get("error"), SettingError):
        return own
    name, kind = str(found["loc"][0])[:LENGTH], found["type"]
    if kind == "extra_forbidden":
        return SettingError(name, f": there is no such setting: choose from {', '.join(model.model_fields)}")
    if kind == "missing":
        return SettingError(name, " is missing")
    if isinstance(own, InputError):
        return SettingError(name, f": {own}")
    field = model.model_fields[name]
    right = kind_of(field.annotation)
    if kind in ("greater_than", "greater_than_equal", "less_than_equal"):
        right = range_of(field)
    elif kind == "finite_number":
        right = "a finite number"
    return SettingError(name, f" must be {right}, not {shortened(given[name])}")


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen, and when to stop; made from a Request, which has checked it.

    temperature 0 is greedy. top_p keeps the smallest set of tokens whose probabilities sum to at least top_p
    (Holtzman et al., 2020, https://arxiv.org/abs/1904.09751). `mass` records the attention mass by segment, `detail`
    also by layer and head, and to every token. `candidates` is how many next tokens are kept at each step.
    """

    max_new_tokens: int = default("max_new_tokens")
    temperature: float = default("temperature")
    top_p: float = default("top_p")
    seed: int = default("seed")
    mass: bool = default("mass")
    detail: bool = False
    candidates: int = default("candidates")


@dataclass(frozen=True)
class Ape:
    """Temperature T and scale S on a fused view's attention to paraphrases (APE, https://arxiv.org/abs/2502.05431).

    Scores of paraphrase keys are divided by T, and their log-sum-exp is multiplied by S * T before it is merged with
    the rest; log-weights are added after the division, so that N copies of a wording at 1/N still count as one.
    T = S = 1 is plain softmax.
    """

    temperature: float = default("ape_temperature")
    scale: float = default("ape_scale")

    @property
    def is_plain(self) -> bool:
        return self.temperature == 1 and self.scale == 1


PLAIN = Ape()


def wire_type(annotation: Any) -> Any:
    """The type of a setting's values as JSON has them: lists for tuples, texts for fixed words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return wire_type(parts[0])
    if origin is Literal:
        return str
    if origin is tuple:
        return list[parts[0]]
    if not parts:
        return annotation
    joined = wire_type(parts[0])
    for part in parts[1:]:
        joined = joined | wire_type(part)
    return joined


def parameters_of(model: type[BaseModel]) -> list[inspect.Parameter]:
    """The fields of a model as parameters of a function; a list may be None for its default."""
    made = []
    for name, field in model.model_fields.items():
        kind, usual = wire_type(field.annotation), field.default
        if field.is_required():
            usual = inspect.Parameter.empty
        elif isinstance(usual, tuple):
            kind, usual = kind | None, None
        made.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=usual, annotation=kind))
    return made


@dataclass(frozen=True)
class Limits:
    """What one request to the page may ask for; `seconds` is how long it may compute, None for as long as it takes."""

    paraphrases: int = 10
    characters: int = 2000
    prompt_tokens: int = 8192
    new_tokens: int = 256
    samples: int = 32
    seconds: float | None = None
    file_bytes: int = 20_000_000
    file_rows: int = 200_000

    def until(self) -> float:
        """When a request that begins now has had its seconds, on the clock of `time.monotonic`; inf for never."""
        return math.inf if self.seconds is None else time.monotonic() + self.seconds

    def time_is_up(self) -> str:
        """What is said of a request that was stopped at `until()`."""
        return (
            f"stopped after {self.seconds:g} seconds, the most that a request may take here: what was answered until "
            "then is kept; ask for a shorter answer, fewer methods or fewer paraphrases"
        )
