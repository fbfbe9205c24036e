"""The picture of the pair's masks for the page: a light figure and the rules behind it. Knows no gradio and no HTML.

A figure carries no words. What the page says about a cell or a token it makes itself, from the rules in the figure's
`layout.meta`; it also draws the rows of answer tokens from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...figures.cells import (
    EXACT_TOKENS,
    REASONS,
    Window,
    block_size,
    difference_densities,
    difference_png,
    mask_png,
    rule_table,
    segment_colour,
    visible_text,
)
from ...figures.mask import difference_figure, mask_figure
from ...masks import STRATEGIES, dense_mask, make_layout, make_mask_mod
from ...plan import Scheme
from ...prompt import SUFFIX, Segment, SegmentedPrompt

ANSWERS = 2  # answer tokens that a rule needs to be told: one sees the other


@dataclass(frozen=True, eq=False)
class Seen:
    """What one scheme's fused view sees: mask (T, T), density before weights hide any, rules with an answer's last."""

    scheme: Scheme
    mask: np.ndarray
    density: float
    rules: np.ndarray
    segments: tuple[Segment, ...]


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure of one mask or of a difference; `shares` are the exact densities of a difference."""

    figure: Any
    shown: Scheme
    density: float
    shares: dict[str, float] | None


def seen_by(prompt: SegmentedPrompt, scheme: Scheme) -> Seen:
    """Mask and rules of a scheme over a prompt; where weights act, weight 0 hides a paraphrase."""
    layout = make_layout(prompt.segment_ids, prompt.roles, answers=ANSWERS)
    rows = dense_mask(make_mask_mod(scheme.strategy, layout), layout)[0].numpy()
    length = len(prompt.token_ids)
    density = np.count_nonzero(rows[:length, :length]) / length**2
    segments = prompt.segments
    if not scheme.weighted:
        segments = tuple(replace(segment, weight=None) for segment in segments)
    muted = [segment for segment in segments if segment.weight == 0]
    if muted:
        rows = rows.copy()
        fuses = prompt.suffix_start if STRATEGIES[scheme.strategy].fuses_at == SUFFIX else length
        for segment in muted:
            rows[fuses:, segment.start : segment.end] = False
    answer = Segment("answer", "answer", length, length + ANSWERS, "")
    rules = rule_table(rows, (*segments, answer))
    return Seen(scheme, rows[:length, :length], density, rules, segments)


def signature(prompt: SegmentedPrompt, scheme: Scheme) -> str:
    """The same for the same tokens and rules: tells whether an answer belongs to a picture."""
    hidden = tuple(weight == 0 for weight in prompt.weights) if scheme.weighted else ()
    told = repr((prompt.token_ids, scheme.strategy, hidden))
    return hashlib.blake2s(told.encode(), digest_size=8).hexdigest()


def picture(
    prompt: SegmentedPrompt,
    schemes: tuple[Scheme, Scheme],
    *,
    show: str = "left",
    window: Window | None = None,
) -> Picture:
    """The mask of the left or right scheme, or what changes from right to left. Above EXACT_TOKENS as block means,
    or exactly inside `window`."""
    length = len(prompt.token_ids)
    window = window if length > EXACT_TOKENS else None
    difference = show == "difference"
    side = "right" if show == "right" else "left"
    seen = seen_by(prompt, schemes[side == "right"])
    shares = other = None
    if difference:
        other = seen_by(prompt, schemes[1])
        shares = difference_densities(seen.mask, other.mask)
        figure = difference_figure(seen.mask, other.mask, prompt.tokens, seen.segments, window=window, words=False)
    else:
        figure = mask_figure(seen.mask, prompt.tokens, seen.segments, window=window, words=False)
    place = window.clamped(length) if window else None
    figure.layout.meta = {
        "show": show,
        "side": side,
        "signature": signature(prompt, seen.scheme),
        "length": length,
        "block": block_size(length) if length > EXACT_TOKENS and place is None else 1,
        "row": place.query if place else 0,
        "column": place.key if place else 0,
        "size": place.size if place else length,
        "tokens": [visible_text(token) for token in prompt.tokens],
        "segments": _segments(seen.segments),
        "z": _steps(seen.segments),
        "reasons": list(REASONS),
        "rules": seen.rules.ravel().tolist(),
        "other": other.rules.ravel().tolist() if other else None,
        "exact": EXACT_TOKENS,
    }
    return Picture(figure, seen.scheme, seen.density, shares)


def whole_png(prompt: SegmentedPrompt, schemes: tuple[Scheme, Scheme], *, show: str = "left") -> bytes:
    """What `picture` shows, all of it, as a PNG with a pixel for each cell."""
    seen = seen_by(prompt, schemes[show == "right"])
    if show == "difference":
        return difference_png(seen.mask, seen_by(prompt, schemes[1]).mask)
    return mask_png(seen.mask, seen.segments)


def _steps(segments: Sequence[Segment]) -> list[int]:
    """What a visible cell is in the figure's data, by its key's segment; the answer's is the suffix's."""
    shown = [segment_colour(segment.name, segment.role) for segment in segments]
    steps = [list(dict.fromkeys(shown)).index(colour) + 1 for colour in shown]
    return [*steps, steps[-1]]


def _segments(segments: Sequence[Segment]) -> list[list[Any]]:
    """Name, first token and colour of each segment, and of the answer behind them."""
    shown = [[segment.name, segment.start, segment_colour(segment.name, segment.role)] for segment in segments]
    return [*shown, ["answer", segments[-1].end, segment_colour("answer", "answer")]]
