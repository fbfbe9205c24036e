"""Random models and prompts of known shapes, for measuring. Knows no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from .config import InputError
from .model import DTYPES, LanguageModel, prepare
from .prompt import Segment, SegmentedPrompt

SHAPES: Mapping[str, dict[str, int]] = MappingProxyType(
    {
        "tiny": dict(hidden=256, layers=8, heads=8, kv_heads=4, mlp=704, vocab=2048, head_dim=32),
        "llama-3.2-1b": dict(hidden=2048, layers=16, heads=32, kv_heads=8, mlp=8192, vocab=128256, head_dim=64),
        "llama-3.2-3b": dict(hidden=3072, layers=28, heads=24, kv_heads=8, mlp=8192, vocab=128256, head_dim=128),
        "llama-3.1-8b": dict(hidden=4096, layers=32, heads=32, kv_heads=8, mlp=14336, vocab=128256, head_dim=128),
    }
)


class _NoText:
    """Stands in for a tokenizer where prompts are made of ids: every id shows as one letter."""

    eos_token_id = None

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "x" * len(ids)


def random_model(shape: str, *, device: str, dtype: str) -> torch.nn.Module:
    """A random Llama of a shape in SHAPES that never stops by itself."""
    s = SHAPES[shape]
    config = AutoConfig.for_model(
        "llama",
        hidden_size=s["hidden"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        num_key_value_heads=s["kv_heads"],
        head_dim=s["head_dim"],
        intermediate_size=s["mlp"],
        vocab_size=s["vocab"],
        max_position_embeddings=131072,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], attn_implementation="sdpa")
    return model.eval()


def weight_bytes(shape: str, dtype: str) -> int:
    """Bytes of a shape's weights, all of which one decode step reads; embeddings are tied."""
    s = SHAPES[shape]
    attention = s["hidden"] * s["head_dim"] * 2 * (s["heads"] + s["kv_heads"])
    norms = 2 * s["hidden"]
    layers = s["layers"] * (attention + 3 * s["hidden"] * s["mlp"] + norms)
    return (layers + s["vocab"] * s["hidden"] + s["hidden"]) * DTYPES[dtype].itemsize


def random_prompt(tokens: int, vocabulary: int, *, seed: int, paraphrases: int) -> SegmentedPrompt:
    """Segments of equal length, a prefix and a suffix: about `tokens` random ids in all."""
    generator = torch.Generator().manual_seed(seed)
    each = max(1, (tokens - 10) // paraphrases)
    lengths = [8, *[each] * paraphrases, 2]
    names = ["prefix", *(f"P{i + 1}" for i in range(paraphrases)), "suffix"]
    roles = ["prefix", *["paraphrase"] * paraphrases, "suffix"]
    segments, start = [], 0
    for name, role, length in zip(names, roles, lengths, strict=True):
        segments.append(Segment(name, role, start, start + length, ""))
        start += length
    ids = tuple(torch.randint(vocabulary, (start,), generator=generator).tolist())
    return SegmentedPrompt(ids, ("",) * start, tuple(segments), (1 / paraphrases,) * paraphrases, "ids")


def check_shape(shape: str, *others: str) -> None:
    """Raise InputError for a shape that is neither in SHAPES nor one of the others."""
    if shape not in (*SHAPES, *others):
        raise InputError(f"unknown shape {shape!r}: choose from {', '.join((*SHAPES, *others))}")


def random_lm(shape: str, *, device: str, dtype: str, backend: str, compiled: bool = False) -> LanguageModel:
    """A random model of a shape, ready to answer prompts made of ids."""
    model = random_model(shape, device=device, dtype=dtype)
    return prepare(model, _NoText(), name=shape, backend=backend, compiled=compiled)
