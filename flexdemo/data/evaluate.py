"""Data sets through methods: a results table. Knows records and methods; prints nothing and parses nothing."""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..answers.ask import told
from ..answers.methods import METHODS, Method
from ..answers.metrics import Lemmatiser, contains, exact_match, lemma_match, normalise, token_f1
from ..answers.paraphrase import paraphrase_all
from ..answers.result import ViewResult
from ..engine.decode import Answer, check_room, generate
from ..engine.model import LanguageModel
from ..errors import InputError, is_out_of_memory
from ..plan import Encoding, Stream, View, fused_view
from ..prompt import SegmentedPrompt, alike, build_prompt
from ..request import PLAIN, Ape, Decoding
from ..template import Template, make_template
from .journal import TABLE, Form, Journal, finish
from .records import Record, write_records
from .table import Row


@dataclass(frozen=True)
class Settings:
    """How every record is asked: the same methods, prompt and stop rule for all of them."""

    methods: tuple[str, ...] = ("flex", "causal")
    mask: str = "segment"
    positions: str = "aligned"
    weights: str | None = None
    ape: Ape = PLAIN
    prefix: str = ""
    template: str = "auto"
    max_new_tokens: int = 32
    shots: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Question:
    """A record and its packed prompt."""

    record: Record
    prompt: SegmentedPrompt


RECORDS = Form((".jsonl",), Record, write_records)


def rewrite(
    lm: LanguageModel, records: Sequence[Record], n: int, *, seed: int = 0, temperature: float = 0.7
) -> list[Record]:
    """Records with up to `n` paraphrases by the model, for those that have none; each has a seed of its own.

    A record's paraphrases depend on its id and the seed, not on the records beside it.
    """
    bare = [record for record in records if not record.paraphrases]
    seeds = [zlib.crc32(f"{seed}:{record.id}".encode()) for record in bare]
    written = paraphrase_all(lm, [record.question for record in bare], n, seeds=seeds, temperature=temperature)
    made = {record.id: tuple(texts) for record, texts in zip(bare, written, strict=True)}
    return [replace(r, paraphrases=made[r.id], weights=None) if r.id in made else r for r in records]


def shorten(record: Record, n: int) -> Record:
    """The record with its first `n` paraphrases only."""
    weights = None if record.weights is None else record.weights[: n + 1]
    return replace(record, paraphrases=record.paraphrases[:n], weights=weights)


def template_of(lm: LanguageModel, settings: Settings) -> Template:
    """How every record is asked."""
    return make_template(lm.tokenizer, settings.prefix, settings.template, shots=settings.shots)


def prepare_questions(
    lm: LanguageModel, records: Sequence[Record], settings: Settings
) -> tuple[list[Question | None], list[str]]:
    """The records' prompts; None, and a line that says why, for a record that cannot be asked.

    Weights of the settings go before those of a record.
    """
    asked: list[Question | None] = []
    problems = []
    template = template_of(lm, settings)
    for record in records:
        try:
            prompt = build_prompt(
                lm.tokenizer,
                record.question,
                record.paraphrases,
                weights=settings.weights or record.weights,
                template=template,
            )
            check_room(lm, prompt, settings.max_new_tokens)
        except InputError as error:
            asked.append(None)
            problems.append(f"record {record.id!r}: {error}")
        else:
            asked.append(Question(record, prompt))
    return asked, problems


def answer(
    lm: LanguageModel, asked: Sequence[Question], settings: Settings, *, lemmatise: Lemmatiser | None = None
) -> list[tuple[Row, ...]]:
    """Rows of each question, all methods and questions decoding as rows of one batch.

    What a question is answered does not depend on the others in the batch. Seconds are shares of the batch's time.
    Questions whose suffixes differ in length are batches of their own.
    """
    groups = alike([question.prompt for question in asked])
    if len(groups) > 1:
        made = {
            i: rows
            for group in groups
            for i, rows in zip(group, answer(lm, [asked[i] for i in group], settings, lemmatise=lemmatise), strict=True)
        }
        return [made[i] for i in range(len(asked))]
    began = time.perf_counter()
    encoding = Encoding(settings.mask, settings.positions)
    plans = [_plan(i, question.prompt, encoding, settings) for i, question in enumerate(asked)]
    streams = list(dict.fromkeys(s for plan in plans for each in plan.values() for s in each))
    decoding = Decoding(settings.max_new_tokens, mass=False)
    *_, last = generate(lm, [question.prompt for question in asked], streams, decoding)
    answers = dict(zip(streams, last.answers, strict=True))
    seconds = time.perf_counter() - began
    rows = [_rows(lm, q, plan, answers, lemmatise) for q, plan in zip(asked, plans, strict=True)]
    share = seconds / max(1, sum(row.rows for each in rows for row in each))
    return [tuple(replace(row, seconds=share * row.rows) for row in each) for each in rows]


