"""Masks of the two sides, their rules and the ladder against a double loop; what is said of answers and where."""

from __future__ import annotations

import html
import json
import re
from dataclasses import asdict, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle
import pytest
from test_state import QUESTION

import flexdemo
from flexdemo.engine.model import LanguageModel
from flexdemo.figures.mask import mask_figure
from flexdemo.masks import STRATEGIES
from flexdemo.page.sides import (
    LADDER,
    NO_CELL,
    alone_changes,
    answered,
    answers_changes,
    draw,
    figures_html,
    legend_html,
    picture,
    seen_by,
    signature,
    step_html,
    title,
)  # fmt: skip
from flexdemo.page.state import PageState
from flexdemo.page.tabs.upclose import draw as draw_difference
from flexdemo.page.widgets import alert_html
from flexdemo.plan import Scheme
from flexdemo.prompt import SegmentedPrompt, build_prompt
from flexdemo.request import Limits

WORDINGS = ("Name it.", "Which city is Peru's capital?")
NASTY = "<script>alert(1)</script> <b>bold</b> ${1+1} &lt; </s>"
STANDARD = {"mask": "causal", "positions": "sequential", "weights": "raw"}
STATE = PageState(question=QUESTION, paraphrases=WORDINGS, max_new_tokens=6, methods=("flex", "per_prompt", "causal"))


def prompt_of(lm: LanguageModel, **options: Any) -> SegmentedPrompt:
    return build_prompt(lm.tokenizer, QUESTION, WORDINGS, **options)


def tokens_of(prompt: SegmentedPrompt, answers: int = 0) -> list[oracle.Token]:
    return oracle.prompt_tokens([asdict(segment) for segment in prompt.segments], answers)


def seen(prompt: SegmentedPrompt, scheme: Scheme) -> np.ndarray:
    """The cells of a scheme by the tests' own double loop, weight 0 hidden where weights act."""
    tokens = tokens_of(prompt)
    cells = np.array(oracle.mask(scheme.strategy, tokens), dtype=bool)
    for q, query in enumerate(tokens):
        for k, key in enumerate(tokens):
            muted = key.role == "paraphrase" and prompt.weights[key.paraphrase - 1] == 0
            cells[q, k] &= not (scheme.weighted and muted and oracle.fuses(scheme.strategy, query))
    return cells


# Masks


@pytest.mark.parametrize("strategy", [*STRATEGIES, "segment+P2>P1", "segment-P1>P1"])
@pytest.mark.parametrize("weights", [None, [0, 1, 2]])
def test_rules_tell_every_cell_as_the_double_loop_does(lm: LanguageModel, strategy: str, weights: Any) -> None:
    prompt = prompt_of(lm, weights=weights)
    figure = picture(prompt, Scheme(strategy))
    assert ((np.array(figure.data[0].z) > 0) == seen(prompt, Scheme(strategy))).all()
    meta, tokens = figure.layout.meta, tokens_of(prompt, answers=2)
    owner = [*prompt.segment_ids, *[len(prompt.segments)] * 2]
    count = len(prompt.segments) + 1
    rules = np.array(meta["rules"]).reshape(count, count, 2)
    for q, query in enumerate(tokens):
        for k, key in enumerate(tokens):
            why = meta["reasons"][rules[owner[q], owner[k], int(k > q)]]
            if q == k and why.startswith("hidden"):
                why = meta["reasons"][0]  # as views.js tells it
            mutes = bool(weights) and oracle.fuses(strategy, query) and key.paraphrase == 1 and q != k
            assert (why == "hidden: weight 0") == mutes
            assert why.startswith("visible") == (oracle.sees(strategy, tokens, q, k) and not mutes)
    assert meta["reasons"][rules[-1, -1, 0]] == "visible: earlier answer token"
    assert meta["reasons"][0] == "visible: itself"


