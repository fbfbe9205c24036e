"""Encoding, View, Stream, Scheme: what a method asks of the engine. Knows no tensors, methods or pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .errors import InputError
from .masks import Mask, parse, renamed
from .prompt import POSITIONS, SegmentedPrompt
from .request import PLAIN, Ape


@dataclass(frozen=True)
class Scheme:
    """One way to fuse all wordings. Without `weighted` every weight is 1: scores stay as they are (raw)."""

    strategy: str = "segment"
    positions: str = "aligned"
    weighted: bool = True

    @property
    def encoding(self) -> Encoding:
        return Encoding(self.strategy, self.positions)

    @property
    def name(self) -> str:
        return f"{self.strategy}/{self.positions}/{'weights' if self.weighted else 'raw'}"

    @classmethod
    def of(cls, name: str) -> Scheme:
        """The scheme that has this `name`."""
        strategy, positions, weights = name.split("/")
        return cls(strategy, positions, weights == "weights")

    def renamed(self, names: Mapping[str, str]) -> Scheme:
        """The same with other names for the segments of its mask."""
        return replace(self, strategy=renamed(self.strategy, names))

    def view(self, prompt: SegmentedPrompt) -> View:
        """The view of a prompt under this scheme: every paraphrase, by the prompt's weights or by 1 each."""
        weights = prompt.weights if self.weighted else (1.0,) * len(prompt.paraphrases)
        return View(self.name, self.encoding, weights, prompt.suffix_position(self.positions))


def check_encoding(encoding: Encoding, prompt: SegmentedPrompt | None = None) -> None:
    """Raise InputError for what is no mask or no position scheme, or, with a prompt, does not fit its wordings."""
    parse(encoding.strategy)
    if prompt is not None:
        Mask.over(encoding.strategy, prompt.segments)
    if encoding.positions not in POSITIONS:
        raise InputError(f"unknown position scheme {encoding.positions!r}: choose from {', '.join(POSITIONS)}")


def mask_array(prompt: SegmentedPrompt, strategy: str) -> np.ndarray:
    """The mask over the packed prompt as booleans (T, T), row = query, True = visible."""
    return Mask.over(strategy, prompt.segments).cells()


def mask_rows(cells: np.ndarray) -> list[str]:
    """A text of 0 and 1 (1 = visible) for each row of booleans (T, T)."""
    return [row.tobytes().decode("ascii") for row in np.where(cells, np.uint8(ord("1")), np.uint8(ord("0")))]


def mask_facts(prompt: SegmentedPrompt, encoding: Encoding) -> dict[str, Any]:
    """Strategy, positions and density of the mask over the packed prompt, suffix included, before weights hide any."""
    visible = Mask.over(encoding.strategy, prompt.segments).density
    return {"strategy": encoding.strategy, "positions": encoding.positions, "density": visible}


def mask_dict(prompt: SegmentedPrompt, strategy: str, positions: str, against: str | None = None) -> dict[str, Any]:
    """The JSON of the command `mask` and of `/mask`: rows of 0 and 1 (1 = visible), a row for each query token."""
    mask = Mask.over(strategy, prompt.segments)
    out: dict[str, Any] = {"rows": mask_rows(mask.cells()), **mask_facts(prompt, Encoding(strategy, positions))}
    out["tokens"] = list(prompt.tokens)
    out["segment_ids"] = list(prompt.segment_ids)
    out["position_ids"] = list(prompt.position_ids(positions))
    if against is not None:
        changes = mask.difference(Mask.over(against, prompt.segments))
        out["against"] = {**mask_facts(prompt, Encoding(against, positions)), **changes}
    return out


@dataclass(frozen=True)
class Encoding:
    """Mask (a strategy or one of your own) + position scheme: one prefill, one KV cache.

    `shift` and `highest` are the engine's: what it adds to every position, and the highest one that it then allows.
    """

    strategy: str = "segment"
    positions: str = "aligned"
    shift: int = 0
    highest: int | None = None


@dataclass(frozen=True)
class View:
    """One row: which encoding it reads, the weight of each paraphrase (0 hides it), where its suffix starts."""

    name: str = field(compare=False)  # views that differ only in name are computed once
    encoding: Encoding
    weights: tuple[float, ...]
    suffix_position: int
    ape: Ape = PLAIN


def fused_view(prompt: SegmentedPrompt, encoding: Encoding, ape: Ape = PLAIN) -> View:
    """The view that sees every paraphrase by its weight."""
    return View("flex", encoding, prompt.weights, prompt.suffix_position(encoding.positions), ape)


Combine = Callable[[Any, Sequence[float]], Any]


@dataclass(frozen=True)
class Stream:
    """One answer: a view, or several views whose next-token logits are combined and that share each token.

    `combine` maps logits (rows, V) and the paraphrases' weights to logits (V,). `prompt` is the index in the batch.
    """

    views: tuple[View, ...]
    combine: Combine | None = None
    weights: tuple[float, ...] = ()
    prompt: int = 0
    seed: int = 0  # added to the request's seed, so that samples of one view differ
    temperature: float | None = None  # instead of the request's
    limit: int | None = None  # tokens, instead of the request's and below it
    mix_from: int | None = None  # layer, from 1: from its output on the views share their mean hidden state
    forced: tuple[int, ...] = ()  # tokens to feed instead of choosing: their log-probabilities are what is wanted

    @property
    def together(self) -> tuple[View, ...]:
        """The views whose rows must be in one pass."""
        return self.views if self.mix_from else ()
