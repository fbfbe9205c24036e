"""Take the README's pictures of the page: python tests/bench/screenshots.py --out assets/images"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import browser_support
from PIL import Image
from playwright.sync_api import expect

LIMIT = 300_000  # bytes a picture may have
SHOTS = {"light": (1400, "light"), "dark": (1400, "dark"), "phone": (390, "light")}
TABS = {  # the page's right side with a tab open, as NAME.png
    "tab-mass": "Attention mass",
    "tab-effect": "Leave-one-out",
    "tab-candidates": "Candidates",
    "tab-methods": "Methods",
    "tab-attention": "Attention of a head",
}
TABS_EXAMPLE = "currency do i ask bank if i travel madagascar?"  # wordings and methods part ways there
EXAMPLE = "Who painted Water Lilies?"  # one wording alone goes wrong there, the fused answer is right


def answered(browser: Any, url: str, example: str, button: str, width: int, scheme: str) -> Any:
    """A page on which an example has run."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(url)
    page.locator("#mask-plot .nsewdrag").wait_for()
    page.locator("#examples button", has_text=example).click()
    expect(page.locator("#question textarea")).to_have_value(example)
    page.wait_for_timeout(500)  # the mask is redrawn
    page.locator(button).click()
    expect(page.locator("#status-run .prose")).to_contain_text("Done", timeout=60_000)
    settle(page)
    return page


def settle(page: Any) -> None:
    """Until the last redraw and transitions are over, with nothing focused or hovered."""
    page.evaluate("() => document.activeElement.blur()")
    page.mouse.move(1, 1)
    page.wait_for_timeout(800)


def take(browser: Any, url: str, path: Path, width: int, scheme: str) -> None:
    """One picture of the whole page after a run."""
    page = answered(browser, url, EXAMPLE, "#run", width, scheme)
    page.screenshot(path=path, full_page=True)
    page.close()
    shrink(path)


def take_tabs(browser: Any, url: str, folder: Path) -> None:
    """One picture of each tab after all methods have run."""
    page = answered(browser, url, TABS_EXAMPLE, "#compare-all", 1400, "light")
    for name, tab in TABS.items():
        page.get_by_role("tab", name=tab, exact=True).click()
        if name == "tab-attention":
            page.locator("#attention-show").click()
            page.locator("#attention-plot .nsewdrag").wait_for()
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
