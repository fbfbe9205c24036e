"""What each command does with its parsed arguments: check, load, run, print or write. Knows no argument parser.

Modules that load torch are imported by the command that needs them, so that help and bad arguments answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..answers.methods import METHODS, check_names
from ..data.files import check_output, print_json, read_file, write_file
from ..errors import InputError
from ..plan import Encoding, check_encoding, mask_array, mask_dict
from ..prompt import SegmentedPrompt, build_prompt
from ..request import FIELDS, Request

if TYPE_CHECKING:
    from ..answers.result import Result
    from ..engine.model import LanguageModel

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples.json"  # the page's
MASK_FORMATS = (".html", ".png", ".csv")


def load(args: argparse.Namespace, **place: Any) -> LanguageModel:
    """The model that the arguments name, on their device unless `place` says otherwise."""
    from ..engine.loading import load_model

    place = {"device": args.device} | place
    return load_model(args.model, dtype=args.dtype, backend=args.backend, compiled=args.compile, **place)


def settings_of(args: argparse.Namespace, names: Iterable[str] = FIELDS) -> dict[str, Any]:
    """The settings of a Request among the arguments, those that were left out with their default."""
    given = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def run_generate(args: argparse.Namespace) -> None:
    request = Request(**settings_of(args))
    methods = [method.name for method in check_names(request)]
    from ..answers.ask import ask
    from ..answers.explain import CANDIDATES, NEEDED, explain
    from ..engine.tuning import suit_threads

    if args.explain:
        request = request.but(methods=list(dict.fromkeys([*methods, *NEEDED])), candidates=CANDIDATES)
    lm = load(args)
    suit_threads(lm)
    result = ask(lm, request)
    explanation = explain(lm, result) if args.explain else None
    if args.json:
        print_json(result.to_dict() | ({"explain": explanation.to_dict()} if explanation else {}))
        return
    print(describe(result))
    if explanation:
        print(explanation.describe())


def describe(result: Result) -> str:
    """A result for reading in a terminal."""
    lines = []
    for method in result.results:
        if len(method.views) > 1 and METHODS[method.method].answers_each:
            lines += [f"{method.method} {view.name}: {view.answer}" for view in method.views]
        else:
            lines.append(f"{method.method}: {method.answer}")
    if result.confidence:
        shares = ", ".join(f"P{i} {share:.2f}" for i, share in enumerate(result.confidence.shares, start=1))
        lines.append(f"confidence, share of {result.confidence.samples} samples that agree: {shares}")
    lines += [f"note: {note}" for note in result.notes]
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
    request = Request(**settings_of(args))
    check_names(request)
    if args.against is not None:
        check_encoding(Encoding(args.against, request.positions))
    from ..engine.loading import load_tokenizer

    wordings = (request.question, request.paraphrases)
    prompt = build_prompt(load_tokenizer(args.model), *wordings, prefix=request.prefix, template=request.template)
    if args.output is not None:
        write_file(args.output, lambda path: _write_mask(path, args, prompt))
        print(f"wrote {args.output}")
        return
    facts = mask_dict(prompt, args.mask, args.positions, args.against)
    if args.json:
        print_json(facts)
        return
    for token, row in zip(prompt.tokens, facts["rows"], strict=True):
        print(f"{token!r:>16} {row.replace('0', '·').replace('1', '█')}")
    for key in ("strategy", "positions", "density", "against"):
        if key in facts:
            print(f"{key}: {facts[key]}")


def _write_mask(path: Path, args: argparse.Namespace, prompt: SegmentedPrompt) -> None:
    from ..figures import mask as plots
    from ..figures.cells import mask_png
    from ..masks import Mask

    rows, shown = mask_array(prompt, args.mask), (prompt.tokens, prompt.segments)
    if path.suffix.lower() == ".csv":
        np.savetxt(path, rows, fmt="%d", delimiter=",")
        return
    if path.suffix.lower() == ".png":
        path.write_bytes(mask_png(rows))
        return
    if args.against is None:
        figure = plots.mask_figure(rows, *shown, strategy=args.mask, why=Mask.over(args.mask, prompt.segments).told)
    else:
        other = mask_array(prompt, args.against)
        figure = plots.difference_figure(rows, other, *shown, name=args.mask, against=args.against)
    figure.write_html(path, config=plots.CONFIG)  # works offline, and offers to send the data nowhere


def run_paraphrase(args: argparse.Namespace) -> None:
    from ..answers.paraphrase import check_request, paraphrase

    check_request(args.question, args.n, args.temperature)
    lm = load(args)
    texts = paraphrase(lm, args.question, args.n, seed=args.seed, temperature=args.temperature)
    if len(texts) < args.n:
        print(f"{len(texts)} of {args.n} paraphrases: {lm.name} has no more that say the same", file=sys.stderr)
    if args.json:
        print_json(texts)
    else:
        print("\n".join(texts))


def check_kept(sources: Iterable[str | Path | None], output: Path) -> None:
    """InputError if writing `output` would replace a file that is read."""
    for source in sources:
        if source is not None and os.path.exists(output) and os.path.exists(source) and output.samefile(source):
            raise InputError(f"{output} is the data that is read: write to another file")


def run_evaluate(args: argparse.Namespace) -> None:
    from .evaluate import run_evaluate as evaluate

    evaluate(args)


def run_record(args: argparse.Namespace) -> None:
    source = args.examples or EXAMPLES
    check_output(args.output, (".json",))
    check_kept([source], args.output)
    examples = _examples(source)
    from ..answers.ask import ask
    from ..answers.recording import record
    from ..engine.loading import offered, without_paths

    lm = without_paths(offered(load(args))).default  # visitors of a page read its name
    ask(lm, "warm-up", ["warm-up"], methods=("all",), max_new_tokens=2)  # the first call is slower than any other
    text = record(lm, examples)
    write_file(args.output, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"wrote {args.output}: {len(examples)} examples, {len(text.encode()):,} bytes")


def _examples(path: Path) -> list[Any]:
    """The examples that a file lists; what each may hold is checked where it is run."""
    data = read_file(path)
    try:
        told = json.loads(data)
    except ValueError as error:
        raise InputError(f"cannot read {path}: it is no JSON") from error
    if not isinstance(told, list) or not told:
        raise InputError(f"cannot read {path}: it must be a list of examples, each an object with a question")
    return told


def run_bench(args: argparse.Namespace) -> None:
    from ..engine.attention import BACKENDS
    from ..engine.loading import resolve_device, resolve_dtype
    from .bench import measure

    if args.runs < 1 or args.max_new_tokens < 2 or min(args.lengths) < 20:
        raise InputError("bench needs at least 1 run, 2 new tokens and prompts of at least 20")
    if args.backend not in ("all", *BACKENDS):
        raise InputError(f"unknown backend {args.backend!r}: choose from all, {', '.join(BACKENDS)}")
    device = resolve_device(args.device)
    result = measure(
        shape=args.shape,
        lengths=args.lengths,
        new_tokens=args.max_new_tokens,
        runs=args.runs,
        device=device,
        dtype=str(resolve_dtype(args.dtype, device)).removeprefix("torch."),
        backends=tuple(BACKENDS) if args.backend == "all" else (args.backend,),
        compiled=args.compile,
        log=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if args.json:
        print_json(result)
    else:
        print(f"{result['prompts_where_backends_differ']} prompts on which backends' greedy tokens differ")
