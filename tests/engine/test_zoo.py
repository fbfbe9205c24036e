"""Property 15: properties 3, 4, 9 and 10 over architectures from small random configurations; refusals by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import models
import oracle
import pytest
import torch
from test_model import assert_property_3, assert_property_4

from flexdemo.answers.ask import ask
from flexdemo.answers.proof import prove
from flexdemo.answers.result import Result
from flexdemo.data.evaluate import Settings, answer, prepare_questions
from flexdemo.data.records import Record
from flexdemo.engine import cache, decode
from flexdemo.engine.attention import UnsupportedModelError
from flexdemo.engine.cache import Trunk
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.prompt import build_prompt

QUESTION, OTHERS = "What is the capital?", ["Name it.", "Which city is Peru's capital?"]
NEW_TOKENS = 4


def assert_property_9(plain: Any, result: Result) -> None:
    """`origin`, every `per_prompt`, `causal` and `repeat` answer = the plain model's own `generate` on that prompt."""
    prompt = result.prompt
    prefix, suffix = prompt.token_ids[: prompt.segments[0].end], prompt.token_ids[prompt.suffix_start :]
    alone = [(*prefix, *prompt.token_ids[s.start : s.end], *suffix) for s in prompt.paraphrases]
    cases = [(alone[0], result["origin"].token_ids), (prompt.token_ids, result["causal"].token_ids)]
    if "repeat" in [each.method for each in result.results]:
        segments = result.to_dict()["prompt"]["segments"]
        cases.append((oracle.repeated(prompt.token_ids, segments)[0], result["repeat"].token_ids))
    cases += [(ids, view.token_ids) for ids, view in zip(alone, result["per_prompt"].views, strict=True)]
    for ids, told in cases:
        given = torch.tensor([ids])
        out = plain.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=len(told),
            do_sample=False,
            pad_token_id=0,
        )
        assert tuple(out[0, len(ids) :].tolist()) == told


def assert_property_10(plain: Any, result: Result) -> None:
    """Every view = the oracle's uncached recomputation, token for token, and its log-probabilities."""
    for name, (view, reference) in oracle.decode_views(plain, result.to_dict()).items():
        assert list(view["token_ids"]) == reference.token_ids, name
        assert view["logprobs"] == pytest.approx(reference.logprobs, abs=2e-5), name


def assert_exact(kind: str, lm: LanguageModel, plain: Any) -> None:
    prompt = build_prompt(lm.tokenizer, QUESTION, OTHERS)
    assert_property_3(lm, plain, prompt, atol=5e-5)
    assert_property_4(lm, prompt, "segment", experts="num_experts" in models.MORE.get(kind, {}))
    result = ask(lm, QUESTION, OTHERS, methods=("all",), weights=[1, 2, 1], max_new_tokens=NEW_TOKENS)
    assert_property_9(plain, result)
    assert_property_10(plain, result)


@pytest.mark.parametrize("kind", models.ZOO)
def test_property_15_exact_over_the_zoo(
    kind: str, prepared: Callable[..., LanguageModel], plain_model: Callable[..., Any]
) -> None:
    assert_exact(kind, prepared(kind), plain_model(kind))


