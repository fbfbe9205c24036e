"""The two masks and the tokens as one view, checked against the engine's masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from browser_visit import PLOTS, Visit
from playwright.sync_api import expect
from test_schemes import LADDER, STANDARD

from flexdemo.engine.model import LanguageModel
from flexdemo.masks import Mask
from flexdemo.plan import Scheme
from flexdemo.prompt import SegmentedPrompt, build_prompt

pytestmark = pytest.mark.browser


def prompt_of(lm: LanguageModel, visit: Visit, **settings: Any) -> SegmentedPrompt:
    return build_prompt(lm.tokenizer, visit.value("question"), visit.wordings(), **settings)


def mask_of(prompt: SegmentedPrompt, scheme: Scheme, answers: int = 0) -> Mask:
    made = Mask.over(scheme.strategy, prompt.segments, answers=answers)
    return made.weighted() if scheme.weighted else made


def words(visit: Visit) -> list[str]:
    return visit.page.locator("#link-words p").all_text_contents()


def hover_zoom_and_outline(visit: Visit, left: Mask, right: Mask) -> None:
    """They go over both masks, and leave them as they were."""
    page = visit.page
    page.mouse.move(*visit.point("left", 30, 7))
    ring = page.locator("#mask-plot-right .ring")
    ring.wait_for()
    box = ring.bounding_box()
    x, y = visit.point("right", 30, 7)
    assert abs(box["x"] + box["width"] / 2 - x) < 3 and abs(box["y"] + box["height"] / 2 - y) < 3
    lines = page.locator(".hovertext[role=tooltip]").inner_text().splitlines()
    assert lines[0].startswith("query 30 ") and lines[1].split()[:2] == ["key", "7"]
    cell = (np.array([30]), np.array([7]))
    assert lines[2:] == [f"left: {left.told(*cell)[0, 0]}", f"right: {right.told(*cell)[0, 0]}"]
    page.mouse.move(2, 2)
    expect(ring).to_have_count(0)

    visit.drag("right", (9, 9), (25, 25))
    visit.until("""() => ['#mask-plot', '#mask-plot-right'].every(name => {
        const {range} = document.querySelector(`${name} .js-plotly-plot`).layout.xaxis;
        return range[1] - range[0] < 30;
    })""")
    for axis in ("xaxis", "yaxis"):
        ranges = [visit.plot(PLOTS[side], f"layout.{axis}.range") for side in PLOTS]
        assert ranges[0] == pytest.approx(ranges[1]) and sorted(ranges[0]) == pytest.approx([9, 25], abs=1.5)
    page.mouse.dblclick(*visit.point("left", 15, 15))
    visit.until("""() => ['#mask-plot', '#mask-plot-right'].every(name => {
        const {range} = document.querySelector(`${name} .js-plotly-plot`).layout.xaxis;
        return range[1] - range[0] > 50;
    })""")

    page.locator("#link-outline").check()
    only = "layout.shapes.filter(each => each.name === 'only').length"
    pairs = (right.visible & ~left.visible)[..., 0]
    lengths = np.array([segment.end - segment.start for segment in left.segments])
    assert visit.plot("mask-plot-right", only) == (pairs & np.outer(lengths, lengths).astype(bool)).sum() > 0
    assert visit.plot("mask-plot", only) == 0, "standard attention sees all that the other sees"
    page.locator("#link-outline").uncheck()
    assert visit.plot("mask-plot-right", only) == 0


def test_hover_zoom_a_token_a_segment_and_a_cell_go_over_both_masks_with_the_rule_in_words(
    visit: Visit, bundled: LanguageModel
) -> None:
    page, prompt = visit.page, prompt_of(bundled, visit)
    count = len(visit.plot("mask-plot", "layout.meta.answer"))
    schemes = (LADDER[-1], STANDARD)
    masks = [mask_of(prompt, scheme, count) for scheme in schemes]
    places = np.arange(masks[0].tokens)
    owners = [segment.name for segment in masks[0].segments for _ in range(segment.end - segment.start)]
    hover_zoom_and_outline(visit, *masks)
    shape = "layout.shapes.filter(each => each.name === 'pick').length"

    token = masks[0].segments[3].start + 2
    page.locator("#token-view .token").nth(token).click()
    for line, mask, side in zip(words(visit), masks, PLOTS, strict=True):
        assert visit.plot(PLOTS[side], shape) == 2
        seen = mask.cells()
        assert (
            line.startswith(f"{side.title()}: query {token} ") and f"sees {seen[token].sum()} of {mask.tokens}:" in line
        )
        assert f"is seen by {seen[:, token].sum()}:" in line
        own = [why for why in mask.told(np.array([token]), places)[0] if why.startswith("visible")]
        for why in set(own):
            assert f"({why.removeprefix('visible: ')})" in line
    assert page.locator("#token-view .token.picked").count() == 1
    lit = page.locator("#token-view .token").evaluate_all("all => all.map(each => each.classList.contains('seen'))")
    assert lit == masks[0].cells()[token, : len(lit)].tolist()

    page.locator("#token-legend button", has_text="P2").click()
    expect(page.locator("#token-legend [aria-pressed=true]")).to_have_text("P2")
    for line, mask in zip(words(visit), masks, strict=True):
        at = [segment.name for segment in mask.segments].index("P2")
        sees = {owners[k] for q in places for k in places if owners[q] == "P2" and mask.cells()[q, k]}
        by = {owners[q] for q in places for k in places if owners[k] == "P2" and mask.cells()[q, k]}
        head, tail = line.split("; is seen by ")
        assert f"P2, tokens {mask.segments[at].start} to {mask.segments[at].end - 1}, sees " in head
        assert {name for name in set(owners) if f"{name} (" in head} == sees
        assert {name for name in set(owners) if f"{name} (" in tail} == by
    page.locator("#link-clear").click()
    assert words(visit) == [] and visit.plot("mask-plot", shape) == 0

    for side, query, key in (("right", token + 1, 3), ("left", token, 3), ("left", masks[0].tokens - 1, token)):
        page.mouse.click(*visit.point(side, query, key))
        visit.until("text => document.querySelector('#link-words p')?.textContent.startsWith(text)", f"Query {query} ")
        head, *lines = words(visit)
        assert f"key {key} " in head
        for line, mask, each in zip(lines, masks, PLOTS, strict=True):
            assert line.startswith(f"{each.title()}: {mask.told(np.array([query]), np.array([key]))[0, 0]}; ")
            assert visit.plot(PLOTS[each], shape) == 2

    # By the keyboard, and kept when the masks are drawn again.
    page.locator("#link-token").fill("5")
    assert words(visit)[0].startswith("Left: query 5 ")
    stale = page.locator(".side.stale")
    assert stale.count() == 0
    visit.fill(question=f"{visit.value('question')} please")
    visit.until("() => document.querySelector('#token-view .token.picked')")
    assert words(visit)[0].startswith("Left: query 5 ")
    page.locator("#link-token").fill("99999")
    expect(page.locator("#link-words")).to_contain_text("There is no token 99999")

    # The answers are now those of an earlier prompt, until the next run.
    expect(stale).to_have_count(2)
    assert "of an earlier prompt" in page.locator("#left-figures .prose").evaluate(
        "each => getComputedStyle(each, '::after').content"
    )
    length = visit.plot("mask-plot", "layout.meta.length")
    assert len(visit.cells()) == length != masks[0].tokens, "no rows of an answer that belongs to another prompt"
    visit.run()
    expect(stale).to_have_count(0)
    assert len(visit.cells()) > length
