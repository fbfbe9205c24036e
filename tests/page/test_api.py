"""The endpoints as clients meet them: gradio_client, curl, MCP, and the calls of docs/api.md as they are written."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import browser_support
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from hosting import Site, endpoint_of, launched

import app
import flexdemo
from flexdemo.answers.explain import explain
from flexdemo.answers.methods import METHODS
from flexdemo.cli import main as cli
from flexdemo.engine.model import LanguageModel
from flexdemo.masks import STRATEGIES
from flexdemo.page import endpoints as ui_api
from flexdemo.page import page as ui
from flexdemo.plan import mask_dict
from flexdemo.prompt import POSITIONS, build_prompt
from flexdemo.request import Limits

QUESTION = "What is the capital of Peru?"
ENDPOINTS = ("generate", "mask", "paraphrase", "methods")
PAGE = (Path(app.__file__).parent / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def client(lm: LanguageModel) -> Iterator[Client]:
    demo = ui.build_demo(lm)
    demo.queue()
    options = {"mcp_server": importlib.util.find_spec("mcp") is not None, **ui.launch_options()}
    _, url = launched(demo, **options)
    yield Client(url, verbose=False)
    demo.close()


def test_only_the_endpoints_are_public_and_each_argument_is_explained(client: Client) -> None:
    told = client.view_api(return_format="dict")["named_endpoints"]
    assert set(told) == {"/generate", "/mask", "/paraphrase", "/methods"}
    for endpoint in ENDPOINTS:
        function = endpoint_of(endpoint, Limits())
        signature, said = inspect.signature(function), inspect.getdoc(function)
        assert all(f"    {name}: " in said for name in signature.parameters) and "Returns:" in said
        names = [each["parameter_name"] for each in told[f"/{function.__name__}"]["parameters"]]
        assert names == list(signature.parameters)


def test_generate_endpoint_gives_the_json_of_the_command_line(client: Client, lm: LanguageModel) -> None:
    options = {"methods": ["all"], "mask": "anchor", "weights": [1, 3], "max_new_tokens": 5}
    got = client.predict(question=QUESTION, paraphrases=["Name it."], **options, api_name="/generate")
    want = flexdemo.ask(lm, QUESTION, ["Name it."], **options).to_dict()
    assert got.keys() == want.keys() and got["seconds"].keys() == want["seconds"].keys()
    for key in ("model", "device", "dtype", "backend", "mask"):
        assert got[key] == want[key]
    assert got["prompt"] == want["prompt"]
    assert [r["token_ids"] for r in got["results"]] == [list(r["token_ids"]) for r in want["results"]]


def test_generate_endpoint_takes_the_weighting_of_the_page(client: Client, lm: LanguageModel) -> None:
    options = {
        "weights": "confidence",
        "samples": 3,
        "sample_temperature": 0.9,
        "ape_temperature": 0.8,
        "ape_scale": 1.2,
    }
    got = client.predict(question=QUESTION, paraphrases=["Name it."], max_new_tokens=4, **options, api_name="/generate")
    want = flexdemo.ask(lm, QUESTION, ["Name it."], max_new_tokens=4, **options).to_dict()
    assert got["ape"] == want["ape"] == {"temperature": 0.8, "scale": 1.2}
    assert got["confidence"] == {**want["confidence"], "shares": list(want["confidence"]["shares"])}
    assert got["results"][0]["token_ids"] == list(want["results"][0]["token_ids"])


def test_endpoints_have_defaults(client: Client) -> None:
    assert client.predict(question=QUESTION, api_name="/generate")["results"][0]["method"] == "flex"


def test_mask_endpoint_gives_the_json_of_the_command_line(client: Client, lm: LanguageModel) -> None:
    got = client.predict(question=QUESTION, paraphrases=["Name it."], mask="isolated", api_name="/mask")
    want = mask_dict(build_prompt(lm.tokenizer, QUESTION, ["Name it."]), "isolated", "aligned")
    assert got == want


@pytest.mark.parametrize(
    ("endpoint", "arguments", "said"),
    [
        ("/generate", {"question": ""}, "the question is empty"),
        ("/generate", {"question": QUESTION, "mask": "odd"}, "unknown mask strategy 'odd'"),
        ("/generate", {"question": QUESTION, "methods": ["odd"]}, "unknown method 'odd'"),
        ("/generate", {"question": QUESTION, "paraphrases": ["x"] * 11}, "give at most 10"),
        ("/generate", {"question": QUESTION, "weights": [1, 2, 3]}, "3 weights for 1 wording:"),
        ("/generate", {"question": QUESTION, "max_new_tokens": 9999}, "too long"),
        ("/generate", {"question": QUESTION, "weights": "confidence", "samples": 40}, "draw at most 32"),
        (
            "/generate",
            {"question": QUESTION, "weights": "odd"},
            "weights must be .* or raw or confidence, not 'odd'",
        ),
        ("/generate", {"question": QUESTION, "paraphrases": "b"}, "paraphrases must be a list of texts, not 'b'"),
        ("/generate", {"question": QUESTION, "max_new_tokens": 2.5}, "max_new_tokens must be a whole number, not 2.5"),
        ("/mask", {"question": "x" * 3000}, "shorten it"),
        ("/mask", {"question": QUESTION, "against": "odd"}, "unknown mask strategy 'odd'"),
        ("/mask", {"question": QUESTION, "against": 3}, "against must be a text, not 3"),
        ("/paraphrase", {"question": QUESTION, "n": 11}, "the number of paraphrases must be from 1 to 10, not 11"),
        ("/paraphrase", {"question": QUESTION, "temperature": 0}, "the temperature must be above 0"),
        ("/paraphrase", {"question": QUESTION, "seed": -1}, "seed must be from 0"),
        ("/paraphrase", {"question": " "}, "the question is empty"),
    ],
)
def test_endpoints_explain_bad_input(client: Client, endpoint: str, arguments: dict, said: str) -> None:
    with pytest.raises(AppError, match=said):
        client.predict(**arguments, api_name=endpoint)


def test_explain_adds_what_the_command_line_adds(client: Client, lm: LanguageModel) -> None:
    given = {"question": QUESTION, "paraphrases": ["Name it."], "max_new_tokens": 3}
    got = client.predict(**given, methods=["causal"], explain=True, api_name="/generate")
    assert [each["method"] for each in got["results"]] == ["causal", "flex", "per_prompt"]
    result = flexdemo.ask(lm, **given, methods=("causal", "flex", "per_prompt"), candidates=5)
    want = json.loads(json.dumps(explain(lm, result).to_dict()))
    assert got["explain"].keys() == want.keys()
    assert got["explain"]["agreement"] == want["agreement"]
    chosen = [[c["token_id"] for c in step["methods"]["causal"]] for step in got["explain"]["candidates"]]
    assert all(len(each) == 5 for each in chosen) and chosen[0][0] == got["results"][0]["token_ids"][0]
    plain = client.predict(**given, api_name="/generate")
    assert "explain" not in plain


def test_paraphrase_endpoint_writes_what_the_command_line_writes(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def write(lm: LanguageModel, question: str, n: int, *, check: Callable[[], None], **options: float) -> list[str]:
        check()  # the client is there
        asked.append((question, n, options))
        return ["One?", "Two?"]

    monkeypatch.setattr(ui_api, "write_paraphrases", write)
    assert client.predict(question=QUESTION, n=2, seed=7, api_name="/paraphrase") == ["One?", "Two?"]
    assert asked == [(QUESTION, 2, {"seed": 7, "temperature": 0.7, "until": math.inf})]


def test_methods_endpoint_tells_the_tables(client: Client, lm: LanguageModel) -> None:
    got = client.predict(api_name="/methods")
    for key, table in (("methods", METHODS), ("strategies", STRATEGIES), ("positions", POSITIONS)):
        assert [each["name"] for each in got[key]] == list(table)
        assert all(each["label"].strip() and each["summary"].endswith(".") for each in got[key])
    assert got["methods"][0]["label"] == METHODS["flex"].label and got["model"] == lm.name
    assert got["limits"]["paraphrases"] == 10 and got["limits"]["prompt_tokens"] == lm.context_length


def test_what_methods_lists_can_be_asked_for(client: Client) -> None:
    told = client.predict(api_name="/methods")
    for positions in told["positions"]:
        for strategy in told["strategies"]:
            given = {"mask": strategy["name"], "positions": positions["name"]}
            assert client.predict(question=QUESTION, **given, api_name="/mask")["rows"]


# MCP


def test_endpoints_are_mcp_tools_of_the_started_app(
    saved: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexdemo.serve.health.ServerLog.attach", lambda _: None)  # this process has a log of its own
    pytest.importorskip("mcp", reason="the optional extra gradio[mcp] is not installed")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def visit() -> tuple:
        address = f"http://127.0.0.1:{port}/gradio_api/mcp/"
        async with streamablehttp_client(address) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            asked = {
                "generate": {"question": QUESTION, "paraphrases": ["Name it."], "max_new_tokens": 3},
                "mask": {"question": QUESTION},
                "paraphrase": {"question": QUESTION, "n": 1},
                "methods": {},
            }
            tools = (await session.list_tools()).tools
            told = {name: await session.call_tool(name, given) for name, given in asked.items()}
            return tools, told, await session.call_tool("mask", {"question": ""})

    port = browser_support.free_port()
    demo = app.start(app.make_parser().parse_args(["--mcp", "--model", str(saved)]), "127.0.0.1", port).demo
    try:
        tools, told, refused = asyncio.run(visit())
    finally:
        demo.close()
    assert {tool.name for tool in tools} == {"generate", "mask", "paraphrase", "methods"}
    for tool in tools:
        assert tool.description and all(each.get("description") for each in tool.inputSchema["properties"].values())
    want = flexdemo.ask(lm, QUESTION, ["Name it."], max_new_tokens=3)["flex"]
    assert not any(each.isError for each in told.values())
    answers = {name: json.loads(each.content[0].text) for name, each in told.items()}  # JSON, not Python's repr
    assert answers["generate"]["results"][0]["token_ids"] == list(want.token_ids)
    assert answers["mask"]["rows"] and isinstance(answers["paraphrase"], list) and answers["methods"]["strategies"]
    assert refused.isError and "the question is empty" in refused.content[0].text


def test_mcp_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "mcp" else find(name, *more))
    assert app.main(["--mcp", "--port", str(browser_support.free_port())]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'gradio[mcp]'" in said


# The calls of docs/api.md


def shown_blocks() -> dict[str, str]:
    """Language -> code of the section "Call the endpoints"."""
    section = PAGE.split("## Call the endpoints\n")[1].split("\n## ")[0]
    return dict(re.findall(r"```(\w+)\n(.*?)```", section, flags=re.S))


def shown_block(language: str, page: Site) -> str:
    return shown_blocks()[language].replace("http://127.0.0.1:7860", page.url)


def test_python_calls_of_the_docs_work_as_written(local: Site, capsys: pytest.CaptureFixture) -> None:
    exec(compile(shown_block("python", local), "docs/api.md", "exec"), {})
    *_, flex, causal, paraphrases = capsys.readouterr().out.splitlines()
    assert (flex, causal) == ("flex Lima", "causal Lima")
    assert len(eval(paraphrases, {})) == 2 and "Peru" in paraphrases


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_shell_calls_of_the_docs_work_as_written(local: Site, capsys: pytest.CaptureFixture) -> None:
    """The command itself is started in test_cli.py."""
    calls, _, command = shown_block("bash", local).strip().rpartition("\n")
    done = subprocess.run(["bash", "-euc", calls], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    python, dash, module, *arguments = shlex.split(command)
    assert (python, dash, module) == ("python", "-m", "flexdemo") and cli.main(arguments) == 0
    (answered,) = json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))
    told = json.loads(capsys.readouterr().out)
    assert answered["results"][0]["answer"] == told["results"][0]["answer"] == "Lima"
    assert answered["results"][0]["token_ids"] == told["results"][0]["token_ids"]
    assert answered["prompt"] == told["prompt"] and answered.keys() == told.keys()
