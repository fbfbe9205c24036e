"""Faults while the page is served: the visitor gets one line, the log the place, the next request an answer."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Iterator
from threading import Event
from typing import Any

import gradio as gr
import models
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from hosting import QUESTION, Served, Slow, served, until

import flexdemo
from flexdemo.answers.explain import NEEDED, explain
from flexdemo.answers.result import Result
from flexdemo.cli import commands
from flexdemo.cli import main as cli
from flexdemo.engine.loading import Models, offered
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.engine.reading import Reading
from flexdemo.errors import InputError, OutOfMemory, within_memory
from flexdemo.page import run as ui_work
from flexdemo.page.state import PageState
from flexdemo.request import Limits
from flexdemo.serve.guard import Guard
from flexdemo.serve.internals import running
from flexdemo.serve.log import Interrupted, Ledger

ROWS = Limits().paraphrases
SECRET = "xyzzy-plugh"


@pytest.fixture(scope="module")
def own_lm() -> LanguageModel:
    """A model that only this file breaks; without end tokens, so that answers are as long as they may be."""
    return prepare(models.random_model("llama"), models.tokenizer(), name="own", backend="sdpa")


@pytest.fixture
def slow(own_lm: LanguageModel) -> Iterator[Slow]:
    slow = Slow(own_lm)
    yield slow
    slow.remove()


@pytest.fixture(scope="module")
def page(own_lm: LanguageModel) -> Iterator[Served]:
    with served(own_lm) as page:
        yield page


def ask(client: Client, **options: Any) -> list[int]:
    options = {"question": QUESTION, "paraphrases": ["Name it."], "max_new_tokens": 6, **options}
    return client.predict(**options, api_name="/generate")["results"][0]["token_ids"]


STATE = PageState(question=QUESTION, paraphrases=("Name it.",), max_new_tokens=8)


def page_run(page: Served, **changes: Any) -> list[Any]:
    """Values of the page's Run as a browser sends them, with some of them changed by element id."""
    return page.data(page.index("run"), **changes)


def stop(page: Served, session: str) -> None:
    """What the Stop button does: it ends the session's run."""
    (event,) = [each for each in running(page.demo) if each.session_hash == session]
    body = {"session_hash": session, "fn_index": page.index("run"), "event_id": event._id}
    assert page.post("cancel", body).status_code == 200


# Out of memory


