"""Where a model comes from: a name, its files, its weights; or in one line why not. Knows no prompts."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from ..errors import InputError, within_memory
from .attention import BACKENDS
from .model import LanguageModel, is_old_gpu, prepare, refuse_unsupported
from .sources import (
    BUNDLED,
    DAMAGE,
    ModelError,
    Source,
    load_tokenizer,
    locate,
    read_config,
    read_tokenizer,
    reading_once,
    why_not,
)

__all__ = ["BUNDLED", "ModelError", "load_model", "load_tokenizer"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(device: str) -> str:
    """ "cpu", "cuda", "mps", or "cuda:N" for one GPU of several; InputError for a device that is not there."""
    kind, colon, number = device.partition(":")
    if kind not in DEVICES or (colon and not (kind == "cuda" and number.isdecimal())):
        raise InputError(f"unknown device {device!r}: choose from {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if kind == "cuda" and not available:
        raise InputError("no CUDA device is available here: use --device cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("no Apple GPU is available here: use --device cpu")
    if colon and int(number) >= torch.cuda.device_count():
        raise InputError(f"there is no device {device}: the last one is cuda:{torch.cuda.device_count() - 1}")
    return ("cuda" if available else "cpu") if device == "auto" else device


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The torch dtype; "auto" is float32, on a CUDA GPU bfloat16, or float16 where that has no fast bfloat16."""
    if dtype == "auto":
        if not device.startswith("cuda"):
            return torch.float32
        return torch.float16 if is_old_gpu(torch.device(device)) else torch.bfloat16
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: choose from auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load_model(
    path: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    backend: str = "auto",
    captures: bool | None = None,
    compiled: bool = False,
    processes: int = 1,
) -> LanguageModel:
    """Load a folder, a GGUF file, a LoRA adapter, a Hub id or a package's model by name; the bundled model without one.

    Never runs code from the Hub. device "auto" is the CUDA GPU if there is one, else the CPU; a model too large for one
    GPU is laid out over several by accelerate's device map. dtype "auto" is that of `resolve_dtype`. `captures` and
    `compiled` are those of `prepare`. Each of several `processes` of one run loads its part of every layer. Raises
    ModelError, UnsupportedModelError or InputError.
    """
    began = time.perf_counter()
    source = locate(path)
    place = resolve_device(str(device))
    kind = resolve_dtype(str(dtype).removeprefix("torch."), place)
    if (backend := str(backend)) not in ("auto", *BACKENDS):
        raise InputError(f"unknown backend {backend!r}: choose from auto, {', '.join(BACKENDS)}")
    with reading_once(source), _quiet(bars=path is not None and sys.stderr.isatty()):
        model, tokenizer, told = _read(source, place, kind, device == "auto", processes)
    if any(key.startswith(("score.", "classifier.")) for key in told["unexpected_keys"]):
        raise ModelError(f"{source.name} is a classifier by its weights: flexdemo needs a causal language model")
    lacking = sorted(told["missing_keys"])
    if lacking:  # transformers would go on with random numbers in their place
        others = sorted(told["unexpected_keys"])[:1]
        hint = "; copy or download the folder again"
        if others:
            hint = f", and hold {others[0]} or its like: give weights named, and quantized, as transformers knows them"
        raise ModelError(
            f"cannot load the model {source.name!r}: its weights files lack {len(lacking)} tensors, such as "
            f"{lacking[0]}{hint}"
        )
    beyond = _beyond(told["unexpected_keys"], model.state_dict().keys())
    if beyond:
        raise ModelError(
            f"cannot load the model {source.name!r}: its config.json has fewer layers than its weights files hold, "
            f"such as {beyond}; copy or download the folder again"
        )
    spent = time.perf_counter() - began
    options = {"captures": captures if processes == 1 else False, "compiled": compiled}
    lm = prepare(model, tokenizer, name=source.name, backend=backend, load_seconds=spent, **options)
    return lm if processes == 1 else replace(lm, processes=processes)


def _read(
    source: Source, place: str, dtype: torch.dtype, spread: bool, processes: int
) -> tuple[Any, Any, dict[str, Any]]:
    """Model, tokenizer, and which weights were missing or not expected; over all GPUs if it may be spread."""
    config = read_config(source)
    refuse_unsupported(config)
    # Ours replaces the attention that a configuration names, whose package may not be here.
    options: dict[str, Any] = {"dtype": dtype, "config": config, "attn_implementation": "eager", **source.options}
    if processes > 1:
        options |= split_options(config, source, processes, place)
    if source.file and hasattr(transformers, "GgufConfig"):  # packed weights need kernels that the Hub sends
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        if processes == 1:
            several = spread and place == "cuda" and torch.cuda.device_count() > 1
            options["device_map"] = "auto" if several and not _fits_one_gpu(config, dtype) else place
        tokenizer = read_tokenizer(source)
        with within_memory(lambda: source.name), _unseen_bars(source), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")  # kept here: nearly all are of libraries to each other
            model, told = AutoModelForCausalLM.from_pretrained(source.place, output_loading_info=True, **options)
            if source.adapter:
                model = _merged(model, source, len(tokenizer), warned)
    except InputError:
        raise
    except DAMAGE as error:
        raise ModelError(why_not(source.name, error)) from error
    return model, tokenizer, told


