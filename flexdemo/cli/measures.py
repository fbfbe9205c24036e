"""Random models of known shapes, and what their parts cost alone: copies, masks, attention, a long prompt's memory."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from ..engine.attention import BACKENDS
from ..engine.blocks import block_mask, dense_mask, layout_of
from ..engine.decode import generate
from ..engine.loading import DTYPES
from ..engine.model import LanguageModel, prepare
from ..errors import InputError
from ..plan import Encoding, Stream, fused_view
from ..prompt import Segment, SegmentedPrompt
from ..request import Decoding

WARM_UPS = 2  # runs not counted: kernels are compiled in the first, CUDA graphs captured in the second
MASK_TOKENS = 32768
SEGMENTS = ((8, 4096),)  # segments x tokens of each, for attention alone
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
SHAPES: Mapping[str, dict[str, int]] = MappingProxyType(
    {
        name: {**dict(zip(SIZES, sizes, strict=True)), "vocab_size": vocab, "head_dim": width}
        for name, sizes, vocab, width in (
            ("tiny", (256, 8, 8, 4, 704), 2048, 32),
            ("llama-3.2-1b", (2048, 16, 32, 8, 8192), 128256, 64),
            ("llama-3.2-3b", (3072, 28, 24, 8, 8192), 128256, 128),
            ("llama-3.1-8b", (4096, 32, 32, 8, 14336), 128256, 128),
        )
    }
)
HEADS, KV_HEADS, WIDTH = (
    SHAPES["llama-3.2-3b"][name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim")
)


class _NoText:
    """Stands in for a tokenizer where prompts are made of ids: every id shows as one letter."""

    eos_token_id = None

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "x" * len(ids)


def check_shape(shape: str) -> None:
    """Raise InputError for a shape that is not in SHAPES."""
    if shape not in SHAPES:
        raise InputError(f"unknown shape {shape!r}: choose from {', '.join(SHAPES)}")


def random_model(shape: str, *, device: str, dtype: str) -> torch.nn.Module:
    """A random Llama of a shape in SHAPES that never stops by itself."""
    never = dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"))
    tied = {"max_position_embeddings": 131072, "tie_word_embeddings": True}
    config = AutoConfig.for_model("llama", **SHAPES[shape], **tied, **never)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], attn_implementation="sdpa")
    return model.eval()


def weight_bytes(shape: str, dtype: str) -> int:
    """Bytes of a shape's weights, all of which one decode step reads; embeddings are tied."""
    return sum(each.nbytes for each in random_model(shape, device="meta", dtype=dtype).parameters())


