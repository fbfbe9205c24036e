"""Heads that read a wording, against an eager attention written here, whole and uncached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import models
import numpy as np
import oracle
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.masking_utils import eager_mask

from flexdemo.answers.ask import ask
from flexdemo.answers.explain import attribute
from flexdemo.answers.heads import Reads, reading_heads
from flexdemo.answers.result import Result
from flexdemo.engine import reading as engine_reading
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.engine.reading import Reading
from flexdemo.engine.sources import BUNDLED
from flexdemo.errors import InputError

A, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]
NAME = "hidden_from_heads"


def partial_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **options: Any
) -> tuple[torch.Tensor, None]:
    """Plain attention, but for some heads of one layer, which have another mask: hidden = (layer, heads, mask)."""
    layer, heads, other = options["hidden"]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if options.get("softcap") is not None:
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    out = []
    for head in range(query.shape[1]):
        mask = other if module.layer_idx == layer and head in heads else attention_mask
        out.append((scores[:, head] + mask[:, 0]).softmax(-1) @ value[:, head])
    return torch.stack(out, dim=2).contiguous(), None


@pytest.fixture(scope="module")
def partial_model() -> Callable[..., Any]:
    """partial_model(kind, ...): another copy of `prepared`'s weights, which runs the attention above."""
    AttentionInterface.register(NAME, partial_attention)
    AttentionMaskInterface.register(NAME, eager_mask)

    def make(kind: str = "llama", **changes: Any) -> Any:
        model = models.random_model(kind, **changes)
        model.set_attn_implementation(NAME)
        return model

    return make


@torch.no_grad()
def logprob(model: Any, result: Result, wording: int, layer: int, heads: Sequence[int]) -> float:
    """Log-probability of the fused answer with a wording hidden, the others sharing its weight, from those heads."""
    told, answer = result.to_dict(), list(result["flex"].token_ids)
    prompt, mask, view = told["prompt"], told["mask"], told["results"][0]["views"][0]
    tokens = oracle.prompt_tokens(prompt["segments"], answers=len(answer) - 1)
    left = [0.0 if i == wording else weight for i, weight in enumerate(view["weights"])]
    left = left if set(view["weights"]) == {1.0} else [weight / sum(left) for weight in left]
    full, other = (oracle.bias(mask["strategy"], tokens, weights) for weights in (view["weights"], left))
    places = oracle.positions(
        prompt["segments"], mask["positions"], suffix_position=view["suffix_position"], answers=len(answer) - 1
    )
    out = model(
        input_ids=torch.tensor([[*prompt["token_ids"], *answer[:-1]]]),
        position_ids=torch.tensor([places]),
        attention_mask=full,
        use_cache=False,
        hidden=(layer, heads, other),
    )
    rows = out.logits[0, -len(answer) :].double().log_softmax(-1)
    return sum(float(rows[t, token]) for t, token in enumerate(answer))


def check(model: Any, result: Result, wording: int, found: Reads) -> None:
    layers, heads = found.attention.shape
    whole = logprob(model, result, wording, -1, ())
    assert len(found.strongest) == min(12, layers * heads) and len(found.by_layer) == layers
    order = np.sort(found.attention, axis=None)[::-1]
    for place, each in enumerate(found.strongest):
        assert each.attention == pytest.approx(order[place]) == pytest.approx(found.attention[each.layer, each.head])
        expected = whole - logprob(model, result, wording, each.layer, (each.head,))
        assert each.effect == pytest.approx(expected, abs=2e-4), each
    assert len({(each.layer, each.head) for each in found.strongest}) == len(found.strongest)
    for layer in range(layers):
        expected = whole - logprob(model, result, wording, layer, range(heads))
        assert found.by_layer[layer] == pytest.approx(expected, abs=2e-4), layer


KINDS = ("llama", "qwen3", "granite", "gemma2", "gpt2", "gpt_bigcode", "opt", "olmo2")


@pytest.mark.parametrize(("kind", "changes"), [*((kind, {}) for kind in KINDS), ("gemma3n_text", models.GEMMA3N)])
def test_a_head_without_a_wording_is_the_oracles(
    tokenizer: Any, partial_model: Callable[..., Any], kind: str, changes: dict
) -> None:
    lm = prepare(models.random_model(kind, **changes), tokenizer, name=kind)
    result = ask(lm, A, OTHERS, max_new_tokens=4, weights=[1, 3, 2])
    for wording in (0, 2):
        *_, found = reading_heads(lm, result, wording)
        check(partial_model(kind, **changes), result, wording, found)
        assert max(abs(each.effect) for each in found.strongest) > 1e-2, "there is something to see"


@pytest.mark.parametrize("strategy", ["anchor", "late_fusion", "causal", "bidirectional", *oracle.OWN_MASKS])
def test_every_mask_is_the_oracles(lm: LanguageModel, partial_model: Callable[..., Any], strategy: str) -> None:
    weights: Any = "raw" if strategy == "causal" else None
    result = ask(lm, A, OTHERS, max_new_tokens=3, mask=strategy, positions="right_aligned", weights=weights)
    *_, found = reading_heads(lm, result, 1)
    check(partial_model(), result, 1, found)


