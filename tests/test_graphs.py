"""Passes that are captured once and replayed by later requests, over memory that stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from replays import Recomputed, replaying

from flexdemo import ask
from flexdemo.config import Decoding
from flexdemo.encoding import Encoding, fused_view
from flexdemo.generation import Progress, Stream, generate
from flexdemo.graphs import Graphs
from flexdemo.model import LanguageModel
from flexdemo.prompt import SegmentedPrompt, build_prompt

QUESTION = "What is the capital of Peru?"
OTHERS = ["Name the capital of Peru.", "Peru's capital is which city?"]


def same(ours: Any, theirs: Any) -> None:
    for mine, their in zip(ours.results, theirs.results, strict=True):
        for a, b in zip(mine.views, their.views, strict=True):
            assert a.token_ids == b.token_ids, mine.method
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            np.testing.assert_allclose(a.segment_mass, b.segment_mass, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"mass": False},
        {"mass": True},
        {"ape_temperature": 0.7, "ape_scale": 0.9},
        {"weights": "confidence", "samples": 2},
        {"mask": "bidirectional"},
    ],
    ids=str,
)
def test_requests_over_kept_memory_are_those_over_their_own(
    lm: LanguageModel, plain: Any, options: dict[str, Any]
) -> None:
    """Different questions in turns: what one left behind would show in the next."""
    ours, capture = replaying(lm)
    asked = {"methods": ("all",), "max_new_tokens": 5, "candidates": 3, **options}
    for _ in range(3):
        for question, others in ((QUESTION, OTHERS), ("Who wrote Faust?", OTHERS[::-1]), (QUESTION, OTHERS[1:] * 2)):
            mine = ask(ours, question, others, **asked)
            same(mine, ask(lm, question, others, **asked))
            if "ape_scale" not in options:
                for name, (view, reference) in oracle.decode_views(plain, mine.to_dict()).items():
                    assert list(view["token_ids"]) == reference.token_ids, name
    assert capture.replayed > 3 * capture.captured > 0


def test_a_third_request_of_a_shape_captures_nothing_more(lm: LanguageModel) -> None:
    ours, capture = replaying(lm)
    counts = []
    for _ in range(4):
        ask(ours, QUESTION, OTHERS, methods=("flex",), max_new_tokens=4)
        counts.append(capture.captured)
    assert counts == [1, 3, 3, 3], "the step, then prompt and suffix"


def prompts_of(lm: LanguageModel) -> list[SegmentedPrompt]:
    return [build_prompt(lm.tokenizer, QUESTION * k, OTHERS[: k - 1]) for k in (1, 2, 3)]


def tokens(progress: Iterator[Progress]) -> list[tuple[int, ...]]:
    *_, last = progress
    return [answer.token_ids for answer in last.answers]


def test_rows_that_leave_take_what_is_theirs_along(lm: LanguageModel) -> None:
    ours, capture = replaying(lm)
    limits = (2, 3, 12)
    prompts = prompts_of(lm)
    streams = [Stream((fused_view(p, Encoding()),), prompt=i, limit=limits[i]) for i, p in enumerate(prompts)]
    for _ in range(3):
        assert tokens(generate(ours, prompts, streams, Decoding(12))) == tokens(
            generate(lm, prompts, streams, Decoding(12))
        )
    assert capture.replayed > capture.captured > 2


def test_requests_that_run_at_once_do_not_share_memory(lm: LanguageModel) -> None:
    """Token by token in turns, also when one is closed half-way: its memory then serves the next."""
    ours, _ = replaying(lm)
    prompts = [build_prompt(lm.tokenizer, question, OTHERS) for question in (QUESTION, "Who wrote Faust?")]

    def start(of: LanguageModel, prompt: SegmentedPrompt) -> Iterator[Progress]:
        return generate(of, [prompt], [Stream((fused_view(prompt, Encoding()),))], Decoding(8))

    want = [tokens(start(lm, prompt)) for prompt in prompts]
    for prompt in prompts:
        tokens(start(ours, prompt))
    for _ in range(2):
        left_half_way = start(ours, prompts[1])
        for _ in range(4):
            next(left_half_way)
        together = [start(ours, prompt) for prompt in prompts]
        *_, last = zip(*together, strict=True)
        assert [[progress.answers[0].token_ids] for progress in last] == want
        left_half_way.close()


def test_memory_that_is_kept_has_a_limit_and_the_oldest_goes_first() -> None:
    graphs = Graphs(100)
    forty = torch.zeros(10)  # bytes
    for key in "abc":
        graphs.keep(key, key.upper(), [forty])
    assert graphs.lend("a") is None
    assert graphs.lend("b") == "B"
    assert graphs.lend("b") is None, "it is lent"
    graphs.keep("d", "D", [forty, forty, forty])
    assert [graphs.lend(key) for key in "dc"] == [None, "C"], "too large by itself"
    graphs.keep("c", "C", [forty])
    graphs.clear()
    assert graphs.lend("c") is None
    few = Graphs(100, largest=50)
    few.keep("a", "A", [forty])
    few.keep("b", "B", [forty, forty])
    assert few.lend("b") is None and few.lend("a") == "A", "one that is too large pushes nobody out"


def test_a_gpu_keeps_an_eighth_of_its_memory_and_no_large_holder() -> None:
    graphs = Graphs.of(64 * 2**30)
    assert (graphs.most_bytes, graphs.largest) == (8 * 2**30, 2**30)
    assert Graphs.of(0).lend("a") is None


def test_a_failed_request_leaves_no_memory_to_the_next(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = replaying(lm)
    kept = []
    monkeypatch.setattr(ours.graphs, "keep", lambda key, *_: kept.append(key))
    prompt = prompts_of(lm)[0]

    def fail(logits: torch.Tensor, weights: Any) -> torch.Tensor:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        tokens(generate(ours, [prompt], [Stream((fused_view(prompt, Encoding()),), fail)], Decoding(4)))
    assert kept == []


def test_what_a_call_returns_is_the_callers_own() -> None:
    graphs = Graphs(10**6, capture=Recomputed())
    results = [graphs.call("double", lambda x: [2 * x], [torch.tensor([float(i)])])[0] for i in range(4)]
    assert [float(each) for each in results] == [0, 2, 4, 6]
