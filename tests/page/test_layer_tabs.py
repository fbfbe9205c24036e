"""What *Where wordings merge* and *Heads that read wordings* say, and how they and *A head* do their work."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_tabs import NASTY, ran
from visitor import Built, Visitor

from flexdemo.answers.heads import HeadEffect, Reads, attention_map, reading_heads
from flexdemo.answers.merge import Merge, merging
from flexdemo.engine import reading
from flexdemo.engine.model import LanguageModel
from flexdemo.page.run import LastRun
from flexdemo.page.tabs import TABS, heads, merge

PLACES = {tab.NAME: place for place, tab in enumerate(TABS)}
ASKED = {"question": "Who?", "used": 2, "paraphrase-1": "", "paraphrase-2": "Name it.", "max_new_tokens": 4}


@pytest.fixture(scope="module")
def page(lm: LanguageModel) -> Built:
    return Built(lm)


@pytest.fixture
def visitor(page: Built) -> Visitor:
    """One who has run P1 and P3, with a blank row between them."""
    made = page.visitor()
    made.do("run", **ASKED)
    return made


def opened(visitor: Visitor, name: str) -> list[dict[str, Any]]:
    """A tab is opened: all that it changes, one after the other."""
    return visitor.open(PLACES[name])


def text(markup: str) -> str:
    return " ".join(html.unescape(re.sub("<.*?>", "", markup)).split())


def by_hand(*tops: list[int], names: tuple[str, ...] = ("P1", "P3")) -> Merge:
    """A Merge in which 7 is the answer's token."""
    top = np.array(tops)
    says = tuple(tuple(" x" if token == 7 else f"t{token}" for token in layer) for layer in tops)
    to_fused, between = np.full((len(top), len(names)), 0.5), np.linspace(0.9, 0.8, len(top))
    return Merge((*names, "flex"), 7, " x", np.full(top.shape, 0.5), top, says, to_fused, between)


# Where wordings merge


def test_merging_is_shown_when_the_tab_is_opened_and_once(visitor: Visitor, lm: LanguageModel) -> None:
    assert visitor.values["merge_plot"] is None, "a tab does its work when it is opened"
    waits, done = opened(visitor, "merge")
    assert merge.WAITING in waits["merge_note"] and not waits["merge_plot"]["visible"]
    last = visitor.values["last"]
    found = merging(lm, last.result, 0)
    assert found.names == ("P1", "P3", "flex")
    shown = [trace for trace in visitor.values["merge_plot"].data if trace.yaxis is None]
    assert [trace.name for trace in shown] == ["fused", "P1", "P3"]
    assert np.allclose(shown[0].y, np.maximum(found.probability[:, 2], 1e-6))
    count = len(last.methods["flex"].token_ids)
    assert done["merge_token"]["maximum"] == count and done["merge_token"]["visible"]
    assert "Last run" in visitor.values["merge_note"] and visitor.values["merge_words"]
    assert opened(visitor, "merge") == [], "it is there already"
    visitor.do("run")
    assert len(visitor.do("conclude")) == 3, "with the tab open the next run is looked at when it is over"
    assert opened(visitor, "merge") == [] and len(visitor.do("conclude")) == 1


@pytest.mark.parametrize("name", ["merge", "heads"])
def test_a_tab_says_that_it_waits_until_the_model_is_free(visitor: Visitor, name: str) -> None:
    """Its look has to wait for what others ask, and for the rest of the run; that it waits is told meanwhile."""
    nth, fns = PLACES[name], [fn for fn in visitor.page.demo.fns.values() if fn.name == "awaited"]
    assert {fn.concurrency_id for fn in fns} == {"draw"} and len(fns) == len(PLACES)
    visitor.do("awaited", nth=nth)
    assert text(visitor.values[f"{name}_note"]) == "Waiting for the model, which is at work …"
    opened(visitor, name)
    assert "Waiting" not in visitor.values[f"{name}_note"]
    assert visitor.do("awaited", nth=nth) == [{"tab": name}]
    assert visitor.page.visitor().do("awaited", nth=nth) == [{"tab": name}]


def test_the_slider_goes_through_the_answer(visitor: Visitor, lm: LanguageModel) -> None:
    opened(visitor, "merge")
    visitor.do("token", merge_token=3)
    found = merging(lm, visitor.values["last"].result, 2)
    upper = visitor.values["merge_plot"].data[0]
    assert np.allclose(upper.y, np.maximum(found.probability[:, -1], 1e-6))
    assert "<mark" in visitor.values["merge_words"]


