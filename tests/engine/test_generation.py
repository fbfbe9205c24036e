"""Encode, branch, decode: against the uncached oracle; batches; stopping; sampling; two requests at once."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import models
import oracle
import pytest
import torch

import flexdemo.answers.ask as asking
from flexdemo.answers.ask import ask, stream
from flexdemo.engine.decode import choose, generate, stop_reason
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.errors import InputError
from flexdemo.plan import Encoding, Stream, View
from flexdemo.prompt import SegmentedPrompt, build_prompt
from flexdemo.request import Decoding

QUESTION, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]
BACKENDS = ["sdpa", "flex-eager"]
GREEDY = Decoding(max_new_tokens=5)


def fused(prompt: SegmentedPrompt, strategy: str = "segment", positions: str = "aligned", **changes: Any) -> View:
    view = View("flex", Encoding(strategy, positions), prompt.weights, prompt.suffix_position(positions))
    return dataclasses.replace(view, **changes)


def answers(
    lm: LanguageModel, prompts: list[SegmentedPrompt], views: list[tuple[int, View]], **options: Any
) -> list[Any]:
    streams = [Stream((view,), prompt=index) for index, view in views]
    *_, last = generate(lm, prompts, streams, Decoding(**{"max_new_tokens": 5, **options}))
    return list(last.answers)


@contextmanager
def forwards(lm: LanguageModel) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of the token ids of every forward pass meanwhile."""
    shapes: list[tuple[int, ...]] = []
    hook = lm.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield shapes
    finally:
        hook.remove()


# --- property 10: cached decoding equals uncached recomputation


