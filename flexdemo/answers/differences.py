"""Where two answers differ, token by token, and where those tokens stand in the text. Knows no models and no page."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape
from itertools import groupby

PIECE = "\ufffd"  # a token that is part of a character decodes to this


def differing(tokens: Sequence[int], others: Sequence[int]) -> tuple[bool, ...]:
    """For each of `tokens`, whether it has no partner in a longest matching of the two answers."""
    differs = [True] * len(tokens)
    for block in SequenceMatcher(None, list(tokens), list(others), autojunk=False).get_matching_blocks():
        differs[block.a : block.a + block.size] = [False] * block.size
    return tuple(differs)


def token_ranges(text: str, tokens: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Where each token stands in the text that all of them decode to: (start, end), end excluded.

    A token that the text leaves out, such as an end token, has no width. Tokens that are pieces of one character share
    its range; white space that the text has before a token belongs to that token.
    """
    ranges, at, i = [], 0, 0
    while i < len(tokens):
        if PIECE not in tokens[i]:
            found = _found(text, tokens[i], at)
            ranges.append((at, found) if found else (at, at))
            at = found or at
            i += 1
            continue
        last = i
        while last < len(tokens) and PIECE in tokens[last]:
            last += 1
        following = next((token for token in tokens[last:] if token in text[at:] and token), None)
        end = len(text) if following is None else text.index(following, at)
        ranges += [(at, end)] * (last - i)
        at, i = end, last
    return tuple(ranges)


def _found(text: str, token: str, at: int) -> int | None:
    """The end of a token that begins at `at` or after white space there; None if it is not there."""
    skipped = at
    while not text.startswith(token, skipped):
        if skipped >= len(text) or not text[skipped].isspace():
            return None
        skipped += 1
    return skipped + len(token)


def marked_html(answer: str, generation: str, tokens: Sequence[str], differs: Sequence[bool]) -> str:
    """The answer, a part of its generation, as HTML with differing tokens in <mark>: its text content is the answer."""
    start = generation.find(answer) if answer else 0
    if start < 0:
        raise ValueError("the answer is no part of its generation")
    marks = [False] * len(answer)
    for (first, end), differ in zip(token_ranges(generation, tokens), differs, strict=True):
        if differ:
            low, high = max(0, first - start), min(len(answer), end - start)
            marks[low:high] = [True] * max(0, high - low)
    pieces = []
    for differ, run in groupby(zip(answer, marks, strict=True), key=lambda each: each[1]):
        piece = escape("".join(character for character, _ in run))
        pieces.append(f'<mark class="differs">{piece}</mark>' if differ else piece)
    return "".join(pieces)
