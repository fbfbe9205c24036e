"""The tabs under the two sides, one module each: build(), fill() with the last run, wire(). Knows no layout."""

from . import candidates, gave, head, heads, merge, methods, upclose

TABS = (gave, candidates, methods, merge, heads, head, upclose)
