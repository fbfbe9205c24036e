"""What is kept of a result: exact where that can be checked, and texts of users are data in all of it."""

from __future__ import annotations

import ast
import contextlib
import csv
import html
import io
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import models
import numpy as np
import oracle
import pytest

from flexdemo.answers.ask import ask
from flexdemo.answers.explain import CANDIDATES, Explanation, explain
from flexdemo.answers.methods import METHODS
from flexdemo.answers.result import Result
from flexdemo.data.table import FORMULA
from flexdemo.engine.loading import load_model
from flexdemo.engine.model import LanguageModel
from flexdemo.figures.report import file_name, mask_csv, report_html, result_json, snippet
from flexdemo.plan import Scheme, mask_array
from flexdemo.prompt import build_prompt
from flexdemo.request import Request

A, B, C = "What is the capital of Peru?", "Name it.", "Which city is Peru's capital?"
NASTY = (
    "'); raise SystemExit(1) #",
    "\"\"\"''' \\",
    "\\",
    "a\\'b\\\"c\\n\\x41\\N{DASH}",
    "line\nbreak\r\nand\ttab\x0b\x0c\x00end",
    "\u2028\u2029\x85\u202e\ufeff\u200b",
    "{0} %s {result} f'{1}'",
    "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "<b>&amp;&lt;i&gt;\"'",
    "=1+1;@SUM(A1)|-2,+3",
    "日本の首都はどこ？😀e\u0301",
)


@pytest.fixture(scope="module")
def result(lm: LanguageModel) -> Result:
    options = {"methods": ("all",), "weights": [2, 1, 1], "candidates": CANDIDATES, "max_new_tokens": 4}
    return ask(lm, NASTY[7], [NASTY[8], NASTY[5]], **options)


@pytest.fixture(scope="module")
def explanation(lm: LanguageModel, result: Result) -> Explanation:
    return explain(lm, result)


# --- the mask as CSV


@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_csv_is_the_mask_with_a_label_for_each_token(tokenizer: Any, strategy: str) -> None:
    prompt = build_prompt(tokenizer, A, [B, C])
    header, *rows = csv.reader(io.StringIO(mask_csv(prompt, mask_array(prompt, strategy))), strict=True)
    cells = oracle.mask(strategy, oracle.prompt_tokens([vars(segment) for segment in prompt.segments]))
    assert [[int(cell) for cell in row[1:]] for row in rows] == [[int(cell) for cell in row] for row in cells]
    assert [row[0] for row in rows] == header[1:]
    assert header[1].startswith("0 prefix ") and header[-1].startswith(f"{len(rows) - 1} suffix ")
    assert [label.split(" ")[1] for label in header[1:]] == [
        prompt.segments[number].name for number in prompt.segment_ids
    ]


@pytest.mark.parametrize("text", NASTY)
def test_no_cell_of_the_csv_is_a_formula(tokenizer: Any, text: str) -> None:
    prompt = build_prompt(tokenizer, f"=cmd|'/C calc'!A0 {text}", [f"@{text}", f"-{text}", f"\t+{text}"])
    assert any(FORMULA.match(token) for token in prompt.tokens), "the tokens alone would be formulas"
    rows = list(csv.reader(io.StringIO(mask_csv(prompt, mask_array(prompt, "segment"))), strict=True))
    assert {len(row) for row in rows} == {len(prompt.tokens) + 1} and len(rows) == len(prompt.tokens) + 1
    assert not [cell for row in rows for cell in row if FORMULA.match(cell)]
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\u2028]", "".join(rows[0])), "control characters are shown"


# --- JSON


def test_json_is_the_contract(result: Result, explanation: Explanation) -> None:
    assert json.loads(result_json(result)) == json.loads(json.dumps(result.to_dict()))
    told = json.loads(result_json(result, explanation))
    assert told.pop("explain") == json.loads(json.dumps(explanation.to_dict()))
    assert told == json.loads(result_json(result)) and "request" not in told
    assert list(told) == ["model", "device", "dtype", "backend", "mask", "prompt", "results", "seconds"]


