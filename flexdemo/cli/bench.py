"""Speed of each backend against transformers' `generate`, side by side in one run, on random weights of a known shape.

Times are medians of several runs that take turns, so that a noisy machine disturbs all alike.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch._dynamo.utils import counters

from ..answers.methods import mixing_layer, plan_all, resolve_methods
from ..engine.attention import BACKENDS
from ..engine.decode import Answer, Progress, generate
from ..engine.model import LanguageModel
from ..plan import Encoding, Stream, fused_view
from ..prompt import SegmentedPrompt
from ..request import Decoding
from .measures import (
    SHAPES,
    WARM_UPS,
    beside_speed,
    check_shape,
    copy_bandwidth,
    random_lm,
    random_model,
    random_prompt,
    run_facts,
    weight_bytes,
)

PARAPHRASES = 5
CANDIDATES = 20  # of a token, to tell how near the one was that another way chose
BATCH = 32  # prompts of different lengths
THEIRS, THEIRS_STATIC = "transformers generate", "generate, static cache"
COMPILED = " compiled"  # behind a backend's name: the whole forward pass is


@dataclass(frozen=True)
class Timing:
    """Medians over `runs`: seconds to the first token, and tokens per second after it."""

    way: str
    prompt_tokens: int
    first_token_seconds: float
    tokens_per_second: float
    runs: int
    roofline: float | None = None  # tokens per second at which the weights are read at the speed of a copy
    compilations: int | None = None  # for one more prompt, of another length; None: not counted

    def __str__(self) -> str:
        share = "" if self.roofline is None else f", {self.tokens_per_second / self.roofline:.3f} of the roofline"
        again = "" if self.compilations is None else f"; {self.compilations} compilations for another length"
        return (
            f"{self.way:>23} {self.prompt_tokens:6d} tokens: first {1000 * self.first_token_seconds:8.1f} ms, "
            f"then {self.tokens_per_second:8.1f} tokens/s{share} (median of {self.runs}{again})"
        )


@dataclass(frozen=True)
class Sample:
    """One run: seconds to the first token and in all, and the tokens."""

    first: float
    total: float
    token_ids: tuple[int, ...]


Way = Callable[[SegmentedPrompt, int], Sample]


def _prompt(tokens: int, vocabulary: int, *, seed: int) -> SegmentedPrompt:
    return random_prompt(tokens, vocabulary, seed=seed, paraphrases=PARAPHRASES)


def _answered(
    lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int, *, candidates: int = CANDIDATES
) -> Progress:
    """The end of one batch, whose answers tell what else was likely."""
    streams = [Stream((fused_view(each, Encoding()),), prompt=i) for i, each in enumerate(prompts)]
    *_, last = generate(lm, prompts, streams, Decoding(new_tokens, mass=False, candidates=candidates))
    return last


def _run_ours(lm: LanguageModel, prompt: SegmentedPrompt, new_tokens: int) -> Sample:
    last = _answered(lm, [prompt], new_tokens, candidates=0)
    return Sample(last.first_token_seconds, last.total_seconds, last.answers[0].token_ids)


def _run_theirs(model: torch.nn.Module, prompt: SegmentedPrompt, new_tokens: int, **options: Any) -> Sample:
    ids = torch.tensor([prompt.token_ids], device=model.device)

    def timed(count: int) -> tuple[float, list[int]]:
        began = time.perf_counter()
        limits = {"max_new_tokens": count, "do_sample": False, **options}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **limits)
        tokens = out[0, ids.shape[1] :].tolist()
        return time.perf_counter() - began, tokens

    first, _ = timed(1)
    total, tokens = timed(new_tokens)
    return Sample(first, total, tuple(tokens))


def _way(name: str, shape: str, device: str, dtype: str) -> tuple[Way, LanguageModel | None]:
    if name in (THEIRS, THEIRS_STATIC):
        options = {"cache_implementation": "static"} if name == THEIRS_STATIC else {}
        return functools.partial(_run_theirs, random_model(shape, device=device, dtype=dtype), **options), None
    whole = name.endswith(COMPILED)
    lm = random_lm(shape, device=device, dtype=dtype, backend=name.removesuffix(COMPILED), compiled=whole)
    return functools.partial(_run_ours, lm), lm


def _timing(
    name: str, prompt_tokens: int, samples: Sequence[Sample], *, roofline: float | None, compilations: int | None
) -> Timing:
    first = statistics.median(sample.first for sample in samples)
    rate = statistics.median((len(s.token_ids) - 1) / (s.total - s.first) for s in samples)
    return Timing(name, prompt_tokens, first, rate, len(samples), roofline, compilations)


def _compilations(way: Way, prompt: SegmentedPrompt, new_tokens: int) -> int:
    """Graphs that the compiler makes for a prompt of another length than those before."""
    before = counters["stats"]["unique_graphs"]
    way(prompt, new_tokens)
    return counters["stats"]["unique_graphs"] - before


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


def methods_cost(
    lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int, *, runs: int, way: str = ""
) -> MethodsCost:
    """What all methods at once cost against `flex` alone, each run over every prompt in turn."""

    def seconds(names: Sequence[str]) -> tuple[float, int]:
        spent, most = 0.0, 0
        for prompt in prompts:
            chosen, layer = resolve_methods(names, len(prompt.paraphrases)), mixing_layer(0, lm.depth)
            batch, (plan,) = plan_all([prompt], chosen, lambda each: fused_view(each, Encoding()), layer=layer)
            streams = list(dict.fromkeys(stream for streams in plan.values() for stream in streams))
            *_, last = generate(lm, batch, streams, Decoding(new_tokens, mass=False))
            spent, most = spent + last.total_seconds, max(most, sum(len(stream.views) for stream in streams))
        return spent, most

    taken = [(seconds(["flex"]), seconds(["all"])) for _ in range(runs + WARM_UPS)][WARM_UPS:]
    flex, everything = (statistics.median(run[i][0] for run in taken) / len(prompts) for i in range(2))
    length = round(statistics.mean(len(prompt.token_ids) for prompt in prompts))
    return MethodsCost(way or lm.backend, length, flex, everything, taken[0][1][1], runs)


@dataclass(frozen=True)
class BatchSpeed:
    """Tokens per second of `flex` over the same prompts, one at a time and in one batch; medians over `runs`.

    The `later_` rates are those of the tokens after each answer's first, in the time after it: reading prompts apart.
    """

    backend: str
    prompts: int
    longest_prompt: int
    alone_per_second: float
    batched_per_second: float
    later_alone_per_second: float
    later_batched_per_second: float
    differing: int  # prompts whose greedy tokens differ between the two
    widest_gap: float | None  # nats between the two tokens where they first differ, at most: see `widest`
    runs: int

    @property
    def ratio(self) -> float:
        return self.batched_per_second / self.alone_per_second

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "later_ratio": self.later_ratio}

    @property
    def later_ratio(self) -> float:
        return self.later_batched_per_second / self.later_alone_per_second

    def __str__(self) -> str:
        return (
            f"{self.backend:>22} {self.prompts:6d} prompts in a batch, up to {self.longest_prompt} tokens: "
            f"{self.batched_per_second:.0f} tokens/s, {self.ratio:.1f} x one by one ({self.alone_per_second:.0f}); "
            f"after the first tokens {self.later_batched_per_second:.0f}, {self.later_ratio:.1f} x; "
            f"{self.differing} answers differ{at_a_gap(self.differing, self.widest_gap)} (median of {self.runs})"
        )


def _rates(runs: Sequence[Progress]) -> tuple[float, float]:
    """Tokens per second of requests that follow each other: of all tokens, and of those after the first."""
    tokens = sum(len(answer.token_ids) for run in runs for answer in run.answers)
    later = tokens - sum(len(run.answers) for run in runs)
    seconds = sum(run.total_seconds for run in runs)
    return tokens / seconds, later / (seconds - sum(run.first_token_seconds for run in runs))


def batch_speed(
    lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int, *, runs: int, way: str = ""
) -> BatchSpeed:
    """Speed of a batch of prompts of different lengths against the same prompts one by one."""
    taken = []
    for _ in range(runs + WARM_UPS):
        alone = [_answered(lm, [prompt], new_tokens) for prompt in prompts]
        together = _answered(lm, prompts, new_tokens)
        taken.append((*_rates(alone), *_rates([together])))
    one, later_one, many, later_many = (statistics.median(column) for column in zip(*taken[WARM_UPS:], strict=True))
    pairs = [(run.answers[0], other) for run, other in zip(alone, together.answers, strict=True)]
    gaps = [gap_at_first_difference(a, b) for a, b in pairs if a.token_ids != b.token_ids]
    return BatchSpeed(
        way or lm.backend,
        len(prompts),
        max(len(prompt.token_ids) for prompt in prompts),
        one,
        many,
        later_one,
        later_many,
        len(gaps),
        widest(gaps),
        runs,
    )


def gap_at_first_difference(answer: Answer, other: Answer) -> float:
    """Nats between an answer's token and the other's where they first differ; infinite if it was no runner-up."""
    step = next(t for t, (a, b) in enumerate(zip(answer.token_ids, other.token_ids, strict=False)) if a != b)
    (_, first), *rest = answer.candidates[step]
    return next((math.log(first / share) for token, share in rest if token == other.token_ids[step]), math.inf)


def widest(gaps: Sequence[float]) -> float | None:
    """The widest of the gaps at which answers first differ; 0 if none does, None if one is wider than was looked at."""
    most = max(gaps, default=0.0)
    return most if math.isfinite(most) else None


def at_a_gap(differing: int, gap: float | None) -> str:
    """How far apart tokens were where answers first differ; rounding moves a random model's by tenths of a nat."""
    if not differing:
        return ""
    if gap is None:
        return f", one of them at a token beyond the {CANDIDATES} likeliest"
    return f", first at tokens at most {gap:.2f} nats apart"


