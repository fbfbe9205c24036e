"""A visitor's page in Chromium and the servers it visits, for the browser tests. No tests here.

playwright is imported where it is used, so that the other tests run without it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import browser_support
import models
import numpy as np
import pytest
import torch
from forked import Forked

import app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NASTY = "<b>x</b> <script>document.title='hacked'</script> ${1+1} <|eot_id|> &lt;"
PATIENCE = 60_000  # ms; a machine with other work is slow, and only a test that fails waits so long
MOST_VISITS = 30  # of one page: its process keeps some memory of each
CALM_MS = 100  # what follows an act or an answer is asked at once; of the page's own timers one is longer, see `settle`
LOOK_MS = 50  # how often a page is looked at: at each frame would keep it busy with frames
PLOTS = {"left": "mask-plot", "right": "mask-plot-right"}
# Counts what the page has asked the program and waits for, so that no test has to guess how long that takes. It is calm
# when nothing is awaited, and nothing was asked, answered or drawn until its own thread had a frame and then nothing to
# do: an answer is drawn in several steps, and timers of one thread keep their order, however busy the machine is.
WATCH = """(() => {
    const real = window.fetch, open = new Set(), over = new Set();
    const asked = window.asked = {runs: 0, posting: 0, told: 0, loaded: false};
    const next = (step, ...more) => new Promise(done => step(done, ...more));
    asked.calm = async (ms) => {
        for (let before = -1; open.size || asked.posting || asked.told !== before;) {
            before = asked.told;
            await next(setTimeout, ms);
            await next(requestAnimationFrame);
            await next(requestIdleCallback);
        }
        return true;
    };
    const tell = () => { asked.told += 1; };
    const all = {childList: true, subtree: true, attributes: true, characterData: true};
    new MutationObserver(tell).observe(document, all);
    const end = (id) => { over.add(id); open.delete(id); tell(); };
    async function read(body) {
        const reader = body.pipeThrough(new TextDecoderStream()).getReader();
        let text = '';
        for (let part; !(part = await reader.read()).done;) {
            const lines = (text + part.value).split('\\n');
            text = lines.pop();
            for (const line of lines) if (line.includes('"process_completed"')) end(JSON.parse(line.slice(5)).event_id);
        }
    }
    window.fetch = async (input, options) => {
        const path = String(input?.url ?? input), posts = options?.method === 'POST';
        if (path.includes('/cancel')) end(JSON.parse(options.body).event_id);
        asked.posting += posts;
        if (path.includes('/queue/join')) {
            asked.runs += 1;
            const {fn_index} = JSON.parse(options.body), {targets} = window.gradio_config.dependencies[fn_index];
            asked.loaded ||= targets.some(([, event]) => event === 'load');  // the page asks what its link holds
        }
        try {
            const answer = await real(input, options);
            if (path.includes('/queue/data')) read(answer.clone().body).catch(() => {});
            if (path.includes('/queue/join') && answer.ok) {
                const {event_id} = await answer.clone().json();
                if (!over.has(event_id)) open.add(event_id);
            }
            return answer;
        } finally {
            asked.posting -= posts;
            tell();
        }
    };
})();"""
# Both masks are there, and below the prompt's rows stand those of a finished answer that belongs to it.
DRAWN = """plots => Object.entries(plots).every(([side, name]) => {
    const plot = document.querySelector(`#${name} .js-plotly-plot`), meta = plot?.layout?.meta;
    if (!plot?.linked || !meta || !plot.querySelector('.nsewdrag')) return false;
    const live = JSON.parse(document.querySelector('#live [data-live]')?.dataset.live ?? '{}')[side];
    const belongs = live?.done && live.signature === meta.signature;
    return !belongs || JSON.stringify(meta.answer ?? []) === JSON.stringify(live.tokens);
})"""


@pytest.fixture(scope="session")
def chromium() -> Iterator[str]:
    """The program to start; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        found = browser_support.find_chromium(playwright)
    if found is None:
        pytest.skip("no Chromium is installed (chromium, chromium-browser, google-chrome or playwright's own)")
    yield found
    PAGES.close()


