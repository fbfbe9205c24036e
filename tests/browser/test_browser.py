"""The page in a real Chromium: a visitor's main job, and what must not happen."""

from __future__ import annotations

import re

import pytest
from browser_visit import Visit, Visitors, Z, clean
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(visitors: Visitors, slow_url: str) -> Visit:
    return visitors(slow_url)


def test_a_newcomer_gets_answers_mask_and_tokens(visitors: Visitors, bundled_url: str) -> None:
    visit = visitors(bundled_url)
    expect(visit.page.locator("#model")).to_have_count(0)  # one model is no choice
    visit.fill("question", "What is the capital of Peru?")
    visit.rows(["Which city is Peru's capital?", "Name the capital city of Peru."])
    visit.run()
    assert visit.text("answer-flex") == visit.text("answer-causal") == "Lima"
    for card in ("flex", "causal"):
        assert re.search(r"\d+ tokens? · [\d.]+ tokens/s · first token \d+ ms", visit.text(f"stats-{card}"))
    assert "Lima" in visit.text("answers-alone")
    status = visit.text("status")
    for fact in ("tinyqa", "cpu", "float32", "backend", "of 2,048 tokens"):
        assert fact in status
    assert visit.page.locator("#token-view .token").count() == int(re.search(r"prompt (\d+)", status).group(1))
    clean(visit)


def test_examples_fill_the_form_and_run(visitors: Visitors, bundled_url: str) -> None:
    visit = visitors(bundled_url)
    example = visit.page.locator("#examples button").last
    question = (example.text_content() or "").strip()
    visit.fill("question", "something else")
    example.click()
    expect(visit.page.locator("#question textarea")).to_have_value(question)
    visit.run()
    assert visit.text("answer-flex")
    clean(visit)


def test_the_model_writes_paraphrases_and_edits_stay(visitors: Visitors, bundled_url: str) -> None:
    visit = visitors(bundled_url)
    visit.fill("question", "What is the capital of Peru?")
    visit.rows(["My own wording of it?", ""])
    rows = visit.page.locator("[id^=paraphrase-]")
    before = rows.count()
    visit.page.locator("#write-paraphrases").click()
    expect(rows).not_to_have_count(before)
    expect(visit.page.locator("#paraphrase-1 textarea")).to_have_value("My own wording of it?")
    texts = [box.input_value() for box in rows.locator("textarea").all()]
    assert all(texts) and len(set(texts)) == len(texts)
    clean(visit)


def test_answers_stream(visit: Visit) -> None:
    visit.number("max-new-tokens", 120)
    visit.page.evaluate(
        """() => {
            window.seen = [];
            const look = () => {
                const text = document.querySelector('#answer-flex')?.textContent ?? '';
                if (text !== window.seen.at(-1)) window.seen.push(text);
            };
            const all = {subtree: true, childList: true, characterData: true};
            new MutationObserver(look).observe(document.querySelector('#answers'), all);
        }"""
    )
    visit.run()
    seen = visit.page.evaluate("() => window.seen")
    seen = [text for text in seen[seen.index("") :] if text]  # the recorded answer goes first
    assert len(seen) >= 4, "the answer came in pieces"
    assert [len(text) for text in seen] == sorted(len(text) for text in seen)
    assert seen[-1] == visit.text("answer-flex")
    clean(visit)


def test_stop_really_stops(visit: Visit) -> None:
    visit.number("max-new-tokens", 256)
    visit.page.locator("#run").click()
    expect(visit.page.locator("#status-run")).to_contain_text("Running")  # no recording any more
    expect(visit.page.locator("#answer-flex")).not_to_be_empty()
    visit.page.locator("#stop").click()
    expect(visit.page.locator("#status-run")).to_contain_text("Stopped")
    visit.page.wait_for_timeout(200)
    text = visit.text("answer-flex")
    visit.page.wait_for_timeout(600)
    assert text and visit.text("answer-flex") == text and "Stopped" in visit.text("status-run")
    visit.number("max-new-tokens", 2)
    visit.run()  # the model is free
    clean(visit)


def test_mask_redraws_before_any_run(visit: Visit) -> None:
    segment, answer = visit.cells(), visit.text("answer-flex")
    visit.page.locator("#strategy input").click()
    visit.page.get_by_role("option", name=re.compile("Causal")).click()
    expect(visit.page.locator("#mask-caption")).to_contain_text("Every token sees everything earlier")
    visit.page.wait_for_function(f"before => ({Z})() !== before", arg=segment)
    visit.page.locator("#positions input").click()
    visit.page.get_by_role("option", name=re.compile("Sequential")).click()
    expect(visit.page.locator("#mask-caption")).to_contain_text("numbered 0, 1, 2")
    assert visit.text("answer-flex") == answer and "Recorded" in visit.text("status-run")
    clean(visit)


def test_mask_hover_names_tokens_segments_and_reason(visit: Visit) -> None:
    box = visit.page.locator("#mask-plot .nsewdrag").bounding_box()
    visit.page.locator("#mask-plot").scroll_into_view_if_needed()
    box = visit.page.locator("#mask-plot .nsewdrag").bounding_box()
    n = visit.page.locator("#token-view .token").count()
    visit.page.mouse.move(box["x"] + box["width"] * 2.5 / n, box["y"] + box["height"] * 5.5 / n)
    hover = visit.page.locator("#mask-plot .hovertext")
    expect(hover).to_contain_text("visible: own paraphrase")
    expect(hover).to_contain_text(re.compile(r"query 5 .*\(P1\).*key\s+2 .*\(P1\)", re.DOTALL))


