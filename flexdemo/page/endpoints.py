"""The endpoints: what `/generate`, `/mask`, `/paraphrase` and `/methods` do. Knows no gradio and keeps no state.

Names and docstrings of the functions are what clients and MCP tools are shown.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, get_args, get_type_hints

import gradio as gr
from pydantic import Field, create_model

from ..answers.ask import Pace, stream
from ..answers.explain import CANDIDATES, NEEDED, explain
from ..answers.methods import METHODS, check_names
from ..answers.paraphrase import paraphrase as write_paraphrases
from ..errors import InputError, OutOfTime
from ..masks import STRATEGIES
from ..plan import Encoding, check_encoding, mask_dict
from ..prompt import POSITIONS
from ..request import FIELDS, Checked, Request, chosen, face_of, parameters_of
from ..serve.log import checkpoint, note, within_noted_memory
from ..serve.zerogpu import answer_seconds
from .run import note_result
from .state import check_limits, packed, token_limit
from .widgets import DRAW, MODEL, Page

Model = Annotated[
    str | None, Field(description="name of one of the models offered here; the first by default. See methods.")
]
PARTIAL_SECONDS = 0.25  # between the answers so far that a client is sent
PACKED = ("question", "paraphrases", "mask", "positions", "prefix", "template")  # what a prompt and its mask depend on


class GenerateCall(Request):
    """The arguments of `/generate`."""

    explain: bool = Field(
        False, description="also what each wording contributed: attention mass, leave-one-out effect, candidates"
    )
    model: Model = None


class ParaphraseCall(Checked):
    """The arguments of `/paraphrase`."""

    question: str = Field(description="the question")
    n: int = Field(5, description="how many are wanted; there are fewer if the model has no more to offer")
    seed: int = Field(FIELDS["seed"].default, description=FIELDS["seed"].description)
    temperature: float = Field(0.7, description="of sampling, above 0")
    model: Model = None


MaskCall = create_model(
    "MaskCall",
    __base__=Checked,
    __doc__="The arguments of `/mask`.",
    **{name: (FIELDS[name].annotation, FIELDS[name]) for name in PACKED},
    against=(str | None, Field(None, description="another mask to compare with")),
    model=(Model, None),
)


class MethodsCall(Checked):
    """`/methods` has no arguments."""


def endpoint(page: Page, work: Callable[..., Any], seconds: Callable[..., float] | None = None) -> Callable[..., Any]:
    """`work` of a page and its arguments as a function whose parameters and their descriptions are the fields of those,
    which check them. What runs the model tells its `seconds` from the same arguments.

    What a list may leave out may be null. Fields that are for Python alone (see Face) are no parameters.
    """
    hints = get_type_hints(work)
    arguments, returned = hints["given"], hints["return"]
    hidden = {name for name, field in FIELDS.items() if face_of(field) is None}
    shown = [each for each in parameters_of(arguments) if each.name not in hidden]
    kind = get_args(returned)[0] if inspect.isgeneratorfunction(work) else returned  # of the last one, for clients
    signature = inspect.Signature(shown, return_annotation=kind)
    usual = {each.name: each.default for each in shown}
    run = partial(work, page)
    run = page.gpu.wrap(run, seconds) if seconds else run

    def once(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options).arguments
        left_out = {name for name, value in given.items() if value is None and usual[name] is None}
        return run(arguments(**{name: value for name, value in given.items() if name not in left_out}))

    def streamed(*args: Any, **options: Any) -> Any:
        yield from once(*args, **options)

    call = streamed if inspect.isgeneratorfunction(work) else once
    summary, returns = (inspect.getdoc(work) or "").split("Returns:")
    told = "".join(f"    {name}: {arguments.model_fields[name].description}\n" for name in signature.parameters)
    call.__name__ = call.__qualname__ = work.__name__
    call.__doc__ = f"{summary.strip()}\n\nArgs:\n{told}\nReturns:{returns}"
    call.__signature__ = signature
    call.__annotations__ = {each.name: each.annotation for each in shown} | {"return": signature.return_annotation}
    return call


def generate(page: Page, given: GenerateCall) -> Iterator[dict]:
    """Answer a question from all its wordings at once, with the answers of other methods if wanted.

    Returns:
        The JSON object that `python -m flexdemo generate --json` prints; before it, to a client that takes them, the
        same with the answers so far and "partial": true. Where the time that a request has here was up, "stopped" says
        so, and the answers are what there was until then.
    """
    lm, limits = page.models.of(given.model), page.limits
    asked = Request(**chosen(given))
    prompt = packed(lm, limits, asked, asked.max_new_tokens)
    names = [method.name for method in check_names(asked)]
    if given.explain:
        asked = asked.but(methods=list(dict.fromkeys([*names, *NEEDED])), candidates=CANDIDATES)
    until = limits.until()
    note(question=asked.question, paraphrases=list(asked.paraphrases), prefix=asked.prefix)
    size = f"{1 + len(asked.paraphrases)} wordings, {len(prompt.token_ids):,} tokens, {len(names)} methods"
    with within_noted_memory(lambda: size, give_up=page.models.let_go):
        options = {"reasoning": limits.new_tokens, "until": until, "check": checkpoint()}
        for result in stream(lm, asked, **options, wanted=Pace(PARTIAL_SECONDS)):
            if not result.done and time.monotonic() < until:
                yield result.to_dict() | {"partial": True}
        told = result.to_dict()
        note_result(result)
        try:
            if given.explain and result.done:
                told["explain"] = explain(lm, result, until=until, check=checkpoint()).to_dict()
            is_over = not result.done
        except OutOfTime:
            is_over = True
    yield told | ({"stopped": limits.time_is_up()} if is_over else {})


def mask(page: Page, given: MaskCall) -> dict:
    """The attention mask of a packed prompt, without running the model.

    Returns:
        The JSON object that `python -m flexdemo mask --json` prints; "rows" has a text of 0 and 1 for each query.
    """
    asked = Request(**{name: getattr(given, name) for name in PACKED})
    prompt = packed(page.models.of(given.model), page.limits, asked, 0)
    if given.against is not None:
        check_encoding(Encoding(given.against, asked.positions))
    return mask_dict(prompt, asked.mask, asked.positions, given.against)


def paraphrase(page: Page, given: ParaphraseCall) -> list[str]:
    """Let the model write other wordings of a question.

    Returns:
        The JSON list that `python -m flexdemo paraphrase --json` prints: distinct, none equal to the question.
    """
    lm, limits = page.models.of(given.model), page.limits
    check_limits(limits, Request(question=given.question))
    if not 1 <= given.n <= limits.paraphrases:
        raise InputError(f"the number of paraphrases must be from 1 to {limits.paraphrases}, not {given.n}")
    note(question=given.question)
    until = limits.until()
    with within_noted_memory(give_up=page.models.let_go):
        drawing = {"seed": given.seed, "temperature": given.temperature, "until": until, "check": checkpoint()}
        written = write_paraphrases(lm, given.question, given.n, **drawing)
    if not written and time.monotonic() >= until:
        raise OutOfTime(limits.time_is_up())
    return written


def methods(page: Page, given: MethodsCall) -> dict:
    """What can be asked for: methods, mask strategies and position schemes, each explained, and the limits.

    Returns:
        Lists "methods", "strategies" and "positions" of name, label, summary; "limits" of a request; the "model", and
        the names of all "models" that may be chosen.
    """
    lm = page.models.default

    def listed(table: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"name": each.name, "label": each.label, "summary": each.summary} for each in table.values()]

    return {
        "model": lm.name,
        "models": list(page.models.names),
        "methods": [each | {"wordings": METHODS[each["name"]].minimum} for each in listed(METHODS)],
        "strategies": listed(STRATEGIES),
        "positions": [
            {"name": name, "label": name.replace("_", " ").capitalize(), "summary": summary}
            for name, summary in POSITIONS.items()
        ],
        "limits": asdict(page.limits) | {"prompt_tokens": token_limit(lm, page.limits), "methods": len(METHODS)},
    }


def endpoints(page: Page) -> dict[str, Callable[..., Any]]:
    """The functions behind the endpoints, by name, with the command line's arguments and JSON."""

    def answering(given: GenerateCall) -> float:
        return answer_seconds(min(given.max_new_tokens, page.limits.new_tokens), rows=10)

    made = (
        endpoint(page, generate, answering),
        endpoint(page, mask),
        endpoint(page, paraphrase, lambda given: answer_seconds(32, rows=10)),
        endpoint(page, methods),
    )
    return {each.__name__: each for each in made}


def add_endpoints(page: Page) -> None:
    """Register the endpoints with the Blocks being built; those that run the model share the queue of runs."""
    for name, call in endpoints(page).items():
        gr.api(call, api_name=name, **(MODEL if name in ("generate", "paraphrase") else DRAW))
