"""What happens when memory runs out, and how much is in use. Knows no models and no requests."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .config import InputError
from .ledger import note

ADVICE = "use fewer methods, fewer or shorter paraphrases, or a shorter answer"
STATM = Path("/proc/self/statm")


class OutOfMemory(InputError):
    """A request that does not fit; the message says what would."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU's or the CPU's allocator gave up."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def free(error: BaseException) -> None:
    """Let go of what the failed work still holds, and hand the GPU's cached blocks back."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
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
        note(out_of_memory=True)
        told = f" ({size()})" if size else ""
        raise OutOfMemory(f"this request does not fit in memory{told}: {ADVICE}")


def resident_bytes() -> int | None:
    """Memory of this process, in bytes; None where the system does not tell."""
    if not STATM.is_file():
        return None
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def gpu_bytes() -> dict[int, tuple[int, int]]:
    """GPU -> (allocated, reserved) bytes of this process; empty without a GPU in use."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return {}
    return {
        i: (torch.cuda.memory_allocated(i), torch.cuda.memory_reserved(i)) for i in range(torch.cuda.device_count())
    }
