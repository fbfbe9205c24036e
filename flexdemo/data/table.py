"""Results tables on disk: rows <-> feather, parquet, csv, jsonl. Knows no models and no metrics."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from ..errors import InputError
from .files import write_file

if TYPE_CHECKING:
    import pandas
    import pyarrow

FORMATS = (".feather", ".parquet", ".csv", ".jsonl")
# What readers raise for bytes that are no table: pyarrow's own errors are kinds of these, and so is too deep a nesting.
DAMAGED = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, OSError, MemoryError, csv.Error)


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


COLUMNS = tuple(field.name for field in fields(Row))
TYPES: Mapping[str, Any] = get_type_hints(Row)
# How each type looks in a frame: lists and texts as they are, missing truth values as pandas' own.
DTYPES = {int: "int64", bool: "bool", float: "float64", bool | None: "boolean", float | None: "float64"}
# A spreadsheet runs a cell that begins so as a formula; apostrophes before it are those of an earlier defence.
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write the rows whole or not at all, in the form that the ending of `path` names (one of FORMATS)."""
    ending = _ending(path, "write")
    write_file(path, lambda scratch: WRITERS[ending](rows, scratch))


def read_table(path: Path, *, most_rows: int | None = None) -> pandas.DataFrame:
    """A results table as a frame with the columns of Row, the same for every form it was written in.

    Lists are lists; missing truth values are pandas.NA and a missing agreement is NaN. Raises InputError for a file
    that is no results table, or has more than `most_rows`.
    """
    path = Path(path)
    ending = _ending(path, "read")
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        columns = READERS[ending](data)
        rows = len(columns.get("id", ()))
        if most_rows is not None and rows > most_rows:
            raise InputError(f"the file {path} has {rows:,} rows: at most {most_rows:,} can be opened here")
        return _frame(columns)
    except InputError:
        raise
    except DAMAGED as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read {path}: it is no results table of this program ({why})") from error


def table_frame(rows: Sequence[Row]) -> pandas.DataFrame:
    """The rows as read_table gives them."""
    return _frame({name: [getattr(row, name) for row in rows] for name in COLUMNS})


def _ending(path: Path, verb: str) -> str:
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"cannot {verb} {path}: the file must end in {', '.join(FORMATS)}")
    return ending


def _frame(columns: Mapping[str, Sequence[Any]]) -> pandas.DataFrame:
    import pandas

    lacking = [name for name in COLUMNS if name not in columns]
    if lacking:
        raise ValueError(f"no column {lacking[0]!r}")
    made = {}
    for name in COLUMNS:
        values, kind = columns[name], TYPES[name]
        if not all(_fits(value, kind) for value in values):
            raise _unfit(name)
        if kind == tuple[str, ...]:
            values = [list(value) for value in values]
        elif kind == (bool | None):
            values = [pandas.NA if value is None else value for value in values]
        made[name] = pandas.Series(values, dtype=DTYPES.get(kind, "object"), name=name)
    return pandas.DataFrame(made)


def _unfit(name: str) -> ValueError:
    kind = TYPES[name]
    return ValueError(f"column {name!r} holds something else than {getattr(kind, '__name__', kind)}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value may stand in a column; checked because pandas would make any text true and no value false."""
    if kind == tuple[str, ...]:
        return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
    if kind in (bool | None, float | None) and value is None:
        return True
    if kind in (bool, bool | None):
        return isinstance(value, bool)
    wanted = {str: str, int: int}.get(kind, int | float)
    return isinstance(value, wanted) and not isinstance(value, bool)


def _schema() -> pyarrow.Schema:
    import pyarrow

    kinds = {
        str: pyarrow.string(),
        tuple[str, ...]: pyarrow.list_(pyarrow.string()),
        int: pyarrow.int64(),
        bool: pyarrow.bool_(),
        float: pyarrow.float64(),
        bool | None: pyarrow.bool_(),
        float | None: pyarrow.float64(),
    }
    return pyarrow.schema([(name, kinds[TYPES[name]]) for name in COLUMNS])


def _arrow(rows: Sequence[Row]) -> pyarrow.Table:
    import pyarrow

    return pyarrow.Table.from_pydict({n: [getattr(row, n) for row in rows] for n in COLUMNS}, schema=_schema())


def _write_feather(rows: Sequence[Row], path: Path) -> None:
    from pyarrow import feather

    feather.write_feather(_arrow(rows), str(path))


def _write_parquet(rows: Sequence[Row], path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(_arrow(rows), str(path))


def _write_jsonl(rows: Sequence[Row], path: Path) -> None:
    path.write_text("".join(f"{json.dumps(asdict(row), allow_nan=False)}\n" for row in rows), encoding="utf-8")


def _read_feather(data: bytes) -> dict[str, list[Any]]:
    from pyarrow import feather

    return _columns(feather.read_table(io.BytesIO(data)))


def _read_parquet(data: bytes) -> dict[str, list[Any]]:
    from pyarrow import parquet

    return _columns(parquet.read_table(io.BytesIO(data)))


def _columns(table: pyarrow.Table) -> dict[str, list[Any]]:
    table.validate(full=True)  # a damaged table may point beyond its own memory
    return table.to_pydict()


def _read_jsonl(data: bytes) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for line in data.decode("utf-8").split("\n"):
        if not line:
            continue
        told = json.loads(line)
        if not (isinstance(told, dict) and set(COLUMNS) <= set(told)):
            raise ValueError("a line lacks a column")
        for name, values in columns.items():
            if not _fits(told[name], TYPES[name]):
                raise _unfit(name)
            values.append(told[name])
    return columns


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}" if FORMULA.match(value) else value
    return json.dumps(value, ensure_ascii=False, allow_nan=False) if value is not None else ""


def _read_csv(data: bytes) -> dict[str, list[Any]]:
    before = csv.field_size_limit(max(len(data), 1))  # cells may be longer than the module's default
    try:
        header, *lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    finally:
        csv.field_size_limit(before)
    if not set(COLUMNS) <= set(header):
        raise ValueError("a column is missing")
    places = {name: header.index(name) for name in COLUMNS}
    cells = [line for line in lines if line]
    if any(len(line) != len(header) for line in cells):
        raise ValueError("a line has too few or too many cells")
    return {name: [_value(line[place], TYPES[name]) for line in cells] for name, place in places.items()}


def _value(cell: str, kind: Any) -> Any:
    if kind is str:
        return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
    return json.loads(cell) if cell else None


WRITERS: Mapping[str, Callable[[Sequence[Row], Path], None]] = {
    ".feather": _write_feather,
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
READERS: Mapping[str, Callable[[bytes], dict[str, list[Any]]]] = {
    ".feather": _read_feather,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}
