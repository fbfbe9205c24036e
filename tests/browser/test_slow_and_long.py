"""What takes long, in a real Chromium: streams, Stop, the queue, long prompts, many rows; another model's recording."""

from __future__ import annotations

import re

import models
import numpy as np
import pytest
from browser_visit import PLOTS, Visitors, boxes, clean
from hosting import Site
from playwright.sync_api import expect
from test_asking import METHODS, asked
from test_first_screen import EXAMPLES, RECORDED, recorded
from test_schemes import LADDER, STANDARD
from test_views import mask_of, words

from flexdemo.engine.model import LanguageModel
from flexdemo.masks import Mask
from flexdemo.prompt import build_prompt

pytestmark = pytest.mark.browser

STOPPED = "() => document.querySelector('#status [data-state]')?.textContent === 'Stopped'"
ESCAPE_WHEN_READING = """() => new MutationObserver((_, observer) => {
    if (document.querySelector('#status [data-state]')?.textContent !== 'Reading the prompt') return;
    observer.disconnect();
    document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true, cancelable: true}));
}).observe(document.querySelector('#masthead'), {childList: true, subtree: true, characterData: true})"""
# How long the page's own thread computes for something, until the next picture is out: load of the machine aside.
BUSY = """async (act) => {
    const next = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    const start = performance.now();
    eval(act)();
    await next();
    return performance.now() - start;
}"""
# Names under the masks that stand over each other, of those of one line.
OVERLAPS = """() => [...document.querySelectorAll('.side .js-plotly-plot')].flatMap(gd => {
    const last = [...gd.querySelectorAll('.xtick text')].map(e => [...e.querySelectorAll('.line')].at(-1) ?? e);
    const boxes = last.map(each => each.getBoundingClientRect()).sort((a, b) => a.left - b.left);
    return boxes.filter((a, i) => boxes.some((b, j) => j < i && a.left < b.right - 1 && Math.abs(a.top - b.top) < 8));
})"""


def test_answers_and_rows_grow_while_they_stream(visitors: Visitors, slow_url: str) -> None:
    tokens = 128  # several pictures even of a fast machine, and few enough for rows while they come
    visit = visitors(slow_url, q="What is it?", p=["Name it."], max_new_tokens=tokens)
    assert visit.text("answer-flex") == "", "a link brings no answer, and nothing is left of the page's own example"
    visit.page.evaluate(
        """() => {
            window.lengths = [];
            window.rows = new Set();
            const plots = [...document.querySelectorAll('.side .js-plotly-plot')];
            window.plots = plots;
            const look = () => {
                window.lengths.push(document.querySelector('#answer-flex').textContent.length);
                window.rows.add(plots.map(gd => gd._fullData[0].z.length).join());
            };
            new MutationObserver(look).observe(document.querySelector('#side-left'), {childList: true, subtree: true});
        }"""
    )
    length = visit.plot("mask-plot", "layout.meta.length")
    visit.run()
    lengths = visit.page.evaluate("() => window.lengths")
    assert lengths == sorted(lengths) and len({each for each in lengths if each}) >= 3, "the answer came in pieces"
    visit.until("n => window.plots.every(gd => gd._fullData[0].z.length === n)", length + tokens)
    assert visit.page.evaluate("() => window.plots.every(gd => gd.isConnected)"), "no new figure"
    rows = visit.page.evaluate("() => [...window.rows]")
    assert len(rows) >= 3, "rows came while the answer did"
    assert visit.page.locator("#answer-tokens .token").count() == tokens
    places = boxes(visit, ["left-answer", "mask-plot", "mask-plot-right"])
    assert places["left-answer"][3] - places["left-answer"][1] > 80, "four lines of a long answer are seen"
    assert places["mask-plot"][1] == places["mask-plot-right"][1]
    total = length + tokens
    for side in ("left", "right"):
        cells = visit.cells(side)
        assert cells[length:, :].tolist() == [[k <= q for k in range(total)] for q in range(length, total)]
    clean(visit)


