"""Arrays -> plotly figures, pictures and token spans. Knows no models and no page; usable in a notebook.

Segments are as in `cells`, which holds all that needs no plotly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .cells import (
    CHANGES,
    EXACT_TOKENS,
    Window,
    block_means,
    block_size,
    difference_densities,
    mask_png,
    owners_of,
    plot_text,
    ranges_of,
    segment_colour,
    token_spans,
)

__all__ = [
    "Window",
    "difference_densities",
    "difference_figure",
    "figure_html",
    "mask_figure",
    "mask_png",
    "token_spans",
]

GRID_TOKENS = 96  # up to here cells stand apart
AXIS_PIXELS = 460  # of an axis, to judge whether its labels have room; the page knows better and sets them again
LAST_LABEL = 32  # pixels to the right of the last cell, for half of its segment's name
LABEL_MARK, LABEL_CHARACTER, LABEL_HEIGHT, LABEL_LINES = 20, 7, 16, 3
KEPT, REMOVED, ADDED = CHANGES.values()
HIDDEN = "rgba(128,136,148,0.10)"
LINE = "rgba(128,136,148,0.75)"
INK = "#6B7280"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def token_labels(indices: np.ndarray, tokens: Sequence[str], segments: Sequence[Any]) -> list[str]:
    """One label for each token, told apart by its index: `17 ·city (P2)`."""
    owners = owners_of(segments, len(tokens))
    return [f"{i} <b>{plot_text(tokens[i])}</b> ({plot_text(segments[owners[i]].name)})" for i in indices]


def _axis(
    first: int, last: int, segments: Sequence[Any], block: int, *, across: bool
) -> tuple[dict[str, Any], list[float]]:
    """Ticks that name the segments among tokens first <= t < last, and where one segment ends and the next begins.

    Names that would lie over one another stand on lines of their own on an axis that goes across, else on one line.
    """
    middles, names, bounds = [], [], []
    for segment in segments:
        start, end = max(segment.start, first), min(segment.end, last)
        if start >= end:
            continue
        middles.append((start + end - first * 2) / (2 * block) - 0.5)
        names.append((segment.name, segment_colour(segment.name, segment.role)))
        if end < last:
            bounds.append((end - first) / block - 0.5)
    pixel = AXIS_PIXELS * block / max(1, last - first)  # of one cell
    texts = [f'<span style="color:{colour}">■</span> {plot_text(name)}' for name, colour in names]
    if across:
        lines = tick_lines([middle * pixel for middle in middles], [len(name) for name, _ in names])
        texts = ["<br>" * line + text for line, text in zip(lines, texts, strict=True)]
    else:
        middles, texts = _joined(middles, texts, LABEL_HEIGHT / pixel)
    return {"tickmode": "array", "tickvals": middles, "ticktext": texts, "ticks": "", "tickangle": 0}, bounds


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


def segment_axes(
    figure: go.Figure, rows: tuple[int, int], columns: tuple[int, int], segments: Sequence[Any], *, block: int = 1
) -> go.Figure:
    """Segment bounds as lines and names as ticks on both axes; square cells, queries downwards."""
    x_ticks, x_bounds = _axis(*columns, segments, block, across=True)
    y_ticks, y_bounds = _axis(*rows, segments, block, across=False)
    right, bottom = -(-(columns[1] - columns[0]) // block) - 0.5, -(-(rows[1] - rows[0]) // block) - 0.5
    line = {"color": LINE, "width": 1}
    shapes = [{"type": "line", "x0": x, "x1": x, "y0": -0.5, "y1": bottom, "line": line} for x in x_bounds]
    shapes += [{"type": "line", "x0": -0.5, "x1": right, "y0": y, "y1": y, "line": line} for y in y_bounds]
    shapes.append({"type": "rect", "x0": -0.5, "x1": right, "y0": -0.5, "y1": bottom, "line": line})
    common = {"showgrid": False, "zeroline": False, "constrain": "domain", "automargin": True, "title_standoff": 6}
    common["ticklabeloverflow"] = "allow"  # else a name at the edge of a narrow figure is left out
    figure.update_xaxes(**common, **x_ticks, range=[-0.5, right], title_text="key (is seen)")
    figure.update_yaxes(**common, **y_ticks, range=[bottom, -0.5], title_text="query (sees)")
    figure.update_yaxes(scaleanchor="x", scaleratio=1, constraintoward="top")
    return figure.update_layout(shapes=shapes, margin_r=LAST_LABEL)


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


def _stepped(colours: Sequence[str]) -> list[list[Any]]:
    """A colour scale with one flat step for each colour, for integer z from 0 to len(colours) - 1."""
    count = len(colours)
    return [[edge / count, colour] for i, colour in enumerate(colours) for edge in (i, i + 1)]


def _cells(
    z: np.ndarray,
    colours: Sequence[str],
    why: np.ndarray | None,
    rows: np.ndarray,
    columns: np.ndarray,
    tokens: Sequence[str],
    segments: Sequence[Any],
    title: str,
    height: int | None,
) -> go.Figure:
    """A heatmap cell by cell: z indexes `colours`, `why` says in words what a cell is; None leaves all words out."""
    gap = 1 if len(z) <= GRID_TOKENS else 0
    words: dict[str, Any] = {"hoverinfo": "none"}  # events still fire
    if why is not None:
        labels = {"x": token_labels(columns, tokens, segments), "y": token_labels(rows, tokens, segments)}
        template = "query %{y}<br>key   %{x}<br>%{text}<extra></extra>"
        words = {**labels, "text": why, "hovertemplate": template}
    trace = go.Heatmap(
        z=z,
        colorscale=_stepped(colours),
        zmin=-0.5,
        zmax=len(colours) - 0.5,
        showscale=False,
        xgap=gap,
        ygap=gap,
        **words,
    )
    spans = (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)
    return segment_axes(base_figure(trace, title=title, height=height), *spans, segments)


def mask_figure(
    mask: np.ndarray,
    tokens: Sequence[str],
    segments: Sequence[Any],
    *,
    strategy: str = "",
    window: Window | None = None,
    height: int | None = None,
    words: bool = True,
    why: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> go.Figure:
    """The mask (T, T), True = visible, as a heatmap coloured by the key's segment; `strategy` is the title.

    Cell by cell up to EXACT_TOKENS tokens, or inside `window`; above that means over blocks of cells, labelled so.
    `why` tells the reasons of the cells of some queries and keys, as `masks.Mask.told` does. Without `words` cells have
    no hover text, which is nearly all of the figure's size: the page makes its own.
    """
    length = len(tokens)
    if mask.shape != (length, length):
        raise ValueError(f"a mask of shape {mask.shape} does not fit {length} tokens")
    if window is None and length > EXACT_TOKENS:
        return _overview(mask, segments, title=strategy, height=height, words=words)
    rows, columns = ranges_of(window, length)
    shown = [segment_colour(s.name, s.role) for s in segments]
    colours = list(dict.fromkeys(shown))
    of_segment = np.array([colours.index(colour) + 1 for colour in shown], dtype=np.uint8)
    part = mask[np.ix_(rows, columns)]
    z = np.where(part, of_segment[owners_of(segments, length)[columns]], 0).astype(np.uint8)
    told = None
    if words:
        told = np.where(part, "visible", "hidden") if why is None else why(rows, columns)
    return _cells(z, [HIDDEN, *colours], told, rows, columns, tokens, segments, strategy, height)


def _block_labels(length: int, block: int, segments: Sequence[Any]) -> list[str]:
    owners = owners_of(segments, length)
    labels = []
    for start in range(0, length, block):
        end = min(length, start + block) - 1
        first, last = segments[owners[start]].name, segments[owners[end]].name
        labels.append(f"tokens {start} to {end} ({plot_text(first if first == last else f'{first} to {last}')})")
    return labels


def _blocks(length: int, block: int, segments: Sequence[Any], words: bool, template: str) -> dict[str, Any]:
    """What a heatmap of blocks says when pointed at; nothing without `words`."""
    if not words:
        return {"hoverinfo": "none"}
    labels = _block_labels(length, block, segments)
    return {"x": labels, "y": labels, "hovertemplate": f"queries %{{y}}<br>keys    %{{x}}<br>{template}<extra></extra>"}


def _overview(mask: np.ndarray, segments: Sequence[Any], *, title: str, height: int | None, words: bool) -> go.Figure:
    length = len(mask)
    block = block_size(length)
    note = f"block means: a cell stands for {block} x {block} of the {length} x {length} token pairs"
    trace = go.Heatmap(
        z=block_means(mask, block),
        zmin=0,
        zmax=1,
        colorscale=[[0, "rgba(0,114,178,0.05)"], [1, "rgba(0,114,178,1)"]],
        showscale=False,
        **_blocks(length, block, segments, words, "%{z:.1%} of the pairs visible"),
    )
    if words:
        title = f"{title}: {note}" if title else note
    return segment_axes(base_figure(trace, title=title, height=height), (0, length), (0, length), segments, block=block)


def difference_figure(
    mask: np.ndarray,
    other: np.ndarray,
    tokens: Sequence[str],
    segments: Sequence[Any],
    *,
    name: str = "this mask",
    against: str = "the other",
    window: Window | None = None,
    height: int | None = None,
    words: bool = True,
) -> go.Figure:
    """What changes from `other` to `mask`: cells kept, removed and added, with exact shares of all cells as title.

    Without `words` there is no title and no hover text: the page has its own.
    """
    length = len(tokens)
    if mask.shape != other.shape or mask.shape != (length, length):
        raise ValueError(f"masks of shapes {mask.shape} and {other.shape} do not fit {length} tokens")
    shares = difference_densities(mask, other)
    title = f"from {against} to {name}: " + ", ".join(f"{word} {share:.4f}" for word, share in shares.items())
    if window is None and length > EXACT_TOKENS:
        block = block_size(length)
        trace = go.Heatmap(
            z=block_means(mask, block) - block_means(other, block),
            zmin=-1,
            zmax=1,
            showscale=False,
            colorscale=[[0, REMOVED], [0.5, HIDDEN], [1, ADDED]],
            **_blocks(length, block, segments, words, "added minus removed %{z:.1%}"),
        )
        title = f"{title} (block means, {block} x {block} tokens a cell)" if words else ""
        figure = base_figure(trace, title=title, height=height)
        return segment_axes(figure, (0, length), (0, length), segments, block=block)
    rows, columns = ranges_of(window, length)
    part, before = mask[np.ix_(rows, columns)], other[np.ix_(rows, columns)]
    z = np.select([part & before, before, part], [1, 2, 3], 0).astype(np.uint8)
    why = None
    if words:
        kinds = [
            "hidden in both",
            "kept: visible in both",
            f"removed: visible in {plot_text(against)} only",
            f"added: visible in {plot_text(name)} only",
        ]
        why = np.array(kinds, dtype=object)[z]
    colours = [HIDDEN, KEPT, REMOVED, ADDED]
    return _cells(z, colours, why, rows, columns, tokens, segments, title if words else "", height)


def figure_html(figure: go.Figure) -> str:
    """One HTML page with the figure that works offline and offers to send the data nowhere."""
    config = {"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"], "responsive": True}
    return figure.to_html(include_plotlyjs=True, full_html=True, config=config)
