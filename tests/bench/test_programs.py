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


def test_every_program_explains_itself(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = [
        subprocess.Popen(
            [sys.executable, str(path), "--help"],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for path in PROGRAMS
    ]  # fmt: skip
    assert len(PROGRAMS) >= 7
    for path, process in zip(PROGRAMS, started, strict=True):
        out, said = process.communicate(timeout=300)
        assert process.returncode == 0 and "usage:" in out, (path.name, said)
