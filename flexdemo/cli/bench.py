"""Speed of each backend against transformers' `generate`, side by side in one run, on random weights of a known shape.

Times are medians of several runs that take turns, so that a noisy machine disturbs all alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    MASK_TOKENS,
    SEGMENTS,
    SHAPES,
    WARM_UPS,
    check_shape,
    copy_bandwidth,
    cost,
    mask_and_attention,
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
Log = Callable[[str], None]


class Sample(NamedTuple):
    """One run: seconds to the first token and in all, and the tokens."""

    first: float
    total: float
    token_ids: tuple[int, ...]


def _prompt(tokens: int, shape: str, *, seed: int) -> SegmentedPrompt:
    return random_prompt(tokens, SHAPES[shape]["vocab_size"], seed=seed, paraphrases=PARAPHRASES)


def _answered(
    lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int, *, candidates: int = CANDIDATES
) -> Progress:
    """The end of one batch, whose answers tell what else was likely."""
    streams = [Stream((fused_view(each, Encoding()),), prompt=i) for i, each in enumerate(prompts)]
    *_, last = generate(lm, prompts, streams, Decoding(new_tokens, mass=False, candidates=candidates))
    return last


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
            last = _answered(self.lm, [prompt], new_tokens, candidates=0)
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


def methods_cost(
    lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int, *, runs: int, log: Log
) -> dict[str, Any]:
    """Median seconds of a request with `flex` alone and with all methods, each run over every prompt in turn."""

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
    length, rows = round(statistics.mean(len(prompt.token_ids) for prompt in prompts)), taken[0][1][1]
    log(
        f"{lm.backend:>22} {length:6d} tokens: all methods, {rows} rows, take {everything / flex:.2f} x flex alone "
        f"({1000 * flex:.1f} ms; median of {runs})"
    )
    told = {"backend": lm.backend, "prompt_tokens": length, "flex_seconds": flex, "all_seconds": everything}
    return {**told, "rows": rows, "runs": runs, "ratio": everything / flex}


def _rates(runs: Sequence[Progress]) -> tuple[float, float]:
    """Tokens per second of requests that follow each other: of all tokens, and of those after the first."""
    tokens = sum(len(answer.token_ids) for run in runs for answer in run.answers)
    later = tokens - sum(len(run.answers) for run in runs)
    seconds = sum(run.total_seconds for run in runs)
    return tokens / seconds, later / (seconds - sum(run.first_token_seconds for run in runs))


def batch_speed(
    lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int, *, runs: int, log: Log
) -> dict[str, Any]:
    """Median tokens per second of `flex` over the same prompts, one at a time and in one batch.

    The `later` rates are those of the tokens after each answer's first, in the time after it: reading prompts apart.
    `differing` counts prompts whose greedy tokens differ between the two, see `widest` for the gap.
    """
    taken = []
    for _ in range(runs + WARM_UPS):
        alone = [_answered(lm, [prompt], new_tokens) for prompt in prompts]
        together = _answered(lm, prompts, new_tokens)
        taken.append((*_rates(alone), *_rates([together])))
    one, later_one, many, later_many = (statistics.median(column) for column in zip(*taken[WARM_UPS:], strict=True))
    gaps = gaps_between([run.answers[0] for run in alone], together.answers)
    longest = max(len(prompt.token_ids) for prompt in prompts)
    apart = at_a_gap(len(gaps), widest(gaps))
    log(
        f"{lm.backend:>22} {len(prompts):6d} prompts in a batch, up to {longest} tokens: {many:.0f} tokens/s, "
        f"{many / one:.1f} x one by one ({one:.0f}); after the first tokens {later_many:.0f}, "
        f"{later_many / later_one:.1f} x; {len(gaps)} answers differ{apart} (median of {runs})"
    )
    return {
        "backend": lm.backend,
        "prompts": len(prompts),
        "longest_prompt": longest,
        "alone_per_second": one,
        "batched_per_second": many,
        "later_alone_per_second": later_one,
        "later_batched_per_second": later_many,
        "differing": len(gaps),
        "widest_gap": widest(gaps),
        "runs": runs,
        "ratio": many / one,
        "later_ratio": later_many / later_one,
    }


def gaps_between(answers: Sequence[Answer], others: Sequence[Answer]) -> list[float]:
    """Nats between the tokens of two answers to a prompt where they first differ; infinite if it was no runner-up."""
    gaps = []
    for answer, other in zip(answers, others, strict=True):
        pairs = zip(answer.token_ids, other.token_ids, strict=False)
        step = next((t for t, (token, another) in enumerate(pairs) if token != another), None)
        if step is not None:
            (_, first), *rest = answer.candidates[step]
            shares = (math.log(first / share) for token, share in rest if token == other.token_ids[step])
            gaps.append(next(shares, math.inf))
    return gaps


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
    check_shape(shape)
    # On the CPU compiled kernels bring a thread pool of their own, which slows whatever runs after them: they go last.
    last = [name for name in backends if device == "cpu" and BACKENDS[name].multiple > 1]
    batched = "sdpa" if device == "cpu" else "flex"  # what `--backend auto` chooses
    whole = [name + COMPILED for name in backends if compiled and BACKENDS[name].captures]
    theirs = [THEIRS] if device == "cpu" else [THEIRS, THEIRS_STATIC]  # which compiles itself on a GPU
    bandwidth = roofline = None
    if device != "cpu":
        bandwidth = copy_bandwidth(device)
        roofline = bandwidth / weight_bytes(shape, dtype)
        log(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    told: dict[str, Any] = {"timings": [], "methods": [], "batches": []}
    said: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    gaps: list[float] = []
    for group in ([name for name in (*backends, *whole, *theirs) if name not in last], last):
        ways = [Way(name, shape, device, dtype) for name in group]
        ours = [way.lm for way in ways if way.lm is not None]
        for length in lengths:
            prompts = [_prompt(length, shape, seed=seed) for seed in range(runs + WARM_UPS)]
            samples = [[way.run(prompt, new_tokens) for way in ways] for prompt in prompts]  # they take turns
            for seed, (prompt, row) in enumerate(zip(prompts, samples, strict=True)):
                tokens = {sample.token_ids for way, sample in zip(ways, row, strict=True) if way.lm is not None}
                said.setdefault((length, seed), set()).update(tokens)
                if len(tokens) > 1:
                    answers = [_answered(lm, [prompt], new_tokens).answers[0] for lm in ours]
                    gaps += gaps_between([answers[0]] * len(answers), answers)
            for way, column in zip(ways, zip(*samples, strict=True), strict=True):
                again = None if way.lm is None else _compilations(way, _prompt(length // 2, shape, seed=0), new_tokens)
                facts = {"roofline": roofline, "compilations": again, "log": log}
                told["timings"].append(timing(way.name, column[WARM_UPS:], len(prompts[0].token_ids), **facts))
            for way in ways:
                if way.lm is None or way.name in whole:  # whose passes of several rows take minutes to compile
                    continue
                told["methods"].append(methods_cost(way.lm, prompts[-1:], new_tokens, runs=runs, log=log))
                if way.name == batched:
                    sizes = [length // 2 + i * (length - length // 2) // BATCH for i in range(BATCH)]
                    batch = [_prompt(size, shape, seed=i) for i, size in enumerate(sizes)]
                    speed = batch_speed(way.lm, batch, min(new_tokens, 32), runs=min(runs, 3), log=log)
                    told["batches"].append(speed)
        if device != "cpu" and ours:
            told |= mask_and_attention(device, SEGMENTS, log=log)
            told["long_prompt"] = cost(ours[0], MASK_TOKENS, 8, 1, new_tokens=2, runs=1, log=log)
    differing = sum(len(answers) > 1 for answers in said.values())
    apart = {"prompts_where_backends_differ": differing, "widest_gap": widest(gaps)}
    return {**run_facts(shape, device, dtype), "copy_bandwidth": bandwidth, **apart, **told}


def _compilations(way: Way, prompt: SegmentedPrompt, new_tokens: int) -> int:
    """Graphs that the compiler makes for a prompt of another length than those before."""
    before = counters["stats"]["unique_graphs"]
    way.run(prompt, new_tokens)
    return counters["stats"]["unique_graphs"] - before
