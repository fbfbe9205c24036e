"""The two sides, each an answer over the mask that it was given with, and the ladder between them. Keeps no state.

A mask's figure is light and carries no words. What the page says about a cell or a token it makes itself, from the
rules in the figure's `layout.meta`; it also draws the rows of answer tokens, and exact parts of a long prompt, from
them. Text of users and models is data: every piece of HTML made here escapes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape
from itertools import product
from typing import Any

import gradio as gr

from ..answers.metrics import normalise
from ..answers.result import MethodResult, Result
from ..engine.model import LanguageModel
from ..figures.cells import EXACT_TOKENS, block_size, segment_colour, token_spans, visible_text
from ..figures.mask import mask_figure, untitled
from ..masks import ITSELF, STRATEGIES, Mask, parse
from ..plan import Scheme
from ..prompt import POSITIONS, Segment, SegmentedPrompt
from ..request import Limits
from .rows import budget_of, shares_of
from .state import FORM, FUSED, STANDARD, WEIGHTED, PageState, side_parts
from .terms import COLOURS
from .widgets import Changes, Page, plot

SIDES = ("left", "right")
LONG = 32  # characters of an answer that fit on one large line
LONG_ALONE = 80  # of a wording's own answer that are seen without scrolling
CARDS = {"left": "answer-flex", "right": "answer-causal"}  # elements that hold the answers
PLOTS = {"left": "mask-plot", "right": "mask-plot-right"}
# Each step of the ladder: what the left side answers with, its name, and what it changes.
LADDER = {
    STANDARD: ("standard", "Standard attention: every token sees all earlier ones, positions run on, no weights."),
    "segment.sequential.raw": ("+ segment mask", "The mask keeps the wordings apart while they are read"),
    "segment.aligned.raw": ("+ aligned positions", "Every wording starts at the same position, right after the prefix"),
    FUSED: ("+ weights 1/N = fused", "Each wording counts by its share, so that N copies of one count once"),
}

ANSWERS = 2  # answer tokens that a reason needs to be told: one sees the other
NO_CELL = 255  # a pair of segments that has no cell in this order


def signature(prompt: SegmentedPrompt, scheme: Scheme) -> str:
    """The same for the same tokens, positions and rules: tells whether an answer belongs to a picture."""
    hidden = tuple(scheme.weighted and weight == 0 for weight in prompt.weights)
    names = tuple(segment.name for segment in prompt.segments)
    told = repr((prompt.token_ids, names, scheme.strategy, scheme.positions, hidden))
    return hashlib.blake2s(told.encode(), digest_size=8).hexdigest()


def seen_by(prompt: SegmentedPrompt, scheme: Scheme, *, answers: int = 0) -> Mask:
    """The mask of a scheme over a prompt; where weights act, weight 0 hides a paraphrase."""
    mask = Mask.over(scheme.strategy, prompt.segments, answers=answers)
    return mask.weighted() if scheme.weighted else mask


def picture(prompt: SegmentedPrompt, scheme: Scheme) -> Any:
    """The mask of a scheme over a prompt; above EXACT_TOKENS as block means.

    Its `layout.meta` has the segments and the answer behind them with first token and colour, what a visible cell is in
    the figure's data by its key's segment (`z`), and the rule of each pair of segments, for earlier and later keys.
    """
    seen, told = (seen_by(prompt, scheme, answers=count) for count in (0, ANSWERS))
    length = len(prompt.token_ids)
    figure = untitled(mask_figure(seen.cells(), prompt.tokens, prompt.segments, words=False))
    reasons = told.reasons().ravel()
    phrases = list(dict.fromkeys([ITSELF, *(text for text in reasons if text)]))
    colours = [segment_colour(segment.name, segment.role) for segment in prompt.segments]
    steps = [list(dict.fromkeys(colours)).index(colour) + 1 for colour in colours]
    segments = [[each.name, each.start, colour] for each, colour in zip(prompt.segments, colours, strict=True)]
    places = {None: NO_CELL} | {phrase: i for i, phrase in enumerate(phrases)}
    figure.layout.meta = {
        "signature": signature(prompt, scheme),
        "length": length,
        "block": block_size(length) if length > EXACT_TOKENS else 1,
        "exact": EXACT_TOKENS,
        "tokens": [visible_text(token) for token in prompt.tokens],
        "segments": [*segments, ["answer", length, segment_colour("answer", "answer")]],
        "z": [*steps, steps[-1]],
        "reasons": phrases,
        "rules": [places[text] for text in reasons],
    }
    return figure


def legend_html(segments: Sequence[Segment]) -> str:
    """The segments of the packed prompt with their numbers of tokens; each is a button that highlights it."""
    return " ".join(
        f'<span><button type="button" class="chip is-{escape(segment.name)}" data-segment="{i}" aria-pressed="false">'
        f"{escape(segment.name)}</button> {len(segment)}</span>"
        for i, segment in enumerate(segments)
        if segment.role != "separator"
    )


def scheme_label(scheme: Scheme) -> str:
    weights = "weights" if scheme.weighted else "raw"
    return f"{scheme.strategy} · {scheme.positions.replace('_', ' ')} · {weights}"


def title(state: PageState, side: str) -> str:
    """What a side's answer is called."""
    value = getattr(state, side)
    if value in (FUSED, STANDARD):
        return "Fused" if value == FUSED else "Standard attention"
    return parse(state.scheme(value).strategy).label


