"""How much each head looks at one wording, and what hiding it does -> one plotly figure. Knows no models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from .answer import SHADES
from .cells import plot_text, segment_colour
from .mask import INK, LINE, base_figure

ROW, MARGIN, LEAST = 17, 120, 300  # pixels of a layer, of what stands above and below, and of the whole at least
LEAST_EFFECT = 0.01  # nats on each side of 0 that are always in sight: what is rounding looks like nothing
LEFT, RIGHT = [0.0, 0.58], [0.66, 1.0]  # widths of the two panels


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
    if by_layer and len(by_layer) != layers:
        raise ValueError(f"{len(by_layer)} effects do not fit {layers} layers")
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
    figure.add_trace(
        go.Bar(
            x=list(by_layer),
            y=np.arange(1, 1 + layers),
            orientation="h",
            marker={"color": colour},
            xaxis="x2",
            hovertemplate="layer %{y}, all its heads at once<br>lost: %{x:+.4f}<extra></extra>",
        )
    )
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
