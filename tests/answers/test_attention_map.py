"""Attention of one layer and head over the prompt, against the attentions of the plain eager model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from flexdemo.answers.ask import ask
from flexdemo.answers.heads import attention_map
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError

A, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]


@pytest.mark.parametrize("backend", ["sdpa", "flex-eager"])
@pytest.mark.parametrize("strategy", ["segment", "late_fusion", "bidirectional"])
def test_every_layer_and_head_is_the_oracles(
    prepared: Callable[..., LanguageModel], plain: Any, backend: str, strategy: str
) -> None:
    lm = prepared("llama", backend)
    result = ask(lm, A, OTHERS, mask=strategy, weights=[1, 0, 2], max_new_tokens=1)
    prompt = result.to_dict()["prompt"]
    tokens = oracle.prompt_tokens(prompt["segments"])
    with torch.no_grad():
        out = plain(
            input_ids=torch.tensor([prompt["token_ids"]]),
            position_ids=torch.tensor([prompt["position_ids"]]),
            attention_mask=oracle.bias(strategy, tokens, result.prompt.weights),
            output_attentions=True,
            use_cache=False,
        )
    for layer, head in np.ndindex(3, 4):
        rows = attention_map(lm, result, layer, head)
        np.testing.assert_allclose(rows, out.attentions[layer][0, head].numpy(), atol=1e-5)


def test_temperature_and_scale_show(lm: LanguageModel) -> None:
    plain, sharp = (ask(lm, A, OTHERS, max_new_tokens=1, ape_temperature=t) for t in (1.0, 0.5))
    ours, theirs = attention_map(lm, plain, 0, 0), attention_map(lm, sharp, 0, 0)
    start = plain.prompt.suffix_start
    assert np.array_equal(ours[:start], theirs[:start])
    assert np.abs(ours[start:] - theirs[start:]).max() > 1e-3
    np.testing.assert_allclose(theirs.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "head", "message"),
    [(3, 0, "no layer 3: choose from 0 to 2"), (-1, 0, "no layer -1"), (0, 4, "no head 4: choose from 0 to 3")],
)
def test_what_is_not_there_is_refused(lm: LanguageModel, layer: int, head: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attention_map(lm, ask(lm, A, max_new_tokens=1), layer, head)


def test_long_prompts_are_refused(lm: LanguageModel) -> None:
    result = ask(lm, "What is it? " * 100, max_new_tokens=1)
    assert len(result.prompt.token_ids) > 512
    with pytest.raises(InputError, match="at most 512 tokens"):
        attention_map(lm, result, 0, 0)
