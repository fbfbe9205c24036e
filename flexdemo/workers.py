"""The processes of one run, as accelerate started them. Knows no models and no data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workers:
    """This process among those of a run: `accelerate launch` starts several, any other start one.

    `state` is accelerate's PartialState; None for a run of one process, which needs no accelerate.
    """

    rank: int
    world: int
    local: int
    state: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` items are this process's: every world-th."""
        return range(self.rank, count, self.world)

    def device(self, wanted: str) -> str:
        """The device for this process: a GPU of its own where several processes share a machine's GPUs."""
        on_gpu = self.state is not None and self.state.device.type == "cuda"
        return f"cuda:{self.local}" if on_gpu and wanted != "cpu" else wanted

    def wait(self) -> None:
        """Until all processes are here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def first_then_others(self, act: Callable[[], Any]) -> Any:
        """`act` in process 0, and then in the others."""
        if not self.is_first:
            self.wait()
        done = act()
        if self.is_first:
            self.wait()
        return done

    def close(self) -> None:
        if self.state is not None:
            self.state.destroy_process_group()


def join_workers(*, cpu: bool) -> Workers:
    """This process's place in the run, from the environment that `accelerate launch` sets."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Workers(0, 1, 0)
    from accelerate import PartialState

    state = PartialState(cpu=cpu)
    return Workers(state.process_index, state.num_processes, state.local_process_index, state)
