"""The command `evaluate`: data sets through methods. Knows no argument parser."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answers.methods import resolve_methods
from ..answers.metrics import find_lemmatiser
from ..data.files import check_output, print_json, write_file
from ..data.journal import TABLE, check_run
from ..data.records import Record, draw_shots, fingerprint, read_records
from ..data.sweep import Sweep, find_sweeps, swept_methods, without_sweeps
from ..errors import InputError
from ..plan import Encoding, check_encoding
from ..request import check_settings
from ..template import Shots
from .commands import check_kept, load, settings_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..data.evaluate import Settings
    from ..data.summary import Summary
    from ..data.workers import Workers
    from ..engine.model import LanguageModel

REPORTS = (".md", ".html")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _rewrite(
    lm: LanguageModel,
    records: Sequence[Record],
    n: int,
    args: argparse.Namespace,
    run: Callable[..., list[Any] | None],
    output: Path | None,
    workers: Workers,
) -> tuple[list[Record], Counter[str]]:
    """All records, those without paraphrases with `n` of them by the model; kept in `output`, where there is one.

    And how many drafts were no paraphrases, by reason.
    """
    from ..data.evaluate import RECORDS, model_facts, rewrite

    dropped: Counter[str] = Counter()

    def work(batch: Sequence[int]) -> dict[int, tuple[Record]]:
        options = {"seed": args.seed, "temperature": args.temperature, "dropped": dropped}
        made = rewrite(lm, [records[i] for i in batch], n, **options)
        return {i: (record,) for i, record in zip(batch, made, strict=True)}

    settings = {"data": fingerprint(records), "paraphrases": n, "seed": args.seed, "temperature": args.temperature}
    settings |= model_facts(lm)
    made = run(len(records), work, what="paraphrasing", output=output, settings=settings, form=RECORDS)
    return made or read_records(str(output))[0], workers.summed(dropped)


def run_evaluate(args: argparse.Namespace) -> None:
    """A data set through methods: the table, its summary, a report."""
    from ..answers.paraphrase import check_request
    from ..data.evaluate import ACTING, RECORDS, Settings, paraphrases_path
    from ..data.workers import join_workers

    if args.tensor_parallel and args.compile:
        raise InputError("a model that is split over processes is not compiled as a whole: leave --compile out")
    if args.batch_size < 1:
        raise InputError(f"the batch size must be at least 1, not {args.batch_size}")
    check_request("a question", args.paraphrases or 1, args.temperature, fewest=0)  # 0: asked alone
    check_settings(seed=args.seed)
    settings = Settings(**settings_of(args, ACTING))
    check_encoding(Encoding(settings.mask, settings.positions))
    chosen = resolve_methods(settings.methods)
    if args.sweep == "paraphrases" and all(method.answers_each for method in chosen):
        raise InputError("--sweep paraphrases runs methods that give one answer: add one, such as --method flex")
    for path in args.report:
        check_output(path, REPORTS)
    if args.score == "lemma" and find_lemmatiser() is None:
        raise InputError("--score lemma needs a lemmatiser: pip install simplemma")
    if args.shots < 0 or bool(args.shots) != (args.shots_from is not None):
        raise InputError("--shots K, 1 or more, and --shots-from FILE, a data set to draw them from, go together")
    if args.output is None and args.resume:
        raise InputError("--resume goes on with an --output: name it")
    with closing(join_workers(cpu=args.device == "cpu", together=args.tensor_parallel)) as workers:
        if args.tensor_parallel and workers.world < 2:
            raise InputError(
                "--tensor-parallel splits a model over several processes: start them with torchrun --standalone "
                "--nproc-per-node N -m flexdemo evaluate ... --tensor-parallel"
            )
        if args.output is None and workers.world > 1 and not args.tensor_parallel:
            raise InputError("several processes gather their results in a file: give --output")
        records = _read(args.data, skip_bad=args.skip_bad, limit=args.limit)
        pool = _read(args.shots_from, skip_bad=args.skip_bad) if args.shots else []
        _shots(pool, args, records)  # too few are told before a model is loaded
        if args.output is not None:
            outputs = {args.output: TABLE}
            if any(not record.paraphrases for record in records) and args.paraphrases != 0:
                # Kept apart, so that a run that was killed while paraphrasing goes on there.
                outputs[paraphrases_path(args.output)] = RECORDS
            for output, form in outputs.items():
                check_kept([args.data, args.shots_from], output)
                check_run(output, resume=args.resume, overwrite=args.overwrite, form=form)
        split = {"processes": workers.world} if workers.together else {"device": workers.device(args.device)}
        lm = load(args, **split)
        _evaluate(lm, records, pool, settings, args, workers)


def _read(source: str, *, skip_bad: bool, limit: int | None = None) -> list[Record]:
    """The records of a data set; bad ones that are left out are named."""
    records, problems = read_records(source, limit=limit, skip_bad=skip_bad)
    for problem in problems:
        _say(f"skipped {problem}")
    if problems:
        _say(f"skipped {len(problems)} bad records, {len(records)} are left of {source}")
    return records


def _shots(pool: Sequence[Record], args: argparse.Namespace, records: Sequence[Record]) -> Shots:
    """Questions and answers of the pool, none of them a wording of the records."""
    asked = [text for record in records for text in (record.question, *record.paraphrases)]
    return draw_shots(pool, args.shots, seed=args.seed, exclude=asked)


def _evaluate(
    lm: LanguageModel,
    records: list[Record],
    pool: Sequence[Record],
    settings: Settings,
    args: argparse.Namespace,
    workers: Workers,
) -> None:
    from ..data.evaluate import answer, paraphrases_path, prepare_questions, settings_dict, shorten, template_of
    from ..data.table import read_table, table_frame
    from ..data.workers import work_through

    place = {"workers": workers, "size": args.batch_size, "let_go": lm.graphs.clear}
    run = partial(work_through, **place, resume=args.resume, overwrite=args.overwrite)
    data, dropped = fingerprint(records), Counter()
    n = 5 if args.paraphrases is None else args.paraphrases
    if args.paraphrases is not None:
        records = [shorten(record, n) for record in records]
    if n and any(not record.paraphrases for record in records):
        kept = None if args.output is None else paraphrases_path(args.output)
        records, dropped = _rewrite(lm, records, n, args, run, kept, workers)
    settings = settings.but(shots=_shots(pool, args, records))  # nor one of the paraphrases just written

    fewest = min(1 + len(record.paraphrases) for record in records)
    methods = [method.name for method in resolve_methods(settings.methods, fewest)]
    if args.sweep:
        most = max(1 + len(record.paraphrases) for record in records)
        methods += swept_methods(args.sweep, methods, depth=lm.depth, wordings=most)
    settings = settings.but(methods=methods)
    args.score = args.score or ("contains" if template_of(lm, settings).kind == "chat" else "exact")
    asked, problems, settings = prepare_questions(lm, records, settings)
    if problems and not (args.skip_bad and any(asked)):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more + ("; --skip-bad leaves such records out" if any(asked) else ""))
    for problem in problems if workers.is_first else ():
        _say(f"skipped {problem}")

    def work(batch: Sequence[int]) -> dict[int, Sequence[Any]]:
        real = [i for i in batch if asked[i] is not None]
        rows = answer(lm, [asked[i] for i in real], settings)
        return dict.fromkeys(batch, ()) | dict(zip(real, rows, strict=True))

    others = {"data": data, "records": len(records), "paraphrases": n, "seed": args.seed}
    facts = settings_dict(settings, lm, **others, lemmatiser="simplemma (en)" if find_lemmatiser() else None)
    rows = run(len(records), work, what="answering", output=args.output, settings=facts)
    if workers.is_first:
        _tell(read_table(args.output) if rows is None else table_frame(rows), facts, args, dropped)


def _tell(table: DataFrame, facts: dict[str, Any], args: argparse.Namespace, dropped: Counter[str]) -> None:
    """Print the summary, then write the reports."""
    from ..data.summary import summarise

    summary = summarise(without_sweeps(table), score=args.score, seed=args.seed)
    sweeps = find_sweeps(table, score=args.score, seed=args.seed)
    shown = {key: value for key, value in facts.items() if value not in (None, "")}
    name = os.fsencode(Path(args.data).name).decode(errors="replace")  # bytes of another encoding fit in no report
    if args.json:  # before the reports: what cannot be written takes no result with it
        told = {"dropped_paraphrases": dict(dropped)} if dropped else {}
        told |= {"sweeps": [asdict(sweep) for sweep in sweeps]} if sweeps else {}
        print_json({"settings": facts, **asdict(summary), **told})
    else:
        print("\n".join(each.markdown() for each in (summary, *sweeps)))
        if dropped:
            reasons = ", ".join(f"{count} {why}" for why, count in dropped.most_common())
            print(f"paraphrases written; drafts dropped: {dropped.total()} ({reasons})")
    wrote = [args.output] if args.output else []
    for path in args.report:
        text = _report(path.suffix.lower(), f"flexdemo on {name}", summary, sweeps, shown)
        write_file(path, lambda scratch, text=text: scratch.write_text(text, encoding="utf-8"))
        wrote.append(path)
    for path in wrote if not args.json else ():
        print(f"wrote {path}")


def _report(ending: str, title: str, summary: Summary, sweeps: Sequence[Sweep], facts: dict[str, Any]) -> str:
    if ending == ".html":
        from ..figures.results import report_html

        return report_html(summary, title=title, facts=facts, sweeps=sweeps)
    told = "\n".join(f"- {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items())
    return "\n".join([f"# {title}\n", *(each.markdown() for each in (summary, *sweeps)), f"{told}\n"])
