"""Arrays about one answer -> plotly figures: mass, effects, attention of a head. Knows no models and no page.

Segments are as in `cells`; names of segments are "prefix", "P1" ... and what follows the paraphrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .cells import plot_text, segment_colour, visible_text
from .mask import HIDDEN, INK, LINE, base_figure, segment_axes, token_labels

GRID = "rgba(128,136,148,0.25)"
NAMED_TOKENS = 32  # up to here bars are named by their tokens, above by their numbers
LETTERED_TOKENS = 10  # up to here segments are named inside their bars
TICK_CHARACTERS, WORDING_CHARACTERS = 12, 44
HEIGHT = 360  # pixels of the attention mass
LEAST_EFFECT = 0.01  # nats that the axis shows at least: rounding does not look like an effect
ROW, MARGIN = 50, 66  # pixels of one paraphrase's effect, and of the axis below
AXIS = {"zeroline": False, "automargin": True, "title_standoff": 8}
EDGE = "rgba(255,255,255,0.55)"  # thin, between neighbours in a stack
SHADES = ((0.0, HIDDEN), (0.02, "rgba(30,136,229,0.20)"), (1.0, "rgba(30,136,229,1)"))
MARKS = (0.01, 0.1, 0.4, 1.0)  # probabilities named beside the colours


def _shortened(shown: str, characters: int) -> str:
    return escape(shown if len(shown) <= characters else f"{shown[: characters - 1]}…", quote=False)


def _label(text: str, characters: int = 10_000) -> str:
    """A name or a wording for a label: control characters made visible, spaces as they are."""
    return _shortened(" ".join(visible_text(word) if word else "" for word in text.split(" ")), characters)


def mass_figure(
    mass: np.ndarray,
    tokens: Sequence[str],
    names: Sequence[str],
    *,
    per_token: bool = False,
    legend: bool = True,
    height: int | None = None,
) -> go.Figure:
    """Attention mass by segment (T, S) as one stacked bar for each of the T answer tokens.

    `names` are the S segments: prefix, paraphrases, suffix + own answer. `per_token` says that the mass was divided
    by the number of tokens in the segment, so that a bar no longer sums to 1.
    """
    steps = np.arange(1, len(tokens) + 1)
    labels = [f"{step} <b>{plot_text(token)}</b>" for step, token in zip(steps, tokens, strict=True)]
    lettered, roles = len(tokens) <= LETTERED_TOKENS, ["prefix", *["paraphrase"] * (len(names) - 2), "suffix"]
    called = ["", *(f"{_label(name)} " for name in names[1:-1]), ""]  # other names are wider than their bars
    bars = [
        go.Bar(
            x=steps,
            y=mass[:, i],
            name=_label(name),
            marker={"color": segment_colour(name, role), "line": {"width": 0.5, "color": EDGE}},
            customdata=labels,
            text=[f"{called[i]}{value:.2f}" for value in mass[:, i]] if lettered else None,
            textposition="inside",
            textangle=0,
            insidetextanchor="middle",
            hovertemplate=f"token %{{customdata}}<br>{_label(name)}: %{{y:.4f}}<extra></extra>",
        )
        for i, (name, role) in enumerate(zip(names, roles, strict=True))
    ]
    figure = base_figure(bars, height=height)
    figure.update_layout(
        barmode="stack",
        bargap=0.25 if lettered else 0.1,
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        uniformtext={"minsize": 10, "mode": "hide"},
        dragmode=False,
    )
    ticks: dict[str, Any] = {"tickformat": "d"}
    if len(tokens) <= NAMED_TOKENS:
        ticktext = [_shortened(visible_text(token), TICK_CHARACTERS) for token in tokens]
        ticks = {"tickmode": "array", "tickvals": steps, "ticktext": ticktext}
    title = "attention per token of the segment" if per_token else "share of attention"
    figure.update_xaxes(**AXIS, **ticks, showgrid=False, title_text="token of the fused answer")
    figure.update_yaxes(**AXIS, gridcolor=GRID, title_text=title, rangemode="tozero")
    return figure if per_token else figure.update_yaxes(range=[0, 1])


def effect_figure(names: Sequence[str], effects: Sequence[float], wordings: Sequence[str]) -> go.Figure:
    """Leave-one-out effects, in nats, as one bar for each hidden paraphrase, the first on top.

    An effect above 0 says that the answer was likelier with that paraphrase. `wordings` are told above the bars.
    """
    places = range(len(names))
    told = [f"{effect:+.3f}" if round(effect, 3) else "0.000" for effect in effects]
    bars = go.Bar(
        x=list(effects),
        y=list(places),
        orientation="h",
        width=0.42,
        marker={"color": [segment_colour(name, "paraphrase") for name in names]},
        text=told,
        textposition="outside",
        cliponaxis=False,
        customdata=[f"<b>{_label(n)}</b> {_label(w)}" for n, w in zip(names, wordings, strict=True)],
        hovertemplate="%{customdata}<br>effect %{text}<extra></extra>",
    )
    figure = base_figure(bars, height=MARGIN + ROW * len(names))
    captions = [
        {
            "xref": "paper", "x": 0, "xanchor": "left", "y": place, "yshift": 20, "showarrow": False, "align": "left",
            "text": f"<b>{_label(name)}</b> {_label(wording, WORDING_CHARACTERS)}",
        }
        for place, name, wording in zip(places, names, wordings, strict=True)
    ]  # fmt: skip
    low, high = min(0.0, *effects), max(LEAST_EFFECT, *effects)
    room = 0.3 * (high - low)  # for the numbers beside the bars
    # The line of no effect stands beside the bars only: between them it would cross their captions.
    line = {"type": "line", "x0": 0, "x1": 0, "line": {"color": LINE, "width": 1.5}}
    figure.update_layout(shapes=[{**line, "y0": place - 0.21, "y1": place + 0.21} for place in places])
    figure.update_xaxes(**AXIS, showgrid=False, range=[low - room * (low < 0), high + room])
    figure.update_xaxes(title_text="log-probability lost without it (nats)")
    figure.update_yaxes(visible=False, range=[len(names) - 0.5, -0.75])
    return figure.update_layout(annotations=captions, showlegend=False, dragmode=False)


def attention_figure(rows: np.ndarray, tokens: Sequence[str], segments: Sequence[Any]) -> go.Figure:
    """Attention (T, T), row = query, rows summing to 1, over the axes of the mask.

    Colours follow the square root of the probability, as most of it often goes to one token; texts tell it exactly.
    """
    labels = token_labels(tokens, segments)
    bar = {"orientation": "h", "thickness": 8, "len": 0.6, "tickangle": 0, "outlinewidth": 0, "tickfont_color": INK}
    bar |= {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}
    trace = go.Heatmap(
        z=np.sqrt(rows),
        customdata=rows,
        x=labels,
        y=labels,
        zmin=0,
        zmax=1,
        colorscale=[list(shade) for shade in SHADES],
        colorbar={**bar, "tickvals": np.sqrt(MARKS).tolist(), "ticktext": [f"{mark:g}" for mark in MARKS]},
        hovertemplate="query %{y}<br>key   %{x}<br>attention %{customdata:.4f}<extra></extra>",
    )
    return segment_axes(base_figure(trace), segments)


def gave_figure(
    mass: np.ndarray,
    tokens: Sequence[str],
    names: Sequence[str],
    effects: Sequence[tuple[str, float, str]],
    *,
    per_token: bool = False,
) -> go.Figure:
    """What each wording gave to an answer, in one picture: `mass_figure` at the left, `effect_figure` at the right.

    `effects` are (name, effect, wording) of the paraphrases that could be hidden; without any the mass stands alone.
    """
    figure = mass_figure(mass, tokens, names, per_token=per_token, legend=False)
    if not effects:
        return figure
    other = effect_figure(*zip(*effects, strict=True))
    figure.add_traces([bars.update(xaxis="x2", yaxis="y2") for bars in other.data])
    height = max(HEIGHT, other.layout.height)  # many wordings need more than the mass does
    return figure.update_layout(
        height=height,
        yaxis_domain=[1 - HEIGHT / height, 1],
        xaxis_domain=[0.0, 0.58],
        xaxis2=other.layout.xaxis.update(anchor="y2", domain=[0.64, 1.0]),
        yaxis2=other.layout.yaxis.update(anchor="x2", domain=[1 - ROW * len(effects) / (height - MARGIN), 1]),
        shapes=[shape.update(xref="x2", yref="y2") for shape in other.layout.shapes],
        annotations=[note.update(xref="x2 domain", yref="y2") for note in other.layout.annotations],
    )
