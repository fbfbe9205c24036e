"""Loading, devices, dtypes, backends, refusals; and what one encoding holds (properties 3, 4 and 12)."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import oracle
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from flexdemo.answers.ask import ask
from flexdemo.engine.attention import BACKENDS, Plan, UnsupportedModelError
from flexdemo.engine.blocks import layout_of
from flexdemo.engine.loading import ModelError, load_model, load_tokenizer
from flexdemo.engine.model import LanguageModel, prepare, refuse_unsupported
from flexdemo.errors import BackendError, InputError
from flexdemo.prompt import SegmentedPrompt, build_prompt

QUESTION, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]


@torch.no_grad()
def packed_logits(
    lm: LanguageModel, prompt: SegmentedPrompt, strategy: str, positions: str = "aligned", *, shift: int = 0
) -> torch.Tensor:
    """Logits (T, V) of every token of a packed prompt, by the engine's attention and mask."""
    mask = BACKENDS[lm.backend].prompt_mask(layout_of(strategy, prompt.segments))
    ids = torch.tensor([prompt.token_ids])
    position_ids = torch.tensor([prompt.position_ids(positions)]) + shift
    plan = Plan(lm.backend, {ids.device: mask})
    return lm.model(input_ids=ids, position_ids=position_ids, segment_plan=plan, use_cache=False).logits[0]


@torch.no_grad()
def packed_hidden_states(lm: LanguageModel, prompt: SegmentedPrompt, strategy: str) -> tuple[torch.Tensor, ...]:
    mask = BACKENDS[lm.backend].prompt_mask(layout_of(strategy, prompt.segments))
    ids, position_ids = torch.tensor([prompt.token_ids]), torch.tensor([prompt.position_ids("aligned")])
    plan = Plan(lm.backend, {ids.device: mask})
    out = lm.model(
        input_ids=ids, position_ids=position_ids, segment_plan=plan, use_cache=False, output_hidden_states=True
    )
    return out.hidden_states


@torch.no_grad()
def assert_property_3(lm: LanguageModel, plain: Any, prompt: SegmentedPrompt, atol: float = 1e-5) -> None:
    """Hidden states, layer by layer, of a packed paraphrase = the plain model's on prefix + paraphrase alone."""
    packed = packed_hidden_states(lm, prompt, "segment")
    prefix = prompt.segments[0].end
    for segment in prompt.paraphrases:
        alone = [*prompt.token_ids[:prefix], *prompt.token_ids[segment.start : segment.end]]
        states = plain(input_ids=torch.tensor([alone]), output_hidden_states=True, use_cache=False).hidden_states
        assert len(states) == len(packed) > 2
        for layer, (mine, reference) in enumerate(zip(packed, states, strict=True)):
            torch.testing.assert_close(
                mine[0, segment.start : segment.end], reference[0, prefix:], atol=atol, rtol=1e-5, msg=f"layer {layer}"
            )


@pytest.mark.parametrize("backend", ["sdpa", "flex-eager"])
def test_property_3_a_packed_paraphrase_is_encoded_as_if_alone(
    prepared: Callable[..., LanguageModel], plain: Any, backend: str
) -> None:
    lm = prepared("llama", backend)
    assert_property_3(lm, plain, build_prompt(lm.tokenizer, QUESTION, OTHERS, prefix="Answer briefly."))


def test_property_3_fails_under_standard_attention(lm: LanguageModel, plain: Any) -> None:
    """The property can fail: with the causal mask a later paraphrase is coloured by the earlier ones."""
    prompt = build_prompt(lm.tokenizer, QUESTION, OTHERS)
    segment, causal = (packed_hidden_states(lm, prompt, name)[-1][0] for name in ("segment", "causal"))
    second = prompt.paraphrases[1]
    assert (segment - causal)[second.start : second.end].abs().max() > 1e-2


