"""Files and checks of a result on the page, against the engine and against a result that was tampered with."""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import oracle
import pytest

import flexdemo
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.page.entered import Form
from flexdemo.page.tabs.told import LastRun, finish
from flexdemo.page.tools import FILES, badge_html, prover
from flexdemo.request import Limits

ROWS = Limits().paraphrases

NASTY = "<script>alert(1)</script> </title> ../x"


@pytest.fixture(scope="module")
def last(lm: LanguageModel) -> LastRun:
    rows = ("Name it.", "", "Which city?", *[""] * (ROWS - 3))
    methods = ("flex", "origin", "per_prompt", "causal")
    form = Form(NASTY, rows, (1.0,) * (ROWS + 1), "segment", "aligned", methods, 4, 0.0, 1.0, 0, "")
    return finish(lm, form, flexdemo.ask(lm, form.request()))


def made(kind: str, last: LastRun) -> bytes:
    return FILES[kind][2](last)


def pixels(png: bytes) -> np.ndarray:
    """The palette's indices of a PNG without interlacing, filters or several data chunks."""
    place, chunks = 8, {}
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        chunks[png[place + 4 : place + 8]] = png[place + 8 : place + 8 + length]
        place += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    return np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, width + 1)[:, 1:]


def test_csv_and_png_show_the_mask_that_ran(last: LastRun) -> None:
    prompt = last.result.prompt
    wanted = np.array(
        oracle.mask("segment", oracle.prompt_tokens([asdict(each) for each in prompt.segments])), dtype=bool
    )
    lines = list(csv.reader(io.StringIO(made("csv", last).decode("utf-8-sig"))))
    assert (np.array([line[1:] for line in lines[1:]]) == np.where(wanted, "1", "0")).all()
    assert " P4 " in lines[0][prompt.segments[3].start + 1], "named as on the page: row 2 is blank"
    size, image = len(wanted), pixels(made("png", last))
    scale = len(image) // size
    assert len(image) == scale * size <= 1024 < (scale + 1) * size
    assert ((image[::scale, ::scale] > 0) == wanted).all()


def test_json_is_that_of_the_command_line_with_the_explanation(last: LastRun) -> None:
    told = json.loads(made("json", last))
    assert told["results"] == json.loads(json.dumps(last.result.to_dict()))["results"]
    assert set(told["explain"]) >= {"attention_mass", "agreement", "candidates"}


def test_the_report_has_the_question_as_its_title_and_says_what_was_recorded(last: LastRun, lm: LanguageModel) -> None:
    page = made("report", last).decode()
    assert "<title>flexdemo: &lt;script&gt;alert(1)&lt;/script&gt; &lt;/title&gt; ../x</title>" in page
    recorded: Any = type("R", (), {"date": "2026-01-31", "versions": {"torch": "0.0.recorded"}})()
    page = made("report", replace(last, recorded=recorded)).decode()
    assert "(recorded 2026-01-31)</title>" in page and "torch 0.0.recorded" in page


def test_a_badge_says_by_word_and_sign_whether_it_holds(lm: LanguageModel, last: LastRun) -> None:
    check = prover(lm)
    good = badge_html(check(last))
    assert "✓ Proved" in good and "Not proved" not in good and "tolerance 0.001" in good
    fused = last.result["flex"]
    wrong = tuple(logprob + 0.5 for logprob in fused.logprobs)
    view = replace(fused.views[0], logprobs=wrong)
    changed = [replace(fused, logprobs=wrong, views=(view,)), *last.result.results[1:]]
    bad = badge_html(check(replace(last, result=replace(last.result, results=tuple(changed)))))
    assert "✕ Not proved" in bad and "✓" not in bad and "flex: a log-probability differs by 0.5" in bad


def test_what_cannot_be_checked_is_an_input_error(lm: LanguageModel, last: LastRun) -> None:
    with pytest.raises(InputError, match="the answer is of other"):
        prover(lm)(replace(last, result=replace(last.result, model="other")))
