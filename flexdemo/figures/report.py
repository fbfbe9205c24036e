"""A finished result as text to keep: mask as CSV, JSON, a program that asks again, one HTML page. Writes no files.

Texts of users and models are data in all of them: quoted, escaped, never markup, code, formula or path.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

from ..answers.explain import Explanation
from ..answers.methods import METHODS
from ..answers.result import Result, versions
from ..engine.loading import BUNDLED
from ..engine.sources import PACKAGED
from ..masks import Mask
from ..plan import Scheme, mask_rows
from ..prompt import SegmentedPrompt
from ..request import FIELDS
from .answer import effect_figure, mass_figure
from .cells import token_spans
from .mask import mask_figure
from .results import charts_html, facts_html, page_html, table_html, text_html

LONGEST_NAME = 60


def mask_csv(prompt: SegmentedPrompt, cells: np.ndarray) -> str:
    """A mask as CSV: 1 = visible, a row for each query token, a column for each key token, labels on both sides.

    A label is the token's index, its segment and its text. It begins with a digit, so that no spreadsheet takes a text
    such as `=1+1` for a formula.
    """
    labels = [f"{i} {name} {text}" for i, (text, name) in enumerate(token_spans(prompt.tokens, prompt.segments))]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["query, key", *labels])
    writer.writerows([label, *row] for label, row in zip(labels, mask_rows(cells), strict=True))
    return out.getvalue()


def result_json(result: Result, explanation: Explanation | None = None) -> str:
    """The JSON of the command line, with `explain` if there is an explanation."""
    explained = {} if explanation is None else {"explain": explanation.to_dict()}
    return json.dumps(result.to_dict() | explained, ensure_ascii=False, allow_nan=False)


def snippet(result: Result) -> str:
    """A Python program that asks the same of the same model, and prints the answers.

    Settings that have their default are left out."""
    request = result.request
    known = result.model == BUNDLED.name or result.model in PACKAGED or "/" in result.model
    said = [] if known else [f"# {_literal(result.model)} is what the model is called here: give its folder or file"]
    lines = ["import flexdemo", "", *said, f"lm = flexdemo.load_model({_model_arguments(result)})"]
    lines += ["result = flexdemo.ask(", "    lm,", f"    {_literal(request.question)},"]
    if request.paraphrases:
        lines += ["    [", *(f"        {_literal(text)}," for text in request.paraphrases), "    ],"]
    for name, field in list(FIELDS.items())[2:]:
        value = getattr(request, name)
        if value != field.default:
            lines.append(f"    {name}={_literal(value)},")
    if result.sides:
        lines[0] += "\nfrom flexdemo.plan import Scheme"
        lines += ["    schemes=[", *(f"        {scheme!r}," for scheme in _schemes(result)), "    ],"]
    each = "answered" if result.sides else "results"
    lines += [")", f"for answer in result.{each}:", "    print(answer.method, answer.answer, sep=': ')"]
    return "\n".join(lines) + "\n"


def _schemes(result: Result) -> Iterator[Scheme]:
    """What the sides were asked with: wordings are numbered there, whatever the result calls them."""
    numbers = {segment.name: f"P{i}" for i, segment in enumerate(result.prompt.paraphrases, start=1)}
    for side in result.sides:
        yield Scheme.of(side.method).renamed(numbers)


def _literal(value: Any) -> str:
    """Python text that reads as the same value; numpy's numbers as Python's."""
    return repr(json.loads(json.dumps(value)))


def _model_arguments(result: Result) -> str:
    place = {"device": result.device.split(":")[0], "dtype": result.dtype, "backend": result.backend}
    model = [] if result.model == BUNDLED.name else [repr(result.model)]
    return ", ".join([*model, *(f"{name}={value!r}" for name, value in place.items())])


def file_name(question: str, suffix: str) -> str:
    """A name for a file about a question, such as `flexdemo-what-is-the-capital-of-peru.csv`, of at most 60 characters.

    ASCII letters, digits and dashes, then `suffix`.
    """
    plain = unicodedata.normalize("NFKD", question[:500]).encode("ascii", "ignore").decode().lower()
    name = "-".join(["flexdemo", *re.findall(r"[a-z0-9]+", plain)])
    return name[: LONGEST_NAME - len(suffix)].rstrip("-") + suffix


def report_html(
    result: Result,
    explanation: Explanation | None = None,
    *,
    title: str,
    ran: Mapping[str, str] | None = None,
) -> str:
    """One HTML page, complete and offline: wordings, answers, figures, what ran, a program and the JSON.

    `ran` are the versions that computed the result, by default those of this process.
    """
    parts = [
        "<h2>Wordings</h2>",
        _wordings(result),
        "<h2>Answers</h2>",
        _answers(result),
        *charts_html(_figures(result, explanation)),
        "<h2>What ran</h2>",
        facts_html(_facts(result, versions() if ran is None else ran)),
        _details("Python program that asks this again", f"<pre>{escape(snippet(result))}</pre>"),
        _details("All data as JSON", f'<pre class="json">{escape(result_json(result, explanation))}</pre>'),
    ]
    return page_html(title, parts)


def _details(heading: str, inside: str) -> str:
    return f"<details><summary>{heading}</summary>{inside}</details>"


def _asked(result: Result) -> list[str]:
    return [result.request.question, *result.request.paraphrases]


def _wordings(result: Result) -> str:
    header = ["Segment", "Text", "Weight", "Tokens"]
    rows = [
        [segment.name, text_html(text), "" if segment.weight is None else f"{segment.weight:.3f}", str(len(segment))]
        for segment, text in zip(result.prompt.paraphrases, _asked(result), strict=True)
    ]
    if result.confidence:
        header.append("Confidence")
        rows = [[*row, f"{share:.2f}"] for row, share in zip(rows, result.confidence.shares, strict=True)]
    return table_html(header, rows, numbers=range(2, len(header)))


def _answers(result: Result) -> str:
    rows = []
    for answer in result.answered:
        method = METHODS.get(answer.method)  # none for a side, which is called by its scheme
        each = method is not None and method.answers_each and len(answer.views) > 1
        for view in answer.views if each else (answer,):
            name = f"{answer.method} {view.name}" if each else answer.method
            mean = sum(view.logprobs) / max(1, len(view.logprobs))
            numbers = [str(len(view.token_ids)), f"{round(mean, 3) + 0.0:.3f}", f"{answer.seconds:.3f}"]
            label = method.label if method else "Scheme of a side"
            rows.append([escape(label), escape(name), text_html(view.answer), *numbers])
    header = ["Method", "Name", "Answer", "Tokens", "Mean log-probability", "Seconds"]
    return table_html(header, rows, numbers=(3, 4, 5))


def _figures(result: Result, explanation: Explanation | None) -> list[tuple[str, str, Any]]:
    """Heading, note and figure of each chart."""
    prompt, strategy = result.prompt, result.mask["strategy"]
    seen = Mask.over(strategy, prompt.segments).weighted()
    mask = mask_figure(seen.cells(), prompt.tokens, prompt.segments, height=640, why=seen.told)
    note = f"{strategy}, positions {result.mask['positions']}: {seen.density:.1%} of all pairs are visible."
    charts = [("Mask", note, mask)]
    fused = next((answer for answer in result.results if answer.method == "flex"), None)
    mass = explanation.attribution.mean_mass if explanation else fused and np.array(fused.views[0].segment_mass)
    if fused is not None and mass is not None and len(mass):
        names = ["prefix", *(segment.name for segment in prompt.paraphrases), "suffix + answer"]
        note = "By segment for each token of the fused answer, mean over layers and heads. Descriptive, not causal."
        charts.append(("Attention mass", note, mass_figure(mass, fused.tokens, names, height=420)))
    if explanation and explanation.attribution.effects:
        effects = explanation.attribution.effects
        texts = dict(zip((segment.name for segment in prompt.paraphrases), _asked(result), strict=True))
        hidden = [effect.hidden for effect in effects]
        figure = effect_figure(hidden, [effect.effect for effect in effects], [texts[name] for name in hidden])
        note = "How much less likely the fused answer is when one wording is hidden and positions are held. Causal."
        charts.append(("Leave one out", note, figure))
    return charts


def _facts(result: Result, ran: Mapping[str, str]) -> dict[str, str]:
    asked = result.request
    kind = "greedy" if asked.temperature == 0 else f"temperature {asked.temperature}, top-p {asked.top_p}"
    notes = {"Note": " ".join(result.notes)} if result.notes else {}
    return {
        "Model": result.model,
        "Device, dtype, backend": f"{result.device}, {result.dtype}, {result.backend}",
        "Prompt": f"{len(result.prompt.token_ids)} tokens, template {result.prompt.kind}",
        "APE": "off" if result.ape.is_plain else f"temperature {result.ape.temperature}, scale {result.ape.scale}",
        "Seconds": ", ".join(f"{name} {value:.3f}" for name, value in result.seconds.items()),
        "Versions": ", ".join(f"{name} {value}" for name, value in ran.items()),
        "Decoding": f"{kind}, at most {asked.max_new_tokens} tokens, seed {asked.seed}",
        **notes,
    }
