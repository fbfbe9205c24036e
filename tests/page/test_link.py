"""A link holds the page's state: exact round trips, old links too; what is malformed is told by its name."""

from __future__ import annotations

import base64
import json
import random
import re
import tracemalloc
import zlib
from urllib.parse import parse_qs

import pytest
from starlette.datastructures import QueryParams
from test_state import FULL, SIDES

from flexdemo.answers.methods import METHODS
from flexdemo.errors import InputError
from flexdemo.masks import STRATEGIES
from flexdemo.page.link import LONGEST, READABLE, UNPACKED, from_query, open_link, to_query
from flexdemo.page.state import SLIDERS, PageState, slider_of
from flexdemo.prompt import POSITIONS
from flexdemo.request import Limits
from flexdemo.serve.profiles import PROFILES

# What breaks encodings: separators of queries, escapes, spaces, direction marks, astral and combining characters.
PIECES = (
    *"&=+%#?;,/\\'\"<>\n\r\t abcXYZ019", "%41", "%zz", "&amp;", "\x01", "\x7f", "é", "日本", "\u2028", "\u202e", "😀",
    "e\u0301", "\ufeff", "\uffff", "z=", "&q=", "<script>",
)  # fmt: skip


def packed(told: object) -> str:
    """A `z` made by hand."""
    raw = told if isinstance(told, bytes) else json.dumps(told).encode()
    return "z=" + base64.urlsafe_b64encode(zlib.compress(raw)).decode().rstrip("=")


def random_text(rng: random.Random, longest: int) -> str:
    def char() -> str:
        if rng.random() < 0.7:
            return rng.choice(PIECES)
        while 0xD800 <= (point := rng.randrange(1, 0x110000)) <= 0xDFFF:
            pass
        return chr(point)

    return "".join(char() for _ in range(rng.randrange(longest)))


def random_state(rng: random.Random, longest: int = 40) -> PageState:
    wordings = 1 + rng.randrange(11)

    def number() -> float:
        return rng.choice([1.0, 1e-7, 0.1 + 0.2, rng.uniform(0.01, 3), rng.uniform(1, 9) * 10 ** rng.randrange(20)])

    def ape() -> float:
        return rng.choice([1.0, 0.1 + 0.2, rng.uniform(0.01, 100), 0.01, 100])

    choices = {
        "paraphrases": tuple(random_text(rng, longest) for _ in range(wordings - 1)),
        "weights": tuple([*(rng.choice([0.0, number()]) for _ in range(wordings - 1)), number()]),
        "weights_from": "confidence",
        "mask": rng.choice(list(STRATEGIES)),
        "positions": rng.choice(list(POSITIONS)),
        "methods": tuple(rng.sample([*METHODS, "all"], rng.randrange(1, 5))),
        "max_new_tokens": rng.randrange(1, 257),
        "temperature": number(),
        "top_p": rng.uniform(1e-9, 1),
        "seed": rng.randrange(2**32),
        "prefix": random_text(rng, longest),
        "samples": rng.randrange(1, 65),
        "sample_temperature": number(),
        "ape_temperature": ape(),
        "ape_scale": ape(),
        "left": rng.choice(SIDES),
        "right": rng.choice(SIDES),
    }
    kept = {name: value for name, value in choices.items() if rng.random() < 0.6}
    if len(kept.get("weights", ())) != 1 + len(kept.get("paraphrases", ())):
        kept.pop("weights", None)
    return PageState(question=random_text(rng, longest), **kept)


@pytest.mark.parametrize("seed", range(60))
def test_random_states_come_back_exactly(seed: int) -> None:
    rng = random.Random(seed)
    state = random_state(rng, rng.choice([5, 40, 400]))
    query = to_query(state)
    assert query.isascii() and not set(query) - set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%+=&"
    )
    assert len(query) <= READABLE or query.startswith("z=")
    for form in (query, f"?{query}", str(QueryParams(query)), f"utm_source=a&{query}&fbclid=%ff%&&=&x"):
        assert from_query(form) == state


def test_both_forms_are_met_by_the_random_states() -> None:
    forms = {to_query(random_state(random.Random(seed), 40)).startswith("z=") for seed in range(60)}
    assert forms == {True, False}


