"""Tools in a real Chromium: the mask up close, link, files, program, proof."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_visit import NASTY, Visit, Visitors, clean
from playwright.sync_api import Request, expect
from test_asking import asked

import flexdemo
from flexdemo.data.table import Row, write_table
from flexdemo.engine.model import LanguageModel
from flexdemo.masks import Mask

pytestmark = pytest.mark.browser

JOIN = "/queue/join"
EXAMPLES = json.loads((Path(flexdemo.__file__).parents[1] / "assets" / "examples.json").read_text(encoding="utf-8"))


def row_of(record: str, method: str, prediction: str, right: bool, **changes: Any) -> Row:
    made = Row(
        id=record, question=f"Question {record}?", paraphrases=("first wording", NASTY), answers=("Lima",),
        method=method, view=method, prediction=prediction, generation=f" {prediction}", tokens=2, exact_match=right,
        contains=right, token_f1=float(right), lemma_match=None, lemma_match_both=None, agreement=None,
        prompt_tokens=30, rows=1, seconds=0.01,
    )  # fmt: skip
    return replace(made, **changes)


def download(visit: Visit, button: str) -> tuple[str, bytes]:
    with visit.page.expect_download() as waiting:
        visit.page.locator(f"#{button}").click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_a_pair_decodes_again_and_the_mask_up_close_redraws_counts_and_saves_what_is_on_the_page(
    visitors: Visitors, bundled_url: str, bundled: LanguageModel
) -> None:
    """A pair redraws the page once, also where its widget is open."""
    visit = visitors(bundled_url)
    page = visit.page
    guernica = next(i for i, each in enumerate(EXAMPLES) if each["title"] == "Guernica")
    visit.example(guernica, EXAMPLES[guernica]["question"])
    before, length = visit.text("answer-flex"), visit.plot("mask-plot", "layout.meta.length")
    visit.open("The mask up close")
    names = "() => window.gradio_config.dependencies.map(({id, api_name}) => [id, api_name])"
    redraws = {number for number, name in page.evaluate(names) if str(name).startswith("redraw")}
    sent: list[int] = []

    def note(request: Request) -> None:
        if JOIN in request.url:
            sent.append(json.loads(request.post_data)["fn_index"])

    page.on("request", note)
    pair = page.locator("[data-pair='P3>P1']")
    pair.click()
    visit.done()
    assert len([number for number in sent if number in redraws]) == 1, sent
    result = asked(bundled, visit, mask="segment+P3>P1")
    assert visit.text("answer-flex") == result["flex"].answer != before
    mask = Mask.over("segment+P3>P1", result.prompt.segments, answers=len(result["flex"].token_ids))
    visit.until("n => document.querySelector('#mask-plot .js-plotly-plot')?._fullData?.[0].z.length === n", mask.tokens)
    assert (visit.cells() == mask.cells()).all()
    assert visit.value("mask-text") == "segment+P3>P1"
    expect(pair).to_have_attribute("aria-pressed", "true")
    expect(pair).to_be_focused()
    assert pair.get_attribute("aria-label") == "P3 sees P1 (visible: opened by +P3>P1)"
    visit.unfold("masking")
    pair.focus()
    sent.clear()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-pair='P3>P2']")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    visit.done()
    assert visit.text("answer-flex") == before and visit.value("mask-text") == "segment"
    assert len([number for number in sent if number in redraws]) == 1, sent
    page.remove_listener("request", note)
    page.locator("#check").click()
    expect(page.locator("#check")).to_have_text("proved ✓")

    cells, right = visit.cells(), visit.cells("right")
    cells, right = cells[:length, :length], right[:length, :length]
    told = {"kept": cells & right, "removed": ~cells & right, "added": cells & ~right}
    said = visit.text("difference-caption")
    for word, kind in told.items():
        assert f"{word} {kind.sum():,} ({kind.mean():.4f})" in said
    assert f"Density {cells.mean():.4f}" in said and f"Density {right.mean():.4f}" in said
    (drawn,) = visit.plot("difference-plot", "_fullData.map(t => t.z.map(row => Array.from(row)))")
    assert (np.array(drawn) == np.select(list(told.values()), [1, 2, 3], 0)).all()
    name, data = download(visit, "mask-csv")
    lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    assert name == "mask.csv" and [line[1:] for line in lines[1:]] == cells.astype(int).astype(str).tolist()
    for kind in ("png", "difference"):
        name, data = download(visit, f"mask-{kind}")
        assert name.endswith(".png") and data.startswith(b"\x89PNG")
    visit.choose("left-scheme", "anchor · aligned · weights")
    expect(page.locator("#difference-caption")).to_contain_text("Left: anchor · aligned · weights")

    *most, last = [name for name, *_ in visit.plot("mask-plot", "layout.meta.segments") if name[0] == "P"]
    page.locator("#mask-text :is(textarea, input)").fill("segment" + "".join(f"-suffix>{name}" for name in most))
    page.keyboard.press("Enter")
    visit.done()
    page.locator(f"[data-pair='suffix>{last}']").click()
    visit.settle()
    expect(page.locator("#pairs-message [role=alert]")).to_contain_text("hides every wording from the suffix")
    clean(visit)


# Links


def test_a_link_opens_the_same_page_again(visitors: Visitors, bundled_url: str) -> None:
    permissions = ("clipboard-read", "clipboard-write")
    visit = visitors(bundled_url, permissions=permissions)
    page = visit.page
    visit.fill(question=f"{NASTY} Who?", paraphrase_2="שלום עולם")
    visit.number("weight-1", 0.5)
    visit.unfold("masking")
    visit.choose("strategy", "Anchor")
    visit.choose("left-scheme", "bidirectional · right aligned · raw")
    visit.done()
    page.locator("#copy-link").click()
    expect(page.locator("#link-said")).to_contain_text("Link copied")
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert link == page.locator("#link textarea").input_value() and link.startswith(f"{bundled_url}?")
    texts, weights, answer = visit.wordings(), visit.weights(), visit.text("answer-flex")
    clean(visit)

    visit.open_page(link)
    assert (visit.value("question"), visit.wordings(), visit.weights()) == (f"{NASTY} Who?", texts, weights)
    assert visit.value("left-scheme") == "bidirectional · right aligned · raw" and visit.text("example-note") == ""
    assert "anchor" in visit.text("masking") and visit.text("answer-flex") == ""
    visit.run()
    assert visit.text("answer-flex") == answer and visit.page.title() == "flexdemo"

    visit.unfold("answering")
    dimmed = "e => { let all = 1; for (; e; e = e.parentElement) all *= getComputedStyle(e).opacity; return all; }"
    for temperature, opacity in ((0.5, 0.7), (0, 1)):
        visit.number("temperature", temperature)
        visit.settle()
        expect(page.locator("#message [role=note]")).to_be_visible(visible=temperature > 0)
        for name in ("#answer-flex", "#left-figures p, #left-figures .prose", "#alone-1 b"):
            assert page.locator(name).first.evaluate(dimmed) == pytest.approx(opacity), name


# Files, program, proof


def test_the_last_run_is_proved_saved_and_repeated_and_a_results_file_asks_the_next(
    visitors: Visitors, bundled_url: str, tmp_path: Path
) -> None:
    visit = visitors(bundled_url, q=f"{NASTY} ../../etc/passwd", p=["Name it."], max_new_tokens=5)
    page = visit.page
    expect(page.locator("#check")).to_be_disabled()
    visit.run()
    page.locator("#check").click()
    expect(page.locator("#check")).to_have_text("proved ✓")
    assert visit.text("proof").startswith("✓ Proved")
    answer = visit.text("answer-flex")
    visit.unfold("tools")

    name, data = download(visit, "save-json")
    told = json.loads(data)
    assert re.fullmatch(r"flexdemo-[a-z0-9-]+\.json", name)
    assert {each["method"]: each["answer"] for each in told["results"]}["flex"] == answer
    length = len(told["prompt"]["token_ids"])
    name, data = download(visit, "save-csv")
    lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    prompt = visit.cells()[:length, :length].astype(int).astype(str).tolist()
    assert name.endswith("-mask.csv") and [line[1:] for line in lines[1:]] == prompt
    name, data = download(visit, "save-png")
    assert name.endswith("-mask.png") and data.startswith(b"\x89PNG")
    name, data = download(visit, "save-report")
    (tmp_path / "report.html").write_bytes(data)
    report = page.context.new_page()
    outside: list[str] = []
    report.on("request", lambda request: outside.append(request.url))
    report.goto((tmp_path / "report.html").as_uri())
    report.locator("#mask .nsewdrag").wait_for()
    assert answer in report.locator("body").inner_text() and outside == [(tmp_path / "report.html").as_uri()]
    assert report.title().startswith("flexdemo: <b>x</b> <script>")
    report.close()

    program = "\n".join(page.locator("#repeat .cm-line").all_text_contents())
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(program, "program", "exec"), {"__name__": "program"})
    assert f"flex: {answer}" in said.getvalue()

    path = tmp_path / "my results.csv"
    rows = [
        row_of("1", "flex", "Lima", True), row_of("1", "causal", "Lima", True),
        row_of("2", "flex", "Lima", True), row_of("2", "causal", NASTY, False),
        row_of("3", "flex", "Quito", False, paraphrases=()), row_of("3", "causal", "Quito", False, paraphrases=()),
    ]  # fmt: skip
    write_table(rows, path)
    visit.unfold("results")
    page.locator("#results-file input[type=file]").set_input_files(path)
    table = page.locator("#results-summary table")
    expect(table).to_be_in_viewport()
    visit.settle()
    lines = [line.split("\t") for line in table.inner_text().splitlines()]
    assert [line[0] for line in lines] == ["Method", "flex", "causal"]
    assert lines[1][2].startswith("0.667 [") and lines[2][2].startswith("0.333 ["), "2 of 3 and 1 of 3 are right"
    assert visit.plot("accuracy-plot", "_fullData[0].x") == pytest.approx([2 / 3, 1 / 3])
    listed = page.locator("#results-records tbody tr")
    expect(listed).to_have_count(1)
    said = listed.locator("td").last.inner_text()
    assert "✓ Lima flex" in said and f"✕ {NASTY} causal" in said
    before = visit.text("status")
    page.get_by_role("button", name="Fill in record 2").click()
    visit.until("() => document.activeElement.id === 'run'")
    visit.settle()
    assert visit.value("question") == "Question 2?" and visit.wordings() == ["first wording", NASTY]
    assert set(visit.weights()) == {"1"}
    expect(page.locator("#example-note")).to_contain_text("Record 2 of my results.csv, right: Lima")
    assert visit.text("status") == before, "nothing runs by itself"
    page.keyboard.press("Enter")
    visit.done()
    assert page.title() == "flexdemo"
    # It is another run, of which nothing is proved.
    expect(page.locator("#check")).to_have_text("prove")
    assert visit.text("proof") == "" and download(visit, "save-json")[0] == "flexdemo-question-2.json"
    clean(visit)
