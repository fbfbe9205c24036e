"""Results written as they come, so that a run killed at any moment goes on where it was. Knows rows, no models.

Beside the output `NAME` each process appends to `NAME.partial-RANK.jsonl`: a header with the run's settings, then one
line for each batch, flushed to the disk. A line counts once its line end is there, so a torn one is a batch that was
not done. `finish` merges the files into the table and writes `NAME.meta.json`, whose settings a later run compares.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..answers.result import versions
from ..errors import InputError
from .files import check_output, read_file, write_file, writing
from .table import FORMATS, Row, write_table

PACKAGES = ("numpy", "pandas", "pyarrow", "simplemma")  # whose versions are told with a table's
HINT = "--resume goes on, --overwrite starts again"
ABSENT = object()


@dataclass(frozen=True)
class Contents:
    """What a journal holds: instances of a dataclass `kind`, which `write` puts into a file of one of `formats`."""

    formats: tuple[str, ...]
    kind: type
    write: Callable[[Sequence[Any], Path], None]


TABLE = Contents(FORMATS, Row, write_table)


def check_run(output: Path, *, resume: bool, overwrite: bool, form: Contents = TABLE) -> None:
    """Raise InputError if a run that writes `output` may not start. Reads only: call it before a model loads."""
    check_output(output, form.formats)
    if resume and overwrite:
        raise InputError("choose one of --resume and --overwrite")
    meta, partials = _meta_path(output), _partial_paths(output)
    existing = [path for path in (output, meta, *partials) if os.path.exists(path)]
    if existing and not (resume or overwrite):
        raise InputError(f"{existing[0]} exists: {HINT}")
    if resume and existing == [output]:
        raise InputError(f"{output} has no {meta.name}, so nothing says what it holds: --overwrite starts again")


class Journal(contextlib.AbstractContextManager):
    """One process's part of a run. Use as a context manager, or close it.

    `done` holds the indices of the records that any process has finished, all of them where the table is there already.
    """

    def __init__(self, path: Path, done: Iterable[int], *, file: BinaryIO | None = None) -> None:
        self.path, self.done, self._file = path, frozenset(done), file

    @classmethod
    def open(
        cls,
        output: Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        rank: int = 0,
        form: Contents = TABLE,
    ) -> Journal:
        """Begin or go on with the run that writes `output`; InputError where that would mix or lose results.

        `settings` is anything JSON that must be equal for results to belong together. Of several processes, rank 0
        opens first and alone, and the others after it: it decides what `resume` and `overwrite` mean for all, and it
        removes the files of an overwritten run.
        """
        path, partials = _partial_path(output, rank), _partial_paths(output)
        if rank == 0:
            check_run(output, resume=resume, overwrite=overwrite, form=form)
        if _is_finished(output) and not (overwrite and rank == 0):
            return cls(path, range(_read_meta(output, settings)["total"]))
        if rank == 0:
            # The description first: a table without one is never taken for finished.
            _remove([_meta_path(output), *([output, *partials] if overwrite else [])])
        done, size = _read_partials(output, settings), _read_partial(path)[-1] if os.path.exists(path) else 0
        with writing(path):
            path.absolute().parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab", buffering=0)
            file.truncate(size)
            if not size:
                _write_line(file, {"settings": settings})
        return cls(path, done, file=file)

    def append(self, indices: Sequence[int], rows_by_index: Mapping[int, Sequence[Any]]) -> None:
        """Write one batch, the rows of the records at `indices`, and return once it is on the disk."""
        batch = {"indices": list(indices), "rows": [[vars(row) for row in rows_by_index[i]] for i in indices]}
        with writing(self.path):
            _write_line(self._file, batch)
        self.done |= frozenset(indices)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __exit__(self, *raised: object) -> None:
        self.close()


def finish(output: Path, settings: Mapping[str, Any], total: int, *, form: Contents = TABLE) -> None:
    """Merge all processes' files, in the records' order, into `output`, describe it, and remove them.

    For one process, after all have closed their journals. Raises InputError if one of the `total` records lacks its
    results, and then leaves everything as it is; a table that is finished already stays.
    """
    if _is_finished(output):
        _read_meta(output, settings)
        _remove(_partial_paths(output))
        return
    rows = _read_partials(output, settings)
    if missing := len(set(range(total)) - rows.keys()):
        raise InputError(f"{output} cannot be finished: {missing} of {total} records have no results; {HINT}")
    with _undamaged(output):
        made = [form.kind(**columns) for index in range(total) for columns in rows[index]]
    form.write(made, output)
    facts = {"settings": settings, "total": total, "rows": len(made), "versions": versions(*PACKAGES)}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    write_file(_meta_path(output), lambda scratch: scratch.write_text(text, encoding="utf-8"))
    _remove(_partial_paths(output))


def _meta_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.meta.json")


def _is_finished(output: Path) -> bool:
    return os.path.exists(output) and os.path.exists(_meta_path(output))


def _partial_path(output: Path, rank: int) -> Path:
    return output.with_name(f"{output.name}.partial-{rank}.jsonl")


def _partial_paths(output: Path) -> list[Path]:
    return sorted(map(Path, glob.glob(f"{glob.escape(str(output))}.partial-*.jsonl")))


def _read_partials(output: Path, settings: Mapping[str, Any]) -> dict[int, list[Any]]:
    """Rows, as JSON has them, of each record that any process has finished, all under these settings."""
    rows: dict[int, list[Any]] = {}
    for path in _partial_paths(output):
        header, batches, size = _read_partial(path)
        if size:
            _compare(path, header, settings)
        with _undamaged(path):
            for batch in batches:
                for index, made in zip(batch["indices"], batch["rows"], strict=True):
                    rows.setdefault(index, made)
    return rows


@contextlib.contextmanager
def _undamaged(path: Path, said: str = "is damaged") -> Iterator[None]:
    """InputError for what a file of a run has never held."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} {said}: --overwrite starts again") from error


def _read_partial(path: Path) -> tuple[Any, list[Any], int]:
    """A partial file up to its last whole line: its settings, its batches, and the bytes that count."""
    data = read_file(path)
    whole = data[: data.rfind(b"\n") + 1]
    lines: list[Any] = []
    try:
        for line in whole.splitlines():
            lines.append(json.loads(line))
    except ValueError as error:
        raise InputError(f"{path} is damaged at line {len(lines) + 1}: --overwrite starts again") from error
    with _undamaged(path):
        return dict(lines[0]["settings"]) if lines else None, lines[1:], len(whole)


def _read_meta(output: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a finished table; InputError if that is none, or of other settings."""
    path = _meta_path(output)
    data = read_file(path)
    with _undamaged(path, "describes no results table"):
        meta = json.loads(data)
        found, _ = dict(meta["settings"]), range(meta["total"])
    _compare(path, found, settings)
    return meta


def _compare(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise InputError that names the first setting in which an earlier run differs, with both values."""
    new = json.loads(json.dumps(new))  # as they come back from a file: tuples are lists
    for key in (*new, *old):
        before, now = old.get(key, ABSENT), new.get(key, ABSENT)
        if before != now:
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
        with writing(path):
            Path(os.path.realpath(path)).unlink(missing_ok=True)  # what a link leads to, not the link
