"""What the tabs beside the mask say about the last run, as HTML and figures. Knows no gradio, keeps no state.

Text of users and models is data: every piece of HTML made here escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np

from ...answers.explain import NEEDED, Explanation, agreement, candidate_steps, explain, seen_counts
from ...answers.head import attention_map
from ...answers.methods import METHODS
from ...answers.recording import Recorded
from ...answers.result import MethodResult, Result
from ...engine.model import LanguageModel
from ...errors import InputError
from ...figures.answer import attention_figure, effect_figure, mass_figure
from ...figures.cells import visible_text
from ...masks import parse
from ..entered import Form, named
from ..parts import chip

CANDIDATES = 5
STEPS = 24  # steps of the candidates' table at a time
ANSWER = "suffix + answer"
BEFORE = {
    "mass": "After a run: how each token of the fused answer divides its attention among the wordings.",
    "effect": "After a run: how much likelier each wording made the fused answer.",
    "candidates": "After a run: the five likeliest next tokens at each step, for every method, and where methods part "
    "ways.",
    "methods": "After a run: every chosen method's answer, how sure it was, and what it cost.",
    "attention": "After a run: where every token of the prompt looks, in one layer and head of your choice.",
}
SAID = {
    "mass": "Shares of the attention of each answer token, summing to 1. This describes where the answer looked; it "
    "does not show that looking there mattered.",
    "effect": "The causal view: log-probability of the same fused answer with all wordings, minus without one. Above 0 "
    "it helped. Positions are held, so hiding the longest wording leaves a gap before the suffix.",
    "candidates": "✓ is the token that a method chose. ≠ marks a step at which methods part ways, and there each "
    "method that leaves the first one. From then on each goes on from its own answer.",
    "attention": "Choose a layer and a head. The prompt is read once more, as the fused answer read it; each row of "
    "the picture sums to 1. Colours follow the square root of the share.",
}


@dataclass(frozen=True, eq=False)
class LastRun:
    """A finished run of a form. `result` has the page's names of wordings; `explanation` is None without NEEDED.

    `recorded` is the recording that is shown in place of a run.
    """

    form: Form
    result: Result
    explanation: Explanation | None
    recorded: Recorded | None = None

    @property
    def methods(self) -> dict[str, MethodResult]:
        return {answered.method: answered for answered in self.result.results}


def finish(
    lm: LanguageModel,
    form: Form,
    result: Result,
    *,
    until: float = math.inf,
    check: Callable[[], None] | None = None,
) -> LastRun:
    """Explain a finished result as far as its methods allow; this runs the model once more. Raises as `explain`."""
    result = with_names(form, result)
    ran = {answered.method for answered in result.results}
    return LastRun(form, result, explain(lm, result, until=until, check=check) if ran.issuperset(NEEDED) else None)


def with_names(form: Form, result: Result) -> Result:
    return replace(result, prompt=named(result.prompt, form))


def note_html(tab: str, last: LastRun | None) -> str:
    """The line on top of a tab: what will be here, or what is here and which run it belongs to."""
    if last is None:
        return f'<p class="to-come">{BEFORE[tab]}</p>'
    if tab in ("mass", "effect") and last.explanation is None:
        labels = " and ".join(f"<b>{escape(METHODS[name].label)}</b>" for name in NEEDED)
        return f'<p class="to-come">To see this, choose {labels} under Methods, then Run.</p>{_belongs(last)}'
    if tab == "effect" and last.explanation is not None and not last.explanation.attribution.effects:
        said = "Only one wording has weight: there is none to hide. Add a paraphrase, then Run."
        return f'<p class="to-come">{said}</p>{_belongs(last)}'
    return f"<p>{SAID[tab]}</p>{_belongs(last)}"


def _belongs(last: LastRun) -> str:
    """Whose run this is: the form may have changed since."""
    settings = f"{parse(last.form.strategy).label}, {last.form.positions.replace('_', ' ')}"
    if not last.result.ape.is_plain:
        settings += f", T = {last.result.ape.temperature:g}, S = {last.result.ape.scale:g}"
    count = len(last.result.prompt.paraphrases)
    wordings = f"{count} wording{'' if count == 1 else 's'}"
    whose = "Last run" if last.recorded is None else f"Recorded {escape(last.recorded.date)}"
    return f'<p class="belongs">{whose}: <q>{escape(last.form.question)}</q> {wordings}, {escape(settings)}</p>'


def has_heads(last: LastRun, layers: int, heads: int) -> bool:
    """Whether the run tells the attention mass of each single one of so many layers and heads."""
    return last.explanation is not None and last.explanation.attribution.mass.shape[1:3] == (layers, heads)


def segment_names(last: LastRun) -> tuple[str, ...]:
    """Names of the groups of attention mass: the last holds the suffix and the answer so far."""
    prompt = last.result.prompt
    return (prompt.segments[0].name, *(segment.name for segment in prompt.paraphrases), ANSWER)


def mass_legend_html(last: LastRun) -> str:
    chips = [f"<span>{chip(name)}</span>" for name in segment_names(last)[:-1]]
    return f'<div class="legend">{" ".join(chips)} <span class="chip is-suffix">{ANSWER}</span></div>'


def chosen_mass(last: LastRun, *, layer: int | None = None, head: int | None = None, per_token: bool) -> np.ndarray:
    """Attention mass (T, S) of the fused answer, mean over all layers and heads or of one; needs an explanation."""
    if last.explanation is None:
        raise ValueError("this run has no explanation")
    mass = last.explanation.attribution.mass  # (T, layers, heads, S)
    if layer is not None:
        mass = mass[:, layer : layer + 1]
    if head is not None:
        mass = mass[:, :, head : head + 1]
    chosen = mass.mean(axis=(1, 2))
    if not per_token:
        return chosen
    return chosen / seen_counts(last.result.prompt, last.result.mask["strategy"], len(chosen))


def mass_plot(last: LastRun, *, layer: int | None = None, head: int | None = None, per_token: bool = False) -> Any:
    mass = chosen_mass(last, layer=layer, head=head, per_token=per_token)
    tokens = last.methods["flex"].tokens
    return mass_figure(mass, tokens, segment_names(last), per_token=per_token, legend=False)


def effect_plot(last: LastRun) -> Any | None:
    """One bar for each wording that could be hidden; None if there is none."""
    if last.explanation is None or not last.explanation.attribution.effects:
        return None
    effects, texts = last.explanation.attribution.effects, dict(last.form.wordings)
    names = [effect.hidden for effect in effects]
    return effect_figure(names, [effect.effect for effect in effects], [texts[name] for name in names])


def attention_plot(lm: LanguageModel, last: LastRun | None, layer: float | None, head: float | None) -> Any:
    """Attention of one layer and head over the last run's prompt; InputError for what cannot be shown."""
    if last is None:
        raise InputError("nothing has run yet: press Run, then show its attention")
    if (last.result.model, last.result.dtype) != (lm.name, lm.dtype):
        raise InputError(
            f"what is shown was recorded with {last.result.model} in {last.result.dtype}, and the loaded model is "
            f"{lm.name} in {lm.dtype}: press Run, then show its attention"
        )
    for what, number in (("layer", layer), ("head", head)):
        if number is None or number != int(number):
            raise InputError(f"the number of the {what} is missing: give a whole number, 0 or more")
    rows = attention_map(lm, last.result, int(layer or 0), int(head or 0))
    prompt = last.result.prompt
    return attention_figure(rows, prompt.tokens, prompt.segments)


