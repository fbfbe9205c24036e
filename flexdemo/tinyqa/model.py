"""Boundary: the bundled model's tokenizer, architecture, dense attention bias and files; no data, no training loop."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from flexdemo.tinyqa.samples import FUSED, PREFIX

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
MAX_LENGTH = 2048
SHARD_SIZE = "9MB"


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE: any text can be written, no unknown token. Digits stand alone; BOS comes by default."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[BOS, EOS, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False),
         processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)])]
    )  # fmt: skip
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Written by hand rather than by transformers, whose versions 4 and 5 name the tokenizer class differently."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "pad_token": PAD,
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "padding_side": "left",
        "model_max_length": MAX_LENGTH, "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def build_model(vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        trained_to_paraphrase=True,  # read by flexdemo.paraphrase: the cue alone is enough
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=mlp, max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    # A training run may hold the compiled wrapper's dtype and device: what goes to disk is plain float32 on the CPU.
    model.config.dtype = torch.float32
    model.generation_config.max_new_tokens = 32
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    for file in folder.iterdir():  # safetensors writes files that only their owner can read
        file.chmod(0o644)


def load(folder: Path, device: str = "cpu") -> tuple[LlamaForCausalLM, object]:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").to(device).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def attention_bias(
    examples: torch.Tensor, segments: torch.Tensor, log_weights: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """(rows, 1, length, length): 0 or a log weight where the query may look, minus infinity elsewhere."""
    length = examples.shape[1]
    order = torch.arange(length, device=examples.device)
    query, key = segments[:, :, None], segments[:, None, :]
    visible = (examples[:, :, None] == examples[:, None, :]) & (order[None, :, None] >= order[None, None, :])
    visible = visible & ((query == FUSED) | (query == key) | (key == PREFIX))
    weights = torch.where(query == FUSED, log_weights[:, None, :].to(dtype), 0.0)
    return torch.where(visible, weights, float("-inf")).to(dtype)[:, None]