# --- the program


def run(program: str) -> tuple[Result, str]:
    """The program in a namespace of its own: its result and what it prints."""
    space: dict[str, Any] = {"__name__": "program"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "program", "exec"), space)
    return space["result"], printed.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"methods": ("all",), "weights": [1, 2.5, 0], "mask": "anchor", "positions": "right_aligned"},
        {"methods": ("flex", "vote"), "weights": "raw", "mask": "late_fusion", "prefix": "Be brief.\n'\"\\"},
        {"ape_temperature": 0.7, "ape_scale": 1.3, "max_new_tokens": 5},
        {"temperature": np.float64(5), "top_p": 0.95, "seed": 20, "methods": ("flex", "per_prompt", "causal")},
        {"weights": "confidence", "samples": 3, "sample_temperature": 1.2, "seed": 4, "template": "plain"},
        {"mass": False, "candidates": 2, "weights": np.array([1, 2, 3])},
    ],
    ids=lambda options: ",".join(options) or "defaults",
)
def test_the_program_repeats_the_answer(bundled: LanguageModel, options: dict) -> None:
    result = ask(bundled, A, [B, C], **options)
    again, printed = run(snippet(result))
    assert [answer.method for answer in again.results] == [answer.method for answer in result.results]
    for ours, theirs in zip(again.results, result.results, strict=True):
        assert ours.token_ids == theirs.token_ids and ours.logprobs == theirs.logprobs
        assert [view.token_ids for view in ours.views] == [view.token_ids for view in theirs.views]
        assert f"{theirs.method}: {theirs.answer}\n" in printed
    assert again.request == result.request and again.prompt == result.prompt


def test_the_program_and_the_report_have_the_sides_too(bundled: LanguageModel) -> None:
    schemes = (Scheme(positions="sequential", weighted=False), Scheme("anchor+P3>P2"))
    result = ask(bundled, A, [B, C], schemes=schemes)
    again, printed = run(snippet(result))
    assert [side.token_ids for side in again.sides] == [side.token_ids for side in result.sides]
    report = report_html(result, title="")
    for scheme, side in zip(schemes, result.sides, strict=True):
        assert f"{scheme.name}: {side.answer}\n" in printed and html.escape(scheme.name) in report


def test_a_seed_matters_to_the_test_above(bundled: LanguageModel) -> None:
    a, b = (ask(bundled, A, [B, C], temperature=5.0, top_p=0.95, seed=seed)["flex"].token_ids for seed in (20, 21))
    assert a != b


def test_only_what_differs_from_the_defaults_is_told(bundled: LanguageModel) -> None:
    assert snippet(ask(bundled, A)) == (
        "import flexdemo\n\nlm = flexdemo.load_model(device='cpu', dtype='float32', backend='sdpa')\n"
        "result = flexdemo.ask(\n    lm,\n"
        "    'What is the capital of Peru?',\n)\nfor answer in result.results:\n"
        "    print(answer.method, answer.answer, sep=': ')\n"
    )
    told = snippet(ask(bundled, A, [B], seed=3, mask="segment", temperature=0))
    assert "    seed=3,\n)" in told and "mask=" not in told and "temperature" not in told


@pytest.mark.parametrize("text", NASTY)
def test_no_text_breaks_out_of_its_string(bundled: LanguageModel, text: str) -> None:
    result = ask(bundled, text, [f"{text} {text}", "'"], prefix=f"{text}.", max_new_tokens=2)
    program = snippet(result)
    again, _ = run(program)
    assert again["flex"].token_ids == result["flex"].token_ids and again.prompt == result.prompt
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\x85\u200b\u2028\u2029\u202e\ufeff]", program)


