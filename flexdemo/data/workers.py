"""Batches that halve when memory runs out, over one process or several. Knows work to do and a journal, no models."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..errors import InputError, OutOfMemory, within_memory
from .journal import TABLE, Contents, Journal, finish

Made = Mapping[int, Sequence[Any]]
Work = Callable[[Sequence[int]], Made]


def in_batches(
    indices: Sequence[int],
    size: int,
    work: Work,
    *,
    log: Callable[[str], None],
    halves: bool = True,
    let_go: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Sequence[int], Made]]:
    """Yield each batch with what `work` made of it; one that does not fit in memory is halved, so are later ones.

    Without `halves` it is an InputError: other processes would still work on the whole batch. `let_go` drops what is
    kept for speed alone, before a smaller batch, or the same record once more, is tried.
    """
    start, again = 0, False
    while start < len(indices):
        batch = indices[start : start + size]
        try:
            with within_memory(give_up=let_go):
                made = work(batch)
        except OutOfMemory as error:
            if not halves:
                said = f"a batch of {len(batch)} records does not fit in memory: give a smaller --batch-size"
                raise InputError(said) from error
            if again:
                raise InputError(
                    f"record {batch[0] + 1} does not fit in memory even alone: use fewer methods, fewer or shorter "
                    "paraphrases, or a smaller model"
                ) from error
            again = len(batch) == 1
            if not again:
                size = len(batch) // 2
                log(f"out of memory: going on with {size} records a batch")
            continue
        yield batch, made
        start, again = start + len(batch), False


def work_through(
    total: int,
    work: Work,
    *,
    size: int,
    what: str,
    workers: Workers,
    output: Path | None,
    settings: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    let_go: Callable[[], None],
    form: Contents = TABLE,
) -> list[Any] | None:
    """Do `work` on records 0 <= i < total, this process's share of them, a batch at a time.

    With `output` every batch is on the disk when it is done and the finished whole is written there by process 0; the
    result is then None. Without, it is everything that `work` made, in the records' order.
    """

    def begin() -> Journal | None:
        if output is None or not workers.writes:
            return None
        return Journal.open(output, settings, resume=resume, overwrite=overwrite, rank=workers.rank, form=form)

    kept: dict[int, Sequence[Any]] = {}
    journal = workers.first_then_others(begin)
    done = workers.agreed(journal.done if journal else frozenset())
    mine = [i for i in workers.share(total) if i not in done]
    # A bar for each process of a machine would be a mess: the first speaks for all, and to a terminal only (None).
    with tqdm(total=len(mine), desc=what, unit="record", disable=not (workers.is_first and mine) or None) as bar:
        for batch, made in in_batches(mine, size, work, log=bar.write, halves=not workers.together, let_go=let_go):
            if journal is not None:
                journal.append(batch, made)
            elif output is None:
                kept |= made
            bar.update(len(batch))
    if output is None:
        return [each for i in range(total) for each in kept[i]]
    if journal is not None:
        journal.close()
    workers.wait()
    if workers.is_first:
        finish(output, settings, total, form=form)
    workers.wait()
    return None


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

    def agreed(self, value: Any) -> Any:
        """Process 0's value in all that work together; elsewhere each one's own."""
        if not self.together:
            return value
        from accelerate.utils import broadcast_object_list

        told = [value]
        broadcast_object_list(told)
        return told[0]

    def summed(self, counts: Counter[str]) -> Counter[str]:
        """The counts of all that share the records; where all make the same, one's own."""
        if self.state is None or self.together:
            return counts
        from accelerate.utils import gather_object

        return sum(gather_object([counts]), Counter())

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
    from accelerate import PartialState

    state = PartialState(cpu=cpu or not torch.cuda.is_available())  # or it takes each process for the only one
    return Workers(state.process_index, state.num_processes, state.local_process_index, state, together)
