"""Asking in a real Chromium: answers as the engine gives them, rows, weights, what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser_visit import COVERED, NASTY, Visit, Visitors, clean
from playwright.sync_api import expect
from test_schemes import LADDER
from test_views import mask_of, prompt_of

import flexdemo
from flexdemo.answers.result import Result
from flexdemo.engine.model import LanguageModel
from flexdemo.plan import Scheme

pytestmark = pytest.mark.browser

QUESTION = "currency do i ask bank if i travel madagascar?"  # fused and standard attention part ways there
PARAPHRASES = (
    "when you buy something in madagascar, what currency is it paid in",
    "What do shops in Madagascar accept as money?",
    "taxi drivers in madagascar want to be paid in which currency? please tell me.",
    "HELLO, I HAVE A QUESTION: MADAGASCAR HAS WHAT KIND OF MONEYY? IT'S FOR SCHOOL, THANKS!",
)
RUNGS = ("standard", "+ segment mask", "+ weights 1/N = fused")  # but for one
METHODS = ("flex", "per_prompt", "causal")
# Notes every text of the status, so that a step that is passed quickly is seen too.
STEPS = """() => {
    window.steps = [];
    new MutationObserver(() => {
        const text = document.querySelector('#status [data-state]')?.textContent;
        if (text && text !== window.steps.at(-1)) window.steps.push(text);
    }).observe(document.querySelector('#masthead'), {childList: true, subtree: true, characterData: true});
}"""
PASTE = """(box, text) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData('text/plain', text);
    box.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true, cancelable: true}));
}"""


def asked(lm: LanguageModel, visit: Visit, **settings: Any) -> Result:
    """What the engine answers to the page's wordings."""
    return flexdemo.ask(lm, visit.value("question"), visit.wordings(), **{"methods": METHODS, **settings})


def madagascar(visitors: Visitors, url: str, **more: Any) -> Visit:
    return visitors(url, q=QUESTION, p=PARAPHRASES, **more)


def climb(visit: Visit, lm: LanguageModel) -> None:
    """Each step of the ladder shows its answer over its mask, and tells what it changed."""
    page, prompt = visit.page, prompt_of(lm, visit)
    result = flexdemo.ask(lm, QUESTION, PARAPHRASES, methods=("flex",), schemes=LADDER)
    answers = {each.method: each for each in result.answered}
    before = None
    for name, scheme in zip(RUNGS, (*LADDER[:2], LADDER[-1]), strict=True):
        page.locator("#ladder label", has_text=name).click()
        visit.until("name => document.querySelector('#ladder label.selected')?.textContent.trim() === name", name)
        visit.done()
        told = answers[scheme.name] if scheme != LADDER[-1] else result["flex"]
        assert visit.text("answer-flex") == told.answer, name
        seen, count = mask_of(prompt, scheme, len(told.token_ids)), len(told.token_ids)
        visit.until(
            "n => document.querySelector('#mask-plot .js-plotly-plot')._fullData[0].z.length === n", seen.tokens
        )
        assert (visit.cells() == seen.cells()).all() and count, name
        now = mask_of(prompt, scheme)
        if before is not None:
            moved = now.difference(before)
            told = [
                f"{moved[kind]:,} cells {w}" for kind, w in (("removed", "close"), ("added", "open")) if moved[kind]
            ]
            assert (", ".join(told) or "the same cells are visible") in visit.text("step")
        before = now
    assert visit.value("left-scheme") == "as set: mask, positions, weights"


def another_right_side(visit: Visit, lm: LanguageModel) -> None:
    visit.choose("right-scheme", "late_fusion · sequential · raw")
    visit.done()
    scheme = Scheme("late_fusion", "sequential", weighted=False)
    (right,) = flexdemo.ask(lm, QUESTION, PARAPHRASES, methods=("flex",), schemes=(scheme,)).sides
    assert visit.text("answer-causal") == right.answer and visit.text("right-title") == "Late fusion"
    assert (visit.cells("right") == mask_of(prompt_of(lm, visit), scheme, len(right.token_ids)).cells()).all()
    status = visit.text("status")
    visit.page.locator("#right-scheme input").focus()
    visit.page.keyboard.press("Tab")
    visit.settle()
    assert visit.text("status") == status, "a menu that is left runs nothing"


