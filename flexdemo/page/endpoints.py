"""The endpoints: what `/generate`, `/mask`, `/paraphrase` and `/methods` do. Knows no gradio and keeps no state.

Names and docstrings of the functions are what clients and MCP tools are shown.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated, Any, get_args

import gradio as gr
from pydantic import Field, create_model

from ..answers.ask import Pace, stream
from ..answers.explain import CANDIDATES, NEEDED
from ..answers.explain import explain as explain_result
from ..answers.methods import METHODS, check_names
from ..answers.paraphrase import paraphrase as write_paraphrases
from ..engine.loading import Models, offered
from ..engine.model import LanguageModel
from ..errors import InputError, OutOfTime
from ..masks import STRATEGIES
from ..plan import Encoding, check_encoding, mask_dict
from ..prompt import POSITIONS
from ..request import FIELDS, Checked, Limits, Request, face_of, parameters_of
from ..serve.log import checkpoint, note, within_noted_memory
from ..serve.zerogpu import LOCAL, Gpu, answer_seconds
from .run import note_result
from .state import check_limits, packed, token_limit
from .widgets import DRAW, MODEL

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


def endpoint(arguments: type[Checked], work: Callable[..., Any]) -> Callable[..., Any]:
    """`work` as a function whose parameters and their descriptions are the fields of `arguments`, which checks them.

    What a list may leave out may be null. Fields that are for Python alone (see Face) are no parameters.
    """
    hidden = {name for name, field in FIELDS.items() if face_of(field) is None}
    shown = [each for each in parameters_of(arguments) if each.name not in hidden]
    returned = inspect.signature(work, eval_str=True).return_annotation
    kind = get_args(returned)[0] if inspect.isgeneratorfunction(work) else returned  # of the last one, for clients
    signature = inspect.Signature(shown, return_annotation=kind)
    usual = {each.name: each.default for each in shown}

    def checked(args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        given = signature.bind(*args, **options).arguments
        left_out = {name for name, value in given.items() if value is None and usual[name] is None}
        return arguments(**{name: value for name, value in given.items() if name not in left_out})

    def once(*args: Any, **options: Any) -> Any:
        return work(checked(args, options))

    def streamed(*args: Any, **options: Any) -> Any:
        yield from work(checked(args, options))

    call = streamed if inspect.isgeneratorfunction(work) else once
    summary, returns = (inspect.getdoc(work) or "").split("Returns:")
    told = "".join(f"    {name}: {arguments.model_fields[name].description}\n" for name in signature.parameters)
    call.__name__ = call.__qualname__ = work.__name__
    call.__doc__ = f"{summary.strip()}\n\nArgs:\n{told}\nReturns:{returns}"
    call.__signature__ = signature
    call.__annotations__ = {each.name: each.annotation for each in shown} | {"return": signature.return_annotation}
    return call


def generate_endpoint(
    models: LanguageModel | Models, limits: Limits, gpu: Gpu = LOCAL
) -> Callable[..., Iterator[dict]]:
    """The function behind `/generate`, with the command line's arguments and JSON."""

    def generate(given: GenerateCall) -> Iterator[dict]:
        """Answer a question from all its wordings at once, with the answers of other methods if wanted.

        Returns:
            The JSON object that `python -m flexdemo generate --json` prints; before it, to a client that takes them,
            the same with the answers so far and "partial": true. Where the time that a request has here was up,
            "stopped" says so, and the answers are what there was until then.
        """
        lm = offered(models).of(given.model)
        asked = Request(**{name: getattr(given, name) for name in FIELDS})
        prompt = packed(lm, limits, asked, asked.max_new_tokens)
        names = [method.name for method in check_names(asked)]
        if given.explain:
            asked = asked.but(methods=list(dict.fromkeys([*names, *NEEDED])), candidates=CANDIDATES)
        until = limits.until()
        note(question=asked.question, paraphrases=list(asked.paraphrases), prefix=asked.prefix)
        size = f"{1 + len(asked.paraphrases)} wordings, {len(prompt.token_ids):,} tokens, {len(names)} methods"
        with within_noted_memory(lambda: size, give_up=offered(models).let_go):
            for result in stream(lm, asked, until=until, check=checkpoint(), wanted=Pace(PARTIAL_SECONDS)):
                if not result.done and time.monotonic() < until:
                    yield result.to_dict() | {"partial": True}
            told = result.to_dict()
            note_result(result)
            if not result.done:
                told["stopped"] = limits.time_is_up()
            elif given.explain:
                try:
                    told["explain"] = explain_result(lm, result, until=until, check=checkpoint()).to_dict()
                except OutOfTime:
                    told["stopped"] = limits.time_is_up()
        yield told

    def seconds(given: GenerateCall) -> float:
        return answer_seconds(min(given.max_new_tokens, limits.new_tokens), rows=10)

    return endpoint(GenerateCall, gpu.wrap(generate, seconds))


