"""The pair of answers side by side and the ladder, as HTML. Knows no gradio, keeps no state.

Text of users and models is data: every piece of HTML made here escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .cells import visible_text
from .differences import differing, marked_html
from .ladder import Rung
from .masks import STRATEGIES
from .methods import METHODS, MethodResult, Result
from .prompt import POSITIONS
from .schemes import STANDARD, Scheme
from .share import FORM
from .ui_form import Form
from .ui_parts import card_html, scheme_label

SIDES = ("left", "right")


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
        title, summary = scheme_label(side.own), f"{STRATEGIES[side.strategy].summary} {POSITIONS[side.positions]}"
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


def ladder_html(form: Form, rungs: Sequence[Rung]) -> str:
    """The four answers as a table that says whose they are; tokens that the step before did not have are marked."""
    lines = []
    for i, rung in enumerate(rungs):
        before = rungs[i - 1].token_ids if i else rung.token_ids
        marks = differing(rung.token_ids, before)
        tokens = " ".join(
            f'<code class="{"differs" if differs else "kept"}">{escape(visible_text(token))}</code>'
            for token, differs in zip(rung.tokens, marks, strict=True)
        )
        mean = "–" if rung.mean_logprob is None else f"{round(rung.mean_logprob, 3) + 0.0:.3f}"
        change = "" if not i else "same" if rung.token_ids == before else f"{sum(marks)} new"
        scheme = f'<div class="encoding">{escape(scheme_label(rung.scheme))}</div>'
        lines.append(
            f'<tr><th scope="row">{escape(rung.change)}{scheme}</th>'
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
