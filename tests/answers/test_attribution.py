"""What each paraphrase contributed: masses, leave-one-out effects, candidates and agreement, against the oracle."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from flexdemo.answers.ask import ask
from flexdemo.answers.explain import NEEDED, agreement, attribute, explain
from flexdemo.cli import main as cli
from flexdemo.engine.model import LanguageModel

A, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]


def forced_logprobs(plain: Any, told: dict, view: dict, weights: list[float], answer: list[int]) -> list[float]:
    """Log-probabilities of a given answer under one view, the whole sequence in one plain eager forward pass."""
    prompt, mask = told["prompt"], told["mask"]
    tokens = oracle.prompt_tokens(prompt["segments"], answers=len(answer) - 1)
    ids = [*prompt["token_ids"], *answer[:-1]]
    places = oracle.positions(
        prompt["segments"], mask["positions"], suffix_position=view["suffix_position"], answers=len(answer) - 1
    )
    with torch.no_grad():
        out = plain(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([places]),
            attention_mask=oracle.bias(mask["strategy"], tokens, weights),
            use_cache=False,
        )
    rows = out.logits[0, -len(answer) :].double().log_softmax(-1)
    return [float(rows[t, token]) for t, token in enumerate(answer)]


@pytest.mark.parametrize("strategy", ["segment", "anchor", "late_fusion", "causal"])
@pytest.mark.parametrize("weights", [None, [1, 4, 2], [1, 0, 2], "raw"], ids=str)
def test_attribution_is_the_oracles(
    lm: LanguageModel, plain: Any, strategy: str, weights: list[float] | str | None
) -> None:
    result = ask(lm, A, OTHERS, mask=strategy, weights=weights, max_new_tokens=5)
    told, view = result.to_dict(), result["flex"].views[0]
    found = attribute(lm, result)

    steps, layers, heads, segments = found.mass.shape
    assert (steps, layers, heads, segments) == (len(view.token_ids), 3, 4, 5)
    np.testing.assert_allclose(found.mass.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(found.mean_mass, view.segment_mass, atol=1e-5)
    np.testing.assert_allclose(found.token_attention.sum(axis=-1), 1, atol=1e-5)
    for token in range(steps):
        row = found.token_attention[token]
        parts = [row[s.start : s.end].sum() for s in result.prompt.segments[:-1]]
        np.testing.assert_allclose([*parts, row[result.prompt.suffix_start :].sum()], found.mean_mass[token], atol=1e-5)
        lengths = [max(1, s.end - s.start) for s in result.prompt.segments]
        lengths[-1] += token
        np.testing.assert_allclose(found.mass_per_token[token] * lengths, found.mean_mass[token], atol=1e-5)

    shares, answer = list(result.prompt.weights), list(view.token_ids)
    whole = forced_logprobs(plain, told, told["results"][0]["views"][0], shares, answer)
    assert [effect.hidden for effect in found.effects] == [f"P{i + 1}" for i in range(3) if shares[i]]
    for effect in found.effects:
        kept = [0.0 if f"P{i + 1}" == effect.hidden else share for i, share in enumerate(shares)]
        if weights != "raw":  # where every weight is 1, whatever is hidden
            kept = [share / sum(kept) for share in kept]
        expected = forced_logprobs(plain, told, told["results"][0]["views"][0], kept, answer)
        assert effect.logprobs == pytest.approx(expected, abs=2e-5)
        assert effect.effect == pytest.approx(sum(whole) - sum(expected), abs=1e-4)
    if isinstance(weights, list) and 0 in weights and strategy != "late_fusion":
        assert not found.mass[..., 1 + weights.index(0)].any()


def test_the_only_wording_has_no_leave_one_out_effect(lm: LanguageModel) -> None:
    result = ask(lm, A, max_new_tokens=3)
    assert attribute(lm, result).effects == ()


def test_candidates_are_the_likeliest_tokens(lm: LanguageModel, plain: Any) -> None:
    result = ask(lm, A, OTHERS, methods=("flex", "causal", "avg"), max_new_tokens=4, candidates=5)
    for answered in result.results:
        assert len(answered.candidates) == len(answered.token_ids)
        for step, token in enumerate(answered.token_ids):
            five = answered.candidates[step]
            assert five[0].token_id == token and len({c.token_id for c in five}) == 5
            assert [c.probability for c in five] == sorted((c.probability for c in five), reverse=True)
            assert five[0].probability == pytest.approx(np.exp(answered.logprobs[step]), rel=1e-4) or (
                answered.method == "max"
            )
    ids = torch.tensor([result.prompt.token_ids])
    with torch.no_grad():
        row = plain(input_ids=ids, use_cache=False).logits[0, -1].softmax(-1)
    assert [c.token_id for c in result["causal"].candidates[0]] == row.topk(5).indices.tolist()
    (every,) = ask(lm, A, max_new_tokens=1, candidates=10**9)["flex"].candidates
    assert len(every) == len(row), "no more than the model has tokens"


def test_explanation_marks_where_methods_part_ways(lm: LanguageModel) -> None:
    result = ask(lm, A, OTHERS, methods=(*NEEDED, "causal"), max_new_tokens=6, candidates=5)
    steps = explain(lm, result).to_dict()["candidates"]
    chosen = [result[name].token_ids for name in (*NEEDED, "causal")]
    assert [step["parts_ways"] for step in steps] == [len(set(tokens)) > 1 for tokens in zip(*chosen, strict=True)]
    assert any(step["parts_ways"] for step in steps)


def test_agreement_counts_normalised_answers() -> None:
    found = agreement("Lima", ["lima.", "Cusco", "Lima", "The Cusco"])
    assert found.agree == (True, False, True, False)
    assert (found.distinct, found.entropy) == (2, pytest.approx(1.0))
    assert agreement("Lima", ["Lima"]).entropy == 0


def test_generate_explain_prints_it(capsys: pytest.CaptureFixture) -> None:
    args = ["generate", "Who wrote Hamlet?", "-p", "Name the author of Hamlet.", "--explain"]
    assert cli.main([*args, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["explain"]) == {"attention_mass", "agreement", "candidates"}
    assert told["explain"]["agreement"]["agree"] == [True, True]
    assert cli.main(args) == 0
    assert "leave-one-out effect" in capsys.readouterr().out
