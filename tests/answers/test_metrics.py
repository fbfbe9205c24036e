"""Answers and their normal form."""

from __future__ import annotations

import importlib.util

import pytest

from flexdemo.answers.metrics import (
    answer_text,
    contains,
    exact_match,
    find_lemmatiser,
    lemma_match,
    majority,
    normalise,
    token_f1,
    words,
)


def irregular(text: str) -> list[str]:
    """A lemmatiser small enough to check by hand."""
    forms = {"cities": "city", "mice": "mouse", "ran": "run", "running": "run"}
    return [forms.get(word, word) for word in text.casefold().split()]


@pytest.mark.parametrize(
    ("generation", "answer"),
    [(" Lima\nQ: next", "Lima"), ("\n \n Lima ", "Lima"), ("", ""), ("\n\n", ""), ("a b\r\nc", "a b")],
)
def test_the_answer_is_the_first_line_that_is_not_blank(generation: str, answer: str) -> None:
    assert answer_text(generation) == answer


@pytest.mark.parametrize(
    ("generation", "thinking", "answer"),
    [
        ("It is in Peru.\nSo Lima.\n</think>\n\nLima\nindeed", True, "Lima"),
        ("It is in Peru.\nSo Lima", True, ""),  # no end of it: the reasoning is no answer
        ("<think>\nIt is in Peru.\n</think>\n\nLima", False, "Lima"),
        ("\n<think>\nIt is in Peru.", False, ""),
        ("<think></think>a</think> b", False, "b"),
        ("</think>", True, ""),
        ("I <think> so", False, "I <think> so"),
    ],
)
def test_the_answer_of_a_model_that_reasons_follows_its_reasoning(generation: str, thinking: bool, answer: str) -> None:
    assert answer_text(generation, thinking=thinking) == answer


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The  United States.", "united states"),
        ("Bogotá", "bogota"),
        ("Bogota\u0301", "bogota"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("a Theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("can't", "cant"),
        ("東京", "東京"),
        ("...", ""),
        ("A.", "a"),
        ("\u201cThe\u201d", "the"),
    ],
)
def test_normal_form(text: str, form: str) -> None:
    assert normalise(text) == form
    assert normalise(form) == form


def test_exact_match_is_of_normal_forms_and_never_of_nothing() -> None:
    assert exact_match("the USA!", ["America", "U.S.A."])
    assert not exact_match("Lima city", ["Lima"])
    assert not exact_match("", [""]) and not exact_match("...", ["..."])
    assert exact_match("A.", ["A"]) and not exact_match("A.", ["B"]) and token_f1("A", ["A"]) == 1
    assert not exact_match("Lima", [])


def test_an_answer_of_articles_alone_is_looked_for_as_it_is_written() -> None:
    for said in ("The answer is A.", "(A) Lima", "A"):
        assert contains(said, ["A"]) and token_f1(said, ["A"]) > 0, said
        assert lemma_match(said, ["A"], lemmatise=irregular), said
    for said in ("The answer is B.", "It is a city.", "", "..."):
        assert not contains(said, ["A"]) and not lemma_match(said, ["A"], lemmatise=irregular), said
    assert contains("a", ["A"]) and token_f1("a", ["A"]) == 1 and not contains("", [""])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("東京。", "東京", True),
        ("दिल्ली।", "दिल्ली", True),
        ("“Lima”", "Lima", True),
        ("¿Lima?", "Lima", True),
        ("O’Brien", "O'Brien", True),
        ("O´Brien", "O`Brien", True),
        ("Hawaiʻi", "Hawaii", True),
        ("café", "cafe", True),
        ("Москва́", "Москва", True),
        ("مُحَمَّد", "محمد", True),
        ("Ｌｉｍａ！", "Lima", True),
        ("1939–1945", "1939-1945", True),
        ("パパ", "ハハ", False),
        ("がっこう", "かっこう", False),
        ("ไม่", "ไม", False),
        ("й", "и", False),
        ("पंचतंत्र", "पचतत्र", False),
    ],
)
def test_answers_of_all_scripts_are_compared(one: str, other: str, same: bool) -> None:
    assert exact_match(one, [other]) is same
    assert normalise(normalise(one)) == normalise(one)


