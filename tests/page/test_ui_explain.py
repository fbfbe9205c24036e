"""What the tabs say, against values computed by hand."""

from __future__ import annotations

import html
import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flexdemo
from flexdemo.answers.result import Candidate
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.page.entered import Form
from flexdemo.page.tabs import told
from flexdemo.page.tabs.told import LastRun
from flexdemo.request import Limits

ROWS = Limits().paraphrases

NASTY = "<script>alert(1)</script> <b>bold</b> &lt;"
METHODS = ("flex", "origin", "per_prompt", "causal")
NAMES = ("P1", "P3", "P4", "P5")


def form(*paraphrases: str, question: str = "Who?", methods: tuple[str, ...] = METHODS) -> Form:
    rows = (*paraphrases, *[""] * (ROWS - len(paraphrases)))
    return Form(question, rows, (1.0,) * (ROWS + 1), "segment", "aligned", methods, 6, 0.0, 1.0, 0, "")


def answered(
    method: str, answer: str, ids: tuple[int, ...], logprobs: tuple[float, ...], alone: tuple[str, ...]
) -> Any:
    """A method's result by hand: token k is called `tk`, has probability 0.5, and 9 comes next with 0.25."""
    steps = tuple((Candidate(i, f" t{i}", 0.5), Candidate(9, " t9", 0.25)) for i in ids)
    mask = {"strategy": "causal" if method == "causal" else "segment", "positions": "aligned"}
    views = tuple(SimpleNamespace(name=f"P{i + 1}", answer=text) for i, text in enumerate(alone or (answer,)))
    tokens = tuple(f" t{i}" for i in ids)
    return SimpleNamespace(
        method=method, answer=answer, token_ids=ids, tokens=tokens, logprobs=logprobs, mask=mask, views=views,
        candidates=steps,
    )  # fmt: skip


def last(*results: Any, question: str = "Who?", explanation: Any = None) -> LastRun:
    count = max((len(each.views) for each in results if each.method == "per_prompt"), default=2)
    named = [SimpleNamespace(name=name) for name in NAMES[:count]]
    segments = [range(3), range(4), range(5), range(2)]
    prompt = SimpleNamespace(segments=segments, paraphrases=named, suffix_start=12, tokens_seen=lambda _: (3, 4, 5, 2))
    result = SimpleNamespace(results=results, prompt=prompt, ape=SimpleNamespace(is_plain=True), mask=FUSED.mask)
    return LastRun(form("", "whose", question=question), result, explanation)  # type: ignore[arg-type]


def cells(table: str) -> list[list[str]]:
    lines = re.findall(r"<tr>(.*?)</tr>", table)
    return [[html.unescape(re.sub("<.*?>", "", c)).strip() for c in re.findall(r"<t[hd].*?</t[hd]>", x)] for x in lines]


FUSED = answered("flex", "Monet", (1, 2, 3), (-0.3, -0.6, 0.0), ())
ALONE = answered(
    "per_prompt", "Monet", (1, 2, 3), (-0.1, -0.1, -0.1), ("Monet", "the monet!", "Debussy", "I don't know")
)
CAUSAL = answered("causal", "Debussy", (1, 5), (math.log(0.5), math.log(0.125)), ())


def test_methods_are_compared_by_hand_computed_numbers() -> None:
    table = told.methods_html(last(FUSED, ALONE, CAUSAL))
    head, *lines = cells(table)
    assert head[:4] == ["Method", "Answer", "Tokens", "Mean log-prob."]
    assert lines == [
        ["Fused (flex)", "Monet", "3", "-0.300", "0.50", "12", "1", "segment, aligned"],
        ["Each paraphrase alone: P1", "Monet", "3", "-0.100", "0.50", "12", "4", "segment, aligned"],
        ["Standard attention", "Debussy", "2", "-1.386", "0.25", "12", "1", "causal, aligned"],
    ]
    # Shares 1/2, 1/4, 1/4 have an entropy of 1.5 bits.
    assert "4 wordings alone, 3 distinct answers, entropy 1.50 bits" in table
    one = told.methods_html(last(FUSED, answered("per_prompt", "Monet", (1,), (0.0,), ("Monet",))))
    assert "1 wording alone, 1 distinct answer, entropy 0.00 bits" in one


def test_wordings_that_agree_keep_the_names_of_the_page() -> None:
    two = answered("per_prompt", "x", (1,), (0.0,), ("Debussy", "Monet"))
    table = told.methods_html(last(FUSED, two))
    assert re.findall(r'class="chip is-(P\d)"', table) == ["P3"] and "(1 of 2)" in table


def test_without_the_wordings_alone_agreement_is_unknown() -> None:
    table = told.methods_html(last(FUSED, CAUSAL))
    assert [line[4] for line in cells(table)[1:]] == ["–", "–"]
    assert "choose <b>Each paraphrase alone</b>" in table


def test_candidates_mark_steps_and_methods_that_part_ways() -> None:
    table = told.candidates_html(last(FUSED, ALONE, CAUSAL))
    bodies = [cells(body) for body in re.findall(r"<tbody.*?</tbody>", table)]
    assert [body[0][0] for body in bodies] == ["1", "2 ≠", "3 ≠"]
    assert bodies[0][0][1:4] == ["Fused (flex)", "✓ ·t1 0.500", "·t9 0.250"]
    assert [line[0] for line in bodies[1][1:]] == ["Each paraphrase alone: P1", "Standard attention ≠"]
    assert bodies[2][2] == ["Standard attention", "has ended"]


