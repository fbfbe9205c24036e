"""Pair, ladder, difference, linked views and live rows in a real Chromium, checked against the engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from browser_visit import Visit, Visitors, choose, clean
from playwright.sync_api import expect

import flexdemo
from flexdemo.engine.model import LanguageModel

pytestmark = pytest.mark.browser

QUESTION = "currency do i ask bank if i travel madagascar?"  # fused and standard attention part ways there
SHORT = "What is the capital of Peru?"
TOKENS = "#token-view .token, #answer-tokens .token"
GD = "document.querySelector('#mask-plot .js-plotly-plot')"
SEES = f"() => [...{GD}._fullData[0].z].map(row => [...row].map(z => z > 0))"


@pytest.fixture
def visit(visitors: Visitors, bundled_url: str) -> Iterator[Visit]:
    made = visitors(bundled_url)
    yield made
    clean(made)


def wordings(visit: Visit) -> list[str]:
    return [box.input_value() for box in visit.page.locator("[id^=paraphrase-] textarea").all()]


def prompt_length(prompt: dict[str, Any]) -> int:
    return prompt["segments"][-1]["end"]


def words(visit: Visit) -> str:
    return visit.text("link-words")


def cell(visit: Visit, q: int, k: int) -> tuple[float, float]:
    """Where a cell is on the screen."""
    area = visit.page.locator("#mask-plot .nsewdrag")
    area.scroll_into_view_if_needed()
    box, n = area.bounding_box(), visit.page.evaluate(f"() => {GD}._fullData[0].z.length")
    return box["x"] + box["width"] * (k + 0.5) / n, box["y"] + box["height"] * (q + 0.5) / n


def drag(visit: Visit, first: int, end: int) -> None:
    """With the mouse from one cell of the diagonal to another."""
    (x0, y0), (x1, y1) = cell(visit, first, first), cell(visit, end, end)
    mouse = visit.page.mouse
    mouse.move(x0, y0)
    mouse.down()
    mouse.move(x1, y1, steps=5)
    mouse.up()


# The pair and the ladder


def test_differing_tokens_are_marked_and_the_text_stays(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(QUESTION)
    visit.run()
    result = flexdemo.ask(bundled, QUESTION, wordings(visit), methods=["flex", "causal"])
    for method in ("flex", "causal"):
        assert visit.text(f"answer-{method}") == result[method].answer
    assert result["flex"].answer != result["causal"].answer
    shared = set(result["flex"].tokens) & set(result["causal"].tokens)
    marked = "".join(visit.page.locator("#answer-flex mark").all_text_contents())
    assert marked and marked in result["flex"].answer
    for token in set(result["flex"].tokens) - shared:
        assert token.strip() in marked or token not in result["flex"].answer


def test_no_name_in_the_cards_is_cut(visitors: Visitors, bundled_url: str) -> None:
    visit = visitors(bundled_url, width=390)
    for name in ("right-mask", "right-positions"):
        box = visit.page.locator(f"#{name} input")
        box.click()
        options = visit.page.get_by_role("option")
        expect(options).not_to_have_count(0)
        names = [option.strip().removeprefix("✓").strip() for option in options.all_text_contents()]
        visit.page.keyboard.press("Escape")
        expect(options).to_have_count(0)
        assert len(names) >= 3
        longest = max(names, key=len)
        wide, room = box.evaluate(
            """(box, text) => {
                const style = getComputedStyle(box), pen = document.createElement('canvas').getContext('2d');
                pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
                const arrow = box.closest('.block').querySelector('.icon-wrap, svg').getBoundingClientRect();
                const left = box.getBoundingClientRect().left + parseFloat(style.paddingLeft);
                return [pen.measureText(text).width, arrow.left - left];
            }""",
            longest,
        )
        assert 20 < wide <= room, longest


def test_any_two_schemes_stream_side_by_side(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(QUESTION)
    visit.number("weight-1", 4)
    choose(visit, "left-mask", "Late fusion")
    expect(visit.page.locator("#answer-left")).to_be_attached()
    choose(visit, "left-positions", "Sequential")
    visit.page.locator("#left-weights input").uncheck()
    expect(visit.page.locator(".card h2").first).to_have_text("Late fusion, sequential, raw weights")
    choose(visit, "right-mask", "As the form says")
    expect(visit.page.locator("#answer-flex")).to_be_attached()
    visit.run()
    texts = wordings(visit)
    weights = [1, 4, *[1] * (len(texts) - 1)]
    left = flexdemo.ask(bundled, QUESTION, texts, mask="late_fusion", positions="sequential", weights="raw")
    right = flexdemo.ask(bundled, QUESTION, texts, weights=weights)
    assert visit.text("answer-left") == left["flex"].answer
    assert visit.text("answer-flex") == right["flex"].answer
    expect(visit.page.locator("#answers-alone")).to_contain_text("Standard attention")


def test_the_ladder_is_one_click(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(QUESTION)
    visit.page.locator("#ladder-run").click()
    expect(visit.page.locator("#status-run")).to_contain_text("Ladder done: 4 answers")
    settings: list[dict[str, Any]] = [
        {"mask": "causal", "positions": "sequential", "weights": "raw"},
        {"mask": "segment", "positions": "sequential", "weights": "raw"},
        {"mask": "segment", "positions": "aligned", "weights": "raw"},
        {},
    ]
    rows = visit.page.locator("#ladder tbody tr")
    expect(rows).to_have_count(4)
    before: tuple[int, ...] | None = None
    for row, setting in zip(rows.all(), settings, strict=True):
        alone = flexdemo.ask(bundled, QUESTION, wordings(visit), **setting)["flex"]
        assert row.locator(".rung-answer").text_content() == alone.answer
        assert row.locator("code").count() == len(alone.token_ids)
        mean = sum(alone.logprobs) / len(alone.logprobs)
        assert float(row.locator(".number").nth(1).text_content()) == pytest.approx(mean, abs=6e-4)
        marks = row.locator("code.differs").count()
        assert (marks > 0) == (before is not None and alone.token_ids != before)
        before = alone.token_ids


# The difference


def test_the_difference_is_exact(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(SHORT)
    visit.page.get_by_label("Difference").check()
    expect(visit.page.locator("#mask-caption")).to_contain_text("removed")
    prompt = flexdemo.ask(bundled, SHORT, wordings(visit), max_new_tokens=1).to_dict()["prompt"]
    tokens = oracle.prompt_tokens(prompt["segments"])
    left, right = (np.array(oracle.mask(name, tokens)) for name in ("segment", "causal"))
    caption = visit.text("mask-caption")
    for word, cells in {"kept": left & right, "removed": right & ~left, "added": left & ~right}.items():
        assert f"{word} {cells.mean():.4f} ({cells.sum():,})" in re.sub(r"\s+", " ", caption)
    z = np.array(visit.page.evaluate(f"() => [...{GD}._fullData[0].z].map(row => [...row])"))
    assert ((z == 1) == (left & right)).all() and ((z == 2) == (right & ~left)).all() and not (z == 3).any()
    later = int(np.argwhere(right & ~left)[0][0]), int(np.argwhere(right & ~left)[0][1])
    visit.page.mouse.move(*cell(visit, *later))
    expect(visit.page.locator("#mask-plot .hovertext")).to_contain_text(
        "left: hidden: other paraphrase; right: visible: earlier paraphrase"
    )
    choose(visit, "right-mask", "As the form says")
    expect(visit.page.locator("#mask-caption")).to_contain_text("Both sides see the same cells")
    visit.page.get_by_label("Right answer's mask").check()
    expect(visit.page.locator("#mask-caption")).to_contain_text("Segment")


# Linked views


def test_a_token_a_cell_and_a_segment_highlight_each_other(visit: Visit) -> None:
    visit.example(SHORT)
    page = visit.page
    sees = np.array(page.evaluate(SEES))
    token = 20
    page.locator("#token-view .token").nth(token).click()
    expect(page.locator("#link-words")).to_contain_text(f"Query {token} ")
    name, segment = re.search(r"Query 20 (\S+) \((P\d+)\) sees (\d+) of", words(visit)).group(1, 2)
    assert name == page.locator("#token-view .token .text").nth(token).text_content()
    assert f"sees {sees[token].sum()} of {len(sees)}" in words(visit)
    assert f"is seen by {sees[:, token].sum()} of {len(sees)}" in words(visit)
    for kind, visible in (("seen", sees[token]), ("sees", sees[:, token])):
        lit = page.evaluate(
            f"() => [...document.querySelectorAll('{TOKENS}')].map(e => e.classList.contains('{kind}'))"
        )
        assert lit == visible.tolist()
    bands = page.evaluate(f"() => {GD}.layout.shapes.filter(s => s.name === 'pick').map(s => [s.x0, s.x1, s.y0, s.y1])")
    far = len(sees) - 0.5
    assert bands == [[-0.5, far, token - 0.5, token + 0.5], [token - 0.5, token + 0.5, -0.5, far]]

    suffix = page.evaluate(f"() => {GD}.layout.meta.length") - 1
    page.mouse.click(*cell(visit, suffix, token))
    expect(page.locator("#link-words")).to_contain_text(f"Query {suffix} ")
    assert re.search(rf"key {token} .*visible: fused \(suffix sees all\)", words(visit))
    assert page.locator("#token-view .picked").count() == 2

    page.locator("#token-legend button", has_text=segment).press("Enter")
    expect(page.locator("#link-words")).to_contain_text(f"{segment}: tokens ")
    first, last = map(int, re.search(r"tokens (\d+) to (\d+)", words(visit)).groups())
    assert first <= token <= last and page.locator("#token-view .picked").count() == last - first + 1
    assert f"They see prefix (prefix), {segment} (own paraphrase)." in words(visit)
    expect(page.locator("#token-legend button[aria-pressed=true]")).to_have_text(segment)
    page.locator("#link-clear").click()
    assert words(visit) == "" and page.locator("#token-view .linked").count() == 0


def test_the_keyboard_reaches_every_token(visit: Visit) -> None:
    page = visit.page
    page.locator("#link-token").focus()
    page.keyboard.type("3")
    expect(page.locator("#link-words")).to_contain_text("Query 3 ")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#link-words")).to_contain_text("Query 4 ")
    page.locator("#link-token").fill("99999")
    expect(page.locator("#link-words")).to_contain_text("There is no token 99999: choose 0 to")


def test_a_redraw_keeps_what_is_picked(visit: Visit) -> None:
    visit.example(SHORT)
    visit.page.locator("#link-token").fill("12")
    before = words(visit)
    choose(visit, "strategy", "Causal (standard attention)")
    expect(visit.page.locator("#mask-caption")).to_contain_text("Every token sees everything earlier")
    expect(visit.page.locator("#link-words")).to_contain_text("Query 12 ")
    expect(visit.page.locator("#link-words")).to_contain_text("earlier paraphrase")
    assert words(visit) != before


def test_dragging_zooms_exactly(visit: Visit) -> None:
    visit.example(SHORT)
    drag(visit, 10, 30)
    visit.page.wait_for_timeout(500)
    low, high = visit.page.evaluate(f"() => {GD}.layout.xaxis.range")
    assert 9 <= low <= 11 and 29 <= high <= 31
    assert words(visit) == "", "a drag is no click"


# Live rows


def test_the_answer_s_tokens_are_tokens_too(visit: Visit, bundled: LanguageModel) -> None:
    page, answer = visit.page, visit.page.locator("#answer-tokens")
    shown = flexdemo.ask(bundled, SHORT, wordings(visit))["flex"].tokens
    shown = [token.replace(" ", "·") for token in shown]
    for how in ("recorded", "run"):
        if how == "run":
            visit.run()
        expect(answer.locator(".token")).to_have_text(shown)
        expect(answer.locator(".count")).to_have_text(str(len(shown)))
        length = page.locator("#token-view .token").count()
        page.wait_for_function(f"(n) => {GD}._fullData[0].z.length === n", arg=length + len(shown))
        answer.locator(".token").nth(1).click()
        expect(page.locator("#link-words")).to_contain_text(
            f"Query {length + 1} {shown[1]} (answer) sees {length + 2} of"
        )
        assert page.locator("#token-view .token.seen").count() == length, "an answer's token sees the whole prompt"
        classes = [each.get_attribute("class").split() for each in answer.locator(".token").all()]
        assert [("seen" in each, "sees" in each) for each in classes[:2]] == [(True, False), (True, True)]
        assert all("seen" not in each and "sees" in each for each in classes[2:]), "later ones see it"
        answer.get_by_role("button", name="answer").click()
        expect(page.locator("#link-words")).to_contain_text(f"answer: tokens {length} to {length + len(shown) - 1}.")
        page.mouse.click(*cell(visit, length + 1, 3))
        expect(answer.locator(".picked")).to_have_text(shown[1])
        page.locator("#link-clear").click()
    visit.fill("question", SHORT + " Really?")
    expect(answer).to_be_hidden()
    page.get_by_label("Difference").check()
    expect(answer).to_be_hidden()


def test_the_mask_grows_a_row_for_each_answer_token(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(SHORT)
    visit.run()
    result = flexdemo.ask(bundled, SHORT, wordings(visit))
    answers = len(result["flex"].token_ids)
    prompt = result.to_dict()["prompt"]
    want = oracle.mask("segment", oracle.prompt_tokens(prompt["segments"], answers))
    visit.page.wait_for_function(f"(n) => {GD}._fullData[0].z.length === n", arg=len(want))
    assert visit.page.evaluate(SEES) == want
    assert visit.page.evaluate(f"() => {GD}.layout.xaxis.range") == [-0.5, len(want) - 0.5]
    visit.page.locator("#link-token").fill(str(len(want) - 1))
    expect(visit.page.locator("#link-words")).to_contain_text(f"answer {answers} (earlier answer token)")
    visit.fill("question", SHORT + " Really?")
    visit.page.wait_for_function(
        f"(n) => {GD}._fullData[0].z.length < n && !{GD}.layout.meta.answer", arg=len(want) + 9
    )


def test_rows_grow_while_the_answer_streams_without_new_figures(visitors: Visitors, slow_url: str) -> None:
    visit = visitors(slow_url)
    visit.number("max-new-tokens", 100)
    visit.rows(["Name it."])
    visit.page.wait_for_timeout(500)
    visit.page.evaluate(
        f"""() => {{
            window.first = {GD};
            window.sizes = new Set();
            setInterval(() => window.sizes.add({GD}._fullData[0].z.length), 50);
        }}"""
    )
    visit.run()
    visit.page.wait_for_function(f"() => {GD}.layout.meta.answer?.length === 100")
    same, sizes = visit.page.evaluate(f"() => [window.first === {GD}, [...window.sizes]]")
    assert same, "the figure was grown, not sent again"
    assert len(sizes) >= 3 and sizes == sorted(sizes)
    clean(visit)


def test_a_moved_weight_decodes_again(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(QUESTION)
    visit.run()
    page = visit.page
    handle = page.locator("#weight-1 input[type=range]")
    ran, shares = page.locator("#status-weights .prose"), page.locator("#shares .prose")
    for how in ("drag", "keys", "number", "equal"):
        before = shares.text_content()
        if how == "drag":
            handle.scroll_into_view_if_needed()
            box = handle.bounding_box()
            page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] / 2)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2, steps=4)
            page.mouse.up()
        elif how == "keys":
            handle.focus()
            page.keyboard.press("End")
        elif how == "number":
            visit.number("weight-1", 6)
        else:
            page.locator("#equal-weights").click()
        expect(shares).not_to_have_text(before)
        page.wait_for_function(
            """() => {
                const last = (id) => document.querySelector(id).textContent.match(/P1.*/s)?.[0].replace(/\\s+/g, '');
                return last('#status-weights') && last('#status-weights') === last('#shares');
            }"""
        )
        weights = [float(number) for number in re.findall(r"P\d+\s+([\d.]+)", shares.text_content())]
        assert len(set(weights)) == (1 if how == "equal" else 2) and ran.text_content()
        given = [float(page.locator(f"#weight-{i} input[type=number]").input_value()) for i in range(len(weights))]
        result = flexdemo.ask(bundled, QUESTION, wordings(visit), weights=given)
        expect(page.locator("#answer-flex")).to_have_text(result["flex"].answer)


def test_a_weight_moved_before_any_run_runs_nothing(visit: Visit) -> None:
    line = visit.text("status-run")
    visit.number("weight-1", 6)
    expect(visit.page.locator("#shares")).to_contain_text("Shares, normalised")
    visit.page.wait_for_timeout(700)
    assert "Done" not in visit.text("status-run") and "Done" not in line


# Scale


@pytest.fixture
def long_visit(visitors: Visitors, slow_url: str) -> Iterator[Visit]:
    """A prompt of more than 3,500 tokens."""
    made = visitors(slow_url)
    made.number("max-new-tokens", 4)
    made.rows(["word " * 95, *["word " * 380] * 2])
    made.page.wait_for_function(f"() => {GD}.layout.meta.length > 3000", timeout=60_000)
    yield made
    clean(made)


def test_a_long_prompt_links_and_zooms_to_a_chosen_place(long_visit: Visit, tmp_path: Path) -> None:
    page = long_visit.page
    meta = page.evaluate(f"() => {GD}.layout.meta")
    block, length = meta["block"], meta["length"]
    assert block == -(-length // 256)
    blocks = -(-length // block)
    assert page.evaluate(f"() => {GD}._fullData[0].z.length") == blocks
    page.mouse.click(*cell(long_visit, 150, 140))
    expect(page.locator("#link-words")).to_contain_text(f"Queries {150 * block} to {151 * block - 1}")
    page.locator("#link-exact").click()
    page.wait_for_function(f"() => {GD}.layout.meta.block === 1 && {GD}.layout.meta.row > 0", timeout=60_000)
    shown = page.evaluate(f"() => {GD}.layout.meta")
    assert shown["row"] < 150 * block < shown["row"] + 512 and shown["column"] < 140 * block < shown["column"] + 512
    page.locator("#link-token").fill(str(150 * block))
    expect(page.locator("#link-words")).to_contain_text(f"Query {150 * block} ")
    with page.expect_download() as waiting:
        page.locator("#mask-png").click()
    saved = tmp_path / "mask.png"
    waiting.value.save_as(saved)
    assert waiting.value.suggested_filename == f"mask-segment-{length}.png"
    header = saved.read_bytes()[:24]
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (length, length)


def test_segments_inside_a_chosen_block_are_lit(visitors: Visitors, slow_url: str) -> None:
    """Exactly the tokens that some token of the block sees, or is seen by, told by the rule of the segment mask."""
    visit = visitors(slow_url)
    visit.number("max-new-tokens", 4)
    visit.rows(["word " * 380, "one", "two", "six", "word " * 380, "word " * 380, "word " * 380])
    page = visit.page
    page.wait_for_function(f"() => {GD}.layout.meta.length > 1500", timeout=60_000)
    meta = page.evaluate(f"() => {GD}.layout.meta")
    block, length = meta["block"], meta["length"]
    bounds = [*(start for _, start, _ in meta["segments"][:-1]), length]
    owner = [i for i in range(len(bounds) - 1) for _ in range(bounds[i], bounds[i + 1])]
    blocks = [range(first, min(first + block, length)) for first in range(0, length, block)]
    inside = [each for each in blocks if len({owner[i] for i in each} - {owner[each[0]], owner[each[-1]]}) > 0]
    chosen = inside[-1]
    page.mouse.click(*cell(visit, chosen[0] // block, chosen[0] // block))
    expect(page.locator("#link-words")).to_contain_text(f"Queries {chosen[0]} to {chosen[-1]}")

    def sees(q: int, k: int) -> bool:
        return k <= q and (owner[k] in (0, owner[q]) or owner[q] == owner[-1])

    told = page.evaluate("() => [...document.querySelectorAll('#token-view .token')].map(t => [...t.classList])")
    assert [i for i in range(length) if "seen" in told[i]] == [
        i for i in range(length) if any(sees(q, i) for q in chosen)
    ]
    assert [i for i in range(length) if "sees" in told[i]] == [
        i for i in range(length) if any(sees(i, k) for k in chosen)
    ]
    assert {owner[i] for i in range(length) if "seen" in told[i]} >= {owner[i] for i in chosen}
    clean(visit)


def test_a_part_dragged_over_in_the_overview_is_drawn_cell_by_cell(long_visit: Visit) -> None:
    page = long_visit.page
    block, length = (page.evaluate(f"() => {GD}.layout.meta.{name}") for name in ("block", "length"))
    first, end = 120, 132
    drag(long_visit, first, end)
    page.wait_for_function(f"() => {GD}?.layout.meta.block === 1 && {GD}._fullLayout && {GD}.layout.xaxis.range[0] > 0")
    expect(page.locator("#mask-exact input")).to_be_checked()
    meta = page.evaluate(f"() => {GD}.layout.meta")
    for axis, start in (("xaxis", meta["column"]), ("yaxis", meta["row"])):
        low, high = sorted(page.evaluate(f"() => {GD}.layout.{axis}.range"))
        assert low + start == pytest.approx((first + 0.5) * block, abs=block)
        assert high + start == pytest.approx((end + 0.5) * block, abs=block)
    segments = [*meta["segments"], ["", length]]
    owner = [i for i in range(len(segments) - 1) for _ in range(segments[i][1], segments[i + 1][1])]
    seen = page.evaluate(SEES)
    assert len(seen) == len(seen[0]) == 512
    for q in range(0, 512, 7):
        for k in range(0, 512, 5):
            asks, key = q + meta["row"], k + meta["column"]
            told = key <= asks and (
                owner[key] == 0 or owner[key] == owner[asks] or meta["segments"][owner[asks]][0] == "suffix"
            )
            assert seen[q][k] == told, (asks, key)
    page.mouse.dblclick(*cell(long_visit, 256, 256))
    page.wait_for_function(f"(block) => {GD}?.layout.meta.block === block && {GD}._fullLayout", arg=block)
    expect(page.locator("#mask-exact input")).not_to_be_checked()


def test_a_large_part_of_the_overview_is_enlarged_as_it_is(long_visit: Visit) -> None:
    page = long_visit.page
    drag(long_visit, 20, 200)
    page.wait_for_function(f"() => {GD}.layout.xaxis.range[0] > 10")
    expect(page.locator("#mask-exact input")).not_to_be_checked()
    assert page.evaluate(f"() => {GD}.layout.meta.block") > 1