def choices() -> list[tuple[str, str]]:
    """What a side may answer with: the fused answer as it is set, and every scheme there is."""
    every = [".".join(parts) for parts in product(STRATEGIES, POSITIONS, WEIGHTED)]
    labels = [scheme_label(Scheme(*side_parts(side))) for side in every]
    return [("as set: mask, positions, weights", FUSED), *zip(labels, every, strict=True)]


def answered(result: Result, state: PageState, side: str) -> MethodResult | None:
    """A side's answer in a result; None where it was not asked for."""
    value, given = getattr(state, side), {each.method: each for each in result.answered}
    if side_parts(value)[0] == FORM:
        return given.get("flex")
    return given.get(state.scheme(value).name) or (given.get("causal") if value == STANDARD else None)


def answer_html(side: str, marked: str = "", *, is_long: bool = False) -> str:
    """An element whose text content is the answer and nothing else; a long one is set smaller."""
    kind = ' class="long"' if is_long else ""
    return f'<span id="{CARDS[side]}"{kind}>{marked}</span>'


def figures_html(answer: MethodResult, first_token: float) -> str:
    """One line on an answer: tokens, time to the first, rate, density of its mask."""
    count = len(answer.token_ids)
    what = "Visible cells over all cells of the prompt, before a weight of 0 hides any"
    density = f"<span title='{what}'>{answer.mask['density']:.0%} visible</span>"
    if not count:
        return f"reading the prompt · {density}"
    span = answer.seconds - first_token
    parts = [
        f"<b>{count}</b> token{'' if count == 1 else 's'}",
        "<span title='From Run to the first token, reading the prompt included'>first after "
        f"<b>{first_token * 1000:.0f}</b> ms</span>",
    ]
    if count > 1 and span > 0:
        parts.append(f"then <b>{(count - 1) / span:.0f}</b> a second")
    return " · ".join([*parts, density])


def marked_html(answer: str, other: str) -> str:
    """An answer with the words that another one does not have in <mark>; its text content stays the answer."""
    words, at, parts = [*re.finditer(r"\S+", answer)], 0, []
    matcher = SequenceMatcher(None, [word[0] for word in words], other.split(), autojunk=False)
    for kind, first, end, _, _ in matcher.get_opcodes():
        if kind in ("replace", "delete"):
            start, stop = words[first].start(), words[end - 1].end()
            parts += [escape(answer[at:start]), f'<mark class="differs">{escape(answer[start:stop])}</mark>']
            at = stop
    return "".join([*parts, escape(answer[at:])])


