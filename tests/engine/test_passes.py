"""The compiled forward pass and joined linear layers, traced on the CPU; what a GPU adds is in test_gpu.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import models
import numpy as np
import oracle
import pytest
import torch
from test_combinations import alone
from torch._dynamo.utils import counters

import flexdemo
from flexdemo.answers.heads import attention_map
from flexdemo.engine import attention, flex
from flexdemo.engine.cache import PromptCache
from flexdemo.engine.fast import compiled as linears
from flexdemo.engine.fast.compiled import Lone, Sibling, call_of, compiled_pass, join_siblings, next_scores
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.errors import BackendError

QUESTION = "What is the capital of Peru?"
OTHERS = ["Name it.", "Which city is Peru's capital?", "Tell me the capital city of Peru, please!"]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def traced() -> Iterator[LanguageModel]:
    """A model whose forward pass is traced as one graph and then run operation by operation.

    It is given what a GPU is given for a step, the only place that compiles: FlexAttention over a bias, whose keys are
    split for one row.
    """
    torch._dynamo.reset()
    with pytest.MonkeyPatch.context() as patch:
        for module in (flex, attention):
            patch.setattr(module, "on_gpu", lambda tensor: True)
        yield _traced()


def _traced() -> LanguageModel:
    """Of one layer, as tracing is what takes time."""
    lm = prepare(models.random_model("llama", num_hidden_layers=1), models.tokenizer(), name="llama", backend="sdpa")
    join_siblings(lm.model)
    return replace(lm, compiled=compiled_pass("aot_eager"))


def test_a_compiled_pass_gives_the_oracles_tokens(traced: LanguageModel) -> None:
    plain = models.random_model("llama", num_hidden_layers=1)
    result = flexdemo.ask(traced, QUESTION, OTHERS, methods=("all",), weights=[1, 2, 1, 3], max_new_tokens=5)
    for name, (view, reference) in oracle.decode_views(plain, result.to_dict()).items():
        assert list(view["token_ids"]) == reference.token_ids, name
        assert view["logprobs"] == pytest.approx(reference.logprobs, abs=2e-5), name
    told = result[oracle.MIXED]
    assert list(told.token_ids) == oracle.decode_mixed(plain, alone(result), 1, told.token_ids).token_ids


def test_another_length_compiles_nothing_anew(traced: LanguageModel) -> None:
    """One graph for a prompt, two for suffix and answer token of one row, two of several rows, as many where scores are
    sharpened; then none any more."""

    def ask(repeats: int, others: int, **options: object) -> None:
        flexdemo.ask(traced, QUESTION * repeats, OTHERS[:others], max_new_tokens=4, **options)

    kinds = ({"methods": ("flex",)}, {"methods": ("all",)}, {"methods": ("flex", "causal"), "ape_temperature": 0.9})
    for kind in kinds:
        ask(1, 3, **kind)
    before = counters["stats"]["unique_graphs"]
    for repeats, others in ((2, 3), (5, 2), (9, 1)):
        for kind in kinds:
            ask(repeats, others, mask="anchor", weights="raw", **kind)
    assert counters["stats"]["unique_graphs"] == before


def test_one_heads_attention_compiles_nothing(traced: LanguageModel) -> None:
    result = flexdemo.ask(traced, QUESTION, OTHERS[:1], max_new_tokens=2)
    before = counters["stats"]["unique_graphs"]
    eager = replace(traced, compiled=None)
    for layer, head in ((0, 0), (0, 1)):
        ours, theirs = (attention_map(lm, result, layer, head) for lm in (traced, eager))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == before


def test_models_of_other_depths_share_no_graph() -> None:
    """All else of their passes is the same, and guards on modules are skipped."""
    ids = torch.tensor([[3, 4, 5]])
    plan = attention.Plan("sdpa", {ids.device: torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()})
    for depth in (1, 2):
        kind = models.random_model("llama", num_hidden_layers=depth)
        model = prepare(kind, models.tokenizer(), name="llama", backend="sdpa").model
        passes = compiled_pass("eager"), next_scores
        told = [run(model, ids, ids - 3, plan, PromptCache(), call_of(model)).logits for run in passes]
        torch.testing.assert_close(*told, msg=f"{depth} layers")


def test_models_of_equal_shapes_share_no_weights(traced: LanguageModel) -> None:
    """Guards on modules are skipped: what is compiled for one model must read the weights of the one that runs."""
    both, plain = [traced, _traced()], [models.random_model("llama", num_hidden_layers=1) for _ in range(2)]
    for model in (both[1].model, plain[1]):
        generator = torch.Generator().manual_seed(1)
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    for _ in range(2):
        for lm, own in zip(both, plain, strict=True):
            result = flexdemo.ask(lm, QUESTION, OTHERS, max_new_tokens=1)
            for view, reference in oracle.decode_views(own, result.to_dict()).values():
                assert list(view["token_ids"]) == reference.token_ids
                assert view["logprobs"] == pytest.approx(reference.logprobs, abs=2e-5)


def test_flex_attention_compiles_nothing_anew_for_another_number_of_blocks() -> None:
    """A BlockMask holds its lengths as numbers, of which a compiler makes one graph each. Tokens after the first are
    read without one."""
    torch._dynamo.reset()
    model = models.random_model("llama", num_hidden_layers=1)
    lm = prepare(model, models.tokenizer(), name="llama", backend="flex-eager")
    lm = replace(lm, backend="flex", compiled=compiled_pass("aot_eager"))
    plain, counted = models.random_model("llama", num_hidden_layers=1), []
    for repeats, others in ((30, 2), (90, 3)):
        result = flexdemo.ask(lm, QUESTION * repeats, OTHERS[:others], methods=("flex",), max_new_tokens=1)
        counted.append(counters["stats"]["unique_graphs"])
        for view, reference in oracle.decode_views(plain, result.to_dict()).values():
            assert list(view["token_ids"]) == reference.token_ids
        assert len(result.prompt.token_ids) > 128
    assert len(set(counted)) == 1


def test_compilation_is_refused_where_steps_cannot_be_captured() -> None:
    with pytest.raises(BackendError, match=r"needs one CUDA device.*leave --compile out"):
        prepare(models.random_model("llama"), models.tokenizer(), name="llama", compiled=True)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "phi3", "gpt2", "gemma2"])
def test_joined_layers_compute_the_same_from_the_same_weights(kind: str) -> None:
    """qwen2 has biases; phi3 and gpt2 have nothing to join and stay as they are."""
    model = models.random_model(kind)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    before, weights = model(ids).logits, {name: each.clone() for name, each in model.state_dict().items()}
    joined = join_siblings(model)
    assert joined == (0 if kind in ("phi3", "gpt2") else 5 * model.config.num_hidden_layers)
    torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=1e-5)
    after = model.state_dict()
    assert set(after) == set(weights) and all(after[name].equal(weights[name]) for name in weights)
    siblings = [module for module in model.modules() if isinstance(module, Sibling)]
    assert all(each.group.held is None for each in siblings), "no activation is kept"
    for each in siblings:
        part = each.group.weight.split(each.group.sizes)[each.place]
        assert each.weight.data_ptr() == part.data_ptr(), "weights are held once"
    assert kind == "gpt2" or any(isinstance(module, Lone) for module in model.modules())


def test_a_sibling_called_alone_or_between_computes_by_itself() -> None:
    """Passes of two threads may interleave in any order."""
    attention = models.random_model("llama").model.layers[0].self_attn
    x, y = torch.randn(2, 1, 3, 32)
    names = ("q_proj", "k_proj", "v_proj")
    expected = [[getattr(attention, name)(each) for name in names] for each in (x, y)]
    assert join_siblings(attention) == 3
    q, k, v = (getattr(attention, name) for name in names)
    torch.testing.assert_close(k(x), expected[0][1])
    told = [q(x), q(y), k(x), k(y), v(y), v(x)]
    order = [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (0, 2)]
    for found, (row, name) in zip(told, order, strict=True):
        torch.testing.assert_close(found, expected[row][name])


def test_a_kernel_is_made_once_for_a_shape_of_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again for tensors of inference mode, other strides or parameters: in the second step a capture runs."""
    made = []

    def compile_counted(graph: torch.fx.GraphModule, inputs: list, options: dict) -> torch.fx.GraphModule:
        made.append(options)
        return graph

    monkeypatch.setattr("torch._inductor.compile", compile_counted)
    monkeypatch.setattr(linears, "_kernels", {})
    weight = torch.randn(7, 5)
    x = torch.randn(1, 5)
    with torch.inference_mode():
        inside = linears._tuned(torch.ones(1, 5), weight, None)
    strided = torch.randn(1, 9, 5)[:, -1]
    for row, matrix in ((x, weight), (strided, torch.nn.Parameter(weight, requires_grad=False))):
        torch.testing.assert_close(linears._tuned(row, matrix, None), row @ weight.T)
    torch.testing.assert_close(inside, torch.ones(1, 5) @ weight.T)
    assert made == [linears.PRODUCT]
    torch.testing.assert_close(linears._tuned(x, weight, torch.ones(7)), x @ weight.T + 1)
    assert len(made) == 2
