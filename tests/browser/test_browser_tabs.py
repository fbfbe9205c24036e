"""The tabs beside the mask in a real Chromium, against `ask` and `explain` run here."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from browser_visit import NASTY, Visit, Visitors, choose, clean
from playwright.sync_api import expect

import flexdemo
from flexdemo.answers.explain import explain
from flexdemo.answers.head import attention_map
from flexdemo.answers.methods import METHODS
from flexdemo.engine.model import LanguageModel

pytestmark = pytest.mark.browser

TABS = ("Mask", "Attention mass", "Leave-one-out", "Candidates", "Methods", "Attention of a head")
PEOPLE = "Who painted Water Lilies?"
MONEY = "currency do i ask bank if i travel madagascar?"
PLAIN = ("flex", "origin", "per_prompt", "causal")


@pytest.fixture
def visit(visitors: Visitors, bundled_url: str) -> Visit:
    return visitors(bundled_url)


def asked(lm: Any, visit: Visit, methods: tuple[str, ...] = PLAIN) -> Any:
    """What `ask` says to the form as it stands."""
    boxes = visit.page.locator("[id^=paraphrase-] textarea").all()
    question = visit.page.locator("#question textarea").input_value()
    return flexdemo.ask(lm, question, [box.input_value() for box in boxes], methods=methods, candidates=5)


def bars(visit: Visit) -> np.ndarray:
    return np.array(visit.plot("mass-plot", "_fullData.map(bar => Array.from(bar.y))"))


def test_before_a_run_every_tab_says_what_will_be_there(visitors: Visitors, bundled_url: str) -> None:
    visit = visitors(f"{bundled_url}?q=What+has+no+recording?")
    assert visit.page.get_by_role("tab").all_text_contents() == list(TABS)
    expect(visit.page.locator("#mask-plot")).to_be_visible()
    for tab in TABS[1:]:
        visit.open(tab)
        expect(visit.page.get_by_role("tabpanel").filter(visible=True)).to_contain_text("After a run:")
    visit.page.locator("#attention-show").click()
    expect(visit.page.locator("#attention-message")).to_contain_text("Nothing has run yet: press Run")
    visit.url = bundled_url
    clean(visit)


def test_attention_mass_is_that_of_explain(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(PEOPLE)
    result = asked(bundled, visit)
    attribution = explain(bundled, result).attribution
    visit.run()
    visit.open("Attention mass")
    expect(visit.page.locator("#mass-note")).to_contain_text(f"Last run: {PEOPLE}")  # before it, the recorded one's
    visit.page.locator("#mass-plot .nsewdrag").wait_for()
    got = bars(visit)
    assert np.allclose(got, attribution.mean_mass.T, atol=1e-4)
    assert np.allclose(got.sum(axis=0), 1, atol=1e-4)
    visit.page.locator("#mass-per-token input").check()
    expect(visit.page.locator("#mass-plot .ytitle")).to_have_text("attention per token of the segment")
    assert np.allclose(bars(visit), attribution.mass_per_token.T, atol=1e-4)
    visit.page.locator("#mass-per-token input").uncheck()
    expect(visit.page.locator("#mass-plot .ytitle")).to_have_text("share of attention")
    for name, option in (("mass-layer", "2"), ("mass-head", "3")):
        before = bars(visit).tolist()
        visit.page.locator(f"#{name} input").click()
        visit.page.get_by_role("option", name=option, exact=True).click()
        for _ in range(300):
            if bars(visit).tolist() != before:
                break
            visit.page.wait_for_timeout(100)
    assert np.allclose(bars(visit), attribution.mass[:, 2, 3].T, atol=1e-4)
    clean(visit)


def test_leave_one_out_is_that_of_explain(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(MONEY)
    result = asked(bundled, visit)
    effects = explain(bundled, result).attribution.effects
    visit.run()
    visit.open("Leave-one-out")
    expect(visit.page.locator("#effect-note")).to_contain_text("leaves a gap before the suffix")
    expect(visit.page.locator("#effect-plot .annotation")).to_have_count(5)
    assert np.allclose(
        visit.plot("effect-plot", "_fullData.map(t => Array.from(t.x))")[0], [e.effect for e in effects], atol=1e-3
    )
    visit.page.locator("#effect-plot").scroll_into_view_if_needed()
    bar = visit.page.locator("#effect-plot .bars path").last.bounding_box()
    visit.page.mouse.move(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2)
    hover = visit.page.locator("#effect-plot .hovertext")
    expect(hover).to_contain_text("HELLO, I HAVE A QUESTION")
    expect(hover).to_contain_text(f"effect {effects[-1].effect:+.1f}")
    clean(visit)


def test_candidates_and_where_methods_part_ways(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(MONEY)
    result = asked(bundled, visit)
    visit.run()
    visit.open("Candidates")
    bodies = visit.page.locator("#candidates tbody")
    expect(bodies).to_have_count(max(len(r.token_ids) for r in result.results))
    fused, causal = result["flex"], result["causal"]
    parts = [i for i, pair in enumerate(zip(fused.token_ids, causal.token_ids, strict=False)) if pair[0] != pair[1]]
    assert parts, "the example is one where methods part ways"
    for i, body in enumerate(bodies.all()):
        assert ("≠" in (body.locator(".step").text_content() or "")) == (i in parts or i >= len(fused.token_ids))
    first = bodies.nth(parts[0]).locator("tr")
    assert "≠" not in first.first.locator("th").last.text_content()
    assert "≠" in first.last.locator("th").last.text_content()
    cells = first.first.locator("td").all_text_contents()
    for text, candidate in zip(cells, fused.candidates[parts[0]], strict=True):
        probability = float(re.search(r"[\d.]+$", text).group())
        assert candidate.token.replace(" ", "·") in text and abs(probability - candidate.probability) < 0.002
    assert cells[0].startswith("✓")
    clean(visit)


def test_compare_all_ticks_and_shows_every_method(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(MONEY)
    result = asked(bundled, visit, tuple(METHODS))
    ticked = visit.page.locator("#methods input:checked")
    expect(ticked).to_have_count(4)
    visit.page.locator("#compare-all").click()
    expect(ticked).to_have_count(10)
    visit.done()
    visit.open("Methods")
    lines = visit.page.locator("#methods-table tbody tr")
    expect(lines).to_have_count(10)
    answers = [view.answer for view in result["per_prompt"].views]
    for line, method in zip(lines.all(), METHODS, strict=True):
        label, answer, tokens, mean, agreement, cost, rows, encoding = line.locator("th, td").all_text_contents()
        told = result[method]
        assert label.startswith(METHODS[method].label) and answer == told.answer and int(tokens) == len(told.token_ids)
        assert abs(float(mean) - np.mean(told.logprobs)) < 0.002
        assert float(agreement) == pytest.approx(answers.count(told.answer) / 5)
        assert int(cost) == result.prompt.suffix_start and int(rows) == len(told.views)
        assert encoding == ("causal, sequential" if method == "causal" else "segment, aligned")
    said = visit.text("methods-table")
    agreed = [f"P{i}" for i, answer in enumerate(answers, 1) if answer == result["flex"].answer]
    assert f"{len(set(answers))} distinct answers" in said and f"({len(agreed)} of 5)" in said
    assert visit.page.locator("#methods-table .agreement .chip").all_text_contents() == agreed
    clean(visit)


def test_attention_of_a_head_is_that_of_the_engine(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(PEOPLE)
    rows = attention_map(bundled, asked(bundled, visit), 1, 2)
    visit.run()
    visit.open("Attention of a head")
    expect(visit.page.locator("#attention-note")).to_contain_text(PEOPLE)
    visit.number("attention-layer", 1)
    visit.number("attention-head", 2)
    visit.page.locator("#attention-show").click()
    got = visit.plot("attention-plot", "_fullData.map(t => t.z.map(row => Array.from(row)))")
    assert np.allclose(np.square(got[0]), rows, atol=1e-3)
    visit.number("attention-layer", 99)
    visit.page.locator("#attention-show").click()
    expect(visit.page.locator("#attention-message [role=alert]")).to_contain_text(
        "no layer 99: choose from 0 to 5 of tinyqa"
    )
    expect(visit.page.locator("#attention-plot")).to_have_count(0)
    clean(visit)


def test_tabs_say_what_they_need_and_whose_run_they_show(visit: Visit) -> None:
    visit.page.locator("#methods label", has_text="Each paraphrase alone").click()
    visit.fill("question", "Which city is Peru's capital?")
    visit.run()
    for tab, name in (("Attention mass", "mass"), ("Leave-one-out", "effect")):
        visit.open(tab)
        need = visit.page.locator(f"#{name}-note")
        expect(need).to_contain_text("choose Fused (flex) and Each paraphrase alone under Methods")
        expect(visit.page.locator(f"#{name}-plot")).to_have_count(0)
    visit.open("Methods")
    expect(visit.page.locator("#methods-table tbody tr").first.locator("td").nth(3)).to_have_text("–")
    visit.fill("question", "Something else?")
    visit.page.wait_for_timeout(500)
    assert "Which city is Peru's capital?" in visit.text("methods-table")
    assert visit.problems == [], "the mask was redrawn in a closed tab"
    visit.open("Mask")
    expect(visit.page.locator("#token-view")).to_contain_text("ometh")
    clean(visit)


def test_text_stays_text_in_every_tab(visit: Visit) -> None:
    visit.number("max-new-tokens", 3)
    visit.fill("question", NASTY)
    visit.rows([NASTY])
    expect(visit.page.locator("#token-legend")).to_contain_text(re.compile(r"P1 [4-9]\d\s+P2 [4-9]\d\s+suffix"))
    visit.page.locator("#compare-all").click()
    visit.done()
    assert visit.page.locator("#answers-alone .wording").first.text_content() == NASTY
    shown = "".join(visit.page.locator("#token-view .token .text").all_text_contents()).replace("·", " ")
    assert NASTY in shown
    visit.page.locator("#link-token").fill("6")
    token = visit.page.locator("#token-view .token .text").nth(6).text_content()
    expect(visit.page.locator("#link-words")).to_contain_text(f"Query 6 {token} (P1)")
    for tab in TABS:
        visit.open(tab)
        if tab == "Attention of a head":
            visit.page.locator("#attention-show").click()
            visit.plot("attention-plot", "data.length")
        panel = visit.page.get_by_role("tabpanel").filter(visible=True)
        if tab != "Mask":
            expect(panel.locator(".belongs q")).to_have_text(NASTY)
        assert panel.locator("b, script", has_text=re.compile("^x$|hacked")).count() == 0
    visit.open("Leave-one-out")
    assert "<b>x</b>" in "".join(visit.page.locator("#effect-plot .annotation-text").all_text_contents())
    assert visit.page.title() == "flexdemo"
    clean(visit)


def test_weights_by_confidence_run_and_are_shown(visit: Visit, bundled: LanguageModel) -> None:
    visit.example(MONEY)
    visit.more()
    visit.page.locator("#weights-from label", has_text="Confidence").click()
    visit.number("samples", 4)
    expect(visit.page.locator("#shares")).to_contain_text("how many of 4 samples")
    visit.run()
    boxes = [box.input_value() for box in visit.page.locator("[id^=paraphrase-] textarea").all()]
    want = flexdemo.ask(bundled, MONEY, boxes, weights="confidence", samples=4)
    said = visit.text("status-weights")
    assert "by confidence, 4 samples each at temperature 0.7" in said
    assert [float(number) for number in re.findall(r"P\d ([\d.]+)", said)] == pytest.approx(
        want.prompt.weights, abs=6e-4
    )
    clean(visit)


def test_the_note_of_an_example_goes_when_its_text_is_edited(visit: Visit) -> None:
    note = visit.page.locator("#example-note")
    visit.example(PEOPLE)
    expect(note).to_contain_text("Claude Debussy")
    box = visit.page.locator("#paraphrase-2 textarea")
    for edit in (
        lambda: box.press_sequentially(" who"),
        lambda: box.press("Backspace"),  # a key that writes nothing
        lambda: box.fill("Who?"),  # without keys, as dictation does
        lambda: visit.page.locator("#question textarea").fill("Who?"),
    ):
        edit()
        expect(note).not_to_contain_text("Claude")
        visit.example(PEOPLE)
        expect(note).to_contain_text("Claude Debussy")
    visit.page.locator("#remove-1").click()
    expect(note).not_to_contain_text("Claude")
    visit.example(PEOPLE)
    visit.page.locator("#up-2").click()  # P3 is another wording then
    expect(note).not_to_contain_text("Claude")
    visit.example(PEOPLE)
    visit.number("weight-1", 3)
    expect(note).not_to_contain_text("Claude")
    clean(visit)


def test_neither_the_note_nor_the_recording_of_an_example_passes_for_other_settings(visit: Visit) -> None:
    note, line = visit.page.locator("#example-note"), visit.page.locator("#status-run")
    visit.example(PEOPLE)
    expect(line).to_contain_text("press Run to compute it now")
    choose(visit, "strategy", "Isolated")
    expect(note).not_to_contain_text("Claude")
    visit.example(PEOPLE)
    expect(line).to_contain_text("the form has other settings")
    expect(note).not_to_contain_text("Claude")
    choose(visit, "strategy", "Segment")
    visit.page.locator("#methods").get_by_text("Vote").click()  # one answer more changes none
    visit.example(PEOPLE)
    expect(line).to_contain_text("press Run to compute it now")
    expect(note).to_contain_text("Claude Debussy")
    clean(visit)


def test_tabs_fit_a_phone(visitors: Visitors, bundled_url: str) -> None:
    visit = visitors(bundled_url, width=390, height=844)
    weights = """() => { const line = document.querySelector('#status-weights .line');
        return [line.scrollWidth - line.clientWidth, line.offsetHeight]; }"""
    high = visit.page.evaluate(weights)[1]
    visit.page.locator("#compare-all").click()
    visit.done()
    assert visit.page.evaluate(weights) == [0, high], "all are to be seen, and nothing below has moved"
    for tab in TABS:
        visit.open(tab)
        visit.page.wait_for_timeout(200)
        assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= 390, tab
    clean(visit)


def test_long_answers_are_told_in_parts(visitors: Visitors, slow_url: str) -> None:
    visit = visitors(slow_url)
    visit.number("max-new-tokens", 60)
    visit.run()
    visit.open("Candidates")
    steps = visit.page.locator("#candidates .step")
    expect(steps).to_have_count(24)
    visit.number("candidates-step", 30)
    expect(steps.first).to_contain_text("30")
    expect(steps.last).to_contain_text("53")
    clean(visit)
