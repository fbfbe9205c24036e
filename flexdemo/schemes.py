"""Schemes: mask strategy + position scheme + weights on or off, each a way to read one whole prompt. Knows no pages."""

from __future__ import annotations

from dataclasses import dataclass

from .config import PLAIN, Ape
from .encoding import Encoding, View
from .prompt import SegmentedPrompt
from .prompt_masks import check_encoding


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