def measure(
    *,
    shape: str = "tiny",
    lengths: Sequence[int] = (128, 512, 2048),
    new_tokens: int = 32,
    runs: int = 5,
    device: str = "cpu",
    dtype: str = "float32",
    backends: Sequence[str] = tuple(BACKENDS),
    compiled: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Times of every backend and of `generate` (standard attention, no segments) at each prompt length.

    All backends must give the same greedy tokens, or the result says how many prompts differ: bf16 ties can. With
    `compiled` each backend that allows it also runs with its whole forward pass compiled.
    """
    check_shape(shape)
    # On the CPU compiled kernels bring a thread pool of their own, which slows whatever runs after them: they go last.
    last = [name for name in backends if device == "cpu" and BACKENDS[name].multiple > 1]
    batched = "sdpa" if device == "cpu" else "flex"  # what `--backend auto` chooses
    timings, tokens, spent, batches, gaps = [], {}, [], [], []
    whole = [name + COMPILED for name in backends if compiled and BACKENDS[name].captures]
    bandwidth = copy_bandwidth(device) if device != "cpu" else None
    if bandwidth is not None:
        log(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    theirs = [THEIRS] if device == "cpu" else [THEIRS, THEIRS_STATIC]  # which compiles itself on a GPU
    beside: dict[str, Any] = {}
    for group in ([name for name in (*backends, *whole, *theirs) if name not in last], last):
        ways = {name: _way(name, shape, device, dtype) for name in group}
        for length in lengths:
            samples: dict[str, list[Sample]] = {name: [] for name in group}
            for seed in range(runs + WARM_UPS):
                prompt = _prompt(length, SHAPES[shape]["vocab"], seed=seed)
                for name, (way, _) in ways.items():
                    samples[name].append(way(prompt, new_tokens))
                ours = {name: samples[name][-1].token_ids for name, (_, lm) in ways.items() if lm is not None}
                tokens.setdefault((length, seed), set()).update(ours.values())
                if len(set(ours.values())) > 1:
                    first, *others = (_answered(lm, [prompt], new_tokens).answers[0] for _, lm in ways.values() if lm)
                    gaps += [
                        gap_at_first_difference(first, each) for each in others if each.token_ids != first.token_ids
                    ]
            other = _prompt(length // 2, SHAPES[shape]["vocab"], seed=0)
            for name, (way, _) in ways.items():
                facts = {"roofline": bandwidth and bandwidth / weight_bytes(shape, dtype)}
                facts["compilations"] = None if name in theirs else _compilations(way, other, new_tokens)
                timings.append(_timing(name, len(prompt.token_ids), samples[name][WARM_UPS:], **facts))
                log(str(timings[-1]))
            for name, (_, lm) in ways.items():
                if lm is not None and name not in whole:  # whose passes of several rows take minutes to compile
                    spent.append(methods_cost(lm, [prompt], new_tokens, runs=runs, way=name))
                    log(str(spent[-1]))
                if lm is not None and name == batched:
                    sizes = [length // 2 + i * (length - length // 2) // BATCH for i in range(BATCH)]
                    batch = [_prompt(size, SHAPES[shape]["vocab"], seed=i) for i, size in enumerate(sizes)]
                    batches.append(batch_speed(lm, batch, min(new_tokens, 32), runs=min(runs, 3), way=name))
                    log(str(batches[-1]))
        if device != "cpu" and group:
            beside = beside_speed(next(lm for _, lm in ways.values() if lm is not None), log=log)
    differing = sum(len(answers) > 1 for answers in tokens.values())
    return {
        **run_facts(shape, device, dtype),
        "copy_bandwidth": bandwidth,
        "prompts_where_backends_differ": differing,
        "widest_gap": widest(gaps),
        "timings": [asdict(timing) for timing in timings],
        "methods": [cost.to_dict() for cost in spent],
        "batches": [batch.to_dict() for batch in batches],
        **beside,
    }
