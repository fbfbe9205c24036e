"""What Run does: answers as they grow, when they end, what is read again and what is kept."""

from __future__ import annotations

import re
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from test_sides import NASTY, QUESTION, STATE, WORDINGS, plain
from test_state import TOO_LONG
from visitor import Built, Visitor

import flexdemo
import flexdemo.answers.ask as asking
from flexdemo.answers.ask import Pace
from flexdemo.answers.methods import METHODS
from flexdemo.engine.loading import Models, offered
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.reading import Reading
from flexdemo.figures.report import snippet
from flexdemo.page import run
from flexdemo.page.run import answers, belongs_html, only_decodes, progress
from flexdemo.page.state import PageState
from flexdemo.page.tabs import TABS, gave
from flexdemo.request import Limits
from flexdemo.serve.log import Entry

ROOM, LIMITS = 10, Limits()


def frames_of(lm: LanguageModel, state: PageState, limits: Limits = LIMITS, **options: Any) -> list[dict[str, Any]]:
    return list(answers(offered(lm), limits, state, **options))


def lines(frames: list[dict[str, Any]]) -> list[str]:
    return [plain(frame["status"]) for frame in frames if "status" in frame]


@pytest.fixture
def every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FRAME_SECONDS", 0.0)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pictures, so that only those are made that must be."""
    monkeypatch.setattr(run, "FRAME_SECONDS", 1000.0)


def test_answers_grow_and_end_with_those_of_ask(lm: LanguageModel, every_token: None) -> None:
    state = STATE.but(paraphrases=("", *WORDINGS))
    first, *growing, end, last = frames_of(lm, state)
    want = flexdemo.ask(lm, QUESTION, WORDINGS, methods=state.methods, max_new_tokens=6)
    assert (
        first["status"] == '<span data-state="running">Reading the prompt</span>' and plain(first["left_answer"]) == ""
    )
    texts = [plain(frame["left_answer"]) for frame in (*growing, end)]
    assert all(b.startswith(a) for a, b in pairwise(texts)) and len(set(texts)) > 3
    assert [plain(end[f"{side}_answer"]) for side in ("left", "right")] == [want["flex"].answer, want["causal"].answer]
    assert (
        lines([end])[0].startswith("Done: 5 rows, longest 6 tokens")
        and 'data-state="done" role="status"' in end["status"]
    )
    alone = [plain(end[f"alone-{i}"]).removeprefix("alone: ").split(" · differs")[0] for i in range(ROOM + 1)]
    assert alone == [want["per_prompt"].views[i].answer if i is not None else "" for i in (0, None, 1, 2, *[None] * 7)]
    assert set(last) == {"last"} and not any("last" in frame for frame in (first, *growing, end))
    kept = last["last"]
    assert [each.name for each in kept.result.prompt.paraphrases] == ["P1", "P3", "P4"] and kept.state == state
    assert [kept.methods[name].token_ids for name in state.methods] == [want[name].token_ids for name in state.methods]


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_a_run_are_those_of_ask_whatever_the_sides_show(lm: LanguageModel, method: str) -> None:
    state = STATE.but(methods=(method,), left="anchor.sequential.raw", right="isolated.aligned.weights")
    last = frames_of(lm, state)[-1]["last"]
    want = flexdemo.ask(lm, QUESTION, WORDINGS, methods=[method], max_new_tokens=6)[method]
    assert list(last.methods) == [method], "the fused answer is not asked for where no side shows it"
    assert [view.token_ids for view in last.methods[method].views] == [view.token_ids for view in want.views]
    assert last.methods[method].candidates and last.methods[method].answer == want.answer


def test_a_page_whose_methods_lack_the_fused_answer_has_it_where_a_side_shows_it(lm: LanguageModel) -> None:
    last = frames_of(lm, STATE.but(methods=("vote",)))[-1]["last"]
    assert list(last.methods) == ["flex", "vote"]
    assert [each.method for each in last.result.sides] == ["causal/sequential/raw"]


def test_a_page_that_cannot_run_says_why_and_clears_nothing(lm: LanguageModel) -> None:
    for state in (STATE.but(question=" "), STATE.but(paraphrases=TOO_LONG), STATE.but(max_new_tokens=999)):
        (frame,) = frames_of(lm, state)
        assert set(frame) == {"status", "message"} and lines([frame]) == ["Not run"]
        assert 'role="alert"' in frame["message"]
    *_, frame = frames_of(lm, STATE.but(mask="segment+P9>P1"))
    assert lines([frame]) == ["Not run"] and "P9&gt;P1" in frame["message"] and "P9>P1" not in frame["message"]