def test_what_the_run_has_read_is_not_read_again(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "encode", None)
    for name, move, moved in (("merge", "token", {"merge_token": 3}), ("heads", "wording", {"heads_wording": "P3"})):
        opened(visitor, name)
        visitor.do(move, **moved)
        assert visitor.visible[f"{name}_plot"]
    visitor.session = "another"  # of whom nothing is kept
    visitor.values["looked"] = {}
    for name in ("merge", "heads"):
        with pytest.raises(TypeError, match="not callable"):
            opened(visitor, name)


def test_it_is_said_at_which_layer_they_agree(lm: LanguageModel) -> None:
    last = ran(lm, "", "Name it.", methods=("flex",))

    def said(*tops: list[int]) -> str:
        return text(merge.words_html(last, by_hand(*tops), 0))

    assert "from layer 2 of 3 on" in said([7, 1, 7], [7, 7, 1], [7, 7, 7])
    assert "The fused view says it from layer 3 on" in said([7, 1, 7], [7, 7, 1], [7, 7, 7])
    assert "but only after the last layer, 2." in said([1, 1, 1], [7, 7, 7])
    assert "Both wordings would say" in said([7, 7, 7]) and "after every layer" in said([7, 7, 7])
    never = said([7, 7, 7], [7, 3, 1])
    assert "never all come to" in never and "they still say something else: P3 t3." in never
    assert "The fused view does not put it first." in never
    assert "0.900 after layer 1, 0.800 after layer 2" in never


@pytest.mark.parametrize(
    ("methods", "layer", "marked"),
    [(("flex", "hidden_avg"), 2, 2), (("flex", "hidden_avg"), 99, None), (("flex",), 2, None)],
)
def test_the_layer_from_which_states_are_averaged_is_marked(
    lm: LanguageModel, methods: Any, layer: int, marked: Any
) -> None:
    last = ran(lm, "Name it.", methods=methods, hidden_layer=layer)
    figure = merge.picture(last, merging(lm, last.result, 0))
    assert any("mean of states from here" in (each.text or "") for each in figure.layout.annotations) == (
        marked is not None
    )


def test_one_wording_is_told_without_pairs(lm: LanguageModel) -> None:
    last = ran(lm, methods=("flex",))
    words = text(merge.words_html(last, merging(lm, last.result, 0), 0))
    assert "The wording would say" in words and "cosine" not in words


def test_the_table_has_what_each_would_say(lm: LanguageModel) -> None:
    table = merge.says_html(by_hand([1, 7, 2], [7, 7, 7]))
    lines = [re.findall(r"<t[hd].*?</t[hd]>", line) for line in re.findall(r"<tr>(.*?)</tr>", table)]
    assert [[text(cell) for cell in line] for line in lines] == [
        ["Layer", "1", "2"], ["P1", "t1", "✓ ·x"], ["P3", "✓ ·x", "✓ ·x"], ["fused", "t2", "✓ ·x"]
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["merge", "heads"])
def test_without_the_fused_answer_it_is_said_what_to_choose(visitor: Visitor, name: str, lm: LanguageModel) -> None:
    visitor.values["last"] = ran(lm, "Name it.", methods=("causal",))
    opened(visitor, name)
    assert "choose <b>Fused (flex)</b> under Methods" in visitor.values[f"{name}_note"]
    assert not visitor.visible[f"{name}_plot"]


@pytest.mark.parametrize("name", ["merge", "heads"])
def test_what_another_model_made_is_refused_and_asked_again(visitor: Visitor, name: str) -> None:
    last: LastRun = visitor.values["last"]
    visitor.values["last"] = replace(last, result=replace(last.result, dtype="float16"))
    for _ in range(2):
        waits, refused = opened(visitor, name)
        assert "once more" in waits[f"{name}_note"] and "was recorded with llama in float16" in refused[f"{name}_note"]
        assert not visitor.visible[f"{name}_plot"]
    visitor.values["last"] = last
    opened(visitor, name)
    assert "Last run" in visitor.values[f"{name}_note"] and visitor.visible[f"{name}_plot"]


def test_nothing_is_done_without_a_run(page: Built) -> None:
    newcomer = page.visitor()
    assert newcomer.values["last"] is None
    for name in ("gave", "candidates", "methods-tab", "merge", "heads", "head"):
        assert opened(newcomer, name) == [] and newcomer.values["tab"] == name
        assert newcomer.values[f"{name}_note"].endswith("<p>Press Run to see it.</p>")
    assert newcomer.do("wording") == [] and newcomer.do("token") == [{}]


# Heads that read wordings