def _fits_one_gpu(config: Any, dtype: torch.dtype) -> bool:
    """Whether a model's weights leave a fifth of the first GPU to KV caches and activations. Over several, one layer
    waits for the other, and no pass is captured."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    return weights < 0.8 * torch.cuda.mem_get_info(0)[0]


def _beyond(found: Iterable[str], known: Collection[str]) -> str:
    """The first of the weights found in files that is of a layer behind the known ones, or "": libraries would go on
    without it."""
    first = (key for key in found if key not in known and re.sub(r"\.\d+\.", ".0.", key, count=1) in known)
    return min(first, default="")


def _merged(model: Any, source: Source, tokens: int, warned: list[warnings.WarningMessage]) -> Any:
    """The model with the source's adapter in its weights; `tokens` are those of its tokenizer, `warned` what libraries
    said so far."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    rows = model.get_input_embeddings().num_embeddings
    try:
        wrapped = PeftModel.from_pretrained(model, source.adapter)
    except (RuntimeError, LookupError) as error:
        if tokens <= rows:
            raise
        raise ModelError(
            f"{source.name} is an adapter that added tokens, up to {tokens}, to a model of {rows}: merge it "
            "(resize_token_embeddings, PeftModel.from_pretrained, merge_and_unload), and give that folder"
        ) from error
    if not hasattr(wrapped, "merge_and_unload"):
        kind = f"{source.name} is a {wrapped.peft_type.value} adapter"
        raise ModelError(f"{kind}, which changes no weights and cannot be merged: give one of LoRA's kind")
    damaged = "it was made for another model, or adapter_model.safetensors is damaged"
    if any("missing adapter keys" in str(each.message) for each in warned):  # peft would go on without them
        raise ModelError(
            f"{source.name} lacks weights for layers of {source.place} that its adapter_config.json names: {damaged}"
        )
    beyond = _beyond(load_peft_weights(source.adapter, device="cpu"), get_peft_model_state_dict(wrapped).keys())
    if beyond:
        raise ModelError(f"{source.name} has weights for layers that {source.place} lacks, such as {beyond}: {damaged}")
    return wrapped.merge_and_unload()


@contextlib.contextmanager
def _quiet(*, bars: bool) -> Iterator[None]:
    """transformers says errors only, and draws no bars unless somebody waits at a terminal for a large model."""
    level, drawn = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    if not bars:
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if drawn:
            transformers.logging.enable_progress_bar()


def _unseen_bars(source: Source) -> contextlib.AbstractContextManager[Any]:
    """Where nobody waits at a terminal, no bar of the GGUF reader, which does not ask transformers for its settings."""
    hides = source.file and not sys.stderr.isatty()
    return contextlib.redirect_stderr(io.StringIO()) if hides else contextlib.nullcontext()


def split_options(config: Any, source: Source, world: int, device: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a model's share of this process; InputError if it cannot be shared."""
    from transformers.distributed import DistributedConfig

    text, name = config.get_text_config(), source.name
    if source.file or source.adapter:
        raise InputError(f"{name}: a GGUF file or an adapter is not split over processes: save it as a whole folder")
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


def without_paths(models: Models) -> Models:
    """The same models, one from a folder or a file under the last part of its path: what visitors read tells no path.

    Of several that would be called alike, the bundled one among them, each later one has a number behind its name.
    """
    paths = {lm.name: Path(lm.name).expanduser() for _, lm in models.named if lm.name != BUNDLED.name}
    paths = {name: path.absolute() for name, path in paths.items() if path.exists()}
    taken = {BUNDLED.name, *(lm.name for _, lm in models.named if lm.name not in paths)}
    named = []
    for name, lm in models.named:
        if lm.name in paths:
            last = os.path.basename(os.path.normpath(paths[lm.name]))
            numbered = itertools.chain([last], (f"{last} ({i})" for i in itertools.count(2)))
            told = next(each for each in numbered if each not in taken)
            taken.add(told)
            name, lm = (told if name == lm.name else name), replace(lm, name=told)
        named.append((name, lm))
    return Models(tuple(named))


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


def weights_gigabytes(lm: LanguageModel) -> float:
    """Memory that a model's weights take, in GB; tied weights once."""
    return sum(each.numel() * each.element_size() for each in lm.model.parameters()) / 1e9
