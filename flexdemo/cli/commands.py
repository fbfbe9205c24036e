"""What each command does with its parsed arguments: check, load, run, print or write. Knows no argument parser.

Modules that load torch are imported by the command that needs them, so that help and bad arguments answer at once.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.files import check_output, print_json, write_file
from ..errors import InputError
from ..prompt import SegmentedPrompt, build_prompt, check_wordings
from ..request import Ape, Decoding, Samples

if TYPE_CHECKING:
    from ..answers.result import Result
    from ..engine.model import LanguageModel

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples.json"  # the page's
LENGTHS = (128, 512, 2048)
GROWTH_TOKENS = (1024, 2048, 4096, 8192, 16384, 32768)
GROWTH_PARAPHRASES = (1, 2, 4, 8, 16, 32, 64)
GROWTH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
OF_DATA_SETS = ("limit", "resume", "overwrite", "skip_bad")  # options of `paraphrase` that one question cannot have
MASK_FORMATS = (".html", ".png", ".csv")


def _load(args: argparse.Namespace) -> LanguageModel:
    from ..engine.loading import load_model

    return load_model(args.model, device=args.device, dtype=args.dtype, backend=args.backend, compiled=args.compile)


def run_generate(args: argparse.Namespace) -> None:
    check_wordings(args.question, args.paraphrases, None if args.weights == "confidence" else args.weights)
    from ..answers.ask import ask
    from ..answers.explain import CANDIDATES, NEEDED, explain
    from ..answers.methods import resolve_methods
    from ..plan import Encoding, check_encoding

    methods = [method.name for method in resolve_methods(args.methods or ["flex"], 1 + len(args.paraphrases))]
    check_encoding(Encoding(args.mask, args.positions))
    Decoding(args.max_new_tokens, args.temperature, args.top_p, args.seed)
    Samples(args.samples, args.sample_temperature)
    Ape(args.ape_temperature, args.ape_scale)
    if args.attention and not (args.explain and args.json):
        raise InputError("--attention is part of the explanation's JSON: add --explain --json")
    if args.explain:
        methods = list(dict.fromkeys([*methods, *NEEDED]))
    lm = _load(args)
    if args.attention:
        from ..answers.head import attention_map, check_head

        check_head(lm, *args.attention)
    result = ask(
        lm,
        args.question,
        args.paraphrases,
        methods=methods,
        mask=args.mask,
        positions=args.positions,
        weights=args.weights,
        samples=args.samples,
        sample_temperature=args.sample_temperature,
        ape_temperature=args.ape_temperature,
        ape_scale=args.ape_scale,
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
        explained = explanation.to_dict() if explanation else {}
        if args.attention:
            layer, head = args.attention
            rows = attention_map(lm, result, layer, head).tolist()
            explained["attention"] = {"layer": layer, "head": head, "rows": rows}
        print_json(result.to_dict() | ({"explain": explained} if explained else {}))
        return
    print(describe(result))
    if explanation:
        print(explanation.describe())


def describe(result: Result) -> str:
    """A result for reading in a terminal."""
    from ..answers.methods import METHODS

    lines = []
    for method in result.results:
        if len(method.views) > 1 and METHODS[method.method].answers_each:
            lines += [f"{method.method} {view.name}: {view.answer}" for view in method.views]
        else:
            lines.append(f"{method.method}: {method.answer}")
    if result.confidence:
        shares = ", ".join(f"P{i} {share:.2f}" for i, share in enumerate(result.confidence.shares, start=1))
        lines.append(f"confidence, share of {result.confidence.samples} samples that agree: {shares}")
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
    from ..engine.loading import load_tokenizer
    from ..plan import Encoding, check_encoding, mask_array, mask_dict

    check_encoding(Encoding(args.mask, args.positions))
    if args.against is not None:
        check_encoding(Encoding(args.against, args.positions))
    tokenizer = load_tokenizer(args.model)
    prompt = build_prompt(tokenizer, args.question, args.paraphrases, prefix=args.prefix, template=args.template)
    if args.json:
        print_json(mask_dict(prompt, args.mask, args.positions, args.against))
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
    from ..figures import mask as plots
    from ..masks import Mask
    from ..plan import mask_rows

    suffix = args.output.suffix.lower()
    if suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(mask_rows(rows))  # a row's characters are its cells
    elif suffix == ".png":
        path.write_bytes(plots.mask_png(rows))
    else:
        shown = (prompt.tokens, prompt.segments)
        if other is None:
            figure = plots.mask_figure(rows, *shown, strategy=args.mask, why=Mask.over(args.mask, prompt.segments).told)
        else:
            figure = plots.difference_figure(rows, other, *shown, name=args.mask, against=args.against)
        path.write_text(plots.figure_html(figure), encoding="utf-8")


def run_paraphrase(args: argparse.Namespace) -> None:
    if args.output is not None:
        from .evaluate import run_paraphrase as paraphrase_data

        paraphrase_data(args)
        return
    from ..answers.paraphrase import check_request, paraphrase

    check_request(args.question, args.n, args.temperature)
    for name in OF_DATA_SETS:
        given = getattr(args, name)
        if given is not None and given is not False:  # 0 is given
            raise InputError(f"--{name.replace('_', '-')} is for a data set: name one, and --output FILE.jsonl")
    lm = _load(args)
    texts = paraphrase(lm, args.question, args.n, seed=args.seed, temperature=args.temperature)
    if len(texts) < args.n:
        print(f"{len(texts)} of {args.n} paraphrases: {lm.name} has no more that say the same", file=sys.stderr)
    if args.json:
        print_json(texts)
    else:
        print("\n".join(texts))


def run_evaluate(args: argparse.Namespace) -> None:
    from .evaluate import run_evaluate as evaluate

    evaluate(args)


def run_record(args: argparse.Namespace) -> None:
    check_output(args.output, (".json",))
    examples = _examples(args.examples or EXAMPLES)
    from ..answers.ask import ask
    from ..answers.recording import check_date, dumps, record

    date = args.date or datetime.date.today().isoformat()
    check_date(date)
    lm = _load(args)
    ask(lm, "warm-up", ["warm-up"], methods=("all",), max_new_tokens=2)  # the first call is slower than any other
    text = dumps(record(lm, examples, date=date))
    write_file(args.output, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"wrote {args.output}: {len(examples)} examples, {len(text.encode()):,} bytes")


def _examples(path: Path) -> list[Any]:
    """The examples that a file lists; what each may hold is checked where it is run."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"cannot read {path}: it is no JSON") from error
    if not isinstance(told, list) or not told:
        raise InputError(f"cannot read {path}: it must be a list of examples, each an object with a question")
    return told


