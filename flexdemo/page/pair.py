"""The pair of answers side by side and the ladder, as HTML. Knows no gradio, keeps no state.

Text of users and models is data: every piece of HTML made here escapes it.
"""

from __future__ import annotations

import base64
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..answers.differences import differing, marked_html
from ..answers.methods import METHODS
from ..answers.result import MethodResult, Result
from ..engine.model import LanguageModel
from ..figures.cells import visible_text
from ..masks import STRATEGIES, parse
from ..plan import LADDER, STANDARD, Scheme
from ..prompt import POSITIONS
from ..request import Limits
from .entered import Form, compose
from .link import FORM
from .parts import card_html, scheme_label
from .tabs.mask import signature, whole_png

SIDES = ("left", "right")
CHANGES = ("Standard attention", "+ segment mask", "+ aligned positions", "+ weights 1/N")  # the rungs of LADDER


@dataclass(frozen=True)
class Side:
    """What one card answers with: the form's own scheme (FORM), or one of its own."""

    strategy: str = FORM
    positions: str = "aligned"
    weighted: bool = True

    @property
    def own(self) -> Scheme | None:
        """The side's own scheme; None if it is the form's."""
        return None if self.strategy == FORM else Scheme(self.strategy, self.positions, self.weighted)

    @property
    def method(self) -> str | None:
        """The method that answers with this scheme; None if none does."""
        return "flex" if self.own is None else "causal" if self.own == STANDARD else None

    def scheme(self, form: Form) -> Scheme:
        return self.own or Scheme(form.strategy, form.positions)


@dataclass(frozen=True)
class Pair:
    """The two sides; the fused answer beside standard attention unless told otherwise."""

    left: Side = Side()
    right: Side = Side(STANDARD.strategy, STANDARD.positions, STANDARD.weighted)

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Pair:
        """From the widgets' values: mask, positions and weights of the left side, then of the right."""
        left, right = ((values[i], values[i + 1], bool(values[i + 2])) for i in (0, 3))
        return cls(Side(*left), Side(*right))

    @property
    def values(self) -> tuple[str | bool, ...]:
        """What `from_values` reads."""
        return tuple(value for side in self.sides for value in (side.strategy, side.positions, side.weighted))

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.left, self.right

    @property
    def keys(self) -> tuple[str, str]:
        """What the ids of the cards end with: the method that answers, `left` or `right` where none does."""
        left = self.left.method or "left"
        right = self.right.method or "right"
        return left, ("right" if right == left else right)

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """What has to be decoded beside the methods."""
        return tuple(dict.fromkeys(side.own for side in self.sides if side.own and not side.method))

    def both(self, form: Form) -> tuple[Scheme, Scheme]:
        """What the two sides stand for under a form."""
        return self.left.scheme(form), self.right.scheme(form)

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods that have a card."""
        return tuple(side.method for side in self.sides if side.method)

    def answered(self, result: Result) -> tuple[MethodResult | None, MethodResult | None]:
        """The answers of both sides; None for one that was not asked for."""
        given = {each.method: each for each in result.answered}
        left, right = (given.get(side.method or (side.own.name if side.own else "")) for side in self.sides)
        return left, right


PAIR = Pair()


def head_html(side: Side) -> str:
    """A card's title and what its scheme does."""
    if side.own is None or side.method:
        method = METHODS[side.method or "flex"]
        title, summary = method.label, method.summary
    else:
        title, summary = scheme_label(side.own), f"{parse(side.strategy).summary} {POSITIONS[side.positions]}"
    return f"<h2>{escape(title)}</h2><p>{escape(summary)}</p>"


def cards_html(form: Form, pair: Pair, result: Result | None, *, note: str = "", tail: str = "") -> tuple[str, str]:
    """Both cards' answers, tokens that differ from the other side's marked, and their numbers, with `tail` behind."""
    both = (None, None) if result is None else pair.answered(result)
    first = result.seconds["first_token"] if result else 0.0
    made = []
    for key, side, mine, other in zip(pair.keys, pair.sides, both, both[::-1], strict=True):
        chosen = side.method is None or side.method in form.methods
        said = note if chosen or not note else "not chosen under Methods"
        if result is not None and mine is None:
            said = "not chosen under Methods"
        marked = None
        if mine is not None and other is not None:
            differs = differing(mine.token_ids, other.token_ids)
            marked = marked_html(mine.answer, mine.generation, mine.tokens, differs)
        made.append(card_html(key, mine, first, note=said, tail=tail, marked=marked))
    return made[0], made[1]


