"""One forward pass to the next token's scores, plain or compiled. Knows no prompts, masks or methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch._inductor
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import linear
from transformers import PreTrainedModel

from ...errors import BackendError, first_line
from ..attention import Plan
from ..blocks import BLOCK
from .compiler import ALONE, COMPILER_ERRORS, mark_ape, mark_mask, mark_sizes, suit_dynamo


class Scores(NamedTuple):
    """Of the token that comes next: logits (rows, V) in fp32; of each row the likeliest, its log-probability, the lse.

    lse is the logits' log-sum-exp.
    """

    logits: Tensor
    best: Tensor
    logprob: Tensor
    lse: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Scores:
        lse = logits.logsumexp(dim=-1)
        return cls(logits, logits.argmax(dim=-1), logits.amax(dim=-1) - lse, lse)

    def select(self, rows: Tensor) -> Scores:
        return Scores(*(each[rows] for each in self))


class Call(NamedTuple):
    """How a model is called: its name for the KV cache, and what makes it tell the last token's logits only.

    `past_key_values` is called `cache` in newer classes of transformers, which warn of the old name.
    """

    cache: str
    keep: Mapping[str, int | Tensor]


@functools.cache
def _parameters(kind: type[PreTrainedModel]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def call_of(model: PreTrainedModel) -> Call:
    parameters = _parameters(type(model))
    name = "cache" if "cache" in parameters else "past_key_values"
    if "logits_to_keep" not in parameters:
        return Call(name, {})
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        # For a number it would cut the queries of its last layers, which share keys, and not our mask; not for a place.
        return Call(name, {"logits_to_keep": torch.full((1,), -1, device=model.get_output_embeddings().weight.device)})
    return Call(name, {"logits_to_keep": 1})


# Kernels of a step are tuned by trial, and each is launched while the one before it ends (on Hopper and later).
STEP = {"coordinate_descent_tuning": True, "triton.enable_pdl": True}
PRODUCT = {**STEP, "coordinate_descent_check_all_directions": True}
Pass = Callable[[PreTrainedModel, Tensor, Tensor, Plan, Any, Call], Scores]


def next_scores(model: PreTrainedModel, ids: Tensor, positions: Tensor, plan: Plan, cache: Any, call: Call) -> Scores:
    """What follows the last of ids (rows, T); fills the cache.

    ids and positions may come as (rows, blocks, BLOCK): their length is then known to be a multiple of BLOCK.
    """
    ids, positions = ids.flatten(1), positions.flatten(1)
    given = {call.cache: cache, **call.keep}
    out = model(input_ids=ids, position_ids=positions, use_cache=True, segment_plan=plan, **given)
    return Scores.of(out.logits[:, -1].float())  # (rows, T or 1, V) -> (rows, V)


def compiled_pass(backend: str = "inductor") -> Pass:
    """`next_scores` compiled as one graph at its first calls, for each kind of pass once and then for all lengths.

    Kinds are: a prompt, a suffix and an answer token, each of one row or of several. Raises BackendError where it
    cannot be compiled; nothing runs uncompiled in its place.
    """
    common: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}  # loaded for good

    def make(**options: Any) -> Pass:
        chosen = {**common, **options} if backend == "inductor" else dict(common)
        # Code of its own: graphs are kept with the code, and without guards one model would run another one's.
        own = FunctionType(next_scores.__code__.replace(), next_scores.__globals__, next_scores.__name__)
        return torch.compile(own, fullgraph=True, backend=backend, options=chosen)

    # A step's kernels are small and run for every token: those that can are launched as one. torch 2.11 cannot join
    # kernels that sum over a size that differs, as a recorder's do over the keys.
    run, run_step, run_recorded_step = make(), make(**STEP, combo_kernels=True), make(**STEP)

    def compiled(model: PreTrainedModel, ids: Tensor, positions: Tensor, plan: Plan, cache: Any, call: Call) -> Scores:
        suit_dynamo()
        mask = next(iter(plan.masks.values()))
        if isinstance(mask, BlockMask):  # whose kernel is faster where no block is cut off
            ids, positions = (each.unflatten(1, (-1, BLOCK)) for each in (ids, positions))
        for tensor in (ids, positions):
            mark_sizes(tensor, 0, 1)
        for layer in cache.layers:
            mark_sizes(layer.keys, 0, 2)
            mark_sizes(layer.values, 0, 2)
        for mask in plan.masks.values():
            mark_mask(mask)
        for ape in (plan.ape or {}).values():
            mark_ape(ape)
        for mixing in (plan.mixing or {}).values():
            mark_sizes(mixing.shares, 0, 1)
            mark_sizes(mixing.starts, 0)
        for group in getattr(plan.recorder, "groups", {}).values():
            mark_sizes(group, 0, 1, 2)
        step = run_step if plan.recorder is None else run_recorded_step
        try:
            with ALONE:  # it may compile
                return (step if ids.shape[1:] == (1,) else run)(model, ids, positions, plan, cache, call)
        except COMPILER_ERRORS as error:
            reason = first_line(error)
            raise BackendError(
                f"the forward pass of {type(model).__name__} cannot be compiled ({reason}): leave --compile out"
            ) from error

    return compiled


SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


_kernels: dict[tuple[Any, ...], Callable[..., Tensor]] = {}


def _tuned(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One row (1, K) times weight (N, K), by a kernel tuned for that shape at its first call.

    Not through torch.compile: its guards tell a tensor of a graph's first run from one of the second, and what is
    compiled anew in the second spoils the capture of a CUDA graph.
    """
    inputs = [x, weight] if bias is None else [x, weight, bias]
    kind = (weight.shape, weight.dtype, weight.device, bias is None)
    if kind not in _kernels:
        _kernels[kind] = torch._inductor.compile(make_fx(linear)(*inputs), inputs, options=PRODUCT)
    return _kernels[kind](*inputs)


