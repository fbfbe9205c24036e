"""A results file on the page: its summary, its charts, and the records where methods disagree, ready to be asked.

Everything in a file is data: its texts are escaped, its name is shown and never used as a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..data.summary import Disagreement, Summary, disagreements, summarise
from ..data.table import FORMATS, read_table
from ..errors import InputError
from ..figures.cells import seen_text
from ..figures.results import accuracy_figure, cells_html, table_html
from ..request import Limits
from .rows import names, row_changes
from .widgets import PRIVATE, Changes, Page, Values, Visit, chooser, plot, shown

MOST_LISTED = 200
RESAMPLED = 200_000_000  # questions drawn in all, so that a file of very many takes seconds
TO_OPENED = "() => { document.querySelector('#results-summary h2')?.scrollIntoView({block: 'start'}); }"
TO_FORM = """() => {
  document.querySelector('#masthead')?.scrollIntoView({block: 'start'});
  document.querySelector('#run')?.focus({preventScroll: true});
}"""


@dataclass(frozen=True)
class Opened:
    """A results file that was read: the summary of all its rows, and the first records where methods disagree."""

    name: str
    summary: Summary
    disagreements: tuple[Disagreement, ...]


def open_results(path: Path, limits: Limits) -> Opened:
    """Read and sum up an uploaded file; InputError, which names the file alone, for one that cannot be shown."""
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise InputError(
            f"the file {path.name} has {size / 1e6:.1f} MB: at most {limits.file_bytes / 1e6:g} MB can be opened here; "
            "`python -m flexdemo evaluate --report` makes a page of any size"
        )
    try:
        table = read_table(path, most_rows=limits.file_rows)
        resamples = max(1_000, min(10_000, RESAMPLED // max(1, table["id"].nunique())))
        return Opened(
            seen_text(path.name), summarise(table, resamples=resamples), tuple(disagreements(table, MOST_LISTED))
        )
    except InputError as error:
        raise InputError(str(error).replace(str(path), path.name)) from error


def summary_html(opened: Opened) -> str:
    """The table of lines, as the command line's reports have it."""
    count = opened.summary.questions
    said = f"<h2>{escape(opened.name)}: {count:,} question{'' if count == 1 else 's'}</h2>"
    return said + cells_html(opened.summary, head=0)


def disagreements_html(opened: Opened) -> str:
    """One line for each record, with a button that fills it into the form."""
    found = opened.disagreements
    if not found:
        return "<h2>Records where methods disagree</h2><p>There are none.</p>"
    lines = []
    for i, record in enumerate(found):
        name = escape(f"Fill in record {record.id}")
        button = f'<button type="button" data-record="{i}" aria-label="{name}">Fill in</button>'
        texts = (record.question, str(len(record.paraphrases)), " / ".join(record.answers))
        lines.append((button, *map(escape, texts), _said_html(record)))
    titles = ("", "Question", "Paraphrases", "Right answers", "Methods said")
    table = table_html(titles, lines, kind="records", head=1, numbers=[2])
    cut = f" (the first {MOST_LISTED})" if len(found) == MOST_LISTED else ""
    return (
        f"<h2>Records where methods disagree: {len(found)}{cut}</h2>"
        "<p>Fill in puts the question and its paraphrases into the form above, with equal weights. Nothing runs until "
        f"you press Run.</p>{table}"
    )


def _said_html(record: Disagreement) -> str:
    """Each answer once, right or wrong by sign and word, with the methods that gave it."""
    by_answer: dict[tuple[bool, str], list[str]] = {}
    for method, answer in record.predictions.items():
        by_answer.setdefault((record.right[method], answer), []).append(method)
    said = []
    for (right, answer), methods in by_answer.items():
        mark = '<span title="right">✓</span>' if right else '<b class="mark" title="wrong">✕</b>'
        said.append(f"<div>{mark} <b>{escape(answer) or '(nothing)'}</b> {escape(', '.join(methods))}</div>")
    return "".join(said)


def build_results(page: Page) -> None:
    """The part of the page that opens a results file."""
    page["found"] = gr.State(None)
    with gr.Accordion("Open a results file", open=False, elem_id="results", elem_classes="group"):
        gr.HTML(
            "<p>The table that <code>python -m flexdemo evaluate DATA --output FILE</code> wrote: its summary, its "
            "chart, and the records where methods disagree. The file is deleted from the server within about a "
            "day.</p>"
        )
        kinds = ", ".join(ending.removeprefix(".") for ending in FORMATS)
        label = f"Results file ({kinds}; at most {page.limits.file_bytes / 1e6:g} MB)"
        page["results_file"] = gr.File(label=label, file_types=list(FORMATS), elem_id="results-file", height=110)
        page["results_message"] = gr.HTML("", elem_id="results-message", elem_classes="message")


def build_opened(page: Page) -> None:
    """Where an opened file is shown: it needs the width of the page."""
    with gr.Column(elem_id="results-box"):
        page["results_summary"] = gr.HTML("", elem_id="results-summary")
        with gr.Row(elem_id="results-charts"):
            page["accuracy_plot"] = plot("accuracy-plot", min_width=320)
        page["results_notes"] = gr.HTML("", elem_id="results-notes")
        page["results_records"] = gr.HTML("", elem_id="results-records", js_on_load=chooser("record"))


SHOWN = ("results_summary", "accuracy_plot", "results_notes", "results_records")


def changes_of(opened: Opened) -> Changes:
    """What an opened file shows."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in opened.summary.notes)
    return {
        "found": opened,
        "results_summary": summary_html(opened),
        "accuracy_plot": shown(accuracy_figure(opened.summary)),
        "results_notes": f"<ul>{notes}</ul>",
        "results_records": disagreements_html(opened),
    }


def wire_results(page: Page) -> None:
    def show(values: Values, visit: Visit) -> Changes:
        path = values["results_file"]
        return changes_of(open_results(Path(path), page.limits)) if path else page.cleared(SHOWN) | {"found": None}

    def fill(values: Values, visit: Visit) -> Changes:
        index, opened, room = visit.told("index"), values["found"], page.room
        if opened is None or not isinstance(index, int) or index not in range(len(opened.disagreements)):
            return {}
        record = opened.disagreements[index]
        rows = row_changes([(text, 1.0) for text in record.paraphrases[:room]], room)
        note = record_note(opened.name, record, room)
        return {"question": record.question, "weight-0": 1.0, "note": note, **rows}

    # One at a time, beside the redraws: a large file takes seconds.
    opening: dict[str, Any] = {"busy": "results_file", "concurrency_id": "results", "concurrency_limit": 1}
    opening |= {"changes": ["found", *SHOWN], "refused": ["results_message", *SHOWN]}
    file = page["results_file"]
    opened = page.on([file.upload, file.clear], show, reads=["results_file"], **opening)
    opened.then(None, js=TO_OPENED, **PRIVATE)  # far below the file, which may be all that is seen
    changes = ["question", "note", *names(page.room)]
    chosen = page.on(page["results_records"].select, fill, reads=["found"], changes=changes)
    chosen.then(None, js=TO_FORM, **PRIVATE)


def record_note(name: str, record: Disagreement, room: int) -> str:
    """What the form holds after a record was filled in."""
    right = " / ".join(record.answers)
    said = f"Record {record.id} of {name}, right: {right}. Press Run to ask it."
    if len(record.paraphrases) > room:
        said += f" Its first {room} of {len(record.paraphrases)} paraphrases are filled in."
    return escape(said)