def ladder_html(form: Form, rungs: Sequence[MethodResult]) -> str:
    """The answers of LADDER as a table that says whose they are; tokens that the step before lacks are marked."""
    lines = []
    for i, (name, scheme, rung) in enumerate(zip(CHANGES, LADDER, rungs, strict=True)):
        before = rungs[i - 1].token_ids if i else rung.token_ids
        marks = differing(rung.token_ids, before)
        tokens = " ".join(
            f'<code class="{"differs" if differs else "kept"}">{escape(visible_text(token))}</code>'
            for token, differs in zip(rung.tokens, marks, strict=True)
        )
        mean = f"{round(statistics.fmean(rung.logprobs), 3) + 0.0:.3f}" if rung.logprobs else "–"
        change = "" if not i else "same" if rung.token_ids == before else f"{sum(marks)} new"
        encoding = f'<div class="encoding">{escape(scheme_label(scheme))}</div>'
        lines.append(
            f'<tr><th scope="row">{escape(name)}{encoding}</th>'
            f'<td class="rung-answer">{escape(rung.answer)}</td><td class="rung-tokens">{tokens}</td>'
            f'<td class="number">{len(rung.token_ids)}</td><td class="number">{mean}</td><td>{change}</td></tr>'
        )
    titles = ("Step", "Answer", "Tokens", "Count", "Mean log-prob.", "Changed")
    kinds = [' class="number"' if title in ("Count", "Mean log-prob.") else "" for title in titles]
    head = "".join(f'<th scope="col"{kind}>{title}</th>' for title, kind in zip(titles, kinds, strict=True))
    others = len(form.wordings) - 1
    asked = f"Ladder of <q>{escape(form.question)}</q> and {others} {'paraphrase' if others == 1 else 'paraphrases'}"
    parts = f"<caption>{asked}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    table = f'<table class="facts ladder">{parts}</table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Ladder">{table}</div>'


NEXT = "press Run to see it"


class PairWidgets:
    """The two cards with the choice of what each answers with, and the ladder. Holds widgets, nothing of a visitor."""

    def __init__(self, start: Form) -> None:
        bodies = cards_html(start, PAIR, None)
        self.heads: list[Any] = []
        self.bodies: list[Any] = []
        self.choices: list[Any] = []
        with gr.Row(elem_id="answers"):
            for name, side, body in zip(SIDES, PAIR.sides, bodies, strict=True):
                with gr.Column(elem_classes="card", min_width=240):
                    self.heads.append(gr.HTML(head_html(side)))
                    self.bodies.append(gr.HTML(body, elem_classes="card-body"))
                    self.choices += _choices(name, side)
        gr.HTML(
            "<b>First token</b>: from Run to the first token, reading the prompt included. <b>Tokens/s</b>: tokens "
            "after the first, over the time since it. All answers decode together as rows of one batch, in that time. "
            'Tokens that the other side does not have are <mark class="differs">marked</mark>.',
            elem_id="stats-note",
        )
        with gr.Row(elem_id="ladder-tools"):
            self.climb = gr.Button("Ladder", size="sm", elem_id="ladder-run", min_width=90, scale=0)
            gr.HTML(
                "<p>From standard attention to the fused answer, one change a step: segment mask, aligned positions, "
                "weights 1/N.</p>",
                elem_classes="help",
            )
        self.ladder = gr.HTML("", elem_id="ladder")

    def wire(self, form: list[Any], drawing: dict[str, Any], last_run: Callable[[str], Pair | None]) -> list[Any]:
        """A changed side shows its name at once, and no answer until it has run. Returns an event for each side.

        `last_run` tells the pair of which a session's last run is.
        """
        events = []
        for i in range(len(SIDES)):
            mine = self.choices[3 * i : 3 * i + 3]
            outputs = [self.heads[i], *mine[1:], *self.bodies]
            changes = [each.change for each in mine]
            events.append(gr.on(changes, _changed(i, last_run), [*self.choices, *form], outputs, **drawing))
        return events


