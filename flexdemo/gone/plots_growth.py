"""What `bench --growth` measured -> charts, tables and one offline HTML page. Knows no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..figures.cells import PARAPHRASE_COLOURS
from ..figures.results import charts_html, page_html, styled, table_html

GROWS = MappingProxyType({"tokens": "tokens of the prompt", "paraphrases": "paraphrases", "rows": "rows of the batch"})
MEASURED = (  # key, what it is, factor to the unit that is shown
    ("first_token_seconds", "first token, ms", 1000.0),
    ("token_seconds", "each token after it, ms", 1000.0),
    ("peak_bytes", "memory beyond weights, GiB", 2.0**-30),
)


def _shown_quantities(costs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str, float]]:
    """Those that were measured: memory is known of a GPU only."""
    return [each for each in MEASURED if all(cost[each[0]] for grown in costs.values() for cost in grown)]


def growth_figure(costs: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    """A row of charts for each measured quantity, a column for each size that grows; all axes logarithmic."""
    shown = _shown_quantities(costs)
    titles = [title for _, title, _ in shown]
    figure = make_subplots(rows=len(shown), cols=len(GROWS), shared_yaxes=True, vertical_spacing=0.09)
    for column, (name, label) in enumerate(GROWS.items(), start=1):
        grown = costs[name]
        for row, (key, _, factor) in enumerate(shown, start=1):
            figure.add_scatter(
                x=[cost[name] for cost in grown],
                y=[cost[key] * factor for cost in grown],
                mode="lines+markers",
                line={"color": PARAPHRASE_COLOURS[row - 1], "width": 2},
                showlegend=False,
                hovertemplate=f"%{{x}} {name}: %{{y:.3g}}<extra></extra>",
                row=row,
                col=column,
            )
        figure.update_xaxes(title_text=label, row=len(shown), col=column)
        figure.update_xaxes(tickvals=[cost[name] for cost in grown], tickangle=-45, col=column)
    for row, title in enumerate(titles, start=1):
        figure.update_yaxes(title_text=title, row=row, col=1)
    figure = styled(figure, height=120 + 230 * len(shown))
    figure.update_xaxes(type="log", showline=True, linecolor="#8893A2")
    return figure.update_yaxes(type="log", dtick="D2")


def growth_html(result: Mapping[str, Any]) -> str:
    """The page: facts, charts, a table for each size that grows and, from a GPU, attention alone."""
    costs = result["costs"]
    parts = charts_html([("How cost grows", growth_figure(costs))])
    shown = _shown_quantities(costs)
    for name, label in GROWS.items():
        header = [label, *(title for _, title, _ in shown)]
        rows = [[f"{cost[name]:,}", *(_shown(cost[key], factor) for key, _, factor in shown)] for cost in costs[name]]
        parts += [f"<h2>By {label}</h2>", table_html(header, rows)]
    if result["attention"]:
        header = ["segments x tokens", "flex, ms", "dense mask, ms", "causal flash, ms"]
        rows = [
            [
                f"{each['segments']} x {each['length']:,}",
                *(f"{each[key]:.2f}" for key in ("flex", "dense_mask", "causal_flash")),
            ]
            for each in result["attention"]
        ]
        parts += ["<h2>Attention of one layer</h2>", table_html(header, rows)]
    facts = {key: result[key] for key in ("shape", "backend", "device", "dtype", "torch", "compiled")}
    if result["mask_milliseconds"]:
        facts["BlockMask of 32,768 tokens"] = f"{result['mask_milliseconds']:.2f} ms"
    return page_html("How cost grows", facts, parts)


def _shown(value: float | None, factor: float) -> str:
    if value is None:
        return ""
    told = value * factor
    return f"{told:,.0f}" if told >= 100 else f"{told:.3g}"