def test_a_sampled_token_outside_the_five_is_named() -> None:
    rare = answered("flex", "x", (1,), (0.0,), ())
    rare.token_ids, rare.tokens = (7,), (" <b>",)
    (_, line) = cells(told.candidates_html(last(rare)))
    assert line[1] == "Fused (flex) chose ·<b>" and not any("✓" in cell for cell in line)


def test_long_answers_are_told_from_a_step_on() -> None:
    long = answered("flex", "x", tuple(range(100)), (0.0,) * 100, ())
    assert told.step_count(last(long)) == 100
    steps = [line[0] for line in cells(told.candidates_html(last(long), 40))[1:]]
    assert steps == [str(i) for i in range(40, 64)]


def test_tiny_probabilities_are_not_called_zero() -> None:
    small = answered("flex", "x", (1,), (0.0,), ())
    small.candidates = ((Candidate(1, "a", 0.9996), Candidate(2, "b", 1e-5), Candidate(3, "c", 0.0)),)
    assert cells(told.candidates_html(last(small)))[1][2:5] == ["✓ a 1.000", "b < 0.001", "c 0.000"]


def test_mass_of_a_layer_a_head_and_a_token_of_the_segment() -> None:
    mass = np.zeros((2, 2, 2, 4))
    mass[:, 0] = [0.6, 0.4, 0.0, 0.0]
    mass[:, 1] = [0.0, 0.0, 0.2, 0.8]
    mass[0, 1, 1] = [1.0, 0.0, 0.0, 0.0]
    run = last(FUSED, explanation=SimpleNamespace(attribution=SimpleNamespace(mass=mass)))
    assert np.allclose(told.chosen_mass(run, per_token=False), [[0.55, 0.2, 0.05, 0.2], [0.3, 0.2, 0.1, 0.4]])
    assert np.allclose(told.chosen_mass(run, layer=0, per_token=False), [[0.6, 0.4, 0, 0]] * 2)
    assert np.allclose(told.chosen_mass(run, layer=1, head=1, per_token=False)[0], [1, 0, 0, 0])
    # Segments of 3, 4, 5 and 2 tokens; the second answer token also sees the first one.
    want = [[0.0, 0.0, 0.1 / 5, 0.4 / 2], [0.0, 0.0, 0.2 / 5, 0.8 / 3]]
    assert np.allclose(told.chosen_mass(run, layer=1, per_token=True), [[0.5 / 3, 0, want[0][2], want[0][3]], want[1]])


def test_finish_names_wordings_as_the_page_and_explains_what_can_be(lm: LanguageModel) -> None:
    given = form("", "Name it.")
    run = told.finish(lm, given, flexdemo.ask(lm, given.request(candidates=5)))
    assert told.segment_names(run) == ("prefix", "P1", "P3", "suffix + answer")
    assert run.explanation is not None and {e.hidden for e in run.explanation.attribution.effects} == {"P1", "P3"}
    assert "Name it." in told.effect_plot(run).data[0].customdata[1]
    per_token = told.chosen_mass(run, per_token=True)
    assert np.allclose(per_token, run.explanation.attribution.mass_per_token, atol=1e-6)
    alone = form("Name it.", methods=("flex", "causal"))
    run = told.finish(lm, alone, flexdemo.ask(lm, alone.request(candidates=5)))
    assert run.explanation is None and told.effect_plot(run) is None
    assert "choose <b>Fused (flex)</b> and <b>Each paraphrase alone</b>" in told.note_html("mass", run)


@pytest.mark.parametrize(
    ("layer", "head", "said"),
    [(None, 0, "the number of the layer is missing"), (0, 99, "no head 99"), (-1, 0, "no layer -1"), (0, 0.5, "head")],
)
def test_a_head_that_is_not_there_is_refused(lm: LanguageModel, layer: Any, head: Any, said: str) -> None:
    given = form("Name it.", methods=("flex",))
    run = told.finish(lm, given, flexdemo.ask(lm, given.request()))
    with pytest.raises(InputError, match=said):
        told.attention_plot(lm, run, layer, head)
    with pytest.raises(InputError, match="nothing has run yet"):
        told.attention_plot(lm, None, 0, 0)


def test_long_prompts_have_no_picture_of_a_head(prepared: Any) -> None:
    lm = prepared("llama", "sdpa", max_position_embeddings=4096)
    given = form("many words and more " * 60, "many words and more " * 60, methods=("flex",))
    given = replace(given, max_new_tokens=1)
    run = told.finish(lm, given, flexdemo.ask(lm, given.request()))
    with pytest.raises(InputError, match="at most 512 tokens"):
        told.attention_plot(lm, run, 0, 0)


def test_text_is_escaped_everywhere() -> None:
    nasty = answered("flex", NASTY, (1,), (0.0,), (NASTY,))
    nasty.candidates = ((Candidate(1, NASTY, 0.5),),)
    alone = answered("per_prompt", NASTY, (1,), (0.0,), (NASTY, NASTY))
    run = last(nasty, alone, question=NASTY)
    pieces = [told.candidates_html(run), told.methods_html(run)]
    pieces += [told.note_html(tab, run) for tab in ("mass", "effect", "candidates", "attention")]
    for piece in pieces:
        assert "<script" not in piece and "<b>bold" not in piece and "&lt;script&gt;" in piece
