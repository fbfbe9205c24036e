"""What a newcomer sees, in a real Chromium: two answers, each over its own mask, on one screen; examples; links."""

from __future__ import annotations

import json
from typing import Any

import pytest
from browser_support import ROOT
from browser_visit import Visit, Visitors, boxes, fits_sideways
from playwright.sync_api import expect

from flexdemo.engine.model import LanguageModel
from flexdemo.page.page import build_demo

pytestmark = pytest.mark.browser

EXAMPLES, RECORDED, REAL, SMOLLM2 = (
    json.loads((ROOT / "assets" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("examples", "recorded", "examples-smollm2", "recorded-smollm2")
)
FIRST_SCREEN = ("run", "answer-flex", "answer-causal", "mask-plot", "mask-plot-right", "token-view")

# Labels that their figures cut off: what is drawn outside a figure is not seen.
CUT_OFF = """() => [...document.querySelectorAll(':is(.side, #gave-plot) .js-plotly-plot')].flatMap(gd => {
    const box = (e) => e.getBoundingClientRect(), {left, right, top, bottom} = box(gd);
    const texts = [...gd.querySelectorAll('.xtick text, .ytick text, .x2title, .bartext-outside')];
    return texts.filter(each => box(each).left < left
        || box(each).right > right || box(each).top < top || box(each).bottom > bottom).map(each => each.textContent);
})"""
CLIPPED = """() => [...document.querySelectorAll('.side-head h2, .side .answer')].filter(e =>
    e.scrollHeight > e.clientHeight || e.scrollWidth > e.clientWidth).map(e => e.textContent)"""
LIES_UNDER = """() => [...document.querySelectorAll('.side-head')].filter(head => [...head.children].some(
    (e, i, all) => i && e.getBoundingClientRect().left < all[i - 1].getBoundingClientRect().right)).length"""


def recorded(question: str, file: dict[str, Any] = RECORDED) -> dict[str, str]:
    """Answers of an example's recording by method, and of its wordings alone by their names."""
    asked = {each["result"]["request"]["question"]: each["result"]["results"] for each in file["examples"]}
    methods = {each["method"]: each for each in asked[question]}
    alone = {view["name"]: view["answer"] for view in methods["per_prompt"]["views"]}
    return alone | {name: methods[name]["answer"] for name in ("flex", "causal")}


def test_the_first_screen_is_a_recorded_answer_over_masks_and_tokens_whole_at_any_width(visit: Visit) -> None:
    for name, (_, top, _, bottom) in boxes(visit, FIRST_SCREEN).items():
        assert 0 <= top < bottom <= 900, name
    assert fits_sideways(visit)
    assert visit.page.locator("#mask-plot .nsewdrag").bounding_box()["height"] >= 250
    assert visit.page.evaluate(CUT_OFF) == visit.page.evaluate(CLIPPED) == []
    assert visit.page.evaluate(LIES_UNDER) == 0

    visit.page.set_viewport_size({"width": 1280, "height": 720})
    visit.until("() => document.querySelector('#mask-plot .svg-container').offsetWidth < 600")
    visit.settle(400)  # Plotly waits 100 ms for the end of a change of size, each figure by itself
    seen = boxes(visit, FIRST_SCREEN)
    assert max(seen[name][3] for name in ("run", "answer-flex", "answer-causal")) <= 720
    for name in ("mask-plot", "mask-plot-right"):
        _, top, _, bottom = seen[name]
        assert (720 - top) / (bottom - top) > 0.75, "most of the mask"
    assert fits_sideways(visit)

    answers = recorded(EXAMPLES[0]["question"])
    assert visit.text("answer-flex") == answers["flex"] and visit.text("answer-causal") == answers["causal"]
    assert visit.text("status") == f"Recorded {RECORDED['date']}: press Run to compute it now"
    for side in ("left", "right"):
        assert visit.text(f"{side}-figures").endswith("recorded")
    wordings = [EXAMPLES[0]["question"], *EXAMPLES[0]["paraphrases"]]
    assert [visit.value("question"), *visit.wordings()] == wordings
    for i in range(len(wordings)):
        assert visit.text(f"alone-{i}").startswith(f"alone: {answers[f'P{i + 1}']}")
    assert visit.text("example-note") == EXAMPLES[0]["note"]

    for width in (1024, 768, 720):
        visit.page.set_viewport_size({"width": width, "height": 900})
        visit.until("() => document.querySelector('#mask-plot .nsewdrag').getBoundingClientRect().width > 180")
        visit.settle(400)
        assert visit.page.evaluate(CLIPPED) == [] and visit.page.evaluate(CUT_OFF) == [], width
        assert fits_sideways(visit) and visit.page.evaluate(LIES_UNDER) == 0
    visit.page.set_viewport_size({"width": 1024, "height": 900})
    visit.choose("left-scheme", "bidirectional · aligned · weights")  # the longest title
    assert visit.page.evaluate(LIES_UNDER) == 0
    assert visit.page.evaluate(CLIPPED) == ["Bidirectional (models are not trained for it)"], "it ends in an ellipsis"


def test_a_phone_shows_one_side_after_the_other_and_a_finger_scrolls_over_a_mask(
    visitors: Visitors, bundled_url: str
) -> None:
    visit = visitors(bundled_url, width=390, height=844)
    order = ("question", "run", "answer-flex", "mask-plot", "answer-causal", "mask-plot-right", "token-view")
    placed = boxes(visit, order)
    tops = [placed[name][1] for name in order]
    assert tops == sorted(tops)
    assert all(left >= 0 and right <= 390 for left, _, right, _ in placed.values())
    assert placed["run"][3] <= 844, "Run is seen without scrolling"
    assert placed["run"][0] == 12 and not visit.page.locator("footer .divider").first.is_visible()
    assert fits_sideways(visit) and visit.page.evaluate(CUT_OFF) == []
    x, y = visit.point("left", 30, 10)
    whole, before = visit.plot("mask-plot", "layout.xaxis.range"), visit.page.evaluate("() => scrollY")
    finger = visit.page.context.new_cdp_session(visit.page)
    finger.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    for kind, up in (("touchStart", 0), *(("touchMove", 20 * i) for i in range(1, 11)), ("touchEnd", None)):
        points = [] if up is None else [{"x": x, "y": y - up}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    visit.until("before => scrollY > before + 50", before)
    assert visit.plot("mask-plot", "layout.xaxis.range") == whole
    finger.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
    finger.detach()

    visit.page.evaluate("document.querySelector('#facts b').textContent = 'a_long_name_of_a_model'.repeat(4)")
    wider = "(names) => [...document.querySelectorAll(names)].filter(e => e.offsetWidth > e.parentElement.clientWidth)"
    names = "#masthead > *, #masthead span, .weight input[type=number]"  # no spinner of a phone's moves a number left
    assert visit.page.evaluate(f"({wider})('{names}').map(e => e.outerHTML)") == [], "what is cut off"


def test_examples_fill_the_page_in_with_their_recording_and_one_of_smollm2_is_shown_as_it_was_made(
    visit: Visit,
) -> None:
    last = len(EXAMPLES) - 1
    first_four = visit.page.locator("#examples .prose > div").first.locator("button").filter(visible=True)
    assert first_four.count() == 4

    # Tokens and masks of one are those of SmolLM2, whose tokenizer this server does not have; Run asks who is loaded.
    page, example, told = visit.page, REAL[0], SMOLLM2["examples"][0]["result"]
    answers, prompt = recorded(example["question"], SMOLLM2), told["prompt"]
    link = page.locator("#examples button").get_by_text(example["title"], exact=True)
    assert link.locator("xpath=..").text_content().startswith("Recorded with smollm2:")
    link.click()
    visit.until("question => document.querySelector('#question textarea').value === question", example["question"])
    visit.settle()
    marks = [[segment["name"], segment["start"]] for segment in prompt["segments"]]
    for plot, rows in (("mask-plot", "flex"), ("mask-plot-right", "causal")):
        meta = visit.plot(plot, "layout.meta")
        assert [each[:2] for each in meta["segments"][:-1]] == marks and meta["length"] == len(prompt["token_ids"])
        (answered,) = (each for each in told["results"] if each["method"] == rows)
        assert len(meta["answer"]) == len(answered["tokens"]), "a row for each token of the answer"
    assert (visit.text("answer-flex"), visit.text("answer-causal")) == (answers["flex"], answers["causal"])
    for i in range(1 + len(example["paraphrases"])):
        assert visit.text(f"alone-{i}").startswith(f"alone: {answers[f'P{i + 1}']}")
    assert page.locator("#token-view").text_content().count("<|im_start|>") == 3
    assert visit.text("status") == f"Recorded {SMOLLM2['date']} with smollm2, float32: press Run to ask tinyqa"
    assert all(visit.text(f"{side}-figures").endswith("recorded with smollm2") for side in ("left", "right"))
    assert visit.text("example-note") == example["note"] and "SmolLM2-135M-Instruct" in example["note"]
    expect(page.locator(".side.stale")).to_have_count(0)
    visit.open("Where wordings merge")
    assert "recorded with smollm2 in float32, and the loaded model is tinyqa" in visit.text("merge-note")

    visit.open("What each wording gave")
    visit.run()
    assert visit.text("example-note").startswith("Asked anew: now tinyqa (float32) answers")
    assert visit.plot("mask-plot", "layout.meta")["length"] < len(prompt["token_ids"])
    assert "<|im_start|>" not in page.locator("#token-view").text_content()
    assert "recorded" not in visit.text("left-figures") + visit.text("right-figures") + visit.text("gave-note")
    expect(page.locator(".side.stale")).to_have_count(0)

    for i in (1, last):
        example, answers = EXAMPLES[i], recorded(EXAMPLES[i]["question"])
        visit.example(i, example["question"])
        assert visit.wordings() == example["paraphrases"] and visit.text("example-note") == example["note"]
        assert visit.text("status").startswith("Recorded")
        assert (visit.text("answer-flex"), visit.text("answer-causal")) == (answers["flex"], answers["causal"])
        asked = visit.plot("mask-plot", "layout.meta")
        assert len(asked["segments"]) - 1 == visit.page.locator("#token-legend button").count() + sum(
            name.startswith("S") for name, *_ in asked["segments"]
        )
    visit.unfold("masking")
    visit.choose("positions", "Sequential")
    assert visit.text("example-note") == "", "it tells of the example as it was"


def test_a_program_that_warms_up_says_so_until_it_is_over(
    visitors: Visitors, bundled_url: str, lm: LanguageModel
) -> None:
    """Of the page only the line and its script are opened; in the end the server of the page has nothing to tell."""
    line = next(
        each.value
        for each in build_demo(lm, warming="Warming up <b>for</b> some minutes").blocks.values()
        if getattr(each, "elem_id", None) == "warming"
    )
    page = visitors.browser.new_page()
    page.goto(f"{bundled_url}healthz")
    page.route("**/healthz", lambda route: route.fulfill(json={"warming": "Warming up failed: <b>planted</b>"}))
    page.set_content(f"<div id='warming'>{line}</div><button id='run'></button><button id='stop'></button>")
    told = page.locator("#warming")
    assert told.inner_text() == "Warming up <b>for</b> some minutes"
    page.add_script_tag(path=ROOT / "assets" / "page.js")
    expect(told).to_have_text("Warming up failed: <b>planted</b>")
    page.unroute("**/healthz")
    told.wait_for(state="detached")
    page.close()
