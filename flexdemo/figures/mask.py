"""Masks as arrays -> plotly figures. Knows no models and no page; usable in a notebook.

Segments are as in `cells`, which holds all that needs no plotly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .cells import (
    CHANGES,
    EXACT_TOKENS,
    block_means,
    block_size,
    owners_of,
    plot_text,
    segment_colour,
)

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"], "responsive": True}
GRID_TOKENS = 96  # up to here cells stand apart
AXIS_PIXELS = 460  # of an axis, to judge whether its labels have room; the page knows better and sets them again
LAST_LABEL = 32  # pixels to the right of the last cell, for half of its segment's name
LABEL_MARK, LABEL_CHARACTER, LABEL_HEIGHT, LABEL_LINES = 20, 7, 16, 4
MARK_MORE, LABEL_GAP, TITLE = 5, 8, 30  # what a mark has more than a character; beside labels; the same with a title
_, REMOVED, ADDED = CHANGES.values()
HIDDEN = "rgba(128,136,148,0.10)"
LINE = "rgba(128,136,148,0.75)"
INK = "#6B7280"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def token_labels(tokens: Sequence[str], segments: Sequence[Any]) -> list[str]:
    """One label for each token, told apart by its index: `17 ·city (P2)`."""
    owners = owners_of(segments, len(tokens))
    return [f"{i} <b>{plot_text(tokens[i])}</b> ({plot_text(segments[owner].name)})" for i, owner in enumerate(owners)]


def _ticks(segments: Sequence[Any], block: int, *, across: bool) -> dict[str, Any]:
    """Ticks that name the segments.

    Names that would lie over one another stand on lines of their own on an axis that goes across, else on one line.
    """
    named = [segment for segment in segments if segment.start < segment.end]
    middles = [(segment.start + segment.end) / (2 * block) - 0.5 for segment in named]
    names = [(segment.name, segment_colour(segment.name, segment.role)) for segment in named]
    pixel = AXIS_PIXELS * block / max(1, segments[-1].end)  # of one cell
    texts = [f'<span style="color:{colour}">■</span> {plot_text(name)}' for name, colour in names]
    if across:
        lines = tick_lines([middle * pixel for middle in middles], [len(name) for name, _ in names])
        texts = ["<br>" * line + text for line, text in zip(lines, texts, strict=True)]
    else:
        middles, texts = _joined(middles, texts, LABEL_HEIGHT / pixel)
    return {"tickmode": "array", "tickvals": middles, "ticktext": texts, "ticks": "", "tickangle": 0}


def tick_lines(middles: Sequence[float], lengths: Sequence[int]) -> list[int]:
    """On which of LABEL_LINES lines each label stands so that none lies over another: the first with room, or that
    with most. `middles` are in pixels, from left to right; `lengths` in characters."""
    ends, lines = [-math.inf] * LABEL_LINES, []
    for middle, length in zip(middles, lengths, strict=True):
        half = (LABEL_MARK + LABEL_CHARACTER * length) / 2
        free = [i for i, end in enumerate(ends) if end <= middle - half]
        lines.append(free[0] if free else ends.index(min(ends)))
        ends[lines[-1]] = middle + half
    return lines


def _joined(middles: Sequence[float], texts: Sequence[str], least: float) -> tuple[list[float], list[str]]:
    """Labels with those nearer than `least` to the one before them on its line."""
    groups: list[list[int]] = []
    for i, middle in enumerate(middles):
        if groups and middle - np.mean([middles[j] for j in groups[-1]]) < least:
            groups[-1].append(i)
        else:
            groups.append([i])
    places = [float(np.mean([middles[i] for i in group])) for group in groups]
    return places, [" ".join(texts[i] for i in group) for group in groups]


def _room(across: Sequence[str], down: Sequence[str]) -> dict[str, int]:
    """Margins for the labels and titles of both axes.

    With Plotly's own (automargin) a figure is drawn again and again until they fit, in ten times the time.
    """
    lines = max((text.count("<br>") + 1 for text in across), default=0)
    widths = [LABEL_CHARACTER * len(re.sub("<.*?>", "", text)) + MARK_MORE * text.count("■") for text in down]
    return {"l": TITLE + max(widths, default=0), "b": TITLE + LABEL_HEIGHT * lines}


def untitled(figure: go.Figure) -> go.Figure:
    """Axes of segments without their titles, and without the room for these."""
    figure.update_xaxes(title_text="").update_yaxes(title_text="")
    margin = figure.layout.margin
    return figure.update_layout(margin={"l": margin.l - TITLE + LABEL_GAP, "b": margin.b - TITLE + LABEL_GAP})


def segment_axes(figure: go.Figure, segments: Sequence[Any], *, block: int = 1) -> go.Figure:
    """Segment bounds as lines and names as ticks on both axes; square cells, queries downwards."""
    length = segments[-1].end
    bounds = [segment.end / block - 0.5 for segment in segments if segment.start < segment.end < length]
    far = -(-length // block) - 0.5
    line = {"color": LINE, "width": 1}
    shapes = [{"type": "line", "x0": at, "x1": at, "y0": -0.5, "y1": far, "line": line} for at in bounds]
    shapes += [{"type": "line", "x0": -0.5, "x1": far, "y0": at, "y1": at, "line": line} for at in bounds]
    shapes.append({"type": "rect", "x0": -0.5, "x1": far, "y0": -0.5, "y1": far, "line": line})
    common = {"showgrid": False, "zeroline": False, "constrain": "domain", "title_standoff": 6}
    common["ticklabeloverflow"] = "allow"  # else a name at the edge of a narrow figure is left out
    across, down = (_ticks(segments, block, across=each) for each in (True, False))
    figure.update_xaxes(**common, **across, range=[-0.5, far], title_text="key (is seen)")
    figure.update_yaxes(**common, **down, range=[far, -0.5], title_text="query (sees)")
    figure.update_yaxes(scaleanchor="x", scaleratio=1, constraintoward="top")
    margin = {**_room(across["ticktext"], down["ticktext"]), "r": LAST_LABEL}
    return figure.update_layout(shapes=shapes, margin=margin)


def base_figure(traces: Any, *, title: str = "", height: int | None = None) -> go.Figure:
    """Traces in the look that all figures share: transparent, readable on light and dark pages."""
    figure = go.Figure(traces)
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 8, "t": 34 if title else 8, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        title={"text": escape(title, quote=False), "font": {"size": 14}, "x": 0.01} if title else None,
        hoverlabel={
            "bgcolor": "#1F2937",
            "bordercolor": "#1F2937",
            "align": "left",
            "font": {"family": MONO, "size": 12, "color": "#FFFFFF"},
        },
        dragmode="zoom",
        height=height,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": INK, "activecolor": "#0072B2"},
    )
    return figure


def _cells(
    z: np.ndarray,
    colours: Sequence[str],
    why: np.ndarray | None,
    tokens: Sequence[str],
    segments: Sequence[Any],
    title: str,
    height: int | None = None,
) -> go.Figure:
    """A heatmap cell by cell: z indexes `colours`, `why` says in words what a cell is; None leaves all words out."""
    gap, count = (1 if len(z) <= GRID_TOKENS else 0), len(colours)
    words: dict[str, Any] = {"hoverinfo": "none"}  # events still fire
    if why is not None:
        labels, template = token_labels(tokens, segments), "query %{y}<br>key   %{x}<br>%{text}<extra></extra>"
        words = {"x": labels, "y": labels, "text": why, "hovertemplate": template}
    trace = go.Heatmap(
        z=z,
        colorscale=[[edge / count, colour] for i, colour in enumerate(colours) for edge in (i, i + 1)],  # flat steps
        zmin=-0.5,
        zmax=count - 0.5,
        showscale=False,
        xgap=gap,
        ygap=gap,
        **words,
    )
    return segment_axes(base_figure(trace, title=title, height=height), segments)


def mask_figure(
    mask: np.ndarray,
    tokens: Sequence[str],
    segments: Sequence[Any],
    *,
    strategy: str = "",
    height: int | None = None,
    words: bool = True,
    why: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> go.Figure:
    """The mask (T, T), True = visible, as a heatmap coloured by the key's segment; `strategy` is the title.

    Cell by cell up to EXACT_TOKENS tokens; above that means over blocks of cells, labelled so. `why` tells the reasons
    of the cells of some queries and keys, as `masks.Mask.told` does. Without `words` cells have
    no hover text, which is nearly all of the figure's size: the page makes its own.
    """
    length = len(tokens)
    if mask.shape != (length, length):
        raise ValueError(f"a mask of shape {mask.shape} does not fit {length} tokens")
    if length > EXACT_TOKENS:
        scale = [[0, "rgba(0,114,178,0.05)"], [1, "rgba(0,114,178,1)"]]
        told = (strategy, "%{z:.1%} of the pairs visible") if words else None
        return _overview(block_means(mask, block_size(length)), 0, scale, told, length, segments, height)
    shown = [segment_colour(s.name, s.role) for s in segments]
    colours = list(dict.fromkeys(shown))
    of_segment = np.array([colours.index(colour) + 1 for colour in shown], dtype=np.uint8)
    z = np.where(mask, of_segment[owners_of(segments, length)], 0).astype(np.uint8)
    told = None
    if words:
        places = np.arange(length)
        told = np.where(mask, "visible", "hidden") if why is None else why(places, places)
    return _cells(z, [HIDDEN, *colours], told, tokens, segments, strategy, height)


def _block_labels(length: int, block: int, segments: Sequence[Any]) -> list[str]:
    owners = owners_of(segments, length)
    labels = []
    for start in range(0, length, block):
        end = min(length, start + block) - 1
        first, last = segments[owners[start]].name, segments[owners[end]].name
        labels.append(f"tokens {start} to {end} ({plot_text(first if first == last else f'{first} to {last}')})")
    return labels


def _overview(
    z: np.ndarray,
    lowest: float,
    scale: Sequence[Any],
    told: tuple[str, str] | None,
    length: int,
    segments: Sequence[Any],
    height: int | None = None,
) -> go.Figure:
    """A heatmap of blocks from `lowest` to 1; `told` are its title and what a cell says, None leaves all words out."""
    block, title, words = block_size(length), "", {"hoverinfo": "none"}
    if told:
        title = f"{told[0]}: " if told[0] else ""
        title += f"block means: a cell stands for {block} x {block} of the {length} x {length} token pairs"
        labels = _block_labels(length, block, segments)
        said = f"queries %{{y}}<br>keys    %{{x}}<br>{told[1]}<extra></extra>"
        words = {"x": labels, "y": labels, "hovertemplate": said}
    trace = go.Heatmap(z=z, zmin=lowest, zmax=1, colorscale=scale, showscale=False, **words)
    return segment_axes(base_figure(trace, title=title, height=height), segments, block=block)


def difference_figure(
    mask: np.ndarray,
    other: np.ndarray,
    tokens: Sequence[str],
    segments: Sequence[Any],
    *,
    name: str = "this mask",
    against: str = "the other",
    words: bool = True,
) -> go.Figure:
    """What changes from `other` to `mask`: cells kept, removed and added, with exact shares of all cells as title.

    Without `words` there is no title and no hover text: the page has its own.
    """
    length = len(tokens)
    if mask.shape != other.shape or mask.shape != (length, length):
        raise ValueError(f"masks of shapes {mask.shape} and {other.shape} do not fit {length} tokens")
    changed = dict(zip(CHANGES, (mask & other, ~mask & other, mask & ~other), strict=True))
    title = f"from {against} to {name}: " + ", ".join(f"{word} {cells.mean():.4f}" for word, cells in changed.items())
    if length > EXACT_TOKENS:
        block = block_size(length)
        means, scale = block_means(mask, block) - block_means(other, block), [[0, REMOVED], [0.5, HIDDEN], [1, ADDED]]
        return _overview(means, -1, scale, (title, "added minus removed %{z:.1%}") if words else None, length, segments)
    z, why = np.select(list(changed.values()), [1, 2, 3], 0).astype(np.uint8), None
    if words:
        kinds = [
            "hidden in both",
            "kept: visible in both",
            f"removed: visible in {plot_text(against)} only",
            f"added: visible in {plot_text(name)} only",
        ]
        why = np.array(kinds, dtype=object)[z]
    return _cells(z, [HIDDEN, *CHANGES.values()], why, tokens, segments, title if words else "")
