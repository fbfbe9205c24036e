"""What the page holds, as the query of a link, and back. Knows no widgets and runs no model.

A parameter is a field of PageState under the key of its Face. Short states are readable parameters; longer ones are one
parameter `z`, base64url of zlib of compact JSON.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import quote_plus, unquote_to_bytes

from pydantic import ValidationInfo, field_validator

from ..answers.methods import resolve_methods
from ..engine.loading import NAME
from ..errors import InputError
from ..plan import Encoding, check_encoding
from ..request import Face, Request, SettingError, face_of

READABLE = 1_500  # characters up to which a link shows what it holds
LONGEST = 48_000  # characters of a query; servers refuse request lines of more than about 64,000
UNPACKED = 64 * 1024  # bytes that `z` may hold, so that a small link cannot ask for a large memory
FORM = "form"  # in place of a side's mask strategy: the form's
WEIGHTED = ("weights", "raw")
SHOWN = ("left", "right", "difference")
PACKED = "z"


class PageState(Request):
    """What the page holds: a Request, and how the page shows it; one that exists can be in a link.

    `weights` are the sliders' numbers, one for each wording; `weights_from` says whether they count ("mine") or those
    by confidence. `left` and `right` are what the two answers side by side are given with: mask, or "form" for that of
    `mask` and `positions`; position scheme; "weights" or "raw". `show` is the mask that is drawn, or what changes from
    the right one to the left. `model` is one of the names that a host offers, "" its default.
    """

    weights_from: Annotated[Literal["mine", "confidence"], Face("weights")] = "mine"
    left: Annotated[str, Face("left")] = "form.aligned.weights"
    right: Annotated[str, Face("right")] = "causal.sequential.raw"
    show: Annotated[Literal["left", "right", "difference"], Face("show")] = "left"
    model: Annotated[str, Face("model")] = ""

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_shown(cls, value: Any, info: ValidationInfo) -> Any:
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and ("\0" in text or any("\ud800" <= c <= "\udfff" for c in text)):
                raise InputError("the text holds a NUL or half a character (a lone surrogate): type it again")
        if check := CHECKS.get(str(info.field_name)):
            check(value)
        return value


def side_parts(side: str) -> tuple[str, str, bool]:
    """(mask or FORM, position scheme, whether weights act) of one side; InputError for what is none."""
    parts = side.split(".")
    if len(parts) != 3 or parts[2] not in WEIGHTED:
        raise InputError(f"{side[:60]!r} is no mask, positions and {' or '.join(WEIGHTED)}, such as anchor.aligned.raw")
    strategy, positions, weights = parts
    check_encoding(Encoding(positions=positions) if strategy == FORM else Encoding(strategy, positions))
    return strategy, positions, weights == WEIGHTED[0]


def side_text(strategy: str, positions: str, weighted: bool) -> str:
    """What `side_parts` reads."""
    return ".".join((strategy, positions, WEIGHTED[not weighted]))


def _check_model(name: str) -> None:
    if name and not NAME.fullmatch(name):
        raise InputError(f"{name[:60]!r} is no name of a model")


# What names something is looked up in the table that it names.
CHECKS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "mask": lambda mask: check_encoding(Encoding(mask)),
        "positions": lambda positions: check_encoding(Encoding(positions=positions)),
        "methods": resolve_methods,
        "left": side_parts,
        "right": side_parts,
        "model": _check_model,
    }
)
FIELDS = PageState.model_fields
KEYS = MappingProxyType({face.link: name for name, field in FIELDS.items() if (face := face_of(field)) and face.link})


def _written(number: float) -> str:
    """The shortest text that reads as the same number."""
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(float(number))


def _texts(name: str, value: Any) -> list[str]:
    """A field's value as the texts of its parameter: `p` is there once for each paraphrase, other lists have commas."""
    if name == "paraphrases":
        return list(value)
    several = value if isinstance(value, tuple) else (value,)
    return [",".join(each if isinstance(each, str) else _written(each) for each in several)]


def _number(text: str) -> Any:
    """The number that a text is in JSON; the text itself where it is none, which the field then refuses."""
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


def _value(name: str, texts: list[str]) -> Any:
    """What `_texts` wrote, of the kind that the field has; whether it can be used is the field's to say."""
    if name == "paraphrases":
        return texts
    text = _one(texts)
    if name == "methods":
        return text.split(",")
    if name == "weights":
        return [_number(part) for part in text.split(",")]
    return _number(text) if FIELDS[name].annotation in (int, float) else text


def _one(texts: list[str]) -> str:
    if len(texts) != 1:
        raise InputError(f"it must be there once, not {len(texts)} times")
    return texts[0]


def to_query(state: PageState) -> str:
    """The query of a link (without `?`) that holds the state; defaults are left out.

    Raises InputError for a state too long for a link.
    """
    values = {key: (name, getattr(state, name)) for key, name in KEYS.items()}
    told = {key: _texts(name, value) for key, (name, value) in values.items() if value != FIELDS[name].default}
    query = "&".join(f"{key}={quote_plus(text)}" for key, texts in told.items() for text in texts)
    if len(query) <= READABLE:
        return query
    packed = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    query = f"{PACKED}={base64.urlsafe_b64encode(zlib.compress(packed, 9)).decode().rstrip('=')}"
    if len(packed) > UNPACKED or len(query) > LONGEST:
        raise InputError("the texts are too long for a link: shorten them, or save the result as a file")
    return query


def from_query(params: Mapping[str, str | Iterable[str]] | str) -> PageState:
    """The state that a link holds: `params` is its query, or a mapping of decoded parameters.

    A value that is no text holds all texts of a parameter, as `p` has several; a mapping with `multi_items`, as web
    frameworks give, tells them itself. Parameters of others are left alone; without any of ours the question is "".
    Raises InputError, naming the parameter, for one of ours that is malformed. What a host allows is not asked here.
    """
    told = _split(params) if isinstance(params, str) else _listed(params)
    if PACKED in told:
        if len(told) > 1:
            raise InputError(
                f"{PACKED} in the link holds everything: {min(set(told) - {PACKED})} cannot stand beside it"
            )
        told = _named(PACKED, lambda: _unpacked(_one(told[PACKED])))
    values = {KEYS[key]: _named(key, lambda k=key: _value(KEYS[k], told[k])) for key in told}
    try:
        return PageState(**{"question": "", **values})
    except SettingError as error:
        face = face_of(FIELDS[error.field])
        raise InputError(f"{face.link if face else error.field} in the link{error.said}") from error


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
        if key in KEYS or key == PACKED:
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
        if key in KEYS or key == PACKED:
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
        if key not in KEYS:
            raise InputError(f"it holds {str(key)[:40]!r}, which this version does not know")
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise InputError(f"its {key} is no list of texts")
    return told
