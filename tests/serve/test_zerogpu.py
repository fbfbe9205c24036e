"""The page where a GPU is lent for each call: what crosses to the worker and back, and what the page still does."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from forking import Forking, WorkerError
from gradio_client import Client
from hosting import QUESTION, Served, Slow, served, until
from test_faults import STATE, page_run, stop

import app
import flexdemo
from flexdemo.answers.proof import prove
from flexdemo.engine.loading import load_model, offered
from flexdemo.engine.model import LanguageModel, moved
from flexdemo.engine.reading import Reading
from flexdemo.errors import InputError
from flexdemo.page import run as ui_work
from flexdemo.page.events import Events
from flexdemo.page.state import PageState
from flexdemo.page.tabs.head import attention_plot
from flexdemo.page.widgets import Page
from flexdemo.request import Limits
from flexdemo.serve import zerogpu
from flexdemo.serve.guard import WORKER_TITLE
from flexdemo.serve.log import Entry
from flexdemo.serve.profiles import DEFAULT
from flexdemo.serve.zerogpu import LEAST, LOCAL, MOST, Gpu, find_gpu, load_options

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing forks here, nor on a Space's Windows")
METHODS = ("flex", "causal", "origin", "per_prompt")


@pytest.fixture(scope="module")
def forking() -> Forking:
    return Forking()


@pytest.fixture(scope="module")
def gpu(forking: Forking) -> Gpu:
    return Gpu(forking.GPU)


@pytest.fixture(scope="module")
def page(lm: LanguageModel, gpu: Gpu) -> Iterator[Served]:
    with served(lm, gpu=gpu) as page:
        yield page


# What is found


def test_elsewhere_nothing_is_wrapped() -> None:
    assert find_gpu({}) is find_gpu({"SPACES_ZERO_GPU": "false", "SPACE_ID": "a/b"}) is LOCAL and not LOCAL.forks
    assert LOCAL.wrap(test_elsewhere_nothing_is_wrapped, lambda: 1.0) is test_elsewhere_nothing_is_wrapped
    assert load_options(LOCAL, "auto", "auto", "auto") == {
        "device": "auto", "dtype": "auto", "backend": "auto", "compiled": False,
    }  # fmt: skip


def test_a_model_is_checked_there_without_starting_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked worker cannot use a GPU that its parent has asked for anything: every call failed so on a real one."""
    asked: list[str] = []

    def starts_cuda() -> bool:
        asked.append("is a stream capturing?")
        return True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", starts_cuda)
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=lambda **_: None))
    load_model(device="cpu")
    assert asked, "transformers asks it no longer: nothing is left to be kept from it"
    asked.clear()
    gpu = find_gpu({"SPACES_ZERO_GPU": "true"})
    load_model(**load_options(gpu, "auto", "float32", "auto"))
    assert not asked
    worker = Gpu(Forking().GPU).wrap(lambda: torch.cuda.is_current_stream_capturing(), lambda: 1.0)
    assert worker() and not torch.cuda.is_current_stream_capturing(), "a worker captures, and hears what is so"


def test_there_nothing_is_compiled(gpu: Gpu) -> None:
    assert load_options(gpu, "auto", "auto", "auto") == {"device": "cpu", "dtype": "bfloat16", "backend": "sdpa"}
    assert load_options(gpu, "auto", "float32", "flex-eager")["backend"] == "flex-eager"
    assert "compiled" not in load_options(gpu, "auto", "auto", "auto", compiled=True)


# Calls


def test_values_and_input_errors_cross(gpu: Gpu) -> None:
    def halve(number: int) -> float:
        if number % 2:
            raise InputError(f"{number} is odd")
        return number / 2

    call = gpu.wrap(halve, lambda number: number)
    assert call(4) == 2
    with pytest.raises(InputError, match="3 is odd"):
        call(3)


def test_steps_and_input_errors_cross(gpu: Gpu) -> None:
    def count(end: int) -> Iterator[int]:
        yield from range(end)
        raise InputError("no more")

    taken = []
    with pytest.raises(InputError, match="no more"):
        for each in gpu.wrap(count, lambda end: end)(3):
            taken.append(each)
    assert taken == [0, 1, 2]