@pytest.mark.parametrize("positions", oracle.SCHEMES)
@pytest.mark.parametrize("strategy", [*oracle.STRATEGIES, *oracle.OWN_MASKS])
@pytest.mark.parametrize("weights", [None, "raw", [1, 2, 5], [0, 1, 3]], ids=str)
def test_property_10_cached_decode_equals_the_uncached_oracle(
    lm: LanguageModel, plain: Any, strategy: str, positions: str, weights: Any
) -> None:
    result = ask(lm, QUESTION, OTHERS, mask=strategy, positions=positions, weights=weights, max_new_tokens=4).to_dict()
    segments = result["prompt"]["segments"]
    assert result["prompt"]["position_ids"] == oracle.positions(segments, positions)
    ((view, reference),) = oracle.decode_views(plain, result, masses=True).values()
    assert list(view["token_ids"]) == reference.token_ids
    assert view["logprobs"] == pytest.approx(reference.logprobs, abs=1e-5)
    for mine, theirs in zip(view["segment_mass"], reference.masses, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("strategy", ["segment", "late_fusion", "bidirectional", *oracle.OWN_MASKS])
def test_property_10_on_flex_eager(prepared: Callable[..., LanguageModel], plain: Any, strategy: str) -> None:
    lm = prepared("llama", "flex-eager")
    result = ask(lm, QUESTION, OTHERS, mask=strategy, positions="right_aligned", weights=[1, 2, 5], max_new_tokens=3)
    ((view, reference),) = oracle.decode_views(plain, result.to_dict()).values()
    assert list(view["token_ids"]) == reference.token_ids
    assert view["logprobs"] == pytest.approx(reference.logprobs, abs=1e-5)


def test_strategies_and_schemes_answer_differently(lm: LanguageModel) -> None:
    """What the oracle confirms cell by cell would be no test if all strategies gave one distribution."""
    told = {
        (s, p): ask(lm, QUESTION, OTHERS, mask=s, positions=p, max_new_tokens=4)["flex"].logprobs
        for s, p in itertools.product(oracle.STRATEGIES, oracle.SCHEMES)
    }
    assert all(
        max(abs(a - b) for a, b in zip(x, y, strict=True)) > 1e-4 for x, y in itertools.combinations(told.values(), 2)
    )


def test_property_10_a_view_in_a_batch_equals_the_view_alone(lm: LanguageModel) -> None:
    together = ask(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=6)
    for method in ("flex", "origin", "per_prompt", "avg", "max", "hidden_avg", "leave_one_out", "causal"):
        alone = ask(lm, QUESTION, OTHERS, methods=(method,), max_new_tokens=6)
        for mine, theirs in zip(together[method].views, alone[method].views, strict=True):
            assert mine.token_ids == theirs.token_ids
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


@pytest.mark.parametrize(
    ("strategy", "backend"), [*((each, "sdpa") for each in oracle.STRATEGIES), ("segment", "flex-eager")]
)
def test_property_10_prompts_of_different_lengths_in_one_batch(
    prepared: Callable[..., LanguageModel], strategy: str, backend: str
) -> None:
    """Shorter prompts are padded between paraphrases and suffix: nobody sees the padding."""
    lm = prepared("llama", backend)
    asked = [(QUESTION, OTHERS), ("Name it.", []), ("Tell me the currency of Japan, please.", ["Who wrote it?"])]
    prompts = [build_prompt(lm.tokenizer, question, others) for question, others in asked]
    assert len({len(prompt.token_ids) for prompt in prompts}) == 3
    views = [(i, fused(prompt, strategy)) for i, prompt in enumerate(prompts)]
    views.append((2, fused(prompts[2], "causal", "sequential")))
    for (index, view), mine in zip(views, answers(lm, prompts, views), strict=True):
        (alone,) = answers(lm, [prompts[index]], [(0, view)])
        assert mine.token_ids == alone.token_ids
        assert mine.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
        n = len(view.weights) + 2  # segments of this prompt; a batch has columns for the prompt with the most
        for row, expected in zip(mine.masses[0], alone.masses[0], strict=True):
            assert row[:n] == pytest.approx(expected[:n], abs=1e-5) and sum(row[n:]) == 0


def test_property_10_one_prefill_an_encoding_then_one_token_a_step(lm: LanguageModel) -> None:
    """No prompt is computed twice: all views of an encoding share its prefill; then suffix; then one token a row."""
    with forwards(lm) as shapes:
        result = ask(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=3)
    body, suffix = result.prompt.suffix_start, len(result.prompt.segments[-1])
    copies = result.prompt.repeated().suffix_start
    # On one encoding: flex; P1 to P3 for all that read them alone; three rows each for hidden_avg, which mixes them,
    # and leave_one_out. Causal and repeat, two prompts, on another.
    assert shapes[:3] == [(1, body), (2, max(body, copies)), (1 + 3 + 3 + 3 + 2, suffix)]
    assert all(length == 1 and rows <= 18 for rows, length in shapes[3:])
    assert len(shapes) <= 3 + 2


def test_views_share_a_row_until_their_tokens_differ(lm: LanguageModel) -> None:
    with forwards(lm) as shapes:
        result = ask(lm, QUESTION, OTHERS, methods=("per_prompt", "avg", "max"), max_new_tokens=6)
    views = [view for each in result.results for view in each.views]
    rows = []
    for step in range(max(len(view.token_ids) for view in views)):
        fed = [(view.weights, view.token_ids[:step]) for view in views if len(view.token_ids) > step]
        rows.append(len(set(fed)))
    assert [rows for rows, _ in shapes[1:]] == rows and rows[0] == 3 < max(rows)


def test_mixed_rows_are_shared_with_nobody(lm: LanguageModel) -> None:
    with forwards(lm) as shapes:
        result = ask(lm, QUESTION, OTHERS, methods=("hidden_avg", "avg"), hidden_layer=1, max_new_tokens=4)
    assert shapes[1][0] == 6
    (alone,) = ask(lm, QUESTION, OTHERS, methods=("avg",), max_new_tokens=4).results
    assert result["avg"].token_ids == alone.token_ids
    assert result["avg"].logprobs == pytest.approx(alone.logprobs, abs=1e-5)


# --- properties 7 and 8 need views of their own


def test_property_8_weight_0_is_removal_with_the_suffix_position_held(lm: LanguageModel) -> None:
    prompt = build_prompt(lm.tokenizer, QUESTION, OTHERS, weights=[1, 0, 3])
    smaller = build_prompt(lm.tokenizer, QUESTION, OTHERS[1:], weights=[1, 3])
    held = prompt.suffix_position("aligned") + 3
    (hidden,) = answers(lm, [prompt], [(0, fused(prompt, suffix_position=held))])
    (removed,) = answers(lm, [smaller], [(0, fused(smaller, suffix_position=held))])
    assert hidden.token_ids == removed.token_ids
    assert hidden.logprobs == pytest.approx(removed.logprobs, abs=1e-5)
    assert all(row[2] == 0 for row in hidden.masses[0]), "weight 0 is a mask: no attention at all"


@pytest.mark.parametrize("only", [0, 1, 2])
def test_property_8_one_hot_weights_are_that_paraphrase_alone(lm: LanguageModel, only: int) -> None:
    prompt = build_prompt(lm.tokenizer, QUESTION, OTHERS)
    one_hot = tuple(float(i == only) for i in range(3))
    view = fused(prompt, weights=one_hot, suffix_position=prompt.suffix_position("aligned", only=only))
    alone = build_prompt(lm.tokenizer, [QUESTION, *OTHERS][only])
    (mine,), (theirs,) = answers(lm, [prompt], [(0, view)]), answers(lm, [alone], [(0, fused(alone))])
    assert mine.token_ids == theirs.token_ids
    assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


# --- stopping


class _Script:
    """Makes a model say given tokens: adds to the logits of the i-th token after the prompt."""

    def __init__(self, lm: LanguageModel, rows: list[list[int]]) -> None:
        self.lm, self.rows, self.step = lm, rows, -1

    def __enter__(self) -> _Script:
        def speak(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
            if self.step >= 0:  # the prefill comes first
                for row in range(out.logits.shape[0]):
                    script = self.rows[row]
                    out.logits[row, -1, script[min(self.step, len(script) - 1)]] += 1e6
            self.step += 1
            return out

        self.hook = self.lm.model.register_forward_hook(speak, with_kwargs=True)
        return self

    def __exit__(self, *error: Any) -> None:
        self.hook.remove()


def ids_of(lm: LanguageModel, *texts: str) -> list[int]:
    ids = [lm.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert all(len(each) == 1 for each in ids), "the test wants texts of one token"
    return [each[0] for each in ids]


def test_stops_at_an_end_token_which_is_told(lm: LanguageModel) -> None:
    a, b = ids_of(lm, "a", "b")
    with _Script(lm, [[a, b, 2, a]]):
        result = ask(lm, QUESTION, max_new_tokens=9)["flex"]
    assert result.token_ids == (a, b, 2) and result.stopped_by == "end token"
    assert (result.answer, result.generation) == ("ab", "ab")


def test_a_plain_prompt_stops_at_the_end_of_the_first_answer_line(lm: LanguageModel) -> None:
    a, newline = ids_of(lm, "a", "\n")
    with _Script(lm, [[newline, a, a, newline, a]]):
        result = ask(lm, QUESTION, max_new_tokens=9)["flex"]
    assert result.token_ids == (newline, a, a, newline), "blank lines before the answer do not end it"
    assert (result.stopped_by, result.answer) == ("end of line", "aa")


def test_a_chat_prompt_goes_on_past_a_line(prepared: Callable[..., LanguageModel]) -> None:
    lm = prepared("llama", "sdpa", chat=True)
    a, newline = ids_of(lm, "a", "\n")
    with _Script(lm, [[a, newline, a, 2]]):
        result = ask(lm, QUESTION, max_new_tokens=9)["flex"]
    assert result.token_ids == (a, newline, a, 2) and result.stopped_by == "end token"


def test_stops_at_the_length_asked_for(lm: LanguageModel) -> None:
    (a,) = ids_of(lm, "a")
    with _Script(lm, [[a]]):
        result = ask(lm, QUESTION, max_new_tokens=3)
    assert result["flex"].token_ids == (a, a, a) and result["flex"].stopped_by == "length" and result.done


def test_stop_reason_prefers_the_end_token(lm: LanguageModel) -> None:
    prompt = build_prompt(lm.tokenizer, QUESTION)
    assert stop_reason(lm, prompt, [5, 2], 2) == "end token"


def test_rows_of_finished_streams_leave_the_batch(lm: LanguageModel) -> None:
    """And the others go on as if nothing had happened."""
    plain_run = ask(lm, QUESTION, OTHERS, methods=("per_prompt",), max_new_tokens=6)
    stops = lm.end_ids | {plain_run["per_prompt"].views[1].token_ids[1]}
    lm_stopping = dataclasses.replace(lm, end_ids=stops)
    with forwards(lm) as shapes:
        result = ask(lm_stopping, QUESTION, OTHERS, methods=("per_prompt",), max_new_tokens=6)
    lengths = [len(view.token_ids) for view in result["per_prompt"].views]
    assert min(lengths) < max(lengths), "the test wants streams that end at different times"
    for step, (rows, _) in enumerate(shapes[2:], start=1):
        assert rows == sum(length > step for length in lengths)
    for view, whole in zip(result["per_prompt"].views, plain_run["per_prompt"].views, strict=True):
        assert view.token_ids == whole.token_ids[: len(view.token_ids)]
        assert view.logprobs == pytest.approx(whole.logprobs[: len(view.token_ids)], abs=1e-5)
        torch.testing.assert_close(
            torch.tensor(view.segment_mass), torch.tensor(whole.segment_mass[: len(view.token_ids)]), atol=1e-5, rtol=0
        )


# --- streaming and cancelling


def test_a_stream_grows_by_one_token_and_ends_done(lm: LanguageModel) -> None:
    told = list(stream(lm, QUESTION, OTHERS, methods=("all",), max_new_tokens=4))
    assert [max(len(v.token_ids) for r in result.results for v in r.views) for result in told] == list(range(len(told)))
    assert [result.done for result in told] == [False] * (len(told) - 1) + [True]
    for before, after in itertools.pairwise(told):
        for old, new in zip(before.results, after.results, strict=True):
            assert new.token_ids[: len(old.token_ids)] == old.token_ids
    assert told[-1]["flex"].token_ids == ask(lm, QUESTION, OTHERS, max_new_tokens=4)["flex"].token_ids


@pytest.mark.parametrize("taken", [1, 2, 4])
def test_closing_the_generator_stops_the_work(lm: LanguageModel, taken: int) -> None:
    with forwards(lm) as shapes:
        running = stream(lm, QUESTION, OTHERS, max_new_tokens=40)
        for _ in range(taken):
            next(running)
        running.close()
        done = len(shapes)
        assert done == taken, "the encoding, then one forward pass for each token that was taken"
        assert list(running) == []
    assert len(shapes) == done


def test_nothing_runs_before_the_first_result_is_asked_for(lm: LanguageModel) -> None:
    with forwards(lm) as shapes:
        stream(lm, QUESTION, OTHERS)
    assert shapes == []


def test_no_result_is_built_that_is_not_wanted(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all the steps those asked for, and the last one."""
    built: list[int] = []
    kind = asking.MethodResult
    monkeypatch.setattr(asking, "MethodResult", lambda *given: built.append(len(given[3])) or kind(*given))
    asked: list[int] = []

    def wanted(tokens: int) -> bool:
        asked.append(tokens)
        return tokens in (0, 3)

    told = list(stream(lm, QUESTION, OTHERS, max_new_tokens=8, wanted=wanted))
    longest = len(told[-1]["flex"].token_ids)
    assert longest > 4 and asked == list(range(longest + 1))
    assert built == [0, 3, longest] == [len(each["flex"].token_ids) for each in told]
    assert told[-1].done and not any(each.done for each in told[:-1])


def test_times_begin_with_the_request_its_prompt_and_masks_included(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = 0.2
    for name in ("build_prompt", "mask_facts"):
        whole = getattr(asking, name)
        monkeypatch.setattr(asking, name, lambda *a, _=whole, **k: (time.sleep(pause), _(*a, **k))[1])
    began = time.perf_counter()
    result = ask(lm, QUESTION, OTHERS, max_new_tokens=2)
    passed = time.perf_counter() - began
    assert 2 * pause <= result.seconds["encode"] <= result.seconds["first_token"] <= result.seconds["total"] <= passed
    assert 2 * pause <= result["flex"].seconds <= passed


def test_times_are_in_order(lm: LanguageModel) -> None:
    seconds = ask(lm, QUESTION, OTHERS, max_new_tokens=3).seconds
    assert 0 < seconds["encode"] < seconds["first_token"] < seconds["total"]
    assert seconds["decode"] == pytest.approx(seconds["total"] - seconds["first_token"])


# --- sampling


SAMPLING = dict(temperature=1.5, top_p=0.95, max_new_tokens=8)


def test_samples_are_reproducible_by_seed_and_differ_between_seeds(lm: LanguageModel) -> None:
    runs = [ask(lm, QUESTION, OTHERS, seed=seed, **SAMPLING)["flex"].token_ids for seed in (1, 1, 2, 3)]
    assert runs[0] == runs[1] and len(set(runs)) > 1


def test_samples_do_not_depend_on_other_methods_or_on_the_global_generator(lm: LanguageModel) -> None:
    alone = ask(lm, QUESTION, OTHERS, seed=5, **SAMPLING)["flex"].token_ids
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    together = ask(lm, QUESTION, OTHERS, methods=("all",), seed=5, **SAMPLING)
    assert together["flex"].token_ids == alone
    assert torch.equal(before, torch.random.get_rng_state())


LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draws(decoding: Decoding, logits: torch.Tensor = LOGITS, n: int = 400) -> Counter:
    made = torch.Generator().manual_seed(decoding.seed)
    return Counter(choose(logits.expand(n, -1), [decoding.temperature] * n, decoding.top_p, [made] * n).tolist())


@pytest.mark.parametrize(("top_p", "kept"), [(1e-9, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.96, 4), (1.0, 4)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int) -> None:
    logits = LOGITS + torch.tensor([1e-7, 0, 0, 0])  # so that rounding does not decide at 0.5
    assert set(draws(Decoding(temperature=1.0, top_p=top_p), logits)) == set(range(kept))


def test_a_nucleus_of_any_width_is_the_same_for_a_row_alone_and_beside_others() -> None:
    """Of 5,000 tokens: one row's nucleus has a few of them, another's more than are looked at first."""
    torch.manual_seed(0)
    narrow, wide = torch.randn(5000) * 2, torch.randn(5000) * 0.1
    rows, heats = torch.stack([narrow, wide, narrow]), [1.0, 1.0, 2.0]
    for top_p in (0.5, 0.9, 1.0):
        made = [torch.Generator().manual_seed(seed) for seed in range(3)]
        together = [choose(rows, heats, top_p, made).tolist() for _ in range(40)]
        for i in range(3):
            own = torch.Generator().manual_seed(i)
            alone = [int(choose(rows[i : i + 1], heats[i : i + 1], top_p, [own])) for _ in range(40)]
            assert alone == [drawn[i] for drawn in together]
            shares = torch.softmax(rows[i].double() / heats[i], dim=-1)
            above = [float(shares[shares > shares[token]].sum()) for token in alone]
            assert max(above) < top_p and len(set(alone)) > 1


def test_samples_follow_the_probabilities_and_the_temperature() -> None:
    n = 4000
    for temperature in (0.5, 1.0, 2.0):
        expected = torch.softmax(LOGITS / temperature, -1)
        counts = draws(Decoding(temperature=temperature), n=n)
        for token, probability in enumerate(expected.tolist()):
            assert counts[token] / n == pytest.approx(probability, abs=0.03)


def test_temperature_0_is_greedy_whatever_top_p_and_seed(lm: LanguageModel) -> None:
    greedy = ask(lm, QUESTION, OTHERS, max_new_tokens=4)["flex"].token_ids
    assert ask(lm, QUESTION, OTHERS, max_new_tokens=4, top_p=0.3, seed=9)["flex"].token_ids == greedy
    assert ask(lm, QUESTION, OTHERS, max_new_tokens=4, temperature=2.0, top_p=1e-9)["flex"].token_ids == greedy


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5e-324])
def test_no_temperature_is_too_small(temperature: float) -> None:
    assert set(draws(Decoding(temperature=temperature), LOGITS * 40, n=5)) == {0}


def test_no_temperature_is_too_large() -> None:
    assert set(draws(Decoding(temperature=1e300))) == {0, 1, 2, 3}


# --- two requests at once


CASES = [
    dict(question=QUESTION, paraphrases=OTHERS, mask="segment", methods=("all",), max_new_tokens=4),
    dict(
        question="Name the currency of Japan.",
        paraphrases=["Tell me."],
        mask="causal",
        weights=[1, 3],
        max_new_tokens=6,
    ),
]


def tokens_of(result: Any) -> list[Any]:
    return [(view.name, view.token_ids, view.logprobs) for r in result.results for view in r.views]


def assert_same(mine: list[Any], alone: list[Any]) -> None:
    for (name, ids, logprobs), (name_alone, ids_alone, logprobs_alone) in zip(mine, alone, strict=True):
        assert (name, ids) == (name_alone, ids_alone)
        assert logprobs == pytest.approx(logprobs_alone, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_interleaved_requests_answer_as_each_alone(prepared: Callable[..., LanguageModel], backend: str) -> None:
    lm = prepared("llama", backend)
    alone = [tokens_of(ask(lm, **case)) for case in CASES]
    running = [stream(lm, **case) for case in CASES]
    last: list[Any] = [None, None]
    for pair in itertools.zip_longest(*running):
        last = [new or old for new, old in zip(pair, last, strict=True)]
    for mine, expected in zip(last, alone, strict=True):
        assert_same(tokens_of(mine), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.timeout(120)
def test_two_threads_at_once_answer_as_each_alone(prepared: Callable[..., LanguageModel], backend: str) -> None:
    lm = prepared("llama", backend)
    alone = [tokens_of(ask(lm, **case)) for case in CASES]
    told: list[list[Any]] = [[], []]
    errors: list[BaseException] = []
    start = threading.Barrier(2)

    def work(i: int) -> None:
        try:
            start.wait()
            for _ in range(2):
                told[i].append(tokens_of(ask(lm, **CASES[i])))
        except BaseException as error:  # a thread's error would otherwise pass unseen
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for i in range(2):
        assert len(told[i]) == 2
        for mine in told[i]:
            assert_same(mine, alone[i])


# --- what cannot be asked


def test_too_long_for_the_context_is_named_before_any_work(lm: LanguageModel) -> None:
    long = "What is the capital of Peru? " * 90
    with forwards(lm) as shapes, pytest.raises(InputError, match=r"need \d+ tokens and llama holds 1024: use fewer"):
        ask(lm, long, [long], max_new_tokens=30)
    assert shapes == []


def test_too_long_for_the_context_is_named_before_its_mask_is_counted(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells grow with the square of a length that nothing bounds yet."""
    counted = []
    monkeypatch.setattr("flexdemo.answers.ask.mask_facts", lambda *given: counted.append(given))
    with pytest.raises(InputError, match=r"llama holds 1024"):
        ask(lm, "What is the capital of Peru? " * 200)
    assert counted == []


def test_a_token_without_an_embedding_is_named_before_any_work(prepared: Callable[..., LanguageModel]) -> None:
    """A tokenizer with more ids than the model has embeddings: only prompts that use one of them are refused."""
    tokenizer = models.tokenizer()
    known, above = (tokenizer.encode(f"Q: {text}\n", add_special_tokens=False) for text in ("a", QUESTION))
    rows = 1 + max(*known, *tokenizer.encode("A:"))
    assert max(above) >= rows
    first = next(token for token in above if token >= rows)
    lm = prepared("llama", "sdpa", vocab_size=rows)
    assert ask(lm, "a", ["a"], max_new_tokens=2)["flex"].token_ids
    message = rf"gives '{tokenizer.decode([first])}' the id {first}, and llama has only {rows} embeddings"
    for question, others in ((QUESTION, []), ("a", [QUESTION])):
        with forwards(lm) as shapes, pytest.raises(InputError, match=message):
            ask(lm, question, others, max_new_tokens=2)
        assert shapes == []
    with pytest.raises(InputError, match=message):
        list(generate(lm, [build_prompt(lm.tokenizer, QUESTION)], [], GREEDY))


def test_the_longest_answer_that_fits_is_allowed(prepared: Callable[..., LanguageModel]) -> None:
    lm = prepared("llama", "sdpa", max_position_embeddings=40)
    room = 40 - len(build_prompt(lm.tokenizer, "Name it.").token_ids)
    (a,) = ids_of(lm, "a")
    with _Script(lm, [[a]]):
        assert len(ask(lm, "Name it.", max_new_tokens=room)["flex"].token_ids) == room
    with pytest.raises(InputError, match=r"holds 40"):
        ask(lm, "Name it.", max_new_tokens=room + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"temperature": -1.0}, "temperature must be (0 or more|a finite number)"),
        ({"temperature": float("nan")}, "temperature must be (0 or more|a finite number)"),
        ({"temperature": float("inf")}, "temperature must be (0 or more|a finite number)"),
        ({"top_p": 0.0}, "top_p must be (above 0 and at most 1|a finite number)"),
        ({"top_p": 1.1}, "top_p must be (above 0 and at most 1|a finite number)"),
        ({"top_p": float("nan")}, "top_p must be (above 0 and at most 1|a finite number)"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**70}, "seed must be from 0"),
    ],
)
def test_decoding_options_out_of_range_are_named(lm: LanguageModel, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(lm, QUESTION, **options)


def test_prompts_with_different_suffixes_cannot_share_a_batch(lm: LanguageModel) -> None:
    first = build_prompt(lm.tokenizer, QUESTION)
    second = dataclasses.replace(
        first, segments=(*first.segments[:-1], dataclasses.replace(first.segments[-1], end=99))
    )
    with pytest.raises(ValueError, match=r"same suffix"):
        next(generate(lm, [first, second], [Stream((fused(first),))], GREEDY))


@pytest.mark.parametrize(
    ("strategy", "backend", "chunk"),
    [*((strategy, "sdpa", 32) for strategy in oracle.STRATEGIES), ("segment", "flex-eager", 128)],
)
def test_a_long_prompt_is_read_in_several_passes(
    strategy: str, backend: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bounds memory must not change an answer: passes of few tokens against the oracle's whole recomputation."""
    plain = models.random_model("llama")
    lm = prepare(models.random_model("llama"), models.tokenizer(), name="llama", backend=backend)
    monkeypatch.setattr("flexdemo.engine.reading.CHUNK", chunk)
    with forwards(lm) as shapes:
        result = ask(
            lm, QUESTION * (chunk // 6), [QUESTION * (chunk // 8), "Name it."], mask=strategy, max_new_tokens=3
        )
    passes = [length for _, length in shapes if length > 4]
    assert sum(passes) == result.prompt.suffix_start
    assert len(passes) == (1 if strategy == "bidirectional" else -(-sum(passes) // chunk))
    assert sum(passes) > 2 * chunk
    for name, (view, reference) in oracle.decode_views(plain, result.to_dict()).items():
        assert list(view["token_ids"]) == reference.token_ids, name
        assert view["logprobs"] == pytest.approx(reference.logprobs, abs=2e-5)
