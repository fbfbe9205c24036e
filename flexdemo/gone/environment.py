"""Whether the installed packages are those that requirements.txt asks for. Imports none of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import InputError

LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?P<bounds>[^;#]*)")
BOUND = re.compile(r"(?P<sign>>=|<)\s*(?P<release>[0-9]+(?:\.[0-9]+)*)")
PYTHON = ((3, 10), (3, 14))


def release(text: str) -> tuple[int, ...]:
    """The numbers a version begins with: 2.13.0+cpu -> (2, 13); zeros at the end do not count."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", text)
    numbers = [int(part) for part in found.group().split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def check_requirements(path: Path, *, installed: Callable[[str], str] = version) -> None:
    """InputError for the first line of a requirements file that no installed package meets; nothing without the file.

    Lines are a name and bounds of the kinds >= and <, as ours are. `installed` gives a package's version.
    """
    if not PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        raise InputError(f"Python {sys.version_info[0]}.{sys.version_info[1]} cannot run this: use 3.10 to 3.13")
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        wanted = LINE.match(line.strip())
        if wanted is None:
            continue
        name, remedy = wanted["name"], f"run `pip install -r {path.name}`"
        try:
            found = installed(name)
        except PackageNotFoundError as error:
            raise InputError(f"the package {name} is missing: {remedy}") from error
        for bound in BOUND.finditer(wanted["bounds"]):
            at_least = release(found) >= release(bound["release"])
            if at_least != (bound["sign"] == ">="):
                fault = "too new" if at_least else "too old"
                raise InputError(f"{name} {found} is {fault}: {line.strip()} is needed; {remedy}")
