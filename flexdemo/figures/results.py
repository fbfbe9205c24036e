"""One offline HTML page of charts and tables; a summary of results and sweeps on it. Knows no models and no tables.

A summary has `lines`, `notes`, `score`, `cells()` as `data.summary.Summary` has them, all that is read.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from .answer import AXIS, GRID
from .cells import PARAPHRASE_COLOURS
from .mask import CONFIG, base_figure

METHOD, DERIVED, ENDS = "#56B4E9", "#A3ABB6", "#D55E00"  # what was run, what picking single prompts gives; intervals
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
STYLE = """
:root { color-scheme: light dark; --ink: #1B2430; --soft: #566172; --line: #C9D0D9; --paper: #FFFFFF; }
@media (prefers-color-scheme: dark) { :root { --ink: #E4E8EE; --soft: #9AA5B4; --line: #39434F; --paper: #0E1218; } }
body { margin: 2rem auto; max-width: 84rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
p { max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td { min-width: 6rem; overflow-wrap: anywhere; }
td.number, th.number { min-width: 0; text-align: right; white-space: nowrap; }
.notes { color: var(--soft); font-size: 0.9rem; }
.js-plotly-plot :is(.xtick text, .ytick text, .xtitle, .ytitle, .legendtext, .annotation-text),
#leave-one-out .bartext { fill: var(--soft) !important; }
details { margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem 1rem; }
summary { cursor: pointer; }
pre { overflow-x: auto; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre.json { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 40rem; overflow-y: auto; }
"""


def styled(figure: go.Figure, *, height: int) -> go.Figure:
    """A figure in the look of all, with lines of its axes' values."""
    return base_figure(figure, height=height).update_xaxes(**AXIS, gridcolor=GRID).update_yaxes(**AXIS, gridcolor=GRID)


def _ends(shares: Sequence[Any]) -> dict[str, Any]:
    """Bars from values to the ends of their intervals."""
    above, below = [share.high - share.value for share in shares], [share.value - share.low for share in shares]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def accuracy_figure(summary: Any) -> go.Figure:
    """Accuracy of every line as a bar with its 95 % interval, first line on top."""
    lines = summary.lines
    shares = [line.accuracy for line in lines]
    bars = go.Bar(
        x=[share.value for share in shares],
        y=[escape(line.name, quote=False) for line in lines],
        orientation="h",
        marker={"color": [DERIVED if line.derived else METHOD for line in lines]},
        error_x={**_ends(shares), "color": ENDS, "thickness": 2},
        customdata=[[share.low, share.high] for share in shares],
        hovertemplate="%{y}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
    )
    figure = styled(go.Figure(bars), height=80 + 34 * len(lines))
    figure.update_xaxes(range=[0, 1], title_text=f"accuracy ({summary.score}), with 95 % interval")
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def sweep_chart(sweep: Any) -> tuple[str, str, go.Figure]:
    """A heading, the choice of a best value, and accuracy against what was swept: a curve with 95 % intervals for each
    method. A sweep is as `data.sweep.Sweep`."""
    figure = go.Figure()
    said = "%{x}: %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra>%{fullData.name}</extra>"
    for i, curve in enumerate(sweep.curves):
        colour = PARAPHRASE_COLOURS[i % len(PARAPHRASE_COLOURS)]
        figure.add_scatter(
            x=sweep.values,
            y=[share.value for share in curve.accuracy],
            name=curve.method,
            mode="lines+markers",
            line={"color": colour, "dash": DASHES[i % len(DASHES)], "width": 2},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
            error_y={**_ends(curve.accuracy), "thickness": 1},
            customdata=[[share.low, share.high] for share in curve.accuracy],
            hovertemplate=f"{sweep.called} {said}",
        )
    figure = styled(figure, height=420).update_xaxes(title_text=sweep.axis, tickvals=sweep.values)
    figure.update_yaxes(title_text=f"accuracy ({sweep.score}), with 95 % interval", range=[0, 1])
    return f"Accuracy by {sweep.called}", " ".join(sweep.notes), figure


def report_html(summary: Any, *, title: str, facts: Mapping[str, Any], sweeps: Sequence[Any] = ()) -> str:
    """One HTML page: facts about the run, the table of lines, charts and notes; chart and table of each sweep."""
    drawn = [("Accuracy", "", accuracy_figure(summary))]
    drawn += map(sweep_chart, sweeps)
    notes = "".join(f"<li>{escape(note)}</li>" for note in summary.notes)
    parts = [
        facts_html(facts),
        "<h2>Results</h2>",
        cells_html(summary),
        *charts_html(drawn),
        *map(cells_html, sweeps),
    ]
    return page_html(title, [*parts, f'<h2>Notes</h2><ul class="notes">{notes}</ul>'])


def cells_html(told: Any, *, head: int | None = None) -> str:
    """The table of a summary or a sweep; `head` as in table_html."""
    header, rows = told.cells()
    lines = [[escape(cell) for cell in row] for row in rows]
    return table_html(header, lines, head=head, numbers=range(1, len(header)))


def text_html(text: str) -> str:
    """A text of others, whose direction marks reach no further than itself."""
    return f"<bdi>{escape(text)}</bdi>"


def page_html(title: str, parts: Iterable[str]) -> str:
    """A whole page, complete and offline: a title, and parts that are HTML already."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n<h1>{text_html(title)}</h1>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def charts_html(charts: Iterable[tuple[str, str, go.Figure]]) -> list[str]:
    """Charts under their headings and notes; plotly.js goes in once, before the first."""
    parts = []
    for i, (heading, note, figure) in enumerate(charts):
        name = re.sub(r"\W+", "-", heading.lower())
        chart = figure.to_html(include_plotlyjs=i == 0, full_html=False, config=CONFIG, div_id=name)
        said = f'<p class="notes">{escape(note)}</p>\n' if note else ""
        parts.append(f"<h2>{escape(heading)}</h2>\n{said}{chart}")
    return parts


def facts_html(facts: Mapping[str, Any]) -> str:
    rows = (f'<tr><th scope="row">{escape(k)}</th><td>{text_html(str(v))}</td></tr>' for k, v in facts.items())
    return f'<div class="scroll"><table class="facts">{"".join(rows)}</table></div>'


def table_html(
    titles: Sequence[str],
    *bodies: str | Sequence[Sequence[str]],
    kind: str = "",
    head: int | None = None,
    numbers: Container[int] = (),
) -> str:
    """A table in a box that scrolls. A body is a <tbody>, or rows of cells that are HTML, or a <td> already; `head` is
    the column that names a row, if one does, `numbers` are those set to the right."""
    kinds = [' class="number"' if column in numbers else "" for column in range(len(titles))]

    def cell(column: int, inside: str) -> str:
        if inside.startswith("<td"):
            return inside
        return f'<th scope="row">{inside}</th>' if column == head else f"<td{kinds[column]}>{inside}</td>"

    def body(rows: Sequence[Sequence[str]]) -> str:
        lines = (f"<tr>{''.join(cell(column, each) for column, each in enumerate(row))}</tr>" for row in rows)
        return f"<tbody>{''.join(lines)}</tbody>"

    top = "".join(f'<th scope="col"{each}>{escape(title)}</th>' for each, title in zip(kinds, titles, strict=True))
    inside = "".join(each if isinstance(each, str) else body(each) for each in bodies)
    table = f'<table class="facts {kind}"><thead><tr>{top}</tr></thead>{inside}</table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'
