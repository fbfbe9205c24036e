"""What the tabs say, against values computed by hand."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_sides import seen
from visitor import Built, Visitor

import flexdemo
from flexdemo.answers.explain import explain
from flexdemo.answers.heads import attention_map, reading_heads
from flexdemo.answers.merge import merging
from flexdemo.answers.proof import prove
from flexdemo.answers.result import Candidate
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.masks import Mask
from flexdemo.page.run import LastRun, belongs_html, lacking_html
from flexdemo.page.state import PageState
from flexdemo.page.tabs import candidates, gave, head, methods, upclose
from flexdemo.page.tabs.candidates import candidates_html
from flexdemo.page.tabs.gave import chosen_mass
from flexdemo.page.tabs.methods import methods_html
from flexdemo.page.tools import FILES
from flexdemo.request import Limits

NASTY = "<script>alert(1)</script> <b>bold</b> &lt;"
METHODS = ("flex", "origin", "per_prompt", "causal")
NAMES = ("P1", "P3", "P4", "P5")


def ran(lm: LanguageModel, *paraphrases: str, methods: tuple[str, ...] = METHODS, **changes: Any) -> LastRun:
    """A run that is to be looked at, with the page's names."""
    state = PageState(
        **{"question": "Who?", "paraphrases": paraphrases, "methods": methods, "max_new_tokens": 6} | changes
    )
    result = flexdemo.ask(lm, state.asked(candidates=5))
    return LastRun(state, state.told(result))


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
    return LastRun(PageState(question=question, paraphrases=("", "whose")), result, explanation)  # type: ignore[arg-type]


def cells(table: str) -> list[list[str]]:
    lines = re.findall(r"<tr>(.*?)</tr>", table)
    return [[html.unescape(re.sub("<.*?>", "", c)).strip() for c in re.findall(r"<t[hd].*?</t[hd]>", x)] for x in lines]


FUSED = answered("flex", "Monet", (1, 2, 3), (-0.3, -0.6, 0.0), ())
ALONE = answered(
    "per_prompt", "Monet", (1, 2, 3), (-0.1, -0.1, -0.1), ("Monet", "the monet!", "Debussy", "I don't know")
)
CAUSAL = answered("causal", "Debussy", (1, 5), (math.log(0.5), math.log(0.125)), ())


def test_methods_are_compared_by_hand_computed_numbers() -> None:
    table = methods_html(last(FUSED, ALONE, CAUSAL))
    head, *lines = cells(table)
    assert head[:4] == ["Method", "Answer", "Tokens", "Mean log-prob."]
    assert lines == [
        ["Fused (flex)", "Monet", "3", "-0.300", "0.50", "12", "1", "segment, aligned"],
        ["Each paraphrase alone: P1", "Monet", "3", "-0.100", "0.50", "12", "4", "segment, aligned"],
        ["Standard attention", "Debussy", "2", "-1.386", "0.25", "12", "1", "causal, aligned"],
    ]
    # Shares 1/2, 1/4, 1/4 have an entropy of 1.5 bits.
    assert "4 wordings alone, 3 distinct answers, entropy 1.50 bits" in table
    one = methods_html(last(FUSED, answered("per_prompt", "Monet", (1,), (0.0,), ("Monet",))))
    assert "1 wording alone, 1 distinct answer, entropy 0.00 bits" in one


def test_wordings_that_agree_keep_the_names_of_the_page() -> None:
    two = answered("per_prompt", "x", (1,), (0.0,), ("Debussy", "Monet"))
    table = methods_html(last(FUSED, two))
    assert re.findall(r'class="chip is-(P\d)"', table) == ["P3"] and "(1 of 2)" in table


def test_without_the_wordings_alone_agreement_is_unknown() -> None:
    table = methods_html(last(FUSED, CAUSAL))
    assert [line[4] for line in cells(table)[1:]] == ["–", "–"]
    assert "choose <b>Each paraphrase alone</b>" in table