def test_a_short_state_is_readable() -> None:
    state = PageState(
        question="What is Peru's capital?", paraphrases=("Name it.", "a&b"), weights=(1, 2.5, 0), mask="anchor", seed=7
    )
    assert to_query(state) == "q=What+is+Peru%27s+capital%3F&p=Name+it.&p=a%26b&mask=anchor&w=1,2.5,0&seed=7".replace(
        ",", "%2C"
    )
    assert to_query(PageState(question="Hi")) == "q=Hi"
    assert from_query("w=1,2&p=x&q=y").weights == (1.0, 2.0), "commas need no escape when typed by hand"


def test_the_form_changes_where_the_link_gets_long() -> None:
    assert to_query(PageState(question="x" * (READABLE - 2))) == "q=" + "x" * (READABLE - 2)
    assert to_query(PageState(question="x" * (READABLE - 1))).startswith("z=")


def test_a_link_without_our_parameters_is_an_empty_page() -> None:
    assert from_query("") == from_query("?utm_source=x&ref=%ff") == PageState(question="")
    assert from_query("mask=anchor") == PageState(question="", mask="anchor")


@pytest.mark.parametrize("side", SIDES)
def test_sides_come_back_exactly(side: str) -> None:
    assert from_query(to_query(PageState(question="q", left=side, right=side))) == PageState(
        question="q", left=side, right=side
    )


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("q=a&q=b", "q in the link"),
        ("q=a%00b", "q in the link.*NUL"),
        ("q=a&p=b&p=%00", "p in the link.*NUL"),
        ("q=a&w=1,2", "w in the link.*2 weights for 1"),
        ("q=a&w=-1", "w in the link.*0 or more"),
        ("q=a&w=1e999", "w in the link"),
        ("q=a&w=nan", "w in the link must be a list of numbers.*'nan'"),
        ("q=a&w=1,", "w in the link.*''"),
        ("q=a&w=0", "w in the link.*above 0"),
        ("q=a&weights=yours", "weights in the link.*mine or confidence"),
        ("q=a&mask=diagonal", "mask in the link.*diagonal.*segment"),
        ("q=a&positions=left", "positions in the link.*left.*aligned"),
        ("q=a&methods=flex,magic", "methods in the link.*magic"),
        ("q=a&methods=", "methods in the link"),
        ("q=a&max_new_tokens=0", "max_new_tokens in the link.*at least 1"),
        ("q=a&max_new_tokens=1_0", "max_new_tokens in the link.*whole number"),
        ("q=a&max_new_tokens=%D9%A1", "max_new_tokens in the link.*whole number"),
        ("q=a&max_new_tokens=" + "9" * 5000, "max_new_tokens in the link.*whole number"),
        ("q=a&temperature=-0.5", "temperature in the link must be 0 or more, not -0.5"),
        ("q=a&temperature=inf", "temperature in the link must be a number, not 'inf'"),
        ("q=a&temperature=1e400", "temperature in the link"),
        ("q=a&top_p=0", "top_p in the link.*above 0"),
        ("q=a&seed=4294967296", "seed in the link.*4294967295"),
        ("q=a&seed=-1", "seed in the link"),
        ("q=a&seed=1&seed=1", "seed in the link.*once"),
        ("q=a&seed=", "seed in the link"),
        ("q=a&prefix=%00", "prefix in the link"),
        ("q=a&samples=65", "samples in the link.*64"),
        ("q=a&sample_temperature=0", "sample_temperature in the link"),
        ("q=a&ape_temperature=0", "ape_temperature in the link"),
        ("q=a&ape_scale=-1", "ape_scale in the link"),
        ("q=a&left=nothing.aligned.raw", "left in the link.*nothing"),
        ("q=a&right=segment.nowhere.raw", "right in the link.*nowhere"),
        ("q=a&right=form.nowhere.raw", "right in the link.*nowhere"),
        ("q=a&right=segment.aligned.1", "right in the link.*no mask, positions and weights or raw"),
        ("q=a&right=segment", "right in the link.*no mask, positions"),
        ("q=a&right=", "right in the link.*no mask, positions"),
        ("z=&q=a", "z in the link.*q cannot stand beside"),
        ("z=", "z in the link"),
        ("z=a b", "z in the link"),
        ("z=AAAA", "z in the link.*unpacked"),
        ("z=A", "z in the link"),
        ("z=AAAA&z=AAAA", "z in the link.*once"),
        (packed({"q": "a"}), "z in the link.*no JSON of a link"),
        (packed({"q": []}), "q in the link.*once, not 0"),
        (packed({"q": [1]}), "z in the link.*no JSON of a link"),
        (packed({"q": ["\ud800"]}), "z in the link.*no JSON of a link"),
        (packed({"q": ["a"], "new": ["b"]}), "z in the link.*'new'.*does not know"),
        (packed({"q": ["a"], "z": ["b"]}), "z in the link.*'z'"),
        (packed({"q": ["a"], "seed": ["1.5"]}), "seed in the link"),
        (packed(["q"]), "z in the link.*no JSON of a link"),
        (packed(b"\xff"), "z in the link.*no JSON"),
        (packed(b"{"), "z in the link.*no JSON"),
        (packed(b"[" * 60_000), "z in the link.*no JSON"),
        (packed(b"9" * 60_000), "z in the link.*no JSON"),
        ("q=" + "a" * LONGEST, "the link has"),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_malformed_parameters_are_named(query: str, named: str) -> None:
    with pytest.raises(InputError, match=f"(?s){named}") as caught:
        from_query(query)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("size", [UNPACKED + 1, 30_000_000])
