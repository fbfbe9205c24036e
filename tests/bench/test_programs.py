"""The programs of this folder start as the docs start them, from a clone where nothing is installed or on the path."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

pytest.importorskip("gradio")
HERE = Path(__file__).resolve().parent
PROGRAMS = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
ROOT = HERE.parents[1]


def of_this_clone(path: str) -> bool:
    return Path(path).is_relative_to(ROOT) and "site-packages" not in path


def start_each(folder: Path) -> None:
    """One after the other in a process that keeps the large libraries, but nothing of this clone: neither path nor
    module."""
    os.chdir(folder)
    before = [each for each in sys.path if each and not of_this_clone(each)]
    with open(folder / "out", "w") as out, redirect_stdout(out):
        for path in PROGRAMS:
            sys.path[:], sys.argv = [path.parent.as_posix(), *before], [path.as_posix(), "--help"]
            for name, each in list(sys.modules.items()):
                if of_this_clone(getattr(each, "__file__", None) or ""):
                    del sys.modules[name]
            try:
                runpy.run_path(path.as_posix(), run_name="__main__")
            except SystemExit as end:
                assert not end.code, path


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks here")
def test_every_program_explains_itself(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=start_each, args=(tmp_path,))
    process.start()
    process.join(300)
    told = (tmp_path / "out").read_text()
    assert process.exitcode == 0 and len(PROGRAMS) >= 7, told
    assert [path.name for path in PROGRAMS if f"usage: {path.name} " not in told] == []
