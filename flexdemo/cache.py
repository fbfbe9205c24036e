"""KV caches of a request: one per encoding, then rows that branch off it. Knows no masks and no text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer in slots allocated once; `update` fills the next slots and returns all of them.

    Slots not filled yet hold zeros and are for the mask to hide.
    """

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        super().__init__()
        self.keys, self.values, self.filled = keys, values, filled
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise RuntimeError("a SlotLayer is made from an encoding's cache")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        stop = self.filled + key_states.shape[-2]
        self.keys[:, :, self.filled : stop] = key_states
        self.values[:, :, self.filled : stop] = value_states
        self.filled = stop
        return self.keys, self.values

    def select(self, rows: Tensor) -> None:
        """Keep only these rows, so that finished ones stop costing."""
        rows = rows.to(self.keys.device)
        self.keys, self.values = self.keys[rows], self.values[rows]

    def get_seq_length(self) -> int:
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_max_length(self) -> int:
        return self.keys.shape[2]

    def get_max_cache_shape(self) -> int:
        return self.keys.shape[2]


def branch(encoded: Sequence[DynamicCache], sources: Sequence[tuple[int, int]], *, length: int, capacity: int) -> Cache:
    """A cache of rows, row r starting as the first `length` slots of prompt p of encoding e, (e, p) = sources[r].

    Each layer becomes (rows, KV heads, capacity, width), on the device where the layer runs.
    """
    layers = []
    for per_encoding in zip(*(cache.layers for cache in encoded), strict=True):
        first = per_encoding[0]
        heads = first.keys.shape[1]
        keys = first.keys.new_zeros(len(sources), heads, capacity, first.keys.shape[3])
        values = first.values.new_zeros(len(sources), heads, capacity, first.values.shape[3])
        for row, (encoding, prompt) in enumerate(sources):
            keys[row, :, :length] = per_encoding[encoding].keys[prompt, :, :length]
            values[row, :, :length] = per_encoding[encoding].values[prompt, :, :length]
        layers.append(SlotLayer(keys, values, length))
    return Cache(layers=layers)


def select_rows(cache: Cache, rows: Sequence[int]) -> None:
    """Keep these rows of every layer, in this order."""
    index = torch.tensor(rows)
    for layer in cache.layers:
        layer.select(index)
