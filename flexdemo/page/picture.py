"""What one side sees of a prompt: a light figure of its mask, the rules behind it, and the tokens. Knows no gradio.

A figure carries no words. What the page says about a cell or a token it makes itself, from the rules in the figure's
`layout.meta`; it also draws the rows of answer tokens, and exact parts of a long prompt, from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..answers.result import MethodResult
from ..figures.cells import EXACT_TOKENS, block_size, segment_colour, visible_text
from ..figures.mask import mask_figure
from ..masks import ITSELF, Mask
from ..plan import Scheme
from ..prompt import Segment, SegmentedPrompt

ANSWERS = 2  # answer tokens that a reason needs to be told: one sees the other
NO_CELL = 255  # a pair of segments that has no cell in this order


def signature(prompt: SegmentedPrompt, scheme: Scheme) -> str:
    """The same for the same tokens and rules: tells whether an answer belongs to a picture."""
    hidden = tuple(scheme.weighted and weight == 0 for weight in prompt.weights)
    names = tuple(segment.name for segment in prompt.segments)
    told = repr((prompt.token_ids, names, scheme.strategy, hidden))
    return hashlib.blake2s(told.encode(), digest_size=8).hexdigest()


def seen_by(prompt: SegmentedPrompt, scheme: Scheme, *, answers: int = 0) -> Mask:
    """The mask of a scheme over a prompt; where weights act, weight 0 hides a paraphrase."""
    mask = Mask.over(scheme.strategy, prompt.segments, answers=answers)
    return mask.weighted() if scheme.weighted else mask


def picture(prompt: SegmentedPrompt, scheme: Scheme) -> Any:
    """The mask of a scheme over a prompt; above EXACT_TOKENS as block means."""
    seen, told = (seen_by(prompt, scheme, answers=count) for count in (0, ANSWERS))
    length = len(prompt.token_ids)
    figure = mask_figure(seen.cells(), prompt.tokens, prompt.segments, words=False)
    reasons = told.reasons().ravel()
    phrases = list(dict.fromkeys([ITSELF, *(text for text in reasons if text)]))
    places = {None: NO_CELL} | {phrase: i for i, phrase in enumerate(phrases)}
    figure.update_xaxes(title_text="").update_yaxes(title_text="")
    figure.layout.meta = {
        "signature": signature(prompt, scheme),
        "length": length,
        "block": block_size(length) if length > EXACT_TOKENS else 1,
        "exact": EXACT_TOKENS,
        "tokens": [visible_text(token) for token in prompt.tokens],
        "segments": _segments(prompt.segments),
        "z": _steps(prompt.segments),
        "reasons": phrases,
        "rules": [places[text] for text in reasons],
    }
    return figure


def _steps(segments: Sequence[Segment]) -> list[int]:
    """What a visible cell is in the figure's data, by its key's segment; the answer's is the suffix's."""
    shown = [segment_colour(segment.name, segment.role) for segment in segments]
    steps = [list(dict.fromkeys(shown)).index(colour) + 1 for colour in shown]
    return [*steps, steps[-1]]


def _segments(segments: Sequence[Segment]) -> list[list[Any]]:
    """Name, first token and colour of each segment, and of the answer behind them."""
    shown = [[segment.name, segment.start, segment_colour(segment.name, segment.role)] for segment in segments]
    return [*shown, ["answer", segments[-1].end, segment_colour("answer", "answer")]]


def legend_html(segments: Sequence[Segment]) -> str:
    """The segments of the packed prompt with their numbers of tokens; each is a button that highlights it."""
    return " ".join(
        f'<span><button type="button" class="chip is-{escape(segment.name)}" data-segment="{i}" aria-pressed="false">'
        f"{escape(segment.name)}</button> {len(segment)}</span>"
        for i, segment in enumerate(segments)
        if segment.role != "separator"
    )


def live_html(sides: Mapping[str, tuple[str, MethodResult]]) -> str:
    """Both sides' (signature, answer so far), by "left" and "right": a row for each token grows on its mask."""
    told = {
        side: {
            "signature": mark,
            "tokens": [visible_text(token) for token in answered.tokens],
            "done": bool(answered.stopped_by),
        }
        for side, (mark, answered) in sides.items()
    }
    return f'<div data-live="{escape(json.dumps(told))}"></div>'
