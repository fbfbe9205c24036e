"""Hidden states and logit lens of the place that answers, against plain transformers, whole and uncached."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import models
import numpy as np
import oracle
import pytest
import torch
from transformers import AutoModelForCausalLM

from flexdemo.answers import merge
from flexdemo.answers.ask import ask
from flexdemo.answers.merge import Merge, merging
from flexdemo.answers.result import Result
from flexdemo.engine import reading as engine_reading
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.engine.reading import Reading
from flexdemo.engine.sources import BUNDLED
from flexdemo.errors import InputError

A, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]

# What a model makes of its last layer's output, by architecture, as its paper or configuration says.
HEADS: dict[str, Callable[[Any, Any], Any]] = {
    "llama": lambda m, h: m.lm_head(m.model.norm(h)),
    "phi3": lambda m, h: m.lm_head(m.model.norm(h)),
    "qwen3": lambda m, h: m.lm_head(m.model.norm(h)),
    "granite": lambda m, h: m.lm_head(m.model.norm(h)) / m.config.logits_scaling,
    "gemma2": lambda m, h: (
        m.config.final_logit_softcapping * torch.tanh(m.lm_head(m.model.norm(h)) / m.config.final_logit_softcapping)
    ),
    "cohere": lambda m, h: m.lm_head(m.model.norm(h)) * m.logit_scale,
    "gpt2": lambda m, h: m.lm_head(m.transformer.ln_f(h)),
    "opt": lambda m, h: m.lm_head(m.model.decoder.final_layer_norm(h)),
    "gpt_neox": lambda m, h: m.lm_head(m.gpt_neox.final_layer_norm(h)),
}
LAST = {"gpt2": "transformer.h.2", "opt": "model.decoder.layers.2", "gpt_neox": "gpt_neox.layers.2"}


@torch.no_grad()
def states(model: Any, kind: str, ids: list[int], **options: Any) -> list[torch.Tensor]:
    """The output of each layer at the last token; transformers tells the last layer's after the norm, a hook before."""
    before: list[torch.Tensor] = []
    last = model.get_submodule(LAST.get(kind, f"model.layers.{model.config.num_hidden_layers - 1}"))
    hook = last.register_forward_hook(lambda module, given, out: before.append(out))
    try:
        out = model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True, **options)
    finally:
        hook.remove()
    told = [layer[0, -1] for layer in out.hidden_states[1:-1]] + [before[0][0, -1]]
    expected = HEADS[kind](model, told[-1]).softmax(-1)
    torch.testing.assert_close(expected, out.logits[0, -1].softmax(-1), atol=1e-5, rtol=0)  # the oracle itself
    return told


def rows(model: Any, kind: str, result: Result, step: int) -> list[list[torch.Tensor]]:
    """States of each wording alone, on its own plain prompt, then of the fused view under a dense mask."""
    told, answer = result.to_dict(), list(result["flex"].token_ids[:step])
    prompt, mask = told["prompt"], told["mask"]
    segments, ids = prompt["segments"], prompt["token_ids"]
    made = []
    for segment in segments:
        if segment["role"] == "paraphrase":
            own = ids[: segments[0]["end"]] + ids[segment["start"] : segment["end"]] + ids[segments[-1]["start"] :]
            made.append(states(model, kind, own + answer))
    view = told["results"][0]["views"][0]
    places = oracle.positions(segments, mask["positions"], suffix_position=view["suffix_position"], answers=len(answer))
    tokens = oracle.prompt_tokens(segments, answers=len(answer))
    dense = oracle.bias(mask["strategy"], tokens, view["weights"])
    made.append(states(model, kind, ids + answer, position_ids=torch.tensor([places]), attention_mask=dense))
    return made


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    return float(sum(a * b) / math.sqrt(sum(a * a) * sum(b * b)))


