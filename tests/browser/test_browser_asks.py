"""What a visitor brings and takes along, in a real Chromium: rows, links, files, recordings, results files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser_support
import pytest
from browser_visit import NASTY, TRACE, Visit, Visitors, choose, clean
from playwright.sync_api import expect

from flexdemo.data.table import Row, write_table

pytestmark = pytest.mark.browser

ROWS_OF_MASK = f"() => [...{TRACE}.z].map(row => [...row].join()).join(';')"


@pytest.fixture
def visit(visitors: Visitors, bundled_url: str) -> Visit:
    return visitors(bundled_url)


def texts(visit: Visit) -> list[str]:
    return [box.input_value() for box in visit.page.locator("[id^=paraphrase-] textarea").all()]


def weights(visit: Visit) -> list[str]:
    """Those of the rows that are shown, the question's first."""
    boxes = visit.page.locator(".wording-row [id^=weight-] input[type=number]")
    return [box.input_value() for box in boxes.all()]


def paste(visit: Visit, name: str, text: str) -> None:
    """As the keyboard does it, at the cursor."""
    visit.page.locator(f"#{name} textarea").evaluate(
        """(box, text) => {
            const data = new DataTransfer();
            data.setData('text/plain', text);
            const event = new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true});
            if (box.dispatchEvent(event)) { document.execCommand('insertText', false, text); }
        }""",
        text,
    )


# Rows


def test_rows_move_and_are_duplicated_with_their_weights(visit: Visit) -> None:
    visit.rows(["one", "two", "three"])
    visit.number("weight-2", 5)
    visit.page.get_by_role("button", name="Move paraphrase 2 up").click()
    expect(visit.page.locator("#paraphrase-1 textarea")).to_have_value("two")
    assert texts(visit) == ["two", "one", "three"] and weights(visit) == ["1", "5", "1", "1"]
    visit.fill("paraphrase-2", "one, edited")
    visit.page.get_by_role("button", name="Move paraphrase 2 down").click()
    expect(visit.page.locator("#paraphrase-3 textarea")).to_have_value("one, edited")
    visit.page.get_by_role("button", name="Duplicate paraphrase 1").click()
    expect(visit.page.locator("[id^=paraphrase-]")).to_have_count(4)
    assert texts(visit) == ["two", "two", "three", "one, edited"] and weights(visit) == ["1", "5", "5", "1", "1"]
    expect(visit.page.get_by_role("button", name="Move paraphrase 1 up")).to_have_count(0)
    expect(visit.page.get_by_role("button", name="Move paraphrase 4 down")).to_have_count(0)
    visit.page.get_by_role("button", name="Remove paraphrase 2").click()
    expect(visit.page.locator("[id^=paraphrase-]")).to_have_count(3)
    assert texts(visit) == ["two", "three", "one, edited"]
    clean(visit)


def test_several_pasted_lines_become_several_rows(visit: Visit) -> None:
    visit.rows(["first", "start  end", "last"])
    visit.number("weight-3", 4)
    box = visit.page.locator("#paraphrase-2 textarea")
    box.evaluate("box => { box.focus(); box.setSelectionRange(6, 6); }")
    paste(visit, "paraphrase-2", "a\r\n\r\n<b>b</b>\n c")
    expect(visit.page.locator("[id^=paraphrase-]")).to_have_count(5)
    assert texts(visit) == ["first", "start a", "<b>b</b>", " c end", "last"]
    assert weights(visit) == ["1", "1", "1", "1", "1", "4"]
    box.fill("")
    paste(visit, "paraphrase-2", "only one line")
    assert texts(visit)[1] == "only one line"
    paste(visit, "paraphrase-2", "\n".join(f"line {i}" for i in range(9)))
    expect(visit.page.locator("[id^=paraphrase-]")).to_have_count(10)
    expect(visit.page.locator("#rows-message [role=alert]")).to_contain_text("3 of 9 pasted lines were left out")
    assert texts(visit)[0] == "first" and texts(visit)[-3:] == ["<b>b</b>", " c end", "last"]
    clean(visit)