@torch.library.custom_op("flexdemo::product", mutates_args=())
def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., K) times weight (N, K), as `linear` does; opaque to the compiler of a step."""
    if x.is_cuda and x.numel() == x.shape[-1]:
        return _tuned(x.reshape(1, -1), weight, bias).reshape(*x.shape[:-1], -1)
    return linear(x, weight, bias)


@product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return product(x, weight, bias) if torch.compiler.is_compiling() else linear(x, weight, bias)


class Lone(nn.Linear):
    """A linear layer by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return _apply(x, self.weight, self.bias)


class Group:
    """Layers that read the same input: their weights in one tensor, of which each layer's own is a part."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.sizes = [layer.out_features for layer in layers]
        self.weight = torch.cat([layer.weight.detach() for layer in layers])
        biases = [layer.bias for layer in layers]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        for layer, part in zip(layers, self.weight.split(self.sizes), strict=True):
            layer.weight = nn.Parameter(part, requires_grad=False)
        if self.bias is not None:
            for layer, part in zip(layers, self.bias.split(self.sizes), strict=True):
                layer.bias = nn.Parameter(part, requires_grad=False)
        self.held: tuple[Tensor, Sequence[Tensor]] | None = None


class Sibling(nn.Linear):
    """One layer of a Group: the first computes for all, the others take their part of what it computed."""

    group: Group
    place: int

    def forward(self, x: Tensor) -> Tensor:
        group = self.group
        if self.place == 0:
            parts = _apply(x, group.weight, group.bias).split(group.sizes, dim=-1)
            group.held = (x, parts)
            return parts[0]
        held = group.held
        if held is None or held[0] is not x:  # called alone, or another thread's pass came between
            return _apply(x, self.weight, self.bias)
        if self.place == len(group.sizes) - 1:
            group.held = None
        return held[1][self.place]


def join_siblings(model: nn.Module) -> int:
    """Let sibling linear layers of a model compute as one, with the same weights and no more memory; how many joined.

    Every other linear layer becomes one that a compiled step tunes. Layers of any other class are left alone.
    """
    joined = 0
    for parent in list(model.modules()):
        for names in SIBLINGS:
            layers = [getattr(parent, name, None) for name in names]
            if all(type(layer) is nn.Linear for layer in layers) and len({_kind(layer) for layer in layers}) == 1:
                group = Group(layers)
                for place, layer in enumerate(layers):
                    layer.__class__, layer.group, layer.place = Sibling, group, place
                joined += len(layers)
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Lone
    return joined


def part_siblings(model: nn.Module) -> None:
    """Undo `join_siblings` on a copy of a joined model: plain linear layers with the same weights."""
    for module in model.modules():
        if isinstance(module, Sibling | Lone):
            module.__class__ = nn.Linear
            module.__dict__.pop("group", None)


def _kind(layer: nn.Linear) -> tuple:
    return layer.in_features, layer.bias is None, layer.weight.dtype, layer.weight.device
