"""KV caches of a request: one per encoding, then rows that branch off it. Knows no masks and no text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class Cursor:
    """The slots that the next forward pass fills, as a tensor on each device, changed in place from step to step."""

    def __init__(self) -> None:
        self.filled = 0
        self._slots: dict[torch.device, Tensor] = {}
        self._held: dict[tuple[torch.device, int], Tensor] = {}  # for each number of slots, always the same memory

    def point(self, start: int, stop: int, devices: Iterable[torch.device]) -> None:
        """Let the next pass fill slots start <= i < stop."""
        slots = torch.arange(start, stop)
        for device in devices:
            fresh = upload(slots, device)
            held = self._held.setdefault((device, len(slots)), fresh)
            self._slots[device] = held if held is fresh else held.copy_(fresh)
        self.filled = start

    def advance(self) -> None:
        """Let the next pass fill the slots that follow. Changes tensors only, so that a CUDA graph can hold it."""
        for slots in self._slots.values():
            slots += len(slots)

    def on(self, device: torch.device) -> Tensor:
        return self._slots[device]


class PromptLayer(DynamicLayer):
    """Keys and values of one layer, as the passes over one prompt made them; those of a single pass are not copied."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.is_initialized:
            return super().update(key_states, value_states)
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return self.keys, self.values


class _Layers(Cache):
    def tensors(self) -> list[Tensor]:
        """Keys and values of each layer in turn."""
        return [part for layer in self.layers for part in (layer.keys, layer.values)]


