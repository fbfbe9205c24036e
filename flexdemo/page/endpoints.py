"""The endpoints: what `/generate`, `/mask`, `/paraphrase` and `/methods` do. Knows no gradio and keeps no state.

Names and docstrings of the functions are what clients and MCP tools are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import wraps
from html import escape
from typing import Any

import gradio as gr

from ..answers.ask import ask
from ..answers.explain import CANDIDATES, NEEDED
from ..answers.explain import explain as explain_result
from ..answers.methods import METHODS, resolve_methods
from ..answers.paraphrase import paraphrase as write_paraphrases
from ..engine.loading import Models, offered
from ..engine.model import LanguageModel
from ..errors import InputError, OutOfTime
from ..masks import STRATEGIES
from ..plan import Encoding, check_encoding, mask_dict
from ..prompt import POSITIONS, build_prompt
from ..request import Ape, Decoding, Limits, Samples
from ..serve.log import checkpoint, note, within_noted_memory
from ..serve.zerogpu import LOCAL, Gpu, answer_seconds
from .entered import CONFIDENCE, check_request, check_room, is_number, shortened, token_limit

TEMPERATURE = 0.7  # at which paraphrases are sampled
KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a text", lambda value: isinstance(value, str)),
    "texts": ("a list of texts", lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value)),
    "whole": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "number": ("a number", is_number),
    "yes": ("true or false", lambda value: isinstance(value, bool)),
    "weights": (
        'a list of numbers, one for each wording, or "raw" or "confidence"',
        lambda value: isinstance(value, str) or (isinstance(value, list) and all(map(KINDS["number"][1], value))),
    ),
}


def check_kinds(given: Mapping[str, Any], **kinds: str) -> None:
    """Raise InputError for the first argument that is not of its kind in KINDS; a kind that ends in "?" allows null."""
    for name, kind in kinds.items():
        value = given[name]
        if value is None and kind.endswith("?"):
            continue
        words, fits = KINDS[kind.rstrip("?")]
        if not fits(value):
            raise InputError(f"{name} must be {words}, not {shortened(value)}")


def note_answer(answered: Any) -> None:
    """Tell the log what `/generate` did, from its JSON."""
    if isinstance(answered, dict) and "results" in answered:
        views = [view for result in answered["results"] for view in result["views"]]
        note(
            methods=[result["method"] for result in answered["results"]],
            prompt_tokens=len(answered["prompt"]["token_ids"]),
            new_tokens=sum(len(view["token_ids"]) for view in views),
        )


def generate_endpoint(models: LanguageModel | Models, limits: Limits) -> Callable[..., dict]:
    """The function behind `/generate`, with the command line's arguments and JSON."""
    plain = Decoding()

    def generate(
        question: str,
        paraphrases: list[str] | None = None,
        methods: list[str] | None = None,
        mask: str = "segment",
        positions: str = "aligned",
        weights: list[float] | str | None = None,
        prefix: str = "",
        max_new_tokens: int = plain.max_new_tokens,
        temperature: float = plain.temperature,
        top_p: float = plain.top_p,
        seed: int = plain.seed,
        samples: int = Samples.count,
        sample_temperature: float = Samples.temperature,
        ape_temperature: float = Ape.temperature,
        ape_scale: float = Ape.scale,
        explain: bool = False,
        model: str | None = None,
    ) -> dict:
        """Answer a question from all its wordings at once, with the answers of other methods if wanted.

        Args:
            question: the question; it is wording P1.
            paraphrases: other wordings of it, P2 and on.
            methods: names of methods, or ["all"]; ["flex"], the fused answer, by default. See methods.
            mask: mask strategy of the fused answer.
            positions: position scheme of the fused answer.
            weights: one number for the question and one for each paraphrase, "raw" or "confidence"; equal by default.
            prefix: instruction or examples before the question.
            max_new_tokens: limit of the answer's length.
            temperature: 0 is greedy.
            top_p: nucleus of sampling.
            seed: seed of sampling.
            samples: answers sampled from each wording, for the weights by confidence.
            sample_temperature: temperature of those samples.
            ape_temperature: APE temperature T of the fused answer; 1 is plain attention.
            ape_scale: APE scale S of the fused answer; 1 is plain attention.
            explain: also what each wording contributed: attention mass, leave-one-out effect, candidates, agreement.
            model: name of one of the models offered here; the first by default. See methods.

        Returns:
            The JSON object that `python -m flexdemo generate --json` prints. Where the time that a request has here was
            up, "stopped" says so, and the answers are what there was until then.
        """
        given = dict(locals())
        check_kinds(
            given, question="text", paraphrases="texts?", methods="texts?", mask="text", positions="text",
            weights="weights?", prefix="text", max_new_tokens="whole", temperature="number", top_p="number",
            seed="whole", samples="whole", sample_temperature="number", ape_temperature="number", ape_scale="number",
            explain="yes", model="text?",
        )  # fmt: skip
        lm = offered(models).of(model)
        others = paraphrases or []
        lengths = {"max_new_tokens": max_new_tokens, "samples": samples}
        check_request(limits, question, others, prefix=prefix, **lengths)
        check_request(limits, question, [], methods=len(set(methods or ()) - {"all"}))
        names = [method.name for method in resolve_methods(methods or ["flex"], 1 + len(others))]
        if explain:
            names = list(dict.fromkeys([*names, *NEEDED]))
        prompt = build_prompt(
            lm.tokenizer, question, others, weights=None if weights == CONFIDENCE else weights, prefix=prefix
        )
        check_room(lm, limits, prompt, max_new_tokens)
        options: dict[str, Any] = {"mask": mask, "positions": positions, "weights": weights, "prefix": prefix}
        decoding = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        sampling = {"samples": samples, "sample_temperature": sample_temperature}
        ape = {"ape_temperature": ape_temperature, "ape_scale": ape_scale}
        until = limits.until()
        options |= {"methods": names, **decoding, **sampling, **ape, "candidates": CANDIDATES if explain else 0}
        note(question=question, paraphrases=others, prefix=prefix)
        size = f"{1 + len(others)} wordings, {len(prompt.token_ids):,} tokens, {len(names)} methods"
        with within_noted_memory(lambda: size, give_up=offered(models).let_go):
            result = ask(lm, question, others, **options, until=until, check=checkpoint())
            told = result.to_dict()
            try:
                if explain and result.done:
                    told["explain"] = explain_result(lm, result, until=until, check=checkpoint()).to_dict()
            except OutOfTime:
                return told | {"stopped": limits.time_is_up()}
        return told if result.done else told | {"stopped": limits.time_is_up()}

    return generate


