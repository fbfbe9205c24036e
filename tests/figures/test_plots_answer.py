"""Figures about one answer against values computed by hand."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from flexdemo.figures.answer import attention_figure, effect_figure, gave_figure, mass_figure
from flexdemo.figures.cells import segment_colour

NASTY = "<b>x</b>&lt;\u202e\n"
NAMES = ("prefix", "P1", "P3", "suffix + answer")
MASS = np.array([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]])
SEGMENTS = [
    SimpleNamespace(name="prefix", role="prefix", start=0, end=1),
    SimpleNamespace(name="P1", role="paraphrase", start=1, end=2),
    SimpleNamespace(name="suffix", role="suffix", start=2, end=3),
]


def test_a_bar_of_mass_for_each_segment_in_its_colour() -> None:
    figure = mass_figure(MASS, [" Lima", "</s>"], NAMES)
    assert [bar.name for bar in figure.data] == list(NAMES)
    assert np.array_equal(np.stack([bar.y for bar in figure.data], axis=1), MASS)
    roles = ("prefix", "paraphrase", "paraphrase", "suffix")
    assert [bar.marker.color for bar in figure.data] == [
        segment_colour(n, r) for n, r in zip(NAMES, roles, strict=True)
    ]
    assert figure.layout.barmode == "stack" and tuple(figure.layout.yaxis.range) == (0, 1)
    assert figure.layout.xaxis.ticktext == ("·Lima", "&lt;/s&gt;")
    told = [bar.text[0].rpartition(" ")[0] for bar in figure.data]
    assert told == ["", *NAMES[1:-1], ""], "words that are wider than a bar stand in the legend"
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_mass_per_token_has_an_axis_of_its_own() -> None:
    figure = mass_figure(MASS / 4, ["a", "b"], NAMES, per_token=True, legend=False)
    assert figure.layout.yaxis.range is None and "per token" in figure.layout.yaxis.title.text
    assert figure.layout.showlegend is False


def test_long_answers_are_numbered() -> None:
    figure = mass_figure(np.full((200, 4), 0.25), ["x"] * 200, NAMES)
    assert figure.layout.xaxis.ticktext is None and figure.data[0].text is None
    assert figure.data[1].customdata[199] == "200 <b>x</b>"


def test_effects_keep_their_sign_and_their_wordings() -> None:
    figure = effect_figure(["P1", "P3"], [0.5, -0.25], ["Who painted it?", NASTY])
    (bars,) = figure.data
    assert list(bars.x) == [0.5, -0.25] and list(bars.text) == ["+0.500", "-0.250"]
    assert list(bars.marker.color) == [segment_colour(name, "paraphrase") for name in ("P1", "P3")]
    assert "Who painted it?" in bars.customdata[0] and "<b>P3</b>" in bars.customdata[1]
    assert [re.sub("<.*?>", "", note.text).split(" ")[0] for note in figure.layout.annotations] == ["P1", "P3"]
    top, bottom = figure.layout.yaxis.range[1], figure.layout.yaxis.range[0]
    assert top < 0 < 1 < bottom, "the first paraphrase is on top"
    low, high = figure.layout.xaxis.range
    assert low < -0.25 and high > 0.5


@pytest.mark.parametrize("effects", [[0.0], [0.2, 0.3], [-0.1, -0.4]])
def test_the_line_of_no_effect_is_always_in_sight(effects: list[float]) -> None:
    low, high = effect_figure(
        [f"P{i + 1}" for i in range(len(effects))], effects, ["x"] * len(effects)
    ).layout.xaxis.range
    assert low <= 0 <= high and low < high


@pytest.mark.parametrize("count", [2, 5, 20])
def test_each_wording_has_a_line_of_its_own_above_its_bar(count: int) -> None:
    effects = [(f"P{i + 1}", 0.1 * i, "What is the capital of Peru?") for i in range(count)]
    names = ["prefix", *(name for name, _, _ in effects), "suffix"]
    figure = gave_figure(np.full((1, count + 2), 1 / (count + 2)), ["x"], names, effects)
    inside = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    low, high = figure.layout.yaxis2.range
    bottom, top = figure.layout.yaxis2.domain
    row = inside * (top - bottom) * abs(1 / (high - low))  # pixels from a bar to the next
    bar, caption = 0.42 * row, 12 * 1.3
    assert row > bar + caption
    assert bar / 2 < 20 - caption / 2, "few wordings have no thicker bars: captions stand 20 pixels above their middle"
    assert figure.layout.yaxis.domain[1] == 1


def test_attention_cells_are_told_exactly() -> None:
    rows = np.array([[1, 0, 0], [0.75, 0.25, 0], [0.25, 0.25, 0.5]])
    figure = attention_figure(rows, ["a", "b", "c"], SEGMENTS)
    (trace,) = figure.data
    assert np.allclose(trace.customdata, rows) and np.allclose(
        trace.z, [[1, 0, 0], [3**0.5 / 2, 0.5, 0], [0.5, 0.5, 0.5**0.5]]
    )
    assert [re.sub("<.*?>|■", "", name).strip() for name in figure.layout.xaxis.ticktext] == ["prefix", "P1", "suffix"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], "queries go down"


def test_text_cannot_be_markup() -> None:
    figures = [
        mass_figure(MASS[:1], [NASTY], NAMES),
        effect_figure(["P1"], [1.0], [NASTY]),
        attention_figure(np.eye(3), [NASTY] * 3, SEGMENTS),
    ]
    for figure in figures:
        made = figure.to_json().replace("\\u003c", "<").replace("\\u003e", ">")
        assert "<b>x" not in made.replace("<b>&lt;", "") and "&lt;b&gt;x" in made
        assert "\u202e" not in json.dumps(figure.to_dict(), default=str, ensure_ascii=False)
