"""Several models on one page: who may be chosen, and that nothing of one model is ever used for another."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import browser_support
import httpx
import models
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from hosting import QUESTION, Served, Slow, served
from test_state import FULL
from visitor import Built

import app
import flexdemo
from flexdemo.answers.proof import prove
from flexdemo.engine.loading import Models, offered, parse_models, weights_gigabytes, without_paths
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.reading import Readings, prefill
from flexdemo.errors import InputError
from flexdemo.figures.report import snippet
from flexdemo.page.link import from_query, to_query
from flexdemo.plan import Encoding
from flexdemo.prompt import build_prompt

OTHERS = ["Name it.", "Which city is Peru's capital?"]


@pytest.fixture(scope="module")
def both(prepared: Callable[..., LanguageModel]) -> Models:
    """Two models with the same tokenizer, so that the same question gives both of them the same prompt."""
    small, large = prepared("llama", "sdpa"), prepared("llama", "sdpa", seed=1, num_hidden_layers=4)
    return Models((("small", replace(small, name="there/small")), ("large", replace(large, name="there/large"))))


@pytest.fixture(scope="module")
def page(both: Models) -> Iterator[Served]:
    with served(both) as page:
        yield page


def want(lm: LanguageModel, **options: object) -> list[list[int]]:
    told = flexdemo.ask(lm, QUESTION, OTHERS, max_new_tokens=8, **options)
    return [list(result.token_ids) for result in told.results]


# Names


def test_names_stand_for_what_the_operator_wrote() -> None:
    told = parse_models("small=Qwen/Qwen3-0.6B, own=/models/a=b,tiny=bundled")
    assert told == {"small": "Qwen/Qwen3-0.6B", "own": "/models/a=b", "tiny": None}
    assert list(told) == ["small", "own", "tiny"], "the first is the default"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Qwen/Qwen3-0.6B", "is no NAME=PATH_OR_ID: such as small=Qwen/Qwen3-0.6B"),
        ("", "is no NAME=PATH_OR_ID"),
        ("a=", "is no NAME=PATH_OR_ID"),
        ("=x", "is no NAME=PATH_OR_ID"),
        ("../a=x", "is no NAME=PATH_OR_ID"),
        ("<b>=x", "is no NAME=PATH_OR_ID"),
        ("a=x,a=y", "two models are called a"),
        ("a=x,b=x", "one model is offered under two names"),
        ("a=x,", "is no NAME=PATH_OR_ID"),
    ],
)
def test_other_names_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        parse_models(text)


def test_visitors_read_no_path(both: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one/small", "two/small", "one/tinyqa", "own"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "two" / "packed.gguf").touch()
    monkeypatch.chdir(tmp_path / "own")
    lm = both.default
    offers = {
        "a": (f"{tmp_path}/one/small", "small"),
        "b": (f"{tmp_path}/two/small/", "small (2)"),
        "c": ("../two/packed.gguf", "packed.gguf"),
        "d": (f"{tmp_path}/one/tinyqa", "tinyqa (2)"),  # is not the bundled one
        "e": ("tinyqa", "tinyqa"),
        "f": ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        "g": (".", "own"),
    }
    told = without_paths(Models(tuple((name, replace(lm, name=where)) for name, (where, _) in offers.items())))
    assert [(name, each.name) for name, each in told.named] == [(name, last) for name, (_, last) in offers.items()]
    assert all(told.that_made(each.name) is each for _, each in told.named)

    alone = without_paths(offered(replace(lm, name=f"{tmp_path}/two/small")))
    assert alone.names == ("small",) and alone.default.name == "small" and alone.default.model is lm.model


def test_memory_is_that_of_the_weights(both: Models) -> None:
    parameters = dict(both.named)["large"].model.parameters()
    assert weights_gigabytes(dict(both.named)["large"]) * 1e9 == pytest.approx(4 * sum(p.numel() for p in parameters))


# Endpoints


@pytest.mark.parametrize("name", [None, "small", "large"])
def test_each_name_is_answered_by_its_model(client: Client, both: Models, name: str | None) -> None:
    asked = {"question": QUESTION, "paraphrases": OTHERS, "max_new_tokens": 8, "methods": ["flex", "causal"]}
    told = client.predict(**asked, model=name, api_name="/generate")
    lm = both.of(name)
    assert told["model"] == lm.name == f"there/{name or 'small'}"
    assert [each["token_ids"] for each in told["results"]] == want(lm, methods=("flex", "causal"))
    assert client.predict(question=QUESTION, model=name, api_name="/mask")["rows"]


def test_the_models_differ(both: Models) -> None:
    small, large = (want(lm) for _, lm in both.named)
    assert small != large, "or a mix-up would not be seen here"


@pytest.mark.parametrize("endpoint", ["/generate", "/mask", "/paraphrase"])
@pytest.mark.parametrize("name", ["there/small", "../../etc/passwd", "gpt2", "SMALL"])
def test_no_other_name_is_taken(client: Client, endpoint: str, name: str) -> None:
    said = re.escape(f"there is no model {name!r} here: choose from small, large")
    with pytest.raises(AppError, match=said):
        client.predict(question=QUESTION, model=name, api_name=endpoint)


def test_a_name_is_a_text(client: Client) -> None:
    with pytest.raises(AppError, match="model must be a text, not 3"):
        client.predict(question=QUESTION, model=3, api_name="/generate")


def test_methods_tells_the_names(client: Client) -> None:
    told = client.predict(api_name="/methods")
    assert told["models"] == ["small", "large"] and told["model"] == "there/small"


def test_a_request_that_does_not_fit_lets_go_of_what_all_models_keep(both: Models, client: Client) -> None:
    (_, small), (_, large) = both.named
    for lm in (small, large):
        lm.graphs.most_bytes = 1000
        lm.graphs.keep("key", object(), [torch.zeros(10)])
    slow = Slow(small)
    slow.break_at(2, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    try:
        with pytest.raises(AppError, match="does not fit in memory"):
            client.predict(question=QUESTION, api_name="/generate")
    finally:
        slow.remove()
    assert small.graphs.lend("key") is None and large.graphs.lend("key") is None


# The page


def shown(page: Served, session: str, **changes: object) -> str:
    """What Run shows in the end."""
    event = page.event("run")
    rows = {f"paraphrase_{i + 1}": text for i, text in enumerate(OTHERS)}
    given = {"question": QUESTION, **rows, "methods": ["flex"], "max_new_tokens": 8, **changes}
    told = page.outcome(event, page.data(event, **given), session)
    assert told["success"], told
    return json.dumps([*told["generating"], told["output"]], ensure_ascii=False)


def test_the_page_offers_the_names_and_the_door_takes_no_other(page: Served) -> None:
    (widget,) = [each for each in page.widgets.values() if each["props"].get("elem_id") == "model"]
    assert widget["props"]["visible"] and widget["props"]["value"] == "small"
    assert [name for _, name in widget["props"]["choices"]] == ["small", "large"]
    event = page.event("run")
    for name in ("there/large", ["there/large"]):
        refused = page.outcome(event, page.data(event, model=name))
        assert not refused["success"] and "not in the list of choices" in refused["output"]["error"]
    told = page.outcome(event, page.data(event, model=["small"]))  # gradio lets a list of choices through
    assert "model must be a text, not [&#x27;small&#x27;]" in json.dumps(told).casefold()


def test_runs_of_one_visitor_with_another_model_each_time(page: Served, both: Models) -> None:
    """The same session, the same prompt token for token: each model's own answer, as from a session of its own."""
    session = "alternating"
    for name in ("small", "large", "small", "large"):
        shown(page, session, model=name)
        concluded = page.index("conclude")
        said = json.dumps(page.outcome(concluded, page.data(concluded), session))
        assert f"load_model('there/{name}'" in said, "the program that repeats it names the model"
        event = page.event("save-json")
        saved = page.outcome(event, page.data(event), session)["output"]["data"][0]
        told = json.loads(Path(saved["path"]).read_text(encoding="utf-8"))
        assert told["model"] == f"there/{name}"
        assert [each["token_ids"] for each in told["results"] if each["method"] == "flex"] == want(both.of(name))


