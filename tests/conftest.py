"""Fixtures shared by the tests: tiny models, made once a session."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in app.py, before torch is imported
sys.path.insert(0, str(Path(__file__).parent))  # tests import their helpers by name
sys.path.insert(1, str(Path(__file__).parent / "support"))
sys.path.insert(2, str(Path(__file__).parent / "bench"))

import models
import torch
import transformers
from browser_visit import browser, bundled_url, pages, slow_url, visitors  # noqa: F401 (fixtures)

from flexdemo.engine.model import LanguageModel, prepare

if importlib.util.find_spec("gradio"):  # a machine lent for its GPU has no page, and runs the tests that need none
    from hosting import bundled, local, space, space_client  # noqa: F401 (fixtures)

QUESTION = "What is the capital of Peru?"
PARAPHRASES = ("Name it.", "Which city is Peru's capital?")


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
def lm(prepared: Callable[..., LanguageModel]) -> LanguageModel:
    """A Llama on backend sdpa: the fast one, for all tests that are not about a backend."""
    return prepared("llama", "sdpa")


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
