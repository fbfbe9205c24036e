"""A page that offers two models, in a real Chromium: one is chosen, asked, linked to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser_visit import Visitors, choose, clean
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
QUESTION = "What is the capital of Peru?"


def test_a_model_is_chosen_asked_and_linked_to(visitors: Visitors, choice_url: str, random_folder: Path) -> None:
    visit = visitors(choice_url)
    page = visit.page
    expect(page.locator("#model input")).to_have_value("facts")
    visit.run()
    assert visit.text("answer-flex") == "Lima"
    expect(page.locator("#status-model")).to_contain_text("tinyqa")
    tokens = page.locator("#token-view .token").count()

    visit.open("Attention mass")
    page.locator("#mass-layer input").click()
    expect(page.get_by_role("option")).to_have_count(1 + 6)
    page.keyboard.press("Escape")
    visit.open("Mask")

    choose(visit, "model", "random")
    expect(page.locator("#status-model")).to_contain_text(str(random_folder))
    expect(page.locator("#token-view .token")).not_to_have_count(tokens)
    visit.run()
    assert visit.text("answer-flex") != "Lima"
    page.locator("#repeat-box button").first.click()
    expect(page.locator("#repeat")).to_contain_text(f"load_model('{random_folder}'")
    page.locator("#check").click()
    expect(page.locator("#proof")).to_contain_text("Proved")
    visit.open("Attention mass")
    page.locator("#mass-layer input").click()
    expect(page.get_by_role("option")).to_have_count(1 + 9)
    page.get_by_role("option", name="8", exact=True).click()
    assert visit.plot("mass-plot", "data")

    page.locator("#copy-link").click()
    expect(page.locator("#link textarea")).to_have_value(re.compile("model=random"))  # drawn before it is filled
    link = page.locator("#link textarea").input_value()
    clean(visit)
    again = visitors(link)
    expect(again.page.locator("#model input")).to_have_value("random")
    expect(again.page.locator("#status-model")).to_contain_text(str(random_folder))


def test_a_link_to_another_model_says_so_and_the_page_works(visitors: Visitors, choice_url: str) -> None:
    visit = visitors(f"{choice_url}?q=Who&model=gpt2")
    said = "model in the link is 'gpt2', which is not offered here: choose from facts, random"
    expect(visit.page.locator("#link-message [role=alert]")).to_contain_text(said)
    expect(visit.page.locator("#question textarea")).to_have_value(QUESTION)
    visit.run()
    assert visit.text("answer-flex") == "Lima"
