"""Pair, ladder's table, picture and rules of the page, without a browser."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import threading
from dataclasses import asdict
from typing import Any

import numpy as np
import oracle
import pytest
from test_ui import QUESTION, form

import flexdemo
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.reading import Reading
from flexdemo.figures.cells import Window, difference_png
from flexdemo.figures.mask import mask_figure
from flexdemo.masks import STRATEGIES
from flexdemo.page import run as ui_work
from flexdemo.page.pair import PAIR, Pair, Side, live_html, png_html
from flexdemo.page.run import Run
from flexdemo.page.tabs.mask import NO_CELL, picture, seen_by, signature
from flexdemo.plan import LADDER, STANDARD, Scheme
from flexdemo.prompt import build_prompt
from flexdemo.request import Limits

WORDINGS = ["Name it.", "Which city is Peru's capital?"]


def prompt_of(lm: LanguageModel, **options: Any) -> Any:
    return build_prompt(lm.tokenizer, QUESTION, WORDINGS, **options)


def seen_cells(prompt: Any, strategy: str) -> list[list[bool]]:
    """The mask by the tests' own double loop."""
    return oracle.mask(strategy, oracle.prompt_tokens([asdict(segment) for segment in prompt.segments]))


# Rules


@pytest.mark.parametrize("strategy", [*STRATEGIES, "segment+P2>P1", "segment-P1>P1"])
@pytest.mark.parametrize("weights", [None, [0, 1, 2]])
def test_rules_tell_every_cell_as_the_double_loop_does(lm: LanguageModel, strategy: str, weights: Any) -> None:
    prompt = prompt_of(lm, weights=weights)
    meta = picture(prompt, (Scheme(strategy), STANDARD)).figure.layout.meta
    tokens = oracle.prompt_tokens([asdict(segment) for segment in prompt.segments], answers=2)
    owner = [*prompt.segment_ids, *[len(prompt.segments)] * 2]
    count = len(prompt.segments) + 1
    rules = np.array(meta["rules"]).reshape(count, count, 2)
    for q, query in enumerate(tokens):
        for k, key in enumerate(tokens):
            why = meta["reasons"][rules[owner[q], owner[k], int(k > q)]]
            if q == k and why.startswith("hidden"):
                why = meta["reasons"][meta["itself"]]  # as views.js tells it
            mutes = bool(weights) and oracle.fuses(strategy, query) and key.paraphrase == 1
            assert (why == "hidden: weight 0") == mutes
            assert why.startswith("visible") == (oracle.sees(strategy, tokens, q, k) and not mutes)
    assert meta["reasons"][rules[-1, -1, 0]] == "visible: earlier answer token"
    assert meta["reasons"][meta["itself"]] == "visible: itself"


def test_a_pair_without_cells_has_no_rule(lm: LanguageModel) -> None:
    prompt = prompt_of(lm)
    meta = picture(prompt, (Scheme(), STANDARD)).figure.layout.meta
    rules = np.array(meta["rules"]).reshape(6, 6, 2)  # prefix, P1 to P3, suffix, answer
    assert rules[0, 0].tolist() == [meta["reasons"].index("visible: prefix"), NO_CELL], "the prefix is one token"
    assert rules[1, 0].tolist() == [meta["reasons"].index("visible: prefix"), NO_CELL]
    assert rules[0, 1].tolist() == [NO_CELL, meta["reasons"].index("hidden: later token")]


# Pictures


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_side_is_drawn_as_the_double_loop_says(lm: LanguageModel, strategy: str) -> None:
    prompt = prompt_of(lm)
    drawn = picture(prompt, (Scheme(strategy, "aligned"), STANDARD))
    want = seen_cells(prompt, strategy)
    assert (np.array(drawn.figure.data[0].z) > 0).tolist() == want
    assert drawn.density == np.mean(want)


def test_the_difference_counts_cells_exactly(lm: LanguageModel) -> None:
    prompt = prompt_of(lm)
    schemes = (Scheme("isolated", "aligned"), Scheme("bidirectional", "aligned"))
    drawn = picture(prompt, schemes, show="difference")
    n, both = len(prompt.token_ids), [seen_cells(prompt, scheme.strategy) for scheme in schemes]
    kinds = np.zeros((n, n), dtype=int)
    for q in range(n):
        for k in range(n):
            left, right = (cells[q][k] for cells in both)
            kinds[q, k] = 1 if left and right else 2 if right else 3 if left else 0
    assert np.array(drawn.figure.data[0].z).tolist() == kinds.tolist()
    assert drawn.shares == {w: (kinds == i).sum() / n**2 for i, w in enumerate(("kept", "removed", "added"), 1)}
    assert drawn.figure.layout.meta["other"] is not None


def test_weight_zero_hides_only_where_weights_act(lm: LanguageModel) -> None:
    prompt = prompt_of(lm, weights=[1, 0, 1])
    second = prompt.paraphrases[1]
    for weighted in (True, False):
        seen = seen_by(prompt, Scheme("segment", "aligned", weighted)).cells
        assert seen[prompt.suffix_start :, second.start : second.end].any() == (not weighted)


