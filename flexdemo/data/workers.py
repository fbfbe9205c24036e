"""Batches that halve when memory runs out, over one process or several. Knows work to do and a journal, no models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
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
    kept: dict[int, Sequence[Any]] = {}
    journal, state = None, workers.state
    with state.main_process_first():
        if output is not None and workers.writes:
            options = {"resume": resume, "overwrite": overwrite, "rank": state.process_index, "form": form}
            journal = Journal.open(output, settings, **options)
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
    state.wait_for_everyone()
    if workers.is_first:
        finish(output, settings, total, form=form)
    state.wait_for_everyone()
    return None


@dataclass(frozen=True)
class Workers:
    """This process among those of a run: `accelerate launch` or `torchrun` starts several, any other start one.

    They share the records, or all of them work on each record with a part of the model (`together`).
    """

    state: PartialState
    together: bool = False

    @property
    def is_first(self) -> bool:
        return self.state.is_main_process

    @property
    def world(self) -> int:
        return self.state.num_processes

    def share(self, count: int) -> range:
        """Which of `count` items are this process's: every world-th, or all."""
        return range(count) if self.together else range(self.state.process_index, count, self.world)

    @property
    def writes(self) -> bool:
        """Whether this process keeps what it has made: where all make the same, the first does."""
        return self.is_first or not self.together

    def agreed(self, value: Any) -> Any:
        """Process 0's value in all that work together; elsewhere each one's own."""
        return broadcast_object_list([value])[0] if self.together else value

    def summed(self, counts: Counter[str]) -> Counter[str]:
        """The counts of all that share the records; where all make the same, one's own."""
        return counts if self.together else sum(gather_object([counts]), Counter())

    def device(self, wanted: str) -> str:
        """The device for this process: a GPU of its own where several processes share a machine's GPUs."""
        on_gpu = self.world > 1 and self.state.device.type == "cuda"
        return f"cuda:{self.state.local_process_index}" if on_gpu and wanted != "cpu" else wanted

    def close(self) -> None:
        self.state.destroy_process_group()


def join_workers(*, cpu: bool, together: bool = False) -> Workers:
    """This process's place in the run, from the environment that `accelerate launch` and `torchrun` set."""
    return Workers(PartialState(cpu=cpu or not torch.cuda.is_available()), together)  # or each seems the only one