def mask_endpoint(models: LanguageModel | Models, limits: Limits) -> Callable[..., dict]:
    """The function behind `/mask`, with the command line's arguments and JSON."""

    def mask(
        question: str,
        paraphrases: list[str] | None = None,
        mask: str = "segment",
        positions: str = "aligned",
        prefix: str = "",
        against: str | None = None,
        model: str | None = None,
    ) -> dict:
        """The attention mask of a packed prompt, without running the model.

        Args:
            question: the question; it is wording P1.
            paraphrases: other wordings of it, P2 and on.
            mask: mask strategy. See methods for the list.
            positions: position scheme.
            prefix: instruction or examples before the question.
            against: another strategy to compare with.
            model: name of one of the models offered here; the first by default. See methods.

        Returns:
            The JSON object that `python -m flexdemo mask --json` prints; "rows" has a text of 0 and 1 for each query.
        """
        given = dict(locals())
        check_kinds(
            given, question="text", paraphrases="texts?", mask="text", positions="text", prefix="text",
            against="text?", model="text?",
        )  # fmt: skip
        lm = offered(models).of(model)
        others = paraphrases or []
        check_request(limits, question, others, prefix=prefix)
        for strategy in (mask, against or mask):
            check_encoding(Encoding(strategy, positions))
        prompt = build_prompt(lm.tokenizer, question, others, prefix=prefix)
        check_room(lm, limits, prompt, 0)
        return mask_dict(prompt, mask, positions, against)

    return mask


