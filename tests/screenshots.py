"""Take the README's pictures of the page: python tests/screenshots.py --out assets/images"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import browser_support
from playwright.sync_api import expect, sync_playwright

LIMIT = 400_000  # bytes a picture may have
SHOTS = {"light": (1400, "light"), "dark": (1400, "dark"), "phone": (390, "light")}
EXAMPLE = "Who painted Water Lilies?"  # one wording alone goes wrong there, the fused answer is right


def take(browser: Any, url: str, path: Path, width: int, scheme: str) -> None:
    """One picture of the whole page after a run."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    page.locator("#mask-plot .nsewdrag").wait_for()
    page.locator("#examples button", has_text=EXAMPLE).click()
    expect(page.locator("#question textarea")).to_have_value(EXAMPLE)
    page.locator("#run").click()
    expect(page.locator("#status-run .prose")).to_contain_text("Done", timeout=60_000)
    page.evaluate("() => document.activeElement.blur()")
    page.mouse.move(1, 1)
    page.wait_for_timeout(800)  # the last redraw of the mask, and transitions
    page.screenshot(path=path, full_page=True)
    context.close()
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes")
    if size > LIMIT:
        raise SystemExit(f"{path} has {size:,} bytes, more than {LIMIT:,}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Take the README's pictures of the page.")
    parser.add_argument("--out", type=Path, default=browser_support.ROOT / "assets" / "images", metavar="FOLDER")
    parser.add_argument("--model", metavar="PATH_OR_ID", help="local folder or Hub id (default: the bundled model)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    options = ["--model", args.model] if args.model else []
    with sync_playwright() as playwright, browser_support.serve(*options) as url:
        executable = browser_support.find_chromium(playwright)
        if executable is None:
            print("error: no Chromium is installed", file=sys.stderr)
            return 2
        browser = playwright.chromium.launch(executable_path=executable, args=list(browser_support.ARGUMENTS))
        for name, (width, scheme) in SHOTS.items():
            take(browser, url, args.out / f"{name}.png", width, scheme)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
