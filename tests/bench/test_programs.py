"""The programs of this folder start as the docs start them, from a clone where nothing is installed or on the path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio")
HERE = Path(__file__).resolve().parent
PROGRAMS = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
# One after the other in a process that keeps the large libraries, but nothing of this clone: neither path nor module.
START_EACH = """
import runpy, sys
root, *paths = sys.argv[1:]
before = sys.path[1:]
for path in paths:
    sys.path[:] = [path.rpartition("/")[0], *before]
    for name in [name for name, each in sys.modules.items() if str(getattr(each, "__file__", "")).startswith(root)]:
        del sys.modules[name]
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        assert not end.code, path
"""


def test_every_program_explains_itself(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", START_EACH, str(HERE.parents[1]), *map(Path.as_posix, PROGRAMS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(PROGRAMS) >= 7
    assert [path.name for path in PROGRAMS if f"usage: {path.name} " not in done.stdout] == []
