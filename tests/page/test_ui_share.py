"""A link from a form and back, and what a page opened by one is filled with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
import pytest

from flexdemo.engine.loading import Models
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.page import page as ui
from flexdemo.page.entered import SLIDERS, Form
from flexdemo.page.link import SHOWN, PageState, from_query, side_parts, to_query
from flexdemo.page.pair import PAIR, Pair, Side
from flexdemo.page.share import Share, open_link, state_of
from flexdemo.request import Limits
from flexdemo.serve.profiles import PROFILES

LIMITS = Limits()

FORM = Form(
    "What is 1+1 & 2%?",
    ("<b>one</b>", "", "three", *[""] * 7),
    (1.0, 2.0, 0.0, 0.5, *[1.0] * 7),
    "anchor",
    "sequential",
    ("flex", "vote"),
    9,
    0.35,
    0.9,
    77,
    "Be brief.\n",
    "confidence",
    4,
    0.8,
    0.9,
    1.1,
)
COMPARED = Pair(Side("late_fusion", "right_aligned", False), Side())


def test_a_link_tells_what_the_form_holds() -> None:
    told = parse_qs(to_query(state_of(FORM, 3)), keep_blank_values=True)
    assert told == {
        "q": [FORM.question], "p": ["<b>one</b>", "", "three"], "w": ["1,2,0,0.5"], "weights": ["confidence"],
        "mask": ["anchor"], "positions": ["sequential"], "methods": ["flex,vote"], "max_new_tokens": ["9"],
        "temperature": ["0.35"], "top_p": ["0.9"], "seed": ["77"], "prefix": ["Be brief.\n"], "samples": ["4"],
        "sample_temperature": ["0.8"], "ape_temperature": ["0.9"], "ape_scale": ["1.1"],
    }  # fmt: skip
    told = parse_qs(to_query(state_of(FORM, 3, pair=COMPARED, show="difference")))
    assert [told[name] for name in ("left", "right", "show")] == [
        ["late_fusion.right_aligned.raw"], ["form.aligned.weights"], ["difference"]
    ]  # fmt: skip


def test_rows_that_are_not_shown_are_not_in_the_link() -> None:
    assert state_of(FORM, 1).paraphrases == ("<b>one</b>",) and state_of(FORM, 1).weights == (1, 2)
    assert state_of(FORM, 0).paraphrases == () and state_of(FORM, 0).weights is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": (1.0, None, *[1.0] * 9)}, "the weight of P2 is empty"),
        ({"weights": (1.0, 1.0, None, *[1.0] * 8)}, "a weight is empty"),  # of a blank row
        ({"weights": (0.0,) * 11}, "at least one weight must be above 0"),
        ({"seed": None}, "Seed is empty"),
        ({"methods": ()}, "method"),
        ({"question": "\0"}, "NUL"),
    ],
)
def test_a_form_that_cannot_be_in_a_link_says_why(changes: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        state_of(replace(FORM, weights_from="given", **changes), 3)


def opened(lm: LanguageModel | Models, query: str, models: Sequence[str] = ()) -> tuple[dict[Any, Any] | None, str]:
    """Values that a page opened with this query gets, by element id."""
    demo = ui.build_demo(lm)
    rows, form, share = demo_parts(demo)
    request = SimpleNamespace(query_params=query)
    values, alert = share.opened(request, rows, (2, 5), Limits(), models)
    if values is None:
        return None, alert
    ids = {block.elem_id: block for block in demo.blocks.values() if block.elem_id}
    sides = [f"{side}-{part}" for side in ("left", "right") for part in ("mask", "positions", "weights")]
    widgets = Share.outputs(rows, form, [ids[name] for name in (*sides, "mask-show")])
    assert len(widgets) == len(values)
    return {widget.elem_id or i: value for i, (widget, value) in enumerate(zip(widgets, values, strict=True))}, alert


def demo_parts(demo: gr.Blocks, limits: Limits = LIMITS) -> tuple[Any, list[Any], Share]:
    """The row pool, the form's widgets and the share of a page, built over the same widgets once more."""
    ids = {block.elem_id: block for block in demo.blocks.values() if block.elem_id}
    boxes = [ids[f"paraphrase-{i}"] for i in range(1, limits.paraphrases + 1)]
    weights = [ids[f"weight-{i}"] for i in range(limits.paraphrases + 1)]
    names = ("strategy", "positions", "methods", "max-new-tokens", "temperature", "top-p", "seed", "prefix")
    names += ("weights-from", "samples", "sample-temperature", "ape-temperature", "ape-scale", "model")
    form = [ids["question"], *boxes, *weights, *(ids[name] for name in names)]
    with gr.Blocks():
        share = Share()
    hidden = [gr.Row(render=False) for _ in range(limits.paraphrases)]
    asked = {"boxes": boxes, "weights": weights, "rows": hidden, "used": gr.State(render=False)}
    return ui.RowPool(asked, limits), form, share


