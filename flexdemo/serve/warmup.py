"""A model's first passes before anybody asks: kernels are compiled, CUDA graphs captured. Knows no pages.

On a GPU the first request would wait for seconds, and for minutes where the whole forward pass is compiled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..answers.ask import ask
from ..answers.explain import NEEDED, explain
from ..answers.result import Result
from ..engine.model import LanguageModel
from ..errors import InputError, first_line, within_memory

TIMES = 3  # kernels are compiled and loaded in the first request, graphs captured in the second, replayed in the third
NEW_TOKENS = 3  # a step that runs, one that is captured, one that is replayed
SHARPENED = {"ape_temperature": 0.9}  # scores that are sharpened have kernels of their own


class WarmUp:
    """Runs in a thread of its own; `note` is what to tell meanwhile, "" once there is nothing more to tell."""

    def __init__(
        self,
        models: Sequence[LanguageModel],
        question: str,
        paraphrases: Sequence[str],
        methods: Sequence[str],
        *,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._models = [lm for lm in models if _gains(lm)]
        self._question, self._paraphrases = question, list(paraphrases)
        first, usual = list(methods)[:1], list(methods)
        self._asked = [{"methods": names} for names in (first, usual, ["all"])]
        self._asked += [{"methods": names, **SHARPENED} for names in (first, usual)]
        self._log, self.note = log, ""
        if self._models:
            time = "minutes" if any(lm.compiled is not None for lm in self._models) else "seconds"
            self.note = f"Warming up for some {time}: kernels are made for this GPU. Until then answers are slow."

    def start(self) -> None:
        """Begin, if there is anything to do."""
        if self._models:
            threading.Thread(target=self.run, name="warm-up", daemon=True).start()

    def run(self) -> None:
        """Ask each model as its visitors will. What goes wrong is told, and nothing else suffers from it."""
        try:
            for lm in self._models:
                with within_memory():
                    for asked in self._asked:
                        for _ in range(TIMES):
                            self._ask(lm, **asked)
                    for answered in (self._ask(lm, methods=NEEDED), self._ask(lm, methods=NEEDED, **SHARPENED)):
                        for _ in range(TIMES):
                            explain(lm, answered)
            self.note = ""
        except (InputError, RuntimeError) as error:
            self.note = f"Warming up failed: {first_line(error)}. First answers are slow."
        self._log(self.note or "warm")

    def _ask(self, lm: LanguageModel, **settings: Any) -> Result:
        settings |= {"mass": False, "max_new_tokens": NEW_TOKENS}
        return ask(lm, self._question, self._paraphrases, **settings)


def _gains(lm: LanguageModel) -> bool:
    """Whether a first request waits for kernels or graphs that later ones have."""
    return lm.captures or lm.compiled is not None or (lm.device.type == "cuda" and lm.backend == "flex")