def test_words_of_scripts_without_spaces_are_their_characters() -> None:
    assert words("ไม่ดี東京 Tower 45です。") == ["ไ", "ม่", "ดี", "東", "京", "tower", "45", "で", "す"]
    assert words("नई दिल्ली") == ["नई", "दिल्ली"]
    assert contains("日本の首都は東京です。", ["東京"]) and not contains("京東", ["東京"])
    assert contains("페루의 수도는 리마입니다.", ["리마"])
    assert not contains("นี่คือไม่", ["ไม"])
    assert token_f1("東京都", ["東京"]) == pytest.approx(0.8)  # precision 2/3, recall 1


@pytest.mark.parametrize(
    ("answers", "index"),
    [(["a1", "b", "B."], 1), (["b", "c"], 0), (["c", "b", "b", "c"], 0), (["x"], 0), (["", "y", "y"], 1)],
)
def test_majority_of_normal_forms_with_ties_to_the_earliest(answers: list[str], index: int) -> None:
    assert majority(answers) == index


@pytest.mark.parametrize(
    ("prediction", "answers", "right"),
    [
        ("It is Lima, Peru.", ["Lima"], True),
        ("the United States of America", ["America", "USA"], True),
        ("The Limassol coast", ["Lima"], False),
        ("Los Angeles", ["Angeles Los"], False),
        ("a New York city", ["New York City"], True),
        ("", ["Lima"], False),
        ("", [""], False),
        ("Lima", ["", "the", "..."], False),
        ("Lima", [], False),
    ],
)
def test_contains_whole_words_of_a_right_answer(prediction: str, answers: list[str], right: bool) -> None:
    assert contains(prediction, answers) is right


@pytest.mark.parametrize(
    ("prediction", "answers", "f1"),
    [
        ("Lima", ["Lima"], 1.0),
        ("Lima Peru", ["Lima"], 2 / 3),  # precision 1/2, recall 1
        ("the city of Lima", ["Lima city"], 4 / 5),  # precision 2/3, recall 1
        ("Lima Lima", ["Lima"], 2 / 3),  # a word counts as often as it is said
        ("Cusco", ["Lima", "Cusco Peru"], 2 / 3),  # the best answer counts
        ("Cusco", ["Lima"], 0.0),
        ("", ["Lima"], 0.0),
        ("...", ["..."], 0.0),
        ("Lima", [], 0.0),
    ],
)
def test_token_f1_by_hand(prediction: str, answers: list[str], f1: float) -> None:
    assert token_f1(prediction, answers) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "answers", "one_way", "both_ways"),
    [
        ("old cities ran", ["city run"], True, True),
        ("cities that ran", ["city run"], False, False),  # not next to each other
        ("running city", ["city ran"], False, False),  # not in order
        ("mice", ["three mouse tails"], False, True),
        ("the mice", ["Mouse!", "cat"], True, True),
        ("", ["mouse"], False, False),
        ("the", ["the mouse"], False, False),
        ("mouse", ["", "..."], False, False),
        ("U.S.A.", ["USA"], True, True),
        ("東京都です", ["東京"], True, True),
        ("zero\u00adwidth", ["zerowidth"], True, True),
    ],
)
def test_lemmas_in_a_row(prediction: str, answers: list[str], one_way: bool, both_ways: bool) -> None:
    assert lemma_match(prediction, answers, lemmatise=irregular) is one_way
    assert lemma_match(prediction, answers, lemmatise=irregular, both_ways=True) is both_ways


def test_simplemma_is_found_and_knows_irregular_plurals_whatever_the_case() -> None:
    lemmatise = find_lemmatiser()
    assert lemmatise is not None
    assert lemma_match("Wild MICE and Tigers", ["mouse"], lemmatise=lemmatise)
    assert lemma_match("lions and Tigers", ["tiger"], lemmatise=lemmatise)
    assert not lemma_match("rats", ["mouse"], lemmatise=lemmatise)


def test_no_lemmatiser_is_none_and_never_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_lemmatiser.__wrapped__() is None