def test_run_a_step_of_the_ladder_and_a_side_show_the_engine_s_answers_and_a_weight_decodes_again(
    visitors: Visitors, bundled_url: str, bundled: LanguageModel
) -> None:
    visit = madagascar(visitors, bundled_url)
    page = visit.page
    slider = page.locator("#weight-1 input[type=range]")

    def move(key: str) -> None:
        slider.focus()
        slider.press(key)
        visit.settle(400)  # the page waits for 300 ms for another key

    move("End")
    assert visit.text("answer-flex") == "" and visit.text("status") == "Ready: press Run", "a weight runs nothing"
    assert visit.text("share-1").startswith("0.714")
    page.locator("#equal-weights").click()
    visit.settle()
    assert set(visit.weights()) == {"1"}
    page.evaluate(STEPS)
    visit.run()
    result = asked(bundled, visit)
    fused, causal, alone = (result[method] for method in METHODS[:1] + METHODS[2:] + METHODS[1:2])
    assert visit.text("answer-flex") == fused.answer and visit.text("answer-causal") == causal.answer
    assert fused.answer != causal.answer, "the example is one where they part ways"
    marked = "".join(page.locator("#answer-flex mark").all_text_contents())
    assert marked and marked in fused.answer and marked not in causal.answer
    for i, view in enumerate(alone.views):
        differs = view.answer != fused.answer
        note = " · differs from the fused answer" if differs else ""
        assert visit.text(f"alone-{i}") == f"alone: {view.answer}{note}"
        assert page.locator(f"#alone-{i} .differs").count() == differs
    assert {view.answer for view in alone.views} > {fused.answer}, "one wording alone is answered otherwise"
    for side, told in (("left", fused), ("right", causal)):
        line = visit.text(f"{side}-figures")
        assert line.startswith(f"{len(told.token_ids)} tokens · first after ")
        assert line.endswith(f"{told.mask['density']:.0%} visible")
    steps = page.evaluate("() => window.steps")
    assert "Reading the prompt" in steps and steps[-1] == visit.text("status")
    assert re.fullmatch(r"Done: 7 rows, longest \d+ tokens, \d+\.\d\d s", steps[-1])
    assert page.locator("#status [role=status]").count() == 1, "only the end is announced"

    climb(visit, bundled)
    page.evaluate(STEPS)
    move("Home")  # without reading the prompt again
    steps = page.evaluate("() => window.steps")
    assert "Reading the prompt" not in steps and steps[-1].startswith("Done")
    weighed = asked(bundled, visit, weights=(1, 0, 1, 1, 1))
    assert visit.text("answer-flex") == weighed["flex"].answer
    assert visit.text("answer-causal") == causal.answer
    assert visit.text("share-1").startswith("0.000") and visit.text("share-2").startswith("0.250")
    names = [name for name, *_ in visit.plot("mask-plot", "layout.meta.segments")]
    starts = [start for _, start, _ in visit.plot("mask-plot", "layout.meta.segments")]
    hidden = slice(starts[names.index("P2")], starts[names.index("P3")])
    cells = visit.cells()
    assert not cells[starts[names.index("suffix")] :, hidden].any() and cells[hidden, hidden].any()
    assert visit.cells("right")[starts[names.index("suffix")] :, hidden].all(), "standard attention knows no weights"

    another_right_side(visit, bundled)
    visit.fill(question=f"{QUESTION} please")
    before = page.evaluate("() => window.steps.length")
    move("End")
    assert page.evaluate("() => window.steps.length") == before, "another prompt waits for Run"
    clean(visit)


# Rows


