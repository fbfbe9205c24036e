"""What a visitor can do with a finished result: save it, repeat it in Python, check it. Files are made on demand."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ..answers.proof import Proof, prove
from ..engine.loading import Models, offered
from ..engine.model import LanguageModel
from ..errors import InputError
from ..figures import report as export
from ..figures.cells import mask_png
from ..plan import mask_array
from ..serve.host import make_room
from ..serve.internals import delete_with_page, served_folder
from ..serve.log import within_noted_memory
from ..serve.zerogpu import LOCAL, Gpu, answer_seconds
from . import parts
from .tabs.told import LastRun

PNG_PIXELS = 1024  # that a short prompt's mask is enlarged to, by whole numbers
BEFORE = "After a run: files, the Python program, and a check of the answers."
NOT_CHECKED = '<span class="badge">Not checked</span>'
# The file is on the server when this is called with what gradio tells of it: one click, one download.
SAVE = """(file) => {
  if (!file?.url) return;
  const link = document.createElement('a');
  link.href = file.url;
  link.download = file.orig_name ?? '';
  document.body.append(link);
  link.click();
  link.remove();
}"""


def json_file(last: LastRun) -> bytes:
    return export.result_json(last.result, last.explanation).encode()


def csv_file(last: LastRun) -> bytes:
    # The mark of UTF-8 tells spreadsheets how to read it.
    return export.mask_csv(last.result.prompt, last.result.mask["strategy"]).encode("utf-8-sig")


def png_file(last: LastRun) -> bytes:
    prompt = last.result.prompt
    scale = max(1, PNG_PIXELS // len(prompt.token_ids))
    return mask_png(mask_array(prompt, last.result.mask["strategy"]), prompt.segments, scale=scale)


def report_file(last: LastRun) -> bytes:
    ran = None if last.recorded is None else last.recorded.versions
    title = f"flexdemo: {last.form.question}"
    if last.recorded is not None:
        title += f" (recorded {last.recorded.date})"
    return export.report_html(last.result, last.explanation, title=title, ran=ran).encode()


FILES: dict[str, tuple[str, str, Callable[[LastRun], bytes]]] = {
    "json": ("JSON", ".json", json_file),
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


def prover(lm: LanguageModel | Models) -> Callable[[LastRun], Proof]:
    """What checks the answers of a run against the dense reference of the model that made them."""
    models = offered(lm)

    def check(last: LastRun) -> Proof:
        with within_noted_memory(give_up=models.let_go):
            return prove(models.that_made(last.result.model), last.result)

    return check


def badge_html(proof: Proof) -> str:
    """Whether the answers hold, by sign, word and colour, then the whole line."""
    sign, word, kind = ("✓", "Proved", "good") if proof.ok else ("✕", "Not proved", "bad")
    line = parts.escape(proof.describe().split(": ", 1)[1])
    return f'<span class="badge {kind}" role="status"><b>{sign} {word}</b></span> <span class="told">{line}</span>'


class ResultTools:
    """The tools of the last result: built inside a Blocks context, wired afterwards. Holds nothing of a visitor."""

    def __init__(self, lm: LanguageModel | Models, gpu: Gpu = LOCAL, *, disk_bytes: int | None) -> None:
        self._disk_bytes = disk_bytes
        self._prove = gpu.wrap(prover(lm), lambda last: answer_seconds(32))
        self.note = gr.HTML(BEFORE, elem_id="tools-note")
        with gr.Row(elem_id="result-tools"):
            self.buttons = {
                kind: gr.Button(label, size="sm", elem_id=f"save-{kind}", min_width=70, interactive=False)
                for kind, (label, _, _) in FILES.items()
            }
            self.check = gr.Button(
                "Check against the dense reference", size="sm", elem_id="check", min_width=150, interactive=False
            )
        self.file = gr.DownloadButton(visible=False)
        self.message = gr.HTML("", elem_id="tools-message", elem_classes="message")
        self.badge = gr.HTML(NOT_CHECKED, elem_id="proof")
        with gr.Accordion("Python program that asks this again", open=False, elem_id="repeat-box"):
            self.program = gr.Code(
                "", language="python", show_label=False, wrap_lines=True, elem_id="repeat", interactive=False
            )
        self.outputs = [self.note, *self.buttons.values(), self.check, self.message, self.badge, self.program]

    def filled(self, last: LastRun | None) -> list[Any]:
        """Values of `outputs` once there is a result."""
        if last is None:
            return [gr.skip()] * len(self.outputs)
        whose = "Last run" if last.recorded is None else f"Recorded {last.recorded.date}"
        note = f'<p class="belongs">{parts.escape(whose)}: <q>{parts.escape(last.form.question)}</q></p>'
        ready = [gr.update(interactive=True)] * (len(FILES) + 1)
        return [note, *ready, "", NOT_CHECKED, export.snippet(last.result)]

    def wire(self, last: gr.State, *, drawing: dict[str, Any], running: dict[str, Any]) -> None:
        """`last` holds the result that the tools work on."""

        def save(kind: str, last: LastRun | None) -> tuple[Any, str]:
            if last is None:
                return None, parts.alert_html("there is nothing to save yet: press Run")
            _, suffix, make = FILES[kind]
            try:
                data = make(last)
            except InputError as error:
                return None, parts.alert_html(str(error))
            name = export.file_name(last.form.question, suffix)
            folder = served_folder(self.file)
            try:
                if self._disk_bytes is not None:
                    make_room(folder, self._disk_bytes, len(data))
                path = save_secretly(data, name, folder)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                return None, parts.alert_html(
                    f"the file cannot be made: {reason} on the server; the result is still here, try again later"
                )
            delete_with_page(self.file, path)
            return path, ""

        for kind, button in self.buttons.items():
            waiting = {**drawing, "show_progress": "minimal", "show_progress_on": button}
            made = button.click(partial(save, kind), last, [self.file, self.message], **waiting)
            made.then(None, self.file, None, js=SAVE, api_visibility="private", show_progress="hidden")

        def check(last: LastRun | None) -> tuple[str, str]:
            if last is None:
                return NOT_CHECKED, parts.alert_html("there is nothing to check yet: press Run")
            try:
                return badge_html(self._prove(last)), ""
            except InputError as error:
                return NOT_CHECKED, parts.alert_html(f"Cannot be checked: {error}")

        waiting = {**running, "show_progress": "minimal", "show_progress_on": self.check}
        self.check.click(check, last, [self.badge, self.message], **waiting)
