"""A results table -> accuracies with intervals, costs and comparisons. Knows no models and draws nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..answers.metrics import SCORES, is_reasoning, normalise
from ..errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

REFERENCE = "causal"
EACH = "per_prompt"  # the method whose views are the wordings alone
COLUMNS = {"exact": "exact_match", "contains": "contains", "f1": "token_f1", "lemma": "lemma_match"}  # of SCORES
JUDGED = (*COLUMNS.values(), "lemma_match_both")
COSTS = ("prompt_tokens", "rows", "seconds")
MEASURED = [*JUDGED, *COSTS]
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


def resampled_means(scores: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Mean of each column of `scores` (n, lines) over the questions of each bootstrap resample, (resamples, lines)."""
    n, means, generator = len(scores), [], np.random.default_rng(seed)
    chunk = max(1, CELLS // n)
    for start in range(0, resamples, chunk):
        draws = generator.integers(0, n, size=(min(chunk, resamples - start), n))
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
class Summary:
    """All lines of a table, in its order, and what a reader must know about them."""

    questions: int
    score: str
    seed: int
    resamples: int
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Line:
        return {line.name: line for line in self.lines}[name]

    def markdown(self) -> str:
        """The lines as a table in Markdown, then the notes."""
        return markdown(*self.cells(), self.notes)

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table of lines, as text; a column that no line fills is left out."""
        columns: list[tuple[str, list[str]]] = [
            ("Method", [line.name for line in self.lines]),
            ("Questions", [str(line.questions) for line in self.lines]),
            (f"Accuracy ({self.score})", [interval_text(line.accuracy) for line in self.lines]),
            (f"Difference to {REFERENCE}", [interval_text(line.difference, "+") for line in self.lines]),
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
    wordings = _checked_wordings(table)
    chosen = COLUMNS[score]
    if table[chosen].isna().any():
        raise InputError(f"the results were not judged by {score}: that needs simplemma (pip install simplemma)")
    scored = list(_scored(table.astype(dict.fromkeys(MEASURED, "float64")), wordings, chosen))
    frames = [frame.loc[wordings.index] for _, _, frame in scored]
    accuracies = np.stack([frame[chosen] for frame in frames], axis=1)
    names, methods = [name for name, _, _ in scored], set(table["method"])
    against = names.index(REFERENCE) if REFERENCE in names else None
    means = resampled_means(accuracies, resamples=resamples, seed=seed)
    made = []
    for i, ((name, note, _), frame) in enumerate(zip(scored, frames, strict=True)):
        difference = None
        if against is not None and i != against:
            gap = accuracies[:, i].mean() - accuracies[:, against].mean()
            difference = interval(gap, means[:, i] - means[:, against])
        mean = [None if np.isnan(each) else float(each) for each in frame[MEASURED].mean()]
        accuracy, judged = interval(accuracies[:, i].mean(), means[:, i]), mean[: len(JUDGED)]
        costs = mean[len(JUDGED) :]
        made.append(Line(name, note, name not in methods, len(wordings), accuracy, *judged, difference, *costs))
    notes = _notes(table, made, score, len(wordings), resamples, seed)
    return Summary(len(wordings), score, seed, resamples, tuple(made), notes)


def _checked_wordings(table: DataFrame) -> Series:
    """Number of wordings of each record, by id; InputError where a record lacks a row that others have."""
    if not len(table):
        raise InputError("the results table has no rows")
    twice = table[table.duplicated(["id", "method", "view"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(f"record {row['id']!r} has two rows of {row['method']}, view {row['view']!r}")
    wordings = table.drop_duplicates("id").set_index("id")["paraphrases"].map(len) + 1
    for method, rows in table.groupby("method", sort=False):
        found = rows["id"].value_counts().reindex(wordings.index, fill_value=0)
        lacking = found.index[found != (wordings if _answers_each(rows) else 1)]
        if len(lacking):
            which = ", ".join(map(repr, lacking[:3])) + (", ..." if len(lacking) > 3 else "")
            raise InputError(f"{len(lacking)} records lack results of {method}, which others have: {which}")
    return wordings


def _answers_each(rows: DataFrame) -> bool:
    """Whether rows of one method are of its views, one for each wording."""
    return bool((rows["method"] == EACH).all() or (rows["view"] != rows["method"]).any())


def _scored(table: DataFrame, wordings: Series, chosen: str) -> Iterator[tuple[str, str, DataFrame]]:
    """Name, note and MEASURED by id of every line: the methods, then what single prompts would give."""
    for method, rows in table.groupby("method", sort=False):
        if method != EACH:
            note = "mean over its views" if _answers_each(rows) else ""
            yield str(method), note, rows.groupby("id")[MEASURED].mean()
    each = table[table["method"] == EACH]
    if not len(each):
        return
    each = each.assign(position=each["view"].str[1:].astype(int)).sort_values("position", kind="stable")
    by_id = each.groupby("id")
    yield "mean single prompt", "", by_id[MEASURED].mean()

    common = int(wordings.min())  # positions that every record has
    best = each[each["position"] <= common].groupby("position")[chosen].mean().idxmax()
    note = f"P{best} is chosen with hindsight, of {common} positions, and stays so in every resample"
    yield f"best single prompt (P{best})", note, each[each["position"] == best].set_index("id")[MEASURED]

    cost = by_id[[*COSTS]].sum()
    yield "any of N right", "oracle: right if any single prompt is", by_id[[*JUDGED]].max().join(cost)


def _notes(
    table: DataFrame, lines: Sequence[Line], score: str, questions: int, resamples: int, seed: int
) -> tuple[str, ...]:
    notes = [
        f"Accuracy is the score {score} of an answer ({SCORES[score]}), its mean over {questions} questions; brackets "
        f"hold {LEVEL} % percentile intervals of a bootstrap over questions ({resamples} resamples, seed {seed}), "
        "paired for differences."
    ]
    notes += [f"{line.name}: {line.note}." for line in lines if line.note]
    if REFERENCE not in [line.name for line in lines]:
        notes.append(f"No differences: the table has no results of {REFERENCE}.")
    if any(line.lemma is None for line in lines):
        notes.append("No lemma accuracy: simplemma was not installed when the answers were judged.")
    silent = table[table["prediction"].eq("") & table["generation"].str.strip().ne("")]
    if count := sum(is_reasoning(each, thinking=True) for each in silent["generation"]):
        notes.append(
            f"{count} of {len(table)} answers are empty, and wrong: the model did not end its reasoning (</think>); "
            "where its tokens were spent, --max-new-tokens gives it more."
        )
    return tuple(notes)


def disagreements(table: DataFrame, limit: int) -> list[Disagreement]:
    """The first `limit` records to which methods gave answers that differ in their normal form.

    The first view of a method speaks for it.
    """
    found: list[Disagreement] = []
    for name, rows in table.groupby("id", sort=False):
        spoken = rows.drop_duplicates("method").set_index("method")
        if spoken["prediction"].map(normalise).nunique() > 1:
            first, right = spoken.iloc[0], spoken["exact_match"].astype(bool)
            texts = (first["question"], tuple(first["paraphrases"]), tuple(first["answers"]))
            found.append(Disagreement(str(name), *texts, spoken["prediction"].to_dict(), right.to_dict()))
        if len(found) == limit:
            break
    return found


def interval_text(found: Interval | None, sign: str = "") -> str:
    return "" if found is None else f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a cell too."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    plain = "".join(f"\\{c}" if c in "\\`*|" else c for c in plain)
    return re.sub(r"\](?=[(\[:])", r"\]", plain)  # no links, and an interval's brackets stay bare


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], *, first: str = "---") -> str:
    """Columns of numbers behind one that `first` aligns, then the notes."""
    lines = [" | ".join(map(_markdown, line)) for line in (header, *rows)]
    lines.insert(1, " | ".join([first] + ["---:"] * (len(header) - 1)))
    return "\n".join([*(f"| {line} |" for line in lines), "", *(f"- {_markdown(note)}" for note in notes)]) + "\n"
