"""Recorded examples on the page: which one belongs to an example, and what is said about it. Knows no gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..answers.recording import Recorded
from ..engine.model import LanguageModel
from . import pair as compared
from .entered import Form
from .pair import PAIR
from .parts import escape
from .tabs.told import LastRun, with_names


def recorded_of(recordings: Sequence[Recorded], example: Mapping[str, Any]) -> Recorded | None:
    """The recording of an example as the page fills it in: its wordings, equal weights, nothing else set."""
    wanted = (example["question"], tuple(example["paraphrases"]))
    for recorded in recordings:
        asked = recorded.result.request
        if asked is not None and (asked.question, asked.paraphrases) == wanted and asked.weights is None:
            return recorded
    return None


def recorded_run(recorded: Recorded, methods: Sequence[str]) -> LastRun:
    """A recording as a run of the form that it was asked with; `methods` are those whose answers get a line."""
    asked = recorded.result.request
    if asked is None:
        raise ValueError("a recording holds its request")
    equal = (1.0,) * (len(asked.paraphrases) + 1)
    form = Form(
        asked.question, asked.paraphrases, equal, asked.mask, asked.positions, tuple(methods),
        asked.max_new_tokens, asked.temperature, asked.top_p, asked.seed, asked.prefix,
    )  # fmt: skip
    return LastRun(form, with_names(form, recorded.result), recorded.explanation, recorded)


def cards_html(last: LastRun) -> tuple[str, str]:
    """The answer cards of a recorded run, which say that it is one; differing tokens are marked."""
    return compared.cards_html(last.form, PAIR, last.result, tail="recorded")


def line_html(recorded: Recorded, lm: LanguageModel, *, as_set: bool = True) -> str:
    """One line on where the answers shown come from; `as_set`: whether the form has the settings of the recording."""
    result = recorded.result
    where = f"{recorded.date} with {result.model} on {result.device}, {result.dtype}, backend {result.backend}"
    same = (result.model, result.dtype) == (lm.name, lm.dtype)
    then = "press Run to compute it now" if as_set else "the form has other settings: press Run to ask with them"
    if not same:
        then = f"the loaded model is {lm.name}, {lm.dtype}: press Run to ask it"
    return f'<span class="recorded">Recorded</span> {escape(where)}; {escape(then)}'
