"""Scores by question -> means with intervals. Arrays only; knows no tables and no methods.

Percentile intervals of the bootstrap over questions (Efron and Tibshirani, An Introduction to the Bootstrap, 1993). The
difference of two columns is paired: it comes from the same resampled questions (Koehn, Statistical Significance Tests
for Machine Translation Evaluation, EMNLP 2004).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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
    return np.concatenate([_means(scores, draws) for draws in resample_indices(len(scores), resamples, seed=seed)])


def _means(scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    count, n = draws.shape
    places = draws + np.arange(count)[:, None] * n
    times = np.bincount(places.ravel(), minlength=count * n).reshape(count, n)  # how often a question was drawn
    return times.astype(np.float64) @ scores / n


def interval(value: float, resampled: np.ndarray) -> Interval:
    """The value with the percentiles of its resampled values (resamples,) that hold LEVEL per cent between them."""
    low, high = np.percentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))
