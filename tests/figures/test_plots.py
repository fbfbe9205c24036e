"""plots and cells: pictures say what the mask says, and text stays text."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flexdemo.figures import mask as plots
from flexdemo.figures.cells import (
    PARAPHRASE_COLOURS,
    block_means,
    mask_png,
    segment_colour,
    token_spans,
    visible_text,
)
from flexdemo.masks import Mask
from flexdemo.prompt import Segment

LENGTHS = (2, 4, 3, 5, 2)  # prefix, P1..P3, suffix


def make(lengths: tuple[int, ...] = LENGTHS, strategy: str = "segment", weights: tuple[float, ...] | None = None):
    """A mask, tokens and segments."""
    last = len(lengths) - 1
    segments, start = [], 0
    for i, length in enumerate(lengths):
        role = "prefix" if i == 0 else "suffix" if i == last else "paraphrase"
        name = f"P{i}" if role == "paraphrase" else role
        weight = (weights or (0.5,) * last)[i - 1] if role == "paraphrase" else None
        segments.append(SimpleNamespace(name=name, role=role, start=start, end=start + length, weight=weight))
        start += length
    return Mask.over(strategy, segments).cells(), [f" t{i}" for i in range(start)], segments


def test_a_cell_says_why_it_is_what_it_is() -> None:
    mask, tokens, segments = make()
    seen = Mask.over("segment", segments)
    text = plots.mask_figure(mask, tokens, segments, why=seen.told).data[0].text
    assert (text[3, 2], text[7, 3]) == ("visible: own paraphrase", "hidden: other paraphrase")
    bare = plots.mask_figure(mask, tokens, segments).data[0].text
    assert (bare == np.where(mask, "visible", "hidden")).all()


def test_figure_cells_are_the_mask_and_colours_are_the_key_segments() -> None:
    mask, tokens, segments = make()
    trace = plots.mask_figure(mask, tokens, segments).data[0]
    assert ((trace.z > 0) == mask).all()
    steps = [trace.colorscale[2 * i][1] for i in range(len(trace.colorscale) // 2)]
    for segment in segments:
        column = trace.z[:, segment.start]
        assert {steps[value] for value in column if value} == {segment_colour(segment.name, segment.role)}


@pytest.mark.parametrize("sizes", [(1, 400, 60, 2, 5), (1, 3, 2, 2, 4), (1, *[9] * 11, 2, 3), (1, 1900, 1900, 2, 200)])
def test_labels_of_narrow_segments_do_not_lie_over_one_another(sizes: tuple[int, ...]) -> None:
    names = ["prefix", *(f"P{i}" for i in range(1, len(sizes) - 2)), "suffix", "answer"]
    ends = np.cumsum(sizes).tolist()
    segments = [
        Segment(name, name if name in ("prefix", "suffix", "answer") else "paraphrase", end - size, end, "")
        for name, size, end in zip(names, sizes, ends, strict=True)
    ]
    mask = np.tril(np.ones((ends[-1], ends[-1]), dtype=bool))
    layout = plots.mask_figure(mask, ["a"] * ends[-1], segments, words=False).layout
    cells = layout.xaxis.range[1] + 0.5
    boxes = []  # (line, left, right) in pixels of an axis of 460: seven a letter, and the square before the name
    for at, text in zip(layout.xaxis.tickvals, layout.xaxis.ticktext, strict=True):
        middle, name = at * 460 / cells, re.sub("<.*?>", "", text)
        boxes.append((text.count("<br>"), middle - 3.5 * len(name), middle + 3.5 * len(name)))
    for i, (line, left, right) in enumerate(boxes):
        assert all(line != other or right <= start or end <= left for other, start, end in boxes[:i]), boxes
    rows = np.diff(layout.yaxis.tickvals) * 460 / cells
    assert len(rows) and rows.min() >= 12, "a line of text is 12 pixels high"
    for axis in (layout.xaxis, layout.yaxis):
        assert re.findall(r"prefix|P\d+|suffix|answer", " ".join(axis.ticktext)) == names
    assert layout.xaxis.tickangle == 0, "labels with lines of their own stay level"


def test_axes_name_segments_and_queries_go_down() -> None:
    mask, tokens, segments = make()
    layout = plots.mask_figure(mask, tokens, segments).layout
    for axis in (layout.xaxis, layout.yaxis):
        assert [re.sub("<.*?>|■", "", name).strip() for name in axis.ticktext] == [s.name for s in segments]
    assert layout.yaxis.range[0] > layout.yaxis.range[1]
    assert layout.yaxis.scaleanchor == "x"
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
    inner = {shape.x0 for shape in layout.shapes if shape.type == "line" and shape.x0 == shape.x1}
    assert inner == {segment.end - 0.5 for segment in segments[:-1]}


def test_text_of_a_token_cannot_be_markup() -> None:
    mask, tokens, segments = make()
    tokens[3] = "<b>x</b>&lt;\n"
    label = plots.mask_figure(mask, tokens, segments).data[0].x[3]
    assert "&lt;b&gt;x&lt;/b&gt;&amp;lt;↵" in label
    assert "<b>x" not in label.replace("<b>&lt;", "")
    title = plots.mask_figure(mask, tokens, segments, strategy="<i>").layout.title.text
    assert title == "&lt;i&gt;"


def test_labels_are_distinct_for_equal_tokens() -> None:
    mask, tokens, segments = make()
    assert len(set(plots.mask_figure(mask, ["same"] * len(tokens), segments).data[0].x)) == len(tokens)


@pytest.mark.parametrize(
    ("token", "shown"), [(" a", "·a"), ("\n", "↵"), ("", "∅"), ("\u202e", "\\u202e"), ("é", "é"), ("\x00", "\\u0000")]
)
def test_visible_text(token: str, shown: str) -> None:
    assert visible_text(token) == shown


def test_long_masks_become_block_means_and_say_so() -> None:
    mask, tokens, segments = make((1, 300, 297, 2))
    figure = plots.mask_figure(mask, tokens, segments)
    assert figure.data[0].z.shape == (200, 200)
    assert "3 x 3" in figure.layout.title.text and "600 x 600" in figure.layout.title.text
    assert np.isclose(figure.data[0].z.mean(), mask.mean(), atol=1e-6)


def test_block_means_with_an_uneven_edge() -> None:
    mask = np.tril(np.ones((5, 5), dtype=bool))
    assert np.allclose(block_means(mask, 2), [[0.75, 0, 0], [1, 0.75, 0], [1, 1, 1]])


def test_difference_has_exact_shares() -> None:
    segment, tokens, segments = make()
    causal = make(strategy="causal")[0]
    figure = plots.difference_figure(segment, causal, tokens, segments, name="segment", against="causal")
    removed = sum(
        c and not s for row in zip(causal.tolist(), segment.tolist(), strict=True) for c, s in zip(*row, strict=True)
    )
    shares = f"kept {segment.mean():.4f}, removed {removed / segment.size:.4f}, added 0.0000"
    assert figure.layout.title.text == f"from causal to segment: {shares}"
    assert (figure.data[0].z == np.where(segment, 1, np.where(causal, 2, 0))).all()
    assert figure.data[0].text[7, 3] == "removed: visible in causal only"


def test_a_difference_of_long_masks_is_of_block_means_and_says_so() -> None:
    segment, tokens, segments = make((1, 300, 297, 2))
    causal = make((1, 300, 297, 2), "causal")[0]
    for words in (True, False):
        figure = plots.difference_figure(segment, causal, tokens, segments, words=words)
        assert figure.data[0].z.shape == (200, 200) and figure.data[0].zmin == -1
        assert np.isclose(figure.data[0].z.mean(), segment.mean() - causal.mean(), atol=1e-6)
        title = figure.layout.title.text
        assert ("removed 0." in title and "3 x 3" in title) if words else not title


def test_png_holds_the_mask() -> None:
    mask, _, segments = make()
    png = mask_png(mask, segments)
    seen = np.array(Image.open(io.BytesIO(png)).convert("RGB"))
    white = (seen == 255).all(axis=-1)
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and (white == ~mask).all()
    for segment in segments:
        columns = slice(segment.start, segment.end)
        colours = {f"#{bytes(each).hex().upper()}" for each in seen[:, columns][mask[:, columns]].tolist()}
        assert colours == {segment_colour(segment.name, segment.role)}
    assert Image.open(io.BytesIO(mask_png(mask, scale=3))).size == (48, 48)


def test_html_is_whole_and_offers_no_cloud() -> None:
    mask, tokens, segments = make()
    page = plots.mask_figure(mask, tokens, segments).to_html(config=plots.CONFIG)
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)
    assert '"modeBarButtonsToRemove": ["sendChartToCloud"]' in page


def test_token_spans_cover_every_token_once() -> None:
    _, tokens, segments = make()
    spans = token_spans(tokens, segments)
    assert [text for text, _ in spans] == [visible_text(token) for token in tokens]
    assert [name for _, name in spans] == [s.name for s in segments for _ in range(s.end - s.start)]


def test_colours_of_twelve_paraphrases_differ() -> None:
    assert len({segment_colour(f"P{i}", "paraphrase") for i in range(1, 13)}) == len(PARAPHRASE_COLOURS) == 12


def test_sizes_that_do_not_fit_are_refused() -> None:
    mask, tokens, segments = make()
    with pytest.raises(ValueError, match="does not fit"):
        plots.mask_figure(mask, tokens[:-1], segments)
    with pytest.raises(ValueError, match="do not fit"):
        plots.difference_figure(mask, mask[:-1, :-1], tokens, segments)
