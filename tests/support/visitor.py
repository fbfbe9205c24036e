"""A page's handlers as a browser would call them, with plain values by name: no server, no gradio in between.

No tests here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import pytest

from flexdemo.engine.loading import Models
from flexdemo.engine.model import LanguageModel
from flexdemo.page import page as pages
from flexdemo.page.widgets import Page, Visit

Wired = tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]


class Kept(Page):
    """A page that remembers what was wired: handler, names that it reads, names that it may change."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.works: dict[str, list[Wired]] = {}

    def on(self, triggers: Any, work: Any, *, reads: Any = (), changes: Sequence[str], **options: Any) -> Any:
        refused = options.get("refused")
        told = (self.refusing(work, refused), tuple(reads), (*changes, *(refused or ())))
        self.works.setdefault(work.__name__, []).append(told)
        return super().on(triggers, work, reads=reads, changes=changes, **options)


class Built:
    """A page that was built, its widgets by name, and the values that they begin with."""

    def __init__(self, lm: LanguageModel | Models, **options: Any) -> None:
        made: list[Kept] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pages, "Page", lambda *given: made.append(Kept(*given)) or made[-1])
            self.demo = pages.build_demo(lm, **options)
        (self.widgets,) = made

    def visitor(self, session: str = "somebody") -> Visitor:
        return Visitor(self, session)


class Visitor:
    """One page that is open: `values` are its widgets' by name, `visible` tells what was shown or hidden."""

    def __init__(self, page: Built, session: str) -> None:
        self.page, self.session, self.visible = page, session, {}
        self.values: dict[str, Any] = {name: getattr(each, "value", None) for name, each in page.widgets.items()}

    def do(self, name: str, told: Any = None, *, nth: int = 0, query: str = "", **typed: Any) -> list[dict[str, Any]]:
        """All changes that a handler makes one after the other, after something was typed; they are on the page."""
        self.values |= typed
        work, reads, changes = self.page.widgets.works[name][nth]
        visit = Visit(self.session, query, gr.EventData(None, told))
        made = work({each: self.values[each] for each in reads}, visit)
        frames = list(made) if inspect.isgenerator(made) else [made]
        for frame in frames:
            assert set(frame) <= set(changes), f"{name} changes what it was not wired to: {set(frame) - set(changes)}"
            for key, value in frame.items():
                if isinstance(value, dict) and value.get("__type__") == "update":
                    self.visible |= {key: value["visible"]} if "visible" in value else {}
                    self.values |= {key: value["value"]} if "value" in value else {}
                else:
                    self.values[key] = value
        return frames

    def open(self, nth: int) -> list[dict[str, Any]]:
        """The tab of this place is opened: it is told so at once, and filled in when the model is free."""
        self.do("awaited", nth=nth)
        return self.do("select", nth=nth)