def test_copies_are_told_with_their_own_cost_and_what_they_are_for(lm: LanguageModel) -> None:
    run = ran(lm, "Name it.", "Which city?", methods=("flex", "causal", "repeat"))
    prompt = run.result.prompt
    question = len(prompt.paraphrases[0])
    lines = {line[0]: line for line in cells(methods_html(run))[1:]}
    assert lines["Standard attention"][5] == str(prompt.suffix_start)
    assert lines["Standard attention, copies"][5] == str(prompt.segments[0].end + 3 * question)
    said = re.search('<p class="controls">(.*?)</p>', methods_html(run))[1]
    quoted = [html.unescape(text) for text in re.findall("<q>(.*?)</q>", said)]
    assert quoted == [run.methods[name].answer for name in ("causal", "repeat", "flex")]
    assert "it is repetition that helps" in said
    for names, others in ((("flex", "causal"), ("Name it.",)), (("flex", "repeat"), ("x",)), (METHODS, ())):
        assert "controls" not in methods_html(ran(lm, *others, methods=names))


def test_candidates_mark_steps_and_methods_that_part_ways() -> None:
    table = candidates_html(last(FUSED, ALONE, CAUSAL))
    bodies = [cells(body) for body in re.findall(r"<tbody.*?</tbody>", table)]
    assert [body[0][0] for body in bodies] == ["1", "2 ≠", "3 ≠"]
    assert bodies[0][0][1:4] == ["Fused (flex)", "✓ ·t1 0.500", "·t9 0.250"]
    assert [line[0] for line in bodies[1][1:]] == ["Each paraphrase alone: P1", "Standard attention ≠"]
    assert bodies[2][2] == ["Standard attention", "has ended"]


def test_a_sampled_token_outside_the_five_is_named() -> None:
    rare = answered("flex", "x", (1,), (0.0,), ())
    rare.token_ids, rare.tokens = (7,), (" <b>",)
    (_, line) = cells(candidates_html(last(rare)))
    assert line[1] == "Fused (flex) chose ·<b>" and not any("✓" in cell for cell in line)


def test_long_answers_are_told_from_a_step_on(page: Built) -> None:
    long = last(answered("flex", "x", tuple(range(100)), (0.0,) * 100, ()))
    steps = [line[0] for line in cells(candidates_html(long, 40))[1:]]
    assert steps == [str(i) for i in range(40, 64)]
    assert filled(page, candidates, long)["candidates_step"]["maximum"] == 77, "from which the last 24 are shown"


def test_tiny_probabilities_are_not_called_zero() -> None:
    small = answered("flex", "x", (1,), (0.0,), ())
    small.candidates = ((Candidate(1, "a", 0.9996), Candidate(2, "b", 1e-5), Candidate(3, "c", 0.0)),)
    assert cells(candidates_html(last(small)))[1][2:5] == ["✓ a 1.000", "b < 0.001", "c 0.000"]


def test_mass_of_a_layer_a_head_and_a_token_of_the_segment() -> None:
    mass = np.zeros((2, 2, 2, 4))
    mass[:, 0] = [0.6, 0.4, 0.0, 0.0]
    mass[:, 1] = [0.0, 0.0, 0.2, 0.8]
    mass[0, 1, 1] = [1.0, 0.0, 0.0, 0.0]
    run = last(FUSED, explanation=SimpleNamespace(attribution=SimpleNamespace(mass=mass)))
    assert np.allclose(chosen_mass(run), [[0.55, 0.2, 0.05, 0.2], [0.3, 0.2, 0.1, 0.4]])
    assert np.allclose(chosen_mass(run, layer=0), [[0.6, 0.4, 0, 0]] * 2)
    assert np.allclose(chosen_mass(run, layer=1, head=1)[0], [1, 0, 0, 0])
    # Segments of 3, 4, 5 and 2 tokens; the second answer token also sees the first one.
    want = [[0.0, 0.0, 0.1 / 5, 0.4 / 2], [0.0, 0.0, 0.2 / 5, 0.8 / 3]]
    assert np.allclose(chosen_mass(run, layer=1, per_token=True), [[0.5 / 3, 0, want[0][2], want[0][3]], want[1]])


@pytest.fixture(scope="module")
def page(lm: LanguageModel) -> Built:
    return Built(lm)


def filled(page: Built, tab: Any, run: LastRun) -> dict[str, Any]:
    """What a run changes in a tab, its note left out."""
    (changes,) = tab.fill(page.widgets, run, None)
    return changes