def edited(prompt: SegmentedPrompt, index: int) -> SegmentedPrompt:
    """The prompt with the middle token of paraphrase `index` (0-based) replaced, its length unchanged."""
    segment = prompt.paraphrases[index]
    ids = list(prompt.token_ids)
    ids[(segment.start + segment.end) // 2] = 77
    assert ids != list(prompt.token_ids)
    return SegmentedPrompt(tuple(ids), prompt.tokens, prompt.segments, prompt.weights, prompt.kind)


def assert_property_4(lm: LanguageModel, prompt: SegmentedPrompt, strategy: str, *, experts: bool = False) -> None:
    """Bit-identical; but experts multiply the tokens that were routed to them together, so that an edit elsewhere may
    change the shape of a product, and with it the last bit of its sums: there within 2e-6.
    """

    def same(a: torch.Tensor, b: torch.Tensor) -> bool:
        return float((a - b).abs().max()) < 2e-6 * float(a.abs().max()) if experts else torch.equal(a, b)

    base = packed_logits(lm, prompt, strategy)
    for index, segment in enumerate(prompt.paraphrases):
        changed = packed_logits(lm, edited(prompt, index), strategy)
        assert not torch.equal(base[segment.start : segment.end], changed[segment.start : segment.end])
        assert not torch.equal(base[prompt.suffix_start :], changed[prompt.suffix_start :])
        others = [prompt.segments[0], *(s for s in prompt.paraphrases if s is not segment)]
        for other in others:
            assert same(base[other.start : other.end], changed[other.start : other.end]), (segment, other)


@pytest.mark.parametrize("backend", ["sdpa", "flex-eager"])
@pytest.mark.parametrize("strategy", ["segment", "isolated", "bidirectional"])
def test_property_4_an_edit_leaves_other_segments_bit_identical(
    prepared: Callable[..., LanguageModel], strategy: str, backend: str
) -> None:
    lm = prepared("llama", backend)
    assert_property_4(lm, build_prompt(lm.tokenizer, QUESTION, OTHERS, prefix="Answer briefly."), strategy)


def test_property_4_with_an_anchor_only_the_first_paraphrase_reaches_others(lm: LanguageModel) -> None:
    prompt = build_prompt(lm.tokenizer, QUESTION, OTHERS)
    base = packed_logits(lm, prompt, "anchor")
    first, _, third = prompt.paraphrases
    by_first, by_second = (packed_logits(lm, edited(prompt, i), "anchor") for i in (0, 1))
    assert torch.equal(base[third.start : third.end], by_second[third.start : third.end])
    assert not torch.equal(base[third.start : third.end], by_first[third.start : third.end])
    assert torch.equal(base[: first.start], by_first[: first.start])


def test_property_4_in_late_fusion_the_suffix_belongs_to_the_last_paraphrase(lm: LanguageModel) -> None:
    prompt = build_prompt(lm.tokenizer, QUESTION, OTHERS)
    base = packed_logits(lm, prompt, "late_fusion")
    for index in range(3):
        changed = packed_logits(lm, edited(prompt, index), "late_fusion")
        assert torch.equal(base[prompt.suffix_start :], changed[prompt.suffix_start :]) == (index != 2)


def test_property_4_fails_under_standard_attention(lm: LanguageModel) -> None:
    prompt = build_prompt(lm.tokenizer, QUESTION, OTHERS)
    last = prompt.paraphrases[-1]
    base, changed = packed_logits(lm, prompt, "causal"), packed_logits(lm, edited(prompt, 0), "causal")
    assert not torch.equal(base[last.start : last.end], changed[last.start : last.end])


@pytest.mark.parametrize("positions", oracle.SCHEMES)
@pytest.mark.parametrize("strategy", oracle.STRATEGIES)
def test_property_12_shifting_all_positions_changes_nothing(lm: LanguageModel, strategy: str, positions: str) -> None:
    prompt = build_prompt(lm.tokenizer, QUESTION, OTHERS)
    base = packed_logits(lm, prompt, strategy, positions)
    for shift in (1, 57, 300):
        shifted = packed_logits(lm, prompt, strategy, positions, shift=shift)
        # fp32 angles grow with the position: 1e-5 relative to logits of about 5
        torch.testing.assert_close(shifted, base, atol=5e-5, rtol=1e-5)


def test_positions_matter(lm: LanguageModel) -> None:
    """Property 12 can fail: stretching positions instead of shifting them moves the logits."""
    prompt = build_prompt(lm.tokenizer, QUESTION, OTHERS)
    assert (
        packed_logits(lm, prompt, "segment") - packed_logits(lm, prompt, "segment", "sequential")
    ).abs().max() > 1e-2


# --- loading


@pytest.mark.parametrize("as_text", [False, True])
def test_a_saved_folder_loads_and_answers_as_in_memory(saved: Path, lm: LanguageModel, as_text: bool) -> None:
    loaded = load_model(str(saved) if as_text else saved, device="cpu", dtype="float32")
    assert (loaded.name, str(loaded.device), loaded.dtype) == (str(saved), "cpu", "float32")
    assert loaded.context_length == 1024 and loaded.window is None and 2 in loaded.end_ids
    assert loaded.load_seconds > 0
    mine, theirs = (ask(each, QUESTION, OTHERS, max_new_tokens=4) for each in (loaded, lm))
    assert mine["flex"].token_ids == theirs["flex"].token_ids


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_that_a_configuration_names_is_not_needed(saved: Path, tmp_path: Path, key: str) -> None:
    """Ours takes its place; FlashAttention's package is on few machines."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    told = json.loads((saved / "config.json").read_text()) | {key: "flash_attention_2"}
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert ask(load_model(tmp_path, device="cpu"), QUESTION, max_new_tokens=2).done


@pytest.mark.parametrize(("bytes_free", "place"), [(10**9, "cuda"), (10**5, "auto")])
def test_only_a_model_that_one_gpu_cannot_hold_is_laid_out_over_several(
    saved: Path, monkeypatch: pytest.MonkeyPatch, bytes_free: int, place: str
) -> None:
    """Any other would decode more than ten times slower than on one of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (bytes_free, 10**9))
    asked: dict[str, Any] = {}

    def noted(path: str, **options: Any) -> None:
        asked.update(options)
        raise InputError("seen")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", noted)
    with pytest.raises(InputError, match="seen"):
        load_model(saved, dtype="float32")
    assert asked["device_map"] == place