def test_the_bundled_model(bundled: LanguageModel, partial_model: Callable[..., Any]) -> None:
    partial_model()  # its attention is registered then
    model = AutoModelForCausalLM.from_pretrained(BUNDLED, attn_implementation=NAME, dtype=torch.float32).eval()
    result = ask(bundled, "Who wrote Hamlet?", ["Name the author of Hamlet.", "hamlet author"])
    *_, found = reading_heads(bundled, result, 1)
    check(model, result, 1, found)


def test_attention_is_the_plain_model_s(lm: LanguageModel, plain: Any) -> None:
    result = ask(lm, A, OTHERS, max_new_tokens=4)
    told, answer = result.to_dict(), list(result["flex"].token_ids)
    view, segments = told["results"][0]["views"][0], told["prompt"]["segments"]
    tokens = oracle.prompt_tokens(segments, answers=len(answer) - 1)
    places = oracle.positions(segments, "aligned", suffix_position=view["suffix_position"], answers=len(answer) - 1)
    with torch.no_grad():
        out = plain(
            input_ids=torch.tensor([[*told["prompt"]["token_ids"], *answer[:-1]]]),
            position_ids=torch.tensor([places]),
            attention_mask=oracle.bias("segment", tokens, view["weights"]),
            output_attentions=True,
            use_cache=False,
        )
    for wording, segment in enumerate(segments[1:-1]):
        found = next(reading_heads(lm, result, wording))
        looks = torch.stack(
            [layer[0, :, -len(answer) :, segment["start"] : segment["end"]] for layer in out.attentions]
        )
        np.testing.assert_allclose(found.attention, looks.sum(-1).mean(-1).numpy(), atol=1e-5)
        assert found.name == segment["name"] and not found.strongest and found.without is None


@pytest.mark.parametrize("changes", [{}, {"num_hidden_layers": 1}], ids=["three layers", "one layer"])
def test_hiding_from_all_heads_is_leave_one_out(prepared: Callable[..., LanguageModel], changes: dict) -> None:
    lm = prepared("llama", "sdpa", **changes)
    result = ask(lm, A, OTHERS, methods=("flex",), max_new_tokens=4)
    *_, found = reading_heads(lm, result, 1)
    effects = attribute(lm, result).effects
    assert found.without == pytest.approx(effects[1].effect, abs=1e-4)
    if changes:
        assert found.by_layer == (pytest.approx(found.without, abs=1e-4),) and len(found.strongest) == 4


def test_temperature_and_scale_are_kept(lm: LanguageModel) -> None:
    result = ask(lm, A, OTHERS, max_new_tokens=3, mask="late_fusion", ape_temperature=0.7, ape_scale=1.3)
    found = attribute(lm, result)
    *_, reads = reading_heads(lm, result, 2)
    assert reads.without == pytest.approx(found.effects[2].effect, abs=1e-4) and abs(reads.without) > 1e-3
    np.testing.assert_allclose(reads.attention, found.mass[..., 3].mean(axis=0), atol=1e-5)


def test_a_prompt_that_was_read_is_not_read_again(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading()
    result = ask(lm, A, OTHERS, max_new_tokens=3, reading=reading)
    *_, expected = reading_heads(lm, result, 1)
    monkeypatch.setattr(engine_reading, "encode", None)
    *_, found = reading_heads(lm, result, 1, known=reading.known(result.prompt))
    np.testing.assert_allclose(found.attention, expected.attention, atol=1e-6)
    effects = [[each.effect for each in reads.strongest] for reads in (found, expected)]
    np.testing.assert_allclose(*effects, atol=1e-5)
    np.testing.assert_allclose(found.by_layer, expected.by_layer, atol=1e-5)
    with pytest.raises(TypeError, match="not callable"):
        next(reading_heads(lm, result, 1))


def test_work_comes_in_parts_and_stops_where_it_is_told(lm: LanguageModel) -> None:
    result = ask(lm, A, OTHERS, max_new_tokens=3)
    first, second, third = reading_heads(lm, result, 0)
    assert not first.strongest and second.strongest and not second.by_layer and third.by_layer
    asked: list[int] = []

    def stop() -> None:
        asked.append(1)
        if len(asked) > 2:
            raise InputError("nobody waits")

    with pytest.raises(InputError, match="nobody waits"):
        list(reading_heads(lm, result, 0, check=stop))


def test_more_layers_than_rows_of_a_pass(
    prepared: Callable[..., LanguageModel], partial_model: Callable[..., Any]
) -> None:
    lm = prepared("llama", "sdpa", num_hidden_layers=17)
    result = ask(lm, A, OTHERS, max_new_tokens=2)
    *_, found = reading_heads(lm, result, 0)
    model = partial_model(num_hidden_layers=17)
    whole = logprob(model, result, 0, -1, ())
    for layer in (0, 14, 15, 16):
        expected = whole - logprob(model, result, 0, layer, range(4))
        assert found.by_layer[layer] == pytest.approx(expected, abs=2e-4)


def test_where_there_is_nothing_else_to_read_there_is_attention_only(lm: LanguageModel) -> None:
    (alone,) = reading_heads(lm, ask(lm, A, max_new_tokens=2), 0)
    assert alone.attention.shape == (3, 4) and alone.without is None
    (muted,) = reading_heads(lm, ask(lm, A, OTHERS, max_new_tokens=2, weights=[1, 0, 1]), 1)
    assert not muted.attention.any() and not muted.strongest
    with pytest.raises(InputError, match="no wording 3: choose from 0 to 2"):
        next(reading_heads(lm, ask(lm, A, OTHERS, max_new_tokens=1), 3))
