"""Rows of a pass whose last token shares one hidden state, from some layer on: the rows' mean. Knows no methods.

It happens in forward hooks on the decoder layers. They are there only while a pass runs that wants them, and read from
the pass's own plan what to do: what another thread sends through the same layers meanwhile goes by untouched.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .attention import Plan, UnsupportedModelError
from .cache import upload

NEVER = torch.iinfo(torch.long).max


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers of a model in their order, or UnsupportedModelError."""
    count = model.config.get_text_config().num_hidden_layers
    found = [each for each in model.get_decoder().children() if isinstance(each, nn.ModuleList) and len(each) == count]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no one list of its {count} decoder layers, where hidden states could be seen "
            "or averaged: leave out what asks for it"
        )
    return found[0]


@dataclass(frozen=True)
class Mixing:
    """Which rows become a mean of which: shares (rows, rows) of it, in fp32, and the layer from whose output on, starts
    (rows,), counted from 1; NEVER for a row that stays as it is."""

    shares: Tensor
    starts: Tensor

    @classmethod
    def of(cls, owners: Sequence[int], starts: Sequence[int | None]) -> Mixing | None:
        """Rows of the same owner become their mean from its start on; None if no row has one."""
        if not any(starts):
            return None
        same = torch.tensor(owners)[:, None] == torch.tensor(owners)
        return cls(same.float() / same.sum(dim=1, keepdim=True), torch.tensor([start or NEVER for start in starts]))

    def to(self, device: torch.device) -> Mixing:
        return Mixing(*(upload(each, device) for each in self.tensors()))

    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.shares, self.starts

    def select(self, rows: Sequence[int]) -> Mixing:
        """Those rows alone; rows that are a mean together stay together."""
        return Mixing(self.shares[rows][:, rows], self.starts[rows])

    def mixed(self, hidden: Tensor, layer: int) -> Tensor:
        """The output (..., rows, q, width) of a layer with the mean in place of the last token; other rows keep every
        bit."""
        last, begun = hidden[..., -1, :], (self.starts <= layer)[:, None]
        mean = self.shares @ last.float().where(begun, 0.0)  # or another row's infinity would make it nan
        return torch.cat([hidden[..., :-1, :], mean.to(last.dtype).where(begun, last)[..., None, :]], dim=-2)


def _hook(layer: int, module: nn.Module, args: Any, *given: Any) -> Any:
    """What torch calls with a layer's output; its value, unless None, takes the output's place."""
    if len(given) < 2:  # without keyword arguments: of another thread's pass, while hooks are put on or taken off
        return None
    (passed, output) = given
    plan: Plan | None = passed.get("segment_plan")
    if plan is not None and plan.mixing is None:  # another thread's pass
        return None
    hidden, *rest = output if isinstance(output, tuple) else (output,)
    if plan is None or hidden.dim() < 3 or hidden.shape[-3] != len(plan.mixing[hidden.device].starts):
        raise UnsupportedModelError(
            f"{type(module).__name__} does not hand on hidden states of rows of tokens, which could be averaged: leave "
            "out the method that asks for it"
        )
    mixed = plan.mixing[hidden.device].mixed(hidden, layer)
    return (mixed, *rest) if isinstance(output, tuple) else mixed


class Hooks:
    """The hooks of one model, on its layers while at least one pass wants them."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._passes = 0
        self._handles: list[Any] = []

    @contextmanager
    def on(self, model: Any) -> Iterator[None]:
        layers = decoder_layers(model)
        with self._lock:
            if not self._passes:
                hooks = [functools.partial(_hook, number) for number in range(1, 1 + len(layers))]
                pairs = zip(layers, hooks, strict=True)
                self._handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer, hook in pairs]
            self._passes += 1
        try:
            yield
        finally:
            with self._lock:
                self._passes -= 1
                while not self._passes and self._handles:
                    self._handles.pop().remove()
                self._lock.notify_all()

    @contextmanager
    def off(self) -> Iterator[None]:
        """No hook is on, and none comes on: for whoever copies the layers, as copies would keep theirs for good."""
        with self._lock:
            self._lock.wait_for(lambda: not self._passes)
            yield
