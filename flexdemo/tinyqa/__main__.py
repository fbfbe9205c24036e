"""Boundary: `python -m flexdemo.tinyqa train | evaluate | questions | check`; parses arguments and prints."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from flexdemo.tinyqa.questions import STYLES

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "tinyqa"


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="python -m flexdemo.tinyqa", description="The bundled model: data, training, accuracy."
    )
    commands = main.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a model and save it", description="Trains a model and saves it.")
    train.add_argument(
        "--out", type=Path, default=Path("tinyqa-model"), help="folder for the model (default: ./tinyqa-model)"
    )
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--steps", type=int, help="optimiser steps (default: those of the bundled model)")
    train.add_argument("--minutes", type=float, help="end by then, the learning rate at zero, even if steps are left")
    train.add_argument("--workers", type=int, help="processes that make the data")
    train.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    train.add_argument("--smoke", action="store_true", help="a tiny model in at most a minute on a CPU, for the tests")
    train.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting, e.g. layers=6"
    )
    evaluate = commands.add_parser(
        "evaluate", help="accuracy on held-out wordings", description="Measures a saved model."
    )
    evaluate.add_argument("--model", type=Path, default=ASSETS, help="folder of the model (default: the bundled one)")
    evaluate.add_argument("--questions", type=int, default=1000)
    evaluate.add_argument("--paraphrases", type=int, default=5, help="wordings of each question, the question counted")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--style",
        action="append",
        choices=(*STYLES, "all"),
        help="spelling of the wordings (default: clean; repeatable)",
    )
    evaluate.add_argument("--dense", action="store_true", help="use a dense mask of its own, not the engine")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    questions = commands.add_parser(
        "questions", help="write held-out questions as a data set", description="For `python -m flexdemo evaluate`."
    )
    questions.add_argument("--output", type=Path, required=True, help="a .jsonl file")
    questions.add_argument("--questions", type=int, default=1000)
    questions.add_argument("--paraphrases", type=int, default=5, help="wordings of each question, the question counted")
    questions.add_argument("--seed", type=int, default=0)
    questions.add_argument("--style", choices=STYLES, default="clean", help="spelling of the wordings (default: clean)")
    commands.add_parser(
        "check", help="check facts and templates", description="Checks the facts and templates on disk."
    )
    return main


def settings(config: Any, pairs: list[str]) -> Any:
    """Applies NAME=VALUE to the config or, with a dot (`mix.heavy=0`), to a part; the old value gives the type."""
    for pair in pairs:
        name, equals, value = pair.partition("=")
        head, _, rest = name.partition(".")
        if not equals or head not in {f.name for f in fields(config)}:
            raise ValueError(f"--set {pair}: expected NAME=VALUE with a setting's name")
        old = getattr(config, head)
        new = settings(old, [f"{rest}={value}"]) if rest else type(old)(json.loads(value.lower()))
        config = replace(config, **{head: new})
    return config


def run_train(args: argparse.Namespace) -> int:
    from flexdemo.tinyqa.train import TrainConfig, smoke, train

    chosen = {k: getattr(args, k) for k in ("steps", "minutes", "workers") if getattr(args, k) is not None}
    config = settings(replace(TrainConfig(), seed=args.seed, **chosen), args.set)
    train(smoke(config) if args.smoke else config, args.out, args.device, log=lambda text: print(text, flush=True))
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    import torch

    from flexdemo.engine.loading import load_model
    from flexdemo.tinyqa.evaluate import Answerer, render, report
    from flexdemo.tinyqa.model import load

    if not (args.model / "config.json").is_file():
        raise ValueError(f"no model in {args.model}: give a folder that holds config.json")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    styles = STYLES if "all" in (args.style or ()) else tuple(dict.fromkeys(args.style or ("clean",)))
    if device == "cpu" and not args.dense:
        # One question at a time through so small a model: threads gain nothing, and cost ten times on a busy machine.
        torch.set_num_threads(1)
    lm = None if args.dense else load_model(args.model, device=device, dtype="float32")
    log = (lambda _: None) if args.json else (lambda text: print(text, file=sys.stderr, flush=True))
    result = report(
        Answerer(*load(args.model, device)), args.questions, args.paraphrases, args.seed, styles, log=log, lm=lm
    )
    print(json.dumps(result, indent=1, ensure_ascii=False) if args.json else render(result))
    return 0


def run_questions(args: argparse.Namespace) -> int:
    from flexdemo.data.records import Record, write_records
    from flexdemo.tinyqa.data import load_world
    from flexdemo.tinyqa.questions import styled_questions

    made = styled_questions(load_world(), args.questions, args.paraphrases, args.seed, args.style)
    records = [Record(r["id"], r["question"], tuple(r["answers"]), tuple(r["paraphrases"])) for r in made]
    write_records(records, args.output)
    print(f"wrote {args.output}: {len(records)} records")
    return 0


def run_check() -> int:
    from flexdemo.tinyqa.data import check, load_world

    problems = check()
    print("\n".join(problems) if problems else f"all well: {len(load_world().facts):,} questions on facts")
    return 1 if problems else 0


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.command == "check":
            return run_check()
        return {"train": run_train, "evaluate": run_evaluate, "questions": run_questions}[args.command](args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