def test_a_pair_without_cells_has_no_rule_and_a_cell_the_colour_of_its_key(lm: LanguageModel) -> None:
    prompt = prompt_of(lm)
    figure = picture(prompt, Scheme())
    meta = figure.layout.meta
    rules = np.array(meta["rules"]).reshape(6, 6, 2)  # prefix, P1 to P3, suffix, answer
    assert rules[0, 0].tolist() == [meta["reasons"].index("visible: prefix"), NO_CELL], "the prefix is one token"
    assert rules[0, 1].tolist() == [NO_CELL, meta["reasons"].index("hidden: later token")]
    last_row = np.array(figure.data[0].z)[-1]
    assert last_row.tolist() == [meta["z"][i] for i in prompt.segment_ids]
    assert [name for name, _, _ in meta["segments"]] == ["prefix", "P1", "P2", "P3", "suffix", "answer"]
    assert len(meta["tokens"]) == meta["length"] == len(prompt.token_ids) and meta["block"] == 1


@pytest.mark.parametrize("weighted", [True, False])
def test_weight_zero_hides_only_where_weights_act(lm: LanguageModel, weighted: bool) -> None:
    prompt, scheme = prompt_of(lm, weights=[1, 0, 1]), Scheme("segment", "aligned", weighted)
    assert (seen_by(prompt, scheme).cells() == seen(prompt, scheme)).all()
    second = prompt.paraphrases[1]
    assert seen(prompt, scheme)[prompt.suffix_start :, second.start : second.end].any() == (not weighted)


@pytest.mark.parametrize("left", ["isolated.aligned.raw", "bidirectional.aligned.weights"])
def test_the_difference_counts_cells_exactly(lm: LanguageModel, left: str) -> None:
    prompt = prompt_of(lm, weights=[1, 0, 1])
    schemes = STATE.scheme(left), Scheme("anchor", "sequential", False)
    (mine, theirs), n = (seen(prompt, each) for each in schemes), len(prompt.token_ids)
    kinds = np.where(mine & theirs, 1, np.where(theirs, 2, np.where(mine, 3, 0)))
    drawn = draw_difference(prompt, schemes)
    assert (np.array(drawn["difference_plot"]["value"].data[0].z) == kinds).all()
    told = drawn["difference_caption"]
    counts = [f"{word}</span> {(kinds == i).sum():,} (" for i, word in enumerate(("kept", "removed", "added"), 1)]
    assert all(each in told for each in counts) and f"of {n * n:,} cells" in told
    assert f"Density {mine.mean():.4f}" in told and f"Density {theirs.mean():.4f}" in told


def test_long_prompts_are_block_means_and_a_figure_is_light(prepared: Any) -> None:
    big = prepared("llama", "sdpa", max_position_embeddings=4096)
    for words, exact in ((4, True), (25, False)):
        prompt = build_prompt(big.tokenizer, QUESTION, ["many words and more " * words] * 6)
        n, figure = len(prompt.token_ids), picture(prompt, Scheme())
        assert (n <= 512) == exact and (n > 350)
        assert len(figure.to_json()) < min(n, 512) ** 2 * 4 / 3 + 60_000 and max(figure.data[0].z.shape) <= 512
        assert (figure.layout.meta["block"] == 1) == exact and figure.layout.meta["length"] == n
        if exact:
            mask = seen_by(prompt, Scheme())
            with_words = mask_figure(mask.cells(), prompt.tokens, prompt.segments, why=mask.told)
            assert len(figure.to_json()) * 10 < len(with_words.to_json())


def test_an_answer_belongs_to_the_picture_of_its_prompt_positions_and_rule_only(lm: LanguageModel) -> None:
    plain = signature(prompt_of(lm), Scheme())
    assert plain == signature(prompt_of(lm, weights=[1, 2, 3]), Scheme())
    others = [
        signature(prompt_of(lm, weights=[1, 0, 3]), Scheme()),
        signature(prompt_of(lm), Scheme("anchor")),
        signature(prompt_of(lm), Scheme("segment", "sequential")),
        signature(prompt_of(lm, prefix="Say:"), Scheme()),
        signature(STATE.but(paraphrases=("", *WORDINGS)).compose(lm, Limits()), Scheme()),
    ]
    assert len({plain, *others}) == 6
    assert signature(prompt_of(lm, weights=[1, 0, 3]), Scheme(weighted=False)) == plain


