"""What a bench run on a GPU reached, row by row, beside what was aimed at. Knows the run's figures only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SMALL, LARGE = "llama-3.2-1b", "llama-3.2-3b"
DECODE = {SMALL: 0.53, LARGE: 0.60}  # of the memory roofline
FIRST_TOKEN = 0.6  # of generate's time
FLASH, DENSE = 4.0, 15.0  # times as fast as attention without the segments' mask, or with it as a dense one
SEGMENTS = (8, 4096)
MASK_MILLISECONDS = 1.0
ALL_METHODS, BATCH = {LARGE: 1.6}, {LARGE: 20.0}  # times one method's seconds, times one row's tokens per second
LONG_PROMPT_BYTES = 2**30


@dataclass(frozen=True)
class Reached:
    """One row: a figure, and the target that it should not be below (`at_least`) or above; None if there is none."""

    what: str
    value: float
    unit: str
    target: float | None
    at_least: bool
    detail: str = ""

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}

    def __str__(self) -> str:
        verdict = {True: "reached", False: "MISSED", None: "no target"}[self.met]
        aim = "" if self.target is None else f" (at {'least' if self.at_least else 'most'} {self.target:g})"
        detail = f"; {self.detail}" if self.detail else ""
        return f"{verdict:>9}  {self.what}: {self.value:.3f} {self.unit}{aim}{detail}"


def reached(result: Mapping[str, Any], theirs: Sequence[str]) -> list[Reached]:
    """Every target of which a run has the figures; `theirs` are the ways that are not ours.

    The best of our ways is set against the best of theirs, at the first length that was measured.
    """
    shape, timings = result["shape"], result["timings"]
    length = timings[0]["prompt_tokens"]
    ours, others = [], []
    for each in timings:
        if each["prompt_tokens"] == length:
            (others if each["way"] in theirs else ours).append(each)
    rows = []
    fastest = max(ours, key=lambda each: each["tokens_per_second"])
    rate, quick = fastest["tokens_per_second"], min(ours, key=lambda each: each["first_token_seconds"])
    if fastest["roofline"]:
        rest = [f"{each['way']} {each['tokens_per_second'] / each['roofline']:.3f}" for each in others]
        told = f"{fastest['way']}, {rate:.1f} tokens/s; {', '.join(rest)}"
        share = rate / fastest["roofline"]
        rows.append(Reached("decode, one row", share, "of the roofline", DECODE.get(shape), True, told))
    if others:
        best = min(others, key=lambda each: each["first_token_seconds"])
        mine, other = (1000 * each["first_token_seconds"] for each in (quick, best))
        told = f"{quick['way']} {mine:.1f} ms, {best['way']} {other:.1f} ms"
        rows.append(Reached("first token", mine / other, "x generate's", FIRST_TOKEN, False, told))
    for each in result.get("attention", ()):
        if (each["segments"], each["length"]) == SEGMENTS:
            what = f"attention, {each['segments']} segments x {each['length']}"
            for name, key, target in (("causal flash", "causal_flash", FLASH), ("dense mask", "dense_mask", DENSE)):
                told = f"{each['flex']:.2f} ms, {each[key]:.2f} ms"
                rows.append(Reached(what, each[key] / each["flex"], f"x faster than {name}", target, True, told))
    if result.get("mask_milliseconds") is not None:
        rows.append(
            Reached("building the mask, 32k tokens", result["mask_milliseconds"], "ms", MASK_MILLISECONDS, False)
        )
    for each in result["methods"]:
        if each["prompt_tokens"] == length:
            told = f"{each['backend']}, {each['rows']} rows"
            rows.append(Reached("all methods", each["ratio"], "x flex alone", ALL_METHODS.get(shape), False, told))
    for each in result["batches"]:
        what, told = f"{each['prompts']} prompts in a batch", f"{each['batched_per_second']:.0f} tokens/s"
        rows.append(Reached(what, each["ratio"], "x one by one, prompts included", None, True, told))
        later = each["later_batched_per_second"]
        told = f"{each['backend']}, {later:.0f} tokens/s and {each['later_alone_per_second']:.0f} for one row"
        target = BATCH.get(shape)
        rows.append(Reached(what, each["later_ratio"], "x one row, after the first tokens", target, True, told))
        told = f"{fastest['way']} {rate:.0f} tokens/s"
        rows.append(Reached(what, later / rate, "x the fastest way for one row", None, True, told))
    if result.get("long_prompt"):
        long = result["long_prompt"]
        told, gib = f"{long['tokens']} tokens", long["other_bytes"] / 2**30
        limit = LONG_PROMPT_BYTES / 2**30
        rows.append(Reached("memory beyond weights and KV cache", gib, "GiB", limit, False, told))
    counted = [f"{each['way']} {each['compilations']}" for each in ours if each["compilations"] is not None]
    again = sum(each["compilations"] or 0 for each in ours)
    rows.append(Reached("compilations for another length", again, "graphs", 0, False, ", ".join(counted)))
    return rows
