"""Question + paraphrases -> token, segment and position ids. Torch-free; the tokenizer is passed in.

Every wording's own prompt is rendered and tokenised whole, as transformers does it; segments are found in its ids.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from .errors import InputError
from .template import CUT, Shots, Template, check_text, make_template, protected

THINK, THOUGHT = "<think>", "</think>"  # what a model writes around its reasoning

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
class SegmentedPrompt:
    """One packed prompt: prefix, paraphrases P1 (the question) ... PN, suffix; each token in exactly one segment.

    In a chat prompt separators S1 ... stand behind all paraphrases but the last, for standard attention alone.
    """

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

    def repeated(self) -> SegmentedPrompt:
        """The question as often as there are wordings, between the same prefix and suffix."""
        asked = self.paraphrases[0]
        return self._packed([(s, asked if s.role == "paraphrase" else s) for s in self.segments], self.weights)

    def shortened(self, n: int) -> SegmentedPrompt:
        """Its first n wordings alone, between the same prefix and suffix, which share the weight; raw weights stay."""
        if n >= len(self.paraphrases):
            return self
        last = self.paraphrases[n - 1].end
        shares = self.weights[:n] if any(self.weights[:n]) else (1.0,) * n
        raw = all(weight == 1 for weight in self.weights)
        kept = [(s, s) for s in self.segments if s.end <= last or s.role == "suffix"]
        return self._packed(kept, normalise_weights("raw" if raw else shares, n))

    def _packed(self, parts: Sequence[tuple[Segment, Segment]], weights: tuple[float, ...]) -> SegmentedPrompt:
        """Another prompt of this one's tokens: segments as they are called, and whose tokens they hold."""
        ids, tokens, segments = [], [], []
        for called, source in parts:
            start = len(ids)
            ids += self.token_ids[source.start : source.end]
            tokens += self.tokens[source.start : source.end]
            segments.append(replace(called, start=start, end=len(ids), text=source.text))
        made = SegmentedPrompt(tuple(ids), tuple(tokens), tuple(segments), weights, self.kind)
        return made.reweighted(weights)

    @property
    def segment_ids(self) -> tuple[int, ...]:
        """The index of each token's segment in `segments`: 0 for the prefix, the last for the suffix."""
        return tuple(i for i, segment in enumerate(self.segments) for _ in range(len(segment)))

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

    def tokens_seen(self, strategy: str) -> tuple[int, ...]:
        """How many tokens of each of `groups` the suffix sees under a strategy: prefix, P1 ... PN, suffix."""
        seen, everything = [0] * (len(self.paraphrases) + 2), re.split("[+-]", strategy)[0] == "causal"
        for segment, group in zip(self.segments, self.groups, strict=True):
            seen[group] += len(segment) if segment.role != "separator" or everything else 0
        return tuple(seen)

    @property
    def opens_thinking(self) -> bool:
        """Whether the prompt itself begins the model's reasoning: the answer is what follows it."""
        return self.segments[-1].text.rstrip().endswith(THINK)

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

    def position_ids(self, positions: str) -> tuple[int, ...]:
        """Position of every token under a scheme of POSITIONS, (T,), the suffix's those of the fused view."""
        if positions not in POSITIONS:
            raise InputError(f"unknown position scheme {positions!r}: choose from {', '.join(POSITIONS)}")
        prefix, ids = self.segments[0].end, []
        starts = {
            "aligned": lambda segment: prefix,
            "right_aligned": lambda segment: prefix + self.longest - len(segment),
            "sequential": lambda segment: segment.start,
        }
        for segment in self.segments:
            start = ids[-1] + 1 if ids else 0  # the prefix; a separator goes on where its paraphrase ends
            if segment.role == "paraphrase":
                start = starts[positions](segment)
            elif segment.role == "suffix":
                start = self.suffix_position(positions)
            ids.extend(range(start, start + len(segment)))
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
            f"{len(weights)} weights for {n} wording{'' if n == 1 else 's'}: give one weight for the question and "
            "one for each paraphrase"
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


def check_wordings(
    question: str, paraphrases: Sequence[str], weights: Sequence[float] | str | None
) -> tuple[list[str], tuple[float, ...]]:
    """The wordings without outer spaces and their weights; InputError for what cannot be asked of any model."""
    if isinstance(paraphrases, str):
        raise InputError("paraphrases must be a list of texts, not one text")
    wordings = [check_text(question, "the question")]
    wordings += [check_text(text, f"paraphrase {i}") for i, text in enumerate(paraphrases, start=1)]
    return wordings, normalise_weights(weights, len(wordings))


def build_prompt(
    tokenizer: Any,
    question: str,
    paraphrases: Sequence[str] = (),
    *,
    weights: Sequence[float] | str | None = None,
    prefix: str = "",
    template: str | Template = "auto",
    shots: Shots = (),
) -> SegmentedPrompt:
    """The packed prompt of a question (P1) and its paraphrases (P2 ... PN); InputError for what cannot be asked.

    `template` is a name, or a Template that was made of prefix and shots before.
    """
    wordings, shares = check_wordings(question, paraphrases, weights)
    if isinstance(template, str):
        template = make_template(tokenizer, prefix, template, shots=shots)
    return pack(tokenizer, wordings, shares, template)


