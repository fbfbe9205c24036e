"""A GPU that is lent for each call, on ZeroGPU Spaces: a forked worker does the work. Knows no pages and no methods.

There, what a call is given and gives back is pickled, and what it changes in memory stays in the worker. The package
`spaces` is needed there only; `find_gpu` must run before anything imports gradio or starts CUDA.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from typing import Any

from ..errors import InputError
from .log import Entry, note

FLAG = "SPACES_ZERO_GPU"
BACKEND = "sdpa"  # nothing is compiled there at run time; a dense mask is the faster of the two that need no compiler
DEVICE = "cuda:0"
LEAST, MOST = 10.0, 60.0  # seconds to ask for: what is not used is given back, but a short claim starts sooner
NOTICE = (
    "Runs on ZeroGPU: each run borrows a GPU. The backend is {backend}: nothing is compiled. A prompt is read anew "
    "each time, so press Run to see other weights; examples show a recorded answer without a GPU."
)
Seconds = Callable[..., float]


@dataclass(frozen=True)
class Gpu:
    """How functions that run the model come to a GPU. `borrow` is None where the model has its device to itself."""

    borrow: Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]] | None = None

    @property
    def forks(self) -> bool:
        return self.borrow is not None

    def wrap(self, fn: Callable[..., Any], seconds: Seconds) -> Callable[..., Any]:
        """A function or generator function of small, picklable arguments, to be called as it is.

        `seconds` tells from the same arguments how long it may take. Its InputError reaches the caller.
        """
        if self.borrow is None:
            return fn
        many = inspect.isgeneratorfunction(fn)

        # An InputError crosses as a value: of what a worker raises, its caller is told the class alone. What is noted
        # in a worker stays there, so it crosses too.
        @wraps(fn)
        def told(*args: Any, **options: Any) -> Iterator[tuple[str, Any, Any]]:
            entry = Entry("worker")
            with entry.current():
                try:
                    for value in fn(*args, **options) if many else (fn(*args, **options),):
                        yield "made", value, (entry.outcome, entry.facts)
                    yield "noted", None, (entry.outcome, entry.facts)
                except InputError as error:
                    yield "refused", str(error), (entry.outcome, entry.facts)

        def duration(*args: Any, **options: Any) -> int:
            return int(min(MOST, max(LEAST, seconds(*args, **options))))

        steps = self.borrow(duration=duration)(told)

        @wraps(fn)
        def streamed(*args: Any, **options: Any) -> Iterator[Any]:
            with closing(steps(*args, **options)) as work:
                for kind, inside, (outcome, facts) in work:
                    note(outcome=outcome, **facts)
                    if kind == "refused":
                        raise InputError(inside)
                    if kind == "made":
                        yield inside

        @wraps(fn)
        def called(*args: Any, **options: Any) -> Any:
            (made,) = streamed(*args, **options)
            return made

        return streamed if many else called


LOCAL = Gpu()


def find_gpu(environ: Mapping[str, str] = os.environ) -> Gpu:
    """ZeroGPU where the environment says so, LOCAL elsewhere."""
    if environ.get(FLAG, "").lower() not in ("1", "t", "true"):
        return LOCAL
    import spaces
    import torch

    # transformers asks it in a forward pass, as when a model is checked here: asking starts CUDA, and a process forked
    # after that cannot use a GPU. Workers capture, and are told what is so.
    is_capturing, here = torch.cuda.is_current_stream_capturing, os.getpid()
    torch.cuda.is_current_stream_capturing = lambda: os.getpid() != here and is_capturing()
    return Gpu(spaces.GPU)


def load_options(gpu: Gpu, device: str, dtype: str, backend: str, *, compiled: bool = False) -> dict[str, Any]:
    """Arguments of `load_model` for these flags: on ZeroGPU a model is checked on the CPU, then `moved`."""
    if not gpu.forks:
        return {"device": device, "dtype": dtype, "backend": backend, "compiled": compiled}
    return {
        "device": "cpu",
        "dtype": "bfloat16" if dtype == "auto" else dtype,
        "backend": BACKEND if backend == "auto" else backend,
    }


def answer_seconds(new_tokens: int, rows: int = 1) -> float:
    """What to ask for: an uncompiled step of a model of some billions of parameters, and time to place it."""
    return LEAST + new_tokens * (0.1 + 0.005 * rows)
