"""Measuring: sizes that are counted, not clocks."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from growth import growth_figure, growth_html, measure_growth
from parts import _rates, at_a_gap, cost, gaps_between, widest

from flexdemo.cli.bench import SHAPES, random_lm, random_model, random_prompt, weight_bytes
from flexdemo.engine.decode import Answer, Progress


def test_the_roofline_counts_the_bytes_of_the_weights() -> None:
    model = random_model("tiny", device="cpu", dtype="float32")
    held = {each.data_ptr(): each.nbytes for each in model.parameters()}
    assert weight_bytes("tiny", "float32") == sum(held.values())
    assert weight_bytes("llama-3.2-3b", "bfloat16") == 6_425_499_648  # as counted of that model on a GPU


def test_random_prompts_have_segments_of_equal_length() -> None:
    prompt = random_prompt(650, SHAPES["tiny"]["vocab_size"], seed=0, paraphrases=5)
    assert len(prompt.token_ids) == 650 and {len(each) for each in prompt.paraphrases} == {128}
    assert random_prompt(650, 2048, seed=0, paraphrases=5) == prompt
    assert random_prompt(650, 2048, seed=1, paraphrases=5) != prompt


def test_cost_of_a_request_is_told_per_row() -> None:
    lm = random_lm("tiny", device="cpu", dtype="float32", backend="sdpa")
    said: list[str] = []
    told = cost(lm, 64, 3, 2, new_tokens=3, runs=1, log=said.append)
    assert (told["tokens"], told["paraphrases"], told["rows"]) == (64, 3, 2)
    assert told["first_token_seconds"] > 0 and told["token_seconds"] > 0
    assert told["cache_bytes"] == 64 * 8 * 4 * 32 * 2 * 4 * 3  # tokens, layers, heads, width, K and V, fp32, copies
    assert told["peak_bytes"] is None and told["other_bytes"] is None and "GiB" not in said[0]
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture(scope="module")
def grown() -> dict[str, Any]:
    sizes = {"tokens": (32, 64), "paraphrases": (1, 8), "rows": (1, 2)}
    options = {"device": "cpu", "dtype": "float32", "backend": "sdpa", "compiled": False, "new_tokens": 2, "runs": 1}
    return measure_growth(shape="tiny", **sizes, **options, log=lambda text: None)


def test_each_size_grows_alone(grown: dict[str, Any]) -> None:
    told = {name: [(c["paraphrases"], c["rows"]) for c in column] for name, column in grown["costs"].items()}
    assert told == {"tokens": [(8, 1)] * 2, "paraphrases": [(1, 1), (8, 1)], "rows": [(8, 1), (8, 2)]}
    assert [c["tokens"] for c in grown["costs"]["tokens"]] == [26, 58]
    assert {c["tokens"] for column in ("paraphrases", "rows") for c in grown["costs"][column]} == {1018, 1024}


def test_the_report_shows_what_was_measured_and_needs_nothing_else(grown: dict[str, Any]) -> None:
    figure = growth_figure(grown["costs"])
    assert len(figure.data) == 6, "no memory is measured on the CPU"
    assert [list(trace.x) for trace in figure.data[:2]] == [[26, 58]] * 2
    first = [1000 * cost["first_token_seconds"] for cost in grown["costs"]["tokens"]]
    assert list(figure.data[0].y) == first
    page = growth_html(grown)
    assert "<h2>By tokens of the prompt</h2>" in page and f">{first[0]:.3g}</td>" in page
    assert "memory beyond weights" not in page, "it is measured on a GPU only"
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)


def test_tokens_per_second_with_and_without_reading_the_prompts() -> None:
    def run(tokens: tuple[int, ...], first: float, total: float) -> Progress:
        answers = tuple(Answer(tuple(range(count)), (), (), "length", total) for count in tokens)
        return Progress(answers, len(tokens), 0.0, first, total)

    assert _rates([run((4,), 1.0, 2.0), run((6,), 1.0, 3.0)]) == (10 / 5, 8 / 3)
    assert _rates([run((4, 6), 1.0, 3.0)]) == (10 / 3, 8 / 2)


def test_a_gap_is_between_the_tokens_where_answers_part_ways() -> None:
    candidates = (((1, 0.5), (2, 0.4)), ((3, 0.6), (4, 0.3)))
    one = Answer((1, 3), (), (), "length", 1.0, candidates=candidates)
    others = [one, replace(one, token_ids=(1, 4)), replace(one, token_ids=(9, 3))]
    assert gaps_between([one] * 3, others) == [pytest.approx(math.log(2)), math.inf], "9 was no runner-up"


def test_a_gap_that_is_wider_than_was_looked_at_is_told_and_fits_in_json() -> None:
    """Infinity is no JSON: a whole run of the benchmark was lost to one such token."""
    assert (widest([]), widest([0.2, 0.1]), widest([0.2, math.inf])) == (0.0, 0.2, None)
    assert at_a_gap(0, 0.0) == "" and "at most 0.20 nats" in at_a_gap(2, 0.2)
    assert "beyond the 20 likeliest" in at_a_gap(2, widest([0.2, math.inf]))
