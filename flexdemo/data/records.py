"""Data sets: files, frames and the Hub -> records, and what is wrong with a bad one, by line. Knows no models."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow
from annotated_types import MinLen
from pyarrow import feather, parquet
from pydantic import AllowInfNan, BeforeValidator, Strict, StringConstraints, TypeAdapter, ValidationError

from ..answers.metrics import normalise
from ..errors import InputError
from ..prompt import normalise_weights
from ..request import shortened
from .files import read_file, write_file
from .table import separator_of

LISTS = ("answers", "paraphrases", "weights")
COLUMNS = ("id", "question", *LISTS)
NEEDED = ("question", "answers")
SLOT = re.compile(r"\[[XY]\]")
SCHEME = "hf://datasets/"
CONVERTED = "refs/convert/parquet"  # where the Hub keeps a Parquet copy of a set in another format
ENDINGS = (".jsonl", ".json", ".csv", ".parquet", ".feather")
NAMED = {  # data set on the Hub, split
    "webqa": ("stanfordnlp/web_questions", "test"),
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


class Raw(NamedTuple):
    """A record as found: where ("line", 317), and its columns, or the InputError that kept them from being read."""

    unit: str
    number: int
    found: Any


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
    if k > len(pool):
        raise InputError(f"cannot draw {k} shots: {len(pool)} questions are not among those to be asked")
    drawn = random.Random(seed).sample(list(pool.values()), k)
    return tuple((" ".join(shot.question.split()), " ".join(shot.answers[0].split())) for shot in drawn)


def _form(question: str) -> str:
    return normalise(question) or question.strip()


def text_of(source: str, data: bytes) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; InputError names the line of anything else."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"cannot read {source}: line {line} is not UTF-8; save the file as UTF-8") from error


def json_lines(source: str, text: str) -> Iterator[Raw]:
    """One object a line; blank lines are nothing."""
    # Not splitlines(): JSON strings may hold line separators of Unicode as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                found = InputError(f"broken JSON ({_why(error)})")
            yield Raw("line", number, found)


def json_items(source: str, text: str) -> Iterator[Raw]:
    """The items of a list, or of the only list in an object."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "; with one object a line, name it .jsonl" if "Extra data" in str(error) else ""
        raise InputError(f"cannot read {source}: broken JSON ({_why(error)}){hint}") from error
    if isinstance(items, dict) and "question" not in items:
        lists = [value for value in items.values() if isinstance(value, list)]
        items = lists[0] if len(lists) == 1 else items
    if not isinstance(items, list):
        raise InputError(f"cannot read {source}: it must hold a list of objects, or an object with one such list")
    yield from (Raw("item", number, item) for number, item in enumerate(items, start=1))


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        return f"{error.msg}, {line}column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]


