"""Errors a user is told in one line, running out of memory among them. Knows nothing else of the project."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def first_line(error: BaseException) -> str:
    """What an error says first; its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class InputError(ValueError):
    """Input that cannot be used as it is; the message says in one line what was wrong and what would be right."""


class BackendError(InputError):
    """A backend that cannot compute this; the message names one that can."""


class OutOfTime(InputError):
    """A request has had its seconds before this part of it was done."""


ADVICE = "use fewer methods, fewer or shorter paraphrases, or a shorter answer"


class OutOfMemory(InputError):
    """A request that does not fit; the message says what would."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU's or the CPU's allocator gave up."""
    torch = sys.modules.get("torch")  # who has not imported it cannot run out of a GPU's memory
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    by_name = ("DefaultCPUAllocator", "CUDA error: out of memory")  # the latter where other programs fill the GPU
    return isinstance(error, kinds) or any(name in str(error) for name in by_name)


def free(error: BaseException) -> None:
    """Let go of what the failed work still holds, and hand the GPU's cached blocks back."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def within_memory(
    size: Callable[[], str] | None = None, *, give_up: Callable[[], None] | None = None
) -> Iterator[None]:
    """Turn running out of memory into one line, after freeing what the work held; `size` says how large it was.

    `give_up` is called first: it drops what is kept for speed alone.
    """
    failed: BaseException | None = None
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = error
    if failed is not None:
        if give_up is not None:
            give_up()
        free(failed)
        told = f" ({size()})" if size else ""
        raise OutOfMemory(f"this request does not fit in memory{told}: {ADVICE}")
