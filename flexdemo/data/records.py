"""Data sets: files and frames -> records, and what is wrong with a bad one, by line. Knows no models."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow
from annotated_types import MinLen
from pydantic import AllowInfNan, BeforeValidator, Strict, StringConstraints, TypeAdapter, ValidationError

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


def _id(value: Any) -> Any:
    whole = isinstance(value, float) and value.is_integer()  # as in a column of whole numbers with gaps
    return str(int(value)) if whole or type(value) is int else value


Text = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1)]
Number = Annotated[float, Strict(), AllowInfNan(False)]


@dataclass(frozen=True)
class Record:
    """One question, its right answers, its other wordings, and a weight for each wording, the question first."""

    id: Annotated[Text, BeforeValidator(_id)]
    question: Text
    answers: Annotated[tuple[Text, ...], MinLen(1)]
    paraphrases: tuple[Text, ...] = ()
    weights: tuple[Number, ...] | None = None


RECORD = TypeAdapter(Record)


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
    if isinstance(raw.found, InputError):
        raise raw.found
    if not isinstance(raw.found, Mapping):
        raise InputError(f"a record must be an object with question and answers, not {shortened(raw.found)}")
    try:
        record = RECORD.validate_python({"id": raw.number, **{k: v for k, v in raw.found.items() if v is not None}})
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name, *place = found["loc"]
        if found["type"] == "missing":
            raise InputError(f"the column {name!r} is missing: a record has question and answers") from error
        which = f"{name} {place[0] + 1}" if place else name
        right = found["msg"].partition(" after")[0].replace("Tuple", "List").replace("tuple", "list")  # as JSON has it
        raise InputError(f"{which}: {right}, not {shortened(found['input'])}") from error
    if record.weights is not None:
        normalise_weights(record.weights, 1 + len(record.paraphrases))
    return record


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