def arguments(program: str) -> dict[str, Any]:
    """The literal arguments of the program's two calls; anything but the expected shape is an error."""
    imported, load, asked, loop = ast.parse(program).body
    assert ast.unparse(imported) == "import flexdemo" and isinstance(loop, ast.For)
    assert (ast.unparse(load.value.func), ast.unparse(asked.value.func)) == ("flexdemo.load_model", "flexdemo.ask")
    assert ast.unparse(asked.value.args[0]) == "lm"
    values = [ast.literal_eval(value) for value in asked.value.args[1:]]
    told = {"question": values[0], "paraphrases": tuple(values[1]) if values[1:] else ()}
    model = [ast.literal_eval(value) for value in load.value.args]
    told["load"] = (*model, {keyword.arg: ast.literal_eval(keyword.value) for keyword in load.value.keywords})
    return told | {keyword.arg: ast.literal_eval(keyword.value) for keyword in asked.value.keywords}


@pytest.mark.parametrize("seed", range(40))
def test_random_texts_come_back_from_the_program(result: Result, seed: int) -> None:
    rng = random.Random(seed)

    def text() -> str:
        points = [rng.choice([rng.randrange(0x80), rng.randrange(0x3000), rng.randrange(0x110000)]) for _ in range(30)]
        return rng.choice(NASTY) + "".join(map(chr, points))  # lone surrogates among them

    request = Request(
        question=text(), paraphrases=(text(), text()), weights=(rng.random(), 1e-300, 3.0), prefix=text(), seed=seed + 1
    )
    told = arguments(snippet(replace(result, request=request, model=(name := text()))))
    assert told.pop("load")[0] == name
    assert told == {
        "question": request.question,
        "paraphrases": request.paraphrases,
        "weights": list(request.weights),
        "prefix": request.prefix,
        "seed": request.seed,
    }


def test_another_model_is_loaded_from_its_path_with_what_ran(tmp_path: Path, prepared: Callable[..., Any]) -> None:
    path = tmp_path / 'it\'s "a" model\n\\'
    models.random_model("llama").save_pretrained(path)
    models.tokenizer().save_pretrained(path)
    result = ask(load_model(path, device="cpu", dtype="bfloat16", backend="flex-eager"), A, [B], max_new_tokens=4)
    told = arguments(snippet(result))["load"]
    assert told == (str(path), {"device": "cpu", "dtype": "bfloat16", "backend": "flex-eager"})
    again, _ = run(snippet(result))
    assert again["flex"].token_ids == result["flex"].token_ids
    assert (again.dtype, again.backend) == ("bfloat16", "flex-eager")


def test_a_name_that_only_this_host_knows_is_said_to_be_one(result: Result) -> None:
    for name, known in (("slow\nimport os", False), ("smollm2", True), ("tinyqa", True), ("a/b", True)):
        said = [
            line for line in snippet(replace(result, model=name)).splitlines() if line.startswith(("#", "import os"))
        ]
        assert (said == []) == known and all("'slow\\nimport os' is what" in line for line in said)


def test_a_gpu_is_named_without_its_number(result: Result) -> None:
    told = replace(result, device="cuda:0", dtype="bfloat16", backend="flex")
    assert arguments(snippet(told))["load"][-1] == {"device": "cuda", "dtype": "bfloat16", "backend": "flex"}


# --- names of files


@pytest.mark.parametrize("suffix", [".csv", ".html", "-mask.csv"])
@pytest.mark.parametrize(
    "text", [*NASTY, A, "", "../../etc/passwd", "C:\\x", "CON", "-rf", "a" * 5000, "ﬁ ① É", "a " * 99]
)
def test_file_names_are_safe(text: str, suffix: str) -> None:
    name = file_name(text, suffix)
    assert re.fullmatch(r"[A-Za-z0-9-]+" + re.escape(suffix), name) and len(name) <= 60
    assert Path(name).name == name and not name.startswith("-") and "--" not in name


