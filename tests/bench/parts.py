"""What the parts of a run cost by themselves: all methods, a batch, a long prompt; on a GPU also masks and attention.

python tests/bench/parts.py --shape llama-3.2-3b --device cuda --dtype bfloat16 --backend flex
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # flexdemo, which need not be installed

from flexdemo.answers.methods import plan_all, resolve_methods
from flexdemo.cli.bench import SHAPES, WARM_UPS, Log, milliseconds, random_lm, random_prompt
from flexdemo.engine.attention import BACKENDS
from flexdemo.engine.blocks import block_mask, dense_mask, layout_of
from flexdemo.engine.decode import Answer, Progress, generate
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.recorders import Scoring
from flexdemo.plan import Encoding, Stream, fused_view
from flexdemo.prompt import Segment, SegmentedPrompt
from flexdemo.request import Decoding, Request

CANDIDATES = 20  # of a token, to tell how near the one was that another way chose
BATCH = 32  # prompts of different lengths
MASK_TOKENS = 32768
SEGMENTS = ((8, 4096),)  # segments x tokens of each, for attention alone
HEADS, KV_HEADS, WIDTH = (
    SHAPES["llama-3.2-3b"][name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim")
)


def _answered(lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int) -> Progress:
    """The end of one batch, whose answers tell what else was likely."""
    streams = [Stream((fused_view(each, Encoding()),), prompt=i) for i, each in enumerate(prompts)]
    *_, last = generate(lm, prompts, streams, Decoding(new_tokens, mass=False, candidates=CANDIDATES))
    return last


def methods_cost(
    lm: LanguageModel, prompts: Sequence[SegmentedPrompt], new_tokens: int, *, runs: int, log: Log
) -> dict[str, Any]:
    """Median seconds of a request with `flex` alone and with all methods, each run over every prompt in turn."""

    def seconds(names: Sequence[str]) -> tuple[float, int]:
        spent, most = 0.0, 0
        for prompt in prompts:
            chosen = resolve_methods(names, len(prompt.paraphrases))
            batch, (plan,) = plan_all([prompt], chosen, Request(question=""), depth=lm.depth)
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


@torch.no_grad()
def attention_times(segments: int, length: int, device: str) -> dict[str, Any]:
    """Milliseconds of one layer's attention: flex under the segment mask, SDPA with that mask, causal flash (bf16)."""
    size = BACKENDS["flex"].padded(segments * length)
    layout = layout_of("segment", _wordings(segments, length), pads=size - segments * length).to(device)
    options = {"dtype": torch.bfloat16, "device": device}
    query = torch.randn(1, HEADS, size, WIDTH, **options)
    key, value = (torch.randn(1, KV_HEADS, size, WIDTH, **options) for _ in range(2))

    def run(name: str, mask: Tensor | object) -> float:
        return milliseconds(lambda: BACKENDS[name].attend(query, key, value, mask, Scoring(WIDTH**-0.5)))

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


def mask_and_attention(device: str, shapes: Sequence[tuple[int, int]], *, log: Log) -> dict[str, Any]:
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
    log: Log,
) -> dict[str, Any]:
    """Median cost of `flex` over a prompt of this size, decoded in `rows` rows of different weights.

    Seconds to the first token and a token after it; memory beyond the weights at its peak, and beyond one KV cache for
    each row and encoding too, which are known of a GPU only.
    """
    text = lm.model.config.get_text_config()
    prompt = random_prompt(tokens, text.vocab_size, seed=0, paraphrases=paraphrases)
    fused = fused_view(prompt, Encoding())
    streams = [Stream((replace(fused, weights=(1.0 + i, *fused.weights[1:])),)) for i in range(rows)]
    on_gpu, before = lm.device.type == "cuda", 0
    if on_gpu:
        lm.graphs.clear()  # what they keep is part of what this costs
        gc.collect()  # a model that was measured before is a cycle: its weights would be freed in between
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


def measure_parts(
    *, shape: str, length: int, new_tokens: int, runs: int, device: str, dtype: str, backend: str, log: Log
) -> dict[str, Any]:
    """All of them, of one backend at one prompt length; what a GPU alone tells is left out elsewhere."""
    vocabulary, lm = SHAPES[shape]["vocab_size"], random_lm(shape, device=device, dtype=dtype, backend=backend)
    methods = methods_cost(lm, [random_prompt(length, vocabulary, seed=0)], new_tokens, runs=runs, log=log)
    sizes = [length // 2 + i * (length - length // 2) // BATCH for i in range(BATCH)]
    batch = [random_prompt(size, vocabulary, seed=i) for i, size in enumerate(sizes)]
    told = {"methods": [methods], "batches": [batch_speed(lm, batch, new_tokens, runs=min(runs, 3), log=log)]}
    if device != "cpu":
        told |= mask_and_attention(device, SEGMENTS, log=log)
        told["long_prompt"] = cost(lm, MASK_TOKENS, 8, 1, new_tokens=2, runs=1, log=log)
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="tiny")
    parser.add_argument("--length", type=int, default=650, help="tokens of the prompt (default: 650)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=32)
    told = measure_parts(**vars(parser.parse_args()), log=lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