def check(model: Any, kind: str, result: Result, step: int, found: Merge) -> None:
    expected = rows(model, kind, result, step)
    count, token = len(expected) - 1, result["flex"].token_ids[step]
    assert found.token_id == token and found.names == (*(f"P{i + 1}" for i in range(count)), "flex")
    assert found.top.shape == (len(expected[0]), count + 1)
    for layer in range(found.layers):
        at = [row[layer] for row in expected]
        with torch.no_grad():
            said = [HEADS[kind](model, state).double().softmax(-1) for state in at]
        np.testing.assert_allclose(found.probability[layer], [float(each[token]) for each in said], atol=1e-5)
        for row, each in enumerate(said):
            assert each[found.top[layer, row]] > each.max() - 1e-6
        to_fused = [cosine(each, at[-1]) for each in at[:-1]]
        np.testing.assert_allclose(found.to_fused[layer], to_fused, atol=1e-5)
        pairs = [cosine(a, b) for a, b in itertools.combinations(at[:-1], 2)]
        np.testing.assert_allclose(found.between[layer], np.mean(pairs), atol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_every_layer_is_the_oracles(
    prepared: Callable[..., LanguageModel], plain_model: Callable[..., Any], kind: str
) -> None:
    lm, model = prepared(kind), plain_model(kind)
    result = ask(lm, A, OTHERS, max_new_tokens=4, weights=[1, 3, 2])
    for step in range(len(result["flex"].token_ids)):
        check(model, kind, result, step, merging(lm, result, step))


@pytest.mark.parametrize("strategy", ["anchor", "late_fusion", "causal", "bidirectional", *oracle.OWN_MASKS])
def test_every_mask_is_the_oracles(lm: LanguageModel, plain: Any, strategy: str) -> None:
    result = ask(lm, A, OTHERS, max_new_tokens=3, mask=strategy, positions="right_aligned", weights=[1, 0, 2])
    for step in range(len(result["flex"].token_ids)):
        check(plain, "llama", result, step, merging(lm, result, step))


def test_a_chat_prompt_on_another_backend(prepared: Callable[..., LanguageModel], plain: Any) -> None:
    lm = prepared("llama", "flex-eager", chat=True)
    result = ask(lm, A, OTHERS, max_new_tokens=3)
    assert any(segment.role == "separator" for segment in result.prompt.segments)
    check(plain, "llama", result, 2, merging(lm, result, 2))


def test_the_bundled_model(bundled: LanguageModel) -> None:
    plain = AutoModelForCausalLM.from_pretrained(BUNDLED, attn_implementation="eager", dtype=torch.float32).eval()
    kind = plain.config.model_type
    result = ask(bundled, "Who wrote Hamlet?", ["Name the author of Hamlet.", "hamlet author"])
    for step in range(len(result["flex"].token_ids)):
        found = merging(bundled, result, step)
        check(plain, kind, result, step, found)
        assert found.probability[-1, -1] == pytest.approx(math.exp(result["flex"].logprobs[step]), abs=1e-5)


def test_the_model_is_left_as_it_was(lm: LanguageModel) -> None:
    before = {name: module for name, module in lm.model.named_modules()}
    hooks = [len(module._forward_hooks) for module in before.values()]
    result = ask(lm, A, OTHERS, max_new_tokens=2)
    merging(lm, result, 1)
    assert {name: module for name, module in lm.model.named_modules()} == before
    assert [len(module._forward_hooks) for module in before.values()] == hooks
    assert ask(lm, A, OTHERS, max_new_tokens=2)["flex"].logprobs == result["flex"].logprobs


def test_temperature_and_scale_are_the_answer_s(lm: LanguageModel) -> None:
    for mask in ("segment", "late_fusion"):
        result = ask(lm, A, OTHERS, max_new_tokens=3, mask=mask, ape_temperature=0.7, ape_scale=1.3)
        for step, logprob in enumerate(result["flex"].logprobs):
            found = merging(lm, result, step)
            assert found.probability[-1, -1] == pytest.approx(math.exp(logprob), abs=1e-5)


def test_rows_that_longrope_reads_otherwise(tokenizer: Any) -> None:
    """The short wordings alone stand before the turn, the long one and the fused view behind it."""
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 4, "long_factor": [1.0, 3.0, 9.0, 20.0],
    }  # fmt: skip
    ours, plain = (models.random_model("phi3", rope_parameters=rope) for _ in range(2))
    lm = prepare(ours, tokenizer, name="phi3")
    result = ask(lm, A, ["Which city, of all there are in the country and by the river, is it?" * 3, "Name it."])
    ends = [result.prompt.suffix_position("aligned", only=i) for i in range(3)]
    assert max(ends[0], ends[2]) < 60 and 64 < ends[1] == result["flex"].views[0].suffix_position
    check(plain, "phi3", result, 0, merging(lm, result, 0))


def test_one_wording_has_no_pairs(lm: LanguageModel) -> None:
    found = merging(lm, ask(lm, A, max_new_tokens=1), 0)
    assert np.isnan(found.between).all() and np.allclose(found.to_fused, 1) and found.agree_from == 3


def told(*tops: list[int]) -> Merge:
    top = np.array(tops)
    return Merge(("P1", "P2", "flex"), 7, " x", np.zeros(top.shape), top, (), np.zeros((1, 2)), np.zeros(1))


def test_layers_from_which_they_agree_by_hand() -> None:
    assert told([7, 1, 7], [7, 7, 1], [7, 7, 7]).agree_from == 2
    assert told([7, 7, 7], [7, 1, 7], [7, 7, 7]).agree_from == 3, "and stay so"
    assert told([7, 7, 7], [7, 7, 7]).agree_from == 1
    never = told([7, 7, 7], [7, 1, 7])
    assert never.agree_from is None and [never.says_it_from(i) for i in range(3)] == [1, None, 1]


def test_a_prompt_that_was_read_is_not_read_again(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading()
    result = ask(lm, A, OTHERS, max_new_tokens=3, methods=("flex", "per_prompt"), mask="anchor", reading=reading)
    expected = merging(lm, result, 2)
    monkeypatch.setattr(engine_reading, "encode", None)
    found = merging(lm, result, 2, known=reading.known(result.prompt))
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-6)
    np.testing.assert_allclose(found.to_fused, expected.to_fused, atol=1e-6)
    np.testing.assert_allclose(found.between, expected.between, atol=1e-6)
    with pytest.raises(TypeError, match="not callable"):
        merging(lm, result, 2)


def test_a_model_of_several_states_a_token_is_refused(tokenizer: Any) -> None:
    lm = prepare(models.random_model("gemma3n_text", **models.GEMMA3N), tokenizer, name="gemma3n")
    with pytest.raises(InputError, match=r"Gemma3n.*does not hand on one hidden state for each token"):
        merging(lm, ask(lm, A, OTHERS, max_new_tokens=1), 0)


@pytest.mark.parametrize("step", [-1, 2])
def test_a_token_that_is_not_there_is_refused(lm: LanguageModel, step: int) -> None:
    with pytest.raises(InputError, match=f"no token {step} of the answer: choose from 0 to 1"):
        merging(lm, ask(lm, A, max_new_tokens=2), step)


def test_a_model_that_ends_otherwise_than_in_its_layers_is_refused(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = ask(lm, A, OTHERS, max_new_tokens=1)
    monkeypatch.setattr(merge, "said_from", lambda model: lambda states: torch.zeros(len(states), 1, 400))
    with pytest.raises(InputError, match="makes its answer of more than its last layer"):
        merging(replace(lm), result, 0)