def step_count(last: LastRun) -> int:
    return max((len(answered.candidates) for answered in last.result.results), default=0)


def candidates_html(last: LastRun, first: int = 1) -> str:
    """Candidates of every method for STEPS steps from `first` (counted from 1), in a box of its own."""
    methods = last.methods
    steps = candidate_steps(last.result.results)
    leader = next((name for name in methods if methods[name].candidates), None)
    if leader is None:
        return ""
    bodies = []
    for told in steps[first - 1 : first - 1 + STEPS]:
        step, parts_ways = told["step"], told["parts_ways"]
        lines = []
        for answered in methods.values():
            if answered.candidates:
                lines.append(_candidates_line(answered, step, methods[leader] if parts_ways else answered))
        mark = '<b class="mark" title="methods part ways">≠</b>' if parts_ways else ""
        head = f'<th scope="rowgroup" rowspan="{len(lines)}" class="step">{step + 1} {mark}</th>'
        kind = ' class="parts-ways"' if parts_ways else ""
        bodies.append(f"<tbody{kind}><tr>{head}{'</tr><tr>'.join(lines)}</tr></tbody>")
    titles = ("Step", "Method", *(str(i) for i in range(1, CANDIDATES + 1)))
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    table = f'<table class="facts"><thead><tr>{head}</tr></thead>{"".join(bodies)}</table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'


