"""Methods that combine paraphrases, against plain prompts through transformers, uncached and combined by the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle
import pytest
from transformers import AutoModelForCausalLM

from flexdemo.answers.ask import ask
from flexdemo.answers.methods import METHODS, resolve_methods
from flexdemo.answers.metrics import majority
from flexdemo.answers.result import Result
from flexdemo.engine.loading import BUNDLED
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.tinyqa.data import load_world
from flexdemo.tinyqa.questions import styled_questions

A, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]
WEIGHTS = [1, 4, 2]


def alone(result: Result) -> list[tuple[int, ...]]:
    """Each wording as a plain prompt."""
    prompt = result.prompt
    prefix, suffix = prompt.token_ids[: prompt.segments[0].end], prompt.token_ids[prompt.suffix_start :]
    return [(*prefix, *prompt.token_ids[s.start : s.end], *suffix) for s in prompt.paraphrases]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "olmo2", "phi3"])
@pytest.mark.parametrize("method", oracle.COMBINED)
def test_combined_logits_over_the_zoo(
    prepared: Callable[..., LanguageModel], plain_model: Callable[..., Any], kind: str, method: str
) -> None:
    result = ask(prepared(kind), A, OTHERS, methods=(method,), weights=WEIGHTS, max_new_tokens=6)
    told = result[method]
    shares = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    assert list(told.token_ids) == oracle.decode_combined(
        plain_model(kind), alone(result), method, shares, len(told.token_ids)
    )
    assert all(view.token_ids == told.token_ids for view in told.views)


def test_combined_logits_on_questions_of_the_bundled_model(bundled: LanguageModel) -> None:
    plain = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype="float32").eval()
    differ = 0
    for record in styled_questions(load_world(), 6, 3, 7, "extreme"):
        result = ask(bundled, record["question"], record["paraphrases"], methods=("avg", "max", "origin"), mass=False)
        for method in ("avg", "max"):
            told = list(result[method].token_ids)
            expected = oracle.decode_combined(plain, alone(result), method, [1, 1, 1], len(told))
            assert told == expected, record["question"]
        differ += result["avg"].token_ids != result["origin"].token_ids
    assert differ, "on some question the ensemble must say something else than the first wording"


def test_weighted_max_is_the_heaviest_wording_alone(lm: LanguageModel) -> None:
    options = dict(methods=("weighted_max", "per_prompt"), max_new_tokens=5)
    for weights, heaviest in (([1, 4, 2], 1), ([3, 1, 3], 0), ([0, 0, 1], 2)):
        result = ask(lm, A, OTHERS, weights=weights, **options)
        assert result["weighted_max"].token_ids == result["per_prompt"].views[heaviest].token_ids


def test_vote_is_the_majority_of_the_answers(lm: LanguageModel) -> None:
    result = ask(lm, A, [*OTHERS, A.upper(), A], methods=("vote", "per_prompt"), max_new_tokens=5)
    answers = [view.answer for view in result["per_prompt"].views]
    assert result["vote"].answer == answers[majority(answers)] == answers[0], "A stands there twice"


@pytest.mark.parametrize(
    ("answers", "index"), [(["a", "b", "B!"], 1), (["b", "a"], 0), (["x", "The B", "b", "y", "Y"], 1), (["", ""], 0)]
)
def test_majority_goes_by_normalised_answers_and_ties_to_the_earliest(answers: list[str], index: int) -> None:
    assert majority(answers) == index


@pytest.mark.parametrize("weights", [None, [1, 4, 2], [0, 1, 1], [0, 1, 0]])
def test_leave_one_out_is_a_run_with_that_weight_at_0(lm: LanguageModel, weights: list[float] | None) -> None:
    options = dict(max_new_tokens=5)
    result = ask(lm, A, OTHERS, methods=("leave_one_out",), weights=weights, **options)
    for i, view in enumerate(result["leave_one_out"].views):
        kept = [0.0 if j == i else weight for j, weight in enumerate(weights or [1, 1, 1])]
        if not any(kept):
            kept = [float(j != i) for j in range(3)]
        hidden = ask(lm, A, OTHERS, weights=kept, **options)["flex"].views[0]
        assert view.name == f"without P{i + 1}"
        assert view.token_ids == hidden.token_ids
        assert all(row[i + 1] == 0 for row in view.segment_mass)


def test_leave_one_out_needs_two_wordings(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match="at least 2 wordings"):
        resolve_methods(("leave_one_out",), 1)
    alone_told = ask(lm, A, methods=("all",), max_new_tokens=2)
    assert [r.method for r in alone_told.results] == [name for name in METHODS if name != "leave_one_out"]
    assert {r.token_ids for r in alone_told.results} == {alone_told["flex"].token_ids}
