"""Where a model comes from: a name, its files, its weights; or in one line why not. Knows no prompts."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, StrictDataclassError
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..errors import InputError, first_line, within_memory
from .attention import BACKENDS
from .model import LanguageModel, prepare, refuse_unsupported

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


DEVICES = ("auto", "cpu", "cuda")


def resolve_device(device: str) -> str:
    """ "cpu", "cuda" or "cuda:N" for one GPU of several; raises InputError for a device that is not there."""
    kind, colon, number = device.partition(":")
    if kind not in DEVICES or (colon and not (kind == "cuda" and number.isdecimal())):
        raise InputError(f"unknown device {device!r}: choose from {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if kind == "cuda" and not available:
        raise InputError("no CUDA device is available here: use --device cpu")
    if colon and int(number) >= torch.cuda.device_count():
        raise InputError(f"there is no device {device}: the last one is cuda:{torch.cuda.device_count() - 1}")
    return ("cuda" if available else "cpu") if device == "auto" else device


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The torch dtype; "auto" is bfloat16 on a GPU and float32 on the CPU."""
    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: choose from auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load_model(
    path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    captures: bool | None = None,
    compiled: bool = False,
    processes: int = 1,
) -> LanguageModel:
    """Load a Hub id or local folder; the bundled model without one. Never runs code from the Hub.

    device "auto" is the GPU if there is one, over several through accelerate's device map, else the CPU. dtype "auto"
    is bfloat16 on a GPU and float32 on the CPU. `captures` and `compiled` are those of `prepare`. Each of several
    `processes` of one run loads its part of every layer. Raises ModelError, UnsupportedModelError or InputError.
    """
    began = time.perf_counter()
    source = str(BUNDLED if path is None else path)
    place, number = resolve_device(device), torch.cuda.device_count()
    kind = resolve_dtype(dtype, place)
    if backend != "auto" and backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}: choose from auto, {', '.join(BACKENDS)}")
    config = read_config(source)
    refuse_unsupported(config)
    device_map = "auto" if device == "auto" and place == "cuda" and number > 1 else place
    previous, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    if path is None or not sys.stderr.isatty():  # a bar is for somebody who waits at a terminal for a large model
        transformers.logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": kind, "trust_remote_code": False}
    options |= {"device_map": device_map} if processes == 1 else split_options(config, source, processes, place)
    try:
        tokenizer = read_tokenizer(source)
        with within_memory(lambda: source):
            model, told = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    except InputError:
        raise
    except DAMAGE as error:
        raise ModelError(why_not(source, error)) from error
    finally:
        transformers.logging.set_verbosity(previous)
        if bars:
            transformers.logging.enable_progress_bar()
    lacking = sorted(told["missing_keys"])
    if lacking:  # transformers would go on with random numbers in their place
        raise ModelError(
            f"cannot load the model {source!r}: its weights files lack {len(lacking)} tensors, such as {lacking[0]}; "
            "copy or download the folder again"
        )
    name = "tinyqa" if path is None else str(path)
    spent = time.perf_counter() - began
    options = {"captures": captures if processes == 1 else False, "compiled": compiled}
    lm = prepare(model, tokenizer, name=name, backend=backend, load_seconds=spent, **options)
    return lm if processes == 1 else replace(lm, processes=processes)


BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "tinyqa"
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


LAUNCH = "torchrun --standalone --nproc-per-node N -m flexdemo evaluate ... --tensor-parallel"


def check_processes(world: int) -> None:
    """InputError for a run of one process."""
    if world < 2:
        raise InputError(f"--tensor-parallel splits a model over several processes: start them with {LAUNCH}")


def split_options(config: Any, name: str, world: int, device: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a model's share of this process; InputError if it cannot be shared."""
    from transformers.distributed import DistributedConfig

    text = config.get_text_config()
    if not getattr(text, "base_model_tp_plan", None):
        raise InputError(f"{name}: transformers has no tensor-parallel plan for {text.model_type} models")
    heads = [getattr(text, part, None) for part in ("num_attention_heads", "num_key_value_heads")]
    fewest = min((count for count in heads if count), default=1)
    if any(count and count % world for count in heads):
        raise InputError(f"{name}: {world} processes cannot share {fewest} attention heads evenly: start fewer")
    if device != "cpu" and torch.cuda.device_count() < 2:
        raise InputError(f"{name} is split over GPUs, one a process, and there is one GPU here")
    if device == "cpu" and torch.cuda.is_available():
        raise InputError("a model is split over the GPUs where there are any: leave --device out")
    return {"distributed_config": DistributedConfig(tp_plan="auto", tp_size=world)}


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
BUNDLED_NAME = "bundled"  # of the bundled model, in a list of models


@dataclass(frozen=True)
class Models:
    """Loaded models by the names under which they are offered, at least one; the first is the default."""

    named: tuple[tuple[str, LanguageModel], ...]

    @property
    def default(self) -> LanguageModel:
        return self.named[0][1]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.named)

    @property
    def choices(self) -> tuple[str, ...]:
        """The names to choose from; none where there is nothing to choose."""
        return self.names if len(self.named) > 1 else ()

    def of(self, name: str | None) -> LanguageModel:
        """The model offered under a name, the default without one; InputError for any other name."""
        if not name:
            return self.default
        found = dict(self.named).get(name) if isinstance(name, str) else None  # a client of the page may send anything
        if found is None:
            raise InputError(f"there is no model {str(name)[:60]!r} here: choose from {', '.join(self.names)}")
        return found

    def let_go(self) -> None:
        """Drop what is kept on the GPU for speed alone, of all models: they share its memory."""
        for _, lm in self.named:
            lm.graphs.clear()

    def that_made(self, model: str) -> LanguageModel:
        """The model of a result that names it so; the default where none does, as for a recording."""
        return next((lm for _, lm in self.named if lm.name == model), self.default)


def offered(models: LanguageModel | Models) -> Models:
    """Models as they are; a single model under its own name."""
    return models if isinstance(models, Models) else Models(((models.name, models),))


def parse_models(text: str) -> dict[str, str | None]:
    """{name: path or Hub id, None for the bundled model} of NAME=PATH_OR_ID,...; InputError for what is none."""
    told: dict[str, str | None] = {}
    for part in text.split(","):
        name, equals, where = (each.strip() for each in part.partition("="))
        if not equals or not where or not NAME.fullmatch(name):
            raise InputError(
                f"{part.strip()[:80]!r} is no NAME=PATH_OR_ID: such as small=Qwen/Qwen3-0.6B or tiny={BUNDLED_NAME}, "
                "several with commas between; a name has letters, digits, dots, dashes"
            )
        if name in told:
            raise InputError(f"two models are called {name}: give each a name of its own")
        told[name] = None if where == BUNDLED_NAME else where
    if len(set(told.values())) < len(told):
        raise InputError("one model is offered under two names: name each model once")
    return told


def load_all(named: dict[str, str | None], load: Callable[[str | None], Any]) -> Models:
    """All of them, loaded in that order."""
    return Models(tuple((name, load(where)) for name, where in named.items()))


def weights_gigabytes(lm: LanguageModel) -> float:
    """Memory that a model's weights take, in GB; tied weights once."""
    return sum(each.numel() * each.element_size() for each in lm.model.parameters()) / 1e9
