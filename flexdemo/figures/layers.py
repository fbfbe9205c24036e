"""What wordings would say after each layer; how much each head looks at one: plotly figures. Knows no models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from .answer import GRID, LEAST_EFFECT, SHADES
from .cells import plot_text, segment_colour
from .mask import INK, LINE, base_figure

FUSED = "#8A93A0"  # broad and behind the others, so that they are seen on it
UPPER, LOWER = [0.46, 1.0], [0.0, 0.36]  # heights of the two panels
HEIGHT = 460
DECADES = -6  # probabilities below 10 to this power are drawn there
MARKS = {1: "1", 0.1: "0.1", 0.01: "0.01", 1e-3: "0.001", 1e-4: "10<sup>-4</sup>", 1e-5: "10<sup>-5</sup>",
         1e-6: "≤ 10<sup>-6</sup>"}  # fmt: skip
MOST_DOTS = 48  # layers: beyond it dots would be a band
ROW, MARGIN, LEAST = 17, 120, 300  # pixels of a layer, of what stands above and below, and of the whole at least
LEFT, RIGHT = [0.0, 0.58], [0.66, 1.0]  # widths of the two panels


def merge_figure(
    probability: np.ndarray,
    says: Sequence[Sequence[str]],
    hits: np.ndarray,
    to_fused: np.ndarray,
    between: np.ndarray,
    names: Sequence[str],
    token: str,
    *,
    agree_from: int | None = None,
    marked_layer: int | None = None,
) -> go.Figure:
    """Two panels over the layers, counted from 1: the probability of `token`, and cosines of hidden states.

    probability, says and hits (L, N + 1) have a column for each of the N names and the fused one last: what would be
    said there, and whether that is the token, which a full dot shows. to_fused is (L, N), between (L,). `agree_from` is
    the layer from which on all would say it, `marked_layer` one where something else begins.
    """
    count, rows = probability.shape
    layers = np.arange(1, count + 1)
    colours = [*(segment_colour(name, "paraphrase") for name in names), FUSED]
    mode = "lines+markers" if count <= MOST_DOTS else "lines"
    figure = base_figure(None, height=HEIGHT)
    for row in (rows - 1, *range(rows - 1)):
        fused = row == rows - 1
        name = "fused" if fused else plot_text(names[row])
        look = {"line": {"color": colours[row], "width": 6 if fused else 2}, "name": name, "legendgroup": name}
        figure.add_scatter(
            x=layers,
            y=np.maximum(probability[:, row], 10.0**DECADES),
            mode=mode,
            marker={
                "symbol": np.where(hits[:, row], "circle", "circle-open"),
                "size": 11 if fused else 7,
                "color": colours[row],
            },
            customdata=[plot_text(layer[row]) for layer in says],
            hovertemplate=f"{name} %{{y:.2g}}, says <b>%{{customdata}}</b><extra></extra>",
            **look,
        )
        if not fused:
            told = f"{name} and fused %{{y:.4f}}<extra></extra>"
            below = {"x": layers, "y": to_fused[:, row], "yaxis": "y2", "mode": "lines", "showlegend": False}
            figure.add_scatter(**below, hovertemplate=told, **look)
    if not np.isnan(between).all():
        look = {"name": "two wordings, mean cosine", "line": {"color": INK, "width": 2, "dash": "dot"}}
        told = "mean of two wordings %{y:.4f}<extra></extra>"
        figure.add_scatter(x=layers, y=between, mode="lines", yaxis="y2", hovertemplate=told, **look)
    axis = {"zeroline": False, "gridcolor": GRID, "automargin": True, "title_standoff": 8}
    lowest = min(np.nanmin(to_fused, initial=1.0), np.nanmin(between, initial=1.0))
    figure.update_layout(
        xaxis={
            **axis, "title_text": "layers run through", "range": [0.6, count + 0.4], "anchor": "y2", "tick0": 1,
            "dtick": max(1, -(-count // 16)), "tickformat": "d", "unifiedhovertitle_text": "after layer %{x}",
        },
        yaxis={
            **axis, "title_text": f"probability of {plot_text(token)}", "domain": UPPER, "type": "log",
            "range": [DECADES - 0.2, 0.15], "tickvals": [*MARKS], "ticktext": [*MARKS.values()],
        },
        yaxis2={
            **axis, "title_text": "cosine to fused", "domain": LOWER, "nticks": 5,
            "range": [lowest - 0.06 * (1.001 - lowest), 1.0],
        },
        hovermode="x unified",
        dragmode=False,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    if agree_from is not None:
        _mark(figure, agree_from, "all say it from here", "solid", "top")
    if marked_layer is not None:
        _mark(figure, marked_layer, "mean of states from here", "dash", "bottom")
    return figure


def _mark(figure: go.Figure, layer: int, text: str, dash: str, side: str) -> None:
    """A line through both panels before a layer, and what begins there."""
    count = len(figure.data[0].x)
    place, right = layer - 0.35, layer > count / 2
    figure.add_shape(
        type="line", x0=place, x1=place, yref="paper", y0=0, y1=1, line={"color": LINE, "width": 1.5, "dash": dash}
    )
    figure.add_annotation(
        x=place, yref="paper", y=1 if side == "top" else UPPER[0], text=text, showarrow=False,
        xanchor="right" if right else "left", yanchor=side, xshift=-5 if right else 5,
    )  # fmt: skip


def heads_figure(
    attention: np.ndarray,
    name: str,
    strongest: Sequence[tuple[int, int]] = (),
    by_layer: Sequence[float] = (),
    without: float | None = None,
) -> go.Figure:
    """Attention (layers, heads) to the wording `name` as a heatmap, the `strongest` places of the array marked in it.
    Layers and heads are shown counted from 1.

    At the right, on the same layers: the answer's log-probability lost when all heads of one layer may not see the
    wording, and as a line what is lost `without` it in all layers.
    """
    layers, heads = attention.shape
    ranks = np.full((layers, heads), "", dtype=object)
    for place, (layer, head) in enumerate(strongest, start=1):
        ranks[layer, head] = str(place)
    wording, colour = plot_text(name), segment_colour(name, "paraphrase")
    trace = go.Heatmap(
        z=attention,
        x=np.arange(1, 1 + heads),
        y=np.arange(1, 1 + layers),
        zmin=0,
        zmax=max(float(attention.max()), 1e-9),
        colorscale=[list(shade) for shade in SHADES],
        text=ranks,
        texttemplate="%{text}",
        xgap=1,
        ygap=1,
        hovertemplate=f"layer %{{y}}, head %{{x}}<br>looks at {wording}: %{{z:.3f}}<extra></extra>",
        colorbar={
            "orientation": "h", "thickness": 8, "len": 0.4, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom",
            "outlinewidth": 0, "nticks": 4, "tickangle": 0, "tickfont": {"color": INK},
            "title": {"text": f"share of attention to {wording}", "side": "top", "font": {"color": INK, "size": 12}},
        },
    )  # fmt: skip
    figure = base_figure(trace, height=max(LEAST, MARGIN + ROW * layers))
    axis = {"showgrid": False, "zeroline": False, "tickformat": "d", "tick0": 1, "title_standoff": 10}
    across, down = (max(1, -(-count // 16)) for count in (heads, layers))
    figure.update_layout(
        xaxis={**axis, "title_text": "head", "title_standoff": 26, "domain": LEFT, "dtick": across},
        yaxis={**axis, "title_text": "layer", "range": [layers + 0.5, 0.5], "dtick": down},
        margin={"l": 52, "r": 8, "t": 60, "b": 60},
        dragmode=False,
        showlegend=False,
    )
    if by_layer:
        _add_layers(figure, by_layer, without, colour)
    return figure


def _add_layers(figure: go.Figure, by_layer: Sequence[float], without: float | None, colour: str) -> None:
    layers = len(by_layer)
    told = "layer %{y}, all its heads at once<br>lost: %{x:+.4f}<extra></extra>"
    numbers, look = np.arange(1, 1 + layers), {"orientation": "h", "marker": {"color": colour}, "xaxis": "x2"}
    figure.add_bar(x=list(by_layer), y=numbers, hovertemplate=told, **look)
    ends = [-LEAST_EFFECT, LEAST_EFFECT, *by_layer, *([] if without is None else [without])]
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low)
    figure.update_layout(
        xaxis2={
            "domain": RIGHT, "anchor": "y", "range": [low - room, high + room], "zeroline": True, "zerolinecolor": LINE,
            "showgrid": False, "title_text": "log-prob. lost, hidden from a whole layer", "nticks": 5,
            "exponentformat": "none",
        },
        bargap=0.25,
    )  # fmt: skip
    if without is not None:
        line = {"color": "#D55E00", "width": 2, "dash": "dash"}
        figure.add_shape(type="line", xref="x2", yref="paper", x0=without, x1=without, y0=0, y1=1, line=line)
        figure.add_annotation(
            xref="x2", yref="paper", x=without, y=1, yanchor="bottom", showarrow=False,
            xanchor="left" if without < (low + high) / 2 else "right",
            text=f"leave-one-out {round(without, 3) + 0.0:+.3f}",
        )  # fmt: skip
