"""A wording's whole prompt as text: the lines of a base model, or the chat template of the tokenizer. Torch-free."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .errors import InputError, first_line

# Noncharacters of Unicode, which no text may hold (check_text): where a literal is cut, where the wording stands, where
# the user's prefix stands.
CUT, HERE, PREFIXED = "\ufdd0", "\ufdd1", "\ufdd2"
Shots = Sequence[tuple[str, str]]  # questions and their answers


@dataclass(frozen=True)
class Template:
    """How a wording is asked: `render` gives its whole prompt; `head` and `tail` stand around the wording's segment."""

    kind: str
    head: str
    tail: str
    render: Callable[[str], str]

    @property
    def texts(self) -> dict[str, str]:
        """Prefix and suffix as rendered, to tell one run's prompt from another's."""
        return {"prefix": self.head.replace(CUT, ""), "suffix": self.tail.replace(CUT, "")}


def check_text(text: str, what: str) -> str:
    """The text without outer spaces, or an InputError that names `what`."""
    if not isinstance(text, str):
        raise InputError(f"{what} must be text, not {type(text).__name__}")
    if not text.strip():
        raise InputError(f"{what} is empty: write a question such as 'What is the capital of Peru?'")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise InputError(f"{what} contains half a character (a lone surrogate): type it again or paste it as UTF-8")
    if any("\ufdd0" <= c <= "\ufdef" for c in text):
        raise InputError(f"{what} contains a code from U+FDD0 to U+FDEF, which are no characters: leave it out")
    return text.strip()


def plain_template(tokenizer: Any, prefix: str = "", shots: Shots = (), *, cue: str = "A:") -> Template:
    """Lines for a base model: the user's prefix, shots, the wording's `Q: ...` line, and the cue to go on from.

    The wording's segment is its whole line. Whatever the tokenizer puts around a text (BOS, EOS) is its own affair.
    """
    lines = [f"{prefix}\n"] if prefix else []
    lines += [f"Q: {question}\n{cue} {answer}\n" for question, answer in shots]
    head = protected(tokenizer, "".join(lines))
    return Template("plain", head, cue, lambda wording: f"{head}Q: {wording}\n{cue}")


def chat_template(tokenizer: Any, prefix: str = "", shots: Shots = ()) -> Template:
    """The tokenizer's chat template with the wording as the user's message, and nothing added to it.

    The user's prefix is the system message; a template that takes none has it in front of the first message of the
    user, on a line of its own. Shots are turns of user and assistant. Content is text, or a list of parts for a
    template that takes only that. A template that knows `enable_thinking` is told not to.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("this model has no chat template: use template plain")
    from jinja2 import TemplateError  # here, or help and bad arguments would wait for its import

    prefix = protected(tokenizer, prefix)
    turns = [protected(tokenizer, text) for shot in shots for text in shot]

    def render(wording: str, *, before: str, parts: bool, system: bool) -> str:
        texts = [*turns, wording]
        if before and not system:
            texts[0] = f"{before}\n{texts[0]}"
        told = [("system", before)] if before and system else []
        told += zip(itertools.cycle(("user", "assistant")), texts, strict=False)
        messages = [{"role": r, "content": [{"type": "text", "text": t}] if parts else t} for r, t in told]
        try:
            return tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise InputError(
                f"this model's chat template cannot be rendered ({first_line(error)}): use template plain"
            ) from error

    problems = []
    for system, parts in itertools.product((True, False) if prefix else (True,), (False, True)):
        try:
            trial = render(HERE, before=PREFIXED if prefix else "", parts=parts, system=system)
            if trial.count(HERE) != 1 or trial.count(PREFIXED) != bool(prefix):
                raise InputError(
                    "this model's chat template does not hold the user's message exactly once: use template plain"
                )
            whole = functools.partial(render, before=prefix, parts=parts, system=system)
            head, tail = whole(HERE).split(HERE)
        except InputError as error:
            problems.append(error)
            continue
        if not tail:
            raise InputError("this model's chat template ends with the user's message: use template plain")
        return Template("chat", head, tail, whole)
    raise problems[0]


TEMPLATES = MappingProxyType({"plain": plain_template, "chat": chat_template})


def make_template(tokenizer: Any, prefix: str = "", kind: str = "auto", *, shots: Shots = ()) -> Template:
    """The template called `kind`; "auto" is "chat" for a tokenizer that has a chat template, else "plain".

    `shots` are questions and their answers, told before the wording.
    """
    if kind == "auto":
        kind = "chat" if getattr(tokenizer, "chat_template", None) else "plain"
    if kind not in TEMPLATES:
        raise InputError(f"unknown template {kind!r}: choose from auto, {', '.join(TEMPLATES)}")
    checked = [(check_text(q, "a shot's question"), check_text(a, "a shot's answer")) for q, a in shots]
    return TEMPLATES[kind](tokenizer, check_text(prefix, "the prefix") if prefix.strip() else "", checked)


def protected(tokenizer: Any, text: str) -> str:
    """A user's text with a CUT in every literal of a special token, so that it stays text.

    There alone the ids are not those of transformers, which would take the literal for the token.
    """
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    named = added.union(tokenizer.all_special_tokens) - {""}  # an empty one is how some files say that there is none
    literals = sorted((each for each in named if each in text), key=len)
    if not literals:
        return text
    anywhere = re.compile(f"(?=({'|'.join(map(re.escape, literals))}))")  # also where literals overlap
    cuts = sorted({found.start() + max(1, len(found[1]) // 2) for found in anywhere.finditer(text)})
    return CUT.join(text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)]))