def method_label(answered: MethodResult) -> str:
    """Name of a method, and of the wording that speaks for it where every wording has an answer of its own."""
    method = METHODS[answered.method]
    return f"{method.label}: {answered.views[0].name}" if method.answers_each else method.label


def _probability(value: float) -> str:
    return "&lt; 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def _candidates_line(answered: MethodResult, step: int, leader: MethodResult) -> str:
    """Cells of one method at one step; marked where it chose otherwise than the leader."""
    label = escape(method_label(answered))
    if step >= len(answered.candidates):
        return f'<th scope="row">{label}</th><td colspan="{CANDIDATES}" class="ended">has ended</td>'
    chosen = answered.token_ids[step]
    theirs = leader.token_ids[step] if step < len(leader.token_ids) else None
    mark = ' <b class="mark" title="chose another token">≠</b>' if chosen != theirs else ""
    cells = []
    for candidate in answered.candidates[step]:
        token = f"<code>{escape(visible_text(candidate.token))}</code> {_probability(candidate.probability)}"
        style = f' style="--share: {candidate.probability * 100:.1f}%"'
        taken = candidate.token_id == chosen
        cells.append(f'<td{style} class="chosen"><b>✓ {token}</b></td>' if taken else f"<td{style}>{token}</td>")
    if all(candidate.token_id != chosen for candidate in answered.candidates[step]):
        mark += f' <span class="rare">chose <code>{escape(visible_text(answered.tokens[step]))}</code></span>'
    cells += ["<td></td>"] * (CANDIDATES - len(cells))
    return f'<th scope="row">{label}{mark}</th>{"".join(cells)}'


