"""Question + paraphrases -> token, segment and position ids. Torch-free; the tokenizer is passed in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from .errors import InputError, first_line

PREFIX, PARAPHRASE, SUFFIX, ANSWER, PAD, SEPARATOR = range(6)
ROLE_NAMES = ("prefix", "paraphrase", "suffix", "answer", "pad", "separator")

POSITIONS: Mapping[str, str] = MappingProxyType(
    {
        "aligned": "Every paraphrase starts at the same position, right after the prefix.",
        "right_aligned": "Every paraphrase ends at the same position, right before the suffix.",
        "sequential": "Tokens are numbered 0, 1, 2, ... as in standard attention.",
    }
)


@dataclass(frozen=True)
class Segment:
    """Tokens start <= t < end that belong together. `weight` is the paraphrase's share, None for other roles."""

    name: str
    role: str
    start: int
    end: int
    text: str
    weight: float | None = None

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Template:
    """The pieces around the paraphrases: ids before them, text around each, ids after them.

    Plain models read `Q: ...\\n` segments and answer after `A:`; chat models are asked through their own template.
    """

    kind: str
    prefix_ids: tuple[int, ...]
    before: str
    after: str
    suffix_ids: tuple[int, ...]


@dataclass(frozen=True)
class SegmentedPrompt:
    """One packed prompt: prefix, paraphrases P1 (the question) ... PN, suffix; each token in exactly one segment."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    segments: tuple[Segment, ...]
    weights: tuple[float, ...]
    kind: str

    def reweighted(self, weights: Sequence[float]) -> SegmentedPrompt:
        """The same tokens with other weights of the paraphrases."""
        felt = [replace(segment, weight=weight) for segment, weight in zip(self.paraphrases, weights, strict=True)]
        given = {segment.start: segment for segment in felt}
        segments = tuple(given[s.start] if s.role == "paraphrase" else s for s in self.segments)
        return replace(self, segments=segments, weights=tuple(weights))

    @property
    def segment_ids(self) -> tuple[int, ...]:
        """The index of each token's segment in `segments`: 0 for the prefix, the last for the suffix."""
        return tuple(i for i, segment in enumerate(self.segments) for _ in range(len(segment)))

    @property
    def roles(self) -> tuple[int, ...]:
        return tuple(ROLE_NAMES.index(segment.role) for segment in self.segments for _ in range(len(segment)))

    @property
    def paraphrases(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.role == "paraphrase")

    @property
    def groups(self) -> tuple[int, ...]:
        """Whose attention mass each segment counts with: 0 the prefix, i the paraphrase Pi and the separator behind it,
        N + 1 the suffix."""
        found, groups = 0, []
        for segment in self.segments:
            found += segment.role in ("paraphrase", "suffix")
            groups.append(found)
        return tuple(groups)

    @property
    def suffix_start(self) -> int:
        return self.segments[-1].start

    @property
    def longest(self) -> int:
        return max(len(segment) for segment in self.paraphrases)

    def suffix_position(self, positions: str, only: int | None = None) -> int:
        """Position of the suffix's first token: of the fused view, or that of paraphrase `only` (0-based) alone."""
        prefix = self.segments[0].end
        if positions == "sequential":
            return self.suffix_start
        if positions == "aligned" and only is not None:
            return prefix + len(self.paraphrases[only])
        return prefix + self.longest

    def position_ids(self, positions: str, *, suffix_position: int | None = None) -> tuple[int, ...]:
        """Position of every token under a scheme of POSITIONS, (T,); the fused view's suffix unless told otherwise."""
        if positions not in POSITIONS:
            raise InputError(f"unknown position scheme {positions!r}: choose from {', '.join(POSITIONS)}")
        prefix, last = self.segments[0], self.segments[-1]
        ids = list(range(len(prefix)))
        for segment in self.paraphrases:
            start = {
                "aligned": prefix.end,
                "right_aligned": prefix.end + self.longest - len(segment),
                "sequential": segment.start,
            }[positions]
            ids.extend(range(start, start + len(segment)))
        start = self.suffix_position(positions) if suffix_position is None else suffix_position
        ids.extend(range(start, start + len(last)))
        return tuple(ids)


def normalise_weights(weights: Sequence[float] | str | None, n: int) -> tuple[float, ...]:
    """Weights of n paraphrases, summing to 1: uniform for None, all 1 for "raw" (scores left as they are)."""
    if weights is None:
        return (1.0 / n,) * n
    if isinstance(weights, str):
        if weights != "raw":
            raise InputError(f"weights must be numbers or 'raw', not {weights!r}")
        return (1.0,) * n
    if len(weights) != n:
        raise InputError(
            f"{len(weights)} weights for {n} wordings: give one weight for the question and one for each paraphrase"
        )
    if not all(math.isfinite(w) and w >= 0 for w in weights):
        raise InputError("weights must be finite numbers, 0 or more")
    largest = max(weights)
    if largest == 0:
        raise InputError("at least one weight must be above 0")
    total = math.fsum(w / largest for w in weights)
    return tuple(w / largest / total for w in weights)


def weights_without(weights: Sequence[float], hidden: int) -> tuple[float, ...] | None:
    """Weights with one paraphrase at 0 and the others sharing 1; None if the others have no weight.

    Raw weights (every one 1) stay 1: sharing would change the scores of those that are still there.
    """
    kept = tuple(0.0 if i == hidden else weight for i, weight in enumerate(weights))
    if not any(kept):
        return None
    return kept if all(weight == 1 for weight in weights) else normalise_weights(kept, len(kept))


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Ids of a user's text. A special or added token typed by a user stays text: it is split before it can match."""
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    added = tokenizer.added_tokens_decoder
    literal = next((str(added[i]) for i in ids if i in added and str(added[i]) in text), None)
    if literal is None or len(literal) < 2:
        return ids
    cut = text.index(literal) + len(literal) // 2
    return encode_text(tokenizer, text[:cut]) + encode_text(tokenizer, text[cut:])


