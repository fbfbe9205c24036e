"""Where the page runs and what it therefore takes from a visitor: one frozen profile each. Knows no page and no model.

The model is never part of a request: whoever starts the program names it, with `--model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..request import Limits


@dataclass(frozen=True)
class Profile:
    """A kind of host. A visitor is an address; None is no limit. Masks cost the square of the tokens of a prompt.

    `queue` is how many requests may wait in all, `waiting` how many that run the model one visitor may have waiting or
    running, `visits` how many pages and calls in a minute, each of which costs memory and time; `sessions` is how many
    pages' last results are kept in memory. `proxies` is how many proxies of the host stand in front and add to
    X-Forwarded-For. `uploads` is whether results files may be opened, `disk_bytes` what all files of visitors may take
    together.
    """

    name: str
    summary: str
    limits: Limits
    queue: int = 64
    waiting: int | None = None
    sessions: int = 200
    visits: int | None = None
    proxies: int = 0
    uploads: bool = True
    disk_bytes: int | None = None


_ALL = (
    Profile("local", "your own machine", Limits()),
    Profile(
        "space",
        "a public host, anybody's visits",
        Limits(
            paraphrases=8, characters=1_000, prompt_tokens=1_024, new_tokens=128, samples=8, seconds=60.0, file_bytes=0,
            file_rows=0,
        ),
        queue=32, waiting=3, visits=30, proxies=1, uploads=False, disk_bytes=500_000_000,
    ),
    Profile(
        "lab",
        "a large machine that a group shares",
        Limits(
            paraphrases=20, characters=8_000, prompt_tokens=8_192, new_tokens=1_024, seconds=300.0,
            file_bytes=100_000_000, file_rows=500_000,
        ),
        waiting=6, sessions=400, visits=120, disk_bytes=5_000_000_000,
    ),
)  # fmt: skip
PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _ALL})
DEFAULT = PROFILES["local"]