def test_no_room_for_another_row_is_told(visit: Visit) -> None:
    said = visit.page.locator("#rows-message [role=alert]")
    visit.rows([f"Wording {i}" for i in range(1, 11)])
    expect(said).to_have_count(0)
    for name in ("add-paraphrase", "copy-3"):
        visit.page.locator(f"#{name}").click()
        expect(said).to_have_text("There is room for 10 paraphrases: remove one first")
        visit.page.locator("#question textarea").press_sequentially("?")
        expect(said).to_have_count(0)
    assert texts(visit) == [f"Wording {i}" for i in range(1, 11)]
    clean(visit)


def test_a_number_on_its_way_troubles_nobody(visit: Visit) -> None:
    """No sign of an error while a number is typed that its slider cannot hold, and then the nearest that it can."""
    visit.more()
    visit.number("weight-1", 3)
    for name, typed, left in (
        ("max-new-tokens", "999", "256"),
        ("max-new-tokens", "1.7", "2"),
        ("weight-1", "", "3"),
        ("weight-1", "-2", "0"),
        ("ape-scale", "0.", "0.1"),
        ("max-new-tokens", "0", "1"),
    ):
        box = visit.page.locator(f"#{name} input[type=number]")
        box.press("Control+a")
        box.press("Delete")
        for key in typed:
            visit.page.keyboard.type(key)
            visit.page.wait_for_timeout(250)
        visit.page.wait_for_timeout(250)
        assert visit.page.locator(".toast-body").count() == 0 and visit.page.locator(".error:visible").count() == 0
        box.press("Tab" if typed != "0" else "Control+Enter")
        expect(box).to_have_value(left)
        if name == "max-new-tokens":
            expect(visit.page.locator("#budget")).to_contain_text(f"answer up to {left} =")
        if name == "weight-1":
            expect(visit.page.locator("#shares")).to_contain_text(f"P2 {float(left) / (4 + float(left)):.3f}")
        assert visit.page.locator(".toast-body").count() == 0 and visit.page.locator(".error:visible").count() == 0
    visit.done()
    assert "longest 1 token," in visit.text("status-run"), "Enter takes the number that fits"
    clean(visit)


def test_the_budget_counts_tokens_while_typing(visit: Visit) -> None:
    budget = visit.page.locator("#budget")
    visit.number("max-new-tokens", 20)
    tokens = visit.page.locator("#token-view .token").count()
    expect(budget).to_contain_text(f"prompt {tokens} + answer up to 20 = {tokens + 20} of 2,048")
    visit.page.locator("#paraphrase-1 textarea").press_sequentially(" and something more", delay=5)
    visit.page.wait_for_function("n => document.querySelectorAll('#token-view .token').length > n", arg=tokens)
    # Each redraw, also one in the middle of the words, counts the tokens that are on the screen.
    visit.page.wait_for_function(
        "() => document.querySelector('#budget').textContent.includes("
        "`prompt ${document.querySelectorAll('#token-view .token').length} + answer`)"
    )
    visit.settle()
    assert len(visit.cells().split(",")) == visit.page.locator("#token-view .token").count(), "so does the mask"
    visit.rows(["many words " * 180] * 4)
    expect(budget).to_contain_text(re.compile(r"of 2,048 [\d,]+ too many"))
    expect(visit.page.locator("#message [role=alert]")).to_contain_text("the limit is 2,048")
    clean(visit)


# Links


def form_of(visit: Visit) -> dict:
    """Everything the form holds, as a visitor sees it."""
    page = visit.page
    numbers = ("max-new-tokens", "temperature", "top-p", "seed", "samples", "ape-temperature", "ape-scale")
    return {
        "question": page.locator("#question textarea").input_value(),
        "rows": texts(visit),
        "weights": weights(visit),
        "numbers": [page.locator(f"#{name} input").first.input_value() for name in numbers],
        "chosen": [page.locator(f"#{name} input").input_value() for name in ("strategy", "positions")],
        "sides": [
            box.is_checked() if box.get_attribute("type") == "checkbox" else box.input_value()
            for side in ("left", "right")
            for part in ("mask", "positions", "weights")
            for box in page.locator(f"#{side}-{part} input").all()
        ],
        "shown": page.locator("#mask-show input:checked").input_value(),
        "methods": [box.is_checked() for box in page.locator("#methods input").all()],
        "prefix": page.locator("#prefix textarea").input_value(),
    }