def test_a_mask_that_is_drawn_is_left_as_it_is(lm: LanguageModel) -> None:
    first = draw(lm, Limits(), STATE)
    again = draw(lm, Limits(), STATE.but(mask="anchor", max_new_tokens=7), first["drawn"])
    assert {"left_mask", "right_mask"} <= set(first) and "left_mask" in again and "right_mask" not in again
    assert first["drawn"][0] == first["left_mask"].layout.meta["signature"] and again["drawn"][1] == first["drawn"][1]
    assert {name for _, name in first["tokens"]} == {"prefix", "P1", "P2", "P3", "suffix"}
    assert re.findall(r'is-(\w+)" data-segment="(\d)"', first["legend"]) == [
        ("prefix", "0"), ("P1", "1"), ("P2", "2"), ("P3", "3"), ("suffix", "4")
    ]  # fmt: skip
    assert "by confidence" in draw(lm, Limits(), STATE.but(weights_from="confidence"))["share-2"]
    chat = build_prompt(lm.tokenizer, "a", ["b"])
    separators = [replace(each, role="separator") if each.name == "P2" else each for each in chat.segments]
    assert "P2" not in legend_html(separators), "a separator is no segment to choose"


# The ladder


def test_a_step_tells_what_changed_by_the_double_loop(lm: LanguageModel) -> None:
    prompt, steps = prompt_of(lm, weights=[1, 0, 2]), list(LADDER)
    assert steps == [
        "causal.sequential.raw", "segment.sequential.raw", "segment.aligned.raw", "form.aligned.weights"
    ]  # fmt: skip
    assert step_html(prompt, STATE.but(left=steps[0])).startswith("Standard attention: ")
    for before, now in pairwise(steps):
        old, new = (seen(prompt, STATE.scheme(each)) for each in (before, now))
        told = [f"{(a & ~b).sum():,} cells {word}" for a, b, word in ((old, new, "close"), (new, old, "open"))]
        said = step_html(prompt, STATE.but(left=now))
        assert said.endswith(": " + (", ".join(t for t in told if t[0] != "0") or "the same cells are visible") + ".")
    assert "close" in step_html(prompt, STATE.but(left=steps[1])) and "cells close" in said, "weight 0 hides P2"
    for own in ({"mask": "causal"}, {"mask": "segment+P2>P1"}, {"positions": "right_aligned"}):
        said = step_html(prompt, STATE.but(left=steps[3], **own))
        assert said.startswith("As set, ") and "by its share" not in said, "weights are not all that differs"
    assert step_html(prompt, STATE.but(left="anchor.aligned.raw")) == "Left: anchor · aligned · raw"
    assert draw(lm, Limits(), STATE.but(left="anchor.aligned.raw"))["ladder"] is None


# Answers


def plain(piece: str) -> str:
    return html.unescape(re.sub("<.*?>", "", piece))


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        (("form.aligned.weights", "causal.sequential.raw"), ({}, STANDARD)),
        (("causal.sequential.raw", "form.aligned.weights"), (STANDARD, {})),
        (("anchor.aligned.weights", "anchor.aligned.weights"), ({"mask": "anchor"}, {"mask": "anchor"})),
    ],
)
def test_a_side_shows_the_answer_of_its_scheme(lm: LanguageModel, sides: tuple, wanted: tuple) -> None:
    state = STATE.but(left=sides[0], right=sides[1], weights=(1.0, 2.0, 0.5))
    *_, result = flexdemo.stream(lm, state.asked(methods=("flex",), mass=False), schemes=[
        scheme for scheme, side in zip(state.schemes, sides, strict=True) if not side.startswith("form")
    ])  # fmt: skip
    shown, live = answers_changes(state, result), []
    for side, own in zip(("left", "right"), wanted, strict=True):
        want = flexdemo.ask(lm, QUESTION, WORDINGS, max_new_tokens=6, **{"weights": state.weights, **own})["flex"]
        assert answered(result, state, side).token_ids == want.token_ids
        assert plain(shown[f"{side}_answer"]) == want.answer
        assert f"<b>{len(want.token_ids)}</b> tokens" in shown[f"{side}_figures"]
        assert f"{want.mask['density']:.0%} visible" in shown[f"{side}_figures"]
        live.append([token.replace(" ", "·").replace("\n", "↵") for token in want.tokens])
    told = json.loads(html.unescape(re.search('data-live="([^"]*)"', shown["live"]).group(1)))
    assert [told[side]["tokens"] for side in ("left", "right")] == live and told["left"]["done"] is True
    marks = [signature(result.prompt, scheme) for scheme in state.schemes]
    assert [told[side]["signature"] for side in ("left", "right")] == marks


