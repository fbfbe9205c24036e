"""Masks against a double loop in plain Python."""

from __future__ import annotations

import random
from collections.abc import Sequence

import oracle
import pytest
import torch

from flexdemo.errors import InputError
from flexdemo.masks import (
    STRATEGIES,
    Layout,
    _block_kinds,
    _rule,
    block_mask,
    dense_mask,
    density,
    make_layout,
    make_mask_mod,
)
from flexdemo.prompt import ANSWER, PAD, PARAPHRASE, PREFIX, SUFFIX

ROLES = {"prefix": PREFIX, "paraphrase": PARAPHRASE, "suffix": SUFFIX, "answer": ANSWER, "pad": PAD}


def layout_of(tokens: Sequence[oracle.Token]) -> Layout:
    """The engine's layout of the oracle's tokens."""
    last = max(token.paraphrase for token in tokens) + 1
    numbers = {"prefix": 0, "suffix": last, "answer": last, "pad": -1}
    segments = [numbers.get(token.role, token.paraphrase) for token in tokens]
    return Layout(torch.tensor([segments]), torch.tensor([[ROLES[token.role] for token in tokens]]))


def random_tokens(rng: random.Random, *, padding: bool) -> list[oracle.Token]:
    """A packed prompt of random lengths, empty prefixes too; pads in front of the suffix and behind."""
    tokens = [oracle.Token("prefix")] * rng.randrange(0, 4)
    for i in range(1, rng.randrange(2, 6)):
        tokens += [oracle.Token("paraphrase", i)] * rng.randrange(1, 6)
    pads = [oracle.Token("pad")] * rng.randrange(1, 4) if padding else []
    tokens += [*pads, *[oracle.Token("suffix")] * rng.randrange(1, 4), *[oracle.Token("answer")] * rng.randrange(0, 4)]
    return tokens + pads


