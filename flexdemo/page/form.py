"""The settings, in folded groups that each say their state; made from the fields of PageState. Wires nothing."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..answers.methods import METHODS
from ..masks import STRATEGIES
from ..prompt import POSITIONS
from ..request import Limits
from .state import FIELDS, LABELS, SETTINGS, SLIDERS, PageState, slider_of
from .terms import terms_html
from .widgets import Changes, Page


def element(name: str) -> str:
    """The element's id of a setting or a group."""
    return "strategy" if name == "mask" else name.replace("_", "-")


CHOICES: dict[str, list[tuple[str, str]]] = {
    "mask": [(strategy.label, strategy.name) for strategy in STRATEGIES.values()],
    "positions": [(name.replace("_", " ").capitalize(), name) for name in POSITIONS],
    "template": [("The model's own", "auto"), ("Plain, Q: and A:", "plain"), ("Chat", "chat")],
    "methods": [(method.label, method.name) for method in METHODS.values()],
    "weights_from": [("Mine", "mine"), ("By confidence", "confidence")],
}
WEIGHING = ("weights_from", "samples", "sample_temperature", "ape_temperature", "ape_scale")
ELSEWHERE = ("mask", "positions", "methods", "hidden_layer", *WEIGHING, "left", "right", "model")
# Name, title, settings, terms that explain them. What has no other place is a setting of the answer.
GROUPS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("masking", "Mask and positions", ("mask", "positions"), ("Segment mask", "Aligned positions")),
    ("methods_group", "Methods", ("methods", "hidden_layer"), ()),
    ("answering", "Answer", tuple(name for name in SETTINGS if name not in ELSEWHERE), ()),
    ("weighing", "Weights and attention", WEIGHING, ("Weights", "Confidence", "APE (attention T and S)")),
)


def said_of(group: str, state: PageState) -> str:
    """A folded group's state in few words."""
    if group == "masking":
        return f"{state.mask} · {state.positions.replace('_', ' ')}"
    if group == "methods_group":
        return f"{len(state.methods)} chosen"
    if group == "answering":
        drawn = "greedy" if state.temperature == 0 else f"temperature {state.temperature:g}"
        return f"{state.max_new_tokens} tokens · {drawn}"
    plain = state.ape_temperature == state.ape_scale == 1
    return ("mine" if state.weights_from == "mine" else "by confidence") + ("" if plain else " · APE")


def group_changes(state: PageState) -> Changes:
    """The labels of the groups."""
    return {group: gr.update(label=f"{title} — {said_of(group, state)}") for group, title, _, _ in GROUPS}


def build_settings(page: Page, start: PageState) -> None:
    """The groups of settings; `page` has each setting under its field's name."""
    for group, title, names, terms in GROUPS:
        label = f"{title} — {said_of(group, start)}"
        with gr.Accordion(label, open=False, elem_id=element(group), elem_classes="group") as page[group]:
            for name in names:
                page[name] = _setting(name, start, page.limits)
            if group == "answering" and page.limits != Limits():
                gr.HTML(limits_html(page.limits), elem_id="limits", elem_classes="help")
            if terms:
                gr.HTML(terms_html(*terms), elem_classes="terms")


def _setting(name: str, start: PageState, limits: Limits) -> Any:
    """The widget that a field of PageState asks for, with its help."""
    value, field = getattr(start, name), FIELDS[name]
    info = field.description[0].upper() + field.description[1:] + "." if field.description else None
    shown: dict[str, Any] = {"label": LABELS[name], "elem_id": element(name), "info": info, "min_width": 110}
    if name in SLIDERS:
        low, high, step = slider_of(name, limits)
        return gr.Slider(low, high, min(value, high), step=step, buttons=[], **shown)
    if name == "methods":
        return gr.CheckboxGroup(CHOICES[name], value=list(value), **shown)
    if name in CHOICES:
        return gr.Dropdown(CHOICES[name], value=value, allow_custom_value=name == "mask", **shown)
    if field.annotation is int:
        return gr.Number(value, precision=0, **shown)
    return gr.Textbox(value, lines=2, max_lines=8, **shown)


def limits_html(limits: Limits) -> str:
    """What one request may have where the page runs, in one line."""
    texts = f"at most {limits.paraphrases} paraphrases, {limits.characters:,} characters a text"
    time = "" if limits.seconds is None else f", {limits.seconds:g} seconds a run"
    return f"<p>Limits here: {texts}, {limits.new_tokens:,} tokens an answer{time}.</p>"