@pytest.fixture
def visitors(chromium: str) -> Iterator[Visitors]:
    """visitors(url, ...): a page that a visitor has opened; as many as a test wants."""
    PAGES.start(chromium)
    yield PAGES
    PAGES.take_back()


@pytest.fixture
def visit(visitors: Visitors, bundled_url: str) -> Iterator[Visit]:
    """The page as a newcomer sees it; at the end it has complained of nothing and asked nobody else."""
    made = visitors(bundled_url)
    yield made
    clean(made)


@pytest.fixture(scope="session")
def bundled_url(chromium: str) -> Iterator[str]:
    """A server as a newcomer starts it."""
    assert browser_support.BUNDLED.is_dir(), "the bundled model is missing from assets/"
    with browser_support.serve() as url:
        yield url


@pytest.fixture(scope="session")
def slow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that answers at length and slowly, and reads long prompts: for streaming and stopping."""
    folder = tmp_path_factory.mktemp("model") / "slow"
    model, tokenizer = models.random_model(num_hidden_layers=12, max_position_embeddings=8192), models.tokenizer()
    with torch.no_grad():
        for i in range(len(tokenizer)):  # only plain text: no end tokens, no ends of lines, no halves of characters
            if not re.fullmatch("[!-~]+", tokenizer.decode([i])) or i in tokenizer.all_special_ids:
                model.lm_head.weight[i] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def slow_url(chromium: str, slow_folder: Path) -> Iterator[str]:
    """A server for a group, with many rows and long prompts, over the slow model, and the bundled one to choose."""
    port = browser_support.free_port()
    given = ["--port", str(port), "--profile", "lab", "--models", f"slow={slow_folder},facts=bundled"]
    running = Forked(lambda: app.main(given), slow_folder.parent)
    with browser_support.answering(running, port, lambda: str(running.said())) as url:
        yield url


class Visitors:
    """Hands out pages of one Chromium; each comes back at the end of its test and is used again for a new document.

    A page that loads the program once more takes a third of the time that a new one takes, for its process holds the
    scripts. Nothing else is left of the visit before, neither in the browser nor on the server.
    """

    def __init__(self) -> None:
        self.browser: Browser | None = None
        self._stack = ExitStack()
        self._idle: list[Page] = []
        self._out: list[Visit] = []
        self._visits: Counter[Page] = Counter()

    def start(self, chromium: str) -> None:
        if self.browser is not None:
            return
        from playwright.sync_api import expect, sync_playwright

        expect.set_options(timeout=PATIENCE)
        started = self._stack.enter_context(sync_playwright()).chromium
        self.browser = started.launch(executable_path=chromium, args=list(browser_support.ARGUMENTS))
        self._stack.callback(self.browser.close)

    def close(self) -> None:
        """End Chromium, and the event loop in this thread that drives it: other tests have loops of their own."""
        self._stack.close()
        self.__init__()

    def __call__(
        self,
        url: str,
        *,
        width: int = 1440,
        height: int = 900,
        scheme: str = "light",
        motion: str = "no-preference",
        permissions: tuple[str, ...] = (),
        **state: Any,
    ) -> Visit:
        """A page that shows `url`, drawn and ready; `state` are parameters of a link, see `page.link`."""
        if not self._idle:
            self._idle.append(self.browser.new_context().new_page())
            self._idle[0].add_init_script(WATCH)
        page = self._idle.pop()
        page.context.grant_permissions(list(permissions))
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme, reduced_motion=motion)
        page.mouse.move(0, 0)
        visit = Visit(page, url)
        self._out.append(visit)
        visit.open_page(f"{url}?{urlencode(state, doseq=True)}" if state else url)
        return visit

    def take_back(self) -> None:
        """All pages that were handed out; the server is told that their visitors have gone."""
        while self._out:
            visit = self._out.pop()
            visit.forget()
            visit.page.context.clear_permissions()
            visit.page.goto("about:blank")
            self._visits[visit.page] += 1
            if self._visits[visit.page] < MOST_VISITS:
                self._idle.append(visit.page)
            else:
                visit.page.context.close()


PAGES = Visitors()  # of all tests


class Visit:
    """One page with everything it asked for and complained about."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page.set_default_timeout(PATIENCE)
        self._listeners = {
            "request": lambda request: self.requests.append(request.url),
            "pageerror": lambda error: self.problems.append(str(error)),
            "console": lambda m: self.problems.append(m.text) if m.type == "error" else None,
        }
        for event, listener in self._listeners.items():
            self.page.on(event, listener)

    def open_page(self, url: str) -> None:
        """A page is drawn as its server began it, and asks what its link holds only once all its scripts are there."""
        self.page.goto(url)
        self.until("() => window.asked.loaded")
        self.settle()

    def settle(self, calm_ms: int = CALM_MS) -> None:
        """Until the program has answered all that the page asks it from now on, and the masks are drawn.

        `calm_ms` is longer than any timer of the page that is awaited.
        """
        self.until("(ms) => window.asked.calm(ms)", calm_ms)
        self.until(DRAWN, PLOTS)

    def forget(self) -> None:
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)

    def until(self, condition: str, value: Any = None) -> Any:
        """Wait until a function of the page is true of `value`; returns what it says then."""
        return self.page.wait_for_function(condition, arg=value, timeout=PATIENCE, polling=LOOK_MS).json_value()

    def text(self, name: str) -> str:
        """The text of an element; only that of an answer is kept to the letter."""
        shown = "#status [data-state]" if name == "status" else f"#{name}"  # beside it gradio counts seconds
        text = self.page.locator(shown).text_content() or ""
        return text if name.startswith("answer-") else " ".join(text.split())

    def value(self, name: str) -> str:
        return self.page.locator(f"#{name} :is(textarea, input)").first.input_value()

    def fill(self, **texts: str) -> None:
        """Type into text boxes, by their names with _ for -; the masks have been drawn again then, once."""
        for name, text in texts.items():
            self.page.locator(f"#{name.replace('_', '-')} textarea").fill(text)
        self.settle()

    def number(self, name: str, value: float) -> None:
        box = self.page.locator(f"#{name} input[type=number]")
        box.fill(str(value))
        box.press("Tab")
        self.settle()

    def unfold(self, name: str) -> None:
        """Open a folded group of settings, which is drawn only then."""
        self.page.locator(f"#{name} > button").click()
        self.settle()

    def choose(self, name: str, option: str) -> None:
        """One option of a dropdown; the list is gone then, so that no other can be taken for it."""
        self.page.locator(f"#{name} input").click()
        self.page.get_by_role("option", name=option, exact=True).click()
        self.page.get_by_role("option").first.wait_for(state="detached")
        self.settle()

    def example(self, i: int, question: str) -> None:
        """Fill in one of the examples, which asks this, with its recording."""
        self.page.locator(f"#examples [data-example='{i}']").evaluate("each => each.click()")
        self.until("question => document.querySelector('#question textarea').value === question", question)
        self.settle()

    def wordings(self) -> list[str]:
        """The paraphrases in the rows that are there."""
        return [box.input_value() for box in self.page.locator("[id^=paraphrase-] textarea").filter(visible=True).all()]

    def weights(self) -> list[str]:
        return [
            box.input_value()
            for box in self.page.locator(".weight input[type=number]").all()
            if box.locator("xpath=ancestor::*[contains(@class, 'wording-row')]").is_visible()
        ]

    def run(self, button: str = "run") -> None:
        """Press Run and wait for the answer, and for the tabs and tools after it."""
        before = self.page.evaluate("() => window.asked.runs")
        self.page.locator(f"#{button}").click()
        self.until("before => window.asked.runs > before", before)
        self.done()

    def done(self) -> None:
        """Until the run is over that was just asked for."""
        self.settle()
        assert self.text("status").startswith("Done"), self.text("status")

    def running(self) -> None:
        """Until some of the answer is there, of a run that is not over."""
        self.until("""() => document.querySelector('#status [data-state=running]')?.textContent.startsWith('Running')
            && document.querySelector('#answer-flex').textContent.trim()""")

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab, exact=True).click()
        self.settle()

    def plot(self, name: str, what: str) -> Any:
        """A value inside the figure `name`, once it is drawn: `what` is a path from its element, such as `data`.

        The page has a new element for each new figure, so that there may be none for a moment.
        """
        script = f"""() => {{
            const plot = document.querySelector('#{name} .js-plotly-plot');
            return plot?._fullData?.length && plot.querySelector('.nsewdrag') ? JSON.stringify(plot.{what}) : null;
        }}"""
        return json.loads(self.until(script))

    def cells(self, side: str = "left") -> np.ndarray:
        """What a mask shows as visible, a row for each query."""
        return np.array(self.plot(PLOTS[side], "_fullData[0].z.map(row => Array.from(row))")) > 0

    def point(self, side: str, query: float, key: float) -> tuple[float, float]:
        """Where a cell of a mask, in the figure's own cells, is on the screen."""
        area = self.page.locator(f"#{PLOTS[side]} .nsewdrag")
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        (x0, x1), (y0, y1) = self.plot(PLOTS[side], "layout.xaxis.range"), self.plot(PLOTS[side], "layout.yaxis.range")
        return box["x"] + box["width"] * (key - x0) / (x1 - x0), box["y"] + box["height"] * (query - y1) / (y0 - y1)

    def drag(self, side: str, first: tuple[float, float], last: tuple[float, float]) -> None:
        """With the mouse from one cell of a mask to another."""
        mouse = self.page.mouse
        (start, end) = (self.point(side, *cell) for cell in (first, last))
        mouse.move(*start)
        mouse.down()
        mouse.move(*end, steps=5)
        mouse.up()