def _plan(
    place: int, prompt: SegmentedPrompt, encoding: Encoding, settings: Settings
) -> dict[Method, tuple[Stream, ...]]:
    fused = fused_view(prompt, encoding, settings.ape)
    methods = [METHODS[name] for name in settings.methods]
    return {m: tuple(replace(stream, prompt=place) for stream in m.streams(prompt, fused)) for m in methods}


def _rows(
    lm: LanguageModel,
    question: Question,
    plan: Mapping[Method, tuple[Stream, ...]],
    answers: Mapping[Stream, Answer],
    lemmatise: Lemmatiser | None,
) -> list[Row]:
    """One row for a method, or one for each view of a method that answers each wording."""
    alone: list[str] | None = None
    spoken: list[tuple[Method, str, ViewResult, list[View]]] = []
    for method, streams in plan.items():
        views, spokesman, _ = told(lm, question.prompt, method, streams, answers)
        asked = [view for stream in streams for view in stream.views]
        if method.name in ("per_prompt", "vote"):
            alone = [normalise(view.answer) for view in views]
        if method.answers_each:
            spoken += [(method, view.name, view, [one]) for view, one in zip(views, asked, strict=True)]
        else:
            spoken.append((method, method.name, spokesman, asked))
    record, many = question.record, len(question.prompt.paraphrases) > 1
    rows = []
    for method, name, view, asked in spoken:
        agree = None if alone is None or not many else alone.count(normalise(view.answer)) / len(alone)
        rows.append(
            Row(
                record.id,
                record.question,
                record.paraphrases,
                record.answers,
                method.name,
                name,
                view.answer,
                view.generation,
                len(view.token_ids),
                exact_match(view.answer, record.answers),
                contains(view.answer, record.answers),
                token_f1(view.answer, record.answers),
                *_lemma_matches(view.answer, record.answers, lemmatise),
                agree,
                sum(_tokens_read(question.prompt, each) for each in asked),
                len(asked),
                0.0,
            )
        )
    return rows


def _lemma_matches(
    prediction: str, answers: Sequence[str], lemmatise: Lemmatiser | None
) -> tuple[bool | None, bool | None]:
    if lemmatise is None:
        return None, None
    one_way = lemma_match(prediction, answers, lemmatise=lemmatise)
    return one_way, lemma_match(prediction, answers, lemmatise=lemmatise, both_ways=True)


def _tokens_read(prompt: SegmentedPrompt, view: View) -> int:
    """Tokens of the prompt that a view reads: prefix, the paraphrases that have weight, suffix."""
    prefix, *wordings, suffix = prompt.tokens_seen(view.encoding.strategy)
    return prefix + suffix + sum(count for count, weight in zip(wordings, view.weights, strict=True) if weight)


def settings_dict(settings: Settings, lm: LanguageModel, **others: Any) -> dict[str, Any]:
    """What must be equal for results to belong into one table, the prompt as rendered among it; JSON-able."""
    ran = {"model": lm.name, "dtype": lm.dtype, "backend": lm.backend}
    return {**others, **ran, **asdict(settings), "prompt": template_of(lm, settings).texts}


def paraphrases_path(output: Path) -> Path:
    """Where a run that writes `output` keeps its records with the paraphrases it generated: a data set of its own."""
    return output.with_name(f"{output.name}.paraphrases.jsonl")


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
    start, kept = 0, True
    while start < len(indices):
        batch = indices[start : start + size]
        made = _unless_out_of_memory(work, batch)
        if made is not None:
            yield batch, made
            start += len(batch)
            kept = True
            continue
        if not halves:
            raise InputError(f"a batch of {len(batch)} records does not fit in memory: give a smaller --batch-size")
        let_go()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1 and kept:
            kept = False
            continue
        if len(batch) == 1:
            raise InputError(
                f"record {batch[0] + 1} does not fit in memory even alone: use fewer methods, fewer or shorter "
                "paraphrases, or a smaller model"
            )
        size = len(batch) // 2
        log(f"out of memory: going on with {size} records a batch")


def _unless_out_of_memory(work: Work, batch: Sequence[int]) -> Made | None:
    try:
        return work(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None  # only here has the failed attempt let go of its tensors


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
    form: Form = TABLE,
    let_go: Callable[[], None] = lambda: None,
) -> list[Any] | None:
    """Do `work` on records 0 <= i < total, this process's share of them, a batch at a time.

    With `output` every batch is on the disk when it is done and the finished whole is written there by process 0; the
    result is then None. Without, it is everything that `work` made, in the records' order.
    """
    kept: dict[int, Sequence[Any]] = {}
    journal = None
    if output is not None and workers.writes:
        place = {"rank": workers.rank, "world": workers.writers}

        def begin() -> Journal:
            return Journal.open(output, settings, resume=resume, overwrite=overwrite, form=form, **place)

        journal = begin() if workers.together else workers.first_then_others(begin)
    done = workers.agreed(journal.done if journal else frozenset())
    mine = [i for i in workers.share(total) if i not in done]
    # A bar for each process of a machine would be a mess: the first speaks for all, which do alike.
    with tqdm(
        total=len(mine), desc=what, unit="record", file=sys.stderr, disable=not (workers.is_first and mine)
    ) as bar:
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