def test_a_side_without_an_answer_says_what_to_do(lm: LanguageModel) -> None:
    *_, result = flexdemo.stream(lm, STATE.asked(methods=("flex",)))
    shown = answers_changes(STATE, result)
    assert plain(shown["right_answer"]) == "" and shown["right_figures"] == "press Run to see it"
    assert "<mark" not in shown["left_answer"], "nothing to differ from"
    *_, result = flexdemo.stream(lm, STATE.asked(methods=("flex", "causal")))
    assert answered(result, STATE, "right").method == "causal", "the method stands for the scheme"


def test_figures_of_an_answer_are_hand_computed() -> None:
    answer = SimpleNamespace(token_ids=(1, 2, 3), seconds=0.3, mask={"density": 0.314})
    said = plain(figures_html(answer, 0.1))
    assert said == "3 tokens · first after 100 ms · then 10 a second · 31% visible"
    answer.token_ids = (1,)
    assert plain(figures_html(answer, 0.1)) == "1 token · first after 100 ms · 31% visible"
    answer.token_ids = ()
    assert plain(figures_html(answer, 0.1)) == "reading the prompt · 31% visible"


def told_alone(lm: LanguageModel, state: PageState, *alone: str, fused: str = "Lima", done: bool = True) -> list[str]:
    """What is said beside each row, of answers by hand."""
    asked = flexdemo.ask(lm, state.asked(methods=("flex", "per_prompt"), max_new_tokens=1))
    flex, each = asked.results
    views = tuple(replace(view, answer=text) for view, text in zip(each.views, alone, strict=True))
    results = (replace(flex, answer=fused), replace(each, answer=alone[0], views=views))
    told = alone_changes(state, replace(asked, results=results, done=done), 10)
    return [told[f"alone-{i}"] for i in range(11)]


def test_a_wording_alone_is_marked_where_it_differs_by_more_than_its_form(lm: LanguageModel) -> None:
    state = STATE.but(paraphrases=("Name it.", " ", "Which?"))
    told = told_alone(lm, state, "the lima.", "Quito", NASTY)
    assert told[0] == "alone: <b>the lima.</b>", "case, articles and full stops make no other answer"
    assert told[1] == 'alone: <b class="differs">Quito</b> <span>· differs from the fused answer</span>'
    assert told[2] == "" and plain(told[3]).startswith(f"alone: {NASTY} · differs") and set(told[4:]) == {""}
    assert "differs" not in told_alone(lm, state, "Li", "Qu", "Li", done=False)[1], "not before the end"
    unseen = state.but(left="causal.sequential.raw")
    assert "differs" not in told_alone(lm, unseen, "Li", "Qu", "Li")[1], "no side shows the fused answer"
    assert [plain(told_alone(lm, state, "", "", "", done=done)[0])[:14] for done in (False, True)] == [
        "alone: ", "alone: no text",
    ]  # fmt: skip
    nothing = alone_changes(state, flexdemo.ask(lm, state.asked(methods=("flex",), max_new_tokens=1)), 10)
    assert set(nothing.values()) == {""} and len(nothing) == 11


def test_texts_are_data(lm: LanguageModel) -> None:
    state = PageState(question=NASTY, paraphrases=(f"{NASTY} \u202e",), left="anchor.aligned.raw", max_new_tokens=1)
    drawn = draw(lm, Limits(), state)
    result = flexdemo.ask(lm, state.asked(methods=("flex", "per_prompt", "causal")))
    nasty = tuple(
        replace(each, answer=NASTY, generation=NASTY, tokens=(NASTY,), token_ids=(1,),
                views=tuple(replace(view, answer=NASTY) for view in each.views))
        for each in result.results
    )  # fmt: skip
    result = replace(result, results=nasty)
    shown = answers_changes(STATE, result) | alone_changes(state, result, 10)
    pieces = [drawn["legend"], drawn["step"], drawn["left_title"], drawn["budget"], *map(str, shown.values())]
    pieces.append(alert_html(NASTY))
    for piece in pieces:
        assert "<script" not in piece and "<b>bold" not in piece and "\u202e" not in piece
    assert [plain(shown[name]) for name in ("left_answer", "right_answer")] == [NASTY, NASTY]
    assert title(state, "left") == "Anchor" and title(state, "right") == "Standard attention"
    assert "U+202E" in drawn["budget"]
