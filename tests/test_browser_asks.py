"""What a visitor brings and takes along, in a real Chromium: rows, links, files, recordings, results files."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from browser_visit import Visit, clean
from playwright.sync_api import Browser, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture
def visit(browser: Browser, bundled_url: str) -> Iterator[Visit]:
    made = Visit(browser, bundled_url)
    yield made
    made.context.close()


def texts(visit: Visit) -> list[str]:
    return [box.input_value() for box in visit.page.locator("[id^=paraphrase-] textarea").all()]


def weights(visit: Visit) -> list[str]:
    """Those of the rows that are shown, the question's first."""
    boxes = visit.page.locator(".wording-row [id^=weight-] input[type=number]")
    return [box.input_value() for box in boxes.all()]


def paste(visit: Visit, name: str, text: str) -> None:
    """As the keyboard does it, at the cursor."""
    visit.page.locator(f"#{name} textarea").evaluate(
        """(box, text) => {
            const data = new DataTransfer();
            data.setData('text/plain', text);
            const event = new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true});
            if (box.dispatchEvent(event)) { document.execCommand('insertText', false, text); }
        }""",
        text,
    )


# Rows


def test_rows_move_and_are_duplicated_with_their_weights(visit: Visit) -> None:
    visit.rows(["one", "two", "three"])
    visit.number("weight-2", 5)
    visit.page.get_by_role("button", name="Move paraphrase 2 up").click()
    expect(visit.page.locator("#paraphrase-1 textarea")).to_have_value("two")
    assert texts(visit) == ["two", "one", "three"] and weights(visit) == ["1", "5", "1", "1"]
    visit.fill("paraphrase-2", "one, edited")
    visit.page.get_by_role("button", name="Move paraphrase 2 down").click()
    expect(visit.page.locator("#paraphrase-3 textarea")).to_have_value("one, edited")
    visit.page.get_by_role("button", name="Duplicate paraphrase 1").click()
    expect(visit.page.locator("[id^=paraphrase-]")).to_have_count(4)
    assert texts(visit) == ["two", "two", "three", "one, edited"] and weights(visit) == ["1", "5", "5", "1", "1"]
    expect(visit.page.get_by_role("button", name="Move paraphrase 1 up")).to_have_count(0)
    expect(visit.page.get_by_role("button", name="Move paraphrase 4 down")).to_have_count(0)
    clean(visit)


def test_several_pasted_lines_become_several_rows(visit: Visit) -> None:
    visit.rows(["first", "start  end", "last"])
    visit.number("weight-3", 4)
    box = visit.page.locator("#paraphrase-2 textarea")
    box.evaluate("box => { box.focus(); box.setSelectionRange(6, 6); }")
    paste(visit, "paraphrase-2", "a\r\n\r\n<b>b</b>\n c")
    expect(visit.page.locator("[id^=paraphrase-]")).to_have_count(5)
    assert texts(visit) == ["first", "start a", "<b>b</b>", " c end", "last"]
    assert weights(visit) == ["1", "1", "1", "1", "1", "4"]
    box.fill("")
    paste(visit, "paraphrase-2", "only one line")
    assert texts(visit)[1] == "only one line"
    paste(visit, "paraphrase-2", "\n".join(f"line {i}" for i in range(9)))
    expect(visit.page.locator("[id^=paraphrase-]")).to_have_count(10)
    expect(visit.page.locator("#rows-message [role=alert]")).to_contain_text("3 of 9 pasted lines were left out")
    assert texts(visit)[0] == "first" and texts(visit)[-3:] == ["<b>b</b>", " c end", "last"]
    clean(visit)


def test_the_budget_counts_tokens_while_typing(visit: Visit) -> None:
    budget = visit.page.locator("#budget")
    visit.number("max-new-tokens", 20)
    tokens = visit.page.locator("#token-view .token").count()
    expect(budget).to_contain_text(f"prompt {tokens} + answer up to 20 = {tokens + 20} of 2,048")
    visit.page.locator("#paraphrase-1 textarea").press_sequentially(" and something more", delay=5)
    visit.page.wait_for_function("n => document.querySelectorAll('#token-view .token').length > n", arg=tokens)
    more = visit.page.locator("#token-view .token").count()
    expect(budget).to_contain_text(f"prompt {more} + answer")
    visit.rows(["many words " * 180] * 4)
    expect(budget).to_contain_text(re.compile(r"of 2,048 [\d,]+ too many"))
    expect(visit.page.locator("#message [role=alert]")).to_contain_text("the limit is 2,048")
    clean(visit)
