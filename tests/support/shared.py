"""Fixtures shared by the tests, a plugin of pytest: tiny models, made once a session."""

from __future__ import annotations

import os

# Threads that wait must not spin: on a machine with other work they would keep it from those that have some.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is imported

# ruff: noqa: E402
import functools
import gc
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

gc.disable()  # until all is imported and collected: none of it is garbage

import families
import models
import torch
import transformers
from browser_visit import PAGES, bundled_url, chromium, slow_folder, slow_url, visit, visitors  # noqa: F401 (fixtures)

from flexdemo.engine.loading import load_model
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.serve.host import import_gradio

if importlib.util.find_spec("gradio"):  # a machine lent for its GPU has no page, and runs the tests that need none
    import_gradio()
    from hosting import client, local, space, space_client  # noqa: F401 (fixtures)

QUESTION = "What is the capital of Peru?"
PARAPHRASES = ("Name it.", "Which city is Peru's capital?")


def pytest_collection_finish() -> None:
    """What is imported stays: the collector, which a fault's handling calls, would look through all of it each time."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """No event loop of Chromium is left for tests without one."""
    if item.get_closest_marker("browser") is None:
        PAGES.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model and its tokenizer in a folder, as a user has them."""
    return models.saved_in(tmp_path_factory.mktemp("models") / "tiny llama")


@pytest.fixture(autouse=True, scope="session")
def quiet_and_small() -> None:
    """Tiny models are fastest on one thread, and transformers' advice is not the tests' output."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return models.tokenizer()


@pytest.fixture(scope="session")
def plain_model() -> Callable[..., Any]:
    """plain_model(kind, **changes): the model as transformers runs it, eager attention, never touched by flexdemo."""
    return functools.cache(lambda kind="llama", **changes: models.random_model(kind, **changes))


@pytest.fixture(scope="session")
def prepared() -> Callable[..., LanguageModel]:
    """prepared(kind, backend, chat=, **changes): a second copy of the same weights, prepared by flexdemo."""

    @functools.cache
    def make(kind: str = "llama", backend: str = "auto", *, chat: bool = False, **changes: Any) -> LanguageModel:
        return prepare(models.random_model(kind, **changes), models.tokenizer(chat=chat), name=kind, backend=backend)

    return make


@pytest.fixture(scope="session")
def thinker() -> LanguageModel:
    """A model whose chat template begins its reasoning; with random weights it never ends that."""
    tokenizer = families.FAMILIES["gpt2"]()
    tokenizer.chat_template = families.MARKED.replace("<|assistant|>\n", "<|assistant|>\n<think>\n")
    return prepare(models.random_model("llama", vocab_size=len(tokenizer)), tokenizer, name="thinks", backend="sdpa")


@pytest.fixture(scope="session")
def lm(prepared: Callable[..., LanguageModel]) -> LanguageModel:
    """A Llama on backend sdpa: the fast one, for all tests that are not about a backend."""
    return prepared("llama", "sdpa")


@pytest.fixture(scope="session")
def bundled() -> LanguageModel:
    """The model that ships, as a newcomer has it."""
    return load_model(device="cpu")


@pytest.fixture(scope="session")
def plain(plain_model: Callable[..., Any]) -> Any:
    """The plain copy of `lm`'s weights."""
    return plain_model("llama")


@pytest.fixture(scope="session")
def compiler() -> str:
    """The C++ compiler that compiled FlexAttention needs on the CPU; skips without one."""
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler: compiled FlexAttention cannot run on the CPU")
    return found
