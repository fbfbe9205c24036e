"""The processes of one run, as accelerate started them. Knows no models and no data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workers:
    """This process among those of a run: `accelerate launch` or `torchrun` starts several, any other start one.

    They share the records, or all of them work on each record with a part of the model (`together`). `state` is
    accelerate's PartialState; None for a run of one process, which needs no accelerate.
    """

    rank: int
    world: int
    local: int
    state: Any = None
    together: bool = False

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` items are this process's: every world-th, or all."""
        return range(count) if self.together else range(self.rank, count, self.world)

    @property
    def writes(self) -> bool:
        """Whether this process keeps what it has made: where all make the same, the first does."""
        return self.is_first or not self.together

    @property
    def writers(self) -> int:
        return 1 if self.together else self.world

    def agreed(self, value: Any) -> Any:
        """Process 0's value in all that work together; elsewhere each one's own."""
        if not self.together:
            return value
        from accelerate.utils import broadcast_object_list

        told = [value]
        broadcast_object_list(told)
        return told[0]

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


def join_workers(*, cpu: bool, together: bool = False) -> Workers:
    """This process's place in the run, from the environment that `accelerate launch` and `torchrun` set."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Workers(0, 1, 0)
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=cpu or not torch.cuda.is_available())  # or it takes each process for the only one
    return Workers(state.process_index, state.num_processes, state.local_process_index, state, together)
