"""The page that is built: what is on it, what examples, recordings and links fill in, nothing from outside."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_sides import NASTY, plain, seen
from visitor import Built, Visitor

import flexdemo
from flexdemo.answers.ask import ask
from flexdemo.answers.explain import explain
from flexdemo.answers.methods import METHODS
from flexdemo.answers.recording import MOST_BYTES, Recorded, load_recorded
from flexdemo.engine.model import LanguageModel
from flexdemo.page.events import model_html
from flexdemo.page.examples import FIRST, recorded_of, state_of, status_of, try_html
from flexdemo.page.link import open_link, to_query
from flexdemo.page.page import launch_options
from flexdemo.page.run import OUTDATED, LastRun, belongs_html, status_html
from flexdemo.page.state import PageState
from flexdemo.page.tabs import TABS
from flexdemo.page.tabs.head import attention_plot
from flexdemo.page.terms import COLOURS
from flexdemo.page.tools import FILES
from flexdemo.page.widgets import ASSETS, Visit
from flexdemo.plan import Scheme
from flexdemo.request import Limits

EXAMPLES, REAL = (
    json.loads((ASSETS / name).read_text(encoding="utf-8")) for name in ("examples.json", "examples-smollm2.json")
)
PUBLIC = {"generate", "mask", "paraphrase", "methods"}


@pytest.fixture(scope="module")
def page(lm: LanguageModel) -> Built:
    return Built(lm, examples=EXAMPLES)


@pytest.fixture
def visitor(page: Built) -> Visitor:
    return page.visitor()


def test_contract_of_element_ids(page: Built) -> None:
    blocks = page.demo.blocks.values()
    ids = [block.elem_id for block in blocks if block.elem_id]
    ids += [found for block in blocks for found in re.findall(r'id="([\w-]+)"', str(getattr(block, "value", "")))]
    assert len(ids) == len(set(ids))
    wanted = {f"paraphrase-{i}" for i in range(1, 11)} | {f"weight-{i}" for i in range(11)}
    wanted |= {"question", "add-paraphrase", "write-paraphrases", "run", "stop", "answer-flex", "answer-causal"}
    wanted |= {"mask-plot", "mask-plot-right", "token-view", "status", "strategy", "positions", "max-new-tokens"}
    wanted |= {"check", "copy-link", "save-json", "save-csv", "save-png", "save-report", "ladder", "budget", "results"}
    assert wanted <= set(ids)


def test_only_the_endpoints_are_public(page: Built) -> None:
    assert {fn.api_name for fn in page.demo.fns.values() if fn.api_visibility == "public"} == PUBLIC


def test_many_changes_at_once_are_drawn_once_and_in_order(page: Built) -> None:
    """A link that fills in 20 rows changes each of them for itself."""
    widgets, every = page.widgets, page.demo.fns.values()
    changed = {(widgets[name]._id, "change") for name in PageState(question="").values(10)}
    listens = [fn for fn in every if changed & set(fn.targets)]
    assert [(fn.fn, changed <= set(fn.targets)) for fn in listens] == [(None, True)], "the program hears of none alone"
    drawing = [fn for fn in every if fn.name == "redraw"]
    assert {(fn.concurrency_id, fn.concurrency_limit) for fn in drawing} == {("redraw", 1)}
    assert [(widgets["edits"]._id, "change")] in [fn.targets for fn in drawing]


def test_progress_is_told_to_one_widget_of_each_event(page: Built) -> None:
    """Gradio's page touches all of them at each step of any event."""
    told = [fn.show_progress_on for fn in page.demo.fns.values() if fn.fn and fn.api_name not in PUBLIC and fn.outputs]
    assert len(told) > 40 and all(len(widgets) == 1 for widgets in told)


def test_what_is_opened_first_is_drawn(visitor: Visitor, lm: LanguageModel) -> None:
    first = EXAMPLES[0]
    assert visitor.values["question"] == first["question"] and visitor.values["used"] == len(first["paraphrases"])
    meta = mask_meta(visitor, "left")
    assert meta["length"] == len(PageState.of(visitor.values).compose(lm, flexdemo.request.Limits()).token_ids)
    assert "Ready" in visitor.values["status"] and visitor.values["ladder"] == "form.aligned.weights"


