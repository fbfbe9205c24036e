"""What the page holds, as the query of a link, and back. Knows no widgets and runs no model.

Short states are readable parameters; longer ones are one parameter `z`, base64url of zlib of compact JSON.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any
from urllib.parse import quote_plus, unquote_to_bytes

from ..answers.methods import resolve_methods
from ..engine.loading import NAME
from ..errors import InputError
from ..plan import Encoding, check_encoding
from ..prompt import normalise_weights
from ..request import Ape, Decoding, Limits, Samples, check_seed

READABLE = 1_500  # characters up to which a link shows what it holds
LONGEST = 48_000  # characters of a query; servers refuse request lines of more than about 64,000
UNPACKED = 64 * 1024  # bytes that `z` may hold, so that a small link cannot ask for a large memory
SOURCES = ("mine", "confidence")
FORM = "form"  # in place of a side's mask strategy: the form's
WEIGHTED = ("weights", "raw")
SHOWN = ("left", "right", "difference")
LIMITS = Limits()


@dataclass(frozen=True)
class State:
    """What the page holds, with the defaults of `methods.stream`; a State that exists is one that can be in a link.

    `weights` are the sliders' numbers, one for each wording; `weights_from` says whether they count ("mine") or those
    by confidence. `left` and `right` are what the two answers side by side are given with: mask strategy, or "form" for
    that of `mask` and `positions`; position scheme; "weights" or "raw". `show` is the mask that is drawn, or what
    changes from the right one to the left. `model` is one of the names that a host offers, "" its default. Texts may be
    empty, as a page's boxes may. Raises InputError that names the field.
    """

    question: str
    paraphrases: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    weights_from: str = "mine"
    mask: str = "segment"
    positions: str = "aligned"
    methods: tuple[str, ...] = ("flex",)
    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    prefix: str = ""
    samples: int = Samples.count
    sample_temperature: float = Samples.temperature
    ape_temperature: float = 1.0
    ape_scale: float = 1.0
    left: str = "form.aligned.weights"
    right: str = "causal.sequential.raw"
    show: str = "left"
    model: str = ""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            try:
                check(self)
            except InputError as error:
                raise InputError(f"{name}: {error}") from error


def _check_texts(*texts: str) -> None:
    for text in texts:
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError("the text holds a NUL or half a character (a lone surrogate): type it again")


def _check_weights(state: State) -> None:
    if state.weights is not None:
        normalise_weights(state.weights, 1 + len(state.paraphrases))


def _check_source(state: State) -> None:
    if state.weights_from not in SOURCES:
        raise InputError(f"weights are from {' or '.join(SOURCES)}, not from {state.weights_from!r}")


def side_parts(side: str) -> tuple[str, str, bool]:
    """(mask strategy or FORM, position scheme, whether weights act) of one side; InputError for what is none."""
    parts = side.split(".")
    if len(parts) != 3 or parts[2] not in WEIGHTED:
        raise InputError(f"{side[:60]!r} is no mask, positions and {' or '.join(WEIGHTED)}, such as anchor.aligned.raw")
    strategy, positions, weights = parts
    check_encoding(Encoding(positions=positions) if strategy == FORM else Encoding(strategy, positions))
    return strategy, positions, weights == WEIGHTED[0]


def side_text(strategy: str, positions: str, weighted: bool) -> str:
    """What `side_parts` reads."""
    return ".".join((strategy, positions, WEIGHTED[not weighted]))


def _check_show(state: State) -> None:
    if state.show not in SHOWN:
        raise InputError(f"the mask shown is {', '.join(SHOWN[:-1])} or {SHOWN[-1]}, not {state.show[:60]!r}")


def _check_model(state: State) -> None:
    if state.model and not NAME.fullmatch(state.model):
        raise InputError(f"{state.model[:60]!r} is no name of a model")


# Each by itself, so that a message names the field that is wrong.
_CHECKS: Mapping[str, Callable[[State], Any]] = MappingProxyType(
    {
        "question": lambda state: _check_texts(state.question),
        "paraphrases": lambda state: _check_texts(*state.paraphrases),
        "prefix": lambda state: _check_texts(state.prefix),
        "weights": _check_weights,
        "weights_from": _check_source,
        "mask": lambda state: check_encoding(Encoding(state.mask)),
        "positions": lambda state: check_encoding(Encoding(positions=state.positions)),
        "methods": lambda state: resolve_methods(state.methods),
        "max_new_tokens": lambda state: Decoding(state.max_new_tokens),
        "temperature": lambda state: Decoding(temperature=state.temperature),
        "top_p": lambda state: Decoding(top_p=state.top_p),
        "seed": lambda state: check_seed(state.seed),
        "samples": lambda state: Samples(state.samples),
        "sample_temperature": lambda state: Samples(temperature=state.sample_temperature),
        "ape_temperature": lambda state: Ape(state.ape_temperature),
        "ape_scale": lambda state: Ape(scale=state.ape_scale),
        "left": lambda state: side_parts(state.left),
        "right": lambda state: side_parts(state.right),
        "show": _check_show,
        "model": _check_model,
    }
)


@dataclass(frozen=True)
class _Parameter:
    """How one field of State travels: its name in a link, and value <-> the texts of its parameters."""

    key: str
    field: str
    write: Callable[[Any], list[str]]
    read: Callable[[list[str]], Any]


def _one(texts: list[str]) -> str:
    if len(texts) != 1:
        raise InputError(f"it must be there once, not {len(texts)} times")
    return texts[0]


def _integer(texts: list[str]) -> int:
    text = _one(texts)
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise InputError(f"{text[:40]!r} is no whole number such as 32")
    return int(text)


def _number(texts: list[str]) -> float:
    text = _one(texts)
    if not re.fullmatch(r"-?[0-9]{1,400}(\.[0-9]{1,400})?(e[+-]?[0-9]{1,4})?", text):
        raise InputError(f"{text[:40]!r} is no number such as 0.7")
    return float(text)


def _written(number: float) -> str:
    """The shortest text that reads as the same number."""
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(float(number))


def _text(key: str, field: str) -> _Parameter:
    return _Parameter(key, field, lambda text: [text], _one)


def _count(field: str) -> _Parameter:
    return _Parameter(field, field, lambda count: [str(count)], _integer)


def _real(field: str) -> _Parameter:
    return _Parameter(field, field, lambda number: [_written(number)], _number)


_PARAMETERS = (
    _text("q", "question"),
    _Parameter("p", "paraphrases", list, tuple),
    _Parameter(
        "w",
        "weights",
        lambda weights: [",".join(map(_written, weights))],
        lambda texts: tuple(_number([part]) for part in _one(texts).split(",")),
    ),
    _text("weights", "weights_from"),
    _text("mask", "mask"),
    _text("positions", "positions"),
    _Parameter("methods", "methods", lambda names: [",".join(names)], lambda texts: tuple(_one(texts).split(","))),
    _count("max_new_tokens"),
    _real("temperature"),
    _real("top_p"),
    _count("seed"),
    _text("prefix", "prefix"),
    _count("samples"),
    _real("sample_temperature"),
    _real("ape_temperature"),
    _real("ape_scale"),
    _text("left", "left"),
    _text("right", "right"),
    _text("show", "show"),
    _text("model", "model"),
)
_BY_KEY = MappingProxyType({each.key: each for each in _PARAMETERS})
_DEFAULTS = MappingProxyType({each.name: each.default for each in fields(State) if each.default is not MISSING})
PACKED = "z"


def to_query(state: State) -> str:
    """The query of a link (without `?`) that holds the state; defaults are left out.

    Raises InputError for a state too long for a link.
    """
    told = {
        each.key: each.write(getattr(state, each.field))
        for each in _PARAMETERS
        if each.field not in _DEFAULTS or getattr(state, each.field) != _DEFAULTS[each.field]
    }
    query = "&".join(f"{key}={quote_plus(text)}" for key, texts in told.items() for text in texts)
    if len(query) <= READABLE:
        return query
    packed = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    query = f"{PACKED}={base64.urlsafe_b64encode(zlib.compress(packed, 9)).decode().rstrip('=')}"
    if len(packed) > UNPACKED or len(query) > LONGEST:
        raise InputError("the texts are too long for a link: shorten them, or save the result as a file")
    return query


def from_query(
    params: Mapping[str, str | Iterable[str]] | str,
    *,
    characters: int = LIMITS.characters,
    paraphrases: int = LIMITS.paraphrases,
    new_tokens: int = LIMITS.new_tokens,
) -> State:
    """The State that a link holds: `params` is its query, or a mapping of decoded parameters.

    A value that is no text holds all texts of a parameter, as `p` has several; a mapping with `multi_items`, as web
    frameworks give, tells them itself. Parameters of others are left alone; without any of ours the question is "".
    Raises InputError, naming the parameter, for one of ours that is malformed, or texts and numbers above the limits.
    """
    told = _split(params) if isinstance(params, str) else _listed(params)
    if PACKED in told:
        if len(told) > 1:
            raise InputError(
                f"{PACKED} in the link holds everything: {min(set(told) - {PACKED})} cannot stand beside it"
            )
        told = _named(PACKED, lambda: _unpacked(_one(told[PACKED])))
    values = {_BY_KEY[key].field: _named(key, lambda k=key: _BY_KEY[k].read(told[k])) for key in told}
    state = _in_link(lambda: State(**{"question": "", **values}))
    if len(state.paraphrases) > paraphrases:
        raise InputError(f"p in the link is there {len(state.paraphrases)} times: at most {paraphrases} paraphrases")
    for key, texts in (("q", [state.question]), ("p", state.paraphrases), ("prefix", [state.prefix])):
        if longest := max((len(text) for text in texts if len(text) > characters), default=0):
            raise InputError(f"{key} in the link has {longest} characters: at most {characters}")
    if state.max_new_tokens > new_tokens:
        raise InputError(f"max_new_tokens in the link is {state.max_new_tokens}: at most {new_tokens}")
    return state


def _in_link(make: Callable[[], State]) -> State:
    """A State, or the InputError in the words of a link: with the parameter's name instead of the field's."""
    try:
        return make()
    except InputError as error:
        field, why = str(error).split(": ", 1)
        key = next(each.key for each in _PARAMETERS if each.field == field)
        raise InputError(f"{key} in the link: {why}") from error


def _named(key: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError as error:
        raise InputError(f"{key} in the link: {error}") from error


def _split(query: str) -> dict[str, list[str]]:
    """Our parameters of a query, decoded; what others put there may be anything."""
    if len(query) > LONGEST:
        raise InputError(f"the link has {len(query)} characters: at most {LONGEST}")
    told: dict[str, list[str]] = {}
    for part in query.removeprefix("?").split("&"):
        key, _, value = part.partition("=")
        if key in _BY_KEY or key == PACKED:
            told.setdefault(key, []).append(_named(key, lambda text=value: _decoded(text)))
    return told


def _decoded(value: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", value):
        raise InputError("it has a % without two hexadecimal digits: was the link cut?")
    try:
        return unquote_to_bytes(value.replace("+", " ").encode()).decode()
    except UnicodeError as error:
        raise InputError("it is no UTF-8 text: was the link cut?") from error


def _listed(params: Mapping[str, str | Iterable[str]]) -> dict[str, list[str]]:
    """Our parameters of a mapping."""
    told: dict[str, list[str]] = {}
    several = getattr(params, "multi_items", params.items)
    for key, value in several():
        if key in _BY_KEY or key == PACKED:
            told.setdefault(key, []).extend([value] if isinstance(value, str) else value)
    return told


def _unpacked(text: str) -> dict[str, list[str]]:
    """The parameters that `z` holds."""
    if len(text) > LONGEST or not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise InputError("it is no base64url text of a link made here")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        stream = zlib.decompressobj()
        raw = stream.decompress(data, UNPACKED + 1)
    except (ValueError, zlib.error) as error:
        raise InputError("it cannot be unpacked: was the link cut?") from error
    if len(raw) > UNPACKED:
        raise InputError(f"it unpacks to more than {UNPACKED} bytes, which no link made here does")
    if not stream.eof or stream.unused_data:
        raise InputError("it cannot be unpacked: was the link cut?")
    try:
        told = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise InputError("what it holds is no JSON of a link made here") from error
    if not isinstance(told, dict):
        raise InputError("what it holds is no JSON of a link made here")
    for key, texts in told.items():
        if key not in _BY_KEY:
            raise InputError(f"it holds {str(key)[:40]!r}, which this version does not know")
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise InputError(f"its {key} is no list of texts")
    return told
