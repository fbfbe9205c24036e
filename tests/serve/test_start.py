"""Starting the page: what it leaves undone, how many threads it takes, and how it says that it cannot start."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import browser_support
import pytest
import torch

import app
from flexdemo.engine.model import SMALL, LanguageModel, suit_threads

IMPORT = """
import contextlib, importlib.util, inspect, sys
from flexdemo import imports
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
getfile = inspect.getfile
with imports.light_gradio(mcp="mcp" in sys.argv) if "lightly" in sys.argv else contextlib.nullcontext():
    import gradio
stubs = {path for path in opened if path.endswith(".pyi") and "gradio" in path}
assert inspect.getfile is getfile and inspect.getfile(gradio.Textbox).endswith("textbox.py")
assert sys.modules.get("mcp", 0) is not None, "the package mcp is no longer to be had"
print(len(stubs), "mcp" in sys.modules, gradio.Textbox("x").value)
"""
LIST = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
if "lightly" in sys.argv:
    from flexdemo import imports
    imports.import_transformers()
import transformers
from transformers.models.llama import LlamaForCausalLM
models = transformers.models
reads = [path for path in opened if path.endswith("modeling_bert.py")]
print(len(reads), sorted(models.__all__), sorted(map(repr, models._class_to_module.items())))
"""


def told(program: str, *arguments: str) -> str:
    """What a program says that runs in an interpreter of its own, from the repository's root."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=Path(app.__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(*arguments: str) -> tuple[int, bool]:
    """How many type stubs an import of gradio opens, and whether it imports mcp."""
    stubs, mcp, value = told(IMPORT, *arguments).split()
    assert value == "x"
    return int(stubs), mcp == "True"


def test_gradio_is_imported_without_its_type_stubs_and_without_mcp() -> None:
    stubs, mcp = imported("lightly")
    assert stubs <= 1, "of Blocks, which is no component"
    assert not mcp
    stubs, mcp = imported()
    assert stubs > 20, "gradio no longer reads its stubs: imports.without_stubs is of no use"
    if importlib.util.find_spec("mcp") is not None:
        assert mcp, "gradio no longer imports mcp by itself: imports.without is of no use"
        assert imported("lightly", "mcp")[1]


def test_sources_of_transformers_are_read_once_and_list_the_same_models() -> None:
    (once, listed), (twice, plainly) = (told(LIST, *how).split(" ", 1) for how in (["lightly"], []))
    assert listed == plainly and "LlamaForCausalLM" in listed
    assert (int(once), int(twice)) == (1, 2), "transformers reads them once by itself: import_transformers is of no use"


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