def test_what_one_model_read_is_nothing_to_another(both: Models) -> None:
    (_, small), (_, large) = both.named
    prompt = build_prompt(small.tokenizer, QUESTION, OTHERS)
    read = prefill(small, {Encoding(): [prompt]})
    assert prefill(small, {Encoding(): [prompt]}, known=read).caches == read.caches
    with pytest.raises(ValueError, match="of another model"):
        prefill(large, {Encoding(): [prompt]}, known=read)
    readings = Readings()
    mine = readings.of("me", "small")
    mine.keep(read)
    assert readings.of("me", "small").known(prompt) is not None
    assert readings.of("me", "large").known(prompt) is None and len(readings._held) == 1
    assert readings.of("me", "small").known(prompt) is None, "it was let go"


def test_a_program_and_a_proof_are_of_the_model_that_answered(both: Models) -> None:
    for _, lm in (*both.named, *both.named):
        result = flexdemo.ask(lm, QUESTION, OTHERS, max_new_tokens=4)
        assert f"load_model({lm.name!r}" in snippet(result)
        assert prove(lm, result).ok


# Links


def test_a_link_carries_the_name(both: Models) -> None:
    query = to_query(FULL)
    assert "model=large" in query and from_query(query).model == "large"
    for asked, shown in ((query, "large"), (to_query(FULL.but(model="")), "small")):  # without a name the default
        visitor = Built(both).visitor()
        visitor.do("opened", query=asked)
        assert visitor.values["model"] == shown and f"there/{shown}" in visitor.values["facts"]


