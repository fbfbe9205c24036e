"""The page's endpoints registered with gradio, and the section that shows how to call them. What they do: `ui_api`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from html import escape
from typing import Any

import gradio as gr

from . import ui_api as api
from .choice import Models
from .config import InputError, Limits
from .ledger import note
from .model import LanguageModel
from .zerogpu import LOCAL, Gpu, answer_seconds

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
CODE = (("python", CLIENT), ("bash", CURL + COMMAND))  # as the README has it


def for_clients(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint whose InputError reaches the client as its message."""

    @wraps(endpoint)
    def call(*args: Any, **options: Any) -> Any:
        try:
            answered = endpoint(*args, **options)
        except InputError as error:
            note(message=str(error))
            raise gr.Error(str(error), print_exception=False) from error
        api.note_answer(answered)
        return answered

    return call


def add_endpoints(lm: LanguageModel | Models, limits: Limits, gpu: Gpu = LOCAL) -> None:
    """Register the endpoints with the Blocks being built; those that run the model share the queue of runs."""
    running: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
    drawing: dict[str, Any] = {"concurrency_id": "draw", "concurrency_limit": 4}
    generate = gpu.wrap(api.generate_endpoint(lm, limits), _seconds)
    paraphrase = gpu.wrap(api.paraphrase_endpoint(lm, limits), _seconds)
    gr.api(for_clients(generate), api_name="generate", **running)
    gr.api(for_clients(api.mask_endpoint(lm, limits)), api_name="mask", **drawing)
    gr.api(for_clients(paraphrase), api_name="paraphrase", **running)
    gr.api(for_clients(api.methods_endpoint(lm, limits)), api_name="methods", **drawing)


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
