"""A given answer fed to rows over one prompt, and a model's layers one by one: what each makes of a token.

The model is never changed: a shallow copy of it, with the same weights, has other layers. Knows no methods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from ..plan import View
from ..prompt import SegmentedPrompt
from .attention import Plan, UnsupportedModelError, attend_written_out
from .cache import share, upload
from .flex import Attend
from .mixing import decoder_layers
from .model import LanguageModel
from .reading import Prefill, check_recorded, on_devices
from .recorders import ApeRows
from .slots import Felt, arrange, row_biases

ROUNDING = {torch.float32: 1e-3}  # of the largest logit; of other dtypes LESS_EXACT
LESS_EXACT = 0.05
Made = TypeVar("Made")


def _path(model: PreTrainedModel) -> list[str]:
    """Names of the modules that lead from a model to the list of its decoder layers."""
    layers = decoder_layers(model)
    return next(name for name, module in model.named_modules() if module is layers).split(".")


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


def _hidden(out: object) -> Tensor:
    """The hidden states in what a layer returns."""
    return out[0] if isinstance(out, tuple) else out


def watched(model: PreTrainedModel, tell: Callable[[Tensor], None]) -> PreTrainedModel:
    """The model, which tells what each layer makes of the last token of each row, (rows, width), layer by layer."""

    def watch(layer: nn.Module) -> nn.Module:
        def forward(*args: object, **options: object) -> object:
            out = layer.forward(*args, **options)
            if _hidden(out).dim() != 3:
                raise UnsupportedModelError(f"{type(layer).__name__} does not hand on one hidden state for each token")
            tell(_hidden(out)[:, -1])
            return out

        return _instead(layer, forward)

    return _with_layers(model, [watch(layer) for layer in decoder_layers(model)])


def branching(model: PreTrainedModel, starts: Sequence[int], tell: Callable[[Tensor], None]) -> PreTrainedModel:
    """The model, in which a copy of the first row joins it before each of these layers, counted from 0 and in order, so
    that what rows have in common is computed once; it tells what the last layer makes of all, (rows, q, width)."""
    layers = decoder_layers(model)

    def branch(layer: nn.Module, joining: int) -> nn.Module:
        def forward(hidden: Tensor, *args: object, **options: object) -> object:
            copies = hidden[..., :1, :, :].expand(*hidden.shape[:-3], joining, -1, -1)
            out = layer.forward(torch.cat([hidden, copies], dim=-3), *args, **options)
            if layer is not layers[-1]:
                return out
            tell(_hidden(out))
            first = _hidden(out)[..., :1, :, :]  # what follows may know how many rows there were at first
            return (first, *out[1:]) if isinstance(out, tuple) else first

        return _instead(layer, forward)

    return _with_layers(model, [branch(layer, starts.count(i)) for i, layer in enumerate(layers)])


def said_from(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """What the model would say of states (rows, q, width), were they its last layer's: logits (rows, q, V) in fp32.

    That is the logit lens: the model's own final norm, head, scaling and capping, applied once.
    """
    last = decoder_layers(model)[-1]

    @torch.no_grad()
    def said(states: Tensor) -> Tensor:
        lens = _with_layers(model, [_instead(last, lambda *args, **options: states)])
        entry = model.get_input_embeddings().weight.device
        ids = torch.zeros(states.shape[-3:-1], dtype=torch.long, device=entry)
        return lens(input_ids=ids, use_cache=False).logits.float()

    return said


def check_said(model: PreTrainedModel, said: Tensor, logits: Tensor) -> None:
    """UnsupportedModelError if what `said_from` gives of the last layer's states is not what the model itself gave."""
    if (said - logits).abs().max() > ROUNDING.get(model.dtype, LESS_EXACT) * logits.abs().max():
        raise UnsupportedModelError(
            f"{type(model).__name__} makes its answer of more than its last layer's output: what it would say earlier "
            "is not known"
        )


def feed(
    lm: LanguageModel,
    prompt: SegmentedPrompt,
    views: Sequence[View],
    token_ids: Sequence[int],
    read: Prefill,
    forward: Callable[[Tensor, Tensor, Plan, Cache], Made],
    *,
    attend: Attend = attend_written_out,
) -> Made:
    """What `forward` makes of ids and positions (rows, q) of the suffix and answer tokens behind it, a row for each
    view; these are `settled`, and `read` holds their encodings.

    The few queries are written out, whatever the backend: a callable for `attend` may tell layers and heads apart.
    Views of one encoding share its keys, so `forward` may run any number of rows over them.
    """
    check_recorded(lm)
    slots = arrange([prompt], len(token_ids) + 1)
    ids = torch.tensor([[*prompt.token_ids[prompt.suffix_start :], *token_ids]] * len(views))
    positions = torch.tensor([[view.suffix_position] for view in views]) + torch.arange(ids.shape[1])
    encodings = [view.encoding for view in views]
    alike = len(set(encodings)) == 1
    cache = share([read.caches[each] for each in (encodings[:1] if alike else encodings)], length=slots.prompt)

    bias, ape, _ = _behind_each_other(*row_biases(slots, views, [0] * len(views)), len(token_ids), slots.answer)
    plan = Plan(lm.backend, on_devices(lm, bias) or {}, ape=on_devices(lm, ape), attend=attend)
    return forward(upload(ids, lm.device), upload(positions, lm.device), plan, cache)


def _behind_each_other(suffix: Felt, token: Felt, count: int, answer: int) -> Felt:
    """What the suffix and `count` answer tokens, from slot `answer` on, feel as one."""
    behind = token.bias.repeat(1, 1, count, 1)
    # An answer token sees itself and those before it.
    behind[..., answer:] = torch.full((count, count + 1), -torch.inf).triu(1)
    if token.shut is not None:
        others = ~torch.eye(count, count + 1, dtype=torch.bool)
        behind[..., answer:].masked_fill_(token.shut[..., answer:] & others, -torch.inf)
    bias = torch.cat([suffix.bias, behind], dim=2)[..., :-1]
    last = token.ape
    if last is None:
        return Felt(bias, None)
    first = suffix.ape or ApeRows(last.keys, torch.ones_like(last.temperature), torch.ones_like(last.scale))
    times = suffix.bias.shape[2], count
    temperature, scale = (
        torch.cat([each.expand(-1, -1, n, -1) for each, n in zip(pair, times, strict=True)], dim=2)
        for pair in ((first.temperature, last.temperature), (first.scale, last.scale))
    )
    return Felt(bias, ApeRows(last.keys[..., :-1], temperature, scale))
