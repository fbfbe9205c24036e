"""Between the page's widgets and the engine: forms in, HTML and figures out. Knows no gradio, keeps no state.

Text of users and models is data: every piece of HTML made here escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from .cells import EXACT_TOKENS, Window, block_size, token_spans
from .config import InputError, Limits
from .encoding import Encoding
from .masks import STRATEGIES
from .methods import METHODS, MethodResult, Result
from .model import LanguageModel
from .plots import mask_figure
from .prompt import POSITIONS, Segment, SegmentedPrompt, build_prompt
from .prompt_masks import check_encoding, mask_array, mask_facts

ROWS = 10
CARDS = ("flex", "causal")  # methods with an answer card of their own; all others are rows of the table


@dataclass(frozen=True)
class Form:
    """What one visitor entered. Row k of `paraphrases` is called P(k + 2); blank rows are left out of the prompt."""

    question: str
    paraphrases: tuple[str, ...]
    weights: tuple[float | None, ...]
    strategy: str
    positions: str
    methods: tuple[str, ...]
    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    prefix: str

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Form:
        """From the widgets' values: question, rows, weights (the question's first), then the settings in order."""
        question, rows, weights = values[0], values[1 : 1 + ROWS], values[1 + ROWS : 2 + 2 * ROWS]
        strategy, positions, methods, *numbers, prefix = values[2 + 2 * ROWS :]
        texts = tuple(row or "" for row in rows)
        return cls(question or "", texts, tuple(weights), strategy, positions, tuple(methods), *numbers, prefix or "")

    @property
    def filled(self) -> tuple[int, ...]:
        """Rows that hold text, as indices."""
        return tuple(i for i, text in enumerate(self.paraphrases) if text.strip())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the wordings as the page shows them, the question's first."""
        return ("P1", *(f"P{i + 2}" for i in self.filled))

    @property
    def wordings(self) -> tuple[tuple[str, str], ...]:
        """(name, text) of the wordings that go into the prompt."""
        return tuple(zip(self.names, (self.question, *(self.paraphrases[i] for i in self.filled)), strict=True))

    @property
    def used_weights(self) -> tuple[float, ...]:
        chosen = [self.weights[0], *(self.weights[i + 1] for i in self.filled)]
        for name, weight in zip(self.names, chosen, strict=True):
            if weight is None:
                raise InputError(f"the weight of {name} is empty: give a number, 0 or more")
        return tuple(float(weight) for weight in chosen if weight is not None)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `flexdemo.stream`."""
        numbers = {
            "max_new_tokens": ("the answer length", self.max_new_tokens, int),
            "temperature": ("the temperature", self.temperature, float),
            "top_p": ("top-p", self.top_p, float),
            "seed": ("the seed", self.seed, int),
        }
        for what, value, _ in numbers.values():
            if value is None:
                raise InputError(f"{what} is empty: give a number")
        return {
            "question": self.question,
            "paraphrases": [self.paraphrases[i] for i in self.filled],
            "methods": self.methods,
            "mask": self.strategy,
            "positions": self.positions,
            "weights": self.used_weights,
            "prefix": self.prefix,
            **{name: convert(value) for name, (_, value, convert) in numbers.items() if value is not None},
        }


def check_request(
    limits: Limits, question: str, paraphrases: Sequence[str], *, prefix: str = "", max_new_tokens: int = 1
) -> None:
    """Raise InputError for what the page does not take, before any tokenising."""
    if len(paraphrases) > limits.paraphrases:
        raise InputError(f"{len(paraphrases)} paraphrases are too many: give at most {limits.paraphrases}")
    named = [("the question", question), ("the prefix", prefix)]
    named += [(f"paraphrase {i}", text) for i, text in enumerate(paraphrases, start=1)]
    for what, text in named:
        if len(text) > limits.characters:
            raise InputError(
                f"{what} is too long: it has {len(text):,} characters, the limit is {limits.characters:,}; shorten it"
            )
    if max_new_tokens > limits.new_tokens:
        raise InputError(f"an answer of {max_new_tokens} tokens is too long: ask for at most {limits.new_tokens}")


def token_limit(lm: LanguageModel, limits: Limits) -> int:
    """Tokens that prompt and answer may have together."""
    return min(limits.prompt_tokens, lm.context_length or limits.prompt_tokens)


def check_room(lm: LanguageModel, limits: Limits, prompt: SegmentedPrompt, max_new_tokens: int) -> None:
    need, limit = len(prompt.token_ids) + max_new_tokens, token_limit(lm, limits)
    if need > limit:
        raise InputError(
            f"prompt and answer need {need:,} tokens and the limit is {limit:,}: "
            "use fewer or shorter paraphrases, or a shorter answer"
        )


def compose(lm: LanguageModel, limits: Limits, form: Form) -> SegmentedPrompt:
    """The prompt that a run of this form would pack, its segments named as the page names them."""
    arguments = form.arguments()
    check_encoding(Encoding(form.strategy, form.positions))
    length = arguments["max_new_tokens"]
    check_request(limits, form.question, arguments["paraphrases"], prefix=form.prefix, max_new_tokens=length)
    prompt = build_prompt(
        lm.tokenizer, form.question, arguments["paraphrases"], weights=form.used_weights, prefix=form.prefix
    )
    check_room(lm, limits, prompt, length)
    middle = [replace(segment, name=name) for segment, name in zip(prompt.paraphrases, form.names, strict=True)]
    return replace(prompt, segments=(prompt.segments[0], *middle, prompt.segments[-1]))


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


def draw(lm: LanguageModel, limits: Limits, form: Form, *, window: Window | None = None) -> Drawing:
    """Mask, token view and captions of a form, without running the model."""
    prompt = compose(lm, limits, form)
    rows = mask_array(prompt, form.strategy)
    muted = [segment for segment in prompt.paraphrases if segment.weight == 0]
    if muted and STRATEGIES[form.strategy].fuses_at == STRATEGIES["segment"].fuses_at:
        rows = rows.copy()
        for segment in muted:  # what the fused view runs: weight 0 is a mask
            rows[prompt.suffix_start :, segment.start : segment.end] = False
    length = len(prompt.token_ids)
    facts = mask_facts(prompt, Encoding(form.strategy, form.positions))
    return Drawing(
        mask_figure(rows, prompt.tokens, prompt.segments, window=window if length > EXACT_TOKENS else None),
        token_spans(prompt.tokens, prompt.segments),
        legend_html(prompt.segments),
        caption_html(form, facts, length, exact=window is not None),
        shares_html(prompt.paraphrases),
        length,
        length > EXACT_TOKENS,
    )


def caption_html(form: Form, facts: Mapping[str, Any], length: int, *, exact: bool) -> str:
    """One line on the mask: its rule, its positions, its density; for a long prompt also what a cell stands for."""
    parts = [
        f"<b>{escape(STRATEGIES[form.strategy].label)}</b>: {escape(STRATEGIES[form.strategy].summary)}",
        escape(POSITIONS[form.positions]),
        f"Density {facts['density']:.3f}: that share of the {length:,} × {length:,} cells is visible"
        " (before weights hide any).",
    ]
    if length > EXACT_TOKENS:
        block = block_size(length)
        parts.append(
            f"Exact window of at most {EXACT_TOKENS} × {EXACT_TOKENS} tokens."
            if exact
            else f"Overview: a cell is the mean over {block} × {block} tokens."
        )
    return " ".join(parts)


def chip(name: str) -> str:
    """A segment's name behind a square of its colour; the colours of `is-...` are the page's style."""
    return f'<span class="chip is-{escape(name)}">{escape(name)}</span>'


def legend_html(segments: Sequence[Segment]) -> str:
    """The segments of the packed prompt with their numbers of tokens."""
    return " ".join(f"<span>{chip(segment.name)} {len(segment)}</span>" for segment in segments)


def shares_html(wordings: Sequence[Segment]) -> str:
    """The weights as shares of 1, as the model feels them."""
    shares = [segment.weight or 0.0 for segment in wordings]
    said = " ".join(f"<span>{chip(s.name)} {share:.3f}</span>" for s, share in zip(wordings, shares, strict=True))
    equal = max(shares) - min(shares) < 1e-9
    note = f"Equal shares, 1/{len(shares)} each" if equal else "Shares, normalised to sum to 1"
    return f'{note}: <span class="shares">{said}</span>'


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


def card_html(method: str, answered: MethodResult | None = None, first_token: float = 0.0, *, note: str = "") -> str:
    """A card's answer, whose text content is exactly the answer, and its numbers."""
    text = "" if answered is None else escape(answered.answer)
    stats = note if answered is None else stats_html(answered, first_token)
    return f'<div id="answer-{method}" class="answer">{text}</div><div id="stats-{method}" class="stats">{stats}</div>'


