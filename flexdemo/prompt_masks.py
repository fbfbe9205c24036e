"""The mask of a packed prompt: as an array, its facts, its JSON. Knows no models."""

from __future__ import annotations

from typing import Any

import numpy as np

from .config import InputError
from .encoding import Encoding
from .masks import STRATEGIES, dense_mask, density, make_layout, make_mask_mod
from .prompt import POSITIONS, SegmentedPrompt


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
