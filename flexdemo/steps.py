"""One decode step for all rows, again and again. Knows buffers and CUDA graphs; chooses no tokens.

On a GPU most of a step's time is Python launching kernels. The step's inputs therefore stay in the same memory, and
after one eager step the next is captured as a CUDA graph, which later steps replay.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .attention import BackendError, Plan
from .cache import SlotCache
from .config import first_line
from .encoding import forward
from .model import LanguageModel
from .recorders import ApeRows, MassRecorder

Outcome = tuple[Tensor, Tensor | None, Tensor | None]  # logits (rows, V), masses and attention of the recorder

_CAPTURE = threading.Lock()


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


class Steps:
    """The decode steps of a batch of rows that have read their suffix.

    bias: one tensor (rows, 1, 1, capacity) for each device, seen slots 0 or log-weights; a step unhides its own slot.
    positions (rows, 1): those of the first answer token. `capture` replays steps as a CUDA graph.
    """

    def __init__(
        self,
        lm: LanguageModel,
        cache: SlotCache,
        positions: Tensor,
        bias: dict[torch.device, Tensor],
        ape: dict[torch.device, ApeRows] | None,
        recorder: MassRecorder | None,
        *,
        slot: int,
        capture: bool,
    ) -> None:
        self.lm, self.cache, self.recorder = lm, cache, recorder
        self.positions, self.bias, self.ape = positions.to(lm.device), bias, ape
        self.cache.point(slot, slot + 1)
        self._slot = slot
        self.capture, self._eager, self._graph = capture, 0, None
        self.tokens = torch.zeros_like(self.positions)
        self._out: Outcome

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        index = list(rows)
        if self._graph is not None:
            torch.cuda.synchronize(self.lm.device)  # its last replay may still be running
        self.cache.select(index)
        self.positions, self.tokens = self.positions[index], self.tokens[index]
        self.bias = {device: each[index] for device, each in self.bias.items()}
        self.ape = self.ape and {device: each.select(index) for device, each in self.ape.items()}
        if self.recorder:
            self.recorder.groups = {device: group[index] for device, group in self.recorder.groups.items()}
        self._graph, self._eager = None, 0

    def run(self, tokens: Tensor) -> Outcome:
        """Feed one token to each row, (rows, 1): logits (rows, V), and the recorder's masses of this step."""
        self.tokens.copy_(tokens)
        if not self.capture:  # a number that changed from step to step would be compiled anew, and a graph holds one
            self.cache.cursor.filled = self._slot
        self._slot += 1
        if self._graph is not None:
            self._graph.replay()
        elif self.capture and self._eager:
            self._graph, self._out = self._captured()
            self._graph.replay()
        else:
            self._out = self._step()
            self._eager += 1
        return self._out

    def _captured(self) -> tuple[torch.cuda.CUDAGraph, Outcome]:
        graph = torch.cuda.CUDAGraph()
        try:
            with _alone(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                out = self._step()
        except RuntimeError as error:
            first: BaseException = error
            while first.__context__ is not None:  # the last one only says that the capture is spoilt
                first = first.__context__
            reason = first_line(first)
            raise BackendError(
                f"a decode step of {self.lm.name} cannot be captured as a CUDA graph ({reason}): "
                "load the model with captures=False"
            ) from error
        return graph, out

    def _step(self) -> Outcome:
        for device, each in self.bias.items():
            each.index_fill_(-1, self.cache.cursor.on(device), 0.0)
        plan = Plan(self.lm.backend, self.bias, self.recorder, self.ape)
        logits = forward(self.lm, self.tokens, self.positions, plan, self.cache)
        self.positions += 1
        self.cache.cursor.advance()
        return logits, *(self.recorder.take() if self.recorder else (None, None))
