"""Recorded examples: results and explanations as JSON, and back exactly, so that a page can show them without a model.

Log-probabilities, masses and probabilities are float32 numbers. They are stored as the shortest decimals that tell
float32 numbers apart and read as float32 again, so a file is small and still holds the same numbers.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from ..engine.model import LanguageModel
from ..errors import InputError
from ..request import Request, SettingError, shortened
from .ask import ask
from .explain import CANDIDATES, Agreement, Attribution, Effect, Explanation, candidate_steps, explain
from .head import heads_of
from .result import Result, versions

FORMAT = 1
MOST_BYTES = 1_000_000  # of a recording; one too large is made again without the masses of single heads
MOST_BYTES_READ = 20_000_000
SINGLES = ("logprobs", "segment_mass", "probability")  # fields whose numbers are float32
ARRAYS = {"mass": "float32", "token_attention": "float32", "mass_per_token": "float64"}


@dataclass(frozen=True)
class Recorded:
    """One recorded example. `by_head` is False where the explanation's mass is a mean: shape (T, 1, 1, S)."""

    result: Result
    explanation: Explanation
    note: str
    by_head: bool
    model: Mapping[str, Any]
    versions: Mapping[str, str]
    date: str


def record(lm: LanguageModel, examples: Sequence[Mapping[str, Any]], *, date: str) -> dict[str, Any]:
    """Run all methods and explain each example; everything as one object for JSON, of at most MOST_BYTES.

    An example has a `question` and may have a `note` and other settings of a Request. `date` is the day, YYYY-MM-DD.
    Raises InputError for a bad example, or for examples that do not fit even without the attention mass of single
    layers and heads.
    """
    check_date(date)
    made = [_run(lm, example, f"example {i}") for i, example in enumerate(examples, start=1)]
    layers, heads = heads_of(lm)
    told = {
        "format": FORMAT,
        "date": date,
        "model": {
            "name": lm.name,
            "device": str(lm.device),
            "dtype": lm.dtype,
            "backend": lm.backend,
            "parameters": sum(p.numel() for p in lm.model.parameters()),
            "layers": layers,
            "heads": heads,
            "context_length": lm.context_length,
        },
        "versions": versions(),
        "by_head": True,
        "examples": [_example(*each) for each in made],
    }
    if _size(told) > MOST_BYTES:
        averaged = [(result, _without_heads(explanation), note) for result, explanation, note in made]
        told |= {"by_head": False, "examples": [_example(*each) for each in averaged]}
    if _size(told) > MOST_BYTES:
        raise InputError(
            f"{len(made)} examples make a recording of {_size(told)} bytes: at most {MOST_BYTES}; record fewer of them"
        )
    return told


def check_date(date: str) -> None:
    try:
        is_day = datetime.date.fromisoformat(date).isoformat() == date  # newer Pythons read other forms as well
    except ValueError:
        is_day = False
    if not is_day:
        raise InputError(f"the date must look like 2026-01-31, not {date!r}")


def dumps(recording: Mapping[str, Any]) -> str:
    """A recording as text: one line for each example."""
    head = {key: value for key, value in recording.items() if key != "examples"}
    lines = ",\n".join(_compact(example) for example in recording["examples"])
    return f'{_compact(head)[:-1]},"examples":[\n{lines}\n]}}\n'


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _size(recording: Mapping[str, Any]) -> int:
    return len(dumps(recording).encode())


def _run(lm: LanguageModel, example: Mapping[str, Any], what: str) -> tuple[Result, Explanation, str]:
    if not isinstance(example, Mapping) or "question" not in example:
        raise InputError(f"{what} must be an object with a question")
    note = example.get("note", "")
    settings = {key: value for key, value in example.items() if key != "note"}
    try:
        if not isinstance(note, str):
            raise SettingError("note", f" must be a text, not {shortened(note)}")
        result = ask(lm, Request(**{**settings, "methods": ("all",), "candidates": CANDIDATES}))
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    return result, explain(lm, result), note


def _without_heads(explanation: Explanation) -> Explanation:
    found = explanation.attribution
    mean = found.mean_mass[:, None, None, :].astype(found.mass.dtype)  # (T, S) -> (T, 1, 1, S)
    return replace(explanation, attribution=replace(found, mass=mean))


def _example(result: Result, explanation: Explanation, note: str) -> dict[str, Any]:
    """One example as data: equal views are stored once, and candidates by step follow from the result."""
    views = list(dict.fromkeys(view for answer in result.results for view in answer.views))
    told = _data(result)
    del told["sides"]  # examples are recorded with the methods alone
    for data, answer in zip(told["results"], result.results, strict=True):
        data["views"] = [views.index(view) for view in answer.views]
    found = explanation.attribution
    return {
        "note": note,
        "views": _data(views),
        "result": told,
        "explanation": {
            "attribution": {name: _array(getattr(found, name), kind) for name, kind in ARRAYS.items()},
            "effects": _data(found.effects),
            "agreement": _data(explanation.agreement),
        },
    }


