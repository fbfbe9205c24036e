"""Words that one answer has and another has not, against marks set by hand."""

from __future__ import annotations

import html
import re

import pytest

from flexdemo.page.sides import marked_html


@pytest.mark.parametrize(
    ("answer", "other", "marked"),
    [
        ("Lima", "Lima", "Lima"),
        ("Lima", "Cusco", "[Lima]"),
        ("New  York", "New Orleans", "New  [York]"),
        ("the city of Lima", "the capital is Lima", "the [city of] Lima"),
        ("a a a", "a", "a [a a]"),
        ("<b>x", "x", "[&lt;b&gt;x]"),
        ("Lima", "", "[Lima]"),
        ("", "Lima", ""),
    ],
)
def test_words_without_a_partner_are_marked(answer: str, other: str, marked: str) -> None:
    assert marked_html(answer, other) == marked.replace("[", '<mark class="differs">').replace("]", "</mark>")


def test_common_words_are_no_junk_in_long_answers() -> None:
    assert marked_html("a " * 300 + "b", "a " * 300 + "b").count("<mark") == 0


@pytest.mark.parametrize("answer", ['a & b <mark class="differs"> "c" \u00e9', "  x \t", "\u6771\u4eac"])
def test_marks_never_change_the_text(answer: str) -> None:
    made = marked_html(answer, "b \u00e9")
    assert html.unescape(re.sub(r'<mark class="differs">|</mark>', "", made)) == answer
