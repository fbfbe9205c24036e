"""Files, frames and the Hub -> rows as they stand there, by line. Knows no records and no models."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import pyarrow
from pyarrow import feather, parquet

from ..errors import InputError
from ..request import shortened

LISTS = ("answers", "paraphrases", "weights")
COLUMNS = ("id", "question", *LISTS)
SLOT = re.compile(r"\[[XY]\]")


class Raw(NamedTuple):
    """A record as found: where ("line", 317), and its columns, or the InputError that kept them from being read."""

    unit: str
    number: int
    found: Any


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
    """Rows under a header, each with the line it starts at; lists are JSON."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not header:
                raise InputError(f"cannot read {source}: line {line}: broken CSV ({error})") from error
            yield Raw("line", line, InputError(f"broken CSV ({error}): is a quote missing?"))
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            check_columns(source, header, ("question", "answers"))
        elif len(cells) > len(header):
            said = f"{len(cells)} cells under {len(header)} column names: is a quote missing?"
            yield Raw("line", line, InputError(said))
        else:
            yield Raw("line", line, _csv_columns(dict(zip(header, cells, strict=False))))


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
    check_columns("the table", table.column_names, ("question", "answers"))
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


SCHEME = "hf://datasets/"
CONVERTED = "refs/convert/parquet"  # where the Hub keeps a Parquet copy of a set in another format
T = TypeVar("T")


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


def _asked(path: str, question: Callable[..., T]) -> T:
    from huggingface_hub import HfFileSystem
    from huggingface_hub.errors import HfHubHTTPError

    # The bases of the Hub's error are those of the HTTP library it was built with, whichever that is.
    try:
        return question(HfFileSystem())
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: there is no such file or data set on the Hub") from error
    except (*HfHubHTTPError.__bases__, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        said = f"cannot read {path} from the Hugging Face Hub ({why}); a local file needs no network"
        raise InputError(said) from error
