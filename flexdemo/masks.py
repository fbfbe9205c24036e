"""Masks as tables of segment pairs: strategies, own masks, reasons, density. Torch-free; knows no models and no pages.

A mask is `visible[query segment, key segment, later]`, and a token always sees itself: a cell is
`visible[own[q], own[k], k > q] | (q == k)`. A segment is any object with `name`, `role`, `start` and `end`; segments
stand in the order of their tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from .errors import InputError
from .prompt import Segment

EARLIER, LATER = range(2)  # the last axis of a table
EVERYTHING = "*"
ITSELF = "visible: itself"


@dataclass(frozen=True)
class Strategy:
    """One way to mask: a row of the table in docs/methods.md.

    `shared` names the segments that every later query sees, EVERYTHING for all of them, separators too; queries of the
    roles in `fuses` see everything earlier and feel the weights; with `both_ways` a wording's tokens also see the later
    tokens of their own.
    """

    name: str
    label: str
    summary: str
    shared: tuple[str, ...] = ("prefix",)
    fuses: tuple[str, ...] = ("suffix", "answer")
    both_ways: bool = False


_ALL = (
    Strategy("segment", "Segment", "A paraphrase sees the prefix and itself; suffix and answer see all."),
    Strategy("isolated", "Isolated", "A paraphrase sees only itself, not even the prefix.", shared=()),
    Strategy("causal", "Causal (standard attention)", "Every token sees everything earlier.", shared=(EVERYTHING,)),
    Strategy("anchor", "Anchor", "A paraphrase sees the prefix, paraphrase 1 and itself.", shared=("prefix", "P1")),
    Strategy(
        "late_fusion",
        "Late fusion",
        "The suffix belongs to the last paraphrase; only answer tokens see all.",
        fuses=("answer",),
    ),
    Strategy(
        "bidirectional",
        "Bidirectional (models are not trained for it)",
        "As segment, but a paraphrase's tokens also see the later tokens of their own paraphrase.",
        both_ways=True,
    ),
)
STRATEGIES: Mapping[str, Strategy] = MappingProxyType({strategy.name: strategy for strategy in _ALL})


@dataclass(frozen=True)
class Edit:
    """A pair of segments opened or closed: for each query of `query`, the earlier keys of `key`. Either may be `*`."""

    opens: bool
    query: str
    key: str

    def __str__(self) -> str:
        return f"{'+' if self.opens else '-'}{self.query}>{self.key}"


@dataclass(frozen=True)
class Rule:
    """What a mask's text says: a strategy, and pairs that are opened and closed one after the other."""

    text: str
    strategy: Strategy
    edits: tuple[Edit, ...] = ()

    @property
    def label(self) -> str:
        return " ".join([self.strategy.label, *map(str, self.edits)])

    @property
    def summary(self) -> str:
        changed = f" Opened and closed: {' '.join(map(str, self.edits))}." if self.edits else ""
        return self.strategy.summary + changed


_NAME = r"(prefix|suffix|answer|\*|P[1-9][0-9]*)"
_PAIR = re.compile(rf"([+-]){_NAME}>{_NAME}")


def parse(text: str) -> Rule:
    """The rule of `STRATEGY[+Q>K|-Q>K]...`, such as `segment+P2>P1-suffix>P3`; InputError for what is none.

    Names are prefix, P1, P2, ..., suffix, answer, and * for all of them. `+Q>K` lets the tokens of Q see the earlier
    tokens of K, `-Q>K` hides those from them; a later pair counts more than one before it. A pair whose key stands
    behind its query has no cells and changes nothing. What a wording may not see or be seen by, the separator behind it
    may not either; opening never opens a separator. A token sees itself and, in `bidirectional`, its wording's later
    tokens whatever is closed.
    """
    name = re.split("[+-]", text, maxsplit=1)[0]
    if name not in STRATEGIES:
        raise InputError(
            f"unknown mask strategy {name!r}: choose from {', '.join(STRATEGIES)}, or open and close pairs of one, as "
            "in segment+P2>P1-suffix>P3"
        )
    edits = []
    for piece in re.findall("[+-][^+-]*", text[len(name) :]):
        pair = _PAIR.fullmatch(piece)
        if pair is None:
            raise InputError(
                f"{piece!r} in mask {text!r} is no pair: write +P2>P1 to let P2 see P1 or -P2>P1 to hide P1 from it, "
                "with names from prefix, P1, P2, ..., suffix, answer, *"
            )
        edits.append(Edit(pair[1] == "+", pair[2], pair[3]))
    return Rule(text, STRATEGIES[name], tuple(edits))


