"""Linear layers for a compiled decode step: siblings as one product, one row tuned. Knows modules, no prompts.

One row is read at the speed of memory, so few large products win over many small ones, and the kernel matters: each
shape of matrix gets one that Inductor tunes by itself, instead of one woven into whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._inductor
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import linear

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
TUNED = {"coordinate_descent_tuning": True, "coordinate_descent_check_all_directions": True}


_kernels: dict[tuple[Any, ...], Callable[..., Tensor]] = {}


def _tuned(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One row (1, K) times weight (N, K), by a kernel tuned for that shape at its first call.

    Not through torch.compile: its guards tell a tensor of a graph's first run from one of the second, and what is
    compiled anew in the second spoils the capture of a CUDA graph.
    """
    inputs = [x, weight] if bias is None else [x, weight, bias]
    kind = (weight.shape, weight.dtype, weight.device, bias is None)
    if kind not in _kernels:
        _kernels[kind] = torch._inductor.compile(make_fx(linear)(*inputs), inputs, options=TUNED)
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


def _kind(layer: nn.Linear) -> tuple:
    return layer.in_features, layer.bias is None, layer.weight.dtype, layer.weight.device
