"""Measure the page in headless Chromium, medians of 5: python tests/bench/measure_views.py

Painting: from setting the question's text to the first frame after the new mask is drawn, and from switching to the
exact window. Answers: from a click to the first answer token on the page and to the finished answer, with the prompt
read anew, and after a weight was let go, when only the decode runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import browser_support
import models
from browser_visit import Visitors

REPEATS = 5
PAINTED = """(act) => new Promise((done) => {
  const plot = document.querySelector('#mask-plot'), before = plot.querySelector('.js-plotly-plot');
  const began = performance.now();
  const seen = new MutationObserver(() => {
    const gd = plot.querySelector('.js-plotly-plot');
    if (!gd || gd === before || !gd._fullLayout || !plot.querySelector('.nsewdrag')) return;
    seen.disconnect();
    const bound = performance.now();
    requestAnimationFrame(() => setTimeout(() => done([performance.now() - began, performance.now() - bound])));
  });
  seen.observe(plot, {childList: true, subtree: true});
  (0, eval)(act);
  setTimeout(() => done([null, null]), 60000);
})"""
ANSWERED = """(act) => new Promise((done) => {
  const line = document.querySelector('#status-run .prose'), answers = document.querySelector('#answers');
  const began = performance.now(), before = line.textContent;
  let first = null, moved = false;
  const look = () => {
    const stats = document.querySelector('#stats-flex')?.textContent ?? '';
    if (first === null && /token/.test(stats) && stats !== window.lastStats) first = performance.now() - began;
    moved ||= line.textContent !== before;
    if (!moved || !/Done/.test(line.textContent)) return;
    seen.disconnect();
    window.lastStats = stats;
    done([first, performance.now() - began, line.textContent]);
  };
  const seen = new MutationObserver(look);
  for (const part of [document.querySelector('#status-run'), answers]) {
    seen.observe(part, {childList: true, subtree: true, characterData: true});
  }
  (0, eval)(act);
  setTimeout(() => done([null, null, line.textContent]), 20000);
})"""
SLIDE = """const s = document.querySelector('#weight-1 input[type=range]'); s.value = %s;
s.dispatchEvent(new Event('input', {bubbles: true}));
s.dispatchEvent(new PointerEvent('pointerup', {bubbles: true}));"""
ASK = """{const t = document.querySelector('#question textarea'); t.value = %s;
t.dispatchEvent(new Event('input', {bubbles: true}));}"""


def ask(text: str) -> str:
    return ASK % json.dumps(text)


def median(values: list[float | None]) -> float:
    missed = values.count(None)
    if missed:
        print(f"  ({missed} of {len(values)} were not seen within 20 s)")
    return statistics.median(value for value in values if value is not None) / 1000


def painting(visitors: Visitors, url: str, sizes: list[int]) -> None:
    """How long the mask of a prompt of about so many tokens takes to be on screen."""
    visit = visitors(url)
    page = visit.page
    per_word = 4  # tokens of `word ` in the tests' tokenizer; the page says the true number
    for size in sizes:
        rows = max(0, -(-size // 1400) - 1)  # a wording has at most 2,000 characters
        text = ("word " * (size // per_word // (rows + 1))).strip()
        visit.rows([text] * rows)
        page.wait_for_timeout(2500)
        whole, drawing = [], []
        tokens = 0
        for i in range(REPEATS + 1):
            shown = page.evaluate(PAINTED, ask(f"{i} {text}"))
            page.wait_for_timeout(400)
            tokens = page.evaluate("() => document.querySelector('#mask-plot .js-plotly-plot').layout.meta.length")
            whole.append(shown[0])
            drawing.append(shown[1])
        data = page.evaluate(
            "() => { const gd = document.querySelector('#mask-plot .js-plotly-plot'), data = gd.data.map(t => "
            "({...t, z: t.z?.bdata ?? t.z})); return JSON.stringify({data, layout: gd.layout}).length }"
        )
        print(
            f"{tokens} tokens: keystroke to painted {median(whole[1:]):.2f} s, of which the last frame "
            f"{median(drawing[1:]):.2f} s; figure {data / 1e6:.2f} MB"
        )
    exact = "document.querySelector('#mask-exact input').click()"
    if page.locator("#mask-exact").is_visible():
        whole = []
        for _ in range(REPEATS):
            whole.append(page.evaluate(PAINTED, exact)[0])
            page.wait_for_timeout(300)
            page.evaluate(PAINTED, exact)
            page.wait_for_timeout(300)
        print(f"exact window of 512 x 512: click to painted {median(whole):.2f} s")
    visitors.take_back()


def answering(visitors: Visitors, url: str) -> None:
    """How long a full run takes, and one after which only the decode is done."""
    visit = visitors(url)
    page = visit.page
    example = "currency do i ask bank if i travel madagascar?"
    visit.example(example)
    run = "document.querySelector('#run').click()"
    full, again = [], []
    for i in range(REPEATS + 1):
        visit.fill("question", example + "?" * i)  # another prompt, which has to be read
        page.wait_for_timeout(1200)
        full.append(page.evaluate(ANSWERED, run))
        page.wait_for_timeout(1200)
    for i in range(REPEATS + 1):
        again.append(page.evaluate(ANSWERED, SLIDE % (2 + i)))
        page.wait_for_timeout(1200)
    for name, times in (("full run", full), ("weight moved", again)):
        first, done = (median([time[i] for time in times[1:]]) for i in (0, 1))
        print(f"{name}: first token on the page {first:.2f} s, answer done {done:.2f} s ({times[-1][2].strip()})")
    visitors.take_back()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="*", default=[200, 480, 1024, 4000], help="sizes of the prompts")
    parser.add_argument("--skip-painting", action="store_true")
    parser.add_argument("--skip-answers", action="store_true")
    args = parser.parse_args()
    with browser_support.chromium() as browser:
        if not args.skip_painting:
            with tempfile.TemporaryDirectory() as folder:
                models.random_model(max_position_embeddings=8192).save_pretrained(Path(folder))
                models.tokenizer().save_pretrained(Path(folder))
                with browser_support.serve("--model", folder) as url:
                    painting(Visitors(browser), url, args.tokens)
        if not args.skip_answers:
            with browser_support.serve() as url:
                answering(Visitors(browser), url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
