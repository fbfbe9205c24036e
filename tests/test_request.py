"""Every setting of a Request is reached in every way, by looping over its fields: nothing here lists them by hand."""

from __future__ import annotations

import argparse
import inspect
import json
import pickle
from typing import Any, get_args

import pytest
from hosting import endpoint_of

import flexdemo
from flexdemo.answers.methods import METHODS, check_names
from flexdemo.cli.main import make_parser
from flexdemo.errors import InputError
from flexdemo.masks import STRATEGIES
from flexdemo.page.link import from_query, to_query
from flexdemo.page.state import PageState
from flexdemo.prompt import POSITIONS
from flexdemo.request import Limits, Request, SettingError, face_of, parameters_of, range_of

FIELDS = Request.model_fields
PUBLIC = [name for name, field in FIELDS.items() if face_of(field)]
RANGED = [name for name, field in FIELDS.items() if range_of(field)]
TABLES = {"mask": STRATEGIES, "positions": POSITIONS, "methods": METHODS}


def bounds(name: str) -> dict[str, float]:
    """ge, gt, le of a field, as pydantic tells JSON schema."""
    told = Request.model_json_schema()["properties"][name]
    known = {"minimum": "ge", "exclusiveMinimum": "gt", "maximum": "le"}
    return {ours: told[theirs] for theirs, ours in known.items() if theirs in told}


def other(name: str) -> Any:
    """A value that the setting can have and that is not its default."""
    usual = FIELDS[name].default
    if name in TABLES:
        (value,) = [key for key in TABLES[name] if key not in (usual, *usual)][:1]
        return (value,) if isinstance(usual, tuple) else value
    if name == "weights":
        return (0.25, 3.0)  # of the two wordings of `request`
    if isinstance(usual, bool):
        return not usual
    if isinstance(usual, int | float):
        return type(usual)(usual + 1 if bounds(name).get("le") != usual else usual / 2)
    if isinstance(usual, tuple):
        return ("Another & wording?",)
    return next((each for each in get_args(FIELDS[name].annotation) if each != usual), "A text, <b>&amp; more</b>")


def request(name: str) -> Request:
    """A request of two wordings with one setting that is not its default."""
    return Request(**{"question": "Why?", "paraphrases": ("How so?",), name: other(name)})


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_is_explained_and_its_default_is_in_its_range(name: str) -> None:
    field = FIELDS[name]
    assert field.description and "\n" not in field.description
    if not field.is_required():
        assert getattr(Request(question="q", **{name: field.default}), name) == field.default


@pytest.mark.parametrize("name", PUBLIC)
def test_a_setting_has_a_flag_that_reads_it(name: str) -> None:
    (commands,) = [each for each in make_parser()._actions if isinstance(each, argparse._SubParsersAction)]
    actions = {each.dest: each for each in commands.choices["generate"]._actions}
    action, value = actions[name], getattr(request(name), name)
    assert FIELDS[name].description in action.help
    if not action.option_strings:
        assert FIELDS[name].is_required()
        return
    several = value if isinstance(value, tuple) else (value,)
    words = [",".join(map(str, several))] if name == "weights" else [str(each) for each in several]
    given = [word for each in words for word in (action.option_strings[-1], each)]
    parsed = getattr(make_parser().parse_args(["generate", "q", *given]), name)
    assert parsed == (list(value) if isinstance(parsed, list) else value)


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_is_an_argument_of_ask_and_stream(name: str) -> None:
    for function in (flexdemo.ask, flexdemo.stream):
        parameter = inspect.signature(function).parameters[name]
        if not FIELDS[name].is_required() and not isinstance(FIELDS[name].default, tuple):
            assert parameter.default == FIELDS[name].default


@pytest.mark.parametrize("name", PUBLIC)
def test_a_setting_is_an_argument_of_the_endpoint(name: str) -> None:
    generate = endpoint_of("generate", Limits())
    (usual,) = [each.default for each in parameters_of(Request) if each.name == name]
    assert inspect.signature(generate).parameters[name].default == usual
    assert f"    {name}: {FIELDS[name].description}\n" in inspect.getdoc(generate)


def test_the_endpoint_has_no_argument_for_what_is_pythons_alone() -> None:
    assert not {*inspect.signature(endpoint_of("generate", Limits())).parameters} & ({*FIELDS} - {*PUBLIC})