def toggled(text: str, query: str, key: str, segments: Sequence[Any]) -> str:
    """The mask `text` with one pair of segments opened if it is closed there and closed if it is open.

    An edit of the same pair is taken back rather than answered by another. InputError as for `Mask.over`, and for a
    pair that has no cells.
    """
    mask = Mask.over(text, segments)
    names = [segment.name for segment in mask.segments]
    if {query, key} - set(names) or names.index(key) > names.index(query):
        raise InputError(f"{query}>{key} is no pair of this prompt: a query sees its own and earlier segments only")
    pair = (names.index(query), names.index(key), EARLIER)
    others = (edit for edit in mask.rule.edits if (edit.query, edit.key) != (query, key))
    without = mask.rule.strategy.name + "".join(map(str, others))
    if Mask.over(without, segments).visible[pair] != mask.visible[pair]:
        return without
    made = without + str(Edit(not mask.visible[pair], query, key))
    return Mask.over(made, segments).rule.text


def renamed(text: str, names: Mapping[str, str]) -> str:
    """A mask's text with other names for its segments."""
    rule = parse(text)
    pairs = (Edit(each.opens, names.get(each.query, each.query), names.get(each.key, each.key)) for each in rule.edits)
    return rule.strategy.name + "".join(map(str, pairs))


