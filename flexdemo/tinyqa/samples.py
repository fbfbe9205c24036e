"""Boundary: turns facts and wordings into token sequences to train on (pieces, packs, rows); no torch, no model.

The layout is the engine's: `[BOS] prefix`, one piece `Q: ...\\n` for each paraphrase, the suffix `A:`,
the answer, EOS. Every piece is tokenised alone and the ids are concatenated.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flexdemo.tinyqa import noise
from flexdemo.tinyqa.data import SLOT, UNKNOWN_ANSWER, Fact, World, doubtful_names, fill, fits, normalise
from flexdemo.tinyqa.noise import NoiseRates
from flexdemo.tinyqa.wording import TrainingWordings, training_wordings

# Kinds whose names may rightly be asked about in each other's questions ("Where is Paris?").
RELATED = (
    frozenset({"country", "capital", "state", "state_capital", "river", "mountain", "landmark"}),
    frozenset({"book", "painting", "work"}),
    frozenset({"element", "thing", "symbol"}),
)
FUSED = 120  # segment number of what sees everything earlier: suffix and answer, and every token of a causal pack
PREFIX = 0
INSTRUCTIONS = (
    "Answer the question based on general world knowledge. Provide a short and direct answer.", "Answer briefly.",
    "Answer the question.", "Answer the questions below.", "Give a short answer.", "You are a helpful assistant.",
    "Short answers only.", "Please answer correctly.", "A quiz about the world.", "Questions and answers:",
    "Reply with one name.", "If you are not sure, say that you don't know.", "Trivia night!", "Be brief and correct.",
    "Below are questions with their answers.", "Answer each question with a few words.",
)  # fmt: skip


@dataclass(frozen=True)
class Mix:
    """Shares of what is trained on. `causal` and `segment` are equal so that no attention scheme is favoured."""

    single: float = 0.33
    causal: float = 0.24
    segment: float = 0.24
    rewrite: float = 0.19
    unknown: float = 0.15
    prefix: float = 0.15
    sequential: float = 0.3
    weighted: float = 0.5
    written: float = 0.6
    exchanged: float = 0.15
    heavy: float = 0.2
    same_wording: float = 0.1
    question_loss: float = 0.05
    rates: NoiseRates = field(default_factory=NoiseRates)


@dataclass(frozen=True)
class Pack:
    """One training or evaluation sequence; `log_weights` are added to the scores that fused queries give these keys."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    segments: tuple[int, ...]
    log_weights: tuple[float, ...]
    loss: tuple[float, ...]


def pack(
    prefix: Sequence[int], pieces: Sequence[Sequence[int]], suffix: Sequence[int], answer: Sequence[int] = (), *,
    causal: bool = False, sequential: bool = False, weighted: bool = False, question_loss: float = 0.0,
) -> Pack:  # fmt: skip
    """Lays the pieces out under one mask strategy and position scheme."""
    ids, positions, segments = list(prefix), list(range(len(prefix))), [FUSED if causal else PREFIX] * len(prefix)
    weights, loss = [0.0] * len(prefix), [0.0] * len(prefix)
    log_weight = -math.log(len(pieces)) if weighted else 0.0
    for number, piece in enumerate(pieces, start=1):
        start = len(ids) if causal or sequential else len(prefix)
        positions += range(start, start + len(piece))
        segments += [FUSED if causal else number] * len(piece)
        ids += piece
        weights += [log_weight] * len(piece)
        # The first token of a piece follows another piece in memory, not in sense: it is never a target.
        loss += [0.0] + [question_loss] * (len(piece) - 1)
    start = len(ids) if causal or sequential else len(prefix) + max(map(len, pieces))
    tail = [*suffix, *answer]
    ids += tail
    positions += range(start, start + len(tail))
    segments += [FUSED] * len(tail)
    weights += [0.0] * len(tail)
    loss += [0.0] * len(suffix) + [1.0] * len(answer)
    return Pack(tuple(ids), tuple(positions), tuple(segments), tuple(weights), tuple(loss))


@dataclass(frozen=True)
class Asked:
    """Something to ask: wordings for it, the names its subject may have, and the answer to teach (None: unknown)."""

    relation: str | None
    kind: str
    subjects: tuple[str, ...]
    answer: str
    wordings: tuple[str, ...] = ()


