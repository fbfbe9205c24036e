"""Between the page's widgets and the engine: forms in, HTML and figures out. Knows no gradio, keeps no state.

Text of users and models is data: every piece of HTML made here escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..answers.methods import METHODS
from ..answers.metrics import same_answer
from ..answers.result import MethodResult, Result
from ..engine.model import LanguageModel
from ..figures.cells import EXACT_TOKENS, Window, block_size, token_spans
from ..masks import parse
from ..plan import STANDARD, Scheme
from ..prompt import POSITIONS, Segment
from ..request import Limits
from .entered import Form, compose, token_limit
from .tabs.mask import Picture, picture

CARDS = ("flex", "causal")  # methods with an answer card of their own; all others are rows of the table
ALONE = ("origin", "per_prompt")  # methods whose answers are those of single wordings


@dataclass(frozen=True)
class Drawing:
    """The mask and the tokens of a form, ready to show."""

    figure: Any
    spans: list[tuple[str, str]]
    legend: str
    caption: str
    shares: str
    tokens: int
    is_long: bool


def draw(
    lm: LanguageModel,
    limits: Limits,
    form: Form,
    *,
    window: Window | None = None,
    schemes: tuple[Scheme, Scheme] | None = None,
    show: str = "left",
) -> Drawing:
    """Mask, token view and captions of a form, without running the model.

    `schemes` are those of the two sides: the form's own and standard attention unless told otherwise.
    """
    prompt = compose(lm, limits, form)
    schemes = schemes or (Scheme(form.strategy, form.positions), STANDARD)
    drawn = picture(prompt, schemes, show=show, window=window)
    length = len(prompt.token_ids)
    return Drawing(
        drawn.figure,
        token_spans(prompt.tokens, prompt.segments),
        legend_html(prompt.segments),
        caption_html(drawn, schemes, length, window=window and window.clamped(length)),
        shares_html(form, prompt.paraphrases),
        length,
        length > EXACT_TOKENS,
    )


def scheme_label(scheme: Scheme) -> str:
    weights = "weights on" if scheme.weighted else "raw weights"
    return f"{parse(scheme.strategy).label}, {scheme.positions.replace('_', ' ')}, {weights}"


def caption_html(drawn: Picture, schemes: tuple[Scheme, Scheme], length: int, *, window: Window | None) -> str:
    """One line on a mask: its rule, its positions, its density; or on a difference: exact shares of its cells. For a
    long prompt also what a cell stands for, or which cells are in the `window`."""
    cells = length**2
    if drawn.shares is None:
        strategy = parse(drawn.shown.strategy)
        parts = [
            f"<b>{escape(strategy.label)}</b>: {escape(strategy.summary)}",
            escape(POSITIONS[drawn.shown.positions]),
            f"Density {drawn.density:.3f}: that share of the {length:,} × {length:,} cells is visible"
            " (before weights hide any).",
        ]
    else:
        left, right = (f"<b>{escape(scheme_label(scheme))}</b>" for scheme in schemes)
        shares = ", ".join(
            f'<span class="chip is-{word}">{word}</span> {share:.4f} ({round(share * cells):,})'
            for word, share in drawn.shares.items()
        )
        parts = [f"From the right side ({right}) to the left ({left}): {shares} of {cells:,} cells."]
        if not drawn.shares["removed"] and not drawn.shares["added"]:
            parts.append("Both sides see the same cells.")
    if length > EXACT_TOKENS:
        block = block_size(length)
        parts.append(
            f"Exact window: queries {window.query:,} to {window.query + window.size - 1:,}, "
            f"keys {window.key:,} to {window.key + window.size - 1:,}."
            if window
            else f"Overview: a cell is the mean over {block} × {block} tokens."
        )
    return " ".join(parts)


def chip(name: str) -> str:
    """A segment's name behind a square of its colour; the colours of `is-...` are the page's style."""
    return f'<span class="chip is-{escape(name)}">{escape(name)}</span>'


def legend_html(segments: Sequence[Segment]) -> str:
    """The segments of the packed prompt with their numbers of tokens; each is a button that highlights it."""
    return " ".join(
        f'<span><button type="button" class="chip is-{escape(segment.name)}" data-segment="{i}" aria-pressed="false">'
        f"{escape(segment.name)}</button> {len(segment)}</span>"
        for i, segment in enumerate(segments)
    )


def shares_html(form: Form, wordings: Sequence[Segment]) -> str:
    """The weights as shares of 1, as the model feels them, or how the run will find them."""
    if form.by_confidence:
        return (
            f"Shares come from the run: how many of {escape(str(form.samples))} samples of a wording agree with its "
            "greedy answer. The weights above do not act."
        )
    shares = [segment.weight or 0.0 for segment in wordings]
    equal = max(shares) - min(shares) < 1e-9
    note = f"Equal shares, 1/{len(shares)} each" if equal else "Shares, normalised to sum to 1"
    return f'{note}: <span class="shares">{_chips(wordings, shares)}</span>'


def _chips(wordings: Sequence[Segment], shares: Sequence[float]) -> str:
    return " ".join(f"<span>{chip(s.name)} {share:.3f}</span>" for s, share in zip(wordings, shares, strict=True))


def weights_html(result: Result | None) -> str:
    """The weights that ran, in one line, and where they came from; `result` has the page's names of wordings."""
    if result is None or not result.done:
        return _line("Weights that ran: –")
    chips, source = _chips(result.prompt.paraphrases, result.prompt.weights), ""
    if result.confidence is not None:
        sampled = result.confidence
        source = f" by confidence, {sampled.samples} samples each at temperature {sampled.temperature:g}"
        if not any(sampled.shares):
            source += " (none agreed with its greedy answer, so all weigh the same)"
    return _line(f"Weights that ran{source}: {chips}")


