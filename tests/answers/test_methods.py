"""METHODS, ask and stream: properties 5, 6, 7, 9, 13 and 14, the views of the design, and the JSON of the contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import oracle
import pytest
from test_zoo import assert_property_9, assert_property_10

from flexdemo.answers.ask import ask
from flexdemo.answers.methods import METHODS, resolve_methods
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError

A, B, C = "What is the capital of Peru?", "Name it.", "Which city is Peru's capital?"
EVERY = ("flex", "origin", "per_prompt", "causal")


def flex(lm: LanguageModel, *wordings: str, **options: Any) -> Any:
    return ask(lm, wordings[0], wordings[1:], **{"max_new_tokens": 5, **options})["flex"].views[0]


def same(a: Any, b: Any) -> bool:
    """Equal tokens, and log-probabilities equal within 1e-5."""
    return a.token_ids == b.token_ids and a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_a_name_in_the_place_of_a_model_is_told() -> None:
    with pytest.raises(InputError, match="lm must be a model that load_model gave, not 'gpt2'"):
        ask("gpt2", A, [B])


@pytest.mark.parametrize("positions", ["aligned", "right_aligned"])
@pytest.mark.parametrize("strategy", ["segment", "isolated", "bidirectional"])
def test_property_5_permuting_paraphrases_changes_nothing(lm: LanguageModel, strategy: str, positions: str) -> None:
    options = dict(mask=strategy, positions=positions)
    base = flex(lm, A, B, C, weights=[1, 2, 4], **options)
    assert same(base, flex(lm, C, A, B, weights=[4, 1, 2], **options))
    assert same(base, flex(lm, B, C, A, weights=[2, 4, 1], **options))
    assert not same(base, flex(lm, C, A, B, weights=[1, 2, 4], **options)), "weights belong to wordings, not to places"


@pytest.mark.parametrize("options", [dict(mask="causal"), dict(positions="sequential"), dict(mask="anchor")], ids=str)
def test_property_5_fails_where_order_matters(lm: LanguageModel, options: dict) -> None:
    assert not same(flex(lm, A, B, C, **options), flex(lm, C, A, B, **options))


@pytest.mark.parametrize("n", [2, 3, 7])
def test_property_6_copies_with_weights_are_one(lm: LanguageModel, n: int) -> None:
    alone = flex(lm, A)
    assert same(flex(lm, *[A] * n), alone)
    assert same(flex(lm, *[A] * n, positions="right_aligned"), alone)
    assert same(flex(lm, *[A] * n, weights=[3] * n), alone)
    assert not same(flex(lm, *[A] * n, weights="raw"), alone), "without weights the copies must drown the rest"


def test_property_7_copies_share_a_weight(lm: LanguageModel) -> None:
    assert same(flex(lm, A, A, B, weights=[0.25, 0.25, 0.5]), flex(lm, A, B, weights=[0.5, 0.5]))
    assert not same(flex(lm, A, A, B), flex(lm, A, B))


def test_property_8_weight_0_of_a_shorter_paraphrase_is_removal(lm: LanguageModel) -> None:
    """The longest paraphrase stays, so the suffix keeps its position without help."""
    hidden, removed = flex(lm, A, B, C, weights=[1, 0, 1]), flex(lm, A, C)
    assert same(hidden, removed)
    assert not same(flex(lm, A, B, C), removed)
    assert [row[2] for row in hidden.segment_mass] == [0.0] * len(hidden.token_ids)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_weights_are_shares(lm: LanguageModel, scale: float) -> None:
    assert same(flex(lm, A, B, C, weights=[1, 2, 5]), flex(lm, A, B, C, weights=[scale, 2 * scale, 5 * scale]))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("prefix", ["", "Answer briefly.\nQ: Who wrote it?\nA: Name"])
def test_property_9_views_equal_plain_generation(
    prepared: Callable[..., LanguageModel], plain: Any, chat: bool, prefix: str
) -> None:
    lm = prepared("llama", "sdpa", chat=chat)
    result = ask(lm, A, [B, C], methods=("all",), prefix=prefix, max_new_tokens=8)
    assert_property_9(plain, result)
    assert_property_10(plain, result)


def test_property_9_on_flex_eager(prepared: Callable[..., LanguageModel], plain: Any) -> None:
    result = ask(prepared("llama", "flex-eager"), A, [B, C], methods=("all",), max_new_tokens=4)
    assert_property_9(plain, result)
    assert_property_10(plain, result)


def test_one_wording_is_allowed_and_is_the_question_alone(lm: LanguageModel) -> None:
    result = ask(lm, A, methods=("all",), max_new_tokens=5)
    assert len({result[name].token_ids for name in EVERY}) == 1


@pytest.mark.parametrize("positions", oracle.SCHEMES)
def test_views_are_those_of_the_design(lm: LanguageModel, positions: str) -> None:
    """Whatever is chosen for flex, the other methods have their own encoding."""
    result = ask(
        lm, A, [B, C], methods=("all",), mask="anchor", positions=positions, weights=[1, 2, 1], max_new_tokens=1
    )
    expected = oracle.expected_views(result.to_dict()["prompt"]["segments"], positions)
    told = {(r.method, v.name): (list(v.weights), v.suffix_position) for r in result.results for v in r.views}
    assert told == expected
    masks = {r.method: (r.mask["strategy"], r.mask["positions"]) for r in result.results}
    assert masks == {name: encoding or ("anchor", positions) for name, encoding in oracle.ENCODINGS.items()}


def test_answers_of_other_methods_do_not_depend_on_the_choices_for_flex(lm: LanguageModel) -> None:
    options = dict(methods=("origin", "per_prompt", "causal"), max_new_tokens=4)
    base = ask(lm, A, [B, C], **options)
    other = ask(lm, A, [B, C], mask="bidirectional", positions="sequential", weights=[5, 1, 0], **options)
    assert [r.views for r in base.results] == [r.views for r in other.results]


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_property_13_masses_sum_to_1_and_are_the_oracles(lm: LanguageModel, plain: Any, strategy: str) -> None:
    """Also property 14: the masses are those of a plain softmax over scores and log weights, T = S = 1."""
    result = ask(lm, A, [B, C], methods=("all",), mask=strategy, weights=[1, 0, 4], max_new_tokens=4).to_dict()
    for name, (view, reference) in oracle.decode_views(plain, result, masses=True).items():
        assert len(view["segment_mass"]) == len(view["token_ids"]), name
        for row, expected in zip(view["segment_mass"], reference.masses, strict=True):
            assert len(row) == 5, "prefix, P1, P2, P3, suffix + own answer"
            assert sum(row) == pytest.approx(1, abs=1e-5)
            assert row == pytest.approx(expected, abs=1e-5), name


def test_masses_can_be_left_out_and_change_no_answer(lm: LanguageModel) -> None:
    with_mass, without = (ask(lm, A, [B, C], mass=mass, max_new_tokens=4)["flex"].views[0] for mass in (True, False))
    assert without.segment_mass == () and same(with_mass, without)


def test_logprobs_are_the_models_own_also_when_sampling(lm: LanguageModel) -> None:
    """Neither temperature nor top-p is in them: a nucleus of one token gives the greedy answer's."""
    sampled = flex(lm, A, B, temperature=3.0, top_p=1e-9, seed=3)
    assert same(sampled, flex(lm, A, B)) and min(sampled.logprobs) < -1e-3


