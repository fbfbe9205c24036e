"""How many CPU threads a pass takes, by the tokens it has. Knows no models; the numbers are the whole process's."""

from __future__ import annotations

import torch

MANY = 32  # tokens of a pass: reading a prompt has more, a step of an answer mostly fewer
_taken: list[int] = []  # by passes of few and of many tokens; none: torch's own number by all


def set_threads(few: int, many: int) -> None:
    """Let passes of few tokens take `few` threads from now on, others `many`."""
    _taken[:] = few, many
    torch.set_num_threads(few)


def forget_threads() -> None:
    """Let all passes take as many threads as torch is set to."""
    _taken.clear()


def take_threads(tokens: int) -> None:
    """Set torch to the threads of a pass of so many tokens."""
    if _taken:
        torch.set_num_threads(_taken[tokens >= MANY])
