"""Speed of each backend against transformers' `generate`, side by side in one run, on random weights of a known shape.

Times are medians of several runs that take turns, so that a noisy machine disturbs all alike.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from .attention import BACKENDS
from .config import Decoding, InputError
from .encoding import Encoding, fused_view
from .generation import Answer, Stream, generate
from .methods import resolve_methods
from .model import DTYPES, LanguageModel, load_model, prepare
from .prompt import Segment, SegmentedPrompt, build_prompt
from .whereabouts import measure_whereabouts

SHAPES: Mapping[str, dict[str, int]] = MappingProxyType(
    {
        "tiny": dict(hidden=256, layers=8, heads=8, kv_heads=4, mlp=704, vocab=2048, head_dim=32),
        "llama-3.2-1b": dict(hidden=2048, layers=16, heads=32, kv_heads=8, mlp=8192, vocab=128256, head_dim=64),
        "llama-3.2-3b": dict(hidden=3072, layers=28, heads=24, kv_heads=8, mlp=8192, vocab=128256, head_dim=128),
        "llama-3.1-8b": dict(hidden=4096, layers=32, heads=32, kv_heads=8, mlp=14336, vocab=128256, head_dim=128),
    }
)
PARAPHRASES = 5
TIE = 0.05  # nats: what rounding in bf16 moves the log-probabilities of a random model
BATCH, BATCH_BACKEND = 32, "sdpa"  # the backend that needs no compilation for a new shape
THEIRS = "transformers generate"
BUNDLED = "bundled"
ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Timing:
    """Medians over `runs`: seconds to the first token, and tokens per second after it."""

    way: str
    prompt_tokens: int
    first_token_seconds: float
    tokens_per_second: float
    runs: int

    def __str__(self) -> str:
        return (
            f"{self.way:>22} {self.prompt_tokens:6d} tokens: first {1000 * self.first_token_seconds:8.1f} ms, "
            f"then {self.tokens_per_second:8.1f} tokens/s (median of {self.runs})"
        )


class _NoText:
    """Stands in for a tokenizer where prompts are made of ids: every id shows as one letter."""

    eos_token_id = None

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "x" * len(ids)


@dataclass(frozen=True)
class Sample:
    """One run: seconds to the first token and in all, and the tokens."""

    first: float
    total: float
    token_ids: tuple[int, ...]


Way = Callable[[SegmentedPrompt, int], Sample]


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


def random_prompt(tokens: int, vocabulary: int, *, seed: int) -> SegmentedPrompt:
    """PARAPHRASES segments of equal length, a prefix and a suffix: about `tokens` random ids in all."""
    generator = torch.Generator().manual_seed(seed)
    each = max(1, (tokens - 10) // PARAPHRASES)
    lengths = [8, *[each] * PARAPHRASES, 2]
    names = ["prefix", *(f"P{i + 1}" for i in range(PARAPHRASES)), "suffix"]
    roles = ["prefix", *["paraphrase"] * PARAPHRASES, "suffix"]
    segments, start = [], 0
    for name, role, length in zip(names, roles, lengths, strict=True):
        segments.append(Segment(name, role, start, start + length, ""))
        start += length
    ids = tuple(torch.randint(vocabulary, (start,), generator=generator).tolist())
    return SegmentedPrompt(ids, ("",) * start, tuple(segments), (1 / PARAPHRASES,) * PARAPHRASES, "ids")


def _run_ours(lm: LanguageModel, prompt: SegmentedPrompt, new_tokens: int) -> Sample:
    streams = [Stream((fused_view(prompt, Encoding()),))]
    *_, last = generate(lm, [prompt], streams, Decoding(new_tokens, mass=False))
    return Sample(last.first_token_seconds, last.total_seconds, last.answers[0].token_ids)


def _run_theirs(model: torch.nn.Module, prompt: SegmentedPrompt, new_tokens: int) -> Sample:
    ids = torch.tensor([prompt.token_ids], device=model.device)

    def timed(count: int) -> tuple[float, list[int]]:
        began = time.perf_counter()
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
        tokens = out[0, ids.shape[1] :].tolist()
        return time.perf_counter() - began, tokens

    first, _ = timed(1)
    total, tokens = timed(new_tokens)
    return Sample(first, total, tuple(tokens))


def _way(name: str, shape: str, device: str, dtype: str) -> tuple[Way, LanguageModel | None]:
    model = random_model(shape, device=device, dtype=dtype)
    if name == THEIRS:
        return functools.partial(_run_theirs, model), None
    lm = prepare(model, _NoText(), name=shape, backend=name)
    return functools.partial(_run_ours, lm), lm


def _timing(name: str, prompt_tokens: int, samples: Sequence[Sample]) -> Timing:
    first = statistics.median(sample.first for sample in samples)
    rate = statistics.median((len(s.token_ids) - 1) / (s.total - s.first) for s in samples)
    return Timing(name, prompt_tokens, first, rate, len(samples))


@dataclass(frozen=True)
class MethodsCost:
    """Median seconds of one request with `flex` alone and with all methods, over `runs` that take turns."""

    backend: str
    prompt_tokens: int
    flex_seconds: float
    all_seconds: float
    rows: int
    runs: int

    @property
    def ratio(self) -> float:
        return self.all_seconds / self.flex_seconds

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}

    def __str__(self) -> str:
        return (
            f"{self.backend:>22} {self.prompt_tokens:6d} tokens: all methods, {self.rows} rows, take "
            f"{self.ratio:.2f} x flex alone ({1000 * self.flex_seconds:.1f} ms; median of {self.runs})"
        )


def methods_cost(lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int, *, runs: int) -> MethodsCost:
    """What all methods at once cost against `flex` alone, each run over every prompt in turn."""

    def seconds(names: Sequence[str]) -> tuple[float, int]:
        spent, most = 0.0, 0
        for prompt in prompts:
            fused = fused_view(prompt, Encoding())
            chosen = resolve_methods(names, len(prompt.paraphrases))
            streams = list(dict.fromkeys(s for method in chosen for s in method.streams(prompt, fused)))
            *_, last = generate(lm, [prompt], streams, Decoding(new_tokens, mass=False))
            spent, most = spent + last.total_seconds, max(most, sum(len(stream.views) for stream in streams))
        return spent, most

    taken = [(seconds(["flex"]), seconds(["all"])) for _ in range(runs + 1)][1:]  # the first run warms up
    flex, everything = (statistics.median(run[i][0] for run in taken) / len(prompts) for i in range(2))
    length = round(statistics.mean(len(prompt.token_ids) for prompt in prompts))
    return MethodsCost(lm.backend, length, flex, everything, taken[0][1][1], runs)


@dataclass(frozen=True)
class BatchSpeed:
    """Tokens per second of `flex` over the same prompts, one at a time and in one batch; medians over `runs`."""

    backend: str
    prompts: int
    longest_prompt: int
    alone_per_second: float
    batched_per_second: float
    differing: int  # prompts whose greedy tokens differ between the two
    ties: int  # of these, prompts whose first difference is between tokens that were likely alike, within TIE nats
    runs: int

    @property
    def ratio(self) -> float:
        return self.batched_per_second / self.alone_per_second

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}

    def __str__(self) -> str:
        return (
            f"{self.backend:>22} {self.prompts:6d} prompts in a batch, up to {self.longest_prompt} tokens: "
            f"{self.batched_per_second:.0f} tokens/s, {self.ratio:.1f} x one by one ({self.alone_per_second:.0f}); "
            f"{self.differing} answers differ, {self.ties} of them from a tie on (median of {self.runs})"
        )


def batch_speed(lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int, *, runs: int) -> BatchSpeed:
    """Speed of a batch of prompts of different lengths against the same prompts one by one, prefill included."""

    def answered(batch: Sequence[SegmentedPrompt]) -> tuple[float, tuple[Answer, ...]]:
        streams = [Stream((fused_view(each, Encoding()),), prompt=i) for i, each in enumerate(batch)]
        *_, last = generate(lm, batch, streams, Decoding(new_tokens, mass=False, candidates=2))
        return last.total_seconds, last.answers

    def count(answers: Sequence[Answer]) -> int:
        return sum(len(answer.token_ids) for answer in answers)

    rates: dict[str, list[float]] = {"alone": [], "batched": []}
    for _ in range(runs + 1):
        singles = [answered([prompt]) for prompt in prompts]
        alone = [answer for _, (answer,) in singles]
        seconds, together = answered(prompts)
        rates["alone"].append(count(alone) / sum(spent for spent, _ in singles))
        rates["batched"].append(count(together) / seconds)
    differing = [(a, b) for a, b in zip(alone, together, strict=True) if a.token_ids != b.token_ids]
    ties = sum(_parts_at_a_tie(a, b) for a, b in differing)
    one, many = (statistics.median(values[1:]) for values in rates.values())  # the first run warms up
    longest = max(len(prompt.token_ids) for prompt in prompts)
    return BatchSpeed(lm.backend, len(prompts), longest, one, many, len(differing), ties, runs)


def _parts_at_a_tie(answer: Answer, other: Answer) -> bool:
    """Whether two answers first differ where one's two likeliest tokens, of which the other took one, are a tie."""
    step = next(t for t, (a, b) in enumerate(zip(answer.token_ids, other.token_ids, strict=False)) if a != b)
    (_, first), (second_token, second) = answer.candidates[step]
    return other.token_ids[step] == second_token and math.log(first / second) < TIE