@dataclass(frozen=True, eq=False)
class Mask:
    """A rule over the segments of a prompt and the answer behind them: the table, (S, S, 2) booleans.

    Counts and cells are those of the segments' tokens. `muted`: wordings of weight 0, hidden from queries that fuse.
    """

    rule: Rule
    segments: tuple[Any, ...]
    visible: np.ndarray
    muted: tuple[bool, ...] = ()

    @classmethod
    def over(cls, text: str, segments: Sequence[Any], *, answers: int = 0) -> Mask:
        """InputError for a text that is no mask, names a wording that is not there, or hides every wording from the
        suffix or the answer. The answer is added, with so many tokens."""
        rule, end = parse(text), segments[-1].end
        every = (*segments, Segment("answer", "answer", end, end + answers, ""))
        table = _strategy_table(rule.strategy, every)
        _edit(table, rule, every)
        _check_sight(table, rule, every)
        return cls(rule, every, table, (False,) * len(every))

    def weighted(self) -> Mask:
        """As the fused view sees it: wordings of weight 0 are hidden from queries that feel the weights."""
        muted = tuple(getattr(segment, "weight", None) == 0 for segment in self.segments)
        table = self.visible.copy()
        fusing = np.array([segment.role in self.rule.strategy.fuses for segment in self.segments])
        table[np.ix_(fusing, np.array(muted), [EARLIER])] = False
        return replace(self, visible=table, muted=muted)

    def _lengths(self) -> np.ndarray:
        return np.array([segment.end - segment.start for segment in self.segments], dtype=np.int64)

    @property
    def tokens(self) -> int:
        return int(self._lengths().sum())

    def _count(self, chosen: np.ndarray) -> int:
        """Cells of the chosen pairs (S, S, 2), those between a token and itself left out."""
        lengths = self._lengths()
        pairs, same = np.outer(lengths, lengths), np.diag(lengths * (lengths - 1) // 2)
        cells = np.stack([np.tril(pairs, -1) + same, np.triu(pairs, 1) + same], axis=-1)
        return int(cells[chosen].sum())

    @property
    def density(self) -> float:
        """Visible cells over all cells."""
        return (self._count(self.visible) + self.tokens) / self.tokens**2

    def difference(self, other: Mask) -> dict[str, int]:
        """Going from `other` to this mask: cells that stay visible, stop being visible, become visible."""
        mine, theirs = self.visible, other.visible
        return {
            "kept": self._count(mine & theirs) + self.tokens,
            "removed": self._count(~mine & theirs),
            "added": self._count(mine & ~theirs),
        }

    def cells(self) -> np.ndarray:
        """All cells as booleans (T, T), row = query, True = visible."""
        first = self.segments[0].start
        spans = [slice(segment.start - first, segment.end - first) for segment in self.segments]
        made = np.empty((self.tokens, self.tokens), dtype=bool)
        for q, rows in enumerate(spans):
            for k, columns in enumerate(spans):
                made[rows, columns] = self.visible[q, k, int(k > q)]
            earlier, later = self.visible[q, q]
            made[rows, rows] = np.where(np.tri(rows.stop - rows.start, dtype=bool), earlier, later)
        np.fill_diagonal(made, True)
        return made

    def reasons(self) -> np.ndarray:
        """Why the cells of a pair are visible or hidden, (S, S, 2) texts; None for a pair that has no cells."""
        told = np.full(self.visible.shape, None, dtype=object)
        base, lengths = _strategy_table(self.rule.strategy, self.segments), self._lengths()
        for q, k, later in np.ndindex(*told.shape):
            several = lengths[q] > 1 if q == k else lengths[q] and lengths[k] and later == (k > q)
            if several:
                told[q, k, later] = self._reason(q, k, bool(later), bool(base[q, k, later]))
            elif q == k and lengths[q] and not later:
                told[q, k, later] = self._reason(q, k, False, True) if self.visible[q, k, later] else ITSELF
        return told

    def told(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Why each cell of some query and key tokens is visible or hidden, as texts."""
        owners = np.repeat(np.arange(len(self.segments)), self._lengths())
        asks, seen = owners[queries][:, None], owners[keys][None, :]
        words = self.reasons()[asks, seen, (keys[None, :] > queries[:, None]).astype(int)]
        alone = (queries[:, None] == keys[None, :]) & ~self.visible[asks, seen, EARLIER]
        return np.where(alone, ITSELF, words)

    def _reason(self, q: int, k: int, later: bool, by_strategy: bool) -> str:
        asks, seen = self.segments[q], self.segments[k]
        sees = bool(self.visible[q, k, int(later)])
        if not sees and not later and self.muted[k] and asks.role in self.rule.strategy.fuses:
            return "hidden: weight 0"
        if sees != by_strategy:
            edit = next(e for e in self.rule.edits[::-1] if e.opens == sees and _means(e, self.segments)[q, k])
            return f"visible: opened by {edit}" if sees else f"hidden: closed by {edit}"
        if not sees:
            if later:
                return "hidden: later token"
            if "separator" in (asks.role, seen.role):
                return "hidden: separators are for standard attention"
            return "hidden: prefix" if seen.role == "prefix" else "hidden: other paraphrase"
        if later:
            return "visible: later token of the same paraphrase"
        if seen.role == "prefix":
            return "visible: prefix"
        if q == k:
            return "visible: earlier answer token" if asks.role == "answer" else f"visible: own {asks.role}"
        if asks.role in self.rule.strategy.fuses:
            others = [i for i in range(q) if not self.muted[i] and self.segments[i].role != "separator"]
            all_of_it = self.visible[q, others, EARLIER].all()
            return f"visible: fused ({asks.role} sees all)" if all_of_it else f"visible: fused into the {asks.role}"
        if asks.role == "suffix" and self.rule.strategy.shared != (EVERYTHING,):
            return "visible: the paraphrase its suffix joins"
        return f"visible: earlier {seen.role}"


def _strategy_table(strategy: Strategy, segments: Sequence[Any]) -> np.ndarray:
    names, roles = np.array([s.name for s in segments]), np.array([s.role for s in segments])
    count, everything = len(segments), EVERYTHING in strategy.shared
    wordings, fuses = roles == "paraphrase", np.isin(roles, strategy.fuses)
    earlier = np.eye(count, dtype=bool) | fuses[:, None] | np.isin(names, strategy.shared)[None, :] | everything
    if not fuses[roles == "suffix"].all():
        earlier[roles == "suffix", np.flatnonzero(wordings)[-1]] = True
    if not everything:
        separators = roles == "separator"
        earlier &= ~separators[:, None] & ~separators[None, :]
    later = np.diag(wordings & strategy.both_ways)
    return np.stack([np.tril(earlier), later], axis=-1)


def _means(edit: Edit, segments: Sequence[Any]) -> np.ndarray:
    """The pairs (S, S) that an edit opens or closes; a separator is closed with the wording before it."""
    names, before = [], ""
    for segment in segments:
        before = segment.name if segment.role == "paraphrase" else before
        if segment.role != "separator":
            names.append({segment.name, EVERYTHING})
        else:
            names.append(set() if edit.opens else {before, EVERYTHING})
    asks, seen = (np.array([name in meant for meant in names]) for name in (edit.query, edit.key))
    return np.tril(np.outer(asks, seen))


def _edit(table: np.ndarray, rule: Rule, segments: Sequence[Any]) -> None:
    """Open and close the rule's pairs in a table."""
    wordings = [segment.name for segment in segments if segment.role == "paraphrase"]
    for edit in rule.edits:
        for name in (edit.query, edit.key):
            if name.startswith("P") and name not in wordings:
                raise InputError(
                    f"{str(edit)!r} in mask {rule.text!r} names {name}, which is not there: this prompt's wordings are "
                    f"{', '.join(wordings)}; take it out of the mask, or add the wording"
                )
        table[_means(edit, segments), EARLIER] = edit.opens


def _check_sight(table: np.ndarray, rule: Rule, segments: Sequence[Any]) -> None:
    """The first answer token follows from the suffix: without a wording to see, neither would answer the question."""
    wordings = np.array([segment.role == "paraphrase" for segment in segments])
    for i, segment in enumerate(segments):
        if segment.role in ("suffix", "answer") and not table[i, wordings, EARLIER].any():
            raise InputError(
                f"mask {rule.text!r} hides every wording from the {segment.role}: leave one open, such as "
                f"{segment.role}>P1"
            )
