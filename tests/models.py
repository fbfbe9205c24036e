"""Tiny random models and a tokenizer, made on the spot. Knows nothing of flexdemo."""

from __future__ import annotations

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers import AutoConfig

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
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
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
REFUSED: dict[str, dict] = {
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1},
    "mamba": {},
    "bamba": {},
    "bloom": {},
}


def random_model(kind: str = "llama", *, seed: int = 0, scale: float = 4.0, **changes: object) -> torch.nn.Module:
    """A random causal LM of one architecture, fp32 on the CPU, with weights large enough that tokens matter."""
    torch.manual_seed(seed)
    options = {**SMALL, **ZOO.get(kind, REFUSED.get(kind, {})), **changes}
    config = AutoConfig.for_model(kind, **options)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(scale)
    model.generation_config.eos_token_id = 2
    return model