def test_stop_and_escape_really_stop_and_say_so_and_an_example_ends_a_run(visitors: Visitors, slow_url: str) -> None:
    visit = visitors(slow_url, q="What is it?", p=["word " * 900], max_new_tokens=1024)
    page, question = visit.page, visit.page.locator("#question textarea")
    visit.open("Candidates")
    question.focus()
    page.evaluate(ESCAPE_WHEN_READING)  # reading takes much longer than this page takes to see it
    page.keyboard.press("Control+Enter")
    visit.until(STOPPED)
    visit.settle()
    assert visit.text("status") == "Stopped" and visit.text("answer-flex") == ""
    assert visit.text("left-figures") == visit.text("right-figures") == "stopped"
    for name, keys in (("run", "Control+Enter"), ("stop", "Escape")):
        expect(page.locator(f"#{name}")).to_have_attribute("aria-keyshortcuts", keys)

    visit.fill(paraphrase_1="Name it.")
    for i in range(2):  # a picture that was on its way to the page must not take the place of what Stop said
        question.press("Control+Enter")
        visit.running()
        if i == 0:  # Escape of an open list closes that and stops nothing
            page.locator("#left-scheme input").click()
            options = page.get_by_role("option")
            expect(options.first).to_be_visible()
            page.keyboard.press("Escape")
            expect(options).to_have_count(0)
            assert visit.text("status").startswith("Running")
            page.keyboard.press("Escape")
        else:
            page.locator("#stop").click()
        visit.until(STOPPED)
        visit.settle()
        assert visit.text("status") == "Stopped", i
        assert visit.text("answer-flex") and len(visit.plot("mask-plot", "layout.meta.answer")) < 1024
    assert "Press Run" in visit.text("candidates-note"), "what was stopped is no last run"

    page.locator("#run").click()
    visit.running()
    visit.example(1, EXAMPLES[1]["question"])
    answers = recorded(EXAMPLES[1]["question"])
    assert (visit.text("answer-flex"), visit.text("answer-causal")) == (answers["flex"], answers["causal"])
    assert visit.text("status").startswith(f"Recorded {RECORDED['date']} with tinyqa")
    visit.run()  # the model is free
    assert visit.text("answer-flex") != answers["flex"] and "recorded" not in visit.text("left-figures")
    clean(visit)


def test_who_waits_sees_the_place_in_the_queue_and_nothing_of_who_is_first(visitors: Visitors, slow_url: str) -> None:
    visit = visitors(slow_url, q="Who is second?", p=["Tell it."], max_new_tokens=3)
    first = Site(slow_url)
    run, session = first.event("run"), first.session()
    joined = first.join(run, first.data(run, question="Who is first?", max_new_tokens=1024), session).json()
    told = first.listen(session)
    next(line for line in told if b"process_generating" in line)
    queue = visit.page.locator("#queue")
    visit.page.locator("#run").click()
    expect(queue).to_contain_text(re.compile(r"queue: \d+/\d+"))
    assert visit.text("answer-flex") == ""
    first.post("cancel", {"session_hash": session, "fn_index": run, "event_id": joined["event_id"]})
    visit.done()
    expect(queue).not_to_contain_text("queue")
    assert len(visit.plot("mask-plot", "layout.meta.answer")) == 3
    read = "".join(visit.text("token-view").split())
    assert "second" in read and "first" not in read
    assert "Who is second?" in visit.text("gave-note") and "Who is first?" not in visit.page.content()
    assert b"Who is second?" not in told.read()
    clean(visit)


def test_a_broken_link_says_so_and_the_page_shows_what_another_model_recorded(
    visitors: Visitors, slow_url: str
) -> None:
    visit = visitors(slow_url, q="Who?", model="gpt2")
    page = visit.page
    said = "model in the link is 'gpt2', which is not offered here: choose from slow, facts"
    expect(page.locator("#link-message [role=alert]")).to_contain_text(said)
    assert visit.value("question") != "Who?" and page.locator("[role=alert]").filter(visible=True).count() == 1
    assert visit.text("status").startswith(f"Recorded {RECORDED['date']} with tinyqa, float32: press Run to ask ")
    expect(page.locator(".side.stale")).to_have_count(0)  # it is of no earlier prompt
    page.locator("#check").click()
    expect(page.locator("#check")).to_have_text("proved ✓")  # by the model that made it, which is offered too


