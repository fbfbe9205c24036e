"""Wording rows: what is done with them, what they weigh, how much room they take, and texts as data."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from test_state import QUESTION, TOO_LONG
from visitor import Built, Visitor

from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError, OutOfTime
from flexdemo.page import rows as page_rows
from flexdemo.page.rows import EDIT, budget_of, pasted, row_changes, shares_of, unseen_html, written
from flexdemo.page.state import PageState, rows_of
from flexdemo.prompt import Segment, SegmentedPrompt, build_prompt
from flexdemo.request import Limits
from flexdemo.serve.profiles import DEFAULT

NASTY = "<script>alert(1)</script> <b>bold</b> \u202e \x01"
FULL = [("x", 1)] * 10


def test_rows_are_read_from_the_widgets_and_come_back() -> None:
    rows = [("a", 2), ("b", 3)]
    told = row_changes(rows, 4)
    assert rows_of({**told, "paraphrase-3": "left over", "weight-4": 7}) == rows
    assert [told[f"row-{i}"]["visible"] for i in range(1, 5)] == [True, True, False, False]
    assert (told["paraphrase-3"], told["weight-3"]) == ("", 1), "a row that comes back is blank"


def test_rows_are_removed_and_moved_with_their_weights() -> None:
    a, b, c = rows = [("a", 2), ("b", 3), ("c", 4)]
    do = {act: edit for act, (*_, edit) in EDIT.items()}
    assert do["remove"](rows, 0) == [b, c]
    assert do["up"](rows, 2) == [a, c, b]
    assert do["down"](rows, 0) == [b, a, c]
    assert do["up"](rows, 0) == do["down"](rows, 2) == rows == [a, b, c]


def test_pasted_lines_push_rows_down_and_what_has_no_room_is_counted() -> None:
    a, blank, c = rows = [("a", 2), ("", 3), ("c", 4)]
    assert pasted(rows, 0, ["x", "y"], 10) == ([("x", 2), ("y", 1.0), blank, c], 0)
    many = [f"l{i}" for i in range(8)]
    first, *others = many
    below = [(first, 4), *((line, 1.0) for line in others)]
    assert pasted(rows, 2, many, 10) == ([a, blank, *below], 0), "9 lines and the blank row are 10"
    assert pasted(rows, 2, [*many, "l8"], 10) == ([a, *below, ("l8", 1.0)], 0), "now the blank row gives way"
    assert pasted(rows, 2, [*many, "l8", "l9", "l10"], 10) == ([a, *below, ("l8", 1.0)], 2)


def writes(monkeypatch: pytest.MonkeyPatch, *texts: str) -> Callable[..., None]:
    monkeypatch.setattr(page_rows, "paraphrase", lambda lm, question, n, **options: list(texts))
    return lambda: None


def test_written_paraphrases_fill_blanks_and_keep_edits(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    writes(monkeypatch, "Mine", "w1", "w2", "w3", "w4", "w5")
    rows = [("mine", 2), ("", 3)]
    filled = written(lm, "", Limits(), rows, QUESTION, 0)
    assert filled == [("mine", 2), ("w1", 3), *((text, 1.0) for text in ("w2", "w3", "w4"))]
    few = Limits(paraphrases=3)
    assert [text for text, _ in written(lm, "", few, [("a", 2), ("", 3)], QUESTION, 0)] == ["a", "Mine", "w1"]
    for full, limits in ((FULL, Limits()), (FULL[:4], few)):  # or more than there is room for
        with pytest.raises(InputError, match=f"there is room for {limits.paraphrases} paraphrases: remove one first"):
            written(lm, "", limits, full, QUESTION, 0)
    writes(monkeypatch)
    with pytest.raises(InputError, match="wrote nothing new: write a paraphrase yourself"):
        written(lm, "", Limits(), rows, QUESTION, 0)
    with pytest.raises(OutOfTime, match="stopped after 0 seconds"):
        written(lm, "", Limits(seconds=0.0), rows, QUESTION, 0)


# On the page


@pytest.fixture(scope="module")
def page(lm: LanguageModel) -> Built:
    return Built(lm, profile=replace(DEFAULT, limits=Limits(paraphrases=3)))


@pytest.fixture
def visitor(page: Built) -> Visitor:
    visitor = page.visitor()
    visitor.do("edit", {"row": 0, "lines": ["one", "two"]}, **row_changes([("a", 1)], 3))
    return visitor


def texts(visitor: Visitor) -> tuple[str, ...]:
    return tuple(text for text, _ in rows_of(visitor.values))


def test_add_ends_at_the_limit_of_the_profile_and_says_so(visitor: Visitor) -> None:
    assert texts(visitor) == ("one", "two") and visitor.visible["row-3"] is False
    for said in ("", "There is room for 3 paraphrases: remove one first"):
        visitor.do("add")
        assert texts(visitor) == ("one", "two", "") and said in visitor.values["rows_message"]
    assert visitor.visible["row-3"] is True


@pytest.mark.parametrize(
    ("told", "after"),
    [
        ({"row": 0, "act": "down"}, ("two", "one")),
        ({"row": 1, "act": "up"}, ("two", "one")),
        ({"row": 0, "act": "remove"}, ("two",)),
        ({"row": 1, "lines": ["x", "y"]}, ("one", "x", "y")),
        *[(told, ("one", "two")) for told in (
            None, {}, [1], "x", 5, {"row": 2, "act": "remove"}, {"row": -1, "act": "remove"}, {"row": "0", "act": "up"},
            {"row": 0}, {"row": 0, "act": "drop"}, {"row": 0, "lines": []}, {"row": 0, "lines": [1, {}]},
            {"row": 0, "lines": 5},
        )],
    ],
)  # fmt: skip
def test_a_row_s_buttons_and_a_paste_do_what_they_say_and_nothing_else(
    visitor: Visitor, told: Any, after: tuple[str, ...]
) -> None:
    visitor.do("edit", told, **{"alone-1": "alone: 1", "alone-2": "alone: 2"})
    assert texts(visitor) == after and visitor.values["used"] == len(after)
    answered = [visitor.values[f"alone-{i}"] for i in (1, 2)]
    assert answered == (["alone: 1", "alone: 2"] if after == ("one", "two") else ["", ""]), "not beside another wording"


def test_a_paste_without_room_says_what_was_left_out(visitor: Visitor) -> None:
    visitor.do("edit", {"row": 1, "lines": ["1", "2", "3", "4"]})
    assert texts(visitor) == ("one", "1", "2")
    assert "2 of 4 pasted lines were left out: there is room for 3 paraphrases" in visitor.values["rows_message"]


def test_write_and_equal_weights(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    writes(monkeypatch, "w1", "w2")
    visitor.do("write", **{"weight-1": 5, "seed": None})
    assert texts(visitor) == ("one", "two", "w1") and visitor.values["weight-1"] == 5
    visitor.do("write")
    assert texts(visitor) == ("one", "two", "w1") and "remove one first" in visitor.values["rows_message"]
    visitor.do("equal")
    assert [visitor.values[f"weight-{i}"] for i in range(4)] == [1] * 4


@pytest.mark.parametrize("seed", [2**70, -1])
def test_a_seed_that_no_sampler_takes_is_told(visitor: Visitor, seed: int) -> None:
    visitor.do("write", seed=seed)
    assert "Seed must be from 0 to 4294967295" in visitor.values["rows_message"]


# What is said of them


def test_a_prompt_s_tokens_are_counted_also_when_too_long(lm: LanguageModel, prepared: Any) -> None:
    state = PageState(question=QUESTION, paraphrases=TOO_LONG, max_new_tokens=7)
    count = len(build_prompt(lm.tokenizer, QUESTION, TOO_LONG).token_ids)
    said = budget_of(lm, Limits(), state)
    assert f"<b>{count:,}</b> prompt tokens + up to 7, of 1,024" in said and f"{count + 7 - 1024:,} too many" in said
    made = SegmentedPrompt((1,) * 20, ("t",) * 20, (Segment("suffix", "suffix", 0, 20, ""),), (), "plain")
    assert "<b>20</b> prompt tokens + up to 7, of 1,024</span>" in budget_of(lm, Limits(), state, made)
    assert "– of 1,024 tokens" in budget_of(lm, Limits(), state.but(question=""))
    chat = prepared("llama", "sdpa", chat=True)
    for template in ("plain", "chat"):
        count = len(build_prompt(chat.tokenizer, QUESTION, TOO_LONG, template=template).token_ids)
        assert f"<b>{count:,}</b>" in budget_of(chat, Limits(), state.but(template=template)), "as the run packs it"


def test_room_for_reasoning_is_counted_where_nobody_chose_a_length(thinker: LanguageModel) -> None:
    state = PageState(question="Name it.")
    assert "+ up to 40, of" in budget_of(thinker, Limits(new_tokens=40), state)
    assert "+ up to 7, of" in budget_of(thinker, Limits(new_tokens=40), state.but(max_new_tokens=7))


def test_a_share_is_told_where_it_is_known() -> None:
    def told(weights: Any, *texts: str) -> list[str]:
        shares = shares_of(PageState(question="q", paraphrases=texts), weights, 4)
        return [re.sub("<.*?>", "", shares[f"share-{i}"]).removesuffix("↑↓✕") for i in range(5)]

    assert told((1 / 3,) * 3, "a", " ", "b") == ["1/3", "1/3", "", "1/3", ""]
    assert told((0.5, 0.125, 0.375), "a", "", "b") == ["0.500", "0.125", "", "0.375", ""]
    assert told(None, "a") == ["by confidence", "by confidence", "", "", ""]
    rows = shares_of(PageState(question="q"), (1.0,), 4)
    assert "data-act" not in rows["share-0"], "the question stays"
    assert re.findall('data-act="(.*?)" aria-label="(.*?)"', rows["share-2"]) == [
        ("up", "Move paraphrase 2 up"), ("down", "Move paraphrase 2 down"), ("remove", "Remove paraphrase 2")
    ]  # fmt: skip


def test_what_cannot_be_seen_is_told_and_escaped() -> None:
    state = PageState(question=NASTY, paraphrases=("plain", "a\u200bb"), prefix="\ufeff")
    said = unseen_html(state)
    assert (
        "P1 holds U+202E RIGHT-TO-LEFT OVERRIDE" in said and "P3 holds U+200B" in said and "prefix holds U+FEFF" in said
    )
    assert "<script" not in said and "\u202e" not in said and "\x01" not in said
    assert unseen_html(PageState(question="Città 東京 مرحبا?\n\tline")) == ""
    assert html.unescape(said).count("P2") == 0
