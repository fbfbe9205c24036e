"""Speed of each backend against transformers' `generate`, side by side in one run, on random weights of a known shape.

Times are medians of several runs that take turns, so that a noisy machine disturbs all alike. What the parts of a run
cost by themselves is measured in tests/bench.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForCausalLM

from ..engine.attention import BACKENDS
from ..engine.decode import generate
from ..engine.loading import DTYPES
from ..engine.model import LanguageModel, prepare
from ..plan import Encoding, Stream, fused_view
from ..prompt import Segment, SegmentedPrompt
from ..request import Decoding

PARAPHRASES = 5
WARM_UPS = 2  # runs not counted: kernels are compiled in the first, CUDA graphs captured in the second
THEIRS, THEIRS_STATIC = "transformers generate", "generate, static cache"
COMPILED = " compiled"  # behind a backend's name: the whole forward pass is
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
Log = Callable[[str], None]


class _NoText:
    """Stands in for a tokenizer where prompts are made of ids: every id shows as one letter."""

    eos_token_id = None

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "x" * len(ids)


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


def random_prompt(tokens: int, vocabulary: int, *, seed: int, paraphrases: int = PARAPHRASES) -> SegmentedPrompt:
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


class Sample(NamedTuple):
    """One run: seconds to the first token and in all, and the tokens."""

    first: float
    total: float
    token_ids: tuple[int, ...]


class Way:
    """One way to answer a prompt: a backend of ours, or `generate` (then `lm` is None)."""

    def __init__(self, name: str, shape: str, device: str, dtype: str) -> None:
        self.name = name
        self.lm: LanguageModel | None = None
        if name in (THEIRS, THEIRS_STATIC):
            self._options = {"cache_implementation": "static"} if name == THEIRS_STATIC else {}
            self._model = random_model(shape, device=device, dtype=dtype)
        else:
            backend = name.removesuffix(COMPILED)
            self.lm = random_lm(shape, device=device, dtype=dtype, backend=backend, compiled=name != backend)

    def run(self, prompt: SegmentedPrompt, new_tokens: int) -> Sample:
        if self.lm is not None:
            stream = Stream((fused_view(prompt, Encoding()),))
            *_, last = generate(self.lm, [prompt], [stream], Decoding(new_tokens, mass=False))
            return Sample(last.first_token_seconds, last.total_seconds, last.answers[0].token_ids)
        first, _ = self._generate(prompt, 1)
        return Sample(first, *self._generate(prompt, new_tokens))

    def _generate(self, prompt: SegmentedPrompt, count: int) -> tuple[float, tuple[int, ...]]:
        ids = torch.tensor([prompt.token_ids], device=self._model.device)
        limits = {"max_new_tokens": count, "do_sample": False, **self._options}
        began = time.perf_counter()
        out = self._model.generate(ids, attention_mask=torch.ones_like(ids), **limits)
        tokens = tuple(out[0, ids.shape[1] :].tolist())
        return time.perf_counter() - began, tokens


def timing(
    way: str, samples: Sequence[Sample], length: int, *, compilations: int | None, roofline: float | None, log: Log
) -> dict[str, Any]:
    """Medians of seconds to the first token and of tokens per second after it.

    `roofline` are the tokens per second at which the weights are read at the speed of a copy; `compilations` those for
    one more prompt, of another length.
    """
    first = statistics.median(sample.first for sample in samples)
    rate = statistics.median((len(s.token_ids) - 1) / (s.total - s.first) for s in samples)
    share = "" if roofline is None else f", {rate / roofline:.3f} of the roofline"
    again = "" if compilations is None else f"; {compilations} compilations for another length"
    log(
        f"{way:>23} {length:6d} tokens: first {1000 * first:8.1f} ms, then {rate:8.1f} tokens/s{share} "
        f"(median of {len(samples)}{again})"
    )
    told = {"way": way, "prompt_tokens": length, "first_token_seconds": first, "tokens_per_second": rate}
    return {**told, "runs": len(samples), "roofline": roofline, "compilations": compilations}


def measure(
    *,
    shape: str,
    lengths: Sequence[int],
    new_tokens: int,
    runs: int,
    device: str,
    dtype: str,
    backends: Sequence[str],
    compiled: bool,
    log: Log,
) -> dict[str, Any]:
    """Times of every backend and of `generate` (standard attention, no segments) at each prompt length.

    All backends must give the same greedy tokens, or the result says how many prompts differ: bf16 ties can. With
    `compiled` each backend that allows it also runs with its whole forward pass compiled.
    """
    # On the CPU compiled kernels bring a thread pool of their own, which slows whatever runs after them: they go last.
    last = [name for name in backends if device == "cpu" and BACKENDS[name].multiple > 1]
    whole = [name + COMPILED for name in backends if compiled and BACKENDS[name].captures]
    theirs = [THEIRS] if device == "cpu" else [THEIRS, THEIRS_STATIC]  # which compiles itself on a GPU
    bandwidth = roofline = None
    if device != "cpu":
        bandwidth = copy_bandwidth(device)
        roofline = bandwidth / weight_bytes(shape, dtype)
        log(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    vocabulary, timings = SHAPES[shape]["vocab_size"], []
    said: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    for group in ([name for name in (*backends, *whole, *theirs) if name not in last], last):
        ways = [Way(name, shape, device, dtype) for name in group]
        for length in lengths:
            prompts = [random_prompt(length, vocabulary, seed=seed) for seed in range(runs + WARM_UPS)]
            samples = [[way.run(prompt, new_tokens) for way in ways] for prompt in prompts]  # they take turns
            for seed, row in enumerate(samples):
                tokens = {sample.token_ids for way, sample in zip(ways, row, strict=True) if way.lm is not None}
                said.setdefault((length, seed), set()).update(tokens)
            for way, column in zip(ways, zip(*samples, strict=True), strict=True):
                other = random_prompt(length // 2, vocabulary, seed=0)
                again = None if way.lm is None else _compilations(way, other, new_tokens)
                facts = {"roofline": roofline, "compilations": again, "log": log}
                timings.append(timing(way.name, column[WARM_UPS:], len(prompts[0].token_ids), **facts))
    differing = sum(len(answers) > 1 for answers in said.values())
    told = {"copy_bandwidth": bandwidth, "prompts_where_backends_differ": differing, "timings": timings}
    return run_facts(shape, device, dtype) | told


def _compilations(way: Way, prompt: SegmentedPrompt, new_tokens: int) -> int:
    """Graphs that the compiler makes for a prompt of another length than those before."""
    before = counters["stats"]["unique_graphs"]
    way.run(prompt, new_tokens)
    return counters["stats"]["unique_graphs"] - before
