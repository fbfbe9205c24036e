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
    running, `connections` how many open connections, `visits` how many pages and calls in a minute, each of which costs
    memory and time; `sessions` is how many pages' last results are kept in memory. `proxies` is how many proxies of the
    host stand in front and add to X-Forwarded-For. `uploads` is whether results files may be opened, `disk_bytes` what
    all files of visitors may take together, `request_bytes` a request.
    """

    name: str
    summary: str
    limits: Limits
    queue: int
    waiting: int | None
    connections: int | None
    sessions: int
    visits: int | None
    proxies: int
    uploads: bool
    disk_bytes: int | None
    request_bytes: int = 4_000_000


_ALL = (
    Profile(
        "local",
        "your own machine",
        Limits(),
        queue=64,
        waiting=None,
        connections=None,
        sessions=200,
        visits=None,
        proxies=0,
        uploads=True,
        disk_bytes=None,
    ),
    Profile(
        "space",
        "a public host, anybody's visits",
        Limits(
            paraphrases=8, characters=1_000, prompt_tokens=1_024, new_tokens=128, samples=8, seconds=60.0, file_bytes=0,
            file_rows=0,
        ),
        queue=32,
        waiting=3,
        connections=48,
        sessions=200,
        visits=30,
        proxies=1,
        uploads=False,
        disk_bytes=500_000_000,
    ),
    Profile(
        "lab",
        "a large machine that a group shares",
        Limits(
            paraphrases=20, characters=8_000, prompt_tokens=8_192, new_tokens=1_024, seconds=300.0,
            file_bytes=100_000_000, file_rows=500_000,
        ),
        queue=64,
        waiting=6,
        connections=128,
        sessions=400,
        visits=120,
        proxies=0,
        uploads=True,
        disk_bytes=5_000_000_000,
    ),
)  # fmt: skip
PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _ALL})
DEFAULT = PROFILES["local"]


def table() -> str:
    """What each profile allows, as a table in Markdown."""
    rows = [
        ("", *(f"`{name}`" for name in PROFILES)),
        ("meant for", *(p.summary for p in _ALL)),
        ("paraphrases of a question", *(f"{p.limits.paraphrases}" for p in _ALL)),
        ("characters of each text", *(f"{p.limits.characters:,}" for p in _ALL)),
        ("tokens of prompt and answer", *(f"{p.limits.prompt_tokens:,}" for p in _ALL)),
        ("tokens of the answer", *(f"{p.limits.new_tokens:,}" for p in _ALL)),
        ("methods at once", *(_or_any(p.limits.methods) for p in _ALL)),
        ("samples of each wording", *(f"{p.limits.samples}" for p in _ALL)),
        ("seconds of computing", *(_or_any(p.limits.seconds) for p in _ALL)),
        ("requests that wait, in all", *(f"{p.queue}" for p in _ALL)),
        ("of one visitor (an address)", *(_or_any(p.waiting) for p in _ALL)),
        ("pages and calls a minute, of one visitor", *(_or_any(p.visits) for p in _ALL)),
        ("results files, rows", *(f"{p.limits.file_rows:,}" if p.uploads else "none" for p in _ALL)),
        ("results files, MB", *(f"{p.limits.file_bytes / 1e6:g}" if p.uploads else "none" for p in _ALL)),
        (
            "MB of visitors' files on disk",
            *("any" if p.disk_bytes is None else f"{p.disk_bytes / 1e6:,.0f}" for p in _ALL),
        ),
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * (len(_ALL) + 1), *lines[1:]])


def _or_any(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"