def test_a_run_is_explained_with_the_page_s_names(page: Built, lm: LanguageModel) -> None:
    run = ran(lm, "", f"Name it. {NASTY}")
    run = replace(run, explanation=explain(lm, run.result))
    assert gave.segment_names(run) == ("prefix", "P1", "P3", "suffix + answer")
    assert run.explanation is not None and {e.hidden for e in run.explanation.attribution.effects} == {"P1", "P3"}
    assert np.allclose(chosen_mass(run, per_token=True), run.explanation.attribution.mass_per_token, atol=1e-6)
    shown = filled(page, gave, run)
    assert "last" not in shown, "it is explained once, and a link may have taken its place by now"
    assert filled(page, gave, ran(lm, "", "Name it."))["last"].explanation is not None
    assert shown["gave_plot"]["visible"] and NASTY not in shown["gave_plot"]["value"].to_json().replace("\\u003c", "<")
    said, effects = shown["gave_words"], {e.hidden: e.effect for e in run.explanation.attribution.effects}
    for name, share in zip(gave.segment_names(run), chosen_mass(run).mean(axis=0), strict=True):
        assert f"{name} {share:.3f}" in said
    assert all(f"{name} {round(effect, 3) + 0.0:+.3f}" in said for name, effect in effects.items())
    layers, heads = (shown[f"mass_{what}"]["choices"][1:] for what in ("layer", "head"))
    assert layers == [("1", 0), ("2", 1), ("3", 2)] and len(heads) == 4 and shown["gave_choices"]["visible"]


def test_a_link_leaves_nothing_of_a_recording_in_a_tab_that_showed_it(page: Built, lm: LanguageModel) -> None:
    visitor, run = page.visitor(), ran(lm, "Name it.", methods=METHODS)
    visitor.values["last"] = run
    visitor.open(1)
    visitor.open(0)
    assert "Last run: <q>Who?</q>" in visitor.values["gave_note"] and visitor.visible["gave_plot"]
    visitor.values |= {"last": None, "tab": gave.NAME}  # as the link's page has it
    visitor.do("conclude")
    assert "Press Run to see it." in visitor.values["gave_note"] and "Who?" not in visitor.values["gave_note"]
    assert not visitor.visible["gave_plot"] and not visitor.values["gave_words"]
    visitor.open(1)  # another tab that showed it
    assert "Press Run to see it." in visitor.values["candidates_note"]


def test_a_run_that_cannot_be_explained_says_what_to_choose(page: Built, lm: LanguageModel) -> None:
    visitor = page.visitor()
    visitor.values["last"] = ran(lm, "Name it.", methods=("flex", "causal"))
    visitor.open(0)
    assert visitor.values["last"].explanation is None
    assert not visitor.visible["gave_plot"] and not visitor.visible["gave_choices"]
    assert "choose <b>Fused (flex)</b> and <b>Each paraphrase alone</b>" in visitor.values["gave_note"]


@pytest.mark.parametrize(
    ("layer", "number", "said"),
    [
        (None, 1, "the number of the layer is missing"),
        (1, 5, "no head 5: choose from 1 to 4"),
        (1, 1.5, "head"),
        (0, 1, "no layer 0: choose from 1 to 3"),
        (4, 1, "no layer 4"),
        (-1, 1, "no layer -1"),
    ],
)
def test_a_head_that_is_not_there_is_refused(lm: LanguageModel, layer: Any, number: Any, said: str) -> None:
    run = ran(lm, "Name it.", methods=("flex",))
    with pytest.raises(InputError, match=said):
        head.attention_plot(lm, run.result, layer, number)


def test_a_head_is_of_a_run_that_this_model_made(page: Built, lm: LanguageModel) -> None:
    visitor, run = page.visitor(), ran(lm, "Name it.", methods=("flex",))
    for last, said in (
        (None, "nothing has run yet"),
        (replace(run, result=replace(run.result, model="other")), "was recorded with other"),
    ):
        visitor.do("attention", last=last)
        assert said in visitor.values["head_message"].lower() and not visitor.visible["head_plot"]


def test_a_head_s_rows_sum_to_one_and_long_prompts_have_none(page: Built, lm: LanguageModel, prepared: Any) -> None:
    rows = np.array(
        head.attention_plot(lm, ran(lm, "Name it.", methods=("flex",)).result, 1, 2).data[0].customdata, dtype=object
    )
    assert rows.size and filled(page, head, ran(lm))["head_plot"]["visible"] is False
    big = prepared("llama", "sdpa", max_position_embeddings=4096)
    long = ran(big, *["many words and more " * 60] * 2, methods=("flex",), max_new_tokens=1)
    with pytest.raises(InputError, match="at most 512 tokens"):
        head.attention_plot(big, long.result, 1, 1)


