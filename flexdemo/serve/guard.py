"""Around every handler: the log, faults told in one line, an end when nobody waits. Knows no models."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from threading import Event
from typing import Any

import gradio as gr

from ..errors import InputError, OutOfMemory, within_memory
from .internals import events, presence, read_values_by
from .log import Entry, Interrupted, Ledger

CLOSING = "the server is stopping: ask again in a minute"
WORKER_TITLE = "ZeroGPU worker error"  # of the error that `spaces` raises for any that ended its worker
UNFIT = (
    "the request lacks a value or holds one that its widget does not take: reload the page, or call "
    "/gradio_api/call/v2, which has defaults"
)
FAULT = "something went wrong on the server; the next request is not affected. Its log has the details under {id}"


class Guard:
    """Wraps handlers: what they raise reaches the visitor as one line and the log with its place in the code.

    Once `closing` is set no request begins, and those that run end within a token.
    """

    def __init__(self, ledger: Ledger, closing: Event) -> None:
        self._ledger, self._closing = ledger, closing

    def protect(self, demo: gr.Blocks) -> None:
        """Wrap every handler of a built page, and what gradio makes of a browser's values; before it is launched."""
        read_values_by(demo, _checked)
        for block in events(demo).values():
            if block.fn is not None:
                public = block.api_visibility == "public"
                counted = public or block.concurrency_id == "model"
                name = str(block.api_name) if public else _name(block.fn)
                block.fn = self.wrap(block.fn, name, demo=demo, logged=counted)

    def wrap(self, fn: Callable[..., Any], name: str, *, demo: gr.Blocks, logged: bool = True) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(fn):

            @wraps(fn)
            def streamed(*args: Any, **options: Any) -> Iterator[Any]:
                with self._request(name, demo, logged) as entry:
                    work = fn(*args, **options)
                    try:
                        while True:  # each step runs as part of its request, whichever thread takes it
                            with entry.current():
                                try:
                                    value = next(work)
                                except StopIteration:
                                    return
                            yield value
                    except GeneratorExit:  # Stop closes the work of a visitor who is still there
                        entry.outcome = "gone" if entry.reason() else "stopped"
                        raise
                    finally:
                        with entry.current():
                            work.close()

            return streamed

        @wraps(fn)
        def called(*args: Any, **options: Any) -> Any:
            with self._request(name, demo, logged) as entry, entry.current():
                return fn(*args, **options)

        return called

    @contextmanager
    def _request(self, name: str, demo: gr.Blocks, logged: bool) -> Iterator[Entry]:
        """One request from its beginning to its end, however it ends."""
        entry, here, error = Entry(name), presence(demo), None

        def reason() -> str | None:
            if self._closing.is_set():
                return CLOSING
            return None if here() else "nobody waits for this any more"

        entry.reason = reason
        try:
            with within_memory():
                if self._closing.is_set() and logged:
                    raise Interrupted(CLOSING)
                yield entry
        except Exception as raised:  # this is the one place that answers for all of them
            error = raised
        finally:
            by_worker = isinstance(error, gr.Error) and error.title == WORKER_TITLE
            if isinstance(error, OutOfMemory):
                entry.facts["out_of_memory"] = True
            if by_worker:
                entry.facts["error"] = str(error.message)  # a class
            if isinstance(error, InputError | gr.Error) and not by_worker:
                entry.outcome = "gone" if not here() else "stopped" if self._closing.is_set() else "refused"
                if isinstance(error, InputError):
                    entry.facts["message"] = str(error)
            elif error is not None:
                entry.outcome = "error"
            unexpected = error if entry.outcome == "error" and not by_worker else None
            if logged or unexpected is not None:
                self._ledger.end(entry, error=unexpected)
        if error is None:
            return
        if isinstance(error, gr.Error) and not by_worker:
            error.print_exception = False
            raise error
        said = str(error) if isinstance(error, InputError) else FAULT.format(id=entry.id)
        raise gr.Error(said, print_exception=False)


def _checked(preprocess: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Gradio's reading of a request's values; one that its widget does not take is told in one line."""

    @wraps(preprocess)
    async def checked(*args: Any, **options: Any) -> Any:
        try:
            return await preprocess(*args, **options)
        except gr.Error as error:
            raise gr.Error(str(error.message)[:200], print_exception=False) from error
        except Exception as error:
            raise gr.Error(UNFIT, print_exception=False) from error

    return checked


def _name(fn: Callable[..., Any]) -> str:
    return _name(fn.func) if isinstance(fn, partial) else getattr(fn, "__name__", "handler").strip("<>")
