"""What links mask, tokens and legend on the page, as HTML and as data for `assets/views.js`. Knows no gradio."""

from __future__ import annotations

import base64
import json
from html import escape

from .cells import visible_text
from .config import Limits
from .methods import Result
from .model import LanguageModel
from .ui_compare import SIDES, Pair
from .ui_form import Form, compose
from .ui_mask import signature, whole_png

# Filled by views.js. It works without the program, so that a highlight costs no round trip.
LINKS = (
    '<div id="links"><label for="link-token">Token</label>'
    '<input id="link-token" type="number" min="0" step="1" inputmode="numeric">'
    '<button id="link-clear" type="button">Clear</button>'
    '<button id="link-exact" type="button" hidden>Show exactly here</button>'
    "</div>"
    '<div id="link-told"><div id="link-words" role="status" aria-live="polite"></div>'
    '<p id="link-hint">Give a number here, or click a cell, a token or a segment: its row is what it sees, its column '
    "who sees it. Drag over a part of the mask to enlarge it, double-click to see all of it again.</p></div>"
)
ANSWER = (
    '<div id="answer-tokens" hidden><button type="button" class="chip is-answer" data-segment="0" aria-pressed="false">'
    'answer</button> <span class="count"></span><div class="textfield"></div></div>'
)
SAVE = "() => document.querySelector('#mask-png-link a')?.click()"


def png_html(lm: LanguageModel, limits: Limits, form: Form, pair: Pair, show: str) -> str:
    """A link that holds the whole picture as a PNG: nothing is written to disk. InputError as `compose`."""
    prompt = compose(lm, limits, form)
    data = base64.b64encode(whole_png(prompt, pair.both(form), show=show)).decode("ascii")
    side = pair.right if show == "right" else pair.left
    name = f"{'difference' if show == 'difference' else side.scheme(form).strategy}-{len(prompt.token_ids)}.png"
    return f'<a download="mask-{name}" href="data:image/png;base64,{data}" tabindex="-1">PNG</a>'


def live_html(form: Form, pair: Pair, result: Result) -> str:
    """Both sides' answer tokens so far, and which picture they belong to: a row for each grows on the mask."""
    sides = {}
    for name, scheme, answered in zip(SIDES, pair.both(form), pair.answered(result), strict=True):
        if answered is not None:
            tokens = [visible_text(token) for token in answered.tokens]
            told = {"signature": signature(result.prompt, scheme), "tokens": tokens, "done": bool(answered.stopped_by)}
            sides[name] = told
    return f'<div data-live="{escape(json.dumps(sides))}"></div>'