def test_other_errors_are_told_by_their_class(gpu: Gpu) -> None:
    def fail() -> None:
        raise ZeroDivisionError("secret")

    with pytest.raises(WorkerError, match=r"^ZeroDivisionError$"):
        gpu.wrap(fail, lambda: 1)()


def test_what_is_asked_for_grows_with_the_request_within_bounds(gpu: Gpu, forking: Forking, lm: LanguageModel) -> None:
    for length in (1, 40, 256):
        work = remote(lm, gpu)(STATE.but(max_new_tokens=length), Reading())
        next(work)
        work.close()
    short, middle, long = forking.asked[-3:]
    assert LEAST <= short < middle < long <= MOST
    assert max(forking.sizes[-3:]) < 10_000, "the model must not be pickled"


def test_the_worker_has_its_own_memory(gpu: Gpu) -> None:
    seen: list[int] = []
    gpu.wrap(lambda: seen.append(1), lambda: 1)()
    assert seen == []


# The page's work


def remote(lm: LanguageModel, gpu: Gpu) -> Any:
    """How a page comes to its answers there."""
    return Events(Page(offered(lm), DEFAULT, gpu), (), ()).answers


def here(lm: LanguageModel, state: PageState) -> list[dict[str, Any]]:
    return list(ui_work.answers(offered(lm), Limits(), state))


def test_an_answer_made_in_a_worker_is_the_answer(lm: LanguageModel, gpu: Gpu) -> None:
    state, reading, entry = STATE.but(methods=METHODS), Reading(), Entry("run")
    with entry.current():
        first, *_, end, last = remote(lm, gpu)(state, reading)
    *_, shown, want = here(lm, state)
    assert "Reading the prompt" in first["status"] and end["left_answer"] == shown["left_answer"]
    for name in METHODS:
        assert last["last"].methods[name].token_ids == want["last"].methods[name].token_ids
    assert entry.facts["methods"] == list(METHODS) and entry.facts["new_tokens"] > 0
    assert reading.prefill is None, "nothing is kept of a prompt, so sliders wait for Run"
    assert "press Run to see other weights" in zerogpu.NOTICE


def test_closing_the_work_ends_the_worker(lm: LanguageModel, gpu: Gpu) -> None:
    slow = Slow(lm, seconds=0.02)
    try:
        work = remote(lm, gpu)(STATE.but(max_new_tokens=200), Reading())
        for _ in range(4):
            next(work)
        work.close()  # and the stand-in has seen its worker end
    finally:
        slow.remove()


def test_bad_input_is_told_as_ever(lm: LanguageModel, gpu: Gpu) -> None:
    entry = Entry("run")
    with entry.current():
        (frame,) = remote(lm, gpu)(STATE.but(max_new_tokens=999), Reading())
    assert entry.outcome == "refused", "as the log is to have it"
    assert "Not run" in frame["status"] and "too long" in frame["message"]


# The page


def test_endpoints_answer_from_workers(page: Served, lm: LanguageModel, forking: Forking) -> None:
    client, calls = Client(page.url, verbose=False), len(forking.asked)
    got = client.predict(question=QUESTION, paraphrases=["Name it."], max_new_tokens=5, explain=True,
                         api_name="/generate")  # fmt: skip
    want = flexdemo.ask(lm, QUESTION, ["Name it."], max_new_tokens=5)["flex"]
    assert got["results"][0]["token_ids"] == list(want.token_ids) and "explain" in got
    with pytest.raises(ValueError, match="the question is empty"):
        client.predict(question=" ", api_name="/generate")
    client.predict(question=QUESTION, n=1, api_name="/paraphrase")
    client.predict(question=QUESTION, api_name="/mask")
    assert len(forking.asked) == calls + 3, "generate twice and paraphrase; a mask needs no GPU"
    assert all(LEAST <= each <= MOST for each in forking.asked)
    line = next(each for each in page.told if each["endpoint"] == "generate")
    assert line["new_tokens"] and line["methods"][0] == "flex"


