"""`evaluate --sweep`: what is run, that each value is the question asked that way, and the choice of a best one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import oracle
import pytest
from test_combinations import alone
from test_evaluate import write_data
from test_summary import row

from flexdemo.answers.ask import ask
from flexdemo.cli import main as cli
from flexdemo.data.evaluate import Settings, answer, prepare_questions
from flexdemo.data.records import Record
from flexdemo.data.sweep import find_sweeps, swept_methods, without_sweeps
from flexdemo.data.table import table_frame
from flexdemo.engine.model import LanguageModel
from flexdemo.figures.results import sweep_chart
from flexdemo.prompt import build_prompt

A, OTHERS = "What is the capital of Peru?", ("Name it.", "Which city is Peru's capital?", "Peru's capital?")


def test_what_is_swept() -> None:
    layers = swept_methods("layer", ("flex",), depth=3, wordings=9)
    assert layers == tuple(f"hidden_avg:layer={layer}" for layer in (1, 2, 3))
    many = [int(name.split("=")[1]) for name in swept_methods("layer", (), depth=30, wordings=9)]
    assert many[0] == 1 and many[-1] == 30 and len(many) == 8
    asked = swept_methods("paraphrases", ("flex", "per_prompt", "vote"), depth=3, wordings=2)
    assert asked == ("flex:wordings=1", "flex:wordings=2", "vote:wordings=1", "vote:wordings=2")


def test_each_layer_is_the_oracles(lm: LanguageModel, plain: Any) -> None:
    methods = swept_methods("layer", (), depth=lm.depth, wordings=4)
    settings = Settings(methods=("flex", *methods), max_new_tokens=5)
    records = [Record("1", A, ("x",), OTHERS), Record("2", OTHERS[0], ("x",), (A,))]
    asked, *_ = prepare_questions(lm, records, settings)
    for record, rows in zip(records, answer(lm, asked, settings), strict=True):
        result = ask(lm, record.question, record.paraphrases, max_new_tokens=5)
        for layer, told in enumerate(rows[1:], start=1):
            ids: list[int] = []
            for _ in range(told.tokens):
                ids = oracle.decode_mixed(plain, alone(result), layer, [*ids, 0]).token_ids
            assert (told.method, told.generation) == (f"hidden_avg:layer={layer}", lm.tokenizer.decode(ids))


@pytest.mark.parametrize("weights", [None, "raw", (1, 4, 2, 0)], ids=str)
@pytest.mark.parametrize("chat", [False, True])
def test_each_number_of_wordings_is_that_question_by_itself(prepared: Any, chat: bool, weights: Any) -> None:
    lm = prepared("llama", "sdpa", chat=chat)
    base = ("flex", "causal", "repeat", "avg", "weighted_avg", "hidden_avg")
    given = None if weights == "raw" else weights
    record = Record("1", A, ("x",), OTHERS, given)
    methods = swept_methods("paraphrases", base, depth=lm.depth, wordings=4)
    settings = Settings(methods=(*base, *methods), max_new_tokens=5, weights="raw" if weights == "raw" else None)
    asked, *_ = prepare_questions(lm, [record], settings)
    (rows,) = answer(lm, asked, settings)
    told = {row.method: row for row in rows}
    for n in (1, 2, 3, 4):
        own = weights[:n] if isinstance(weights, tuple) else weights
        result = ask(lm, A, OTHERS[: n - 1], methods=base, weights=own, max_new_tokens=5)
        for method in base:
            swept = told[f"{method}:wordings={n}"]
            assert (swept.generation, swept.tokens) == (result[method].generation, len(result[method].token_ids))
        assert told[f"causal:wordings={n}"].prompt_tokens == len(result.prompt.token_ids)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_first_wordings_are_packed_as_they_would_be_alone(name: str) -> None:
    """But for tokens at the border that the fewer share and the many do not."""
    tokenizer = families.family(name)
    whole = build_prompt(tokenizer, A, OTHERS, weights=(1, 2, 1, 4))
    for n in (1, 2, 3, 4):
        short, fewer = whole.shortened(n), build_prompt(tokenizer, A, OTHERS[: n - 1], weights=(1, 2, 1, 4)[:n])
        ends = [(len(each.segments[0]), len(each.segments[-1])) for each in (short, fewer)]
        assert short == fewer or ends[0] != ends[1]
        assert short.weights == pytest.approx(fewer.weights)


def swept_table(right: dict[int, list[bool]], causal: list[bool]) -> Any:
    rows = [row(i, "causal", good) for i, good in enumerate(causal)]
    for layer, goods in right.items():
        rows += [row(i, f"hidden_avg:layer={layer}", good) for i, good in enumerate(goods)]
    return table_frame(rows)


def test_the_best_is_chosen_on_even_records_and_told_on_the_others() -> None:
    """By hand: layer 2 wins on records 0, 2 and 4 (3 of 3), where layer 3 wins on 1, 3 and 5 and over all."""
    right = {
        3: [True, True, False, True, True, True],
        1: [False, False, True, True, False, False],
        2: [True, False, True, False, True, True],
    }
    table = swept_table(right, [True, True, False, False, False, False])
    (sweep,) = find_sweeps(table, score="exact", seed=0)
    (curve,) = sweep.curves
    assert sweep.values == (1, 2, 3) and curve.method == "hidden_avg"
    assert [share.value for share in curve.accuracy] == pytest.approx([2 / 6, 4 / 6, 5 / 6])
    assert all(share.low <= share.value <= share.high for share in curve.accuracy)
    choice = curve.choice
    assert (choice.value, choice.chosen_on) == (2, 1.0)
    assert choice.told_on.value == pytest.approx(1 / 3) and choice.difference.value == pytest.approx(0)
    assert "best at layer 2 on the records at even positions (1.000)" in sweep.notes[0]
    assert without_sweeps(table)["method"].unique().tolist() == ["causal"]
    assert find_sweeps(without_sweeps(table), score="exact", seed=0) == ()
    heading, note, figure = sweep_chart(sweep)
    (line,) = figure.data
    assert heading == "Accuracy by layer" and note == sweep.notes[0] and list(line.x) == [1, 2, 3]
    assert list(line.y) == pytest.approx([2 / 6, 4 / 6, 5 / 6])
    lows = [y - below for y, below in zip(line.y, line.error_y.arrayminus, strict=True)]
    assert lows == pytest.approx([share.low for share in curve.accuracy])


def test_of_equal_values_the_smallest_is_chosen_and_one_record_chooses_none() -> None:
    (sweep,) = find_sweeps(swept_table({2: [True] * 4, 1: [True] * 4}, [False] * 4), score="exact", seed=0)
    assert sweep.curves[0].choice.value == 1
    (single,) = find_sweeps(swept_table({2: [True], 1: [False]}, [False]), score="exact", seed=0)
    assert single.curves[0].choice is None and single.notes == ()


@pytest.mark.parametrize(("kind", "called", "values"), [("layer", "layer", 6), ("paraphrases", "wordings", 3)])
def test_the_command_tells_sweeps_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture, kind: str, called: str, values: int
) -> None:
    others = ("Name the capital of {}.", "Which city is the capital of {}?")
    places = {"Peru": "Lima", "Chile": "Santiago", "Japan": "Tokyo"}
    records = [
        Record(name, f"What is the capital of {name}?", (town,), tuple(text.format(name) for text in others))
        for name, town in places.items()
    ]
    data, reports = write_data(tmp_path / "data.jsonl", records), [tmp_path / "r.md", tmp_path / "r.html"]
    output = tmp_path / "out.csv"
    asked = ["evaluate", str(data), "--sweep", kind, "--method", "flex", "--output", str(output)]
    assert cli.main([*asked, "--report", str(reports[0]), "--report", str(reports[1])]) == 0
    printed = capsys.readouterr().out
    markdown, page = (path.read_text(encoding="utf-8") for path in reports)
    for text in (printed, markdown):
        assert f"| {called.capitalize()} | " in text and f"best at {called} 1 on the records at even" in text
    assert f"<h2>Accuracy by {called}</h2>" in page and '<div id="accuracy-by-' in page
    assert f":{called}=" not in printed, "the lines of the summary are the methods that were named"
    assert cli.main([*asked, "--resume", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["sweeps"][0]["values"]) == values and [line["name"] for line in told["lines"]] == ["flex"]
