"""Results tables on disk: rows <-> feather, parquet, csv, jsonl. Knows no models and no metrics."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import pyarrow
import pyarrow.json
from pyarrow import feather, parquet

from ..errors import InputError
from .files import read_file, write_file

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Row:
    """What one view of one method answered to one record, in the table's column order.

    A method that answers each wording has a row for each view ("P1", or "without P1"); the view of any other method is
    the method's name. `tokens` is the generation's length; `prompt_tokens` and `rows` (of the decode batch) are the
    cost of this view alone, so that the views of a method add up; `seconds` is its share of the wall clock. The lemma
    columns are None where no lemmatiser is installed, `agreement` where a method has a single wording.
    """

    id: str
    question: str
    paraphrases: tuple[str, ...]
    answers: tuple[str, ...]
    method: str
    view: str
    prediction: str
    generation: str
    tokens: int
    exact_match: bool
    contains: bool
    token_f1: float
    lemma_match: bool | None
    lemma_match_both: bool | None
    agreement: float | None
    prompt_tokens: int
    rows: int
    seconds: float


KINDS: Mapping[Any, pyarrow.DataType] = {
    str: pyarrow.string(),
    tuple[str, ...]: pyarrow.list_(pyarrow.field("item", pyarrow.string(), nullable=False)),
    int: pyarrow.int64(),
    bool: pyarrow.bool_(),
    float: pyarrow.float64(),
}
SCHEMA = pyarrow.schema(
    [
        pyarrow.field(name, KINDS[kind], nullable=False)
        if kind in KINDS
        else pyarrow.field(name, KINDS[get_args(kind)[0]])
        for name, kind in get_type_hints(Row).items()
    ]
)
# What readers raise for bytes that are no table: pyarrow's own errors are kinds of these, and so is too deep a nesting.
DAMAGED = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, OSError, MemoryError, csv.Error)
# A spreadsheet runs a cell that begins so as a formula; apostrophes before it are those of an earlier defence.
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write the rows whole or not at all, in the form that the ending of `path` names (one of FORMATS)."""
    write = WRITERS[path.suffix.lower()]
    write_file(path, lambda scratch: write(rows, scratch))


def read_table(path: Path, *, most_rows: int | None = None) -> pandas.DataFrame:
    """A results table as a frame with the columns of Row, the same for every form it was written in.

    Lists are lists; missing truth values are pandas.NA and a missing agreement is NaN. Raises InputError for a file
    that is no results table, or has more than `most_rows`.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"cannot read {path}: the file must end in {', '.join(FORMATS)}")
    data = read_file(path)
    try:
        table = READERS[ending](data)
        table.validate(full=True)  # a damaged table may point beyond its own memory
        if most_rows is not None and len(table) > most_rows:
            raise InputError(f"the file {path} has {len(table):,} rows: at most {most_rows:,} can be opened here")
        return _frame(table)
    except InputError:
        raise
    except DAMAGED as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read {path}: it is no results table of this program ({why})") from error


def table_frame(rows: Sequence[Row]) -> pandas.DataFrame:
    """The rows as read_table gives them."""
    return _frame(_arrow(rows))


def _arrow(rows: Sequence[Row]) -> pyarrow.Table:
    return pyarrow.Table.from_pylist([vars(row) for row in rows], schema=SCHEMA)


def _frame(table: pyarrow.Table) -> pandas.DataFrame:
    import pandas

    lacking = [name for name in SCHEMA.names if name not in table.column_names]
    if lacking:
        raise ValueError(f"no column {lacking[0]!r}")
    table = table.select(SCHEMA.names).cast(SCHEMA)
    frame = table.to_pandas(types_mapper={pyarrow.bool_(): pandas.BooleanDtype()}.get)
    for name in ("paraphrases", "answers"):
        frame[name] = pandas.Series(table[name].to_pylist(), dtype="object")
        if any(None in texts for texts in frame[name]):
            raise ValueError(f"column {name!r} has a list with nothing in it where a text should be")
    return frame


def _write_jsonl(rows: Sequence[Row], path: Path) -> None:
    path.write_text("".join(f"{json.dumps(vars(row), allow_nan=False)}\n" for row in rows), encoding="utf-8")


def _read_jsonl(data: bytes) -> pyarrow.Table:
    if not data:
        return SCHEMA.empty_table()
    options = pyarrow.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    whole = pyarrow.json.ReadOptions(block_size=len(data))  # no line may be longer than a block
    return pyarrow.json.read_json(io.BytesIO(data), parse_options=options, read_options=whole)


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(SCHEMA.names)
        writer.writerows(map(_cell, vars(row).values()) for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}" if FORMULA.match(value) else value
    return json.dumps(value, ensure_ascii=False, allow_nan=False) if value is not None else ""


def separator_of(text: str, needed: Sequence[str]) -> str:
    """What separates the cells of a CSV, also where commas are decimal: all columns needed are in its first line."""
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    titles = {each: next(csv.reader([header], delimiter=each), []) for each in (",", ";", "\t")}
    return next((each for each, found in titles.items() if {*needed} <= {name.strip() for name in found}), ",")


def _read_csv(data: bytes) -> pyarrow.Table:
    """Also of a file that a spreadsheet has saved: then semicolons may separate, true be TRUE and 0.5 be 0,5."""
    import pandas

    separator = separator_of(data.partition(b"\n")[0].decode("utf-8-sig", "replace"), SCHEMA.names)
    cells = pandas.read_csv(io.BytesIO(data), dtype=str, na_filter=False, encoding="utf-8-sig", sep=separator)
    cells = cells[cells.ne("").any(axis=1)]  # a spreadsheet leaves empty rows at the end
    columns: dict[str, list[Any]] = {}
    for field in SCHEMA:
        if field.name not in cells:
            raise ValueError(f"no column {field.name!r}")
        column = columns[field.name] = []
        for row, cell in enumerate(cells[field.name], 1):
            try:
                decimal = separator != "," and field.type == KINDS[float]
                column.append(_value(cell.replace(",", ".") if decimal else cell, field.type))
            except ValueError as error:
                raise ValueError(f"row {row}, column {field.name!r}: {cell!r} is no {field.type}") from error
    return pyarrow.Table.from_pydict(columns, schema=SCHEMA)


def _value(cell: str, kind: pyarrow.DataType) -> Any:
    """What a cell of CSV holds: texts are texts, other cells JSON, an empty one null."""
    if kind == KINDS[str]:
        return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
    if kind == KINDS[bool]:
        cell = cell.lower()
    value = json.loads(cell) if cell else None
    if value is not None and kind == KINDS[int] and value != int(value):  # 1.200 may be a thousand and two hundred
        raise ValueError(cell)
    return value


WRITERS: Mapping[str, Callable[[Sequence[Row], Path], None]] = {
    ".feather": lambda rows, path: feather.write_feather(_arrow(rows), str(path)),
    ".parquet": lambda rows, path: parquet.write_table(_arrow(rows), path),
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
READERS: Mapping[str, Callable[[bytes], pyarrow.Table]] = {
    ".feather": lambda data: feather.read_table(io.BytesIO(data)),
    ".parquet": lambda data: parquet.read_table(io.BytesIO(data)),
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}
FORMATS = tuple(WRITERS)
