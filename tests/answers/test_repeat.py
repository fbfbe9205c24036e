"""`repeat`, the control: the question as often as there are wordings under standard attention, in its own prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import families
import oracle
import pytest
import torch

from flexdemo.answers.ask import ask
from flexdemo.answers.methods import METHODS
from flexdemo.data.evaluate import Settings, answer, prepare_questions
from flexdemo.data.records import Record
from flexdemo.engine import reading as engine
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.reading import Reading
from flexdemo.errors import InputError
from flexdemo.page.state import PageState
from flexdemo.prompt import build_prompt
from flexdemo.request import Limits

A, B, C = "What is the capital of Peru?", "Name it.", "Which city is Peru's capital?"
LONG = "Which city, of all the cities there are in the country and by the river, is the capital of Peru, please?"


def generated(plain: Any, ids: list[int] | tuple[int, ...], count: int) -> tuple[int, ...]:
    given = torch.tensor([ids])
    options = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    out = plain.generate(input_ids=given, attention_mask=torch.ones_like(given), **options)
    return tuple(out[0, len(ids) :].tolist())


@pytest.mark.parametrize("wordings", [(A, B), (B, A, C), (LONG, B, B, B), (A,)], ids=["2", "3", "longer", "1"])
@pytest.mark.parametrize("chat", [False, True])
def test_it_is_generate_on_copies_of_the_question(
    prepared: Callable[..., LanguageModel], plain: Any, chat: bool, wordings: tuple[str, ...]
) -> None:
    """Alone and beside all others, whose prompt may be shorter or longer than it."""
    lm = prepared("llama", "sdpa", chat=chat)
    copies = build_prompt(lm.tokenizer, wordings[0], [wordings[0]] * (len(wordings) - 1))
    for methods in (("repeat",), ("all",)):
        told = ask(lm, wordings[0], wordings[1:], methods=methods, max_new_tokens=6)["repeat"]
        assert told.token_ids == generated(plain, copies.token_ids, len(told.token_ids))
        assert told.views[0].name == "repeat"


def test_it_is_causal_where_all_wordings_are_the_question(lm: LanguageModel) -> None:
    result = ask(lm, A, [A, A], methods=("causal", "repeat"), max_new_tokens=6)
    assert result["repeat"].token_ids == result["causal"].token_ids
    assert result["repeat"].logprobs == result["causal"].logprobs, "they are one row of the batch"


@pytest.mark.parametrize("name", families.FAMILIES)
def test_copies_are_packed_as_a_question_asked_with_itself(name: str) -> None:
    """Between the prefix and the suffix of the wordings, which may share fewer tokens than the copies alone."""
    tokenizer = families.family(name)
    for wordings in ((A, B, C), (C, A), (A, A, A)):
        copies = build_prompt(tokenizer, wordings[0], wordings[1:]).repeated()
        alone = build_prompt(tokenizer, wordings[0], [wordings[0]] * (len(wordings) - 1))
        ends = [(len(each.segments[0]), len(each.segments[-1])) for each in (copies, alone)]
        assert (copies.token_ids == alone.token_ids) or ends[0] != ends[1]
        assert copies.repeated() == copies and [s.name for s in copies.segments] == [s.name for s in alone.segments]


def test_what_it_costs_is_that_of_its_own_prompt(lm: LanguageModel) -> None:
    result = ask(lm, LONG, [B, C], methods=("repeat", "causal"), max_new_tokens=2).to_dict()
    segments = oracle.repeated(result["prompt"]["token_ids"], result["prompt"]["segments"])[1]
    cells = oracle.mask("causal", oracle.prompt_tokens(segments))
    assert result["results"][0]["mask"]["density"] == pytest.approx(sum(map(sum, cells)) / len(cells) ** 2)
    settings = Settings(methods=("repeat", "causal"), max_new_tokens=2)
    asked, *_ = prepare_questions(lm, [Record("1", LONG, ("x",), (B, C))], settings)
    ((copies, wordings),) = answer(lm, asked, settings)
    assert copies.prompt_tokens == segments[-1]["end"] and copies.rows == 1
    assert wordings.prompt_tokens == len(result["prompt"]["token_ids"])


def test_in_a_batch_every_question_has_its_own_copies(lm: LanguageModel) -> None:
    records = [Record("1", A, ("x",), (B, C)), Record("2", LONG, ("x",), (B,)), Record("3", B, ("x",))]
    settings = Settings(methods=tuple(name for name in METHODS if name != "leave_one_out"), max_new_tokens=6)
    asked, *_ = prepare_questions(lm, records, settings)
    for record, rows in zip(records, answer(lm, asked, settings), strict=True):
        alone = ask(lm, record.question, record.paraphrases, methods=("all",), max_new_tokens=6)
        told = {row.method: row.generation for row in rows if row.view == row.method}
        assert told["repeat"] == alone["repeat"].generation
        assert all(generation == alone[method].generation for method, generation in told.items())


def test_its_prompt_is_read_once_for_several_runs(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    encode = engine.encode

    def counting(lm: LanguageModel, asked: Any, **rest: Any) -> Any:
        read.append(asked)
        return encode(lm, asked, **rest)

    monkeypatch.setattr(engine, "encode", counting)
    held = Reading()
    asked = {"methods": ("flex", "causal", "repeat"), "max_new_tokens": 3, "reading": held}
    first, second = (ask(lm, A, [B, C], weights=weights, **asked) for weights in (None, (1, 2, 1)))
    assert len(read) == 2 and first["repeat"].logprobs == second["repeat"].logprobs
    ask(lm, A, [B], **asked)
    assert len(read) == 4


def test_copies_that_do_not_fit_are_named(lm: LanguageModel) -> None:
    """The wordings would: only the question is long."""
    long, others = "What is the capital of Peru? " * 20, [B] * 9
    assert ask(lm, long, others, methods=("causal",), max_new_tokens=2)
    with pytest.raises(InputError, match=r"need \d+ tokens and llama holds 1024"):
        ask(lm, long, others, methods=("repeat",), max_new_tokens=2)
    settings = Settings(methods=("flex", "repeat"), max_new_tokens=2)
    asked, problems, _ = prepare_questions(lm, [Record("1", long, ("x",), tuple(others))], settings)
    assert asked == [None] and "llama holds 1024" in problems[0]
    state = PageState(question=long, paraphrases=others, methods=("causal",))
    limits = Limits(prompt_tokens=600)
    assert state.compose(lm, limits)
    with pytest.raises(InputError, match="the limit is 600"):
        state.but(methods=("repeat",)).compose(lm, limits)
