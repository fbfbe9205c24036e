"""Attention as probabilities, and a recorder of it. Knows queries, keys and biases; runs no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from .cache import Trunk, upload


@dataclass(frozen=True)
class ApeRows:
    """Sharpened scores: keys (rows, 1, 1, kv) is True at paraphrases, temperature and scale are (rows, 1, 1, 1)."""

    keys: Tensor
    temperature: Tensor
    scale: Tensor

    def to(self, device: torch.device) -> ApeRows:
        return ApeRows(*(upload(each, device) for each in self.tensors()))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.keys, self.temperature, self.scale

    def select(self, rows: Sequence[int]) -> ApeRows:
        return ApeRows(self.keys[rows], self.temperature[rows], self.scale[rows])


class Scoring(NamedTuple):
    """What makes scores of products: `scale`, then the cap, if the model has one, then sharpening, if some row asks.

    Keys that rows share are not among those given: they are their `trunks`, and come first.
    """

    scale: float
    softcap: float | None = None
    ape: ApeRows | None = None
    trunks: Sequence[Trunk] = ()


@dataclass
class MassRecorder:
    """Collects, layer by layer in their order, how much attention the last query of a pass gave to each group of keys.

    `groups` holds one tensor (rows, kv, S) for each device, 1 where key kv belongs to group s. With `detail` it also
    adds up the attention to every key.
    """

    groups: Mapping[torch.device, Tensor]
    detail: bool = False
    _layers: list[Tensor] = field(default_factory=list)
    _keys: Tensor | None = None

    def observe(self, query: Tensor, key: Tensor, mask: Tensor, how: Scoring) -> None:
        self.add(attention_probabilities(query[:, :, -1:], key, mask[:, :, -1:], how))

    def add(self, probabilities: Tensor) -> None:
        """What one query of each row gave in the next layer, (rows, heads, 1, kv)."""
        probabilities = probabilities[:, :, 0]
        self._layers.append(probabilities @ self.groups[probabilities.device])  # (rows, heads, kv) -> (rows, heads, S)
        if self.detail:
            mean = probabilities.mean(dim=1)
            self._keys = mean if self._keys is None else self._keys.to(mean.device) + mean

    def select(self, rows: Sequence[int]) -> MassRecorder:
        """One for these rows alone, in this order."""
        return MassRecorder({device: group[rows] for device, group in self.groups.items()}, self.detail)

    def take(self) -> tuple[Tensor, Tensor | None]:
        """Of the pass just run: masses (layers, rows, heads, S), each summing to 1, and mean attention (rows, kv)."""
        (layers, self._layers), (keys, self._keys) = (self._layers, []), (self._keys, None)
        one = layers[-1].device
        return torch.stack([layer.to(one) for layer in layers]), None if keys is None else keys / len(layers)


def additive(mask: Any, device: torch.device) -> Tensor:
    """A mask of one row in any form that a plan may hold, as an additive bias (1, 1, q, kv)."""
    if isinstance(mask, BlockMask):
        length, keys = mask.seq_lengths
        row, q = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device), torch.arange(length, device=device)[:, None]
        mask = mask.mask_mod(row, row, q, torch.arange(keys, device=device))
    return torch.zeros((), device=device).where(mask, -torch.inf) if mask.dtype == torch.bool else mask


def attention_probabilities(query: Tensor, key: Tensor, bias: Tensor, how: Scoring) -> Tensor:
    """Softmax weights (rows, H, q, kv) in fp32, from the q, k and bias that ran.

    query (rows, H, q, D), key (rows, KVH, kv, D), bias (rows, 1, q, kv); of keys on trunks the last ones only.
    """
    scores = _scores(query, key)
    if how.trunks:
        own, scores = scores, scores.new_zeros(*query.shape[:3], bias.shape[3])
        scores[..., -key.shape[2] :] = own
        for trunk in how.trunks:
            scores[trunk.rows, ..., : trunk.keys.shape[1]] = trunk.scores(query)
    scores = scores * how.scale
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    if (ape := how.ape) is None:
        return torch.softmax(scores + bias, dim=-1)
    # exp(S T lse) spread over the paraphrases' keys by their softmax is one softmax with (S T - 1) lse added to them.
    sharpened = scores / ape.temperature + bias
    lse = torch.logsumexp(sharpened.where(ape.keys, -torch.inf), dim=-1, keepdim=True)
    lse = lse.where(lse.isfinite(), 0.0)
    return torch.softmax(
        torch.where(ape.keys, sharpened + (ape.scale * ape.temperature - 1) * lse, scores + bias), dim=-1
    )


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Products of queries and keys, (rows, H, q, kv) in fp32."""
    rows, heads, length, width = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, width).float()  # (rows, H, q, D) -> (rows, KVH, G * q, D)
    if is_one_query(query):
        return (grouped[:, :, :, None] * key[:, :, None].float()).sum(-1).view(rows, heads, length, -1)
    return (grouped @ key.float().transpose(2, 3)).view(rows, heads, length, -1)


def is_one_query(query: Tensor) -> bool:
    """Whether a compiler is at work on a single query, which it fuses best if the products are written out as sums."""
    return torch.compiler.is_compiling() and query.shape[0] == 1 and query.shape[2] == 1
