"""Examples on the page: links that fill it in, and recordings that are shown in place of a run. Knows no gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from ..answers.recording import Recorded
from ..engine.model import LanguageModel
from .run import LastRun, frame, status_html
from .sides import SIDES, answered, live_html, signature
from .state import PageState
from .widgets import Changes

FIRST = 4  # examples that are seen at once; the others are behind "more"
FALLBACK = {
    "question": "What is the capital of Peru?",
    "paraphrases": ["Which city is Peru's capital?", "Name the capital city of Peru."],
}


def state_of(example: Mapping[str, Any], room: int, model: str = "") -> PageState:
    """The page that an example fills in; as many of its paraphrases as there is room for."""
    texts = example["paraphrases"][:room]
    return PageState(question=example["question"], paraphrases=texts, model=model)


def try_html(examples: Sequence[Mapping[str, Any]]) -> str:
    """A link for each example."""
    buttons = [
        f'<button type="button" data-example="{i}" title="{escape(example.get("note") or "")}">'
        f"{escape(example.get('title') or example['question'])}</button>"
        for i, example in enumerate(examples)
    ]
    more = f"<details><summary>more</summary>{' '.join(buttons[FIRST:])}</details>" if buttons[FIRST:] else ""
    return f"<span>Try:</span> {' '.join(buttons[:FIRST])} {more}"


def recorded_of(recordings: Sequence[Recorded], state: PageState) -> LastRun | None:
    """The recording of an example that fills in this page, as a run of it."""
    for recorded in recordings:
        asked = recorded.result.request
        if (asked.question, asked.paraphrases) == (state.question, state.paraphrases):
            named = state.told(recorded.result)
            return LastRun(state, named, recorded.explanation, recorded)
    return None


def changes_of(last: LastRun, lm: LanguageModel, room: int, drawn: tuple[str, str]) -> Changes:
    """The page with a recording's answers, which say that they are recorded; `drawn` are its masks by signature."""
    state, result = last.state, last.result
    changes = frame(state, result, room)
    for side in SIDES:
        changes[f"{side}_figures"] += ' · <span class="recorded">recorded</span>'
    if drawn != tuple(signature(result.prompt, scheme) for scheme in state.schemes):
        # It was read by another tokenizer: the answers belong to this page, their tokens to no row of its masks.
        sides = {side: (mark, answered(result, state, side)) for side, mark in zip(SIDES, drawn, strict=True)}
        rows = {side: (mark, replace(each, tokens=())) for side, (mark, each) in sides.items() if each}
        changes["live"] = live_html(rows)
    return changes | said_of(last, lm)


def said_of(last: LastRun, lm: LanguageModel) -> Changes:
    """What the page says of a recording, if the run is one."""
    return {} if last.recorded is None else {"status": status_html("done", line(last.recorded, lm))}


def line(recorded: Recorded, lm: LanguageModel) -> str:
    """Where the answers come from that are shown."""
    said, result = f"Recorded {recorded.date}", recorded.result
    if (result.model, result.dtype) == (lm.name, lm.dtype):
        return f"{said}: press Run to compute it now"
    return f"{said} with {result.model}, {result.dtype}: press Run to ask {lm.name}"
