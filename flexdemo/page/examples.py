"""Examples on the page: links that fill it in, and recordings that are shown in place of a run. Knows no gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from ..answers.recording import Recorded
from ..engine.model import LanguageModel
from ..prompt import SegmentedPrompt
from .run import LastRun, frame, status_html
from .sides import SIDES
from .state import PageState
from .widgets import Changes

# The fields of a page that its tokens and masks depend on.
DRAWN = ("question", "paraphrases", "weights", "prefix", "template", "mask", "positions", "left", "right", "model")
FIRST = 4  # examples of a model that are seen at once; the others are behind "more"
FALLBACK = {
    "question": "What is the capital of Peru?",
    "paraphrases": ["Which city is Peru's capital?", "Name the capital city of Peru."],
}


def state_of(example: Mapping[str, Any], room: int, model: str = "") -> PageState:
    """The page that an example fills in; as many of its paraphrases as there is room for."""
    texts = example["paraphrases"][:room]
    return PageState(question=example["question"], paraphrases=texts, model=model)


def attributed(
    examples: Sequence[Mapping[str, Any]], recordings: Sequence[Recorded], room: int, model: str
) -> list[dict[str, Any]]:
    """The examples with the model `of` their recordings, "" where there is none; those of `model` come first."""
    found = [recorded_of(recordings, state_of(example, room)) for example in examples]
    told = [{**each, "of": last.result.model if last else ""} for each, last in zip(examples, found, strict=True)]
    return sorted(told, key=lambda each: each["of"] != model)


def try_html(examples: Sequence[Mapping[str, Any]], model: str = "") -> str:
    """A link for each example, in a line for each model that recorded some; `model` is the one that is loaded."""
    lines = []
    for of, some in groupby(enumerate(examples), key=lambda each: each[1].get("of", "")):
        buttons = [
            f'<button type="button" data-example="{i}" title="{escape(example.get("note") or "")}">'
            f"{escape(example.get('title') or example['question'])}</button>"
            for i, example in some
        ]
        more = f"<details><summary>more</summary>{' '.join(buttons[FIRST:])}</details>" if buttons[FIRST:] else ""
        named = "Try:" if of in ("", model) else f"Recorded with <b>{escape(of)}</b>:"
        lines.append(f"<div><span>{named}</span> {' '.join(buttons[:FIRST])} {more}</div>")
    return "".join(lines)


def recorded_of(recordings: Sequence[Recorded], state: PageState) -> LastRun | None:
    """The recording of an example that fills in this page, as a run of it."""
    for recorded in recordings:
        asked = recorded.result.request
        if (asked.question, asked.paraphrases) == (state.question, state.paraphrases):
            named = state.told(recorded.result)
            return LastRun(state, named, recorded.explanation, recorded)
    return None


def shows_recording(figures: str | None) -> bool:
    """Whether a side's line of figures is of a recording."""
    return 'class="recorded"' in (figures or "")


def prompt_shown(last: LastRun | None, state: PageState, figures: str | None) -> SegmentedPrompt | None:
    """The prompt of a recording, by whichever tokenizer, for as long as its answers are shown on a page that draws what
    was recorded; None for any other page, which the loaded model reads."""
    if last is None or last.recorded is None or not shows_recording(figures):
        return None
    same = all(getattr(state, name) == getattr(last.state, name) for name in DRAWN)
    return last.result.prompt if same else None


def changes_of(last: LastRun, lm: LanguageModel, room: int) -> Changes:
    """The page with a recording's answers, which say that they are recorded, and by which model if it is another."""
    changes = frame(last.state, last.result, room)
    by = "" if _same(last.recorded, lm) else f" with {escape(last.result.model)}"
    for side in SIDES:
        changes[f"{side}_figures"] += f' · <span class="recorded">recorded{by}</span>'
    return changes | status_of(last, lm)


def asked_anew(last: LastRun | None, lm: LanguageModel) -> str:
    """What a run says that comes after a recording of another model; "" if it does not."""
    if last is None or last.recorded is None or _same(last.recorded, lm):
        return ""
    then = last.result
    return escape(f"Asked anew: now {lm.name} ({lm.dtype}) answers; the recording was of {then.model} ({then.dtype}).")


def _same(recorded: Recorded, lm: LanguageModel) -> bool:
    return (recorded.result.model, recorded.result.dtype) == (lm.name, lm.dtype)


def status_of(last: LastRun, lm: LanguageModel) -> Changes:
    """Where the answers come from that are shown, if that is a recording."""
    if last.recorded is None:
        return {}
    by, then = (f" with {last.result.model}, {last.result.dtype}", f"ask {lm.name}")
    if _same(last.recorded, lm):
        by, then = "", "compute it now"
    return {"status": status_html("done", f"Recorded {last.recorded.date}{by}: press Run to {then}")}