@pytest.mark.parametrize("examples", [[], [{"question": "Q?", "paraphrases": ["x"] * 50, "note": "<i>"}]])
def test_page_builds_with_and_without_examples(lm: LanguageModel, examples: list) -> None:
    assert Built(lm, examples=examples).visitor().values["used"] in (2, 10)


def test_an_example_too_long_to_draw_leaves_room_for_masks(prepared: Any) -> None:
    small = prepared("llama", "sdpa", max_position_embeddings=64)
    visitor = Built(small, examples=[{"question": "many words " * 40, "paraphrases": []}]).visitor()
    assert visitor.values["left_mask"] is None and visitor.page.widgets["left_mask"].visible is True
    visitor.do("redraw", question="Who?", max_new_tokens=3)
    assert visitor.values["left_mask"] is not None and visitor.values["message"] == ""


def test_a_page_that_cannot_be_drawn_keeps_what_was_drawn_and_says_why(visitor: Visitor) -> None:
    before = visitor.values["left_mask"]
    for typed, said in (
        ({"question": NASTY * 60}, "The question is too long"), ({"mask": f"segment{NASTY}"}, "unknown mask strategy"),
        ({"question": "a\0"}, "NUL"), ({"weight-0": None}, "The weight of P1 is empty"),
    ):  # fmt: skip
        visitor.do("redraw", **typed)
        assert visitor.values["left_mask"] is before
        assert said.casefold() in visitor.values["message"].casefold() and "<script" not in visitor.values["message"]
        assert 'class="alert refused"' in visitor.values["message"], "the answers that stay are of something else"


def test_what_is_loaded_is_told(lm: LanguageModel, bundled: LanguageModel) -> None:
    said = plain(model_html(lm))
    assert said == f"model {lm.name} cpu · {lm.backend} · float32" and "--model smollm2" in model_html(bundled)
    assert "<script" not in model_html(replace(lm, name=NASTY))


def test_nothing_is_fetched_for_the_looks() -> None:
    options = launch_options()
    style = (ASSETS / "style.css").read_text(encoding="utf-8")
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert not any("http" in sheet for sheet in options["theme"]._stylesheets)


# Examples


def test_examples_are_links_and_their_texts_are_data() -> None:
    many = [{"question": f"Q{i}?", "paraphrases": [], "title": NASTY, "note": f'"{NASTY}'} for i in range(6)]
    said = try_html(many)
    assert "<script" not in said and said.count("data-example=") == 6
    assert said.split("<details>")[0].count("data-example=") == FIRST and "<details>" not in try_html(many[:FIRST])


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_an_example_fills_in_the_page(visitor: Visitor, index: int) -> None:
    facts = visitor.values["facts"] = visitor.page.widgets["facts"].value
    visitor.do("pick", {"index": index})
    visitor.do("choose", mask="anchor", **{"weight-0": 3})
    example = EXAMPLES[index]
    assert PageState.of(visitor.values) == state_of(example, 10)
    assert [visitor.visible[f"row-{i}"] for i in (1, 9)] == [len(example["paraphrases"]) >= i for i in (1, 9)]
    assert plain(visitor.values["note"]) == example.get("note", "") and visitor.values["facts"] == facts


def test_an_example_ends_all_that_would_tell_of_another_run(visitor: Visitor) -> None:
    """What looks at a run writes down what it found: a tab or a proof that ends late would take the example's place."""
    fns, targets = visitor.page.demo.fns, [(visitor.page.widgets["try"]._id, "select")]
    (ended,) = (set(fn.cancels) for fn in fns.values() if fn.targets == targets and fn.cancels)
    names = {fns[number].name for number in ended}
    assert names == {"run", "rerun", "conclude", "select", "attention", "pointed", "check"}
    assert sum(fns[number].name == "select" for number in ended) == len(TABS)


