"""Passes of a batch of rows: the suffix, then an answer token a row and step. Knows buffers; chooses no tokens.

All that a pass reads and writes stays in the same memory from step to step and, on a GPU, from request to request, so
that a CUDA graph captured once serves every later request of the same shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from ..attention import Plan
from ..cache import SlotCache
from ..mixing import Mixing
from ..model import LanguageModel
from ..reading import forward
from ..recorders import ApeRows, MassRecorder
from .compiled import Scores
from .graphs import Replay

LONGEST = 4096  # slots of a row whose memory is kept: reading a longer prompt costs far more than its steps' capture


class Outcome(NamedTuple):
    """What a pass tells of each row: the next token's Scores, and the recorder's masses and attention.

    A graph's tensors: the next pass writes over them.
    """

    scores: Scores
    mass: Tensor | None  # (layers, rows, heads, S)
    attention: Tensor | None  # (rows, slots)

    def select(self, rows: Tensor) -> Outcome:
        return Outcome(
            self.scores.select(rows),
            None if self.mass is None else self.mass[:, rows],
            None if self.attention is None else self.attention[rows],
        )


@dataclass
class Queries:
    """What queries add to their scores, on each device: biases (rows, 1, q, capacity), where they are sharpened, and
    which slots a query's successor does not see (rows, 1, 1, capacity)."""

    bias: Mapping[torch.device, Tensor]
    ape: Mapping[torch.device, ApeRows] | None
    shut: Mapping[torch.device, Tensor] | None

    def tensors(self) -> list[Tensor]:
        sharpened = [] if self.ape is None else self.ape.values()
        shut = (self.shut or {}).values()
        return [*self.bias.values(), *(part for rows in sharpened for part in rows.tensors()), *shut]

    def select(self, rows: list[int]) -> Queries:
        ape = None if self.ape is None else {device: each.select(rows) for device, each in self.ape.items()}
        shut = self.shut and {device: each[rows] for device, each in self.shut.items()}
        return Queries({device: each[rows] for device, each in self.bias.items()}, ape, shut)


