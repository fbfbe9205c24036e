"""Starting the page: how many threads it takes, and how it says that it cannot start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import browser_support
import pytest
import torch

import app
from flexdemo.answers.ask import ask
from flexdemo.engine import reading, threads, tuning
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.serve.host import resolve_address


@pytest.fixture(name="threads")
def four_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    threads.forget_threads()
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 0.010, 2: 0.008, 4: 0.008}, 2),  # the fewest of those that are as fast
        ({1: 0.010, 2: 0.0095, 4: 0.02}, 1),
        ({1: 0.200, 2: 0.120, 4: 0.060}, 4),
        ({1: 0.4, 2: 0.4, 4: 0.4}, 4),  # a large model is not tried any further
    ],
)
def test_as_many_threads_as_serve_a_model(
    lm: LanguageModel, seconds: dict[int, float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(tuning, "_pass_seconds", lambda _, tokens, count: seconds[count] if tokens < 32 else 1.0)
    assert tuning.suit_threads(lm) == (best, 4)
    assert torch.get_num_threads() == best


@pytest.mark.usefixtures("threads")
def test_threads_are_tried_unless_their_number_is_set(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert tuning.suit_threads(lm) == (4, 4), "who sets OMP_NUM_THREADS is obeyed"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert {*tuning.suit_threads(lm)} <= {1, 2, 4}


@pytest.mark.usefixtures("threads")
def test_a_prompt_is_read_by_more_threads_than_a_step_takes(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    threads.set_threads(1, 4)
    taken, real = [], reading.next_scores

    def noted(model: Any, ids: torch.Tensor, *given: Any) -> Any:
        taken.append((ids.numel() >= threads.MANY, torch.get_num_threads()))
        return real(model, ids, *given)

    monkeypatch.setattr(reading, "next_scores", noted)
    ask(lm, "What is the capital of Peru, which lies between the Andes and the sea?" * 2, max_new_tokens=3)
    assert {*taken} == {(True, 4), (False, 1)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "./no-such-folder"], "no model at ./no-such-folder"),
        (["--port", "0"], "the port must be a whole number from 1 to 65535"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    port = [] if "--port" in arguments else ["--port", str(browser_support.free_port())]
    assert app.main([*arguments, *port]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1
    assert "GRADIO_ANALYTICS_ENABLED" in os.environ


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on 127.0.0.1:{port} .*: choose another with --port"):
            resolve_address(None, port)


def test_a_port_taken_while_the_model_was_loaded_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(app, "resolve_address", lambda *_: ("127.0.0.1", port))
        assert app.main([]) == 2
    assert (
        capsys.readouterr().err
        == f"error: cannot listen on 127.0.0.1:{port} any more: choose another port with --port\n"
    )


def test_mcp_and_an_account_do_not_go_together(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("mcp")
    assert app.main(["--mcp", "--auth", "a:b", "--port", str(browser_support.free_port())]) == 2
    assert capsys.readouterr().err.startswith("error: --mcp is not for a page with an account")


def test_threads_that_wait_give_way_to_other_programs() -> None:
    """torch reads it when it is imported: later is too late."""
    told = "import os, sys, {}; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for module in ("app", "flexdemo.__main__"):
        command = [sys.executable, "-c", told.format(module)]
        done = subprocess.run(command, cwd=app.ROOT, env=environment, capture_output=True, text=True)
        assert done.stdout == "1000 False\n", done.stderr
