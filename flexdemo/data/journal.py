"""Results written as they come, so that a run killed at any moment goes on where it was. Knows rows, no models.

Beside the output `NAME` each process appends to `NAME.partial-RANK.jsonl`: a header with the run's settings, then one
line for each batch, flushed to the disk. A line counts once its line end is there, so a torn one is a batch that was
not done. `finish` merges the files into the table and writes `NAME.meta.json`, whose settings a later run compares.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from .files import check_output, write_file
from .table import FORMATS, Row, write_table

PACKAGES = ("flexdemo", "torch", "transformers", "numpy", "pandas", "pyarrow", "simplemma", "spacy")
HINT = "--resume goes on, --overwrite starts again"
ABSENT = object()


@dataclass(frozen=True)
class Contents:
    """What a journal holds: instances of a dataclass `kind`, which `write` puts into a file of one of `formats`."""

    formats: tuple[str, ...]
    kind: type
    write: Callable[[Sequence[Any], Path], None]

    def make(self, columns: Mapping[str, Any]) -> Any:
        """An instance from its fields as JSON has them: lists were tuples."""
        return self.kind(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in columns.items()}
        )


TABLE = Contents(FORMATS, Row, write_table)


@dataclass(frozen=True)
class Partial:
    """What one process has written: its settings and the rows of each record it finished."""

    path: Path
    settings: Any
    rows: Mapping[int, tuple[Any, ...]]
    size: int  # bytes that count; what follows them is torn


def check_run(
    output: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    form: Contents = TABLE,
) -> bool:
    """Raise InputError if a run that writes `output` may not start; whether it is there, finished, already.

    Reads only: call it before a model loads. Settings are compared if given; Journal.open checks again with them.
    """
    check_output(output, form.formats)
    if resume and overwrite:
        raise InputError("choose one of --resume and --overwrite")
    meta, partials = _meta_path(output), _partial_paths(output)
    try:
        existing = [path for path in (output, meta, *partials.values(), _partial_path(output, 0)) if path.exists()]
    except OSError as error:  # a name too long for this disk
        raise InputError(f"cannot write {output}: {error.strerror or error}") from error
    if overwrite:
        return False
    if not resume:
        if existing:
            raise InputError(f"{existing[0]} exists: {HINT}")
        return False
    if output.exists() and meta.exists():
        if settings is not None:
            _compare(meta, _read_meta(meta).get("settings"), settings)
        return True
    if output.exists() and not partials:
        raise InputError(f"{output} has no {meta.name}, so nothing says what it holds: --overwrite starts again")
    if settings is not None:
        _read_partials(output, settings, form)
    return False


class Journal:
    """One process's part of a run. Use as a context manager, or close it.

    `done` holds the indices of the records that any process has finished; `finished` is True when the whole table is
    there already and nothing is left to do.
    """

    def __init__(self, path: Path, done: frozenset[int], *, file: BinaryIO | None = None) -> None:
        self.path, self.done, self.finished = path, done, file is None
        self._file = file

    @classmethod
    def open(
        cls,
        output: Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        rank: int = 0,
        world: int = 1,
        form: Contents = TABLE,
    ) -> Journal:
        """Begin or go on with the run that writes `output`; InputError where that would mix or lose results.

        `settings` is anything JSON that must be equal for results to belong together. Of several processes, rank 0
        opens first and alone, and the others after it: it decides what `resume` and `overwrite` mean for all, and it
        removes the files of an overwritten run.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world}")
        output, settings = Path(output), _as_json(settings)
        path = _partial_path(output, rank)
        if rank > 0:
            if output.exists() and _meta_path(output).exists():
                return cls(path, _finished_indices(output))
            if 0 not in _partial_paths(output):
                raise InputError(f"{output} was not begun: process 0 must open it before the others")
        elif check_run(output, settings, resume=resume, overwrite=overwrite, form=form):
            _remove(_partial_paths(output).values())  # left by a run that ended between its last two steps
            return cls(path, _finished_indices(output))
        elif overwrite:
            # The description first: a table without one is never taken for finished.
            _remove([_meta_path(output), output, *_partial_paths(output).values()])
        else:
            _remove([_meta_path(output)])  # a description whose table somebody took away
        partials = _read_partials(output, settings, form)
        own = next((partial for partial in partials if partial.path == path), None)
        done = frozenset(index for partial in partials for index in partial.rows)
        try:
            path.absolute().parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab", buffering=0)
            file.truncate(own.size if own else 0)
            if own is None:
                _write_line(file, {"settings": settings, "rank": rank, "world": world})
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        return cls(path, done, file=file)

    def append(self, indices: Sequence[int], rows_by_index: Mapping[int, Sequence[Any]]) -> None:
        """Write one batch, the rows of the records at `indices`, and return once it is on the disk."""
        if self._file is None:
            raise ValueError("this journal is closed")
        batch = {"indices": list(indices), "rows": [[asdict(row) for row in rows_by_index[i]] for i in indices]}
        try:
            _write_line(self._file, batch)
        except OSError as error:
            self.close()
            raise InputError(f"cannot write {self.path}: {error.strerror or error}; --resume goes on") from error
        self.done |= frozenset(indices)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def finish(output: Path, settings: Mapping[str, Any], total: int, *, form: Contents = TABLE) -> None:
    """Merge all processes' files, in the records' order, into `output`, describe it, and remove them.

    For one process, after all have closed their journals. Raises InputError if one of the `total` records lacks its
    results, and then leaves everything as it is; does nothing if the table is finished already.
    """
    output, settings = Path(output), _as_json(settings)
    meta = _meta_path(output)
    if output.exists() and meta.exists():
        _compare(meta, _read_meta(meta).get("settings"), settings)
        _remove(_partial_paths(output).values())
        return
    rows: dict[int, tuple[Any, ...]] = {}
    for partial in _read_partials(output, settings, form):
        rows = {**partial.rows, **rows}
    missing = [index for index in range(total) if index not in rows]
    if missing or len(rows) != total:
        what = (
            f"{len(missing)} of {total} records have no results" if missing else f"it holds more than {total} records"
        )
        raise InputError(f"{output} cannot be finished: {what}; {HINT}")
    form.write([row for index in range(total) for row in rows[index]], output)
    facts = {"settings": settings, "total": total, "rows": sum(map(len, rows.values())), "versions": versions()}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    write_file(meta, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    _remove(_partial_paths(output).values())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make results what they are, of those installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a file: tuples are lists."""
    return json.loads(json.dumps(dict(settings), allow_nan=False))


def _meta_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.meta.json")


def _partial_path(output: Path, rank: int) -> Path:
    return output.with_name(f"{output.name}.partial-{rank}.jsonl")


def _partial_paths(output: Path) -> dict[int, Path]:
    """Partial files of a run by rank."""
    pattern = re.compile(re.escape(output.name) + r"\.partial-(\d+)\.jsonl")
    beside = (Path(name) for name in glob.glob(glob.escape(str(output)) + ".partial-*.jsonl"))
    found = {int(match[1]): path for path in beside if (match := pattern.fullmatch(path.name))}
    return dict(sorted(found.items()))


def _read_partials(output: Path, settings: Mapping[str, Any], form: Contents) -> list[Partial]:
    """Every partial file that has begun, all of these settings."""
    partials = [_read_partial(path, form) for path in _partial_paths(output).values()]
    begun = [partial for partial in partials if partial is not None]
    for partial in begun:
        _compare(partial.path, partial.settings, settings)
    return begun


def _read_partial(path: Path, form: Contents) -> Partial | None:
    """A partial file up to its last whole line; None where even the header is torn."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    whole = data[: data.rfind(b"\n") + 1]
    if not whole:
        return None
    rows: dict[int, tuple[Any, ...]] = {}
    number = 0
    try:
        for number, line in enumerate(whole.splitlines(), start=1):
            value = json.loads(line)
            if number == 1:
                settings = value["settings"]
                continue
            for index, dicts in zip(value["indices"], value["rows"], strict=True):
                rows.setdefault(index, tuple(map(form.make, dicts)))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged at line {number}: --overwrite starts again") from error
    return Partial(path, settings, rows, len(whole))


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}, so nothing says what is there: --overwrite starts again") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("total"), int):
        raise InputError(f"{path} describes no results table: --overwrite starts again")
    return meta