def test_a_link_fills_every_widget_of_the_form(lm: LanguageModel) -> None:
    values, alert = opened(lm, to_query(state_of(FORM, 3, pair=COMPARED, show="difference")))
    assert alert == "" and values is not None
    assert values["question"] == FORM.question
    assert [values[f"paraphrase-{i}"] for i in range(1, 5)] == ["<b>one</b>", "", "three", ""]
    assert [values[f"weight-{i}"] for i in range(5)] == [1, 2, 0, 0.5, 1]
    wanted = {
        "strategy": "anchor", "positions": "sequential", "methods": ["flex", "vote"], "max-new-tokens": 9,
        "temperature": 0.35, "top-p": 0.9, "seed": 77, "prefix": "Be brief.\n", "weights-from": "confidence",
        "samples": 4, "sample-temperature": 0.8, "ape-temperature": 0.9, "ape-scale": 1.1,
    }  # fmt: skip
    wanted |= {
        "left-mask": "late_fusion", "left-positions": "right_aligned", "left-weights": False,
        "right-mask": "form", "right-positions": "aligned", "right-weights": True, "mask-show": "difference",
        "model": "",
    }  # fmt: skip
    assert {name: values[name] for name in wanted} == wanted
    assert (3, 6) in values.values(), "three rows are in use, and the edit is counted"


@pytest.mark.parametrize("query", ["", "__theme=dark", "view=api&utm_source=x"])
def test_an_address_without_a_state_fills_nothing(lm: LanguageModel, query: str) -> None:
    assert opened(lm, query) == (None, "")


def test_a_broken_link_is_told_of_and_escaped(lm: LanguageModel) -> None:
    values, alert = opened(lm, "q=a&mask=<script>")
    assert values is None and 'role="alert"' in alert and "&lt;script&gt;" in alert and "<script" not in alert


@pytest.mark.parametrize("name", SLIDERS)
def test_numbers_that_a_slider_cannot_show_are_refused(lm: LanguageModel, name: str) -> None:
    slider = {b.elem_id: b for b in ui.build_demo(lm).blocks.values() if b.elem_id}[name.replace("_", "-")]
    high = slider.maximum
    state = PageState(question="a", **{name: high})
    assert open_link(to_query(state), Limits()) == state
    with pytest.raises(InputError, match=rf"{name} in the link (is|must be)|too long|too many"):
        open_link(f"q=a&{name}={high + 1}", Limits())


@pytest.mark.parametrize("name", PROFILES)
def test_a_link_opens_with_as_many_paraphrases_as_the_profile_has(lm: LanguageModel, name: str) -> None:
    """Texts stay texts and weights weights, also beyond the tenth row."""
    profile = PROFILES[name]
    most = profile.limits.paraphrases
    texts = tuple(f"Wording {i}" for i in range(most))
    weights = (*(1.0 + i / 10 for i in range(most)), 0.5)
    demo = ui.build_demo(lm, profile=profile)
    rows, form, share = demo_parts(demo, profile.limits)
    ids = {block.elem_id: block for block in demo.blocks.values() if block.elem_id}
    assert f"paraphrase-{most}" in ids and f"paraphrase-{most + 1}" not in ids
    sides = [f"{side}-{part}" for side in ("left", "right") for part in ("mask", "positions", "weights")]
    widgets = Share.outputs(rows, form, [ids[name] for name in (*sides, "mask-show")])
    query = to_query(PageState(question="q", paraphrases=texts, weights=weights))
    values, alert = share.opened(SimpleNamespace(query_params=query), rows, (2, 5), profile.limits)
    assert alert == "" and values is not None and len(values) == len(widgets)
    got = {widget.elem_id: value for widget, value in zip(widgets, values, strict=True) if widget.elem_id}
    assert tuple(got[f"paraphrase-{i}"] for i in range(1, most + 1)) == texts
    assert tuple(got[f"weight-{i}"] for i in range(most + 1)) == weights
    assert Share.filled(rows, values)[1].request().paraphrases == texts
    query = to_query(PageState(question="q", paraphrases=(*texts, "one more")))
    values, alert = share.opened(SimpleNamespace(query_params=query), rows, (2, 5), profile.limits)
    assert values is None and f"{most + 1} paraphrases are too many: give at most {most}" in alert


def test_a_link_without_sides_has_the_page_s_own(lm: LanguageModel) -> None:
    state = from_query("q=a")
    assert Pair.from_values([*side_parts(state.left), *side_parts(state.right)]) == PAIR
    radio = {b.elem_id: b for b in ui.build_demo(lm).blocks.values() if b.elem_id}["mask-show"]
    assert radio.value == state.show and {value for _, value in radio.choices} == set(SHOWN)