def test_a_bomb_is_refused_before_it_is_unpacked(size: int) -> None:
    bomb = packed(b" " * size)
    assert len(bomb) <= LONGEST
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"z in the link: it unpacks to more than 65536 bytes"):
            from_query(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_bytes_after_the_packed_text_are_refused() -> None:
    raw = zlib.compress(b'{"q":["a"]}')
    assert from_query("z=" + base64.urlsafe_b64encode(raw).decode().rstrip("=")) == PageState(question="a")
    with pytest.raises(InputError, match="z in the link"):
        from_query("z=" + base64.urlsafe_b64encode(raw + b"xxx").decode().rstrip("="))


def test_a_long_link_cut_anywhere_is_refused() -> None:
    rng = random.Random(5)
    query = to_query(
        PageState(question=random_text(rng, 900), paraphrases=tuple(random_text(rng, 300) for _ in range(4)))
    )
    assert query.startswith("z=") and len(query) > 1000
    for end in range(2, len(query) - 1):  # the last character may hold bits that no byte needs
        with pytest.raises(InputError, match="z in the link"):
            from_query(query[:end])


def test_a_readable_link_cut_anywhere_is_a_state_or_refused() -> None:
    state = random_state(random.Random(11), 30)
    query = to_query(state)
    assert not query.startswith("z=")
    outcomes = set()
    for end in range(len(query)):
        try:
            outcomes.add(type(from_query(query[:end])))
        except InputError as error:
            assert " in the link" in str(error)
            outcomes.add(InputError)
    assert outcomes == {PageState, InputError}


@pytest.mark.parametrize("seed", range(20))
def test_damaged_links_raise_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    query = to_query(random_state(rng, rng.choice([10, 200])))
    for _ in range(100):
        at = rng.randrange(len(query))
        broken = query[:at] + rng.choice("&=%+zqpw0A-_\xe9\ud800,") + query[at + rng.randrange(3) :]
        try:
            from_query(broken)
        except InputError as error:
            assert "\n" not in str(error)


def test_a_state_too_long_for_a_link_is_refused() -> None:
    rng = random.Random(0)
    texts = ["".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(2000)) for _ in range(11)]
    with pytest.raises(InputError, match="too long for a link"):
        to_query(PageState(question=texts[0], paraphrases=tuple(texts[1:])))


@pytest.mark.parametrize(
    "bad", [{"mask": "x"}, {"top_p": 2}, {"paraphrases": ("\ud800",)}, {"weights": (1, 1)}], ids=str
)
def test_a_state_that_cannot_be_asked_cannot_be_made(bad: dict) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(bad))}(: | must be )"):
        PageState(question="q", **bad)


# What a host opens

