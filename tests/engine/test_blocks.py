"""mask_mod, BlockMask and dense mask from tables, against the double loop in plain Python, block by block."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from test_masks import random_mask, random_segments, segments_of, tokens_of

from flexdemo.engine.blocks import (
    BLOCK,
    WIDTHS,
    Layout,
    block_kinds,
    block_mask,
    dense_mask,
    lay_out,
    layout_of,
    make_mask_mod,
)
from flexdemo.masks import Mask
from flexdemo.prompt import Segment

INTS = {"int32": 31, "int64": 63, "table": 70}


def padded_cells(text: str, segments: Sequence[Segment], answers: int, pads: int) -> list[list[bool]]:
    return oracle.mask(text, [*tokens_of(segments, answers), *[oracle.Token("pad")] * pads])


def test_property_1_the_mask_that_runs_is_the_double_loop() -> None:
    """500 random masks, with and without padding and separators."""
    rng = random.Random(0)
    for _ in range(500):
        segments, answers, pads = random_segments(rng), rng.randrange(0, 3), rng.choice((0, 0, 1, 3))
        text = random_mask(rng, sum(segment.role == "paraphrase" for segment in segments))
        got = dense_mask(layout_of(text, segments, answers=answers, pads=pads))[0]
        assert got.tolist() == padded_cells(text, segments, answers, pads), text
        assert got.any(dim=-1).all(), "every row sees at least one key"


def test_property_1_in_a_batch_of_prompts_of_different_segments_and_masks() -> None:
    """Each row has owners and a table of its own; padding stands between its wordings and its suffix as well."""
    rng = random.Random(1)
    for _ in range(30):
        batch = [random_segments(rng) for _ in range(4)]
        texts = [random_mask(rng, sum(s.role == "paraphrase" for s in segments)) for segments in batch]
        length = max(segments[-1].end for segments in batch) + 3
        owners: list[list[Any]] = []
        tokens = []
        for segments in batch:
            n, last = segments[-1].start, len(segments) - 1
            pads = rng.randrange(0, length - segments[-1].end + 1)
            owners.append([*(i for i, s in enumerate(segments[:-1]) for _ in range(len(s))), *[None] * pads])
            owners[-1] += [last] * len(segments[-1])
            own = tokens_of(segments)
            own = [*own[:n], *[oracle.Token("pad")] * pads, *own[n:]]
            tokens.append(own + [oracle.Token("pad")] * (length - len(own)))
        masks = [Mask.over(text, segments) for text, segments in zip(texts, batch, strict=True)]
        got = dense_mask(lay_out(masks, owners, length))
        assert got.tolist() == [oracle.mask(text, own) for text, own in zip(texts, tokens, strict=True)]


@pytest.mark.parametrize("kind", INTS)
def test_as_many_segments_as_an_integer_holds_and_more(kind: str) -> None:
    """Prefix, wordings, suffix, answer and padding: of 31 segments the last wording is bit 27."""
    count = INTS[kind] - 4
    segments = segments_of([2] * count)
    text = f"segment+P{count}>P1-P{count}>prefix-suffix>P{count}-answer>P2"
    layout = layout_of(text, segments, answers=2, pads=3)
    assert layout.tables.shape[-1] == INTS[kind]
    read = [cell.cell_contents for cell in make_mask_mod(layout).__closure__ or ()]
    assert {tensor.dtype for tensor in read} == {
        "int32": {torch.int32}, "int64": {torch.int64}, "table": {torch.bool, torch.int64},
    }[kind]  # fmt: skip
    assert dense_mask(layout)[0].tolist() == padded_cells(text, segments, 2, 3)
    more = layout_of(
        text, [*segments[:-1], Segment("S", "separator", segments[-1].start, segments[-1].start, ""), segments[-1]]
    )
    assert more.tables.shape[-1] > INTS[kind]


def test_what_a_kernel_reads_is_alike_for_all_masks_of_some_segments() -> None:
    """A kernel, and a CUDA graph, made for one of them serves all."""
    kinds = set()
    for strategy in [*oracle.STRATEGIES, "segment+P2>P1"]:
        for count in (2, 5, 27):
            layout = layout_of(strategy, segments_of([100 // count] * count, prefix=100 % count), pads=1)
            mask_mod = make_mask_mod(layout)
            names = mask_mod.__code__.co_freevars
            read = tuple((name, c.cell_contents) for name, c in zip(names, mask_mod.__closure__ or (), strict=True))
            kinds.add((mask_mod.__code__, *((name, each.shape, each.dtype) for name, each in read)))
    assert len(kinds) == 1


def grid(counts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """What lists of blocks name, as booleans (B, query blocks, key blocks)."""
    rows, _, queries, keys = indices.shape
    out = torch.zeros(rows, queries, keys, dtype=torch.bool)
    for row, q in np.ndindex(rows, queries):
        listed = indices[row, 0, q, : counts[row, 0, q]].tolist()
        assert listed == sorted(set(listed))
        out[row, q, listed] = True
    return out


def long_prompt(rng: random.Random, *, own: bool) -> tuple[str, list[Segment], int]:
    """A mask, segments of several blocks, and a number of answer tokens."""
    lengths = [rng.choice((1, 7, 64, 128, 150, 256, 300)) for _ in range(rng.randint(1, 5))]
    prefix, suffix = rng.choice((0, 1, 60, 128, 200)), rng.choice((1, 3, 130))
    segments = segments_of(lengths, separators=rng.random() < 0.5, prefix=prefix, suffix=suffix)
    text = random_mask(rng, len(lengths)) if own else rng.choice(oracle.STRATEGIES)
    return text, segments, rng.choice((0, 5, 140))


def test_blocks_are_those_of_their_cells() -> None:
    """150 random layouts: no block that has a visible cell is left out, none is named that has none, and exactly those
    are full that have no hidden cell. The cells are those of the dense mask, which is compared with the double loop."""
    rng = random.Random(4)
    for i in range(150):
        made = [long_prompt(rng, own=i % 2 == 0) for _ in range(2)]
        length = max(segments[-1].end + answers for _, segments, answers in made)
        length += rng.choice((0, 1, 130, -length % BLOCK))
        owners = [
            [*(k for k, s in enumerate(segments) for _ in range(len(s))), *[len(segments)] * answers]
            for _, segments, answers in made
        ]
        layout = lay_out([Mask.over(text, segments) for text, segments, _ in made], owners, length)
        blocks = -(-length // BLOCK)
        cells = torch.zeros(2, blocks * BLOCK, blocks * BLOCK, dtype=torch.bool)
        cells[:, :length, :length] = dense_mask(layout)
        squares = cells.view(2, blocks, BLOCK, blocks, BLOCK)
        some, full = block_kinds(layout)
        assert torch.equal(some, squares.any(dim=4).any(dim=2)), made
        assert torch.equal(full, squares.all(dim=4).all(dim=2)), made


@pytest.mark.parametrize("text", [*oracle.STRATEGIES, "segment+P2>P1", "causal-P3>P1", "bidirectional-P3>P3"])
def test_a_block_mask_names_its_blocks_and_reads_its_cells(text: str) -> None:
    segments = segments_of([130, 5, 300], separators=True, prefix=70, suffix=3)
    layout = layout_of(text, segments)
    want = torch.tensor(padded_cells(text, segments, 0, 0))
    n, blocks = len(want), -(-len(want) // BLOCK)
    made = block_mask(layout)
    assert made.shape == (1, 1, n, n)
    index, zero = torch.arange(n), torch.zeros((), dtype=torch.long)
    over_keys = torch.vmap(made.mask_mod, in_dims=(None, None, None, 0))
    cells = torch.vmap(over_keys, in_dims=(None, None, 0, None))(zero, zero, index, index)
    assert cells.dtype == torch.bool and torch.equal(cells, want)
    partial = grid(made.kv_num_blocks, made.kv_indices)[0]
    full = grid(made.full_kv_num_blocks, made.full_kv_indices)[0]
    for q, k in np.ndindex(blocks, blocks):
        square = want[q * BLOCK : (q + 1) * BLOCK, k * BLOCK : (k + 1) * BLOCK]
        assert bool(square.any()) == bool(partial[q, k] | full[q, k]) and not partial[q, k] & full[q, k]
        assert bool(square.all() and square.shape == (BLOCK, BLOCK)) == bool(full[q, k])


@pytest.mark.parametrize("text", [*oracle.STRATEGIES, "segment+P3>P1"])
def test_a_block_mask_of_the_later_queries_is_the_lower_part(text: str) -> None:
    segments = segments_of([150, 150, 142], prefix=70)
    layout, stop = layout_of(text, segments), 384
    made = block_mask(layout.until(stop), start=128)
    assert made.seq_lengths == (stop - 128, stop) and made.kv_indices.shape == (1, 1, 2, 3)
    q, kv = torch.arange(stop - 128)[:, None], torch.arange(stop)[None]
    cells = made.mask_mod(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), q, kv)
    want = torch.tensor(padded_cells(text, segments, 0, 0))[128:stop, :stop]
    assert torch.equal(cells, want)
    named = grid(made.kv_num_blocks, made.kv_indices) | grid(made.full_kv_num_blocks, made.full_kv_indices)
    assert torch.equal(named[0], want.view(2, BLOCK, 3, BLOCK).any(dim=3).any(dim=1))
    with pytest.raises(ValueError, match="multiple of 128"):
        block_mask(layout, start=5)


def test_rows_can_be_asked_for_one_window_at_a_time() -> None:
    layout = layout_of("segment+P3>P1", segments_of([2, 3, 2], separators=True), pads=2)
    whole = dense_mask(layout)
    for start in range(whole.shape[1]):
        for stop in range(start + 1, whole.shape[1] + 1):
            assert torch.equal(dense_mask(layout, start=start, stop=stop), whole[:, start:stop])


def test_layouts_of_wrong_shape_are_refused() -> None:
    for owners, tables in (
        ((3,), (1, 2, 4, 4)),
        ((1, 3), (2, 2, 4, 4)),
        ((1, 3), (1, 2, 4, 5)),
        ((1, 3), (1, 1, 4, 4)),
    ):
        with pytest.raises(ValueError, match="owners"):
            Layout(torch.zeros(owners), torch.zeros(tables))
    assert [width for width, _ in WIDTHS] == [31, 63]
