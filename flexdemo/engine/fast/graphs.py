"""CUDA graphs of forward passes, kept with their memory from request to request. Knows tensors; no prompts, no text.

On a GPU most of a short pass's time is Python launching kernels. A graph replays them at once, but always over the
same memory: what holds that memory is lent to one request at a time.
"""

from __future__ import annotations

import functools
import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...errors import BackendError, first_line, is_out_of_memory
from .compiler import ALONE


class Replay(Protocol):
    """Runs captured work again; returns the same tensors each time, filled anew. It holds memory of its own."""

    nbytes: int

    def __call__(self) -> Any: ...


SHARE, LARGEST = 8, 16  # one part in so many of a GPU's memory may be kept, in all and by one holder


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: what one frees may be a kernel's module, and unloading it spoils a capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@functools.cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """One for all captures on a device: torch's own belongs to the first device that captured anything."""
    return torch.cuda.Stream(device)


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    out: Any
    nbytes: int

    def __call__(self) -> Any:
        self.graph.replay()
        return self.out


def capture(work: Callable[[], Any], device: torch.device | None = None) -> Replay:
    """Work on a CUDA device, the current one by default, as a graph; nothing is computed until it is replayed.

    Raises torch.OutOfMemoryError if its memory cannot be had, BackendError if it cannot be captured.
    """
    with ALONE, _uncollected(), torch.cuda.device(device):
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        torch.cuda.current_blas_handle()  # each thread has its own, which cannot be made during a capture
        try:
            stream = _capture_stream(before.device_index)
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                reserved = torch.cuda.memory_reserved()
                out = work()
                reserved = torch.cuda.memory_reserved() - reserved  # what another thread takes meanwhile is counted too
        except RuntimeError as error:
            causes: list[BaseException] = [error]
            while causes[-1].__context__ is not None:
                causes.append(causes[-1].__context__)
            for cause in causes:
                if is_out_of_memory(cause):
                    raise cause from None
            raise BackendError(  # the last one only says that the capture is spoilt
                f"a forward pass cannot be captured as a CUDA graph ({first_line(causes[-1])}): "
                "load the model with captures=False"
            ) from error
        finally:
            torch.cuda.set_stream(before)  # torch leaves a thread on the capture's stream if its end fails
            # What cuBLAS worked in is let go of: it stays in this graph's memory, and the next capture takes its own.
            # A graph that went on in an earlier one's would write to nobody's memory once anyone cleared it, as the
            # compiler's own graphs do (those of a static cache in transformers' `generate`).
            torch._C._cuda_clearCublasWorkspaces()
    return _Captured(graph, out, max(0, reserved))


class _Kept(NamedTuple):
    holder: Any
    size: int


class _Call(NamedTuple):
    inputs: tuple[Tensor, ...]
    replay: Replay


class Graphs:
    """Holders of graphs and of their memory, at most `most_bytes` of it; the one lent longest ago goes first.

    A holder of more than `largest` bytes is not kept: while one is lent, its request's own memory is there as well.
    """

    def __init__(
        self,
        most_bytes: int = 0,
        *,
        largest: int | None = None,
        capture: Callable[[Callable[[], Any]], Replay] = capture,
    ) -> None:
        self.capture, self.most_bytes = capture, most_bytes
        self.largest = most_bytes if largest is None else largest
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._met: OrderedDict[Hashable, bool] = OrderedDict()  # whether its holder is kept once it is captured

    def lend(self, key: Hashable) -> Any | None:
        """The holder kept under a key, which nobody else gets until it is kept again; None if there is none."""
        with self._lock:
            kept = self._kept.pop(key, None)
        return None if kept is None else kept.holder

    def keep(self, key: Hashable, holder: Any, held: Iterable[Tensor | Replay]) -> None:
        """Keep a holder for the next request; `held` is the memory it holds: tensors, and graphs with their own."""
        size = sum(each.nbytes for each in held)
        with self._lock:
            if size > self.largest and key in self._met:
                self._met[key] = False
            dropped: list[Any] = [holder]
            if size <= self.largest:
                self._kept[key], dropped = _Kept(holder, size), []
            while self._kept and sum(kept.size for kept in self._kept.values()) > self.most_bytes:
                dropped.append(self._kept.popitem(last=False))
        if dropped and torch.cuda.is_initialized():
            # Their last replay may still be running. The device as a whole must not be waited for: another thread may
            # be capturing.
            torch.cuda.current_stream().synchronize()

    def clear(self) -> None:
        """Drop all that is kept."""
        with self._lock:
            self._kept.clear()
            self._met.clear()

    @classmethod
    def of(cls, memory: int, device: torch.device | None = None) -> Graphs:
        """Graphs on a GPU of so many bytes."""
        return cls(memory // SHARE, largest=memory // LARGEST, capture=functools.partial(capture, device=device))

    def call(self, key: Hashable, work: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> list[Tensor]:
        """work(*inputs), captured when its key is met for the second time; the key holds all but the inputs' values.

        A capture costs more than the work, so there is no second one of what is too large to be kept.
        What it returns is the caller's own.
        """
        held = self.lend(key)
        if held is None:
            if not self._captures(key):
                return work(*inputs)
            own = tuple(each.clone() for each in inputs)
            held = _Call(own, self.capture(lambda: work(*own)))
        for mine, given in zip(held.inputs, inputs, strict=True):
            mine.copy_(given)
        filled = held.replay()
        out = [each.clone() for each in filled]
        self.keep(key, held, [*held.inputs, held.replay])  # what is filled lies in the graph's own memory
        return out

    def _captures(self, key: Hashable) -> bool:
        with self._lock:
            if key in self._met:
                return self._met[key]
            self._met[key] = True
            while len(self._met) > 256:
                self._met.popitem(last=False)
        return False
