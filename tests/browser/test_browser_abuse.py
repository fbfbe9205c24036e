"""Texts of others in a real Chromium: shown as text everywhere, run nowhere; what is refused is told on the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from browser_visit import Visitors
from playwright.sync_api import Dialog, expect

from flexdemo.serve.profiles import PROFILES

pytestmark = pytest.mark.browser

CALL = "alert(1);document.title='hacked';fetch('http://192.0.2.1/')"
MARKUP = (
    f'<script>{CALL}</script><img src=x onerror="{CALL}"><svg onload="{CALL}"></svg>'
    f'<a href="javascript:{CALL}">link</a> [x](javascript:{CALL}) ${{1+1}} {{{{7*7}}}} "\'>&lt;b&gt;'
)


@pytest.fixture
def visit(visitors: Visitors, space_url: str) -> Iterator[Any]:
    made = visitors(space_url)
    made.dialogs = []  # type: ignore[attr-defined]

    def dismiss(dialog: Dialog) -> None:
        made.dialogs.append(dialog.message)  # type: ignore[attr-defined]
        dialog.dismiss()

    made.page.on("dialog", dismiss)
    yield made
    made.page.remove_listener("dialog", dismiss)


def harmless(visit: Any) -> None:
    """Nothing ran: no dialog, no request to elsewhere, no element that a text made."""
    page = visit.page
    assert visit.dialogs == [] and page.title() == "flexdemo"
    assert [url for url in visit.requests if not url.startswith((visit.url, "data:", "blob:"))] == []
    made = "img[src='x'], svg[onload], a[href^='javascript'], [onerror], #page script"
    assert page.locator(made).count() == 0
    assert page.evaluate("() => document.querySelector('b')?.textContent !== '&lt;b&gt;'")


def test_markup_is_text_everywhere(visit: Any) -> None:
    page = visit.page
    visit.fill("question", MARKUP)
    visit.fill("paraphrase-1", f"{MARKUP} again")
    visit.run()
    for tab in ("Attention mass", "Leave-one-out", "Candidates", "Methods", "Mask"):
        visit.open(tab)
        page.wait_for_timeout(200)
        harmless(visit)
    assert "<script>alert(1)" in visit.text("answers-alone") and "onerror" in visit.text("tools-note")
    assert (
        "<script>alert(1);" in "".join(visit.text("token-view").split())
        and page.locator("#token-view .token").count() > 50
    )
    page.locator("#token-view .token").nth(40).click()
    box = page.locator("#mask-plot .nsewdrag").bounding_box()
    for share in (0.2, 0.5, 0.8):  # labels of cells
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] * share)
        page.wait_for_timeout(150)
    harmless(visit)
    with page.expect_download() as saved:
        page.locator("#save-report").click()
    report = page.context.new_page()
    report.on("dialog", lambda dialog: (visit.dialogs.append(dialog.message), dialog.dismiss()))
    outside: list[str] = []
    report.on("request", lambda request: outside.append(request.url) if request.url.startswith("http") else None)
    path = saved.value.path().rename(saved.value.path().with_suffix(".html"))
    report.goto(path.as_uri())
    report.wait_for_timeout(500)
    assert "<script>alert(1)" in report.locator("h1").inner_text() and report.title().startswith("flexdemo: <script>")
    assert outside == [] and visit.dialogs == []
    assert report.locator("img[src=x], svg[onload], [onerror], a[href^=javascript]").count() == 0
    report.close()


def test_a_link_with_markup_is_text_too(visit: Any, space_url: str) -> None:
    query = urlencode({"q": MARKUP, "p": MARKUP})
    visit.page.goto(f"{space_url}?{query}")
    expect(visit.page.locator("#question textarea")).to_have_value(MARKUP)
    visit.page.goto(f"{space_url}?{urlencode({'q': 'Who?', 'mask': MARKUP})}")
    expect(visit.page.locator("#link-message")).to_contain_text(
        "mask in the link: unknown mask strategy '<script>alert"
    )
    visit.page.wait_for_timeout(300)
    harmless(visit)


def test_limits_are_told_where_they_matter(visit: Any) -> None:
    limits, page = PROFILES["space"].limits, visit.page
    expect(page.locator("#limits")).to_contain_text(
        f"at most {limits.paraphrases} paraphrases, {limits.characters:,} characters a text"
    )
    visit.fill("question", "x" * 1_000_000)
    expect(page.locator("#message")).to_contain_text("has 1,000,000 characters, the limit is 1,000")
    visit.fill("question", "Who\u202e wrote\u200b Hamlet?")
    expect(page.locator("#budget")).to_contain_text("U+202E RIGHT-TO-LEFT OVERRIDE, U+200B ZERO WIDTH SPACE")
    expect(page.locator("#token-view")).to_contain_text("\ufffd")  # the bundled model reads them byte by byte
