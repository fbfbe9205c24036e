"""The proof holds for what the engine computes, and fails for anything else: tampered results and a broken engine."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import models
import numpy as np
import oracle
import pytest
import torch

import flexdemo.answers.proof
from flexdemo.answers.ask import ask, stream
from flexdemo.answers.proof import TOLERANCES, dense_bias, prove, reference_model
from flexdemo.answers.result import Result
from flexdemo.engine import decode, slots
from flexdemo.engine.fast.compiled import Sibling, join_siblings
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.errors import InputError
from flexdemo.masks import Mask
from flexdemo.plan import Scheme
from flexdemo.prompt import build_prompt
from flexdemo.request import Request

A, B, C = "What is the capital of Peru?", "Name it.", "Which city is Peru's capital?"
BOTH = ("flex", "causal")


@pytest.fixture(scope="module")
def result(lm: LanguageModel) -> Result:
    return ask(lm, A, [B, C], methods=("all",), weights=[1, 2, 4], max_new_tokens=5)


def changed(result: Result, method: str = "flex", **changes: Any) -> Result:
    """The result with other values in one method, and in its view where that has them too."""
    answers = []
    for answer in result.results:
        if answer.method == method:
            own = {name: value for name, value in changes.items() if hasattr(answer.views[0], name)}
            views = (replace(answer.views[0], **own), *answer.views[1:])
            answer = replace(answer, views=views, **{k: v for k, v in changes.items() if hasattr(answer, k)})
        answers.append(answer)
    return replace(result, results=tuple(answers))


@pytest.mark.parametrize(("scheme", "weights"), zip(oracle.SCHEMES, [None, "raw", [1, 0, 3]], strict=True), ids=str)
@pytest.mark.parametrize("strategy", [*oracle.STRATEGIES, *oracle.OWN_MASKS])
def test_what_the_engine_computed_is_proved(lm: LanguageModel, strategy: str, scheme: str, weights: Any) -> None:
    told = ask(lm, A, [B, C], methods=BOTH, mask=strategy, positions=scheme, weights=weights, max_new_tokens=6)
    proof = prove(lm, told)
    assert proof.ok and proof.failure == "" and proof.tokens_agree is True and proof.methods == BOTH
    assert proof.difference < 2e-5, "far below the tolerance"
    assert proof.tokens == sum(len(told[name].token_ids) for name in BOTH)
    assert (proof.backend, proof.dtype, proof.tolerance) == ("sdpa", "float32", TOLERANCES["float32"])
    assert proof.describe().startswith("proved: ")


def test_the_answers_of_sides_are_proved_too(lm: LanguageModel) -> None:
    names = ("anchor/right_aligned/weights", "segment+P2>P1/aligned/raw", "isolated/sequential/weights")
    request = Request(question=A, paraphrases=[B, C], weights=[1, 0, 4], methods=("flex",), max_new_tokens=5)
    *_, told = stream(lm, request, schemes=[Scheme.of(name) for name in names])
    proof = prove(lm, told)
    assert proof.ok and proof.methods == ("flex", *names) and proof.difference < 2e-5
    for i, side in enumerate(told.sides):
        for spoilt in (
            replace(side, mask={**side.mask, "strategy": "causal"}),
            replace(side, method=side.method.replace("/weights", "/other").replace("/raw", "/weights")),
        ):
            sides = (*told.sides[:i], spoilt, *told.sides[i + 1 :])
            proof = prove(lm, replace(told, sides=sides))
            assert not proof.ok and proof.failure.startswith(spoilt.method), spoilt


KINDS = [*models.ZOO, "gpt2", "gpt_neox", "cohere2", "qwen3_moe", "deepseek_v3", "gemma3"]


@pytest.mark.parametrize(("kind", "backend"), [*((kind, "auto") for kind in KINDS), ("gemma2", "flex-eager")])
def test_other_architectures(prepared: Callable[..., LanguageModel], kind: str, backend: str) -> None:
    ours = prepared(kind, backend)
    told = ask(ours, A, [B, C], methods=BOTH, weights=[1, 2, 4], mask="anchor", max_new_tokens=4)
    proof = prove(ours, told)
    assert proof.ok and proof.difference < 1e-4, proof.describe()


def test_one_wording_a_chat_template_and_a_prefix(prepared: Callable[..., LanguageModel]) -> None:
    ours = prepared("llama", "sdpa", chat=True)
    assert prove(ours, ask(ours, A, max_new_tokens=4)).ok
    assert prove(ours, ask(ours, A, [B], prefix="Be brief.", methods=("causal",), max_new_tokens=4)).methods == (
        "causal",
    )


@pytest.mark.parametrize("strategy", [*oracle.STRATEGIES, *oracle.OWN_MASKS])
@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (1.0, 0.0, 1.0)], ids=str)
def test_the_dense_bias_is_the_oracles(tokenizer: Any, strategy: str, weights: tuple[float, ...]) -> None:
    prompt = build_prompt(tokenizer, A, [B, C], weights=weights)
    segments = [vars(segment) for segment in prompt.segments]
    expected = oracle.bias(strategy, oracle.prompt_tokens(segments, answers=3), weights)[0, 0]
    np.testing.assert_allclose(dense_bias(prompt, strategy, weights, answers=3), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("step", [0, 2, -1])
def test_a_changed_token_fails(lm: LanguageModel, result: Result, method: str, step: int) -> None:
    ids = list(result[method].token_ids)
    ids[step] = (ids[step] + 1) % 400
    text = lm.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    proof = prove(lm, changed(result, method, token_ids=tuple(ids), generation=text))
    assert not proof.ok and proof.tokens_agree is False and proof.difference > proof.tolerance
    assert f"{method}: a log-probability differs" in proof.failure and "not the likeliest" in proof.failure
    assert proof.describe().startswith(f"not proved: {method}: ")


@pytest.mark.parametrize("delta", [0.01, -0.01, math.nan, math.inf])
@pytest.mark.parametrize("method", BOTH)
def test_a_changed_log_probability_fails(lm: LanguageModel, result: Result, method: str, delta: float) -> None:
    first, *rest = result[method].logprobs
    proof = prove(lm, changed(result, method, logprobs=(first + delta, *rest)))
    assert not proof.ok and proof.tokens_agree is True and not proof.difference <= proof.tolerance


@pytest.mark.parametrize("told", oracle.STRATEGIES)
@pytest.mark.parametrize("ran", oracle.STRATEGIES)
def test_another_mask_name_fails(lm: LanguageModel, ran: str, told: str) -> None:
    """Said in both places, so that only the computation can tell."""
    honest = ask(lm, A, [B, C], mask=ran, max_new_tokens=4)
    facts = {**honest.mask, "strategy": told}
    proof = prove(lm, replace(changed(honest, mask=facts), mask=facts))
    assert proof.ok == (ran == told)
    if ran != told:
        assert "log-probability" in proof.failure


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: replace(r, mask={**r.mask, "strategy": "anchor"}),
        lambda r: replace(r, mask={**r.mask, "positions": "sequential"}),
        lambda r: replace(r, prompt=r.prompt.reweighted((0.5, 0.25, 0.25))),
    ],
)
def test_what_is_shown_and_did_not_run_fails(
    lm: LanguageModel, result: Result, spoil: Callable[[Result], Result]
) -> None:
    proof = prove(lm, spoil(result))
    assert not proof.ok and proof.difference > proof.tolerance and "flex: a log-probability differs" in proof.failure


def test_other_weights_and_other_words_said_everywhere_still_fail(lm: LanguageModel, result: Result) -> None:
    weights = (0.6, 0.2, 0.2)
    told = replace(changed(result, weights=weights), prompt=result.prompt.reweighted(weights))
    assert "log-probability" in prove(lm, told).failure
    ids = list(result.prompt.token_ids)
    ids[result.prompt.segments[2].start + 1] += 1
    told = replace(result, prompt=replace(result.prompt, token_ids=tuple(ids)))
    assert "flex: a log-probability" in prove(lm, told).failure


OVER, ARRANGE = Mask.over, slots.arrange


@pytest.mark.parametrize(
    ("module", "name", "bug"),
    [
        (Mask, "over", lambda text, segments, **more: OVER("causal", segments, **more)),
        (slots, "_suffix_fuses", lambda view: False),
        (
            decode,
            "arrange",
            lambda *given: replace(made := ARRANGE(*given), wordings=0 * made.wordings),
        ),  # no weights act
    ],
)
def test_a_broken_engine_is_caught(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, bug: Any
) -> None:
    monkeypatch.setattr(module, name, bug)
    told = ask(lm, A, [B, C], weights=[1, 2, 4], max_new_tokens=4)
    monkeypatch.undo()
    assert not prove(lm, told).ok


def test_sampled_answers_are_proved_by_their_log_probabilities(lm: LanguageModel) -> None:
    told = ask(lm, A, [B, C], methods=BOTH, temperature=2.0, seed=3, max_new_tokens=6)
    greedy = ask(lm, A, [B, C], max_new_tokens=6)
    assert told["flex"].token_ids != greedy["flex"].token_ids
    proof = prove(lm, told)
    assert proof.ok and proof.tokens_agree is None and "sampled" in proof.describe()
    first, *rest = told["flex"].logprobs
    assert not prove(lm, changed(told, logprobs=(first + 0.01, *rest))).ok


def test_half_precision_says_that_it_is_coarse() -> None:
    from flexdemo.engine.model import prepare

    ours = prepare(models.random_model(scale=1.0).to(torch.bfloat16), models.tokenizer(), name="llama", backend="sdpa")
    proof = prove(ours, ask(ours, A, [B, C], methods=BOTH, max_new_tokens=4))
    assert proof.ok and proof.tolerance == TOLERANCES["bfloat16"] > 0.1 and proof.dtype == "bfloat16"
    assert "only gross errors would show" in proof.describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ape_temperature": 0.5}, "APE.*cannot be proved: set both to 1"),
        ({}, r"prompt and answer have \d+ tokens: at most 20"),
        ({"methods": ("vote",)}, "nothing to prove: run one of the methods flex, causal"),
    ],
)
def test_what_cannot_be_proved_is_refused(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, options: dict, message: str
) -> None:
    monkeypatch.setattr("flexdemo.answers.proof.MOST_TOKENS", 20)
    told = ask(lm, A, [B], max_new_tokens=3, **options)
    with pytest.raises(InputError, match=message):
        prove(lm, told)


def test_results_of_others_and_unfinished_ones_are_refused(lm: LanguageModel, result: Result) -> None:
    for spoilt, message in (
        (replace(result, model="other"), "the answer is of other in float32, not of llama"),
        (replace(result, dtype="bfloat16"), "of llama in bfloat16, not of llama in float32"),
        (replace(result, done=False), "only a finished answer"),
    ):
        with pytest.raises(InputError, match=message):
            prove(lm, spoilt)


def test_the_model_is_shared_and_left_as_it_was(lm: LanguageModel, result: Result) -> None:
    """Also while requests run: the reference has modules and settings of its own."""
    before = lm.model.config._attn_implementation
    reference = reference_model(lm)
    assert reference.config._attn_implementation == "eager" and lm.model.config._attn_implementation == before
    assert not {id(m) for m in reference.modules()} & {id(m) for m in lm.model.modules()}
    mine, theirs = (
        {name: value.data_ptr() for name, value in model.named_parameters()} for model in (reference, lm.model)
    )
    assert mine == theirs

    told: list[Result] = []
    worker = threading.Thread(
        target=lambda: told.extend(
            ask(lm, A, [B, C], methods=("all",), weights=[1, 2, 4], max_new_tokens=5) for _ in range(6)
        )
    )
    worker.start()
    proofs = [prove(lm, result) for _ in range(6)]
    worker.join()
    assert all(proof.ok for proof in proofs) and len(told) == 6
    for each in told:
        assert [r.views for r in each.results] == [r.views for r in result.results]


def memory(model: torch.nn.Module) -> set[int]:
    """Places of every tensor's memory that the modules of a model hold, in whichever attribute."""
    held = [*model.parameters(), *model.buffers()]
    held += [each for module in model.modules() for each in vars(module).values() if isinstance(each, torch.Tensor)]
    return {each.untyped_storage().data_ptr() for each in held}


def test_joined_weights_are_not_copied_and_take_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--compile` joins them: the proof runs plain layers over the same memory, and leaves nothing behind."""
    lm = prepare(models.random_model("qwen2"), models.tokenizer(), name="qwen2", backend="sdpa")
    told = ask(lm, A, [B, C], methods=BOTH, max_new_tokens=4)
    assert join_siblings(lm.model)
    before, modules = memory(lm.model), set(map(id, lm.model.modules()))
    made: list[weakref.ref] = []

    def watched(lm: LanguageModel) -> Any:
        reference = reference_model(lm)
        assert memory(reference) == before
        linear = [module for module in reference.modules() if isinstance(module, torch.nn.Linear)]
        assert linear and {type(module) for module in linear} == {torch.nn.Linear}
        assert not any("group" in vars(module) for module in linear)
        made.append(weakref.ref(reference))
        return reference

    monkeypatch.setattr(flexdemo.answers.proof, "reference_model", watched)
    assert prove(lm, told).ok
    gc.collect()
    assert [each() for each in made] == [None], "nothing is kept"
    assert any(isinstance(module, Sibling) for module in lm.model.modules()), "the model stays as it was"
    assert (memory(lm.model), set(map(id, lm.model.modules()))) == (before, modules)