def _finished_indices(output: Path) -> frozenset[int]:
    return frozenset(range(_read_meta(_meta_path(output))["total"]))


def _compare(path: Path, old: Any, new: Mapping[str, Any]) -> None:
    """Raise InputError that names the first setting in which an earlier run differs, with both values."""
    old, new = old if isinstance(old, dict) else {}, _as_json(new)
    for key in (*new, *(key for key in old if key not in new)):
        before, now = old.get(key, ABSENT), new.get(key, ABSENT)
        if before is ABSENT or now is ABSENT or before != now:
            raise InputError(
                f"{path} is of another run: its {key} is {_shown(before, now)}, not {_shown(now, before)}; "
                "give the same settings, another --output, or --overwrite"
            )


def _shown(value: Any, other: Any) -> str:
    """A setting's value; a long one from a little before where it differs from the other."""
    text, beside = ("nothing" if each is ABSENT else json.dumps(each, ensure_ascii=False) for each in (value, other))
    differs = next((i for i, (a, b) in enumerate(zip(text, beside, strict=False)) if a != b), 0)
    text = f"...{text[differs - 30 :]}" if len(text) > 80 and differs > 30 else text
    return text if len(text) <= 80 else f"{text[:77]}..."


def _write_line(file: BinaryIO, value: Any) -> None:
    data = f"{json.dumps(value, allow_nan=False)}\n".encode("ascii")
    while data:  # a disk that fills takes a part
        data = data[os.write(file.fileno(), data) :]
    os.fsync(file.fileno())


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror or error}") from error