def test_with_one_model_nothing_is_to_be_chosen(lm: LanguageModel) -> None:
    with served(lm) as page:
        (widget,) = [each for each in page.widgets.values() if each["props"].get("elem_id") == "model"]
        assert not widget["props"]["visible"]
        assert "Done" in shown(page, page.session())
    assert "model" not in to_query(FULL.but(model=""))


# As it is started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a folder called random."""
    return models.saved_in(tmp_path_factory.mktemp("hidden") / "random")


@contextmanager
def started(*flags: str) -> Iterator[tuple[Client, list[str]]]:
    """app.py in this process, which has a log of its own: a program that asks, and what the page tells anybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flexdemo.serve.health.ServerLog.attach", lambda _: None)
        demo = app.start(app.make_parser().parse_args(flags), "127.0.0.1", browser_support.free_port()).demo
    try:
        pages = [httpx.get(demo.local_url + path, timeout=60).text for path in ("", "config", "healthz")]
        yield Client(demo.local_url, verbose=False), pages
    finally:
        demo.close(verbose=False)


def keeps_to_itself(folder: Path, client: Client, pages: list[str]) -> None:
    """Neither page nor health nor endpoints tell where a model lies."""
    told = client.predict(QUESTION, explain=True, max_new_tokens=2, model="random", api_name="/generate")
    assert told["model"] == "random"
    said = json.dumps([told, client.predict(api_name="/methods")]) + "".join(pages)
    assert "random" in pages[0] and "random" in pages[2] and str(folder.parent) not in said


def test_neither_page_nor_health_tell_where_a_model_lies(folder: Path) -> None:
    with started("--model", str(folder)) as (client, pages):
        keeps_to_itself(folder, client, pages)


def test_app_starts_with_several(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with started("--models", f"facts=bundled,random={folder}") as (client, pages):
        keeps_to_itself(folder, client, pages)
        assert client.predict(api_name="/methods")["models"] == ["facts", "random"]
        assert client.predict(question=QUESTION, api_name="/generate")["results"][0]["answer"] == "Lima"
    said = capsys.readouterr().err
    assert "model facts: tinyqa, 0.03 GB of weights in float32 on cpu" in said and "model random: " in said