def test_rows_are_pasted_moved_removed_and_written_and_the_row_of_run_covers_none_that_has_the_focus(
    visit: Visit,
) -> None:
    page = visit.page
    assert visit.wordings() and (count := len(visit.wordings())) < 8
    first = "a first one, which is so long that its text takes two lines"
    visit.fill(paraphrase_1=first, paraphrase_2="one |two")
    visit.number("weight-1", 3)
    box = page.locator("#paraphrase-2 textarea")
    box.evaluate("box => { box.focus(); box.setSelectionRange(4, 5); }")
    box.evaluate(PASTE, f"A\n\n{NASTY}\nC ")
    visit.settle()
    assert visit.wordings()[:4] == [first, "one A", NASTY, "C two"] and len(visit.wordings()) == count + 2
    row = page.locator(".wording-row")
    row.nth(1).hover()
    row.nth(1).get_by_role("button", name="Move paraphrase 1 down").click()
    visit.settle()
    assert visit.wordings()[:3] == ["one A", first, NASTY] and visit.weights()[:4] == ["1", "1", "3", "1"]
    row.nth(2).get_by_role("button", name="Move paraphrase 2 up").click()
    visit.settle()
    assert visit.wordings()[:2] == [first, "one A"] and visit.weights()[:3] == ["1", "3", "1"]
    row.nth(2).get_by_role("button", name="Remove paraphrase 2").click()
    visit.settle()
    assert visit.wordings()[:2] == [first, NASTY] and visit.weights()[:3] == ["1", "3", "1"]
    names = page.locator("#token-legend .chip").all_text_contents()
    assert names == ["prefix", *(f"P{i + 1}" for i in range(len(visit.wordings()) + 1)), "suffix"]

    before = visit.wordings()
    page.locator("#write-paraphrases").click()
    visit.settle()
    written = visit.wordings()
    assert written[: len(before)] == before and len(written) > len(before), "what is there stays"
    assert len({text.casefold() for text in written}) == len(written)

    last = page.locator(f"#paraphrase-{len(visit.wordings())} textarea")
    last.focus()
    last.evaluate(PASTE, "\n".join("and so on" for _ in range(10 - len(visit.wordings()))))
    visit.settle()
    page.locator("#add-paraphrase").click()
    visit.settle()
    assert len(visit.wordings()) == 10 and visit.text("rows-message") == ""
    page.locator("#add-paraphrase").click()
    expect(page.locator("#rows-message [role=alert]")).to_have_text(
        "There is room for 10 paraphrases: remove one first"
    )
    assert visit.wordings()[0] == first
    for width, height in ((390, 844), (768, 1024), (1280, 800)):
        page.set_viewport_size({"width": width, "height": height})
        visit.settle()
        assert page.evaluate("() => document.documentElement.scrollHeight > innerHeight")
        assert page.evaluate(COVERED) == [], width

    last.evaluate(PASTE, "asked\nat once")
    last.press("Control+Enter")
    visit.done()
    assert "at once" in visit.wordings() and page.locator(".alone b").count() == 11, "the rows as pasted"


# What is typed


def test_typing_redraws_and_what_is_wrong_is_told_once(visit: Visit) -> None:
    page, tokens = visit.page, visit.plot("mask-plot", "layout.meta.length")
    budget = visit.text("budget")
    page.locator("#paraphrase-1 textarea").press("End")
    page.locator("#paraphrase-1 textarea").press_sequentially(" And more words")
    visit.settle()
    assert visit.plot("mask-plot", "layout.meta.length") > tokens and visit.text("budget") != budget
    assert (
        len(visit.cells())
        == visit.plot("mask-plot", "layout.meta.length")
        == page.locator("#token-view .token").count()
    )

    texts, alert = visit.wordings(), page.locator("[role=alert]").filter(visible=True)
    visit.unfold("masking")
    strategy = page.locator("#strategy input")

    def mask(text: str) -> None:
        strategy.fill(text)
        strategy.press("Enter")
        visit.settle()

    drawn = visit.cells()
    for wrong, said in (("segment+P9>P1", "names P9, which is not there"), ("sideways", "nknown mask strategy")):
        mask(wrong)
        expect(alert).to_have_count(1)
        expect(alert).to_contain_text(said)
        assert (visit.cells() == drawn).all() and visit.wordings() == texts
    page.locator("#run").click()
    visit.settle()
    expect(alert).to_have_count(1)
    mask("segment+P2>P1")
    expect(alert).to_have_count(0)
    assert (visit.cells() != drawn).any()

    visit.fill(question="x" * 100_000)
    expect(alert).to_have_count(1)
    expect(alert).to_have_text("The question is too long: it has 100,000 characters, the limit is 2,000; shorten it")
    assert visit.wordings() == texts and len(visit.value("question")) == 100_000
    visit.fill(question="")
    expect(alert).to_have_count(1)
    visit.fill(question="Who\u202e wrote\u200b Hamlet?")
    expect(alert).to_have_count(0)
    expect(page.locator("#budget")).to_contain_text("U+202E RIGHT-TO-LEFT OVERRIDE, U+200B ZERO WIDTH SPACE")
    visit.run()
