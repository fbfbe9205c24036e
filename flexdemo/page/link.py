"""What the page holds as the query of a link, and back. Knows no widgets and runs no model.

A parameter is a field of PageState under the key of its Face. Short states are readable parameters; longer ones are one
parameter `z`, base64url of zlib of compact JSON.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode

from pydantic import TypeAdapter, ValidationError

from ..errors import InputError
from ..request import Limits, SettingError
from .state import FACES, FIELDS, HEAVIEST, SLIDERS, PageState, check_limits, slider_of

READABLE = 1_500  # characters up to which a link shows what it holds
LONGEST = 48_000  # characters of a query; servers refuse request lines of more than about 64,000
UNPACKED = 64 * 1024  # bytes that `z` may hold, so that a small link cannot ask for a large memory
PACKED = "z"
KEYS = {face.link: name for name, face in FACES.items() if face.link}
RETIRED = {"show"}  # keys of links made before, which tell nothing any more
TOLD = TypeAdapter(dict[str, list[str]])  # the texts of each parameter


def _texts(name: str, value: Any) -> list[str]:
    """A field's value as the texts of its parameter: `p` is there once for each paraphrase, other lists have commas."""
    if name == "paraphrases":
        return list(value)
    several = value if isinstance(value, tuple) else (value,)
    return [",".join(each if isinstance(each, str) else repr(each).removesuffix(".0") for each in several)]


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
    query = urlencode(told, doseq=True)
    if len(query) <= READABLE:
        return query
    packed = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    query = f"{PACKED}={base64.urlsafe_b64encode(zlib.compress(packed, 9)).decode().rstrip('=')}"
    if len(packed) > UNPACKED or len(query) > LONGEST:
        raise InputError("the texts are too long for a link: shorten them, or save the result as a file")
    return query


def from_query(query: str) -> PageState:
    """The state that a link's query holds.

    Parameters of others are left alone; without any of ours the question is "". Raises InputError, naming the
    parameter, for one of ours that is malformed. What a host allows is not asked here.
    """
    if len(query) > LONGEST:
        raise InputError(f"the link has {len(query)} characters: at most {LONGEST}")
    every = parse_qs(query.removeprefix("?"), keep_blank_values=True)
    told = {key: texts for key, texts in every.items() if key in KEYS or key == PACKED}
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
        raise InputError(f"{FACES[error.field].link} in the link{error.said}") from error


def _named(key: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError as error:
        raise InputError(f"{key} in the link: {error}") from error


def _unpacked(text: str) -> dict[str, list[str]]:
    """The parameters that `z` holds."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise InputError("it is no base64url text of a link made here")
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), UNPACKED + 1)
    except (ValueError, zlib.error) as error:
        raise InputError("it cannot be unpacked: was the link cut?") from error
    if len(raw) > UNPACKED:
        raise InputError(f"it unpacks to more than {UNPACKED} bytes, which no link made here does")
    if not stream.eof or stream.unused_data:
        raise InputError("it cannot be unpacked: was the link cut?")
    try:
        told = TOLD.validate_json(raw)
    except ValidationError as error:
        raise InputError("what it holds is no JSON of a link made here") from error
    for key in told.keys() - KEYS.keys() - RETIRED:
        raise InputError(f"it holds {key[:40]!r}, which this version does not know")
    return {key: texts for key, texts in told.items() if key in KEYS}


def open_link(query: str, limits: Limits, models: Sequence[str] = ()) -> PageState | None:
    """The state that the page's address holds, None if it holds none; InputError for one that cannot be shown here.

    `models` are the names to choose from; a link without a name means the first.
    """
    state = from_query(query)
    if state == PageState(question=""):
        return None
    check_limits(limits, state)
    if not state.model and models:
        state = state.but(model=models[0])
    if state.model and state.model not in models:
        here = f"choose from {', '.join(models)}" if models else "one model is offered here, without a name"
        raise InputError(f"model in the link is {state.model!r}, which is not offered here: {here}")
    for name in SLIDERS:
        value, (low, high, _) = getattr(state, name), slider_of(name, limits)
        if not low <= value <= high:
            raise InputError(f"{name} in the link is {value:g}: the page takes {low:g} to {high:g}")
    if isinstance(state.weights, tuple) and max(state.weights) > HEAVIEST:
        raise InputError(f"w in the link has {max(state.weights):g}: the page takes weights up to {HEAVIEST}")
    return state