def test_heads_come_first_and_effects_after_them(visitor: Visitor, lm: LanguageModel) -> None:
    waits, first, second, third = opened(visitor, "heads")
    assert heads.WAITING in waits["heads_note"]
    assert first["heads_wording"]["choices"] == ["P1", "P3"] and first["heads_wording"]["value"] == "P1"
    *_, found = reading_heads(lm, visitor.values["last"].result, 0)
    assert np.allclose(first["heads_plot"]["value"].data[0].z, found.attention)
    assert heads.HIDING in first["heads_list"] and "data-head" in second["heads_list"]
    assert len(second["heads_plot"]["value"].data) == 1
    assert np.allclose(third["heads_plot"]["value"].data[1].x, found.by_layer)
    assert opened(visitor, "heads") == [], "it is there already"


def test_another_wording_is_chosen_by_its_name_on_the_page(visitor: Visitor, lm: LanguageModel) -> None:
    opened(visitor, "heads")
    visitor.do("wording", heads_wording="P3")
    *_, found = reading_heads(lm, visitor.values["last"].result, 1)
    assert found.name == "P3" and np.allclose(visitor.values["heads_plot"].data[0].z, found.attention)
    assert 'class="chip is-P3"' in visitor.values["heads_list"]
    assert visitor.do("wording", heads_wording="P2") == [], "which is blank"


def test_the_list_tells_heads_a_layer_and_leave_one_out() -> None:
    attention = np.array([[0.1, 0.3], [0.2, 0.0]])
    strongest = (HeadEffect(0, 1, 0.3, 0.25), HeadEffect(1, 0, 0.2, -1e-5))
    told = heads.list_html(Reads("P3", attention, strongest, (0.1, -0.5), 0.75))
    lines = [re.findall(r"<t[hd].*?</t[hd]>", line) for line in re.findall(r"<tr>(.*?)</tr>", told)]
    assert [[text(cell) for cell in line] for line in lines][1:] == [
        ["1", "layer 1, head 2", "0.300", "+0.250"],
        ["2", "layer 2, head 1", "0.200", "0.000"],
        ["", "layer 2, all its heads at once (the layer that matters most)", "0.100", "-0.500"],
        ["", "all layers and heads at once (leave-one-out)", "0.150", "+0.750"],
    ]
    assert 'data-layer="1" data-head="2"' in told and "need not add up" in told and "no single change" not in told
    sure = heads.list_html(Reads("P3", attention, (HeadEffect(0, 1, 0.3, 1e-5),), (1e-5, 0.0), 1e-5))
    assert "no single change moves the answer" in sure


def test_a_wording_that_cannot_be_hidden_is_told(page: Built) -> None:
    alone = page.visitor()
    alone.do("run", **{**ASKED, "used": 0})
    opened(alone, "heads")
    assert alone.values["heads_list"] == f"<p>{heads.NOTHING}</p>" and alone.visible["heads_plot"]


def test_a_head_that_is_clicked_is_shown_in_its_tab(visitor: Visitor, lm: LanguageModel) -> None:
    opened(visitor, "heads")
    visitor.do("pointed", {"layer": 1, "head": 2})
    assert (visitor.values["head_layer"], visitor.values["head_head"]) == (1, 2) and visitor.visible["head_plot"]
    shown = np.array(visitor.values["head_plot"].data[0].customdata)
    np.testing.assert_allclose(shown, attention_map(lm, visitor.values["last"].result, 0, 1), atol=1e-6)
    visitor.open(PLACES["head"])
    assert visitor.visible["head_plot"], "it is of this run"
    visitor.do("run")
    visitor.open(PLACES["head"])
    assert not visitor.visible["head_plot"], "it was of another"


@pytest.mark.parametrize("told", [None, {"layer": "1", "head": 0}, {"layer": 1}, "x"])
def test_what_is_no_head_is_left_alone(visitor: Visitor, told: Any) -> None:
    assert visitor.do("pointed", told) == [{}]


def test_a_head_that_is_not_there_is_said(visitor: Visitor) -> None:
    visitor.do("pointed", {"layer": 99, "head": 0})
    assert "no layer 99: choose from 1 to 3" in visitor.values["head_message"]


def test_texts_are_escaped(lm: LanguageModel) -> None:
    last = ran(lm, NASTY, methods=("flex",))
    answer = replace(last.result["flex"], tokens=(NASTY,) * 6)
    last = replace(last, result=replace(last.result, results=(answer,)))
    found = replace(by_hand([1, 7, 1], names=("P1", "P2")), says=((NASTY,) * 3,), token=NASTY)
    for piece in (merge.words_html(last, found, 0), merge.says_html(found)):
        assert "<script" not in piece and "<b>bold" not in piece