def test_a_figure_of_the_page_is_light(lm: LanguageModel, prepared: Any) -> None:
    big = prepared("llama", "sdpa", max_position_embeddings=4096)
    prompt = build_prompt(big.tokenizer, QUESTION, ["many words and more " * 4] * 6)
    n = len(prompt.token_ids)
    assert 350 < n <= 512
    drawn = picture(prompt, (Scheme(), STANDARD)).figure
    seen = seen_by(prompt, Scheme())
    with_words = mask_figure(seen.cells, prompt.tokens, prompt.segments, why=seen.mask.told)
    assert len(drawn.to_json()) < n * n * 4 / 3 + 60_000
    assert len(drawn.to_json()) * 10 < len(with_words.to_json())
    assert np.array_equal(drawn.data[0].z, with_words.data[0].z)


def test_a_window_says_where_it_lies(prepared: Any) -> None:
    lm = prepared("llama", "sdpa", max_position_embeddings=4096)
    prompt = build_prompt(lm.tokenizer, QUESTION, ["many words and more " * 30] * 4)
    meta = picture(prompt, (Scheme(), STANDARD), window=Window(40, 9)).figure.layout.meta
    assert (meta["row"], meta["column"], meta["size"], meta["block"]) == (40, 9, 512, 1)
    meta = picture(prompt, (Scheme(), STANDARD)).figure.layout.meta
    assert meta["block"] > 1 and meta["size"] == meta["length"] == len(prompt.token_ids)


def test_the_png_holds_every_cell(lm: LanguageModel) -> None:
    image = pytest.importorskip("PIL.Image")
    given, pair = form(*WORDINGS, strategy="anchor"), Pair()
    prompt = prompt_of(lm)
    for show, scheme in (("left", Scheme("anchor")), ("right", STANDARD)):
        link = png_html(lm, Limits(), given, pair, show)
        assert f'download="mask-{scheme.strategy}-{len(prompt.token_ids)}.png"' in link
        data = base64.b64decode(re.search('base64,([^"]+)', link).group(1))
        pixels = np.array(image.open(io.BytesIO(data)).convert("RGB"))
        assert ((pixels != 255).any(axis=2) == seen_by(prompt, scheme).cells).all()


def test_the_png_of_a_difference_has_its_colours() -> None:
    image = pytest.importorskip("PIL.Image")
    mask, other = np.array([[True, False], [True, False]]), np.array([[True, True], [False, False]])
    pixels = np.array(image.open(io.BytesIO(difference_png(mask, other))).convert("RGB"))
    kept, removed, added = ([0x8A, 0x93, 0xA0], [0xD5, 0x5E, 0x00], [0x00, 0x72, 0xB2])
    assert pixels.tolist() == [[kept, removed], [added, [255, 255, 255]]]


# The pair


def test_sides_read_their_widgets() -> None:
    pair = Pair.from_values(["form", "aligned", True, "causal", "sequential", False])
    assert pair == PAIR and pair.keys == ("flex", "causal") and pair.schemes == ()
    pair = Pair.from_values(["anchor", "sequential", False, "form", "aligned", True])
    assert pair.keys == ("left", "flex") and pair.schemes == (Scheme("anchor", "sequential", False),)
    assert pair.both(form(strategy="isolated")) == (Scheme("anchor", "sequential", False), Scheme("isolated"))


@pytest.mark.parametrize(
    ("left", "right", "keys"),
    [
        (Side("causal", "sequential", False), Side(), ("causal", "flex")),
        (Side(), Side(), ("flex", "right")),
        (Side("anchor"), Side("anchor"), ("left", "right")),
    ],
)
def test_ids_keep_their_meaning_and_are_told_apart(left: Side, right: Side, keys: tuple[str, str]) -> None:
    assert Pair(left, right).keys == keys


def text_of(card: str, key: str) -> str:
    body = re.search(rf'<div id="answer-{key}" class="answer">(.*?)</div>', card, re.DOTALL).group(1)
    return html.unescape(re.sub(r"</?mark[^>]*>", "", body))


def test_a_pair_of_schemes_runs_beside_the_methods(lm: LanguageModel) -> None:
    given = form(*WORDINGS, max_new_tokens=6, methods=("flex", "causal"))
    pair = Pair(Side("isolated", "sequential", False), Side("anchor", "aligned", True))
    frames = list(ui_work.answers(lm, Limits(), given, Run(threading.Event()), pair=pair))
    shown = [frame for frame in frames if frame.cards[0]][-1]
    options = {"max_new_tokens": 6, "methods": ["flex"]}
    left = flexdemo.ask(lm, QUESTION, WORDINGS, mask="isolated", positions="sequential", weights="raw", **options)[
        "flex"
    ]
    right = flexdemo.ask(lm, QUESTION, WORDINGS, mask="anchor", **options)["flex"]
    assert text_of(shown.cards[0], "left") == left.answer
    assert text_of(shown.cards[1], "right") == right.answer
    assert "Fused (flex)" in shown.table and "Standard attention" in shown.table, "their answers have rows instead"
    live = json.loads(html.unescape(re.search('data-live="([^"]*)"', shown.live).group(1)))
    assert [live[side]["tokens"] for side in ("left", "right")] == [
        [token.replace(" ", "·").replace("\n", "↵") for token in answered.tokens] for answered in (left, right)
    ]
    assert live["left"]["done"] is True