def test_a_request_that_does_not_fit_says_what_would_and_the_next_one_works(
    client: Client, page: Served, slow: Slow
) -> None:
    want = ask(client)
    slow.break_at(3, lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"))
    with pytest.raises(AppError, match=r"does not fit in memory \(2 wordings, \d+ tokens, 1 methods\): use fewer"):
        ask(client)
    assert ask(client) == want
    assert any(each.get("out_of_memory") for each in page.told)


def test_memory_that_a_failed_request_held_is_given_back(own_lm: LanguageModel, slow: Slow) -> None:
    """The KV cache that the page keeps for a visitor goes too: a torch tensor of its own must be collected."""
    reading, held = Reading(), []
    list(ui_work.answers(offered(own_lm), Limits(), STATE, reading))
    assert reading.prefill is not None
    tensor = next(iter(reading.prefill.caches.values()))
    held.append(weakref.ref(tensor))
    del tensor
    slow.break_at(2, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    *_, last = ui_work.answers(offered(own_lm), Limits(), STATE, reading)
    assert "Not run" in last["status"] and "does not fit in memory (2 wordings" in last["message"]
    assert reading.prefill is None and held[0]() is None


def test_the_graphs_of_every_model_make_room(
    own_lm: LanguageModel, lm: LanguageModel, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the GPU's memory: those of a model that did not run hold as much as those of the one that did."""
    cleared: list[str] = []
    for name, each in (("own", own_lm), ("other", lm)):
        monkeypatch.setattr(each.graphs, "clear", lambda name=name: cleared.append(name))
    slow.break_at(2, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    list(ui_work.answers(Models((("other", lm), ("own", own_lm))), Limits(), STATE.but(model="own")))
    assert sorted(cleared) == ["other", "own"]


def test_what_the_failed_frames_held_is_let_go() -> None:
    held = []

    def work() -> None:
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory) as raised, within_memory():
        work()
    assert held[0]() is None, f"still held by {raised.value!r}"


def test_any_handler_that_runs_out_of_memory_says_what_would_fit() -> None:
    lines: list[str] = []
    with gr.Blocks() as demo:
        pass

    def full() -> None:
        raise MemoryError("Unable to allocate 8.00 GiB")

    with pytest.raises(gr.Error, match="this request does not fit in memory: use fewer"):
        Guard(Ledger(log=lines.append), Event()).wrap(full, "picture", demo=demo)()
    told = json.loads(lines[0])
    assert (told["outcome"], told["out_of_memory"]) == ("refused", True) and "traceback" not in told


def test_what_the_lender_of_gpus_says_reaches_the_visitor() -> None:
    lines: list[str] = []
    with gr.Blocks() as demo:
        pass

    def refused() -> None:
        raise gr.Error("You have exceeded your GPU quota", print_exception=True)

    with pytest.raises(gr.Error, match="exceeded your GPU quota") as caught:
        Guard(Ledger(log=lines.append), Event()).wrap(refused, "run", demo=demo)()
    assert not caught.value.print_exception
    assert json.loads(lines[0])["outcome"] == "refused" and "quota" not in lines[0]


def test_other_errors_are_no_memory_errors() -> None:
    with pytest.raises(RuntimeError, match="shape"), within_memory():
        raise RuntimeError("shape mismatch")


def test_the_command_line_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def full(args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(commands, "run_generate", full)
    assert cli.main(["generate", QUESTION]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this request does not fit in memory: use fewer methods") and said.count("\n") == 1


# Anything else


@pytest.mark.parametrize("endpoint", ["generate", "page"])
def test_an_unexpected_error_is_one_line_with_an_id_that_is_in_the_log(
    client: Client, page: Served, slow: Slow, endpoint: str, capfd: pytest.CaptureFixture
) -> None:
    want = ask(client)
    slow.break_at(3, lambda: ZeroDivisionError(f"at {SECRET}"))
    if endpoint == "generate":
        with pytest.raises(AppError) as raised:
            ask(client, question=f"{QUESTION} {SECRET}")
        said = str(raised.value)
    else:
        page.join(page.index("run"), page_run(page), "unexpected")
        messages = page.listen("unexpected").read().decode()
        said = next(json.loads(line[6:]) for line in messages.splitlines() if '"process_completed"' in line)
        said = said["output"]["error"]
    found = re.fullmatch(r"something went wrong on the server; .* Its log has the details under ([0-9a-f]{12})", said)
    assert found, said
    (line,) = [each for each in page.told if each.get("id") == found[1]]
    assert line["outcome"] == "error" and line["error"] == "ZeroDivisionError"
    assert any("hosting.py" in each for each in line["traceback"]), "the log does not say where it happened"
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err and SECRET not in out + err + "".join(page.lines)
    assert ask(client) == want


def test_an_error_in_a_redraw_is_told_and_logged_too(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from flexdemo.page import events

    def broken(*_: Any, **__: Any) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr(events, "draw", broken)
    page.join(page.index("redraw"), page.data(page.index("redraw")), "redraw")
    answer = page.listen("redraw").read().decode()
    assert "something went wrong on the server" in answer and SECRET not in answer
    assert any(each["endpoint"] == "redraw" and each["error"] == "KeyError" for each in page.told)


# Clients that leave


def leave_while(page: Served, slow: Slow, name: str, data: list[Any], session: str) -> tuple[int, int, dict]:
    """Forward passes when the server knew that the client was gone, passes in the end, and the request's line."""
    already, passes = len(page.lines), slow.passes
    page.join(page.index(name), data, session)
    stream = page.listen(session)
    until(lambda: slow.passes > passes + 6)
    (event,) = page.demo._queue.event_ids_to_events.values()
    stream.close()
    until(lambda: not event.alive)
    known = slow.passes
    line = json.loads(until(lambda: page.lines[already:])[0])
    return known - passes, slow.passes - passes, line


def test_work_for_an_endpoint_stops_within_one_token_when_the_client_is_gone(page: Served, slow: Slow) -> None:
    slow.seconds = 0.02
    data = [QUESTION, ["Name it."], ["flex"], "segment", "aligned", None, "", 200, 0.0, 1.0, 0, 8, 0.7, 1.0, 1.0]
    data += ["auto", 0, False, None]
    known, end, line = leave_while(page, slow, "generate", data, "leaver")
    assert (line["endpoint"], line["outcome"]) == ("generate", "gone")
    assert end <= known + 1 < 100


def test_paraphrases_are_not_written_for_a_client_that_is_gone(page: Served, slow: Slow) -> None:
    slow.seconds = 0.02
    known, end, line = leave_while(page, slow, "paraphrase", ["word " * 60, 8, 0, 2.0, None], "writer")
    assert (line["endpoint"], line["outcome"]) == ("paraphrase", "gone")
    assert end <= known + 1 < 60


def test_an_answer_is_not_explained_for_a_client_that_is_gone(own_lm: LanguageModel, slow: Slow) -> None:
    result = flexdemo.ask(own_lm, QUESTION, ["Name it."], methods=NEEDED, candidates=1)
    assert len(result["flex"].token_ids) > 1
    before = slow.passes

    def gone() -> None:
        raise Interrupted("nobody waits")

    with pytest.raises(Interrupted):
        explain(own_lm, result, check=gone)
    assert slow.passes - before <= 2, "the prompt and its suffix"


def test_work_for_the_page_stops_within_one_token_when_the_tab_is_closed(page: Served, slow: Slow) -> None:
    slow.seconds = 0.02
    known, end, line = leave_while(page, slow, "run", page_run(page, max_new_tokens=200), "closed-tab")
    assert (line["endpoint"], line["outcome"]) == ("run", "gone")
    assert end <= known + 1 < 100


def test_after_they_left_the_next_client_is_served(page: Served, slow: Slow, client: Client) -> None:
    want = ask(client)
    slow.seconds = 0.02
    leave_while(page, slow, "run", page_run(page, max_new_tokens=200), "another-tab")
    assert ask(client) == want


# Two tabs of one browser: two sessions, whatever cookies they share


def test_stop_in_one_tab_leaves_the_other_alone(page: Served, slow: Slow) -> None:
    slow.seconds = 0.01
    already, passes = len(page.lines), slow.passes
    page.join(page.index("run"), page_run(page, max_new_tokens=200), "tab-1")
    page.join(page.index("run"), page_run(page, max_new_tokens=8, question="Who wrote Hamlet?"), "tab-2")
    streams = [page.listen("tab-1"), page.listen("tab-2")]
    until(lambda: slow.passes > passes + 6)
    stop(page, "tab-1")
    first, second = (stream.read().decode() for stream in streams)
    told = [(each["outcome"], each["prompt_tokens"]) for each in page.told[already:] if each["endpoint"] == "run"]
    assert [outcome for outcome, _ in told] == ["stopped", "ok"] and told[0][1] != told[1][1]
    assert "Done: " not in first and "Done: " in second
    assert '"msg":"estimation"' in second.replace(" ", ""), "the tab that waits is not told its place in the queue"


def test_input_errors_stay_as_they_are(own_lm: LanguageModel) -> None:
    with pytest.raises(InputError, match="the question is empty"), within_memory():
        flexdemo.ask(own_lm, " ")


def test_a_stopped_run_is_counted_as_stopped(page: Served, slow: Slow) -> None:
    slow.seconds = 0.02
    already, passes = len(page.lines), slow.passes
    page.join(page.index("run"), page_run(page, max_new_tokens=200), "stopper")
    stream = page.listen("stopper")
    until(lambda: slow.passes > passes + 6)
    stop(page, "stopper")
    stream.read()
    line = json.loads(until(lambda: page.lines[already:])[0])
    assert line["outcome"] == "stopped" and 0 < line["new_tokens"] < 150


def test_the_last_result_of_a_run_is_what_the_log_counts(page: Served, own_lm: LanguageModel) -> None:
    already = len(page.lines)
    page.join(page.index("run"), page_run(page, methods=["flex"], max_new_tokens=5), "counted")
    page.listen("counted").read()
    line = json.loads(until(lambda: page.lines[already:])[0])
    given = {page.name(widget): page.widgets[widget]["props"].get("value") for widget in page.widgets}
    others = [given[f"paraphrase-{i}"] for i in range(1, ROWS + 1) if given[f"paraphrase-{i}"]]
    want: Result = flexdemo.ask(own_lm, given["question"], others, max_new_tokens=5)
    assert line["methods"] == ["flex"] and line["prompt_tokens"] == len(want.prompt.token_ids)
    assert line["new_tokens"] == len(want["flex"].token_ids)
