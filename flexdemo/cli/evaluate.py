"""The commands that work through data sets: `evaluate`, and `paraphrase` of a file. Knows no argument parser."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answers.methods import resolve_methods
from ..answers.metrics import find_lemmatiser
from ..data.files import check_output, print_json, write_file
from ..data.journal import check_run
from ..data.records import Record, draw_shots, fingerprint, read_records
from ..data.sweep import Sweep, find_sweeps, swept_methods, without_sweeps
from ..errors import InputError
from ..plan import Encoding, check_encoding
from ..request import Ape, check_settings
from ..template import Shots
from .commands import settings_of

if TYPE_CHECKING:
    from ..data.summary import Summary
    from ..data.workers import Workers
    from ..engine.model import LanguageModel

REPORTS = (".md", ".html")
METHODS = ("flex", "causal")  # where none are named
# What a record is asked with, beside its own wordings and weights: fields of Request.
SETTINGS = (
    *("methods", "hidden_layer", "mask", "positions", "prefix", "template", "max_new_tokens"),
    *("ape_temperature", "ape_scale"),
)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _read(args: argparse.Namespace, source: str) -> list[Record]:
    """Records of the data set; with --skip-bad the bad ones are named and left out."""
    records, problems = read_records(source, limit=args.limit, skip_bad=args.skip_bad)
    for problem in problems:
        _say(f"skipped {problem}")
    if problems:
        _say(f"skipped {len(problems)} bad records, {len(records)} are left")
    return records


def _load(args: argparse.Namespace, workers: Workers) -> LanguageModel:
    from ..engine.loading import load_model

    options = {"dtype": args.dtype, "backend": args.backend, "compiled": args.compile}
    if workers.together:
        return load_model(args.model, device=args.device, processes=workers.world, **options)
    return load_model(args.model, device=workers.device(args.device), **options)


def _check_numbers(args: argparse.Namespace, n: int) -> None:
    if args.batch_size < 1:
        raise InputError(f"the batch size must be at least 1, not {args.batch_size}")
    if not 0 <= n <= 100:
        raise InputError(f"the number of paraphrases must be from 0 to 100, not {n}")
    check_settings(seed=args.seed)


def _check_kept(sources: Sequence[str | None], output: Path) -> None:
    """InputError if writing `output` would replace a file that is read."""
    for source in sources:
        if source is not None and output.exists() and Path(source).exists() and output.samefile(source):
            raise InputError(f"{output} is the data that is read: write to another file")


def run_paraphrase(args: argparse.Namespace) -> None:
    """Paraphrases for every record of a data set that has none, written as .jsonl."""
    from ..answers.paraphrase import check_request
    from ..data.evaluate import RECORDS
    from ..data.workers import join_workers

    if args.json:
        raise InputError(
            "--json prints one question's paraphrases, --output writes a data set's: leave one of them out"
        )
    check_request("a question", args.n, args.temperature)
    _check_numbers(args, args.n)
    _check_kept([args.question], args.output)
    check_run(args.output, resume=args.resume, overwrite=args.overwrite, form=RECORDS)
    records = _read(args, args.question)
    workers = join_workers(cpu=args.device == "cpu")
    try:
        lm = _load(args, workers)
        dropped: Counter[str] = Counter()
        _rewrite(lm, records, args.n, args, workers, args.output, dropped)
    finally:
        workers.close()
    if workers.is_first:
        print(f"wrote {args.output}: {len(records)} records{_told(dropped)}")


def _told(dropped: Counter[str]) -> str:
    """What was dropped while paraphrases were written."""
    reasons = ", ".join(f"{count} {why}" for why, count in dropped.most_common())
    return f"; drafts dropped: {dropped.total()} ({reasons})" if reasons else ""


def _rewrite(
    lm: LanguageModel,
    records: Sequence[Record],
    n: int,
    args: argparse.Namespace,
    workers: Workers,
    output: Path | None,
    dropped: Counter[str],
) -> list[Record]:
    """All records, those without paraphrases with `n` of them by the model; kept in `output`, where there is one.

    `dropped` counts the drafts of this process that were no paraphrases.
    """
    from ..data.evaluate import RECORDS, rewrite
    from ..data.workers import work_through

    def work(batch: Sequence[int]) -> dict[int, tuple[Record]]:
        options = {"seed": args.seed, "temperature": args.temperature, "dropped": dropped}
        made = rewrite(lm, [records[i] for i in batch], n, **options)
        return {i: (record,) for i, record in zip(batch, made, strict=True)}

    settings = {"data": fingerprint(records), "paraphrases": n, "seed": args.seed, "temperature": args.temperature}
    settings |= {"model": lm.name, "dtype": lm.dtype, "backend": lm.backend}
    run = {"workers": workers, "settings": settings, "resume": args.resume, "overwrite": args.overwrite}
    run["let_go"] = lm.graphs.clear
    made = work_through(
        len(records), work, size=args.batch_size, what="paraphrasing", output=output, form=RECORDS, **run
    )
    if made is not None:
        return made
    return read_records(str(output))[0]


def run_evaluate(args: argparse.Namespace) -> None:
    """A data set through methods: the table, its summary, a report."""
    from ..answers.paraphrase import check_request
    from ..data.evaluate import RECORDS, paraphrases_path
    from ..data.workers import join_workers
    from ..engine.loading import check_processes

    if args.tensor_parallel and args.compile:
        raise InputError("a model that is split over processes is not compiled as a whole: leave --compile out")
    _check_numbers(args, args.paraphrases if args.paraphrases is not None else 0)
    check_request("a question", 1, args.temperature)
    args.methods = args.methods or METHODS
    check_settings(**settings_of(args, SETTINGS))
    check_encoding(Encoding(args.mask, args.positions))
    resolve_methods(args.methods)
    for path in args.report:
        check_output(path, REPORTS)
    if args.score == "lemma" and find_lemmatiser() is None:
        raise InputError("--score lemma needs a lemmatiser: pip install simplemma")
    if args.output is None and args.resume:
        raise InputError("--resume goes on with an --output: name it")
    workers = join_workers(cpu=args.device == "cpu", together=args.tensor_parallel)
    try:
        if args.tensor_parallel:
            check_processes(workers.world)
        if args.output is None and workers.writers > 1:
            raise InputError("several processes gather their results in a file: give --output")
        records = _read(args, args.data)
        shots = _shots(args, records)
        if args.output is not None:
            _check_kept([args.data, args.shots_from], args.output)
            check_run(args.output, resume=args.resume, overwrite=args.overwrite)
            if any(not record.paraphrases for record in records) and args.paraphrases != 0:
                # Kept apart, so that a run that was killed while paraphrasing goes on there.
                _check_kept([args.data, args.shots_from], paraphrases_path(args.output))
                check_run(paraphrases_path(args.output), resume=args.resume, overwrite=args.overwrite, form=RECORDS)
        lm = _load(args, workers)
        dropped: Counter[str] = Counter()
        table, facts = _evaluate(lm, records, shots, args, workers, dropped)
        if workers.is_first:
            _tell(table, facts, args, dropped)
    finally:
        workers.close()


def _shots(args: argparse.Namespace, records: Sequence[Record]) -> Shots:
    """Questions and answers drawn from another file."""
    if args.shots < 0:
        raise InputError(f"the number of shots must be 0 or more, not {args.shots}")
    if args.shots == 0:
        if args.shots_from is not None:
            raise InputError("--shots-from needs --shots K: how many examples to draw from it")
        return ()
    if args.shots_from is None:
        raise InputError("--shots needs --shots-from FILE: a data set to draw them from, such as the training part")
    asked = [text for record in records for text in (record.question, *record.paraphrases)]
    pool, _ = read_records(args.shots_from, skip_bad=args.skip_bad)
    return draw_shots(pool, args.shots, seed=args.seed, exclude=asked)


def _evaluate(
    lm: LanguageModel,
    records: list[Record],
    shots: Shots,
    args: argparse.Namespace,
    workers: Workers,
    dropped: Counter[str],
) -> tuple[Any, dict[str, Any]]:
    """The results table as a frame, and what ran."""
    from ..data.evaluate import (
        Settings,
        answer,
        paraphrases_path,
        prepare_questions,
        settings_dict,
        shorten,
        template_of,
    )
    from ..data.table import read_table, table_frame
    from ..data.workers import work_through

    data = fingerprint(records)
    n = 5 if args.paraphrases is None else args.paraphrases
    if args.paraphrases is not None:
        records = [shorten(record, n) for record in records]
    if n and any(not record.paraphrases for record in records):
        kept = None if args.output is None else paraphrases_path(args.output)
        records = _rewrite(lm, records, n, args, workers, kept, dropped)

    fewest = min(1 + len(record.paraphrases) for record in records)
    methods = tuple(method.name for method in resolve_methods(args.methods, fewest))
    if args.sweep:
        most = max(1 + len(record.paraphrases) for record in records)
        methods += swept_methods(args.sweep, methods, depth=lm.depth, wordings=most)
    ape = Ape(args.ape_temperature, args.ape_scale)
    settings = Settings(
        methods, args.mask, args.positions, args.weights, ape, args.prefix, args.template, args.max_new_tokens,
        args.hidden_layer, shots,
    )  # fmt: skip
    args.score = args.score or ("contains" if template_of(lm, settings).kind == "chat" else "exact")
    asked, problems = prepare_questions(lm, records, settings)
    if problems and not args.skip_bad:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}; --skip-bad leaves such records out")
    for problem in problems if workers.is_first else ():
        _say(f"skipped {problem}")
    lemmatise = find_lemmatiser()

    def work(batch: Sequence[int]) -> dict[int, Sequence[Any]]:
        real = [i for i in batch if asked[i] is not None]
        rows = answer(lm, [asked[i] for i in real], settings, lemmatise=lemmatise) if real else []
        return dict.fromkeys(batch, ()) | dict(zip(real, rows, strict=True))

    others = {"data": data, "records": len(records), "paraphrases": n, "seed": args.seed}
    others["lemmatiser"] = getattr(lemmatise, "name", None)
    facts = settings_dict(settings, lm, **others)
    run = {"workers": workers, "settings": facts, "resume": args.resume, "overwrite": args.overwrite}
    run["let_go"] = lm.graphs.clear
    rows = work_through(len(records), work, size=args.batch_size, what="answering", output=args.output, **run)
    if not workers.is_first:
        return None, facts
    return (read_table(args.output) if rows is None else table_frame(rows)), facts


def _tell(table: Any, facts: dict[str, Any], args: argparse.Namespace, dropped: Counter[str]) -> None:
    """Print the summary, write the reports."""
    from ..data.summary import summarise

    summary = summarise(without_sweeps(table), score=args.score, seed=args.seed)
    sweeps = find_sweeps(table, score=args.score, seed=args.seed)
    for path in args.report:
        write_file(path, _report_writer(path.suffix.lower(), summary, sweeps, facts, args.data))
    if args.json:
        told = {"dropped_paraphrases": dict(dropped)} if dropped else {}
        told |= {"sweeps": [sweep.to_dict() for sweep in sweeps]} if sweeps else {}
        print_json({"settings": facts, **summary.to_dict(), **told})
        return
    print("\n".join(each.markdown() for each in (summary, *sweeps)))
    if dropped:
        print(f"paraphrases written{_told(dropped)}")
    for path in (*([args.output] if args.output else []), *args.report):
        print(f"wrote {path}")


def _report_writer(ending: str, summary: Summary, sweeps: Sequence[Sweep], facts: dict[str, Any], data: str) -> Any:
    from ..figures.results import report_html
    from ..figures.sweep import sweep_chart, sweep_parts

    title = f"flexdemo on {Path(data).name}"
    shown = {key: value for key, value in facts.items() if value not in (None, "")}

    def write(path: Path) -> None:
        if ending == ".html":
            more = {"more_charts": [sweep_chart(sweep) for sweep in sweeps], "more_parts": sweep_parts(sweeps)}
            text = report_html(summary, title=title, facts=shown, **more)
        else:
            told = "\n".join(f"- {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in shown.items())
            text = "\n".join([f"# {title}\n", *(each.markdown() for each in (summary, *sweeps)), f"{told}\n"])
        path.write_text(text, encoding="utf-8")

    return write
