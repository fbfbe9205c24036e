"""Tab *Candidates*: the likeliest next tokens of every method at each step, and where methods part ways."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import gradio as gr

from ...answers.explain import CANDIDATES, candidate_steps
from ...answers.result import MethodResult
from ...figures.cells import visible_text
from ...figures.results import table_html
from ..run import LastRun, method_label
from ..widgets import Changes, Page, Values, Visit

TITLE, NAME = "Candidates", "candidates"
CHANGES, NEEDS, TERMS, WAITING = ("candidates_step", "candidates"), (), (), ""
STEPS = 24  # steps of the table at a time
SAID = (
    "The five likeliest next tokens at each step. ✓ is the one that a method chose. ≠ marks a step at which methods "
    "part ways, and there each method that leaves the first one; from then on each goes on from its own answer."
)


def build(page: Page) -> None:
    page["candidates_step"] = gr.Slider(
        1, 2, 1, step=1, label="From step", elem_id="candidates-step", visible=False, buttons=[], min_width=110
    )
    page["candidates"] = gr.HTML("", elem_id="candidates")


def fill(page: Page, last: LastRun, visit: Visit) -> Iterator[Changes]:
    steps = max((len(answered.candidates) for answered in last.result.results), default=0)
    slider = gr.update(value=1, maximum=max(2, steps - STEPS + 1), visible=steps > STEPS)
    yield {"candidates_step": slider, "candidates": candidates_html(last)}


def wire(page: Page) -> None:
    def step(values: Values, visit: Visit) -> Changes:
        last = values["last"]
        return {"candidates": candidates_html(last, int(values["candidates_step"] or 1))} if last else {}

    change, reads = page["candidates_step"].change, ["last", "candidates_step"]
    page.on(change, step, reads=reads, changes=["candidates"], trigger_mode="always_last")


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
    return table_html(titles, "".join(bodies))


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
