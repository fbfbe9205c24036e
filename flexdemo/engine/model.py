"""Load a causal LM and its tokenizer, choose device and backend, refuse by name what cannot work. Knows no prompts."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import BackendError, InputError, first_line, is_out_of_memory
from ..prompt import Segment
from . import attention
from .attention import BACKENDS, Plan, UnsupportedModelError
from .blocks import layout_of
from .cache import PromptCache, branch
from .fast.compiled import Pass, call_of, compiled_pass, join_siblings, next_scores
from .fast.graphs import Graphs
from .mixing import Hooks


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model and what a request must know about it; shared by all requests. Only its graphs change,
    and its hooks come and go with a pass."""

    name: str
    model: PreTrainedModel
    tokenizer: Any
    backend: str
    devices: tuple[torch.device, ...]
    context_length: int | None
    window: int | None  # tokens that a sliding layer sees, None without such layers
    end_ids: frozenset[int]
    turn: int | None = None  # from how many positions on LongRoPE takes its other factors, None without it
    notes: tuple[str, ...] = ()  # what a user should know of every answer
    load_seconds: float = 0.0
    shares: bool = False  # whether rows may leave what they have in common in a trunk, which attention reads itself
    captures: bool = False  # whether passes are replayed as CUDA graphs
    graphs: Graphs = field(default_factory=Graphs, compare=False)
    hooks: Hooks = field(default_factory=Hooks, compare=False)
    compiled: Pass | None = None  # the compiled forward pass; None: as transformers runs it
    processes: int = 1  # over which every layer is split; each sees its share of the heads

    @property
    def digest(self) -> str:
        """The first numbers of each weight as one short text: a folder may hold another model later.

        The first of several processes has them too, whatever its share of a weight is.
        """
        made = hashlib.sha256()
        for weight in self.model.parameters():
            if not weight.is_meta:  # or accelerate keeps it elsewhere
                local = weight.to_local() if hasattr(weight, "to_local") else weight
                first = local.detach()[:1] if local.dim() > 1 else local.detach()  # a whole matrix may be copied
                made.update(first.flatten()[:4].float().cpu().numpy().tobytes())
        return made.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """Where token ids enter the model."""
        return self.model.get_input_embeddings().weight.device

    @property
    def depth(self) -> int:
        """How many decoder layers it has."""
        return self.model.config.get_text_config().num_hidden_layers

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")


