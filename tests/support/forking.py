"""A stand-in for the package `spaces` on ZeroGPU: each call runs in a forked process that pipes pickled values back.

It keeps the properties that matter here: arguments and results are pickled; what a worker changes in memory stays in
it; of an error of the worker's only the class is told; closing the generator stops the worker at its next value.
"""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any


class WorkerError(RuntimeError):
    """What the caller is told of an error in a worker: its class."""


class Forking:
    """`Forking().GPU(duration=...)` decorates as `spaces.GPU` does; `asked` are the durations that calls asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.sizes: list[int] = []
        self._fork = multiprocessing.get_context("fork")

    def GPU(self, *, duration: Callable[..., float]) -> Callable[[Callable], Callable]:
        def decorate(fn: Callable) -> Callable:
            if inspect.isgeneratorfunction(fn):

                @wraps(fn)
                def steps(*args: Any, **options: Any) -> Iterator[Any]:
                    yield from self._run(fn, duration, args, options)

                return steps

            @wraps(fn)
            def call(*args: Any, **options: Any) -> Any:
                (value,) = self._run(lambda *a, **o: iter([fn(*a, **o)]), duration, args, options)
                return value

            return call

        return decorate

    def _run(self, fn: Callable, duration: Callable, args: tuple, options: dict) -> Iterator[Any]:
        self.asked.append(duration(*args, **options))
        sent = pickle.dumps((args, options))
        self.sizes.append(len(sent))
        ours, theirs = self._fork.Pipe()
        stop = self._fork.Event()

        def work() -> None:
            given, named = pickle.loads(sent)
            try:
                for value in fn(*given, **named):
                    if stop.is_set():
                        break
                    theirs.send_bytes(pickle.dumps(("value", value)))
                theirs.send_bytes(pickle.dumps(("end", None)))
            except Exception as error:
                theirs.send_bytes(pickle.dumps(("error", type(error).__name__)))

        worker = self._fork.Process(target=work, daemon=True)
        worker.start()
        theirs.close()
        try:
            while True:
                kind, value = pickle.loads(ours.recv_bytes())
                if kind == "error":
                    raise WorkerError(value)
                if kind == "end":
                    return
                yield value
        finally:
            stop.set()
            ours.close()
            worker.join(30)
            assert not worker.is_alive(), "the worker goes on although nobody waits"
