"""Imports point downwards only (DESIGN.md section 4): read from the source, so that lazy imports count too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "flexdemo"
FILES = sorted(PACKAGE.rglob("*.py"))

# Lower layers first. A module may import from layers below its own, and from its own.
LAYERS = (
    {
        "config",
        "dynamo",
        "transfers",
        "versions",
        "waiting",
        "profiles",
        "bounds",
        "imports",
        "kept",
        "stages",
        "targets",
        "visitors",
    },
    {"environment", "ledger"},
    {"memory"},
    {"prompt", "metrics", "cells", "differences", "files", "bootstrap", "workers"},
    {"door"},
    {"masks", "plots", "rules", "cache", "results", "recorders"},
    {"hub", "readers", "records", "table", "journal", "summary", "plots_results", "plots_answer"},
    {"plots_growth"},
    {"flex"},
    {"attention"},
    {"linears", "passes", "graphs", "split", "sources"},
    {"model"},
    {"encoding", "threads", "zerogpu", "choice"},
    {"steps", "prompt_masks", "reading"},
    {"schemes"},
    {"generation"},
    {"confidence"},
    {"methods", "paraphrase", "attribution", "attention_map", "ladder"},
    {"explain", "share", "whereabouts", "warmup"},
    {"export", "proof", "recording"},
    {"evaluate", "tinyqa", "shapes"},
    {"growth"},
    {"benchmark"},
    {"batches", "data_commands"},
    {"commands"},
    {"cli"},
    {"ui", "server"},
    {"__main__", "__init__"},
)
LEAVES = {
    "config": set(),
    "versions": {"__version__"},
    "waiting": set(),
    "imports": set(),
    "kept": {"config"},
    "stages": set(),
    "targets": set(),
    "environment": {"config"},
    "ledger": {"config"},
    "memory": {"config", "ledger"},
    "metrics": set(),
    "cells": set(),
    "plots": {"cells"},
    "bootstrap": set(),
    "files": {"config"},
    "hub": {"config"},
    "readers": {"config"},
    "profiles": {"config"},
    "bounds": set(),
    "door": {"config", "files", "profiles", "visitors"},
    "visitors": set(),
    "table": {"bounds", "config", "files"},
    "journal": {"config", "files", "table"},
    "summary": {"config", "metrics", "bootstrap"},
    "plots_results": {"cells", "summary"},
    "plots_answer": {"cells", "plots"},
    "plots_growth": {"cells", "plots_results"},
    "prompt": {"config"},
    "sources": {"config"},
    "masks": {"config", "prompt"},
}


def layer(module: str) -> int:
    module = "ui" if module.startswith("ui_") else module
    found = [i for i, names in enumerate(LAYERS) if module in names]
    assert found, f"{module} has no layer in this test: give it one, on purpose"
    return found[0]


def module_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Names of flexdemo's modules and of top-level packages that a file imports, also inside functions."""
    own: set[str] = set()
    foreign: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "flexdemo":
                    own.add(parts[1] if len(parts) > 1 else "__init__")
                else:
                    foreign.add(parts[0])
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level == 0 and parts[0] != "flexdemo":
                foreign.add(parts[0])
                continue
            inside = parts[1:] if node.level == 0 else parts
            if node.level <= 1 and path.parent != PACKAGE and node.level == 1:
                continue  # within tinyqa
            own.update([inside[0]] if inside else [alias.name for alias in node.names])
    return own, foreign


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    module = module_of(path)
    own, _ = imports(path)
    modules = {module_of(each) for each in FILES}
    upwards = {name for name in (own & modules) - {module} if layer(name) > layer(module)}
    assert not upwards, f"{path.name} imports from above: {upwards}"


@pytest.mark.parametrize("module", LEAVES)
def test_leaves_know_no_more_than_they_may(module: str) -> None:
    own, _ = imports(PACKAGE / f"{module}.py")
    assert own <= LEAVES[module]


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        (
            "gradio",
            {
                f"ui{part}.py"
                for part in (
                    "",
                    "_ask",
                    "_rows",
                    "_share",
                    "_export",
                    "_results",
                    "_tabs",
                    "_program",
                    "_pair",
                    "_guard",
                )
            },
        ),
        ("plotly", {"plots.py", "plots_results.py", "plots_answer.py", "plots_growth.py"}),
    ],
)
def test_a_library_of_the_page_has_one_home(library: str, homes: set[str]) -> None:
    assert {path.name for path in FILES if library in imports(path)[1]} == homes  # whose names start with ui or plots


def test_prompt_config_metrics_and_data_are_torch_free() -> None:
    data = ("bootstrap", "files", "hub", "readers", "records", "table", "journal", "summary")
    for module in ("config", "prompt", "metrics", "cells", "environment", "ledger", *data):
        assert not imports(PACKAGE / f"{module}.py")[1] & {"torch", "transformers", "gradio", "plotly"}


def test_this_test_sees_lazy_and_absolute_imports(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from flexdemo.ui import a\n    import gradio.themes\n    import flexdemo.cli\n")
    assert imports(file) == ({"ui", "cli"}, {"gradio"})