def _line(said: str) -> str:
    """One line that scrolls sideways where it does not fit, by keyboard too."""
    return f'<div class="line" tabindex="0" role="group" aria-label="Weights that ran">{said}</div>'


def rate(result: MethodResult, first_token: float) -> float | None:
    """Tokens a second after the first token; None if there was no second one."""
    span = result.seconds - first_token
    return (len(result.token_ids) - 1) / span if len(result.token_ids) > 1 and span > 0 else None


def stats_html(result: MethodResult, first_token: float) -> str:
    """Tokens, tokens per second and first-token time of one answer."""
    count = len(result.token_ids)
    if not count:
        return "reading the prompt"
    speed = rate(result, first_token)
    parts = [
        f"<b>{count}</b> token{'' if count == 1 else 's'}",
        "one token has no rate" if speed is None else f"<b>{speed:.1f}</b> tokens/s",
        f"first token <b>{first_token * 1000:.0f}</b> ms",
    ]
    if result.stopped_by:
        parts.append(f"ended: {escape(result.stopped_by)}")
    return " · ".join(parts)


def card_html(
    method: str,
    answered: MethodResult | None = None,
    first_token: float = 0.0,
    *,
    note: str = "",
    tail: str = "",
    marked: str | None = None,
) -> str:
    """A card's answer, whose text content is exactly the answer, and its numbers, with `tail` behind them.

    `marked` is the answer as HTML.
    """
    text = marked if marked is not None else "" if answered is None else escape(answered.answer)
    stats = note if answered is None else stats_html(answered, first_token) + (f" · {tail}" if tail else "")
    return f'<div id="answer-{method}" class="answer">{text}</div><div id="stats-{method}" class="stats">{stats}</div>'