def test_file_names_tell_the_question() -> None:
    assert file_name(A, ".csv") == "flexdemo-what-is-the-capital-of-peru.csv"
    assert file_name("Où est l'Élysée?", "-mask.csv") == "flexdemo-ou-est-l-elysee-mask.csv"
    assert file_name("日本", ".json") == "flexdemo.json"


# --- the page


class Page(HTMLParser):
    """Elements, attributes and texts of a page, those of scripts and styles apart."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[tuple[str, str]] = set()
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        if tag not in ("meta", "br"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "elements are closed in order"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data


MARKUP = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "table", "thead", "tbody", "tr", "th",
    "td", "bdi", "details", "summary", "pre",
}  # fmt: skip


@pytest.mark.parametrize("explained", [True, False])
def test_the_report_is_one_offline_page_of_escaped_texts(
    result: Result, explanation: Explanation, explained: bool
) -> None:
    told = explanation if explained else None
    html = report_html(result, told, title=NASTY[7])
    assert html.startswith("<!doctype html>")
    page = Page(html)
    figures = ["Mask", "Attention mass", "Leave one out"] if explained else ["Mask", "Attention mass"]
    assert set(page.tags) == MARKUP | {"script"}
    assert page.tags.count("script") == len(figures) + 2, "plotly's setting, plotly.js, and one for each figure"
    assert {name for _, name in page.attributes} <= {"lang", "charset", "name", "content", "class", "id", "style",
                                                     "scope", "type", "tabindex"}  # fmt: skip
    assert not [name for _, name in page.attributes if name in ("src", "href", "srcset") or name.startswith("on")]
    assert not re.search(r"@import|url\(", "".join(page.texts["style"]))
    assert html.count("plotly.js v") == 1 and html.count('"modeBarButtonsToRemove": ["sendChartToCloud"]') == len(
        figures
    )
    assert "cdn.plot.ly/plotly" not in html

    assert page.texts["title"] == [NASTY[7]]
    isolated = page.texts["bdi"]
    assert isolated[0] == NASTY[7] and {NASTY[7], NASTY[8], NASTY[5]} <= set(isolated)
    assert {answer.answer for answer in result.results} <= set(isolated)
    assert page.texts["h2"] == ["Wordings", "Answers", *figures, "What ran"]

    program, data = page.texts["pre"]
    assert program == snippet(result)
    assert json.loads(data) == json.loads(result_json(result, told))


def test_the_report_has_every_answer_and_what_ran(result: Result, explanation: Explanation) -> None:
    html = report_html(result, explanation, title="t", ran={"torch": "9.9", "flexdemo": "8.8"})
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td>", html)
    for method in METHODS.values():
        views = [view.name for view in result[method.name].views] if method.answers_each else []
        names = [f"{method.name} {view}" for view in views] or [method.name]
        assert [name for label, name in rows if label == method.label] == names
    for fact in ("llama", "cpu, float32, sdpa", "torch 9.9, flexdemo 8.8", "greedy, at most 4 tokens, seed 0"):
        assert f"<bdi>{fact}</bdi>" in html
    assert "0.500" in html and "P3" in html


def test_the_report_of_a_plain_result_without_masses(lm: LanguageModel) -> None:
    bare = ask(lm, A, [B], methods=("causal",), mass=False, max_new_tokens=2)
    page = Page(report_html(bare, title="Peru"))
    assert page.texts["h2"] == ["Wordings", "Answers", "Mask", "What ran"]
    assert A in page.texts["bdi"]


def test_weights_by_confidence_are_in_the_report(lm: LanguageModel) -> None:
    result = ask(lm, A, [B], weights="confidence", samples=4, max_new_tokens=2)
    page = Page(report_html(result, title="Peru"))
    assert "Confidence" in page.texts["th"]
    assert all(f"{share:.2f}" in page.texts["td"] for share in result.confidence.shares)
