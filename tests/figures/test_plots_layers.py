"""Figures over the layers of a model, against values computed by hand."""

from __future__ import annotations

import numpy as np

from flexdemo.figures.cells import segment_colour
from flexdemo.figures.layers import heads_figure, merge_figure

NASTY = "<b>x</b>&lt;\u202e\n"
NAMES = ("P1", "P3")
PROBABILITY = np.array([[1e-9, 0.01, 0.001], [0.5, 0.25, 0.75]])
HITS = np.array([[False, True, False], [True, True, True]])
SAYS = [[" a", " Lima", " b"], [" Lima"] * 3]
TO_FUSED, BETWEEN = np.array([[0.9, 0.8], [0.7, 0.6]]), np.array([0.5, 0.4])


def merged(**changes: object) -> object:
    given = {"probability": PROBABILITY, "says": SAYS, "hits": HITS, "to_fused": TO_FUSED, "between": BETWEEN}
    return merge_figure(**{**given, "names": NAMES, "token": " Lima", **changes})


def test_a_line_for_each_wording_and_the_fused_row_behind_them() -> None:
    upper = [trace for trace in merged().data if trace.yaxis is None]
    assert [trace.name for trace in upper] == ["fused", "P1", "P3"]
    assert [list(trace.x) for trace in upper] == [[1, 2]] * 3, "layers count from 1"
    assert np.allclose([trace.y for trace in upper], [[0.001, 0.75], [1e-6, 0.5], [0.01, 0.25]])
    assert [list(trace.marker.symbol) for trace in upper] == [
        ["circle-open", "circle"], ["circle-open", "circle"], ["circle", "circle"]
    ]  # fmt: skip
    assert [list(trace.customdata) for trace in upper] == [["·b", "·Lima"], ["·a", "·Lima"], ["·Lima", "·Lima"]]
    assert [trace.line.color for trace in upper[1:]] == [segment_colour(name, "paraphrase") for name in NAMES]
    assert upper[0].line.width > upper[1].line.width


def test_cosines_lie_below_on_the_same_layers() -> None:
    figure = merged()
    lower = [trace for trace in figure.data if trace.yaxis == "y2"]
    assert np.allclose([trace.y for trace in lower], [[0.9, 0.7], [0.8, 0.6], [0.5, 0.4]])
    assert lower[-1].line.dash == "dot" and figure.layout.xaxis.anchor == "y2"
    assert figure.layout.yaxis2.domain[1] < figure.layout.yaxis.domain[0]
    assert figure.layout.yaxis2.range[0] < 0.4 and figure.layout.yaxis2.range[1] == 1


def test_layers_are_marked_where_something_begins() -> None:
    assert not merged().layout.shapes
    figure = merged(agree_from=2, marked_layer=1)
    assert [1 < shape.x0 < 2 for shape in figure.layout.shapes] == [True, False]
    assert [note.text for note in figure.layout.annotations] == ["all say it from here", "mean of states from here"]


def test_one_wording_has_no_line_between_wordings() -> None:
    figure = merged(
        probability=PROBABILITY[:, 1:], says=[row[1:] for row in SAYS], hits=HITS[:, 1:], to_fused=TO_FUSED[:, :1],
        between=np.full(2, np.nan), names=("P1",),
    )  # fmt: skip
    assert [trace.name for trace in figure.data] == ["fused", "P1", "P1"]


ATTENTION = np.array([[0.1, 0.4], [0.3, 0.0], [0.2, 0.05]])


def test_heads_are_numbered_in_the_heatmap_layer_1_on_top() -> None:
    figure = heads_figure(ATTENTION, "P3", [(0, 1), (1, 0)])
    (heatmap,) = figure.data
    assert np.array_equal(heatmap.z, ATTENTION) and heatmap.zmax == 0.4
    assert np.array_equal(heatmap.text, [["", "1"], ["2", ""], ["", ""]])
    assert (list(heatmap.x), list(heatmap.y)) == ([1, 2], [1, 2, 3]), "they count from 1"
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert "P3" in heatmap.hovertemplate


def test_effects_of_layers_stand_on_the_same_layers_beside_leave_one_out() -> None:
    figure = heads_figure(ATTENTION, "P3", [(0, 1)], (0.5, -0.25, 0.0), 0.75)
    bars = figure.data[1]
    assert list(bars.x) == [0.5, -0.25, 0.0] and list(bars.y) == [1, 2, 3] and bars.orientation == "h"
    assert bars.marker.color == segment_colour("P3", "paraphrase")
    (line,) = figure.layout.shapes
    assert (line.x0, line.x1, line.xref) == (0.75, 0.75, "x2")
    assert figure.layout.annotations[0].text == "leave-one-out +0.750"
    low, high = figure.layout.xaxis2.range
    assert low < -0.25 and high > 0.75


def test_rounding_looks_like_nothing() -> None:
    figure = heads_figure(ATTENTION, "P1", [], (1e-6, -1e-6, 0.0), -1e-6)
    low, high = figure.layout.xaxis2.range
    assert low <= -0.01 and high >= 0.01 and "+0.000" in figure.layout.annotations[0].text


def test_text_cannot_be_markup() -> None:
    made = [merged(says=[[NASTY] * 3] * 2, token=NASTY, names=("P1", NASTY)), heads_figure(ATTENTION, NASTY)]
    for figure in made:
        text = figure.to_json().replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u0026", "&")
        assert "<b>x" not in text.replace("<b>&lt;", "") and "&lt;b&gt;x" in text
        assert "\u202e" not in text and "\\u202e" in text.replace("\\\\u", "\\u")
