"""PageState of the widgets' values and back, what a host allows of it, and that every setting has its widget."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.masks import STRATEGIES
from flexdemo.page.form import CHOICES, GROUPS, element, group_changes, said_of
from flexdemo.page.sides import choices, draw
from flexdemo.page.state import FIELDS, SETTINGS, SLIDERS, PageState, check_limits, side_parts, slider_of
from flexdemo.plan import Scheme
from flexdemo.prompt import POSITIONS, build_prompt
from flexdemo.request import Limits, Request

ROOM = 10
QUESTION = "What is the capital of Peru?"
FULL = PageState(
    question="What is 1+1 & 2%?", paraphrases=("<b>one</b>", "", "three"), weights=(1.0, 2.0, 0.0, 0.5), mask="anchor",
    positions="sequential", methods=("flex", "vote"), max_new_tokens=9, temperature=0.35, top_p=0.9, seed=77,
    prefix="Be brief.\n", weights_from="confidence", samples=4, sample_temperature=0.8, ape_temperature=0.9,
    ape_scale=1.1, template="plain", left="late_fusion.right_aligned.raw", right="form.aligned.weights", model="large",
    hidden_layer=3,
)  # fmt: skip


def values(*paraphrases: str, question: str = QUESTION, **changes: Any) -> dict[str, Any]:
    """What a page with these rows holds, some of its widgets changed."""
    return {**PageState(question=question, paraphrases=paraphrases).values(ROOM), **changes}


def test_every_value_comes_back_from_the_widgets() -> None:
    assert {name for name in FIELDS if getattr(FULL, name) == FIELDS[name].default} == {"mass", "candidates"}
    assert PageState.of(FULL.values(ROOM)) == FULL
    assert len([name for name in FULL.values(ROOM) if name.startswith("paraphrase-")]) == ROOM
    equal = PageState(question="q", paraphrases=("a", "b"), weights=(1, 1, 1))
    assert PageState.of(equal.values(ROOM)).weights is None, "equal weights are the default"


def test_a_page_that_lacks_rows_for_a_method_can_be_shown_again() -> None:
    state = PageState(question="q", methods=("flex", "leave_one_out"))
    assert PageState.of(state.values(ROOM)) == state
    assert "leave_one_out" not in state.but(methods=("all",)).values(ROOM)["methods"]


def test_rows_that_are_not_in_use_do_not_count() -> None:
    given = FULL.values(ROOM) | {"paraphrase-9": "x", "weight-9": None}
    assert PageState.of(given) == FULL
    assert PageState.of(given | {"used": 1}).paraphrases == ("<b>one</b>",)


@pytest.mark.parametrize("name", [name for name in FIELDS if FIELDS[name].annotation is int and name in SETTINGS])
def test_a_whole_number_with_a_point_is_one(name: str) -> None:
    assert getattr(PageState.of(values(**{name: 7.0})), name) == 7
    with pytest.raises(InputError, match=rf"{name} must be a whole number"):
        PageState.of(values(**{name: 7.5}))


def test_blank_rows_leave_gaps_in_names_and_take_their_weights_along() -> None:
    state = PageState.of(values("one", "  ", "three", **{f"weight-{i}": w for i, w in enumerate((1, 2, 9, 3))}))
    assert state.wordings == (("P1", QUESTION), ("P2", "one"), ("P4", "three"))
    asked = state.asked()
    assert (asked.paraphrases, asked.weights) == (("one", "three"), (1.0, 2.0, 3.0))
    assert state.but(weights_from="confidence").asked().weights == "confidence"
    assert type(asked).__name__ == "Request" and state.asked(mass=False).mass is False


def test_names_of_the_page_reach_the_prompt(lm: LanguageModel) -> None:
    state = PageState(question=QUESTION, paraphrases=("", "Name it.", " "))
    prompt = state.compose(lm, Limits())
    assert [each.name for each in prompt.segments] == ["prefix", "P1", "P3", "suffix"]
    assert prompt.token_ids == build_prompt(lm.tokenizer, QUESTION, ["Name it."]).token_ids


TOO_LONG = ["many words " * 60] * 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (values(question=" "), "the question is empty"),
        (values() | {"question": None}, "the question is empty"),
        (values(question="x" * 2001), "the question is too long: it has 2,001 characters, the limit is 2,000"),
        (values("ok", "y" * 2001), "paraphrase 2 is too long"),
        (values("", "y" * 2001), "paraphrase 2 is too long"),
        (values(prefix="y" * 2001), "the prefix is too long"),
        (values() | {"question": "a\0b"}, "question: the text holds a NUL or half a character"),
        (values() | {"prefix": "\udfff"}, "prefix: the text holds a NUL or half a character"),
        (values("a") | {"paraphrase-1": "\ud800"}, "paraphrases: the text holds a NUL"),
        (values(*TOO_LONG), "prompt and answer need .* tokens and the limit is 1,024"),
        (values(max_new_tokens=300), "an answer of 300 tokens is too long: ask for at most 256"),
        (values(max_new_tokens=None), "Answer length is empty: give a number"),
        (values(seed=None), "Seed is empty"),
        (values(seed=2**32), "seed must be from 0 to 4294967295"),
        (values("a") | {"weight-1": None}, "the weight of P2 is empty: give a number, 0 or more"),
        (values() | {"weight-0": 0}, "at least one weight must be above 0"),
        (values("a") | {"weight-1": -1}, "weight.* 0 or more"),
        (values(samples=33), "33 samples of each wording are too many: draw at most 32"),
        (values(ape_temperature=0.0), "ape_temperature must be from 0.01 to 100"),
        (values(sample_temperature=0.0), "sample_temperature must be above 0"),
        (values(mask="odd"), "unknown mask strategy 'odd'"),
        (values(mask="segment+P9>P1"), "P9"),
        (values(positions="odd"), "unknown position scheme 'odd'"),
        (values(methods=[]), "choose at least one method"),
        (values(methods=["leave_one_out"]), "leave_one_out needs at least 2 wordings"),
        (values(left="odd.aligned.raw"), "left: unknown mask strategy 'odd'"),
        (values(right="segment"), "right: 'segment' is no mask, positions and weights or raw"),
        (values(model="../x"), "model: '../x' is no name of a model"),
    ],
)
def test_a_page_that_cannot_run_says_why_in_one_line(lm: LanguageModel, given: dict, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        draw(lm, Limits(), PageState.of(given))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_what_a_profile_allows() -> None:
    with pytest.raises(InputError, match="11 paraphrases are too many: give at most 10"):
        check_limits(Limits(), Request(question=QUESTION, paraphrases=["x"] * 11))


@pytest.mark.parametrize("name", ["max_new_tokens", "samples"])
def test_a_slider_ends_where_the_host_does(name: str) -> None:
    limits = Limits(new_tokens=9, samples=3)
    assert slider_of(name, limits)[1] == {"max_new_tokens": 9, "samples": 3}[name]


def test_every_setting_has_one_widget() -> None:
    """The sides have menus of their own, and the model one in the head of the page."""
    shown = [name for _, _, names, _ in GROUPS for name in names]
    assert sorted([*shown, "left", "right", "model"]) == sorted(SETTINGS)
    ids = {"strategy", "positions", "max-new-tokens", "weights-from", "methods", "ape-scale", "sample-temperature"}
    assert {element(name) for name in shown} >= ids and len({element(name) for name in shown}) == len(shown)


@pytest.mark.parametrize("name", [*CHOICES, *SLIDERS])
def test_what_a_widget_offers_can_be_set(name: str) -> None:
    offered = [value for _, value in CHOICES[name]] if name in CHOICES else slider_of(name, Limits())[:2]
    for value in offered:
        more = {"paraphrases": ("a",)} if name == "methods" else {}
        PageState(**{"question": "q", name: [value] if name == "methods" else value, **more}).asked()


def test_a_folded_group_tells_its_state() -> None:
    assert {name: said_of(name, FULL) for name, *_ in GROUPS} == {
        "masking": "anchor · sequential", "methods_group": "2 chosen", "answering": "9 tokens · temperature 0.35",
        "weighing": "by confidence · APE",
    }  # fmt: skip
    plain = PageState(question="q")
    assert said_of("answering", plain) == "32 tokens · greedy" and said_of("weighing", plain) == "mine"
    assert group_changes(plain)["masking"]["label"] == "Mask and positions — segment · aligned"


# Sides

SIDES = [".".join(each) for each in itertools.product(["form", *STRATEGIES], POSITIONS, ["weights", "raw"])]


def test_the_menus_hold_every_scheme_and_the_page_s_own() -> None:
    assert [value for _, value in choices()] == ["form.aligned.weights", *SIDES[2 * len(POSITIONS) :]]


@pytest.mark.parametrize("side", SIDES)
def test_a_side_stands_for_a_scheme(side: str) -> None:
    strategy, positions, weights = side.split(".")
    assert side_parts(side) == (strategy, positions, weights == "weights")
    state = PageState(question="q", mask="isolated", positions="right_aligned", left=side)
    set_on_page = Scheme("isolated", "right_aligned")
    assert state.schemes[0] == (
        set_on_page if strategy == "form" else Scheme(strategy, positions, weights == "weights")
    )
    assert state.schemes[1] == Scheme("causal", "sequential", False)
