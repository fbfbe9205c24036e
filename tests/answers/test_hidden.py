"""`hidden_avg`: hidden states averaged over rows, against plain prompts that the oracle recomputes whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import models
import oracle
import pytest
import torch
from replays import replaying
from test_combinations import alone
from test_zoo import LONG, LONGROPE
from transformers import AutoModelForCausalLM

from flexdemo.answers.ask import ask, stream
from flexdemo.answers.methods import METHODS
from flexdemo.answers.result import MethodResult, Result
from flexdemo.data.evaluate import Settings, answer, prepare_questions
from flexdemo.data.records import Record
from flexdemo.engine.attention import UnsupportedModelError
from flexdemo.engine.layers import decoder_layers
from flexdemo.engine.loading import BUNDLED
from flexdemo.engine.mixing import Mixing
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.errors import InputError
from flexdemo.tinyqa.data import load_world
from flexdemo.tinyqa.questions import styled_questions

A, B, C = "What is the capital of Peru?", "Name it.", "Which city is Peru's capital?"
QUESTIONS = ((A, [B, C]), ("Who wrote Faust?", ["Name the writer of Faust, please!"]), (C, [A, B, A.upper(), "Peru?"]))
NAME = "hidden_avg"


def assert_oracles(plain: Any, result: Result, layer: int) -> None:
    told = result[NAME]
    expected = oracle.decode_mixed(plain, alone(result), layer, told.token_ids)
    assert list(told.token_ids) == expected.token_ids
    assert told.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert all(view.token_ids == told.token_ids for view in told.views)


def numbers(answered: MethodResult) -> list[Any]:
    """All that was computed for a method, to the last bit."""
    return [(view.token_ids, view.logprobs, view.segment_mass) for view in answered.views]


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "olmo2", "gpt2", "phi3"])
def test_it_is_the_oracles_over_the_zoo(
    prepared: Callable[..., LanguageModel], plain_model: Callable[..., Any], kind: str, layer: int
) -> None:
    for question, others in QUESTIONS:
        asked = {"methods": (NAME, "avg"), "hidden_layer": layer, "max_new_tokens": 6}
        result = ask(prepared(kind), question, others, **asked)
        assert_oracles(plain_model(kind), result, layer)
        assert result[NAME].logprobs != pytest.approx(result["avg"].logprobs, abs=1e-3), "or this would be no test"


@pytest.mark.parametrize("kind", [*models.ZOO, *models.MORE])
def test_it_is_the_oracles_wherever_answers_are_exact(
    prepared: Callable[..., LanguageModel], plain_model: Callable[..., Any], kind: str
) -> None:
    result = ask(prepared(kind), A, [B, C], methods=(NAME,), hidden_layer=1, max_new_tokens=3)
    assert_oracles(plain_model(kind), result, 1)


@pytest.mark.parametrize("backend", ["flex-eager"])
def test_backends_agree(prepared: Callable[..., LanguageModel], plain: Any, backend: str) -> None:
    asked = {"methods": ("all",), "hidden_layer": 2, "max_new_tokens": 5}
    assert_oracles(plain, ask(prepared("llama", backend), A, [B, C], **asked), 2)


def test_50_questions_of_the_bundled_model(bundled: LanguageModel) -> None:
    """Of its six layers the default is the fourth."""
    plain = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype="float32").eval()
    differ = 0
    for record in styled_questions(load_world(), 50, 3, 7, "extreme"):
        asked = {"methods": (NAME, "avg"), "mass": False}
        result = ask(bundled, record["question"], record["paraphrases"], **asked)
        assert_oracles(plain, result, 4)
        differ += result[NAME].token_ids != result["avg"].token_ids
    assert differ, "on some question it must say something else than the mean of logits"


def test_the_default_is_two_thirds_of_the_depth(lm: LanguageModel, plain: Any) -> None:
    assert_oracles(plain, ask(lm, A, [B, C], methods=(NAME,), max_new_tokens=5), 2)


@pytest.mark.parametrize("layer", [4, 99])
def test_property_14_above_the_last_layer_it_is_avg(lm: LanguageModel, layer: int) -> None:
    result = ask(lm, A, [B, C], methods=(NAME, "avg"), hidden_layer=layer, max_new_tokens=6)
    assert result[NAME].token_ids == result["avg"].token_ids
    assert result[NAME].logprobs == pytest.approx(result["avg"].logprobs, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_property_14_copies_are_that_wording_alone(lm: LanguageModel, n: int) -> None:
    result = ask(lm, A, [A] * (n - 1), methods=(NAME, "origin"), hidden_layer=1, max_new_tokens=6)
    assert result[NAME].token_ids == result["origin"].token_ids
    assert result[NAME].logprobs == pytest.approx(result["origin"].logprobs, abs=1e-5)


def test_property_10_other_methods_do_not_change_by_a_bit(lm: LanguageModel) -> None:
    """In a batch of the same shape: whether its rows are mixed or not."""
    mixed, plain = (ask(lm, A, [B, C], methods=("all",), hidden_layer=layer, max_new_tokens=6) for layer in (1, 99))
    for one, other in zip(mixed.results, plain.results, strict=True):
        assert (numbers(one) == numbers(other)) == (one.method != NAME), one.method


def test_property_10_other_methods_answer_the_same_without_it(lm: LanguageModel) -> None:
    others = tuple(name for name in METHODS if name != NAME)
    together = ask(lm, A, [B, C], methods=("all",), hidden_layer=1, max_new_tokens=6)
    for result in ask(lm, A, [B, C], methods=others, max_new_tokens=6).results:
        assert result.token_ids == together[result.method].token_ids
        assert result.logprobs == pytest.approx(together[result.method].logprobs, abs=1e-5)


def test_a_row_that_is_not_mixed_keeps_every_bit() -> None:
    hidden = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))
    hidden[0, -1, :3] = torch.tensor([-0.0, torch.inf, 1e-42])
    mixing = Mixing.of([0, 1, 1, 2, 2], [None, 2, 2, 3, 3])
    first, second, third = (mixing.mixed(hidden, layer) for layer in (1, 2, 3))
    kept = [0, 3, 4]
    assert first.view(torch.int32).equal(hidden.view(torch.int32))
    assert second[kept].view(torch.int32).equal(hidden[kept].view(torch.int32))
    assert third[:, :2].equal(hidden[:, :2]) and third[0].view(torch.int32).equal(hidden[0].view(torch.int32))
    assert second[1, -1].equal(second[2, -1]) and third[3, -1].equal(third[4, -1])
    torch.testing.assert_close(third[3, -1], hidden[3:, -1].mean(0))


def hooks(model: Any) -> list[set[int]]:
    """Of each layer; transformers leaves some of its own, once a model was asked for its hidden states."""
    return [set(layer._forward_hooks) for layer in decoder_layers(model)]


def test_the_model_keeps_nothing_and_others_get_nothing(
    lm: LanguageModel, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks are there in the passes of a request for it only, also while it is under way."""
    layers, before = decoder_layers(lm.model), hooks(lm.model)
    running = stream(lm, A, [B, C], methods=(NAME,), hidden_layer=1, max_new_tokens=4)
    for _ in range(3):
        next(running)
        assert hooks(lm.model) == before
    running.close()
    with monkeypatch.context() as patch:
        patch.setattr(layers[0], "register_forward_hook", None)
        ask(lm, A, [B, C], methods=("flex", "avg"), max_new_tokens=2)