def csv_rows(source: str, text: str) -> Iterator[Raw]:
    """Rows under a header; lists are JSON, and a row of blank cells is nothing."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # the module's own is 131,072 characters
    try:
        lines = io.StringIO(text, newline="")  # of any system, also of those that end one with \r alone
        separator = separator_of(text, NEEDED)
        header, *rows = (row for row in csv.reader(lines, strict=True, delimiter=separator) if row)
    except (csv.Error, ValueError) as error:
        raise InputError(f"cannot read {source}: broken CSV ({_why(error)}): is a quote missing?") from error
    names = [cell.strip() for cell in header]
    check_columns(source, names, NEEDED)
    for number, cells in enumerate(rows, start=1):
        if len(cells) > len(names):
            more = f"{len(cells)} cells under a header of {len(names)}: put quotes around a text with commas"
            yield Raw("row", number, InputError(more))
        elif any(cell.strip() for cell in cells):
            yield Raw("row", number, _csv_columns(dict(zip_longest(names, cells, fillvalue=""))))


def _csv_columns(cells: dict[str, str]) -> dict[str, Any] | InputError:
    found: dict[str, Any] = {name: cell for name, cell in cells.items() if cell.strip() or name == "question"}
    for name in filter(found.get, LISTS):
        with suppress(ValueError, RecursionError):
            found[name] = json.loads(found[name])
        if not isinstance(found[name], list):
            example = "[1, 0.5]" if name == "weights" else '["Lima", "City of Lima"]'
            return InputError(f"in CSV {name} must be a JSON list such as {example}, not {shortened(cells[name])}")
    return found


def check_columns(source: str, found: Sequence[str], needed: Sequence[str]) -> None:
    """Raise InputError for a needed column that is not there, or a known one that is there twice."""
    lacking = [name for name in needed if name not in found]
    if lacking:
        raise InputError(f"{source} has no column {lacking[0]!r}, only {shortened(', '.join(map(str, found)))}")
    twice = [name for name in COLUMNS if list(found).count(name) > 1]
    if twice:
        raise InputError(f"{source} has two columns {twice[0]!r}")


def read_columns(source: str, ending: str, data: bytes) -> pyarrow.Table:
    """A Parquet or Feather file."""
    read = {".parquet": parquet.read_table, ".feather": feather.read_table}[ending]
    try:
        return read(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"cannot read {source} as {ending[1:]}: {_why(error)}") from error


def table_rows(table: pyarrow.Table) -> Iterator[Raw]:
    """Rows of a table with columns question, answers and, if it has them, id, paraphrases, weights."""
    check_columns("the table", table.column_names, NEEDED)
    known = [name for name in COLUMNS if name in table.column_names]
    for number, row in enumerate(table.select(known).to_pylist(), start=1):
        yield Raw("row", number, row)


def cloze_rows(table: pyarrow.Table) -> Iterator[Raw]:
    """Cloze questions of MyriadLAMA's rows (uuid, sub_ent, obj_aliases, template, is_manual), one for each uuid.

    [X] becomes the subject and [Y] becomes [MASK]. Manual templates come first; the first wording is the question.
    """
    needed = ("uuid", "sub_ent", "obj_aliases", "template", "is_manual")
    check_columns("the table", table.column_names, needed)
    groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, row in enumerate(table.select(needed).to_pylist(), start=1):
        groups.setdefault(row["uuid"], []).append((number, row))
    for uuid, numbered in groups.items():
        rows = sorted((row for _, row in numbered), key=lambda row: not row["is_manual"])
        bad = [row["template"] for row in rows if not {"[X]", "[Y]"} <= set(SLOT.findall(row["template"]))]
        filled = (
            SLOT.sub(lambda slot, row=row: row["sub_ent"] if slot[0] == "[X]" else "[MASK]", row["template"])
            for row in rows
        )
        question, *paraphrases = dict.fromkeys(filled)
        answers = list(dict.fromkeys(chain.from_iterable(row["obj_aliases"] for row in rows)))
        found: Any = {"id": uuid, "question": question, "answers": answers, "paraphrases": paraphrases}
        if bad:
            found = InputError(f"a template must have [X] and [Y], not {shortened(bad[0])}")
        yield Raw("row", numbered[0][0], found)


def read_hub_file(path: str) -> bytes:
    """Bytes of `hf://datasets/OWNER/NAME/FILE` (`NAME@REVISION` for another revision than main)."""
    if not path.startswith(SCHEME) or len(path.removeprefix(SCHEME).split("/")) < 3:
        raise InputError(f"cannot read {path}: a path on the Hub is {SCHEME}OWNER/NAME/FILE")
    return _asked(path, lambda hub: hub.read_bytes(path.removeprefix("hf://")))


def find_hub_parquet(name: str, split: str) -> list[str]:
    """Paths of the Parquet files of a data set's split, in order; the Hub's own conversion if it holds none."""
    for revision in ("", f"@{CONVERTED}"):
        root = f"datasets/{name}{revision}"
        found = _asked(f"hf://{root}", lambda hub, root=root: hub.glob(f"{root}/**/*.parquet"))
        paths = [path for path in sorted(found) if re.search(rf"/{split}[-/.]", path.split(name, 1)[-1])]
        if paths:
            return [f"hf://{path}" for path in paths]
    raise InputError(f"cannot read {SCHEME}{name}: it holds no Parquet files of the split {split!r}")


def _asked(path: str, question: Callable[[Any], Any]) -> Any:
    from huggingface_hub import HfFileSystem
    from huggingface_hub.errors import HfHubHTTPError

    # The bases of the Hub's error are those of the HTTP library it was built with, whichever that is.
    try:
        return question(HfFileSystem())
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: there is no such file or data set on the Hub") from error
    except (*HfHubHTTPError.__bases__, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"cannot read {path} from the Hub ({why}); a local file needs no network") from error
