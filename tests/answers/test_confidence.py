"""Weights from the agreement of samples with the greedy answer."""

from __future__ import annotations

import json

import pytest

from flexdemo.answers.ask import ask, confidence_weights, stream
from flexdemo.answers.metrics import answer_text, normalise
from flexdemo.answers.result import Confidence
from flexdemo.cli import main as cli
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError

WORDINGS = ["Which artist do we have to thank for Water Lilies?", "Water Lilies came from the brush of"]


def test_shares_are_those_of_samples_drawn_one_by_one(bundled: LanguageModel) -> None:
    """Each sample again as a plain request of its own, with the seed that the batch gave it."""
    question, samples = "Who painted Water Lilies?", 6
    wordings = [question, *WORDINGS]
    result = ask(bundled, question, WORDINGS, weights="confidence", samples=samples, sample_temperature=1.5, seed=3)
    expected = []
    for i, wording in enumerate(wordings):
        greedy = normalise(ask(bundled, wording)["flex"].answer)
        drawn = [
            ask(bundled, wording, temperature=1.5, seed=3 + i * samples + k)["flex"] for k in range(1, samples + 1)
        ]
        expected.append(sum(normalise(answer_text(d.generation)) == greedy for d in drawn) / samples)
    assert result.confidence == Confidence(tuple(expected), samples, 1.5)
    assert 0 < sum(expected) < len(expected)
    assert result.prompt.weights == pytest.approx([share / sum(expected) for share in expected])
    assert [s.weight for s in result.prompt.paraphrases] == list(result.prompt.weights)
    again = ask(bundled, question, WORDINGS, weights=expected)
    assert again["flex"].token_ids == result["flex"].token_ids
    assert again["flex"].logprobs == pytest.approx(result["flex"].logprobs, abs=1e-5)
    assert result.seconds["total"] >= result.seconds["first_token"] >= result.seconds["confidence"] > 0


def test_wordings_that_never_agree_get_equal_weights() -> None:
    assert confidence_weights(Confidence((0.0, 0.0), 8, 1.0)) == (0.5, 0.5)
    assert confidence_weights(Confidence((0.0, 0.5, 1.0), 2, 1.0)) == pytest.approx((0, 1 / 3, 2 / 3))


def test_work_on_samples_can_be_stopped(lm: LanguageModel) -> None:
    """A result comes after every token of the samples too, so that closing the stream stops them."""
    frames = stream(lm, "What is it?", ["Name it."], weights="confidence", samples=4, max_new_tokens=8)
    first = next(frames)
    assert (first.results, first.done) == ((), False)
    frames.close()
    with pytest.raises(StopIteration):
        next(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be from 1 to 64, not 0"),
        ({"samples": 65}, "samples must be from 1 to 64, not 65"),
        ({"sample_temperature": 0}, "sample_temperature must be above 0, not 0"),
        ({"sample_temperature": float("nan")}, "sample_temperature must be a finite number"),
    ],
)
def test_impossible_sampling_is_refused(lm: LanguageModel, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(lm, "What is it?", weights="confidence", **options)


def test_command_line(capsys: pytest.CaptureFixture) -> None:
    args = [
        "generate",
        "Who wrote Hamlet?",
        "-p",
        "hamlet author",
        "--weights",
        "confidence",
        "--samples",
        "4",
        "--json",
    ]
    assert cli.main(args) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["confidence"]["samples"] == 4 and len(told["confidence"]["shares"]) == 2
    assert cli.main([*args[:-2], "0"]) == 2
    assert "samples must be from 1 to 64" in capsys.readouterr().err