def mask_endpoint(models: LanguageModel | Models, limits: Limits) -> Callable[..., dict]:
    """The function behind `/mask`, with the command line's arguments and JSON."""

    def mask(given: MaskCall) -> dict:
        """The attention mask of a packed prompt, without running the model.

        Returns:
            The JSON object that `python -m flexdemo mask --json` prints; "rows" has a text of 0 and 1 for each query.
        """
        lm = offered(models).of(given.model)
        asked = Request(**{name: getattr(given, name) for name in PACKED})
        prompt = packed(lm, limits, asked, 0)
        if given.against is not None:
            check_encoding(Encoding(given.against, asked.positions))
        return mask_dict(prompt, asked.mask, asked.positions, given.against)

    return endpoint(MaskCall, mask)


def paraphrase_endpoint(models: LanguageModel | Models, limits: Limits, gpu: Gpu = LOCAL) -> Callable[..., list[str]]:
    """The function behind `/paraphrase`, with the command line's arguments and JSON."""

    def paraphrase(given: ParaphraseCall) -> list[str]:
        """Let the model write other wordings of a question.

        Returns:
            The JSON list that `python -m flexdemo paraphrase --json` prints: distinct, none equal to the question.
        """
        lm = offered(models).of(given.model)
        check_limits(limits, Request(question=given.question))
        if not 1 <= given.n <= limits.paraphrases:
            raise InputError(f"the number of paraphrases must be from 1 to {limits.paraphrases}, not {given.n}")
        note(question=given.question)
        until = limits.until()
        with within_noted_memory(give_up=offered(models).let_go):
            drawing = {"seed": given.seed, "temperature": given.temperature, "until": until, "check": checkpoint()}
            written = write_paraphrases(lm, given.question, given.n, **drawing)
        if not written and time.monotonic() >= until:
            raise OutOfTime(limits.time_is_up())
        return written

    return endpoint(ParaphraseCall, gpu.wrap(paraphrase, lambda given: answer_seconds(32, rows=10)))


def methods_endpoint(models: LanguageModel | Models, limits: Limits) -> Callable[[], dict]:
    """The function behind `/methods`: what the other endpoints accept, from the tables that run."""

    def methods() -> dict:
        """What can be asked for: methods, mask strategies and position schemes, each explained, and the limits.

        Returns:
            Lists "methods", "strategies" and "positions" of name, label, summary; "limits" of a request; the "model",
            and the names of all "models" that may be chosen.
        """
        lm = offered(models).default
        return {
            "model": lm.name,
            "models": list(offered(models).names),
            "methods": [
                {"name": m.name, "label": m.label, "summary": m.summary, "wordings": m.minimum}
                for m in METHODS.values()
            ],
            "strategies": [{"name": s.name, "label": s.label, "summary": s.summary} for s in STRATEGIES.values()],
            "positions": [
                {"name": name, "label": name.replace("_", " ").capitalize(), "summary": summary}
                for name, summary in POSITIONS.items()
            ],
            "limits": asdict(limits) | {"prompt_tokens": token_limit(lm, limits), "methods": len(METHODS)},
        }

    return methods


def add_endpoints(models: Models, limits: Limits, gpu: Gpu = LOCAL) -> None:
    """Register the endpoints with the Blocks being built; those that run the model share the queue of runs."""
    gr.api(generate_endpoint(models, limits, gpu), api_name="generate", **MODEL)
    gr.api(mask_endpoint(models, limits), api_name="mask", **DRAW)
    gr.api(paraphrase_endpoint(models, limits, gpu), api_name="paraphrase", **MODEL)
    gr.api(methods_endpoint(models, limits), api_name="methods", **DRAW)