# Which pictures are made


def test_a_picture_is_made_at_the_first_token_and_then_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(asking, "time", SimpleNamespace(monotonic=lambda: now))
    known, fresh = Pace(0.25, known=True), Pace(0.25)
    assert (known(0), fresh(0)) == (False, True), "a prompt that is known is not read"
    assert (known(1), fresh(1)) == (True, True) and (known(2), fresh(2)) == (False, False)
    now += 0.25
    assert (known(3), known(4)) == (True, False)


def test_results_are_built_for_the_pictures_alone(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, no_pause: None
) -> None:
    built, kind = [], asking.MethodResult
    monkeypatch.setattr(asking, "MethodResult", lambda *given: built.append(len(given[3])) or kind(*given))
    state = STATE.but(max_new_tokens=200, methods=("flex",), right="form.aligned.weights", seed=1, temperature=2.0)
    last = frames_of(lm, state)[-1]["last"]
    tokens = len(last.methods["flex"].token_ids)
    assert tokens > 5 and built == [0, 1, tokens], "the encoding, the first token and the end"


def test_the_first_picture_is_due_on_a_machine_that_has_just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking.time, "monotonic", lambda: 1.0)  # seconds since then, on Linux
    pace = asking.Pace(10.0)
    assert [pace(tokens) for tokens in (0, 0, 1, 2)] == [True, False, True, False]


# Decoding again


def test_a_prompt_that_was_read_is_decoded_again_without_reading(lm: LanguageModel, no_pause: None) -> None:
    reading = Reading()

    def known(state: PageState) -> bool:
        return only_decodes(state, state.compose(lm, Limits()), reading)

    assert not known(STATE)
    fresh = frames_of(lm, STATE, reading=reading)
    assert lines(fresh)[0] == "Reading the prompt" and reading.prefill is not None
    heavier = STATE.but(weights=(5.0, 1.0, 0.0))
    assert known(heavier) and known(heavier.but(left="segment.aligned.raw", seed=3))
    for other in (
        heavier.but(question="Else?"), heavier.but(weights_from="confidence"), heavier.but(prefix="Say:"),
        heavier.but(weights=None, paraphrases=("a", "b")),
    ):  # fmt: skip
        assert not known(other)
    assert not only_decodes(heavier, heavier.compose(lm, Limits()), None)
    held = {name: id(cache) for name, cache in reading.prefill.caches.items()}
    again = frames_of(lm, heavier, reading=reading)
    assert lines(again)[0].startswith("Running") and len(lines(again)) == 2, (
        "the first token and the end: nothing is cleared"
    )
    assert {name: id(cache) for name, cache in reading.prefill.caches.items()} == held, "nothing was read again"
    want = flexdemo.ask(lm, QUESTION, WORDINGS, weights=(5.0, 1.0, 0.0), max_new_tokens=6)["flex"]
    assert again[-1]["last"].methods["flex"].token_ids == want.token_ids


def test_each_visitor_goes_on_from_what_he_has_read_himself(lm: LanguageModel, no_pause: None) -> None:
    page = Built(lm)
    mine, other = page.visitor("me"), page.visitor("other")
    mine.do("run", max_new_tokens=3)
    assert mine.do("rerun", **{"weight-0": 5})[-1].keys() == {"last"}
    assert other.do("rerun", max_new_tokens=3) == [] == mine.do("rerun", question="Else?")
    assert mine.do("rerun", **{"weight-0": None}) == [], "the redraw says why"
    assert mine.do("rerun", **{"weight-0": 1}, max_new_tokens=999) == [], "nor a page that cannot run"


# Ends


def test_what_was_answered_in_time_is_kept_and_told(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, every_token: None
) -> None:
    ticks = iter(range(1, 10**6))
    clock = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=asking.time.perf_counter)
    monkeypatch.setattr(Limits, "until", lambda self: self.seconds)
    monkeypatch.setattr(asking, "time", clock)
    *_, answered, end = frames_of(lm, STATE.but(max_new_tokens=12), Limits(seconds=3.0))
    assert "<b>1</b> token" in answered["left_figures"] and "longest 1 token," in lines([answered])[0]
    assert plain(answered["left_answer"])
    assert "Stopped after 3 seconds, the most that a request may take here" in end["message"] and "last" not in end
    assert lines([end]) == ["Stopped"]