def pack(tokenizer: Any, wordings: Sequence[str], weights: tuple[float, ...], template: Template) -> SegmentedPrompt:
    """Tokenise each wording's prompt whole: what all agree on before and behind the wordings is prefix and suffix.

    A token across the border of a wording is the wording's. Prefix + Pi + suffix are the ids of Pi's own prompt.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError("this model's tokenizer does not tell where tokens stand: give a folder with tokenizer.json")
    wholes = [_whole(tokenizer, template, wording) for wording in wordings]
    backwards = [ids[::-1] for ids, _, _ in wholes]
    first = _agreed([ids for ids, _, _ in wholes], min(before for _, before, _ in wholes))
    last = _agreed(backwards, min(behind for _, _, behind in wholes))
    if not last and template.kind == "plain" and all(len(ids) > first + 1 for ids in backwards):
        last = _agreed(backwards, 1)  # the cue and the end of the line are one token
    if not last:
        raise InputError(f"no token behind the wordings is the same for all of them: {_OTHER[template.kind]}")
    between = _separator(tokenizer) if template.kind == "chat" else []

    named: list[tuple[str, str, Sequence[int], float | None]] = [("prefix", "prefix", wholes[0][0][:first], None)]
    for i, ((ids, _, _), weight) in enumerate(zip(wholes, weights, strict=True), start=1):
        named.append((f"P{i}", "paraphrase", ids[first : len(ids) - last], weight))
        if between and i < len(wholes):
            named.append((f"S{i}", "separator", between, None))
    named.append(("suffix", "suffix", wholes[0][0][-last:], None))

    token_ids: list[int] = []
    segments: list[Segment] = []
    for name, role, ids, weight in named:
        start = len(token_ids)
        token_ids.extend(ids)
        segments.append(Segment(name, role, start, len(token_ids), decode_ids(tokenizer, ids), weight))
    tokens = tuple(token_texts(tokenizer, token_ids))
    return SegmentedPrompt(tuple(token_ids), tokens, tuple(segments), weights, template.kind)


_OTHER = MappingProxyType({"chat": "use template plain", "plain": "this model's tokenizer cannot ask in lines"})


def _agreed(rows: Sequence[Sequence[int]], most: int) -> int:
    """How many ids at the beginning of all rows are equal, at most `most`."""
    columns = zip(*(row[:most] for row in rows), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _whole(tokenizer: Any, template: Template, wording: str) -> tuple[list[int], int, int]:
    """Ids of a wording's own prompt, and how many of them stand before and behind the wording's segment."""
    text = template.render(protected(tokenizer, wording))
    start, end = len(template.head), len(text) - len(template.tail)
    if start >= end or not (text.startswith(template.head) and text.endswith(template.tail)):
        raise InputError(f"this model's chat template changes with the message or the time: {_OTHER['chat']}")
    ids, places = _tokenise(tokenizer, text, special=template.kind == "plain")
    start, end = start - text.count(CUT, 0, start), end - text.count(CUT, 0, end)
    inside = [i for i, (first, last) in enumerate(places) if first < end and last > start]
    if not inside:
        raise InputError(f"this model's tokenizer makes no token of {wording[:40]!r}: ask in other words")
    return ids, inside[0], len(ids) - 1 - inside[-1]


def _tokenise(tokenizer: Any, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a text and the characters that each stands for; a CUT is none, and no token goes across it.

    `special`: with what the tokenizer adds around a text.
    """
    asked = {"return_offsets_mapping": True, "verbose": False}
    first, *rest = text.split(CUT)
    told = tokenizer(first, add_special_tokens=special, return_special_tokens_mask=True, **asked)
    ids, places = list(told["input_ids"]), list(told["offset_mapping"])
    added = sum(1 for _ in itertools.takewhile(bool, told["special_tokens_mask"][::-1])) if special and rest else 0
    closing, ids, places, at = ids[len(ids) - added :], ids[: len(ids) - added], places[: len(ids) - added], len(first)
    # After a line end, or a tokenizer of SentencePiece's kind would put a space before each piece.
    pieces = tokenizer([f"\n{piece}" for piece in rest], add_special_tokens=False, **asked) if rest else {}
    for i, piece in enumerate(rest):
        for token, (start, end) in zip(pieces["input_ids"][i], pieces["offset_mapping"][i], strict=True):
            if end > 1:
                ids.append(token)
                places.append((at + start - 1, at + end - 1))
        at += len(piece)
    places = [
        (places[i - 1][1] if i and start == end else start, end) for i, (start, end) in enumerate(places)
    ]  # some tokenizers leave white space out of a token's place: nothing is left of a line end's
    return ids + closing, places + [(0, 0)] * added


def _separator(tokenizer: Any) -> list[int]:
    """Ids of a line end between two texts; none for a tokenizer that drops it."""
    ids, places = _tokenise(tokenizer, "a\nb", special=False)
    return [token for token, (start, end) in zip(ids, places, strict=True) if start >= 1 and 1 < end <= 2]


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """What each token stands for, for display; a token that is part of a character shows as U+FFFD."""
    return [decode_ids(tokenizer, [i]) for i in token_ids]


def alike(prompts: Sequence[SegmentedPrompt]) -> list[list[int]]:
    """Indices of prompts that fit in one batch: their suffixes have as many tokens."""
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(len(prompt.segments[-1]), []).append(i)
    return list(groups.values())


def decode_ids(tokenizer: Any, token_ids: Sequence[int], *, skip_special: bool = False) -> str:
    """Text of ids as the model wrote it: no spaces before punctuation are cleaned away.

    The marks around its reasoning are kept even where they are special tokens.
    """

    def decode(ids: Sequence[int], skip: bool) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=skip, clean_up_tokenization_spaces=False)

    if not skip_special:
        return decode(token_ids, False)
    marks = {i for i in tokenizer.convert_tokens_to_ids([THINK, THOUGHT]) if i != tokenizer.unk_token_id}
    groups = itertools.groupby(token_ids, key=marks.__contains__)
    return "".join(decode(list(ids), not is_mark) for is_mark, ids in groups)
