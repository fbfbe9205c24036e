"""Where time goes: the numbers are those of work whose cost is known."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest
import whereabouts
from whereabouts import READY, measure_speed, measure_start, profile

from flexdemo.engine.model import LanguageModel


def test_a_profile_names_the_package_that_works() -> None:
    packages, functions = profile(lambda: time.sleep(0.05))
    assert packages[0].name == "Python built-ins" and packages[0].share > 0.9 and functions == []
    assert sum(each.share for each in packages) == pytest.approx(1)


def test_our_functions_are_named_with_what_they_call(lm: LanguageModel) -> None:
    def work() -> None:
        measure_speed(lm, [("What is the capital of Peru?", ["Name it."])], 4, runs=1)

    packages, functions = profile(work)
    names = {each.name: each.share for each in functions}
    assert 0.5 < names["ask.stream"] <= names["ask.ask"] < 1.5, names  # two clocks, which part on a busy machine
    assert {"torch", "torch operators", "transformers", "flexdemo"} & {each.name for each in packages}


def test_rates_are_of_the_tokens_after_the_first(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = SimpleNamespace(token_ids=(1, 2, 3))
    told = SimpleNamespace(results=(answered,), seconds={"first_token": 0.2, "decode": 0.5})
    monkeypatch.setattr(whereabouts, "ask", lambda *_, **__: told)
    speed = measure_speed(lm, [("q", [])], 3, runs=2)
    assert speed.first_token_ms == pytest.approx(200) and speed.tokens_per_second == pytest.approx(4)


def test_a_start_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prints what it took, first to last; here it prints of itself."""
    monkeypatch.setattr(whereabouts, "READY", "import os, sys; print(os.getpid(), int('torch' in sys.modules), 3)")
    start = measure_start(device="cpu", dtype="float32", starts=3)
    assert start.imported not in (0, os.getpid()) and (start.loaded, start.first_answer) == (0, 3)


def test_a_start_tells_three_times(capsys: pytest.CaptureFixture) -> None:
    exec(READY.format(device="cpu", dtype="float32"), {})
    imported, loaded, first_answer = map(float, capsys.readouterr().out.split())
    assert imported > 0 and loaded > 0 and first_answer > 0