def test_bfloat16_on_the_cpu(saved: Path) -> None:
    loaded = load_model(saved, device="cpu", dtype="bfloat16")
    assert loaded.dtype == "bfloat16"
    assert ask(loaded, QUESTION, OTHERS, max_new_tokens=2).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "unknown device 'tpu': choose from auto, cpu, cuda, mps"),
        ({"dtype": "float8"}, "unknown dtype 'float8': choose from auto, float32, bfloat16, float16"),
        ({"backend": "magic"}, "unknown backend 'magic': choose from auto, flex, flex-eager, sdpa"),
        ({"backend": ["sdpa"]}, "unknown backend .*: choose from auto, flex, flex-eager, sdpa"),
    ],
)
def test_unknown_options_are_named_before_anything_loads(saved: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(saved, **options)


def test_cuda_without_cuda_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"no CUDA device is available.*--device cpu"):
        load_model(saved, device="cuda")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"no model at .*nowhere: give a folder that holds config.json, a .gguf file, or"
    ):
        load_model(tmp_path / "nowhere")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model here")
    with pytest.raises(ModelError, match=r"config.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "nonsense"}', "{}", "\x00"])
def test_a_broken_config_is_an_error_of_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_or_tokenizer_is_an_error_of_one_line(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    with pytest.raises(InputError) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


class Spy:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def torch_file(content: Any) -> bytes:
    held = io.BytesIO()
    torch.save(content, held)
    return held.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 538090408\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pytorch_model.bin", LFS, "is damaged, or holds more than weights"),
        ("pytorch_model.bin", b"", r"is cut off or damaged \(it is empty\)"),
        ("pytorch_model.bin", torch_file(Spy()), "holds more than weights, which is never run"),
        ("pytorch_model.bin", torch_file(torch.zeros(999))[:900], "is cut off or damaged; copy"),
        ("pytorch_model.bin", torch_file({"state_dict": {}}), "lack 30 tensors.*, and hold state_dict or its like"),
        ("model.safetensors", LFS, r"is cut off or damaged \(.*header too large\)"),
        (
            "model.safetensors.index.json",
            b'{"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00007.safetensors"}}',
            "No such file.*model-00002-of-00007.safetensors; copy or download the folder again$",
        ),
    ],
)  # fmt: skip
def test_weights_that_are_none_are_told_in_one_line_and_never_run(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(saved, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value) and not Path("ran").exists()


def test_weights_by_other_names_are_told_apart_from_weights_that_lack(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in weights.items()}
    save_file(compiled, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 30 tensors, such as lm_head.weight, and hold _orig_mod.lm_head.weight"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "clip"}, "transformers has no causal language model of its kind, and flexdemo needs one$"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "code of its own, which flexdemo never runs"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "hqq"}}, r"HQQ[^(]*(\([^(]*\))?[^(]*$"),
    ],
)
def test_a_model_of_another_kind_is_named_without_a_hint_that_does_not_help(
    saved: Path, tmp_path: Path, config: dict, said: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    _changed(folder / "config.json", **config)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value) and "reachable Hub id" not in str(caught.value)


def test_names_that_are_nearly_a_model_are_told_what_would_be_one(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--some--model" / "snapshots" / "4d7a"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    for name, said in {
        snapshot.parents[1]: f"name {snapshot},",
        "https://huggingface.co/some/model": "give a Hub id without the rest of the address",
        "a" * 5000: "cannot load the model",  # too long for a file's name
        "/" + "a" * 5000: "no model at",
        "a" * 5000 + ".gguf": "no model at",
    }.items():
        with pytest.raises(ModelError, match=said):
            load_model(name)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("small.gguf", b"", r"'.*small\.gguf': it is cut off or damaged; copy it again$"),
        ("small.gguf", b"GGUF\x03\0\0\0", r"'.*small\.gguf': it is cut off or damaged; copy it again$"),
        ("small.gguf", LFS, r"'.*small\.gguf': it is cut off or damaged; copy it again$"),
        ("large-00001-of-00012.gguf", b"", "holds a part of a model: join all parts"),
        ("large-00001-of-00001.gguf", b"", "cut off"),
    ],
)
def test_a_gguf_file_that_is_none_is_called_by_its_own_name(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    pytest.importorskip("gguf")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        load_model(tmp_path / name)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_are_told_not_decoded(tokenizer: Any, temperature: float) -> None:
    """Transformers answers "!!!!" (token 0 for ever). The probe cannot find it: it uses other tokens."""
    lm = prepare(models.random_model("llama"), tokenizer, name="tiny")
    lm.model.get_input_embeddings().weight.data[lm.tokenizer("?").input_ids[-1]] = torch.nan
    with pytest.raises(InputError, match=r"scores are not finite numbers.*--dtype bfloat16"):
        ask(lm, QUESTION, OTHERS, methods=("all",), temperature=temperature, max_new_tokens=3)


def test_weights_that_overflow_are_told_by_the_probe(tokenizer: Any) -> None:
    model = models.random_model("llama")
    model.lm_head.weight.data *= torch.inf
    with pytest.raises(UnsupportedModelError, match=r"scores are not finite numbers.*--dtype bfloat16"):
        prepare(model, tokenizer, name="tiny")


def test_code_from_the_hub_never_runs(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"):
        auto = getattr(transformers, name)
        original = auto.from_pretrained

        def spy(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            asked.append(kwargs.get("trust_remote_code"))
            return original(*args, **kwargs)

        monkeypatch.setattr(auto, "from_pretrained", spy)
    load_model(saved, device="cpu")
    assert len(asked) >= 3 and not any(asked)


def test_auto_backend_names_the_one_that_runs(prepared: Callable[..., LanguageModel]) -> None:
    assert prepared("llama", "auto").backend == "sdpa"
    assert prepared("gemma2", "auto").backend == "flex-eager"  # it caps its scores, which sdpa cannot


def test_sdpa_with_soft_capping_is_refused(prepared: Callable[..., LanguageModel]) -> None:
    with pytest.raises(BackendError, match=r"caps its attention scores.*flex-eager"):
        prepared("gemma2", "sdpa")


def test_end_tokens_come_from_tokenizer_config_and_generation_config(tokenizer: Any) -> None:
    model = models.random_model("llama")
    model.config.eos_token_id = [7, 8]
    model.generation_config.eos_token_id = [8, 9]
    assert prepare(model, tokenizer, name="x").end_ids == {2, 7, 8, 9}


def test_encoder_decoders_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"t5 is an encoder-decoder model"):
        refuse_unsupported(AutoConfig.for_model("t5"))


def test_an_encoder_decoder_folder_is_refused_before_its_weights_load(tmp_path: Path) -> None:
    AutoConfig.for_model("bart").save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"bart is an encoder-decoder model"):
        load_model(tmp_path)


def test_alibi_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"falcon uses ALiBi"):
        refuse_unsupported(AutoConfig.for_model("falcon", alibi=True))


class _LeaksAToken(torch.nn.Module):
    """A layer that moves information along the sequence past the attention, as a state-space layer does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.5 * torch.nn.functional.pad(x, (0, 0, 2, 0))[:, :-2]


def test_a_model_that_sees_past_the_mask_is_refused_by_the_probe(tokenizer: Any) -> None:
    """No configuration tells of it: only the experiment on five tokens does."""
    model = models.random_model("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, out: _LeaksAToken()(out))
    with pytest.raises(UnsupportedModelError, match=r"lets a token see what the mask hides"):
        prepare(model, tokenizer, name="leaky")


def test_a_model_that_ignores_position_ids_is_refused_by_the_probe(tokenizer: Any) -> None:
    model = models.random_model("llama")

    def in_order(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        length = kwargs["input_ids"].shape[1]
        return args, {**kwargs, "position_ids": torch.arange(length)[None]}

    model.register_forward_pre_hook(in_order, with_kwargs=True)
    with pytest.raises(UnsupportedModelError, match=r"positions from the tokens' order"):
        prepare(model, tokenizer, name="stubborn")


def test_a_model_that_sees_nothing_is_refused_by_the_probe(tokenizer: Any) -> None:
    model = models.random_model("llama")
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    with pytest.raises(UnsupportedModelError, match=r"does not see a token that the mask shows"):
        prepare(model, tokenizer, name="blind")


def test_a_model_whose_own_pass_fails_is_refused_in_one_line(tokenizer: Any) -> None:
    model = models.random_model("llama")
    model.model.layers[1].mlp.down_proj = torch.nn.Linear(7, 32)  # as of a configuration with another width
    with pytest.raises(UnsupportedModelError, match=r"does not run as its configuration has it \([^\n]*\)$"):
        prepare(model, tokenizer, name="broken")


def test_weights_lie_as_a_cpu_multiplies_them_and_keep_their_numbers(
    prepared: Callable[..., LanguageModel], plain_model: Callable[..., Any], tokenizer: Any
) -> None:
    lm, given = prepared("llama", "sdpa"), dict(plain_model("llama").named_parameters())
    for name, weight in lm.model.named_parameters():
        assert torch.equal(weight, given[name])
        assert weight.t().is_contiguous() == (weight.dim() == 1 or not name.endswith("embed_tokens.weight"))
    tied = prepare(models.random_model("llama", tie_word_embeddings=True), tokenizer, name="tied")
    assert tied.model.lm_head.weight.is_contiguous()
    as_given = SimpleNamespace(model=plain_model("llama"))
    assert lm.digest == LanguageModel.digest.fget(as_given), "a run that was begun before goes on"


def test_preparing_twice_is_harmless(tokenizer: Any, lm: LanguageModel) -> None:
    model = models.random_model("llama")
    prepare(model, tokenizer, name="once")
    again = prepare(model, tokenizer, name="twice", backend="sdpa")
    mine, theirs = (ask(each, QUESTION, OTHERS, max_new_tokens=3)["flex"].token_ids for each in (again, lm))
    assert mine == theirs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_torch_s_default_dtype_changes_nothing(lm: LanguageModel, tokenizer: Any, dtype: torch.dtype) -> None:
    model = models.random_model("llama")
    asked = {"methods": ("all",), "ape_temperature": 0.9, "weights": (1, 2, 4), "max_new_tokens": 3}
    want = ask(lm, QUESTION, OTHERS[:2], **asked)
    torch.set_default_dtype(dtype)  # as programs around us do
    try:
        told = ask(prepare(model, tokenizer, name="another"), QUESTION, OTHERS[:2], **asked)
    finally:
        torch.set_default_dtype(torch.float32)
    for mine, theirs in zip(told.results, want.results, strict=True):
        assert mine.token_ids == theirs.token_ids and mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-6)


def _changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("config.json", {"hidden_size": "64"}, r"its config.json says what cannot be \(.*hidden_size"),
        ("config.json", {"num_attention_heads": 5}, r"its config.json says what cannot be \(.*5"),
        ("config.json", {"rope_parameters": {"rope_type": "spiral"}}, r"do not fit together \(KeyError: 'spiral'\)"),
        ("tokenizer.json", {"model": {"type": "Abacus"}}, r"tokenizer.json is cut off or damaged \(.+\)"),
        ("tokenizer.json", {"version": "9"}, r"tokenizer.json is cut off or damaged \(.*version"),
    ],
)
def test_a_file_that_says_what_no_model_is_is_named(tmp_path: Path, name: str, values: dict, said: str) -> None:
    folder = tmp_path / "model"
    models.random_model("llama").save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    load_model(folder, device="cpu")
    _changed(folder / name, **values)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)
    if "spiral" not in said:  # the rotary embedding is no matter of the tokenizer
        with pytest.raises(ModelError, match=said):
            load_tokenizer(folder)
