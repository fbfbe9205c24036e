"""Encoding, View, Stream, Scheme: what a method asks of the engine. Knows no tensors, methods or pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from .errors import InputError
from .masks import STRATEGIES, dense_mask, density, make_layout, make_mask_mod
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

    def check(self) -> None:
        """Raise InputError for an unknown strategy or position scheme."""
        check_encoding(self.encoding)

    def view(self, prompt: SegmentedPrompt, ape: Ape = PLAIN) -> View:
        """The view of a prompt under this scheme: every paraphrase, by the prompt's weights or by 1 each."""
        weights = prompt.weights if self.weighted else (1.0,) * len(prompt.paraphrases)
        return View(self.name, self.encoding, weights, prompt.suffix_position(self.positions), ape)


STANDARD = Scheme("causal", "sequential", weighted=False)
LADDER = (
    STANDARD,
    Scheme("segment", "sequential", weighted=False),
    Scheme("segment", "aligned", weighted=False),
    Scheme("segment", "aligned", weighted=True),
)


def check_encoding(encoding: Encoding) -> None:
    """Raise InputError for an unknown strategy or position scheme."""
    for what, name, table in (
        ("mask strategy", encoding.strategy, STRATEGIES),
        ("position scheme", encoding.positions, POSITIONS),
    ):
        if name not in table:
            raise InputError(f"unknown {what} {name!r}: choose from {', '.join(table)}")


def mask_array(prompt: SegmentedPrompt, strategy: str) -> np.ndarray:
    """The mask over the packed prompt as booleans (T, T), row = query, True = visible."""
    layout = make_layout(prompt.segment_ids, prompt.roles)
    return dense_mask(make_mask_mod(strategy, layout), layout)[0].numpy()


def mask_facts(prompt: SegmentedPrompt, encoding: Encoding) -> dict[str, Any]:
    """Strategy, positions and density of the mask over the packed prompt, suffix included, before weights hide any."""
    layout = make_layout(prompt.segment_ids, prompt.roles)
    visible = density(make_mask_mod(encoding.strategy, layout), layout)
    return {"strategy": encoding.strategy, "positions": encoding.positions, "density": visible}


def mask_dict(prompt: SegmentedPrompt, strategy: str, positions: str, against: str | None = None) -> dict[str, Any]:
    """The JSON of the command `mask` and of `/mask`: rows of 0 and 1 (1 = visible), a row for each query token."""
    rows = mask_array(prompt, strategy)
    facts = mask_facts(prompt, Encoding(strategy, positions))
    out: dict[str, Any] = {"rows": ["".join(map(str, row)) for row in rows.astype(int).tolist()], **facts}
    out["tokens"] = list(prompt.tokens)
    out["segment_ids"] = list(prompt.segment_ids)
    out["position_ids"] = list(prompt.position_ids(positions))
    if against is not None:
        other = mask_array(prompt, against)
        out["against"] = {
            **mask_facts(prompt, Encoding(against, positions)),
            "kept": int((rows & other).sum()),
            "removed": int((~rows & other).sum()),
            "added": int((rows & ~other).sum()),
        }
    return out


@dataclass(frozen=True)
class Encoding:
    """Mask strategy + position scheme: one prefill, one KV cache."""

    strategy: str = "segment"
    positions: str = "aligned"


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


Combine = Callable[[Tensor, Sequence[float]], Tensor]


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
    forced: tuple[int, ...] = ()  # tokens to feed instead of choosing: their log-probabilities are what is wanted