def test_who_chooses_an_example_and_runs_at_once_asks_it(visitor: Visitor) -> None:
    """The form still holds the old texts then, and all that was typed into them."""
    visitor.do("pick", {"index": 1})
    visitor.do("run", question="Else?", seed=None)
    assert visitor.values["last"].state == state_of(EXAMPLES[1], 10)
    visitor.do("choose")
    visitor.do("run", question="Else?")
    assert visitor.values["last"].state.question == "Else?", "once it is filled in, the form is what counts"
    visitor.do("pick", {"index": 1})
    visitor.do("run")
    assert visitor.values["last"].state == state_of(EXAMPLES[1], 10), "the same one again, too"


def test_of_two_examples_chosen_at_once_the_last_is_filled_in(visitor: Visitor) -> None:
    for index in (1, 2):
        visitor.do("pick", {"index": index})
    for _ in range(2):
        visitor.do("choose")
        assert PageState.of(visitor.values) == state_of(EXAMPLES[2], 10)


@pytest.mark.parametrize("told", [None, {}, {"index": 99}, {"index": -1}, {"index": "0"}, {"index": [0]}, 5, "x"])
def test_an_example_that_there_is_not_changes_nothing(visitor: Visitor, told: Any) -> None:
    visitor.do("pick", told)
    assert visitor.do("choose") == [{}]


# Links


def test_a_link_fills_in_the_page(visitor: Visitor) -> None:
    query = "q=Who%3F&p=one&p=%3Cb%3E&w=1%2C2%2C0&mask=anchor&methods=all&left=isolated.aligned.raw&max_new_tokens=3"
    visitor.do("opened", query=query, note="of the example")
    shown = visitor.values
    assert [shown[f"paraphrase-{i}"] for i in range(1, 4)] == ["one", "<b>", ""] and shown["used"] == 2
    assert (shown["weight-1"], shown["weight-2"], shown["left"], shown["note"]) == (2, 0, "isolated.aligned.raw", "")
    assert shown["methods"] == list(METHODS), "the boxes of the page have no box for all"
    assert "isolated · aligned · raw" in shown["step"] and visitor.visible["row-3"] is False
    visitor.do("run")
    assert "Done" in shown["status"]


def test_an_address_without_a_state_fills_nothing_and_a_broken_link_is_told(visitor: Visitor) -> None:
    for query in ("", "__theme=dark", "view=api&utm_source=x"):
        assert visitor.do("opened", query=query) == [{}]
    (changes,) = visitor.do("opened", query="q=a&mask=%3Cscript%3E")
    assert set(changes) == {"link_message"} and 'role="alert"' in changes["link_message"]
    assert "&lt;script&gt;" in changes["link_message"] and "<script" not in changes["link_message"]


# Recordings


def live_of(visitor: Visitor) -> dict:
    """What both sides tell of their answers' tokens."""
    return json.loads(html.unescape(re.search('data-live="([^"]*)"', visitor.values["live"]).group(1)))


def mask_of(visitor: Visitor, side: str) -> dict:
    """A mask's figure as JSON; gradio keeps the one that a page begins with as text."""
    figure = visitor.values[f"{side}_mask"]
    return json.loads(figure["plot"] if isinstance(figure, dict) else figure.to_json())


def mask_meta(visitor: Visitor, side: str) -> dict:
    return mask_of(visitor, side)["layout"]["meta"]


@pytest.fixture(scope="module")
def recordings() -> list[Recorded]:
    return [*load_recorded(ASSETS / "recorded.json"), *load_recorded(ASSETS / "recorded-smollm2.json")]


def recorded(recordings: list[Recorded], example: dict) -> Any:
    return recorded_of(recordings, state_of(example, 10))


def test_every_example_is_recorded_and_the_files_are_small(recordings: list[Recorded]) -> None:
    for examples, model, file in ((EXAMPLES, "tinyqa", "recorded.json"), (REAL, "smollm2", "recorded-smollm2.json")):
        found = [recorded(recordings, example).result for example in examples]
        assert [(each.request.question, each.model) for each in found] == [(e["question"], model) for e in examples]
        assert (ASSETS / file).stat().st_size <= MOST_BYTES