def check_text(text: str, what: str) -> str:
    """The text without outer spaces, or an InputError that names `what`."""
    if not isinstance(text, str):
        raise InputError(f"{what} must be text, not {type(text).__name__}")
    if not text.strip():
        raise InputError(f"{what} is empty: write a question such as 'What is the capital of Peru?'")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise InputError(f"{what} contains half a character (a lone surrogate): type it again or paste it as UTF-8")
    return text.strip()


def check_wordings(
    question: str, paraphrases: Sequence[str], weights: Sequence[float] | str | None
) -> tuple[list[str], tuple[float, ...]]:
    """The wordings without outer spaces and their weights; InputError for what cannot be asked of any model."""
    if isinstance(paraphrases, str):
        raise InputError("paraphrases must be a list of texts, not one text")
    wordings = [check_text(question, "the question")]
    wordings += [check_text(text, f"paraphrase {i}") for i, text in enumerate(paraphrases, start=1)]
    return wordings, normalise_weights(weights, len(wordings))


def plain_template(tokenizer: Any, prefix: str = "") -> Template:
    """`Q: ...` segments and the suffix `A:`, after BOS (once, if the tokenizer has one) and the user's prefix."""
    bos = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    text = f"{prefix.rstrip()}\n" if prefix.strip() else ""
    prefix_ids = (*bos, *encode_text(tokenizer, text)) if text else bos
    return Template("plain", prefix_ids, "Q: ", "\n", tuple(encode_text(tokenizer, "A:")))


def chat_template(tokenizer: Any, prefix: str = "") -> Template:
    """The tokenizer's chat template rendered once around a sentinel and split there.

    Prefix and suffix hold the template's special tokens; the user's text never does.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("this model has no chat template: use --template plain")
    from jinja2 import TemplateError  # here, or help and bad arguments would wait for its import

    sentinel = "flexdemoSentinel7319"
    message = {"role": "user", "content": sentinel}
    try:
        rendered = tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise InputError(
            f"this model's chat template cannot be rendered ({first_line(error)}): use --template plain"
        ) from error
    if rendered.count(sentinel) != 1:
        raise InputError(
            "this model's chat template does not hold the user's message exactly once: use --template plain"
        )
    head, tail = rendered.split(sentinel)
    prefix_ids = tokenizer.encode(head, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    if bos is not None and bos not in prefix_ids and tokenizer.encode("")[:1] == [bos]:
        prefix_ids = [bos, *prefix_ids]
    if prefix.strip():
        prefix_ids = [*prefix_ids, *encode_text(tokenizer, f"{prefix.rstrip()}\n")]
    suffix_ids = tokenizer.encode(tail, add_special_tokens=False)
    if not suffix_ids:
        raise InputError("this model's chat template ends with the user's message: use --template plain")
    return Template("chat", tuple(prefix_ids), "", "\n", tuple(suffix_ids))


TEMPLATES = MappingProxyType({"plain": plain_template, "chat": chat_template})


def make_template(tokenizer: Any, prefix: str = "", kind: str = "auto") -> Template:
    """The template called `kind`; "auto" is "chat" for a tokenizer that has a chat template, else "plain"."""
    if kind == "auto":
        kind = "chat" if getattr(tokenizer, "chat_template", None) else "plain"
    if kind not in TEMPLATES:
        raise InputError(f"unknown template {kind!r}: choose from auto, {', '.join(TEMPLATES)}")
    return TEMPLATES[kind](tokenizer, check_text(prefix, "the prefix") if prefix.strip() else "")


def build_prompt(
    tokenizer: Any,
    question: str,
    paraphrases: Sequence[str] = (),
    *,
    weights: Sequence[float] | str | None = None,
    prefix: str = "",
    template: str = "auto",
) -> SegmentedPrompt:
    """The packed prompt of a question (P1) and its paraphrases (P2 ... PN); InputError for what cannot be asked."""
    wordings, shares = check_wordings(question, paraphrases, weights)
    return pack(tokenizer, wordings, shares, make_template(tokenizer, prefix, template))


def pack(tokenizer: Any, wordings: Sequence[str], weights: tuple[float, ...], pieces: Template) -> SegmentedPrompt:
    """Tokenise every piece once and concatenate the ids."""
    named: list[tuple[str, str, Sequence[int], float | None]] = [("prefix", "prefix", pieces.prefix_ids, None)]
    for i, (text, weight) in enumerate(zip(wordings, weights, strict=True), start=1):
        ids = encode_text(tokenizer, f"{pieces.before}{text}{pieces.after}")
        named.append((f"P{i}", "paraphrase", ids, weight))
    named.append(("suffix", "suffix", pieces.suffix_ids, None))

    token_ids: list[int] = []
    segments: list[Segment] = []
    for name, role, ids, weight in named:
        start = len(token_ids)
        token_ids.extend(ids)
        segments.append(Segment(name, role, start, len(token_ids), decode_ids(tokenizer, ids), weight))
    tokens = tuple(token_texts(tokenizer, token_ids))
    return SegmentedPrompt(tuple(token_ids), tokens, tuple(segments), weights, pieces.kind)


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """What each token stands for, for display; a token that is part of a character shows as U+FFFD."""
    return [decode_ids(tokenizer, [i]) for i in token_ids]


def decode_ids(tokenizer: Any, token_ids: Sequence[int], *, skip_special: bool = False) -> str:
    """Text of ids as the model wrote it: no spaces before punctuation are cleaned away."""
    return tokenizer.decode(list(token_ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
