"""What is read of a prompt, what suffix and answer queries add to their scores, whose mass a key counts with."""

from __future__ import annotations

import dataclasses
import random

import oracle
import pytest
import torch
from test_masks import segments_of, tokens_of

from flexdemo.engine import reading
from flexdemo.engine.blocks import BLOCK, round_up
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.slots import arrange, key_groups, row_biases
from flexdemo.plan import Encoding, View
from flexdemo.prompt import SegmentedPrompt, build_prompt
from flexdemo.request import Ape

TEXTS = (*oracle.STRATEGIES, "segment+P2>P1-suffix>P1", "causal-suffix>P1", "late_fusion-answer>P2", "anchor-P2>P1")


def prompt_of(lengths: list[int], *, separators: bool) -> SegmentedPrompt:
    segments = tuple(segments_of(lengths, separators=separators, prefix=3, suffix=2))
    n = segments[-1].end
    return SegmentedPrompt(tuple(range(n)), ("t",) * n, segments, (1 / len(lengths),) * len(lengths), "chat")


def test_where_passes_keep_their_shapes_one_block_is_padded_to_two(lm: LanguageModel) -> None:
    kept = dataclasses.replace(lm, captures=True)
    assert [reading.padded(kept, count) for count in (1, BLOCK, BLOCK + 1, 2 * BLOCK + 1)] == [256, 256, 256, 384]
    assert reading.padded(lm, BLOCK + 1) == BLOCK + 1


@pytest.mark.parametrize("text", TEXTS)
def test_biases_of_a_batch_are_the_oracles(text: str) -> None:
    """Prompts of other lengths, other numbers of wordings, with separators and without; some weights are 0."""
    rng = random.Random(text)
    prompts = [
        prompt_of([rng.randrange(1, 5) for _ in range(count)], separators=separators)
        for count in (2, 3, 5)
        for separators in (False, True)
    ]
    slots = arrange(prompts, 2, lambda count: round_up(count, 4))
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


LONG = "Answer the question that follows in a word or two, and say nothing else, please."
CAUSAL = Encoding("causal", "sequential")


@pytest.mark.parametrize(
    ("encodings", "lead"),
    [
        ((Encoding(), CAUSAL), 2),  # prefix and P1
        ((Encoding(), Encoding("segment-P1>prefix")), 1),
        ((Encoding(), Encoding("segment", "right_aligned")), 1),
        ((Encoding(), Encoding("bidirectional")), 0),
    ],
)
def test_what_all_prompts_begin_with_is_read_once(
    lm: LanguageModel, encodings: tuple[Encoding, ...], lead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves the keys and values of reading each alone."""
    prompt = build_prompt(lm.tokenizer, "Name it.", ["What is the capital of Peru?", "Peru?"], prefix=LONG)
    asked = {each: [prompt, prompt.repeated()] if each == CAUSAL else [prompt] for each in encodings}
    every = [(each, i, one) for each, given in asked.items() for i, one in enumerate(given)]
    alone = {(each, i): reading.encode(lm, reading.given(lm, [one], each)) for each, i, one in every}
    passes, forward = [], reading.forward
    monkeypatch.setattr(reading, "forward", lambda lm, ids, *rest: passes.append(ids.shape) or forward(lm, ids, *rest))
    read = reading.prefill(lm, asked)
    length, shared = prompt.suffix_start, prompt.segments[lead - 1].end if lead else 0
    rows = [(len(given), max(each.suffix_start for each in given) - shared) for given in asked.values()]
    assert passes == [*([(1, shared)] if lead else []), *rows] and max(n for _, n in rows) >= length - shared
    for (encoding, row), cache in alone.items():
        n = cache.get_seq_length()
        for ours, theirs in zip(read.caches[encoding].tensors(), cache.tensors(), strict=True):
            torch.testing.assert_close(ours[row : row + 1, :, :n], theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("times", [1, 8])
def test_a_backend_of_blocks_reads_on_from_whole_blocks_only(lm: LanguageModel, times: int) -> None:
    """Of what prompts begin with; less than a block is read with the rest."""
    eager = dataclasses.replace(lm, backend="flex-eager")
    prompt = build_prompt(lm.tokenizer, "Name it.", ["What is the capital of Peru?", "Peru?"], prefix=LONG * times)
    assert (prompt.segments[0].end > BLOCK) == (times > 1)
    asked = {Encoding(): [prompt], CAUSAL: [prompt, prompt.repeated()]}
    read, right = reading.prefill(eager, asked), reading.prefill(dataclasses.replace(lm, backend="sdpa"), asked)
    for encoding in asked:
        for row, one in enumerate(asked[encoding]):
            for ours, theirs in zip(read.caches[encoding].tensors(), right.caches[encoding].tensors(), strict=True):
                n = one.suffix_start
                torch.testing.assert_close(ours[row, :, :n], theirs[row, :, :n], atol=2e-5, rtol=1e-4)
