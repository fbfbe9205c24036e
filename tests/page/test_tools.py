"""Files, links and checks of a result on the page, against the engine and against a result that was tampered with."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import struct
import zlib
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from visitor import Built, Visitor

import flexdemo
from flexdemo.answers.explain import explain
from flexdemo.answers.proof import prove
from flexdemo.engine.loading import offered
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.page import tools
from flexdemo.page.link import from_query
from flexdemo.page.run import LastRun, answers
from flexdemo.page.sides import seen_by
from flexdemo.page.state import PageState
from flexdemo.page.tools import FILES, proof_html
from flexdemo.request import Limits

NASTY = "<script>alert(1)</script> </title> ../x"


@pytest.fixture(scope="module")
def last(lm: LanguageModel) -> LastRun:
    methods = ("flex", "origin", "per_prompt", "causal")
    state = PageState(question=NASTY, paraphrases=("Name it.", "", "Which?"), methods=methods, max_new_tokens=4)
    result = flexdemo.ask(lm, state.asked(candidates=5))
    named = state.told(result)
    return LastRun(state, named, explain(lm, named))


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


def test_a_proof_says_by_word_and_sign_whether_it_holds(lm: LanguageModel, last: LastRun) -> None:
    good = proof_html(prove(lm, last.result))
    assert "✓ Proved" in good and "Not proved" not in good and "tolerance 0.001" in good
    fused = last.methods["flex"]
    wrong = tuple(logprob + 0.5 for logprob in fused.logprobs)
    view = replace(fused.views[0], logprobs=wrong)
    changed = (replace(fused, logprobs=wrong, views=(view,)), *last.result.results[1:])
    bad = proof_html(prove(lm, replace(last.result, results=changed)))
    assert "✕ Not proved" in bad and "✓" not in bad and "flex: a log-probability differs by 0.5" in bad
    with pytest.raises(InputError, match="the answer is of other"):
        prove(lm, replace(last.result, model="other"))


# On the page


@pytest.fixture(scope="module")
def page(lm: LanguageModel) -> Built:
    return Built(lm)


@pytest.fixture
def visitor(page: Built, last: LastRun) -> Visitor:
    visitor = page.visitor()
    visitor.values["last"] = last
    visitor.do("conclude")
    return visitor


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_saved_where_only_its_visitor_finds_it(visitor: Visitor, last: LastRun, kind: str) -> None:
    paths = []
    for _ in range(2):
        visitor.do("save", nth=list(FILES).index(kind))
        paths.append(Path(visitor.values["file"]))
    (one, two), want = paths, made(kind, last)
    assert one.parent != two.parent and len(one.parent.name) == 64 and one.name == two.name
    assert one.name.endswith(FILES[kind][1]) and not set(one.name) & set("<>/ ")
    assert one.read_bytes() == want and visitor.values["tools_message"] == ""
    visitor.do("save", nth=list(FILES).index(kind), last=None)
    assert visitor.values["file"] is None and "nothing to save yet: press Run" in visitor.values["tools_message"]


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only")])
def test_a_full_disk_loses_nothing(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, code: int, words: str, last: LastRun
) -> None:
    def full(*_: Any) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tools, "save_secretly", full)
    visitor.do("save")
    said = visitor.values["tools_message"]
    assert visitor.values["file"] is None and words in said and "the result is still here" in said
    monkeypatch.undo()
    visitor.do("save")
    assert visitor.values["tools_message"] == "" and visitor.values["last"] is last and visitor.values["file"]


def test_tools_leave_what_the_page_says_of_itself_and_name_their_run(visitor: Visitor, last: LastRun) -> None:
    visitor.values["message"] = "Why nothing can run"
    for name in ("save", "check", "link"):
        visitor.do(name)
    assert visitor.values["message"] == "Why nothing can run"
    assert escape(last.state.question) in visitor.values["tools_of"], "the page may show another by now"


def test_a_weight_of_zero_hides_in_the_files_what_it_hides_in_the_picture(lm: LanguageModel) -> None:
    state = PageState(question="Who?", paraphrases=("Name it.", "Which?"), weights=(1, 0, 1), max_new_tokens=2)
    *_, end = answers(offered(lm), Limits(), state)
    shown = seen_by(state.compose(lm, Limits()), state.schemes[0]).cells()
    lines = list(csv.reader(io.StringIO(made("csv", end["last"]).decode("utf-8-sig"))))
    assert [line[1:] for line in lines[1:]] == shown.astype(int).astype(str).tolist()
    (hidden,) = (each for each in end["last"].result.prompt.segments if each.name == "P2")
    assert not shown[-1, hidden.start : hidden.end].any()


def test_a_check_marks_the_answers(visitor: Visitor, last: LastRun) -> None:
    assert visitor.values["check"] == "prove" and visitor.values["proof"] == ""
    visitor.do("check")
    assert visitor.values["check"] == "proved ✓" and "✓ Proved" in visitor.values["proof"]
    assert escape(visitor.values["last"].state.question) in visitor.values["proof"], "the page may show another by now"
    visitor.do("conclude")
    assert visitor.values["check"] == "prove" and visitor.values["proof"] == "", "of an answer before"
    visitor.do("check", last=replace(last, result=replace(last.result, model="<b>other")))
    assert "recorded with &lt;b&gt;other" in visitor.values["proof"]
    visitor.do("check", last=None)
    assert "nothing to check yet" in visitor.values["proof"]


def test_a_link_is_made_of_the_page_as_it_is(visitor: Visitor) -> None:
    visitor.do("link", question=NASTY, mask="anchor", right="segment.aligned.raw", used=0)
    state = PageState.of(visitor.values)
    assert from_query(visitor.values["link"]) == state and state.question == NASTY and visitor.visible["link"]
    for typed, said in (
        ({"seed": None}, "Seed is empty"),
        ({"seed": 0, "question": "x" * 2001}, "The question is too long"),
        ({"question": "\ud800", "seed": 0}, "Question: "),
    ):
        visitor.do("link", **typed)
        assert visitor.values["link"] == "" and said in visitor.values["link_message"] and not visitor.visible["link"]