def _choices(name: str, side: Side) -> list[Any]:
    strategies = [("As the form says", FORM), *((each.label, each.name) for each in STRATEGIES.values())]
    schemes = [(each.replace("_", " ").capitalize(), each) for each in POSITIONS]
    own = side.own is not None
    with gr.Row(elem_classes="side"):
        options: dict[str, Any] = {"min_width": 90, "container": False}
        # Their labels are read out and hidden: what they are shows in their values.
        mask = gr.Dropdown(strategies, value=side.strategy, label=f"Mask, {name}", elem_id=f"{name}-mask", **options)
        label = f"Positions, {name}"
        positions = gr.Dropdown(
            schemes, value=side.positions, label=label, elem_id=f"{name}-positions", visible=own, **options
        )
        weights = gr.Checkbox(side.weighted, label="Weights", elem_id=f"{name}-weights", visible=own, **options)
    return [mask, positions, weights]


def _changed(i: int, last_run: Callable[[str], Pair | None]) -> Callable[..., tuple[Any, ...]]:
    def changed(request: gr.Request, *values: Any) -> tuple[Any, ...]:
        pair, form = Pair.from_values(values[:6]), Form.from_values(values[6:])
        own = gr.update(visible=pair.sides[i].own is not None)
        # Whoever changes a side and presses Run at once may be told of the change behind the answer.
        runs_already = last_run(request.session_hash or "") == pair
        bodies = [gr.skip()] * len(SIDES) if runs_already else cards_html(form, pair, None, note=NEXT)
        return (head_html(pair.sides[i]), own, own, *bodies)

    return changed


# Filled by views.js. It works without the program, so that a highlight costs no round trip.
LINKS = (
    '<div id="links"><label for="link-token">Token</label>'
    '<input id="link-token" type="number" min="0" step="1" inputmode="numeric">'
    '<button id="link-clear" type="button">Clear</button>'
    '<button id="link-exact" type="button" hidden>Show exactly here</button>'
    "</div>"
    '<div id="link-told"><div id="link-words" role="status" aria-live="polite"></div>'
    '<p id="link-hint">Give a number here, or click a cell, a token or a segment: its row is what it sees, its column '
    "who sees it. Drag over a part of the mask to enlarge it, double-click to see all of it again.</p></div>"
)
ANSWER = (
    '<div id="answer-tokens" hidden><button type="button" class="chip is-answer" data-segment="0" aria-pressed="false">'
    'answer</button> <span class="count"></span><div class="textfield"></div></div>'
)
SAVE = "() => document.querySelector('#mask-png-link a')?.click()"


def png_html(lm: LanguageModel, limits: Limits, form: Form, pair: Pair, show: str) -> str:
    """A link that holds the whole picture as a PNG: nothing is written to disk. InputError as `compose`."""
    prompt = compose(lm, limits, form)
    data = base64.b64encode(whole_png(prompt, pair.both(form), show=show)).decode("ascii")
    side = pair.right if show == "right" else pair.left
    name = f"{'difference' if show == 'difference' else side.scheme(form).strategy}-{len(prompt.token_ids)}.png"
    return f'<a download="mask-{name}" href="data:image/png;base64,{data}" tabindex="-1">PNG</a>'


def live_html(form: Form, pair: Pair, result: Result) -> str:
    """Both sides' answer tokens so far, and which picture they belong to: a row for each grows on the mask."""
    sides = {}
    for name, scheme, answered in zip(SIDES, pair.both(form), pair.answered(result), strict=True):
        if answered is not None:
            tokens = [visible_text(token) for token in answered.tokens]
            told = {"signature": signature(result.prompt, scheme), "tokens": tokens, "done": bool(answered.stopped_by)}
            sides[name] = told
    return f'<div data-live="{escape(json.dumps(sides))}"></div>'
