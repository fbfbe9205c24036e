"""Files written whole or not at all, and standard output. Knows paths and bytes, not what is in them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError


def check_output(path: Path, suffixes: Sequence[str]) -> None:
    """Raise InputError, before any work, if `path` cannot be written or has the wrong ending."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"cannot write {path}: the file must end in {', '.join(suffixes)}")
    folders = Path(os.path.realpath(path)).parents
    there = next(folder for folder in folders if os.path.exists(folder))  # the rest is made with the file
    if os.path.isdir(path):  # False for a name that no disk can hold
        raise InputError(f"cannot write {path}: it is a folder; name a file in it")
    if not os.path.isdir(there) or not os.access(there, os.W_OK):
        raise InputError(f"cannot write {path}: no permission to write there; choose another folder")


def read_file(path: Path) -> bytes:
    """A file's bytes; InputError where there are none to be had."""
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise InputError(f"cannot read {path}: it is a folder; name a file in it") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """InputError for what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all: beside its place first, then moved there. Its folder is made if need be, and a
    link stays one."""
    place = Path(os.path.realpath(path))
    scratch = place.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        with writing(path):
            place.parent.mkdir(parents=True, exist_ok=True)
            write(scratch)
            scratch.replace(place)
    finally:
        with suppress(OSError):  # a name that is too long for this disk
            scratch.unlink(missing_ok=True)


def print_json(value: Any) -> None:
    """One line of JSON, its characters escaped where standard output may not hold them as they are."""
    whole = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    print(json.dumps(value, ensure_ascii=not whole, allow_nan=False))
