"""Processes forked from this one, which has imported what takes a new one seconds. No tests here.

What a new one starts as is seen where `python -m flexdemo`, torchrun and `python app.py` start.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from accelerate import PartialState

from flexdemo.cli import main as cli


class Forked:
    """A function in a process of its own, asked as a `subprocess.Popen` is; what it prints goes into a folder."""

    def __init__(self, work: Callable[[], int], folder: Path, **environment: str) -> None:
        self._files = folder / "out", folder / "err"
        self._process = multiprocessing.get_context("fork").Process(target=self._run, args=(work, environment))
        self._process.start()

    def _run(self, work: Callable[[], int], environment: dict[str, str]) -> None:
        os.environ.update(environment)
        out, err = (each.open("w", buffering=1, encoding="utf-8") for each in self._files)
        with redirect_stdout(out), redirect_stderr(err):
            sys.exit(work())

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, ...]:
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, ...]:
        return tuple(each.read_text(encoding="utf-8") for each in self._files)


def launched_twice(*arguments: str | Path, folder: Path) -> str:
    """A command of flexdemo's in two processes that torchrun's agent starts: what they print."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        monitor_interval=0.1, start_method="fork",
    )  # fmt: skip
    before = {each: signal.getsignal(each) for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}}
    try:
        ended = elastic_launch(config, _one_of_two)(folder, *map(str, arguments))
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is not handler:
                signal.signal(each, handler)  # the agent has set its own, and leaves it
    out, err = ([(folder / f"{kind}-{rank}").read_text() for rank in range(2)] for kind in ("out", "err"))
    assert ended == {0: 0, 1: 0}, err
    return "".join(out)


def _one_of_two(folder: Path, *arguments: str) -> int:
    rank = os.environ["RANK"]
    PartialState._reset_state()  # what this process was before it forked, one by itself, is remembered
    with (
        open(folder / f"out-{rank}", "w") as out, redirect_stdout(out),
        open(folder / f"err-{rank}", "w") as err, redirect_stderr(err),
    ):  # fmt: skip
        return cli.main(arguments)