class PromptCache(_Layers):
    """What reading a whole prompt leaves, never written again: (B, KV heads, T, width) a layer."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=PromptLayer)

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> PromptCache:
        """A cache of such `tensors()`."""
        cache = cls()
        for i, (keys, values) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            cache.update(keys, values, i)
        return cache


class SharedLayer(DynamicLayer):
    """Keys and values of one layer that stay as they are: `update` returns them with the new ones behind.

    Those of one row are read by as many rows as come.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = (each.expand(len(key_states), -1, -1, -1) for each in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


@dataclass(frozen=True)
class Trunk:
    """Keys and values (KV heads, T, width) of one layer over a prompt, and which rows (n,) go on from there.

    Their queries are looked at together, so that the prompt lies in memory once and is read once: Juravsky et al.
    2024, "Hydragen", arXiv:2402.05099, with one softmax over both parts, as the scores of few queries are small.
    """

    keys: Tensor
    values: Tensor
    rows: Tensor

    def scores(self, query: Tensor) -> Tensor:
        """Products with its rows' queries of all rows, (rows, H, q, D) -> (n, H, q, T), in fp32."""
        return self._together(query, self.keys.transpose(1, 2).float())

    def context(self, probabilities: Tensor) -> Tensor:
        """Its part of its rows' contexts, (rows, H, q, T or more) -> (n, H, q, width)."""
        return self._together(probabilities[..., : self.values.shape[1]], self.values)

    def _together(self, rows: Tensor, states: Tensor) -> Tensor:
        """(rows, H, q, a) times (KVH, a, b), for its rows -> (n, H, q, b)."""
        few = rows[self.rows].to(states.dtype).unflatten(1, (len(states), -1)).transpose(0, 1)  # (KVH, n, G, q, a)
        return (few.flatten(1, 3) @ states).view(*few.shape[:-1], states.shape[-1]).transpose(0, 1).flatten(1, 2)

    def select(self, rows: Tensor) -> Trunk:
        return replace(self, rows=torch.isin(rows, self.rows).nonzero()[:, 0])


class SlotLayer(DynamicLayer):
    """Keys and values of one layer in slots allocated once; `update` fills those under the cursor and returns all.

    Slots not filled yet hold zeros and are for the mask to hide. The first `start` slots of a row may lie in its trunk
    instead: they are not among those returned.
    """

    def __init__(
        self, keys: Tensor, values: Tensor, cursor: Cursor, trunks: Sequence[Trunk] = (), start: int = 0
    ) -> None:
        super().__init__()
        self.keys, self.values, self.cursor, self.is_initialized = keys, values, cursor, True
        self.trunks, self.start = trunks, start

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        slots = self.cursor.on(self.keys.device)
        slots = slots - self.start if self.start else slots
        self.keys.index_copy_(2, slots, key_states)
        self.values.index_copy_(2, slots, value_states)
        return self.keys, self.values

    def select(self, rows: Tensor, cursor: Cursor) -> SlotLayer:
        """These rows alone, in memory of their own, so that finished ones stop costing."""
        trunks = [trunk.select(rows) for trunk in self.trunks]
        return SlotLayer(self.keys[rows], self.values[rows], cursor, trunks, self.start)

    def get_seq_length(self) -> int:
        return self.cursor.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_max_length(), 0

    def get_max_length(self) -> int:
        return self.start + self.keys.shape[2]

    get_max_cache_shape = get_max_length  # its name in earlier versions of transformers


class SlotCache(_Layers):
    """Rows of a decode batch; all layers fill the slots under one cursor."""

    def __init__(self, layers: Sequence[SlotLayer], cursor: Cursor) -> None:
        super().__init__(layers=list(layers))
        self.cursor = cursor

    def point(self, start: int, stop: int) -> None:
        """Let the next forward pass fill slots start <= i < stop."""
        self.cursor.point(start, stop, {layer.keys.device for layer in self.layers})

    def trunks(self) -> dict[int, Sequence[Trunk]]:
        """Those of the layer that returns such keys, by their identity; none where a row has all its slots itself."""
        return {id(layer.keys): layer.trunks for layer in self.layers if layer.trunks}

    def select(self, rows: Sequence[int]) -> SlotCache:
        """These rows of every layer, in this order, under a cursor of their own."""
        index, cursor = _indices(rows, {layer.keys.device for layer in self.layers}), Cursor()
        return SlotCache([layer.select(index[layer.keys.device], cursor) for layer in self.layers], cursor)


def share(encoded: Sequence[PromptCache], *, length: int) -> Cache:
    """A cache for one pass over rows that start as the first `length` slots of encodings of one prompt, a row each; of
    a single encoding any number of rows."""
    layers = []
    for parts in zip(*(each.layers for each in encoded), strict=True):
        start = (torch.cat([getattr(part, name)[:, :, :length] for part in parts]) for name in ("keys", "values"))
        layers.append(SharedLayer(*start))
    return _Layers(layers=layers)


def branch(
    encoded: Sequence[PromptCache],
    sources: Sequence[tuple[int, int]],
    *,
    length: int,
    capacity: int,
    shared: bool = False,
) -> SlotCache:
    """A cache of rows, row r starting as the first `length` slots of prompt p of encoding e, (e, p) = sources[r].

    Each layer becomes (rows, KV heads, capacity, width), on the device where the layer runs; if the prompts are
    `shared`, (rows, KV heads, capacity - length, width) behind a trunk for each of them.
    """
    if shared:
        return _on_trunks(encoded, sources, length, capacity)
    cursor, layers = Cursor(), []
    devices = {layer.keys.device for layer in encoded[0].layers}
    used = sorted({encoding for encoding, _ in sources})
    pairs = [[(row, p) for row, (e, p) in enumerate(sources) if e == encoding] for encoding in used]
    index = [_indices(each, devices) for each in pairs]
    for per_encoding in zip(*(encoded[encoding].layers for encoding in used), strict=True):
        places = [each[per_encoding[0].keys.device] for each in index]
        keys, values = (
            _copied([getattr(layer, name)[:, :, :length] for layer in per_encoding], places, len(sources), capacity)
            for name in ("keys", "values")
        )
        layers.append(SlotLayer(keys, values, cursor))
    return SlotCache(layers, cursor)


def _on_trunks(
    encoded: Sequence[PromptCache], sources: Sequence[tuple[int, int]], length: int, capacity: int
) -> SlotCache:
    cursor, layers = Cursor(), []
    devices = {layer.keys.device for layer in encoded[0].layers}
    places = {each: _indices([row for row, of in enumerate(sources) if of == each], devices) for each in set(sources)}
    for per_encoding in zip(*(each.layers for each in encoded), strict=True):
        device = per_encoding[0].keys.device
        trunks = [
            Trunk(per_encoding[e].keys[p, :, :length], per_encoding[e].values[p, :, :length], rows[device])
            for (e, p), rows in places.items()
        ]
        keys, values = (
            each.new_zeros(len(sources), len(each), capacity - length, each.shape[-1])
            for each in (trunks[0].keys, trunks[0].values)
        )
        layers.append(SlotLayer(keys, values, cursor, trunks, length))
    return SlotCache(layers, cursor)


def _indices(rows: Sequence[Any], devices: Iterable[torch.device]) -> dict[torch.device, Tensor]:
    index = torch.tensor(rows)
    return {device: upload(index, device) for device in devices}


def _copied(parts: Sequence[Tensor], places: Sequence[Tensor], rows: int, capacity: int) -> Tensor:
    """Prompts of parts (prompts, heads, length, width) as rows with room behind them: place (row, prompt) in its part
    says which."""
    _, heads, _, width = parts[0].shape
    out = parts[0].new_empty(rows, heads, capacity, width)
    out[:, :, min(part.shape[2] for part in parts) :] = 0.0
    for part, place in zip(parts, places, strict=True):
        # One prompt needs no copy before this one.
        out[place[:, 0], :, : part.shape[2]] = part if len(part) == 1 else part[place[:, 1]]
    return out


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Download:
    """Tensors on their way to the CPU: work that is given to the GPU later does not delay them."""

    def __init__(self, *tensors: Tensor | None) -> None:
        self._tensors = [each if each is None else each.to("cpu", non_blocking=each.is_cuda) for each in tensors]
        self._arrived = []
        for device in {each.device for each in tensors if each is not None and each.is_cuda}:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))  # an event hears of one device's work only
            self._arrived.append(event)

    def lists(self) -> list[list | None]:
        """Their values as lists, once they have arrived; None for None."""
        for event in self._arrived:
            event.synchronize()
        return [None if each is None else each.tolist() for each in self._tensors]
