"""Versions of what computes. Imports nothing of the project but its version."""

from __future__ import annotations

import platform
from importlib.metadata import version

from . import __version__

LIBRARIES = ("torch", "transformers")


def versions() -> dict[str, str]:
    """Version of flexdemo, of Python, and of the libraries that an answer depends on."""
    return {
        "flexdemo": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