@pytest.mark.parametrize("index", range(len(EXAMPLES)), ids=lambda i: EXAMPLES[i]["question"][:30])
def test_a_recording_is_what_the_bundled_model_answers_now(
    recordings: list[Recorded], bundled: LanguageModel, index: int
) -> None:
    """If it is not, record again: python -m flexdemo record --output assets/recorded.json"""
    example = EXAMPLES[index]
    last = recorded(recordings, example)
    assert last is not None
    now = ask(bundled, example["question"], example["paraphrases"], methods=("all",), candidates=5)
    assert last.result.prompt == now.prompt and last.result.model == now.model
    assert list(last.methods) == list(METHODS)
    for then, today in zip(last.result.results, now.results, strict=True):
        assert (then.answer, then.token_ids) == (today.answer, today.token_ids), then.method
        assert then.logprobs == pytest.approx(today.logprobs, abs=1e-3)
        assert [view.token_ids for view in then.views] == [view.token_ids for view in today.views]
    explained = explain(bundled, now)
    assert np.allclose(last.explanation.attribution.mass, explained.attribution.mass, atol=1e-3)
    effects = [effect.effect for effect in explained.attribution.effects]
    assert [effect.effect for effect in last.explanation.attribution.effects] == pytest.approx(effects, abs=1e-2)


def test_a_recording_belongs_to_an_example_with_the_same_wordings_only(recordings: list[Recorded]) -> None:
    first = EXAMPLES[0]
    assert recorded(recordings, {**first, "paraphrases": first["paraphrases"][:-1]}) is None
    assert recorded(recordings, {**first, "question": first["question"] + " "}) is None
    assert recorded([], first) is None


def test_a_page_opens_with_a_recording_and_says_so(recordings: list[Recorded], lm: LanguageModel) -> None:
    dated = [replace(each, date="2026-01-31") for each in recordings]
    visitor = Built(lm, examples=EXAMPLES, recordings=dated).visitor()
    shown, want = visitor.values, recorded(dated, EXAMPLES[0])
    assert plain(shown["left_answer"]) == want.methods["flex"].answer
    assert plain(shown["right_answer"]) == want.methods["causal"].answer
    assert all("recorded with tinyqa</span>" in shown[f"{side}_figures"] for side in ("left", "right"))
    alone = [plain(shown[f"alone-{i}"]) for i in range(1 + len(EXAMPLES[0]["paraphrases"]))]
    told = [view.answer for view in want.methods["per_prompt"].views]
    assert all(said.startswith(f"alone: {answer}") for said, answer in zip(alone, told, strict=True))
    assert f"Recorded 2026-01-31 with tinyqa, float32: press Run to ask {lm.name}" in plain(shown["status"])
    assert plain(belongs_html(shown["last"])).startswith("Recorded 2026-01-31 with tinyqa: ")
    visitor.do("conclude")
    assert visitor.visible["gave_plot"] and "load_model" in shown["program"]
    visitor.open(3)
    visitor.do("attention", head_layer=1, head_head=1)
    assert "recorded with tinyqa in float32, and the loaded model is" in shown["head_message"]
    visitor.do("pick", {"index": 1})
    visitor.do("choose")
    assert shown["last"].state.question == EXAMPLES[1]["question"] and "recorded" in shown["left_figures"]
    for ended, said in (("Stopped", "Recorded 2026-01-31"), ("Not run", "Not run")):  # by the example, or refused
        visitor.do("recall", status=status_html("ready", ended))
        assert plain(shown["status"]).startswith(said)
    visitor.do("run", max_new_tokens=2)
    assert shown["last"].recorded is None and "recorded" not in shown["left_figures"] + shown["right_figures"]


