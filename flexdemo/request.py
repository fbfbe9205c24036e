"""Settings as frozen dataclasses. Imports nothing of the project; knows no model and no page."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from .errors import InputError

MOST_SAMPLES = 64
LEAST_APE, MOST_APE = 0.01, 100.0


def check_seed(seed: int) -> int:
    """The seed, or an InputError: one range for whatever draws."""
    if not 0 <= seed < 2**32:
        raise InputError(f"the seed must be from 0 to 4294967295, not {seed}")
    return seed


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen, and when to stop.

    temperature 0 is greedy. top_p keeps the smallest set of tokens whose probabilities sum to at least top_p
    (Holtzman et al., 2020, https://arxiv.org/abs/1904.09751). `mass` records the attention mass by segment, `detail`
    also by layer and head, and to every token. `candidates` is how many next tokens are kept at each step.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    mass: bool = True
    detail: bool = False
    candidates: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"the answer length must be at least 1 token, not {self.max_new_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"the temperature must be 0 (greedy) or a positive number, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p must be above 0 and at most 1, not {self.top_p}")
        check_seed(self.seed)


@dataclass(frozen=True)
class Ape:
    """Temperature T and scale S on a fused view's attention to paraphrases (APE, https://arxiv.org/abs/2502.05431).

    Scores of paraphrase keys are divided by T, and their log-sum-exp is multiplied by S * T before it is merged with
    the rest; log-weights are added after the division, so that N copies of a wording at 1/N still count as one.
    T = S = 1 is plain softmax. Both are held to a range in which float32 keeps every score finite and exact enough for
    all backends to agree.
    """

    temperature: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("scale", self.scale)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"the APE {name} must be a positive number (1: plain softmax), not {value}")
            if not LEAST_APE <= value <= MOST_APE:
                raise InputError(f"the APE {name} must be from {LEAST_APE:g} to {MOST_APE:g}, not {value:g}")

    @property
    def is_plain(self) -> bool:
        return self.temperature == 1 and self.scale == 1


PLAIN = Ape()


@dataclass(frozen=True)
class Samples:
    """How many answers of a wording are drawn, and how, to see how sure it is of its greedy answer."""

    count: int = 8
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_SAMPLES:
            raise InputError(f"the number of samples must be from 1 to {MOST_SAMPLES}, not {self.count}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"the samples' temperature must be a positive number, not {self.temperature}")


@dataclass(frozen=True)
class Limits:
    """What one request to the page may ask for; `seconds` is how long it may compute, None for as long as it takes."""

    paraphrases: int = 10
    characters: int = 2000
    prompt_tokens: int = 8192
    new_tokens: int = 256
    methods: int = 10
    samples: int = 32
    seconds: float | None = None
    file_bytes: int = 20_000_000
    file_rows: int = 200_000

    def until(self) -> float:
        """When a request that begins now has had its seconds, on the clock of `time.monotonic`; inf for never."""
        return math.inf if self.seconds is None else time.monotonic() + self.seconds

    def time_is_up(self) -> str:
        """What is said of a request that was stopped at `until()`."""
        return (
            f"stopped after {self.seconds:g} seconds, the most that a request may take here: what was answered until "
            "then is kept; ask for a shorter answer, fewer methods or fewer paraphrases"
        )


@dataclass(frozen=True)
class Request:
    """The arguments of `methods.stream` as they were given, with its defaults: enough to ask the same again."""

    question: str
    paraphrases: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("flex",)
    mask: str = "segment"
    positions: str = "aligned"
    weights: tuple[float, ...] | str | None = None
    samples: int = Samples.count
    sample_temperature: float = Samples.temperature
    ape_temperature: float = 1.0
    ape_scale: float = 1.0
    prefix: str = ""
    template: str = "auto"
    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    mass: bool = True
    candidates: int = 0