def answers_changes(state: PageState, result: Result) -> Changes:
    """Both answers so far, words that differ from the other side's marked, their figures, and what grows a row for
    each token on the mask that the answer belongs to."""
    left, right = (answered(result, state, side) for side in SIDES)
    first, live = result.seconds["first_token"], {}
    changes: Changes = {}
    for side, mine, other in (("left", left, right), ("right", right, left)):
        if mine is None:
            changes |= {f"{side}_answer": answer_html(side), f"{side}_figures": "press Run to see it"}
            continue
        marked = marked_html(mine.answer, other.answer if other else mine.answer)
        changes[f"{side}_answer"] = answer_html(side, marked, is_long=len(mine.answer) > LONG)
        changes[f"{side}_figures"] = figures_html(mine, first)
        mark, tokens = signature(result.prompt, state.scheme(getattr(state, side))), map(visible_text, mine.tokens)
        live[side] = {"signature": mark, "tokens": [*tokens], "done": bool(mine.stopped_by)}
    return changes | {"live": f'<div data-live="{escape(json.dumps(live))}"></div>'}


def alone_changes(state: PageState, result: Result, room: int) -> Changes:
    """What each wording answers alone, marked where it is not the fused answer that a side shows; "" where that was not
    asked."""
    told: Changes = {f"alone-{i}": "" for i in range(room + 1)}
    given = {each.method: each for each in result.results}
    if "per_prompt" not in given:
        return told
    fused = given.get("flex") if state.asks_fused else None
    for i, view in zip(state.rows, given["per_prompt"].views, strict=True):
        same = not (result.done and fused) or normalise(view.answer) == normalise(fused.answer)
        line = ' class="line"' if len(view.answer) > LONG_ALONE else ""
        note = "" if same else f" <span{line}>· differs from the fused answer</span>"
        kind = "" if same else ' class="differs"'
        said = escape(view.answer) or ("<i>no text</i>" if result.done else "")
        told[f"alone-{i}"] = f"alone: <b{kind}>{said}</b>{note}"
    return told


def step_html(prompt: SegmentedPrompt, state: PageState) -> str:
    """What the chosen step of the ladder changes, in one line, with the number of cells; another scheme is named."""
    if state.left not in LADDER:
        return f"Left: {escape(scheme_label(state.scheme(state.left)))}"
    steps = list(LADDER)
    at, said = steps.index(state.left), LADDER[state.left][1]
    if not at:
        return said
    if state.left == FUSED and (state.mask, state.positions) != side_parts(steps[at - 1])[:2]:
        said = f"As set, {escape(scheme_label(state.scheme(FUSED)))}, beside the step before"
    now, before = (seen_by(prompt, state.scheme(steps[i])) for i in (at, at - 1))
    moved = now.difference(before)
    told = [f"{moved[kind]:,} cells {word}" for kind, word in (("removed", "close"), ("added", "open")) if moved[kind]]
    return f"{said}: {', '.join(told) or 'the same cells are visible'}."


def draw(
    lm: LanguageModel,
    limits: Limits,
    state: PageState,
    drawn: tuple[str, str] = ("", ""),
    prompt: SegmentedPrompt | None = None,
) -> Changes:
    """Masks, tokens, shares and captions of a page, without running the model; InputError for what cannot run.

    A mask that has been `drawn`, by its signature, is left as it is. `prompt` is what a recording has read, if the page
    shows one.
    """
    prompt = prompt or state.compose(lm, limits)
    changes: Changes = {}
    marks = tuple(signature(prompt, scheme) for scheme in state.schemes)
    for side, scheme, mark, before in zip(SIDES, state.schemes, marks, drawn, strict=True):
        if mark != before:
            changes[f"{side}_mask"] = picture(prompt, scheme)
        changes[f"{side}_title"] = f"<h2>{escape(title(state, side))}</h2>"
    by_run = state.weights_from == "confidence"
    return changes | {
        "drawn": marks,
        "tokens": token_spans(prompt.tokens, prompt.segments),
        "legend": legend_html(prompt.segments),
        "ladder": state.left if state.left in LADDER else None,
        "step": step_html(prompt, state),
        "budget": budget_of(lm, limits, state, prompt),
        "message": "",
        **shares_of(state, None if by_run else prompt.weights, limits.paraphrases),
    }