def test_a_weight_that_is_moved_over_a_recording_is_answered_at_once(
    recordings: list[Recorded], bundled: LanguageModel, lm: LanguageModel
) -> None:
    """As the note of an example bids; not where another model was recorded, or the texts are others by now."""
    index = next(i for i, each in enumerate(EXAMPLES) if each["title"] == "Guernica")
    for model, typed, answers in ((bundled, {}, True), (bundled, {"question": "Else?"}, False), (lm, {}, False)):
        visitor = Built(model, examples=EXAMPLES, recordings=recordings).visitor()
        visitor.do("pick", {"index": index})
        visitor.do("choose")
        assert plain(visitor.values["left_answer"]) == "Pieter Bruegel the Elder"
        assert bool(visitor.do("rerun", **{"weight-2": 0.5}, **typed)) == answers
        assert plain(visitor.values["left_answer"]) == ("Pablo Picasso" if answers else "Pieter Bruegel the Elder")


def test_an_answer_with_weights_that_its_run_has_found_belongs_to_the_masks(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexdemo.answers.ask.confidence_weights", lambda found: (1.0, 0.0, 0.0))
    visitor = Built(lm).visitor()
    asked = {"question": "Who?", "paraphrase-1": "Who is it?", "paraphrase-2": "Name them.", "used": 2}
    visitor.do("run", **asked, weights_from="confidence", samples=1, max_new_tokens=2)
    visitor.do("redraw")
    live = live_of(visitor)
    assert all(live[side]["signature"] == mask_meta(visitor, side)["signature"] for side in ("left", "right"))
    assert not cells_of(visitor, "left")[-1, :].all(), "weight 0 hides"


@pytest.fixture(scope="module")
def recorded_page(recordings: list[Recorded], bundled: LanguageModel) -> Built:
    return Built(bundled, examples=[*EXAMPLES, *REAL], recordings=recordings)


def test_answers_of_other_settings_are_dimmed_and_said_to_be(recorded_page: Built) -> None:
    visitor = recorded_page.visitor()
    visitor.do("redraw")
    assert visitor.values["message"] == "", "as the recording was asked"
    for name, other in (
        ("temperature", 0.7),
        ("max_new_tokens", 3),
        ("ape_scale", 0.5),
        ("weights_from", "confidence"),
    ):
        before = visitor.values[name]
        visitor.do("redraw", **{name: other})
        assert 'class="changed"' in visitor.values["message"] and "press Run" in visitor.values["message"]
        visitor.do("redraw", **{name: before})
        assert visitor.values["message"] == ""
    visitor.do("redraw", **{"weight-1": 3}, methods=["flex"], seed=5, samples=2)
    assert visitor.values["message"] == "", "weights decode at once, methods have a tab, greedy answers draw nothing"
    visitor.do("conclude", temperature=0.7)
    assert visitor.values["message"] == OUTDATED, "changed while it ran"


def test_what_a_run_has_to_say_comes_back_and_rows_have_their_answers_again(lm: LanguageModel) -> None:
    visitor = Built(replace(lm, notes=("not <b>applied</b>",))).visitor()
    for name, value in (("question", "Who?"), ("used", 2), ("paraphrase-1", "Name it."), ("paraphrase-2", "Which?")):
        visitor.values[name] = value
    visitor.do("run", methods=["flex", "per_prompt"], max_new_tokens=3)
    note, alone = visitor.values["message"], [visitor.values[f"alone-{i}"] for i in range(3)]
    assert "not &lt;b&gt;applied" in note and all(alone)
    visitor.do("redraw", temperature=0.5)
    assert visitor.values["message"] == OUTDATED
    for act in ("up", "down"):
        visitor.do("edit", {"row": {"up": 1, "down": 0}[act], "act": act}, temperature=0.0)
    assert not any(visitor.values[f"alone-{i}"] for i in (1, 2))
    visitor.do("redraw")
    assert visitor.values["message"] == note and [visitor.values[f"alone-{i}"] for i in range(3)] == alone
    visitor.do("run", seed=None)
    assert "Not run" in visitor.values["status"]
    visitor.do("redraw", seed=0)
    assert "Ready: press Run" in visitor.values["status"]


def test_a_stopped_run_is_not_proved_by_the_one_before(recorded_page: Built) -> None:
    visitor = recorded_page.visitor()
    run = visitor.page.widgets.works["run"][0][0]
    visitor.do("conclude")
    begun = run(visitor.values, Visit("somebody", "", None))
    visitor.values["asked"] = PageState.of(visitor.values | {"temperature": 0.5})
    assert next(begun)["check"]["interactive"] is False, "while it runs"
    begun.close()
    (ready, *_) = visitor.do("conclude", temperature=0.5)
    assert ready["check"]["interactive"] is False and "stopped" in ready["tools_of"]


def cells_of(visitor: Visitor, side: str) -> np.ndarray:
    z = mask_of(visitor, side)["data"][0]["z"]
    shape = [int(each) for each in z["shape"].split(",")]
    return np.frombuffer(base64.b64decode(z["bdata"]), dtype=np.uint8).reshape(shape) > 0


def assert_shown_as_recorded(visitor: Visitor, want: LastRun) -> None:
    """Tokens, segments, every cell of both masks and the answers' tokens are those of the recording."""
    prompt, live, length = want.result.prompt, live_of(visitor), len(want.result.prompt.token_ids)
    for side, method, scheme in (
        ("left", "flex", Scheme()),
        ("right", "causal", Scheme("causal", "sequential", False)),
    ):
        meta, answered = mask_meta(visitor, side), want.methods[method]
        assert (cells_of(visitor, side) == seen(prompt, scheme)).all()
        assert [tuple(each[:2]) for each in meta["segments"][:-1]] == [(s.name, s.start) for s in prompt.segments]
        assert meta["signature"] == live[side]["signature"] and len(live[side]["tokens"]) == len(answered.tokens) > 0
        assert plain(visitor.values[f"{side}_answer"]) == answered.answer
    assert f"<b>{length}</b> prompt tokens" in visitor.values["budget"]


@pytest.mark.parametrize("index", range(len(REAL)), ids=lambda i: REAL[i]["title"])
def test_a_recording_of_another_tokenizer_is_shown_as_it_was_recorded(
    recordings: list[Recorded], recorded_page: Built, bundled: LanguageModel, index: int
) -> None:
    visitor, want = recorded_page.visitor(), recorded(recordings, REAL[index])
    assert_shown_as_recorded(visitor, recorded(recordings, EXAMPLES[0]))
    visitor.do("pick", {"index": len(EXAMPLES) + index})
    visitor.do("choose")
    assert_shown_as_recorded(visitor, want)
    visitor.do("redraw")  # which the page asks for by itself, as its texts have changed
    assert_shown_as_recorded(visitor, want)
    shown, prompt = visitor.values, want.result.prompt
    assert {segment.name for segment in prompt.segments} <= set(COLOURS), "separators too have a colour"
    assert [name for _, name in shown["tokens"]] == [prompt.segments[i].name for i in prompt.segment_ids]
    assert "recorded with smollm2</span>" in shown["left_figures"] and "recorded with smollm2" in shown["right_figures"]
    assert "with smollm2, float32: press Run to ask tinyqa" in plain(shown["status"])
    assert "model <b>tinyqa</b>" in shown["facts"] and plain(shown["note"]) == REAL[index]["note"]
    visitor.do("difference")
    assert "suffix" in shown["pairs"] and f"of {len(prompt.token_ids) ** 2:,} cells" in shown["difference_caption"]

    link = to_query(PageState.of(shown))
    assert open_link(link, Limits()) == state_of(REAL[index], 10)
    visitor.do("run", max_new_tokens=2)
    visitor.do("anew")
    own = PageState.of(shown).compose(bundled, Limits())
    assert mask_meta(visitor, "left")["length"] == len(own.token_ids) != len(prompt.token_ids)
    assert live_of(visitor)["left"]["signature"] == mask_meta(visitor, "left")["signature"]
    assert shown["note"] == "Asked anew: now tinyqa (float32) answers; the recording was of smollm2 (float32)."
    assert shown["last"].recorded is None and shown["last"].result.model == "tinyqa"
    assert not any("anew" in frame for frame in visitor.do("run")), "it is told once, and still true"


def test_a_page_that_is_changed_is_the_loaded_model_s(
    recordings: list[Recorded], recorded_page: Built, bundled: LanguageModel
) -> None:
    visitor = recorded_page.visitor()
    visitor.do("pick", {"index": len(EXAMPLES)})
    visitor.do("choose")
    want = visitor.values["last"]
    for typed in ({"question": "Who?"}, {"weight-1": 2.0}):
        visitor.do("redraw", **typed)
        own = PageState.of(visitor.values).compose(bundled, Limits())
        assert mask_meta(visitor, "left")["length"] == len(own.token_ids) == len(visitor.values["tokens"])
        assert mask_meta(visitor, "left")["signature"] != live_of(visitor)["left"]["signature"], "greyed out"
    visitor.do("redraw", temperature=0.5, **{"question": REAL[0]["question"], "weight-1": 1.0})
    assert_shown_as_recorded(visitor, want)
    assert visitor.values["message"] == OUTDATED
    visitor.do("redraw", left_figures="stopped", temperature=0.0)
    assert mask_meta(visitor, "left")["length"] == len(want.state.compose(bundled, Limits()).token_ids), "asked anew"


def test_tabs_show_a_recording_or_say_who_made_it(recorded_page: Built) -> None:
    visitor = recorded_page.visitor()
    visitor.do("pick", {"index": len(EXAMPLES)})
    visitor.do("choose")
    visitor.do("conclude")
    shown, said = (
        visitor.values,
        "recorded with smollm2 in float32, and the loaded model is tinyqa in float32: press Run",
    )
    assert visitor.visible["gave_plot"] and not visitor.visible["gave_choices"], (
        "heads of another model have no numbers"
    )
    assert "with smollm2: " in plain(shown["gave_note"]) and "load_model('smollm2'" in shown["program"]
    for nth, tab in enumerate(TABS):
        visitor.open(nth)
        assert tab.NAME not in ("merge", "heads") or said in shown[f"{tab.NAME}_note"]
    assert "Ottawa" in shown["candidates"] and "Ottawa" in shown["methods_table"]
    visitor.do("attention", head_layer=1, head_head=1)
    assert said in shown["head_message"]
    visitor.do("check")
    assert said in shown["proof"] and shown["message"] == ""
    made = json.loads(FILES["json"][2](shown["last"]))
    assert made["model"] == "smollm2" and made["prompt"]["tokens"] == list(shown["last"].result.prompt.tokens)


def test_a_page_opens_on_what_its_model_recorded(recordings: list[Recorded], bundled: LanguageModel) -> None:
    """As where SmolLM2 is loaded; the others are marked as another model's."""
    page = Built(replace(bundled, name="smollm2"), examples=[*EXAMPLES, *REAL], recordings=recordings)
    visitor = page.visitor()
    assert visitor.values["question"] == REAL[0]["question"] and plain(visitor.values["note"]) == REAL[0]["note"]
    assert_shown_as_recorded(visitor, recorded(recordings, REAL[0]))
    assert ">recorded</span>" in visitor.values["left_figures"] and "compute it now" in visitor.values["status"]
    lines = [plain(line) for line in visitor.values["try"].split("</div>")]
    assert lines[0].startswith("Try: Canada") and lines[1].startswith("Recorded with tinyqa: The Scream")
    assert not any("anew" in frame for frame in visitor.do("run", max_new_tokens=2))


def test_a_recording_of_this_model_says_that_run_computes_it(
    recordings: list[Recorded], bundled: LanguageModel
) -> None:
    last = recorded(recordings, EXAMPLES[2])
    said = plain(status_of(last, bundled)["status"])
    assert said == f"Recorded {last.recorded.date}: press Run to compute it now"
    assert attention_plot(bundled, last.result, 1, 1).data