def test_strategies_are_those_of_the_design() -> None:
    assert tuple(STRATEGIES) == oracle.STRATEGIES


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_property_1_mask_equals_a_double_loop(strategy: str, padding: bool) -> None:
    rng = random.Random(f"{strategy} {padding}")
    for _ in range(40):
        tokens = random_tokens(rng, padding=padding)
        layout = layout_of(tokens)
        got = dense_mask(make_mask_mod(strategy, layout), layout)[0]
        assert got.tolist() == oracle.mask(strategy, tokens)
        assert got.any(dim=-1).all(), "every row sees at least one key"


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_property_1_in_a_batch_of_different_prompts(strategy: str) -> None:
    rng = random.Random(strategy)
    batch = [random_tokens(rng, padding=True) for _ in range(6)]
    length = max(map(len, batch))
    batch = [tokens + [oracle.Token("pad")] * (length - len(tokens)) for tokens in batch]
    layouts = [layout_of(tokens) for tokens in batch]
    together = Layout(torch.cat([x.segments for x in layouts]), torch.cat([x.roles for x in layouts]))
    got = dense_mask(make_mask_mod(strategy, together), together)
    assert got.tolist() == [oracle.mask(strategy, tokens) for tokens in batch]


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_the_block_mask_that_runs_is_the_dense_mask(strategy: str) -> None:
    """Both come from one mask_mod: evaluated cell by cell through the BlockMask's own mask_mod, over a batch."""
    rng = random.Random(strategy)
    tokens = random_tokens(rng, padding=True)
    layout = layout_of(tokens)
    mask_mod = make_mask_mod(strategy, layout)
    blocks = block_mask(strategy, layout)
    n = len(tokens)
    index = torch.arange(n)
    zero = torch.zeros((), dtype=torch.long)
    over_keys = torch.vmap(blocks.mask_mod, in_dims=(None, None, None, 0))
    cells = torch.vmap(over_keys, in_dims=(None, None, 0, None))(zero, zero, index, index)
    assert torch.equal(cells, dense_mask(mask_mod, layout)[0])
    assert blocks.shape == (1, 1, n, n)


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_block_masks_hide_no_visible_block(strategy: str) -> None:
    """Past 128 tokens: a block that the BlockMask skips holds no visible cell, a full one no hidden cell."""
    tokens = [oracle.Token("prefix")] * 70
    for i, length in enumerate((130, 5, 200), start=1):
        tokens += [oracle.Token("paraphrase", i)] * length
    tokens += [oracle.Token("suffix")] * 3
    layout = layout_of(tokens)
    mask_mod = make_mask_mod(strategy, layout)
    blocks, dense = block_mask(strategy, layout), dense_mask(mask_mod, layout)[0]
    assert torch.equal(dense, torch.tensor(oracle.mask(strategy, tokens)))

    def grid(counts: torch.Tensor | None, indices: torch.Tensor | None) -> torch.Tensor:
        rows = -(-len(tokens) // 128)
        out = torch.zeros(rows, rows, dtype=torch.bool)
        if counts is not None and indices is not None:
            for q in range(rows):
                out[q, indices[0, 0, q, : counts[0, 0, q]].long()] = True
        return out

    partial, full = (
        grid(blocks.kv_num_blocks, blocks.kv_indices),
        grid(blocks.full_kv_num_blocks, blocks.full_kv_indices),
    )
    for q in range(partial.shape[0]):
        for kv in range(partial.shape[1]):
            cells = dense[q * 128 : (q + 1) * 128, kv * 128 : (kv + 1) * 128]
            assert bool(cells.any()) == bool(partial[q, kv] | full[q, kv])
            assert cells.all() or not full[q, kv]


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_a_block_mask_of_the_later_queries_is_the_lower_part(strategy: str) -> None:
    tokens = [oracle.Token("prefix")] * 70 + [oracle.Token("paraphrase", 1 + i // 150) for i in range(442)]
    layout, stop = layout_of(tokens), 384
    blocks = block_mask(strategy, layout.until(stop), start=128)
    assert blocks.seq_lengths == (stop - 128, stop) and blocks.kv_indices.shape == (1, 1, 2, 3)
    q, kv = torch.arange(stop - 128)[:, None], torch.arange(stop)[None]
    cells = blocks.mask_mod(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), q, kv)
    expected = torch.tensor(oracle.mask(strategy, tokens))[128:stop, :stop]
    assert torch.equal(cells, expected)
    for row in range(2):
        seen = {int(i) for i in blocks.kv_indices[0, 0, row, : blocks.kv_num_blocks[0, 0, row]]}
        seen |= {int(i) for i in blocks.full_kv_indices[0, 0, row, : blocks.full_kv_num_blocks[0, 0, row]]}
        shown = {i for i in range(3) if bool(expected[row * 128 : (row + 1) * 128, i * 128 : (i + 1) * 128].any())}
        assert shown <= seen
    with pytest.raises(ValueError, match="multiple of 128"):
        block_mask(strategy, layout, start=5)


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_rows_can_be_asked_for_one_window_at_a_time(strategy: str) -> None:
    tokens = random_tokens(random.Random(strategy), padding=True)
    layout = layout_of(tokens)
    mask_mod = make_mask_mod(strategy, layout)
    whole = dense_mask(mask_mod, layout)
    for start in range(len(tokens)):
        for stop in range(start + 1, len(tokens) + 1):
            assert torch.equal(dense_mask(mask_mod, layout, start=start, stop=stop), whole[:, start:stop])


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_density_counts_visible_cells(strategy: str) -> None:
    tokens = random_tokens(random.Random(strategy), padding=False)
    layout = layout_of(tokens)
    cells = oracle.mask(strategy, tokens)
    expected = sum(map(sum, cells)) / len(tokens) ** 2
    assert density(make_mask_mod(strategy, layout), layout) == pytest.approx(expected, abs=1e-12)


def test_density_of_a_long_prompt_is_counted_in_pieces() -> None:
    n = 2500  # more cells than one piece of rows holds
    layout = make_layout([0] * n, [PREFIX] * n)
    assert density(make_mask_mod("segment", layout), layout) == pytest.approx((n + 1) / (2 * n))


def test_make_layout_appends_answers_and_pads() -> None:
    layout = make_layout((0, 1, 1, 2), (PREFIX, PARAPHRASE, PARAPHRASE, SUFFIX), answers=2, pads=1)
    assert layout.segments.tolist() == [[0, 1, 1, 2, 2, 2, -1]]
    assert layout.roles.tolist() == [[PREFIX, PARAPHRASE, PARAPHRASE, SUFFIX, ANSWER, ANSWER, PAD]]


def test_layouts_of_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape"):
        Layout(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"shape"):
        Layout(torch.zeros(1, 3), torch.zeros(1, 4))


def test_unknown_strategies_are_named() -> None:
    layout = make_layout((0, 1, 2), (PREFIX, PARAPHRASE, SUFFIX))
    with pytest.raises(InputError, match=r"unknown mask strategy 'diagonal': choose from segment, isolated"):
        make_mask_mod("diagonal", layout)


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_kinds_of_blocks_are_those_of_their_cells(strategy: str) -> None:
    """Empty, partial and full for random batches with padding between and behind, against the dense mask."""
    rng = random.Random(strategy)
    for _ in range(12):
        batch, length = [], rng.choice((384, 600, 1024))
        for _ in range(3):
            tokens = [oracle.Token("prefix")] * rng.choice((0, 1, 60, 128, 200))
            for i in range(1, rng.randint(1, 5) + 1):
                tokens += [oracle.Token("paraphrase", i)] * rng.choice((1, 7, 64, 128, 150, 256))
            tokens = tokens[: length - 10]
            pads = rng.choice((0, 3, length - 10 - len(tokens)))
            tokens += [oracle.Token("pad")] * max(0, min(pads, length - 10 - len(tokens)))
            tokens += [oracle.Token("suffix")] * 3 + [oracle.Token("answer")] * rng.randint(0, 5)
            batch.append(tokens + [oracle.Token("pad")] * (length - len(tokens)))
        layouts = [layout_of(tokens) for tokens in batch]
        layout = Layout(torch.cat([x.segments for x in layouts]), torch.cat([x.roles for x in layouts]))
        some, full = _block_kinds(
            _rule(strategy, layout), -(-length // 128), looks_ahead=STRATEGIES[strategy].both_ways
        )
        cells = torch.zeros(3, some.shape[1] * 128, some.shape[1] * 128, dtype=torch.bool)
        cells[:, :length, :length] = dense_mask(make_mask_mod(strategy, layout), layout)
        blocks = cells.view(3, some.shape[1], 128, some.shape[1], 128)
        assert torch.equal(full, blocks.all(dim=4).all(dim=2))
        assert torch.equal(some & blocks.any(dim=4).any(dim=2), blocks.any(dim=4).any(dim=2))
        assert torch.equal(some[:, :-1], blocks.any(dim=4).any(dim=2)[:, :-1])