@pytest.mark.parametrize("kind", ["llama", "gpt_bigcode", "gemma4_text", "deepseek_v3"])
def test_property_15_exact_where_rows_share_their_prompt(
    kind: str,
    prepared: Callable[..., LanguageModel],
    plain_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As they do behind longer prompts; a model that makes other keys of those in its cache cannot."""
    looked: list[int] = []

    class Counted(Trunk):
        def scores(self, query: torch.Tensor) -> torch.Tensor:
            looked.append(len(self.rows))
            return super().scores(query)

    monkeypatch.setattr(decode, "WORTH_TRUNKS", 0)
    monkeypatch.setattr(cache, "Trunk", Counted)
    lm, plain = prepared(kind, "sdpa"), plain_model(kind)
    result = ask(lm, QUESTION, OTHERS, methods=("all",), weights=[1, 2, 1], max_new_tokens=NEW_TOKENS)
    assert_property_9(plain, result)
    assert_property_10(plain, result)
    assert (max(looked, default=0) > 3) == lm.shares == (kind != "deepseek_v3")


@pytest.mark.parametrize("kind", [*models.MORE, *models.ODD])
def test_property_15_exact_or_refused_by_name_with_the_reason(
    kind: str, prepared: Callable[..., LanguageModel], plain_model: Callable[..., Any]
) -> None:
    """Which of the two, the version of transformers decides: what is not refused must be exact."""
    try:
        plain = plain_model(kind)
    except ValueError as error:  # an architecture that this version of transformers has not got
        pytest.skip(str(error).splitlines()[0])
    try:
        lm = prepared(kind)
    except UnsupportedModelError as error:
        said = str(error)
        assert "\n" not in said and kind.split("_")[0] in said.lower().replace("gptoss", "gpt")
        assert re.search(models.ODD[kind][1], said) if kind in models.ODD else len(said) > 40
    else:
        assert_exact(kind, lm, plain)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 16}),
        ("gemma2", {"sliding_window": 16}),
        ("gemma3_text", {"sliding_window": 16}),
        ("cohere2", {"sliding_window": 16}),
        # a mask of sliding layers that the attention function is not told of
        (
            "smollm3",
            {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        ),
    ],
)
def test_a_window_shorter_than_prompt_and_answer_is_refused(kind: str, changes: dict, tokenizer: Any) -> None:
    lm = prepare(models.random_model(kind, **changes), tokenizer, name=kind)
    with pytest.raises(UnsupportedModelError, match=r"sliding window of 16 tokens, shorter than prompt and answer"):
        ask(lm, QUESTION, OTHERS, max_new_tokens=2)


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
def test_a_window_longer_than_prompt_and_answer_hides_nothing(
    kind: str, prepared: Callable[..., LanguageModel], plain_model: Callable[..., Any]
) -> None:
    lm, plain = prepared(kind, sliding_window=200), plain_model(kind, sliding_window=200)
    result = ask(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=NEW_TOKENS)
    assert_property_9(plain, result)
    assert_property_10(plain, result)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("gemma4_text", {"num_kv_shared_layers": 2}), ("gemma3n_text", models.GEMMA3N)],
)
def test_layers_that_share_keys_get_all_their_queries(kind: str, changes: dict, tokenizer: Any) -> None:
    changes = {**changes, "layer_types": ["full_attention"] * 3}
    lm = prepare(models.random_model(kind, **changes), tokenizer, name=kind)
    plain = models.random_model(kind, **changes)
    result = ask(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=NEW_TOKENS)
    assert_property_9(plain, result)
    assert_property_10(plain, result)


def test_tied_embeddings_and_attention_biases_work(
    prepared: Callable[..., LanguageModel], plain_model: Callable[..., Any]
) -> None:
    changes = dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
    lm, plain = prepared("llama", **changes), plain_model("llama", **changes)
    result = ask(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=NEW_TOKENS)
    assert_property_9(plain, result)
    assert_property_10(plain, result)


LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64, "short_factor": [1.0] * 4,
    "long_factor": [1.0, 3.0, 9.0, 20.0],
}  # fmt: skip
LONG = "Which city, of all the cities there are in the country and by the river, is the capital of Peru, please?"


@pytest.fixture(scope="module")
def longrope(tokenizer: Any) -> tuple[LanguageModel, Any]:
    """Other rotary factors from 65 positions on, and the model as transformers runs it."""
    ours, plain = (models.random_model("phi3", rope_parameters=LONGROPE) for _ in range(2))
    return prepare(ours, tokenizer, name="phi3"), plain


@pytest.mark.parametrize("others", [OTHERS, [*OTHERS, LONG], [LONG, f"{LONG} {LONG}"]], ids=["short", "both", "long"])
def test_longrope_is_decided_for_each_view(longrope: tuple[LanguageModel, Any], others: list[str]) -> None:
    """Every answer is `generate`'s on its own prompt, and the same whichever methods run beside it."""
    lm, plain = longrope
    together = ask(lm, QUESTION, others, methods=("all",), max_new_tokens=NEW_TOKENS)
    assert_property_9(plain, together)
    for result in together.results:
        (alone,) = ask(lm, QUESTION, others, methods=(result.method,), max_new_tokens=NEW_TOKENS).results
        assert alone.token_ids == result.token_ids, result.method
        assert alone.logprobs == pytest.approx(result.logprobs, abs=1e-5)
    proof = prove(lm, together)
    assert proof.ok, proof


def test_longrope_keeps_the_side_of_the_prompt_while_the_answer_grows(longrope: tuple[LanguageModel, Any]) -> None:
    """An answer that crosses the switch: the factors of its prompt, as a model without a switch would have them."""
    lm, _ = longrope
    fixed = {**LONGROPE, "long_factor": LONGROPE["short_factor"]}
    without = prepare(models.random_model("phi3", rope_parameters=fixed), lm.tokenizer, name="phi3")
    crossing = [ask(each, QUESTION, OTHERS, max_new_tokens=80) for each in (lm, without)]
    flex = crossing[0]["flex"]
    assert flex.views[0].suffix_position < 64 < flex.views[0].suffix_position + len(flex.token_ids)
    assert crossing[0]["flex"].token_ids == crossing[1]["flex"].token_ids


def test_longrope_does_not_depend_on_the_batch(longrope: tuple[LanguageModel, Any]) -> None:
    settings = Settings(methods=("flex", "origin", "causal"), max_new_tokens=NEW_TOKENS)
    records = [Record("1", QUESTION, ("x",), tuple(OTHERS)), Record("2", LONG, ("x",), (f"{LONG} {LONG}",))]
    asked, *_ = prepare_questions(longrope[0], records, settings)
    together = answer(longrope[0], asked, settings)
    for i, question in enumerate(asked):
        (alone,) = answer(longrope[0], [question], settings)
        assert [row.generation for row in together[i]] == [row.generation for row in alone]


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 256},
    ],
)  # fmt: skip
def test_rope_variants_stay_the_models_own(scaling: dict, tokenizer: Any) -> None:
    lm = prepare(models.random_model("llama", rope_parameters=scaling), tokenizer, name="llama", backend="sdpa")
    plain = models.random_model("llama", rope_parameters=scaling)
    result = ask(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=NEW_TOKENS)
    assert_property_9(plain, result)
    assert_property_10(plain, result)