def test_text_is_escaped_everywhere(page: Built) -> None:
    nasty = answered("flex", NASTY, (1,), (0.0,), (NASTY,))
    nasty.candidates = ((Candidate(1, NASTY, 0.5),),)
    alone = answered("per_prompt", NASTY, (1,), (0.0,), (NASTY, NASTY))
    run = last(nasty, alone, question=NASTY)
    pieces = [
        candidates_html(run),
        methods_html(run),
        belongs_html(run),
        lacking_html(run, "flex"),
    ]
    for piece in pieces:
        assert "<script" not in piece and "<b>bold" not in piece and "&lt;script&gt;" in piece


# The mask up close


def saved(visitor: Visitor, kind: str) -> tuple[str, bytes]:
    """Name and bytes of what a button of the tab hands out."""
    visitor.do("save", nth=len(FILES) + list(upclose.FILES).index(kind))
    path = Path(visitor.values["file"])
    return path.name, path.read_bytes()


def test_the_masks_are_handed_out_as_they_are_on_the_page(page: Built, lm: LanguageModel) -> None:
    image = pytest.importorskip("PIL.Image")
    visitor = page.visitor()
    visitor.values |= {"mask": "anchor", "right": "isolated.aligned.raw", "weight-1": 0}
    state = PageState.of(visitor.values)
    left, right = (seen(state.compose(lm, Limits()), scheme) for scheme in state.schemes)

    def pixels(kind: str) -> Any:
        return np.array(image.open(io.BytesIO(saved(visitor, kind)[1])).convert("RGB"))

    assert ((pixels("png") != 255).any(axis=2) == left).all()
    kept, removed, added = ([0x8A, 0x93, 0xA0], [0xD5, 0x5E, 0x00], [0x00, 0x72, 0xB2])
    for place, colour in ((left & right, kept), (right & ~left, removed), (left & ~right, added)):
        assert place.any() and (pixels("difference")[place] == colour).all()
    name, data = saved(visitor, "csv")
    lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    assert name == "mask.csv" and (np.array([line[1:] for line in lines[1:]]) == np.where(left, "1", "0")).all()
    visitor.do("save", nth=-1, question=" ")
    assert visitor.values["file"] is None and "The question is empty" in visitor.values["pairs_message"]


def test_the_difference_is_drawn_when_the_tab_is_open(page: Built) -> None:
    visitor = page.visitor()
    assert visitor.do("if_open") == [{}]
    visitor.do("if_open", tab=upclose.NAME)
    assert visitor.visible["difference_plot"] and "From right to left" in visitor.values["difference_caption"]
    assert visitor.do("difference", question=" ") == [{}]


# A mask of one's own


def pressed(visitor: Visitor) -> dict[str, bool]:
    """The pairs of the grid, by QUERY>KEY, and whether they are open."""
    return {
        html.unescape(pair): state == "true"
        for state, pair in re.findall(r'aria-pressed="(\w+)" data-pair="([^"]+)"', visitor.values["pairs"])
    }


def test_the_grid_is_the_table_of_the_mask(page: Built, lm: LanguageModel) -> None:
    visitor = page.visitor()
    visitor.do("difference", mask="anchor+P3>P2")
    mask = Mask.over("anchor+P3>P2", PageState.of(visitor.values).compose(lm, Limits()).segments)
    names = [segment.name for segment in mask.segments]
    shown = [i for i, segment in enumerate(mask.segments) if segment.role != "separator"]
    assert pressed(visitor) == {
        f"{names[q]}>{names[k]}": bool(mask.visible[q, k, 0]) for q in shown for k in shown if k <= q
    }
    assert visitor.values["mask_text"] == "anchor+P3>P2"


