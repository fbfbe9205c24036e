"""The last Prefill of a visitor, held so that asking the same prompt again only decodes. Knows no pages."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace

from .encoding import Encoding, Prefill, read_of
from .prompt import SegmentedPrompt

MOST_TOKENS = 2048
MOST_SESSIONS = 16


@dataclass
class Reading:
    """At most one Prefill of one prompt of up to `most_tokens` tokens; a later one replaces it.

    All are of one model, which `model` names.
    """

    prefill: Prefill | None = None
    most_tokens: int = MOST_TOKENS
    model: str = ""

    def known(self, prompt: SegmentedPrompt) -> Prefill | None:
        """The Prefill held, if it is of the same tokens of prefix and paraphrases in the same segments."""
        held = self.prefill
        return held if held is not None and held.prompts == (read_of(prompt),) else None

    def keep(self, read: Prefill, encodings: Collection[Encoding]) -> None:
        """Hold a Prefill of one prompt, with the caches of these encodings only; nothing if the prompt is too long."""
        if len(read.prompts) != 1 or len(read.prompts[0]) > self.most_tokens:
            self.prefill = None
            return
        caches = {encoding: cache for encoding, cache in read.caches.items() if encoding in encodings}
        self.prefill = replace(read, caches=caches)


class Readings:
    """One Reading for each of the latest `most` sessions; memory is bounded by their number and their prompts."""

    def __init__(self, most: int = MOST_SESSIONS) -> None:
        self.most = most
        self._held: OrderedDict[str, Reading] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, session: str, model: str = "") -> Reading:
        """A session's Reading of a model, made if there is none: what another model has read is let go.

        The session used longest ago makes room for it.
        """
        with self._lock:
            reading = self._held.get(session)
            if reading is None or reading.model != model:
                reading = self._held[session] = Reading(model=model)
            self._held.move_to_end(session)
            while len(self._held) > self.most:
                self._held.popitem(last=False)
        return reading

    def forget(self, session: str) -> None:
        with self._lock:
            self._held.pop(session, None)

    def __len__(self) -> int:
        return len(self._held)
