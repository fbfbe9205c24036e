"""Sweeps: methods at several layers or numbers of wordings, as methods of a results table. Knows no models.

What is swept stands in a method's name, such as `hidden_avg:layer=4`, so that a table tells of it by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..answers.methods import METHODS, Method
from .summary import REFERENCE, Interval, Summary, interval_text, markdown, summarise

if TYPE_CHECKING:
    from pandas import DataFrame

SWEEPS = {  # what --sweep takes: how a value is called in a method's name, and on an axis
    "layer": ("layer", "layer from whose output on the wordings share hidden states"),
    "paraphrases": ("wordings", "wordings of a question (1: no paraphrase)"),
}
MOST = 8  # values of one sweep
NAMED = re.compile(r"(\w+):(layer|wordings)=([1-9]\d*)")


def swept_methods(kind: str, methods: Sequence[str], *, depth: int, wordings: int) -> tuple[str, ...]:
    """The names to run for a sweep beside `methods`: hidden_avg at layers up to `depth`, or each of those that give one
    answer, of the first wordings up to `wordings`; at most MOST values at even steps."""
    called, _ = SWEEPS[kind]
    last = depth if kind == "layer" else wordings
    values = sorted({1 + round(i * (last - 1) / (MOST - 1)) for i in range(MOST)})
    names = ["hidden_avg"] if kind == "layer" else [name for name in methods if not METHODS[name].answers_each]
    return tuple(f"{name}:{called}={value}" for name in names for value in values)


def method_named(name: str) -> Method:
    """A method of the table, or one of a sweep."""
    found = NAMED.fullmatch(name)
    if found is None:
        return METHODS[name]
    method, called, value = METHODS[found[1]], found[2], int(found[3])
    if called == "layer":
        return replace(method, name=name, mix_from=value)
    return replace(method, name=name, packed=lambda prompt: method.packed(prompt.shortened(value)))


@dataclass(frozen=True)
class Choice:
    """The best value by the records at even positions (the first is at 0; of equal ones the smallest), its accuracy
    there, and on the other records: there also less that of `causal`, None without it."""

    value: int
    chosen_on: float
    told_on: Interval
    difference: Interval | None


@dataclass(frozen=True)
class Curve:
    """Accuracy of one method at each value, over all records. `choice` is None for a single record."""

    method: str
    accuracy: tuple[Interval, ...]
    choice: Choice | None


@dataclass(frozen=True)
class Sweep:
    """Methods over the same values of what was swept."""

    axis: str
    called: str
    score: str
    values: tuple[int, ...]
    curves: tuple[Curve, ...]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of a table: a value a row, a method a column."""
        rows = [
            [str(value), *(interval_text(curve.accuracy[i]) for curve in self.curves)]
            for i, value in enumerate(self.values)
        ]
        return [self.called.capitalize(), *(curve.method for curve in self.curves)], rows

    @property
    def notes(self) -> tuple[str, ...]:
        """The choice of each method in words."""
        told = []
        for curve in self.curves:
            if (choice := curve.choice) is None:
                continue
            difference = f", {interval_text(choice.difference, '+')} against causal" if choice.difference else ""
            told.append(
                f"{curve.method}: best at {self.called} {choice.value} on the records at even positions "
                f"({choice.chosen_on:.3f}); on the others that value has {interval_text(choice.told_on)}{difference}."
            )
        return tuple(told)

    def markdown(self) -> str:
        return markdown(*self.cells(), self.notes, first="---:")


def without_sweeps(table: DataFrame) -> DataFrame:
    """The rows of the other methods."""
    return table[[NAMED.fullmatch(name) is None for name in table["method"]]]


def find_sweeps(table: DataFrame, *, score: str, seed: int) -> tuple[Sweep, ...]:
    """The sweeps that a results table holds, with intervals over its questions; a best value is chosen on one half of
    its records and told on the other."""
    swept: dict[str, dict[str, list[int]]] = {}
    for name in table["method"].unique():
        if found := NAMED.fullmatch(name):
            swept.setdefault(found[2], {}).setdefault(found[1], []).append(int(found[3]))
    if not swept:
        return ()
    counted = table[[name == REFERENCE or NAMED.fullmatch(name) is not None for name in table["method"]]]
    order = counted["id"].drop_duplicates().tolist()
    halves = [counted[counted["id"].isin(order[i::2])] for i in (0, 1)] if len(order) > 1 else []
    whole, *halved = (summarise(part, score=score, seed=seed) for part in (counted, *halves))
    made = []
    for called, methods in swept.items():
        values = tuple(sorted(next(iter(methods.values()))))
        curves = []
        for method in methods:
            names = {value: f"{method}:{called}={value}" for value in values}
            choice = _choice(names, *halved) if halved else None
            curves.append(Curve(method, tuple(whole[name].accuracy for name in names.values()), choice))
        axis = next(axis for each, axis in SWEEPS.values() if each == called)
        made.append(Sweep(axis, called, score, values, tuple(curves)))
    return tuple(made)


def _choice(names: Mapping[int, str], chosen_on: Summary, told_on: Summary) -> Choice:
    best = max(names, key=lambda value: (chosen_on[names[value]].accuracy.value, -value))
    told = told_on[names[best]]
    return Choice(best, chosen_on[names[best]].accuracy.value, told.accuracy, told.difference)
