"""One link that holds the page's whole state: its button, and what a visitor who opens it finds. Stores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..errors import InputError
from ..request import Limits, Request
from . import parts
from .entered import CONFIDENCE, GIVEN, SLIDERS, Form, check_limits, slider_of
from .link import PageState, from_query, side_parts, side_text, to_query
from .pair import PAIR, Pair
from .rows import RowPool, Rows

HEAVIEST = 10  # of a weight's slider
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


def state_of(form: Form, count: int, *, pair: Pair = PAIR, show: str = "left") -> PageState:
    """What the form holds, with its first `count` rows, the two sides and the mask shown; InputError for what cannot be
    in a link."""
    asked = form.request()
    weights = form.weights[: count + 1]
    if any(weight is None for weight in weights):
        raise InputError("a weight is empty: give a number, 0 or more")
    numbers = [float(weight) for weight in weights if weight is not None]
    kept = {name: getattr(asked, name) for name in Request.model_fields}
    kept |= {"paraphrases": form.paraphrases[:count], "weights": None if set(numbers) == {1.0} else numbers}
    return PageState(
        **kept,
        weights_from="confidence" if form.by_confidence else "mine",
        left=side_text(*pair.values[:3]),
        right=side_text(*pair.values[3:]),
        show=show,
        model=form.model,
    )


def open_link(query: str, limits: Limits, models: Sequence[str] = ()) -> PageState | None:
    """The state that the page's address holds, None if it holds none; InputError for one that cannot be shown.

    `models` are the names to choose from; a link without a name means the first.
    """
    state = from_query(query)
    if state == PageState(question=""):
        return None
    check_limits(limits, state)
    if not state.model and models:
        state = state.but(model=models[0])
    if state.model and state.model not in models:
        here = f"choose from {', '.join(models)}" if models else "one model is offered here, without a name"
        raise InputError(f"model in the link is {state.model!r}, which is not offered here: {here}")
    for name in SLIDERS:
        value, (low, high, _) = getattr(state, name), slider_of(name, limits)
        if not low <= value <= high:
            raise InputError(f"{name} in the link is {value:g}: the page takes {low:g} to {high:g}")
    if isinstance(state.weights, tuple) and max(state.weights) > HEAVIEST:
        raise InputError(f"w in the link has {max(state.weights):g}: the page takes weights up to {HEAVIEST}")
    return state


def settings_of(state: PageState) -> list[Any]:
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
        told = rows.updates(Rows(state.paraphrases, weights, rows.room), used[1])
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
