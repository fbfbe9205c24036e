"""What a request produced, as frozen dataclasses; `Result.to_dict` is the JSON of the command line. Knows no models."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__
from ..plan import Encoding, View, fused_view
from ..prompt import SegmentedPrompt
from ..request import Ape, Request


@dataclass(frozen=True)
class ViewResult:
    """One view's own answer; `segment_mass` has a row for each token: prefix, P1..PN, suffix + own answer."""

    name: str
    weights: tuple[float, ...]
    suffix_position: int
    answer: str
    generation: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    segment_mass: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Candidate:
    """One of the likeliest next tokens at a step."""

    token_id: int
    token: str
    probability: float


@dataclass(frozen=True)
class MethodResult:
    """What one method answered; `seconds` is the time from the request to this method's last token.

    `candidates` are the likeliest tokens at each step, if the request asked for some.
    """

    method: str
    answer: str
    generation: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    stopped_by: str | None
    seconds: float
    mask: Mapping[str, Any]
    backend: str
    views: tuple[ViewResult, ...]
    candidates: tuple[tuple[Candidate, ...], ...] = ()


@dataclass(frozen=True)
class Confidence:
    """Share of each wording's sampled answers that agree with its greedy answer; `temperature` is the samples'."""

    shares: tuple[float, ...]
    samples: int
    temperature: float


@dataclass(frozen=True)
class Result:
    """Everything one request produced, so far or in the end (`done`). `to_dict` is the JSON of the command line.

    `request` is what was asked; the JSON does not repeat it. `sides` are the answers of the schemes that were asked for
    beside the methods, `notes` what to know of all answers; the JSON names them only if there are some.
    """

    model: str
    device: str
    dtype: str
    backend: str
    mask: Mapping[str, Any]
    prompt: SegmentedPrompt
    position_ids: tuple[int, ...]
    results: tuple[MethodResult, ...]
    seconds: Mapping[str, float]
    done: bool
    request: Request
    confidence: Confidence | None = None
    sides: tuple[MethodResult, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ape(self) -> Ape:
        return self.request.ape

    @property
    def answered(self) -> tuple[MethodResult, ...]:
        """What the methods answered, and the sides beside them."""
        return (*self.results, *self.sides)

    @property
    def fused(self) -> View:
        """What the fused answer reads."""
        return fused_view(self.prompt, Encoding(self.mask["strategy"], self.mask["positions"]), self.ape)

    def __getitem__(self, method: str) -> MethodResult:
        found = {result.method: result for result in self.results}
        if method not in found:
            raise KeyError(f"no {method!r} here: this result holds {', '.join(found)}; ask for it by methods=[...]")
        return found[method]

    def to_dict(self) -> dict[str, Any]:
        prompt = {
            "token_ids": list(self.prompt.token_ids),
            "tokens": list(self.prompt.tokens),
            "segment_ids": list(self.prompt.segment_ids),
            "position_ids": list(self.position_ids),
            "segments": [asdict(segment) for segment in self.prompt.segments],
        }
        told = {name: getattr(self, name) for name in ("model", "device", "dtype", "backend")}
        told |= {"mask": dict(self.mask), "prompt": prompt, "results": [asdict(result) for result in self.results]}
        some = {
            "ape": None if self.ape.is_plain else asdict(self.ape),
            "confidence": self.confidence and asdict(self.confidence),
            "sides": [asdict(side) for side in self.sides],
            "notes": list(self.notes),
        }
        return {**told, "seconds": dict(self.seconds), **{name: value for name, value in some.items() if value}}


def versions(*others: str) -> dict[str, str]:
    """Version of flexdemo, of Python, of the libraries that an answer depends on, of those of the others there are."""
    found = {"flexdemo": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", *others):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
