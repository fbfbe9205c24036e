"""Imports of gradio and transformers without the work in them that serves others. Knows no model and no page.

A cold start is mostly imports. Each function here leaves out work that was measured;
what they change while they import is put back, and nothing that the libraries offer afterwards is missing.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any


@contextmanager
def without_stubs() -> Iterator[None]:
    """Import gradio in here, and it leaves its components' type stubs (.pyi) alone.

    Otherwise it parses every component's source and stub to bring the stubs up to date, for editors: a third of its
    import. It makes no stub for a class whose file it cannot find.
    """
    getfile = inspect.getfile

    def found(thing: Any) -> str:
        if type(thing).__name__ == "ComponentMeta":
            raise OSError("no stub is wanted")
        return getfile(thing)

    inspect.getfile = found
    try:
        yield
    finally:
        inspect.getfile = getfile


@contextmanager
def without(package: str) -> Iterator[None]:
    """Import in here, and an optional package is not there; nothing changes where it has been imported before."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # what the import system takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[package]


@contextmanager
def light_gradio(*, mcp: bool = False) -> Iterator[None]:
    """Import gradio in here; `mcp`: also the package that makes MCP tools of endpoints, 0.2 s where it is installed."""
    with without_stubs(), nullcontext() if mcp else without("mcp"):
        yield


def import_transformers() -> None:
    """Import transformers and its collection of models, whose 1,600 sources it then reads once and not twice.

    Both packages list the models' classes by reading the sources: one asks for the folder, the other for a file in it,
    and the answer of the first is not found again.
    """
    import transformers
    from transformers.utils import import_utils

    folder = Path(transformers.__file__).parent / "models"
    listed = import_utils.create_import_structure_from_path

    def once(path: str | Path) -> Any:
        return listed(folder if Path(path) == folder / "__init__.py" else path)

    import_utils.create_import_structure_from_path = once
    try:
        import transformers.models
    finally:
        import_utils.create_import_structure_from_path = listed
