"""APE temperature and scale on the fused view, against two plain softmaxes merged by their log-sum-exps."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import models
import numpy as np
import oracle
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from flexdemo.answers.ask import ask
from flexdemo.answers.explain import attribute
from flexdemo.cli import main as cli
from flexdemo.engine import decode, flex
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.recorders import ApeRows, Scoring, attention_probabilities
from flexdemo.errors import BackendError, InputError

A, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]
T, S = 0.7, 1.3


@pytest.fixture(scope="module")
def ape_model() -> Any:
    """Another copy of `lm`'s weights, running the oracle's attention."""
    AttentionInterface.register("ape_oracle", oracle.ape_eager_attention)
    AttentionMaskInterface.register("ape_oracle", eager_mask)
    model = models.random_model("llama")
    model.set_attn_implementation("ape_oracle")
    return model


STRATEGIES = ("segment", "anchor", "late_fusion", "causal", "bidirectional", *oracle.OWN_MASKS)


@pytest.mark.parametrize(
    ("strategy", "backend", "methods"),
    [
        *((each, "sdpa", ["flex"]) for each in STRATEGIES),
        ("late_fusion", "flex-eager", ["flex"]),
        ("segment", "sdpa", ["all"]),
    ],
)
def test_flex_with_temperature_and_scale_is_the_oracles(
    prepared: Callable[..., LanguageModel],
    ape_model: Any,
    strategy: str,
    backend: str,
    methods: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the rows of all methods share their prompts."""
    monkeypatch.setattr(decode, "WORTH_TRUNKS", 0)
    ours = prepared("llama", backend)
    options = {"mask": strategy, "weights": [1, 3, 2], "max_new_tokens": 6, "methods": methods}
    result = ask(ours, A, OTHERS, ape_temperature=T, ape_scale=S, **options)
    told = result.to_dict()
    assert told["ape"] == {"temperature": T, "scale": S}
    expected = oracle.decode_ape(ape_model, told, T, S, len(result["flex"].token_ids))
    assert list(result["flex"].token_ids) == expected.token_ids
    np.testing.assert_allclose(result["flex"].logprobs, expected.logprobs, atol=2e-5)
    np.testing.assert_allclose(np.sum(result["flex"].views[0].segment_mass, axis=1), 1, atol=1e-5)

    plain = ask(ours, A, OTHERS, **options)
    assert max(abs(a - b) for a, b in zip(plain["flex"].logprobs, result["flex"].logprobs, strict=False)) > 1e-4


def test_one_and_one_is_exactly_plain_softmax(lm: LanguageModel) -> None:
    plain, ones = ask(lm, A, OTHERS), ask(lm, A, OTHERS, ape_temperature=1, ape_scale=1.0)
    assert plain["flex"] == ones["flex"].__class__(**{**vars(ones["flex"]), "seconds": plain["flex"].seconds})


def test_rows_that_ask_for_nothing_keep_plain_softmax_beside_one_that_does(lm: LanguageModel) -> None:
    methods = ("flex", "per_prompt", "leave_one_out", "causal")
    plain = ask(lm, A, OTHERS, methods=methods)
    sharp = ask(lm, A, OTHERS, methods=methods, ape_temperature=T, ape_scale=S)
    for name in methods[1:]:
        for ours, theirs in zip(plain[name].views, sharp[name].views, strict=True):
            assert ours.token_ids == theirs.token_ids
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)


def test_copies_of_one_wording_still_count_as_that_wording(lm: LanguageModel) -> None:
    """Property 6 holds at any temperature, as log-weights are added after the division."""
    alone = ask(lm, A, ape_temperature=T, ape_scale=S)
    copies = ask(lm, A, [A, A], ape_temperature=T, ape_scale=S)
    assert alone["flex"].token_ids == copies["flex"].token_ids
    np.testing.assert_allclose(alone["flex"].logprobs, copies["flex"].logprobs, atol=1e-5)