def _table_rows(form: Form, result: Result | None) -> list[tuple[str, str, str, str | None]]:
    """(chip, label, text, answer) for each answer that has no card: every wording alone, and other methods."""
    given = {} if result is None else {answered.method: answered for answered in result.results}
    rows: list[tuple[str, str, str, str | None]] = []
    for method in form.methods:
        answered = given.get(method)
        if method in CARDS:
            continue
        if method not in ("origin", "per_prompt"):
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


def table_html(form: Form, result: Result | None) -> str:
    """The answers that have no card, and whether each is the fused answer; before a run, the rows they will fill."""
    fused = None
    if result is not None and result.done:
        fused = next((answered.answer for answered in result.results if answered.method == "flex"), None)
    lines = []
    for mark, label, text, answer in _table_rows(form, result):
        same = "" if fused is None else ("same" if answer == fused else "differs")
        lines.append(
            f'<tr><th scope="row">{mark} {escape(label)}</th><td class="wording">{escape(text)}</td>'
            f'<td class="alone-answer" title="{escape(answer or "")}"><div>{escape(answer or "")}</div></td>'
            f'<td class="agrees" data-same="{same}">{same}</td></tr>'
        )
    if not lines:
        return ""
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Asked alone", "Wording", "Answer", "As fused?"))
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
    views = sum(len(answered.views) for answered in result.results)
    tokens = max((len(v.token_ids) for answered in result.results for v in answered.views), default=0)
    state = state or ("Done" if result.done else "Running")
    rows = f"{views} answer{'' if views == 1 else 's'}"
    told = (
        f"{state}: {rows}, longest {tokens} tokens, {result.seconds['total']:.2f} s "
        f"(encoding {result.seconds['encode']:.2f} s), backend {escape(result.backend)}"
    )
    return told if state == "Running" else f'<span role="status">{told}</span>'


def alert_html(message: str) -> str:
    return f'<div role="alert" class="alert">{escape(message[:1].upper() + message[1:])}</div>' if message else ""