def measure_bundled(
    *, new_tokens: int = 32, runs: int = 5, device: str = "cpu", dtype: str = "float32", log: Callable[[str], None]
) -> dict[str, Any]:
    """What the bundled model costs over the shipped examples of PARAPHRASES wordings: start, speed, all methods."""
    lm = load_model(device=device, dtype=dtype)
    examples = json.loads((ASSETS / "examples.json").read_text(encoding="utf-8"))
    asked = [each for each in examples if len(each["paraphrases"]) == PARAPHRASES - 1]
    prompts = [build_prompt(lm.tokenizer, each["question"], each["paraphrases"]) for each in asked]
    cost = methods_cost(lm, prompts, new_tokens, runs=runs)
    log(f"{cost}, {len(prompts)} questions of {PARAPHRASES} wordings")
    every = [build_prompt(lm.tokenizer, each["question"], each["paraphrases"]) for each in examples]
    batch = batch_speed(lm, (every * BATCH)[:BATCH], new_tokens, runs=min(runs, 3))
    log(str(batch))
    texts = [(each["question"], each["paraphrases"]) for each in asked]
    spent = measure_whereabouts(lm, texts, new_tokens=new_tokens, runs=runs, log=log)
    measured = {"questions": len(prompts), "methods": [cost.to_dict()], "batches": [batch.to_dict()]}
    return {**_facts(BUNDLED, device, dtype), **measured, **spent}


