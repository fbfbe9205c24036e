"""What a GPU reaches, row by row, beside what is aimed at.

python tests/bench/targets.py --shape llama-3.2-3b
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # flexdemo, which need not be installed

from parts import measure_parts

from flexdemo.cli.bench import THEIRS, THEIRS_STATIC, measure

SMALL, LARGE = "llama-3.2-1b", "llama-3.2-3b"
DECODE = {SMALL: 0.65, LARGE: 0.78}  # of the memory roofline
FIRST_TOKEN = 0.5  # of generate's time
SEGMENTS, ATTENTION_MILLISECONDS = (8, 4096), 2.0
MASK_MILLISECONDS = 0.3
ALL_METHODS, BATCH = {LARGE: 1.25}, {LARGE: 20.0}  # times one method's seconds, times one row's tokens per second
LONG_PROMPT_GIB = 0.06


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

    def __str__(self) -> str:
        verdict = {True: "reached", False: "MISSED", None: "no target"}[self.met]
        aim = "" if self.target is None else f" (at {'least' if self.at_least else 'most'} {self.target:g})"
        detail = f"; {self.detail}" if self.detail else ""
        return f"{verdict:>9}  {self.what}: {self.value:.3f} {self.unit}{aim}{detail}"


def reached(result: Mapping[str, Any], theirs: Sequence[str] = (THEIRS, THEIRS_STATIC)) -> list[Reached]:
    """Every target of which a run has the figures; `theirs` are the ways that are not ours.

    The best of our ways is set against the best of theirs, at the first length that was measured.
    """
    shape, timings, rows = result["shape"], result["timings"], []
    length = timings[0]["prompt_tokens"]
    ours, others = (
        [each for each in timings if each["prompt_tokens"] == length and (each["way"] in theirs) == whose]
        for whose in (False, True)
    )
    fastest = max(ours, key=lambda each: each["tokens_per_second"])
    if fastest["roofline"]:
        shares = {each["way"]: each["tokens_per_second"] / each["roofline"] for each in (fastest, *others)}
        told = f"{fastest['way']}, {fastest['tokens_per_second']:.1f} tokens/s"
        told += "".join(f", {way} {share:.3f}" for way, share in list(shares.items())[1:])
        rows.append(
            Reached("decode, one row", shares[fastest["way"]], "of the roofline", DECODE.get(shape), True, told)
        )
    if others:
        pair = [min(each, key=lambda each: each["first_token_seconds"]) for each in (ours, others)]
        mine, other = (1000 * each["first_token_seconds"] for each in pair)
        told = f"{pair[0]['way']} {mine:.1f} ms, {pair[1]['way']} {other:.1f} ms"
        rows.append(Reached("first token", mine / other, "x generate's", FIRST_TOKEN, False, told))
    for each in result.get("attention", ()):
        if (each["segments"], each["length"]) == SEGMENTS:
            told = f"causal flash {each['causal_flash']:.2f} ms, dense mask {each['dense_mask']:.2f} ms"
            what = f"attention, {each['segments']} x {each['length']}"
            rows.append(Reached(what, each["flex"], "ms", ATTENTION_MILLISECONDS, False, told))
    for each in result["methods"]:
        if each["prompt_tokens"] == length:
            told = f"{each['backend']}, {each['rows']} rows"
            rows.append(Reached("all methods", each["ratio"], "x flex alone", ALL_METHODS.get(shape), False, told))
    for each in result["batches"]:
        told = f"{each['batched_per_second']:.0f} tokens/s; {each['later_ratio']:.1f} x after the first tokens"
        what, unit = f"batch of {each['prompts']}", "x one by one, prompts included"
        rows.append(Reached(what, each["ratio"], unit, BATCH.get(shape), True, told))
    if result.get("mask_milliseconds") is not None:
        rows.append(Reached("BlockMask, 32k tokens", result["mask_milliseconds"], "ms", MASK_MILLISECONDS, False))
    if result.get("long_prompt"):
        gib = result["long_prompt"]["other_bytes"] / 2**30
        rows.append(Reached("memory at 32k beyond weights and cache", gib, "GiB", LONG_PROMPT_GIB, False))
    counted = ", ".join(f"{each['way']} {each['compilations']}" for each in ours if each["compilations"] is not None)
    again = sum(each["compilations"] or 0 for each in ours)
    rows.append(Reached("compilations for another length", again, "graphs", 0, False, counted))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default=LARGE)
    parser.add_argument("--length", type=int, default=650, help="tokens of the prompt (default: 650)")
    parser.add_argument("--backend", default="flex")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    options = {"shape": args.shape, "device": args.device, "dtype": args.dtype, "runs": args.runs, "new_tokens": 32}
    options["log"] = lambda text: print(text, file=sys.stderr, flush=True)
    result = measure(lengths=(args.length,), backends=(args.backend,), compiled=args.device != "cpu", **options)
    rows = reached(result | measure_parts(length=args.length, backend=args.backend, **options))
    print("\n".join(map(str, rows)))
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
