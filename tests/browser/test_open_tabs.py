"""Tabs in a real Chromium: each the engine's numbers of the last run, a click to a head."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from browser_visit import Visit, Visitors, clean
from playwright.sync_api import expect
from test_asking import PARAPHRASES, QUESTION, asked

from flexdemo.answers import methods as known
from flexdemo.answers.explain import explain
from flexdemo.answers.heads import attention_map, reading_heads
from flexdemo.answers.merge import merging
from flexdemo.answers.result import Result
from flexdemo.engine.model import LanguageModel

pytestmark = pytest.mark.browser

TABS = (
    "What each wording gave", "Candidates", "All methods", "Where wordings merge", "Heads that read wordings", "A head",
    "The mask up close",
)  # fmt: skip
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


def heads_and_merging(visit: Visit, lm: LanguageModel, result: Result) -> None:
    """Heads open by a click on the list or the picture; wordings merge layer by layer."""
    page = visit.page
    names = [name.strip() for name in page.locator("#heads-wording label").all_text_contents()]
    assert names == [f"P{i + 1}" for i in range(len(PARAPHRASES) + 1)]
    page.locator("#heads-wording").get_by_text("P2", exact=True).click()
    visit.settle()
    *_, found = reading_heads(lm, result, 1)
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
    shows(visit, (found.strongest[2].layer, found.strongest[2].head), lm, result)

    visit.open(HEADS)
    area = page.locator("#heads-plot .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    layers, heads = found.attention.shape
    page.mouse.move(box["x"] + box["width"] * 1.5 / heads, box["y"] + box["height"] * 2.5 / layers)
    page.mouse.down()
    page.mouse.up()
    shows(visit, (2, 1), lm, result)
    visit.open(MERGE)
    for step in (0, len(result["flex"].token_ids) - 1):
        if step:
            visit.number("merge-token", step + 1)
        found = merging(lm, result, step)
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


def test_each_tab_shows_the_engine_s_numbers_of_the_last_run(
    visitors: Visitors, bundled_url: str, bundled: LanguageModel
) -> None:
    visit = visitors(bundled_url, q=QUESTION, p=PARAPHRASES)
    page = visit.page
    assert page.get_by_role("tab").all_text_contents() == list(TABS)
    visit.open(HEADS)
    expect(page.get_by_role("tabpanel").filter(visible=True)).to_contain_text("Press Run to see it.")
    visit.run()  # with the tab open, which then does its work
    result = asked(bundled, visit, candidates=5)
    attribution = explain(bundled, result).attribution

    assert "Press Run" in visit.text("gave-note"), "a tab does its work when it is opened"
    heads_and_merging(visit, bundled, result)
    visit.open(TABS[0])
    assert f"Last run: {QUESTION} 5 wordings, Segment, aligned" in visit.text("gave-note")
    bars = visit.plot("gave-plot", "_fullData.map(bar => [bar.orientation, Array.from(bar.x), Array.from(bar.y)])")
    shares = np.array([y for orientation, _, y in bars if orientation != "h"], dtype=float)
    assert np.allclose(shares, attribution.mean_mass.T, atol=1e-3)
    effects = [x for orientation, x, _ in bars if orientation == "h"]
    drawn = np.sort(np.concatenate([np.array(each, dtype=float) for each in effects]))
    assert np.allclose(drawn, np.sort([each.effect for each in attribution.effects]), atol=1e-3)
    visit.choose("mass-layer", "3")
    visit.choose("mass-head", "4")
    bars = visit.plot("gave-plot", "_fullData.filter(bar => bar.orientation !== 'h').map(bar => Array.from(bar.y))")
    assert np.allclose(bars, attribution.mass[:, 2, 3].T, atol=1e-3)

    visit.open(TABS[1])
    fused, causal = result["flex"], result["causal"]
    bodies = page.locator("#candidates tbody")
    assert bodies.count() == max(len(each.token_ids) for each in result.results)
    parts = [i for i, pair in enumerate(zip(fused.token_ids, causal.token_ids, strict=False)) if pair[0] != pair[1]]
    assert parts and "≠" in (bodies.nth(parts[0]).locator(".step").text_content() or "")
    cells = bodies.nth(parts[0]).locator("tr").first.locator("td").all_text_contents()
    for text, candidate in zip(cells, fused.candidates[parts[0]], strict=True):
        assert candidate.token.replace(" ", "·") in text
        assert abs(float(re.search(r"[\d.]+$", text).group()) - candidate.probability) < 0.002
    assert cells[0].startswith("✓")

    visit.open(HEAD)
    visit.number("attention-layer", 2)
    page.locator("#attention-show").click()
    shows(visit, (1, 1), bundled, result)
    visit.number("attention-layer", 99)
    page.locator("#attention-show").click()
    expect(page.locator("#attention-message [role=alert]")).to_contain_text("no layer 99: choose from 1 to 6 of tinyqa")

    visit.open(TABS[2])
    visit.run("compare-all")
    result = asked(bundled, visit, methods=("all",))
    lines = visit.page.locator("#methods-table tbody tr")
    assert lines.count() == len(result.results) == len(known.METHODS)
    alone = [view.answer for view in result["per_prompt"].views]
    for line, told in zip(lines.all(), result.results, strict=True):
        label, answer, tokens, mean, agreement, cost, rows, encoding = line.locator("th, td").all_text_contents()
        assert label.startswith(known.METHODS[told.method].label)
        assert (answer, int(tokens), int(rows)) == (told.answer, len(told.token_ids), len(told.views))
        assert abs(float(mean) - np.mean(told.logprobs)) < 0.002
        assert float(agreement) == pytest.approx(alone.count(told.answer) / len(alone))
        prefix, first = (len(segment) for segment in result.prompt.segments[:2])
        assert int(cost) == (prefix + 5 * first if told.method == "repeat" else result.prompt.suffix_start)
        assert encoding == f"{told.mask['strategy']}, {told.mask['positions']}"
    assert f"{len(known.METHODS)} chosen" in visit.text("methods-group")
    clean(visit)
