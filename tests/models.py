"""Tiny random models and a tokenizer, made on the spot. Knows nothing of flexdemo."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

TEXT = """What is the capital of Peru? Which city is Peru's capital? Name the capital city of Peru.
Q: A: answer question paraphrase which who wrote painted composed discovered invented where country river mountain
<|user|> <|end|> instruct me politely, thanks! Tell me the currency of Japan, please. 0 1 2 3 4 5 6 7 8 9"""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@functools.cache
def _backend() -> str:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|end|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(TEXT.splitlines(), trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return raw.to_str()


def tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 400 tokens with BOS, EOS and, if asked, a chat template."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend()), bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|end|>", "<|assistant|>"],
    )  # fmt: skip
    if chat:
        made.chat_template = CHAT_TEMPLATE
    return made


SMALL = dict(
    vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    tie_word_embeddings=False, attention_dropout=0.0,
)  # fmt: skip

ZOO: dict[str, dict] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "phi3": {},
    "olmo2": {},
    "smollm3": {},
    "granite": {},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8},
}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = {
    **_EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12, "num_key_value_heads": 4,
}  # fmt: skip
# More that people load: absolute positions, partial and interleaved rotary, experts, latent attention, norms of
# their own, a text model inside a multimodal one.
MORE: dict[str, dict] = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 1024},
    "gpt_neox": {},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 1024},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {},
    "starcoder2": {},
    "cohere": {},
    "cohere2": {},
    "gemma": {},
    "olmo": {},
    "olmo3": {},
    "glm4": {},
    "helium": {},
    "nanochat": {},
    "mixtral": {**_EXPERTS, "sliding_window": None},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": _EXPERTS,
    "olmoe": _EXPERTS,
    "granitemoe": _EXPERTS,
    "deepseek_v3": _LATENT,
    "deepseek_v2": _LATENT,
    "gemma4_text": {
        "vocab_size_per_layer_input": 400, "hidden_size_per_layer_input": 8, "global_head_dim": 8,
        "num_kv_shared_layers": 0,
    },
    "gemma3": {
        "text_config": {**SMALL, "query_pre_attn_scalar": 8}, "mm_tokens_per_image": 4,
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
    },
}  # fmt: skip
# Layers that share keys with an earlier one, and several hidden states for a token.
GEMMA3N = {
    "num_kv_shared_layers": 1, "vocab_size_per_layer_input": 400, "hidden_size_per_layer_input": 8,
    "intermediate_size": 48, "altup_num_inputs": 2, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 3,
    "layer_types": ["full_attention"] * 3,
}  # fmt: skip
# Attention with ways of its own: whether a version of transformers takes our mask there, the probe finds out; where it
# does not, a word of the reason.
ODD: dict[str, tuple[dict, str]] = {
    "gpt_oss": (_EXPERTS, "sink"),
    "mamba": ({}, "linear_attention"),
    "bamba": ({"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]}, "linear_attention"),
    "lfm2": ({"layer_types": ["conv", "full_attention", "conv"]}, "conv"),
    "llama4_text": ({}, "chunked_attention"),
    "bloom": ({}, "AttentionInterface|ALiBi"),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512}, "AttentionInterface|ALiBi"),
    "gptj": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 4}, "AttentionInterface"),
    "stablelm": ({}, "does not pass the mask on"),
    "doge": ({}, "mask of its own"),
    "dory": ({}, "not with a cache"),
    "bert": ({}, "not plainly causal"),
    "roberta": ({"is_decoder": True}, "positions"),
    "bart": (
        {
            "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "is_decoder": True,
        },
        "positions|encoder-decoder",
    ),
}  # fmt: skip
_WITHOUT_SMALL = ("gemma3",)


def random_model(kind: str = "llama", *, seed: int = 0, scale: float = 4.0, **changes: object) -> torch.nn.Module:
    """A random causal LM of one architecture, fp32 on the CPU, with weights large enough that tokens matter.

    Two calls with the same arguments give equal weights in separate models.
    """
    torch.manual_seed(seed)
    own = ZOO.get(kind) or MORE.get(kind) or (ODD[kind][0] if kind in ODD else {})
    small = {} if kind in _WITHOUT_SMALL else SMALL
    config = AutoConfig.for_model(kind, **{**small, **own, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and not any(word in name for word in ("embed", "wte", "wpe")):
                weight.mul_(scale)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = 2
    return model


def saved_in(folder: Path) -> Path:
    """A random Llama and its tokenizer in a folder, as a user has them."""
    random_model("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
