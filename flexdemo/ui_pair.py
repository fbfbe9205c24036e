"""Widgets of the pair of answers and of the ladder, and their events. What they say is made in `ui_compare`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from . import ui_compare as compared
from .masks import STRATEGIES
from .prompt import POSITIONS
from .ui_compare import FORM, PAIR, SIDES, Pair, Side
from .ui_form import Form

NEXT = "press Run to see it"


class PairWidgets:
    """The two cards with the choice of what each answers with, and the ladder. Holds widgets, nothing of a visitor."""

    def __init__(self, start: Form) -> None:
        bodies = compared.cards_html(start, PAIR, None)
        self.heads: list[Any] = []
        self.bodies: list[Any] = []
        self.choices: list[Any] = []
        with gr.Row(elem_id="answers"):
            for name, side, body in zip(SIDES, PAIR.sides, bodies, strict=True):
                with gr.Column(elem_classes="card", min_width=240):
                    self.heads.append(gr.HTML(compared.head_html(side)))
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
        bodies = [gr.skip()] * len(SIDES) if runs_already else compared.cards_html(form, pair, None, note=NEXT)
        return (compared.head_html(pair.sides[i]), own, own, *bodies)

    return changed
