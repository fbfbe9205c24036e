"""python -m flexdemo generate | mask | paraphrase | bench. Parses arguments, writes output, works nowhere.

Modules that load torch are imported by the command that needs them, so that help and bad arguments answer at once.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .config import Decoding, InputError
from .files import check_output, write_file
from .prompt import POSITIONS, SegmentedPrompt, build_prompt, check_wordings

if TYPE_CHECKING:
    from .methods import Result
    from .model import LanguageModel

STRATEGY_NAMES = (
    "segment, isolated, causal, anchor, late_fusion, bidirectional"  # masks.py loads torch; a test compares
)
METHOD_NAMES = "flex, origin, per_prompt, vote, avg, max, weighted_avg, weighted_max, leave_one_out, causal"
MASK_FORMATS = (".html", ".png", ".csv")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see: {self.prog} --help)\n")


def _weights(text: str) -> tuple[float, ...] | str:
    if text.strip() == "raw":
        return "raw"
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(math.isfinite(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,2,0.5, nor 'raw'")
    return numbers


def _lengths(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of lengths such as 128,512, each at least 20")
    return numbers


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", metavar="QUESTION", help="the question; it is wording P1")
    parser.add_argument(
        "-p",
        "--paraphrase",
        metavar="TEXT",
        action="append",
        default=[],
        dest="paraphrases",
        help="another wording (repeat)",
    )
    parser.add_argument(
        "--mask", metavar="STRATEGY", default="segment", help=f"mask strategy: {STRATEGY_NAMES} (default: segment)"
    )
    parser.add_argument(
        "--positions",
        metavar="SCHEME",
        default="aligned",
        help=f"position scheme: {', '.join(POSITIONS)} (default: aligned)",
    )
    parser.add_argument("--prefix", metavar="TEXT", default="", help="instruction or shots before the question")
    parser.add_argument("--template", default="auto", help="auto, plain (Q: ... A:) or chat (the model's own)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="PATH_OR_ID", help="local folder or Hub id (default: the bundled model)")


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--backend", default="auto", help="auto, flex, flex-eager or sdpa (default: auto)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default: auto)")


def make_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m flexdemo",
        description="Ask a language model one question in several wordings at once, and see how it fuses them.",
        epilog='example: python -m flexdemo generate "What is the capital of Peru?" -p "Name the capital of Peru."',
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", help="answer a question from all its wordings")
    _add_prompt(generate)
    _add_hardware(generate)
    generate.add_argument(
        "--method",
        metavar="NAME",
        action="append",
        dest="methods",
        help=f"{METHOD_NAMES} or all (default: flex; repeat for several)",
    )
    generate.add_argument("--weights", type=_weights, metavar="1,2,0.5", help="one number for each wording, or 'raw'")
    defaults = Decoding()
    generate.add_argument(
        "--max-new-tokens", type=int, default=defaults.max_new_tokens, metavar="N", help="answer length limit"
    )
    generate.add_argument("--temperature", type=float, default=defaults.temperature, help="0 is greedy (default)")
    generate.add_argument("--top-p", type=float, default=defaults.top_p, help="nucleus of sampling (default: 1)")
    generate.add_argument("--seed", type=int, default=defaults.seed, help="seed of sampling (default: 0)")
    generate.add_argument("--explain", action="store_true", help="also what each wording contributed")
    generate.add_argument("--json", action="store_true", help="print one JSON object")
    generate.set_defaults(run=run_generate)

    mask = commands.add_parser("mask", help="show the attention mask of a prompt (loads the tokenizer only)")
    _add_prompt(mask)
    _add_model(mask)
    mask.add_argument("--against", metavar="STRATEGY", help="compare with this strategy's mask")
    form = mask.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--output", type=Path, metavar="FILE", help=f"write {', '.join(MASK_FORMATS)}")
    mask.set_defaults(run=run_mask)

    paraphrase = commands.add_parser("paraphrase", help="let the model write paraphrases of a question")
    paraphrase.add_argument("question", metavar="QUESTION")
    paraphrase.add_argument("-n", type=int, default=5, metavar="N", help="how many (default: 5)")
    paraphrase.add_argument("--seed", type=int, default=0, help="seed of sampling (default: 0)")
    paraphrase.add_argument("--temperature", type=float, default=0.7, help="of sampling (default: 0.7)")
    _add_hardware(paraphrase)
    paraphrase.add_argument("--json", action="store_true", help="print a JSON list")
    paraphrase.set_defaults(run=run_paraphrase)

    bench = commands.add_parser("bench", help="measure speed on random weights of a known shape")
    bench.add_argument(
        "--shape", default="tiny", help="tiny, llama-3.2-1b, llama-3.2-3b or llama-3.1-8b (default: tiny)"
    )
    bench.add_argument(
        "--lengths", type=_lengths, default=(128, 512, 2048), metavar="N,N", help="prompt lengths in tokens"
    )
    bench.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="tokens to decode (default: 32)")
    bench.add_argument("--runs", type=int, default=5, metavar="N", help="runs whose median is told (default: 5)")
    bench.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    bench.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default: auto)")
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.set_defaults(run=run_bench)
    return parser


def _load(args: argparse.Namespace) -> LanguageModel:
    from .model import load_model

    return load_model(args.model, device=args.device, dtype=args.dtype, backend=args.backend)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def run_generate(args: argparse.Namespace) -> None:
    check_wordings(args.question, args.paraphrases, args.weights)
    from .explain import CANDIDATES, NEEDED, explain
    from .methods import Encoding, ask, check_encoding, resolve_methods

    methods = [method.name for method in resolve_methods(args.methods or ["flex"], 1 + len(args.paraphrases))]
    check_encoding(Encoding(args.mask, args.positions))
    Decoding(args.max_new_tokens, args.temperature, args.top_p, args.seed)
    if args.explain:
        methods = list(dict.fromkeys([*methods, *NEEDED]))
    lm = _load(args)
    result = ask(
        lm,
        args.question,
        args.paraphrases,
        methods=methods,
        mask=args.mask,
        positions=args.positions,
        weights=args.weights,
        prefix=args.prefix,
        template=args.template,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        candidates=CANDIDATES if args.explain else 0,
    )
    explanation = explain(lm, result) if args.explain else None
    if args.json:
        _print_json(result.to_dict() | ({"explain": explanation.to_dict()} if explanation else {}))
        return
    print(describe(result))
    if explanation:
        print(explanation.describe())


def describe(result: Result) -> str:
    """A result for reading in a terminal."""
    from .methods import METHODS

    lines = []
    for method in result.results:
        if len(method.views) > 1 and METHODS[method.method].answers_each:
            lines += [f"{method.method} {view.name}: {view.answer}" for view in method.views]
        else:
            lines.append(f"{method.method}: {method.answer}")
    seconds, facts = result.seconds, result.mask
    lines.append(
        f"[{result.model} on {result.device}, {result.dtype}, backend {result.backend}; mask {facts['strategy']}, "
        f"{facts['positions']}, density {facts['density']:.3f}; {len(result.prompt.token_ids)} prompt tokens; "
        f"load {seconds['load']:.2f} s, first token {seconds['first_token']:.3f} s, total {seconds['total']:.3f} s]"
    )
    return "\n".join(lines)


def run_mask(args: argparse.Namespace) -> None:
    if args.output is not None:
        check_output(args.output, MASK_FORMATS)
    check_wordings(args.question, args.paraphrases, None)
    from .methods import Encoding, check_encoding, mask_array, mask_dict
    from .model import load_tokenizer

    check_encoding(Encoding(args.mask, args.positions))
    if args.against is not None:
        check_encoding(Encoding(args.against, args.positions))
    tokenizer = load_tokenizer(args.model)
    prompt = build_prompt(tokenizer, args.question, args.paraphrases, prefix=args.prefix, template=args.template)
    if args.json:
        _print_json(mask_dict(prompt, args.mask, args.positions, args.against))
        return
    if args.output is None:
        facts = mask_dict(prompt, args.mask, args.positions, args.against)
        for token, row in zip(prompt.tokens, facts["rows"], strict=True):
            print(f"{token!r:>16} {row.replace('0', '·').replace('1', '█')}")
        for key in ("strategy", "positions", "density", "against"):
            if key in facts:
                print(f"{key}: {facts[key]}")
        return
    rows = mask_array(prompt, args.mask)
    other = None if args.against is None else mask_array(prompt, args.against)
    write_file(args.output, lambda path: _write_mask(path, args, prompt, rows, other))
    print(f"wrote {args.output}")


def _write_mask(path: Path, args: argparse.Namespace, prompt: SegmentedPrompt, rows: Any, other: Any) -> None:
    from . import plots

    suffix = args.output.suffix.lower()
    if suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows.astype(int).tolist())
    elif suffix == ".png":
        path.write_bytes(plots.mask_png(rows))
    else:
        shown = (prompt.tokens, prompt.segments)
        if other is None:
            figure = plots.mask_figure(rows, *shown, strategy=args.mask)
        else:
            figure = plots.difference_figure(rows, other, *shown, name=args.mask, against=args.against)
        path.write_text(plots.figure_html(figure), encoding="utf-8")


def run_paraphrase(args: argparse.Namespace) -> None:
    from .paraphrase import check_request, paraphrase

    check_request(args.question, args.n, args.temperature)
    lm = _load(args)
    texts = paraphrase(lm, args.question, args.n, seed=args.seed, temperature=args.temperature)
    if args.json:
        _print_json(texts)
    else:
        print("\n".join(texts))


def run_bench(args: argparse.Namespace) -> None:
    from .benchmark import measure
    from .model import resolve_device, resolve_dtype

    if args.runs < 1 or args.max_new_tokens < 2:
        raise InputError("bench needs at least 1 run and 2 new tokens")
    device = resolve_device(args.device)
    result = measure(
        shape=args.shape,
        lengths=args.lengths,
        new_tokens=args.max_new_tokens,
        runs=args.runs,
        device=device,
        dtype=str(resolve_dtype(args.dtype, device)).removeprefix("torch."),
        log=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if args.json:
        _print_json(result)
    else:
        print(f"{result['prompts_where_backends_differ']} prompts on which backends' greedy tokens differ")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did its work, 2 after one line on standard error that says what was wrong."""
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