def test_the_result_is_the_json_of_the_contract(lm: LanguageModel) -> None:
    result = ask(lm, A, [B, C], methods=("all",), weights=[2, 1, 1], max_new_tokens=3)
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(told) == ["model", "device", "dtype", "backend", "mask", "prompt", "results", "seconds"]
    assert [told[k] for k in ("model", "device", "dtype", "backend")] == ["llama", "cpu", "float32", "sdpa"]
    assert set(told["mask"]) == {"strategy", "positions", "density"}
    assert set(told["prompt"]) == {"token_ids", "tokens", "segment_ids", "position_ids", "segments"}
    assert all(set(s) >= {"name", "role", "start", "end", "text", "weight"} for s in told["prompt"]["segments"])
    assert [s["weight"] for s in told["prompt"]["segments"]] == [None, 0.5, 0.25, 0.25, None]
    assert [r["method"] for r in told["results"]] == list(METHODS)
    for method in told["results"]:
        assert set(method) >= {"method", "answer", "generation", "token_ids", "tokens", "logprobs", "views"}
        assert len(method["token_ids"]) == len(method["tokens"]) == len(method["logprobs"])
        for view in method["views"]:
            assert set(view) >= {"name", "weights", "suffix_position", "answer", "token_ids", "segment_mass"}
    assert set(told["seconds"]) == {"load", "encode", "first_token", "decode", "total"}


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_the_density_told_is_the_share_of_visible_cells(lm: LanguageModel, strategy: str) -> None:
    result = ask(lm, A, [B, C], mask=strategy, weights=[1, 0, 1], max_new_tokens=1).to_dict()
    cells = oracle.mask(strategy, oracle.prompt_tokens(result["prompt"]["segments"]))
    assert result["mask"]["density"] == pytest.approx(sum(map(sum, cells)) / len(cells) ** 2)


def test_results_are_found_by_method_in_the_order_asked_for(lm: LanguageModel) -> None:
    result = ask(lm, A, [B], methods=("causal", "flex", "causal"), max_new_tokens=1)
    assert [r.method for r in result.results] == ["causal", "flex"]
    assert result["causal"].method == "causal"


def test_all_stands_for_every_method() -> None:
    assert (
        [m.name for m in resolve_methods(["all"])]
        == [m.name for m in resolve_methods(["all", "flex"])]
        == list(METHODS)
    )
    assert set(METHODS) >= set(EVERY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("flexx",)}, "unknown method 'flexx': choose from all, flex, origin"),
        ({"methods": ()}, "choose at least one method"),
        ({"mask": "diagonal"}, "unknown mask strategy 'diagonal': choose from segment"),
        ({"positions": "diagonal"}, "unknown position scheme 'diagonal': choose from aligned"),
        ({"weights": [1.0]}, "1 weights for 2 wordings"),
        ({"weights": [0, 0]}, "at least one weight must be above 0"),
        ({"template": "html"}, "template must be auto, plain or chat, not 'html'"),
    ],
)
def test_bad_choices_are_named(lm: LanguageModel, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ask(lm, A, [B], **options)
    assert "\n" not in str(caught.value)


def test_an_empty_question_is_named(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"the question is empty"):
        ask(lm, "  ")


def test_a_method_that_did_not_run_is_named(lm: LanguageModel) -> None:
    """A StopIteration would end the loop of a reader without a word."""
    result = ask(lm, A, methods=("flex", "origin"), max_new_tokens=1)
    with pytest.raises(KeyError, match="no 'causal' here: this result holds flex, origin; ask for it by methods="):
        result["causal"]