def link_of(visit: Visit) -> str:
    visit.page.locator("#copy-link").click()
    box = visit.page.locator("#link textarea")
    expect(box).to_have_value(re.compile("^http"))
    return box.input_value()


def selected(visit: Visit) -> str:
    visit.page.wait_for_function("() => document.activeElement.closest('#link')")
    box = "document.activeElement"
    return visit.page.evaluate(f"() => {box}.value.slice({box}.selectionStart, {box}.selectionEnd)")


def test_a_link_holds_the_whole_page_and_survives_a_restart(visitors: Visitors, bundled_url: str) -> None:
    granted = {"permissions": ("clipboard-read", "clipboard-write")}
    visit = visitors(bundled_url, **granted)
    visit.fill("question", "What is 1+1 & 2%? ü \U0001f600")
    visit.rows([NASTY, "two\nlines", ""])
    visit.number("weight-0", 0)
    visit.number("weight-2", 2.5)
    choose(visit, "strategy", "Anchor")
    choose(visit, "left-mask", "Late fusion")
    expect(visit.page.locator("#left-positions")).to_be_visible()
    choose(visit, "left-positions", "Right aligned")
    visit.page.locator("#left-weights input").uncheck()
    choose(visit, "right-mask", "As the form says")
    visit.page.get_by_label("Difference").check()
    visit.page.locator("#methods input").nth(3).check()
    visit.number("max-new-tokens", 9)
    visit.more()
    visit.number("temperature", 0.35)
    visit.page.locator("#seed input").fill("77")
    visit.number("ape-scale", 0.9)
    visit.fill("prefix", "Be brief.\n")
    visit.page.wait_for_timeout(300)
    before, link = form_of(visit), link_of(visit)
    assert before["sides"] == ["Late fusion", "Right aligned", False, "As the form says"]
    told = re.sub(r"\s+", " ", visit.text("mask-caption"))
    assert "to the left (Late fusion, right aligned, raw weights)" in told
    expect(visit.page.locator("#link-said")).to_contain_text("Copied.")
    assert visit.page.evaluate("() => navigator.clipboard.readText()") == link
    assert selected(visit) == link
    clean(visit)
    visitors.take_back()

    with browser_support.serve() as elsewhere:  # another process, which knows nothing of the first
        again = visitors(link.replace(bundled_url, elsewhere), **granted)
        expect(again.page.locator("#question textarea")).to_have_value(before["question"])
        again.more()
        expect(again.page.locator("#seed input")).to_have_value("77")
        expect(again.page.locator(".card h2").first).to_have_text("Late fusion, right aligned, raw weights")
        expect(again.page.locator("#answer-left")).to_be_attached()
        assert form_of(again) == before
        assert re.sub(r"\s+", " ", again.text("mask-caption")) == told, "the same difference, cell for cell"
        assert again.text("answer-left") == again.text("answer-flex") == "", (
            "nothing has run and no recording is shown in its place"
        )
        tokens = again.page.locator("#token-view .token").count()
        expect(again.page.locator("#budget")).to_contain_text(f"prompt {tokens} + answer up to 9")
        assert link_of(again).split("?")[1] == link.split("?")[1]
        again.url = elsewhere
        clean(again)


def test_without_permission_the_link_is_selected_for_the_keyboard(visit: Visit) -> None:
    visit.page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    link = link_of(visit)
    expect(visit.page.locator("#link-said")).to_contain_text("Press Ctrl+C")
    assert selected(visit) == link
    visit.number("weight-0", 0)
    for i in range(1, len(texts(visit)) + 1):
        visit.number(f"weight-{i}", 0)
    visit.page.locator("#copy-link").click()
    expect(visit.page.locator("#message [role=alert]")).to_contain_text("at least one weight must be above 0")
    expect(visit.page.locator("#link")).to_have_count(0)


