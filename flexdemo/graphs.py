"""CUDA graphs of forward passes, kept with their memory from request to request. Knows tensors; no prompts, no text.

On a GPU most of a short pass's time is Python launching kernels. A graph replays them at once, but always over the
same memory: what holds that memory is lent to one request at a time.
"""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .config import BackendError, first_line

T = TypeVar("T")
Replay = Callable[[], Any]  # runs captured work again; returns the same tensors each time, filled anew

_CAPTURE = threading.Lock()
SHARE, LARGEST = 8, 64  # one part in so many of a GPU's memory may be kept, in all and by one holder


@contextmanager
def _alone() -> Iterator[None]:
    """One capture at a time in a process, as torch wants it, and no garbage collection in it.

    What a collection frees may be a kernel's module, and unloading one spoils the capture.
    """
    with _CAPTURE:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


def capture(work: Callable[[], T]) -> Callable[[], T]:
    """Work on the current CUDA device as a graph; nothing is computed until it is replayed. BackendError if not."""
    graph = torch.cuda.CUDAGraph()
    try:
        with _alone(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            out = work()
    except RuntimeError as error:
        first: BaseException = error
        while first.__context__ is not None:  # the last one only says that the capture is spoilt
            first = first.__context__
        raise BackendError(
            f"a forward pass cannot be captured as a CUDA graph ({first_line(first)}): "
            "load the model with captures=False"
        ) from error

    def replay() -> T:
        graph.replay()
        return out

    return replay


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
        self._met: OrderedDict[Hashable, None] = OrderedDict()

    def lend(self, key: Hashable) -> Any | None:
        """The holder kept under a key, which nobody else gets until it is kept again; None if there is none."""
        with self._lock:
            kept = self._kept.pop(key, None)
        return None if kept is None else kept.holder

    def keep(self, key: Hashable, holder: Any, tensors: Sequence[Tensor]) -> None:
        """Keep a holder for the next request; `tensors` are the memory it holds."""
        size = sum(tensor.nbytes for tensor in tensors)
        with self._lock:
            dropped: list[Any] = [holder]
            if size <= self.largest:
                self._kept[key], dropped = _Kept(holder, size), []
            while self._kept and sum(kept.size for kept in self._kept.values()) > self.most_bytes:
                dropped.append(self._kept.popitem(last=False))
        if dropped and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # their last replay may still be running

    def clear(self) -> None:
        """Drop all that is kept."""
        with self._lock:
            self._kept.clear()
            self._met.clear()

    @classmethod
    def of(cls, memory: int) -> Graphs:
        """Graphs on a GPU of so many bytes."""
        return cls(memory // SHARE, largest=memory // LARGEST)

    def call(self, key: Hashable, work: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> list[Tensor]:
        """work(*inputs), captured when its key is met for the second time; the key holds all but the inputs' values.

        What it returns is the caller's own.
        """
        held = self.lend(key)
        if held is None:
            if not self._meets(key):
                return work(*inputs)
            own = tuple(each.clone() for each in inputs)
            held = _Call(own, self.capture(lambda: work(*own)))
        for mine, given in zip(held.inputs, inputs, strict=True):
            mine.copy_(given)
        filled = held.replay()
        out = [each.clone() for each in filled]
        self.keep(key, held, [*held.inputs, *filled])
        return out

    def _meets(self, key: Hashable) -> bool:
        with self._lock:
            known = key in self._met
            self._met[key] = None
            while len(self._met) > 256:
                self._met.popitem(last=False)
        return known