@pytest.mark.parametrize("after", [0, 3])
def test_work_that_nobody_waits_for_ends_within_a_token(lm: LanguageModel, every_token: None, after: int) -> None:
    entry = Entry("run")
    looks = iter([None] * after)
    entry.reason = lambda: next(looks, "nobody waits for this any more")
    with entry.current():
        *frames, end = frames_of(lm, STATE.but(max_new_tokens=200))
    assert "Nobody waits for this any more" in end["message"] and lines([end]) == ["Stopped"]
    assert entry.outcome == "stopped" and len(frames) <= 2 + after and entry.facts.get("new_tokens", 0) < 30


def test_closing_the_work_ends_it_and_the_log_counts_what_there_was(lm: LanguageModel, every_token: None) -> None:
    entry = Entry("run")
    with entry.current():
        work = answers(offered(lm), Limits(), STATE.but(max_new_tokens=200, methods=("flex",)))
        for _ in range(5):
            frame = next(work)
        work.close()
    tokens = int(re.search(r"<b>(\d+)</b> token", frame["left_figures"]).group(1))
    assert entry.facts["new_tokens"] == tokens == 3 and entry.facts["methods"] == ["flex"]
    assert entry.facts["prompt_tokens"] == len(STATE.compose(lm, Limits()).token_ids)
    assert list(work) == []


def test_stop_says_so_at_once_and_nothing_where_nothing_runs(lm: LanguageModel) -> None:
    visitor = Built(lm).visitor()
    assert visitor.do("stopped") == [{}]
    visitor.do("stopped", status='<span data-state="running">..</span>', left_answer="Li", left_figures="1 token")
    assert plain(visitor.values["status"]) == "Stopped" and 'data-state="done"' not in visitor.values["status"]
    assert (visitor.values["left_figures"], visitor.values["right_figures"]) == ("1 token", "stopped")


def test_a_side_s_own_mask_names_rows_as_the_page_does_where_one_is_blank(lm: LanguageModel) -> None:
    state = STATE.but(paraphrases=("", *WORDINGS), left="segment+P3>P1.aligned.raw", right="anchor+P3>P1.aligned.raw")
    packed = state.but(paraphrases=WORDINGS, left="segment+P2>P1.aligned.raw", right="anchor+P2>P1.aligned.raw")
    ends = [frames_of(lm, each)[-2:] for each in (state, packed)]
    for side in ("left_answer", "right_answer"):
        assert plain(ends[0][0][side]) == plain(ends[1][0][side]) != ""
    results = [end[-1]["last"].result for end in ends]
    assert results[0].sides[0].method == "segment+P3>P1/aligned/raw"
    assert snippet(results[0]) == snippet(results[1])


# What is told


def test_weights_by_confidence_are_told_once_they_are_known(lm: LanguageModel, every_token: None) -> None:
    state = STATE.but(weights_from="confidence", samples=3, sample_temperature=2.0, paraphrases=("", *WORDINGS))
    _cleared, sampling, *_, last = frames_of(lm, state)
    assert lines([sampling])[0].startswith("Sampling each wording for its weight")
    visitor = Built(lm).visitor()
    visitor.values |= {"last": last["last"], "asked": state}
    (end,) = visitor.do("redraw", **state.values(ROOM))
    want = flexdemo.ask(
        lm, QUESTION, WORDINGS, weights="confidence", samples=3, sample_temperature=2.0, max_new_tokens=6
    )
    shares = [f"{weight:.3f}" for weight in want.prompt.weights]
    if len(set(shares)) == 1:
        shares = ["1/3"] * 3
    assert [re.search(">(.*?)</span>", end[f"share-{i}"]).group(1) for i in (0, 2, 3)] == shares
    assert "<span title='Share of the weights'></span>" in end["share-1"], "a blank row has none"
    assert last["last"].methods["flex"].token_ids == want["flex"].token_ids
    (edited,) = visitor.do("redraw", **{"paraphrase-3": "Or so?"})
    assert "by confidence" in edited["share-2"], "of other wordings the run has found none"
    assert all("share-2" not in frame for frame in visitor.do("conclude")), "a run that ends may be of an earlier page"


def test_a_row_that_two_methods_share_is_counted_once(lm: LanguageModel) -> None:
    methods = ("origin", "per_prompt", "flex", "causal")
    result = flexdemo.ask(lm, QUESTION, ["Name it."], max_new_tokens=3, methods=methods)
    assert progress(result).startswith("Done: 4 rows, longest 3 tokens"), "question, wording, both in two ways"


