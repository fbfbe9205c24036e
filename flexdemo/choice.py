"""The models that a page offers: an allow-list of names that its operator wrote. Knows no pages and no requests' texts.

A request chooses by name. What a name stands for, a path or an id, is never taken from a request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .config import InputError
from .model import LanguageModel

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
BUNDLED = "bundled"


@dataclass(frozen=True)
class Models:
    """Loaded models by the names under which they are offered, at least one; the first is the default."""

    named: tuple[tuple[str, LanguageModel], ...]

    @property
    def default(self) -> LanguageModel:
        return self.named[0][1]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.named)

    @property
    def choices(self) -> tuple[str, ...]:
        """The names to choose from; none where there is nothing to choose."""
        return self.names if len(self.named) > 1 else ()

    def of(self, name: str | None) -> LanguageModel:
        """The model offered under a name, the default without one; InputError for any other name."""
        if not name:
            return self.default
        found = dict(self.named).get(name)
        if found is None:
            raise InputError(f"there is no model {name[:60]!r} here: choose from {', '.join(self.names)}")
        return found

    def let_go(self) -> None:
        """Drop what is kept on the GPU for speed alone, of all models: they share its memory."""
        for _, lm in self.named:
            lm.graphs.clear()

    def that_made(self, model: str) -> LanguageModel:
        """The model of a result that names it so; the default where none does, as for a recording."""
        return next((lm for _, lm in self.named if lm.name == model), self.default)


def offered(models: LanguageModel | Models) -> Models:
    """Models as they are; a single model under its own name."""
    return models if isinstance(models, Models) else Models(((models.name, models),))


def parse_models(text: str) -> dict[str, str | None]:
    """{name: path or Hub id, None for the bundled model} of NAME=PATH_OR_ID,...; InputError for what is none."""
    told: dict[str, str | None] = {}
    for part in text.split(","):
        name, equals, where = (each.strip() for each in part.partition("="))
        if not equals or not where or not NAME.fullmatch(name):
            raise InputError(
                f"{part.strip()[:80]!r} is no NAME=PATH_OR_ID: such as small=Qwen/Qwen3-0.6B or tiny={BUNDLED}, "
                "several with commas between; a name has letters, digits, dots, dashes"
            )
        if name in told:
            raise InputError(f"two models are called {name}: give each a name of its own")
        told[name] = None if where == BUNDLED else where
    if len(set(told.values())) < len(told):
        raise InputError("one model is offered under two names: name each model once")
    return told


def load_all(named: dict[str, str | None], load: Callable[[str | None], Any]) -> Models:
    """All of them, loaded in that order."""
    return Models(tuple((name, load(where)) for name, where in named.items()))


def weights_gigabytes(lm: LanguageModel) -> float:
    """Memory that a model's weights take, in GB; tied weights once."""
    return sum(each.numel() * each.element_size() for each in lm.model.parameters()) / 1e9
