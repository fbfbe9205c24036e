"""A mask as rules between segments: a few bytes that say of every cell whether and why it is visible. Knows no figures.

Segments are as in `cells`. Every strategy decides by the two segments and by which token is later, so a mask of any
size is told by one code for each pair of segments and order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cells import REASONS, reason_codes

NO_RULE = 255  # a pair of segments that has no cell in this order
VISIBLE = np.array([phrase.startswith("visible") for phrase in REASONS])


@dataclass(frozen=True)
class _Piece:
    """A segment cut down to its first and last token."""

    name: str
    role: str
    start: int
    end: int
    weight: float | None


def rule_table(mask: np.ndarray, segments: Sequence[Any]) -> np.ndarray:
    """Codes of REASONS (S, S, 2) by query segment, key segment and order: 0 for keys up to the query, 1 for later ones.

    mask (T, T), True = visible. Raises ValueError if the mask is no such rule, so what is told is what is there.
    """
    chosen, pieces = [], []
    for segment in segments:
        tokens = sorted({segment.start, segment.end - 1}) if segment.end > segment.start else []
        at = len(chosen)
        chosen += tokens
        weight = getattr(segment, "weight", None)
        pieces.append(_Piece(segment.name, segment.role, at, len(chosen), weight))
    codes = reason_codes(mask[np.ix_(chosen, chosen)], pieces)
    table = np.full((len(segments), len(segments), 2), NO_RULE, dtype=np.uint8)
    for q, asks in enumerate(pieces):
        for k, seen in enumerate(pieces):
            part = codes[asks.start : asks.end, seen.start : seen.end]
            if not part.size:
                continue
            if q != k:
                table[q, k, int(k > q)] = part[0, 0]
            else:
                table[q, k, 0] = part[-1, 0]
                if len(part) > 1:
                    table[q, k, 1] = part[0, -1]
    _check(mask, segments, table)
    return table


def _check(mask: np.ndarray, segments: Sequence[Any], table: np.ndarray) -> None:
    for q, asks in enumerate(segments):
        for k, seen in enumerate(segments):
            part = mask[asks.start : asks.end, seen.start : seen.end]
            if q != k:
                holds = not part.size or (part == VISIBLE[table[q, k, int(k > q)]]).all()
            elif len(part) < 2:
                holds = not part.size or part[0, 0] == VISIBLE[table[q, k, 0]]
            else:
                later = np.triu(np.ones_like(part), 1)
                holds = (part == np.where(later, *VISIBLE[table[q, k, ::-1]])).all()
            if not holds:
                raise ValueError(f"the mask between {asks.name} and {seen.name} is no rule of segments and order")