def test_probabilities_spread_the_scaled_log_sum_exp() -> None:
    made = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, n, 8, generator=made) for heads, n in ((4, 3), (2, 9)))
    bias = torch.rand(2, 1, 3, 9, generator=made).log()
    bias[0, :, :, 2:5] = -torch.inf  # all paraphrases of the first row hidden
    keys = torch.zeros(2, 1, 1, 9, dtype=torch.bool)
    keys[..., 2:5] = True
    ape = ApeRows(keys, torch.tensor([0.5, 0.7])[:, None, None, None], torch.tensor([0.9, 1.4])[:, None, None, None])
    told = attention_probabilities(q, k, bias, Scoring(0.4, None, ape))
    assert not told[0, :, :, 2:5].any()
    for row, head, query in np.ndindex(2, 4, 3):
        scores = k[row, head // 2].double() @ q[row, head, query].double() * 0.4
        temperature, scale = float(ape.temperature[row]), float(ape.scale[row])
        inside = scores[2:5] / temperature + bias[row, 0, query, 2:5]
        outside = (scores + bias[row, 0, query])[[0, 1, 5, 6, 7, 8]].exp()
        context = inside.exp().sum() ** (scale * temperature)
        total = context + outside.sum()
        assert float(told[row, head, query, 2:5].sum()) == pytest.approx(float(context / total), abs=1e-6)
        expected = (outside / total).float()
        torch.testing.assert_close(told[row, head, query, [0, 1, 5, 6, 7, 8]], expected, atol=1e-6, rtol=0)


def test_attribution_uses_the_attention_that_ran(lm: LanguageModel) -> None:
    result = ask(lm, A, OTHERS, ape_temperature=T, ape_scale=S, max_new_tokens=4)
    view = result["flex"].views[0]
    found = attribute(lm, result)
    np.testing.assert_allclose(found.mean_mass, view.segment_mass, atol=1e-5)


def test_compiled_flex_on_the_cpu_says_what_it_lacks(
    prepared: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "_run_compiled", flex._run_as_it_is)  # for the prompt, which it can read
    with pytest.raises(BackendError, match=r"log-sum-exp.*sdpa or flex-eager"):
        ask(prepared("llama", "flex"), A, OTHERS, ape_temperature=T, max_new_tokens=2)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_impossible_numbers_are_refused(lm: LanguageModel, bad: float) -> None:
    with pytest.raises(InputError, match="ape_temperature must be"):
        ask(lm, A, OTHERS, ape_temperature=bad)
    with pytest.raises(InputError, match="ape_scale must be"):
        ask(lm, A, OTHERS, ape_scale=bad)


@pytest.mark.parametrize("values", [(0.01, 100), (100, 0.01)])
def test_both_ends_of_the_range_are_finite_and_the_same_on_every_backend(
    prepared: Callable[..., LanguageModel], values: tuple[float, float]
) -> None:
    told = [
        ask(prepared("llama", backend), A, OTHERS, ape_temperature=values[0], ape_scale=values[1], max_new_tokens=3)
        for backend in ("sdpa", "flex-eager")
    ]
    one, other = (result["flex"] for result in told)
    assert one.token_ids == other.token_ids and np.isfinite(one.logprobs).all()
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-3)
    np.testing.assert_allclose(np.sum(one.views[0].segment_mass, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("bad", [1e-45, 0.0099, 100.1, 1e300])
def test_numbers_that_float32_cannot_carry_are_refused(lm: LanguageModel, bad: float) -> None:
    with pytest.raises(InputError, match=r"ape_temperature must be from 0\.01 to 100"):
        ask(lm, A, OTHERS, ape_temperature=bad)
    with pytest.raises(InputError, match=r"ape_scale must be from 0\.01 to 100"):
        ask(lm, A, OTHERS, ape_scale=bad)


def test_command_line_takes_both(capsys: pytest.CaptureFixture) -> None:
    args = ["generate", "Who wrote Hamlet?", "-p", "hamlet author", "--ape-temperature", "0.8", "--ape-scale", "0.9"]
    assert cli.main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ape"] == {"temperature": 0.8, "scale": 0.9}
    assert cli.main([*args[:-1], "0"]) == 2
    assert "ape_scale must be" in capsys.readouterr().err
