"""Accuracies, intervals and charts of a results table, against counting by hand and a slow bootstrap."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexdemo.data import summary as bootstrap
from flexdemo.data.summary import Summary, disagreements, interval, resampled_means, summarise
from flexdemo.data.table import Row, read_table, table_frame, write_table
from flexdemo.errors import InputError
from flexdemo.figures.results import accuracy_figure, report_html

METHODS = ("flex", "causal")


def row(i: int, method: str, right: bool, *, view: str = "", wordings: int = 2, **changes: Any) -> Row:
    base = Row(
        id=f"r{i}",
        question=f"question {i}?",
        paraphrases=tuple(f"wording {k}" for k in range(2, wordings + 1)),
        answers=("Lima",),
        method=method,
        view=view or method,
        prediction="Lima" if right else "Cusco",
        generation="",
        tokens=1,
        exact_match=right,
        contains=right,
        token_f1=float(right),
        lemma_match=right,
        lemma_match_both=right,
        agreement=None,
        prompt_tokens=10,
        rows=1,
        seconds=0.5,
    )
    return replace(base, **changes)


def random_rows(n: int, seed: int = 0) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        wordings = rng.choice([2, 4])
        rows += [row(i, method, rng.random() < 0.4 + 0.2 * k, wordings=wordings) for k, method in enumerate(METHODS)]
        views = [f"P{k}" for k in range(1, wordings + 1)]
        rows += [row(i, "per_prompt", rng.random() < 0.5, view=view, wordings=wordings) for view in views]
        rows += [row(i, "leave_one_out", rng.random() < 0.5, view=f"without {v}", wordings=wordings) for v in views]
    return rows


def percentile(values: list[float], share: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    values = sorted(values)
    place = share * (len(values) - 1)
    low = math.floor(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def slow_interval(scores: list[float], draws: list[list[int]]) -> tuple[float, float]:
    """The bootstrap as it is told in a book: draw questions, take the mean, sort the means."""
    means = [sum(scores[i] for i in draw) / len(draw) for draw in draws]
    return percentile(means, 0.025), percentile(means, 0.975)


def rights(rows: list[Row], method: str) -> list[float]:
    return [float(each.exact_match) for each in rows if each.method == method]


def test_intervals_are_those_of_a_slow_bootstrap_with_the_same_resamples() -> None:
    rows, n, resamples = random_rows(40), 40, 300
    summary = summarise(table_frame(rows), seed=5, resamples=resamples)
    generator = np.random.default_rng(5)
    draws = generator.integers(0, n, size=(resamples, n)).tolist()
    flex, causal = rights(rows, "flex"), rights(rows, "causal")
    for name, scores in (("flex", flex), ("causal", causal)):
        low, high = slow_interval(scores, draws)
        assert summary[name].accuracy.value == pytest.approx(sum(scores) / n, abs=1e-12)
        assert (summary[name].accuracy.low, summary[name].accuracy.high) == pytest.approx((low, high), abs=1e-12)
    paired = [a - b for a, b in zip(flex, causal, strict=True)]
    found = summary["flex"].difference
    assert found.value == pytest.approx(sum(paired) / n, abs=1e-12)
    assert (found.low, found.high) == pytest.approx(slow_interval(paired, draws), abs=1e-12)
    assert summary["causal"].difference is None


def test_interval_of_many_questions_is_the_normal_one() -> None:
    n, p = 4000, 0.3
    scores = (np.arange(n) < n * p).astype(float)[:, None]
    found = interval(p, resampled_means(scores, resamples=4000, seed=0)[:, 0])
    half = 1.959964 * math.sqrt(p * (1 - p) / n)
    assert (found.low, found.high) == pytest.approx((p - half, p + half), abs=0.1 * half)


def test_a_pair_that_never_differs_has_no_interval_however_each_varies() -> None:
    rows = [row(i, method, i % 3 == 0) for i in range(30) for method in METHODS]
    summary = summarise(table_frame(rows), resamples=200)
    assert summary["flex"].difference == bootstrap.Interval(0, 0, 0)
    assert summary["flex"].accuracy.low < summary["flex"].accuracy.high


def test_chunks_do_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).random((7, 2))
    whole = resampled_means(scores, resamples=101, seed=3)
    monkeypatch.setattr(bootstrap, "CELLS", 7 * 10)
    assert whole.shape == (101, 2)
    np.testing.assert_allclose(resampled_means(scores, resamples=101, seed=3), whole, rtol=1e-12)


def test_single_prompts_are_counted_by_hand() -> None:
    """Three records of 2, 2 and 3 wordings; each wording alone: right, wrong / wrong, right / wrong, right, right."""
    alone = {0: [True, False], 1: [False, True], 2: [False, True, True]}
    rows = []
    for i, shares in alone.items():
        for method in METHODS:
            rows.append(row(i, method, i == 0, wordings=len(shares)))
        for k, right in enumerate(shares, start=1):
            cost = {"prompt_tokens": 10 * k, "rows": 1, "seconds": 1.0}
            rows.append(row(i, "per_prompt", right, view=f"P{k}", wordings=len(shares), **cost))
    summary = summarise(table_frame(rows), resamples=50)
    assert [line.name for line in summary.lines] == [
        "flex",
        "causal",
        "mean single prompt",
        "best single prompt (P2)",
        "any of N right",
    ]
    accuracy = {line.name: line.accuracy.value for line in summary.lines}
    assert accuracy["mean single prompt"] == pytest.approx((1 / 2 + 1 / 2 + 2 / 3) / 3)
    assert accuracy["best single prompt (P2)"] == pytest.approx(2 / 3)  # P3 is not a wording of every record
    assert accuracy["any of N right"] == 1
    assert "hindsight" in summary["best single prompt (P2)"].note
    assert [line.derived for line in summary.lines] == [False, False, True, True, True]
    costs = {line.name: (line.prompt_tokens, line.rows) for line in summary.lines}
    assert costs["flex"] == (10, 1)
    assert costs["mean single prompt"] == pytest.approx((50 / 3, 1))  # (15 + 15 + 20) / 3
    assert costs["best single prompt (P2)"] == (20, 1)
    assert costs["any of N right"] == pytest.approx((40, 7 / 3))  # (30 + 30 + 60) / 3


def test_every_score_has_its_own_column() -> None:
    scores = {"exact_match": False, "contains": True, "token_f1": 0.25, "lemma_match": False, "lemma_match_both": True}
    line = summarise(table_frame([row(0, "flex", False, **scores)]), resamples=5)["flex"]
    means = (line.exact, line.contains, line.token_f1, line.lemma, line.lemma_both)
    assert (line.accuracy.value, *means) == (0, 0, 1, 0.25, 0, 1)


def test_the_chosen_score_is_accuracy_with_its_interval_and_difference() -> None:
    """Sentences: no exact match, which would be 0 with no interval; `contains` differs between the methods."""
    rows = [
        row(i, m, False, contains=i % k == 0, token_f1=0.5) for i in range(30) for k, m in ((2, "flex"), (3, "causal"))
    ]
    rows += [row(i, "per_prompt", False, view=f"P{k}", contains=k == 2) for i in range(30) for k in (1, 2)]
    summary = summarise(table_frame(rows), score="contains", resamples=300)
    shares = [(i % 2 == 0) - (i % 3 == 0) for i in range(30)]
    draws = np.random.default_rng(0).integers(0, 30, size=(300, 30)).tolist()
    found = summary["flex"].difference
    assert summary["flex"].accuracy.value == 0.5 and summary["flex"].exact == 0
    assert (found.value, found.low, found.high) == pytest.approx((1 / 6, *slow_interval(shares, draws)))
    assert summary["best single prompt (P2)"].accuracy.value == 1  # the best one by this score
    text = summary.markdown()
    assert "| Accuracy (contains) |" in text and "| Exact |" in text and "| Contains |" not in text
    assert "the score contains of an answer" in text
    assert summarise(table_frame(rows), score="f1", resamples=5)["flex"].accuracy.value == 0.5


def test_a_score_that_was_not_taken_is_refused() -> None:
    rows = [row(0, "flex", True, lemma_match=None, lemma_match_both=None)]
    with pytest.raises(InputError, match="pip install simplemma"):
        summarise(table_frame(rows), score="lemma")


def test_scores_that_were_not_taken_are_missing_and_the_notes_say_why() -> None:
    rows = [replace(each, lemma_match=None, lemma_match_both=None) for each in random_rows(6) if each.method == "flex"]
    summary = summarise(table_frame(rows), resamples=10)
    assert summary["flex"].lemma is None and summary["flex"].lemma_both is None
    assert summary["flex"].difference is None
    text = summary.markdown()
    assert "Lemmas" not in text and "Difference" not in text
    assert "simplemma was not installed" in text and "no results of causal" in text
    assert "simplemma was not" not in summarise(table_frame(random_rows(6)), resamples=10).markdown()


def test_reasoning_that_did_not_end_is_counted() -> None:
    said = {"flex": ("", "I wonder"), "causal": ("", "hm</think>\n")}  # the second one ended, and said nothing
    rows = [
        replace(row(i, method, False), prediction=prediction, generation=generation)
        for i in range(3)
        for method, (prediction, generation) in said.items()
    ]
    (told,) = (note for note in summarise(table_frame(rows)).notes if "reasoning" in note)
    assert told.startswith("3 of 6 answers are empty") and "--max-new-tokens" in told
    assert not any("reasoning" in note for note in summarise(table_frame(random_rows(3))).notes)


def spoiled() -> Iterator[tuple[list[Row], str]]:
    rows = random_rows(5)
    yield [], "no rows"
    yield [each for each in rows if (each.id, each.method) != ("r3", "flex")], "1 records lack results of flex.*'r3'"
    yield [each for each in rows if (each.id, each.view) != ("r2", "P2")], "lack results of per_prompt.*'r2'"
    yield [each for each in rows if (each.id, each.view) != ("r2", "without P1")], "lack results of leave_one_out"
    yield [*rows, rows[0]], "two rows of flex"


@pytest.mark.parametrize(("rows", "match"), spoiled())
def test_tables_with_gaps_are_refused(rows: list[Row], match: str) -> None:
    with pytest.raises(InputError, match=match):
        summarise(table_frame(rows), resamples=5)


@pytest.mark.parametrize("ending", [".feather", ".csv"])
def test_a_table_from_disk_gives_the_same_summary(tmp_path: Path, ending: str) -> None:
    rows = random_rows(12)
    write_table(rows, tmp_path / f"x{ending}")
    assert summarise(read_table(tmp_path / f"x{ending}"), resamples=50) == summarise(table_frame(rows), resamples=50)


def test_order_of_rows_does_not_matter_but_for_the_order_of_lines() -> None:
    rows = random_rows(20)
    mixed = sorted(rows, key=lambda each: (int(each.id[1:]), each.method, each.view), reverse=False)
    one, other = (summarise(table_frame(each), resamples=50) for each in (rows, mixed))
    assert sorted(one.lines, key=lambda line: line.name) == sorted(other.lines, key=lambda line: line.name)


def test_markdown_shows_names_as_they_are() -> None:
    rows = [row(i, method, True) for i in range(3) for method in ("a|b<i>`x`", "[x](y)")]
    text = summarise(table_frame(rows), resamples=5).markdown()
    line = next(line for line in text.splitlines() if "`x" in line)
    assert line.startswith("| a\\|b&lt;i>\\`x\\` |")
    assert "[x](y)" not in text and "1.000 [1.000, 1.000]" in text
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert len(counts) == 1


@pytest.fixture
def summary() -> Summary:
    rows = [
        replace(each, method="<b>flex</b>", view="<b>flex</b>") if each.method == "flex" else each
        for each in random_rows(30)
    ]
    return summarise(table_frame(rows), resamples=100)


def test_bars_end_where_the_intervals_do(summary: Summary) -> None:
    (bars,) = accuracy_figure(summary).data
    assert bars.y[0] == "&lt;b&gt;flex&lt;/b&gt;" and len(bars.y) == len(summary.lines)
    for line, x, up, down in zip(summary.lines, bars.x, bars.error_x.array, bars.error_x.arrayminus, strict=True):
        assert (x - down, x, x + up) == pytest.approx((line.accuracy.low, line.accuracy.value, line.accuracy.high))
        assert up >= 0 and down >= 0


def test_report_is_one_offline_page_without_markup_of_others(summary: Summary) -> None:
    page = report_html(summary, title="<script>alert(1)</script>", facts={"data <i>": '"><img src=x onerror=alert(1)>'})
    assert page.startswith("<!doctype html>")
    assert "<script>alert" not in page and "<img" not in page.split("<script")[0]
    assert "&lt;img src=x" in page and "data &lt;i&gt;" in page and "<td>&lt;b&gt;flex&lt;/b&gt;</td>" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert page.count('"modeBarButtonsToRemove": ["sendChartToCloud"]') == 1
    assert page.count("plotly.js v") == 1  # the library is in it once
    assert all(note.split(" over ")[0] in page for note in summary.notes)
    for colour in re.findall(r"oklch|color-mix", page.split("<script")[0]):
        pytest.fail(colour)


def test_disagreements_are_of_normal_forms_and_limited() -> None:
    said = {0: ("Lima", "the lima."), 1: ("Lima", "Cusco"), 2: ("", "Lima"), 3: ("a", "b")}
    rows = [
        row(i, method, text == "Lima", prediction=text)
        for i, texts in said.items()
        for method, text in zip(METHODS, texts, strict=True)
    ]
    rows += [row(i, "per_prompt", True, view=f"P{k}", prediction=said[i][k - 1]) for i in said for k in (1, 2)]
    found = disagreements(table_frame(rows), 2)
    assert [each.id for each in found] == ["r1", "r2"]
    assert found[0].predictions == {"flex": "Lima", "causal": "Cusco", "per_prompt": "Lima"}  # P1 speaks
    assert found[0].right == {"flex": True, "causal": False, "per_prompt": True}
    assert (found[0].question, found[0].paraphrases, found[0].answers) == ("question 1?", ("wording 2",), ("Lima",))
    assert len(disagreements(table_frame(rows), 10)) == 3
