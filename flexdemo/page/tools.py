"""What a visitor can do with a page and its result: link to it, save it, repeat it in Python, prove it. Files are made
on demand, links hold everything: nothing is stored."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np

from ..answers.proof import Proof, prove
from ..engine.loading import Models
from ..errors import InputError
from ..figures import report as export
from ..figures.cells import mask_png
from ..plan import mask_array
from ..prompt import SegmentedPrompt
from ..serve.internals import delete_with_page, served_folder
from ..serve.log import within_noted_memory
from ..serve.zerogpu import Gpu, answer_seconds
from .endpoints import program_section
from .link import to_query
from .run import LastRun
from .state import PageState
from .widgets import PRIVATE, RUNNING, Changes, Values, Visit, Widgets, alert_html

PNG_PIXELS = 1024  # that a short prompt's mask is enlarged to, by whole numbers
FIRST = "# Press Run first"
# Gets the link's query; shows the whole link, selected, and copies it where the browser allows that.
COPY = """async (query) => {
  if (query === '') return ['', ''];
  const link = window.location.origin + window.location.pathname + '?' + query;
  let said = 'Link copied';
  try { await navigator.clipboard.writeText(link); } catch { said = 'Press Ctrl+C to copy the selected link'; }
  const select = (times) => {
    const box = document.querySelector('#link textarea');
    if (box?.value === link) { box.focus(); box.select(); } else if (times) setTimeout(() => select(times - 1), 50);
  };
  setTimeout(() => select(40), 50);
  return [link, said];
}"""
# The file is on the server when this is called with what gradio tells of it: one click, one download.
SAVE = """(file) => {
  if (file?.url) Object.assign(document.createElement('a'), { href: file.url, download: file.orig_name ?? '' }).click();
}"""


def csv_bytes(prompt: SegmentedPrompt, cells: np.ndarray) -> bytes:
    # The mark of UTF-8 tells spreadsheets how to read it.
    return export.mask_csv(prompt, cells).encode("utf-8-sig")


def csv_file(last: LastRun) -> bytes:
    return csv_bytes(last.result.prompt, mask_array(last.result.prompt, last.result.mask["strategy"]))


def png_file(last: LastRun) -> bytes:
    prompt = last.result.prompt
    scale = max(1, PNG_PIXELS // len(prompt.token_ids))
    return mask_png(mask_array(prompt, last.result.mask["strategy"]), prompt.segments, scale=scale)


def report_file(last: LastRun) -> bytes:
    ran = None if last.recorded is None else last.recorded.versions
    title = f"flexdemo: {last.state.question}"
    if last.recorded is not None:
        title += f" (recorded {last.recorded.date})"
    return export.report_html(last.result, last.explanation, title=title, ran=ran).encode()


Make = Callable[[Values], tuple[str, bytes]]  # name and bytes of a file
FILES: dict[str, tuple[str, str, Callable[[LastRun], bytes]]] = {
    "json": ("JSON", ".json", lambda last: export.result_json(last.result, last.explanation).encode()),
    "csv": ("Mask, CSV", "-mask.csv", csv_file),
    "png": ("Mask, PNG", "-mask.png", png_file),
    "report": ("Report, HTML", ".html", report_file),
}


def save_secretly(data: bytes, name: str, folder: Path) -> str:
    """Write a file where only who is told the path can ask for it: gradio's own names follow from the contents."""
    place = folder / secrets.token_hex(32)
    place.mkdir(parents=True, mode=0o700)
    (place / name).write_bytes(data)
    return str((place / name).resolve())


def wire_save(widgets: Widgets, name: str, make: Make, *, reads: Sequence[str]) -> None:
    """Have a click hand out a file that is made of values."""
    file = widgets["file"]

    def save(values: Values, visit: Visit) -> Changes:
        folder = served_folder(file)
        try:
            called, data = make(values)
            path = save_secretly(data, called, folder)
        except InputError as error:
            return {"file": None, "message": alert_html(str(error))}
        except OSError as error:
            reason = error.strerror or type(error).__name__
            said = f"the file cannot be made: {reason} on the server; the result is still here, try again later"
            return {"file": None, "message": alert_html(said)}
        delete_with_page(file, path)
        return {"file": path, "message": ""}

    made = widgets.on(widgets[name].click, save, reads=reads, changes=["file", "message"], busy=name)
    made.then(None, file, None, js=SAVE, **PRIVATE)