def random_prompt(tokens: int, vocabulary: int, *, seed: int, paraphrases: int) -> SegmentedPrompt:
    """Segments of equal length, a prefix and a suffix: about `tokens` random ids in all."""
    each = max(1, (tokens - 10) // paraphrases)
    bounds = list(itertools.accumulate([8, *[each] * paraphrases, 2], initial=0))
    names = ["prefix", *(f"P{i + 1}" for i in range(paraphrases)), "suffix"]
    segments = tuple(
        Segment(name, "paraphrase" if name.startswith("P") else name, start, end, "")
        for name, (start, end) in zip(names, itertools.pairwise(bounds), strict=True)
    )
    ids = torch.randint(vocabulary, (bounds[-1],), generator=torch.Generator().manual_seed(seed)).tolist()
    return SegmentedPrompt(tuple(ids), ("",) * len(ids), segments, (1 / paraphrases,) * paraphrases, "ids")


def random_lm(shape: str, *, device: str, dtype: str, backend: str, compiled: bool = False) -> LanguageModel:
    """A random model of a shape, ready to answer prompts made of ids."""
    model = random_model(shape, device=device, dtype=dtype)
    return prepare(model, _NoText(), name=shape, backend=backend, compiled=compiled)


def run_facts(shape: str, device: str, dtype: str) -> dict[str, Any]:
    """What a figure was measured with."""
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return {"shape": shape, "device": device, "dtype": dtype, **versions}


def milliseconds(work: Callable[[], object], *, runs: int = 7) -> float:
    """Median time of some work on the current CUDA device, launching included, after runs that warm up."""
    spent = []
    for _ in range(runs + WARM_UPS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent[WARM_UPS:])


def copy_bandwidth(device: str) -> float:
    """Bytes a second read and written by a copy of 4 GiB on the device: what bounds one-row decoding."""
    source = torch.empty(2**31, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (milliseconds(lambda: target.copy_(source)) / 1000)


@torch.no_grad()
def attention_times(segments: int, length: int, device: str) -> dict[str, Any]:
    """Milliseconds of one layer's attention: flex under the segment mask, SDPA with that mask, causal flash (bf16)."""
    size = BACKENDS["flex"].padded(segments * length)
    layout = layout_of("segment", _wordings(segments, length), pads=size - segments * length).to(device)
    options = {"dtype": torch.bfloat16, "device": device}
    query = torch.randn(1, HEADS, size, WIDTH, **options)
    key, value = (torch.randn(1, KV_HEADS, size, WIDTH, **options) for _ in range(2))

    def run(name: str, mask: Tensor | object) -> float:
        return milliseconds(lambda: BACKENDS[name].attend(query, key, value, mask, WIDTH**-0.5, None, None))

    causal = {"is_causal": True, "enable_gqa": True}
    return {
        "segments": segments,
        "length": length,
        "flex": run("flex", block_mask(layout)),
        "dense_mask": run("sdpa", dense_mask(layout)[:, None]),
        "causal_flash": milliseconds(lambda: scaled_dot_product_attention(query, key, value, **causal)),
    }


def _wordings(count: int, length: int) -> list[Segment]:
    return [Segment(f"P{i + 1}", "paraphrase", i * length, (i + 1) * length, "") for i in range(count)]


def mask_and_attention(device: str, shapes: Sequence[tuple[int, int]], *, log: Callable[[str], None]) -> dict[str, Any]:
    """What a prompt's mask and attention cost by themselves on a GPU; no (T, T) tensor is made for the mask."""
    layout = layout_of("segment", _wordings(8, MASK_TOKENS // 8)).to(device)
    mask = milliseconds(lambda: block_mask(layout))
    log(f"BlockMask of {MASK_TOKENS} tokens: {mask:.2f} ms")
    times = [attention_times(*shape, device) for shape in shapes]
    for each in times:
        log(
            "attention of one layer, {segments} x {length} tokens: flex {flex:.2f} ms, SDPA with the dense mask "
            "{dense_mask:.2f} ms, causal flash {causal_flash:.2f} ms".format(**each)
        )
    return {"mask_milliseconds": mask, "attention": times}


def cost(
    lm: LanguageModel,
    tokens: int,
    paraphrases: int,
    rows: int,
    *,
    new_tokens: int,
    runs: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Median cost of `flex` over a prompt of this size, decoded in `rows` equal rows.

    Seconds to the first token and a token after it; memory beyond the weights at its peak, and beyond one KV cache for
    each row and encoding too, which are known of a GPU only.
    """
    text = lm.model.config.get_text_config()
    prompt = random_prompt(tokens, text.vocab_size, seed=0, paraphrases=paraphrases)
    streams = [Stream((fused_view(prompt, Encoding()),), seed=i) for i in range(rows)]
    on_gpu, before = lm.device.type == "cuda", 0
    if on_gpu:
        lm.graphs.clear()  # what they keep is part of what this costs
        before = torch.cuda.memory_allocated(lm.device)
        torch.cuda.reset_peak_memory_stats(lm.device)
    taken: list[tuple[float, float]] = []
    for _ in range(runs + WARM_UPS):
        *_, last = generate(lm, [prompt], streams, Decoding(new_tokens, mass=False))
        spent = last.total_seconds - last.first_token_seconds
        taken.append((last.first_token_seconds, spent / (len(last.answers[0].token_ids) - 1)))
    peak = torch.cuda.max_memory_allocated(lm.device) - before if on_gpu else None
    first, each = (statistics.median(column) for column in zip(*taken[WARM_UPS:], strict=True))
    size = text.num_hidden_layers * text.num_key_value_heads * 2 * text.head_dim * lm.model.dtype.itemsize
    cached = size * len(prompt.token_ids) * (1 + rows)
    other = None if peak is None else peak - cached
    beyond = "" if peak is None else f"; {peak / 2**30:.2f} GiB beyond weights, {other / 2**30:.2f} of them no KV cache"
    log(
        f"{len(prompt.token_ids):6d} tokens, {paraphrases:3d} paraphrases, {rows:3d} rows: first token "
        f"{1000 * first:8.1f} ms, then {1000 * each:7.2f} ms a token{beyond}"
    )
    asked = {"tokens": len(prompt.token_ids), "paraphrases": paraphrases, "rows": rows}
    seconds = {"first_token_seconds": first, "token_seconds": each}
    return {**asked, **seconds, "peak_bytes": peak, "cache_bytes": cached, "other_bytes": other}
