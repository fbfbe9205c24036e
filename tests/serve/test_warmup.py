"""The first passes before anybody asks, and what the page says meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hosting import served, until
from replays import replaying

from flexdemo.answers.ask import ask
from flexdemo.answers.explain import explain
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import BackendError
from flexdemo.serve import warmup
from flexdemo.serve.warmup import WarmUp

QUESTION, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]
METHODS = ("flex", "origin", "per_prompt", "causal")


@pytest.mark.parametrize(
    "settings",
    [{"methods": ("flex",)}, {"methods": METHODS}, {"methods": ("all",)}, {"methods": METHODS, "ape_temperature": 0.8}],
)
def test_after_it_a_visitor_waits_for_no_capture(lm: LanguageModel, settings: dict[str, Any]) -> None:
    warm, capture = replaying(lm)
    log: list[str] = []
    warm_up = WarmUp([warm], QUESTION, OTHERS, METHODS, log=log.append)
    assert warm_up.note.startswith("Warming up for some seconds")
    warm_up.run()
    assert warm_up.note == "" and log == ["warm"]
    before = capture.captured
    assert before
    asked = {**settings, "mass": False, "max_new_tokens": 5}
    told = [ask(each, "Who wrote Faust?", OTHERS, **asked) for each in (warm, lm)]
    assert capture.captured == before
    assert [r.token_ids for r in told[0].results] == [r.token_ids for r in told[1].results]
    if settings["methods"] == METHODS:
        effects = [explain(each, result).attribution.effects for each, result in zip((warm, lm), told, strict=True)]
        assert capture.captured == before
        assert [e.effect for e in effects[0]] == pytest.approx([e.effect for e in effects[1]], abs=1e-5)


def test_a_model_whose_first_answer_is_as_fast_as_any_has_nothing_to_warm_up(lm: LanguageModel) -> None:
    warm_up = WarmUp([lm], QUESTION, OTHERS, METHODS, log=lambda text: pytest.fail(text))
    assert warm_up.note == ""
    warm_up.start()


def test_one_that_fails_says_so_and_harms_nothing(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise BackendError("planted\nand more")

    monkeypatch.setattr(warmup, "ask", fail)
    warm_up = WarmUp([replaying(lm)[0]], QUESTION, OTHERS, METHODS)
    warm_up.start()
    until(lambda: warm_up.note.startswith("Warming up failed"))
    assert warm_up.note == "Warming up failed: planted. First answers are slow."


def test_health_tells_of_it(lm: LanguageModel) -> None:
    with served(lm, warming="Warming up") as page:
        assert json.loads(page.get("/healthz")[1])["warming"] == "Warming up"
        page.state.warming = str
        assert "warming" not in json.loads(page.get("/healthz")[1])
