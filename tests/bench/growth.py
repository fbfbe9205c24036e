"""How cost grows with tokens, paraphrases and rows; on a GPU also masks and attention alone. Charts as one HTML page.

python tests/bench/growth.py --shape llama-3.2-3b --compile --report growth.html
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # flexdemo, which need not be installed

from parts import cost, mask_and_attention

from flexdemo.cli.bench import SHAPES, random_lm, run_facts
from flexdemo.engine.loading import resolve_device, resolve_dtype
from flexdemo.engine.model import LanguageModel
from flexdemo.figures.cells import PARAPHRASE_COLOURS
from flexdemo.figures.results import charts_html, facts_html, page_html, styled, table_html

SEGMENTS = ((5, 122), (5, 1600), (8, 4096), (16, 2048))  # segments x tokens of each, for attention alone
TOKENS = (1024, 2048, 4096, 8192, 16384, 32768)
PARAPHRASES = (1, 2, 4, 8, 16, 32, 64)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
GROWS = MappingProxyType({"tokens": "tokens of the prompt", "paraphrases": "paraphrases", "rows": "rows of the batch"})
MEASURED = (  # key, what it is, factor to the unit that is shown
    ("first_token_seconds", "first token, ms", 1000.0),
    ("token_seconds", "each token after it, ms", 1000.0),
    ("peak_bytes", "memory beyond weights, GiB", 2.0**-30),
)


def costs(
    lm: LanguageModel,
    *,
    tokens: Sequence[int],
    paraphrases: Sequence[int],
    rows: Sequence[int],
    new_tokens: int,
    runs: int,
    log: Callable[[str], None],
) -> dict[str, list[dict[str, Any]]]:
    """How cost grows with each of the three, the others held at 1,024 tokens, 8 paraphrases and one row."""
    asked = {
        "tokens": [(n, 8, 1) for n in tokens],
        "paraphrases": [(1024, n, 1) for n in paraphrases],
        "rows": [(1024, 8, n) for n in rows],
    }
    told: dict[tuple[int, int, int], dict[str, Any]] = {}
    for size in (size for sizes in asked.values() for size in sizes):
        if size not in told:
            told[size] = cost(lm, *size, new_tokens=new_tokens, runs=runs, log=log)
    return {name: [told[size] for size in sizes] for name, sizes in asked.items()}


def measure_growth(
    *,
    shape: str,
    tokens: Sequence[int],
    paraphrases: Sequence[int],
    rows: Sequence[int],
    new_tokens: int,
    runs: int,
    device: str,
    dtype: str,
    backend: str,
    compiled: bool,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """How time and memory grow with tokens, paraphrases and rows, for one backend; on a GPU also attention alone."""
    lm = random_lm(shape, device=device, dtype=dtype, backend=backend, compiled=compiled)
    sizes = {"tokens": tokens, "paraphrases": paraphrases, "rows": rows}
    told = costs(lm, **sizes, new_tokens=new_tokens, runs=runs, log=log)
    alone: dict[str, Any] = {"mask_milliseconds": None, "attention": []}
    if device != "cpu":
        alone = mask_and_attention(device, SEGMENTS, log=log)
    return {
        **run_facts(shape, device, dtype),
        "backend": lm.backend,
        "compiled": compiled,
        "costs": told,
        **alone,
    }


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
    parts = charts_html([("How cost grows", "", growth_figure(costs))])
    shown = _shown_quantities(costs)
    for name, label in GROWS.items():
        header = [label, *(title for _, title, _ in shown)]
        rows = [[f"{cost[name]:,}", *(_shown(cost[key], factor) for key, _, factor in shown)] for cost in costs[name]]
        parts += [f"<h2>By {label}</h2>", table_html(header, rows, numbers=range(1, len(header)))]
    if result["attention"]:
        header = ["segments x tokens", "flex, ms", "dense mask, ms", "causal flash, ms"]
        rows = [
            [
                f"{each['segments']} x {each['length']:,}",
                *(f"{each[key]:.2f}" for key in ("flex", "dense_mask", "causal_flash")),
            ]
            for each in result["attention"]
        ]
        parts += ["<h2>Attention of one layer</h2>", table_html(header, rows, numbers=range(1, len(header)))]
    facts = {key: result[key] for key in ("shape", "backend", "device", "dtype", "torch", "compiled")}
    if result["mask_milliseconds"]:
        facts["BlockMask of 32,768 tokens"] = f"{result['mask_milliseconds']:.2f} ms"
    return page_html("How cost grows", [facts_html(facts), *parts])


def _shown(value: float | None, factor: float) -> str:
    if value is None:
        return ""
    told = value * factor
    return f"{told:,.0f}" if told >= 100 else f"{told:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="tiny", choices=SHAPES)
    parser.add_argument("--backend", default="auto", help="auto, flex, flex-eager or sdpa (default: auto)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default: auto)")
    parser.add_argument("--compile", action="store_true", dest="compiled")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--report", type=Path, metavar="FILE.html")
    given = vars(parser.parse_args())
    report = given.pop("report")
    given["device"] = resolve_device(given["device"])
    given["dtype"] = str(resolve_dtype(given["dtype"], given["device"])).removeprefix("torch.")
    sizes = {"tokens": TOKENS, "paraphrases": PARAPHRASES, "rows": ROWS}
    result = measure_growth(**sizes, **given, log=lambda text: print(text, file=sys.stderr, flush=True))
    if report:
        report.write_text(growth_html(result), encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