def test_a_linked_page_tells_of_no_example(visitors: Visitors, bundled_url: str) -> None:
    query = "q=Who+wrote+Hamlet%3F&p=Name+the+author+of+Hamlet.&methods=flex%2Cper_prompt%2Ccausal"
    visit = visitors(f"{bundled_url}?{query}")
    expect(visit.page.locator("#question textarea")).to_have_value("Who wrote Hamlet?")
    expect(visit.page.locator("#example-note")).to_have_text("")
    wordings = visit.page.locator("#answers-alone .wording")
    expect(wordings).to_have_text(["Who wrote Hamlet?", "Name the author of Hamlet."])
    assert visit.text("answers-alone").count("same") == 0 and "Ready" in visit.text("status-run")
    visit.url = bundled_url
    clean(visit)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("q=Who?&mask=%3Cscript%3Edocument.title=1%3C/script%3E", "unknown mask strategy '<script>"),
    ],
)
def test_a_broken_link_says_so_and_the_page_works(visitors: Visitors, bundled_url: str, query: str, said: str) -> None:
    visit = visitors(f"{bundled_url}?{query}")
    expect(visit.page.locator("#link-message [role=alert]")).to_contain_text(said)
    expect(visit.page.locator("#question textarea")).to_have_value("What is the capital of Peru?")
    visit.run()
    expect(visit.page.locator("#link-message [role=alert]")).to_have_count(0)
    assert visit.text("answer-flex") == "Lima" and visit.page.title() == "flexdemo"
    visit.url = bundled_url
    clean(visit)


# Files, program, proof


def download(visit: Visit, name: str) -> tuple[str, bytes]:
    with visit.page.expect_download() as waiting:
        visit.page.locator(f"#save-{name}").click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_one_click_saves_what_ran(visitors: Visitors, visit: Visit, tmp_path: Path) -> None:
    visit.fill("question", f"{NASTY} ../../etc/passwd")
    visit.rows(["Name it."])
    visit.number("max-new-tokens", 5)
    visit.run()
    expect(visit.page.locator("#tools-note")).to_contain_text("Last run: " + NASTY)
    answer = visit.text("answer-flex")
    stem = "flexdemo-b-x-b-script-document-title-hacked-script-1-1-eot-"

    name, data = download(visit, "json")
    told = json.loads(data)
    assert re.fullmatch(r"flexdemo-[a-z0-9-]+\.json", name) and name.startswith(stem[:40])
    assert {r["method"]: r["answer"] for r in told["results"]}["flex"] == answer and "explain" in told
    size = len(told["prompt"]["token_ids"])

    name, data = download(visit, "csv")
    lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    assert name.endswith("-mask.csv") and len(lines) == size + 1
    shown = [row.split(",") for row in visit.page.evaluate(ROWS_OF_MASK).split(";")]
    n = len(lines) - 1  # the picture has the answer's rows behind those of the prompt
    prompt = [row[:n] for row in shown[:n]]
    assert [row[1:] for row in lines[1:]] == [["1" if cell != "0" else "0" for cell in row] for row in prompt]

    name, data = download(visit, "png")
    assert name.endswith("-mask.png") and data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width == height and width % size == 0 and width <= 1024

    name, data = download(visit, "report")
    assert name.endswith(".html")
    report = tmp_path / name
    report.write_bytes(data)
    page = visit.page.context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.locator("#mask .nsewdrag").wait_for()
    assert answer in page.locator("body").inner_text() and asked == [report.as_uri()]
    assert page.title().startswith("flexdemo: <b>x</b> <script>")
    page.close()

    # A second click, and another run, save what is shown then.
    visit.fill("question", "Name it?")
    visit.run()
    name, data = download(visit, "json")
    assert name == "flexdemo-name-it.json" and json.loads(data)["prompt"]["segments"][1]["text"].find("Name it?") >= 0
    clean(visit)


