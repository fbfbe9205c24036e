"""flexdemo: ask one question in several wordings at once and see how a language model fuses them."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["ask", "load_model", "stream"]

_HOMES = {"ask": "answers.ask", "stream": "answers.ask", "load_model": "engine.loading"}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `--help` and errors in arguments do not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
