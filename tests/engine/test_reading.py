"""What suffix and answer queries add to their scores, and whose mass a key counts with, against the oracle."""

from __future__ import annotations

import random

import oracle
import pytest
import torch
from test_masks import segments_of, tokens_of

from flexdemo.engine.reading import arrange, key_groups, row_biases
from flexdemo.plan import Encoding, View
from flexdemo.prompt import SegmentedPrompt
from flexdemo.request import Ape

TEXTS = (*oracle.STRATEGIES, "segment+P2>P1-suffix>P1", "causal-suffix>P1", "late_fusion-answer>P2", "anchor-P2>P1")


def prompt_of(lengths: list[int], *, separators: bool) -> SegmentedPrompt:
    segments = tuple(segments_of(lengths, separators=separators, prefix=3, suffix=2))
    n = segments[-1].end
    return SegmentedPrompt(tuple(range(n)), ("t",) * n, segments, (1 / len(lengths),) * len(lengths), "chat")


@pytest.mark.parametrize("text", TEXTS)
def test_biases_of_a_batch_are_the_oracles(text: str) -> None:
    """Prompts of other lengths, other numbers of wordings, with separators and without; some weights are 0."""
    rng = random.Random(text)
    prompts = [
        prompt_of([rng.randrange(1, 5) for _ in range(count)], separators=separators)
        for count in (2, 3, 5)
        for separators in (False, True)
    ]
    slots = arrange(prompts, 2, 4)
    order = [3, 0, 5, 1, 4, 2, 2]
    weights = [[1.0, *(rng.choice((0.0, 0.5, 2.0)) for _ in prompts[i].paraphrases[1:]), 1.0][1:] for i in order]
    views = [
        View("", Encoding(text), tuple(w), 9, Ape(0.5, 2.0) if i == 0 else Ape(1, 1))
        for i, w in zip(order, weights, strict=True)
    ]
    (suffix, answer), groups = row_biases(slots, views, order), key_groups(slots, order)
    for row, (i, given) in enumerate(zip(order, weights, strict=True)):
        prompt = prompts[i]
        n, pads = prompt.suffix_start, slots.prompt - prompt.suffix_start
        tokens = tokens_of(prompt.segments, answers=1)
        tokens = [*tokens[:n], *[oracle.Token("pad")] * pads, *tokens[n:]]
        want = oracle.bias(text, tokens, given)[0, 0]
        told = torch.cat([suffix.bias[row, 0], answer.bias[row, 0]])
        torch.testing.assert_close(told[:, : len(tokens)], want[slots.prompt :], atol=1e-6, rtol=0)
        assert (told[:, len(tokens) :] == -torch.inf).all(), "answer tokens that are not there yet"
        # Prefix, each wording with the separator behind it, suffix and answer.
        last = len(prompt.paraphrases) + 1
        numbers = {"prefix": 0, "suffix": last, "answer": last, "pad": None}
        for slot, token in enumerate(tokens):
            group = numbers.get(token.role, token.paraphrase)
            assert groups[row, slot].tolist() == [float(s == group) for s in range(groups.shape[-1])]
        keys = answer.ape.keys[row, 0, 0].tolist()
        assert keys[: len(tokens)] == [token.role == "paraphrase" for token in tokens] and not any(keys[len(tokens) :])
    late = text.startswith("late_fusion")
    assert (suffix.ape is None) == late, "there the suffix feels no weights"