@dataclass
class Rows:
    """The memory of a batch of rows, and the graphs of the passes over it.

    ids and positions (rows, suffix) are those of the suffix; tokens and places (rows, 1) of the step that comes.
    """

    cache: SlotCache
    ids: Tensor
    positions: Tensor
    suffix: Queries
    answer: Queries
    recorder: MassRecorder | None
    mixing: Mapping[torch.device, Mixing] | None = None
    tokens: Tensor = field(init=False)
    places: Tensor = field(init=False)
    replays: dict[str, Replay | None] = field(default_factory=dict)  # None: it ran once, uncaptured

    def __post_init__(self) -> None:
        self.places = self.positions[:, -1:] + 1
        self.tokens = torch.zeros_like(self.places)

    @property
    def capacity(self) -> int:
        """Slots of a row."""
        return self.cache.layers[0].get_max_length()

    def tensors(self) -> list[Tensor]:
        """All that one request's rows differ in from another's of the same shape, in the same order."""
        groups = [] if self.recorder is None else self.recorder.groups.values()
        own = [self.ids, self.positions, self.tokens, self.places]
        mixed = [part for each in (self.mixing or {}).values() for part in each.tensors()]
        return [*self.cache.tensors(), *own, *self.suffix.tensors(), *self.answer.tensors(), *groups, *mixed]

    def key(self) -> Hashable:
        """What a graph cannot change."""
        return self.recorder and self.recorder.detail, *((tensor.shape, tensor.dtype) for tensor in self.tensors())

    def load(self, other: Rows) -> None:
        """Take over another batch of the same key."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(theirs)

    def select(self, rows: Sequence[int]) -> Rows:
        """These rows alone, in this order, in memory of their own."""
        index = list(rows)
        chosen = replace(
            self,
            cache=self.cache.select(index),
            ids=self.ids[index],
            positions=self.positions[index],
            suffix=self.suffix.select(index),
            answer=self.answer.select(index),
            recorder=self.recorder and self.recorder.select(index),
            mixing=self.mixing and {device: each.select(index) for device, each in self.mixing.items()},
            replays={},
        )
        chosen.places = self.places[index]
        return chosen


class Steps:
    """A request's passes over its rows; used in a `with`, at whose end the memory goes to the next request.

    prompt and answer: the slots where the suffix and the first answer token lie.
    """

    def __init__(self, lm: LanguageModel, rows: Rows, *, prompt: int, answer: int) -> None:
        self.lm, self._prompt, self._slot = lm, prompt, answer
        self._rows = self._lent(rows)

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None or issubclass(kind, GeneratorExit):  # after any other, nobody knows what its memory holds
            self._give_back()

    def read_suffix(self) -> Outcome:
        """Feed the suffix to each row."""
        self._rows.cache.point(self._prompt, self._slot)
        out = self._run("suffix")
        self._rows.cache.point(self._slot, self._slot + 1)
        return out

    def run(self, tokens: Tensor) -> Outcome:
        """Feed one token to each row, (rows, 1)."""
        self._rows.tokens.copy_(tokens)
        if not self.lm.captures:  # of a number that changes a compiler makes one pass each, and a graph holds one
            self._rows.cache.cursor.filled = self._slot
        self._slot += 1
        return self._run("step")

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order; one that is named twice goes on as two."""
        chosen = self._rows.select(rows)
        self._give_back()
        self._rows = self._lent(chosen)
        self._rows.cache.point(self._slot, self._slot + 1)

    def _run(self, name: str) -> Outcome:
        """A pass, uncaptured at its first time: kernels are compiled and loaded then, which a capture cannot do."""
        rows, work = self._rows, self._suffix if name == "suffix" else self._step
        if not self.lm.captures or name not in rows.replays:
            rows.replays[name] = None
            return work(rows)
        replay = rows.replays[name]
        if replay is None:
            replay = rows.replays[name] = self.lm.graphs.capture(lambda: work(rows))
        return replay()

    def _suffix(self, rows: Rows) -> Outcome:
        plan = self._plan(rows, rows.suffix)
        return self._outcome(rows, forward(self.lm, rows.ids, rows.positions, plan, rows.cache))

    def _step(self, rows: Rows) -> Outcome:
        for device, each in rows.answer.bias.items():  # a step unhides its own slot
            if rows.answer.shut is not None:  # and hides those before it
                each.masked_fill_(rows.answer.shut[device], -torch.inf)
            each.index_fill_(-1, rows.cache.cursor.on(device), 0.0)
        plan = self._plan(rows, rows.answer)
        scores = forward(self.lm, rows.tokens, rows.places, plan, rows.cache)
        rows.places += 1
        rows.cache.cursor.advance()
        return self._outcome(rows, scores)

    def _plan(self, rows: Rows, felt: Queries) -> Plan:
        return Plan(self.lm.backend, felt.bias, rows.recorder, felt.ape, rows.mixing, rows.cache.trunks())

    @staticmethod
    def _outcome(rows: Rows, scores: Scores) -> Outcome:
        return Outcome(scores, *(rows.recorder.take() if rows.recorder else (None, None)))

    def _lent(self, rows: Rows) -> Rows:
        """Memory kept from an earlier request with these rows in it; these rows themselves if none fits."""
        held = self.lm.graphs.lend(rows.key()) if self._keeps(rows) else None
        if held is None:
            return rows
        held.load(rows)
        return held

    def _keeps(self, rows: Rows) -> bool:
        """Whether rows outlast the request: those of a long prompt would stand beside the next one's KV caches."""
        return self.lm.captures and rows.capacity <= LONGEST

    def _give_back(self) -> None:
        if self._keeps(self._rows):
            graphs = [replay for replay in self._rows.replays.values() if replay is not None]
            self.lm.graphs.keep(self._rows.key(), self._rows, [*self._rows.tensors(), *graphs])


class Abreast:
    """The Steps of parts of a batch as those of all its rows: parts are rows that no one pass may hold together."""

    def __init__(self, parts: Sequence[tuple[Sequence[int], Steps]]) -> None:
        self._parts = list(parts)  # which rows of the batch, and their passes

    def __enter__(self) -> Abreast:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _, steps in self._parts:
            steps.__exit__(kind, error, at)

    def read_suffix(self) -> Outcome:
        return self._joined([steps.read_suffix() for _, steps in self._parts])

    def run(self, tokens: Tensor) -> Outcome:
        if len(self._parts) == 1:
            return self._parts[0][1].run(tokens)
        return self._joined([steps.run(tokens[list(rows)]) for rows, steps in self._parts])

    def select(self, rows: Sequence[int]) -> None:
        kept = []
        for own, steps in self._parts:
            places = [place for place, row in enumerate(rows) if row in own]
            if not places:
                steps.__exit__(None, None, None)
                continue
            chosen = [own.index(rows[place]) for place in places]
            if chosen != list(range(len(own))):
                steps.select(chosen)
            kept.append((places, steps))
        self._parts = kept

    def _joined(self, outcomes: Sequence[Outcome]) -> Outcome:
        """Outcomes of the parts as one, in the order of the batch's rows."""
        if len(outcomes) == 1:
            return outcomes[0]
        order = [row for rows, _ in self._parts for row in rows]
        index = [order.index(row) for row in range(len(order))]
        scores = Scores(*(torch.cat(each)[index] for each in zip(*(out.scores for out in outcomes), strict=True)))
        masses, attention = [out.mass for out in outcomes], [out.attention for out in outcomes]
        return Outcome(
            scores,
            None if masses[0] is None else torch.cat(masses, dim=1)[:, index],
            None if attention[0] is None else torch.cat(attention)[index],
        )
