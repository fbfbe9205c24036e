"""Where wordings merge, and heads that read them, in a real Chromium: the engine's numbers, a click to a head."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from browser_visit import Visit, Visitors, clean
from playwright.sync_api import expect
from test_asking import PARAPHRASES, QUESTION, asked

from flexdemo.answers.heads import attention_map, reading_heads
from flexdemo.answers.merge import merging
from flexdemo.engine.model import LanguageModel

pytestmark = pytest.mark.browser

MERGE, HEADS, HEAD = "Where wordings merge", "Heads that read wordings", "A head"
LINES = "_fullData.filter(t => t.yaxis === 'y').map(t => Array.from(t.y))"
CELLS = "_fullData.filter(t => t.type === 'heatmap').map(t => t.z.map(row => Array.from(row)))[0]"


def shows(visit: Visit, head: tuple[int, int], lm: LanguageModel, result: Any) -> None:
    """The tab *A head* is open and shows this one, of which the page counts from 1."""
    expect(visit.page.get_by_role("tab", name=HEAD, exact=True)).to_have_attribute("aria-selected", "true")
    visit.settle()
    assert (visit.value("attention-layer"), visit.value("attention-head")) == tuple(str(number + 1) for number in head)
    (got,) = visit.plot("attention-plot", "_fullData.map(t => t.z.map(row => Array.from(row)))")
    assert np.allclose(np.square(got), attention_map(lm, result, *head), atol=2e-3)


def test_heads_open_by_a_click_and_wordings_merge_layer_by_layer(
    visitors: Visitors, bundled_url: str, bundled: LanguageModel
) -> None:
    visit = visitors(bundled_url, q=QUESTION, p=PARAPHRASES)
    page = visit.page
    visit.open(HEADS)
    visit.run()  # with the tab open, which then does its work
    result = asked(bundled, visit)
    names = [name.strip() for name in page.locator("#heads-wording label").all_text_contents()]
    assert names == [f"P{i + 1}" for i in range(len(PARAPHRASES) + 1)]
    page.locator("#heads-wording").get_by_text("P2", exact=True).click()
    visit.settle()
    *_, found = reading_heads(bundled, result, 1)
    assert np.allclose(visit.plot("heads-plot", CELLS), found.attention, atol=1e-3)
    bars = visit.plot("heads-plot", "_fullData.filter(t => t.type === 'bar').map(t => Array.from(t.x))[0]")
    assert np.allclose(bars, found.by_layer, atol=1e-3)
    lines = page.locator("#heads-list tbody").first.locator("tr")
    assert lines.count() == len(found.strongest) == 12
    for line, each in zip(lines.all(), found.strongest, strict=True):
        name, attention, effect = line.locator("th, td").all_text_contents()[1:]
        assert name == f"layer {each.layer + 1}, head {each.head + 1}"
        assert abs(float(attention) - each.attention) < 2e-3 and abs(float(effect) - each.effect) < 2e-3

    button = lines.nth(2).get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    shows(visit, (found.strongest[2].layer, found.strongest[2].head), bundled, result)

    visit.open(HEADS)
    area = page.locator("#heads-plot .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    layers, heads = found.attention.shape
    page.mouse.move(box["x"] + box["width"] * 1.5 / heads, box["y"] + box["height"] * 2.5 / layers)
    page.mouse.down()
    page.mouse.up()
    shows(visit, (2, 1), bundled, result)
    visit.open(MERGE)
    for step in (0, len(result["flex"].token_ids) - 1):
        if step:
            visit.number("merge-token", step + 1)
        found = merging(bundled, result, step)
        expected = np.maximum(np.roll(found.probability, 1, axis=1).T, 1e-6)
        assert np.allclose(visit.plot("merge-plot", LINES), expected, rtol=1e-2)
        said = visit.text("merge-words")
        assert ("never all" in said) == (found.agree_from is None)
        if found.agree_from not in (None, 1):
            assert re.search(rf"from layer {found.agree_from} of|last layer, {found.agree_from}\.", said)
    rows = visit.page.locator("#merge-table tbody tr")
    assert rows.count() == len(PARAPHRASES) + 2
    visit.page.locator("#merge-table summary").click()
    assert rows.last.locator("td").count() == found.layers
    clean(visit)


def test_words_in_the_dark_are_as_light_as_the_pages(visitors: Visitors, bundled_url: str) -> None:
    """Of every axis, also of a second one, and of a colour bar."""
    visit = visitors(bundled_url, scheme="dark", q=QUESTION, p=PARAPHRASES)
    visit.run()
    for tab, name in ((MERGE, "merge-plot"), (HEADS, "heads-plot")):
        visit.open(tab)
        visit.plot(name, "data.length")
        fills = "texts => texts.map(each => [each.textContent, getComputedStyle(each).fill])"
        told = [(text, fill) for text, fill in visit.page.locator(f"#{name} text").evaluate_all(fills) if text]
        assert len(told) > 20
        dim = [(text, fill) for text, fill in told if min(map(int, re.findall(r"\d+", fill)[:3])) < 140]
        assert not dim, dim
