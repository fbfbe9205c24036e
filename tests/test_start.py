"""Starting the page: what it leaves undone, how many threads it takes, and how it says that it cannot start."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import browser_support
import pytest
import torch

import app
from flexdemo.model import LanguageModel
from flexdemo.threads import SMALL, suit_threads

IMPORT = """
import contextlib, inspect, sys
import app
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
getfile = inspect.getfile
with app.without_stubs() if "left" in sys.argv else contextlib.nullcontext():
    import gradio
stubs = {path for path in opened if path.endswith(".pyi") and "gradio" in path}
assert inspect.getfile is getfile and inspect.getfile(gradio.Textbox).endswith("textbox.py")
print(len(stubs), gradio.Textbox("x").value)
"""


def imported(*arguments: str) -> int:
    """How many type stubs an import of gradio opens."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *arguments], cwd=Path(app.__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    stubs, value = done.stdout.split()
    assert value == "x"
    return int(stubs)


def test_gradio_is_imported_without_its_type_stubs() -> None:
    assert imported("left") <= 1, "of Blocks, which is no component"
    assert imported() > 20, "gradio no longer reads its stubs: app.without_stubs is of no use"


@pytest.fixture
def threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_small_model_on_the_cpu_runs_on_one_thread(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert suit_threads(lm) == torch.get_num_threads() == 2, "who sets OMP_NUM_THREADS is obeyed"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert sum(each.numel() for each in lm.model.parameters()) < SMALL
    assert suit_threads(lm) == torch.get_num_threads() == 1


@pytest.mark.usefixtures("threads")
def test_a_large_model_keeps_its_threads(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    large = torch.nn.Linear(SMALL // 1000, 1000, device="meta")
    large.get_input_embeddings = lambda: torch.nn.Embedding(1, 1)
    assert suit_threads(replace(lm, model=large)) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "./no-such-folder"], "no model at ./no-such-folder"),
        (["--proxies", "-1"], "--proxies must be 0 or more, not -1"),
        (["--port", "0"], "the port must be a whole number from 1 to 65535"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    port = [] if "--port" in arguments else ["--port", str(browser_support.free_port())]
    assert app.main([*arguments, *port]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1
    assert gc.isenabled() and "GRADIO_ANALYTICS_ENABLED" in os.environ
