"""How many CPU threads answers take: the fewest that were fast when they were tried. Knows no texts and no methods."""

from __future__ import annotations

import os
import time

import torch

from ..plan import Encoding
from ..prompt import Segment, SegmentedPrompt
from .model import LanguageModel
from .reading import encode, given

TOKENS = 4  # of a timed pass: few, as in most passes of an answer
TOLERANCE = 1.1  # of the shortest time
LARGE = 0.3  # seconds of a pass whose products are long enough to be shared by all


def suit_threads(lm: LanguageModel) -> int:
    """Set torch's threads for this process to the fewest that answer about as fast as any number; return that number.

    Most products of an answer are short: threads that are woken for each and wait for each other may take longer than
    one alone, the more so beside other programs. So passes are timed. OMP_NUM_THREADS, if set, is obeyed.
    """
    most = torch.get_num_threads()
    if lm.device.type != "cpu" or "OMP_NUM_THREADS" in os.environ or most == 1:
        return most
    seconds = {most: _pass_seconds(lm, most)}
    if seconds[most] < LARGE:
        seconds |= {n: _pass_seconds(lm, n) for n in (2**i for i in range(most.bit_length())) if n < most}
    torch.set_num_threads(min(n for n, taken in seconds.items() if taken <= TOLERANCE * min(seconds.values())))
    return torch.get_num_threads()


@torch.no_grad()
def _pass_seconds(lm: LanguageModel, threads: int) -> float:
    """The shortest of three passes."""
    torch.set_num_threads(threads)
    pieces = (("prefix", "prefix", 0, 0), ("P1", "paraphrase", 0, TOKENS), ("suffix", "suffix", TOKENS, TOKENS + 1))
    segments = tuple(Segment(*piece, "") for piece in pieces)
    prompt = SegmentedPrompt((0,) * (TOKENS + 1), ("",) * (TOKENS + 1), segments, (1.0,), "plain")
    asked, taken = given(lm, [prompt], Encoding()), []
    for _ in range(3):
        began = time.perf_counter()
        encode(lm, asked)
        taken.append(time.perf_counter() - began)
    return min(taken)
