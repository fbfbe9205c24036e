"""The tabs under the two sides, one module each: build(), fill() with the last run, and wire() if it
has events of its own. Knows no layout."""

from . import candidates, gave, head, methods, upclose

TABS = (gave, candidates, methods, head, upclose)
