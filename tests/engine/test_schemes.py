"""Schemes beside the methods, the ladder, and a Prefill that is read once and used again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from shared import PARAPHRASES, QUESTION

import flexdemo
from flexdemo.answers.ask import stream
from flexdemo.engine import decode as generation
from flexdemo.engine import reading as encoding
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.reading import Reading, Readings
from flexdemo.errors import InputError
from flexdemo.masks import STRATEGIES
from flexdemo.plan import Encoding, Scheme
from flexdemo.prompt import POSITIONS, build_prompt

WEIGHTS = (1.0, 3.0, 0.5)
STANDARD = Scheme("causal", "sequential", weighted=False)
LADDER = (
    STANDARD,
    Scheme("segment", "sequential", weighted=False),
    Scheme("segment", "aligned", weighted=False),
    Scheme("segment", "aligned", weighted=True),
)


def prompt_of(lm: LanguageModel, **options: Any) -> Any:
    return build_prompt(lm.tokenizer, QUESTION, PARAPHRASES, **options)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "segment+P2>P1"])
def test_a_scheme_beside_methods_answers_as_that_mask_alone(lm: LanguageModel, strategy: str) -> None:
    schemes = [Scheme(strategy, positions, weighted) for positions in POSITIONS for weighted in (True, False)]
    options = {"weights": WEIGHTS, "max_new_tokens": 6}
    result = flexdemo.ask(lm, QUESTION, PARAPHRASES, schemes=schemes, **options)
    assert [answered.method for answered in result.results] == ["flex"]
    for scheme, side in zip(schemes, result.sides, strict=True):
        weights = WEIGHTS if scheme.weighted else "raw"
        alone = flexdemo.ask(
            lm, QUESTION, PARAPHRASES, mask=strategy, positions=scheme.positions, weights=weights, max_new_tokens=6
        )
        assert side.token_ids == alone["flex"].token_ids
        assert side.logprobs == pytest.approx(alone["flex"].logprobs, abs=1e-5)
        assert side.mask == alone.mask


def test_the_standard_scheme_is_standard_attention(lm: LanguageModel) -> None:
    result = flexdemo.ask(lm, QUESTION, PARAPHRASES, methods=["causal"], schemes=[STANDARD], weights=WEIGHTS)
    assert result.sides[0].token_ids == result["causal"].token_ids
    assert result.sides[0].logprobs == result["causal"].logprobs, "they are one row of the batch"


def test_results_without_schemes_say_nothing_of_them(lm: LanguageModel) -> None:
    plain = flexdemo.ask(lm, QUESTION, PARAPHRASES, max_new_tokens=2).to_dict()
    more = flexdemo.ask(lm, QUESTION, PARAPHRASES, max_new_tokens=2, schemes=[STANDARD]).to_dict()
    assert set(more) - set(plain) == {"sides"}


def test_unknown_schemes_are_refused(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match="unknown position scheme 'odd'"):
        flexdemo.ask(lm, QUESTION, schemes=[Scheme("segment", "odd")])


# The ladder


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_each_rung_is_the_answer_of_its_setting(lm: LanguageModel, temperature: float) -> None:
    options = {"max_new_tokens": 8, "temperature": temperature, "seed": 3}
    rungs = flexdemo.ask(lm, QUESTION, PARAPHRASES, schemes=LADDER, **options).sides
    settings = [
        {"mask": "causal", "positions": "sequential", "weights": "raw"},
        {"mask": "segment", "positions": "sequential", "weights": "raw"},
        {"mask": "segment", "positions": "aligned", "weights": "raw"},
        {"mask": "segment", "positions": "aligned", "weights": [1 / 3] * 3},
    ]
    for rung, setting in zip(rungs, settings, strict=True):
        alone = flexdemo.ask(lm, QUESTION, PARAPHRASES, **options, **setting)["flex"]
        assert (rung.answer, rung.token_ids, rung.tokens) == (alone.answer, alone.token_ids, alone.tokens)
        assert rung.stopped_by == alone.stopped_by
        assert rung.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
    assert len({rung.logprobs for rung in rungs}) == 4, "on these wordings every step changes the scores"


def test_one_wording_climbs_too(lm: LanguageModel) -> None:
    rungs = flexdemo.ask(lm, QUESTION, schemes=LADDER, max_new_tokens=4).sides
    assert len(rungs) == 4 and len({rung.token_ids for rung in rungs}) == 1


# One reading for several answers


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is read under each encoding that is computed, in order."""
    made: list[Any] = []
    real = encoding.encode

    def encode(lm: LanguageModel, asked: Any, **rest: Any) -> Any:
        made.append(asked)
        return real(lm, asked, **rest)

    monkeypatch.setattr(encoding, "encode", encode)
    return made


