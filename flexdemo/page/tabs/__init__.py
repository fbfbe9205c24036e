"""The tabs under the two sides, one module each, and what is the same for all: a note that says what is shown and of
which run, or what to do to see it.

A tab has TITLE, NAME and what is SAID of its picture, "" if it shows the page whatever ran; CHANGES, the widgets that
show a run; TERMS that explain it; NEEDS, the methods that have to have run if it asks the model about the run; and
what it says while it is WAITING for the model, "" where what was there stays meanwhile. It builds itself, fills
itself with a run, and wires what else can be done in it.
"""

from collections.abc import Iterator
from types import ModuleType

import gradio as gr

from ...errors import InputError
from ..run import LastRun, belongs_html, lacking_html
from ..terms import terms_html
from ..widgets import DRAWING, RUNNING, Changes, Page, Values, Visit, alert_html
from . import candidates, gave, head, heads, merge, methods, upclose

TABS = (gave, candidates, methods, merge, heads, head, upclose)
BY_NAME = {tab.NAME: tab for tab in TABS}
CHANGES = ("last", "looked", *(name for tab in TABS for name in (f"{tab.NAME}_note", *tab.CHANGES)))
TURN = "Waiting for the model, which is at work …"


def build_tabs(page: Page) -> None:
    page["tab"] = gr.State(TABS[0].NAME)
    page["looked"] = gr.State({})  # by tab, the key of the run that it shows
    with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
        for tab in TABS:
            with gr.Tab(tab.TITLE, elem_id=f"tab-{tab.NAME}") as page[f"tab-{tab.NAME}"]:
                page[f"{tab.NAME}_note"] = gr.HTML(_before(tab), elem_id=f"{tab.NAME}-note")
                tab.build(page)
                if tab.TERMS:
                    gr.HTML(terms_html(*tab.TERMS), elem_classes="terms")


def _before(tab: ModuleType) -> str:
    """What a tab says before there is a run."""
    return f"<p>{tab.SAID}</p><p>Press Run to see it.</p>" if tab.SAID else ""


def is_new(values: Values, name: str) -> bool:
    """Whether there is a run that this tab does not show yet."""
    last: LastRun | None = values["last"]
    return last is not None and values["looked"].get(name) != last.key


def filled(page: Page, values: Values, visit: Visit, name: str) -> Iterator[Changes]:
    """A tab with the last run, once for each: a tab works when it is open.

    What the model refuses is asked again when the tab is opened again.
    """
    tab, note, last = BY_NAME[name], f"{name}_note", values["last"]
    cleared = page.cleared(tab.CHANGES)
    if last is None and name in values["looked"]:  # a link took the place of a recording that the tab shows already
        others = {other: key for other, key in values["looked"].items() if other != name}
        yield {**cleared, note: _before(tab), "looked": others}
    if not is_new(values, name):
        return
    looked = {"looked": {**values["looked"], name: last.key}}
    if not set(tab.NEEDS).issubset(last.methods):
        yield {**cleared, **looked, note: lacking_html(last, *tab.NEEDS)}
        return
    told = {**looked, note: f"<p>{tab.SAID}</p>{belongs_html(last)}"}
    try:
        if tab.WAITING:
            yield {**cleared, note: f"<p>{tab.WAITING}</p>"}
        for changes in tab.fill(page, last, visit):
            yield {**told, **changes}  # all of it each time: of changes that come quickly a page may show the last only
    except InputError as error:
        yield {**cleared, "looked": values["looked"], note: f"{alert_html(str(error))}{belongs_html(last)}"}


def wire_tabs(page: Page) -> None:
    for tab in TABS:
        _wire_opening(page, tab)
        if hasattr(tab, "wire"):
            tab.wire(page)


def _wire_opening(page: Page, tab: ModuleType) -> None:
    name, note, reads = tab.NAME, f"{tab.NAME}_note", ["last", "looked"]

    def select(values: Values, visit: Visit) -> Iterator[Changes]:
        yield from filled(page, values, visit, name)

    def awaited(values: Values, visit: Visit) -> Changes:
        """That it is open, and what it says until its look begins: others may be asking, or the rest of this run."""
        return {"tab": name} | ({f"{name}_note": f"<p>{TURN}</p>"} if tab.WAITING and is_new(values, name) else {})

    seen = page.on(page[f"tab-{name}"].select, awaited, reads=reads, changes=["tab", note])
    changes = list(dict.fromkeys([*reads, note, *tab.CHANGES]))
    page.on(seen, select, reads=reads, changes=changes, **(RUNNING if tab.NEEDS else DRAWING))
