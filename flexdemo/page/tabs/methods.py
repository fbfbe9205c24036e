"""Tab *All methods*: every method that ran, how sure it was and what it cost, and whether the wordings agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

import gradio as gr

from ...answers.explain import agreement
from ...answers.methods import METHODS, resolve_methods
from ...figures.results import table_html
from ..run import LastRun, method_label
from ..state import PageState
from ..widgets import Changes, Page, Values, Visit, chip

TITLE, NAME = "All methods", "methods-tab"
CHANGES, NEEDS, TERMS, WAITING = ("methods_table",), (), (), ""
SAID = (
    "<b>Mean log-prob.</b> is over the tokens of the method's own answer. <b>Agreement</b>: share of the wordings "
    "alone that give its answer. <b>Prompt tokens</b>: prefilled for its encoding; methods that name the same encoding "
    "share one prefill and its cost; copies are a prompt of their own. <b>Rows</b>: views that decode as rows of the "
    "batch, each reading the suffix and the answer; equal views are computed once."
)


def build(page: Page) -> None:
    page["compare"] = gr.Button("Run all methods", size="sm", elem_id="compare-all", min_width=120, scale=0)
    page["methods_table"] = gr.HTML("", elem_id="methods-table")


def fill(page: Page, last: LastRun, visit: Visit) -> Iterator[Changes]:
    yield {"methods_table": methods_html(last)}


def wire(page: Page) -> None:
    def tick(values: Values, visit: Visit) -> Changes:
        count = len(PageState.of(values).wordings)
        return {"methods": [method.name for method in resolve_methods(["all"], count)]}

    page.answering.append(page.on(page["compare"].click, tick, reads=page.state, changes=["methods"], refused=()))


def methods_html(last: LastRun) -> str:
    """Whether the wordings agree, then every method that ran as a line."""
    methods, prompt = last.methods, last.result.prompt
    alone = [view.answer for view in methods["per_prompt"].views] if "per_prompt" in methods else []
    lines = []
    for answered in last.result.results:
        agree = agreement(answered.answer, alone).agree if alone else ()
        mean = math.fsum(answered.logprobs) / len(answered.logprobs)
        answer = escape(answered.answer)
        lines.append(
            (
                escape(method_label(answered)),
                f'<td class="method-answer" title="{answer}"><div>{answer}</div></td>',
                str(len(answered.token_ids)),
                f"{round(mean, 3) + 0.0:.3f}",
                f"{sum(agree) / len(agree):.2f}" if agree else "–",
                f"{METHODS[answered.method].packed(prompt).suffix_start:,}",
                str(len(answered.views)),
                escape(f"{answered.mask['strategy']}, {answered.mask['positions']}".replace("_", " ")),
            )
        )
    titles = ("Method", "Answer", "Tokens", "Mean log-prob.", "Agreement", "Prompt tokens", "Rows", "Encoding")
    table = table_html(titles, lines, kind="methods", head=0, numbers=range(2, 7))
    return _agreement_html(last, alone) + _controls_html(last) + table


def _controls_html(last: LastRun) -> str:
    """What standard attention over the wordings, over copies of the question, and the fused answer tell together."""
    if not {"causal", "repeat"} <= set(last.methods) or len(last.result.prompt.paraphrases) == 1:
        return ""
    names = {"causal": "over the wordings", "repeat": "over as many copies of the question", "flex": "fused"}
    told = "; ".join(
        f"{said} <q>{escape(last.methods[name].answer)}</q>" for name, said in names.items() if name in last.methods
    )
    said = "If copies do as well, it is repetition that helps; if only wordings do, diversity; if only the fused, how"
    return f'<p class="controls">Standard attention {told}. {said} they are read.</p>'


def _agreement_html(last: LastRun, alone: list[str]) -> str:
    """Whether the wordings alone agree, among themselves and with the fused answer."""
    if not alone:
        label = escape(METHODS["per_prompt"].label)
        said = f"To see whether the wordings agree, choose <b>{label}</b> under Methods, then Run."
        return f'<p class="agreement">{said}</p>'
    fused = last.methods.get("flex")
    agreed = agreement(fused.answer if fused else "", alone)
    said = f"{len(alone)} wording{'' if len(alone) == 1 else 's'} alone, {agreed.spread}."
    if fused:
        names = [s.name for s, same in zip(last.result.prompt.paraphrases, agreed.agree, strict=True) if same]
        chips = " ".join(chip(name) for name in names) or "none"
        said += f" Agree with the fused answer: {chips} ({len(names)} of {len(alone)})."
    return f'<p class="agreement">{said}</p>'