def run_bench(args: argparse.Namespace) -> None:
    from ..engine.attention import BACKENDS
    from ..engine.loading import resolve_device, resolve_dtype
    from ..gone.growth import measure_growth
    from ..gone.targets import reached
    from .bench import BUNDLED, THEIRS, THEIRS_STATIC, at_a_gap, measure, measure_bundled

    if args.runs < 1 or args.max_new_tokens < 2:
        raise InputError("bench needs at least 1 run and 2 new tokens")
    if args.backend not in ("all", *BACKENDS):
        raise InputError(f"unknown backend {args.backend!r}: choose from all, {', '.join(BACKENDS)}")
    if args.report:
        if not args.growth:
            raise InputError("--report goes with --growth: leave it out, or say bench --growth --report FILE.html")
        check_output(args.report, (".html",))
    device = resolve_device(args.device)
    options = {
        "new_tokens": args.max_new_tokens,
        "runs": args.runs,
        "device": device,
        "dtype": str(resolve_dtype(args.dtype, device)).removeprefix("torch."),
        "log": lambda text: print(text, file=sys.stderr, flush=True),
    }
    if args.growth:
        backend = "auto" if args.backend == "all" else args.backend
        sizes = {"tokens": args.lengths or GROWTH_TOKENS, "paraphrases": GROWTH_PARAPHRASES, "rows": GROWTH_ROWS}
        result = measure_growth(shape=args.shape, **sizes, backend=backend, compiled=args.compile, **options)
        if args.report:
            from ..gone.plots_growth import growth_html

            write_file(args.report, lambda path: path.write_text(growth_html(result), encoding="utf-8"))
    elif args.shape == BUNDLED:
        result = measure_bundled(**options)
    else:
        backends = tuple(BACKENDS) if args.backend == "all" else (args.backend,)
        options["compiled"] = args.compile
        result = measure(shape=args.shape, lengths=args.lengths or LENGTHS, backends=backends, **options)
        if device != "cpu":
            rows = reached(result, (THEIRS, THEIRS_STATIC))
            result["targets"] = [row.to_dict() for row in rows]
            for row in rows:
                options["log"](str(row))
    if args.json:
        print_json(result)
    elif args.shape != BUNDLED and not args.growth:
        differing = result["prompts_where_backends_differ"]
        apart = at_a_gap(differing, result["widest_gap"])
        print(f"{differing} prompts on which backends' greedy tokens differ{apart}")
