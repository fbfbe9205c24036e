"""The page for everybody, in a real Chromium: axe-core's rules, keyboard, names of figures, calm, help, no jumps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from browser_visit import Visit, Visitors, clean
from playwright.sync_api import expect

from flexdemo.page.terms import TERMS

axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python, which brings axe-core, is missing")
pytestmark = pytest.mark.browser

AXE = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
# A control that can be seen and used; of a radio group one is a stop of the Tab key, the others are reached by arrows.
CONTROLS = """() => [...document.querySelectorAll('#page :is(a[href], button, input, textarea, summary, [tabindex])')]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && e.offsetWidth > 2 && !e.disabled && e.tabIndex >= 0)
    .filter(e => !(e.type === 'radio' && !e.checked))"""
# Notes each stop of the focus: [its number, whether an outline is seen, what it is].
WATCH_FOCUS = """() => {
    window.stops = [];
    let count = 0;
    document.addEventListener('focusin', ({target: e}) => {
        const style = getComputedStyle(e);
        if (!e.dataset.stop) e.dataset.stop = String(count += 1);
        const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
        window.stops.push([e.dataset.stop, outlined, e.outerHTML.slice(0, 120)]);
    }, true);
}"""
BOXES = """() => ['answer-flex', 'answer-causal', 'stats-flex', 'answers', 'answers-alone', 'mask-plot', 'token-view']
    .map(name => document.getElementById(name).getBoundingClientRect())
    .map(box => [box.left + scrollX, box.top + scrollY, box.width, box.height])"""


@pytest.fixture
def visit(visitors: Visitors, slow_url: str) -> Visit:
    return visitors(slow_url)


def findings(visit: Visit, within: str = "html") -> list[str]:
    """What axe-core finds on the page, or in a part of it, as it is now; serious and critical only."""
    if not visit.page.evaluate("() => 'axe' in window"):
        visit.page.evaluate(AXE)
    script = "(within) => axe.run(within, {resultTypes: ['violations']})"
    found = visit.page.evaluate(script, within)
    assert len(found["passes"]) > (20 if within == "html" else 5), "axe-core looked at the page"
    return [
        f"{each['id']} ({each['impact']}): {node['target']} {node['html'][:120]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def open_all(visit: Visit) -> None:
    """Everything that opens on demand, opened."""
    visit.page.locator("#more > button").click()
    visit.page.evaluate("() => document.querySelectorAll('details').forEach(each => { each.open = true; })")


def test_axe_sees_a_fault(visit: Visit) -> None:
    visit.page.evaluate("() => document.querySelector('#question label').replaceWith(document.createElement('input'))")
    assert any(each.startswith("label (critical)") for each in findings(visit))


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_no_serious_findings_before_and_after_a_run_and_on_any_tab(
    visitors: Visitors, bundled_url: str, width: int, scheme: str
) -> None:
    visit = visitors(bundled_url, width=width, height=900, scheme=scheme)
    assert findings(visit) == []
    visit.run()
    visit.page.wait_for_timeout(400)  # buttons that a result enables get their colours within 0.2 s
    assert findings(visit) == []
    open_all(visit)
    assert findings(visit) == []
    for tab in visit.page.locator("#tabs").get_by_role("tab").all_text_contents():
        visit.open(tab.strip())
        if "head" in tab:
            visit.page.locator("#attention-show").click()
            visit.plot("attention-plot", "data")
        visit.page.wait_for_timeout(200)
        assert findings(visit, "#tabs") == [], tab
    visit.fill("question", "")
    expect(visit.page.locator("#message [role=alert]")).to_be_visible()
    assert findings(visit) == []
    clean(visit)


# Keyboard


def test_everything_is_reached_by_tab_and_the_focus_is_seen(visitors: Visitors, bundled_url: str) -> None:
    visit = visitors(bundled_url, scheme="dark")
    visit.run()
    open_all(visit)
    page = visit.page
    count = page.evaluate(f"() => ({CONTROLS})().length")
    assert count > 40
    page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    page.evaluate(WATCH_FOCUS)
    stops: list[Any] = []
    for i in range(2 * count):
        page.keyboard.press("Tab")
        if i % 20 == 19:
            stops = page.evaluate("() => window.stops")
            if len({stop for stop, *_ in stops}) < len(stops):  # once round
                break
    hidden = [html for _, outlined, html in stops if not outlined]
    left = page.evaluate(f"() => ({CONTROLS})().filter(e => !e.dataset.stop).map(e => e.outerHTML.slice(0, 160))")
    assert left == [] and [html for html in hidden if not html.startswith("<body")] == []


def test_escape_stops_and_ctrl_enter_runs(visit: Visit) -> None:
    visit.number("max-new-tokens", 256)
    visit.page.locator("#paraphrase-1 textarea").focus()
    visit.page.keyboard.press("Control+Enter")
    expect(visit.page.locator("#answer-flex")).not_to_be_empty()
    visit.page.keyboard.press("Escape")
    expect(visit.page.locator("#status-run")).to_contain_text("Stopped")
    for name, keys in (("run", "Control+Enter"), ("stop", "Escape")):
        expect(visit.page.locator(f"#{name}")).to_have_attribute("aria-keyshortcuts", keys)
    clean(visit)


def test_escape_closes_an_open_list_and_stops_nothing(visit: Visit) -> None:
    visit.number("max-new-tokens", 60)
    visit.page.locator("#run").click()
    expect(visit.page.locator("#answer-flex")).not_to_be_empty()
    visit.page.locator("#strategy input").click()
    options = visit.page.get_by_role("option")
    expect(options.first).to_be_visible()
    visit.page.keyboard.press("Escape")
    expect(options).to_have_count(0)
    visit.done()
    assert "Stopped" not in visit.text("status-run")


# Figures in words


def test_figures_have_names_that_tell_their_facts(visitors: Visitors, bundled_url: str) -> None:
    answered = visitors(bundled_url)
    answered.run()
    page = answered.page
    mask = page.get_by_role("figure", name=re.compile(r"Density 0\.\d+: that share of the \d+ × \d+ cells is visible"))
    expect(mask).to_have_id("mask-plot")
    answered.open("Attention mass")
    mass = page.get_by_role("figure", name="Mean over the answer's tokens")
    expect(mass).to_have_id("mass-plot")
    said = page.locator("#mass-note .unseen").text_content() or ""
    shares = dict(re.findall(r"(prefix|P\d+|suffix \+ answer) (\d\.\d{3})", said))
    wordings = 1 + page.locator("[id^=paraphrase-]").count()
    assert set(shares) == {"prefix", "suffix + answer", *(f"P{i + 1}" for i in range(wordings))}
    assert sum(map(float, shares.values())) == pytest.approx(1, abs=0.005)
    answered.open("Leave-one-out")
    expect(page.get_by_role("figure", name="Log-probability of the answer lost")).to_have_id("effect-plot")
    said = page.locator("#effect-note .unseen").text_content() or ""
    told = {name: float(effect) for name, effect in re.findall(r"(P\d+) ([+-]?\d+\.\d{3})", said)}
    assert "+0.000" not in said and "-0.000" not in said, "what rounds to nothing has no sign, as on the bars"
    bars = answered.plot("effect-plot", "data[0].x.length")
    assert len(told) == bars == wordings
    drawn = sorted(page.evaluate("() => [...document.querySelector('#effect-plot .js-plotly-plot')._fullData[0].x]"))
    assert sorted(told.values()) == pytest.approx(drawn, abs=0.0006)
    clean(answered)


# Calm


def test_reduced_motion_is_respected(visitors: Visitors, slow_url: str) -> None:
    longest = """() => Math.max(0, ...document.getAnimations().map(each => each.effect.getComputedTiming())
        .map(timing => timing.iterations * timing.duration))"""
    moving: dict[str, float] = {}
    for motion in ("reduce", "no-preference"):
        visit = visitors(slow_url, motion=motion)
        visit.number("max-new-tokens", 40)
        visit.page.locator("#run").click()
        times = []
        for _ in range(5):
            visit.page.locator("#add-paraphrase").hover()
            times.append(visit.page.evaluate(longest))
            visit.page.locator("#equal-weights").hover()
            times.append(visit.page.evaluate(longest))
        moving[motion] = max(times)
    assert moving["reduce"] <= 1 < moving["no-preference"]


def test_nothing_jumps_from_a_fresh_page_to_the_answer(visit: Visit) -> None:
    visit.number("max-new-tokens", 24)
    boxes = [visit.page.evaluate(BOXES)]
    visit.page.locator("#run").click()
    for _ in range(15):
        visit.page.wait_for_timeout(40)
        boxes.append(visit.page.evaluate(BOXES))
    visit.done()
    visit.page.wait_for_timeout(300)
    boxes.append(visit.page.evaluate(BOXES))
    for later in boxes[1:]:
        for before, after in zip(boxes[0], later, strict=True):
            assert after == pytest.approx(before, abs=1.5)
    assert visit.text("answer-flex")


# Help


def test_terms_open_by_keyboard_and_fetch_nothing(visitors: Visitors, bundled_url: str) -> None:
    visit = visitors(bundled_url)
    page = visit.page
    page.locator("#more > button").click()
    for tab in ("Mask", "Attention mass", "Leave-one-out"):
        visit.open(tab)
        for summary in page.locator(".term summary").all():
            if summary.is_visible() and not summary.evaluate("each => each.parentElement.open"):
                summary.focus()
                page.keyboard.press("Enter")
    told: dict[str, Any] = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('.term[open]')].map(each =>
            [each.querySelector('summary').textContent, [each.querySelector('p').textContent,
                each.querySelector('a').href, each.querySelector('a').rel]]))"""
    )
    assert set(told) == set(TERMS) and len(told) == 7
    for name, (text, url, rel) in told.items():
        meaning = text.split(" Read on: ")[0]
        assert len(re.findall(r"[.](?: |$)", meaning)) == 2, f"{name} is told in two sentences"
        assert url.startswith("https://") and "noopener" in rel
    page.locator("#program summary").click()
    shown = visit.text("program")
    assert bundled_url.rstrip("/") in shown and "7860" not in shown and 'api_name="/generate"' in shown, "this server"
    clean(visit)