def test_the_program_repeats_the_answer(visit: Visit, tmp_path: Path) -> None:
    visit.example("Who painted Water Lilies?")
    visit.run()
    visit.page.locator("#repeat-box button").first.click()
    program = visit.page.locator("#repeat .cm-content")
    expect(program).to_contain_text("flexdemo.ask(")
    text = "\n".join(visit.page.locator("#repeat .cm-line").all_text_contents())
    environment = {**os.environ, "PYTHONPATH": str(browser_support.ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    assert f"flex: {visit.text('answer-flex')}" in done.stdout and "flex: Claude Monet" in done.stdout


def test_the_proof_is_shown_as_a_badge(visit: Visit) -> None:
    badge = visit.page.locator("#proof")
    expect(badge).to_contain_text("Not checked")
    visit.run()
    visit.page.locator("#check").click()
    expect(badge.locator(".badge.good")).to_have_text("✓ Proved")
    expect(badge).to_contain_text("computed by sdpa in float32 and again in one dense, uncached pass")
    visit.more()
    visit.number("ape-scale", 0.5)
    visit.run()
    expect(badge).to_contain_text("Not checked")
    visit.page.locator("#check").click()
    expect(visit.page.locator("#tools-message [role=alert]")).to_contain_text(
        "Cannot be checked: an answer with an APE"
    )
    expect(badge).to_contain_text("Not checked")
    clean(visit)


# Recordings


def test_a_newcomer_sees_a_recorded_result_until_the_first_run(visit: Visit) -> None:
    line = visit.page.locator("#status-run")
    expect(line).to_contain_text(re.compile(r"Recorded 2\d{3}-\d\d-\d\d with tinyqa on cpu, float32.*press Run"))
    assert visit.text("answer-flex") == visit.text("answer-causal") == "Lima"
    assert "recorded" in visit.text("stats-flex")
    assert visit.page.locator("#answers-alone .alone-answer").all_text_contents() == ["Lima"] * 5
    for tab in ("Attention mass", "Leave-one-out", "Candidates", "Methods", "Attention of a head"):
        visit.open(tab)
        expect(visit.page.get_by_role("tabpanel").filter(visible=True)).to_contain_text(re.compile(r"Recorded 2\d{3}-"))
    expect(visit.page.locator("#mass-plot .nsewdrag")).to_be_attached()
    visit.page.locator("#attention-show").click()
    visit.page.locator("#attention-plot .nsewdrag").wait_for()
    name, data = download(visit, "report")
    assert name == "flexdemo-what-is-the-capital-of-peru.html" and b"(recorded 2" in data
    visit.page.locator("#check").click()
    expect(visit.page.locator("#proof .badge.good")).to_have_text("✓ Proved")
    visit.run()
    for name in ("status-run", "stats-flex", "tools-note", "mass-note"):
        expect(visit.page.locator(f"#{name}")).not_to_contain_text("ecorded")
    clean(visit)


def test_a_run_begun_while_the_page_still_loads_is_not_painted_over(visit: Visit) -> None:
    held: list[Any] = []
    holding = [True]
    visit.page.route("**/queue/join*", lambda route: held.append(route) if holding[0] else route.continue_())
    visit.page.reload()
    visit.page.locator("#mask-plot .nsewdrag").wait_for()
    visit.page.wait_for_timeout(200)
    assert held, "the page has asked for what it shows first"
    holding[0] = False
    visit.page.locator("#run").click()
    visit.done()
    for route in held:
        route.continue_()
    visit.page.wait_for_timeout(700)
    assert "Done" in visit.text("status-run") and "ecorded" not in visit.text("stats-flex")
    assert "Last run" in visit.text("tools-note")
    visit.page.unroute("**/queue/join*")
    clean(visit)


def test_another_example_shows_its_recording(visit: Visit) -> None:
    visit.run()
    visit.example("currency do i ask bank if i travel madagascar?")
    expect(visit.page.locator("#status-run")).to_contain_text("Recorded")
    assert visit.text("answer-flex") == "Malagasy ariary" and visit.text("answer-causal") == "Malawian kwacha"
    alone = visit.page.locator("#answers-alone .agrees").all_text_contents()
    assert len(alone) == 5 and alone[4] == "differs"
    expect(visit.page.locator("#tools-note")).to_contain_text("travel madagascar?")
    clean(visit)


def test_a_recording_of_another_model_is_told_so(visitors: Visitors, slow_url: str) -> None:
    visit = visitors(slow_url)
    line = visit.page.locator("#status-run")
    expect(line).to_contain_text(re.compile("Recorded .* with tinyqa .*; the loaded model is .*: press Run to ask it"))
    assert visit.text("answer-flex") == "Lima"
    visit.open("Attention mass")
    visit.page.locator("#mass-plot .nsewdrag").wait_for()
    expect(visit.page.locator("#mass-layer")).to_have_count(0)
    visit.open("Attention of a head")
    visit.page.locator("#attention-show").click()
    expect(visit.page.locator("#attention-message")).to_contain_text("was recorded with tinyqa")
    visit.page.locator("#check").click()
    expect(visit.page.locator("#tools-message")).to_contain_text("Cannot be checked: the answer is of tinyqa")
    visit.number("max-new-tokens", 4)
    visit.run()
    assert "recorded" not in visit.text("stats-flex")
    visit.open("Attention mass")
    expect(visit.page.locator("#mass-layer")).to_be_visible()
    clean(visit)


# Results files


def row_of(record: str, method: str, prediction: str, right: bool, **changes: Any) -> Row:
    made = Row(
        id=record, question=f"Question {record}?", paraphrases=("first wording", NASTY), answers=("Lima",),
        method=method, view=method, prediction=prediction, generation=f" {prediction}", tokens=2, exact_match=right,
        contains=right, token_f1=float(right), lemma_match=None, lemma_match_both=None, agreement=None,
        prompt_tokens=30, rows=1, seconds=0.01,
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three records: both right; flex right and causal wrong; one wording, both wrong and alike."""
    path = tmp_path_factory.mktemp("results") / "my results.csv"
    rows = [
        row_of("1", "flex", "Lima", True), row_of("1", "causal", "Lima", True),
        row_of("2", "flex", "Lima", True), row_of("2", "causal", NASTY, False),
        row_of("3", "flex", "Quito", False, paraphrases=()), row_of("3", "causal", "Quito", False, paraphrases=()),
    ]  # fmt: skip
    write_table(rows, path)
    return path


def test_a_results_file_is_summed_up_and_its_records_can_be_asked(visit: Visit, results: Path) -> None:
    page = visit.page
    page.locator("#results > button, #results button.label-wrap").first.click()
    page.locator("#results-file input[type=file]").set_input_files(results)
    table = page.locator("#results-summary table")
    expect(table).to_be_visible()
    lines = [line.split("\t") for line in table.inner_text().splitlines()]
    assert [line[0] for line in lines] == ["Method", "flex", "causal"]
    # 2 of 3 and 1 of 3 are right.
    assert lines[1][2].startswith("0.667 [") and lines[2][2].startswith("0.333 [")
    assert lines[1][3].startswith("+0.333 [")
    shares = visit.plot("accuracy-plot", "_fullData[0].x")
    assert shares == pytest.approx([2 / 3, 1 / 3])
    assert visit.plot("wordings-plot", "_fullData.length") == 2
    listed = page.locator("#results-records tbody tr")
    expect(listed).to_have_count(1)
    expect(listed).to_contain_text("Question 2?")
    said = listed.locator("td.wording").last.inner_text()
    assert "✓ Lima flex" in said and f"✕ {NASTY} causal" in said
    before = visit.text("status-run")
    page.get_by_role("button", name="Fill in record 2").click()
    expect(page.locator("#question textarea")).to_have_value("Question 2?")
    assert texts(visit) == ["first wording", NASTY] and weights(visit) == ["1", "1", "1"]
    expect(page.locator("#example-note")).to_contain_text("Record 2 of my results.csv, right: Lima")
    page.wait_for_function("() => document.activeElement.id === 'run'")
    assert visit.text("status-run") == before, "nothing runs by itself"
    page.keyboard.press("Enter")
    visit.done()
    assert page.title() == "flexdemo" and page.locator("#results b", has_text=re.compile("^x$")).count() == 0
    clean(visit)
