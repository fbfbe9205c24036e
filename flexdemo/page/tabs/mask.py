"""The picture of the pair's masks for the page: a light figure and the rules behind it. Knows no gradio and no HTML.

A figure carries no words. What the page says about a cell or a token it makes itself, from the rules in the figure's
`layout.meta`; it also draws the rows of answer tokens from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...figures.cells import (
    EXACT_TOKENS,
    Window,
    block_size,
    difference_png,
    mask_png,
    segment_colour,
    visible_text,
)
from ...figures.mask import difference_figure, mask_figure
from ...masks import ITSELF, Mask
from ...plan import Scheme
from ...prompt import Segment, SegmentedPrompt

ANSWERS = 2  # answer tokens that a reason needs to be told: one sees the other
NO_CELL = 255  # a pair of segments that has no cell in this order


@dataclass(frozen=True, eq=False)
class Seen:
    """What one scheme's fused view sees: its mask and cells (T, T), density before weights hide any, and the reasons
    of all pairs of segments, those with the answer last."""

    scheme: Scheme
    mask: Mask
    cells: np.ndarray
    density: float
    reasons: np.ndarray


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure of one mask or of a difference; `shares` are the exact densities of a difference."""

    figure: Any
    shown: Scheme
    density: float
    shares: dict[str, float] | None


def seen_by(prompt: SegmentedPrompt, scheme: Scheme) -> Seen:
    """Mask and reasons of a scheme over a prompt; where weights act, weight 0 hides a paraphrase."""
    plain, answered = (Mask.over(scheme.strategy, prompt.segments, answers=count) for count in (0, ANSWERS))
    shown, told = (mask.weighted() if scheme.weighted else mask for mask in (plain, answered))
    return Seen(scheme, shown, shown.cells(), plain.density, told.reasons())


def _coded(tables: Sequence[np.ndarray]) -> tuple[list[str], list[list[int]]]:
    """All reasons of tables, and each table as the places of its reasons among them, NO_CELL where it has none."""
    phrases = list(dict.fromkeys([ITSELF, *(text for table in tables for text in table.ravel() if text)]))
    places = {None: NO_CELL} | {phrase: i for i, phrase in enumerate(phrases)}
    return phrases, [[places[text] for text in table.ravel()] for table in tables]


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
        shares = {word: count / length**2 for word, count in seen.mask.difference(other.mask).items()}
        figure = difference_figure(seen.cells, other.cells, prompt.tokens, prompt.segments, window=window, words=False)
    else:
        figure = mask_figure(seen.cells, prompt.tokens, prompt.segments, window=window, words=False)
    reasons, codes = _coded([each.reasons for each in (seen, other) if each])
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
        "segments": _segments(prompt.segments),
        "z": _steps(prompt.segments),
        "reasons": reasons,
        "itself": reasons.index(ITSELF),
        "rules": codes[0],
        "other": codes[1] if other else None,
        "exact": EXACT_TOKENS,
    }
    return Picture(figure, seen.scheme, seen.density, shares)


def whole_png(prompt: SegmentedPrompt, schemes: tuple[Scheme, Scheme], *, show: str = "left") -> bytes:
    """What `picture` shows, all of it, as a PNG with a pixel for each cell."""
    seen = seen_by(prompt, schemes[show == "right"])
    if show == "difference":
        return difference_png(seen.cells, seen_by(prompt, schemes[1]).cells)
    return mask_png(seen.cells, prompt.segments)


def _steps(segments: Sequence[Segment]) -> list[int]:
    """What a visible cell is in the figure's data, by its key's segment; the answer's is the suffix's."""
    shown = [segment_colour(segment.name, segment.role) for segment in segments]
    steps = [list(dict.fromkeys(shown)).index(colour) + 1 for colour in shown]
    return [*steps, steps[-1]]


def _segments(segments: Sequence[Segment]) -> list[list[Any]]:
    """Name, first token and colour of each segment, and of the answer behind them."""
    shown = [[segment.name, segment.start, segment_colour(segment.name, segment.role)] for segment in segments]
    return [*shown, ["answer", segments[-1].end, segment_colour("answer", "answer")]]