def test_run_streams_from_a_worker_and_fills_the_tabs(page: Served) -> None:
    already = len(page.lines)
    page.join(page.index("run"), page_run(page, max_new_tokens=6, methods=list(METHODS)), "visitor")
    answered = page.listen("visitor").read().decode()
    last = [json.loads(line[6:]) for line in answered.splitlines() if '"process_completed"' in line][-1]
    assert last["success"], last
    line = json.loads(until(lambda: page.lines[already:])[0])
    assert line["outcome"] == "ok" and line["methods"] == list(METHODS) and line["new_tokens"] > 0


def test_stop_on_the_page_reaches_the_worker(page: Served, lm: LanguageModel) -> None:
    slow, already = Slow(lm, seconds=0.02), len(page.lines)
    try:
        page.join(page.index("run"), page_run(page, max_new_tokens=200), "stopper")
        stream = page.listen("stopper")
        for raw in stream:
            if b"process_generating" in raw:
                break
        stop(page, "stopper")
        stream.read()
        line = json.loads(until(lambda: page.lines[already:])[0])
        assert line["outcome"] == "stopped" and line["seconds"] < 4
    finally:
        slow.remove()


def test_attention_and_proof_are_made_in_workers(lm: LanguageModel, gpu: Gpu) -> None:
    last = here(lm, STATE.but(methods=METHODS))[-1]["last"]
    page = Page(offered(lm), DEFAULT, gpu)
    plot = page.ask(attention_plot, last.result, 1, 1, tokens=1)
    crossed, made = (each.to_dict() for each in (plot, attention_plot(lm, last.result, 1, 1)))
    assert crossed["data"] == made["data"]
    assert {k: v for k, v in crossed["layout"].items() if v} == {k: v for k, v in made["layout"].items() if v}
    assert page.ask(prove, last.result, tokens=32).ok
    with pytest.raises(InputError, match="no layer 99"):
        page.ask(attention_plot, last.result, 99, 1, tokens=1)


# Devices


def test_a_placed_model_answers_the_same(lm: LanguageModel) -> None:
    placed = moved(lm, "cpu")
    assert not placed.captures and placed.devices == lm.devices
    want = flexdemo.ask(lm, QUESTION, max_new_tokens=4)["flex"].token_ids
    assert flexdemo.ask(placed, QUESTION, max_new_tokens=4)["flex"].token_ids == want


# The real package


@pytest.mark.skipif(importlib.util.find_spec("spaces") is None, reason="spaces is not installed (pip install spaces)")
def test_the_real_package_changes_nothing_without_a_zerogpu() -> None:
    code = """
import sys, spaces
from flexdemo.serve.zerogpu import Gpu, LOCAL, find_gpu
assert find_gpu() is LOCAL
def steps(n):
    yield from range(n)
wrapped = Gpu(spaces.GPU).wrap(steps, lambda n: n)
assert list(wrapped(3)) == [0, 1, 2]
import app
sys.exit(app.main(["--port", "0"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=app.ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "the port must be" in done.stderr, done.stderr


def test_an_error_that_ended_the_worker_is_told_with_an_id(
    page: Served, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the real package tells it: the class alone, under a title of its own."""
    monkeypatch.setattr("forking.WorkerError", lambda name: gr.Error(name, title=WORKER_TITLE))
    slow, client = Slow(lm), Client(page.url, verbose=False)
    try:
        slow.break_at(2, lambda: ZeroDivisionError("secret"))
        with pytest.raises(ValueError, match="something went wrong on the server") as raised:
            client.predict(question=QUESTION, max_new_tokens=5, api_name="/generate")
    finally:
        slow.remove()
    (line,) = [each for each in page.told if each["id"] in str(raised.value)]
    assert line["outcome"] == "error" and line["error"] == "ZeroDivisionError"
    assert client.predict(question=QUESTION, max_new_tokens=2, api_name="/generate")["results"]
