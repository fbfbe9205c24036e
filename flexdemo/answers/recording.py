"""Recorded examples: results and explanations as JSON, and back exactly, so that a page can show them without a model.

The file holds the dataclasses of a result as they are. An explanation's arrays are stored as the shortest decimals that
read as the same numbers again; what follows from the rest is computed anew.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from ..engine.model import LanguageModel
from ..errors import InputError
from ..request import Request
from .ask import ask
from .explain import CANDIDATES, Agreement, Attribution, Effect, Explanation, candidate_steps, explain
from .result import Result, versions

FORMAT = 2
MOST_BYTES = 1_000_000  # of a recording; one too large is made again without the masses of single heads
TOLD = ("title", "note")  # of an example, for the page alone: the rest is asked


def _numbers(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "values": array.astype(str).astype(float).tolist()}


def _array(stored: Mapping[str, Any]) -> np.ndarray:
    array = np.array(stored["values"], dtype=stored["dtype"])
    if not np.isfinite(array).all():
        raise ValueError("an array holds something else than numbers")
    return array


Array = Annotated[np.ndarray, PlainValidator(_array), PlainSerializer(_numbers)]


@dataclass(frozen=True)
class Example:
    """One example as it is stored. `mass` is (T, layers, heads, S), or its mean over them: (T, 1, 1, S)."""

    result: Result
    mass: Array
    token_attention: Array
    mass_per_token: Array
    effects: tuple[Effect, ...]
    agreement: Agreement


@dataclass(frozen=True)
class Recording:
    """A whole file: what recorded it, and when."""

    format: Literal[2]
    date: str
    versions: Mapping[str, str]
    examples: tuple[Example, ...]


FILE, EXAMPLE = TypeAdapter(Recording), TypeAdapter(Example)


@dataclass(frozen=True)
class Recorded:
    """One recorded example."""

    result: Result
    explanation: Explanation
    versions: Mapping[str, str]
    date: str


def record(lm: LanguageModel, examples: Sequence[Mapping[str, Any]]) -> str:
    """Run all methods and explain each example; everything as one file's text, of at most MOST_BYTES.

    An example has a `question` and may have a `title`, a `note` and other settings of a Request. Raises InputError for
    a bad example, or for examples that do not fit even without the attention mass of single layers and heads.
    """
    made = [_run(lm, example, f"example {i}") for i, example in enumerate(examples, start=1)]
    date = datetime.date.today().isoformat()
    head = json.dumps({"format": FORMAT, "date": date, "versions": versions()})
    for by_head in (True, False):
        lines = ",\n".join(EXAMPLE.dump_json(_example(*each, by_head=by_head)).decode() for each in made)
        text = f'{head[:-1]}, "examples": [\n{lines}\n]}}\n'
        size = len(text.encode())
        if size <= MOST_BYTES:
            return text
    raise InputError(
        f"{len(made)} examples make a recording of {size} bytes: at most {MOST_BYTES}; record fewer of them"
    )


def _run(lm: LanguageModel, example: Mapping[str, Any], what: str) -> tuple[Result, Explanation]:
    if not isinstance(example, Mapping) or "question" not in example:
        raise InputError(f"{what} must be an object with a question")
    settings = {key: value for key, value in example.items() if key not in TOLD}
    try:
        result = ask(lm, Request(**{**settings, "methods": ("all",), "candidates": CANDIDATES}))
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    return result, explain(lm, result)


def _example(result: Result, explanation: Explanation, *, by_head: bool) -> Example:
    found, agreed = explanation.attribution, explanation.agreement
    mass = found.mass if by_head else found.mass.mean(axis=(1, 2), keepdims=True)
    return Example(result, mass, found.token_attention, found.mass_per_token, found.effects, agreed)


def load_recorded(path: Path) -> list[Recorded]:
    """The examples of a recording, with results and explanations equal to those that were recorded.

    Raises InputError for a file that cannot be read or is no recording of this version.
    """
    try:
        told = FILE.validate_json(Path(path).read_bytes(), strict=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, LookupError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read {path}: it is no recording of this version ({why})") from error
    made = []
    for each in told.examples:
        attribution = Attribution(each.mass, each.token_attention, each.mass_per_token, each.effects)
        explanation = Explanation(attribution, each.agreement, candidate_steps(each.result.results))
        made.append(Recorded(each.result, explanation, told.versions, told.date))
    return made
