"""Attention: backends agree with each other and with a softmax written out; guards; many shapes in one process."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import oracle
import pytest
import torch

from flexdemo.answers.ask import ask
from flexdemo.engine import attention, flex
from flexdemo.engine.attention import BACKENDS, Plan, UnsupportedModelError, segment_attention
from flexdemo.engine.blocks import Layout, layout_of
from flexdemo.engine.cache import PromptCache, branch
from flexdemo.engine.recorders import MassRecorder, Scoring, attention_probabilities
from flexdemo.errors import BackendError
from flexdemo.prompt import Segment

QUESTION, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]
PIECES = (
    ("prefix", "prefix", 0, 2),
    ("P1", "paraphrase", 2, 5),
    ("P2", "paraphrase", 5, 7),
    ("suffix", "suffix", 7, 8),
)
SEGMENTS = [Segment(*piece, "") for piece in PIECES]


def softmax_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scale: float, softcap: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain softmax attention in float64, head by head and query by query: outputs (B, H, q, D) and weights."""
    rows, heads, length, _ = q.shape
    groups = heads // k.shape[1]
    out, weights = torch.zeros(rows, heads, length, v.shape[-1]), torch.zeros(rows, heads, length, k.shape[2])
    for b in range(rows):
        for h in range(heads):
            for i in range(length):
                scores = [float(q[b, h, i].double() @ key.double()) * scale for key in k[b, h // groups]]
                if softcap is not None:
                    scores = [softcap * math.tanh(s / softcap) for s in scores]
                scores = [s + float(bias[b, 0, i, j]) for j, s in enumerate(scores)]
                largest = max(scores)
                exps = [math.exp(s - largest) for s in scores]
                shares = torch.tensor([e / math.fsum(exps) for e in exps])
                weights[b, h, i] = shares
                out[b, h, i] = shares @ v[b, h // groups]
    return out, weights


def qkv(rows: int, heads: int, kv_heads: int, q: int, kv: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    made = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(rows, *shape, generator=made) for shape in ((heads, q, 8), (kv_heads, kv, 8), (kv_heads, kv, 8))
    )


def module() -> Any:
    return SimpleNamespace()


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("backend", "strip"), [("sdpa", attention.STRIP), ("sdpa", 3), ("flex-eager", 3)])
def test_property_11_backends_equal_a_softmax_written_out_over_a_prompt(
    backend: str, strip: int, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "STRIP", strip)
    q, k, v = qkv(2, *heads, 8, 8)
    tokens = [oracle.Token("prefix")] * 2 + [oracle.Token("paraphrase", 1)] * 3 + [oracle.Token("paraphrase", 2)] * 2
    tokens.append(oracle.Token("suffix"))
    texts = ("segment", "segment+P2>P1-suffix>P1")
    bias = torch.cat([oracle.bias(text, tokens, [1.0, 1.0]) for text in texts])  # a row each
    rows = [layout_of(text, SEGMENTS) for text in texts]
    layout = Layout(torch.cat([row.owners for row in rows]), torch.cat([row.tables for row in rows]))
    plan = Plan(backend, {q.device: BACKENDS[backend].prompt_mask(layout)})
    out, _ = segment_attention(module(), q, k, v, None, scaling=0.3, segment_plan=plan)
    expected, _ = softmax_attention(q, k, v, bias, 0.3)
    torch.testing.assert_close(out.transpose(1, 2), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("backend", ["sdpa", "flex-eager"])
def test_property_11_backends_equal_a_softmax_written_out_under_a_bias(backend: str, queries: int) -> None:
    """The suffix and every decode step: rows with biases of their own, some keys hidden, some weighted."""
    q, k, v = qkv(3, 4, 2, queries, 10, seed=1)
    bias = torch.rand(3, 1, queries, 10, generator=torch.Generator().manual_seed(2)).log()
    bias[0, ..., 3:6] = -math.inf
    bias[2, ..., 0] = -math.inf
    out, _ = segment_attention(module(), q, k, v, None, scaling=0.3, segment_plan=Plan(backend, {q.device: bias}))
    expected, _ = softmax_attention(q, k, v, bias, 0.3)
    torch.testing.assert_close(out.transpose(1, 2), expected, atol=1e-5, rtol=0)


def test_soft_capping_comes_before_weights_and_mask() -> None:
    q, k, v = qkv(2, 4, 2, 1, 10, seed=3)
    bias = torch.rand(2, 1, 1, 10, generator=torch.Generator().manual_seed(2)).log()
    plan = Plan("flex-eager", {q.device: bias})
    out, _ = segment_attention(module(), q, k, v, None, scaling=0.9, segment_plan=plan, softcap=1.5)
    expected, shares = softmax_attention(q, k, v, bias, 0.9, softcap=1.5)
    torch.testing.assert_close(out.transpose(1, 2), expected, atol=1e-5, rtol=0)
    told = attention_probabilities(q, k, bias, Scoring(0.9, 1.5))
    torch.testing.assert_close(told, shares, atol=1e-6, rtol=0)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_property_14_probabilities_are_a_plain_softmax(heads: tuple[int, int]) -> None:
    """No temperature and no scale on paraphrases: T = S = 1."""
    q, k, v = qkv(2, *heads, 3, 9, seed=4)
    bias = torch.rand(2, 1, 3, 9, generator=torch.Generator().manual_seed(5)).log()
    bias[..., 4] = -math.inf
    _, shares = softmax_attention(q, k, v, bias, 8**-0.5)
    told = attention_probabilities(q, k, bias, Scoring(8**-0.5))
    torch.testing.assert_close(told, shares, atol=1e-6, rtol=0)
    assert float(told[..., 4].abs().max()) == 0.0


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("chosen", [None, [4, 1, 1], [2]])
def test_rows_on_trunks_attend_as_those_with_copies(heads: tuple[int, int], chosen: list[int] | None) -> None:
    """Two prompts of 5 and 3 tokens in 5 slots, read by five rows that have 3 slots of their own."""
    sources, length, own = [(0, 0), (1, 0), (0, 0), (1, 0), (0, 0)], 5, 3
    _, *long = qkv(1, *heads, 1, 5, seed=1)
    _, *short = qkv(1, *heads, 1, 3, seed=2)
    read = [PromptCache.of(long), PromptCache.of(short)]
    bias = torch.rand(5, 1, 2, length + own, generator=torch.Generator().manual_seed(3)).log()
    bias[[1, 3], ..., 3:5] = bias[..., 7] = -math.inf  # padding, and a slot that comes later
    q, k, v = qkv(5, *heads, 2, 2, seed=4)
    made = {shared: branch(read, sources, length=length, capacity=length + own, shared=shared) for shared in (0, 1)}
    if chosen:
        made = {shared: each.select(chosen) for shared, each in made.items()}
        bias, q, k, v = (each[chosen] for each in (bias, q, k, v))
    outs = []
    for shared, cache in made.items():
        cache.point(length, length + 2)
        keys, values = cache.update(k, v, 0)
        assert keys.shape[2] == (own if shared else length + own)
        plan = Plan("sdpa", {q.device: bias}, MassRecorder({q.device: torch.eye(8).expand(len(q), 8, 8)}))
        plan = replace(plan, trunks=cache.trunks())
        out, _ = segment_attention(module(), q, keys, values, None, scaling=0.3, segment_plan=plan)
        outs.append((out, plan.recorder.take()[0], keys, values))
    (out, mass, keys, values), (told, told_mass, *_) = outs
    expected, shares = softmax_attention(q, keys, values, bias, 0.3)
    torch.testing.assert_close(told.transpose(1, 2), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(told_mass[0], shares[:, :, -1], atol=1e-6, rtol=0)
    torch.testing.assert_close((told, told_mass), (out, mass), atol=1e-5, rtol=0)


def test_other_keys_than_the_cache_returned_are_refused_where_rows_share_a_prompt() -> None:
    q, k, v = qkv(2, 2, 2, 1, 4)
    cache = branch([PromptCache.of([k[:1], v[:1]])], [(0, 0), (0, 0)], length=4, capacity=5, shared=True)
    plan = Plan("sdpa", {q.device: torch.zeros(2, 1, 1, 5)}, trunks=cache.trunks())
    cache.point(4, 5)
    keys, values = cache.update(k[:, :, :1], v[:, :, :1], 0)
    with pytest.raises(UnsupportedModelError, match="other keys than its cache returned"):
        segment_attention(module(), q, keys.clone(), values, None, segment_plan=plan)
    with pytest.raises(UnsupportedModelError, match=r"prompt and answer \(5\)"):
        segment_attention(module(), q, keys, values, None, segment_plan=plan, sliding_window=4)


def test_the_default_scale_is_one_over_the_root_of_the_width() -> None:
    q, k, v = qkv(1, 2, 2, 2, 4)
    plan = Plan("sdpa", {q.device: torch.zeros(1, 1, 2, 4)})
    out, _ = segment_attention(module(), q, k, v, None, segment_plan=plan)
    expected, _ = softmax_attention(q, k, v, torch.zeros(1, 1, 2, 4), 8**-0.5)
    torch.testing.assert_close(out.transpose(1, 2), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sliding_window": 3}, "window of 3 tokens, shorter"),
        ({"s_aux": torch.zeros(2)}, "attention sinks"),
        ({"position_bias": torch.zeros(1)}, "position bias"),
        ({"segment_plan": None}, "without its plan"),
    ],
)
def test_what_would_make_the_mask_a_lie_is_refused(arguments: dict, message: str) -> None:
    q, k, v = qkv(1, 2, 2, 2, 4)
    plan = Plan("sdpa", {q.device: torch.zeros(1, 1, 2, 4)})
    with pytest.raises(UnsupportedModelError, match=message):
        segment_attention(module(), q, k, v, None, **{"segment_plan": plan, **arguments})


def test_a_mask_that_a_layer_makes_itself_is_refused() -> None:
    """Doge multiplies a mask of its own into the one it is given; to ignore it would compute another model."""
    q, k, v = qkv(1, 2, 2, 2, 4)
    plan = Plan("sdpa", {q.device: torch.zeros(1, 1, 2, 4)})
    with pytest.raises(UnsupportedModelError, match=r"mask of its own"):
        segment_attention(module(), q, k, v, torch.zeros(1, 1, 2, 4), segment_plan=plan)


def test_a_window_as_long_as_the_keys_hides_nothing() -> None:
    q, k, v = qkv(1, 2, 2, 2, 4)
    plan = Plan("sdpa", {q.device: torch.zeros(1, 1, 2, 4)})
    free, _ = segment_attention(module(), q, k, v, None, segment_plan=plan)
    windowed, _ = segment_attention(module(), q, k, v, None, segment_plan=plan, sliding_window=4)
    assert torch.equal(free, windowed)


def test_sdpa_refuses_soft_capping_instead_of_dropping_it() -> None:
    q, k, v = qkv(1, 2, 2, 2, 4)
    plan = Plan("sdpa", {q.device: torch.zeros(1, 1, 2, 4)})
    with pytest.raises(BackendError, match=r"caps its attention scores.*flex-eager"):
        segment_attention(module(), q, k, v, None, segment_plan=plan, softcap=5.0)


@pytest.mark.parametrize("strategy", [*oracle.STRATEGIES, *oracle.OWN_MASKS])
def test_property_11_sdpa_and_flex_eager_give_one_answer(prepared: Callable[..., Any], strategy: str) -> None:
    told = []
    for backend in ("sdpa", "flex-eager"):
        lm = prepared("llama", backend)
        result = ask(lm, QUESTION, OTHERS, mask=strategy, weights=[1, 2, 1], max_new_tokens=4)
        assert result.backend == backend and all(r.backend == backend for r in result.results)
        told.append(result["flex"].views[0])
    assert told[0].token_ids == told[1].token_ids
    assert told[0].logprobs == pytest.approx(told[1].logprobs, abs=1e-5)
    assert torch.tensor(told[0].segment_mass).sub(torch.tensor(told[1].segment_mass)).abs().max() < 1e-5


@pytest.mark.timeout(300)
def test_property_11_compiled_flex_gives_the_same_answer(prepared: Callable[..., Any], compiler: str) -> None:
    small = dict(num_hidden_layers=1)
    expected = ask(prepared("llama", "sdpa", **small), QUESTION, OTHERS, max_new_tokens=3)
    result = ask(prepared("llama", "flex", **small), QUESTION, OTHERS, max_new_tokens=3)
    assert result.backend == "flex"
    assert result["flex"].token_ids == expected["flex"].token_ids
    assert result["flex"].logprobs == pytest.approx(expected["flex"].logprobs, abs=1e-5)
    own, mine = (
        ask(prepared("llama", b, **small), QUESTION, OTHERS, mask=oracle.OWN_MASKS[0]) for b in ("sdpa", "flex")
    )
    assert mine["flex"].token_ids == own["flex"].token_ids
    assert mine["flex"].logprobs == pytest.approx(own["flex"].logprobs, abs=1e-5)


@pytest.mark.timeout(300)
def test_many_lengths_and_strategies_in_one_process(prepared: Callable[..., Any]) -> None:
    """Uncompiled FlexAttention runs through Dynamo too: no recompilation limit is hit, nothing slows down with use."""
    one_layer = dict(num_hidden_layers=1)
    eager, dense = prepared("llama", "flex-eager", **one_layer), prepared("llama", "sdpa", **one_layer)
    for length, strategy in zip(range(1, 37), itertools.cycle(oracle.STRATEGIES), strict=False):
        question = "Peru " * length + "?"
        options = dict(mask=strategy, max_new_tokens=2, methods=("flex",))
        got, expected = (ask(lm, question, OTHERS[:1], **options)["flex"] for lm in (eager, dense))
        assert got.token_ids == expected.token_ids


def test_compiled_flex_may_meet_many_shapes_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo's settings are each thread's own: a limit raised in one thread left the page's workers with 8 shapes."""
    limits: list[int] = []

    def kernel(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        limits.append(torch._dynamo.config.recompile_limit)
        return query

    monkeypatch.setattr(flex, "_compiled", lambda kernel_of_ours, device_type: kernel)
    q, k, v = qkv(1, 2, 2, 1, 4)

    def attend() -> None:
        attention.attend_flex_compiled(q, k, v, torch.zeros(1, 1, 1, 4), Scoring(1.0))

    for _ in range(2):
        thread = threading.Thread(target=attend)
        thread.start()
        thread.join()
    assert len(limits) == 2 and min(limits) >= 256


def test_a_kernel_that_cannot_be_compiled_names_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise torch._dynamo.exc.FailOnRecompileLimitHit("too many shapes\nand a long story")

    monkeypatch.setattr(flex, "_compiled", lambda kernel_of_ours, device_type: kernel)
    q, k, v = qkv(1, 2, 2, 1, 4)
    with pytest.raises(BackendError, match=r"cannot be compiled here \(too many shapes\): use flex-eager or sdpa"):
        attention.attend_flex_compiled(q, k, v, torch.zeros(1, 1, 1, 4), Scoring(1.0))


@pytest.mark.parametrize("strip", [4, 5, 13])
def test_sdpa_looks_in_strips_at_what_is_seen(monkeypatch: pytest.MonkeyPatch, strip: int) -> None:
    """The same outputs as over the whole mask, padding behind the prompt too, of much less work."""
    plain, done = attention.scaled_dot_product_attention, []

    def counted(query: torch.Tensor, key: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        done.append(query.shape[2] * key.shape[2])
        return plain(query, key, *args, **options)

    starts = range(2, 62, 10)
    segments = [Segment("prefix", "prefix", 0, 2, "")]
    segments += [Segment(f"P{i}", "paraphrase", at, at + 10, "") for i, at in enumerate(starts, start=1)]
    segments.append(Segment("suffix", "suffix", 62, 66, ""))
    q, k, v = qkv(1, 4, 2, 80, 80)
    monkeypatch.setattr(attention, "scaled_dot_product_attention", counted)
    for text, most in (("causal", 0.6), ("segment", 0.5), ("segment+P6>P2", 0.5)):
        mask = BACKENDS["sdpa"].prompt_mask(layout_of(text, segments, pads=14))
        expected = attention.attend_sdpa(q, k, v, mask, Scoring(0.3))
        done.clear()
        with monkeypatch.context() as patched:
            patched.setattr(attention, "STRIP", strip)
            out = attention.attend_sdpa(q, k, v, mask, Scoring(0.3))
        assert torch.allclose(out, expected, atol=1e-6) and sum(done) < most * 80 * 80, (text, sum(done) / 6400)


def test_sdpa_takes_an_output_whose_rows_are_not_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's memory-efficient kernel returns such outputs; one-token queries regroup their heads afterwards."""
    plain = attention.scaled_dot_product_attention

    def strided(*args: torch.Tensor, **options: object) -> torch.Tensor:
        return plain(*args, **options).transpose(1, 2).contiguous().transpose(1, 2)

    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 1, 8), torch.randn(3, 2, 5, 8), torch.randn(3, 2, 5, 8)
    bias = torch.zeros(3, 1, 1, 5)
    expected = attention.attend_sdpa(query, key, value, bias, Scoring(0.3))
    monkeypatch.setattr(attention, "scaled_dot_product_attention", strided)
    assert torch.equal(attention.attend_sdpa(query, key, value, bias, Scoring(0.3)), expected)


def test_a_bias_gets_tiles_of_its_own_wherever_torch_does_not_split_the_keys() -> None:
    """torch splits for one row, few queries and a power of two of heads to a key head (2.11 and 2.13)."""
    for rows, length, groups in ((1, 1, 1), (1, 3, 1), (1, 1, 4), (1, 8, 8)):
        assert flex.splits(rows, length, groups) and "BLOCK_M" not in (flex.tiles(rows, length, groups, 128) or {})
    for rows, length, groups in ((2, 1, 4), (1, 65, 1), (1, 2, 3), (1, 2, 7)):  # 3: Llama 3.2 3B; 7: Qwen2.5 0.5B
        options = flex.tiles(rows, length, groups, 128)
        assert not flex.splits(rows, length, groups) and options["FORCE_USE_FLEX_ATTENTION"] and options["BLOCK_M"]


@pytest.mark.parametrize("width", [64, 128, 256, 512, 1024])
def test_tiles_for_a_step_fit_the_least_shared_memory(width: int) -> None:
    """A stage holds keys, values and the bias in fp32, beside the queries: 99 KiB from compute capability 8.0 on."""
    options = flex.tiles(3, 3, 1, width)
    queries, keys, stages = (options[name] for name in ("BLOCK_M", "BLOCK_N", "num_stages"))
    assert queries == 16 and 128 % keys == 0 and keys >= 16
    assert queries * width + stages * keys * (2 * width + 4 * queries) <= 99 * 1024


@pytest.mark.parametrize(
    ("width", "itemsize", "least"),
    [(64, 2, 57344), (128, 2, 98304), (256, 2, 106496), (64, 4, 81920), (128, 4, 82176), (256, 4, 69760)],
)
def test_tiles_are_what_was_compiled_and_fits(width: int, itemsize: int, least: int) -> None:
    """`least` is what Triton 3.6 gives the kernel of torch 2.11 for compute capability 9.0, in bytes of 232,448.

    Written out, a stage holds the keys, the values and the bias in fp32, beside the queries.
    """
    options = flex.tiles(3, 17, 1, width * itemsize)
    queries, keys = options["BLOCK_M"], options["BLOCK_N"]
    assert 128 % queries == 128 % keys == 0 and min(queries, keys) >= 16
    padded = 1 << (width - 1).bit_length()
    bound = queries * padded * itemsize + options["num_stages"] * keys * (2 * padded * itemsize + 4 * queries)
    assert least <= bound + 2048 and bound <= 166_912  # of compute capability 8.0