def test_pairs_open_close_and_are_taken_back(page: Built, lm: LanguageModel) -> None:
    visitor = page.visitor()
    visitor.values |= {"left": "causal.sequential.raw"}
    visitor.do("toggle", {"pair": "P2>P1"})
    assert (visitor.values["mask"], visitor.values["left"]) == ("segment+P2>P1", "form.aligned.weights")
    visitor.do("toggle", {"pair": "suffix>P3"})
    visitor.do("toggle", {"pair": "P2>P1"})
    assert visitor.values["mask"] == "segment-suffix>P3"
    visitor.do("undo")
    assert visitor.values["mask"] == "segment+P2>P1-suffix>P3"
    visitor.do("typed", mask_text=" late_fusion+P2>P1 ")
    assert visitor.values["mask"] == "late_fusion+P2>P1"
    visitor.do("reset")
    assert visitor.values["mask"] == "late_fusion"
    for before in ("late_fusion+P2>P1", "segment+P2>P1-suffix>P3", "segment+P2>P1", "segment"):
        visitor.do("undo")
        assert visitor.values["mask"] == before
    visitor.do("undo")
    assert "nothing to undo" in visitor.values["pairs_message"]


def test_what_cannot_be_is_told_and_changes_nothing(page: Built) -> None:
    visitor = page.visitor()
    wordings = [name for name, _ in PageState.of(visitor.values).wordings]
    for name in wordings[:-1]:
        visitor.do("toggle", {"pair": f"suffix>{name}"})
    before = visitor.values["mask"]
    asked = [{"pair": f"suffix>{wordings[-1]}"}, {"pair": "P1>P2"}, {"pair": "<b>"}, {"pair": 7}, None]
    for told in asked:
        visitor.do("toggle", told)
        assert visitor.values["mask"] == before and 'role="alert"' in visitor.values["pairs_message"], told
        assert "<b>" not in visitor.values["pairs_message"]
    visitor.do("typed", mask_text="segment+P99>P1")
    assert visitor.values["mask"] == before and "names P99, which is not there" in visitor.values["pairs_message"]
    visitor.do("reset", mask="segment+P99>P1")  # its row was removed
    assert (visitor.values["mask"], visitor.values["pairs_message"]) == ("segment", "")
    visitor.do("undo")
    assert (visitor.values["mask"], visitor.values["pairs_message"]) == ("segment+P99>P1", "")
    visitor.do("undo")
    assert visitor.values["mask"] == before.rpartition("-")[0]


def test_a_mask_names_rows_as_the_page_does_where_one_is_blank(page: Built, lm: LanguageModel) -> None:
    visitor = page.visitor()
    visitor.values |= {
        "used": 3,
        "paraphrase-1": " ",
        "paraphrase-2": "b",
        "paraphrase-3": "c",
        "mask": "segment+P4>P3",
    }
    state = PageState.of(visitor.values)
    prompt = state.compose(lm, Limits())
    assert state.asked().mask == "segment+P3>P2"
    ours = Mask.over(state.mask, prompt.segments)
    names = [segment.name for segment in prompt.segments]
    assert ours.visible[names.index("P4"), names.index("P3"), 0] and "P2" not in names
    ran = flexdemo.ask(lm, state.asked(max_new_tokens=1))
    assert (
        Mask.over(ran.request.mask, ran.prompt.segments).cells() == Mask.over(state.mask, prompt.segments).cells()
    ).all()
    with pytest.raises(InputError, match="names P2, which is not there"):
        PageState.of(visitor.values | {"mask": "segment+P4>P2"}).compose(lm, Limits())


def test_every_tab_and_the_proof_read_a_mask_over_a_blank_row(bundled: LanguageModel) -> None:
    state = PageState(
        question="Who painted The Scream?",
        paraphrases=["", "The Scream came from the brush of", "the painter of the scream"],
        mask="segment+P4>P3-suffix>P1",
        max_new_tokens=4,
    )
    made = flexdemo.ask(bundled, state.asked(candidates=5))
    named = state.told(made)
    run = LastRun(state, named, explain(bundled, named))
    assert run.result.mask["strategy"] == state.mask and made.mask["strategy"] == "segment+P3>P2-suffix>P1"
    assert (run.result["flex"].answer, run.result["flex"].logprobs) == (made["flex"].answer, made["flex"].logprobs)
    assert [effect.hidden for effect in run.explanation.attribution.effects] == ["P1", "P3", "P4"]
    assert prove(bundled, run.result).ok
    page = Built(bundled)
    for tab in (candidates, gave, head, methods):
        filled(page, tab, run)
    attention_map(bundled, run.result, 1, 2)
    merging(bundled, run.result, 0)
    *_, reads = reading_heads(bundled, run.result, 1)
    assert reads.name == "P3" and reads.strongest
