"""Tab *What each wording gave*: attention mass and leave-one-out effect of the last run, in one picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from ...answers.explain import NEEDED, Explanation, explain, seen_counts
from ...answers.heads import heads_of
from ...answers.result import Result
from ...engine.model import LanguageModel
from ...figures.answer import gave_figure
from ...serve.log import checkpoint
from ..run import LastRun
from ..widgets import Changes, Page, Values, Visit, chip, plot, shown

TITLE, NAME = "What each wording gave", "gave"
CHANGES = ("gave_words", "gave_choices", "gave_plot", "mass_layer", "mass_head")
NEEDS, TERMS = NEEDED, ("Attention mass", "Leave-one-out")
MEAN = -1  # "mean over all", in place of the number of a layer or head
ANSWER = "suffix + answer"
SAID = (
    "Left, where each token of the answer looked: attention mass. Right, how much likelier each wording made the "
    "answer, by leave-one-out: above 0 it helped."
)
WAITING = ""


def build(page: Page) -> None:
    page["gave_words"] = gr.HTML("", elem_id="gave-words")
    page["gave_plot"] = plot("gave-plot")
    with gr.Row(visible=False, elem_classes="choices") as page["gave_choices"]:
        for what in ("layer", "head"):  # their choices come with a run
            page[f"mass_{what}"] = gr.Dropdown(
                _numbered(0), value=MEAN, label=what.capitalize(), elem_id=f"mass-{what}"
            )
        page["per_token"] = gr.Checkbox(False, label="Per token of the segment", elem_id="mass-per-token")


def _numbered(count: int) -> list[tuple[str, int]]:
    return [("Mean over all", MEAN), *((str(i + 1), i) for i in range(count))]


def fill(page: Page, last: LastRun, visit: Visit) -> Iterator[Changes]:
    changes: Changes = {}  # a run that is explained already is not told again: a link may have taken its place
    if last.explanation is None:
        told = page.ask(explained, last.result, page.limits.until(), tokens=32)
        last = changes["last"] = replace(last, explanation=told)
    counts = heads_of(page.models.that_made(last.result.model))
    single = last.explanation.attribution.mass.shape[1:3] == counts
    layers, heads = (gr.update(choices=_numbered(count), value=MEAN, visible=True) for count in counts)
    yield changes | {
        "gave_words": f"{words_html(last)}{legend_html(last)}",
        "gave_plot": shown(gave_plot(last)),
        "gave_choices": gr.update(visible=single),
        "mass_layer": layers,
        "mass_head": heads,
    }


def explained(lm: LanguageModel, result: Result, until: float) -> Explanation:
    """A result of the methods NEEDED explained, which runs the model once more."""
    return explain(lm, result, until=until, check=checkpoint())


def wire(page: Page) -> None:
    names = ["mass_layer", "mass_head", "per_token"]

    def chosen(values: Values, visit: Visit) -> Changes:
        last = values["last"]
        if last is None or last.explanation is None:
            return {}
        layer, head = (None if values[name] == MEAN else values[name] for name in names[:2])
        return {"gave_plot": shown(gave_plot(last, layer=layer, head=head, per_token=values["per_token"]))}

    changes = [page[name].input for name in names]
    page.on(changes, chosen, reads=["last", *names], changes=["gave_plot"], trigger_mode="always_last")


def segment_names(last: LastRun) -> tuple[str, ...]:
    """Names of the groups of attention mass: the last holds the suffix and the answer so far."""
    prompt = last.result.prompt
    return (prompt.segments[0].name, *(segment.name for segment in prompt.paraphrases), ANSWER)


def legend_html(last: LastRun) -> str:
    chips = [f"<span>{chip(name)}</span>" for name in segment_names(last)[:-1]]
    return f'<div class="legend">{" ".join(chips)} <span class="chip is-suffix">{ANSWER}</span></div>'


def chosen_mass(
    last: LastRun, *, layer: int | None = None, head: int | None = None, per_token: bool = False
) -> np.ndarray:
    """Attention mass (T, S) of the fused answer, mean over all layers and heads or of one; needs an explanation."""
    mass = last.explanation.attribution.mass  # (T, layers, heads, S)
    layers, heads = (slice(None) if number is None else [number] for number in (layer, head))
    chosen = mass[:, layers][:, :, heads].mean(axis=(1, 2))
    return chosen / seen_counts(last.result.prompt, last.result.mask["strategy"], len(chosen)) if per_token else chosen


def gave_plot(last: LastRun, *, per_token: bool = False, **one: int | None) -> Any:
    """The picture of a run that has been explained."""
    mass = chosen_mass(last, per_token=per_token, **one)
    effects, texts = last.explanation.attribution.effects, dict(last.state.wordings)
    told = [(each.hidden, each.effect, texts[each.hidden]) for each in effects]
    return gave_figure(mass, last.methods["flex"].tokens, segment_names(last), told, per_token=per_token)


def words_html(last: LastRun) -> str:
    """The picture in words."""
    means = chosen_mass(last).mean(axis=0)
    shares = ", ".join(f"{name} {share:.3f}" for name, share in zip(segment_names(last), means, strict=True))
    effects = last.explanation.attribution.effects
    told = ", ".join(f"{each.hidden} {round(each.effect, 3) + 0.0:+.3f}" for each in effects)
    lost = f" Log-probability of the answer lost without a wording: {told}." if told else ""
    return f'<p class="unseen">{escape(f"Mean over the answer, all layers and heads: {shares}.{lost}")}</p>'