def test_another_model_is_chosen_and_20_rows_are_asked(
    visitors: Visitors, slow_url: str, bundled: LanguageModel
) -> None:
    visit = visitors(slow_url, q="What is it?", p=[f"Name it, asked {i} times." for i in range(1, 20)])
    page = visit.page
    assert visit.value("model") == "slow"
    tokens = page.locator("#token-view .token").count()
    visit.choose("model", "facts")
    expect(page.locator("#facts")).to_contain_text("tinyqa")
    assert page.locator("#token-view .token").count() != tokens, "another tokenizer"
    page.locator("#add-paraphrase").click()
    visit.settle()
    visit.fill(paraphrase_20="What is the capital of Peru?")
    assert len(visit.wordings()) == 20
    page.evaluate("() => window.scrollTo(0, 0)")
    visit.run()
    assert page.evaluate("() => window.scrollY") == 0, "Run is in reach of the answers, however many wordings there are"
    result = asked(bundled, visit, methods=METHODS)
    assert visit.text("answer-flex") == result["flex"].answer
    assert [visit.text(f"alone-{i}").split(" · ")[0] for i in range(21)] == [
        f"alone: {' '.join(view.answer.split())}" for view in result["per_prompt"].views
    ]
    names = [name for name, *_ in visit.plot("mask-plot", "layout.meta.segments")]
    assert page.evaluate(OVERLAPS) == [], "of the names under a mask"
    assert "P21" in names and page.locator("#mask-plot .nsewdrag").bounding_box()["height"] > 150
    mask = Mask.over("segment", result.prompt.segments, answers=len(result["flex"].token_ids))
    assert (visit.cells() == mask.cells()).all()
    visit.unfold("tools")
    expect(page.locator("#repeat")).to_contain_text("flexdemo.load_model(")
    clean(visit)


def test_4096_tokens_have_an_overview_and_exact_parts(visitors: Visitors, slow_url: str) -> None:
    tokenizer, rows, tokens = models.tokenizer(), 4, 4096
    per_row = tokens // rows
    text = "word " * 2000
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = [f"{i} " + tokenizer.decode(ids[: per_row - 9]).strip() for i in range(rows)]
    visit = visitors(slow_url, q=texts[0], p=texts[1:])
    page = visit.page
    prompt = build_prompt(tokenizer, texts[0], texts[1:])
    length = len(prompt.token_ids)
    assert tokens * 0.95 <= length <= tokens
    assert visit.plot("mask-plot", "layout.meta.length") == length
    block = visit.plot("mask-plot", "layout.meta.block")
    assert block > 1 and len(visit.cells()) == -(-length // block)
    masks = [mask_of(prompt, scheme) for scheme in (LADDER[-1], STANDARD)]
    cells = [mask.cells() for mask in masks]
    means = np.array(visit.plot("mask-plot", "_fullData[0].z.map(row => Array.from(row))"))
    whole = length // block * block
    blocks = cells[0][:whole, :whole].reshape(whole // block, block, whole // block, block).mean(axis=(1, 3))
    assert np.allclose(means[: len(blocks), : len(blocks)], blocks, atol=0.01)

    token = masks[0].segments[2].start + 5
    busy = page.evaluate(BUSY, f"() => document.querySelectorAll('#token-view .token')[{token}].click()")
    assert (
        words(visit)[0].startswith(f"Left: query {token} ") and f"sees {cells[0][token].sum()} of " in words(visit)[0]
    )
    assert f"sees {cells[1][token].sum()} of " in words(visit)[1]
    assert busy < 5000, "ms; a second on a machine without other work"

    first, last = length // block // 2, length // block // 2 + 400 // block  # Plotly wants 20 pixels
    visit.drag("left", (first, first), (last, last))
    visit.until("""() => ['#mask-plot', '#mask-plot-right'].every(
        name => document.querySelector(`${name} .js-plotly-plot`).layout.meta.part)""")
    for side, exact in zip(PLOTS, cells, strict=True):
        part = visit.plot(PLOTS[side], "layout.meta.part")
        (top, bottom), (left, right) = part["rows"], part["columns"]
        assert top <= first * block + block and last * block - block <= bottom and bottom - top <= 512
        assert (visit.cells(side) == exact[top:bottom, left:right]).all()
    page.mouse.dblclick(*visit.point("left", 20, 20))
    visit.until("""() => ['#mask-plot', '#mask-plot-right'].every(
        name => !document.querySelector(`${name} .js-plotly-plot`).layout.meta.part)""")
    assert len(visit.cells()) == len(visit.cells("right")) == -(-length // block)
    clean(visit)
