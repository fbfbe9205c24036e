"""Drafts of paraphrases: which are kept, why others are not, and what a question gets in the end."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import models
import pytest

from flexdemo.answers import paraphrase as written
from flexdemo.answers.paraphrase import OPENINGS, Written, paraphrase, paraphrase_all
from flexdemo.data.evaluate import rewrite
from flexdemo.data.records import Record
from flexdemo.engine.model import LanguageModel, prepare

PERU, HAMLET, WAR = "What is the capital of Peru?", "Who wrote Hamlet?", "In what year did the Second World War end?"
LOST, BROUGHT, NO_QUESTION = "lost a name or number", "brought a name or number in", "is no question"

DRAFTS = [
    # Written by SmolLM2-135M-Instruct, asked to rewrite.
    (PERU, "The capital of Peru is Lima.", NO_QUESTION),
    (PERU, "Which country is Peru?", "lost what is asked for"),
    (PERU, "What is the capital of that country?", LOST),
    (PERU, "Which city is the capital of Peru?", ""),
    (PERU, "Can you tell me where the capital of Peru is?", ""),
    (HAMLET, "Who wrote Hamlet by William Shakespeare?", BROUGHT),
    (HAMLET, "The English language is very complex, and who wrote Hamlet is a joke.", NO_QUESTION),
    (HAMLET, "What is the name of the protagonist of Hamlet?", "lost what is asked for"),
    (HAMLET, "What is the name of the person who wrote Hamlet?", ""),
    (HAMLET, 'Who wrote the play "Hamlet"?', ""),
    (WAR, "The Second World War ended in 1945.", NO_QUESTION),
    (WAR, "Which war ended in 2022?", LOST),
    (WAR, "In what year was the Second World War over, in 1945?", BROUGHT),
    (WAR, "When did World War II end?", LOST),
    (WAR, "Do you know what year the Second World War ended?", ""),
    # Other forms and scripts.
    ("The capital of Peru is [MASK].", "[MASK] is the capital of Peru.", ""),
    ("The capital of Peru is [MASK].", "The capital of Peru is Lima.", LOST),
    ("The capital of Peru is ___.", "What is the capital of Peru?", "lost the blank"),
    ("Name the capital of Peru.", "Name the city that is the capital of Peru.", ""),
    ("Name the capital of Peru.", "What is the capital of Peru?", ""),
    ("Name the capital of Peru.", "The capital of Peru is Lima.", NO_QUESTION),
    ("ペルーの首都はどこですか？", "ペルーの首都は何ですか？", ""),
    ("ペルーの首都はどこですか？", "ペルーの首都はリマです。", NO_QUESTION),
    ("ما هي عاصمة بيرو؟", "ما اسم عاصمة بيرو؟", ""),
]  # fmt: skip


@pytest.mark.parametrize(("question", "draft", "why"), DRAFTS)
def test_drafts_are_kept_or_told_why_not(question: str, draft: str, why: str) -> None:
    asked = Written(question, 0)
    asked.keep(draft)
    assert (list(asked.kept.values()), dict(asked.dropped)) == (([], {why: 1}) if why else ([draft], {}))


def test_the_question_and_copies_are_no_new_drafts_and_not_counted() -> None:
    asked = Written(PERU, 0)
    for text in (PERU, "what is THE capital of Peru", "Which city is the capital of Peru?", "which city is Peru's"):
        asked.keep(text)
    asked.keep("Which city is the capital, of Peru?")
    assert list(asked.kept.values()) == ["Which city is the capital of Peru?"]
    assert asked.dropped == {NO_QUESTION: 1}


def test_an_answer_is_never_part_of_a_paraphrase_unless_the_question_holds_it() -> None:
    asked = Written("is the capital of peru lima or cusco?", 0, ("Cuzco", "Cusco"))
    asked.keep("is cusco the capital of peru, or lima?")
    assert asked.kept
    for loose in (False, True):  # the bundled model's too
        asked = Written(PERU, 0, ("Lima", "city of kings"), loose)
        asked.keep("Is lima the capital of Peru?")
        asked.keep("What is the capital of Peru, city of kings?")
        assert not asked.kept and asked.dropped == {"gave an answer": 2}


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Any:
    """saying(*texts): every round of samples draws these texts, in turn; tells how each round's prompts end."""

    def make(lm: LanguageModel, *texts: str) -> list[list[str]]:
        ends: list[list[str]] = []

        def generate(lm: LanguageModel, prompts: Any, streams: Any, decoding: Any) -> Iterator[Any]:
            ends.append([prompt.segments[-1].text for prompt in prompts])
            drawn = [texts[i % len(texts)] for i in range(len(streams))]
            ids = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in drawn]
            yield SimpleNamespace(answers=[SimpleNamespace(token_ids=i, stopped_by="end token") for i in ids])

        monkeypatch.setattr(written, "generate", generate)
        return ends

    return make


@pytest.fixture(scope="module")
def chat() -> LanguageModel:
    return prepare(models.random_model("llama"), models.tokenizer(chat=True), name="chat", backend="sdpa")


def test_a_chat_model_that_answers_gives_no_paraphrases_and_that_is_counted(chat: LanguageModel, saying: Any) -> None:
    ends = saying(chat, "The capital of Peru is Lima.")
    assert paraphrase(chat, PERU, 3) == []
    assert [end[0].endswith(opening) for end, opening in zip(ends[1:], OPENINGS, strict=False)] == [True] * 4
    dropped: Any = written.Counter()
    records = [Record("1", PERU, ("Lima",)), Record("2", HAMLET, ("x",), ("Hamlet is by",))]
    assert [record.paraphrases for record in rewrite(chat, records, 2, dropped=dropped)] == [(), ("Hamlet is by",)]
    assert set(dropped) == {"gave an answer"} and dropped.total() > 8


def test_drafts_go_on_from_openings_and_few_are_kept_of_each(chat: LanguageModel, saying: Any) -> None:
    saying(chat, " what the capital of Peru is?", " the name of the capital of Peru?")
    (asked,) = paraphrase_all(chat, [PERU], 4, seeds=[0])
    found = list(asked.kept.values())
    assert found[0] == "what the capital of Peru is?"
    assert found[2:] == [f"{opening} what the capital of Peru is?" for opening in OPENINGS[:2]]


def test_other_languages_and_clozes_get_no_english_openings() -> None:
    assert "Do you know" in Written(PERU, 0).openings()
    for question in ("¿Cuál es la capital de Perú?", "Was ist die Hauptstadt?", "What is [MASK]?"):
        assert set(Written(question, 0).openings()) == {""}
    assert set(Written(PERU, 0, (), True).openings()) == {""}


def test_shots_are_turns_and_the_question_stands_alone(chat: LanguageModel, saying: Any) -> None:
    template = written._template(chat)
    text = template.render(PERU)
    assert text.count("<|user|>") == len(written.SHOTS) * 2 + 2  # system, questions, their rewritings, the question
    assert text.endswith(f"<|user|>{PERU}<|end|><|assistant|>")
