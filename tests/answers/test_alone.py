"""`origin` and `per_prompt` say what `model.generate` says to each wording's own prompt, whatever the tokenizer."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import families
import models
import pytest
import torch

from flexdemo.answers.ask import ask
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.request import Request

WORDINGS = ("What is the capital of Peru?", "Name  it", "Which city\n\nis <b>Peru's</b> capital?!")


@functools.cache
def pair(name: str) -> tuple[Any, Any, Any]:
    """Tokenizer, the plain model, and a copy of it prepared by flexdemo."""
    tokenizer = families.family(name)
    changes = {"vocab_size": len(tokenizer), "num_hidden_layers": 2}
    ours = prepare(models.random_model("llama", **changes), tokenizer, name=name, backend="sdpa")
    return tokenizer, models.random_model("llama", **changes), ours


def ids_alone(tokenizer: Any, wording: str, template: str) -> list[int]:
    if template == "plain":
        return tokenizer(f"Q: {wording}\nA:")["input_ids"]
    message = {"role": "user", "content": wording}
    return tokenizer.apply_chat_template([message], tokenize=True, add_generation_prompt=True, return_dict=False)


def generated(model: Any, ids: list[int], count: int) -> tuple[int, ...]:
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return tuple(out[0, len(ids) :].tolist())


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("name", families.FAMILIES)
def test_property_9_whatever_the_tokenizer(name: str, template: str) -> None:
    if name == "smollm2":
        pytest.skip("tests/answers/test_real_model.py asks the real one")
    tokenizer, plain, ours = pair(name)
    result = ask(ours, WORDINGS[0], WORDINGS[1:], methods=("origin", "per_prompt"), template=template, max_new_tokens=6)
    views = result["per_prompt"].views
    assert result["origin"].token_ids == views[0].token_ids
    for wording, view in zip(WORDINGS, views, strict=True):
        said = generated(plain, ids_alone(tokenizer, wording, template), 6)
        assert view.token_ids == said[: len(view.token_ids)]
        if template == "chat":  # whose answer has no other end
            assert len(view.token_ids) == len(said)


@pytest.mark.parametrize("name", ["gpt2", "vicuna", "metaspace_always"])
def test_property_9_standard_attention_on_the_packed_ids(name: str) -> None:
    """Separators among them: nothing else stands between the wordings of a chat."""
    _, plain, ours = pair(name)
    result = ask(ours, WORDINGS[0], WORDINGS[1:], methods=("causal",), template="chat", max_new_tokens=6)
    assert any(segment.role == "separator" for segment in result.prompt.segments)
    assert result["causal"].token_ids == generated(plain, list(result.prompt.token_ids), 6)


def test_reasoning_that_the_prompt_begins_is_no_answer(thinker: LanguageModel) -> None:
    """A chat's answer has no end at a line end, so that there is room for both."""
    ours = thinker
    result = ask(ours, WORDINGS[0], WORDINGS[1:], methods=("origin", "vote"), max_new_tokens=5)
    for told in result.results:
        assert told.generation and told.answer == "" and all(view.answer == "" for view in told.views)
    (note,) = result.to_dict()["notes"]
    assert note.startswith("the model was still reasoning after 5 tokens")
    roomy = ask(ours, WORDINGS[0], methods=("origin",))  # nobody asked for a length
    left = ours.context_length - len(roomy.prompt.token_ids)
    assert roomy.request.max_new_tokens == min(512, left) == len(roomy["origin"].token_ids)
    first, second = roomy.notes
    assert f"may have {min(512, left)} tokens" in first and second.startswith("the model was still reasoning after")
    asked = Request(question=WORDINGS[0], methods=("origin",), max_new_tokens=32).but(seed=1)
    assert len(ask(ours, asked)["origin"].token_ids) == 32, "who asked for the usual length gets it"


def test_reasoning_that_the_model_left_unended_is_no_want_of_tokens(thinker: LanguageModel) -> None:
    ends = replace(thinker, end_ids=frozenset(range(len(thinker.tokenizer))))  # whatever comes first is the end
    result = ask(ends, WORDINGS[0], methods=("origin",), max_new_tokens=5)
    (note,) = result.notes
    assert result["origin"].stopped_by == "end token" and result["origin"].answer == ""
    assert "without </think>" in note and "give it more" not in note
