"""Passes that are captured once and replayed by later requests, over memory that stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from replays import Recomputed, replaying

from flexdemo.answers.ask import ask
from flexdemo.engine import flex
from flexdemo.engine.cache import Download
from flexdemo.engine.decode import Progress, generate
from flexdemo.engine.fast.compiled import compiled_pass
from flexdemo.engine.fast.compiler import ALONE
from flexdemo.engine.fast.graphs import Graphs, capture
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.recorders import Scoring
from flexdemo.errors import BackendError
from flexdemo.plan import Encoding, Stream, fused_view
from flexdemo.prompt import SegmentedPrompt, build_prompt
from flexdemo.request import Decoding

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
    questions = ((QUESTION, OTHERS), ("Who wrote Faust?", OTHERS[::-1]), (QUESTION, OTHERS[1:] * 2))
    theirs = [ask(lm, *question, **asked) for question in questions]
    if "ape_scale" not in options:
        for name, (view, reference) in oracle.decode_views(plain, theirs[1].to_dict()).items():
            assert list(view["token_ids"]) == reference.token_ids, name
    for _ in range(3):
        for question, expected in zip(questions, theirs, strict=True):
            same(ask(ours, *question, **asked), expected)
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
    assert (graphs.most_bytes, graphs.largest) == (8 * 2**30, 4 * 2**30)
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


def test_what_a_graph_holds_by_itself_counts() -> None:
    capture = Recomputed(nbytes=60)
    graphs = Graphs(100, capture=capture)
    replay = capture(lambda: torch.zeros(10))
    graphs.keep("a", "A", [torch.zeros(10), replay])  # 40 + 60 bytes
    assert graphs.lend("a") == "A"
    graphs.keep("a", "A", [torch.zeros(10), replay, replay])
    assert graphs.lend("a") is None


def test_what_is_too_large_to_be_kept_is_not_captured_again() -> None:
    """A capture waits for the GPU and empties its cache: for work that is replayed once it is all loss."""
    capture = Recomputed(nbytes=60)
    graphs = Graphs(100, largest=50, capture=capture)
    results = [graphs.call("double", lambda x: [2 * x], [torch.tensor([float(i)])])[0] for i in range(5)]
    assert [float(each) for each in results] == [0, 2, 4, 6, 8] and capture.captured == 1


class Gpu:
    """Stands in for torch.cuda: a capture whose end fails leaves the thread on the capture's stream, as torch does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, end: Exception | None = None) -> None:
        self.end = end
        self.default, self.side = (SimpleNamespace(device_index=1, name=name) for name in ("default", "side"))
        self.current, self.device = self.default, None
        self.handles: list[tuple[int, str]] = []  # the threads that made one, and on which stream
        parts = {
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "graph": self.graph,
            "device": self.on_device,
            "current_stream": lambda: self.current,
            "current_blas_handle": lambda: self.handles.append((threading.get_ident(), self.current.name)),
            "set_stream": lambda stream: setattr(self, "current", stream),
        }
        for name, part in parts.items():
            monkeypatch.setattr(torch.cuda, name, part)
        # Only a build for CUDA has it.
        monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None, raising=False)
        monkeypatch.setattr("flexdemo.engine.fast.graphs._capture_stream", lambda device: {1: self.side}[device])

    def on_device(self, device: Any) -> Any:
        self.device = device
        return nullcontext()

    @contextmanager
    def graph(self, graph: Any, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.current = stream
        try:
            yield
        finally:
            if self.end is not None:
                raise self.end
        self.current = self.default


def test_a_thread_has_its_handle_before_it_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS gives each thread one, and cannot make it during a capture: a page's workers capture what others ran."""
    gpu = Gpu(monkeypatch)
    thread = threading.Thread(target=capture, args=(lambda: None,))
    thread.start()
    thread.join()
    assert gpu.handles == [(thread.ident, "default")]


def refuse() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1024.00 GiB")


@pytest.mark.parametrize("end", [None, RuntimeError("operation failed due to a previous error during capture")])
def test_memory_that_runs_out_in_a_capture_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, end: Exception | None
) -> None:
    """So that the request is told to be smaller, a batch is halved, and what is kept for speed is let go."""
    gpu = Gpu(monkeypatch, end=end)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        capture(refuse, torch.device("cuda:1"))
    assert gpu.current is gpu.default and gpu.device == torch.device("cuda:1")


def test_a_spoilt_capture_says_why_and_leaves_the_thread_on_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, end=RuntimeError("operation failed due to a previous error during capture"))

    def synchronise() -> None:
        assert gpu.current is gpu.side
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(BackendError, match=r"cannot be captured.*\(operation not permitted"):
        capture(synchronise)
    assert gpu.current is gpu.default


def test_nothing_is_compiled_beside_a_capture(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that tries kernels waits for the whole device, which spoils the capture of another thread."""
    Gpu(monkeypatch)
    order, inside = [], threading.Event()

    def compiled() -> None:
        inside.wait()
        with ALONE:
            order.append("compiled")

    def work() -> None:
        inside.set()
        thread.join(0.2)
        order.append("captured")

    thread = threading.Thread(target=compiled)
    thread.start()
    capture(work)
    thread.join()
    assert order == ["captured", "compiled"]
    held: list[bool] = []

    def observe(given: Any, *_: Any, **__: Any) -> Any:
        other = threading.Thread(target=lambda: held.append(ALONE.acquire(blocking=False)))
        other.start()
        other.join()
        return given

    monkeypatch.setattr(torch, "compile", lambda *_, **__: observe)
    query, key = torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 3, 8)
    flex._compiled.cache_clear()
    flex.attend_flex_compiled(query, key, key, torch.zeros(1, 1, 2, 3), Scoring(1.0))
    flex._compiled.cache_clear()
    plan = SimpleNamespace(masks={0: torch.zeros(1, 1, 2, 3)}, recorder=None, ape=None, mixing=None)
    compiled_pass()(lm.model, torch.zeros(1, 2), torch.zeros(1, 2), plan, SimpleNamespace(layers=[]), {})
    assert held == [False, False]


def test_a_download_waits_for_every_device_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens may come from one GPU and attention masses from another; an event hears of one device's stream."""
    events: list[Any] = []

    class Event:
        def __init__(self) -> None:
            self.stream, self.waited = None, False
            events.append(self)

        def record(self, stream: Any) -> None:
            self.stream = stream

        def synchronize(self) -> None:
            self.waited = True

    class OnGpu:
        is_cuda = True

        def __init__(self, index: int) -> None:
            self.device = torch.device("cuda", index)

        def to(self, *_: Any, **__: Any) -> torch.Tensor:
            return torch.tensor([self.device.index])

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    coming = Download(OnGpu(0), None, OnGpu(1), OnGpu(0))
    assert not any(event.waited for event in events)
    assert coming.lists() == [[0], None, [1], [0]]
    assert sorted(event.stream for event in events) == ["stream of cuda:0", "stream of cuda:1"]
    assert all(event.waited for event in events)
