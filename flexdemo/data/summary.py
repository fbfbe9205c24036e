"""A results table -> accuracies with intervals, costs and comparisons. Knows no models and draws nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..answers.metrics import SCORES, majority, normalise
from ..errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

REFERENCE = "causal"
EACH = "per_prompt"  # the method whose views are the wordings alone
COLUMNS = {"exact": "exact_match", "contains": "contains", "f1": "token_f1", "lemma": "lemma_match"}  # of SCORES
JUDGED = (*COLUMNS.values(), "lemma_match_both")
COSTS = ("prompt_tokens", "rows", "seconds")
# Fields of Line beside accuracy, their titles and decimals; the first five are those of JUDGED, the last of COSTS.
MEANS = (
    *(("exact", "Exact", 3), ("contains", "Contains", 3), ("token_f1", "F1", 3)),
    *(("lemma", "Lemmas", 3), ("lemma_both", "Lemmas, both ways", 3)),
    *(("prompt_tokens", "Prompt tokens", 1), ("rows", "Rows a step", 1), ("seconds", "Seconds", 3)),
)
LEVEL = 95  # per cent
CELLS = 4_000_000  # resampled questions held at once


@dataclass(frozen=True)
class Interval:
    """A value over all questions and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def resample_indices(n: int, resamples: int, *, seed: int) -> Iterator[np.ndarray]:
    """Indices of the questions in each bootstrap resample, (chunk, n) at a time, `resamples` rows in all."""
    generator = np.random.default_rng(seed)
    chunk = max(1, CELLS // n)
    for start in range(0, resamples, chunk):
        yield generator.integers(0, n, size=(min(chunk, resamples - start), n))


def resampled_means(scores: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Mean of each column of `scores` (n, lines) over the questions of each resample, (resamples, lines)."""
    n, means = len(scores), []
    for draws in resample_indices(n, resamples, seed=seed):
        times = np.stack([np.bincount(draw, minlength=n) for draw in draws])  # how often each question was drawn
        means.append(times @ scores / n)
    return np.concatenate(means)


def interval(value: float, resampled: np.ndarray) -> Interval:
    """The value with the percentiles of its resampled values (resamples,) that hold LEVEL per cent between them."""
    low, high = np.percentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


@dataclass(frozen=True)
class Line:
    """What one method, or one way to pick among single prompts (`derived`), achieved over all questions, and its cost.

    Scores are shares from 0 to 1, `accuracy` that of the chosen score; `difference` is accuracy minus that of `causal`,
    None without it. Costs are means for one question: tokens of its prompts, rows of the decode batch, seconds.
    """

    name: str
    note: str
    derived: bool
    questions: int
    accuracy: Interval
    exact: float
    contains: float
    token_f1: float
    lemma: float | None
    lemma_both: float | None
    difference: Interval | None
    prompt_tokens: float
    rows: float
    seconds: float


@dataclass(frozen=True)
class Group:
    """Accuracy of every line over the questions that have this many wordings (1: no paraphrase)."""

    wordings: int
    questions: int
    accuracy: Mapping[str, float]


@dataclass(frozen=True)
class Summary:
    """All lines of a table, in its order, and what a reader must know about them."""

    questions: int
    score: str
    seed: int
    resamples: int
    lines: tuple[Line, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Line:
        return next(line for line in self.lines if line.name == name)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def markdown(self) -> str:
        """The lines as a table in Markdown, then the groups if there are several, then the notes."""
        header, rows = self.cells()
        parts = [_markdown_table(header, rows)]
        if len(self.groups) > 1:
            names = [line.name for line in self.lines]
            rows = [
                [str(group.wordings), str(group.questions), *(f"{group.accuracy[name]:.3f}" for name in names)]
                for group in self.groups
            ]
            parts.append(_markdown_table(["Wordings", "Questions", *names], rows))
        parts.append("\n".join(f"- {_markdown(note)}" for note in self.notes))
        return "\n\n".join(parts) + "\n"

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table of lines, as text; a column that no line fills is left out."""
        columns: list[tuple[str, list[str]]] = [
            ("Method", [line.name for line in self.lines]),
            ("Questions", [str(line.questions) for line in self.lines]),
            (f"Accuracy ({self.score})", [_interval(line.accuracy) for line in self.lines]),
            (f"Difference to {REFERENCE}", [_interval(line.difference, "+") for line in self.lines]),
        ]
        for field, title, decimals in MEANS:
            means = [getattr(line, field) for line in self.lines]
            if field.removeprefix("token_") != self.score:
                columns.append((title, ["" if mean is None else f"{mean:.{decimals}f}" for mean in means]))
        kept = [(name, cells) for name, cells in columns if any(cells)]
        return [name for name, _ in kept], [list(row) for row in zip(*(cells for _, cells in kept), strict=True)]


@dataclass(frozen=True)
class Disagreement:
    """A record to which methods gave different answers; `right` says whose exactly match."""

    id: str
    question: str
    paraphrases: tuple[str, ...]
    answers: tuple[str, ...]
    predictions: Mapping[str, str]
    right: Mapping[str, bool]


def summarise(table: DataFrame, *, score: str = "exact", seed: int = 0, resamples: int = 10_000) -> Summary:
    """What the methods of a results table achieved, with intervals from `resamples` resamples of its questions.

    `score`, one of SCORES, is what is called accuracy. The table has the columns of table.Row; InputError if a record
    lacks a row that others have, or has one twice.
    """
    if resamples < 1:
        raise InputError(f"the number of resamples must be at least 1, not {resamples}")
    if score not in SCORES:
        raise InputError(f"unknown score {score!r}: choose from {', '.join(SCORES)}")
    ids, wordings, blocks = _blocks(table)
    if any(np.isnan(block[COLUMNS[score]][block["there"]]).any() for block in blocks.values()):
        raise InputError(f"the results were not judged by {score}: that needs simplemma (pip install simplemma)")
    lines = _scored(blocks, wordings, COLUMNS[score])
    accuracies = np.stack([scores[COLUMNS[score]] for _, _, scores in lines], axis=1)
    names = [name for name, _, _ in lines]
    against = names.index(REFERENCE) if REFERENCE in names else None
    means = resampled_means(accuracies, resamples=resamples, seed=seed)
    made = []
    for i, (name, note, scores) in enumerate(lines):
        difference = None
        if against is not None and i != against:
            gap = accuracies[:, i].mean() - accuracies[:, against].mean()
            difference = interval(gap, means[:, i] - means[:, against])
        mean = {key: _mean(values) for key, values in scores.items()}
        made.append(
            Line(
                name,
                note,
                name not in blocks,
                len(ids),
                interval(accuracies[:, i].mean(), means[:, i]),
                *(mean[key] for key in JUDGED),
                difference,
                *(mean[key] for key in COSTS),
            )
        )
    groups = tuple(
        Group(int(count), int(those.sum()), dict(zip(names, accuracies[those].mean(axis=0).tolist(), strict=True)))
        for count in np.unique(wordings)
        for those in [wordings == count]
    )
    return Summary(
        len(ids), score, seed, resamples, tuple(made), groups, _notes(made, score, len(ids), resamples, seed)
    )


def _mean(values: np.ndarray) -> float | None:
    """Mean over questions; None where a score is missing, which is so for all of a run or for none."""
    return None if np.isnan(mean := float(values.mean())) else mean


Scored = list[tuple[str, str, dict[str, np.ndarray]]]  # name, note and scores by question of lines
Block = dict[str, Any]  # one method's scores by record and view, (n, views), NaN where a record has no such view


def _blocks(table: DataFrame) -> tuple[list[str], np.ndarray, dict[str, Block]]:
    """Record ids, number of wordings of each, and for each method its scores as arrays of (records, views)."""
    if not len(table):
        raise InputError("the results table has no rows")
    firsts = table.drop_duplicates("id")
    ids = firsts["id"].tolist()
    place = {name: i for i, name in enumerate(ids)}
    wordings = np.array([1 + len(texts) for texts in firsts["paraphrases"]])
    twice = table[table.duplicated(["id", "method", "view"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(f"record {row['id']!r} has two rows of {row['method']}, view {row['view']!r}")
    blocks: dict[str, Block] = {}
    for method, rows in table.groupby("method", sort=False):
        views = list(dict.fromkeys(rows["view"]))
        if method == EACH:
            views = [f"P{k}" for k in range(1, int(wordings.max()) + 1)]
            if strange := sorted(set(rows["view"]) - set(views)):
                raise InputError(f"{EACH} has a view {strange[0]!r}, but its views are P1, P2, ... of the wordings")
        records = np.array([place[name] for name in rows["id"]])
        columns = np.array([views.index(view) for view in rows["view"]])
        shape = (len(ids), len(views))
        block: Block = {"views": views, "there": np.zeros(shape, dtype=bool), "said": np.full(shape, "", dtype=object)}
        block["there"][records, columns] = True
        block["said"][records, columns] = rows["prediction"].to_numpy(dtype=object)
        for key in (*JUDGED, *COSTS):
            block[key] = np.full(shape, np.nan)
            block[key][records, columns] = rows[key].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
        lacking = np.flatnonzero(~_complete(block["there"], views, method, wordings))
        if len(lacking):
            which = ", ".join(repr(ids[i]) for i in lacking[:3]) + (", ..." if len(lacking) > 3 else "")
            raise InputError(f"{len(lacking)} records lack results of {method}, which others have: {which}")
        blocks[str(method)] = block
    return ids, wordings, blocks


def _complete(there: np.ndarray, views: Sequence[str], method: str, wordings: np.ndarray) -> np.ndarray:
    """Which records have all rows of a method: one, or one for each wording."""
    if method == EACH:
        return (there == (np.arange(len(views)) < wordings[:, None])).all(axis=1)
    return there.sum(axis=1) == (1 if list(views) == [method] else wordings)


def _scored(blocks: Mapping[str, Block], wordings: np.ndarray, chosen: str) -> Scored:
    """Name, note and scores by question of every line: the methods, then what single prompts would give."""
    lines = []
    for method, block in blocks.items():
        if method == EACH:
            continue
        each = list(block["views"]) != [method]
        note = "mean over its views" if each else ""
        lines.append((method, note, {key: _over_views(block[key], block["there"]) for key in (*JUDGED, *COSTS)}))
    if EACH in blocks:
        lines += _single_prompts(blocks[EACH], wordings, chosen, with_vote="vote" not in blocks)
    return lines


def _over_views(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Mean of each row's cells that are there; NaN if one of those is missing."""
    return np.where(there, values, 0).sum(axis=1) / there.sum(axis=1)


def _single_prompts(block: Block, wordings: np.ndarray, chosen: str, *, with_vote: bool) -> Scored:
    there, views = block["there"], list(block["views"])
    keys = (*JUDGED, *COSTS)
    lines = [("mean single prompt", "", {key: _over_views(block[key], there) for key in keys})]

    common = int(wordings.min())  # positions that every record has
    best = int(block[chosen][:, :common].mean(axis=0).argmax())
    note = f"{views[best]} is chosen with hindsight, of {common} positions, and stays so in every resample"
    lines.append((f"best single prompt ({views[best]})", note, {key: block[key][:, best] for key in keys}))

    summed = {key: np.where(there, block[key], 0).sum(axis=1) for key in COSTS}
    highest = {key: np.where(there, block[key], -np.inf).max(axis=1) for key in JUDGED}
    lines.append(("any of N right", "oracle: right if any single prompt is", highest | summed))
    if with_vote:
        elected = [majority(list(said[:count])) for said, count in zip(block["said"], wordings, strict=True)]
        voted = {key: block[key][np.arange(len(elected)), elected] for key in JUDGED}
        lines.append(("vote", "the most frequent answer of the single prompts", voted | summed))
    return lines


def _notes(lines: Sequence[Line], score: str, questions: int, resamples: int, seed: int) -> tuple[str, ...]:
    notes = [
        f"Accuracy is the score {score} of an answer ({SCORES[score]}), its mean over {questions} questions; brackets "
        f"hold {LEVEL} % percentile intervals of a bootstrap over questions ({resamples} resamples, seed {seed}), "
        "paired for differences."
    ]
    notes += [f"{line.name}: {line.note}." for line in lines if line.note]
    if REFERENCE not in [line.name for line in lines]:
        notes.append(f"No differences: the table has no results of {REFERENCE}.")
    if any(line.lemma is None for line in lines):
        notes.append("No lemma accuracy: neither simplemma nor spaCy was installed when the answers were judged.")
    return tuple(notes)


def disagreements(table: DataFrame, limit: int) -> list[Disagreement]:
    """The first `limit` records to which methods gave answers that differ in their normal form.

    The first view of a method speaks for it.
    """
    found = []
    for name, rows in table.groupby("id", sort=False):
        if len(found) >= limit:
            break
        spoken = rows.drop_duplicates("method")
        if spoken["prediction"].map(normalise).nunique() < 2:
            continue
        first = spoken.iloc[0]
        found.append(
            Disagreement(
                str(name),
                first["question"],
                tuple(first["paraphrases"]),
                tuple(first["answers"]),
                dict(zip(spoken["method"], spoken["prediction"], strict=True)),
                {method: bool(right) for method, right in zip(spoken["method"], spoken["exact_match"], strict=True)},
            )
        )
    return found


def _interval(found: Interval | None, sign: str = "") -> str:
    return "" if found is None else f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a cell too."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    plain = "".join(f"\\{c}" if c in "\\`*|" else c for c in plain)
    return re.sub(r"\](?=[(\[:])", r"\]", plain)  # no links, and an interval's brackets stay bare


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(map(_markdown, line)) for line in (header, *rows)]
    lines.insert(1, " | ".join(["---"] + ["---:"] * (len(header) - 1)))
    return "\n".join(f"| {line} |" for line in lines)
