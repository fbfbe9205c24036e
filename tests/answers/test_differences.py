"""Differing tokens and their places in the text, against values worked out by hand."""

from __future__ import annotations

import html
import re

import pytest

from flexdemo.answers.differences import differing, marked_html, token_ranges


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ([1, 2, 3], [1, 2, 3], [0, 0, 0]),
        ([1, 2, 3], [1, 9, 3], [0, 1, 0]),
        ([1, 2, 3, 4], [1, 3, 4], [0, 1, 0, 0]),
        ([1, 2], [], [1, 1]),
        ([], [1], []),
        ([5, 5, 5], [5], [0, 1, 1]),
    ],
)
def test_tokens_without_a_partner_differ(one: list[int], other: list[int], differs: list[int]) -> None:
    assert differing(one, other) == tuple(map(bool, differs))


def test_common_tokens_are_no_junk_in_long_answers() -> None:
    assert not any(differing([7] * 300 + [8], [7] * 300 + [8]))


@pytest.mark.parametrize(
    ("text", "tokens", "ranges"),
    [
        (" Lima city", [" Lima", " city"], [(0, 5), (5, 10)]),
        ("Lima city", ["Lima", "city"], [(0, 4), (4, 9)]),  # a tokenizer that drops spaces at the start of a text
        ("Lima", ["Lima", "</s>"], [(0, 4), (4, 4)]),
        ("a\u00e9b", ["a", "\ufffd", "\ufffd", "b"], [(0, 1), (1, 2), (1, 2), (2, 3)]),
        ("\u65e5", ["\ufffd", "\ufffd"], [(0, 1), (0, 1)]),
        ("", ["</s>"], [(0, 0)]),
    ],
)
def test_places_of_tokens(text: str, tokens: list[str], ranges: list[tuple[int, int]]) -> None:
    assert list(token_ranges(text, tokens)) == ranges


@pytest.mark.parametrize(
    ("generation", "answer", "tokens", "differs", "marked"),
    [
        (" Lima\n", "Lima", [" Lima", "\n"], [0, 1], "Lima"),
        (" New York", "New York", [" New", " York"], [0, 1], 'New<mark class="differs"> York</mark>'),
        (" <b>x", "<b>x", [" <b>", "x"], [1, 0], '<mark class="differs">&lt;b&gt;</mark>x'),
        ("", "", [], [], ""),
    ],
)
def test_marks_stand_on_differing_tokens(
    generation: str, answer: str, tokens: list[str], differs: list[int], marked: str
) -> None:
    assert marked_html(answer, generation, tokens, list(map(bool, differs))) == marked


def test_marks_never_change_the_text() -> None:
    answer = 'a & b <mark class="differs"> "c" \u00e9'
    for i in range(len(answer)):
        made = marked_html(answer, answer, list(answer), [j % 3 == i % 3 for j in range(len(answer))])
        assert html.unescape(re.sub(r'<mark class="differs">|</mark>', "", made)) == answer


def test_an_answer_from_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="no part of its generation"):
        marked_html("Lima", "Cusco", ["Cusco"], [True])