@pytest.mark.parametrize("name", [name for name in PUBLIC if face_of(FIELDS[name]).link])
def test_a_setting_comes_back_from_a_link_in_both_forms(name: str) -> None:
    asked = request(name)
    for more in ("", "long " * 400):
        state = PageState(**{**dict(asked), "prefix": asked.prefix + more})
        query = to_query(state)
        assert query.startswith("z=") == bool(more) and from_query(query) == state


@pytest.mark.parametrize("name", RANGED)
def test_a_value_out_of_range_is_told_in_one_line_that_names_the_setting(name: str) -> None:
    for kind, bound in bounds(name).items():
        bad = {"ge": bound - 1, "gt": bound, "le": bound + 1}[kind]
        bad = type(FIELDS[name].default)(bad)
        with pytest.raises(SettingError, match=f"^{name} must be .*{int(bound)}|^{name} must be 0 or more") as caught:
            Request(question="q", **{name: bad})
        assert "\n" not in str(caught.value) and str(caught.value).endswith(f", not {bad!r}")


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "bad", [{"x": 1}, ["\n" * 500, 1], 10**5000, object(), b"bytes"], ids=lambda v: type(v).__name__
)
def test_a_value_of_another_kind_is_told_in_one_line_that_names_the_setting(name: str, bad: Any) -> None:
    if FIELDS[name].annotation in (int, float) and isinstance(bad, int):
        pytest.skip("a number may be large")
    with pytest.raises(InputError, match=f"^{name} must be ") as caught:
        Request(**{"question": "q", name: bad})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.annotation in (int, float)])
@pytest.mark.parametrize("bad", ["3", True, None, float("nan"), float("inf")], ids=repr)
def test_no_text_becomes_a_number(name: str, bad: Any) -> None:
    with pytest.raises(SettingError, match=f"^{name} must be ") as caught:
        Request(**{"question": "q", name: bad})
    assert caught.value.field == name


@pytest.mark.parametrize("name", FIELDS)
def test_requests_are_frozen_and_survive_json_and_pickle(name: str) -> None:
    asked = request(name)
    assert Request(**json.loads(json.dumps(asked.model_dump()))) == asked == pickle.loads(pickle.dumps(asked))
    assert hash(asked) == hash(request(name))
    with pytest.raises(ValueError, match="frozen"):
        setattr(asked, name, other(name))


def test_errors_survive_the_way_between_processes() -> None:
    with pytest.raises(SettingError) as caught:
        Request(question="q", seed=-1)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == "seed must be from 0 to 4294967295, not -1" and again.field == "seed"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "question is missing"),
        ({"question": "q", "sed": 3}, "sed: there is no such setting: choose from question, paraphrases, "),
        ({"question": "q", "weights": (1, 2)}, "weights: 2 weights for 1 wording: give one weight for the question"),
        ({"question": "q", "weights": (0,)}, "weights: at least one weight must be above 0"),
        ({"question": "q", "weights": "even"}, "weights must be .* raw or confidence, not 'even'"),
        ({"question": "q", "template": "html"}, "template must be auto, plain or chat, not 'html'"),
    ],
)
def test_what_is_wrong_and_what_would_be_right(given: dict, said: str) -> None:
    with pytest.raises(SettingError, match=f"^{said}"):
        Request(**given)


@pytest.mark.parametrize("name", TABLES)
def test_a_name_in_no_table_is_refused_before_a_model_is_asked(name: str) -> None:
    wrong = ("odd",) if isinstance(FIELDS[name].default, tuple) else "odd"
    with pytest.raises(InputError, match=r"^unknown .*'odd': choose from"):
        check_names(Request(question="q", **{name: wrong}))
    for right in TABLES[name]:
        check_names(Request(**{"question": "q", "paraphrases": ("p",), name: [right] if name == "methods" else right}))


def test_a_request_with_changes_is_checked_again() -> None:
    asked = Request(question="q", seed=3)
    assert asked.but(seed=4, mass=False) == Request(question="q", seed=4, mass=False) and asked.seed == 3
    with pytest.raises(SettingError, match=r"^seed must be"):
        asked.but(seed=-4)
