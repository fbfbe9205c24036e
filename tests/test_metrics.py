"""Answers and their normal form."""

from __future__ import annotations

import pytest

from flexdemo.metrics import answer_text, exact_match, majority, normalise


@pytest.mark.parametrize(
    ("generation", "answer"),
    [(" Lima\nQ: next", "Lima"), ("\n \n Lima ", "Lima"), ("", ""), ("\n\n", ""), ("a b\r\nc", "a b")],
)
def test_the_answer_is_the_first_line_that_is_not_blank(generation: str, answer: str) -> None:
    assert answer_text(generation) == answer


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
    ],
)
def test_normal_form(text: str, form: str) -> None:
    assert normalise(text) == form
    assert normalise(form) == form


def test_exact_match_is_of_normal_forms_and_never_of_nothing() -> None:
    assert exact_match("the USA!", ["America", "U.S.A."])
    assert not exact_match("Lima city", ["Lima"])
    assert not exact_match("", [""]) and not exact_match("the", ["the"])
    assert not exact_match("Lima", [])


@pytest.mark.parametrize(
    ("answers", "index"),
    [(["a1", "b", "B."], 1), (["b", "c"], 0), (["c", "b", "b", "c"], 0), (["x"], 0), (["", "y", "y"], 1)],
)
def test_majority_of_normal_forms_with_ties_to_the_earliest(answers: list[str], index: int) -> None:
    assert majority(answers) == index
