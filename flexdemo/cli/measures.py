"""Random models of known shapes, and what their parts cost alone: copies, masks, attention, a long prompt's memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
SHAPES: Mapping[str, dict[str, int]] = MappingProxyType(
    {
        "tiny": dict(hidden=256, layers=8, heads=8, kv_heads=4, mlp=704, vocab=2048, head_dim=32),
        "llama-3.2-1b": dict(hidden=2048, layers=16, heads=32, kv_heads=8, mlp=8192, vocab=128256, head_dim=64),
        "llama-3.2-3b": dict(hidden=3072, layers=28, heads=24, kv_heads=8, mlp=8192, vocab=128256, head_dim=128),
        "llama-3.1-8b": dict(hidden=4096, layers=32, heads=32, kv_heads=8, mlp=14336, vocab=128256, head_dim=128),
    }
)
HEADS, KV_HEADS, WIDTH = (SHAPES["llama-3.2-3b"][name] for name in ("heads", "kv_heads", "head_dim"))


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


def check_shape(shape: str) -> None:
    """Raise InputError for a shape that is not in SHAPES."""
    if shape not in SHAPES:
        raise InputError(f"unknown shape {shape!r}: choose from {', '.join(SHAPES)}")


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


@dataclass(frozen=True)
class AttentionTime:
    """One layer's attention over segments of equal length, in milliseconds."""

    segments: int
    length: int
    flex: float
    dense_mask: float
    causal_flash: float

    def __str__(self) -> str:
        ratios = f"{self.causal_flash / self.flex:.2f} x causal flash, {self.dense_mask / self.flex:.1f} x dense mask"
        return (
            f"attention of one layer, {self.segments} x {self.length} tokens: flex {self.flex:.2f} ms, SDPA with the "
            f"dense mask {self.dense_mask:.2f} ms, causal flash {self.causal_flash:.2f} ms; flex is faster by {ratios}"
        )


@torch.no_grad()
def attention_times(device: str, shapes: Sequence[tuple[int, int]] = SEGMENTS) -> list[AttentionTime]:
    """FlexAttention under the segment mask, against SDPA with that mask and against causal flash attention (bf16)."""
    told = []
    for segments, length in shapes:
        size = BACKENDS["flex"].padded(segments * length)
        layout = layout_of("segment", _wordings(segments, length), pads=size - segments * length).to(device)
        options = {"dtype": torch.bfloat16, "device": device}
        query = torch.randn(1, HEADS, size, WIDTH, **options)
        key, value = (torch.randn(1, KV_HEADS, size, WIDTH, **options) for _ in range(2))
        blocks, dense = block_mask(layout), dense_mask(layout)[:, None]

        def run(name: str, mask: object, q: Tensor = query, k: Tensor = key, v: Tensor = value) -> float:
            return milliseconds(lambda: BACKENDS[name].attend(q, k, v, mask, WIDTH**-0.5, None, None))

        def causal(q: Tensor = query, k: Tensor = key, v: Tensor = value) -> Tensor:
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        told.append(AttentionTime(segments, length, run("flex", blocks), run("sdpa", dense), milliseconds(causal)))
    return told


def mask_milliseconds(device: str, tokens: int = MASK_TOKENS) -> float:
    """Time to make the BlockMask of eight segments; no (T, T) tensor is made."""
    layout = layout_of("segment", _wordings(8, tokens // 8)).to(device)
    return milliseconds(lambda: block_mask(layout))


def _wordings(count: int, length: int) -> list[Segment]:
    return [Segment(f"P{i + 1}", "paraphrase", i * length, (i + 1) * length, "") for i in range(count)]


def mask_and_attention(device: str, shapes: Sequence[tuple[int, int]], *, log: Callable[[str], None]) -> dict[str, Any]:
    """What a prompt's mask and attention cost by themselves on a GPU."""
    mask = mask_milliseconds(device)
    log(f"BlockMask of {MASK_TOKENS} tokens: {mask:.2f} ms")
    times = attention_times(device, shapes)
    for each in times:
        log(str(each))
    return {"mask_milliseconds": mask, "attention": [asdict(each) for each in times]}


@dataclass(frozen=True)
class Cost:
    """One request: seconds to the first token and a token after it, and memory beyond the weights at its peak."""

    tokens: int
    paraphrases: int
    rows: int
    first_token_seconds: float
    token_seconds: float
    peak_bytes: int | None  # known of a GPU only
    cache_bytes: int

    @property
    def other_bytes(self) -> int | None:
        """Memory at the peak beyond weights and one KV cache for each row and encoding."""
        return None if self.peak_bytes is None else self.peak_bytes - self.cache_bytes

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "other_bytes": self.other_bytes}

    def __str__(self) -> str:
        memory = ""
        if self.peak_bytes is not None and self.other_bytes is not None:
            peak, other = self.peak_bytes / 2**30, self.other_bytes / 2**30
            memory = f"; {peak:6.2f} GiB beyond weights, {other:5.2f} of them no KV cache"
        return (
            f"{self.tokens:6d} tokens, {self.paraphrases:3d} paraphrases, {self.rows:3d} rows: first token "
            f"{1000 * self.first_token_seconds:8.1f} ms, then {1000 * self.token_seconds:7.2f} ms a token{memory}"
        )


def cost(lm: LanguageModel, tokens: int, paraphrases: int, rows: int, *, new_tokens: int, runs: int) -> Cost:
    """Median cost of `flex` over a prompt of this size, decoded in `rows` equal rows."""
    text = lm.model.config.get_text_config()
    prompt = random_prompt(tokens, text.vocab_size, seed=0, paraphrases=paraphrases)
    streams = [Stream((fused_view(prompt, Encoding()),), seed=i) for i in range(rows)]
    taken: list[tuple[float, float]] = []
    on_gpu, before = lm.device.type == "cuda", 0
    if on_gpu:
        lm.graphs.clear()  # what they keep is part of what this costs
        before = torch.cuda.memory_allocated(lm.device)
        torch.cuda.reset_peak_memory_stats(lm.device)
    for run in range(runs + WARM_UPS):
        *_, last = generate(lm, [prompt], streams, Decoding(new_tokens, mass=False))
        if run >= WARM_UPS:
            spent = last.total_seconds - last.first_token_seconds
            taken.append((last.first_token_seconds, spent / (len(last.answers[0].token_ids) - 1)))
    peak = torch.cuda.max_memory_allocated(lm.device) - before if on_gpu else None
    first, each = (statistics.median(column) for column in zip(*taken, strict=True))
    size = text.num_hidden_layers * text.num_key_value_heads * 2 * text.head_dim * lm.model.dtype.itemsize
    length = len(prompt.token_ids)
    return Cost(length, paraphrases, rows, first, each, peak, size * length * (1 + rows))


def beside_speed(lm: LanguageModel, *, log: Callable[[str], None]) -> dict[str, Any]:
    """Mask and attention by themselves, and what a long prompt takes of a GPU's memory."""
    alone = mask_and_attention(str(lm.device), SEGMENTS, log=log)
    long = cost(lm, MASK_TOKENS, 8, 1, new_tokens=2, runs=1)
    log(str(long))
    return {**alone, "long_prompt": long.to_dict()}