def test_weights_change_shares_and_the_fused_answer(visit: Visit) -> None:
    visit.number("max-new-tokens", 12)
    visit.rows(["Name 7 rivers, please, in Japan, and say 8 things of each!", "Name it."])
    visit.number("weight-0", 0)
    visit.number("weight-2", 0)
    expect(visit.page.locator("#shares")).to_contain_text(re.compile(r"P1\s+0\.000.*P2\s+1\.000", re.DOTALL))
    visit.run()
    alone = visit.page.locator("#answers-alone tbody tr").nth(1).locator(".alone-answer").text_content()
    assert visit.text("answer-flex") == alone, "one paraphrase with all the weight answers as that paraphrase alone"
    visit.page.locator("#equal-weights").click()
    expect(visit.page.locator("#shares")).to_contain_text("Equal shares, 1/3 each")
    clean(visit)


def test_rows_are_added_and_removed_without_losing_edits(visit: Visit) -> None:
    page = visit.page
    visit.rows(["the first", "", ""])
    visit.fill("paraphrase-3", "the third")
    visit.fill("paraphrase-2", "the second")
    visit.number("weight-3", 4)
    page.locator("#remove-1").click()
    expect(page.locator("#paraphrase-3")).to_have_count(0)
    expect(page.locator("#paraphrase-1 textarea")).to_have_value("the second")
    expect(page.locator("#paraphrase-2 textarea")).to_have_value("the third")
    expect(page.locator("#weight-2 input[type=number]")).to_have_value("4")
    for _ in range(12):
        page.locator("#add-paraphrase").click()
        page.wait_for_timeout(60)
    expect(page.locator("#paraphrase-10")).to_be_visible()
    expect(page.locator("#paraphrase-1 textarea")).to_have_value("the second")
    for _ in range(10):
        page.locator("#remove-1").click()
        page.wait_for_timeout(60)
    expect(page.locator("[id^=paraphrase-]")).to_have_count(0)
    expect(page.locator("#token-legend")).not_to_contain_text("P2")
    visit.number("max-new-tokens", 3)
    visit.run()
    assert visit.text("answer-flex") != ""
    clean(visit)


def test_bad_input_is_told_inline_and_nothing_is_lost(visit: Visit) -> None:
    visit.number("max-new-tokens", 3)
    visit.run()
    answer, kept = visit.text("answer-flex"), visit.page.locator("#paraphrase-1 textarea").input_value()
    alert = visit.page.locator("#message [role=alert]")
    for question, said in (
        ("", "The question is empty"),
        ("x" * 2001, "The question is too long: it has 2,001 characters"),
    ):
        visit.fill("question", question)
        expect(alert).to_contain_text(said)
        visit.page.locator("#run").click()
        expect(visit.page.locator("#status-run")).to_contain_text("Not run")
        expect(alert).to_contain_text(said)
        assert visit.text("answer-flex") == answer
        assert visit.page.locator("#paraphrase-1 textarea").input_value() == kept
        assert visit.page.locator("#question textarea").input_value() == question
        visit.fill("question", "Better now?")
        expect(alert).to_have_count(0)
    assert visit.page.locator(".toast-body").count() == 0
    clean(visit)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1400, "dark")])
def test_layout_fits(visitors: Visitors, slow_url: str, width: int, scheme: str) -> None:
    visit = visitors(slow_url, width=width, height=844, scheme=scheme)
    visit.number("max-new-tokens", 40)
    visit.run()
    wide, dark = visit.page.evaluate(
        "() => [document.documentElement.scrollWidth, document.body.classList.contains('dark')]"
    )
    assert wide <= width
    assert dark == (scheme == "dark")
    background, ink = visit.page.evaluate(
        "() => [document.body, document.querySelector('#answer-flex')].map((e, i) => "
        "getComputedStyle(e)[i ? 'color' : 'backgroundColor'].match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + +b, 0))"
    )
    assert (background < 150 and ink > 600) if dark else (background > 600 and ink < 150)
    columns = [visit.page.locator(f"#{name}").bounding_box() for name in ("ask", "see")]
    assert (columns[1]["y"] > columns[0]["y"]) == (width < 700)
    below, share = visit.page.evaluate(
        """() => {
            const box = (selector) => document.querySelector(selector).getBoundingClientRect();
            const [figure, drawn, title] = ['#mask-plot', '#mask-plot .nsewdrag', '#mask-plot .g-xtitle'].map(box);
            return [figure.bottom - title.bottom, drawn.width / figure.width];
        }"""
    )
    assert 0 <= below < 30 and share > 0.55, "the figure is as high as it needs, and mostly mask"
    split, over = visit.page.evaluate(
        """() => [
            [...document.querySelectorAll('#answers-alone .agrees')].filter(cell => {
                const range = new Range();
                range.selectNodeContents(cell);
                return range.getClientRects().length > 1;
            }).length,
            document.querySelector('#max-new-tokens .slider_input_container').getBoundingClientRect().right
                - document.querySelector('#max-new-tokens').getBoundingClientRect().right,
        ]"""
    )
    assert split == 0 and over < 0, "no word is broken, no slider is cut"
    clean(visit)


def test_two_visitors_do_not_meet(visitors: Visitors, slow_url: str) -> None:
    one, two = visitors(slow_url), visitors(slow_url)
    one.number("max-new-tokens", 60)
    two.number("max-new-tokens", 4)
    two.fill("question", "Another question?")
    one.page.locator("#run").click()
    expect(one.page.locator("#answer-flex")).not_to_be_empty()
    two.page.locator("#run").click()
    two.page.locator("#stop").click()
    one.done()
    assert "Stopped" not in one.text("status-run") and len(one.text("answer-flex")) > 20
    assert one.page.locator("#question textarea").input_value() != "Another question?"
    for visit in (one, two):
        clean(visit)
