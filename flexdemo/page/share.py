"""One link that holds the page's whole state: its button, and what a visitor who opens it finds. Stores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from ..errors import InputError
from ..request import Limits
from . import parts
from .entered import CONFIDENCE, GIVEN, Form
from .link import State, from_query, side_parts, side_text, to_query
from .pair import PAIR, Pair
from .rows import RowPool, Rows

HEAVIEST = 10  # of a weight's slider
# What the page's sliders can show: (field of State, its name in a link, lowest, highest).
RANGES = (
    ("temperature", "temperature", 0, 2),
    ("top_p", "top_p", 0.05, 1),
    ("sample_temperature", "sample_temperature", 0.1, 2),
    ("ape_temperature", "ape_temperature", 0.1, 2),
    ("ape_scale", "ape_scale", 0.1, 2),
)
# Gets the link's query; shows the whole link, selected, and copies it where the browser allows that.
COPY = """async (query, shown, said) => {
  if (query === '') return [query, shown, said];
  const link = window.location.origin + window.location.pathname + '?' + query;
  let told = 'Copied.';
  try { await navigator.clipboard.writeText(link); } catch { told = 'Press Ctrl+C to copy the selected link.'; }
  const select = (times) => {
    const box = document.querySelector('#link textarea');
    if (box?.value === link) { box.focus(); box.select(); } else if (times) setTimeout(() => select(times - 1), 50);
  };
  setTimeout(() => select(40), 50);
  return [query, link, told];
}"""


def state_of(form: Form, count: int, *, pair: Pair = PAIR, show: str = "left") -> State:
    """What the form holds, with its first `count` rows, the two sides and the mask shown; InputError for what cannot be
    in a link."""
    arguments = form.arguments()
    rows = form.paraphrases[:count]
    weights = form.weights[: count + 1]
    if any(weight is None for weight in weights):
        raise InputError("a weight is empty: give a number, 0 or more")
    numbers = tuple(float(weight) for weight in weights if weight is not None)
    names = ("max_new_tokens", "temperature", "top_p", "seed", "prefix", "samples", "sample_temperature")
    kept = {name: arguments[name] for name in (*names, "ape_temperature", "ape_scale", "methods")}
    return State(
        form.question,
        rows,
        None if set(numbers) == {1.0} else numbers,
        "confidence" if form.by_confidence else "mine",
        form.strategy,
        form.positions,
        left=side_text(*pair.values[:3]),
        right=side_text(*pair.values[3:]),
        show=show,
        model=form.model,
        **kept,
    )


def open_link(query: str, limits: Limits, models: Sequence[str] = ()) -> State | None:
    """The state that the page's address holds, None if it holds none; InputError for one that cannot be shown.

    `models` are the names to choose from; a link without a name means the first.
    """
    state = from_query(
        query, paraphrases=limits.paraphrases, characters=limits.characters, new_tokens=limits.new_tokens
    )
    if state == State(""):
        return None
    if not state.model and models:
        state = replace(state, model=models[0])
    if state.model and state.model not in models:
        here = f"choose from {', '.join(models)}" if models else "one model is offered here, without a name"
        raise InputError(f"model in the link is {state.model!r}, which is not offered here: {here}")
    for field, key, low, high in RANGES:
        value = getattr(state, field)
        if not low <= value <= high:
            raise InputError(f"{key} in the link is {value:g}: the page takes {low:g} to {high:g}")
    if state.samples > limits.samples:
        raise InputError(f"samples in the link is {state.samples}: the page takes 1 to {limits.samples}")
    if max(state.weights or (0,)) > HEAVIEST:
        raise InputError(f"w in the link has {max(state.weights or ()):g}: the page takes weights up to {HEAVIEST}")
    return state


def settings_of(state: State) -> list[Any]:
    """Values of the widgets of the settings, in the order of the form."""
    source = CONFIDENCE if state.weights_from == "confidence" else GIVEN
    decoding = [state.max_new_tokens, state.temperature, state.top_p, state.seed, state.prefix]
    sampling = [source, state.samples, state.sample_temperature, state.ape_temperature, state.ape_scale]
    return [state.mask, state.positions, list(state.methods), *decoding, *sampling, state.model]


class Share:
    """The button and what it shows; built inside a Blocks context, wired afterwards."""

    def __init__(self) -> None:
        with gr.Row(elem_id="share"):
            self.button = gr.Button("Copy link", size="sm", elem_id="copy-link", min_width=90, scale=0)
            self.said = gr.HTML(
                "The link holds question, paraphrases, weights, both sides and all settings.",
                elem_id="link-said",
            )
        self.link = gr.Textbox(
            visible=False, label="Link to the page as it was when you made it", elem_id="link", lines=1, max_lines=3
        )
        self.query = gr.Textbox(visible=False)

    def wire(
        self, rows: RowPool, form: list[Any], compared: list[Any], message: gr.HTML, *, drawing: dict[str, Any]
    ) -> None:
        """`form` are the widgets of a Form, `compared` those of a Pair and of the mask shown; `message` is where errors
        are told."""

        def make(used: tuple[int, int], *values: Any) -> tuple[Any, ...]:
            pair, show = Pair.from_values(values[:6]), values[6]
            try:
                query = to_query(state_of(Form.from_values(values[7:]), used[0], pair=pair, show=show))
            except InputError as error:
                return "", gr.update(visible=False), parts.alert_html(f"No link: {error}")
            return query, gr.update(visible=True), ""

        outputs = [self.query, self.link, message]
        made = self.button.click(make, [rows.asked["used"], *compared, *form], outputs, **drawing)
        shown = [self.query, self.link, self.said]
        made.then(None, shown, shown, js=COPY, api_visibility="private", show_progress="hidden")

    def opened(
        self, request: gr.Request, rows: RowPool, used: tuple[int, int], limits: Limits, models: Sequence[str] = ()
    ) -> tuple[list[Any] | None, str]:
        """(values of `outputs`, alert) for a page that is being opened; no values where its link holds none."""
        try:
            state = open_link(str(request.query_params), limits, models)
        except InputError as error:
            return None, parts.alert_html(f"this link cannot be opened, here is the page without it: {error}")
        if state is None:
            return None, ""
        weights = state.weights or (1.0,) * (len(state.paraphrases) + 1)
        told = rows.updates(Rows(state.paraphrases, weights), used[1])
        sides = [*side_parts(state.left), *side_parts(state.right)]
        return [state.question, *told, *settings_of(state), *sides, state.show], ""

    @staticmethod
    def filled(rows: RowPool, values: Sequence[Any]) -> tuple[Pair, Form]:
        """The two sides and the form that values of `outputs` show."""
        pool, settings = values[1 : 1 + len(rows.pool)], values[1 + len(rows.outputs) : -7]
        return Pair.from_values(values[-7:-1]), Form.from_values([values[0], *pool, *settings])

    @staticmethod
    def outputs(rows: RowPool, form: list[Any], compared: list[Any]) -> list[Any]:
        """The widgets that a link fills: the question, the rows, the settings, the two sides, the mask shown."""
        return [form[0], *rows.outputs, *form[1 + len(rows.pool) :], *compared]
