"""The page for everybody, in a real Chromium: texts as text, axe-core's rules, dark mode, keyboard, calm, help."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser_visit import CONTROLS, Visit, Visitors, clean, fits_sideways
from playwright.sync_api import Dialog, Page

from flexdemo.page.terms import TERMS

axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python, which brings axe-core, is missing")
pytestmark = pytest.mark.browser

AXE = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
CALL = "alert(1);document.title='hacked';fetch('http://192.0.2.1/')"
MARKUP = (
    f'<script>{CALL}</script><img src=x onerror="{CALL}"><svg onload="{CALL}"></svg>'
    f'<a href="javascript:{CALL}">link</a> ${{1+1}} {{{{7*7}}}} "\'>&lt;b&gt;'
)
HEBREW = "מהי בירת פרו?"
RTL = f"{HEBREW} עיר הבירה <b>x</b>"
# Where the first letter and the question mark of the question stand: read from the left, the mark is beyond its end.
ENDS = """() => [0, 12].map(i => {
    const range = document.createRange(), text = document.querySelector('#gave-note q').firstChild;
    range.setStart(text, i);
    range.setEnd(text, i + 1);
    return range.getBoundingClientRect().left;
})"""
# Notes each stop of the focus: [its number, whether an outline is seen, what it is].
WATCH_FOCUS = """() => {
    window.stops = [];
    let count = 0;
    document.addEventListener('focusin', ({target: e}) => {
        if (!e.dataset.stop) e.dataset.stop = String(count += 1);
        const outlined = [e, e.parentElement, e.closest('.block')].filter(Boolean).map(each => getComputedStyle(each))
            .some(style => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2);
        window.stops.push([e.dataset.stop, outlined, e.outerHTML.slice(0, 120)]);
    }, true);
}"""
TABS = (
    "Candidates", "All methods", "Where wordings merge", "Heads that read wordings", "A head", "The mask up close",
    "What each wording gave",
)  # fmt: skip
FIGURES = {"Where wordings merge": "merge-plot", "Heads that read wordings": "heads-plot"}


def findings(visit: Visit, within: str = "html") -> list[str]:
    """What axe-core finds on the page, or in a part of it, as it is now; serious and critical only."""
    if not visit.page.evaluate("() => 'axe' in window"):
        visit.page.evaluate(AXE)
    visit.until("() => document.getAnimations().every(each => each.playState !== 'running')")
    # The colours of the code editor are gradio's.
    script = "(within) => axe.run({include: [[within]], exclude: [['.cm-editor']]}, {resultTypes: ['violations']})"
    found = visit.page.evaluate(script, within)
    assert len(found["passes"]) > (20 if within == "html" else 5), "axe-core looked at the page"
    return [
        f"{each['id']} ({each['impact']}): {node['target']} {node['html'][:120]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def background(visit: Visit) -> list[int]:
    return visit.page.evaluate("() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")


def open_all(visit: Visit) -> None:
    """Everything that opens on demand, opened."""
    for name in ("masking", "methods-group", "answering", "weighing", "tools", "results"):
        visit.page.locator(f"#{name} > button").click()
    visit.page.evaluate(
        "() => document.querySelectorAll('details:not(.pill *)').forEach(each => { each.open = true; })"
    )
    visit.settle()


def test_texts_are_text_everywhere_hebrew_begins_at_its_right_and_terms_open_by_keyboard(visit: Visit) -> None:
    page, dialogs = visit.page, []

    def dismiss(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    visit.fill(question=f"{HEBREW} {MARKUP}", paraphrase_1=RTL, paraphrase_2=f"=1+1 {MARKUP}")
    visit.run()
    page.locator("#token-view .token").nth(40).click()
    page.mouse.move(*visit.point("left", 30, 8))
    page.locator(".hovertext").wait_for()
    for name in ("masking", "weighing", "tools"):
        visit.unfold(name)
    for tab in TABS:
        visit.open(tab)
        for summary in page.locator(".term:not([open]) summary").filter(visible=True).all()[::-1]:
            summary.focus()
            page.keyboard.press("Enter")
    for name in ("gave-note", "repeat"):
        assert "onerror" in visit.text(name)
    assert "<script>alert(1)" in "".join(visit.text("token-view").split())
    assert "בירת" in page.locator("#paraphrase-1 textarea").input_value()
    made = "img[src='x'], svg[onload], a[href^='javascript'], [onerror], #page script"
    assert page.locator(made).count() == 0 and page.title() == "flexdemo" and dialogs == []
    assert fits_sideways(visit)
    page.remove_listener("dialog", dismiss)
    first, mark = page.evaluate(ENDS)
    box = page.locator("#question textarea")
    assert mark < first and box.evaluate("box => getComputedStyle(box).unicodeBidi") == "plaintext"

    told: dict[str, Any] = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('.term[open]')].map(each =>
            [each.querySelector('summary').textContent, [each.querySelector('p').textContent,
                each.querySelector('a').href, each.querySelector('a').rel]]))"""
    )
    assert set(told) == set(TERMS)
    for text, url, rel in told.values():
        assert len(text) > 40 and url.startswith("https://") and "noopener" in rel


