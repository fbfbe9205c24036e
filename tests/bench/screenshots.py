"""Take the README's pictures of the page: python tests/bench/screenshots.py --out assets/images"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # flexdemo, which need not be installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import browser_support
from PIL import Image
from playwright.sync_api import expect

LIMIT = 300_000  # bytes a picture may have
SHOTS = {"light": (1440, "light"), "dark": (1440, "dark"), "phone": (390, "light")}
TABS = {"tab-gave": "What each wording gave", "tab-candidates": "Candidates", "tab-methods": "All methods"}


def answered(browser: Any, url: str, button: str, width: int, scheme: str) -> Any:
    """A page on which the example that it opens with has run."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(url)
    page.locator("#mask-plot-right .nsewdrag").wait_for()
    if button == "#compare-all":
        page.get_by_role("tab", name=TABS["tab-methods"], exact=True).click()
    page.locator(button).click()
    expect(page.locator("#status")).to_contain_text("Done", timeout=60_000)
    settle(page)
    return page


def settle(page: Any) -> None:
    """Until the last redraw and transitions are over, with nothing focused or hovered."""
    page.evaluate("() => document.activeElement.blur()")
    page.mouse.move(1, 1)
    page.wait_for_timeout(2_000)


def take(browser: Any, url: str, path: Path, width: int, scheme: str) -> None:
    """One picture of the first screen after a run, of a phone the whole page."""
    page = answered(browser, url, "#run", width, scheme)
    page.screenshot(path=path, full_page=width < 700)
    page.close()
    shrink(path)


def take_tabs(browser: Any, url: str, folder: Path) -> None:
    """One picture of each tab after all methods have run."""
    page = answered(browser, url, "#compare-all", 1440, "light")
    for name, tab in TABS.items():
        page.get_by_role("tab", name=tab, exact=True).click()
        settle(page)
        path = folder / f"{name}.png"
        page.locator("#tabs").screenshot(path=path)
        shrink(path)
    page.close()


def take_chart(browser: Any, page_file: Path, path: Path) -> None:
    """The chart of a page that `bench --growth --report` wrote."""
    page = browser.new_page(viewport={"width": 1100, "height": 700})
    page.goto(page_file.resolve().as_uri())
    page.locator("#chart-0 .main-svg").first.wait_for()
    settle(page)
    page.locator("#chart-0").screenshot(path=path)
    page.close()
    shrink(path)


def shrink(path: Path) -> None:
    """A picture that is too large with fewer colours; of a page so large that none is missed."""
    if path.stat().st_size > LIMIT:
        with Image.open(path) as picture:
            few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes")
    if size > LIMIT:
        raise SystemExit(f"{path} has {size:,} bytes, more than {LIMIT:,}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Take the README's pictures of the page.")
    parser.add_argument("--out", type=Path, default=browser_support.ROOT / "assets" / "images", metavar="FOLDER")
    parser.add_argument("--model", metavar="PATH_OR_ID", help="local folder or Hub id (default: the bundled model)")
    parser.add_argument("--growth", type=Path, metavar="FILE.html", help="only the chart of this report, as growth.png")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    options = ["--model", args.model] if args.model else []
    with browser_support.chromium() as browser:
        if args.growth:
            take_chart(browser, args.growth, args.out / "growth.png")
        else:
            with browser_support.serve(*options) as url:
                for name, (width, scheme) in SHOTS.items():
                    take(browser, url, args.out / f"{name}.png", width, scheme)
                take_tabs(browser, url, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
