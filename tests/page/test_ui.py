"""The page without a browser: converters, handlers, endpoints through gradio's own client."""

from __future__ import annotations

import dataclasses
import html
import re
import threading
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

import flexdemo
import flexdemo.answers.ask as asking
from flexdemo.answers.methods import METHODS
from flexdemo.answers.result import MethodResult
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.reading import Reading
from flexdemo.errors import InputError
from flexdemo.figures.cells import Window
from flexdemo.masks import STRATEGIES
from flexdemo.page import page as ui
from flexdemo.page import parts
from flexdemo.page import rows as ui_row_edits
from flexdemo.page import rows as ui_rows
from flexdemo.page import run as ui_work
from flexdemo.page.entered import Form, check_request
from flexdemo.page.page import START_METHODS
from flexdemo.page.pair import Pair, Side
from flexdemo.page.run import Run, Runs
from flexdemo.page.tabs.told import LastRun, methods_html, with_names
from flexdemo.plan import mask_dict
from flexdemo.prompt import build_prompt
from flexdemo.request import Limits
from flexdemo.serve.profiles import DEFAULT

ROWS = Limits().paraphrases

QUESTION = "What is the capital of Peru?"
NASTY = "<script>alert(1)</script> <b>bold</b> ${1+1} {{x}} &lt; </s> <|user|>"


def form(*paraphrases: str, question: str = QUESTION, **changes: Any) -> Form:
    rows = (*paraphrases, *[""] * (ROWS - len(paraphrases)))
    given: dict[str, Any] = {
        "weights": (1.0,) * (ROWS + 1), "strategy": "segment", "positions": "aligned", "methods": START_METHODS,
        "max_new_tokens": 6, "temperature": 0.0, "top_p": 1.0, "seed": 0, "prefix": "",
    }  # fmt: skip
    return Form(question, rows, **{**given, **changes})


# Forms


def test_form_reads_the_widgets_in_order() -> None:
    rows, weights = [f"row {i}" for i in range(ROWS)], list(range(ROWS + 1))
    read = Form.from_values(
        [
            "q",
            *rows,
            *weights,
            "causal",
            "sequential",
            ["flex"],
            7,
            0.5,
            0.9,
            3,
            None,
            "confidence",
            4,
            0.8,
            0.9,
            1.1,
            "",
        ]
    )
    assert (read.question, read.paraphrases, read.weights) == ("q", tuple(rows), tuple(weights))
    assert (read.strategy, read.positions, read.methods) == ("causal", "sequential", ("flex",))
    assert (read.max_new_tokens, read.temperature, read.top_p, read.seed, read.prefix) == (7, 0.5, 0.9, 3, "")
    given = read.request()
    assert (given.weights, given.samples, given.sample_temperature) == ("confidence", 4, 0.8)
    assert (given.ape_temperature, given.ape_scale) == (0.9, 1.1)


def test_blank_rows_are_left_out_and_names_stay() -> None:
    given = form("one", "  ", "three", weights=(1.0, 2.0, 9.0, 3.0, *[1.0] * 7))
    assert given.names == ("P1", "P2", "P4")
    assert given.used_weights == (1.0, 2.0, 3.0)
    assert given.request().paraphrases == ("one", "three")