def _table_rows(form: Form, result: Result | None, carded: Sequence[str]) -> list[tuple[str, str, str, str | None]]:
    """(chip, label, text, answer) for each answer that has no card: every wording alone, and other methods."""
    given = {} if result is None else {answered.method: answered for answered in result.results}
    rows: list[tuple[str, str, str, str | None]] = []
    for method in form.methods:
        answered = given.get(method)
        if method in carded:
            continue
        if method not in ALONE:
            label = METHODS[method].label
            if METHODS[method].answers_each:
                names = [f"without {name}" for name, _ in form.wordings]
                rows += [
                    ("", label, name, answered.views[i].answer if answered else None) for i, name in enumerate(names)
                ]
            else:
                rows.append(("", label, METHODS[method].summary, answered.answer if answered else None))
            continue
        for i, (name, text) in enumerate(form.wordings[: 1 if method == "origin" else None]):
            if method == "per_prompt" and i == 0 and "origin" in form.methods:
                continue  # the same answer has a row already
            label = "Question" if i == 0 else f"Paraphrase {int(name[1:]) - 1}"
            rows.append((chip(name), label, text, answered.views[i].answer if answered else None))
    return rows


def table_html(form: Form, result: Result | None, carded: Sequence[str] = CARDS) -> str:
    """The answers that have no card, and whether each is the fused answer; before a run, the rows they will fill."""
    fused = None
    if result is not None and result.done:
        fused = next((answered.answer for answered in result.results if answered.method == "flex"), None)
    lines = []
    for mark, label, text, answer in _table_rows(form, result, carded):
        same = "" if fused is None else ("same" if same_answer(answer or "", fused) else "differs")
        lines.append(
            f'<tr><th scope="row">{mark} {escape(label)}</th><td class="wording">{escape(text)}</td>'
            f'<td class="alone-answer" title="{escape(answer or "")}"><div>{escape(answer or "")}</div></td>'
            f'<td class="agrees" data-same="{same}">{same}</td></tr>'
        )
    if not lines:
        return ""
    first = "Asked alone" if {*form.methods} <= {*carded, *ALONE} else "Other answers"
    head = "".join(f'<th scope="col">{title}</th>' for title in (first, "Wording", "Answer", "As fused?"))
    return f'<table class="alone"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def model_html(lm: LanguageModel, limits: Limits, tokens: int | None, max_new_tokens: int | None) -> str:
    """What is loaded and how full it is: model, device, backend, dtype, tokens of the packed prompt."""
    facts = [("model", lm.name), ("device", str(lm.device)), ("backend", lm.backend), ("dtype", lm.dtype)]
    said = " ".join(f"<span>{key} <b>{escape(value)}</b></span>" for key, value in facts)
    limit = token_limit(lm, limits)
    if tokens is None:
        return f"{said} <span>limit <b>{limit:,}</b> tokens</span>"
    answer = f" + up to {int(max_new_tokens)} for the answer" if max_new_tokens else ""
    return f"{said} <span>prompt <b>{tokens:,}</b> of {limit:,} tokens{answer}</span>"


def progress_html(result: Result, *, state: str = "") -> str:
    """One line on a run: what it has done so far, or did."""
    if not result.results and not state:
        return f"Sampling each wording for its weight, {result.seconds['total']:.2f} s"
    every = [view for each in result.answered for view in each.views]
    count = len({(view.weights, view.suffix_position, view.logprobs) for view in every})  # methods share some
    tokens = max((len(view.token_ids) for view in every), default=0)
    state = state or ("Done" if result.done else "Running")
    rows = f"{count} row{'' if count == 1 else 's'}"
    told = (
        f"{state}: {rows}, longest {tokens} token{'' if tokens == 1 else 's'}, {result.seconds['total']:.2f} s "
        f"(encoding {result.seconds['encode']:.2f} s), backend {escape(result.backend)}"
    )
    return told if state == "Running" else f'<span role="status">{told}</span>'


def alert_html(message: str) -> str:
    return f'<div role="alert" class="alert">{escape(message[:1].upper() + message[1:])}</div>' if message else ""
