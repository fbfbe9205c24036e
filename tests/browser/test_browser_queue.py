"""Two visitors at once: who waits sees a place in the queue, and sees it go when the work begins."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browser_visit import Visitors

pytestmark = pytest.mark.browser


def test_who_waits_sees_the_place_in_the_queue(visitors: Visitors, slow_url: str) -> None:
    from playwright.sync_api import expect

    first, second = visitors(slow_url), visitors(slow_url)
    for visit in (first, second):
        visit.number("max-new-tokens", 200)
    first.page.locator("#run").click()
    expect(first.page.locator("#status-run .prose")).to_contain_text("tokens", timeout=60_000)
    top = second.page.locator("#answers-alone").bounding_box()
    second.page.locator("#run").click()
    place = second.page.locator("#status-queue")
    expect(place).to_contain_text(re.compile(r"queue: 1/1"))
    moved = second.page.locator("#answers-alone").bounding_box()
    if folder := os.environ.get("FLEXDEMO_PICTURES"):
        second.page.screenshot(path=Path(folder) / "queue.png")
    assert top and moved and moved["y"] == top["y"], "the page jumps while its visitor waits"
    first.page.locator("#stop").click()
    expect(first.page.locator("#status-run .prose")).to_contain_text("Stopped")
    expect(place).not_to_contain_text("queue")
    expect(second.page.locator("#status-run .prose")).to_contain_text("tokens", timeout=60_000)
    if folder:
        second.page.screenshot(path=Path(folder) / "running.png")
    second.page.locator("#stop").click()