def boxes(visit: Visit, names: Sequence[str]) -> dict[str, Any]:
    """Where elements are on the page: left, top, right, bottom."""
    script = """names => names.map(name => document.getElementById(name).getBoundingClientRect())
        .map(box => [box.left + scrollX, box.top + scrollY, box.right + scrollX, box.bottom + scrollY])"""
    return dict(zip(names, visit.page.evaluate(script, list(names)), strict=True))


# A control that can be seen and used; of a radio group one is a stop of the Tab key, the others are reached by arrows.
CONTROLS = """() => [...document.querySelectorAll('.gradio-container :is(a[href], button, input, textarea, summary)')]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && e.offsetWidth > 2 && !e.disabled && e.tabIndex >= 0)
    .filter(e => !(e.type === 'radio' && !e.checked) && !e.closest('footer'))"""
# Which of those on the left have the row of Run over them once they have the focus. The page is not told of the focus:
# each menu that is left would ask the program.
COVERED = f"""() => {{
    const row = document.querySelector('#actions'), box = (e) => e.getBoundingClientRect();
    const events = ['focus', 'focusin', 'blur', 'focusout'], hide = (event) => event.stopImmediatePropagation();
    events.forEach(each => window.addEventListener(each, hide, true));
    window.scrollTo(0, 0);
    const found = ({CONTROLS})().filter(e => e.closest('#ask') && !row.contains(e)).filter(e => {{
        e.focus();
        return box(e).top < box(row).bottom && box(e).bottom > box(row).top + 1;
    }}).map(e => e.outerHTML.slice(0, 120));
    document.activeElement.blur();
    events.forEach(each => window.removeEventListener(each, hide, true));
    return found;
}}"""
# What the page cuts off at its right edge: it never scrolls sideways itself, some of its parts do.
BEYOND = """() => [...document.querySelectorAll('.gradio-container *')].filter(e =>
    e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && e.getBoundingClientRect().width > 1
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).filter(e => {
        while (e && getComputedStyle(e).overflowX !== 'auto') e = e.parentElement;
        return !e;
    }).map(e => e.outerHTML.slice(0, 200))"""


def fits_sideways(visit: Visit) -> bool:
    return visit.page.evaluate(BEYOND) == []


def clean(visit: Visit) -> None:
    """No complaint in the console and no request to anywhere else."""
    assert visit.problems == []
    assert [url for url in visit.requests if not url.startswith((visit.url, "data:", "blob:"))] == []