def test_requests_at_once_do_not_see_each_other(prepared: Callable[..., LanguageModel]) -> None:
    """Threads with other layers, and one without, over the same model, again and again."""
    lm = prepared("llama", "sdpa")
    before = hooks(lm.model)
    asked = [
        {"methods": methods, "hidden_layer": layer, "max_new_tokens": 12}
        for methods, layer in (((NAME, "avg"), 1), ((NAME, "flex"), 3), (("flex", "avg"), 0), ((NAME,), 2))
    ]
    expected = [[numbers(each) for each in ask(lm, A, [B, C], **one).results] for one in asked]
    wrong: list[Any] = []
    ready = threading.Barrier(len(asked))

    def work(one: dict[str, Any], right: list[Any]) -> None:
        ready.wait()
        for _ in range(4):
            told = [numbers(each) for each in ask(lm, A, [B, C], **one).results]
            wrong.extend([one] if told != right else [])

    threads = [threading.Thread(target=work, args=pair) for pair in zip(asked, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and hooks(lm.model) == before


def test_several_prompts_in_a_batch_are_each_alone(lm: LanguageModel, plain: Any) -> None:
    """Of different numbers of wordings, beside others; answers end at different tokens, and their rows leave."""
    settings = Settings(methods=tuple(METHODS), max_new_tokens=8, hidden_layer=1)
    records = [Record(str(i), question, ("x",), tuple(others)) for i, (question, others) in enumerate(QUESTIONS)]
    asked, *_ = prepare_questions(lm, records, settings)
    for record, rows in zip(records, answer(lm, asked, settings), strict=True):
        options = {"hidden_layer": 1, "max_new_tokens": 8}
        result = ask(lm, record.question, record.paraphrases, methods=(NAME,), **options)
        assert_oracles(plain, result, 1)
        (row,) = (each for each in rows if each.method == NAME)
        assert (row.generation, row.tokens) == (result[NAME].generation, len(result[NAME].token_ids))


def test_layers_that_accelerate_places_are_mixed_too(plain: Any, tokenizer: Any) -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    model = models.random_model("llama")
    for each in (model, *model.model.layers):
        hooks.add_hook_to_module(each, hooks.AlignDevicesHook(execution_device="cpu", io_same_device=True))
    ours = prepare(model, tokenizer, name="llama", backend="sdpa")
    assert_oracles(plain, ask(ours, A, [B, C], methods=(NAME,), hidden_layer=1, max_new_tokens=5), 1)


def test_a_graph_serves_every_layer(lm: LanguageModel, plain: Any) -> None:
    """Layers are data to a captured pass: what was captured for one must not run for another."""
    ours, _ = replaying(lm)
    for layer in (1, 3, 2, 1, 99):
        result = ask(ours, A, [B, C], methods=(NAME, "flex"), hidden_layer=layer, max_new_tokens=5)
        assert_oracles(plain, result, layer)


@pytest.mark.parametrize("others", [[B, C], [B, LONG]], ids=["short", "both"])
def test_longrope_is_decided_for_all_rows_together(tokenizer: Any, others: list[str]) -> None:
    """As in a batch of plain prompts, whose longest chooses the factors."""
    ours, plain = (models.random_model("phi3", rope_parameters=LONGROPE) for _ in range(2))
    result = ask(prepare(ours, tokenizer, name="phi3"), A, others, methods=("all",), hidden_layer=1, max_new_tokens=4)
    assert_oracles(plain, result, 1)


@pytest.fixture
def without_a_list() -> Iterator[LanguageModel]:
    lm = prepare(models.random_model("llama"), models.tokenizer(), name="llama")
    lm.model.get_decoder().layers = torch.nn.ModuleList([*lm.model.get_decoder().layers, torch.nn.Identity()])
    yield lm


def test_a_model_whose_layers_are_not_found_is_refused_by_name(without_a_list: LanguageModel) -> None:
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM has no one list of its 3 decoder layers.*leave"):
        ask(without_a_list, A, [B], methods=(NAME,))


def test_a_model_of_several_hidden_states_a_token_mixes_each(tokenizer: Any) -> None:
    changes = {**models.GEMMA3N, "num_kv_shared_layers": 0}
    lm, plain = (models.random_model("gemma3n_text", **changes) for _ in range(2))
    result = ask(prepare(lm, tokenizer, name="gemma3n"), A, [B, C], methods=(NAME,), hidden_layer=1, max_new_tokens=4)
    assert_oracles(plain, result, 1)


def test_layers_that_hand_on_something_else_are_refused_by_name(lm: LanguageModel) -> None:
    def flattened(module: Any, args: Any, given: Any, output: torch.Tensor) -> torch.Tensor | None:
        return output.flatten(0, 1) if given["segment_plan"].mixing else None

    flat = decoder_layers(lm.model)[1].register_forward_hook(flattened, with_kwargs=True)
    try:
        with pytest.raises(UnsupportedModelError, match=r"LlamaDecoderLayer does not hand on hidden states of rows"):
            ask(lm, A, [B], methods=(NAME,), max_new_tokens=2)
    finally:
        flat.remove()


def test_a_layer_below_0_is_named(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match="hidden_layer must be from 0 to 1000, not -1"):
        ask(lm, A, [B], methods=(NAME,), hidden_layer=-1)