def test_names_of_the_page_reach_mask_tokens_and_shares(lm: LanguageModel) -> None:
    drawn = parts.draw(lm, Limits(), form("", "Name it."))
    assert {name for _, name in drawn.spans} == {"prefix", "P1", "P3", "suffix"}
    assert "is-P3" in drawn.legend and "is-P2" not in drawn.shares


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (form(question=" "), "the question is empty"),
        (form(question="x" * 2001), "the question is too long: it has 2,001 characters, the limit is 2,000"),
        (form("ok", "y" * 2001), "paraphrase 2 is too long"),
        (form(*["many words " * 60] * 3), "prompt and answer need"),
        (form(max_new_tokens=300), "an answer of 300 tokens is too long"),
        (form(max_new_tokens=None), "Answer length is empty"),
        (form("a", weights=(1.0, None, *[1.0] * 9)), "the weight of P2 is empty"),
        (form(weights=(0.0, *[1.0] * 10)), "at least one weight must be above 0"),
        (form(samples=33), "33 samples of each wording are too many: draw at most 32"),
        (form(samples=None), "Samples is empty"),
        (form(ape_temperature=0.0), "ape_temperature must be from 0.01 to 100"),
        (form(sample_temperature=0.0), "sample_temperature must be above 0"),
        (form(strategy="odd"), "unknown mask strategy 'odd'"),
        (form(positions="odd"), "unknown position scheme 'odd'"),
    ],
)
def test_forms_that_cannot_run_say_why_and_clear_nothing(lm: LanguageModel, given: Form, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parts.draw(lm, Limits(), given)
    (frame,) = ui_work.answers(lm, Limits(), given, Run(threading.Event()))
    assert frame.cards == (None, None) and frame.table is None and frame.line == "Not run" and frame.last is None
    assert 'role="alert"' in frame.message and said.casefold() in frame.message.casefold().replace("&#x27;", "'")


def test_too_many_paraphrases_are_refused() -> None:
    with pytest.raises(InputError, match="11 paraphrases are too many: give at most 10"):
        check_request(Limits(), QUESTION, ["x"] * 11)


# Drawings


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_drawing_shows_the_mask_that_runs(lm: LanguageModel, strategy: str) -> None:
    given = form("Name it.", strategy=strategy)
    drawn = parts.draw(lm, Limits(), given)
    prompt = build_prompt(lm.tokenizer, QUESTION, ["Name it."])
    rows = mask_dict(prompt, strategy, "aligned")["rows"]
    assert [["1" if z else "0" for z in row] for row in drawn.figure.data[0].z] == [list(row) for row in rows]
    assert STRATEGIES[strategy].label in drawn.caption


def test_weight_zero_is_drawn_hidden(lm: LanguageModel) -> None:
    drawn = parts.draw(lm, Limits(), form("Name it.", weights=(0.0, *[1.0] * 10)))
    prompt = build_prompt(lm.tokenizer, QUESTION, ["Name it."])
    first, suffix = prompt.segments[1], prompt.segments[-1]
    assert not drawn.figure.data[0].z[suffix.start, first.start : first.end].any()
    meta = drawn.figure.layout.meta
    rules = np.array(meta["rules"]).reshape(5, 5, 2)  # prefix, P1, P2, suffix, answer
    assert [meta["reasons"][rules[asks, 1, 0]] for asks in (3, 4)] == ["hidden: weight 0"] * 2


def test_long_prompts_are_drawn_as_blocks_or_as_a_window(prepared: Any) -> None:
    lm = prepared("llama", "sdpa", max_position_embeddings=4096)
    given = form(*["many words and more " * 20] * 4)
    drawn = parts.draw(lm, Limits(), given)
    assert drawn.is_long and "Overview" in drawn.caption and max(drawn.figure.data[0].z.shape) <= 256
    exact = parts.draw(lm, Limits(), given, window=Window(10, 10))
    assert exact.figure.data[0].z.shape == (512, 512)
    assert "Exact window: queries 10 to 521, keys 10 to 521." in exact.caption
    beyond = parts.draw(lm, Limits(), given, window=Window(8192, 0))
    first, meta = drawn.tokens - 512, beyond.figure.layout.meta
    assert f"Exact window: queries {first:,} to {first + 511:,}, keys 0 to 511." in beyond.caption
    assert (meta["row"], meta["column"]) == (first, 0)


def test_weights_of_the_run_are_not_guessed(lm: LanguageModel) -> None:
    drawn = parts.draw(lm, Limits(), form("Name it.", weights_from="confidence", samples=5))
    assert "Shares come from the run" in drawn.shares and "5 samples" in drawn.shares and "is-P1" not in drawn.shares


# HTML


def test_text_is_escaped_everywhere(lm: LanguageModel) -> None:
    given = form(NASTY, question=NASTY)
    *_, last = flexdemo.stream(lm, given.request())
    pieces = [parts.table_html(given, last), parts.alert_html(NASTY)]
    nasty = SimpleNamespace(answer=NASTY, token_ids=(1,), seconds=0.1, stopped_by=NASTY)
    pieces.append(parts.card_html("flex", nasty, 0.05))
    for piece in pieces:
        assert "<script" not in piece and "<b>bold" not in piece and "&lt;script&gt;" in piece


def test_card_holds_exactly_the_answer() -> None:
    answered = SimpleNamespace(answer="Lima", token_ids=(1, 2, 3), seconds=0.3, stopped_by="end token")
    html = parts.card_html("flex", answered, 0.1)
    assert '<div id="answer-flex" class="answer">Lima</div>' in html
    assert "<b>3</b> tokens" in html and "<b>10.0</b> tokens/s" in html and "<b>100</b> ms" in html


def test_one_token_has_no_rate() -> None:
    answered = SimpleNamespace(answer="x", token_ids=(1,), seconds=0.3, stopped_by=None)
    assert "one token has no rate" in parts.stats_html(answered, 0.1)


def test_table_has_a_line_for_each_wording(lm: LanguageModel) -> None:
    given = form("Name it.", "Which city?")
    *_, last = flexdemo.stream(lm, given.request())
    assert parts.table_html(given, last).count("<tr>") == 1 + 3
    assert parts.table_html(given, None).count("<tr>") == 1 + 3
    assert parts.table_html(form("Name it.", methods=("flex", "causal")), None) == ""
    everything = form("Name it.", methods=tuple(METHODS))
    *_, last = flexdemo.stream(lm, everything.request())
    table = parts.table_html(everything, last)
    for name, method in METHODS.items():
        if name not in START_METHODS:
            assert method.label in table and last[name].answer in html.unescape(table)
    for view in last["leave_one_out"].views:
        assert view.name in table and view.answer in html.unescape(table)


def test_as_fused_is_told_as_the_methods_tab_tells_it(lm: LanguageModel) -> None:
    """Case, articles and full stops make no other answer: the chips of the agreement and the table are one."""
    given = form("Name it.", "Which city?")
    *_, last = flexdemo.stream(lm, given.request())
    said = {"origin": ["The Lima."], "per_prompt": ["The Lima.", "lima", "Quito"]}

    def answering(result: MethodResult) -> MethodResult:
        answers = said.get(result.method, ["Lima"])
        views = tuple(dataclasses.replace(v, answer=a) for v, a in zip(result.views, answers, strict=True))
        return dataclasses.replace(result, answer=answers[0], views=views)

    last = dataclasses.replace(last, results=tuple(map(answering, last.results)))
    table = parts.table_html(given, last)
    assert re.findall(r'data-same="(\w*)"', table) == ["same", "same", "differs"]
    shown = methods_html(LastRun(given, with_names(given, last), None))
    agreeing = shown.split("Agree with the fused answer: ")[1].split("</p>")[0]
    assert re.findall(r'class="chip is-(P\d)"', agreeing) == ["P1", "P2"]


def test_status_names_what_runs(lm: LanguageModel) -> None:
    said = parts.model_html(lm, Limits(), 61, 32)
    for fact in (lm.name, "cpu", lm.backend, "float32", "61", "1,024", "32"):
        assert fact in said


# Answers and stopping


def test_answers_grow_and_end_with_the_result_of_ask(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui_work, "FRAME_SECONDS", 0.0)
    given = form("Name it.", max_new_tokens=8)
    frames = list(ui_work.answers(lm, Limits(), given, Run(threading.Event())))
    result = flexdemo.ask(lm, given.request())
    assert len(frames) >= 3
    first, last = frames[1], frames[-2]
    for card, method in zip(last.cards, ("flex", "causal"), strict=True):
        body = re.search(rf'<div id="answer-{method}" class="answer">(.*?)</div>', card, re.DOTALL).group(1)
        assert html.unescape(re.sub(r"</?mark[^>]*>", "", body)) == result[method].answer
    assert "Done" in last.line and "Running" in first.line
    assert frames[-1].last is not None and [frame.last for frame in frames[:-1]] == [None] * (len(frames) - 1)


def test_the_first_token_is_shown_at_once_and_nothing_before_it_where_the_prompt_is_known(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui_work, "FRAME_SECONDS", 1000.0)
    given, reading = form("Name it.", max_new_tokens=8), Reading()

    def lines() -> list[str]:
        frames = ui_work.answers(lm, Limits(), given, Run(threading.Event()), reading=reading)
        return [re.sub(r"<[^>]+>", "", frame.line) for frame in frames if frame.line]

    fresh, again = lines(), lines()
    assert fresh[0] == "Reading the prompt" and len(fresh) == 4
    assert len(again) == 2, "the first token and the end"
    assert again[0].startswith("Running") and "longest 1 token" in again[0] and again[-1].startswith("Done")


def test_results_are_built_for_the_pictures_alone(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui_work, "FRAME_SECONDS", 1000.0)
    built: list[int] = []
    kind = asking.MethodResult
    monkeypatch.setattr(asking, "MethodResult", lambda *given: built.append(len(given[3])) or kind(*given))
    given = form(max_new_tokens=200, methods=("flex",), seed=1, temperature=2.0)
    *_, last = ui_work.answers(lm, Limits(), given, Run(threading.Event()), pair=Pair(right=Side()))
    tokens = len(last.last.result["flex"].token_ids)
    assert tokens > 5 and built == [0, 1, tokens], "the encoding, the first token and the end"


def test_stop_ends_the_work_within_one_token(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui_work, "FRAME_SECONDS", 0.0)
    runs = Runs()
    run = runs.start("a")
    frames = ui_work.answers(lm, Limits(), form(max_new_tokens=200, methods=("flex",)), run)
    for _ in range(4):
        next(frames)
    seen = len(run.last["flex"].token_ids)
    assert "Stopped" in runs.stop("a")
    assert list(frames) == []
    assert len(run.last["flex"].token_ids) <= seen + 1
    said, *cards = runs.last_word("a")
    assert "Stopped" in said and cards == [None, None], "the tokens stay"
    assert runs.last_word("a") == (None, None, None)


def test_a_run_stopped_before_its_first_token_reads_no_more(lm: LanguageModel) -> None:
    runs = Runs()
    frames = ui_work.answers(lm, Limits(), form("Name it."), runs.start("a"))
    assert all("reading the prompt" in card for card in next(frames).cards)
    runs.stop("a")
    assert list(frames) == []
    said, *cards = runs.last_word("a")
    assert said == "Stopped before the first token" and len(cards) == 2
    assert all(">stopped</div>" in card and "reading" not in card for card in cards)


def test_stop_after_the_answer_gives_up_the_explanation_only(lm: LanguageModel) -> None:
    runs = Runs()
    run = runs.start("a")
    frames = ui_work.answers(lm, Limits(), form("Name it."), run)
    assert any("Done" in (frame.line or "") for frame in frames)
    assert runs.stop("a").count("Done, not explained") == 1
    assert list(frames) == []


def test_sessions_stop_their_own_run_only() -> None:
    runs = Runs()
    one, two = runs.start("one"), runs.start("two")
    runs.stop("one")
    assert one.flag.is_set() and not two.flag.is_set()
    runs.end("one", one)
    assert runs.stop("one") is None
    runs.forget("two")
    assert two.flag.is_set() and runs.last_word("two") == (None, None, None)


def test_runs_of_a_session_are_counted_until_it_is_forgotten() -> None:
    runs = Runs()
    assert runs.begun("one") == 0 and not runs.is_running("one")
    first = runs.start("one")
    assert (runs.begun("one"), runs.is_running("one"), runs.begun("two"), runs.is_running("two")) == (1, True, 0, False)
    runs.end("one", first)
    assert (runs.begun("one"), runs.is_running("one")) == (1, False)
    runs.start("one")
    runs.forget("one")
    assert runs.begun("one") == 0


# Rows


def test_rows_are_added_and_removed_with_their_edits() -> None:
    rows = ui_row_edits.Rows.from_values(2, ["a", "b", *[""] * 8, 1, 2, 3, *[1] * 8], ROWS)
    assert rows == ui_row_edits.Rows(("a", "b"), (1, 2, 3))
    assert rows.added("c") == ui_row_edits.Rows(("a", "b", "c"), (1, 2, 3, 1.0))
    assert rows.removed(0) == ui_row_edits.Rows(("b",), (1, 3))
    full = ui_row_edits.Rows(("x",) * ROWS, (1,) * (ROWS + 1))
    assert full.added("y") == full


def test_rows_grow_to_the_limit_of_the_profile(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add, duplicate, paste and write; what is there already stays, also where it is more."""
    monkeypatch.setattr(ui_row_edits, "paraphrase", lambda lm, question, n, **options: ["w1", "w2", "w3", "w4", "w5"])
    rows = ui_row_edits.Rows(("a", ""), (1, 2, 3), 3)
    assert rows.added("c").texts == ("a", "", "c") == rows.added("c").added("d").texts
    assert rows.added("c").duplicated(0).texts == ("a", "", "c")
    assert rows.pasted(0, ["x", "y", "z", "u"]) == (ui_row_edits.Rows(("x", "y", "z"), (1, 2, 1.0, 1.0), 3), 1)
    limits = Limits(paraphrases=3)
    assert rows.written(lm, limits, QUESTION, 0).texts == ("a", "w1", "w2")
    many = ui_row_edits.Rows(("a", "b", "c", "", ""), (1,) * 6, 3)
    assert many.added("d") == many == many.duplicated(0) and many.pasted(0, ["x", "y"])[0].texts == ("x", "b", "c")
    for full in (many, rows.added("c", "d").pasted(1, ["b"])[0]):
        with pytest.raises(InputError, match="there is room for 3 paraphrases: remove one first"):
            full.written(lm, limits, QUESTION, 0)


@pytest.mark.parametrize("limit", [2, 3, 20])
def test_add_ends_at_the_limit_of_the_profile(lm: LanguageModel, limit: int) -> None:
    """Through the page's own events, as its button calls them."""
    profile = dataclasses.replace(DEFAULT, limits=Limits(paraphrases=limit))
    demo = ui.build_demo(lm, profile=profile)
    added = next(fn for fn in demo.fns.values() if ("click", "add-paraphrase") in events_of(demo, fn))
    most = limit
    for used in range(most + 1):
        *_, state, said = added.fn((used, 0), *[""] * limit, *[1] * (limit + 1))
        assert state[0] == min(used + 1, most)
        assert (f"there is room for {most} paraphrases" in said.lower()) == (used == most)


def events_of(demo: Any, fn: Any) -> list[tuple[str, str | None]]:
    return [(event, demo.blocks[block].elem_id) for block, event in fn.targets if block in demo.blocks]


def test_rows_move_and_are_duplicated_with_their_weights() -> None:
    rows = ui_row_edits.Rows(("a", "b", "c"), (1, 2, 3, 4))
    assert rows.moved(2, -1) == ui_row_edits.Rows(("a", "c", "b"), (1, 2, 4, 3))
    assert rows.moved(0, 1) == ui_row_edits.Rows(("b", "a", "c"), (1, 3, 2, 4))
    assert rows.moved(0, -1) == rows.moved(2, 1) == rows.moved(5, -1) == rows
    assert rows.duplicated(1) == ui_row_edits.Rows(("a", "b", "b", "c"), (1, 2, 3, 3, 4))
    full = ui_row_edits.Rows(("x",) * ROWS, (1,) * (ROWS + 1))
    assert full.duplicated(0) == full


def test_pasted_lines_push_rows_down_and_what_has_no_room_is_counted() -> None:
    rows = ui_row_edits.Rows(("a", "", "c"), (1, 2, 3, 4))
    assert rows.pasted(0, ["x", "y"]) == (ui_row_edits.Rows(("x", "y", "", "c"), (1, 2, 1.0, 3, 4)), 0)
    many = [f"l{i}" for i in range(8)]
    fitted, left_out = rows.pasted(2, many)  # 9 lines and the blank row are 10
    assert fitted.texts == ("a", "", *many) and left_out == 0
    fitted, left_out = rows.pasted(2, [*many, "l8"])  # now the blank row gives way
    assert fitted.texts == ("a", *many, "l8") and left_out == 0 and fitted.weights == (1, 2, 4, *[1.0] * 8)
    fitted, left_out = rows.pasted(2, [*many, "l8", "l9", "l10"])
    assert fitted.texts == ("a", *many, "l8") and left_out == 2


def test_a_prompt_that_is_too_long_is_counted_too(lm: LanguageModel) -> None:
    given = form(*["many words " * 60] * 3, max_new_tokens=7)
    count = len(build_prompt(lm.tokenizer, QUESTION, ["many words " * 60] * 3).token_ids)
    said = ui_rows.budget_of(lm, Limits(), given)
    assert count > 1024 and f"prompt {count:,} + answer up to 7 = <b>{count + 7:,}</b> of 1,024" in said
    assert f"{count + 7 - 1024:,} too many" in said
    assert "prompt 20 + answer up to 7 = <b>27</b> of 1,024" in ui_rows.budget_of(lm, Limits(), given, 20)
    assert "–" in ui_rows.budget_of(lm, Limits(), form(question=""))


def test_written_paraphrases_fill_blanks_and_keep_edits(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ui_row_edits, "paraphrase", lambda lm, question, n, **options: ["Mine", "w1", "w2", "w3", "w4", "w5"]
    )
    rows = ui_row_edits.Rows(("mine", ""), (1, 2, 3)).written(lm, Limits(), QUESTION, 0)
    assert rows.texts == ("mine", "w1", "w2", "w3", "w4") and rows.weights == (1, 2, 3, 1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="remove one first"):
        ui_row_edits.Rows(("x",) * ROWS, (1,) * (ROWS + 1)).written(lm, Limits(), QUESTION, 0)
    monkeypatch.setattr(ui_row_edits, "paraphrase", lambda lm, question, n, **options: [])
    with pytest.raises(InputError, match="nothing new"):
        rows.written(lm, Limits(), QUESTION, 0)


# Page


def test_contract_of_element_ids(lm: LanguageModel) -> None:
    demo = ui.build_demo(lm)
    ids = {block.elem_id for block in demo.blocks.values()}
    wanted = {f"paraphrase-{i}" for i in range(1, 11)} | {f"weight-{i}" for i in range(11)}
    wanted |= {"question", "add-paraphrase", "write-paraphrases", "run", "stop", "mask-plot", "token-view", "status"}
    wanted |= {"strategy", "positions", "max-new-tokens", "compare-all", "weights-from", "samples"}
    wanted |= {"sample-temperature", "ape-temperature", "ape-scale", "mass-plot", "effect-plot", "attention-plot"}
    wanted |= {f"{name}-{i}" for name in ("up", "down", "copy", "remove") for i in range(1, 11)}
    wanted |= {"budget", "copy-link", "link", "link-message", "save-json", "save-csv", "save-png", "save-report"}
    wanted |= {"check", "proof", "repeat", "results", "results-file", "results-summary", "results-records"}
    assert wanted <= ids
    inner = "".join(str(block.value) for block in demo.blocks.values() if isinstance(block, gr.HTML))
    assert 'id="answer-flex"' in inner and 'id="answer-causal"' in inner


def test_nothing_is_fetched_for_the_looks() -> None:
    options = ui.launch_options()
    style = (ui.ASSETS / "style.css").read_text(encoding="utf-8")
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert not any("http" in sheet for sheet in options["theme"]._stylesheets)


@pytest.mark.parametrize("examples", [[], [{"question": "Q?", "paraphrases": [], "note": "<i>"}]])
def test_page_builds_with_and_without_examples(lm: LanguageModel, examples: list) -> None:
    assert ui.build_demo(lm, examples=examples).blocks


def test_a_row_that_two_methods_share_is_counted_once(lm: LanguageModel) -> None:
    asked = dict(max_new_tokens=3, methods=("origin", "per_prompt", "flex", "causal"))
    result = flexdemo.ask(lm, "What is the capital of Peru?", ["Name Peru's capital."], **asked)
    assert "Done: 4 rows, longest" in parts.progress_html(result), "question, wording, both in two ways"