def is_old_gpu(device: torch.device) -> bool:
    """Whether a GPU is below compute capability 8.0: no fast bfloat16, no compiled FlexAttention of use."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)


def _resolve_backend(backend: str, device: torch.device, softcap: bool) -> str:
    """The backend that will run. On the CPU dense SDPA won every size measured: see `python -m flexdemo bench`."""
    if backend == "auto":
        if device.type != "cuda" or is_old_gpu(device):
            return "flex-eager" if softcap else "sdpa"
        return "flex" if importlib.util.find_spec("triton") else "flex-eager"
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}: choose from auto, {', '.join(BACKENDS)}")
    if backend == "sdpa" and softcap:
        raise BackendError("this model caps its attention scores, which backend sdpa cannot do: use flex-eager")
    return backend


NO_NUMBERS = (
    "its scores are not finite numbers: weights are damaged, or float16 is too narrow for them; "
    "try --dtype bfloat16 or float32"
)
CLASSIFIERS = ("Classification", "QuestionAnswering", "MultipleChoice", "RewardModel")  # ends of architectures' names


def refuse_unsupported(config: Any) -> None:
    """Raise UnsupportedModelError for what the configuration already shows: layers that are not plain attention."""
    text = config.get_text_config()
    heads = [name for name in getattr(config, "architectures", None) or () if name.endswith(CLASSIFIERS)]
    if heads:
        raise UnsupportedModelError(
            f"{heads[0]} classifies texts and writes none: flexdemo needs a causal language model"
        )
    if text.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{text.model_type} is an encoder-decoder model; flexdemo needs a causal language model"
        )
    odd = sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    if odd:
        raise UnsupportedModelError(
            f"{text.model_type} has layers of type {', '.join(odd)}, which no mask over tokens governs: "
            "paraphrases could not be kept apart there"
        )
    if getattr(text, "alibi", False) or getattr(text, "position_embedding_type", None) == "alibi":
        raise UnsupportedModelError(f"{text.model_type} uses ALiBi position biases, which ignore position ids")


@torch.no_grad()
def probe(model: PreTrainedModel, backend: str, devices: tuple[torch.device, ...]) -> bool:
    """Route the model's attention through ours and prove on seven tokens that it obeys, or raise UnsupportedModelError.

    What runs is what a request runs: a prompt into a cache, a suffix of one token behind it, a step. The prompt is a
    prefix and two paraphrases of two tokens that share positions; the suffix sees the second one only. Its logits, and
    the step's, must be those of prefix, paraphrase 2 and suffix alone by the model's own attention: so the model
    honours mask and positions and adds nothing of its own. Changing a hidden token must not move them, changing a
    visible one must. True if attention is given the very keys that the cache returned, not others made of them.
    """
    runs, name = BACKENDS[backend], type(model).__name__
    length = runs.padded(5)
    pieces = (("prefix", "prefix", 0, 1), ("P1", "paraphrase", 1, 3), ("P2", "paraphrase", 3, 5))
    layout = layout_of("segment", [Segment(*piece, "") for piece in pieces], pads=length - 5)
    masks = {device: runs.prompt_mask(layout.to(device)) for device in devices}
    entry = model.get_input_embeddings().weight.device
    vocabulary = model.config.get_text_config().vocab_size
    tokens = [(3 + i) % vocabulary for i in range(7)]
    own_keys: set[bool] = set()

    def ids(*row: int) -> Tensor:
        return torch.tensor([row], device=entry)

    def logits(changed: int | None) -> Tensor:
        """Of the suffix and of the step, (2, V)."""
        row = [(t + 7) % vocabulary if i == changed else t for i, t in enumerate(tokens)]
        read, places = PromptCache(), ids(0, 1, 2, 1, 2, *[0] * (length - 5))
        call = call_of(model)
        next_scores(model, ids(*row[:5], *[0] * (length - 5)), places, Plan(backend, masks), read, call)
        cache = branch([read], [(0, 0)], length=length, capacity=runs.padded(length + 2))
        bias = torch.full((1, 1, 1, cache.layers[0].get_max_length()), -torch.inf, dtype=torch.float32)
        bias[..., [0, 3, 4]] = 0
        told, returned = [], {id(layer.keys) for layer in cache.layers}

        def attend(query: Tensor, key: Tensor, *others: Any) -> Tensor:
            own_keys.add(id(key) in returned)
            return runs.attend(query, key, *others)

        for i, slot in ((5, length), (6, length + 1)):
            bias[..., slot] = 0
            cache.point(slot, slot + 1)
            plan = Plan(backend, {device: bias.to(device) for device in devices}, attend=attend)
            told.append(next_scores(model, ids(row[i]), ids(i - 2), plan, cache, call).logits[0])
        return torch.stack(told)

    said = f"{name} does not run as its configuration has it"
    try:
        model.set_attn_implementation("eager")
        own = model(input_ids=ids(tokens[0], *tokens[3:]), use_cache=False).logits[0, 3:].float()
        said = f"{name} does not pass our mask on to its attention, or not with a cache"
        model.set_attn_implementation(attention.NAME)
        base, hidden, visible = logits(None), logits(1), logits(3)
    except InputError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UnsupportedModelError(f"{said} ({first_line(error)})") from error
    if not torch.isfinite(own).all():
        raise UnsupportedModelError(f"{name}: {NO_NUMBERS}")
    if not torch.isfinite(base).all():
        raise UnsupportedModelError(f"{name} gives logits that are not finite under our mask")
    moved = (base - visible).abs().amax(dim=-1)
    if not moved.all():
        raise UnsupportedModelError(f"{name} does not see a token that the mask shows: some layer attends another way")
    if ((base - hidden).abs().amax(dim=-1) > 0.02 * moved).any():
        raise UnsupportedModelError(f"{name} lets a token see what the mask hides: some layer attends another way")
    # In half precision only a gross difference is no rounding (and routers of experts may flip on a tie).
    if ((base - own).abs().amax(dim=-1) > (0.02 if model.dtype == torch.float32 else 0.5) * moved).any():
        raise UnsupportedModelError(
            f"{name} reads a paraphrase in a packed prompt otherwise than alone: its attention is not plainly causal, "
            "or it takes positions from the tokens' order"
        )
    return own_keys == {True}


def prepare(
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    name: str,
    backend: str = "auto",
    load_seconds: float = 0.0,
    captures: bool | None = None,
    compiled: bool = False,
) -> LanguageModel:
    """Route a loaded model's attention through ours and check that it obeys; raises UnsupportedModelError otherwise.

    `captures`: replay forward passes as CUDA graphs; None where that can work. `compiled`: compile the whole forward
    pass at its first calls, which takes a minute or two; raises BackendError where that is not offered.
    """
    config = model.config
    refuse_unsupported(config)
    if not model._can_set_attn_implementation():
        raise UnsupportedModelError(f"{type(model).__name__} does not attend through transformers' AttentionInterface")
    text = config.get_text_config()
    devices = tuple(dict.fromkeys(p.device for p in model.parameters()))
    softcap = getattr(text, "attn_logit_softcapping", None) is not None
    chosen = _resolve_backend(backend, devices[0], softcap)
    attention.register()
    model.eval()
    can = can_capture(chosen, text, devices)
    if compiled:
        if not can:
            raise BackendError(
                f"{name} is not compiled as a whole: that needs one CUDA device, backend flex or sdpa and a model "
                "without experts or position-dependent rotary embeddings; leave --compile out"
            )
        join_siblings(model)
    if devices == (torch.device("cpu"),):
        _transpose_weights(model)
    own_keys = probe(model, chosen, devices)

    generation = model.generation_config
    holders = (tokenizer, config, text, generation)  # a composite configuration (Gemma-3 with vision) has none itself
    ends = [getattr(holder, "eos_token_id", None) for holder in holders]
    flat = [i for end in ends for i in (end if isinstance(end, list) else [end]) if i is not None]
    if wrong := [i for i in flat if type(i) is not int]:
        right = "a whole number or a list of them"
        raise UnsupportedModelError(f"{name}: its eos_token_id must be {right}, not {wrong[0]!r}")
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"]  # Mistral names none, and all have its window
    long = [rope for rope in _ropes(text) if rope.get("rope_type") == "longrope"]
    return LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        backend=chosen,
        devices=devices,
        context_length=getattr(text, "max_position_embeddings", None),
        window=getattr(text, "sliding_window", None) if "sliding_attention" in kinds else None,
        end_ids=frozenset(flat),
        turn=min((rope["original_max_position_embeddings"] for rope in long), default=None),
        notes=_not_applied(generation),
        load_seconds=load_seconds,
        shares=own_keys and chosen == "sdpa" and devices == (torch.device("cpu"),),
        captures=can if captures is None else captures,
        graphs=_graphs(devices[0], can=can),
        compiled=compiled_pass() if compiled else None,
    )


@torch.no_grad()
def _transpose_weights(model: PreTrainedModel) -> None:
    """Lay the weights of linear layers in memory as a CPU's products of several rows are fastest; no number changes.

    Those of a head that embeddings share are looked up row by row, and stay.
    """
    looked_up = model.get_input_embeddings().weight
    for weight in [each.weight for each in model.modules() if isinstance(each, nn.Linear)]:
        if weight is not looked_up and weight.dtype == torch.float32 and type(weight.data) is Tensor:
            weight.data = weight.data.t().contiguous().t()


def moved(lm: LanguageModel, device: str) -> LanguageModel:
    """The same model on another device; it was checked where it was."""
    lm.model.to(device)
    there = torch.device(device)
    can = can_capture(lm.backend, lm.model.config.get_text_config(), (there,))
    return replace(lm, devices=(there,), shares=False, captures=can, graphs=_graphs(there, can=can))


def _graphs(device: torch.device, *, can: bool) -> Graphs:
    """What keeps graphs on a device; it holds none where a model has none."""
    return Graphs.of(torch.cuda.get_device_properties(device).total_memory, device) if can else Graphs()


# What changes the choice of tokens in transformers' `generate`, and its value where it does not.
PROCESSORS = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0,
    "min_new_tokens": None, "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "sequence_bias": None, "guidance_scale": 1.0,
    "exponential_decay_length_penalty": None, "num_beams": 1,
}  # fmt: skip


def _not_applied(generation: Any) -> tuple[str, ...]:
    """What a model's generation_config asks for beyond its end tokens, in one line; nothing if it asks for nothing."""
    asked = {name: getattr(generation, name, None) for name in PROCESSORS}
    told = [f"{name} {value}" for name, value in asked.items() if value not in (None, PROCESSORS[name], [], {})]
    return (f"not applied, though the model's generation_config asks for it: {', '.join(told)}",) if told else ()


def _ropes(config: Any) -> list[dict[str, Any]]:
    """The settings of the rotary embeddings: one, or one for each type of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [rope, *(each for each in rope.values() if isinstance(each, dict))]


def can_capture(backend: str, config: Any, devices: tuple[torch.device, ...]) -> bool:
    """Whether a forward pass can be replayed as a CUDA graph: a backend that allows it, one GPU, nothing that depends
    on values."""
    looks_at_positions = any(rope.get("rope_type") in ("dynamic", "longrope") for rope in _ropes(config))
    routes_tokens = any(
        getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")
    )
    one_gpu = len(devices) == 1 and devices[0].type == "cuda"
    return BACKENDS[backend].captures and one_gpu and not looks_at_positions and not routes_tokens
