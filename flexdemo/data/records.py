"""Data sets: files and frames -> records, and what is wrong with a bad one, by line. Knows no models."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow

from ..answers.metrics import normalise
from ..errors import InputError
from ..prompt import normalise_weights
from ..request import shortened
from .files import read_file, write_file
from .readers import (
    Raw,
    cloze_rows,
    csv_rows,
    find_hub_parquet,
    json_items,
    json_lines,
    read_columns,
    read_hub_file,
    table_rows,
    text_of,
)

ENDINGS = (".jsonl", ".json", ".csv", ".parquet", ".feather")
NAMED = {  # data set on the Hub, split
    "webqa": ("stanfordnlp/web_questions", "test"),
    "webqa:test": ("stanfordnlp/web_questions", "test"),
    "webqa:train": ("stanfordnlp/web_questions", "train"),
    "myriadlama": ("iszhaoxin/MyriadLAMA", "train"),
}
SHOWN = 3  # bad records named in an error; the rest are counted


@dataclass(frozen=True)
class Record:
    """One question, its right answers, its other wordings, and a weight for each wording, the question first."""

    id: str
    question: str
    answers: tuple[str, ...]
    paraphrases: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None


def read_records(source: str, *, limit: int | None = None, skip_bad: bool = False) -> tuple[list[Record], list[str]]:
    """Records of a file, a path on the Hub or a named set, and the problems of those left out ("line 317: ...").

    Reading stops after `limit` good records. A bad record raises InputError unless `skip_bad`; what is wrong with the
    file as a whole always does.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 record, not {limit}")
    records, problems = build_records(_raws(source), limit=limit)
    if problems and not skip_bad:
        rest = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise InputError(
            f"{source}: {len(problems)} bad record{'s' * (len(problems) > 1)}: {'; '.join(problems[:SHOWN])}{rest} "
            "(--skip-bad leaves them out)"
        )
    if not records:
        left_out = f" ({len(problems)} bad ones left out, the first at {problems[0]})" if problems else ""
        raise InputError(f"{source} holds no records{left_out}")
    return records, problems


def _raws(source: str) -> Iterator[Raw]:
    if source in NAMED:
        tables = [read_columns(path, ".parquet", read_hub_file(path)) for path in find_hub_parquet(*NAMED[source])]
        rows = cloze_rows if source == "myriadlama" else table_rows
        return rows(pyarrow.concat_tables(tables))
    ending = Path(source).suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"cannot read {source}: it must end in {', '.join(ENDINGS)}, or be {', '.join(NAMED)}")
    data = read_hub_file(source) if source.startswith("hf://") else read_file(Path(source))
    if not data.strip():
        raise InputError(f"cannot read {source}: the file is empty")
    if ending in (".parquet", ".feather"):
        return table_rows(read_columns(source, ending, data))
    read = {".jsonl": json_lines, ".json": json_items, ".csv": csv_rows}[ending]
    return read(source, text_of(source, data))


def build_records(raws: Iterable[Raw], *, limit: int | None = None) -> tuple[list[Record], list[str]]:
    """Records of what was found, in order, until `limit` are good; a problem for each that is not ("line 317: ...")."""
    records: list[Record] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for raw in raws:
        place = f"{raw.unit} {raw.number}"
        try:
            record = _record(raw)
            if record.id in places:
                raise InputError(f"the id {shortened(record.id)} is already that of {places[record.id]}")
        except InputError as error:
            problems.append(f"{place}: {error}")
            continue
        places[record.id] = place
        records.append(record)
        if len(records) == limit:
            break
    return records, problems


def _record(raw: Raw) -> Record:
    columns = raw.found
    if isinstance(columns, InputError):
        raise columns
    if not isinstance(columns, Mapping):
        raise InputError(f"a record must be an object with question and answers, not {shortened(columns)}")
    if columns.get("question") is None:
        raise InputError("no question")
    question = _text(columns["question"], "the question").strip()
    if columns.get("answers") is None:
        raise InputError("no answers: give a list of right answers in a column 'answers'")
    answers = _texts(columns["answers"], "answer")
    if not answers:
        raise InputError("answers is empty: give at least one right answer")
    paraphrases = () if columns.get("paraphrases") is None else _texts(columns["paraphrases"], "paraphrase")
    weights = None if columns.get("weights") is None else _numbers(columns["weights"], 1 + len(paraphrases))
    return Record(_id(columns.get("id"), raw.number), question, answers, paraphrases, weights)


def _id(value: Any, number: int) -> str:
    if value is None:
        return str(number)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with gaps
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"the id must be text or a whole number, not {shortened(value)}")
    return _text(str(value), "the id")


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InputError(f"{what}s must be a list of texts, not {shortened(value)}")
    return tuple(_text(text, f"{what} {i}").strip() for i, text in enumerate(value, start=1))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} must be text, not {shortened(value)}")
    if not value.strip():
        raise InputError(f"{what} is blank")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(f"{what} contains half a character (a lone surrogate)")
    return value


def _numbers(value: Any, count: int) -> tuple[float, ...]:
    if not isinstance(value, list) or any(isinstance(w, bool) or not isinstance(w, int | float) for w in value):
        raise InputError(f"weights must be a list of numbers, not {shortened(value)}")
    try:
        weights = tuple(float(weight) for weight in value)
    except OverflowError as error:
        raise InputError("weights must be finite numbers, 0 or more") from error
    normalise_weights(weights, count)
    return weights


def fingerprint(records: Sequence[Record]) -> str:
    """SHA-256 of the records, in order: equal for equal data sets, whatever file they came from."""
    canonical = json.dumps([asdict(record) for record in records], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def write_records(records: Sequence[Record], path: Path) -> None:
    """Write records as .jsonl, whole or not at all, in the form that read_records reads."""
    fields = ({name: value for name, value in vars(record).items() if value is not None} for record in records)
    text = "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in fields)
    write_file(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))


def draw_shots(
    records: Sequence[Record], k: int, *, seed: int, exclude: Iterable[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Question and first answer of `k` records drawn at random, each on one line; the same ones for the same seed.

    No shot is a question of `exclude` in its normal form: give it every wording of the records to be asked.
    """
    pool: dict[str, Record] = {}
    for record in records:
        pool.setdefault(_form(record.question), record)
    for question in exclude:
        pool.pop(_form(question), None)
    if not 0 <= k <= len(pool):
        raise InputError(f"cannot draw {k} shots: {len(pool)} questions are not among those to be asked")
    drawn = random.Random(seed).sample(list(pool.values()), k)
    return tuple((" ".join(shot.question.split()), " ".join(shot.answers[0].split())) for shot in drawn)


def _form(question: str) -> str:
    return normalise(question) or question.strip()