def prover(models: Models) -> Callable[[LastRun], Proof]:
    """What checks the answers of a run against the dense reference of the model that made them."""

    def check(last: LastRun) -> Proof:
        with within_noted_memory(give_up=models.let_go):
            return prove(models.that_made(last.result.model), last.result)

    return check


def proof_html(proof: Proof) -> str:
    """Whether the answers hold, by sign and word, then the whole line."""
    sign, word, kind = ("✓", "Proved", "good") if proof.ok else ("✕", "Not proved", "bad")
    line = escape(proof.describe().split(": ", 1)[1])
    return f'<span class="badge {kind}" role="status"><b>{sign} {word}</b></span> <span class="told">{line}</span>'


def build_tools(widgets: Widgets, last: LastRun | None) -> None:
    """Files of the result, the program that repeats it, how to call the page from a program."""
    with gr.Accordion("Export, program", open=False, elem_id="tools", elem_classes="group"):
        with gr.Row(elem_id="result-tools"):
            for kind, (label, _, _) in FILES.items():
                name, ran = f"save-{kind}", last is not None
                widgets[name] = gr.Button(label, size="sm", elem_id=name, min_width=70, interactive=ran)
        widgets["file"] = gr.DownloadButton(visible=False)
        widgets["program"] = gr.Code(
            export.snippet(last.result) if last else FIRST, language="python", wrap_lines=True,
            label="Python program that asks this again", elem_id="repeat", interactive=False,
        )  # fmt: skip
        program_section()


CHANGES = ("check", "proof", "program", *(f"save-{kind}" for kind in FILES))


def ready(last: LastRun | None) -> Changes:
    """The tools for a result, of which nothing has been proved; without one there is nothing to do."""
    usable = dict.fromkeys((f"save-{kind}" for kind in FILES), gr.update(interactive=last is not None))
    check = gr.update(value="prove", interactive=last is not None, variant="secondary")
    return {**usable, "check": check, "proof": "", "program": export.snippet(last.result) if last else FIRST}


def wire_tools(widgets: Widgets, models: Models, page: Sequence[str], gpu: Gpu) -> None:
    """Events of the tools; `page` are the widgets that a PageState is made of."""
    proved = gpu.wrap(prover(models), lambda last: answer_seconds(32))

    def made(kind: str, values: Values) -> tuple[str, bytes]:
        last, (_, suffix, make) = values["last"], FILES[kind]
        if last is None:
            raise InputError("there is nothing to save yet: press Run")
        return export.file_name(last.state.question, suffix), make(last)

    for kind in FILES:
        wire_save(widgets, f"save-{kind}", partial(made, kind), reads=["last"])

    def check(values: Values, visit: Visit) -> Changes:
        if values["last"] is None:
            return {"message": alert_html("there is nothing to check yet: press Run")}
        try:
            proof = proved(values["last"])
        except InputError as error:
            return {"proof": "", "message": alert_html(f"Cannot be checked: {error}")}
        mark = gr.update(value="proved ✓" if proof.ok else "not proved ✕", variant="secondary" if proof.ok else "stop")
        return {"check": mark, "proof": proof_html(proof), "message": ""}

    changes = ["check", "proof", "message"]
    widgets.on(widgets["check"].click, check, reads=["last"], changes=changes, busy="check", **RUNNING)

    def link(values: Values, visit: Visit) -> Changes:
        try:
            query = to_query(PageState.of(values))
        except InputError as error:
            return {"link": gr.update(value="", visible=False), "message": alert_html(f"No link: {error}")}
        return {"link": gr.update(value=query, visible=True), "message": ""}

    linked = widgets.on(widgets["copy"].click, link, reads=page, changes=["link", "message"])
    linked.then(None, widgets["link"], [widgets["link"], widgets["link_said"]], js=COPY, **PRIVATE)
