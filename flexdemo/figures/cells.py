"""What the cells and tokens of a mask are drawn as: colours, texts, block means, a PNG. Knows no figures and no models.

A segment is any object with `name`, `role`, `start` and `end`.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

# Okabe and Ito's eight, with the yellow darkened so that it reads on white, extended to twelve; hex only, because the
# plotly.js in gradio draws newer colour notations wrong.
PARAPHRASE_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
    "#B5A300", "#7A5BB5", "#9C6B4E", "#3FA7A0", "#8FB339", "#C2437F",
)  # fmt: skip
ROLE_COLOURS = {"prefix": "#A3ABB6", "separator": "#C3C9D1", "suffix": "#66707D", "answer": "#66707D"}
CHANGES = {"kept": "#8A93A0", "removed": "#D55E00", "added": "#0072B2"}
EXACT_TOKENS = 512
OVERVIEW_BLOCKS = 256

# Letters and marks that are drawn as nothing, beside the controls: fillers, joiners, the blank of Braille.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_SYMBOLS = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"}


def segment_colour(name: str, role: str) -> str:
    """Colour of a segment: by role, paraphrases by the number in their name."""
    if role in ROLE_COLOURS:
        return ROLE_COLOURS[role]
    digits = re.search(r"\d+$", name)
    return PARAPHRASE_COLOURS[(int(digits.group()) - 1 if digits else 0) % len(PARAPHRASE_COLOURS)]


def visible_text(token: str) -> str:
    """A token with its spaces, line ends and control characters made visible; `∅` for the empty one."""

    return "".join(_SYMBOLS.get(char) or seen_text(char) for char in token) or "∅"


def seen_text(text: str) -> str:
    """A text with what cannot be seen in it written as its code."""
    return "".join(f"\\u{ord(char):04x}" if is_unseen(char) else char for char in text)


def is_unseen(char: str) -> bool:
    """Whether a character is drawn as nothing, or reorders or hides what stands around it."""
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return True
    return char in _BLANK or "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def unseen(text: str) -> str:
    """Which characters of a text cannot be seen, and how many of each; "" if there is none. Line ends and tabs can."""
    counts = Counter(char for char in text if char not in "\t\n\r" and is_unseen(char))
    return ", ".join(
        f"U+{ord(char):04X} {unicodedata.name(char, 'control character')}" + (f" ({count} times)" if count > 1 else "")
        for char, count in counts.most_common(5)
    )


def plot_text(text: str) -> str:
    """Text for a plotly label, which reads tags and entities: the user's `<b>` stays `<b>`."""
    return escape(visible_text(text), quote=False)


def owners_of(segments: Sequence[Any], length: int) -> np.ndarray:
    """Index of the segment of each token, (T,)."""
    owners = np.zeros(length, dtype=np.int64)
    for i, segment in enumerate(segments):
        owners[segment.start : segment.end] = i
    return owners


def block_means(mask: np.ndarray, block: int) -> np.ndarray:
    """Share of visible cells in each block x block square, (ceil(T / block),) * 2; the last may be smaller."""
    starts = np.arange(0, len(mask), block)
    sums = np.add.reduceat(np.add.reduceat(mask, starts, axis=0, dtype=np.int32), starts, axis=1)
    sizes = np.diff(np.append(starts, len(mask)))
    return (sums / (sizes[:, None] * sizes[None, :])).astype(np.float32)


def block_size(length: int) -> int:
    """Tokens on a side of one block of the overview."""
    return -(-length // OVERVIEW_BLOCKS)


def token_spans(tokens: Sequence[str], segments: Sequence[Any]) -> list[tuple[str, str]]:
    """(text, segment name) for each token, in order, for gradio's HighlightedText or any such view."""
    owners = owners_of(segments, len(tokens))
    return [(visible_text(token), segments[owner].name) for token, owner in zip(tokens, owners, strict=True)]


def mask_png(mask: np.ndarray, segments: Sequence[Any] | None = None, *, scale: int = 1) -> bytes:
    """The whole mask as a PNG of T x T pixels (times `scale`), coloured as `mask_figure` if segments are given."""
    colours = ["#FFFFFF", "#0072B2"]
    z = np.asarray(mask, dtype=np.uint8)
    if segments is not None:
        colours = ["#FFFFFF", *[segment_colour(s.name, s.role) for s in segments]]
        z = z * (owners_of(segments, len(mask)) + 1).astype(np.uint8)
    return indexed_png(z.repeat(scale, axis=0).repeat(scale, axis=1), colours)


def difference_png(mask: np.ndarray, other: np.ndarray) -> bytes:
    """Going from `other` to `mask`, a pixel a cell: kept, removed and added in the colours of `CHANGES`."""
    z = np.select([mask & other, other, mask], [1, 2, 3], 0).astype(np.uint8)
    return indexed_png(z, ["#FFFFFF", *CHANGES.values()])


def indexed_png(z: np.ndarray, colours: Sequence[str]) -> bytes:
    """A PNG of z (H, W), uint8, each value the index of a colour."""
    image = Image.fromarray(z)
    image.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in colours))
    out = io.BytesIO()
    image.save(out, "PNG", bits=8)
    return out.getvalue()
