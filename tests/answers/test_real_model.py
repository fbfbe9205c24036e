"""SmolLM2-135M-Instruct, a real chat model: what it answers alone is what transformers makes it answer."""

from __future__ import annotations

import copy
from typing import Any

import families
import oracle
import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from flexdemo.answers.ask import ask
from flexdemo.answers.recording import load_recorded
from flexdemo.data.evaluate import Settings, answer, prepare_questions
from flexdemo.data.records import Record
from flexdemo.engine.loading import BUNDLED
from flexdemo.engine.model import LanguageModel, prepare

NEW_TOKENS = 8
TOPICS = ("the largest planet", "the author of Hamlet")  # the examples that were recorded ask of more
FORMS = (
    "What is {}?",
    "Name {}.",
    "Tell me {}",
    "Please,  what would {} be?",
    "Q: {}\nA:",
    "I forgot {}\n\nand <b>need</b> it: 東京?",
)
ASKED = [[form.format(topic) for form in FORMS] for topic in TOPICS]


@pytest.fixture(scope="session")
def real() -> tuple[Any, Any, LanguageModel]:
    """Tokenizer, the model as transformers runs it, and a copy of it prepared by flexdemo."""
    folder = families.smollm2_folder()
    with families.read_once():
        tokenizer = families.family("smollm2")
        plain = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=next(folder.glob("*.gguf")).name, quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        ).eval()  # fmt: skip
    ours = prepare(copy.deepcopy(plain), tokenizer, name="SmolLM2-135M-Instruct", backend="sdpa")
    return tokenizer, plain, ours


def generated(real: tuple[Any, Any, LanguageModel], *prompts: list[int]) -> list[tuple[int, ...]]:
    """What transformers answers to each prompt, in one left-padded batch; the end token ends an answer."""
    tokenizer, plain, _ = real
    longest = max(map(len, prompts))
    pads = [longest - len(ids) for ids in prompts]
    out = plain.generate(
        torch.tensor([[tokenizer.eos_token_id] * pad + ids for pad, ids in zip(pads, prompts, strict=True)]),
        attention_mask=(torch.arange(longest) >= torch.tensor(pads)[:, None]).long(),
        max_new_tokens=NEW_TOKENS, do_sample=False, repetition_penalty=1.0,
    )  # fmt: skip
    return [answer_of(row, tokenizer.eos_token_id) for row in out[:, longest:].tolist()]


def answer_of(tokens: list[int], end: int) -> tuple[int, ...]:
    """Without the padding of an answer that was over before others."""
    return tuple(tokens[: tokens.index(end) + 1] if end in tokens else tokens)


def asked_alone(tokenizer: Any, wording: str) -> list[int]:
    message = {"role": "user", "content": wording}
    return tokenizer.apply_chat_template([message], tokenize=True, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("wordings", ASKED, ids=TOPICS)
def test_property_9_hidden_states_and_copies_of_a_real_chat_model(
    real: tuple[Any, Any, LanguageModel], wordings: list[str]
) -> None:
    """Of its 30 layers the default is the 20th. Copies stand with a line end between them, as wordings do."""
    tokenizer, plain, ours = real
    asked = {"methods": ("origin", "per_prompt", "hidden_avg", "repeat"), "max_new_tokens": NEW_TOKENS}
    result = ask(ours, wordings[0], wordings[1:], **asked)
    prompts, told = [asked_alone(tokenizer, wording) for wording in wordings], result["hidden_avg"].token_ids
    said = generated(real, *prompts)
    assert [view.token_ids for view in result["per_prompt"].views] == said
    assert result["origin"].token_ids == said[0]
    assert oracle.decode_mixed(plain, prompts, 20, told).token_ids == list(told)
    ids = oracle.repeated(result.prompt.token_ids, result.to_dict()["prompt"]["segments"])[0]
    assert [result["repeat"].token_ids] == generated(real, ids)


def test_the_capital_of_france(real: tuple[Any, Any, LanguageModel]) -> None:
    """A line end in the user's turn made it answer "L'Étoile, la Marseillaise"."""
    answered = ask(real[2], "What is the capital of France?", methods=("origin",), max_new_tokens=NEW_TOKENS)["origin"]
    assert answered.answer == "The capital of France is Paris."


@pytest.mark.parametrize("index", range(3))
def test_a_recording_is_what_it_answers_now(real: tuple[Any, Any, LanguageModel], index: int) -> None:
    """Else record it again: python -m flexdemo record --model smollm2 --examples assets/examples-smollm2.json
    --output assets/recorded-smollm2.json"""
    then = load_recorded(BUNDLED.parent / "recorded-smollm2.json")[index].result
    prompt, ids = then.prompt, then.prompt.token_ids
    wordings = [then.request.question, *then.request.paraphrases]
    wholes = [asked_alone(real[0], wording) for wording in wordings]
    for segment, whole in zip(prompt.paraphrases, wholes, strict=True):
        assert [*ids[: prompt.segments[0].end], *ids[segment.start : segment.end], *ids[prompt.suffix_start :]] == whole
    assert [view.token_ids[:NEW_TOKENS] for view in then["per_prompt"].views] == generated(real, *wholes)
    assert [real[0].decode([each]) for each in ids] == list(prompt.tokens)
    now = ask(real[2], then.request.but(methods=("flex", "per_prompt", "causal")))
    assert now.prompt == prompt
    for answered in now.results:
        for view, told in zip(answered.views, then[answered.method].views, strict=True):
            assert (view.token_ids, view.answer) == (told.token_ids, told.answer)
            assert view.logprobs == pytest.approx(told.logprobs, abs=1e-3)


def test_shots_are_turns(real: tuple[Any, Any, LanguageModel]) -> None:
    shots = [("What is the capital of Spain?", "Madrid"), ("What is the capital of Egypt?", "Cairo")]
    settings = Settings(methods=("origin",), max_new_tokens=NEW_TOKENS, shots=tuple(shots))
    asked, *_ = prepare_questions(real[2], [Record("1", "What is the capital of Japan?", ("Tokyo",))], settings)
    ((row,),) = answer(real[2], asked, settings)
    assert row.prediction == "Tokyo"
