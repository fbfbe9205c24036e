"""How many CPU threads a model's passes take: the fewest that were fast when they were tried. Knows no methods."""

from __future__ import annotations

import os
import time

import torch

from ..plan import Encoding
from ..prompt import Segment, SegmentedPrompt
from .model import LanguageModel
from .reading import encode, given
from .threads import forget_threads, set_threads

STEP, PROMPT = 4, 128  # tokens of the passes that are timed: as a step of an answer has, and as a prompt
TOLERANCE = 1.1  # of the shortest time
LARGE = 0.3  # seconds of a pass whose products are long enough to be shared by all


def suit_threads(lm: LanguageModel) -> tuple[int, int]:
    """Let this process's steps, and its passes over prompts, take the fewest threads that are about as fast as any
    number; returns both numbers.

    Most products of a step are short: threads that are woken for each and wait for each other may take longer than one
    alone, the more so beside other programs. So passes are timed. OMP_NUM_THREADS, if set, is obeyed.
    """
    most = torch.get_num_threads()
    if lm.device.type != "cpu" or "OMP_NUM_THREADS" in os.environ or most == 1:
        return most, most
    forget_threads()
    best = _best(lm, STEP, most), _best(lm, PROMPT, most)
    set_threads(*best)
    return best


def _best(lm: LanguageModel, tokens: int, most: int) -> int:
    seconds = {most: _pass_seconds(lm, tokens, most)}
    if seconds[most] < LARGE:
        seconds |= {n: _pass_seconds(lm, tokens, n) for n in (2**i for i in range(most.bit_length())) if n < most}
    return min(n for n, taken in seconds.items() if taken <= TOLERANCE * min(seconds.values()))


@torch.no_grad()
def _pass_seconds(lm: LanguageModel, tokens: int, threads: int) -> float:
    """The shortest of three passes over so many tokens; of one that is long, its own."""
    torch.set_num_threads(threads)
    pieces = (("prefix", "prefix", 0, 0), ("P1", "paraphrase", 0, tokens), ("suffix", "suffix", tokens, tokens + 1))
    segments = tuple(Segment(*piece, "") for piece in pieces)
    prompt = SegmentedPrompt((0,) * (tokens + 1), ("",) * (tokens + 1), segments, (1.0,), "plain")
    asked, shortest = given(lm, [prompt], Encoding()), float("inf")
    for _ in range(3):
        began = time.perf_counter()
        encode(lm, asked)
        shortest = min(shortest, time.perf_counter() - began)
        if shortest >= LARGE:
            break
    return shortest
