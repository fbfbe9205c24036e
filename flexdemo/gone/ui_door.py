"""The page as its door sees it: what can be asked, with which data, who waits. Runs nothing and keeps nothing."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..page.entered import is_number, shortened
from ..serve.door import Asked, Refused, Scope

KEYS = {"data", "session_hash", "event_data", "fn_index", "trigger_id", "event_id", "simple_format", "oauth_token"}
# What the browser sends for a widget, by the name of its kind: in words, and whether a value is that.
TEXT = ("a text", lambda value: value is None or isinstance(value, str))
NUMBER = ("a number", lambda value: value is None or is_number(value))
FILLED = ("a number", is_number)
WHOLE = ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
YES = ("true or false", lambda value: value is None or isinstance(value, bool))
KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "textbox": TEXT, "html": TEXT, "number": NUMBER, "slider": FILLED, "checkbox": YES,
}  # fmt: skip
# What a stream of messages says where there is none, as gradio's clients read it.
NO_STREAM = (
    b'data: {"msg": "unexpected_error", "message": "404: Not Found", "session_not_found": true, "success": false}\n\n'
)
NO_ANSWER = b'event: error\ndata: {"error": "there is no such request, or its answer was told already"}\n\n'
RANGED = {"number", "slider"}
CHOSEN = {"dropdown", "radio", "checkboxgroup"}
FREE = {"state", "api"}  # the server's own state; arguments of endpoints, which check them themselves


class Page:
    """The Blocks behind an app of gradio."""

    def __init__(self, app: Any) -> None:
        self._app, self._blocks = app, app.get_blocks()
        self.folder = Path(app.uploaded_file_dir)

    def _function(self, route: str, name: str, body: Mapping[str, Any]) -> Any:
        functions, index = self._blocks.fns, body.get("fn_index")
        if route != "call" and index is not None:
            if not WHOLE[1](index) or index not in functions or functions[index].fn is None:
                raise Refused(404, "the page has no such event: fn_index must be one that it told")
            return functions[index]
        if route != "call" and "fn_index" in body:
            raise Refused(400, "fn_index must be a whole number, not null")
        public = {fn.api_name: fn for fn in functions.values() if fn.api_visibility == "public"}
        if name not in public:
            raise Refused(404, f"there is no endpoint {shortened(name)}: choose from {', '.join(sorted(public))}")
        return public[name]

    def asked(self, route: str, name: str, body: Mapping[str, Any]) -> Asked:
        fn = self._function(route, name, body)
        public = fn.api_visibility == "public"
        return Asked(fn.api_name if public else str(fn._id), public, bool(fn.queue), fn.concurrency_id == "model")

    def check(self, route: str, asked: Asked, body: Mapping[str, Any]) -> None:
        fn = self._function(route.split("/")[0], asked.name, body)
        if route == "call/v2":
            _check_arguments(fn, body)
            _check_no_file(list(body.values()))
            return
        if unknown := set(body) - KEYS:
            raise Refused(400, f"the request holds {shortened(min(unknown))}, which nothing here takes")
        data = body.get("data")
        if not isinstance(data, list):
            raise Refused(400, f"data must be a list of values, not {shortened(data)}")
        if fn.cancels:  # its data is the session, whatever is sent
            return
        inputs = fn.inputs
        if route == "call" and len(data) != len(inputs):
            inputs = [block for block in inputs if not block.skip_api]
        if len(data) != len(inputs):
            raise Refused(400, f"data has {len(data)} values: {len(fn.inputs)} are taken, each in its place")
        states = self._app.state_holder.session_data
        known = states.get(body.get("session_hash"))
        for block, value in zip(inputs, data, strict=True):
            self._check_value(block if known is None else known.blocks_config.blocks.get(block._id, block), value)

    def _check_value(self, block: Any, value: Any) -> None:
        """`block` as this session has it: what a range ends at may have been changed there."""
        kind = block.get_block_name()
        what = str(getattr(block, "label", None) or getattr(block, "elem_id", None) or kind)
        if kind in CHOSEN:
            choices = [choice for _, choice in block.choices]
            several = kind == "checkboxgroup"
            values = value if several and isinstance(value, list) else [value]
            if (several and not isinstance(value, list)) or any(
                isinstance(each, bool) or each not in choices for each in values
            ):
                listed = ", ".join(map(str, choices[:12]))
                said = f"{'a list of some' if several else 'one'} of {listed}"
                raise Refused(400, f"{what} must be {said}, not {shortened(value)}")
        elif kind == "dataset":
            if not WHOLE[1](value) or value not in range(len(block.samples)):
                raise Refused(400, f"{what} must be the number of one, 0 to {len(block.samples) - 1}")
        elif kind == "file":
            self._check_file(value, block.file_types)
        elif kind in KINDS:
            words, fits = KINDS[kind]
            if not fits(value):
                raise Refused(400, f"{what} must be {words}, not {shortened(value)}")
            if kind in RANGED and value is not None:
                low, high = block.minimum, block.maximum
                if (low is not None and value < low) or (high is not None and value > high):
                    said = f"from {low:g} to {high:g}" if None not in (low, high) else "within its range"
                    raise Refused(400, f"{what} must be {said}, not {shortened(value)}")
        elif kind in FREE:
            _check_no_file(value)
        else:
            raise Refused(400, f"{what} is no widget that is entered")

    def _check_file(self, value: Any, endings: Sequence[str] | None) -> None:
        """Only what was uploaded here, by its whole secret name; no address and no path of anything else."""
        if value is None:
            return
        path = value.get("path") if isinstance(value, dict) else None
        known = isinstance(path, str) and path in self._blocks.upload_file_set and Path(path).is_file()
        if not known or value.get("meta") != {"_type": "gradio.FileData"}:
            raise Refused(400, "there is no such uploaded file: upload it again")
        if endings and Path(path).suffix.lower() not in endings:
            raise Refused(400, f"the file's name must end in {', '.join(endings)}")

    def knows(self, session: str) -> bool:
        return session in self._app.state_holder

    def silence(self, route: str, query: Mapping[str, str]) -> bytes | None:
        queue, name = self._blocks._queue, route.rsplit("/", 1)[-1]
        if route == "queue/data":
            session = query.get("session_hash")
            return None if session is None or session in queue.pending_messages_per_session else NO_STREAM
        event = queue.event_ids_to_events.get(name)
        sessions = [session for session, events in list(queue.pending_event_ids_session.items()) if name in events]
        session = event.session_hash if event is not None else next(iter(sessions), name)
        return None if session in queue.pending_messages_per_session else NO_ANSWER

    def waiting(self, who: Callable[[Scope], str]) -> Counter[tuple[str, bool]]:
        queue = self._blocks._queue
        events = [event for waiting in queue.event_queue_per_concurrency_id.values() for event in waiting.queue]
        events += [event for job in queue.active_jobs if job is not None for event in job]
        return Counter((who(event.request.scope), event.fn.concurrency_id == "model") for event in events)


def _check_no_file(value: Any) -> None:
    """No description of a file where none is taken: gradio would look for it, and tell the log of it, before anything
    of ours sees the value."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if {"path", "meta"} <= set(each):
                raise Refused(400, "the request describes a file where none is taken")
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)


def _check_arguments(fn: Any, body: Mapping[str, Any]) -> None:
    """Names of an endpoint's arguments, given by name; what they hold is checked by the endpoint."""
    parameters = inspect.signature(fn.fn).parameters
    for name in body:
        if name not in parameters:
            taken = ", ".join(parameters) or "no argument"
            raise Refused(400, f"unknown argument {shortened(name)}: {fn.api_name} takes {taken}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in body:
            raise Refused(400, f"the argument {name} is missing: {fn.api_name} needs it")