def _data(value: Any, *, single: bool = False) -> Any:
    """Dataclasses, tuples and mappings as what JSON has; `single`: floats are float32 numbers."""
    if isinstance(value, Request):
        return _data(value.model_dump())
    if is_dataclass(value):
        return {f.name: _data(getattr(value, f.name), single=f.name in SINGLES) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [_data(each, single=single) for each in value]
    if isinstance(value, Mapping):
        return {key: _data(each) for key, each in value.items()}
    return _short(value) if single else value


def _short(value: float) -> float:
    """The shortest decimal that reads as the same float32 number."""
    if float(np.float32(value)) != value:  # as Python floats: numpy would compare float32 numbers
        raise ValueError(f"{value!r} is no float32 number")
    return float(str(np.float32(value)))


def _array(values: np.ndarray, kind: str) -> dict[str, Any]:
    if str(values.dtype) != kind:
        raise ValueError(f"an array of {values.dtype} where {kind} is stored")
    flat = values.ravel().tolist()
    return {"shape": list(values.shape), "values": [_short(each) for each in flat] if kind == "float32" else flat}


def load_recorded(path: Path) -> list[Recorded]:
    """The examples of a recording, with results and explanations equal to those that were recorded.

    Raises InputError for a file that cannot be read or is no recording of this version.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES_READ:
            raise InputError(f"cannot read {path}: a recording has at most {MOST_BYTES_READ} bytes")
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: it is no JSON of a recording") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise InputError(f"cannot read {path}: it is no recording of format {FORMAT}; record the examples again")
    try:
        return _loaded(told)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read {path}: it is no recording of this version ({why})") from error


def _loaded(told: Mapping[str, Any]) -> list[Recorded]:
    facts = (told["by_head"], told["model"], told["versions"], told["date"])
    for value, kind in zip(facts, (bool, dict, dict, str), strict=True):
        if not isinstance(value, kind):
            raise ValueError(f"{value!r} is not of type {kind.__name__}")
    made = []
    for example in told["examples"]:
        views = dict(enumerate(example["views"]))
        answers = [{**answer, "views": [views[i] for i in answer["views"]]} for answer in example["result"]["results"]]
        result = _build(Result, {**example["result"], "results": answers, "sides": []})
        explained = example["explanation"]
        arrays = {name: _rebuilt(explained["attribution"][name], kind) for name, kind in ARRAYS.items()}
        effects = _build(tuple[Effect, ...], explained["effects"])
        explanation = Explanation(
            Attribution(**arrays, effects=effects),
            _build(Agreement, explained["agreement"]),
            candidate_steps(result.results),
        )
        made.append(Recorded(result, explanation, _build(str, example["note"]), *facts))
    return made


def _build(kind: Any, data: Any, *, single: bool = False) -> Any:
    """A value of a type from its data; ValueError for data of another type. `single`: floats are float32 numbers."""
    hints, origin, parts, form = _type(kind)
    if kind is Request and isinstance(data, dict):
        return Request(**data)  # fields that came later have their defaults; one that is not known here is refused
    if hints:
        names = hints.keys()
        if not isinstance(data, dict) or data.keys() != names:
            raise ValueError(f"a {kind.__name__} must have the fields {', '.join(sorted(names))}")
        return kind(**{name: _build(hints[name], data[name], single=name in SINGLES) for name in names})
    if origin in (Union, UnionType):
        (chosen,) = [part for part in parts if _is(_type(part)[-1], data)] or [parts[0]]
        return _build(chosen, data, single=single)
    if not _is(form, data):
        raise ValueError(f"{str(data)[:40]!r} is not of type {getattr(kind, '__name__', kind)}")
    if origin is tuple:
        return tuple(_build(parts[0], each, single=single) for each in data)
    return float(np.float32(data)) if single and kind is float else data


@cache
def _type(kind: Any) -> tuple[dict[str, Any], Any, tuple[Any, ...], Any]:
    """A type's fields with their types, if it is a dataclass; its origin and arguments; the form that stands for it."""
    hints = get_type_hints(kind) if is_dataclass(kind) else {}
    origin = get_origin(kind)
    stored = {tuple: list, Mapping: dict, Any: object, Request: dict}
    form = dict if hints else stored.get(origin or kind, origin or kind)
    return {f.name: hints[f.name] for f in fields(kind)} if hints else {}, origin, get_args(kind), form


def _is(form: Any, data: Any) -> bool:
    """Whether data has the form in which values of a type are stored."""
    if form is float:
        return isinstance(data, int | float) and not isinstance(data, bool) and math.isfinite(data)
    if form is int:
        return isinstance(data, int) and not isinstance(data, bool)
    return isinstance(data, form)


def _rebuilt(stored: Mapping[str, Any], kind: str) -> np.ndarray:
    values = np.array(stored["values"], dtype=kind).reshape(stored["shape"])
    if not np.isfinite(values).all():
        raise ValueError("an array holds something else than numbers")
    return values
