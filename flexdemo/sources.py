"""Where a model comes from: its configuration and its tokenizer, or in one line why not. Knows no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, StrictDataclassError
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from .config import InputError, first_line

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "tinyqa"
# What transformers raises for a file that has the form of a model's and says what no model can be.
ILL_FITTING = (LookupError, TypeError, AttributeError, AssertionError, ArithmeticError)
DAMAGE = (OSError, ValueError, ImportError, RuntimeError, SafetensorError, StrictDataclassError, *ILL_FITTING)

UNHELPFUL = {  # what transformers says: what it means
    "ignore_mismatched_sizes": "its config.json does not fit its weights; copy the folder again",
    "instantiate the backend tokenizer": "it has no tokenizer, such as tokenizer.json; copy the folder again",
}


class ModelError(InputError):
    """A model that cannot be found or loaded."""


def read_config(source: str) -> Any:
    looks_local = source.startswith((".", "/", "~")) or Path(source).exists()
    if looks_local and not (Path(source) / "config.json").is_file():
        raise ModelError(
            f"no model at {source}: give a folder that holds config.json, or a Hub id such as Qwen/Qwen3-0.6B"
        )
    hub_logging.set_verbosity_error()  # what the Hub says of a failure is in the error, its retries are noise
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except DAMAGE as error:
        raise ModelError(why_not(source, error)) from error


def why_not(source: str, error: BaseException) -> str:
    """One line: what is wrong with a model that cannot be loaded, and what to do."""
    causes = [error]
    while causes[-1].__cause__ or causes[-1].__context__:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    if any(isinstance(each, GatedRepoError) for each in causes):
        return (
            f"the model {source!r} is gated: ask for access at https://huggingface.co/{source}, "
            "then run `hf auth login` or set HF_TOKEN to a token of that account"
        )
    statuses = [getattr(getattr(each, "response", None), "status_code", None) for each in causes]
    if 401 in statuses or any(isinstance(each, RepositoryNotFoundError) for each in causes):
        return (
            f"there is no public model {source!r} on the Hub: check its name; for a private one, run `hf auth login` "
            "or set HF_TOKEN"
        )
    if any(isinstance(each, SafetensorError) for each in causes):
        return (
            f"cannot load the model {source!r}: a weights file is cut off or damaged ({' '.join(str(error).split())}); "
            "copy or download the folder again"
        )
    if isinstance(error, StrictDataclassError):
        said = " ".join(str(error).split())
        return f"cannot load the model {source!r}: its config.json says what cannot be ({said}); copy the folder again"
    if isinstance(error, ILL_FITTING):
        said = f"{type(error).__name__}: {first_line(error)}"
        return f"cannot load the model {source!r}: its files do not fit together ({said}); copy the folder again"
    plain = f"{first_line(error)} (a local folder or a reachable Hub id is needed)"
    told = next((said for words, said in UNHELPFUL.items() if words in str(error)), plain)
    return f"cannot load the model {source!r}: {told}"


def load_tokenizer(path: str | Path | None = None) -> Any:
    """The tokenizer of a Hub id or local folder; the bundled model's without one. Raises ModelError."""
    source = str(BUNDLED if path is None else path)
    read_config(source)
    return read_tokenizer(source)


def read_tokenizer(source: str) -> Any:
    """The tokenizer of a model whose configuration was read; ModelError where its files are damaged."""
    damaged = f"cannot load the tokenizer of {source!r}: tokenizer.json is cut off or damaged"
    path = Path(source) / "tokenizer.json"
    if path.is_file():
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise ModelError(f"{damaged}; copy the folder again") from error
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except DAMAGE as error:
        raise ModelError(why_not(source, error)) from error
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library has no narrower class for what it cannot read
            raise
        raise ModelError(f"{damaged} ({first_line(error)}); copy the folder again") from error
