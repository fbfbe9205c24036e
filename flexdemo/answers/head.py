"""Attention of one layer and head over a whole packed prompt, as the fused view ran it. Knows no page."""

from __future__ import annotations

import numpy as np
import torch

from ..engine.attention import BACKENDS, Plan
from ..engine.cache import branch
from ..engine.model import LanguageModel
from ..engine.reading import arrange, encode, forward, on_devices, row_biases, settled
from ..engine.recorders import HeadRecorder
from ..errors import InputError
from ..plan import Encoding, fused_view
from .result import Result

MOST_TOKENS = 512


def heads_of(lm: LanguageModel) -> tuple[int, int]:
    """Number of layers, and of attention heads in each."""
    config = lm.model.config.get_text_config()
    return config.num_hidden_layers, config.num_attention_heads


def check_head(lm: LanguageModel, layer: int, head: int, *, first: int = 0) -> None:
    """Raise InputError for a layer or a head that the model does not have; the first of each has the number `first`."""
    for what, value, count in zip(("layer", "head"), (layer, head), heads_of(lm), strict=True):
        if not first <= value < first + count:
            raise InputError(f"there is no {what} {value}: choose from {first} to {first + count - 1} of {lm.name}")


@torch.no_grad()
def attention_map(lm: LanguageModel, result: Result, layer: int, head: int) -> np.ndarray:
    """Attention (T, T) of a layer and head, counted from 0, in fp32, row = query, over the axes of the mask of
    `result`; rows sum to 1.

    The prompt is read once more in the two passes that produced the fused answer's first token. Raises InputError for
    a prompt of more than MOST_TOKENS tokens, or a layer or head that is not there.
    """
    check_head(lm, layer, head)
    prompt = result.prompt
    length, start = len(prompt.token_ids), prompt.suffix_start
    if length > MOST_TOKENS:
        raise InputError(f"attention is shown for at most {MOST_TOKENS} tokens, not for {length}: shorten the prompt")
    view = fused_view(prompt, Encoding(result.mask["strategy"], result.mask["positions"]), result.ape)
    view = settled(lm, prompt, view, 1)
    slots = arrange([prompt], 1, BACKENDS[lm.backend].multiple)
    biases = row_biases(slots, [view], [0])

    reading = HeadRecorder(layer, head)
    cache = branch([encode(lm, [prompt], view.encoding, reading)], [(0, 0)], length=start, capacity=slots.capacity)
    cache.point(start, length)
    fusing = HeadRecorder(layer, head)
    ids = torch.tensor([prompt.token_ids[start:]])
    positions = view.suffix_position + torch.arange(length - start)[None]
    masks, ape = on_devices(lm, biases.suffix), on_devices(lm, biases.ape_suffix)
    forward(lm, ids, positions, Plan(lm.backend, masks, fusing, ape), cache)

    rows = np.zeros((length, length), dtype=np.float32)
    rows[:start, :start] = reading.probabilities[0, :start, :start]  # type: ignore[index]
    rows[start:] = fusing.probabilities[0, :, :length]  # type: ignore[index]
    return rows