def test_an_answer_belongs_to_the_picture_of_its_prompt_and_rule_only(lm: LanguageModel) -> None:
    plain = signature(prompt_of(lm), Scheme())
    assert plain == signature(prompt_of(lm, weights=[1, 2, 3]), Scheme("segment", "sequential"))
    others = [
        signature(prompt_of(lm, weights=[1, 0, 3]), Scheme()),
        signature(prompt_of(lm), Scheme("anchor")),
        signature(prompt_of(lm, prefix="Say:"), Scheme()),
    ]
    assert len({plain, *others}) == 4
    given = form(*WORDINGS, max_new_tokens=2)
    result = flexdemo.ask(lm, given.request())
    assert plain in live_html(given, PAIR, result)


def test_ladder_table_marks_what_changed(lm: LanguageModel) -> None:
    given = form(*WORDINGS, max_new_tokens=6)
    frames = list(ui_work.ladder(lm, Limits(), given, Run(threading.Event())))
    table, line, message = frames[-1]
    assert line.startswith("Ladder done: 4 answers") and message == ""
    settings = [
        {"mask": each.strategy, "positions": each.positions, "weights": None if each.weighted else "raw"}
        for each in LADDER
    ]
    rungs = [flexdemo.ask(lm, QUESTION, WORDINGS, max_new_tokens=6, **each)["flex"] for each in settings]
    rows = table.split("<tr>")[2:]
    assert len(rows) == 4
    changes = ("Standard attention", "+ segment mask", "+ aligned positions", "+ weights 1/N")
    for i, (row, change, rung) in enumerate(zip(rows, changes, rungs, strict=True)):
        assert change in row and f">{html.escape(rung.answer)}</td>" in row
        assert f"{sum(rung.logprobs) / len(rung.logprobs):.3f}" in row
        same = i == 0 or rung.token_ids == rungs[i - 1].token_ids
        assert ('class="differs"' not in row) == same
    told = f"Ladder of <q>{html.escape(given.question)}</q> and {len(given.wordings) - 1} paraphrase"
    assert told in table, "it stays on the page while other prompts are run"


def test_a_ladder_has_equal_weights_and_leaves_what_was_read(lm: LanguageModel) -> None:
    given = form(*WORDINGS, max_new_tokens=6, strategy="anchor", weights=(5.0, *[1.0] * 10))
    equal = form(*WORDINGS, max_new_tokens=6)
    tables = [list(ui_work.ladder(lm, Limits(), each, Run(threading.Event())))[-1][0] for each in (given, equal)]
    assert tables[0] == tables[1]
    reading = Reading()
    list(ui_work.answers(lm, Limits(), given, Run(threading.Event()), reading=reading))
    held = reading.prefill
    again = list(ui_work.ladder(lm, Limits(), given, Run(threading.Event()), reading=reading))[-1][0]
    assert again == tables[0] and reading.prefill is held


def test_a_ladder_stops_within_one_token(lm: LanguageModel) -> None:
    runs = ui_work.Runs()
    run = runs.start("a")
    frames = ui_work.ladder(lm, Limits(), form(*WORDINGS, max_new_tokens=200), run)
    next(frames)
    assert runs.stop("a") == "Ladder stopped"
    assert list(frames) == []


def test_a_ladder_of_a_bad_form_says_why(lm: LanguageModel) -> None:
    (frame,) = ui_work.ladder(lm, Limits(), form(question=" "), Run(threading.Event()))
    assert frame[1] == "Not run" and "question is empty" in frame[2]


# Decoding again


def test_a_form_is_read_once_it_has_run(lm: LanguageModel) -> None:
    reading, given = Reading(), form(*WORDINGS, max_new_tokens=3)
    assert not ui_work.has_read(lm, Limits(), given, reading)
    list(ui_work.answers(lm, Limits(), given, Run(threading.Event()), reading=reading))
    heavier = form(*WORDINGS, max_new_tokens=3, weights=(5.0, *[1.0] * 10))
    assert ui_work.has_read(lm, Limits(), heavier, reading)
    assert not ui_work.has_read(lm, Limits(), form("Else."), reading)
    assert not ui_work.has_read(lm, Limits(), form(*WORDINGS, weights_from="confidence"), reading)
    assert not ui_work.has_read(lm, Limits(), form(question=""), reading)
    first, *_ = ui_work.answers(lm, Limits(), heavier, Run(threading.Event()), reading=reading)
    assert first.line != "Reading the prompt", "nothing is cleared before the answer follows"