def _facts(shape: str, device: str, dtype: str) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return {"shape": shape, "device": device, "dtype": dtype, **versions}


def measure(
    *,
    shape: str = "tiny",
    lengths: Sequence[int] = (128, 512, 2048),
    new_tokens: int = 32,
    runs: int = 5,
    device: str = "cpu",
    dtype: str = "float32",
    backends: Sequence[str] = tuple(BACKENDS),
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Times of every backend and of `generate` (standard attention, no segments) at each prompt length.

    All backends must give the same greedy tokens, or the result says how many prompts differ: bf16 ties can.
    """
    if shape not in SHAPES:
        raise InputError(f"unknown shape {shape!r}: choose from {', '.join(SHAPES)}, {BUNDLED}")
    # On the CPU compiled kernels bring a thread pool of their own, which slows whatever runs after them: they go last.
    last = [name for name in backends if device == "cpu" and BACKENDS[name].multiple > 1]
    timings, tokens, costs, batches = [], {}, [], []
    for group in ([name for name in (*backends, THEIRS) if name not in last], last):
        ways = {name: _way(name, shape, device, dtype) for name in group}
        for length in lengths:
            samples: dict[str, list[Sample]] = {name: [] for name in group}
            for seed in range(runs + 1):
                prompt = random_prompt(length, SHAPES[shape]["vocab"], seed=seed)
                for name, (way, _) in ways.items():
                    samples[name].append(way(prompt, new_tokens))
                    if name != THEIRS:
                        tokens.setdefault((length, seed), set()).add(samples[name][-1].token_ids)
            for name in group:
                timings.append(_timing(name, len(prompt.token_ids), samples[name][1:]))  # the first run warms up
                log(str(timings[-1]))
            for _, lm in ways.values():
                if lm is not None:
                    costs.append(methods_cost(lm, [prompt], new_tokens, runs=runs))
                    log(str(costs[-1]))
                if lm is not None and lm.backend == BATCH_BACKEND:
                    sizes = [length // 2 + i * (length - length // 2) // BATCH for i in range(BATCH)]
                    batch = [random_prompt(size, SHAPES[shape]["vocab"], seed=i) for i, size in enumerate(sizes)]
                    batches.append(batch_speed(lm, batch, new_tokens, runs=min(runs, 3)))
                    log(str(batches[-1]))
    differing = sum(len(answers) > 1 for answers in tokens.values())
    return {
        **_facts(shape, device, dtype),
        "prompts_where_backends_differ": differing,
        "timings": [asdict(timing) for timing in timings],
        "methods": [cost.to_dict() for cost in costs],
        "batches": [batch.to_dict() for batch in batches],
    }
