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
from ..errors import InputError
from ..figures import report as export
from ..figures.cells import mask_png
from ..prompt import SegmentedPrompt
from ..serve.host import make_room
from ..serve.internals import delete_with_page, served_folder
from .link import to_query
from .run import LastRun, belongs_html
from .sides import seen_by
from .state import FUSED, PageState, check_limits
from .widgets import PRIVATE, RUNNING, Changes, Page, Values, Visit

ENDPOINTS = (
    "<p>Programs can ask this page too: the endpoints <code>/generate</code>, <code>/mask</code>, "
    "<code>/paraphrase</code> and <code>/methods</code> answer with the JSON of the command line. <b>Use via API</b> "
    "at the foot of the page has calls of each, for Python, JavaScript and the shell.</p>"
)
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


def fused_cells(last: LastRun) -> np.ndarray:
    return seen_by(last.result.prompt, last.state.scheme(FUSED)).cells()


def csv_file(last: LastRun) -> bytes:
    return csv_bytes(last.result.prompt, fused_cells(last))


def png_file(last: LastRun) -> bytes:
    prompt = last.result.prompt
    return mask_png(fused_cells(last), prompt.segments, scale=max(1, PNG_PIXELS // len(prompt.token_ids)))


def report_file(last: LastRun) -> bytes:
    ran = None if last.recorded is None else last.recorded.versions
    title = f"flexdemo: {last.state.question}"
    if last.recorded is not None:
        title += f" (recorded {last.recorded.date})"
    return export.report_html(last.result, last.explanation, title=title, ran=ran).encode()


Make = Callable[[Values], tuple[str, bytes]]  # name and bytes of a file
FILES: dict[str, tuple[str, str, Callable[[LastRun], bytes]]] = {
    "json": ("JSON", ".json", lambda last: export.result_json(last.result, last.explanation).encode()),
    "csv": ("Fused mask, CSV", "-mask.csv", csv_file),
    "png": ("Fused mask, PNG", "-mask.png", png_file),
    "report": ("Report, HTML", ".html", report_file),
}


def save_secretly(data: bytes, name: str, folder: Path) -> str:
    """Write a file where only who is told the path can ask for it: gradio's own names follow from the contents."""
    place = folder / secrets.token_hex(32)
    place.mkdir(parents=True, mode=0o700)
    (place / name).write_bytes(data)
    return str((place / name).resolve())


def wire_save(page: Page, name: str, make: Make, *, reads: Sequence[str], said: str) -> None:
    """Have a click hand out a file that is made of values; the oldest files of visitors make room for it. Why there is
    none is `said`."""
    file = page["file"]

    def save(values: Values, visit: Visit) -> Changes:
        folder = served_folder(file)
        called, data = make(values)
        try:
            if page.profile.disk_bytes is not None:
                make_room(folder, page.profile.disk_bytes, len(data))
            path = save_secretly(data, called, folder)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(
                f"the file cannot be made: {reason} on the server; the result is still here, try again later"
            ) from error
        delete_with_page(file, path)
        return {"file": path}

    made = page.on(page[name].click, save, reads=reads, changes=["file"], refused=[said, "file"], busy=name)
    made.then(None, file, None, js=SAVE, **PRIVATE)


def proof_html(proof: Proof) -> str:
    """Whether the answers hold, by sign and word, then the whole line."""
    sign, word, kind = ("✓", "Proved", "good") if proof.ok else ("✕", "Not proved", "bad")
    line = escape(proof.describe().split(": ", 1)[1])
    return f'<span class="badge {kind}" role="status"><b>{sign} {word}</b></span> <span class="told">{line}</span>'


def build_tools(page: Page, last: LastRun | None) -> None:
    """Files of the result, the program that repeats it, how to call the page from a program."""
    with gr.Accordion("Export, program", open=False, elem_id="tools", elem_classes="group"):
        with gr.Row(elem_id="result-tools"):
            for kind, (label, _, _) in FILES.items():
                name, ran = f"save-{kind}", last is not None
                page[name] = gr.Button(label, size="sm", elem_id=name, min_width=70, interactive=ran)
        page["tools_message"] = gr.HTML("", elem_id="tools-message", elem_classes="message")
        page["tools_of"] = gr.HTML(belongs_html(last) if last else "", elem_id="tools-of")
        page["file"] = gr.DownloadButton(visible=False)
        page["program"] = gr.Code(
            export.snippet(last.result) if last else FIRST, language="python", wrap_lines=True,
            label="Python program that asks this again", elem_id="repeat", interactive=False,
        )  # fmt: skip
        gr.HTML(ENDPOINTS, elem_classes="help")


CHANGES = ("check", "proof", "program", "tools_of", *(f"save-{kind}" for kind in FILES))


def ready(last: LastRun | None, *, is_shown: bool = True) -> Changes:
    """The tools for a result, of which nothing has been proved; without one there is nothing to do, and of one that a
    stopped run has hidden no more than files can be had."""
    usable = dict.fromkeys((f"save-{kind}" for kind in FILES), gr.update(interactive=last is not None))
    check = gr.update(value="prove", interactive=last is not None and is_shown, variant="secondary")
    before = "" if is_shown else "<p>Not of the answers that are shown, which were stopped:</p>"
    told = {"tools_of": before + belongs_html(last), "program": export.snippet(last.result)} if last else {}
    return {**usable, "check": check, "proof": "", "tools_of": "", "program": FIRST} | told


def wire_tools(page: Page) -> None:
    def made(kind: str, values: Values) -> tuple[str, bytes]:
        last, (_, suffix, make) = values["last"], FILES[kind]
        if last is None:
            raise InputError("there is nothing to save yet: press Run")
        return export.file_name(last.state.question, suffix), make(last)

    def check(values: Values, visit: Visit) -> Changes:
        if values["last"] is None:
            raise InputError("there is nothing to check yet: press Run")
        proof = page.ask(prove, values["last"].result, tokens=32)
        mark = gr.update(value="proved ✓" if proof.ok else "not proved ✕", variant="secondary" if proof.ok else "stop")
        return {"check": mark, "proof": proof_html(proof) + belongs_html(values["last"])}  # the page may show others

    def link(values: Values, visit: Visit) -> Changes:
        state = PageState.of(values)
        check_limits(page.limits, state)  # a page of this kind opens it
        return {"link": gr.update(value=to_query(state), visible=True)}

    for kind in FILES:
        wire_save(page, f"save-{kind}", partial(made, kind), reads=["last"], said="tools_message")
    page.on(page["check"].click, check, reads=["last"], changes=["check"], refused=["proof"], busy="check", **RUNNING)
    linked = page.on(page["copy"].click, link, reads=page.state, changes=["link"], refused=["link_message", "link"])
    linked.then(None, page["link"], [page["link"], page["link_said"]], js=COPY, **PRIVATE)
