"""Data sets through methods: a results table. Knows records and methods; prints nothing and parses nothing."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..answers.ask import told, with_room
from ..answers.methods import METHODS, Method, plan_all
from ..answers.metrics import contains, exact_match, find_lemmatiser, lemma_match, normalise, token_f1
from ..answers.paraphrase import paraphrase_all
from ..answers.result import ViewResult
from ..engine.decode import Answer, generate
from ..engine.model import LanguageModel
from ..engine.reading import check_room
from ..errors import InputError
from ..plan import Encoding, Stream, View, check_encoding
from ..prompt import SegmentedPrompt, alike, build_prompt
from ..request import FIELDS, Decoding, Request, Texts
from ..template import Template, make_template
from .journal import Contents
from .records import Record, write_records
from .sweep import method_named
from .table import Row

# Fields of Request that do not act here: a record has its own wordings, and answers are greedy.
ABSENT = {"question", "paraphrases", "mass", "candidates"}
ABSENT |= {"temperature", "top_p", "seed", "samples", "sample_temperature"}
ACTING = tuple(name for name in FIELDS if name not in ABSENT)


class Settings(Request):
    """How every record is asked: with the same methods, prompt and stop rule, and the same shots before it."""

    question: str = ""
    methods: Texts = ("flex", "causal")
    shots: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Question:
    """A record and its packed prompt."""

    record: Record
    prompt: SegmentedPrompt


RECORDS = Contents((".jsonl",), Record, write_records)


def rewrite(
    lm: LanguageModel,
    records: Sequence[Record],
    n: int,
    *,
    seed: int = 0,
    temperature: float = 0.7,
    dropped: Counter[str] | None = None,
) -> list[Record]:
    """Records with up to `n` paraphrases by the model, for those that have none; each has a seed of its own.

    A record's paraphrases depend on its id and the seed, not on the records beside it, and give none of its answers;
    `dropped` counts the drafts that were none, by reason.
    """
    bare = [record for record in records if not record.paraphrases]
    seeds = [zlib.crc32(f"{seed}:{record.id}".encode()) for record in bare]
    questions, answers = [record.question for record in bare], [record.answers for record in bare]
    written = paraphrase_all(lm, questions, n, seeds=seeds, answers=answers, temperature=temperature)
    made = {record.id: tuple(each.kept.values()) for record, each in zip(bare, written, strict=True)}
    for each in written if dropped is not None else ():
        dropped.update(each.dropped)
    return [replace(r, paraphrases=made[r.id], weights=None) if r.id in made else r for r in records]


def shorten(record: Record, n: int) -> Record:
    """The record with its first `n` paraphrases only; equal weights where those that are left have none."""
    weights = record.weights[: n + 1] if any((record.weights or ())[: n + 1]) else None
    return replace(record, paraphrases=record.paraphrases[:n], weights=weights)


def template_of(lm: LanguageModel, settings: Settings) -> Template:
    """How every record is asked."""
    return make_template(lm.tokenizer, settings.prefix, settings.template, shots=settings.shots)


def prepare_questions(
    lm: LanguageModel, records: Sequence[Record], settings: Settings
) -> tuple[list[Question | None], list[str], Settings]:
    """The records' prompts; None, and a line that says why, for a record that cannot be asked; and the settings, with
    room for reasoning where these prompts begin it.

    Weights of the settings go before those of a record.
    """
    template, methods = template_of(lm, settings), [method_named(name) for name in settings.methods]
    masked = [method for method in methods if method.streams is METHODS["flex"].streams]  # read under the chosen mask
    encoding = Encoding(settings.mask, settings.positions)
    prompts: dict[int, SegmentedPrompt] = {}
    longest: dict[int, SegmentedPrompt] = {}  # as that method reads it which reads most
    problems: dict[int, InputError] = {}
    for i, record in enumerate(records):
        weights = settings.weights or record.weights
        try:
            prompt = build_prompt(lm.tokenizer, record.question, record.paraphrases, weights=weights, template=template)
            for method in masked:
                check_encoding(encoding, method.packed(prompt))
        except InputError as error:
            problems[i] = error
        else:
            prompts[i] = prompt
            longest[i] = max((method.packed(prompt) for method in methods), key=lambda each: len(each.token_ids))
    settings = with_room(lm, settings, list(longest.values()))
    for i, prompt in longest.items():
        try:
            check_room(lm, prompt, settings.max_new_tokens)
        except InputError as error:
            problems[i] = error
    asked = [None if i in problems else Question(record, prompts[i]) for i, record in enumerate(records)]
    return asked, [f"record {records[i].id!r}: {problems[i]}" for i in sorted(problems)], settings


def answer(lm: LanguageModel, asked: Sequence[Question], settings: Settings) -> list[tuple[Row, ...]]:
    """Rows of each question, all methods and questions decoding as rows of one batch.

    What a question is answered does not depend on the others in the batch. Seconds are shares of the batch's time.
    Questions whose suffixes differ in length are batches of their own.
    """
    made: dict[int, tuple[Row, ...]] = {}
    methods = [method_named(name) for name in settings.methods]
    for group in alike([question.prompt for question in asked]):
        began = time.perf_counter()
        batch, plans = plan_all([asked[i].prompt for i in group], methods, settings, depth=lm.depth)
        every = [stream for plan in plans for each in plan.values() for stream in each]
        streams = list(dict.fromkeys(every))
        *_, last = generate(lm, batch, streams, Decoding(settings.max_new_tokens, mass=False))
        answers = dict(zip(streams, last.answers, strict=True))
        share = (time.perf_counter() - began) / max(1, sum(len(stream.views) for stream in every))
        for i, plan in zip(group, plans, strict=True):
            made[i] = tuple(_rows(lm, batch, asked[i], plan, answers, share))
    return [made[i] for i in range(len(asked))]


def _rows(
    lm: LanguageModel,
    batch: Sequence[SegmentedPrompt],
    question: Question,
    plan: Mapping[Method, Sequence[Stream]],
    answers: Mapping[Stream, Answer],
    share: float,
) -> Iterator[Row]:
    """One row for a method, or one for each view of a method that answers each wording; `share` is a view's seconds."""
    record, alone, lemmatise = question.record, [], find_lemmatiser()
    spoken: list[tuple[Method, str, ViewResult, list[int]]] = []
    for method, streams in plan.items():
        views, spokesman, _ = told(lm, question.prompt, method, streams, answers)
        read = [_tokens_read(batch[stream.prompt], view) for stream in streams for view in stream.views]
        if method.name in ("per_prompt", "vote"):
            alone = [normalise(view.answer) for view in views]
        if method.answers_each:
            spoken += [(method, view.name, view, [tokens]) for view, tokens in zip(views, read, strict=True)]
        else:
            spoken.append((method, method.name, spokesman, read))
    for method, name, view, read in spoken:
        judged = (view.answer, record.answers)
        lemmas = [lemmatise and lemma_match(*judged, lemmatise=lemmatise, both_ways=both) for both in (False, True)]
        yield Row(
            record.id,
            record.question,
            record.paraphrases,
            record.answers,
            method.name,
            name,
            view.answer,
            view.generation,
            len(view.token_ids),
            exact_match(*judged),
            contains(*judged),
            token_f1(*judged),
            *lemmas,
            alone.count(normalise(view.answer)) / len(alone) if len(alone) > 1 else None,
            sum(read),
            len(read),
            share * len(read),
        )


def _tokens_read(prompt: SegmentedPrompt, view: View) -> int:
    """Tokens of the prompt that a view reads: prefix, the paraphrases that have weight, suffix."""
    prefix, *wordings, suffix = prompt.tokens_seen(view.encoding.strategy)
    return prefix + suffix + sum(count for count, weight in zip(wordings, view.weights, strict=True) if weight)


def model_facts(lm: LanguageModel) -> dict[str, str]:
    """The model that ran, and how; JSON-able."""
    return {"model": lm.name, "model_weights": lm.digest, "dtype": lm.dtype, "backend": lm.backend}


def settings_dict(settings: Settings, lm: LanguageModel, **others: Any) -> dict[str, Any]:
    """What must be equal for results to belong into one table, the prompt as rendered among it; JSON-able."""
    return {
        **others,
        **model_facts(lm),
        **settings.model_dump(exclude=ABSENT),
        "prompt": template_of(lm, settings).texts,
    }


def paraphrases_path(output: Path) -> Path:
    """Where a run that writes `output` keeps its records with the paraphrases it generated: a data set of its own."""
    return output.with_name(f"{output.name}.paraphrases.jsonl")
