"""Where the time of the bundled model goes: start, first token, decode, all methods, a batch, and which code.

python tests/bench/whereabouts.py --runs 5 --new-tokens 32
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # flexdemo, which need not be installed

from parts import BATCH, batch_speed, methods_cost

from flexdemo.answers.ask import ask
from flexdemo.cli.bench import PARAPHRASES, run_facts
from flexdemo.engine.loading import load_model
from flexdemo.engine.model import LanguageModel
from flexdemo.errors import InputError
from flexdemo.prompt import build_prompt

ROOT = Path(__file__).resolve().parents[2]
STARTS = 3
MOST_FUNCTIONS = 8
READY = """
import time
began = time.perf_counter()
from flexdemo import ask, load_model
imported = time.perf_counter()
lm = load_model(device={device!r}, dtype={dtype!r})
loaded = time.perf_counter()
ask(lm, "What is the capital of Peru?", max_new_tokens=1)
print(imported - began, loaded - imported, time.perf_counter() - loaded)
"""


@dataclass(frozen=True)
class Start:
    """Seconds from an interpreter that runs to the first answer, each from a process of its own; medians."""

    imported: float
    loaded: float
    first_answer: float

    def __str__(self) -> str:
        total = self.imported + self.loaded + self.first_answer
        return (
            f"start: {total:.2f} s to the first answer: imports {self.imported:.2f}, model {self.loaded:.2f}, "
            f"first answer {self.first_answer:.2f}"
        )


@dataclass(frozen=True)
class Speed:
    """`flex` alone over questions: median milliseconds to the first token, median tokens per second after it."""

    first_token_ms: float
    tokens_per_second: float

    def __str__(self) -> str:
        return f"flex alone: first token {self.first_token_ms:.1f} ms, then {self.tokens_per_second:.0f} tokens/s"


@dataclass(frozen=True)
class Share:
    """A part of the profiled time: of a package's own code, or of one of our functions with all that it calls."""

    name: str
    share: float


def measure_start(*, device: str, dtype: str, starts: int = STARTS) -> Start:
    """InputError if a process of our own cannot be started."""
    code = READY.format(device=device, dtype=dtype)
    times = []
    for _ in range(starts):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"a fresh start failed: {done.stderr.strip().splitlines()[-1:]}")
        times.append([float(each) for each in done.stdout.split()])
    return Start(*(statistics.median(each) for each in zip(*times, strict=True)))


def measure_speed(lm: LanguageModel, asked: Sequence[tuple[str, Sequence[str]]], new_tokens: int, runs: int) -> Speed:
    """Over (question, paraphrases), after one round that warms up; answers of one token have no rate."""
    first, rates = [], []
    for i in range(runs + 1):
        for question, paraphrases in asked:
            result = ask(lm, question, paraphrases, max_new_tokens=new_tokens, mass=False)
            made = len(result.results[0].token_ids)
            if i:
                first.append(result.seconds["first_token"] * 1000)
                rates += [(made - 1) / result.seconds["decode"]] if made > 1 and result.seconds["decode"] else []
    return Speed(statistics.median(first), statistics.median(rates) if rates else 0.0)


def profile(work: Callable[[], Any]) -> tuple[list[Share], list[Share]]:
    """(own time by package, our functions by time with all they call), largest first, under cProfile."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    stats = pstats.Stats(profiler)
    total = stats.total_tt or 1.0  # type: ignore[attr-defined]
    packages: Counter[str] = Counter()
    ours: Counter[str] = Counter()
    for (file, _, name), (_, _, own, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        package = _package(file, name)
        packages[package] += own
        if package == "flexdemo":
            ours[f"{Path(file).stem}.{name}"] = max(ours[f"{Path(file).stem}.{name}"], cumulative)
    return (
        [Share(name, spent / total) for name, spent in packages.most_common(5)],
        [Share(name, spent / total) for name, spent in ours.most_common(MOST_FUNCTIONS)],
    )


def _package(file: str, name: str) -> str:
    """The package that a profiled function belongs to; operators written in C++ have no file."""
    if file == "~":
        return "torch operators" if "torch" in name else "Python built-ins"
    parts = Path(file).parts
    if "flexdemo" in parts and "site-packages" not in parts:
        return "flexdemo"
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    return "Python library"


def measure_whereabouts(
    lm: LanguageModel,
    asked: Sequence[tuple[str, Sequence[str]]],
    *,
    new_tokens: int,
    runs: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """All of it, logged line by line, as JSON."""
    start = measure_start(device=lm.device.type, dtype=lm.dtype)
    log(str(start))
    speed = measure_speed(lm, asked, new_tokens, runs)
    log(str(speed))

    def work() -> None:
        for question, paraphrases in asked:
            ask(lm, question, paraphrases, max_new_tokens=new_tokens, mass=False)

    packages, functions = profile(work)
    log("own time under cProfile: " + ", ".join(f"{each.name} {each.share:.0%}" for each in packages))
    log("our functions, with what they call: " + ", ".join(f"{each.name} {each.share:.0%}" for each in functions))
    shares = {"packages": [asdict(each) for each in packages], "functions": [asdict(each) for each in functions]}
    return {"start": asdict(start), "flex": asdict(speed), "profile": shares}


def measure_bundled(
    *, new_tokens: int = 32, runs: int = 5, device: str = "cpu", dtype: str = "float32", log: Callable[[str], None]
) -> dict[str, Any]:
    """What the bundled model costs over the shipped examples of PARAPHRASES wordings: start, speed, all methods."""
    lm = load_model(device=device, dtype=dtype)
    examples = json.loads((ROOT / "assets" / "examples.json").read_text(encoding="utf-8"))
    asked = [each for each in examples if len(each["paraphrases"]) == PARAPHRASES - 1]
    prompts = [build_prompt(lm.tokenizer, each["question"], each["paraphrases"]) for each in asked]
    log(f"{len(prompts)} questions of {PARAPHRASES} wordings")
    cost = methods_cost(lm, prompts, new_tokens, runs=runs, log=log)
    every = [build_prompt(lm.tokenizer, each["question"], each["paraphrases"]) for each in examples]
    batch = batch_speed(lm, (every * BATCH)[:BATCH], new_tokens, runs=min(runs, 3), log=log)
    texts = [(each["question"], each["paraphrases"]) for each in asked]
    spent = measure_whereabouts(lm, texts, new_tokens=new_tokens, runs=runs, log=log)
    measured = {"questions": len(prompts), "methods": [cost], "batches": [batch]}
    return {**run_facts("bundled", device, dtype), **measured, **spent}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: float32)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=32)
    given = vars(parser.parse_args())
    told = measure_bundled(**given, log=lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