# Filled by views.js. It works without the program, so that a highlight costs no round trip.
LINKS = (
    '<div id="links"><label for="link-token">Token</label>'
    '<input id="link-token" type="number" min="0" step="1" inputmode="numeric">'
    '<button id="link-clear" type="button">Clear</button>'
    '<button id="link-exact" type="button" hidden>Show exactly here</button>'
    '<label><input id="link-outline" type="checkbox"> Outline what only one side sees</label></div>'
    '<div id="link-told"><div id="link-words" role="status" aria-live="polite"></div></div>'
)
ANSWER = (
    '<div id="answer-tokens" hidden><button type="button" class="chip is-answer" data-segment="0" aria-pressed="false">'
    'answer</button> <span class="count"></span><div class="textfield"></div></div>'
)


def build_ladder(page: Page, start: Changes) -> None:
    """The four steps from standard attention to the fused answer."""
    steps = [(name, side) for side, (name, _) in LADDER.items()]
    with gr.Row(elem_id="ladder-row"):
        page["ladder"] = gr.Radio(
            steps, value=start["ladder"], label="Step that the left side shows", elem_id="ladder", container=False
        )
        page["step"] = gr.HTML(start["step"], elem_id="step")


def build_sides(page: Page, state: PageState, start: Changes) -> None:
    """Two answers, each with its figures, its scheme as a menu and the mask that it was given with."""
    with gr.Row(elem_id="sides"):
        for side in SIDES:
            with gr.Column(elem_id=f"side-{side}", elem_classes="side", min_width=280):
                with gr.Row(elem_classes="side-head"):
                    page[f"{side}_title"] = gr.HTML(start[f"{side}_title"], elem_id=f"{side}-title")
                    if side == "left":
                        can = start["last"] is not None
                        look: dict[str, Any] = {"size": "sm", "min_width": 60, "scale": 0}
                        page["check"] = gr.Button("prove", elem_id="check", interactive=can, **look)
                    page[side] = gr.Dropdown(
                        choices(), value=getattr(state, side), label=f"Scheme, {side}", elem_id=f"{side}-scheme",
                        container=False, min_width=150, allow_custom_value=True,
                    )  # fmt: skip
                for part in ("answer", "figures"):
                    name = f"{side}_{part}"
                    page[name] = gr.HTML(start[name], elem_id=f"{side}-{part}", elem_classes=part)
                # It has its room also where it cannot be drawn yet.
                page[f"{side}_mask"] = plot(PLOTS[side], start[f"{side}_mask"], visible=True)
    page["drawn"] = gr.State(start["drawn"])
    # Both sides as they were asked for last, and how often a menu has told of others since.
    page["asked"], page["turned"] = gr.State(start["asked"]), gr.State(0)
    page["live"] = gr.HTML(start["live"], elem_id="live")


def build_tokens(page: Page, start: Changes) -> None:
    """The tokens of the packed prompt by segment, the answer's behind them, and what is said about a chosen one."""
    with gr.Column(elem_id="tokens-box"):
        page["legend"] = gr.HTML(start["legend"], elem_id="token-legend")
        page["tokens"] = gr.HighlightedText(
            start["tokens"], color_map=COLOURS, show_inline_category=False, show_label=False, container=False,
            elem_id="token-view", label="Tokens of the packed prompt, coloured by segment",
        )  # fmt: skip
        gr.HTML(ANSWER)
        gr.HTML(LINKS, elem_id="link-box")