def reached_by_tab(page: Page) -> None:
    """Every control is a stop of the Tab key, and where the focus is can be seen."""
    count = page.evaluate(f"() => ({CONTROLS})().length")
    assert count > 60
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


def light_words(visit: Visit, name: str) -> None:
    """Words of a figure in the dark are as light as the page's: of every axis, also of a second one, of a colour bar.

    axe-core does not look into pictures.
    """
    visit.plot(name, "data.length")
    fills = "texts => texts.map(each => [each.textContent, getComputedStyle(each).fill])"
    told = [(text, fill) for text, fill in visit.page.locator(f"#{name} text").evaluate_all(fills) if text]
    assert len(told) > 20
    dim = [(text, fill) for text, fill in told if min(map(int, re.findall(r"\d+", fill)[:3])) < 140]
    assert not dim, dim


def fits(visit: Visit, tab: str) -> None:
    assert fits_sideways(visit), tab


def motion_of_a_run(visit: Visit) -> float:
    """The longest of all that moves while a page runs and is pointed at, in ms."""
    watch = """() => {
        window.longest = 0;
        const look = () => {
            for (const each of document.getAnimations()) {
                const {iterations, duration} = each.effect.getComputedTiming();
                window.longest = Math.max(window.longest, iterations * duration);
            }
            window.watching = requestAnimationFrame(look);
        };
        look();
    }"""
    visit.page.evaluate(watch)
    visit.page.locator("#run").click()
    for name in ("add-paraphrase", "equal-weights", "copy-link", "run"):
        visit.page.locator(f"#{name}").hover()
        visit.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    visit.done()
    return visit.page.evaluate("() => { cancelAnimationFrame(window.watching); return window.longest ?? Infinity; }")


def axe_everywhere(visit: Visit, *, look: Callable[[str], None] = lambda tab: None) -> None:
    """axe-core finds nothing on a page that has run, with everything open, nor in a tab, where `look` looks as well."""
    page = visit.page
    open_all(visit)
    page.locator("#token-view .token").nth(5).click()
    page.locator("#check").click()
    visit.settle()
    assert findings(visit) == []
    for tab in TABS:
        visit.open(tab)
        if tab == "A head":
            page.locator("#attention-show").click()
            visit.settle()
        assert findings(visit, "#tabs") == [], tab
        look(tab)


def axe_at_an_error(visit: Visit) -> None:
    """Of what is typed wrong, while the answers are those of an earlier prompt."""
    visit.fill(question="")
    visit.page.locator("#message [role=alert]").wait_for()
    assert findings(visit, "#ask") == [] == findings(visit, "#sides")
    visit.page.evaluate("() => document.querySelector('#stop').replaceWith(document.createElement('input'))")
    assert any(each.startswith("label (critical)") for each in findings(visit, "#actions")), "it sees a fault"


def test_in_the_dark_axe_finds_nothing_serious_words_are_light_and_tab_reaches_all(
    visitors: Visitors, bundled_url: str
) -> None:
    visit = visitors(bundled_url, scheme="dark")
    assert max(background(visit)) < 80
    papers = [visit.plot(name, "_fullLayout.paper_bgcolor") for name in ("mask-plot", "mask-plot-right", "gave-plot")]
    assert all(each.endswith(", 0)") for each in papers), "no white box on a dark page"
    visit.run()
    axe_everywhere(visit, look=lambda tab: light_words(visit, FIGURES[tab]) if tab in FIGURES else None)
    reached_by_tab(visit.page)
    visit.settle()  # menus that were left have asked the program
    axe_at_an_error(visit)
    clean(visit)


def test_on_a_phone_axe_finds_nothing_serious_tabs_fit_and_reduced_motion_is_respected(
    visitors: Visitors, bundled_url: str
) -> None:
    visit = visitors(bundled_url, width=390, height=844, motion="reduce")
    assert max(background(visit)) > 200
    assert findings(visit) == []
    assert motion_of_a_run(visit) <= 1
    axe_everywhere(visit, look=lambda tab: fits(visit, tab))
    visit.page.emulate_media(reduced_motion="no-preference")
    assert motion_of_a_run(visit) > 1, "what nobody asked to be spared is there"
    axe_at_an_error(visit)
    clean(visit)
