"""Drives `python app.py` through every endpoint and every button that runs the model; 1 if anything was wrong.

    python tests/bench/drive_app.py --model llama-3.2-3b --ways plain,zerogpu,full

MODEL is `bundled`, a shape of flexdemo/cli/bench.py (random weights, made on the spot) or a folder. The ways:

plain    as a user starts it
zerogpu  as ZeroGPU would: the real package `spaces` with a stand-in for its scheduler on a machine with a GPU; without
         one, calls run in forked processes on the CPU. Not covered: the real scheduler, its quota and queue, a GPU
         that is only a part of one, the time limit of a call
agree    float32, one backend after the other: the tokens must be those of `python -m flexdemo generate`
full     little GPU memory: requests that do not fit say so, on the page and to a program, and the next one works
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # flexdemo, which need not be installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import browser_support
import torch
import zerogpu_service
from gradio_client import Client
from hosting import Site

from flexdemo.cli.bench import SHAPES, random_model
from flexdemo.engine.loading import BUNDLED

HERE = Path(__file__).resolve().parent
QUESTION = "What is the capital of Peru?"
OTHERS = ["Which city is Peru's capital?", "Name the capital city of Peru.", "Peru is governed from which city?"]
ASKED: dict[str, dict[str, Any]] = {
    "one method": {},
    "again": {},
    "all methods": {"methods": ["all"]},
    "anchor, sequential": {"methods": ["flex", "causal"], "mask": "anchor", "positions": "sequential"},
    "weights 1,2,0,1": {"weights": [1, 2, 0, 1]},
    "weights by confidence": {"weights": "confidence", "samples": 3},
    "APE": {"ape_temperature": 0.8, "ape_scale": 1.2},
    "sampled": {"temperature": 0.7, "top_p": 0.9, "seed": 3},
    "explained": {"methods": ["flex", "causal"], "explain": True},
}
GREEDY = ("one method", "all methods", "anchor, sequential", "weights 1,2,0,1", "APE")
NEW_TOKENS = 24
SAID = r"does not fit in memory ("


class Wrong(AssertionError):
    """What a page did that it should not have done."""


def check(holds: Any, what: str) -> None:
    if not holds:
        raise Wrong(what)


@dataclass
class Report:
    """One line for each thing that was driven, as it happens."""

    wrong: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)

    def step(self, way: str, what: str, work: Callable[[], str]) -> None:
        """Do one thing; its failure is told and the next thing is done."""
        began = time.perf_counter()
        try:
            told, mark = work(), "ok   "
        except Exception as error:
            told, mark = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}", "WRONG"
            self.wrong.append(f"{way}: {what}: {told}")
        self.say(f"{mark} {way:8} {what:38} {time.perf_counter() - began:7.2f} s  {told}")


# The model


def make_model(shape: str, folder: Path) -> None:
    """A random model of a shape with the bundled tokenizer, in a folder as users have them.

    The tokenizer's vocabulary is filled up with words that no text is made of, so that every id has a text.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = SHAPES[shape]["vocab_size"]
    model = random_model(shape, device=device, dtype="bfloat16" if device == "cuda" else "float32")
    model.save_pretrained(folder)
    told = json.loads((BUNDLED / "tokenizer.json").read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    words |= {f"\u0120w{i}": i for i in range(len(words), size)}
    (folder / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "tokenizer_config.json").write_bytes((BUNDLED / "tokenizer_config.json").read_bytes())


def run_self(*arguments: str) -> None:
    """In a process of its own, so that its GPU memory goes with it."""
    subprocess.run([sys.executable, __file__, *arguments], check=True)


# What is asked


def generate(client: Client, **options: Any) -> dict[str, Any]:
    given = {"question": QUESTION, "paraphrases": OTHERS, "max_new_tokens": NEW_TOKENS, **options}
    return client.predict(**given, api_name="/generate")


def tokens(told: dict[str, Any]) -> list[list[int]]:
    return [result["token_ids"] for result in told["results"]]


def check_answer(told: dict[str, Any]) -> str:
    """Its speed, in words; Wrong unless the parts of the answer fit together and its numbers are numbers."""
    check("stopped" not in told, "it ran out of time")
    ids = told["prompt"]["token_ids"]
    check(len(ids) == len(told["prompt"]["segment_ids"]) == len(told["prompt"]["position_ids"]), "odd prompt")
    loose = 1e-3 if told["dtype"] == "float32" else 0.03
    for result in told["results"]:
        name = result["method"]
        check(1 <= len(result["token_ids"]) <= NEW_TOKENS, f"{name}: {len(result['token_ids'])} tokens")
        check(all(math.isfinite(each) and each <= 1e-6 for each in result["logprobs"]), f"{name}: {result['logprobs']}")
        for view in result["views"]:
            rows = view["segment_mass"]
            check(len(rows) == len(view["token_ids"]), f"{name}: {len(rows)} rows of attention mass")
            check(all(abs(sum(row) - 1) < loose for row in rows), f"{name}: attention mass sums to {sum(rows[0])}")
    seconds, longest = told["seconds"], max(len(v["token_ids"]) for r in told["results"] for v in r["views"])
    speed = f", then {(longest - 1) / seconds['decode']:.0f} tokens/s" if longest > 1 and seconds["decode"] else ""
    where = f"{told['backend']} {told['dtype']} {told['device']}"
    return f"{where}, first token {1000 * seconds['first_token']:.0f} ms{speed}"


class Endpoints:
    """Drives the endpoints of one page; `api` maps each to what is done with it."""

    def __init__(self, url: str, report: Report, way: str) -> None:
        self.client, self.report, self.way = Client(url, verbose=False), report, way
        self.answers: dict[str, dict[str, Any]] = {}
        self.api = {
            "/generate": self.generate,
            "/mask": self.mask,
            "/paraphrase": self.paraphrase,
            "/methods": self.methods,
        }

    def drive(self) -> None:
        named = self.client.view_api(print_info=False, return_format="dict")["named_endpoints"]
        self.report.step(self.way, "endpoints", partial(self.listed, list(named)))
        for name in named:
            if name in self.api:
                self.api[name]()

    def listed(self, named: list[str]) -> str:
        check(set(named) == set(self.api), f"the page has {named}, and this drives {list(self.api)}")
        return ", ".join(named)

    def generate(self) -> None:
        for what, options in ASKED.items():
            self.report.step(self.way, f"/generate {what}", partial(self.answer, what, options))

    def answer(self, what: str, options: dict[str, Any]) -> str:
        told = self.answers[what] = generate(self.client, **options)
        said = check_answer(told)
        if what == "again":
            check(tokens(told) == tokens(self.answers["one method"]), "the same request, other tokens")
        if options.get("explain"):
            steps = told["explain"]["candidates"]
            check(steps and told["explain"].keys() >= {"agreement", "candidates"}, f"{list(told['explain'])}")
        if options.get("weights") == "confidence":
            check(len(told["confidence"]["shares"]) == 1 + len(OTHERS), f"{told['confidence']}")
        return said

    def mask(self) -> None:
        def work() -> str:
            asked = {"question": QUESTION, "paraphrases": OTHERS, "against": "causal"}
            told = self.client.predict(**asked, api_name="/mask")
            size = len(told["rows"])
            check(all(len(row) == size and set(row) <= {"0", "1"} for row in told["rows"]), "not a square of 0 and 1")
            return f"{size} x {size}"

        self.report.step(self.way, "/mask", work)

    def paraphrase(self) -> None:
        def work() -> str:
            told = self.client.predict(question=QUESTION, n=3, api_name="/paraphrase")
            check(len(told) <= 3 and len(set(told)) == len(told) and QUESTION not in told, f"{told}")
            return f"{len(told)} written"

        self.report.step(self.way, "/paraphrase", work)

    def methods(self) -> None:
        def work() -> str:
            told = self.client.predict(api_name="/methods")
            check(told["model"] and told["methods"] and told["strategies"] and told["positions"], f"{told}")
            return f"model {told['model']}, {len(told['methods'])} methods"

        self.report.step(self.way, "/methods", work)


class Buttons:
    """Presses what runs the model on one page, as a browser does, in one session."""

    def __init__(self, url: str, report: Report, way: str) -> None:
        self.site, self.report, self.way = Site(url), report, way
        self.session = self.site.session()

    def drive(self) -> None:
        for name in ("run", "run", "check", "attention-show", "write-paraphrases"):
            self.report.step(self.way, f"button {name}", partial(self.press, name))

    def press(self, name: str, **changes: Any) -> str:
        event = self.site.event(name)
        if name == "run":
            changes = {"question": QUESTION, "paraphrase_1": OTHERS[0], "max_new_tokens": NEW_TOKENS, **changes}
        data = self.site.data(event, **changes)
        began, first, pictures, done = time.perf_counter(), 0.0, 0, None
        for message in self.site.messages(event, data, self.session, timeout=300):
            if message["msg"] == "process_generating":
                pictures += 1
                first = first or time.perf_counter() - began
            done = message if message["msg"] == "process_completed" else done
        check(done and done["success"], f"{done and done['output']}")
        said = json.dumps(done["output"], ensure_ascii=False)
        if name == "run":
            check(pictures > 1, f"{pictures} pictures: it does not stream")
            return f"{pictures} pictures, the first after {1000 * first:.0f} ms"
        if name == "check":
            check("Proved" in said or "Not proved" in said, said[:300])
            # In bfloat16 the dense pass rounds otherwise: random weights are full of near ties.
            return "Proved" if "Not proved" not in said else "Not proved"
        return f"{pictures} pictures" if pictures else f"{len(said):,} characters"


# The ways


@contextmanager
def serving(report: Report, way: str, model: Sequence[str], *more: str, **environment: str) -> Iterator[str]:
    """`python app.py` with this model; what it wrote is told where something was wrong."""
    began, already = time.perf_counter(), len(report.wrong)
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        try:
            asked = dict(seconds=400.0, environment=environment, log=Path(log.name))
            with browser_support.serve(*model, *more, **asked) as url:
                report.say(
                    f"      {way:8} {' '.join(more) or 'as it is'}: up after {time.perf_counter() - began:.1f} s"
                )
                yield url
        finally:
            if len(report.wrong) > already:
                said = Path(log.name).read_text(encoding="utf-8", errors="replace")
                report.say("its log ends:\n" + "\n".join(said.splitlines()[-40:]))


def plain(report: Report, model: Sequence[str], more: Sequence[str]) -> None:
    with serving(report, "plain", model, *more) as url:
        Endpoints(url, report, "plain").drive()
        Buttons(url, report, "plain").drive()


def zerogpu(report: Report, model: Sequence[str], more: Sequence[str]) -> None:
    with ExitStack() as stack:
        environment = {"SPACES_ZERO_GPU": "true"}
        lent: list[int] = []
        if torch.cuda.is_available():
            check(importlib.util.find_spec("spaces"), "the package spaces is needed: pip install spaces")
            scheduler, environment = stack.enter_context(zerogpu_service.scheduler())
            environment["ZEROGPU_OFFLOAD_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(dir=direct_folder()))
            lent = scheduler.lent
        else:
            support = HERE.parent / "support"
            paths = [str(support / "cpu_spaces"), str(support), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(paths).rstrip(os.pathsep)
        url = stack.enter_context(serving(report, "zerogpu", model, *more, **environment))
        report.step("zerogpu", "the page says so", partial(says_zerogpu, url))
        driven = Endpoints(url, report, "zerogpu")
        driven.drive()
        backends = {told["backend"] for told in driven.answers.values()}
        report.step("zerogpu", "nothing is compiled", lambda: check(backends == {"sdpa"}, f"{backends}") or "sdpa")
        Buttons(url, report, "zerogpu").drive()
        if lent:
            report.say(f"      zerogpu  a GPU was lent {len(lent)} times, {min(lent)} to {max(lent)} s asked for")


def direct_folder() -> str:
    """A folder that can be written past the page cache, as the package does with the weights (O_DIRECT)."""
    for folder in (tempfile.gettempdir(), str(Path.home()), str(HERE)):
        probe = Path(folder) / f"direct-{os.getpid()}"
        try:
            os.close(os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
            return folder
        except OSError:
            continue
        finally:
            probe.unlink(missing_ok=True)
    raise Wrong("no folder here takes O_DIRECT, which the package spaces needs")


def says_zerogpu(url: str) -> str:
    notice = next(each for each in Site(url).widgets.values() if each["props"].get("elem_id") == "notice")
    check("The backend is sdpa: nothing is compiled" in notice["props"]["value"], notice["props"]["value"])
    return "Runs on ZeroGPU"


def agree(report: Report, model: Sequence[str], more: Sequence[str]) -> None:
    """The oracle is the command line in a process of its own, on backend sdpa."""
    exact = [*model, "--dtype", "float32"]
    want: dict[str, list[list[int]]] = {}

    def ask(what: str) -> str:
        options = dict(ASKED[what])
        command = [sys.executable, "-m", "flexdemo", "generate", QUESTION, "--json", "--backend", "sdpa", *exact]
        command += [part for other in OTHERS for part in ("-p", other)] + ["--max-new-tokens", str(NEW_TOKENS)]
        command += [part for method in options.pop("methods", ()) for part in ("--method", method)]
        for name, value in options.items():
            said = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            command += [f"--{name.replace('_', '-')}", said]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, encoding="utf-8")
        check(done.returncode == 0, done.stderr[-400:])
        told = json.loads(done.stdout)
        want[what] = tokens(told)
        return check_answer(told)

    for what in GREEDY[:3]:
        report.step("agree", f"command line, {what}", partial(ask, what))
    for backend in ("sdpa", "flex") if torch.cuda.is_available() else ("sdpa", "flex-eager"):
        with serving(report, "agree", exact, "--backend", backend, *more) as url:
            client = Client(url, verbose=False)
            for what, expected in want.items():

                def same(what: str = what, expected: Any = expected, client: Client = client) -> str:
                    told = generate(client, **ASKED[what])
                    check(tokens(told) == expected, f"{tokens(told)} and not {expected}")
                    return check_answer(told)

                report.step("agree", f"{backend}, {what}", same)


def full(report: Report, model: Sequence[str], more: Sequence[str], room: float = 5e9) -> None:
    """The GPU's memory is cut to the model and some room, less than the rows of a long prompt need."""
    if not torch.cuda.is_available():
        report.say("      full     left out: there is no GPU here to fill")
        return
    weights = sum(each.stat().st_size for each in Path(model[-1]).glob("*.safetensors")) if model else 0
    share = min(1.0, (weights + room) / torch.cuda.get_device_properties(0).total_memory)
    environment = {"PYTORCH_ALLOC_CONF": f"per_process_memory_fraction:{share:.4f}"}
    with serving(report, "full", model, "--profile", "lab", *more, **environment) as url:
        client, site = Client(url, verbose=False), Site(url)
        small = partial(generate, client)
        want: list[list[int]] = []

        def before() -> str:
            told = small()
            want.extend(tokens(told))
            return check_answer(told)

        def too_large() -> str:
            wordings = [f"{i} " + "which city is it that this country is governed from " * 24 for i in range(20)]
            try:
                told = small(paraphrases=wordings, methods=["all"], max_new_tokens=256)
            except Exception as error:
                check(SAID in str(error) and "wordings" in str(error) and "use fewer methods" in str(error), str(error))
                return str(error)
            raise Wrong(f"it fits: {len(told['prompt']['token_ids'])} tokens; give `full` less room")

        def after() -> str:
            told = small()
            check(tokens(told) == want, f"{tokens(told)} and not {want}")
            return check_answer(told)

        def page() -> str:
            event = site.event("run")
            long = {f"paraphrase_{i}": f"{i} " + "which city is this country governed from " * 60 for i in range(1, 11)}
            rows = {name: text for name, text in long.items() if name in fields(site, event)}
            every = [each["name"] for each in client.predict(api_name="/methods")["methods"]]
            told = site.outcome(event, site.data(event, **rows, methods=every, max_new_tokens=256), timeout=300)
            said = json.dumps([told["output"], told["generating"][-1:]], ensure_ascii=False)
            check("does not fit in memory" in said and "use fewer methods" in said, said[:600])
            at = said.index("does not fit in memory")
            return said[at : at + 130]

        report.step("full", "/generate before", before)
        report.step("full", "/generate that does not fit", too_large)
        report.step("full", "/generate after", after)
        report.step("full", "Run that does not fit", page)
        report.step("full", "/generate after", after)


def fields(site: Site, event: int) -> set[str]:
    return {(site.name(widget) or "").replace("-", "_") for widget in site.events[event]["inputs"]}


WAYS = {"plain": plain, "zerogpu": zerogpu, "agree": agree, "full": full}


def drive(model: str, ways: Sequence[str], more: Sequence[str] = ()) -> Report:
    """Drive `app.py` with a model in these ways."""
    report, began = Report(), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        named = [] if model == "bundled" else ["--model", model]
        if model in SHAPES:
            folder = Path(scratch) / model
            run_self("--make", model, str(folder))
            named = ["--model", str(folder)]
            size = sum(each.stat().st_size for each in folder.iterdir())
            report.say(f"      {model} with random weights, {size / 1e9:.2f} GB: {time.perf_counter() - began:.1f} s")
        for way in ways:
            report.step(way, "THE WAY", lambda way=way: WAYS[way](report, named, more) or "done")
    report.say(f"{len(report.wrong)} wrong, {time.perf_counter() - began:.0f} s in all")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled", help=f"bundled, {', '.join(SHAPES)} or a folder")
    parser.add_argument("--ways", default="plain,zerogpu", help=f"some of {','.join(WAYS)}")
    parser.add_argument("--make", nargs=2, metavar=("SHAPE", "FOLDER"), help="only make a model of a shape")
    args, more = parser.parse_known_args()
    if args.make:
        make_model(args.make[0], Path(args.make[1]))
        return 0
    return 1 if drive(args.model, args.ways.split(","), more).wrong else 0


if __name__ == "__main__":
    sys.exit(main())
