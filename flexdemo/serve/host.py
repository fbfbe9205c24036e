"""What the machine must offer: packages, an address, a folder with room in it. Knows no page; standard library only."""

from __future__ import annotations

import atexit
import importlib
import inspect
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import InputError

SMALLEST = 4096  # bytes that a file takes on disk, however little is in it


def check_requirements(path: Path) -> None:
    """InputError that names the first package of a requirements file that is missing or of another version."""
    from packaging.requirements import Requirement

    for wanted in map(Requirement, path.read_text(encoding="utf-8").splitlines()):
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = ""
        if not wanted.specifier.contains(found or "0", prereleases=True):
            fault = f"is {found}: {wanted} is needed" if found else "is missing"
            raise InputError(f"the package {wanted.name} {fault}; run `pip install -r requirements.txt`")


def import_gradio() -> None:
    """Import gradio without the stubs of its components: at each start it parses their sources, writes the stubs anew
    and compares, for editors alone, which takes a fifth of the time of all that a page imports."""
    getfile = inspect.getfile

    def no_file(each: Any) -> str:
        if isinstance(each, type) and each.__module__.startswith("gradio."):
            raise OSError("a class without a file has no stub")
        return getfile(each)

    inspect.getfile = no_file
    try:
        importlib.import_module("gradio")
    finally:
        inspect.getfile = getfile


def resolve_address(host: str | None, port: int | None) -> tuple[str, int]:
    """Host and port from flags, else the environment, else 127.0.0.1:7860; InputError if they cannot be used."""
    named = os.environ.get("GRADIO_SERVER_PORT", "7860") if port is None else str(port)
    if not named.isascii() or not named.isdigit() or not 1 <= int(named) <= 65535:
        raise InputError(f"the port must be a whole number from 1 to 65535, not {named!r}")
    address = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, int(named)))
    except OSError as error:
        why = f"cannot listen on {address}:{named} ({error.strerror or error})"
        raise InputError(f"{why}: choose another with --port or --host") from error
    return address, int(named)


def own_folder() -> None:
    """Visitors' files go to a folder that nobody else on this machine can read, and that is gone when the program is.

    GRADIO_TEMP_DIR names where it is made. InputError if it cannot be.
    """
    place = os.environ.get("GRADIO_TEMP_DIR")
    try:
        os.makedirs(place or tempfile.gettempdir(), exist_ok=True)
        folder = os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="flexdemo-", dir=place)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"no files can be written ({why}): name another folder, with GRADIO_TEMP_DIR") from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def make_room(folder: Path, most: int, incoming: int) -> None:
    """Delete the oldest files in a folder and below until `incoming` more bytes fit into `most`.

    For folders of temporary files alone. A file that another has deleted meanwhile is no error.
    """
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with suppress(FileNotFoundError):
                told = path.stat(follow_symlinks=False)
                found.append((told.st_mtime, max(told.st_size, SMALLEST), path))
    excess = sum(size for _, size, _ in found) + incoming - most
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        with suppress(OSError):  # other files are left in it
            path.parent.rmdir()
        excess -= size