class Sampler:
    """Draws training examples; owns its random state and a small store of tokenised questions."""

    def __init__(
        self, world: World, encode: Callable[[str], list[int]], bos: int, eos: int, mix: Mix, seed: int
    ) -> None:
        self.world, self.encode, self.bos, self.eos, self.mix = world, encode, bos, eos, mix
        self.rng = random.Random(seed)
        self.wordings: Mapping[str, TrainingWordings] = training_wordings(world)
        self.doubtful = doubtful_names(world.facts)
        self.names = {normalise(s) for f in world.facts for s in f.subjects}
        templates = [t for w in (*world.questions.values(), *world.about.values(), world.general) for t in w.train]
        self.words = sorted({word for t in templates for word in t.split() if SLOT not in word})
        grouped = world.by_relation()
        self.relations = list(grouped)
        # Between one share each and shares by size: small relations are not drowned, large ones still get learned.
        self.shares = [len(grouped[r]) ** 0.6 for r in self.relations]
        self.facts = grouped
        self.suffix, self.rewrite_suffix = encode("A:"), encode("P:")

    # -- what to ask ------------------------------------------------------------------------------------------------

    def fact(self) -> Fact:
        return self.rng.choice(self.facts[self.rng.choices(self.relations, self.shares)[0]])

    def known(self) -> Asked:
        fact = self.fact()
        subjects = fact.subjects
        if not fact.same_thing:
            subjects = (self.rng.choice(subjects),)
        return Asked(fact.relation, fact.kind, subjects, fact.answers[0])

    def invented(self, kind: str) -> str:
        real = [f for name in self.relations for f in self.facts[name][:1] if f.kind == kind]
        while True:
            if real and kind not in noise.EXACT_KINDS and self.rng.random() < 0.3:
                pool = self.facts[real[0].relation]
                name = noise.blend(self.rng.choice(pool).subjects[0], self.rng.choice(pool).subjects[0], self.rng)
            else:
                name = noise.invent(kind, self.rng)
            if normalise(name) not in self.names:
                return name

    def mismatched(self) -> Asked:
        """A real name in a question for another kind of thing ("Who wrote gold?")."""
        while True:
            asked, other = self.fact(), self.fact()
            same = asked.kind == other.kind or any({asked.kind, other.kind} <= kinds for kinds in RELATED)
            name = self.rng.choice(other.subjects)
            if not same and all(name not in f.subjects for f in self.facts[asked.relation]):
                return Asked(asked.relation, asked.kind, (name,), UNKNOWN_ANSWER)

    def salad(self) -> Asked:
        """Words in no order: nothing to answer, but a paraphrase of it still has to copy them."""
        words = self.rng.choices(self.words, k=self.rng.randint(1, 9))
        if self.rng.random() < 0.5:
            words.insert(self.rng.randrange(len(words) + 1), noise.syllables(self.rng, 1, 3))
        return Asked(None, "general", ("",), UNKNOWN_ANSWER, (" ".join(words),))

    def unknown(self) -> Asked:
        roll = self.rng.random()
        if roll < 0.06:
            return self.salad()
        if roll < 0.14:
            return self.mismatched()
        if roll < 0.55:  # an invented name in a question we know
            fact = self.fact()
            return Asked(fact.relation, fact.kind, (self.invented(fact.kind),), UNKNOWN_ANSWER)
        if roll < 0.85:  # a real thing (or an invented one) asked about something we have no fact for
            fact = self.fact()
            while fact.kind not in self.world.about:
                fact = self.fact()
            names = fact.subjects if self.rng.random() < 0.8 else (self.invented(fact.kind),)
            return Asked(None, fact.kind, names, UNKNOWN_ANSWER, self._one_or_all(self.world.about[fact.kind].train))
        return Asked(None, "general", ("",), UNKNOWN_ANSWER, self._one_or_all(self.world.general.train))

    def _one_or_all(self, wordings: tuple[str, ...]) -> tuple[str, ...]:
        """Mixed wordings half the time: if repeated wordings were mostly unknowns, repetition would mean refusal."""
        return wordings if self.rng.random() < 0.5 else (self.rng.choice(wordings),)

    def wording(self, asked: Asked) -> str:
        if asked.relation is None:
            return self.rng.choice(asked.wordings)
        made = self.wordings[asked.relation]
        while True:
            roll = self.rng.random()
            pool = made.written if roll < self.mix.written else made.framed
            if self.mix.written <= roll < self.mix.written + self.mix.exchanged and made.exchanged:
                pool = made.exchanged
            template = self.rng.choice(pool)
            doubt = Fact(asked.relation, asked.kind, asked.subjects, (asked.answer,))
            if fits(doubt, template, self.doubtful):
                return template

    def subject(self, asked: Asked) -> str:
        return asked.subjects[0] if self.rng.random() < 0.6 else self.rng.choice(asked.subjects)

    def question(self, asked: Asked, template: str, subject: str, heavy: bool = False) -> str:
        before, after = self.world.before.train, self.world.after.train
        return noise.spoil(template, subject, asked.kind, self.rng, self.mix.rates, heavy, before, after)

    # -- examples ---------------------------------------------------------------------------------------------------

    def prefix(self) -> list[int]:
        """BOS, and in a share of examples an instruction line and question-answer shots as a user would write them."""
        if self.rng.random() >= self.mix.prefix:
            return [self.bos]
        text = f"{self.rng.choice(INSTRUCTIONS)}\n" if self.rng.random() < 0.7 else ""
        for _ in range(self.rng.choice((0, 0, 1, 2, 3, 4, 5))):
            shot = self.known() if self.rng.random() < 0.9 else self.unknown()
            text += f"Q: {fill(self.wording(shot), self.subject(shot))}\nA: {shot.answer}\n"
        return [self.bos, *(self.encode(text) if text else ())]

    def piece(self, question: str) -> list[int]:
        return self.encode(f"Q: {question}\n")

    def pieces(self, asked: Asked, count: int) -> list[list[int]]:
        """`count` wordings of one question. In some packs all share a wording and differ in noise only."""
        template = self.wording(asked) if self.rng.random() < self.mix.same_wording else None
        subject = self.subject(asked)
        found = []
        for _ in range(count):
            name = subject if self.rng.random() < 0.8 else self.subject(asked)
            heavy = count > 2 and self.rng.random() < self.mix.heavy
            found.append(self.piece(self.question(asked, template or self.wording(asked), name, heavy)))
        return found

    def count(self) -> int:
        return self.rng.randint(7, 11) if self.rng.random() < 0.06 else self.rng.randint(2, 6)

    def answered(self, scheme: str) -> Pack:
        asked = self.unknown() if self.rng.random() < self.mix.unknown else self.known()
        pieces = self.pieces(asked, 1 if scheme == "single" else self.count())
        segment = scheme == "segment"
        return pack(
            self.prefix(), pieces, self.suffix, [*self.encode(f" {asked.answer}"), self.eos], causal=not segment,
            sequential=segment and self.rng.random() < self.mix.sequential,
            weighted=segment and self.rng.random() < self.mix.weighted, question_loss=self.mix.question_loss,
        )  # fmt: skip

    def rewritten(self) -> Pack:
        """A question and another wording of it that keeps the subject's name."""
        asked = self.unknown() if self.rng.random() < 0.5 else self.known()
        template, subject = self.wording(asked), self.subject(asked)
        question = self.question(asked, template, subject)
        for _ in range(20):
            if asked.relation is None:  # one wording only: a polite or chatty one around it
                other = self._wrapped(fill(template, subject) if subject else template)
            else:
                other = fill(self.wording(asked), subject)
            if normalise(other) != normalise(question):
                break
        return pack(
            [self.bos], [self.piece(question)], self.rewrite_suffix, [*self.encode(f" {other}"), self.eos], causal=True,
            question_loss=self.mix.question_loss,
        )  # fmt: skip

    def _wrapped(self, text: str) -> str:
        before, after = self.rng.choice(self.world.before.train), self.rng.choice(self.world.after.train)
        where = self.rng.choices(("before", "after", "both"), (5, 3, 1))[0]
        if (
            where != "after"
            and before.endswith(", ")
            and text.split()[0] in self.words
            and text[:2] not in ("I ", "I'")
        ):
            text = text[:1].lower() + text[1:]
        return (before if where != "after" else "") + text + (after if where != "before" else "")

    def example(self) -> Pack:
        mix = self.mix
        shares = (mix.single, mix.causal, mix.segment, mix.rewrite)
        scheme = self.rng.choices(("single", "causal", "segment", "rewrite"), shares)[0]
        return self.rewritten() if scheme == "rewrite" else self.answered(scheme)


