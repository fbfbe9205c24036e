"""The recorded examples: what is shown of them, and that the bundled model still answers the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexdemo.answers.ask import ask
from flexdemo.answers.explain import explain
from flexdemo.answers.methods import METHODS
from flexdemo.answers.recording import MOST_BYTES, Recorded, load_recorded
from flexdemo.engine.model import LanguageModel
from flexdemo.page import parts
from flexdemo.page.examples import cards_html, line_html, recorded_of, recorded_run
from flexdemo.page.tabs.told import attention_plot, has_heads, note_html

ASSETS = Path(__file__).resolve().parents[2] / "assets"
EXAMPLES = json.loads((ASSETS / "examples.json").read_text(encoding="utf-8"))
METHODS_SHOWN = ("flex", "origin", "per_prompt", "causal")


@pytest.fixture(scope="module")
def recordings() -> list[Recorded]:
    return load_recorded(ASSETS / "recorded.json")


def test_every_example_is_recorded_and_the_file_is_small(recordings: list[Recorded]) -> None:
    found = [recorded_of(recordings, example) for example in EXAMPLES]
    assert [each.result.request.question for each in found if each] == [each["question"] for each in EXAMPLES]
    assert (ASSETS / "recorded.json").stat().st_size <= MOST_BYTES


@pytest.mark.parametrize("index", range(len(EXAMPLES)), ids=lambda i: EXAMPLES[i]["question"][:30])
def test_a_recording_is_what_the_bundled_model_answers_now(
    recordings: list[Recorded], bundled: LanguageModel, index: int
) -> None:
    """If it is not, record again: python -m flexdemo record --output assets/recorded.json"""
    example = EXAMPLES[index]
    recorded = recorded_of(recordings, example)
    assert recorded is not None and recorded.note == example["note"]
    now = ask(bundled, example["question"], example["paraphrases"], methods=("all",), candidates=5)
    assert recorded.result.prompt == now.prompt and recorded.result.model == now.model
    assert [each.method for each in recorded.result.results] == list(METHODS)
    for then, today in zip(recorded.result.results, now.results, strict=True):
        assert (then.answer, then.token_ids) == (today.answer, today.token_ids), then.method
        assert then.logprobs == pytest.approx(today.logprobs, abs=1e-3)
        assert [view.token_ids for view in then.views] == [view.token_ids for view in today.views]
    explained = explain(bundled, now)
    assert np.allclose(recorded.explanation.attribution.mass, explained.attribution.mass, atol=1e-3)
    effects = [effect.effect for effect in explained.attribution.effects]
    assert [effect.effect for effect in recorded.explanation.attribution.effects] == pytest.approx(effects, abs=1e-2)


def test_a_recording_belongs_to_an_example_with_the_same_wordings_only(recordings: list[Recorded]) -> None:
    first = EXAMPLES[0]
    assert recorded_of(recordings, {**first, "paraphrases": first["paraphrases"][:-1]}) is None
    assert recorded_of(recordings, {**first, "question": first["question"] + " "}) is None
    assert recorded_of([], first) is None


def test_what_is_shown_says_that_it_was_recorded_and_with_what(
    recordings: list[Recorded], bundled: LanguageModel, lm: LanguageModel
) -> None:
    recorded = replace(recordings[8], date="2026-01-31")
    last = recorded_run(recorded, METHODS_SHOWN)
    flex, causal = cards_html(last)
    assert f">{parts.escape(recorded.result['flex'].answer)}</div>" in flex and "· recorded" in flex
    assert "· recorded" in causal
    assert parts.table_html(last.form, last.result).count("<tr>") == 1 + len(last.form.wordings)
    assert "Recorded 2026-01-31: <q>" in note_html("mass", last)
    here, there = line_html(recorded, bundled), line_html(recorded, lm)
    assert "2026-01-31 with tinyqa on cpu" in here and "loaded model" not in here
    assert f"the loaded model is {lm.name}" in there and "with tinyqa" in there


def test_heads_of_another_model_are_not_shown(recordings: list[Recorded], lm: LanguageModel) -> None:
    last = recorded_run(recordings[0], METHODS_SHOWN)
    layers, heads = recordings[0].model["layers"], recordings[0].model["heads"]
    assert has_heads(last, layers, heads) and not has_heads(last, 3, 4)
    with pytest.raises(ValueError, match="was recorded with tinyqa"):
        attention_plot(lm, last, 0, 0)
