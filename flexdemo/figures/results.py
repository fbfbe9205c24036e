"""A summary of results -> plotly charts and one offline HTML page. Knows no models and no tables.

A summary has `lines`, `groups`, `notes`, `score`, `cells()` as `data.summary.Summary` has them, all that is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from .cells import PARAPHRASE_COLOURS

INK, GRID = "#6B7280", "rgba(128,136,148,0.25)"
METHOD, DERIVED, ENDS = (
    "#56B4E9",
    "#A3ABB6",
    "#D55E00",
)  # what was run, and what picking among single prompts would give; intervals
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"], "responsive": True}
STYLE = """
:root { color-scheme: light dark; --ink: #1B2430; --soft: #566172; --line: #C9D0D9; --paper: #FFFFFF; }
@media (prefers-color-scheme: dark) { :root { --ink: #E4E8EE; --soft: #9AA5B4; --line: #39434F; --paper: #0E1218; } }
body { margin: 2rem auto; max-width: 84rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.notes { color: var(--soft); font-size: 0.9rem; }
"""


def styled(figure: go.Figure, *, height: int) -> go.Figure:
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 16, "t": 8, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        hoverlabel={"bgcolor": "#1F2937", "bordercolor": "#1F2937", "font": {"color": "#FFFFFF"}},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": INK, "activecolor": "#0072B2"},
        height=height,
    )
    axes = {"gridcolor": GRID, "zeroline": False, "automargin": True, "title_standoff": 8}
    figure.update_xaxes(**axes)
    return figure.update_yaxes(**axes)


def accuracy_figure(summary: Any) -> go.Figure:
    """Accuracy of every line as a bar with its 95 % interval, first line on top."""
    lines = summary.lines
    shares = [line.accuracy for line in lines]
    bars = go.Bar(
        x=[share.value for share in shares],
        y=[escape(line.name, quote=False) for line in lines],
        orientation="h",
        marker={"color": [DERIVED if line.derived else METHOD for line in lines]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [share.high - share.value for share in shares],
            "arrayminus": [share.value - share.low for share in shares],
            "color": ENDS,
            "thickness": 2,
        },
        customdata=[[share.low, share.high] for share in shares],
        hovertemplate="%{y}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
    )
    figure = styled(go.Figure(bars), height=80 + 34 * len(lines))
    figure.update_xaxes(range=[0, 1], title_text=f"accuracy ({summary.score}), with 95 % interval")
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def wordings_figure(summary: Any) -> go.Figure:
    """Accuracy of every line against the number of wordings of the questions, one curve for each line."""
    figure = go.Figure()
    counts = [group.wordings for group in summary.groups]
    for i, line in enumerate(summary.lines):
        colour = PARAPHRASE_COLOURS[i % len(PARAPHRASE_COLOURS)]
        figure.add_scatter(
            x=counts,
            y=[group.accuracy[line.name] for group in summary.groups],
            name=escape(line.name, quote=False),
            mode="lines+markers",
            line={"color": colour, "dash": DASHES[i % len(DASHES)], "width": 2},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
            customdata=[group.questions for group in summary.groups],
            hovertemplate="%{x} wordings, %{customdata} questions: %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    figure = styled(figure, height=420)
    figure.update_xaxes(title_text="wordings of a question (1: no paraphrase)", tickvals=counts)
    return figure.update_yaxes(title_text=f"accuracy ({summary.score})", range=[0, 1])


def report_html(
    summary: Any,
    *,
    title: str,
    facts: Mapping[str, Any],
    more_charts: Sequence[tuple[str, go.Figure]] = (),
    more_parts: Sequence[str] = (),
) -> str:
    """One HTML page, complete and offline: facts about the run, the table of lines, the charts and the notes."""
    header, rows = summary.cells()
    charts = [("Accuracy", accuracy_figure(summary)), *more_charts]
    if len(summary.groups) > 1:
        charts.append(("Accuracy and number of wordings", wordings_figure(summary)))
    notes = "".join(f"<li>{escape(note)}</li>" for note in summary.notes)
    parts = ["<h2>Results</h2>", table_html(header, rows), *charts_html(charts), *more_parts]
    return page_html(title, facts, [*parts, f'<h2>Notes</h2><ul class="notes">{notes}</ul>'])


def charts_html(charts: Sequence[tuple[str, go.Figure]]) -> list[str]:
    """Charts under their headings; plotly.js goes in once, before the first."""
    parts = []
    for i, (heading, figure) in enumerate(charts):
        chart = figure.to_html(include_plotlyjs=i == 0, full_html=False, config=CONFIG, div_id=f"chart-{i}")
        parts.append(f"<h2>{escape(heading)}</h2>\n{chart}")
    return parts


def page_html(title: str, facts: Mapping[str, Any], parts: Sequence[str]) -> str:
    """A whole page of HTML that needs nothing else: a title, facts about the run, and parts that are HTML already."""
    parts = [f"<h1>{escape(title)}</h1>", _facts(facts), *parts]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def _facts(facts: Mapping[str, Any]) -> str:
    rows = (f'<tr><th scope="row">{escape(str(k))}</th><td>{escape(str(v))}</td></tr>' for k, v in facts.items())
    return f'<div class="wide"><table class="facts">{"".join(rows)}</table></div>' if facts else ""


def table_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
