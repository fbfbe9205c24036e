"""What a run reached is computed from its figures, in the units of the targets."""

from __future__ import annotations

import copy
from typing import Any
from unittest.mock import create_autospec

import parts
import pytest
import targets
import torch
from targets import reached

THEIRS = ("generate", "generate, static")
TIMED = {"prompt_tokens": 650, "roofline": 600.0, "compilations": 0}
RESULT: dict[str, Any] = {
    "shape": "llama-3.2-3b",
    "timings": [
        {**TIMED, "way": "flex", "first_token_seconds": 0.020, "tokens_per_second": 180.0},
        {**TIMED, "way": "flex compiled", "first_token_seconds": 0.012, "tokens_per_second": 390.0},
        {**TIMED, "way": "generate", "first_token_seconds": 0.030, "tokens_per_second": 60.0, "compilations": None},
        {**TIMED, "way": "generate, static", "first_token_seconds": 0.024, "tokens_per_second": 210.0},
        {**TIMED, "way": "flex", "prompt_tokens": 2048, "first_token_seconds": 0.001, "tokens_per_second": 999.0},
    ],
    "methods": [{"backend": "flex", "prompt_tokens": 650, "rows": 22, "ratio": 1.7}],
    "batches": [
        {
            "backend": "flex",
            "prompts": 32,
            "batched_per_second": 1700.0,
            "ratio": 9.0,
            "later_alone_per_second": 195.0,
            "later_batched_per_second": 3900.0,
            "later_ratio": 20.0,
        }
    ],
    "mask_milliseconds": 0.25,
    "attention": [
        {"segments": 5, "length": 122, "flex": 1.0, "dense_mask": 1.0, "causal_flash": 1.0},
        {"segments": 8, "length": 4096, "flex": 2.5, "dense_mask": 45.0, "causal_flash": 10.5},
    ],
    "long_prompt": {"tokens": 32768, "other_bytes": 805306368},
}


def test_each_target_is_told_once_with_its_figure() -> None:
    told = [(row.what, row.unit, row.value, row.met) for row in reached(RESULT, THEIRS)]
    assert told == [
        ("decode, one row", "of the roofline", 0.65, False),
        ("first token", "x generate's", 0.5, True),  # of the faster of the two
        ("attention, 8 x 4096", "ms", 2.5, False),
        ("all methods", "x flex alone", 1.7, False),
        ("batch of 32", "x one by one, prompts included", 9.0, False),
        ("BlockMask, 32k tokens", "ms", 0.25, True),
        ("memory at 32k beyond weights and cache", "GiB", 0.75, False),
        ("compilations for another length", "graphs", 0, True),
    ]


def test_lines_say_whether_and_by_how_much() -> None:
    lines = [str(row) for row in reached(RESULT, THEIRS)]
    assert lines[0] == (
        "   MISSED  decode, one row: 0.650 of the roofline (at least 0.78); flex compiled, 390.0 tokens/s, "
        "generate 0.100, generate, static 0.350"
    )
    assert lines[5] == "  reached  BlockMask, 32k tokens: 0.250 ms (at most 0.3)"
    assert lines[-1].endswith("0.000 graphs (at most 0); flex 0, flex compiled 0")


def test_other_shapes_have_other_targets() -> None:
    small = {**copy.deepcopy(RESULT), "shape": "llama-3.2-1b"}
    rows = {row.what: row for row in reached(small, THEIRS)}
    assert rows["decode, one row"].target == 0.65 and rows["decode, one row"].met
    assert rows["all methods"].met is None
    small["timings"][0]["compilations"] = 3
    assert not {row.what: row for row in reached(small, THEIRS)}["compilations for another length"].met


@pytest.mark.parametrize("missing", ["mask_milliseconds", "attention", "long_prompt"])
def test_what_was_not_measured_is_not_told(missing: str) -> None:
    result = {name: each for name, each in RESULT.items() if name != missing}
    assert len(reached(result, THEIRS)) == 7


def test_the_program_measures_and_says_what_it_reached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    measured = create_autospec(targets.measure, return_value=RESULT)  # it takes what the real one takes
    monkeypatch.setattr(targets, "measure", measured)
    monkeypatch.setattr(targets, "measure_parts", create_autospec(targets.measure_parts, return_value=RESULT))
    monkeypatch.setattr("sys.argv", ["targets.py", "--length", "650"])
    assert targets.main() == 1
    assert measured.call_args.kwargs["lengths"] == (650,) and "MISSED" in capsys.readouterr().out


def test_attention_is_timed_as_the_engine_attends(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where nothing is compiled for it: that it runs, and on what, not how long it takes."""
    made = []
    monkeypatch.setattr(parts, "milliseconds", lambda work: made.append(work()) or 1.0)
    monkeypatch.setattr(parts, "BACKENDS", {**parts.BACKENDS, "flex": parts.BACKENDS["flex-eager"]})
    told = parts.attention_times(3, 8, "cpu")
    assert told == {"segments": 3, "length": 8, "flex": 1.0, "dense_mask": 1.0, "causal_flash": 1.0}
    torch.testing.assert_close(made[0], made[1], atol=0.03, rtol=0)  # bfloat16
