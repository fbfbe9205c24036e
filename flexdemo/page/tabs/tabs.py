"""The tabs beside the mask: their widgets and events. What they say is made in `ui_explain`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ...answers.head import heads_of
from ...engine.loading import Models, offered
from ...engine.model import LanguageModel
from ...errors import InputError
from ...figures.cells import EXACT_TOKENS
from ...request import Limits
from ...serve.log import within_noted_memory
from ...serve.zerogpu import LOCAL, Gpu, answer_seconds
from .. import parts
from ..pair import ANSWER, LINKS
from ..parts import Drawing
from ..terms import COLOURS, terms_html
from . import told
from .told import LastRun, effect_words, mass_words

MEAN = -1  # "mean over all", in place of the number of a layer or head


def number(low: float, high: float, value: float, step: float, label: str, name: str, **more: Any) -> gr.Slider:
    return gr.Slider(low, high, value, step=step, label=label, elem_id=name, min_width=110, buttons=[], **more)


def _which(what: str, count: int, name: str) -> gr.Dropdown:
    return gr.Dropdown(_numbered(count), value=MEAN, label=what, elem_id=name, min_width=110)


def _numbered(count: int) -> list[tuple[str, int]]:
    return [("Mean over all", MEAN), *((str(i), i) for i in range(count))]


def _plot(name: str, figure: Any = None) -> gr.Plot:
    classes = ["figure"]
    visible = figure is not None
    return gr.Plot(figure, show_label=False, container=False, elem_id=name, elem_classes=classes, visible=visible)


class Tabs:
    """The tabs of one page: built inside a Blocks context, wired afterwards. Holds widgets, nothing of a visitor."""

    def __init__(self, lm: LanguageModel | Models, limits: Limits, drawn: Drawing) -> None:
        self._models = models = offered(lm)
        self.last = gr.State(None)
        layers, heads = (max(counts) for counts in zip(*(heads_of(each) for _, each in models.named), strict=True))
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            with gr.Tab("Mask", elem_id="tab-mask"):
                self._mask(limits, drawn)
            with gr.Tab("Attention mass", elem_id="tab-mass"):
                self._mass(layers, heads)
            with gr.Tab("Leave-one-out", elem_id="tab-effect"):
                self.effect_note = gr.HTML(told.note_html("effect", None), elem_id="effect-note")
                gr.HTML(terms_html("Leave-one-out"), elem_classes="terms")
                self.effect = _plot("effect-plot")
            with gr.Tab("Candidates", elem_id="tab-candidates"):
                self.candidates_note = gr.HTML(told.note_html("candidates", None), elem_id="candidates-note")
                self.step = number(1, 2, 1, 1, "From step", "candidates-step", visible=False)
                self.candidates = gr.HTML("", elem_id="candidates")
            with gr.Tab("Methods", elem_id="tab-methods"):
                self.methods = gr.HTML(told.note_html("methods", None), elem_id="methods-table")
            with gr.Tab("Attention of a head", elem_id="tab-attention"):
                self._attention(layers, heads)
        self.outputs = [
            self.last, self.mass_note, self.mass_settings, self.effect_note, self.effect, self.candidates_note,
            self.step, self.candidates, self.methods, self.attention_note, self.attention, self.attention_message,
            self.layer, self.head,
        ]  # fmt: skip

    def _mask(self, limits: Limits, drawn: Drawing) -> None:
        choices = [("Left answer's mask", "left"), ("Right answer's mask", "right"), ("Difference", "difference")]
        with gr.Row(elem_id="mask-tools"):
            show = gr.Radio(choices, value="left", label="Show", elem_id="mask-show", container=False, scale=1)
            self.png = gr.Button("PNG", size="sm", elem_id="mask-png", min_width=60, scale=0)
        self.png_link = gr.HTML("", elem_id="mask-png-link")
        self.caption = gr.HTML(drawn.caption, elem_id="mask-caption")
        with gr.Row(visible=drawn.is_long, elem_id="mask-window") as self.window:
            label = f"Exact window, {EXACT_TOKENS} tokens"
            exact = gr.Checkbox(False, label=label, elem_id="mask-exact", min_width=140)
            query = number(0, limits.prompt_tokens, 0, 1, "Queries from token", "mask-query")
            key = number(0, limits.prompt_tokens, 0, 1, "Keys from token", "mask-key")
        self.window_inputs = [show, exact, query, key]
        self.plot = _plot("mask-plot", drawn.figure)
        gr.HTML(LINKS, elem_id="link-box")
        self.live = gr.HTML("", elem_id="live")
        gr.HTML("<h2>Tokens</h2>", elem_classes="heading")
        self.legend = gr.HTML(drawn.legend, elem_id="token-legend")
        self.tokens = gr.HighlightedText(
            drawn.spans, color_map=COLOURS, show_inline_category=False, show_label=False, container=False,
            elem_id="token-view", label="Tokens of the packed prompt, coloured by segment",
        )  # fmt: skip
        gr.HTML(ANSWER)

    def _mass(self, layers: int, heads: int) -> None:
        self.mass_note = gr.HTML(told.note_html("mass", None), elem_id="mass-note")
        gr.HTML(terms_html("Attention mass"), elem_classes="terms")
        with gr.Row(visible=False, elem_classes="choices") as self.mass_settings:
            self.layer = _which("Layer", layers, "mass-layer")
            self.head = _which("Head", heads, "mass-head")
            label = "Per token of the segment"
            self.per_token = gr.Checkbox(False, label=label, elem_id="mass-per-token", min_width=140)
        self.mass = _plot("mass-plot")

    def _attention(self, layers: int, heads: int) -> None:
        self.attention_note = gr.HTML(told.note_html("attention", None), elem_id="attention-note")
        with gr.Row(elem_classes="choices"):
            options = {"precision": 0, "min_width": 110}
            first = f"Layer, 0 to {layers - 1}", f"Head, 0 to {heads - 1}"
            self.which = [
                gr.Number(0, label=first[0], elem_id="attention-layer", **options),
                gr.Number(0, label=first[1], elem_id="attention-head", **options),
            ]
            self.show = gr.Button("Show attention", elem_id="attention-show", min_width=120)
        self.attention_message = gr.HTML("", elem_id="attention-message", elem_classes="message")
        self.attention = _plot("attention-plot")

    def filled(self, last: LastRun | None) -> list[Any]:
        """Values of `outputs` after a run; all as they are while there is none."""
        if last is None:
            return [gr.skip()] * len(self.outputs)
        explained = last.explanation is not None
        mass = told.note_html("mass", last) + mass_words(last) + (told.mass_legend_html(last) if explained else "")
        single = gr.update(visible=told.has_heads(last, *self._heads(last)))
        effect = told.note_html("effect", last) + effect_words(last)
        bars, steps = told.effect_plot(last), told.step_count(last)
        step = gr.update(value=1, maximum=max(2, steps - told.STEPS + 1), visible=steps > told.STEPS)
        effect_shown = gr.update(value=bars, visible=bars is not None)
        gone = gr.update(value=None, visible=False)  # the picture of a head belongs to an earlier prompt
        return [
            last, mass, single, effect, effect_shown,
            told.note_html("candidates", last), step, told.candidates_html(last), told.methods_html(last),
            told.note_html("attention", last), gone, "", *self._counted(last),
        ]  # fmt: skip

    def _counted(self, last: LastRun) -> list[Any]:
        """The choice of a layer and of a head: those of the model that answered, where there are several models."""
        if not self._models.choices:
            return [gr.skip()] * 2
        return [gr.update(choices=_numbered(count), value=MEAN) for count in self._heads(last)]

    def _heads(self, last: LastRun) -> tuple[int, int]:
        return heads_of(self._models.that_made(last.result.model))

    def wire(
        self,
        runs: list[Any],
        *,
        drawing: dict[str, Any],
        running: dict[str, Any],
        gpu: Gpu = LOCAL,
    ) -> None:
        """Events of the tabs; `runs` are the events that answer, after which the settings of the mass still hold."""

        def mass(last: LastRun | None, layer: int, head: int, per_token: bool) -> Any:
            if last is None or last.explanation is None:
                return gr.update(value=None, visible=False)
            layers, heads = self._heads(last)
            if not told.has_heads(last, layers, heads):  # a recording of another model, or of means alone
                layer = head = MEAN
            layer, head = (layer if layer < layers else MEAN), (head if head < heads else MEAN)
            chosen = {"layer": None if layer == MEAN else layer, "head": None if head == MEAN else head}
            return gr.update(value=told.mass_plot(last, **chosen, per_token=per_token), visible=True)

        settings = [self.layer, self.head, self.per_token]
        gr.on([each.change for each in settings], mass, [self.last, *settings], self.mass, **drawing)
        for event in runs:
            event.then(mass, [self.last, *settings], self.mass, **drawing)

        def candidates(last: LastRun | None, step: float | None) -> Any:
            return gr.skip() if last is None else told.candidates_html(last, int(step or 1))

        self.step.change(candidates, [self.last, self.step], self.candidates, trigger_mode="always_last", **drawing)

        def plot(last: LastRun | None, layer: float | None, head: float | None) -> Any:
            with within_noted_memory(give_up=self._models.let_go):
                lm = self._models.default if last is None else self._models.that_made(last.result.model)
                return told.attention_plot(lm, last, layer, head)

        plotted = gpu.wrap(plot, lambda *_: answer_seconds(1))

        def attention(last: LastRun | None, layer: float | None, head: float | None) -> tuple[Any, str]:
            try:
                return gr.update(value=plotted(last, layer, head), visible=True), ""
            except InputError as error:
                return gr.update(value=None, visible=False), parts.alert_html(str(error))

        outputs = [self.attention, self.attention_message]
        waiting = {**running, "show_progress": "minimal", "show_progress_on": self.show}
        self.show.click(attention, [self.last, *self.which], outputs, **waiting)