@dataclass(frozen=True)
class Rows:
    """Rows of equal length, several packs in each, told apart by `examples`; padding is an example without loss."""

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    examples: np.ndarray
    log_weights: np.ndarray
    loss: np.ndarray


def empty_rows(rows: int, length: int, pad: int) -> Rows:
    shape = (rows, length)
    return Rows(
        ids=np.full(shape, pad, np.int16), positions=np.tile(np.arange(length, dtype=np.int16), (rows, 1)),
        segments=np.full(shape, FUSED, np.int8), examples=np.full(shape, -1, np.int16),
        log_weights=np.zeros(shape, np.float32), loss=np.zeros(shape, np.float16),
    )  # fmt: skip


def place(rows: Rows, row: int, start: int, number: int, item: Pack) -> int:
    end = start + len(item.ids)
    rows.ids[row, start:end], rows.positions[row, start:end] = item.ids, item.positions
    rows.segments[row, start:end], rows.examples[row, start:end] = item.segments, number
    rows.log_weights[row, start:end], rows.loss[row, start:end] = item.log_weights, item.loss
    return end


def training_rows(sampler: Sampler, rows: int, length: int, pad: int) -> Iterator[Rows]:
    """Endless batches; a pack that no longer fits into a row waits for the next one."""
    waiting: Pack | None = None
    while True:
        batch = empty_rows(rows, length, pad)
        for row in range(rows):
            start, number = 0, 0
            while True:
                item = waiting or sampler.example()
                waiting = None
                if len(item.ids) > length:
                    continue
                if start + len(item.ids) > length:
                    waiting = item
                    break
                start = place(batch, row, start, number, item)
                number += 1
        yield batch
