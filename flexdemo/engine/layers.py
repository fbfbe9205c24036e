"""A model's decoder layers one by one: what each makes of a token, and what the model would say there.

The model is never changed: a shallow copy of it, with the same weights, has other layers. Knows no prompts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .attention import UnsupportedModelError


def _path(model: PreTrainedModel) -> list[str]:
    """Names of the modules that lead from a model to the list of its decoder layers."""
    decoder, count = model.get_decoder(), model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if module is decoder:
            for child, held in decoder.named_children():
                if isinstance(held, nn.ModuleList) and len(held) == count:
                    return [*filter(None, name.split(".")), child]
    raise UnsupportedModelError(f"{type(model).__name__} does not say which its layers are: they are not told apart")


def _layers(model: PreTrainedModel) -> Sequence[nn.Module]:
    return model.get_submodule(".".join(_path(model)))  # type: ignore[return-value]


def _with_layers(model: PreTrainedModel, layers: Sequence[nn.Module]) -> PreTrainedModel:
    """A copy that shares all but its layers."""
    top = holder = _copied(model)
    *names, last = _path(model)
    for name in names:
        inside = holder._modules[name] = _copied(holder._modules[name])
        holder = inside
    holder._modules[last] = nn.ModuleList(layers)
    return top


def _copied(module: nn.Module) -> nn.Module:
    made = copy.copy(module)
    made._modules = dict(module._modules)
    made.__dict__.pop("forward", None)  # one that accelerate has put there runs the original
    return made


def _instead(layer: nn.Module, forward: Callable) -> nn.Module:
    """A layer with every attribute of another and a forward of its own."""
    made = _copied(layer)
    made.forward = forward
    return made


def watched(model: PreTrainedModel, tell: Callable[[Tensor], None]) -> PreTrainedModel:
    """The model, which tells what each layer makes of the last token of each row, (rows, width), layer by layer."""

    def watch(layer: nn.Module) -> nn.Module:
        def forward(*args: object, **options: object) -> object:
            out = layer.forward(*args, **options)
            tell((out[0] if isinstance(out, tuple) else out)[:, -1])
            return out

        return _instead(layer, forward)

    return _with_layers(model, [watch(layer) for layer in _layers(model)])


def said_from(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """What the model would say of states (rows, width), were they its last layer's: logits (rows, V) in fp32.

    That is the logit lens: the model's own final norm, head, scaling and capping, applied once.
    """
    last = _layers(model)[-1]

    @torch.no_grad()
    def said(states: Tensor) -> Tensor:
        made = states[:, None]
        lens = _with_layers(model, [_instead(last, lambda *args, **options: made)])
        ids = torch.zeros(len(states), 1, dtype=torch.long, device=model.get_input_embeddings().weight.device)
        return lens(input_ids=ids, use_cache=False).logits[:, -1].float()

    return said
