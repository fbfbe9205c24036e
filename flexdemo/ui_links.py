"""What links mask, tokens and legend on the page, as HTML and as data for `assets/views.js`. Knows no gradio."""

from __future__ import annotations

import json
from html import escape

from .cells import visible_text
from .methods import Result
from .ui_compare import SIDES, Pair
from .ui_form import Form
from .ui_mask import signature

# Filled by views.js. It works without the program, so that a highlight costs no round trip.
LINKS = (
    '<div id="links"><label for="link-token">Token</label>'
    '<input id="link-token" type="number" min="0" step="1" inputmode="numeric">'
    '<button id="link-clear" type="button">Clear</button>'
    '<button id="link-exact" type="button" hidden>Show exactly here</button>'
    '<span class="hint">or click a cell, a token, a segment: its row is what it sees, its column who sees it.'
    "</span></div>"
    '<div id="link-words" role="status" aria-live="polite"></div>'
)


def live_html(form: Form, pair: Pair, result: Result) -> str:
    """Both sides' answer tokens so far, and which picture they belong to: a row for each grows on the mask."""
    sides = {}
    for name, scheme, answered in zip(SIDES, pair.both(form), pair.answered(result), strict=True):
        if answered is not None:
            tokens = [visible_text(token) for token in answered.tokens]
            told = {"signature": signature(result.prompt, scheme), "tokens": tokens, "done": bool(answered.stopped_by)}
            sides[name] = told
    return f'<div data-live="{escape(json.dumps(sides))}"></div>'