OLD = PageState(
    question="Who?", paraphrases=("one", "<b>"), weights=(1, 2, 0.5), mask="anchor", methods=("flex", "vote"), seed=7,
    left="late_fusion.right_aligned.raw", right="form.aligned.weights",
)  # fmt: skip
OLD_LINKS = {
    "q=Who%3F&p=one&p=%3Cb%3E&methods=flex%2Cvote&mask=anchor&w=1%2C2%2C0.5&seed=7&left=late_fusion.right_aligned.raw"
    "&right=form.aligned.weights&show=difference": "",
    "z=eNrtlUEKwjAQRa9SZh2CCiKIKHgJFyIlbSZNMM1oEm1BvLtOwL0HyO79lzDb94I7bM9wsnSAi4AbDwoIAnbdns2I2ZJO7I3HWTwpY_EqXVmq0FuK"
    "bCaeS7ESC7kutyIaN7M8YtNFh0Y2lSpVqlSp0v_ENUmImluy4eHRZB5eZWzNIzkKMrrB5lZ5NwTUMqqJPxZZ2kVxlL_HCVmnctZS6ZZ2xmDE0H_j9v4A"
    "eKo2Rg": "Be brief. " * 160,
}


@pytest.mark.parametrize("query", OLD_LINKS, ids=["readable", "packed"])
def test_a_link_of_the_page_before_this_one_opens(query: str) -> None:
    """It told which mask was drawn, which this page has no setting for."""
    assert open_link(query, Limits()) == OLD.but(prefix=OLD_LINKS[query])


def test_a_link_tells_what_the_page_holds() -> None:
    assert parse_qs(to_query(FULL), keep_blank_values=True) == {
        "q": [FULL.question], "p": ["<b>one</b>", "", "three"], "w": ["1,2,0,0.5"], "weights": ["confidence"],
        "mask": ["anchor"], "positions": ["sequential"], "methods": ["flex,vote"], "max_new_tokens": ["9"],
        "temperature": ["0.35"], "top_p": ["0.9"], "seed": ["77"], "prefix": ["Be brief.\n"], "samples": ["4"],
        "sample_temperature": ["0.8"], "ape_temperature": ["0.9"], "ape_scale": ["1.1"], "template": ["plain"],
        "left": ["late_fusion.right_aligned.raw"], "model": ["large"], "right": ["form.aligned.weights"],
        "hidden_layer": ["3"],
    }  # fmt: skip
    assert "right" not in to_query(PageState(question="q", right="causal.sequential.raw"))


@pytest.mark.parametrize("query", ["", "__theme=dark", "view=api&utm_source=x", "q="])
def test_an_address_without_a_state_opens_nothing(query: str) -> None:
    assert open_link(query, Limits()) is None


@pytest.mark.parametrize("name", SLIDERS)
def test_numbers_that_a_slider_cannot_show_are_refused(name: str) -> None:
    high = slider_of(name, Limits())[1]
    state = PageState(question="a", **{name: high})
    assert open_link(to_query(state), Limits()) == state
    with pytest.raises(InputError, match=rf"{name} in the link (is|must be)|too long|too many"):
        open_link(f"q=a&{name}={high + 1}", Limits())
    with pytest.raises(InputError, match="w in the link has 11: the page takes weights up to 10"):
        open_link("q=a&w=11", Limits())


@pytest.mark.parametrize("name", PROFILES)
def test_a_link_opens_with_as_many_paraphrases_as_the_profile_has(name: str) -> None:
    limits = PROFILES[name].limits
    most = limits.paraphrases
    weights = [*(1 + i / 10 for i in range(most)), 0.5]
    state = PageState(question="q", paraphrases=[f"Wording {i}" for i in range(most)], weights=weights)
    assert open_link(to_query(state), limits) == state == PageState.of(state.values(most))
    state = state.but(paraphrases=(*state.paraphrases, "one more"), weights=None)
    with pytest.raises(InputError, match=f"{most + 1} paraphrases are too many: give at most {most}"):
        open_link(to_query(state), limits)


def test_a_link_names_a_model_that_is_offered() -> None:
    assert open_link("q=Hi&model=large", Limits(), ("small", "large")).model == "large"
    assert open_link("q=Hi", Limits(), ("small", "large")).model == "small", "without a name the first"
    assert open_link("q=Hi", Limits()).model == ""
    for models, said in ((("small", "large"), "choose from small, large"), ((), "one model is offered here")):
        with pytest.raises(
            InputError, match=re.escape(f"model in the link is 'huge', which is not offered here: {said}")
        ):
            open_link("q=Hi&model=huge", Limits(), models)
        with pytest.raises(InputError, match=re.escape("model in the link: '../x' is no name of a model")):
            open_link("q=Hi&model=../x", Limits(), models)