def test_whose_run_it_is_is_told_and_escaped(lm: LanguageModel) -> None:
    state = PageState(question=NASTY, mask="segment+suffix>P1", methods=("flex",), max_new_tokens=1, ape_scale=1.5)
    said = belongs_html(frames_of(lm, state)[-1]["last"])
    assert "<script" not in said and "suffix>P1" not in said
    assert plain(said) == f"Last run: {NASTY} 1 wording, Segment +suffix>P1, aligned, T = 1, S = 1.5"


def test_the_model_of_a_page_answers_it(lm: LanguageModel, prepared: Any) -> None:
    other = prepared("llama", "sdpa", seed=1, num_hidden_layers=4)
    models = Models((("one", lm), ("two", other)))
    for name, each in models.named:
        *_, last = answers(models, Limits(), STATE.but(model=name))
        want = flexdemo.ask(each, QUESTION, WORDINGS, max_new_tokens=6)["flex"]
        assert last["last"].methods["flex"].token_ids == want.token_ids


# The tabs after it


@pytest.fixture
def visitor(lm: LanguageModel) -> Visitor:
    return Built(lm).visitor()


def test_a_tab_does_its_work_when_it_is_opened(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    explained: list[int] = []
    real = gave.explain
    monkeypatch.setattr(gave, "explain", lambda *given, **more: explained.append(1) or real(*given, **more))
    (nothing,) = visitor.do("conclude")
    assert not nothing["check"]["interactive"] and "last" not in nothing, "nothing has run"
    tabs = [tab.NAME for tab in TABS]
    visitor.open(tabs.index("candidates"))
    visitor.do("run", max_new_tokens=3)
    visitor.do("conclude")
    assert not explained and "✓" in visitor.values["candidates"] and visitor.values["gave_plot"] is None
    assert "load_model" in visitor.values["program"]
    for name in tabs:
        visitor.open(tabs.index(name))
        assert visitor.values["tab"] == name
    assert explained == [1] and visitor.values["gave_plot"] is not None and visitor.values["last"].explanation
    visitor.open(0)
    assert explained == [1], "once a run"
    assert "Fused" in visitor.values["methods_table"]


def test_an_explanation_that_has_no_time_is_told_and_the_tools_are_ready(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor.do("run", max_new_tokens=3)
    monkeypatch.setattr(Limits, "until", lambda self: 0.0)
    monkeypatch.setattr(Limits, "time_is_up", lambda self: "stopped after 0 seconds")
    visitor.do("conclude")
    assert "no time left to explain" in visitor.values["gave_note"] and "load_model" in visitor.values["program"]
    visitor.open(0)
    assert "no time left to explain" in visitor.values["gave_note"]


def test_a_menu_that_is_left_asks_for_nothing(visitor: Visitor) -> None:
    assert visitor.do("turn") == [{}], "of the page as it was opened"
    visitor.do("turn", left="anchor.aligned.raw")
    assert visitor.values["turned"] == 1 and visitor.do("turn") == [{}]
    visitor.do("climb", ladder="segment.aligned.raw")
    visitor.do("run", max_new_tokens=1)
    assert visitor.do("turn") == [{}]
    visitor.do("turn", left="anchor.aligned.raw")
    assert visitor.values["turned"] == 2
    visitor.do("turn", left="typed: no scheme")
    (refused,) = visitor.do("run")
    assert visitor.values["turned"] == 3 and "is no mask" in refused["message"], "the run tells it"


def test_a_ladder_s_step_and_all_methods_fill_the_page(visitor: Visitor) -> None:
    assert visitor.do("climb", ladder="odd") == [{}]
    visitor.do("climb", ladder="segment.aligned.raw")
    assert visitor.values["left"] == "segment.aligned.raw"
    visitor.do("tick")
    assert visitor.values["methods"] == list(METHODS)
    visitor.do("tick", **{"used": 0})
    assert visitor.values["methods"] == [name for name, each in METHODS.items() if each.minimum == 1]
    assert visitor.do("tick", **{"weight-0": None}) == [{}], "the redraw says why"


def test_reasoning_has_the_room_that_the_page_gives(thinker: LanguageModel) -> None:
    """Whoever leaves the length as it stands has not chosen it; a length that was set is kept."""
    asked = PageState(question="Name it.", methods=("origin",), left="segment.aligned.raw")
    *_, end, last = frames_of(thinker, asked, Limits(new_tokens=40))
    assert len(last["last"].result["origin"].token_ids) == 40
    assert "may have 40 tokens" in end["message"] and "still reasoning after 40 tokens" in end["message"]
    *_, end, last = frames_of(thinker, asked.but(max_new_tokens=7), Limits(new_tokens=40))
    assert len(last["last"].result["origin"].token_ids) == 7 and "may have" not in end["message"]