def run(lm: LanguageModel, reading: Reading | None, **options: Any) -> Any:
    given = {"methods": ["flex", "causal", "per_prompt"], "max_new_tokens": 5, **options}
    *_, last = stream(lm, QUESTION, PARAPHRASES, reading=reading, **given)
    return last


def test_other_weights_only_decode_and_change_nothing_else(lm: LanguageModel, counted: list[Any]) -> None:
    reading = Reading()
    run(lm, reading)
    assert len(counted) == 2
    again = run(lm, reading, weights=WEIGHTS)
    assert len(counted) == 2, "the second run read nothing"
    fresh = run(lm, None, weights=WEIGHTS)
    assert len(counted) == 4
    for kept, made in zip(again.results, fresh.results, strict=True):
        assert kept.token_ids == made.token_ids and kept.logprobs == made.logprobs


def test_another_prompt_is_read_anew(lm: LanguageModel, counted: list[Any]) -> None:
    reading = Reading()
    run(lm, reading)
    held = reading.prefill
    run(lm, reading, prefix="Say:")
    assert len(counted) == 4 and reading.prefill is not held
    assert reading.known(prompt_of(lm)) is None and reading.known(prompt_of(lm, prefix="Say:")) is reading.prefill


def test_the_same_tokens_in_other_segments_are_read_anew(lm: LanguageModel) -> None:
    """One wording that holds what usually stands between two is another prompt, though its tokens are the same."""
    two = prompt_of(lm)
    start, end = two.segments[1].start, two.segments[-2].end
    merged = replace(two.segments[1], start=start, end=end)
    one = replace(two, segments=(two.segments[0], merged, two.segments[-1]), weights=(1.0,))
    assert one.token_ids == two.token_ids
    read = generation.prefill(lm, {Encoding(): [two]})
    assert Reading(prefill=read).known(two) is read and Reading(prefill=read).known(one) is None
    assert generation.prefill(lm, {Encoding(): [two]}, read).caches == read.caches
    assert generation.prefill(lm, {Encoding(): [one]}, read).caches != read.caches


def test_only_the_encodings_of_the_last_run_are_held(lm: LanguageModel) -> None:
    reading = Reading()
    run(lm, reading, methods=["flex"], mask="anchor")
    run(lm, reading, methods=["flex"], mask="isolated")
    assert set(reading.prefill.caches) == {Encoding("isolated", "aligned")}


def test_long_prompts_are_not_held(lm: LanguageModel) -> None:
    reading = Reading(most_tokens=5)
    run(lm, reading)
    assert reading.prefill is None


def test_decoding_never_writes_to_what_is_held(lm: LanguageModel) -> None:
    reading = Reading()
    run(lm, reading)
    layers = [cache.layers[0] for cache in reading.prefill.caches.values()]
    before = [(layer.keys.clone(), layer.values.clone()) for layer in layers]
    run(lm, reading, weights=WEIGHTS, max_new_tokens=9)
    for layer, (keys, values) in zip(layers, before, strict=True):
        assert layer.keys.equal(keys) and layer.values.equal(values)


def test_sessions_have_readings_of_their_own_and_the_oldest_goes() -> None:
    readings = Readings(most=2)
    first, second = readings.of("1"), readings.of("2")
    assert first is not second and readings.of("1") is first
    readings.of("3")
    assert len(readings._held) == 2 and readings.of("1") is first and readings.of("2") is not second
    readings.forget("1")
    readings.forget("nobody")
    assert readings.of("1") is not first


def test_prompts_that_are_long_together_are_not_held(lm: LanguageModel) -> None:
    prompt, copies = prompt_of(lm), prompt_of(lm).repeated()
    for most, held in ((prompt.suffix_start + copies.suffix_start, True), (2 * prompt.suffix_start, False)):
        read = generation.prefill(lm, {Encoding(): [prompt, copies]})
        reading = Reading(most_tokens=most)
        reading.keep(read)
        assert (reading.prefill is read) == held
