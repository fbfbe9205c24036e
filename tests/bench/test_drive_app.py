"""`python app.py` through every endpoint and button as on ZeroGPU. Every way, on a GPU: tests/bench/drive_app.py."""

from __future__ import annotations

import sys

import pytest
from drive_app import Report, Wrong, check_answer, drive


@pytest.fixture(scope="module")
def report() -> Report:
    return drive("bundled", ("zerogpu",))


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks here")
def test_everything_that_runs_the_model_works(report: Report) -> None:
    assert not report.wrong, "\n".join(report.lines)
    done = [line for line in report.lines if line.startswith("ok    zerogpu ")]
    for what in ("/generate all methods", "/mask", "/paraphrase", "/methods", "button run", "button check", "THE WAY"):
        assert [line for line in done if what in line], (what, report.lines)


def test_what_is_wrong_would_be_told() -> None:
    report = Report()

    def fail() -> str:
        raise Wrong("a reason")

    report.step("plain", "a step", fail)
    assert report.wrong == ["plain: a step: Wrong: a reason"] and report.lines[0].startswith("WRONG")
    view = {"token_ids": [1], "segment_mass": [[0.5, 0.5]]}
    result = {"method": "flex", "token_ids": [1], "logprobs": [-1.0], "views": [view]}
    prompt = {"token_ids": [1], "segment_ids": [0], "position_ids": [0]}
    told = {
        "prompt": prompt, "results": [result], "seconds": {"first_token": 0.1, "decode": 0.1}, "backend": "sdpa",
        "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    assert check_answer(told) == "sdpa float32 cpu, first token 100 ms"
    for odd in (
        {"logprobs": [float("nan")]},
        {"token_ids": []},
        {"views": [{**view, "segment_mass": [[0.5, 0.1]]}]},
        {"views": [{**view, "segment_mass": []}]},
    ):
        with pytest.raises(Wrong):
            check_answer({**told, "results": [{**result, **odd}]})
    with pytest.raises(Wrong, match="out of time"):
        check_answer({**told, "stopped": "60 s"})
