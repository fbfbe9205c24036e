"""Imports point down only: read from the source, so that lazy imports count too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "flexdemo"
FILES = sorted(PACKAGE.rglob("*.py"))
# Rooms from the bottom; those of one floor know nothing of each other. tinyqa trains the bundled model.
FLOORS = (
    ("errors",), ("template",), ("prompt",), ("request", "masks"), ("plan",), ("engine",), ("answers",),
    ("data", "figures", "serve"), ("page", "cli", "tinyqa"),
)  # fmt: skip
SAME_FLOOR = {("tinyqa", "cli")}  # who may know whom
ENTRANCES = ("__init__", "__main__")  # of the package
TORCH_FREE = ("errors", "template", "request", "prompt", "masks", "plan", "cli.main", "cli.commands")
HOMES = {"gradio": {"page", "serve"}, "plotly": {"figures"}}
MOST_LINES, MOST_MODULES = 350, 16


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def floor(room: str) -> int:
    found = [i for i, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"{room} has no floor in this test: give it one, on purpose"
    return found[0]


def may_know(room: str, other: str) -> bool:
    if room in ENTRANCES or other in (room, "__init__"):
        return True
    return floor(other) < floor(room) or (room, other) in SAME_FLOOR


def imports(path: Path, package: Path = PACKAGE, *, lazy: bool = True) -> tuple[set[str], set[str]]:
    """(rooms of flexdemo, other top-level packages) that a file imports; also inside functions unless not `lazy`.

    What stands under `if TYPE_CHECKING:` is no import when the program runs, but it is knowledge all the same.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own: set[str] = set()
    foreign: set[str] = set()
    folders = ("flexdemo", *path.relative_to(package).parts[:-1])
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*folders[: len(folders) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [base] if len(base) > 1 else [[*base, alias.name] for alias in node.names]
        else:
            continue
        for parts in names:
            if parts[0] == "flexdemo":
                inside = parts[1] if len(parts) > 1 else "__init__"
                is_room = (package / inside).is_dir() or (package / f"{inside}.py").is_file()
                own.add(inside if is_room else "__init__")  # a name of the package itself
            else:
                foreign.add(parts[0])
    return own, foreign


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    unfit = {other for other in imports(path)[0] if not may_know(room, other)}
    assert not unfit, f"{path.relative_to(ROOT)} imports from above or beside it: {unfit}"


@pytest.mark.parametrize("library", HOMES)
def test_a_library_of_the_page_has_its_rooms(library: str) -> None:
    assert {room_of(path) for path in FILES if library in imports(path)[1]} <= HOMES[library]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_needs_no_tensors_is_torch_free(module: str) -> None:
    _, foreign = imports(PACKAGE / f"{module.replace('.', '/')}.py", lazy=not module.startswith("cli"))
    assert not foreign & {"torch", "transformers", "gradio", "plotly"}


def test_they_are_imported_where_there_is_no_torch() -> None:
    program = f"""
import importlib, sys
for name in ("torch", "transformers", "gradio", "plotly"):
    sys.modules[name] = None
for name in {TORCH_FREE}:
    importlib.import_module("flexdemo." + name)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_is_long_and_no_folder_full() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}
    modules = {
        folder: [each for each in folder.glob("*.py") if each.stem != "__init__"]
        for folder in {p.parent for p in FILES}
    }
    assert not {str(folder): len(inside) for folder, inside in modules.items() if len(inside) > MOST_MODULES}


def test_this_test_sees_lazy_relative_and_absolute_imports(tmp_path: Path) -> None:
    package = tmp_path / "flexdemo"
    for room in ("engine", "page", "cli", "data"):
        (package / room).mkdir(parents=True)
    (package / "plan.py").write_text("")
    file = package / "engine" / "x.py"
    file.write_text(
        "from .. import __version__\nfrom ..plan import View\nfrom . import model\n"
        "def f():\n    from flexdemo.page import a\n    import gradio.themes\n    import flexdemo.cli.main\n"
        "    from .. import data\n"
    )
    assert imports(file, package) == ({"__init__", "plan", "engine", "page", "cli", "data"}, {"gradio"})
    assert not may_know("engine", "page") and not may_know("data", "serve") and not may_know("cli", "page")
    assert may_know("page", "serve") and may_know("cli", "data") and may_know("masks", "prompt")