def paraphrase_endpoint(models: LanguageModel | Models, limits: Limits) -> Callable[..., list[str]]:
    """The function behind `/paraphrase`, with the command line's arguments and JSON."""

    def paraphrase(
        question: str, n: int = 5, seed: int = 0, temperature: float = TEMPERATURE, model: str | None = None
    ) -> list[str]:
        """Let the model write other wordings of a question.

        Args:
            question: the question.
            n: how many paraphrases are wanted; there are fewer if the model has no more to offer.
            seed: seed of sampling.
            temperature: of sampling, above 0.
            model: name of one of the models offered here; the first by default. See methods.

        Returns:
            The JSON list that `python -m flexdemo paraphrase --json` prints: distinct, none equal to the question.
        """
        given = dict(locals())
        check_kinds(given, question="text", n="whole", seed="whole", temperature="number", model="text?")
        lm = offered(models).of(model)
        check_request(limits, question, [])
        if not 1 <= n <= limits.paraphrases:
            raise InputError(f"the number of paraphrases must be from 1 to {limits.paraphrases}, not {n}")
        Decoding(seed=seed, temperature=temperature)
        note(question=question)
        until = limits.until()
        with within_noted_memory(give_up=offered(models).let_go):
            drawing = {"seed": seed, "temperature": temperature, "until": until, "check": checkpoint()}
            written = write_paraphrases(lm, question, n, **drawing)
        if not written and time.monotonic() >= until:
            raise OutOfTime(limits.time_is_up())
        return written

    return paraphrase


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
            "limits": asdict(limits) | {"prompt_tokens": token_limit(lm, limits)},
        }

    return methods


ADDRESS = "http://127.0.0.1:7860"
CLIENT = """from gradio_client import Client

client = Client("{address}")
result = client.predict(
    question="What is the capital of Peru?",
    paraphrases=["Which city is Peru's capital?"],
    methods=["flex", "causal"],
    api_name="/generate",
)
for each in result["results"]:
    print(each["method"], each["answer"])
print(client.predict(question="What is the capital of Peru?", n=2, api_name="/paraphrase"))
"""
CURL = """event=$(curl -s {address}/gradio_api/call/v2/generate -H 'Content-Type: application/json' \\
  -d '{"question": "What is the capital of Peru?", "paraphrases": ["Name the capital of Peru."]}' | cut -d '"' -f 4)
curl -sN {address}/gradio_api/call/v2/generate/$event
"""
COMMAND = """python -m flexdemo generate "What is the capital of Peru?" -p "Name the capital of Peru." --json
"""
CALLS = (("Python, with gradio_client", CLIENT), ("Shell, with curl", CURL), ("Command line", COMMAND))
CODE = (("python", CLIENT), ("bash", CURL + COMMAND))  # as docs/api.md has it


def for_clients(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint whose InputError reaches the client as its message."""

    @wraps(endpoint)
    def call(*args: Any, **options: Any) -> Any:
        try:
            answered = endpoint(*args, **options)
        except InputError as error:
            note(message=str(error))
            raise gr.Error(str(error), print_exception=False) from error
        note_answer(answered)
        return answered

    return call


def add_endpoints(lm: LanguageModel | Models, limits: Limits, gpu: Gpu = LOCAL) -> None:
    """Register the endpoints with the Blocks being built; those that run the model share the queue of runs."""
    running: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
    drawing: dict[str, Any] = {"concurrency_id": "draw", "concurrency_limit": 4}
    generate = gpu.wrap(generate_endpoint(lm, limits), _seconds)
    paraphrase = gpu.wrap(paraphrase_endpoint(lm, limits), _seconds)
    gr.api(for_clients(generate), api_name="generate", **running)
    gr.api(for_clients(mask_endpoint(lm, limits)), api_name="mask", **drawing)
    gr.api(for_clients(paraphrase), api_name="paraphrase", **running)
    gr.api(for_clients(methods_endpoint(lm, limits)), api_name="methods", **drawing)


def _seconds(*args: Any, max_new_tokens: Any = 32, paraphrases: Any = (), **options: Any) -> float:
    given = [value for value in args if isinstance(value, int) and not isinstance(value, bool)]
    longest = max([value for value in (*given, max_new_tokens) if isinstance(value, int)], default=32)
    return answer_seconds(min(longest, Limits().new_tokens), rows=10)


def program_section() -> gr.HTML:
    """How to call what this page does: a section that opens on demand. The page's script puts in its own address."""
    blocks = "".join(
        f'<h3>{escape(title)}</h3><pre tabindex="0"><code>{_with_address(code)}</code></pre>' for title, code in CALLS
    )
    told = (
        "<p>Endpoints: <code>/generate</code>, <code>/mask</code>, <code>/paraphrase</code> and <code>/methods</code>, "
        "which lists what can be asked for. They answer with the JSON of the command line. Started with "
        "<code>--mcp</code>, the page offers the same four as MCP tools.</p>"
    )
    return gr.HTML(f"<details><summary>Use it from a program</summary>{told}{blocks}</details>", elem_id="program")


def _with_address(code: str) -> str:
    return escape(code).replace("{address}", f'<span class="address">{ADDRESS}</span>')
