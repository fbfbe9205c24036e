"""Sweeps -> charts and tables of a report. A sweep has what `data.sweep.Sweep` has; knows no models and no tables."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from .cells import PARAPHRASE_COLOURS
from .results import DASHES, SYMBOLS, styled, table_html


def sweep_chart(sweep: Any) -> tuple[str, str, go.Figure]:
    """A heading, the choice of a best value, and accuracy against what was swept: a curve with 95 % intervals for each
    method."""
    figure = go.Figure()
    for i, curve in enumerate(sweep.curves):
        shares, colour = curve.accuracy, PARAPHRASE_COLOURS[i % len(PARAPHRASE_COLOURS)]
        figure.add_scatter(
            x=sweep.values,
            y=[share.value for share in shares],
            name=escape(curve.method, quote=False),
            mode="lines+markers",
            line={"color": colour, "dash": DASHES[i % len(DASHES)], "width": 2},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [share.high - share.value for share in shares],
                "arrayminus": [share.value - share.low for share in shares],
                "thickness": 1,
            },
            customdata=[[share.low, share.high] for share in shares],
            hovertemplate=f"{sweep.called} %{{x}}: %{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]"
            "<extra>%{fullData.name}</extra>",
        )
    figure = styled(figure, height=420)
    figure.update_xaxes(title_text=sweep.axis, tickvals=sweep.values)
    figure.update_yaxes(title_text=f"accuracy ({sweep.score}), with 95 % interval", range=[0, 1])
    return f"Accuracy by {sweep.called}", " ".join(sweep.notes), figure


def sweep_table(sweep: Any) -> str:
    """The table of a sweep as HTML."""
    header, rows = sweep.cells()
    return table_html([escape(cell) for cell in header], [[escape(cell) for cell in row] for row in rows])
