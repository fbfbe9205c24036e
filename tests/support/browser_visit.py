"""A visitor's page in Chromium and the servers it visits, for the browser tests. No tests here.

playwright is imported where it is used, so that the other tests run without it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import browser_support
import models
import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NASTY = "<b>x</b> <script>document.title='hacked'</script> ${1+1} <|eot_id|> &lt;"
PATIENCE = 30_000  # ms; a machine with other work is slow, and only a test that fails waits so long
MOST_VISITS = 30  # of one page: its process keeps some memory of each
TRACE = "document.querySelector('#mask-plot .js-plotly-plot')._fullData[0]"
STATUS = "(document.querySelector('#status-run .prose')?.textContent ?? '')"
ROW_COUNT = "count => document.querySelectorAll('[id^=paraphrase-]').length === count"
Z = f"() => [...{TRACE}.z].map(row => [...row].join('')).join()"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program to start; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        found = browser_support.find_chromium(playwright)
    if found is None:
        pytest.skip("no Chromium is installed (chromium, chromium-browser, google-chrome or playwright's own)")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """One Chromium for the tests of a file.

    While it is driven, an event loop runs in this thread; nothing of it may be left for the tests that come after.
    """
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=list(browser_support.ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(browser: Browser) -> Visitors:
    return Visitors(browser)


@pytest.fixture
def visitors(pages: Visitors) -> Iterator[Visitors]:
    """visitors(url, ...): a page that a visitor has opened; as many as a test wants."""
    yield pages
    pages.take_back()


@pytest.fixture(scope="session")
def slow_url(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over a random model that answers at length and slowly: for streaming, stopping and long prompts."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = models.random_model(num_hidden_layers=12, max_position_embeddings=4096), models.tokenizer()
    with torch.no_grad():
        for i in range(len(tokenizer)):  # only plain text: no end tokens, no ends of lines, no halves of characters
            if not re.fullmatch("[!-~]+", tokenizer.decode([i])) or i in tokenizer.all_special_ids:
                model.lm_head.weight[i] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with browser_support.serve("--model", str(folder)) as url:
        yield url


@pytest.fixture(scope="session")
def bundled_url(chromium: str) -> Iterator[str]:
    """A server as a newcomer starts it."""
    assert browser_support.BUNDLED.is_dir(), "the bundled model is missing from assets/"
    with browser_support.serve() as url:
        yield url


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with more layers and fewer heads than the bundled one, and another tokenizer."""
    folder = tmp_path_factory.mktemp("choice") / "random"
    models.random_model("llama", num_hidden_layers=9).save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def choice_url(chromium: str, random_folder: Path) -> Iterator[str]:
    """A server that offers two models, the bundled one first."""
    with browser_support.serve("--models", f"facts=bundled,random={random_folder}") as url:
        yield url


@pytest.fixture(scope="session")
def space_url(chromium: str) -> Iterator[str]:
    """A server with the limits of a public host."""
    with browser_support.serve("--profile", "space") as url:
        yield url


class Visitors:
    """Hands out pages of one Chromium; each comes back at the end of its test and is used again for a new document.

    A page that loads the program once more takes a third of the time that a new one takes, for its process holds the
    scripts. Nothing else is left of the visit before, neither in the browser nor on the server.
    """

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self._idle: list[Page] = []
        self._out: list[Visit] = []
        self._visits: Counter[Page] = Counter()

    def __call__(
        self,
        url: str,
        *,
        width: int = 1400,
        height: int = 900,
        scheme: str = "light",
        motion: str = "no-preference",
        permissions: tuple[str, ...] = (),
    ) -> Visit:
        """A page that shows `url`, drawn and ready."""
        page = self._idle.pop() if self._idle else self.browser.new_context().new_page()
        page.context.grant_permissions(list(permissions))
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme, reduced_motion=motion)
        page.mouse.move(0, 0)
        visit = Visit(page, url)
        self._out.append(visit)
        visit.open_page()
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

    def open_page(self) -> None:
        self.page.goto(self.url)
        self.page.locator("#mask-plot .nsewdrag").wait_for()
        self.settle()

    def settle(self) -> None:
        """Until the program has answered all that the page asked it so far.

        Handlers of the first change events must be through before a test counts redraws or runs.
        """
        self.page.wait_for_timeout(300)

    def forget(self) -> None:
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)

    def fill(self, name: str, text: str) -> None:
        self.page.locator(f"#{name} textarea").fill(text)

    def number(self, name: str, value: float) -> None:
        box = self.page.locator(f"#{name} input[type=number]")
        box.fill(str(value))
        box.press("Tab")

    def more(self) -> None:
        """Open the settings that are folded away; they are drawn only then."""
        self.page.locator("#more button").first.click()
        self.page.locator("#ape-scale input[type=number]").wait_for()
        self.page.wait_for_timeout(300)  # what is typed before they are all there is lost

    def rows(self, texts: list[str]) -> None:
        """Exactly these paraphrases, whatever the first example had."""
        rows = self.page.locator("[id^=paraphrase-]")
        while (count := rows.count()) != len(texts):
            self.page.locator(f"#remove-{count}" if count > len(texts) else "#add-paraphrase").click()
            self.until(ROW_COUNT, count - 1 if count > len(texts) else count + 1)
        for i, text in enumerate(texts, start=1):
            self.fill(f"paraphrase-{i}", text)

    def until(self, condition: str, value: Any, *, seconds: float = 30) -> None:
        """Wait until a function of the page is true of `value`; looks at each frame, `expect` only now and then."""
        self.page.wait_for_function(condition, arg=value, timeout=1000 * seconds)

    def text(self, name: str) -> str:
        return self.page.locator(f"#{name}").text_content() or ""

    def cells(self) -> str:
        return self.page.evaluate(Z)

    def run(self) -> None:
        before = self.page.locator("#status-run .prose").text_content() or ""
        self.page.locator("#run").click()
        self.until(f"before => {STATUS} !== before", before)  # it tells times: two runs that say the same are no worry
        self.done()

    def done(self) -> None:
        self.until(f"word => {STATUS}.includes(word)", "Done", seconds=60)

    def example(self, question: str) -> None:
        """Fill in one of the examples."""
        self.page.locator("#examples button", has_text=question).click()
        self.until("question => document.querySelector('#question textarea').value === question", question)
        self.page.wait_for_timeout(300)

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def plot(self, name: str, what: str) -> Any:
        """A value inside the figure `name`, once it is drawn: `what` is a path from its element, such as `data`.

        The page has a new element for each new figure, so that there may be none for a moment.
        """
        script = f"""() => {{
            const plot = document.querySelector('#{name} .js-plotly-plot');
            return plot?._fullData?.length && plot.querySelector('.nsewdrag') ? JSON.stringify(plot.{what}) : null;
        }}"""
        return json.loads(self.page.wait_for_function(script).json_value())


def choose(visit: Visit, name: str, option: str) -> None:
    """One option of a dropdown; the list is gone then, so that no other can be taken for it."""
    options = visit.page.get_by_role("option")
    visit.page.locator(f"#{name} input").click()
    visit.page.get_by_role("option", name=option, exact=True).click()
    options.first.wait_for(state="detached")


def clean(visit: Visit) -> None:
    """No complaint in the console and no request to anywhere else."""
    assert visit.problems == []
    assert [url for url in visit.requests if not url.startswith((visit.url, "data:", "blob:"))] == []