def methods_html(last: LastRun) -> str:
    """Every method that ran as a line, then agreement of the wordings, then what the costs mean."""
    methods, prompt = last.methods, last.result.prompt
    alone = [view.answer for view in methods["per_prompt"].views] if "per_prompt" in methods else []
    read = prompt.suffix_start
    lines = []
    for answered in last.result.results:
        agree = agreement(answered.answer, alone).agree if alone else ()
        share = f"{sum(agree) / len(agree):.2f}" if agree else "–"
        mean = math.fsum(answered.logprobs) / len(answered.logprobs)
        encoding = f"{answered.mask['strategy']}, {answered.mask['positions']}".replace("_", " ")
        cells = [
            f"{len(answered.token_ids)}",
            f"{round(mean, 3) + 0.0:.3f}",
            share,
            f"{read:,}",
            f"{len(answered.views)}",
        ]
        lines.append(
            f'<tr><th scope="row">{escape(method_label(answered))}</th>'
            f'<td class="method-answer" title="{escape(answered.answer)}"><div>{escape(answered.answer)}</div></td>'
            + "".join(f'<td class="number">{cell}</td>' for cell in cells)
            + f"<td>{escape(encoding)}</td></tr>"
        )
    titles = ("Method", "Answer", "Tokens", "Mean log-prob.", "Agreement", "Prompt tokens", "Rows", "Encoding")
    kinds = [' class="number"' if 1 < i < 7 else "" for i in range(len(titles))]
    head = "".join(f'<th scope="col"{kind}>{title}</th>' for title, kind in zip(titles, kinds, strict=True))
    suffix = len(prompt.segments[-1])
    costs = (
        "<b>Mean log-prob.</b> is over the tokens of the method's own answer. <b>Agreement</b>: share of the wordings "
        "alone that give its answer. <b>Prompt tokens</b>: prefilled for its encoding; methods that name the same "
        "encoding share one prefill and its cost. <b>Rows</b>: views that decode as rows of the batch, each reading "
        f"the suffix ({suffix} token{'' if suffix == 1 else 's'}) and the answer; equal views are computed once."
    )
    table = f'<table class="facts methods"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    box = f'<div class="scroll wide" tabindex="0">{table}</div>'
    return f'{_agreement_html(last, alone)}{_belongs(last)}{box}<p class="costs">{costs}</p>'


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


FIGURES = {  # element of a figure -> element whose text says what it shows
    "mask-plot": "mask-caption",
    "mass-plot": "mass-note",
    "effect-plot": "effect-note",
    "attention-plot": "attention-note",
}
# Gradio makes a figure's element anew when it is hidden and shown, so the names are given whenever the tabs change.
SCRIPT = """() => {
  document.addEventListener('keydown', (event) => {
    const press = (name) => {
      event.preventDefault();
      event.stopPropagation();
      document.querySelector(name)?.click();
    };
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) press('#run');
    if (event.key === 'Escape' && !document.querySelector('ul[role=listbox], dialog[open]')) press('#stop');
  }, true);
  for (const [name, keys, said] of [['run', 'Control+Enter', 'Ctrl+Enter'], ['stop', 'Escape', 'Escape']]) {
    document.getElementById(name)?.setAttribute('aria-keyshortcuts', keys);
    document.getElementById(name)?.setAttribute('title', said);
  }
  for (const each of document.querySelectorAll('#program .address')) each.textContent = location.origin;
  const figures = FIGURES;
  const name = () => {
    for (const [figure, text] of Object.entries(figures)) {
      const found = document.getElementById(figure);
      if (!found || found.getAttribute('role') === 'figure') continue;
      found.setAttribute('role', 'figure');
      found.setAttribute('aria-labelledby', text);
    }
  };
  name();
  const tabs = document.getElementById('tabs');
  if (tabs) new MutationObserver(name).observe(tabs, {childList: true, subtree: true});
}""".replace("FIGURES", str(FIGURES))


def mass_words(last: LastRun) -> str:
    """The figure of attention mass in words: each segment's mean over the answer's tokens; empty without it."""
    if last.explanation is None:
        return ""
    means = chosen_mass(last, per_token=False).mean(axis=0)
    shares = ", ".join(f"{name} {share:.3f}" for name, share in zip(segment_names(last), means, strict=True))
    return _words(f"Mean over the answer's tokens, all layers and heads: {shares}.")


def effect_words(last: LastRun) -> str:
    """The figure of leave-one-out effects in words; empty without it."""
    if last.explanation is None or not last.explanation.attribution.effects:
        return ""
    told = [(each.hidden, round(each.effect, 3)) for each in last.explanation.attribution.effects]
    effects = ", ".join(f"{hidden} {effect:+.3f}" if effect else f"{hidden} 0.000" for hidden, effect in told)
    return _words(f"Log-probability of the answer lost without a wording: {effects}.")


def _words(text: str) -> str:
    return f'<p class="unseen">{escape(text)}</p>'
